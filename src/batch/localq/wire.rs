//! What the queue's daemon and its clients say to each other: one JSON line each way, then the connection closes.

use serde::{Deserialize, Serialize};

use crate::batch::ErrorKind;

/// Longest request or answer: a script with a large environment; ten thousand jobs.
pub const LINE_LIMIT: u64 = 16 << 20;

/// A client's question.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Submit(Box<Submit>),
    Status,
    Cancel { ids: Vec<u64> },
    Health,
}

/// A job as it is handed in.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
pub struct Submit {
    /// Random; a request that is repeated gets the first answer.
    pub token: String,
    pub name: String,
    pub comment: String,
    /// The whole script.
    pub script: String,
    /// Slots that it occupies.
    pub slots: u64,
    /// 0: none.
    pub walltime_ms: u64,
    /// From SIGTERM to SIGKILL.
    pub grace_ms: u64,
    pub work_dir: String,
    pub log: String,
    /// It doesn't start before this job has, or is over.
    #[serde(default)]
    pub after: Option<u64>,
    pub environment: Vec<(String, String)>,
    /// Slots of the queue from now on.
    pub queue_slots: u64,
    /// Artificial wait of this job.
    pub wait_ms: u64,
}

/// The daemon's answer.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Submitted { id: u64 },
    Jobs(Vec<Report>),
    Done,
    Refused { words: String },
    TryAgain { words: String },
}

impl Reply {
    /// The kind and words of a refusal.
    pub fn refusal(&self) -> Option<(ErrorKind, &str)> {
        match self {
            Self::Refused { words } => Some((ErrorKind::Refused, words)),
            Self::TryAgain { words } => Some((ErrorKind::TryAgain, words)),
            _ => None,
        }
    }
}

/// One job as `status` prints it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Report {
    pub id: u64,
    pub name: String,
    #[serde(flatten)]
    pub state: ReportState,
}

/// Instants are seconds since 1970.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ReportState {
    Waiting { reason: String, words: String, start_estimate: Option<u64>, never: bool },
    Running { host: String, started: u64, ends: Option<u64> },
    Completed,
    Failed { exit_code: Option<i32>, signal: Option<i32> },
    Cancelled,
    TimedOut,
    NodeFailed,
    Unknown { words: String },
}

/// The queue as `queues` prints it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct QueueReport {
    pub slots: u32,
}
