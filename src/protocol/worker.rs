//! Between a worker (or its supervisor) and the scheduler.

use super::{AllocationId, Epoch, Execution, WorkerId, WorkerIndex, compact};
use crate::graph::{GraphId, Op, TaskId};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A value that a worker holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holding {
    pub task: TaskId,
    pub nbytes: u64,
}

/// A declared output that is written but not yet in its place. Paths are as [`text_of_path`] has them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PendingOutput {
    pub temporary: String,
    pub target: String,
}

/// A path as text: as it is, or, if its bytes are no UTF-8, in hexadecimal after a NUL, which no path has.
pub fn text_of_path(path: &Path) -> String {
    match path.to_str() {
        Some(text) => text.to_owned(),
        None => {
            path.as_os_str().as_bytes().iter().fold("\0".to_owned(), |text, byte| format!("{text}{byte:02x}"))
        }
    }
}

/// The path that [`text_of_path`] made this of.
pub fn path_of_text(text: &str) -> PathBuf {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    match text.strip_prefix('\0') {
        Some(digits) => OsString::from_vec(digits.as_bytes().chunks(2).filter_map(byte).collect()).into(),
        None => text.into(),
    }
}

/// What a worker says of itself whenever it connects.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Registration {
    pub id: WorkerId,
    pub allocation: AllocationId,
    pub host: String,
    pub pid: u32,
    /// Where other workers and clients fetch its values.
    pub addresses: Vec<String>,
    pub cores: u32,
    /// Bytes; 0: not limited.
    pub memory: u64,
    pub named: Vec<(String, u32)>,
    /// When its walltime ends, seconds since 1970; 0: never.
    pub deadline_unix: u64,
    pub holds: Vec<Holding>,
    /// Executions that it has been given and hasn't finished.
    pub runs: Vec<Execution>,
    /// Completions that no scheduler has acknowledged as durable.
    pub completions: Vec<Completion>,
}

/// Why a task failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ErrorKind {
    /// A command ended with this exit code.
    Exit(i32),
    /// A command died of this signal.
    Signal(i32),
    TimeLimit,
    OutOfMemory,
    /// A command that couldn't be started, a missing output, an unreadable input, a kernel's error.
    Task,
    /// The workers that ran it were lost, again and again.
    WorkerLost,
    /// At most once was asked for, and it isn't known whether it ran.
    OutcomeUnknown,
    /// A task that it depends on failed or was cancelled.
    Dependency,
}

/// A failure as a person wants it told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TaskError {
    pub kind: ErrorKind,
    pub message: String,
}

/// The result of a command that is small enough to travel, or says where it is: a `Value` whose header is a
/// `CommandResult` and whose buffers are stdout and stderr.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StoredValue {
    #[serde(with = "serde_bytes")]
    pub header: Vec<u8>,
    pub buffers: Vec<serde_bytes::ByteBuf>,
}

/// A value that a worker couldn't get, and from whom. Holders are named by this epoch's indexes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MissingInput {
    pub task: TaskId,
    /// They say that they don't have it.
    pub denied: Vec<WorkerIndex>,
    /// They couldn't be asked: which of the two ends is at fault isn't known.
    pub unreachable: Vec<WorkerIndex>,
}

impl MissingInput {
    pub fn new(task: TaskId) -> MissingInput {
        MissingInput { task, denied: Vec::new(), unreachable: Vec::new() }
    }
}

/// How an execution ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The worker holds the value.
    Held {
        nbytes: u64,
    },
    /// A command ended well. With outputs, it is finished once they are accepted and in their place.
    Command {
        result: Box<StoredValue>,
        outputs: Vec<PendingOutput>,
    },
    Erred {
        error: TaskError,
        result: Option<Box<StoredValue>>,
    },
    /// Inputs that couldn't be had from anyone named.
    InputsMissing(Vec<MissingInput>),
    /// Its worker is leaving, and gives it back.
    Cancelled,
    /// Its worker couldn't be sure that it was still its own, and has stopped it: it runs again.
    Stopped,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Completion {
    pub execution: Execution,
    /// Time it took, without waiting for inputs or a core.
    pub nanos: u64,
    pub outcome: Outcome,
}

