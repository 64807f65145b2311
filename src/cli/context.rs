//! What every verb is given: the flags that all have, and the ways to speak and to read the configuration.

use super::exit::CliError;
use super::output::{Color, Output};
use super::scratch::Scratch;
use crate::config::{self, Config, Sources};
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// Longest name of a cluster: it becomes a folder and part of messages.
const MAX_CLUSTER_NAME: usize = 64;

/// Flags that every verb takes. Verbs' own flags must not be called as these fields are.
#[derive(clap::Args)]
#[command(next_help_heading = "Common flags")]
pub struct CommonFlags {
    /// Which cluster
    #[arg(long = "name", value_name = "CLUSTER", global = true, env = "JOBQ_CLUSTER", hide_env_values = true,
          default_value = "default", value_parser = cluster_name)]
    cluster: String,
    /// Read somebody else's cluster by this grant
    #[arg(long, value_name = "FILE", global = true, env = "JOBQ_GRANT", hide_env_values = true)]
    grant: Option<PathBuf>,
    /// Print JSON instead of text, with "schema": 1
    #[arg(long, global = true)]
    json: bool,
    /// No notes and no progress on stderr
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// More notes on stderr
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Don't start a scheduler again that has died
    #[arg(long, global = true)]
    no_revive: bool,
    /// When to use colours
    #[arg(long, value_name = "WHEN", global = true, default_value = "auto")]
    color: Color,
}

/// What a verb's `run` is given beside its own arguments.
pub struct Context {
    /// As the user called this program: `jq` or `jobq`.
    pub program: &'static str,
    /// The cluster's checked name.
    pub cluster: String,
    /// By which somebody else's cluster is read.
    pub grant: Option<PathBuf>,
    /// Whether a scheduler that has died is started again.
    pub revives: bool,
    pub out: Output,
    /// Directories that are needed until the program ends.
    kept: RefCell<Vec<Scratch>>,
}

impl Context {
    pub(super) fn new(program: &'static str, flags: CommonFlags) -> Context {
        Context {
            program,
            cluster: flags.cluster,
            grant: flags.grant,
            kept: RefCell::default(),
            revives: !flags.no_revive,
            out: Output::new(flags.json, flags.quiet, flags.verbose, flags.color),
        }
    }

    /// Keeps a directory until the program ends.
    pub(super) fn keep(&self, scratch: Scratch) {
        self.kept.borrow_mut().push(scratch);
    }

    /// The layers of the configuration, read afresh.
    pub fn config(&self) -> Result<Config, CliError> {
        Ok(config::load(&Sources::of_process(Path::new(".")))?)
    }
}

/// A name that is safe as a folder, in a job's comment and on a command line.
pub fn cluster_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > MAX_CLUSTER_NAME {
        return Err(format!("a cluster's name has 1 to {MAX_CLUSTER_NAME} characters"));
    }
    if text.starts_with(['.', '-']) {
        return Err("a cluster's name doesn't start with `.` or `-`".to_owned());
    }
    match text.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(format!("a cluster's name has only letters, digits, `.`, `_` and `-`, not {c:?}")),
        None => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_name_can_be_a_folder() {
        for good in ["default", "wind-2026.11", "_x", &"a".repeat(64)] {
            assert!(cluster_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "-x", "a/b", "a b", "ä", "a\n", &"a".repeat(65)] {
            assert!(cluster_name(bad).is_err(), "{bad:?}");
        }
    }
}
