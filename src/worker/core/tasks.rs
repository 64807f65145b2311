//! An assigned task's way through a worker: its inputs come, it starts when there is room, it ends, it is reported.

use super::{Action, Assignment, Core, Execution, Input, Outcome};
use crate::graph::{Op, Resources, TaskId};
use crate::protocol::{ErrorKind, Holding, Source, TaskError};
use std::sync::Arc;

pub(super) struct Task {
    pub op: Arc<Op>,
    pub needs: Resources,
    pub args: Vec<u8>,
    pub name: Option<String>,
    pub inputs: Vec<(TaskId, Source)>,
    pub priority: u64,
    pub missing: usize,
    pub running: bool,
    /// Its end interests nobody any more.
    pub cancelled: bool,
}

impl Core {
    pub(super) fn on_assignment(&mut self, assignment: Assignment, out: &mut Vec<Action>) {
        let Assignment { execution, op, args, name, inputs, priority } = assignment;
        if self.tasks.contains_key(&execution) || self.unacknowledged.contains_key(&execution) {
            return;
        }
        let Some(op) = self.ops.get(&(execution.task.graph, op)).cloned() else {
            let message = format!("operation {op} of {} was never sent", execution.task.graph);
            let error = TaskError { kind: ErrorKind::Task, message };
            return self.complete(execution, 0, Outcome::Erred { error, result: None });
        };
        if self.leaving.is_some() {
            return self.complete(execution, 0, Outcome::Cancelled);
        }
        let needs = op.resources();
        let mut task =
            Task { op, needs, args, name, inputs, priority, missing: 0, running: false, cancelled: false };
        let mut wanted: Vec<TaskId> = Vec::new();
        for (input, source) in &task.inputs {
            if matches!(source, Source::Peers(_)) && !self.held.contains_key(input) && !wanted.contains(input)
            {
                wanted.push(*input);
            }
        }
        task.missing = wanted.len();
        let ready = wanted.is_empty();
        let sources: Vec<(TaskId, Vec<Vec<String>>)> =
            wanted.into_iter().map(|input| (input, self.sources(&task, input))).collect();
        self.tasks.insert(execution, task);
        if ready {
            self.runnable.insert((priority, execution));
        }
        for (input, from) in sources {
            self.fetch(execution, input, from, out);
        }
    }

    /// Addresses of those who hold the input, but for this worker.
    fn sources(&self, task: &Task, input: TaskId) -> Vec<Vec<String>> {
        let source = task.inputs.iter().find(|(id, _)| *id == input).map(|(_, source)| source);
        let Some(Source::Peers(peers)) = source else { return Vec::new() };
        peers
            .iter()
            .filter(|peer| Some(**peer) != self.index)
            .filter_map(|peer| self.peers.get(peer).cloned())
            .collect()
    }

    fn fetch(&mut self, execution: Execution, input: TaskId, from: Vec<Vec<String>>, out: &mut Vec<Action>) {
        let waiting = self.fetching.entry(input).or_default();
        let first = waiting.is_empty();
        waiting.insert(execution);
        if from.is_empty() {
            self.on_fetch_failed(input, out);
        } else if first {
            out.push(Action::Fetch { task: input, from });
        }
    }

    /// The store has the value: that it was to be freed before is void.
    fn hold(&mut self, task: TaskId, nbytes: u64, out: &mut Vec<Action>) {
        self.held.insert(task, nbytes);
        self.lost.remove(&task);
        out.retain(|action| *action != Action::Free(task));
    }

    pub(super) fn on_fetched(&mut self, input: TaskId, nbytes: u64, out: &mut Vec<Action>) {
        self.hold(input, nbytes, out);
        self.replicas.push(Holding { task: input, nbytes });
        for execution in self.fetching.remove(&input).unwrap_or_default() {
            if let Some(task) = self.tasks.get_mut(&execution) {
                task.missing = task.missing.saturating_sub(1);
                if task.missing == 0 && !task.running {
                    self.runnable.insert((task.priority, execution));
                }
            }
        }
    }

