//! What `open` shows of a dataset: read from metadata only, as text for people and as data for `--json`.

use super::dataset::{Joined, JoinedVariable};
use crate::format::{AttrValue, Attribute, Filter};
use serde::Serialize;
use std::fmt::Write;

/// Most files that the text names.
const FILES_SHOWN: usize = 4;

/// A dataset's metadata, for `--json`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// Of this form of the data: 1.
    pub schema: u32,
    pub files: Vec<String>,
    /// The dimension along which the files follow each other.
    pub joined_along: Option<String>,
    pub dimensions: Vec<DimensionSummary>,
    pub coordinates: Vec<VariableSummary>,
    pub variables: Vec<VariableSummary>,
    pub attributes: Vec<AttributeSummary>,
    /// Variables that can't be read, and why.
    pub skipped: Vec<(String, String)>,
    /// Bytes of all cells as they are stored, before compression.
    pub nbytes: u64,
    pub stored_nbytes: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DimensionSummary {
    pub name: String,
    pub len: u64,
    pub unlimited: bool,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct VariableSummary {
    pub name: String,
    pub dtype: String,
    pub dimensions: Vec<String>,
    pub shape: Vec<u64>,
    /// None: stored in one piece.
    pub chunk: Option<Vec<u64>>,
    pub filters: Vec<String>,
    pub nbytes: u64,
    pub stored_nbytes: u64,
    pub attributes: Vec<AttributeSummary>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct AttributeSummary {
    pub name: String,
    pub value: serde_json::Value,
}

impl Summary {
    pub fn of(joined: &Joined) -> Summary {
        let named_coordinates: Vec<&str> = joined
            .variables
            .iter()
            .flat_map(|v| &v.attributes)
            .filter(|a| a.name == "coordinates" || a.name == "bounds" || a.name == "grid_mapping")
            .filter_map(|a| a.value.text())
            .flat_map(|names| names.split([' ', ':']))
            .collect();
        let is_coordinate =
            |v: &&JoinedVariable| joined.is_coordinate(v) || named_coordinates.contains(&v.name.as_str());
        let (coordinates, variables): (Vec<_>, Vec<_>) = joined.variables.iter().partition(is_coordinate);
        let all = |list: Vec<&JoinedVariable>| list.into_iter().map(|v| variable(joined, v)).collect();
        Summary {
            schema: 1,
            files: joined.files.iter().map(|f| f.path.clone()).collect(),
            joined_along: joined.join.map(|dim| joined.dims[dim].name.clone()),
            dimensions: joined
                .dims
                .iter()
                .map(|d| DimensionSummary { name: d.name.clone(), len: d.len, unlimited: d.unlimited })
                .collect(),
            coordinates: all(coordinates),
            variables: all(variables),
            attributes: attributes(&joined.attributes),
            skipped: joined.skipped.iter().map(|s| (s.name.clone(), s.reason.clone())).collect(),
            nbytes: joined.variables.iter().map(|v| joined.nbytes(v)).sum(),
            stored_nbytes: joined.variables.iter().map(|v| v.stored_nbytes).sum(),
        }
    }

    /// Lines for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        match &self.files[..] {
            [only] => writeln!(out, "{only}")?,
            files => {
                let along = self.joined_along.as_deref().unwrap_or("");
                writeln!(out, "{} files, joined along {along}", files.len())?;
                for file in files.iter().take(FILES_SHOWN - 1) {
                    writeln!(out, "  {file}")?;
                }
                if files.len() > FILES_SHOWN {
                    writeln!(out, "  ..")?;
                }
                if let Some(last) = files.get(FILES_SHOWN - 1..).and_then(<[_]>::last) {
                    writeln!(out, "  {last}")?;
                }
            }
        }
        writeln!(out, "{} of data, {} on disk", bytes(self.nbytes), bytes(self.stored_nbytes))?;
        writeln!(out, "dimensions:")?;
        for dim in &self.dimensions {
            let unlimited = if dim.unlimited { " (unlimited)" } else { "" };
            writeln!(out, "  {} = {}{unlimited}", dim.name, dim.len)?;
        }
        for (title, variables) in [("coordinates", &self.coordinates), ("variables", &self.variables)] {
            if !variables.is_empty() {
                writeln!(out, "{title}:")?;
            }
            variables.iter().try_for_each(|variable| variable.write(out))?;
        }
        for (name, reason) in &self.skipped {
            writeln!(out, "not readable: {name}: {reason}")?;
        }
        if !self.attributes.is_empty() {
            writeln!(out, "attributes:")?;
        }
        self.attributes.iter().try_for_each(|a| writeln!(out, "  {} = {}", a.name, short(&a.value)))
    }
}

