//! After a restart: which workers are expected back, and what waits for them.
//!
//! The journal tells who worked for older epochs. Values that somebody needs and nobody has reported yet are not made
//! again at once: their holders are probably about to come. Who hasn't come within a short window is waited for no
//! longer; its values are then made again from their inputs, and dropped should it still come.
//!
//! Nor does the journal tell which kernels run: to run one twice does no harm, but may take an hour. So a kernel that an
//! older epoch may have placed waits for the workers that haven't come yet, but no longer than such kernels take: what
//! is waited for is never dearer than what it may save. Whoever runs it tells, and goes on.

use super::fast::{FastMap, FastSet};
use super::roster::Presence;
use super::task::TaskState;
use super::{Core, RECOVERY_MARGIN};
use crate::graph::{GraphId, TaskId};
use crate::protocol::{AllocationId, Registration, WorkerId, WorkerIndex};
use crate::scheduler::event::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long former workers have to come back before values that only they may hold are made again: they look for a
/// new scheduler at once, and then every few seconds.
const CONTACT_WINDOW: Duration = Duration::from_secs(10);

/// How long former workers have to come back before kernels are placed that they may run, however long those take:
/// one that found no scheduler for long looks for it every 30 s.
const KERNEL_WINDOW: Duration = Duration::from_secs(45);

/// What waits for former workers.
pub(super) struct Recovery {
    began: Time,
    /// Those that haven't come yet, and some that have.
    expected: Vec<WorkerIndex>,
    /// Tasks that have ended well once, whose values somebody may hold.
    awaited: FastSet<TaskId>,
    /// How many tasks of each graph older epochs knew.
    known: FastMap<GraphId, u32>,
    /// Ready kernels that somebody may run, by when they wait no more.
    held_back: BTreeMap<Time, Vec<TaskId>>,
}

impl Recovery {
    fn values_until(&self) -> Time {
        self.began.plus(CONTACT_WINDOW)
    }

    fn until(&self) -> Time {
        self.began.plus(KERNEL_WINDOW)
    }

    /// When kernels wait no more that take so long; 0: nobody knows.
    fn kernels_until(&self, micros: f64) -> Time {
        let patience = match micros as u64 {
            0 => CONTACT_WINDOW,
            micros => KERNEL_WINDOW.min(Duration::from_micros(micros)),
        };
        self.began.plus(patience)
    }
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
        let lost = |(index, worker): (WorkerIndex, &super::roster::Worker)| {
            matches!(worker.presence, Presence::Lost { .. }).then_some(index)
        };
        let expected: Vec<WorkerIndex> = self.workers.iter().filter_map(lost).collect();
        self.learn_durations();
        let known = self.graphs.iter().map(|(id, graph)| (*id, graph.tasks.len() as u32)).collect();
        let awaited = missing.into_iter().collect();
        let held_back = BTreeMap::new();
        self.recovery = Some(Recovery { began: self.now, expected, awaited, known, held_back });
    }

    /// How long tasks of each family took, by the journal.
    fn learn_durations(&mut self) {
        let mut sums = vec![(0, 0); self.families.len()];
        for graph in self.graphs.values() {
            for record in graph.tasks.iter().filter(|record| record.has_ended_well()) {
                let (sum, count) = &mut sums[graph.ops[record.op as usize].family as usize];
                *sum += u64::from(record.micros);
                *count += 1;
            }
        }
        for (family, (sum, count)) in self.families.iter_mut().zip(sums).filter(|(_, (_, count))| *count > 0)
        {
            family.mean_micros = sum as f64 / f64::from(count);
        }
    }

    /// Whether this ready task is a kernel that a worker of an older epoch may run, and is still waited for; then it
    /// comes back to the queue later.
    pub(super) fn hold_back(&mut self, task: TaskId) -> bool {
        let Some(recovery) = &mut self.recovery else { return false };
        let Some(graph) = self.graphs.get(&task.graph) else { return false };
        let entry = graph.op_entry(task.index);
        let is_known = recovery.known.get(&task.graph).is_some_and(|count| task.index < *count);
        // What has ended once had its value waited for.
        if !entry.pure || !is_known || graph.tasks[task.index as usize].has_ended_well() {
            return false;
        }
        let until = recovery.kernels_until(self.families[entry.family as usize].mean_micros);
        let waits = until > self.now;
        if waits {
            recovery.held_back.entry(until).or_default().push(task);
        }
        waits
    }

    /// Ready tasks that come back to the queue later.
    pub(super) fn held_back(&self) -> impl Iterator<Item = TaskId> {
        self.recovery.iter().flat_map(|recovery| recovery.held_back.values()).flatten().copied()
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
        let recovery = self.recovery.as_ref()?;
        let values = (!recovery.awaited.is_empty()).then(|| recovery.values_until());
        let kernels = recovery.held_back.first_key_value().map(|(until, _)| *until);
        values.into_iter().chain(kernels).chain([recovery.until()]).min()
    }

    /// Once everybody has come or time is up, what is still missing is made again, and what may have been running is
    /// placed.
    pub(super) fn end_recovery(&mut self) {
        let Some(mut recovery) = self.recovery.take() else { return };
        let is_lost = |index: &WorkerIndex| {
            let presence = self.workers.get(*index).map(|worker| &worker.presence);
            matches!(presence, Some(Presence::Lost { .. }))
        };
        while recovery.expected.pop_if(|worker| !is_lost(worker)).is_some() {}
        let is_over = recovery.expected.is_empty() || self.now >= recovery.until();
        let mut awaited: Vec<TaskId> = Vec::new();
        if is_over || self.now >= recovery.values_until() {
            awaited.extend(recovery.awaited.drain());
        }
        while let Some(entry) = recovery.held_back.first_entry()
            && (is_over || *entry.key() <= self.now)
        {
            for task in entry.remove() {
                self.queue_if_ready(task);
            }
        }
        if !is_over {
            self.recovery = Some(recovery);
        }
        awaited.sort_unstable();
        for task in awaited {
            let open = matches!(self.state(task), Some(TaskState::Waiting { .. } | TaskState::Ready));
            // What somebody already makes again, or has reported, is no more waited for.
            if open {
                self.run_again(task);
            }
        }
    }

    fn queue_if_ready(&mut self, task: TaskId) {
        let Some(graph) = self.graphs.get(&task.graph) else { return };
        if self.state(task) == Some(TaskState::Ready) {
            self.classes[graph.op_entry(task.index).class as usize].ready.push(task);
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
