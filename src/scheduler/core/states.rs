//! Every transition of a task. `set_state` writes a state, and keeps counters and the workers' tables true. For whole
//! runs of tasks `entry`, `spread` and `held` do the same at once: `check` proves that it comes to the same.

use super::Core;
use super::graphs::counter;
use super::task::{TaskRecord, TaskState};
use crate::graph::{GraphId, TaskId};
use crate::protocol::{ErrorKind, Execution, StoredValue, TaskError, WorkerIndex};
use crate::scheduler::record::Fate;
use std::sync::Arc;

impl Core {
    pub(super) fn record(&self, task: TaskId) -> Option<&TaskRecord> {
        self.graphs.get(&task.graph)?.tasks.get(task.index as usize)
    }

    pub(super) fn state(&self, task: TaskId) -> Option<TaskState> {
        self.record(task).map(|record| record.state)
    }

    pub(super) fn execution(&self, task: TaskId) -> Option<Execution> {
        self.record(task).map(|r| Execution { task, epoch: r.epoch, attempt: r.attempt })
    }

    pub(super) fn update(&mut self, task: TaskId, change: impl FnOnce(&mut TaskRecord)) {
        let graph = self.graphs.get_mut(&task.graph);
        if let Some(record) = graph.and_then(|g| g.tasks.get_mut(task.index as usize)) {
            change(record);
        }
    }

    pub(super) fn set_state(&mut self, task: TaskId, new: TaskState) {
        let Some(old) = self.state(task) else { return };
        self.leave(task, old);
        self.update(task, |record| record.state = new);
        self.count(task, Some(old), new);
        self.enter(task, new);
        self.note_holders(task);
        if new.is_settled() && !old.is_settled() {
            self.on_settled(task);
        }
    }

    fn count(&mut self, task: TaskId, old: Option<TaskState>, new: TaskState) {
        let Some(graph) = self.graphs.get_mut(&task.graph) else { return };
        let family = graph.op_entry(task.index).family as usize;
        for counts in [&mut graph.counts, &mut self.families[family].counts] {
            if let Some(old) = old {
                *counter(counts, old) -= 1;
            }
            *counter(counts, new) += 1;
        }
    }

    fn leave(&mut self, task: TaskId, old: TaskState) {
        if self.replaying {
            return;
        }
        match old {
            TaskState::Assigned { worker } => {
                let class = self.graphs[&task.graph].op_entry(task.index).class as usize;
                self.workers.unassign(worker, task, &self.classes[class].resources);
            }
            TaskState::Held { worker } => {
                self.workers.drop_holding(worker, task);
                let graph = self.graphs.get_mut(&task.graph);
                for other in graph.and_then(|g| g.replicas.remove(&task.index)).unwrap_or_default() {
                    self.workers.drop_holding(other, task);
                }
            }
            _ => {}
        }
    }

    /// While records are folded, only the last state of each task counts: `index_states` enters those.
    fn enter(&mut self, task: TaskId, new: TaskState) {
        if self.replaying {
            return;
        }
        match new {
            TaskState::Ready => {
                let class = self.graphs[&task.graph].op_entry(task.index).class as usize;
                self.classes[class].ready.push(task);
            }
            TaskState::Assigned { worker } => {
                let class = self.graphs[&task.graph].op_entry(task.index).class as usize;
                self.workers.give(worker, task, &self.classes[class].resources);
            }
            TaskState::Accepted { worker: None } => self.unplaced_outputs.push(task),
            TaskState::Held { worker } => self.workers.add_holding(worker, task),
            _ => {}
        }
    }

