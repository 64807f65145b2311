//! What one batch has to say to each worker, gathered so that it leaves as one message of a kind.

use super::Core;
use crate::graph::{GraphId, Op, TaskId};
use crate::protocol::{Assignment, Execution, PendingOutput, ToWorker, WorkerIndex};
use crate::scheduler::event::{Action, JournalSeq, PeerId};
use crate::scheduler::record::Record;
use std::collections::BTreeMap;

/// Assignments of one message: with arguments and inline inputs they must fit a frame.
const MAX_ASSIGNMENTS: usize = 256;

#[derive(Default)]
pub(super) struct Outbox {
    letters: BTreeMap<WorkerIndex, Letter>,
    forgotten: Vec<GraphId>,
}

#[derive(Default)]
struct Letter {
    ops: Vec<(GraphId, u32, Op)>,
    peers: Vec<(WorkerIndex, Vec<String>)>,
    /// Kernels may be sent at once, if their graph is durable.
    kernels: Vec<Assignment>,
    /// Commands leave once it is durable that this worker may run them.
    commands: Vec<Assignment>,
    place: Vec<(Execution, Vec<PendingOutput>)>,
    acknowledge: Vec<Execution>,
    discard: Vec<PendingOutput>,
    cancel: Vec<Execution>,
    free: Vec<TaskId>,
    /// To be fetched from these.
    replicate: Vec<(TaskId, Vec<WorkerIndex>)>,
    /// To be freed although they are needed: nobody could get them from this worker.
    strike: Vec<TaskId>,
    /// Of forgotten graphs: they go once it is durable that nobody will name them.
    free_forgotten: Vec<TaskId>,
}

impl Outbox {
    fn letter(&mut self, worker: WorkerIndex) -> &mut Letter {
        self.letters.entry(worker).or_default()
    }

    pub fn op(&mut self, worker: WorkerIndex, graph: GraphId, index: u32, op: Op) {
        self.letter(worker).ops.push((graph, index, op));
    }

    pub fn peer(&mut self, worker: WorkerIndex, other: WorkerIndex, addresses: Vec<String>) {
        self.letter(worker).peers.push((other, addresses));
    }

    pub fn compute(&mut self, worker: WorkerIndex, assignment: Assignment, is_command: bool) {
        let letter = self.letter(worker);
        if is_command { &mut letter.commands } else { &mut letter.kernels }.push(assignment);
    }

    pub fn place_outputs(&mut self, worker: WorkerIndex, execution: Execution, outputs: Vec<PendingOutput>) {
        self.letter(worker).place.push((execution, outputs));
    }

    pub fn acknowledge(&mut self, worker: WorkerIndex, execution: Execution) {
        self.letter(worker).acknowledge.push(execution);
    }

    pub fn discard(&mut self, worker: WorkerIndex, outputs: Vec<PendingOutput>) {
        self.letter(worker).discard.extend(outputs);
    }

    pub fn cancel(&mut self, worker: WorkerIndex, execution: Execution) {
        self.letter(worker).cancel.push(execution);
    }

    pub fn free(&mut self, worker: WorkerIndex, task: TaskId) {
        self.letter(worker).free.push(task);
    }

    pub fn replicate(&mut self, worker: WorkerIndex, task: TaskId, holders: Vec<WorkerIndex>) {
        self.letter(worker).replicate.push((task, holders));
    }

    pub fn strike(&mut self, worker: WorkerIndex, task: TaskId) {
        self.letter(worker).strike.push(task);
    }

    pub fn free_forgotten(&mut self, worker: WorkerIndex, task: TaskId) {
        self.letter(worker).free_forgotten.push(task);
    }

    /// What was gathered for a worker that registers anew: it is settled again.
    pub fn drop_letter(&mut self, worker: WorkerIndex) {
        self.letters.remove(&worker);
    }

    pub fn forget(&mut self, graph: GraphId) {
        self.forgotten.push(graph);
    }
}

