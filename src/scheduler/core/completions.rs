//! What workers report of executions: each is taken once, from the worker that the task is assigned to.

use super::Core;
use super::held::micros;
use super::roster::Workers;
use super::task::TaskState;
use crate::graph::TaskId;
use crate::protocol::{
    AllocationId, Completion, ErrorKind, Execution, Holding, MissingInput, Outcome, PendingOutput,
    PlaceOutcome, StoredValue, TaskError, WorkerId, WorkerIndex,
};
use crate::scheduler::record::Fate;

/// Times that a task's inputs may be out of reach before it fails.
const MAX_FETCH_FAILURES: u8 = 9;
/// So many failed fetches of one task, by as many workers, and the values that it wants are made again.
const FETCHES_BEFORE_DOUBT: u8 = 3;
/// Times that a task's outputs may vanish before it fails.
const MAX_VANISHED: u8 = 5;

impl Core {
    /// Whether this is the execution that the task is assigned for, on that worker.
    pub(super) fn is_current(&self, execution: Execution, worker: WorkerIndex) -> bool {
        self.state(execution.task) == Some(TaskState::Assigned { worker })
            && self.execution(execution.task) == Some(execution)
    }

    /// Takes over an execution of an older epoch that a worker still runs, if the task isn't running elsewhere, and
    /// nothing is known of the execution: what was journalled of its end must not count twice.
    pub(super) fn adopt(&mut self, execution: Execution, worker: WorkerIndex) -> bool {
        let free = matches!(self.state(execution.task), Some(TaskState::Ready | TaskState::Waiting { .. }));
        let last = self.execution(execution.task).map(|last| (last.epoch, last.attempt));
        let is_news = last < Some((execution.epoch, execution.attempt));
        if !free || !is_news || execution.epoch >= self.config.epoch {
            return false;
        }
        self.update(execution.task, |record| {
            record.epoch = execution.epoch;
            record.attempt = execution.attempt;
        });
        self.set_state(execution.task, TaskState::Assigned { worker });
        true
    }