    /// Enters all tasks in the tables that go with their states.
    pub(super) fn index_states(&mut self) {
        let mut ready: Vec<Vec<TaskId>> = self.classes.iter().map(|_| Vec::new()).collect();
        let mut others = Vec::new();
        for graph in self.graphs.values() {
            for (index, record) in graph.tasks.iter().enumerate() {
                let task = graph.task_id(index as u32);
                match record.state {
                    TaskState::Ready => {
                        ready[graph.ops[record.op as usize].class as usize].push(task);
                    }
                    TaskState::Assigned { .. } | TaskState::Accepted { .. } | TaskState::Held { .. } => {
                        others.push((task, record.state));
                    }
                    _ => {}
                }
            }
        }
        for (class, mut ready) in self.classes.iter_mut().zip(ready) {
            ready.sort_unstable();
            ready.into_iter().for_each(|task| class.ready.push(task));
        }
        others.sort_unstable_by_key(|(task, _)| *task);
        let mut unknown = Vec::new();
        for (task, state) in others {
            match state {
                // Nothing of a worker that is gone runs any more.
                TaskState::Assigned { worker }
                    if !self.workers.get(worker).is_some_and(|w| w.is_expected()) =>
                {
                    self.update(task, |record| record.state = TaskState::Waiting { missing: 0 });
                    self.count(task, Some(state), TaskState::Waiting { missing: 0 });
                    if self.runs_at_most_once(task) {
                        unknown.push(task);
                    } else {
                        self.run_again(task);
                    }
                }
                _ => self.enter(task, state),
            }
        }
        // That its worker departed is known; what that meant for these was not journalled any more.
        for task in unknown {
            if self.state(task).is_some_and(|state| !state.is_settled()) {
                let message = "its worker was lost, and it isn't known whether it ran".to_owned();
                self.fail_for_good(task, TaskError { kind: ErrorKind::OutcomeUnknown, message });
            }
        }
    }

    /// The task is done, and its value is where `state` says: dependents move on, inputs may go.
    pub(super) fn finish(&mut self, task: TaskId, state: TaskState) {
        self.set_state(task, state);
        for dependent in self.dependents(task) {
            if let Some(TaskState::Waiting { missing }) = self.state(dependent) {
                let next =
                    if missing <= 1 { TaskState::Ready } else { TaskState::Waiting { missing: missing - 1 } };
                self.set_state(dependent, next);
            }
        }
        self.drop_inputs(task);
        self.release_when_durable(task);
    }

    pub(super) fn dependents(&self, task: TaskId) -> Vec<TaskId> {
        self.graphs.get(&task.graph).map(|g| g.dependents(task.index).collect()).unwrap_or_default()
    }

    pub(super) fn dependencies(&self, task: TaskId) -> Vec<TaskId> {
        self.graphs.get(&task.graph).map(|g| g.dependencies(task.index).collect()).unwrap_or_default()
    }

    /// The task needs its dependencies' values no more.
    pub(super) fn drop_inputs(&mut self, task: TaskId) {
        if !self.consumes_values(task) {
            return;
        }
        for dependency in self.dependencies(task) {
            self.drop_input(dependency);
        }
    }

    pub(super) fn drop_input(&mut self, input: TaskId) {
        self.update(input, |record| record.needed_by = record.needed_by.saturating_sub(1));
        self.release_when_durable(input);
    }

    /// Releases a held value that nobody needs, once what is known now is durable.
    pub(super) fn release_when_durable(&mut self, task: TaskId) {
        if !self.record(task).is_some_and(TaskRecord::is_superfluous) {
            return;
        }
        match self.everything_so_far() {
            Some(last) if last > self.durable => {
                self.releasable.push_back((last, task));
                self.update(task, |record| record.releases_due = record.releases_due.saturating_add(1));
            }
            _ => self.release(task),
        }
    }

    /// Frees the value on all its holders, if still nobody needs it.
    pub(super) fn release(&mut self, task: TaskId) {
        let Some(record) = self.record(task) else { return };
        let TaskState::Held { worker } = record.state else { return };
        if record.needed_by > 0 || record.wanted {
            return;
        }
        for holder in self.holders(task, worker) {
            self.outbox.free(holder, task);
        }
        self.set_state(task, TaskState::Released);
    }

    pub(super) fn holders(&self, task: TaskId, first: WorkerIndex) -> Vec<WorkerIndex> {
        let replicas = self.graphs.get(&task.graph).and_then(|g| g.replicas.get(&task.index));
        std::iter::once(first).chain(replicas.into_iter().flatten().copied()).collect()
    }