impl Core {
    /// Turns what was gathered into messages. What must not be seen before it is durable waits for the last record.
    pub(super) fn flush_outbox(&mut self, out: &mut Vec<Action>) {
        let Outbox { letters, forgotten } = std::mem::take(&mut self.outbox);
        for (index, letter) in letters {
            // A worker whose link is gone registers anew, and everything here is then settled again.
            let Some(peer) = self.workers.get(index).and_then(|w| w.peer()) else { continue };
            self.flush_letter(index, peer, letter, out);
        }
        if !forgotten.is_empty() {
            let after = self.everything_so_far();
            let peers: Vec<PeerId> = self.workers.iter().filter_map(|(_, w)| w.peer()).collect();
            for peer in peers {
                for graph in &forgotten {
                    out.push(Action::ToWorker { peer, message: ToWorker::ForgetGraph(*graph), after });
                }
            }
        }
    }

    fn flush_letter(&mut self, index: WorkerIndex, peer: PeerId, letter: Letter, out: &mut Vec<Action>) {
        let mut send =
            |message, after: Option<JournalSeq>| out.push(Action::ToWorker { peer, message, after });
        let so_far = self.everything_so_far();
        if !letter.free.is_empty() {
            send(ToWorker::Free(letter.free), None);
        }
        if !letter.strike.is_empty() {
            send(ToWorker::Strike(letter.strike), None);
        }
        if !letter.free_forgotten.is_empty() {
            send(ToWorker::Free(letter.free_forgotten), so_far);
        }
        for (graph, ops) in by_graph(letter.ops) {
            send(ToWorker::Ops { graph, ops }, None);
        }
        if !letter.peers.is_empty() {
            send(ToWorker::Peers(letter.peers), None);
        }
        if !letter.replicate.is_empty() {
            send(ToWorker::Replicate(letter.replicate), None);
        }
        // After a restart the number of a graph that was lost may go to another: nobody must have heard of it then.
        let part = |a: &Assignment| self.graphs.get(&a.execution.task.graph)?.part_of(a.execution.task.index);
        let is_early = |a: &Assignment| part(a).is_some_and(|seq| seq > self.durable);
        let (early, kernels): (Vec<_>, Vec<_>) = letter.kernels.into_iter().partition(is_early);
        for kernels in kernels.chunks(MAX_ASSIGNMENTS) {
            send(ToWorker::Compute(kernels.to_vec()), None);
        }
        let needed = early.iter().filter_map(part).max();
        for early in early.chunks(MAX_ASSIGNMENTS) {
            send(ToWorker::Compute(early.to_vec()), needed);
        }
        if !letter.acknowledge.is_empty() {
            send(ToWorker::Acknowledge { executions: letter.acknowledge }, so_far);
        }
        for (execution, outputs) in letter.place {
            send(ToWorker::Place { execution, outputs }, so_far);
        }
        if !letter.discard.is_empty() {
            send(ToWorker::Discard { outputs: letter.discard }, so_far);
        }
        if !letter.commands.is_empty() {
            let Some(worker) = self.workers.get(index).map(|w| w.registration.id.clone()) else { return };
            let executions = letter.commands.iter().map(|a| a.execution).collect();
            let seq = self.persist(Record::Assigned { worker, executions }, out);
            for commands in letter.commands.chunks(MAX_ASSIGNMENTS) {
                let message = ToWorker::Compute(commands.to_vec());
                out.push(Action::ToWorker { peer, message, after: Some(seq) });
            }
        }
        if !letter.cancel.is_empty() {
            // Behind whatever assigned it.
            let after = self.everything_so_far();
            out.push(Action::ToWorker { peer, message: ToWorker::Cancel(letter.cancel), after });
        }
    }
}

fn by_graph(ops: Vec<(GraphId, u32, Op)>) -> BTreeMap<GraphId, Vec<(u32, Op)>> {
    let mut grouped: BTreeMap<GraphId, Vec<(u32, Op)>> = BTreeMap::new();
    for (graph, index, op) in ops {
        grouped.entry(graph).or_default().push((index, op));
    }
    grouped
}
