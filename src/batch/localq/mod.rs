//! The embedded queue `local`: a little batch queue of one user on one host.
//!
//! A daemon, `jobq local-queue serve`, owns a directory: its jobs, one file each, and a Unix socket. The other
//! words of the verb are its clients, and start it when it is needed; it leaves when it has nothing to do. Jobs
//! have sessions of their own, so they outlive the shell that submitted them, and also the daemon: the next one
//! adopts them.
//!
//! `queue` decides and is pure; `spool` keeps jobs on disk; `process` starts, signals and recognises processes;
//! `daemon` is the loop around them; `client` is the other end of the socket; `wire` is what they say.

mod client;
mod daemon;
mod process;
mod queue;
mod request;
mod spool;
pub mod wire;

use std::path::PathBuf;

use super::{BatchError, ErrorKind};

/// The hidden verb that [`main`] serves.
pub const VERB: &str = "local-queue";

/// What a directive line of a job script begins with.
pub const PREFIX: &str = "#JOBQ";

/// Names the queue's directory, for the verb and inside jobs.
pub const DIR_VARIABLE: &str = "JOBQ_LOCAL_DIR";
/// The queue's slots; 0: as many as the host has cores.
pub const SLOTS_VARIABLE: &str = "JOBQ_LOCAL_SLOTS";
/// Artificial queue wait, milliseconds.
pub const WAIT_VARIABLE: &str = "JOBQ_LOCAL_WAIT_MS";
/// Inside a job: its id.
pub const JOB_ID_VARIABLE: &str = "JOBQ_LOCAL_JOB_ID";
/// Inside a job with a walltime: when it ends, seconds since 1970.
pub const JOB_END_VARIABLE: &str = "JOBQ_LOCAL_JOB_END";

/// The verb's exit code for a submit that may have happened.
pub const AMBIGUOUS: i32 = 76;

const USAGE: &str =
    "usage: jobq local-queue [--dir DIR] submit SCRIPT | status | cancel ID.. | health | queues | serve";

/// `jobq local-queue ARGS..` (without the verb itself); the exit code. Must run before any thread is started.
#[must_use]
pub fn main(args: &[String]) -> i32 {
    match run(args) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            if error.kind == ErrorKind::Ambiguous { AMBIGUOUS } else { i32::from(error.kind.exit_code()) }
        }
    }
}

fn run(args: &[String]) -> Result<(), BatchError> {
    let usage = || BatchError::new(ErrorKind::Refused, USAGE);
    let (dir, args) = match args {
        [flag, dir, rest @ ..] if flag == "--dir" => (PathBuf::from(dir), rest),
        rest => (std::env::var_os(DIR_VARIABLE).map(PathBuf::from).ok_or_else(usage)?, rest),
    };
    let (word, rest) = args.split_first().ok_or_else(usage)?;
    match (word.as_str(), rest) {
        ("submit", [script]) => client::submit(&dir, script.as_ref()),
        ("status", []) => client::status(&dir),
        ("cancel", ids) if !ids.is_empty() => client::cancel(&dir, ids),
        ("health", []) => client::health(&dir),
        ("queues", []) => client::queues(),
        ("serve", []) => daemon::serve(&dir),
        _ => Err(usage()),
    }
}
