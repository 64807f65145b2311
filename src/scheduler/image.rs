//! What a snapshot says of the core: how things stand, instead of every record that led there.

use crate::graph::{Columns, GraphId};
use crate::protocol::{GraphOptions, PendingOutput, RequestId, StoredValue, TaskError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Tasks of one graph that follow each other, as they stand. A large graph comes in several.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Image {
    pub graph: GraphId,
    pub request: RequestId,
    pub options: GraphOptions,
    /// Index of the first task here: the images before it brought the others.
    pub first: u32,
    /// With the last image of the graph: the parts it came in, as first task and count, and whether it is complete.
    pub last: Option<Whole>,
    /// The first image brings all operations and outside dependencies of the graph.
    pub columns: Box<Columns>,
    /// A [`Standing`] a task, as its number.
    #[serde(with = "serde_bytes")]
    pub standing: Vec<u8>,
    /// The last execution a task that the journal may know of.
    #[serde(with = "crate::graph::steps")]
    pub epochs: Vec<u32>,
    #[serde(with = "crate::graph::steps")]
    pub attempts: Vec<u32>,
    pub nbytes: Vec<u64>,
    #[serde(with = "crate::graph::steps")]
    pub micros: Vec<u32>,
    /// Tasks that have used something up: index, retries, workers lost, inputs out of reach.
    pub used: Vec<(u32, u16, u8, u8)>,
    pub errors: Vec<(u32, TaskError)>,
    pub results: Vec<(u32, Arc<StoredValue>)>,
    pub accepted: Vec<(u32, Vec<PendingOutput>)>,
    /// Tasks whose name leads to them: it may have gone to a later task since.
    pub named: Vec<u32>,
}

/// What holds for a graph as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Whole {
    pub parts: Vec<(u32, u32)>,
    pub sealed: bool,
    pub failures: u32,
}

/// How a task stands, as far as a journal tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Standing {
    /// It has to run; whether it could by now follows from the others.
    Open = 0,
    /// Its outputs are to be brought to their place.
    Accepted = 1,
    /// It ended well. Who holds the value, and whether it was lost since, workers will say.
    Finished = 2,
    /// It ended well, and the scheduler has the value.
    Stored = 3,
    Erred = 4,
    Cancelled = 5,
}

impl Standing {
    pub fn of_number(number: u8) -> Option<Standing> {
        use Standing::{Accepted, Cancelled, Erred, Finished, Open, Stored};
        [Open, Accepted, Finished, Stored, Erred, Cancelled].get(usize::from(number)).copied()
    }
}

/// What is not of one graph. It follows the images, which it puts into force.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Base {
    pub next_graph: u32,
    pub next_allocation: u32,
    /// Workers wanted.
    pub target: u32,
    /// Requests that were answered and go with no graph, the oldest first.
    pub answers: Vec<(RequestId, Answer)>,
    /// Graphs that were settled once, the oldest first: in this order they are forgotten.
    pub history: Vec<GraphId>,
}

/// What a changing request was answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    Cancelled {
        tasks: u64,
    },
    Scaled {
        workers: u32,
    },
    Unpinned {
        tasks: u64,
    },
    Retried {
        tasks: u64,
    },
    /// A submit's, of a graph that is forgotten.
    Forgotten {
        graph: GraphId,
        parts: u32,
        last: (u32, u32),
    },
}
