//! Profiles: the files that `--queue NAME` picks from.

use super::error::ConfigError;
use super::file::{self, Role, Values};
use super::origin::Layer;
use std::path::{Path, PathBuf};

const EMBEDDED: &[(&str, &str)] = &[
    ("local", include_str!("../../configs/profiles/local.toml")),
    ("spice", include_str!("../../configs/profiles/spice.toml")),
];

/// Most profiles of one directory; what is beyond is not looked at.
const MAX_PROFILES: usize = 1000;

/// A profile's file that exists; its text is read when the profile is chosen, so that a broken one doesn't stop
/// the others.
#[derive(Clone, Debug)]
pub(super) struct ProfileFile {
    name: String,
    layer: Layer,
    source: PathBuf,
}

/// A profile that can be chosen, and the files that make it, low to high.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProfileName {
    pub name: String,
    /// Built-in ones as `profiles/NAME.toml`.
    pub sources: Vec<PathBuf>,
}

/// The built-in ones and those of `profiles/` in each directory, low to high.
pub(super) fn list(dirs: &[(Layer, &Path)]) -> Result<Vec<ProfileFile>, ConfigError> {
    let mut files: Vec<ProfileFile> = EMBEDDED
        .iter()
        .map(|(name, _)| ProfileFile {
            name: (*name).to_owned(),
            layer: Layer::Default,
            source: PathBuf::from(format!("profiles/{name}.toml")),
        })
        .collect();
    for (layer, dir) in dirs {
        let dir = dir.join("profiles");
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
            {
                continue;
            }
            Err(source) => return Err(ConfigError::Unreadable { file: dir, source }),
        };
        let mut found: Vec<PathBuf> =
            entries.filter_map(|e| Some(e.ok()?.path())).take(MAX_PROFILES).collect();
        found.sort();
        for source in found {
            let name = source.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned();
            // Editors leave `.spice.toml.swp` and `spice.toml~` behind.
            if source.extension().is_some_and(|e| e == "toml") && !name.is_empty() && !name.starts_with('.') {
                files.push(ProfileFile { name, layer: *layer, source });
            }
        }
    }
    Ok(files)
}

/// The names, sorted, each with its files.
pub(super) fn names(files: &[ProfileFile]) -> Vec<ProfileName> {
    let mut names: Vec<ProfileName> = Vec::new();
    for file in files {
        match names.iter_mut().find(|n| n.name == file.name) {
            Some(known) => known.sources.push(file.source.clone()),
            None => names.push(ProfileName { name: file.name.clone(), sources: vec![file.source.clone()] }),
        }
    }
    names.sort_by(|a, b| a.name.cmp(&b.name));
    names
}

/// The values of the profile's files, low to high; empty: there is no such profile.
pub(super) fn read(files: &[ProfileFile], name: &str) -> Result<Vec<Values>, ConfigError> {
    let mut layers = Vec::new();
    for profile in files.iter().filter(|f| f.name == name) {
        let embedded = EMBEDDED.iter().find(|(n, _)| *n == name).map(|(_, text)| (*text).to_owned());
        let text = if profile.layer == Layer::Default { embedded } else { file::read(&profile.source)? };
        // A file that went away since it was listed is one that says nothing.
        let text = text.unwrap_or_default();
        layers.push(file::parse(&text, profile.layer, &profile.source, Role::Profile)?);
    }
    Ok(layers)
}
