//! What the scheduler's core asks to be journalled. A later epoch's core is the fold of these.

mod runs;

use super::image::{Base, Image};
use crate::graph::{Columns, GraphId, TaskId};
use crate::protocol::{
    AllocationId, Execution, GraphOptions, PendingOutput, RequestId, StoredValue, TaskError, WorkerId,
};
use serde::{Deserialize, Serialize};

/// Kind of these records in the journal.
pub const KIND: u8 = 1;
/// Version of their encoding. A later one may know more records; a program reads its own version and older ones.
pub const VERSION: u8 = 4;

/// Why a record of the journal can't be taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    #[error(
        "it is of kind {kind}, version {version}, and this program (jobq {}) knows kind {KIND} up to version {VERSION}: \
         use the jobq that wrote it, or a newer one",
        env!("CARGO_PKG_VERSION")
    )]
    Unknown { kind: u8, version: u8 },
    #[error("it can't be understood: {0}")]
    Malformed(String),
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Record {
    /// A part of a graph was accepted.
    Part {
        graph: GraphId,
        request: RequestId,
        part: u32,
        last: bool,
        columns: Box<Columns>,
        options: GraphOptions,
    },
    /// Its stream broke off for good: what came is the graph.
    Sealed {
        graph: GraphId,
    },
    /// A worker of this allocation is there: a later epoch expects it back.
    Registered {
        worker: WorkerId,
        allocation: AllocationId,
    },
    /// Nothing of that worker runs any more.
    Departed {
        worker: WorkerId,
    },
    /// Commands that may start on this worker from now on.
    Assigned {
        worker: WorkerId,
        #[serde(with = "runs")]
        executions: Vec<Execution>,
    },
    Fates(#[serde(with = "runs")] Vec<(Execution, Fate)>),
    Cancelled {
        request: RequestId,
        tasks: Vec<TaskId>,
    },
    Target {
        request: RequestId,
        workers: u32,
    },
    /// An allocation is about to be submitted.
    Intent {
        allocation: AllocationId,
    },
    /// These are given up: they don't count any more, and are to end.
    GivenUp {
        allocations: Vec<AllocationId>,
    },
    /// It has ended or was refused: the batch system needn't be asked about it again.
    AllocationOver {
        allocation: AllocationId,
    },
    /// Of a snapshot: tasks as they stand.
    Image(Box<Image>),
    /// Of a snapshot: the rest, which puts the images into force.
    Base(Box<Base>),
    /// A graph that was to be pinned is.
    Pinned {
        graph: GraphId,
    },
    /// The values of a pinned graph are let go.
    Unpinned {
        request: RequestId,
        graph: GraphId,
    },
    /// Nobody will name this graph again.
    Forgotten {
        graph: GraphId,
    },
    /// These had failed or were cancelled, and are tried again.
    Retried {
        request: RequestId,
        tasks: Vec<TaskId>,
    },
    /// The cluster is to end: running tasks have so long.
    GoingDown {
        drain_ms: u64,
    },
}

impl Record {
    /// The body of a journal's record of [`KIND`] and [`VERSION`].
    ///
    /// # Errors
    /// Only values that MessagePack can't hold, which these never are.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        rmp_serde::to_vec(self).map_err(|error| RecordError::Malformed(error.to_string()))
    }

    /// # Errors
    /// It is of another kind or a newer version, or isn't a record.
    pub fn decode(kind: u8, version: u8, body: &[u8]) -> Result<Record, RecordError> {
        if kind != KIND || !(1..=VERSION).contains(&version) {
            return Err(RecordError::Unknown { kind, version });
        }
        rmp_serde::from_slice(body).map_err(|error| RecordError::Malformed(error.to_string()))
    }
}

/// What became of a task.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Fate {
    Held {
        nbytes: u64,
        nanos: u64,
    },
    Stored {
        result: Box<StoredValue>,
        nanos: u64,
    },
    /// Its outputs are accepted, and to be brought to their place.
    Accepted {
        outputs: Vec<PendingOutput>,
        result: Box<StoredValue>,
        nanos: u64,
    },
    /// They were in their place.
    Placed,
    /// They were gone: it runs again.
    Revoked,
    Erred {
        error: TaskError,
        result: Option<Box<StoredValue>>,
    },
    /// A failed try that is to be repeated.
    Retried,
    /// Cancelled with the rest of its graph, because too many failed, while its value was being made again.
    Cancelled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_a_newer_program_is_refused_with_both_versions() {
        let record = Record::Sealed { graph: GraphId(7) };
        let body = record.encode().unwrap();
        assert_eq!(Record::decode(KIND, 1, &body), Ok(record.clone()), "older ones are read");
        assert_eq!(Record::decode(KIND, VERSION, &body), Ok(record));
        for (kind, version) in [(KIND, VERSION + 1), (KIND + 1, 1), (KIND, 0)] {
            let words = Record::decode(kind, version, &body).unwrap_err().to_string();
            assert!(words.contains(&format!("kind {kind}, version {version}")), "{words}");
            assert!(words.contains(&format!("up to version {VERSION}")), "{words}");
        }
        assert!(matches!(Record::decode(KIND, VERSION, &body[1..]), Err(RecordError::Malformed(_))));
    }
}
