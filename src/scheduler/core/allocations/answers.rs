//! What the batch system, and a worker that is there, say of an allocation, and what that settles.

use super::{Core, is_open};
use crate::protocol::{AllocationId, AllocationStateName, WorkerIndex};
use crate::scheduler::core::roster::Presence;
use crate::scheduler::event::{Action, AllocationStatus, SubmitOutcome};
use std::time::Duration;

/// Answers without the allocation before it counts as ended: a controller that is just back may know little.
const MAX_ABSENT_POLLS: u8 = 3;
/// A submit without an answer counts as pending for so long: its job may still appear.
pub(super) const AMBIGUOUS_FOR: Duration = Duration::from_secs(600);
/// Allocations in a row that end without a worker before no more are asked for.
const MAX_FAILED_STARTS: u32 = 5;

impl Core {
    pub(in crate::scheduler::core) fn on_submitted(
        &mut self,
        id: AllocationId,
        outcome: SubmitOutcome,
        out: &mut Vec<Action>,
    ) {
        let now = self.now;
        let a = &mut self.allocations;
        let Some(allocation) = a.list.get_mut(&id).filter(|a| is_open(a)) else { return };
        match outcome {
            SubmitOutcome::Accepted { job } => {
                a.changed = true;
                allocation.job = job;
                if allocation.state == AllocationStateName::Submitting {
                    allocation.state = AllocationStateName::Pending;
                }
                a.trouble.clear();
            }
            SubmitOutcome::Refused { words, fatal, exit_code } => {
                allocation.exit_code = exit_code;
                allocation.reason.clone_from(&words);
                a.trouble = words;
                a.stopped |= fatal;
                a.back_off(now);
                self.end_allocation(id, AllocationStateName::Refused, out);
            }
            SubmitOutcome::Ambiguous { words } => {
                // It stays open: the next answers of the batch system tell whether it is there.
                allocation.words.clone_from(&words);
                a.trouble = words;
                a.back_off(now);
            }
        }
    }

    pub(in crate::scheduler::core) fn on_poll_failed(&mut self, words: String) {
        self.allocations.failed_polls = self.allocations.failed_polls.saturating_add(1);
        self.allocations.trouble = words;
    }

    pub(in crate::scheduler::core) fn on_polled(
        &mut self,
        statuses: Vec<(AllocationId, String, AllocationStatus)>,
        out: &mut Vec<Action>,
    ) {
        self.allocations.polls += 1;
        self.allocations.failed_polls = 0;
        if !self.allocations.stopped {
            self.allocations.trouble.clear();
        }
        let mut cancelled_in_vain = Vec::new();
        for (id, job, status) in statuses {
            let has_worker = self.connected_of(id) > 0;
            let Some(allocation) = self.allocations.list.get_mut(&id).filter(|a| is_open(a)) else {
                continue;
            };
            if !job.is_empty() {
                allocation.job = job;
            }
            allocation.unseen = false;
            match status {
                AllocationStatus::Pending { reason, words, start_estimate_unix, never } => {
                    allocation.absent_polls = 0;
                    allocation.state = AllocationStateName::Pending;
                    (allocation.reason, allocation.words) = (reason, words);
                    (allocation.start_estimate_unix, allocation.never) = (start_estimate_unix, never);
                    if allocation.given_up {
                        cancelled_in_vain.push(id);
                    }
                }
                AllocationStatus::Running { nodes, .. } => {
                    allocation.absent_polls = 0;
                    allocation.state = AllocationStateName::Running;
                    (allocation.reason, allocation.words) = (String::new(), String::new());
                    allocation.nodes = nodes;
                }
                AllocationStatus::Ended { words, confirmed, blameless } => {
                    allocation.blameless = blameless;
                    self.on_allocation_ended(id, &words, confirmed, out);
                }
                // Its worker says more than the queue's silence.
                AllocationStatus::Absent if has_worker => allocation.absent_polls = 0,
                AllocationStatus::Absent => {
                    allocation.absent_polls = allocation.absent_polls.saturating_add(1);
                    let ambiguous = allocation.job.is_empty();
                    let patience = if ambiguous { AMBIGUOUS_FOR } else { self.config.poll_interval * 2 };
                    let young = self.now.since(allocation.submitted) < patience;
                    if allocation.absent_polls >= MAX_ABSENT_POLLS && !young {
                        self.on_allocation_ended(id, "the batch system knows it no more", false, out);
                        // Should it appear after all.
                        self.cancel_allocations(vec![id], out);
                    }
                }
            }
        }
        if !cancelled_in_vain.is_empty() {
            self.cancel_allocations(cancelled_in_vain, out);
        }
    }

    /// The batch system counts it as over. A worker that is still connected, say on a node that was given up,
    /// brings what it runs to its end and leaves: its cores may be somebody else's by now. What a lost one ran is
    /// placed again only if its processes are surely gone.
    fn on_allocation_ended(&mut self, id: AllocationId, words: &str, confirmed: bool, out: &mut Vec<Action>) {
        let Some(allocation) = self.allocations.list.get_mut(&id) else { return };
        allocation.reason = words.to_owned();
        allocation.confirmed_over = confirmed;
        let failed_start = !allocation.had_worker && !allocation.given_up;
        self.end_allocation(id, AllocationStateName::Ended, out);
        if failed_start {
            self.on_failed_start(words);
        }
        if self.allocations.is_blameless(id) {
            self.workers.all_of_allocation(id).into_iter().for_each(|index| self.forgive(index));
        }
        let reason = format!("its job ended: {words}");
        for index in self.workers.of_allocation(id) {
            match self.workers.get(index).map(|w| &w.presence) {
                Some(Presence::Lost { .. }) if confirmed => self.on_departed(index, &reason, out),
                _ => self.ask_to_leave(index, &reason, false, out),
            }
        }
    }

    fn on_failed_start(&mut self, words: &str) {
        let now = self.now;
        let a = &mut self.allocations;
        a.failed_starts += 1;
        a.back_off(now);
        if a.failed_starts >= MAX_FAILED_STARTS {
            a.stopped = true;
            a.trouble = format!(
                "{MAX_FAILED_STARTS} allocations in a row ended without a worker, the last one with: {words}; \
                 no more are asked for until 'jq scale' or 'jq up' (see 'jq logs')"
            );
        }
    }

    /// A worker of this allocation is there: it runs, whatever the last answer said.
    pub(in crate::scheduler::core) fn on_worker_started(&mut self, index: WorkerIndex) {
        let Some(id) = self.workers.get(index).map(|w| w.registration.allocation) else { return };
        let a = &mut self.allocations;
        if let Some(allocation) = a.list.get_mut(&id) {
            a.changed = true;
            allocation.had_worker = true;
            allocation.unseen = false;
            allocation.absent_polls = 0;
            // One that counts as over stays so: its worker is asked to leave, and another takes its place.
            if is_open(allocation) {
                allocation.state = AllocationStateName::Running;
            }
            a.failed_starts = 0;
            a.backoff = Duration::ZERO;
        }
    }
}
