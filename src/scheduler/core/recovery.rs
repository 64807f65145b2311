//! After a restart: which workers are expected back, and what waits for them.
//!
//! The journal tells who worked for older epochs. Values that somebody needs and nobody has reported yet are not made
//! again at once: their holders are probably about to come. Who hasn't come within a short window is waited for no
//! longer; its values are then made again from their inputs, and dropped should it still come.

use super::fast::FastSet;
use super::task::TaskState;
use super::workers::Presence;
use super::{Core, RECOVERY_MARGIN};
use crate::graph::TaskId;
use crate::protocol::{AllocationId, Registration, WorkerId, WorkerIndex};
use crate::scheduler::event::Time;
use std::time::Duration;

/// How long former workers have to come back before values that only they may hold are made again: they look for a
/// new scheduler at once, and then every few seconds.
const CONTACT_WINDOW: Duration = Duration::from_secs(10);

/// What waits for former workers.
pub(super) struct Recovery {
    until: Time,
    expected: Vec<WorkerIndex>,
    /// Tasks that have ended well once, whose values somebody may hold.
    awaited: FastSet<TaskId>,
}

impl Core {
    /// The end of replaying: values that are needed and that nobody has reported wait for their holders, if any may
    /// come.
    pub(super) fn await_values(&mut self) {
        let missing = |g: &super::GraphState| {
            let gone = |(_, record): &(usize, &super::task::TaskRecord)| {
                record.state == TaskState::Released && (record.needed_by > 0 || record.wanted)
            };
            let missing = g.tasks.iter().enumerate().filter(gone).map(|(index, _)| g.task_id(index as u32));
            missing.collect::<Vec<_>>()
        };
        let mut missing: Vec<TaskId> = self.graphs.values().flat_map(missing).collect();
        missing.sort_unstable();
        for task in &missing {
            self.bring_back(*task);
        }
        self.replaying = false;
        // Only now is it known which of their inputs are there.
        for task in &missing {
            let waits = self.inputs_not_there(*task);
            self.set_state(*task, TaskState::Waiting { missing: waits });
        }
        let lost = |(index, worker): (WorkerIndex, &super::workers::Worker)| {
            matches!(worker.presence, Presence::Lost { .. }).then_some(index)
        };
        let expected: Vec<WorkerIndex> = self.workers.iter().filter_map(lost).collect();
        let until = self.now.plus(CONTACT_WINDOW);
        self.recovery = Some(Recovery { until, expected, awaited: missing.into_iter().collect() });
    }

    fn inputs_not_there(&self, task: TaskId) -> u32 {
        let there = |id: &TaskId| self.state(*id).is_some_and(|state| self.input_is_there(task, state));
        self.dependencies(task).iter().filter(|dependency| !there(dependency)).count() as u32
    }

    /// A value that was released is there after all: whoever takes it waits for one thing less. Those that only come
    /// after the task never waited for its value.
    pub(super) fn offer_value(&mut self, task: TaskId) {
        if self.recovery.is_none() {
            return;
        }
        for dependent in self.dependents(task) {
            if let Some(TaskState::Waiting { missing }) = self.state(dependent)
                && self.consumes_values(dependent)
            {
                let next = match missing {
                    0 | 1 => TaskState::Ready,
                    _ => TaskState::Waiting { missing: missing - 1 },
                };
                self.set_state(dependent, next);
            }
        }
    }

    /// Whether the task's own value may still be reported: then it isn't made again yet.
    pub(super) fn is_awaited(&self, task: TaskId) -> bool {
        self.recovery.as_ref().is_some_and(|recovery| recovery.awaited.contains(&task))
    }

    pub(super) fn awaited_count(&self) -> u64 {
        let open = |task: &&TaskId| self.state(**task).is_some_and(|state| !state.is_settled());
        self.recovery.iter().flat_map(|recovery| &recovery.awaited).filter(open).count() as u64
    }

    pub(super) fn recovery_deadline(&self) -> Option<Time> {
        self.recovery.as_ref().map(|recovery| recovery.until)
    }

    /// Once everybody has come or time is up, what is still missing is made again.
    pub(super) fn end_recovery(&mut self) {
        let is_lost = |index: &WorkerIndex| {
            let presence = self.workers.get(*index).map(|worker| &worker.presence);
            matches!(presence, Some(Presence::Lost { .. }))
        };
        let is_over = |recovery: &mut Recovery| {
            recovery.awaited.is_empty()
                || self.now >= recovery.until
                || !recovery.expected.iter().any(is_lost)
        };
        let Some(recovery) = self.recovery.take_if(is_over) else { return };
        let mut awaited: Vec<TaskId> = recovery.awaited.into_iter().collect();
        awaited.sort_unstable();
        for task in awaited {
            let open = matches!(self.state(task), Some(TaskState::Waiting { .. } | TaskState::Ready));
            // What somebody already makes again, or has reported, is no more waited for.
            if open {
                self.run_again(task);
            }
        }
    }

    /// The worker as far as the journal knows it: lost, with the whole recovery window before it.
    pub(super) fn former_worker(&mut self, id: WorkerId, allocation: AllocationId) -> WorkerIndex {
        if let Some(index) = self.workers.by_id(&id) {
            return index;
        }
        let registration = Registration {
            id,
            allocation,
            host: String::new(),
            pid: 0,
            addresses: Vec::new(),
            cores: 1,
            memory: 0,
            named: Vec::new(),
            deadline_unix: 0,
            holds: Vec::new(),
            runs: Vec::new(),
            completions: Vec::new(),
        };
        let settle_at = self.now.plus(self.config.death_timeout + RECOVERY_MARGIN);
        self.workers
            .add(registration, Presence::Lost { settle_at, reason: "the scheduler was restarted".into() })
    }

    pub(super) fn replay_departed(&mut self, id: &WorkerId) {
        if let Some(index) = self.workers.by_id(id) {
            let reason = "it left, or died, under an earlier scheduler".to_owned();
            self.workers.set_presence(index, Presence::Gone { reason });
        }
    }
}
