//! The journal: what must not be forgotten, appended before its effects leave.
//!
//! `record` is the pure format, `file` writes it in segments with group commit and reads it back. Each scheduler
//! writes segments of its own epoch only. The first record of an epoch is the seal: how much of every older segment
//! counts. What a superseded scheduler still appends lies beyond the seal and is ignored, by every reader for ever.

pub mod file;
pub mod read;
pub mod record;

pub use file::{Entry, Journal, Options, Progress};
pub use read::{Damage, History, Segment, read_all};
pub use record::Record;

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
    #[error("kind 0 is the journal's own")]
    ReservedKind,
    #[error("the journal has stopped: {reason}")]
    Stopped { reason: String },
}

impl JournalError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}
