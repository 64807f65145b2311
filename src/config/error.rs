//! Why the configuration can't be used. Each message names the place and what to change.

use super::origin::Origin;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: can't be read: {source}", file.display())]
    Unreadable { file: PathBuf, source: std::io::Error },
    #[error("{place}: {why}")]
    Syntax { place: Origin, why: String },
    #[error("{place}: unknown section `[{section}]`; the nearest is `[{nearest}]`")]
    UnknownSection { place: Origin, section: String, nearest: String },
    #[error("{place}: unknown key `{key}`; the nearest is `{nearest}`")]
    UnknownKey { place: Origin, key: String, nearest: String },
    #[error("{place}: `{key}` can't be set by a profile: move it to config.toml")]
    NotInProfile { place: Origin, key: String },
    #[error("{place}: `{key}`: {why}")]
    BadValue { place: Origin, key: String, why: String },
    #[error("{}: not read, because {why}", file.display())]
    Untrusted { file: PathBuf, why: String },
    #[error(transparent)]
    Limit(Box<BeyondLimit>),
    #[error(
        "no profile `{queue}`, and no batch system is configured that could have a queue of that name; \
         profiles: {profiles}"
    )]
    NoSuchQueue { queue: String, profiles: String },
    #[error("no queue was chosen; profiles: {profiles}")]
    NoQueue { profiles: String },
    #[error("internal: the built-in configuration is broken: {0}")]
    BuiltIn(String),
}

/// A value that somebody wrote and a limit that somebody else did.
#[derive(Debug, thiserror::Error)]
#[error("{place}: `{key} = {value}` is beyond the limit `{limit} = {bound}` of {bound_place}")]
pub struct BeyondLimit {
    pub place: Origin,
    pub key: String,
    pub value: String,
    pub limit: String,
    pub bound: String,
    pub bound_place: Origin,
}

impl ConfigError {
    /// What to do next, where the message doesn't say it already; may be empty.
    pub fn hint(&self) -> String {
        match self {
            ConfigError::UnknownSection { .. } | ConfigError::UnknownKey { .. } => {
                "`jq config` lists every key".to_owned()
            }
            ConfigError::Limit(_) => "limits are the site's: ask whoever looks after that file".to_owned(),
            ConfigError::NoSuchQueue { .. } => {
                "choose a profile with --queue, or set `profile.system` in config.toml".to_owned()
            }
            ConfigError::NoQueue { .. } => {
                "choose one with --queue, or set `profile.queue` in config.toml".to_owned()
            }
            _ => String::new(),
        }
    }
}
