//! Tasks that failed, or were cancelled, and that somebody wants tried again.

use super::Core;
use super::ingest::{Answered, refuse};
use super::task::TaskState;
use crate::graph::{Key, TaskId};
use crate::protocol::{ErrorKind, RefusalKind, Reply, RequestId};
use crate::scheduler::event::Action;
use crate::scheduler::record::Record;
use std::collections::BTreeSet;

impl Core {
    pub(super) fn on_retry(&mut self, request: RequestId, keys: &[Key], out: &mut Vec<Action>) -> Reply {
        if let Some(Answered::Retried { tasks }) = self.requests.get(&request) {
            return Reply::Retried { tasks: *tasks };
        }
        if self.going_down.is_some() {
            return refuse(RefusalKind::Unavailable, "the cluster is going down");
        }
        let (graphs, named) = match self.resolve(keys) {
            Ok(resolved) => resolved,
            Err(refusal) => return refusal,
        };
        let of_graphs = graphs.iter().filter_map(|id| self.graphs.get(id));
        let of_graphs = of_graphs.flat_map(|g| (0..g.tasks.len() as u32).map(|index| g.task_id(index)));
        let named = of_graphs.chain(named).filter(|task| self.has_failed(*task)).collect();
        let tasks = self.with_causes_and_consequences(named);
        if let Some(graph) =
            tasks.iter().find_map(|task| self.graphs.get(&task.graph).filter(|g| g.is_undone()))
        {
            let reason = format!(
                "{} ({}) can't go on: what it had written was removed when it failed; compute it again",
                graph.id, graph.options.label
            );
            return refuse(RefusalKind::Usage, reason);
        }
        let tasks: Vec<TaskId> = tasks.into_iter().collect();
        self.persist(Record::Retried { request, tasks: tasks.clone() }, out);
        Reply::Retried { tasks: self.take_retry(request, &tasks) }
    }

    /// Also the way in of replay.
    pub(super) fn take_retry(&mut self, request: RequestId, tasks: &[TaskId]) -> u64 {
        let failed: Vec<TaskId> = tasks.iter().copied().filter(|task| self.has_failed(*task)).collect();
        failed.iter().for_each(|task| self.leave_history(task.graph));
        // All are open before any sets out: some wait for others of them.
        failed.iter().for_each(|task| self.reopen(*task));
        for task in &failed {
            // One before it may have failed at once, and taken it along.
            if self.state(*task).is_some_and(|state| !state.is_settled()) {
                self.set_out(*task);
            }
        }
        let retried = failed.len() as u64;
        self.note_answer(request, Answered::Retried { tasks: retried });
        retried
    }

    fn has_failed(&self, task: TaskId) -> bool {
        matches!(self.state(task), Some(TaskState::Erred | TaskState::Cancelled))
    }

    /// With what they can't run without, and with what failed because of them alone.
    fn with_causes_and_consequences(&self, mut chosen: BTreeSet<TaskId>) -> BTreeSet<TaskId> {
        let mut stack: Vec<TaskId> = chosen.iter().copied().collect();
        while let Some(task) = stack.pop() {
            for dependency in self.dependencies(task) {
                if self.has_failed(dependency) && chosen.insert(dependency) {
                    stack.push(dependency);
                }
            }
        }
        let mut stack: Vec<TaskId> = chosen.iter().copied().collect();
        while let Some(task) = stack.pop() {
            for dependent in self.dependents(task) {
                let is_consequence =
                    self.error(dependent).is_some_and(|error| error.kind == ErrorKind::Dependency);
                let others =
                    |dependency: &TaskId| self.has_failed(*dependency) && !chosen.contains(dependency);
                if is_consequence
                    && !self.dependencies(dependent).iter().any(others)
                    && chosen.insert(dependent)
                {
                    stack.push(dependent);
                }
            }
        }
        chosen
    }

    /// As if it had never been tried, but that its attempts are counted on: what is late of an older one is stale.
    fn reopen(&mut self, task: TaskId) {
        let Some(graph) = self.graphs.get_mut(&task.graph) else { return };
        let error = graph.errors.remove(&task.index);
        if error.is_some_and(|error| error.kind != ErrorKind::Dependency) {
            graph.failures = graph.failures.saturating_sub(1);
        }
        graph.results.remove(&task.index);
        self.update(task, |record| {
            (record.micros, record.retries_used) = (0, 0);
            (record.workers_lost, record.fetch_failures) = (0, 0);
        });
        self.set_state(task, TaskState::Waiting { missing: 0 });
        if self.consumes_values(task) {
            for dependency in self.dependencies(task) {
                self.update(dependency, |record| record.needed_by += 1);
            }
        }
    }
}
