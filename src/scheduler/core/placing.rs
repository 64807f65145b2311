//! Gives ready tasks to workers, by the policy in `scheduler::place`.

use super::Core;
use super::roster::Worker;
use super::spread::{RunEnd, is_plain};
use super::task::TaskState;
use crate::graph::{Op, TaskId};
use crate::protocol::{Source, StoredValue, WorkerIndex};
use crate::scheduler::place::{WorkerView, accepts, could_ever_run, queue_ahead};
use serde_bytes::ByteBuf;
use std::time::Duration;

/// Workers looked at for one task beyond the least loaded, when it needs more than one core: the least loaded ones
/// may be too small for it.
const MAX_LOOKS: usize = 256;
/// Tasks of a queue that may be passed over because workers with room can't reach their inputs.
const MAX_PASSED_OVER: usize = 64;

/// Between two times that a task's inputs are made again because nobody can reach all of them: they may come to lie as
/// badly as before, and what has broken routes may pass.
pub(super) const ROUTE_PATIENCE: Duration = Duration::from_secs(10);

impl Worker {
    pub(super) fn view(&self) -> WorkerView<'_> {
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
        // What is made again is ready at once.
        while self.place_ready() {}
    }

    /// Places what can be placed now; whether anything is to be made again for it.
    fn place_ready(&mut self) -> bool {
        let mut made_again = false;
        for class in 0..self.classes.len() {
            let mut passed_over = Vec::new();
            while let Some(task) = self.next_ready(class) {
                match self.place_run(task.graph, class) {
                    RunEnd::Done => continue,
                    RunEnd::Full => break,
                    RunEnd::Special => {}
                }
                let Some(task) = self.next_ready(class) else { break };
                self.workers.sort_by_load();
                match self.choose_worker(task, class) {
                    Some(worker) => {
                        self.classes[class].ready.pop();
                        self.assign(task, worker);
                    }
                    None if self.wants_a_route(task) && passed_over.len() < MAX_PASSED_OVER => {
                        self.classes[class].ready.pop();
                        passed_over.push(task);
                    }
                    None => break,
                }
            }
            for task in passed_over {
                made_again |= !self.waits_for_a_route(task, class);
            }
        }
        made_again
    }

    /// The first task of the queue that is still ready; entries that aren't any more are dropped.
    fn next_ready(&mut self, class: usize) -> Option<TaskId> {
        loop {
            let task = self.classes[class].ready.peek()?;
            // One whose value is awaited, or its end, comes back to the queue when nobody has brought that.
            let is_ready = self.state(task) == Some(TaskState::Ready) && !self.is_awaited(task);
            if is_ready && !self.hold_back(task) {
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
            self.workers.get(*index).is_some_and(|w| w.is_open() && accepts(&w.view(), needs, ahead))
                && self.reaches_inputs(*index, task)
        };
        if entry.pure
            && let Some(holder) = self.best_holder(task, takes)
        {
            return Some(holder);
        }
        let looks = if is_plain(needs) && self.workers.all_routes_work() { 1 } else { MAX_LOOKS };
        self.workers.by_load().take(looks).find(takes)
    }

    /// Whether the worker can get every input of the task from somebody, as far as is known.
    fn reaches_inputs(&self, worker: WorkerIndex, task: TaskId) -> bool {
        if self.workers.all_routes_work() || !self.consumes_values(task) {
            return true;
        }
        let can_fetch = |holder: WorkerIndex| holder == worker || self.workers.can_fetch(worker, holder);
        self.dependencies(task).into_iter().all(|input| match self.state(input) {
            Some(TaskState::Held { worker: first }) => self.holders(input, first).into_iter().any(can_fetch),
            _ => true,
        })
    }

    /// Whether there are workers that can't reach this ready task's inputs: others behind it needn't wait for it.
    fn wants_a_route(&self, task: TaskId) -> bool {
        let all_reach = || self.workers.by_load().all(|worker| self.reaches_inputs(worker, task));
        !self.workers.all_routes_work() && !all_reach()
    }

    /// A task that workers with room can't take for its inputs waits for one that can reach them. Where there is none,
    /// those that not everybody can reach are made again.
    fn waits_for_a_route(&mut self, task: TaskId, class: usize) -> bool {
        if self.state(task) != Some(TaskState::Ready) {
            return true;
        }
        let needs = &self.classes[class].resources;
        let could = |worker: &WorkerIndex| {
            self.workers.get(*worker).is_some_and(|w| could_ever_run(&w.view(), needs))
        };
        let takers: Vec<WorkerIndex> = self.workers.by_load().filter(could).collect();
        if takers.is_empty() || takers.iter().any(|worker| self.reaches_inputs(*worker, task)) {
            self.classes[class].ready.push(task);
            return true;
        }
        if self.lost_routes.get(&task).is_some_and(|at| self.now.since(*at) < ROUTE_PATIENCE) {
            self.classes[class].ready.push(task);
            return true;
        }
        self.lost_routes.insert(task, self.now);
        for input in self.dependencies(task) {
            self.make_again(input, |workers, holder| {
                takers.iter().any(|worker| *worker != holder && !workers.can_fetch(*worker, holder))
            });
        }
        self.count_failed_fetch(task);
        false
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
        if self.workers.get_mut(worker).is_some_and(|w| w.learns_op(task.graph, op)) {
            self.outbox.op(worker, task.graph, op, graph.ops[op as usize].op.clone());
        }
        self.outbox.compute(worker, graph.assignment(execution, inputs), !consumes);
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
                    Source::Peers(holders.into())
                }
                _ => Source::Inline(Box::new(self.stored_value(dependency).unwrap_or_default())),
            };
            inputs.push((dependency, source));
        }
        inputs
    }

    pub(super) fn introduce_peer(&mut self, worker: WorkerIndex, other: WorkerIndex) {
        self.outbox.introduce(&mut self.workers, worker, other);
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
