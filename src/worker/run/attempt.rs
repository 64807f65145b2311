//! An attempt as the worker's core sees it: what is to run, how to stop it, and how it ended.

use crate::graph::{CommandResult, TaskId, Value};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One execution of a command task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    pub task: TaskId,
    /// The name that the user gave to the task.
    pub name: Option<String>,
    /// From 1.
    pub attempt: u32,
    /// The scheduler's epoch that assigned it.
    pub epoch: u32,
    /// The task's number from 1 within its `map`, `{#}`.
    pub ordinal: u64,
    pub args: Vec<u8>,
}

/// Stops an attempt from any thread. Clones stop the same one.
#[derive(Clone, Debug)]
pub struct CancelHandle(Arc<CancelPipe>);

/// The reader sees the end of the pipe once the writer is dropped.
#[derive(Debug)]
struct CancelPipe {
    reader: PipeReader,
    writer: Mutex<Option<PipeWriter>>,
}

/// Why an attempt failed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum TaskErrorKind {
    /// It ended with this code, which isn't 0. 128 + n is a shell's way to say that its child got signal n.
    Exit(i32),
    /// This signal ended it, and none of ours.
    Signal(i32),
    TimeLimit,
    OutOfMemory,
    /// It couldn't be started: the reason.
    Spawn(String),
    /// It ended well without making this output.
    MissingOutput(String),
    MissingCwd,
    MissingStdin,
    /// What it printed couldn't be kept: the reason.
    Unkept(String),
    Cancelled,
}

/// What an attempt used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// From before the fork until all is collected.
    pub wall: Duration,
    pub user: Duration,
    pub system: Duration,
    /// Bytes of its largest process; 0: unknown, but no more than this worker itself ever had.
    pub peak_rss: u64,
}

/// How an attempt ended. `result` has a `CommandResult` in MessagePack (with field names) as header and
/// `[stdout, stderr]` as buffers: the beginning of each, all of it being in the file that the header names when
/// there is more.
#[derive(Clone, PartialEq, Debug)]
pub enum CommandOutcome {
    /// Exit code 0, and every declared output made. The temporaries, with the paths that they are to have, are
    /// the scheduler's to accept (`outputs::commit`) or not (`outputs::discard`).
    Finished { result: Value, temporaries: Vec<(PathBuf, PathBuf)>, usage: Usage },
    /// Its temporaries are removed.
    Failed { kind: TaskErrorKind, message: String, result: Value, usage: Usage },
}

impl Attempt {
    /// What the task is called in `JOBQ_TASK_KEY` and in messages.
    pub fn key(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.task.to_string())
    }
}

impl CancelHandle {
    /// # Errors
    /// No more file descriptors.
    pub fn new() -> io::Result<CancelHandle> {
        let (reader, writer) = io::pipe()?;
        Ok(CancelHandle(Arc::new(CancelPipe { reader, writer: Mutex::new(Some(writer)) })))
    }

    /// Asks the attempt to end, and makes it after the grace. Again, or after its end: nothing.
    pub fn cancel(&self) {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Readable once it is cancelled.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.reader.as_fd()
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl CommandOutcome {
    /// The outcome of an attempt that never started.
    pub(super) fn refused(kind: TaskErrorKind, message: String) -> CommandOutcome {
        let result = value(&CommandResult::default(), Vec::new(), Vec::new());
        CommandOutcome::Failed { kind, message, result, usage: Usage::default() }
    }
}

/// A command's result as a value.
pub(super) fn value(header: &CommandResult, out: Vec<u8>, err: Vec<u8>) -> Value {
    // Two numbers and two texts always encode; an empty header would only say less.
    let header = rmp_serde::to_vec_named(header).unwrap_or_default();
    Value { header: header.into(), buffers: vec![Bytes::from(out), Bytes::from(err)] }
}