impl VariableSummary {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let dims: Vec<String> =
            self.dimensions.iter().zip(&self.shape).map(|(name, len)| format!("{name}={len}")).collect();
        write!(out, "  {} {}({})", self.dtype, self.name, dims.join(", "))?;
        if self.nbytes > 0 {
            write!(out, ", {}", bytes(self.nbytes))?;
        }
        if let Some(chunk) = &self.chunk {
            let chunk: Vec<String> = chunk.iter().map(u64::to_string).collect();
            write!(out, ", {} on disk, chunks {}", bytes(self.stored_nbytes), chunk.join("x"))?;
            if !self.filters.is_empty() {
                write!(out, ", {}", self.filters.join("+"))?;
            }
        }
        writeln!(out)?;
        self.attributes.iter().try_for_each(|a| writeln!(out, "    {} = {}", a.name, short(&a.value)))
    }
}

fn variable(joined: &Joined, variable: &JoinedVariable) -> VariableSummary {
    let filter = |filter: &Filter| match filter {
        Filter::Shuffle { .. } => "shuffle".to_owned(),
        Filter::Deflate { level } => format!("deflate {level}"),
        Filter::Gzip { level } => format!("gzip {level}"),
        Filter::Fletcher32 => "fletcher32".to_owned(),
        Filter::Other { name, .. } => name.clone(),
    };
    VariableSummary {
        name: variable.name.clone(),
        dtype: format!("{:?}", variable.dtype).to_lowercase(),
        dimensions: variable.dims.iter().map(|d| joined.dims[*d].name.clone()).collect(),
        shape: joined.shape(variable),
        chunk: variable.chunk.clone(),
        filters: variable.filters.iter().map(filter).collect(),
        nbytes: joined.nbytes(variable),
        stored_nbytes: variable.stored_nbytes,
        attributes: attributes(&variable.attributes),
    }
}

pub(super) fn attributes(attributes: &[Attribute]) -> Vec<AttributeSummary> {
    let shown = attributes.iter().filter(|a| !super::attributes::is_internal(&a.name));
    shown.map(|a| AttributeSummary { name: a.name.clone(), value: json(&a.value) }).collect()
}

fn json(value: &AttrValue) -> serde_json::Value {
    fn one_or_all<T: Clone + Into<serde_json::Value>>(values: &[T]) -> serde_json::Value {
        match values {
            [only] => only.clone().into(),
            all => serde_json::Value::Array(all.iter().cloned().map(Into::into).collect()),
        }
    }
    match value {
        AttrValue::Text(text) => text.clone().into(),
        AttrValue::Texts(texts) => one_or_all(texts),
        AttrValue::Ints(_, values) => one_or_all(values),
        AttrValue::UInts(_, values) => one_or_all(values),
        // JSON has no NaN: it is shown as null.
        AttrValue::Floats(_, values) => one_or_all(values),
    }
}

/// An attribute's value on one line.
pub(super) fn shown(value: &AttrValue) -> String {
    short(&json(value))
}

fn short(value: &serde_json::Value) -> String {
    /// Longer ones are cut: what matters is at the start.
    const MOST_CHARS: usize = 100;
    let text = match value {
        serde_json::Value::Null => "NaN".to_owned(),
        value => value.to_string(),
    };
    if text.chars().count() <= MOST_CHARS {
        return text;
    }
    text.chars().take(MOST_CHARS).chain("..".chars()).collect()
}

/// Bytes in the unit that fits.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut size = n as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// Seconds since 1970 as `2026-11-20T09:30:00Z` (Gregorian; days counted from 1 March 0000, in cycles of 400 years).
pub fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let date = day - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = cycle * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}
