//! What clients are shown.

use super::roster::Presence;
use super::{Core, task::TaskState};
use crate::graph::{GraphId, Key, TaskId};
use crate::protocol::{
    Counts, MAX_LISTED, RefusalKind, Reply, SchedulerReport, StatusReport, TaskReport, TaskStateName,
    WorkerReport, WorkerStateName,
};

/// Families that `status` names.
const MAX_FAMILIES: usize = 50;

impl Core {
    pub(super) fn results(&self, keys: &[Key]) -> Reply {
        let mut reports = Vec::new();
        for key in keys {
            let tasks: Option<Vec<TaskId>> = match key {
                // An empty graph is known, too.
                Key::Graph(graph) => self
                    .graphs
                    .get(graph)
                    .map(|g| (0..(g.tasks.len() as u32).min(MAX_LISTED)).map(|i| g.task_id(i)).collect()),
                Key::Task(task) => self.state(*task).map(|_| vec![*task]),
                Key::Named(name) => self.names.get(name).map(|task| vec![*task]),
            };
            let Some(tasks) = tasks else {
                let reason = format!("there is no task or graph '{key}'");
                return Reply::Refused { kind: RefusalKind::Unknown, reason };
            };
            reports.extend(tasks.into_iter().filter_map(|task| self.task_report(task, true)));
            if reports.len() > MAX_LISTED as usize {
                let reason = format!("more than {MAX_LISTED} results asked for at once");
                return Reply::Refused { kind: RefusalKind::Usage, reason };
            }
        }
        Reply::Results(reports)
    }

    pub(super) fn list_tasks(
        &self,
        state: Option<TaskStateName>,
        graph: Option<GraphId>,
        limit: u32,
    ) -> Reply {
        if let Some(id) = graph.filter(|id| !self.graphs.contains_key(id)) {
            return Reply::Refused {
                kind: RefusalKind::Unknown,
                reason: format!("there is no graph '{id}'"),
            };
        }
        let limit = limit.min(MAX_LISTED) as usize;
        let mut graphs: Vec<_> = self.graphs.values().filter(|g| graph.is_none_or(|id| g.id == id)).collect();
        graphs.sort_unstable_by_key(|g| g.id);
        let mut tasks = graphs.into_iter().flat_map(|g| {
            let fits = move |index: &u32| state.is_none_or(|s| g.tasks[*index as usize].state.name() == s);
            (0..g.tasks.len() as u32).filter(fits).map(|index| g.task_id(index))
        });
        let listed = tasks.by_ref().take(limit).filter_map(|task| self.task_report(task, false)).collect();
        Reply::Tasks { tasks: listed, more: tasks.next().is_some() }
    }

    fn task_report(&self, task: TaskId, with_result: bool) -> Option<TaskReport> {
        let graph = self.graphs.get(&task.graph)?;
        let record = graph.tasks.get(task.index as usize)?;
        let worker = match record.state {
            TaskState::Assigned { worker } | TaskState::Held { worker } => Some(worker),
            TaskState::Accepted { worker } => worker,
            _ => None,
        };
        let holders = match record.state {
            TaskState::Held { worker } if with_result => {
                let addresses = |w| Some(self.workers.get(w)?.registration.addresses.clone());
                self.holders(task, worker).into_iter().filter_map(addresses).collect()
            }
            _ => Vec::new(),
        };
        let settled = record.state.is_settled();
        Some(TaskReport {
            task,
            name: graph.names.get(&task.index).cloned(),
            family: self.families[graph.op_entry(task.index).family as usize].name.clone(),
            state: record.state.name(),
            attempt: record.attempt,
            worker: worker.and_then(|w| Some(self.workers.get(w)?.registration.id.name.clone())),
            error: graph.errors.get(&task.index).cloned(),
            nbytes: record.nbytes,
            nanos: u64::from(record.micros) * 1000,
            stored: (with_result && settled).then(|| self.stored_value(task)).flatten().map(Box::new),
            holders,
        })
    }

    /// What `status` shows of the scheduler itself, for the shell to fill in: it decides nothing.
    pub fn scheduler_report(&mut self) -> &mut SchedulerReport {
        &mut self.config.scheduler
    }

    /// What `status` shows.
    pub fn status(&self) -> StatusReport {
        let mut counts = Counts::default();
        let mut families: Vec<(String, Counts)> = Vec::new();
        for family in self.families.iter().filter(|f| f.counts.total() > 0) {
            counts.add(&family.counts);
            families.push((family.name.clone(), family.counts));
        }
        families.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.total()));
        families.truncate(MAX_FAMILIES);
        let mut workers: Vec<_> = self.workers.iter().collect();
        workers.sort_unstable_by_key(|(index, _)| *index);
        let workers: Vec<WorkerReport> = workers.into_iter().map(|(_, w)| worker_report(w)).collect();
        StatusReport {
            epoch: self.config.epoch,
            target: self.allocations.target,
            connected: workers.iter().filter(|w| w.state == WorkerStateName::Connected).count() as u32,
            pending: self.pending_workers(),
            running: self.running_workers(),
            counts,
            awaited: self.awaited_count(),
            families,
            graphs: self.graphs.len() as u32,
            workers,
            allocations: self.allocation_reports(),
            batch_trouble: self.allocations.trouble.clone(),
            stopped: self.allocations.stopped,
            going_down: self.going_down.is_some(),
            polls: self.allocations.polls,
            failed_polls: self.allocations.failed_polls,
            core_seconds_used: self.allocations.core_seconds().0,
            core_seconds_idle: self.allocations.core_seconds().1,
            uptime_s: self.now.since(self.started).as_secs(),
            scheduler: self.config.scheduler.clone(),
        }
    }
}

fn worker_report(worker: &super::roster::Worker) -> WorkerReport {
    let note = match &worker.presence {
        Presence::Connected { .. } => String::new(),
        Presence::Lost { reason, .. } | Presence::Gone { reason } => reason.clone(),
    };
    let registration = &worker.registration;
    WorkerReport {
        name: registration.id.name.clone(),
        allocation: registration.allocation,
        host: registration.host.clone(),
        pid: registration.pid,
        cores: registration.cores,
        memory_limit: registration.memory,
        memory: worker.memory_used,
        state: worker.state_name(),
        assigned: worker.assigned.len() as u32,
        finished: worker.finished,
        deadline_unix: registration.deadline_unix,
        note,
    }
}
