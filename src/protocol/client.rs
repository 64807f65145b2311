//! Between a client and the scheduler.

use super::{AllocationId, Epoch, ErrorKind, PendingOutput, RequestId, StoredValue, TaskError};
use crate::graph::{Columns, GraphId, Key, TaskId};
use serde::{Deserialize, Serialize};

/// What holds for a whole graph.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GraphOptions {
    /// A word for people: what was mapped or computed.
    pub label: String,
    /// The rest is cancelled when more tasks than this have failed.
    pub max_failures: Option<u32>,
    /// What its tasks write until it is whole: a worker removes the temporaries if the graph doesn't end well. Who
    /// submitted it may be gone by then.
    #[serde(default)]
    pub unfinished: Vec<PendingOutput>,
    /// More than 0 pins the graph: its wanted values are kept, by so many workers each, until it is unpinned.
    #[serde(default)]
    pub replicas: u8,
    /// It is pinned only when that is confirmed ([`Request::Pin`]). Until then its values are kept as any other
    /// graph's: who submitted it may die before anything names it.
    #[serde(default)]
    pub unconfirmed: bool,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// One part of a graph, in order; the first makes the graph. Answered when it is durable.
    Submit {
        request: RequestId,
        part: u32,
        last: bool,
        columns: Box<Columns>,
        options: GraphOptions,
    },
    /// The tasks that keys name (an error if one is unknown).
    Resolve(Vec<Key>),
    /// Answered when all of these are settled; `Progress` comes meanwhile if asked for. No keys: everything.
    Wait {
        keys: Vec<Key>,
        progress: bool,
    },
    /// State, error and result (or where it is) of tasks, at most [`MAX_LISTED`].
    Results(Vec<Key>),
    Cancel {
        request: RequestId,
        keys: Vec<Key>,
    },
    /// Tasks that failed or were cancelled are tried again, with what they depend on, and with what failed because of
    /// them.
    Retry {
        request: RequestId,
        keys: Vec<Key>,
    },
    /// Why a task, a graph, a worker or an allocation is as it is.
    Why {
        subject: String,
    },
    Tasks {
        state: Option<TaskStateName>,
        graph: Option<GraphId>,
        limit: u32,
    },
    Status,
    Scale {
        request: RequestId,
        workers: u32,
    },
    /// Something names the graph that is to be pinned: this one, or the one that has this task. It is refused
    /// (`Unknown`) if its values were let go.
    Pin {
        request: RequestId,
        key: Key,
    },
    /// Let go of the values of a pinned graph: that one, or the one that has this task.
    Unpin {
        request: RequestId,
        key: Key,
    },
    /// The published datasets' names, and where their folders are.
    Datasets,
    /// A part of a file in a dataset's folder.
    DatasetFile {
        dataset: String,
        file: String,
        offset: u64,
    },
    /// From the scheduler in the batch job of that name, which was asked for to relieve this one. `addresses`: where
    /// it can be reached. Answered once this one has let go.
    Relieve {
        job_name: String,
        addresses: Vec<String>,
    },
    /// End the cluster: let running tasks end for so long, then stop workers, cancel allocations, and exit.
    Down {
        drain_ms: u64,
    },
}

/// Most tasks that one answer lists.
pub const MAX_LISTED: u32 = 100_000;