    /// The task failed for good, and whatever depends on it with it.
    pub(super) fn fail(&mut self, task: TaskId, error: TaskError) {
        let name = self.display_name(task);
        let consequence = TaskError {
            kind: ErrorKind::Dependency,
            message: format!("{name}, which it depends on, failed: {}", first_line(&error.message)),
        };
        if error.kind != ErrorKind::Dependency
            && let Some(graph) = self.graphs.get_mut(&task.graph)
        {
            graph.failures += 1;
        }
        self.give_up(task, TaskState::Erred, Some(error));
        self.give_up_dependents(task, &consequence);
        self.enforce_max_failures(task.graph);
    }

    /// Cancels one unsettled task, and fails what depends on it.
    pub(super) fn cancel(&mut self, task: TaskId) -> bool {
        let open = self.is_open(task);
        if open {
            self.give_up(task, TaskState::Cancelled, None);
            self.give_up_dependents_of_cancelled(task);
        }
        open
    }

    /// Whether it can still be given up: accepted outputs are on their way to their place for good.
    fn is_open(&self, task: TaskId) -> bool {
        let open = |state: TaskState| !state.is_settled() && !matches!(state, TaskState::Accepted { .. });
        self.state(task).is_some_and(open)
    }

    /// Cancels those of the tasks that are unsettled, all before anything follows from it: one that depends on another
    /// was cancelled too, and hasn't failed. Returns how many.
    pub(super) fn cancel_all(&mut self, tasks: &[TaskId]) -> u64 {
        let mut cancelled = 0;
        for task in tasks {
            if self.is_open(*task) {
                self.give_up(*task, TaskState::Cancelled, None);
                cancelled += 1;
            }
        }
        for task in tasks {
            if self.state(*task) == Some(TaskState::Cancelled) {
                self.give_up_dependents_of_cancelled(*task);
            }
        }
        cancelled
    }

    fn give_up_dependents_of_cancelled(&mut self, task: TaskId) {
        let Some(graph) = self.graphs.get(&task.graph) else { return };
        if !graph.dependents(task.index).any(|dependent| self.is_open(dependent)) {
            return;
        }
        let message = format!("{}, which it depends on, was cancelled", self.display_name(task));
        self.give_up_dependents(task, &TaskError { kind: ErrorKind::Dependency, message });
    }

    fn give_up_dependents(&mut self, task: TaskId, error: &TaskError) {
        let mut stack = self.dependents(task);
        while let Some(next) = stack.pop() {
            if self.is_open(next) {
                stack.extend(self.dependents(next));
                // By the records it has succeeded: that it was unfinished again, and has failed, is news to them.
                if self.was_finished(next)
                    && let Some(execution) = self.execution(next)
                {
                    self.note_fate(execution, Fate::Erred { error: error.clone(), result: None });
                }
                self.give_up(next, TaskState::Erred, Some(error.clone()));
            }
        }
    }

    fn give_up(&mut self, task: TaskId, state: TaskState, error: Option<TaskError>) {
        if let Some(TaskState::Assigned { worker }) = self.state(task)
            && let Some(execution) = self.execution(task)
        {
            self.outbox.cancel(worker, execution);
        }
        if let Some(error) = error
            && let Some(graph) = self.graphs.get_mut(&task.graph)
        {
            graph.errors.insert(task.index, error);
        }
        self.set_state(task, state);
        self.drop_inputs(task);
    }

    pub(super) fn enforce_max_failures(&mut self, graph: GraphId) {
        let Some(state) = self.graphs.get(&graph) else { return };
        if state.options.max_failures.is_none_or(|max| state.failures <= max) {
            return;
        }
        let tasks = (0..state.tasks.len() as u32).map(|index| TaskId { graph, index });
        let open: Vec<TaskId> = tasks.filter(|task| self.is_open(*task)).collect();
        // All at once: which of them waited for which doesn't matter, since a restart may see that otherwise.
        for task in &open {
            self.give_up(*task, TaskState::Cancelled, None);
            // By the records it has succeeded: that it was unfinished again is news to them.
            if self.was_finished(*task)
                && let Some(execution) = self.execution(*task)
            {
                self.note_fate(execution, Fate::Cancelled);
            }
        }
        open.into_iter().for_each(|task| self.give_up_dependents_of_cancelled(task));
    }

