//! The journal: what must not be forgotten, appended before its effects leave.
//!
//! `record` is the pure format; `file` is the handle of the epoch that writes, `writer` its thread, which appends to
//! segments with group commit; `snapshot` writes what stands for all older files and removes those; `read` finds out
//! which files count and reads them back, or what is sound of damaged ones; `repair` begins anew after those; `files`
//! alone makes and removes files. Each scheduler writes files of its own
//! epoch only. The first record of an epoch is the seal: how much of every older file counts. What a superseded
//! scheduler still appends lies beyond the seal and is ignored, by every reader for ever.

pub mod file;
mod files;
pub mod read;
pub mod record;
mod repair;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

pub use file::{Entry, Journal, Options, Progress};
pub use read::{Counted, Damage, Files, History, Opened, Torn, read_all, read_from, salvage};
pub use record::{RECORD_OVERHEAD_BYTES, Record};
pub use repair::begin_after_damage;
pub use snapshot::{Bodies, Body, Compacted, Confirm};

use std::io;
use std::path::{Path, PathBuf};

/// Why the journal couldn't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("can't {action} the journal's {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("journal record {got} doesn't follow record {expected}: the caller's numbering is wrong")]
    OutOfOrder { expected: u64, got: u64 },
    #[error("a journal record of {nbytes} bytes is more than the {limit} allowed")]
    TooLong { nbytes: usize, limit: usize },
    #[error("kind {kind} is the journal's own")]
    ReservedKind { kind: u8 },
    #[error(
        "{} is of format {found}, and this jobq reads format {}: use the jobq that wrote it, or a newer one",
        path.display(),
        crate::STATE_FORMAT
    )]
    Format { path: PathBuf, found: u8 },
    #[error("the journal has stopped: {reason}")]
    Stopped { reason: String },
}

impl JournalError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}
