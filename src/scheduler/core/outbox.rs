//! What one batch has to say to each worker, gathered so that it leaves as one message of a kind.

use super::Core;
use super::fast::FastMap;
use super::roster::{Worker, Workers};
use crate::graph::{GraphId, Op, TaskId};
use crate::protocol::{Assignment, Execution, PendingOutput, ToWorker, WorkerIndex};
use crate::scheduler::event::{Action, JournalSeq, PeerId};
use crate::scheduler::record::Record;
use std::collections::BTreeMap;

/// Assignments of one message: with arguments and inline inputs they must fit a frame.
const MAX_ASSIGNMENTS: usize = 256;

#[derive(Default)]
pub(super) struct Outbox {
    letters: Vec<(WorkerIndex, Letter)>,
    /// Where each worker's letter is.
    places: FastMap<WorkerIndex, usize>,
    /// The place that was asked for last: most that is said goes where the last word went.
    last: usize,
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
        if self.letters.get(self.last).is_none_or(|(of, _)| *of != worker) {
            self.last = *self.places.entry(worker).or_insert(self.letters.len());
            if self.last == self.letters.len() {
                self.letters.push((worker, Letter::default()));
            }
        }
        &mut self.letters[self.last].1
    }

    pub fn op(&mut self, worker: WorkerIndex, graph: GraphId, index: u32, op: Op) {
        self.letter(worker).ops.push((graph, index, op));
    }

    pub fn peer(&mut self, worker: WorkerIndex, other: WorkerIndex, addresses: Vec<String>) {
        self.letter(worker).peers.push((other, addresses));
    }

    /// Tells the worker where another one is, if it doesn't know.
    pub fn introduce(&mut self, workers: &mut Workers, worker: WorkerIndex, other: WorkerIndex) {
        let known = |w: &Worker| w.knows_peers.contains(&other);
        if worker == other || workers.get(worker).is_none_or(known) {
            return;
        }
        let Some(addresses) = workers.get(other).map(|w| w.registration.addresses.clone()) else { return };
        if let Some(worker) = workers.get_mut(worker) {
            worker.knows_peers.insert(other);
        }
        self.peer(worker, other, addresses);
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

    /// Where executions go whose ends are taken.
    pub fn acknowledgements(&mut self, worker: WorkerIndex) -> &mut Vec<Execution> {
        &mut self.letter(worker).acknowledge
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
        if let Some(place) = self.places.get(&worker) {
            self.letters[*place].1 = Letter::default();
        }
    }

    pub fn forget(&mut self, graph: GraphId) {
        self.forgotten.push(graph);
    }
}

impl Core {
    /// Turns what was gathered into messages. What must not be seen before it is durable waits for the last record.
    pub(super) fn flush_outbox(&mut self, out: &mut Vec<Action>) {
        let Outbox { mut letters, forgotten, .. } = std::mem::take(&mut self.outbox);
        letters.sort_unstable_by_key(|(index, _)| *index);
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

    /// Assignments of parts that aren't durable yet, and the others.
    fn split_early(&self, kernels: Vec<Assignment>) -> (Vec<Assignment>, Vec<Assignment>) {
        let (mut graph, mut first) = (None, u32::MAX);
        let mut is_early = |a: &Assignment| {
            let task = a.execution.task;
            if graph != Some(task.graph) {
                graph = Some(task.graph);
                first = self.graphs.get(&task.graph).map_or(u32::MAX, |g| g.first_early(self.durable));
            }
            task.index >= first
        };
        if !kernels.iter().any(&mut is_early) {
            return (Vec::new(), kernels);
        }
        kernels.into_iter().partition(is_early)
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
        let (early, kernels) = self.split_early(letter.kernels);
        for kernels in portions(kernels) {
            send(ToWorker::Compute(kernels), None);
        }
        let part = |a: &Assignment| self.graphs.get(&a.execution.task.graph)?.part_of(a.execution.task.index);
        let needed = early.iter().filter_map(part).max();
        for early in portions(early) {
            send(ToWorker::Compute(early), needed);
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
            for commands in portions(letter.commands) {
                let message = ToWorker::Compute(commands);
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

/// In messages of bounded length.
fn portions(assignments: Vec<Assignment>) -> impl Iterator<Item = Vec<Assignment>> {
    let (few, many) = match assignments.len() {
        0 => (None, Vec::new()),
        1..=MAX_ASSIGNMENTS => (Some(assignments), Vec::new()),
        _ => (None, assignments),
    };
    let mut many = many.into_iter();
    let next = move || Some(many.by_ref().take(MAX_ASSIGNMENTS).collect());
    few.into_iter().chain(std::iter::from_fn(next).take_while(|portion: &Vec<_>| !portion.is_empty()))
}

fn by_graph(ops: Vec<(GraphId, u32, Op)>) -> BTreeMap<GraphId, Vec<(u32, Op)>> {
    let mut grouped: BTreeMap<GraphId, Vec<(u32, Op)>> = BTreeMap::new();
    for (graph, index, op) in ops {
        grouped.entry(graph).or_default().push((index, op));
    }
    grouped
}
