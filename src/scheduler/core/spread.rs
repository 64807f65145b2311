//! Kernels that need one core and whose inputs workers of one graph hold: nearly all tasks. They are given away in
//! runs here, by the same policy as any other task, which goes the long way through `placing`.

use super::Core;
use super::graphs::GraphState;
use super::outbox::Outbox;
use super::ready::Ready;
use super::roster::Workers;
use super::task::TaskState;
use crate::graph::{GraphId, Resources, TaskId};
use crate::protocol::{Assignment, Execution, Source, WorkerIndex};
use crate::scheduler::place::{has_room, in_a_row, queue_ahead};
use smallvec::SmallVec;

/// Holders of one task's inputs that are compared here.
const MAX_HOLDERS: usize = 8;

/// Why a run of tasks is over.
pub(super) enum RunEnd {
    /// Its graph has no more ready tasks at the head of the queue.
    Done,
    /// No worker has room for the next one.
    Full,
    /// The next one needs a closer look.
    Special,
}

impl Core {
    /// Gives away ready tasks of this class and graph, as long as they are plain and workers have room.
    pub(super) fn place_run(&mut self, id: GraphId, class: usize) -> RunEnd {
        let epoch = self.config.epoch;
        let Core { graphs, workers, families, classes, outbox, recovery, .. } = self;
        let (class, Some(graph)) = (&mut classes[class], graphs.get_mut(&id)) else { return RunEnd::Special };
        if recovery.is_some() || !workers.all_routes_work() || !is_plain(&class.resources) {
            return RunEnd::Special;
        }
        let mut row = Row { worker: None, left: 0 };
        while let Some(task) = class.ready.peek().filter(|task| task.graph == id) {
            let record = &graph.tasks[task.index as usize];
            if record.state != TaskState::Ready {
                class.ready.pop();
                continue;
            }
            let entry = &graph.ops[record.op as usize];
            let (op, family, pure) = (record.op, &mut families[entry.family as usize], entry.pure);
            let Some(mut holders) = Holders::of(graph, task.index).filter(|_| pure) else {
                return RunEnd::Special;
            };
            let ahead = queue_ahead(family.mean_micros);
            let takes = |workers: &Workers, index| {
                workers.get(index).is_some_and(|w| {
                    w.is_open()
                        && has_room(w.registration.cores, w.cores_assigned, class.resources.cores, ahead)
                })
            };
            let holder = holders.by_bytes().find(|index| takes(workers, *index));
            if !graph.is_leaf(task.index) {
                row.left = 0;
            }
            let Some(index) = holder.or_else(|| row.next(workers, takes, &class.ready, ahead)) else {
                return RunEnd::Full;
            };
            class.ready.pop();
            for counts in [&mut graph.counts, &mut family.counts] {
                counts.ready -= 1;
                counts.assigned += 1;
            }
            let record = &mut graph.tasks[task.index as usize];
            // A worker's word may have set it: no number of its choice may end this process.
            record.attempt = record.attempt.wrapping_add(1);
            (record.epoch, record.state) = (epoch, TaskState::Assigned { worker: index });
            let execution = Execution { task, epoch, attempt: record.attempt };
            if workers.give(index, task, &class.resources).is_some_and(|worker| worker.learns_op(id, op)) {
                outbox.op(index, id, op, graph.ops[op as usize].op.clone());
            }
            let inputs = inputs(graph, index, task.index, workers, outbox);
            outbox.compute(index, graph.assignment(execution, inputs), false);
        }
        RunEnd::Done
    }
}

impl GraphState {
    /// What a worker is told of a task to run.
    pub fn assignment(&self, execution: Execution, inputs: Vec<(TaskId, Source)>) -> Assignment {
        let index = execution.task.index;
        Assignment {
            execution,
            op: self.tasks[index as usize].op,
            args: self.args(index).into(),
            name: self.names.get(&index).cloned(),
            inputs,
            priority: u64::from(self.id.0) << 32 | u64::from(index),
        }
    }
}

/// The worker that gets the next tasks that nothing depends on and no holder takes, and how many of them.
struct Row {
    worker: Option<WorkerIndex>,
    left: usize,
}

impl Row {
    fn next(
        &mut self,
        workers: &mut Workers,
        takes: impl Fn(&Workers, WorkerIndex) -> bool,
        ready: &Ready,
        ahead: f64,
    ) -> Option<WorkerIndex> {
        if self.left == 0 || !self.worker.is_some_and(|index| takes(workers, index)) {
            workers.sort_by_load();
            self.worker = workers.by_load().next().filter(|index| takes(workers, *index));
            self.left = in_a_row(ready.len_at_least(), workers.open_count(), ahead);
        }
        self.left -= 1;
        self.worker
    }
}

/// Who holds inputs of one task, with how many bytes of them.
struct Holders {
    list: [(WorkerIndex, u64); MAX_HOLDERS],
    len: usize,
}

impl Holders {
    /// `None`: some are elsewhere than with workers, of other graphs, or with too many.
    fn of(graph: &GraphState, index: u32) -> Option<Holders> {
        let mut holders = Holders { list: [(WorkerIndex(0), 0); MAX_HOLDERS], len: 0 };
        for edge in graph.edges(index) {
            let input = graph.dependency(edge).ok()?;
            let record = &graph.tasks[input as usize];
            let TaskState::Held { worker } = record.state else { return None };
            holders.add(worker, record.nbytes)?;
            for replica in graph.replicas.get(&input).into_iter().flatten() {
                holders.add(*replica, record.nbytes)?;
            }
        }
        Some(holders)
    }

    fn add(&mut self, worker: WorkerIndex, nbytes: u64) -> Option<()> {
        if let Some((_, sum)) = self.list[..self.len].iter_mut().find(|(holder, _)| *holder == worker) {
            *sum += nbytes;
            return Some(());
        }
        *self.list.get_mut(self.len)? = (worker, nbytes);
        self.len += 1;
        Some(())
    }

    /// Those with the most bytes first.
    fn by_bytes(&mut self) -> impl Iterator<Item = WorkerIndex> {
        let list = &mut self.list[..self.len];
        if list.len() > 1 {
            list.sort_unstable_by_key(|(worker, sum)| (std::cmp::Reverse(*sum), *worker));
        }
        list.iter().map(|(worker, _)| *worker)
    }
}

/// Where the task's inputs are; their holders are introduced to the worker.
fn inputs(
    graph: &GraphState,
    worker: WorkerIndex,
    index: u32,
    workers: &mut Workers,
    outbox: &mut Outbox,
) -> Vec<(TaskId, Source)> {
    let edges = graph.edges(index);
    let mut inputs = Vec::with_capacity(edges.len());
    for input in edges.filter_map(|edge| graph.dependency(edge).ok()) {
        let TaskState::Held { worker: first } = graph.tasks[input as usize].state else { continue };
        let mut holders = SmallVec::from_buf_and_len([first; _], 1);
        if let Some(others) = graph.replicas.get(&input) {
            holders.extend_from_slice(others);
        }
        for holder in holders.iter().filter(|holder| **holder != worker) {
            outbox.introduce(workers, worker, *holder);
        }
        inputs.push((graph.task_id(input), Source::Peers(holders)));
    }
    inputs
}

/// Whether any worker that has a free core can take it.
pub(super) fn is_plain(needs: &Resources) -> bool {
    needs.cores <= 1 && needs.memory == 0 && needs.named.is_empty()
}
