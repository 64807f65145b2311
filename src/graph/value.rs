//! What a task leaves behind: a small header and byte buffers that are never copied into an encoding.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A task's result. `header` says what the buffers are (MessagePack; its schema belongs to whoever made the
/// value); `buffers` travel beside it, out of band. Cloning is cheap: the bytes are shared.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Value {
    pub header: Bytes,
    pub buffers: Vec<Bytes>,
}

impl Value {
    /// A value of one buffer with an empty header.
    pub fn bytes(buffer: impl Into<Bytes>) -> Value {
        Value { header: Bytes::new(), buffers: vec![buffer.into()] }
    }

    /// Bytes that this value occupies, headers included.
    pub fn nbytes(&self) -> u64 {
        let buffers: usize = self.buffers.iter().map(Bytes::len).sum();
        (self.header.len() + buffers) as u64
    }
}

/// The result of a shell task: how it ended, and what it printed (the value's buffers are stdout and stderr;
/// what exceeds the inline limit is in files, named here).
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CommandResult {
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout_file: Option<String>,
    pub stderr_file: Option<String>,
}
