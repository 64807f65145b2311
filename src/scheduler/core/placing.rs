//! Gives ready tasks to workers, by the policy in `scheduler::place`.

use super::Core;
use super::task::TaskState;
use super::workers::Worker;
use crate::graph::{Op, Resources, TaskId};
use crate::protocol::{Assignment, Source, StoredValue, WorkerIndex};
use crate::scheduler::place::{WorkerView, accepts, queue_ahead};
use serde_bytes::ByteBuf;

/// Workers looked at for one task beyond the least loaded, when it needs more than one core: the least loaded ones
/// may be too small for it.
const MAX_LOOKS: usize = 256;

impl Worker {
    fn view(&self) -> WorkerView<'_> {
        WorkerView {
            cores: self.registration.cores,
            memory: self.registration.memory,
            named: &self.registration.named,
            cores_assigned: self.cores_assigned,
            memory_assigned: self.memory_assigned,
            named_assigned: &self.named_assigned,
        }
    }
}

impl Core {
    pub(super) fn place(&mut self) {
        if self.going_down.is_some() {
            return;
        }
        for class in 0..self.classes.len() {
            while let Some(task) = self.next_ready(class) {
                let Some(worker) = self.choose_worker(task, class) else { break };
                self.classes[class].ready.pop();
                self.assign(task, worker);
            }
        }
    }

    /// The first task of the queue that is still ready; entries that aren't any more are dropped.
    fn next_ready(&mut self, class: usize) -> Option<TaskId> {
        loop {
            let task = self.classes[class].ready.peek()?.0;
            // One that is awaited comes back to the queue when nobody has brought its value.
            if self.state(task) == Some(TaskState::Ready) && !self.is_awaited(task) {
                return Some(task);
            }
            self.classes[class].ready.pop();
        }
    }

    fn choose_worker(&self, task: TaskId, class: usize) -> Option<WorkerIndex> {
        let needs = &self.classes[class].resources;
        let graph = self.graphs.get(&task.graph)?;
        let entry = graph.op_entry(task.index);
        let ahead = queue_ahead(self.families[entry.family as usize].mean_micros);
        let takes = |index: &WorkerIndex| {
            self.workers
                .get(*index)
                .is_some_and(|w| !w.leaving && w.peer().is_some() && accepts(&w.view(), needs, ahead))
        };
        if entry.pure
            && let Some(holder) = self.best_holder(task, takes)
        {
            return Some(holder);
        }
        let looks = if is_plain(needs) { 1 } else { MAX_LOOKS };
        self.workers.by_load.iter().take(looks).map(|(_, index)| *index).find(takes)
    }

    /// Of the workers that take the task, the one with the most bytes of its inputs.
    fn best_holder(&self, task: TaskId, takes: impl Fn(&WorkerIndex) -> bool) -> Option<WorkerIndex> {
        let mut bytes: Vec<(WorkerIndex, u64)> = Vec::new();
        for dependency in self.dependencies(task) {
            if let Some(TaskState::Held { worker }) = self.state(dependency) {
                let nbytes = self.record(dependency).map_or(0, |r| r.nbytes);
                for holder in self.holders(dependency, worker) {
                    match bytes.iter_mut().find(|(w, _)| *w == holder) {
                        Some((_, sum)) => *sum += nbytes,
                        None => bytes.push((holder, nbytes)),
                    }
                }
            }
        }
        bytes.sort_unstable_by_key(|(worker, sum)| (std::cmp::Reverse(*sum), *worker));
        bytes.into_iter().map(|(worker, _)| worker).find(takes)
    }

    fn assign(&mut self, task: TaskId, worker: WorkerIndex) {
        let epoch = self.config.epoch;
        self.update(task, |record| {
            // A worker's word may have set it: no number of its choice may end this process.
            record.attempt = record.attempt.wrapping_add(1);
            record.epoch = epoch;
        });
        self.set_state(task, TaskState::Assigned { worker });
        let consumes = self.consumes_values(task);
        let inputs = if consumes { self.inputs(task, worker) } else { Vec::new() };
        let (Some(graph), Some(execution)) = (self.graphs.get(&task.graph), self.execution(task)) else {
            return;
        };
        let op = graph.tasks[task.index as usize].op;
        if let Some(known) = self.workers.get_mut(worker).map(|w| &mut w.knows_ops)
            && known.insert((task.graph, op))
        {
            self.outbox.op(worker, task.graph, op, graph.ops[op as usize].op.clone());
        }
        let assignment = Assignment {
            execution,
            op,
            args: graph.args(task.index).to_vec(),
            name: graph.names.get(&task.index).cloned(),
            inputs,
            priority: u64::from(task.graph.0) << 32 | u64::from(task.index),
        };
        self.outbox.compute(worker, assignment, !consumes);
    }

    fn inputs(&mut self, task: TaskId, worker: WorkerIndex) -> Vec<(TaskId, Source)> {
        let mut inputs = Vec::new();
        for dependency in self.dependencies(task) {
            let source = match self.state(dependency) {
                Some(TaskState::Held { worker: first }) => {
                    let holders = self.holders(dependency, first);
                    for holder in &holders {
                        self.introduce_peer(worker, *holder);
                    }
                    Source::Peers(holders)
                }
                _ => Source::Inline(Box::new(self.stored_value(dependency).unwrap_or_default())),
            };
            inputs.push((dependency, source));
        }
        inputs
    }

    fn introduce_peer(&mut self, worker: WorkerIndex, other: WorkerIndex) {
        let Some(addresses) = self.workers.get(other).map(|w| w.registration.addresses.clone()) else {
            return;
        };
        if worker != other
            && let Some(known) = self.workers.get_mut(worker).map(|w| &mut w.knows_peers)
            && known.insert(other)
        {
            self.outbox.peer(worker, other, addresses);
        }
    }

    /// The value of a task that the scheduler has itself: a literal, or a command's result.
    pub(super) fn stored_value(&self, task: TaskId) -> Option<StoredValue> {
        let graph = self.graphs.get(&task.graph)?;
        if let Some(result) = graph.results.get(&task.index) {
            return Some(StoredValue::clone(result));
        }
        let is_data = matches!(graph.op_entry(task.index).op, Op::Data);
        is_data
            .then(|| StoredValue { header: Vec::new(), buffers: vec![ByteBuf::from(graph.args(task.index))] })
    }
}

/// Whether any worker that has a free core can take it.
fn is_plain(needs: &Resources) -> bool {
    needs.cores <= 1 && needs.memory == 0 && needs.named.is_empty()
}
