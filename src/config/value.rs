//! One value of the configuration: read by the kind of its key, from TOML or from plain text.

use super::schema::Kind;
use super::units::{PortRange, display_duration, display_size, parse_duration, parse_size};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use toml::de::DeValue;

/// A checked value.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    Integer(u64),
    Number(f64),
    Text(String),
    Texts(Vec<String>),
    Table(BTreeMap<String, String>),
    Counts(BTreeMap<String, u64>),
    Duration(Duration),
    Size(u64),
    Ports(PortRange),
}

impl Value {
    /// A value of a TOML file. The error says what is wrong with it, without the place.
    pub fn from_toml(kind: Kind, value: &DeValue<'_>) -> Result<Value, String> {
        match (kind, value) {
            (Kind::Integer(..), DeValue::Integer(number)) => {
                let digits = number.as_str().replace('_', "");
                let parsed = i64::from_str_radix(&digits, number.radix());
                integer(kind, parsed.map_err(|_| "that number is too big".to_owned())?)
            }
            (Kind::Fraction, DeValue::Float(number)) => fraction(number.as_str()),
            (Kind::Fraction, DeValue::Integer(number)) => fraction(number.as_str()),
            (Kind::Texts | Kind::Script, DeValue::Array(items)) => {
                let texts: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
                let texts = texts.ok_or_else(|| wrong_type(kind, "a list with something else"))?;
                texts_of(kind, texts)
            }
            (Kind::Table, DeValue::Table(table)) => {
                let pairs: Option<Vec<(&str, &str)>> =
                    table.iter().map(|(k, v)| Some((k.get_ref().as_ref(), v.get_ref().as_str()?))).collect();
                table_of(pairs.ok_or_else(|| wrong_type(kind, "a table with something else"))?)
            }
            (Kind::Counts, DeValue::Table(table)) => {
                let pairs: Option<Vec<(&str, &str)>> = table
                    .iter()
                    .map(|(k, v)| Some((k.get_ref().as_ref(), v.get_ref().as_integer()?.as_str())))
                    .collect();
                counts_of(pairs.ok_or_else(|| wrong_type(kind, "a table with something else"))?)
            }
            (
                Kind::Integer(..) | Kind::Fraction | Kind::Texts | Kind::Script | Kind::Table | Kind::Counts,
                other,
            ) => Err(wrong_type(kind, type_name(other))),
            (_, DeValue::String(text)) => Value::from_text(kind, text),
            (_, other) => Err(wrong_type(kind, type_name(other))),
        }
    }

    /// A value of a flag or of the environment. Lists and tables may be given in TOML's syntax; a list also as
    /// its only item, a table as `NAME=text`.
    pub fn from_text(kind: Kind, text: &str) -> Result<Value, String> {
        match kind {
            Kind::Integer(..) => integer(kind, text.trim().parse().map_err(|_| wrong_type(kind, "text"))?),
            Kind::Fraction => fraction(text.trim()),
            Kind::Text => one_line(text).map(|t| Value::Text(t.to_owned())),
            Kind::Choice(words) => choice(words, text),
            Kind::Duration(min_ms) => {
                let duration = parse_duration(text).map_err(|e| e.to_string())?;
                if duration < Duration::from_millis(min_ms) {
                    let least = display_duration(Duration::from_millis(min_ms));
                    return Err(format!("`{text}` is too short: the least is {least}"));
                }
                Ok(Value::Duration(duration))
            }
            Kind::Size(min) => {
                let size = parse_size(text).map_err(|e| e.to_string())?;
                if size < min {
                    return Err(format!("`{text}` is too small: the least is {}", display_size(min)));
                }
                Ok(Value::Size(size))
            }
            Kind::Ports => text.trim().parse().map(Value::Ports).map_err(|e| format!("{e}")),
            Kind::Texts | Kind::Script if text.trim_start().starts_with('[') => inline(kind, text),
            Kind::Table | Kind::Counts if text.trim_start().starts_with('{') => inline(kind, text),
            Kind::Texts | Kind::Script if text.is_empty() => Ok(Value::Texts(Vec::new())),
            Kind::Texts | Kind::Script => texts_of(kind, vec![text]),
            Kind::Table if text.is_empty() => Ok(Value::Table(BTreeMap::new())),
            Kind::Table => {
                let pair = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=text"))?;
                table_of(vec![pair])
            }
            Kind::Counts if text.is_empty() => Ok(Value::Counts(BTreeMap::new())),
            Kind::Counts => {
                let pair = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=COUNT"))?;
                counts_of(vec![pair])
            }
        }
    }