    pub(super) fn on_completion(&mut self, worker: WorkerIndex, completion: Completion) {
        let Completion { execution, nanos, outcome } = completion;
        let task = execution.task;
        // A kernel of an older epoch may end before its worker could tell that it runs.
        let taken = self.is_current(execution, worker) || self.adopt(execution, worker);
        if !taken {
            return self.on_stale(worker, execution, outcome);
        }
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.finished += 1;
        }
        let micros = micros(nanos);
        match outcome {
            Outcome::Held { nbytes } => {
                self.learn_duration(task, micros);
                self.update(task, |record| record.nbytes = nbytes);
                self.note_fate(execution, Fate::Held { nbytes, nanos });
                self.finish(task, TaskState::Held { worker });
            }
            Outcome::Command { result, outputs } if outputs.is_empty() => {
                self.learn_duration(task, micros);
                self.note_fate(execution, Fate::Stored { result: result.clone(), nanos });
                self.store_result(task, result);
                self.finish(task, TaskState::Stored);
            }
            Outcome::Command { result, outputs } => {
                self.learn_duration(task, micros);
                self.accept_outputs(worker, execution, outputs, result, nanos);
            }
            Outcome::Erred { error, .. } if error.kind == ErrorKind::OutcomeUnknown => {
                self.fail_for_good(task, error);
            }
            Outcome::Erred { error, result } => self.retry_or_fail(task, error, result),
            Outcome::InputsMissing(missing) => self.on_inputs_missing(worker, execution, &missing),
            Outcome::Cancelled => {
                // It takes nothing any more: it is leaving.
                self.workers.set_leaving(worker);
                self.run_again(task);
            }
            Outcome::Stopped => self.run_again(task),
        }
        self.outbox.acknowledge(worker, execution);
    }

    /// A worker that is gone for good has finished these, and no scheduler had taken them.
    pub(super) fn on_left_behind(&mut self, worker: WorkerId, completions: Vec<Completion>) {
        let index = self.former_worker(worker, AllocationId(0));
        for completion in completions {
            self.on_completion(index, completion);
        }
        self.reassign_outputs(index);
    }

    fn store_result(&mut self, task: TaskId, result: Box<StoredValue>) {
        let nbytes = result.buffers.iter().map(|b| b.len() as u64).sum();
        self.update(task, |record| record.nbytes = nbytes);
        self.keep_result(task, Some(result));
    }

    fn accept_outputs(
        &mut self,
        worker: WorkerIndex,
        execution: Execution,
        outputs: Vec<PendingOutput>,
        result: Box<StoredValue>,
        nanos: u64,
    ) {
        let task = execution.task;
        let fate = Fate::Accepted { outputs: outputs.clone(), result: result.clone(), nanos };
        self.note_fate(execution, fate);
        self.store_result(task, result);
        if let Some(graph) = self.graphs.get_mut(&task.graph) {
            graph.accepted.insert(task.index, outputs.clone());
        }
        self.set_state(task, TaskState::Accepted { worker: Some(worker) });
        self.outbox.place_outputs(worker, execution, outputs);
    }

    /// Sends accepted outputs without a worker to one that can bring them to their place.
    pub(super) fn place_outputs(&mut self) {
        for task in std::mem::take(&mut self.unplaced_outputs) {
            if self.state(task) != Some(TaskState::Accepted { worker: None }) {
                continue;
            }
            let outputs = self.graphs.get(&task.graph).and_then(|g| g.accepted.get(&task.index)).cloned();
            let worker = self.workers.by_load().next();
            match (worker, self.execution(task), outputs) {
                (Some(worker), Some(execution), Some(outputs)) => {
                    self.set_state(task, TaskState::Accepted { worker: Some(worker) });
                    self.outbox.place_outputs(worker, execution, outputs);
                }
                _ => self.unplaced_outputs.push(task),
            }
        }
        if !self.unplaced_outputs.is_empty() {
            self.allocations.note_change();
        }
    }

    /// Has a worker remove what graphs that failed were writing.
    pub(super) fn discard_leftovers(&mut self) {
        if self.leftovers.is_empty() {
            return;
        }
        if let Some((index, _)) = self.workers.iter().find(|(_, worker)| worker.peer().is_some()) {
            self.outbox.discard(index, std::mem::take(&mut self.leftovers));
        }
    }

    pub(super) fn on_placed(&mut self, worker: WorkerIndex, execution: Execution, outcome: PlaceOutcome) {
        let task = execution.task;
        let current = self.state(task) == Some(TaskState::Accepted { worker: Some(worker) });
        if !current || self.execution(task) != Some(execution) {
            return;
        }
        self.forget_accepted(task);
        match outcome {
            PlaceOutcome::Done => {
                self.note_fate(execution, Fate::Placed);
                self.finish(task, TaskState::Stored);
            }
            PlaceOutcome::Gone(_) if self.runs_at_most_once(task) => {
                let message = "its output vanished before it was in its place".to_owned();
                self.fail_for_good(task, TaskError { kind: ErrorKind::OutcomeUnknown, message });
            }
            PlaceOutcome::Gone(message) => {
                self.update(task, |record| record.fetch_failures = record.fetch_failures.saturating_add(1));
                if self.record(task).is_some_and(|record| record.fetch_failures > MAX_VANISHED) {
                    // Somebody, or something, removes them.
                    return self.fail_for_good(task, TaskError { kind: ErrorKind::Task, message });
                }
                self.note_fate(execution, Fate::Revoked);
                self.run_again(task);
            }
            PlaceOutcome::Failed(message) => {
                self.retry_or_fail(task, TaskError { kind: ErrorKind::Task, message }, None);
            }
        }
    }

    pub(super) fn runs_at_most_once(&self, task: TaskId) -> bool {
        let op = self.graphs.get(&task.graph).map(|g| &g.op_entry(task.index).op);
        matches!(op, Some(crate::graph::Op::Command(spec)) if spec.at_most_once)
    }

    /// Fails the task beyond any retry.
    pub(super) fn fail_for_good(&mut self, task: TaskId, error: TaskError) {
        if let Some(execution) = self.execution(task) {
            self.note_fate(execution, Fate::Erred { error: error.clone(), result: None });
        }
        self.fail(task, error);
    }

    /// Nobody waits for this execution: what it left behind goes away.
    fn on_stale(&mut self, worker: WorkerIndex, execution: Execution, outcome: Outcome) {
        // A repeat of a completion whose outputs this very worker is bringing to their place.
        let accepted = self.state(execution.task) == Some(TaskState::Accepted { worker: Some(worker) });
        let repeated = accepted && self.execution(execution.task) == Some(execution);
        match outcome {
            Outcome::Command { outputs, .. } if repeated => {
                self.outbox.place_outputs(worker, execution, outputs)
            }
            Outcome::Command { outputs, .. } if self.owns_outputs(execution) => drop(outputs),
            Outcome::Command { outputs, .. } => self.outbox.discard(worker, outputs),
            Outcome::Held { nbytes } => self.on_replica(worker, Holding { task: execution.task, nbytes }),
            _ => {}
        }
        self.outbox.acknowledge(worker, execution);
    }

    /// Whether this execution's outputs were accepted, whoever brings them to their place.
    fn owns_outputs(&self, execution: Execution) -> bool {
        let accepted =
            matches!(self.state(execution.task), Some(TaskState::Accepted { .. } | TaskState::Stored));
        accepted && self.execution(execution.task) == Some(execution)
    }

    /// A worker holds a value that it didn't report as the result of an assigned execution.
    pub(super) fn on_replica(&mut self, worker: WorkerIndex, holding: Holding) {
        let task = holding.task;
        if self.workers.get(worker).is_some_and(|worker| worker.struck.contains(&task)) {
            return;
        }
        match self.state(task) {
            Some(TaskState::Held { worker: first }) if first == worker => {}
            Some(TaskState::Held { .. }) => {
                if let Some(graph) = self.graphs.get_mut(&task.graph) {
                    let replicas = graph.replicas.entry(task.index).or_default();
                    if !replicas.contains(&worker) {
                        replicas.push(worker);
                    }
                }
                self.workers.add_holding(worker, task);
                self.note_holders(task);
            }
            // Its only holder was lost, and comes back before the value is made again.
            Some(TaskState::Ready | TaskState::Waiting { .. }) if self.was_finished(task) => {
                self.update(task, |record| record.nbytes = holding.nbytes);
                self.finish(task, TaskState::Held { worker });
            }
            // So it does, and it is being made again: no more.
            Some(TaskState::Assigned { worker: maker }) if self.was_finished(task) => {
                if let Some(execution) = self.execution(task) {
                    self.outbox.cancel(maker, execution);
                }
                self.update(task, |record| record.nbytes = holding.nbytes);
                self.finish(task, TaskState::Held { worker });
            }
            // The completion that made it superfluous may not be durable yet: it goes in the ordinary way.
            Some(TaskState::Released) => {
                self.set_state(task, TaskState::Held { worker });
                // After a restart, what is awaited may have this among its inputs.
                self.offer_value(task);
                self.release_when_durable(task);
            }
            _ => self.outbox.free(worker, task),
        }
    }

    /// Whether some execution of it ended well once (its value was lost since).
    pub(super) fn was_finished(&self, task: TaskId) -> bool {
        self.record(task).is_some_and(|record| record.has_ended_well() && self.consumes_values(task))
    }

    /// Inputs that this worker could get from nobody. A holder that hasn't the value is struck off. One that couldn't
    /// be reached, though it is connected here, may be as sound as the worker that says so: the pair is blamed, and
    /// the task goes to another worker. Only what several workers failed to get is made again.
    fn on_inputs_missing(&mut self, worker: WorkerIndex, execution: Execution, missing: &[MissingInput]) {
        let task = execution.task;
        // Workers have other indexes in every epoch.
        let ours = execution.epoch == self.config.epoch;
        let dependencies = self.dependencies(task);
        for input in missing.iter().filter(|input| ours && dependencies.contains(&input.task)) {
            for holder in &input.denied {
                self.strike(input.task, *holder);
            }
            for holder in &input.unreachable {
                self.workers.blame_route(worker, *holder);
            }
        }
        let failures = self.record(task).map_or(0, |record| record.fetch_failures) + 1;
        if failures.is_multiple_of(FETCHES_BEFORE_DOUBT) {
            for input in missing.iter().filter(|input| dependencies.contains(&input.task)) {
                self.make_again(input.task, |_, _| true);
            }
        }
        self.count_failed_fetch(task);
    }

    /// The task tries again, with other workers or other copies of its inputs, unless it did so too often.
    pub(super) fn count_failed_fetch(&mut self, task: TaskId) {
        self.update(task, |record| record.fetch_failures = record.fetch_failures.saturating_add(1));
        if self.record(task).is_none_or(|record| record.fetch_failures <= MAX_FETCH_FAILURES) {
            return self.run_again(task);
        }
        let message = format!(
            "its inputs could not be fetched {MAX_FETCH_FAILURES} times: can the workers' hosts reach each other?"
        );
        self.fail_for_good(task, TaskError { kind: ErrorKind::Task, message });
    }

    /// Strikes a value off at the holders of which this is true: without any left, it is made again.
    pub(super) fn make_again(&mut self, input: TaskId, which: impl Fn(&Workers, WorkerIndex) -> bool) {
        let Some(TaskState::Held { worker: first }) = self.state(input) else { return };
        for holder in self.holders(input, first) {
            if !which(&self.workers, holder) {
                continue;
            }
            self.strike(input, holder);
        }
    }

    /// Others couldn't get the value from this worker: it counts as lost there, and the worker lets go of it. Until it
    /// says so, whatever it reports of it is older than that.
    fn strike(&mut self, task: TaskId, holder: WorkerIndex) {
        self.outbox.strike(holder, task);
        if let Some(holder) = self.workers.get_mut(holder) {
            holder.struck.insert(task);
        }
        self.strike_off(task, holder);
    }

    /// It ended well after so long.
    fn learn_duration(&mut self, task: TaskId, micros: u32) {
        let Some(family) = self.graphs.get(&task.graph).map(|g| g.op_entry(task.index).family) else {
            return;
        };
        self.update(task, |record| record.micros = micros);
        self.families[family as usize].learn(micros);
    }
}
