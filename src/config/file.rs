//! One layer: the values of a TOML text, or of the environment, each with its place.

use super::error::ConfigError;
use super::origin::{Layer, Origin};
use super::schema::{self, PROFILE_SECTIONS};
use super::value::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Prefix of the environment's variables: `JOBQ_CFG_SECTION__KEY`.
pub const ENVIRONMENT_PREFIX: &str = "JOBQ_CFG_";

/// Longest file that is read: configurations are written by people.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Values by key, each with where it was written.
pub(super) type Values = BTreeMap<&'static str, (Value, Origin)>;

/// What kind of file: a profile may not set everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Config,
    Profile,
}

/// Reads a TOML text.
pub(super) fn parse(text: &str, layer: Layer, source: &Path, role: Role) -> Result<Values, ConfigError> {
    let place = |offset: usize| Origin { layer, source: source.to_owned(), line: line_of(text, offset) };
    let document = DeTable::parse(text).map_err(|e| ConfigError::Syntax {
        place: place(e.span().map_or(0, |s| s.start)),
        why: e.message().to_owned(),
    })?;
    let mut values = Values::new();
    for (section, body) in document.get_ref() {
        let name = section.get_ref().as_ref();
        let section_place = place(section.span().start);
        if !schema::sections().contains(&name) {
            let nearest = schema::nearest_word(name, schema::sections()).unwrap_or_default().to_owned();
            return Err(ConfigError::UnknownSection {
                place: section_place,
                section: name.to_owned(),
                nearest,
            });
        }
        let DeValue::Table(table) = body.get_ref() else {
            return Err(ConfigError::Syntax {
                place: section_place,
                why: format!("`{name}` is a section: write `[{name}]` on a line, and its keys below"),
            });
        };
        for (key, value) in table {
            let path = format!("{name}.{}", key.get_ref());
            let place = place(key.span().start);
            let known = find(&path, &place)?;
            if role == Role::Profile && !PROFILE_SECTIONS.contains(&name) {
                return Err(ConfigError::NotInProfile { place, key: path });
            }
            let value = Value::from_toml(known.kind, value.get_ref())
                .map_err(|why| ConfigError::BadValue { place: place.clone(), key: path, why })?;
            values.insert(known.path, (value, place));
        }
    }
    Ok(values)
}

/// Reads `JOBQ_CFG_*`.
pub(super) fn environment(variables: &[(String, String)]) -> Result<Values, ConfigError> {
    let mut values = Values::new();
    for (name, text) in variables {
        let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        let place = Origin { layer: Layer::Environment, source: PathBuf::from(name), line: 0 };
        let path = rest.to_ascii_lowercase().replacen("__", ".", 1);
        let known = find(&path, &place)?;
        let value = Value::from_text(known.kind, text).map_err(|why| ConfigError::BadValue {
            place: place.clone(),
            key: path,
            why,
        })?;
        values.insert(known.path, (value, place));
    }
    Ok(values)
}

pub(super) fn find(path: &str, place: &Origin) -> Result<&'static schema::Key, ConfigError> {
    schema::lookup(path).ok_or_else(|| ConfigError::UnknownKey {
        place: place.clone(),
        key: path.to_owned(),
        nearest: schema::nearest(path).to_owned(),
    })
}

/// The text of a file; `None` where there is none.
pub(super) fn read(file: &Path) -> Result<Option<String>, ConfigError> {
    open(file)?.map(|handle| text_of(handle, file)).transpose()
}

/// The text of the project's file. It comes with a directory that anybody may have filled, and it can name
/// shell lines that run as the user: so it must be the user's or root's, and nobody else may write it.
pub(super) fn read_trusted(file: &Path, uid: u32) -> Result<Option<String>, ConfigError> {
    let Some(handle) = open(file)? else { return Ok(None) };
    let meta =
        handle.metadata().map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
    let untrusted = |why: String| Err(ConfigError::Untrusted { file: file.to_owned(), why });
    if meta.uid() != uid && meta.uid() != 0 {
        return untrusted(format!(
            "it belongs to user {} and not to you; copy it, or move it away",
            meta.uid()
        ));
    }
    if meta.mode() & 0o022 != 0 {
        let fix = format!("`chmod go-w {}`", file.display());
        return untrusted(format!(
            "others can write it (mode {:o}); {fix} makes it safe",
            meta.mode() & 0o7777
        ));
    }
    text_of(handle, file).map(Some)
}

fn open(file: &Path) -> Result<Option<File>, ConfigError> {
    use std::io::ErrorKind;
    match File::open(file) {
        Ok(handle) => Ok(Some(handle)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(ConfigError::Unreadable { file: file.to_owned(), source }),
    }
}

fn text_of(handle: File, file: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    let mut text = String::new();
    let nbytes = handle.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if nbytes as u64 > MAX_FILE_BYTES {
        return Err(unreadable(std::io::Error::other("it is longer than 1 MiB")));
    }
    Ok(text)
}

/// Lines count from 1.
fn line_of(text: &str, offset: usize) -> u32 {
    let before = text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count();
    u32::try_from(before + 1).unwrap_or(u32::MAX)
}
