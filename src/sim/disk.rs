//! What survives a scheduler: the journal's files, and beside them every record that ever came to the disk, by which
//! schedulers are judged. And what survives everything: the files that commands write.

use super::shelf::{Shelf, epoch_of};
use crate::graph::{GraphId, TaskId};
use crate::journal::History;
use crate::journal::record::Place;
use crate::protocol::{AllocationId, Completion, Execution, RequestId, WorkerId};
use crate::scheduler::record::{Fate, Record};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Durable records, and indexes of those that count, which judge what leaves a scheduler.
#[derive(Default)]
pub struct Disk {
    pub shelf: Shelf,
    /// By epoch, what came after its seal.
    written: BTreeMap<u32, Written>,
    counted: Counted,
    /// File contents: which task wrote it.
    pub files: BTreeMap<String, u64>,
    /// What workers left behind.
    pub outbox: Vec<(WorkerId, Vec<Completion>)>,
}

/// Records of one epoch, also those that a snapshot stands for by now.
struct Written {
    /// Number of the seal.
    seal: u64,
    /// Records of older epochs that count.
    sealed: BTreeMap<u32, usize>,
    records: Vec<Vec<u8>>,
}

/// What a claimant finds in the journal's files.
pub struct Found {
    pub history: History,
    /// As they are in the files: a snapshot may stand for the older ones.
    pub records: Vec<Record>,
    /// Records of each epoch that count.
    counted: BTreeMap<u32, usize>,
}

impl Found {
    /// Number of the seal that follows.
    pub fn seal_seq(&self) -> u64 {
        self.history.next_seq.max(1)
    }
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
    pub fn append(&mut self, place: Place, seq: u64, bytes: Vec<u8>) {
        if self.written.keys().next_back() == Some(&place.epoch) {
            self.counted.take(decode(&bytes));
        }
        self.shelf.write(place, seq, &bytes);
        if let Some(written) = self.written.get_mut(&place.epoch) {
            written.records.push(bytes);
        }
    }

    /// What a new epoch finds.
    ///
    /// # Errors
    /// The journal is damaged: no crash does that, and no superseded scheduler may.
    pub fn find(&self) -> Result<Found, String> {
        let (history, records) = self.shelf.read()?;
        let mut counted = BTreeMap::new();
        if let Some((epoch, last)) = epoch_of(&history).and_then(|epoch| self.written.get_key_value(&epoch)) {
            counted.clone_from(&last.sealed);
            counted.insert(*epoch, (history.next_seq - 1 - last.seal) as usize);
        }
        Ok(Found { history, records, counted })
    }

    /// Every record that counts, oldest first, whatever a snapshot stands for.
    pub fn records_of(&self, found: &Found) -> Vec<Record> {
        self.records_in(&found.counted)
    }

    /// Those of the newest epoch.
    pub fn records(&self) -> Vec<Record> {
        self.records_in(&self.newest())
    }

    fn newest(&self) -> BTreeMap<u32, usize> {
        let Some((epoch, last)) = self.written.last_key_value() else { return BTreeMap::new() };
        let mut lengths = last.sealed.clone();
        lengths.insert(*epoch, last.records.len());
        lengths
    }

    fn records_in(&self, lengths: &BTreeMap<u32, usize>) -> Vec<Record> {
        let of = |(epoch, length): (&u32, &usize)| self.written[epoch].records[..*length].iter();
        lengths.iter().flat_map(of).map(|bytes| decode(bytes)).collect()
    }

    /// A new epoch's first record: what it found counts. Returns what counted until now and doesn't any more.
    pub fn seal(&mut self, epoch: u32, found: &Found) -> Vec<Record> {
        let before = self.newest();
        let is_last = before.last_key_value().is_none_or(|(last, _)| *last < epoch);
        let mut cut = Vec::new();
        if is_last {
            for (older, length) in before {
                let kept = found.counted.get(&older).copied().unwrap_or(0).min(length);
                cut.extend(self.written[&older].records[kept..length].iter().map(|bytes| decode(bytes)));
            }
        }
        self.shelf.seal(epoch, found.seal_seq(), &found.history);
        let (seal, sealed) = (found.seal_seq(), found.counted.clone());
        self.written.insert(epoch, Written { seal, sealed, records: Vec::new() });
        self.counted = Counted::default();
        let records = self.records();
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
