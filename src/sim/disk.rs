//! What survives a scheduler: its journal. And what survives everything: the files that commands write.

use crate::graph::{GraphId, TaskId};
use crate::protocol::{AllocationId, Completion, Execution, RequestId, WorkerId};
use crate::scheduler::record::{Fate, Record};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Durable records, and indexes that judge what leaves the scheduler by them.
#[derive(Default)]
pub struct Disk {
    records: Vec<Vec<u8>>,
    /// Of some of them, for a start.
    pub snapshot: Option<super::compaction::Snapshot>,
    parts: HashSet<(RequestId, u32)>,
    assigned: HashSet<(Execution, String)>,
    /// Commands whose end is journalled: they must never start again.
    pub done: HashSet<TaskId>,
    /// Kernels whose end is journalled.
    pub finished: HashSet<TaskId>,
    /// Tasks of each graph.
    graphs: HashMap<GraphId, u32>,
    pub given_up: BTreeSet<AllocationId>,
    pub intents: BTreeSet<AllocationId>,
    /// File contents: which task wrote it.
    pub files: BTreeMap<String, u64>,
    /// What workers left behind.
    pub outbox: Vec<(WorkerId, Vec<Completion>)>,
}

impl Disk {
    pub fn len(&self) -> u64 {
        self.records.len() as u64
    }

    /// A record is on disk.
    pub fn append(&mut self, bytes: Vec<u8>) {
        match decode(&bytes) {
            Record::Part { graph, request, part, columns, .. } => {
                self.parts.insert((request, part));
                *self.graphs.entry(graph).or_default() += columns.len() as u32;
            }
            Record::Assigned { worker, executions } => {
                let of_worker = |e| (e, format!("{}#{}", worker.name, worker.incarnation));
                self.assigned.extend(executions.into_iter().map(of_worker));
            }
            Record::Fates(fates) => fates.into_iter().for_each(|(e, fate)| self.note_fate(e.task, &fate)),
            Record::GivenUp { allocations } => self.given_up.extend(allocations),
            Record::Intent { allocation } => drop(self.intents.insert(allocation)),
            _ => {}
        }
        self.records.push(bytes);
    }

    fn note_fate(&mut self, task: TaskId, fate: &Fate) {
        match fate {
            Fate::Stored { .. } | Fate::Placed => drop(self.done.insert(task)),
            Fate::Held { .. } => drop(self.finished.insert(task)),
            _ => {}
        }
    }

    pub fn records(&self) -> Vec<Record> {
        self.records.iter().map(|bytes| decode(bytes)).collect()
    }

    pub fn has_part(&self, request: RequestId, part: u32) -> bool {
        self.parts.contains(&(request, part))
    }

    pub fn has_task(&self, task: TaskId) -> bool {
        self.graphs.get(&task.graph).is_some_and(|tasks| task.index < *tasks)
    }

    pub fn has_assigned(&self, execution: Execution, worker: &str) -> bool {
        self.assigned.contains(&(execution, worker.to_owned()))
    }
}

/// # Panics
/// If a record doesn't read back: a defect of its encoding.
pub fn decode(bytes: &[u8]) -> Record {
    rmp_serde::from_slice(bytes).expect("a record reads back as it was written")
}

/// # Panics
/// If a record can't be written: a defect of its encoding.
pub fn encode(record: &Record) -> Vec<u8> {
    rmp_serde::to_vec(record).expect("a record can be written")
}
