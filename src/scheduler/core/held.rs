//! Kernels whose values stay with their worker: nearly all tasks end so, by the thousand. Whole runs of one graph are
//! taken at once here. What is rare among them goes the long way, one by one, to the same end: through `completions`
//! and `states`.

use super::graphs::GraphState;
use super::task::{NONE, TaskState};
use super::{Class, Core, DURATION_WEIGHT, Family};
use crate::graph::TaskId;
use crate::protocol::{Completion, Outcome, WorkerIndex};
use crate::scheduler::event::JournalSeq;
use crate::scheduler::record::Fate;
use std::collections::VecDeque;

impl Core {
    /// Takes as many of these ends as are plain, from the first on; returns how many.
    pub(super) fn take_held(&mut self, index: WorkerIndex, ends: &[Completion]) -> usize {
        let Some(id) = ends.first().map(|end| end.execution.task.graph) else { return 0 };
        // What ends now is durable with the record that this batch writes.
        let seq = self.next_seq;
        let Core { graphs, workers, families, classes, clients, fates, outbox, releasable, .. } = self;
        let (Some(graph), Some(worker)) = (graphs.get_mut(&id), workers.get_mut(index)) else { return 0 };
        let acknowledged = outbox.acknowledgements(index);
        acknowledged.reserve(ends.len());
        fates.reserve(ends.len());
        let mut outside = Vec::new();
        let mut taken = 0;
        for end in ends {
            let (task, Outcome::Held { nbytes }) = (end.execution.task, &end.outcome) else { break };
            let plain = task.graph == id
                && graph.is_current(end.execution, index)
                && graph.options.replicas <= 1
                && !graph.outside_dependents.contains_key(&task.index)
                && !clients.waits_for(task);
            if !plain {
                break;
            }
            taken += 1;
            let record = &mut graph.tasks[task.index as usize];
            record.state = TaskState::Held { worker: index };
            record.nbytes = *nbytes;
            record.micros = micros(end.nanos);
            let (entry, micros) = (&graph.ops[record.op as usize], record.micros);
            let family = &mut families[entry.family as usize];
            family.learn(micros);
            for counts in [&mut graph.counts, &mut family.counts] {
                counts.assigned -= 1;
                counts.memory += 1;
            }
            worker.finished += 1;
            worker.take_off(task, &classes[entry.class as usize].resources);
            worker.holds.insert(task);
            fates.push((end.execution, Fate::Held { nbytes: *nbytes, nanos: end.nanos }));
            acknowledged.push(end.execution);
            let pure = entry.pure;
            wake_dependents(graph, task.index, families, classes);
            if pure {
                drop_inputs(graph, task.index, seq, releasable, &mut outside);
            }
            note_superfluous(graph, task.index, seq, releasable);
        }
        workers.note_load(index);
        if graph.is_settled() {
            self.on_graph_progress(id);
        }
        outside.into_iter().for_each(|input| self.drop_input(input));
        taken
    }

    /// Releases what nobody needs, as far as that is durable.
    pub(super) fn release_due(&mut self, durable: JournalSeq) {
        while let Some(task) = self.release_plain(durable) {
            self.release(task);
        }
    }

    /// Releases until a value of a pinned graph comes, which it returns.
    fn release_plain(&mut self, durable: JournalSeq) -> Option<TaskId> {
        let Core { graphs, workers, outbox, releasable, .. } = self;
        while let Some((_, task)) = releasable.pop_front_if(|(needed, _)| *needed <= durable) {
            let Some(graph) = graphs.get_mut(&task.graph) else { continue };
            let Some(record) = graph.tasks.get_mut(task.index as usize) else { continue };
            // An earlier entry may be of a time before the value was needed again.
            if record.releases_due != u16::MAX {
                record.releases_due = record.releases_due.saturating_sub(1);
            }
            let TaskState::Held { worker } = record.state else { continue };
            if record.releases_due > 0 || !record.is_superfluous() {
                continue;
            }
            if graph.options.replicas > 1 {
                return Some(task);
            }
            record.state = TaskState::Released;
            let others = graph.replicas.remove(&task.index).unwrap_or_default();
            for holder in std::iter::once(worker).chain(others) {
                workers.drop_holding(holder, task);
                outbox.free(holder, task);
            }
        }
        None
    }
}

/// As tasks remember it: 0 is for those that never ended well.
pub(super) fn micros(nanos: u64) -> u32 {
    u32::try_from(nanos / 1000).unwrap_or(u32::MAX).max(1)
}

impl Family {
    /// One of its tasks ended well after so long.
    pub fn learn(&mut self, micros: u32) {
        let (mean, micros) = (&mut self.mean_micros, f64::from(micros));
        *mean = if *mean == 0.0 { micros } else { *mean + DURATION_WEIGHT * (micros - *mean) };
    }
}

/// The task's value is there: dependents in its graph wait for one thing less.
fn wake_dependents(graph: &mut GraphState, index: u32, families: &mut [Family], classes: &mut [Class]) {
    let mut edge = graph.tasks[index as usize].first_dependent;
    while edge != NONE {
        let (dependent, next) = graph.dependent(edge);
        edge = next;
        let record = &mut graph.tasks[dependent as usize];
        match record.state {
            TaskState::Waiting { missing } if missing > 1 => {
                record.state = TaskState::Waiting { missing: missing - 1 };
            }
            TaskState::Waiting { .. } => {
                record.state = TaskState::Ready;
                let entry = &graph.ops[record.op as usize];
                for counts in [&mut graph.counts, &mut families[entry.family as usize].counts] {
                    counts.waiting -= 1;
                    counts.ready += 1;
                }
                classes[entry.class as usize].ready.push(TaskId { graph: graph.id, index: dependent });
            }
            _ => {}
        }
    }
}

/// The task needs its dependencies' values no more; those of other graphs are noted.
fn drop_inputs(
    graph: &mut GraphState,
    index: u32,
    seq: JournalSeq,
    releasable: &mut VecDeque<(JournalSeq, TaskId)>,
    outside: &mut Vec<TaskId>,
) {
    for edge in graph.edges(index) {
        match graph.dependency(edge) {
            Ok(input) => {
                let record = &mut graph.tasks[input as usize];
                record.needed_by = record.needed_by.saturating_sub(1);
                note_superfluous(graph, input, seq, releasable);
            }
            Err(input) => outside.push(input),
        }
    }
}

/// If nobody needs the value any more, it goes once that record is durable.
fn note_superfluous(
    graph: &mut GraphState,
    index: u32,
    seq: JournalSeq,
    releasable: &mut VecDeque<(JournalSeq, TaskId)>,
) {
    let record = &mut graph.tasks[index as usize];
    if record.is_superfluous() {
        record.releases_due = record.releases_due.saturating_add(1);
        releasable.push_back((seq, TaskId { graph: graph.id, index }));
    }
}