impl Request {
    /// Whether a granted reader may ask it: it changes nothing.
    pub fn only_reads(&self) -> bool {
        match self {
            Request::Resolve(_)
            | Request::Wait { .. }
            | Request::Results(_)
            | Request::Why { .. }
            | Request::Tasks { .. }
            | Request::Status
            | Request::Datasets
            | Request::DatasetFile { .. } => true,
            Request::Submit { .. }
            | Request::Cancel { .. }
            | Request::Retry { .. }
            | Request::Scale { .. }
            | Request::Pin { .. }
            | Request::Unpin { .. }
            | Request::Relieve { .. }
            | Request::Down { .. } => false,
        }
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FromClient {
    /// Of the client's making, from 1, repeated in the answers.
    pub call: u64,
    pub request: Request,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskStateName {
    Waiting,
    Ready,
    Assigned,
    /// Finished well: its result is held, or was released because nobody wants it.
    Memory,
    Erred,
    Cancelled,
}

/// Tasks by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    pub waiting: u64,
    pub ready: u64,
    pub assigned: u64,
    pub memory: u64,
    pub erred: u64,
    pub cancelled: u64,
}

impl Counts {
    pub fn total(&self) -> u64 {
        self.waiting + self.ready + self.assigned + self.memory + self.erred + self.cancelled
    }

    /// Tasks that are not done with.
    pub fn open(&self) -> u64 {
        self.waiting + self.ready + self.assigned
    }

    /// Tasks that won't change any more.
    pub fn settled(&self) -> u64 {
        self.memory + self.erred + self.cancelled
    }

    pub fn add(&mut self, other: &Counts) {
        self.waiting += other.waiting;
        self.ready += other.ready;
        self.assigned += other.assigned;
        self.memory += other.memory;
        self.erred += other.erred;
        self.cancelled += other.cancelled;
    }
}

/// A task that failed, for whoever waits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub task: TaskId,
    pub name: Option<String>,
    pub error: TaskError,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TaskReport {
    pub task: TaskId,
    pub name: Option<String>,
    pub family: String,
    pub state: TaskStateName,
    pub attempt: u32,
    pub worker: Option<String>,
    pub error: Option<TaskError>,
    pub nbytes: u64,
    pub nanos: u64,
    /// The result, where the scheduler has it.
    pub stored: Option<Box<StoredValue>>,
    /// Addresses of workers that hold it.
    pub holders: Vec<Vec<String>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerReport {
    pub name: String,
    pub allocation: AllocationId,
    pub host: String,
    pub pid: u32,
    pub cores: u32,
    pub memory_limit: u64,
    pub memory: u64,
    pub state: WorkerStateName,
    pub assigned: u32,
    pub finished: u64,
    pub deadline_unix: u64,
    /// Why it was lost.
    pub note: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerStateName {
    Connected,
    Leaving,
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllocationStateName {
    /// A submit is under way, or its answer was lost.
    Submitting,
    Pending,
    Running,
    Ended,
    Refused,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AllocationReport {
    pub id: AllocationId,
    /// The batch system's id; empty while unknown.
    pub job: String,
    pub state: AllocationStateName,
    /// The batch system's reason or the outcome, in its own word and in ours.
    pub reason: String,
    pub words: String,
    pub start_estimate_unix: u64,
    pub never: bool,
    /// Of a refusal, as the command line's contract has it; 0: none.
    pub exit_code: u8,
    pub nodes: String,
    pub submitted_unix: u64,
    pub workers_connected: u32,
}

/// Why something is as it is, for people.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Explanation {
    pub subject: String,
    pub state: String,
    pub sentences: Vec<String>,
    /// Where its logs and verdicts are.
    pub allocation: Option<AllocationId>,
    /// Of a worker.
    pub incarnation: u64,
}

impl Explanation {
    pub fn new(subject: &str, state: &str) -> Explanation {
        Explanation { subject: subject.to_owned(), state: state.to_owned(), ..Explanation::default() }
    }

    pub fn say(&mut self, sentence: String) {
        self.sentences.push(sentence);
    }
}

/// Where the scheduler runs, and how it stands with its folder.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SchedulerReport {
    pub host: String,
    pub pid: u32,
    /// The batch job that it runs in; empty: none.
    pub job: String,
    /// The batch system's queue that the job asked for; empty: its default.
    pub queue: String,
    /// When the job's walltime ends, seconds since 1970; 0: never.
    pub ends_unix: u64,
    /// What a crash had cut off the journal's end when this scheduler began; empty: nothing.
    pub journal_cut: String,
    pub folder: FolderReport,
}

/// What the cluster's folder takes, its datasets not counted, as it was last looked at; all 0: not yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FolderReport {
    pub nbytes: u64,
    pub inodes: u64,
    /// What it may take.
    pub max_nbytes: u64,
    pub max_inodes: u64,
}

impl FolderReport {
    /// Whether little is left of what it may take: less than a fifth.
    pub fn is_near(&self) -> bool {
        let near = |is: u64, max: u64| is > 0 && u128::from(is) * 5 >= u128::from(max) * 4;
        near(self.nbytes, self.max_nbytes) || near(self.inodes, self.max_inodes)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    pub epoch: Epoch,
    pub target: u32,
    pub connected: u32,
    pub pending: u32,
    pub running: u32,
    pub counts: Counts,
    /// Of the waiting ones: those that have ended well, and whose values former workers may still bring after a restart.
    pub awaited: u64,
    /// Tasks by family, the largest first, at most 50.
    pub families: Vec<(String, Counts)>,
    pub graphs: u32,
    pub workers: Vec<WorkerReport>,
    pub allocations: Vec<AllocationReport>,
    /// Trouble with the batch system, in its words; empty: none.
    pub batch_trouble: String,
    /// Too many allocations ended without a worker: no more are asked for.
    pub stopped: bool,
    /// Tasks that run may end, nothing more starts, and then the cluster is down.
    pub going_down: bool,
    /// Questions that the batch system has answered.
    pub polls: u64,
    /// Questions in a row that it has not answered.
    pub failed_polls: u32,
    pub core_seconds_used: u64,
    pub core_seconds_idle: u64,
    pub uptime_s: u64,
    #[serde(default)]
    pub scheduler: SchedulerReport,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Reply {
    Submitted {
        graph: GraphId,
        first: u32,
        tasks: u32,
    },
    Resolved(Vec<TaskId>),
    Progress(Counts),
    /// Everything waited for is settled. `failures` are the first [`MAX_FAILURES_TOLD`].
    Settled {
        counts: Counts,
        failures: Vec<Failure>,
    },
    Results(Vec<TaskReport>),
    Why(Vec<Explanation>),
    Cancelled {
        tasks: u64,
    },
    Tasks {
        tasks: Vec<TaskReport>,
        more: bool,
    },
    Status(Box<StatusReport>),
    Retried {
        tasks: u64,
    },
    Scaled {
        workers: u32,
    },
    Unpinned {
        tasks: u64,
    },
    Pinned,
    Datasets(Vec<(String, String)>),
    /// `nbytes`: of the whole file.
    DatasetFile {
        nbytes: u64,
        #[serde(with = "serde_bytes")]
        part: Vec<u8>,
    },
    /// This scheduler has let go: the asker may take over.
    Relieved,
    /// Unasked: another scheduler takes over, and is to be reached there.
    Moved {
        addresses: Vec<String>,
    },
    /// Sent while going down, and once more with `left` 0.
    GoingDown {
        left: u32,
    },
    Refused {
        kind: RefusalKind,
        reason: String,
    },
}

/// Most failures that a waiting client is told of one by one.
pub const MAX_FAILURES_TOLD: usize = 20;

/// Which kind of refusal: clients turn it into an exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RefusalKind {
    /// No such key.
    Unknown,
    /// The request makes no sense, or exceeds a limit.
    Usage,
    /// Not now: the cluster is going down.
    Unavailable,
    Permission,
}

/// The number of no call: what the scheduler says before it is asked, which is why it closes the link.
pub const NO_CALL: u64 = 0;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ToClient {
    pub call: u64,
    pub reply: Reply,
}

impl ErrorKind {
    /// The command's own exit code, where it had one.
    pub fn exit_code(self) -> Option<i32> {
        match self {
            ErrorKind::Exit(code) => Some(code),
            _ => None,
        }
    }
}
