//! What the scheduler's core asks to be journalled. A later epoch's core is the fold of these.

use crate::graph::{Columns, GraphId, TaskId};
use crate::protocol::{
    AllocationId, Execution, GraphOptions, PendingOutput, RequestId, StoredValue, TaskError, WorkerId,
};
use serde::{Deserialize, Serialize};

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
    /// Commands that may start on this worker from now on.
    Assigned {
        worker: WorkerId,
        executions: Vec<Execution>,
    },
    Fates(Vec<(Execution, Fate)>),
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
    /// The values of a pinned graph are let go.
    Unpinned {
        request: RequestId,
        graph: GraphId,
    },
    /// Nobody will name this graph again.
    Forgotten {
        graph: GraphId,
    },
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