    /// Adds a list's or table's items after those that were there; other values replace.
    pub fn append(self, base: &Value) -> Value {
        match (base, self) {
            (Value::Texts(old), Value::Texts(new)) => Value::Texts(old.iter().cloned().chain(new).collect()),
            (Value::Table(old), Value::Table(new)) => {
                Value::Table(old.clone().into_iter().chain(new).collect())
            }
            (Value::Counts(old), Value::Counts(new)) => {
                Value::Counts(old.clone().into_iter().chain(new).collect())
            }
            (_, new) => new,
        }
    }

    /// For deserializing into the settings' structs; durations and sizes as their text.
    pub fn to_toml(&self) -> toml::Value {
        match self {
            Value::Integer(number) => toml::Value::Integer(i64::try_from(*number).unwrap_or(i64::MAX)),
            Value::Number(number) => toml::Value::Float(*number),
            Value::Text(text) => toml::Value::String(text.clone()),
            Value::Texts(texts) => {
                toml::Value::Array(texts.iter().cloned().map(toml::Value::String).collect())
            }
            Value::Table(table) => toml::Value::Table(
                table.iter().map(|(k, v)| (k.clone(), toml::Value::String(v.clone()))).collect(),
            ),
            Value::Counts(counts) => toml::Value::Table(
                counts.iter().map(|(k, v)| (k.clone(), Value::Integer(*v).to_toml())).collect(),
            ),
            Value::Duration(duration) => toml::Value::String(display_duration(*duration)),
            Value::Size(size) => toml::Value::String(display_size(*size)),
            Value::Ports(ports) => toml::Value::String(ports.to_string()),
        }
    }
}

/// As it would be written in a file.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_toml() {
            toml::Value::Table(table) => {
                let pairs: Vec<String> =
                    table.into_iter().map(|(k, v)| format!("{} = {v}", toml::Value::String(k))).collect();
                if pairs.is_empty() { f.write_str("{}") } else { write!(f, "{{ {} }}", pairs.join(", ")) }
            }
            other => write!(f, "{other}"),
        }
    }
}

fn integer(kind: Kind, number: i64) -> Result<Value, String> {
    let Kind::Integer(min, max) = kind else { return Err(wrong_type(kind, "a number")) };
    match u64::try_from(number) {
        Ok(number) if (min..=max).contains(&number) => Ok(Value::Integer(number)),
        _ => Err(format!("{number} is not between {min} and {max}")),
    }
}

fn fraction(text: &str) -> Result<Value, String> {
    match text.replace('_', "").parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(Value::Number(number)),
        Ok(number) => Err(format!("{number} is not between 0 and 1")),
        Err(_) => Err(wrong_type(Kind::Fraction, "text")),
    }
}

fn choice(words: &[&str], text: &str) -> Result<Value, String> {
    if words.contains(&text) {
        return Ok(Value::Text(text.to_owned()));
    }
    let known: Vec<&str> = words.iter().copied().filter(|w| !w.is_empty()).collect();
    Err(format!("`{text}` is none of {}", known.join(", ")))
}

/// A control character in a value could start a new line, and so a new directive, in a job script.
fn one_line(text: &str) -> Result<&str, String> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("control character {} isn't allowed here", c.escape_default())),
        None => Ok(text),
    }
}

fn texts_of(kind: Kind, texts: Vec<&str>) -> Result<Value, String> {
    for text in &texts {
        if kind == Kind::Script {
            if text.contains('\0') {
                return Err("control character \\0 isn't allowed here".to_owned());
            }
        } else {
            one_line(text)?;
        }
    }
    Ok(Value::Texts(texts.into_iter().map(str::to_owned).collect()))
}

fn table_of(pairs: Vec<(&str, &str)>) -> Result<Value, String> {
    for (name, text) in &pairs {
        let first_ok = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !first_ok || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(format!("`{name}` can't be the name of an environment variable"));
        }
        one_line(text)?;
    }
    Ok(Value::Table(pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()))
}