    /// A failed try: once more if the task's own budget allows, else it has failed.
    pub(super) fn retry_or_fail(&mut self, task: TaskId, error: TaskError, result: Option<Box<StoredValue>>) {
        let Some(execution) = self.execution(task) else { return };
        let retries = self.graphs.get(&task.graph).map_or(0, |g| g.op_entry(task.index).op.retries());
        let used = self.record(task).map_or(0, |r| u32::from(r.retries_used));
        if used < retries {
            self.update(task, |record| record.retries_used = record.retries_used.saturating_add(1));
            self.note_fate(execution, Fate::Retried);
            self.run_again(task);
        } else {
            self.note_fate(execution, Fate::Erred { error: error.clone(), result: result.clone() });
            self.keep_result(task, result);
            self.fail(task, error);
        }
    }

    pub(super) fn keep_result(&mut self, task: TaskId, result: Option<Box<StoredValue>>) {
        if let Some(result) = result
            && let Some(graph) = self.graphs.get_mut(&task.graph)
        {
            graph.results.insert(task.index, Arc::from(result));
        }
    }

    /// The task has to run (again): ready if its inputs are there, else those are made again first.
    pub(super) fn run_again(&mut self, task: TaskId) {
        let mut stack = vec![task];
        while let Some(task) = stack.pop() {
            // The failure of another one may have taken it along meanwhile.
            if self.state(task).is_none_or(|state| state.is_settled()) {
                continue;
            }
            let mut missing = 0;
            let mut lost = None;
            for dependency in self.dependencies(task) {
                match self.state(dependency) {
                    Some(state) if self.input_is_there(task, state) => {}
                    Some(TaskState::Released) => {
                        missing += 1;
                        self.bring_back(dependency);
                        stack.push(dependency);
                    }
                    Some(state) if !state.is_settled() => missing += 1,
                    // Forgotten since, and only its end mattered.
                    None if !self.consumes_values(task) => {}
                    _ => lost = Some(dependency),
                }
            }
            match lost {
                Some(dependency) => {
                    let message = format!("its input {dependency} is gone and can't be made again");
                    self.fail_for_good(task, TaskError { kind: ErrorKind::Dependency, message });
                }
                None if missing == 0 => self.set_state(task, TaskState::Ready),
                None => self.set_state(task, TaskState::Waiting { missing }),
            }
        }
    }

    /// A finished task whose value is gone is unfinished again: it needs its inputs, and dependents for which it was
    /// there wait for it.
    pub(super) fn bring_back(&mut self, task: TaskId) {
        let Some(before) = self.state(task) else { return };
        if self.consumes_values(task) {
            for dependency in self.dependencies(task) {
                self.update(dependency, |record| record.needed_by += 1);
            }
        }
        self.set_state(task, TaskState::Waiting { missing: 0 });
        for dependent in self.dependents(task) {
            if !self.input_is_there(dependent, before) {
                continue;
            }
            match self.state(dependent) {
                Some(TaskState::Waiting { missing }) => {
                    self.set_state(dependent, TaskState::Waiting { missing: missing + 1 });
                }
                Some(TaskState::Ready) => self.set_state(dependent, TaskState::Waiting { missing: 1 }),
                _ => {}
            }
        }
    }

    /// Commands only come after what they depend on; everything else takes its values.
    pub(super) fn consumes_values(&self, task: TaskId) -> bool {
        self.graphs.get(&task.graph).is_some_and(|g| g.op_entry(task.index).pure)
    }

    /// Whether a dependency in `state` lets `task` run.
    pub(super) fn input_is_there(&self, task: TaskId, state: TaskState) -> bool {
        if self.consumes_values(task) && !self.replaying { state.has_value() } else { state.is_finished() }
    }

    /// The only value of this finished task is gone. Made again if somebody needs it.
    pub(super) fn lose_value(&mut self, task: TaskId) {
        let Some(record) = self.record(task) else { return };
        if record.needed_by == 0 && !record.wanted {
            self.set_state(task, TaskState::Released);
        } else {
            self.bring_back(task);
            self.run_again(task);
        }
    }

    pub(super) fn display_name(&self, task: TaskId) -> String {
        let name = self.graphs.get(&task.graph).and_then(|g| g.names.get(&task.index));
        name.cloned().unwrap_or_else(|| task.to_string())
    }
}

pub(super) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}