    /// Nobody gave the value: the tasks that wait for it go back to the scheduler.
    pub(super) fn on_fetch_failed(&mut self, input: TaskId, _out: &mut Vec<Action>) {
        for execution in self.fetching.remove(&input).unwrap_or_default() {
            if self.tasks.contains_key(&execution) {
                self.drop_task(execution);
                self.complete(execution, 0, Outcome::InputsMissing(vec![input]));
            }
        }
    }

    pub(super) fn start_runnable(&mut self, out: &mut Vec<Action>) {
        let mut started = Vec::new();
        for (priority, execution) in &self.runnable {
            let Some(task) = self.tasks.get_mut(execution) else { continue };
            if let Some((lost, _)) = task
                .inputs
                .iter()
                .find(|(id, s)| matches!(s, Source::Peers(_)) && !self.held.contains_key(id))
            {
                // Freed or lost between its arrival and now.
                started.push((*priority, *execution, Some(*lost)));
                continue;
            }
            if !self.free.take(&task.needs) {
                // Later ones that need less must not starve it.
                break;
            }
            task.running = true;
            let inputs = std::mem::take(&mut task.inputs).into_iter().map(|(id, source)| match source {
                Source::Peers(_) => Input::Held(id),
                Source::Inline(value) => Input::Inline(value),
            });
            out.push(Action::Run {
                execution: *execution,
                op: task.op.clone(),
                args: std::mem::take(&mut task.args),
                name: task.name.take(),
                inputs: inputs.collect(),
            });
            started.push((*priority, *execution, None));
        }
        for (priority, execution, lost) in started {
            self.runnable.remove(&(priority, execution));
            if let Some(input) = lost {
                self.drop_task(execution);
                self.complete(execution, 0, Outcome::InputsMissing(vec![input]));
            }
        }
    }

    pub(super) fn on_ended(
        &mut self,
        execution: Execution,
        nanos: u64,
        outcome: Outcome,
        out: &mut Vec<Action>,
    ) {
        let Some(task) = self.tasks.remove(&execution) else {
            return;
        };
        self.free.give_back(&task.needs);
        if task.cancelled {
            return self.drop_outcome(execution, outcome, out);
        }
        if let Outcome::Held { nbytes } = outcome {
            self.hold(execution.task, nbytes, out);
        }
        self.complete(execution, nanos, outcome);
    }

    fn drop_outcome(&mut self, execution: Execution, outcome: Outcome, out: &mut Vec<Action>) {
        match outcome {
            // Unless an older attempt's value is held under the same name, this one goes.
            Outcome::Held { .. } if !self.held.contains_key(&execution.task) => {
                out.push(Action::Free(execution.task))
            }
            Outcome::Command { outputs, .. } if !outputs.is_empty() => out.push(Action::Discard(outputs)),
            _ => {}
        }
    }

    pub(super) fn cancel(&mut self, execution: Execution, out: &mut Vec<Action>) {
        self.unacknowledged.remove(&execution);
        match self.tasks.get_mut(&execution) {
            Some(task) if task.running && !task.cancelled => {
                task.cancelled = true;
                out.push(Action::Kill(execution));
            }
            Some(task) if !task.running => self.drop_task(execution),
            _ => {}
        }
    }

    pub(super) fn kill_everything(&mut self, out: &mut Vec<Action>) {
        let all: Vec<Execution> = self.tasks.keys().copied().collect();
        for execution in all {
            self.cancel(execution, out);
        }
    }

    /// Forgets a task that hasn't started.
    pub(super) fn drop_task(&mut self, execution: Execution) {
        if let Some(task) = self.tasks.remove(&execution) {
            self.runnable.remove(&(task.priority, execution));
            for waiting in self.fetching.values_mut() {
                waiting.remove(&execution);
            }
        }
    }

    pub(super) fn free_value(&mut self, task: TaskId, out: &mut Vec<Action>) {
        if self.held.remove(&task).is_some() {
            out.push(Action::Free(task));
        }
    }
}