/// Names as `--resource` takes them.
fn counts_of(pairs: Vec<(&str, &str)>) -> Result<Value, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut counts = BTreeMap::new();
    for (name, count) in pairs {
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!("`{name}` can't be the name of a resource"));
        }
        let count: u32 = count.trim().parse().map_err(|_| format!("`{count}` is no count of `{name}`"))?;
        counts.insert(name.to_owned(), u64::from(count));
    }
    Ok(Value::Counts(counts))
}

/// A list or table in TOML's syntax.
fn inline(kind: Kind, text: &str) -> Result<Value, String> {
    let parsed = DeValue::parse(text.trim()).map_err(|e| format!("`{text}`: {}", e.message()))?;
    Value::from_toml(kind, parsed.get_ref())
}

fn wrong_type(kind: Kind, found: &str) -> String {
    format!("expected {}, found {found}", expected(kind))
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Integer(..) => "a whole number",
        Kind::Fraction => "a number from 0 to 1",
        Kind::Text => "text in quotes",
        Kind::Choice(_) => "a word in quotes",
        Kind::Duration(_) => "a duration in quotes (\"90s\", \"30m\", \"2h\")",
        Kind::Size(_) => "a size in quotes (\"512MB\", \"4GiB\")",
        Kind::Ports => "a port range in quotes (\"40000-40100\", \"any\")",
        Kind::Texts | Kind::Script => "a list of texts ([\"one\", \"two\"])",
        Kind::Table => "a table of texts ({ NAME = \"text\" })",
        Kind::Counts => "a table of counts ({ gpu = 2 })",
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_flags_becomes_lists_and_tables() {
        let list = |text| Value::from_text(Kind::Texts, text).unwrap();
        assert_eq!(list("--exclusive"), Value::Texts(vec!["--exclusive".into()]));
        assert_eq!(list(r#"["a", "b"]"#), Value::Texts(vec!["a".into(), "b".into()]));
        assert_eq!(list(""), Value::Texts(vec![]));
        let table = Value::from_text(Kind::Table, "OMP_NUM_THREADS=1").unwrap();
        assert_eq!(table.to_string(), r#"{ "OMP_NUM_THREADS" = "1" }"#);
        assert_eq!(Value::from_text(Kind::Table, &table.to_string()), Ok(table));
    }

    #[test]
    fn a_new_line_cannot_enter_a_directive() {
        for kind in [Kind::Text, Kind::Texts] {
            let why = Value::from_text(kind, "spice\n#SBATCH --uid=0").unwrap_err();
            assert!(why.contains("control character \\n"), "{why}");
        }
        let counts = Value::from_text(Kind::Counts, "{ gpu = 2, bus = 1 }").unwrap();
        assert_eq!(Value::from_text(Kind::Counts, &counts.to_string()), Ok(counts.clone()));
        let more = Value::from_text(Kind::Counts, "gpu=4").unwrap().append(&counts);
        assert_eq!(more.to_string(), "{ \"bus\" = 1, \"gpu\" = 4 }");
        for bad in ["gpu", "gpu=-1", "g pu=1", "{ gpu = \"2\" }"] {
            assert!(Value::from_text(Kind::Counts, bad).is_err(), "{bad}");
        }
        assert!(Value::from_text(Kind::Table, "A=1\nB").is_err());
        assert!(Value::from_text(Kind::Table, "A B=1").is_err());
        assert!(
            Value::from_text(Kind::Script, "module load x\nset -u").is_ok(),
            "shell lines may be several"
        );
    }

    #[test]
    fn a_wrong_type_says_what_was_expected() {
        let read = |kind, text: &str| Value::from_toml(kind, DeValue::parse(text).unwrap().get_ref());
        assert_eq!(read(Kind::Duration(0), "30"), Err(wrong_type(Kind::Duration(0), "a whole number")));
        assert_eq!(read(Kind::Integer(1, 5), "\"2\""), Err("expected a whole number, found text".into()));
        assert_eq!(read(Kind::Integer(1, 5), "0x05"), Ok(Value::Integer(5)));
        assert_eq!(read(Kind::Integer(1, 5), "-1"), Err("-1 is not between 1 and 5".into()));
        assert_eq!(read(Kind::Fraction, "1"), Ok(Value::Number(1.0)));
        assert!(read(Kind::Fraction, "nan").is_err());
        assert!(read(Kind::Texts, "[1]").is_err());
    }
}
