//! What survives a scheduler: the journal, a segment for each epoch. And what survives everything: the files that
//! commands write.

use crate::graph::{GraphId, TaskId};
use crate::protocol::{AllocationId, Completion, Execution, RequestId, WorkerId};
use crate::scheduler::record::{Fate, Record};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Durable records, and indexes of those that count, which judge what leaves a scheduler.
#[derive(Default)]
pub struct Disk {
    /// By epoch, from its seal on.
    segments: BTreeMap<u32, Segment>,
    counted: Counted,
    /// File contents: which task wrote it.
    pub files: BTreeMap<String, u64>,
    /// What workers left behind.
    pub outbox: Vec<(WorkerId, Vec<Completion>)>,
}

#[derive(Default)]
struct Segment {
    /// Records of older epochs that count.
    sealed: BTreeMap<u32, usize>,
    records: Vec<Vec<u8>>,
}

/// What the records say that count.
#[derive(Default)]
struct Counted {
    parts: HashSet<(RequestId, u32)>,
    assigned: HashSet<(Execution, String)>,
    /// Commands whose end is journalled: they must never start again.
    done: HashSet<TaskId>,
    /// Kernels whose end is journalled.
    finished: HashSet<TaskId>,
    /// Tasks of each graph.
    graphs: HashMap<GraphId, u32>,
    given_up: BTreeSet<AllocationId>,
    intents: BTreeSet<AllocationId>,
}

impl Counted {
    fn take(&mut self, record: Record) {
        match record {
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
    }

    fn note_fate(&mut self, task: TaskId, fate: &Fate) {
        match fate {
            Fate::Stored { .. } | Fate::Placed => drop(self.done.insert(task)),
            Fate::Held { .. } => drop(self.finished.insert(task)),
            _ => {}
        }
    }
}

impl Disk {
    /// A record is on disk. What a scheduler writes behind the seal of a later epoch counts for nobody.
    pub fn append(&mut self, epoch: u32, bytes: Vec<u8>) {
        if self.segments.keys().next_back() == Some(&epoch) {
            self.counted.take(decode(&bytes));
        }
        if let Some(segment) = self.segments.get_mut(&epoch) {
            segment.records.push(bytes);
        }
    }

    /// What a new epoch finds: how much of each older one, and the records, oldest first.
    pub fn read(&self) -> (BTreeMap<u32, usize>, Vec<Record>) {
        let Some((epoch, last)) = self.segments.last_key_value() else { return Default::default() };
        let mut lengths = last.sealed.clone();
        lengths.insert(*epoch, last.records.len());
        let of = |(epoch, length): (&u32, &usize)| self.segments[epoch].records[..*length].iter();
        let records = lengths.iter().flat_map(of).map(|bytes| decode(bytes)).collect();
        (lengths, records)
    }

    /// A new epoch's first record: so much of the older ones counts. Returns what counted until now and doesn't any
    /// more.
    pub fn seal(&mut self, epoch: u32, sealed: BTreeMap<u32, usize>) -> Vec<Record> {
        let before = self.read().0;
        let is_last = before.last_key_value().is_none_or(|(last, _)| *last < epoch);
        let mut cut = Vec::new();
        if is_last {
            for (older, length) in before {
                let kept = sealed.get(&older).copied().unwrap_or(0).min(length);
                cut.extend(self.segments[&older].records[kept..length].iter().map(|bytes| decode(bytes)));
            }
        }
        self.segments.insert(epoch, Segment { sealed, records: Vec::new() });
        self.counted = Counted::default();
        let records = self.read().1;
        records.into_iter().for_each(|record| self.counted.take(record));
        cut
    }

    pub fn has_part(&self, request: RequestId, part: u32) -> bool {
        self.counted.parts.contains(&(request, part))
    }

    pub fn has_task(&self, task: TaskId) -> bool {
        self.counted.graphs.get(&task.graph).is_some_and(|tasks| task.index < *tasks)
    }

    pub fn has_assigned(&self, execution: Execution, worker: &str) -> bool {
        self.counted.assigned.contains(&(execution, worker.to_owned()))
    }

    pub fn has_end_of_command(&self, task: TaskId) -> bool {
        self.counted.done.contains(&task)
    }

    pub fn has_end_of_kernel(&self, task: TaskId) -> bool {
        self.counted.finished.contains(&task)
    }

    pub fn has_given_up(&self, allocation: AllocationId) -> bool {
        self.counted.given_up.contains(&allocation)
    }

    pub fn has_intent(&self, allocation: AllocationId) -> bool {
        self.counted.intents.contains(&allocation)
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
