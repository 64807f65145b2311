//! `$NAME`, `${NAME}`, `${NAME:-otherwise}` and a leading `~` in paths.

/// `text` with variables replaced by what `lookup` says of them. The error names the variable that has no value,
/// or what is wrong with the text.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    if let Some(after) = text.strip_prefix('~').filter(|a| a.is_empty() || a.starts_with('/')) {
        out.push_str(&value_of("HOME", lookup)?);
        rest = after;
    }
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(braced) = after.strip_prefix('{') {
            let (inside, next) =
                braced.split_once('}').ok_or_else(|| format!("`{text}` lacks a closing brace"))?;
            let (name, otherwise) = match inside.split_once(":-") {
                Some((name, otherwise)) => (name, Some(otherwise)),
                None => (inside, None),
            };
            match (lookup(name).filter(|v| !v.is_empty()), otherwise) {
                (Some(value), _) => out.push_str(&value),
                (None, Some(otherwise)) => out.push_str(&expand(otherwise, lookup)?),
                (None, None) => return Err(missing(name)),
            }
            rest = next;
        } else {
            let len = after.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
            let (name, next) = after.split_at(len);
            if name.is_empty() {
                return Err(format!("`{text}`: a name must follow `$`"));
            }
            out.push_str(&value_of(name, lookup)?);
            rest = next;
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn value_of(name: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    lookup(name).filter(|v| !v.is_empty()).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> String {
    format!("the environment variable `{name}` is not set here")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/home/sci".into()),
            "USER" => Some("sci".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced() {
        for (text, expected) in [
            ("/scratch/$USER/jobq", "/scratch/sci/jobq"),
            ("/scratch/${USER}x", "/scratch/scix"),
            ("~/state", "/home/sci/state"),
            ("~", "/home/sci"),
            ("${SCRATCH:-~/s}/jobq", "/home/sci/s/jobq"),
            ("${EMPTY:-/x}/$USER", "/x/sci"),
            ("/a~b/plain", "/a~b/plain"),
        ] {
            assert_eq!(expand(text, &lookup).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_replaced_is_named() {
        assert!(expand("/x/$SCRATCH", &lookup).unwrap_err().contains("`SCRATCH`"));
        assert!(expand("/x/$EMPTY/y", &lookup).unwrap_err().contains("`EMPTY`"));
        assert!(expand("/x/${USER", &lookup).is_err());
        assert!(expand("/x/$/y", &lookup).is_err());
    }
}