/// What became of accepted outputs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PlaceOutcome {
    /// Every target is there.
    Done,
    /// Neither a temporary nor its target is there: the acceptance is void.
    Gone(String),
    /// The rename is refused (a directory, no permission): the task fails.
    Failed(String),
}

/// What a worker tells its scheduler.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FromWorker {
    Register(Box<Registration>),
    Heartbeat {
        memory: u64,
        running: u32,
    },
    Finished(#[serde(with = "compact")] Vec<Completion>),
    /// Values fetched from others, which it can give to third ones.
    Replicas(Vec<Holding>),
    /// Values that it held and can't read back.
    ValuesLost(Vec<TaskId>),
    /// What became of accepted outputs.
    Placed {
        execution: Execution,
        outcome: PlaceOutcome,
    },
    /// Leaving for good, cleanly.
    Goodbye {
        reason: String,
    },
    /// From the supervisor: that incarnation is dead, and so is every process it started.
    Dead {
        id: WorkerId,
        verdict: String,
    },
}

/// Where an input is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    Peers(SmallVec<[WorkerIndex; 4]>),
    Inline(Box<StoredValue>),
}

/// One task to run. What is short in most of them has no memory of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    pub execution: Execution,
    /// Index in the graph's op table, sent before in `Ops`.
    pub op: u32,
    pub args: SmallVec<[u8; 16]>,
    pub name: Option<String>,
    /// In the order of the task's dependencies; empty for commands, whose dependencies are only of order.
    pub inputs: Vec<(TaskId, Source)>,
    /// Smaller runs first.
    pub priority: u64,
}

/// What a scheduler tells a worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToWorker {
    Welcome {
        epoch: Epoch,
        index: WorkerIndex,
        heartbeat_ms: u64,
    },
    /// Not wanted: leave.
    Refused {
        reason: String,
    },
    HeartbeatAnswer,
    Ops {
        graph: GraphId,
        ops: Vec<(u32, Op)>,
    },
    Peers(Vec<(WorkerIndex, Vec<String>)>),
    Compute(#[serde(with = "compact")] Vec<Assignment>),
    /// The outputs are accepted: bring them to their place.
    Place {
        execution: Execution,
        outputs: Vec<PendingOutput>,
    },
    /// These completions are durable (or of no interest): forget them; and remove what unaccepted outputs they left.
    Acknowledge {
        #[serde(with = "compact")]
        executions: Vec<Execution>,
    },
    Discard {
        outputs: Vec<PendingOutput>,
    },
    Cancel(#[serde(with = "compact")] Vec<Execution>),
    Free(#[serde(with = "compact")] Vec<TaskId>),
    /// Others couldn't get these values from this worker: free them, and say that they are lost.
    Strike(Vec<TaskId>),
    /// Fetch these values from one of their holders, and hold them too.
    Replicate(Vec<(TaskId, Vec<WorkerIndex>)>),
    /// Nobody will name this graph again.
    ForgetGraph(GraphId),
    /// Another scheduler takes over, and is to be reached there.
    Moved {
        addresses: Vec<String>,
    },
    /// Take nothing new and leave; `now`: what runs is killed first.
    Leave {
        reason: String,
        now: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn every_path_survives_as_text() {
        for bytes in [&b"/a/b c"[..], b"/caf\xe9/\xff", "größe".as_bytes(), b"", b"\n"] {
            let path = Path::new(OsStr::from_bytes(bytes));
            assert_eq!(path_of_text(&text_of_path(path)), path);
        }
        assert_eq!(text_of_path(Path::new("/data/größe.nc")), "/data/größe.nc");
    }
}
