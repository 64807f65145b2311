//! Allocations: asked for, given up, taken over from older epochs, counted and told of.

mod answers;

use super::Core;
use crate::protocol::{AllocationId, AllocationReport, AllocationStateName};
use crate::scheduler::event::{Action, Time};
use crate::scheduler::record::Record;
use crate::scheduler::scale::{Limits, Open, decide, needed};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// First wait after a failed start or a passing refusal; doubles up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_secs(2);
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// Ended allocations that stay known.
const MAX_ENDED: usize = 100;

struct Allocation {
    state: AllocationStateName,
    job: String,
    reason: String,
    words: String,
    start_estimate_unix: u64,
    never: bool,
    /// Of a refusal.
    exit_code: u8,
    nodes: String,
    submitted: Time,
    absent_polls: u8,
    had_worker: bool,
    /// The batch system has ended it and answers for its processes being gone.
    confirmed_over: bool,
    /// It ended for its time or another job: what it ran is not to blame.
    blameless: bool,
    /// Taken over from an older epoch, and nothing is known of it yet.
    unseen: bool,
    /// We gave it up: its end is no failure, and it isn't wanted back.
    given_up: bool,
}

#[derive(Default)]
pub(super) struct Allocations {
    pub target: u32,
    list: BTreeMap<AllocationId, Allocation>,
    next: u32,
    ended: VecDeque<AllocationId>,
    recent_submits: VecDeque<Time>,
    failed_starts: u32,
    backoff_until: Time,
    backoff: Duration,
    /// Nothing is asked for until somebody sets the target again.
    pub stopped: bool,
    /// Something happened that `scale` should look at.
    changed: bool,
    /// Questions that the batch system has answered.
    pub polls: u64,
    /// Questions in a row that it has not answered.
    pub failed_polls: u32,
    /// Trouble with the batch system, in its words.
    pub trouble: String,
    /// The batch system was asked about allocations of older epochs.
    asked: bool,
    sampled: Option<Time>,
    used_core_seconds: f64,
    idle_core_seconds: f64,
}

impl Allocations {
    /// For so many workers, numbered from `first`.
    pub fn new(first: u32, target: u32) -> Allocations {
        Allocations { next: first, target, changed: target > 0, ..Allocations::default() }
    }

    pub fn set_target(&mut self, workers: u32) {
        self.target = workers;
        self.changed = true;
        self.stopped = false;
        self.failed_starts = 0;
        self.backoff = Duration::ZERO;
        self.backoff_until = Time::default();
        self.trouble.clear();
    }

    /// Workers came or went, or the batch system said something.
    pub fn note_change(&mut self) {
        self.changed = true;
    }

    /// The number of the next one.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Those that were given up and haven't ended yet.
    pub fn given_up(&self) -> Vec<AllocationId> {
        self.list.iter().filter(|(_, a)| a.given_up && is_open(a)).map(|(id, _)| *id).collect()
    }

    pub fn set_next(&mut self, next: u32) {
        self.next = self.next.max(next);
    }

    /// Whether a worker of this allocation would not be wanted: it was given up, or counts as over and was replaced.
    pub fn is_superseded(&self, id: AllocationId) -> bool {
        self.list.get(&id).is_none_or(|a| a.given_up || !is_open(a))
    }

    /// Whether nothing of this allocation can run any more, by the batch system's word.
    pub fn is_confirmed_over(&self, id: AllocationId) -> bool {
        self.list.get(&id).is_some_and(|a| a.confirmed_over)
    }

    /// Whether it ended for a reason that no task of it can have given.
    pub fn is_blameless(&self, id: AllocationId) -> bool {
        self.list.get(&id).is_some_and(|a| a.blameless)
    }

    /// Not ended, and not refused.
    pub fn open(&self) -> Vec<AllocationId> {
        self.list.iter().filter(|(_, a)| is_open(a)).map(|(id, _)| *id).collect()
    }

    pub fn deadline(&self) -> Option<Time> {
        (self.backoff_until > Time::default() && !self.stopped).then_some(self.backoff_until)
    }

    pub fn core_seconds(&self) -> (u64, u64) {
        (self.used_core_seconds as u64, self.idle_core_seconds as u64)
    }

    pub fn sample(&mut self, now: Time, busy_cores: u32, cores: u32) {
        if let Some(before) = self.sampled.replace(now) {
            let seconds = now.since(before).as_secs_f64();
            self.used_core_seconds += seconds * f64::from(busy_cores.min(cores));
            self.idle_core_seconds += seconds * f64::from(cores.saturating_sub(busy_cores));
        }
    }

    /// Waits longer than the last time. Several failures of one round are one.
    fn back_off(&mut self, now: Time) {
        self.changed = true;
        if self.backoff_until > now {
            return;
        }
        self.backoff = (self.backoff * 2).clamp(FIRST_BACKOFF, MAX_BACKOFF);
        self.backoff_until = now.plus(self.backoff);
    }

    pub fn end(&mut self, id: AllocationId, state: AllocationStateName) {
        self.changed = true;
        if let Some(allocation) = self.list.get_mut(&id).filter(|a| is_open(a)) {
            allocation.state = state;
            self.ended.push_back(id);
        }
        while self.ended.len() > MAX_ENDED
            && let Some(old) = self.ended.pop_front()
        {
            self.list.remove(&old);
        }
    }
}

fn is_open(allocation: &Allocation) -> bool {
    !matches!(allocation.state, AllocationStateName::Ended | AllocationStateName::Refused)
}

impl Core {
    /// Allocations whose state the batch system should be asked for, those of older epochs among them: until it has
    /// told of each, nothing is asked for or given up.
    pub fn allocations_to_ask_about(&self) -> Vec<AllocationId> {
        self.allocations.open()
    }

    /// Compares what there is with the target, and acts.
    pub(super) fn scale(&mut self, out: &mut Vec<Action>) {
        let now = self.now;
        let backed_off = self.allocations.backoff_until > Time::default();
        let due = backed_off && self.allocations.backoff_until <= now;
        if !self.allocations.changed && !due {
            return;
        }
        self.allocations.changed = false;
        self.finish_retiring(out);
        let waits = self.going_down.is_some() || self.allocations.stopped || (backed_off && !due);
        if waits {
            return;
        }
        if self.waits_for_first_answer(out) {
            self.allocations.changed = true;
            return;
        }
        self.allocations.backoff_until = Time::default();
        let a = &mut self.allocations;
        while a.recent_submits.front().is_some_and(|at| now.since(*at) >= Duration::from_secs(60)) {
            a.recent_submits.pop_front();
        }
        let submits_left = self.config.max_submits_per_minute.saturating_sub(a.recent_submits.len() as u32);
        let limits = Limits { max_pending: self.config.max_pending_allocations, submits_left };
        let per_allocation = self.config.workers_per_allocation;
        let open = self.open_allocations();
        let target = self.target_in_force();
        let decision = decide(target, per_allocation, &open, limits);
        for _ in 0..decision.submit {
            self.submit_allocation(out);
        }
        let missing = needed(target, per_allocation).saturating_sub(open.len() as u32);
        if missing > decision.submit
            && submits_left == decision.submit
            && let Some(first) = self.allocations.recent_submits.front()
        {
            self.allocations.backoff_until = first.plus(Duration::from_secs(60));
        }
        let given_up: Vec<AllocationId> = decision.cancel.iter().chain(&decision.retire).copied().collect();
        if !given_up.is_empty() {
            self.persist(Record::GivenUp { allocations: given_up }, out);
        }
        for id in &decision.cancel {
            self.give_up_allocation(*id);
        }
        if !decision.cancel.is_empty() {
            self.cancel_allocations(decision.cancel, out);
        }
        for id in decision.retire {
            self.retire_allocation(id, out);
        }
    }

    /// Outputs that are accepted need somebody to bring them to their place, even where nobody is wanted otherwise.
    fn target_in_force(&self) -> u32 {
        let placing = self.graphs.values().any(|graph| !graph.accepted.is_empty());
        self.allocations.target.max(u32::from(placing))
    }

    /// Whether there are allocations of older epochs whose state isn't known: nothing is given up or asked for on a
    /// guess.
    fn waits_for_first_answer(&mut self, out: &mut Vec<Action>) -> bool {
        let waits = self.allocations.list.values().any(|a| is_open(a) && a.unseen);
        if waits && !std::mem::replace(&mut self.allocations.asked, true) {
            out.push(Action::Poll);
        }
        waits
    }

    fn open_allocations(&self) -> Vec<Open> {
        let open = self.allocations.list.iter().filter(|(_, a)| is_open(a) && !a.given_up);
        open.map(|(id, a)| {
            let workers = self.workers.of_allocation(*id);
            let sum = |f: &dyn Fn(&super::roster::Worker) -> usize| {
                workers.iter().filter_map(|w| self.workers.get(*w)).map(f).sum::<usize>() as u32
            };
            let running = a.state == AllocationStateName::Running;
            Open { id: *id, running, assigned: sum(&|w| w.assigned.len()), held: sum(&|w| w.holds.len()) }
        })
        .collect()
    }

    fn submit_allocation(&mut self, out: &mut Vec<Action>) {
        let id = AllocationId(self.allocations.next.max(1));
        self.allocations.next = id.0.saturating_add(1);
        self.allocations.recent_submits.push_back(self.now);
        let after = self.persist(Record::Intent { allocation: id }, out);
        self.take_intent(id);
        out.push(Action::Submit { allocation: id, after });
    }

    fn take_intent(&mut self, id: AllocationId) {
        self.allocations.set_next(id.0.saturating_add(1));
        let allocation = Allocation {
            state: AllocationStateName::Submitting,
            job: String::new(),
            reason: String::new(),
            words: String::new(),
            start_estimate_unix: 0,
            never: false,
            exit_code: 0,
            nodes: String::new(),
            submitted: self.now,
            absent_polls: 0,
            had_worker: false,
            confirmed_over: false,
            blameless: false,
            unseen: false,
            given_up: false,
        };
        self.allocations.list.insert(id, allocation);
    }

    /// Takes over allocations that were asked for before there was a scheduler to do it.
    pub fn take_over_allocations(&mut self, allocations: &[AllocationId], out: &mut Vec<Action>) {
        for id in allocations {
            if !self.allocations.list.contains_key(id) {
                self.persist(Record::Intent { allocation: *id }, out);
                self.take_intent(*id);
                if let Some(allocation) = self.allocations.list.get_mut(id) {
                    allocation.unseen = true;
                }
                self.allocations.note_change();
            }
        }
    }

    /// An older epoch asked for it.
    pub(super) fn inherit_allocation(&mut self, id: AllocationId) {
        self.take_intent(id);
        if let Some(allocation) = self.allocations.list.get_mut(&id) {
            allocation.unseen = true;
            // If it ends now, that says nothing about how the next one will start.
            allocation.had_worker = true;
        }
    }

    pub(super) fn give_up_allocation(&mut self, id: AllocationId) {
        if let Some(allocation) = self.allocations.list.get_mut(&id) {
            allocation.given_up = true;
        }
    }

    fn retire_allocation(&mut self, id: AllocationId, out: &mut Vec<Action>) {
        self.give_up_allocation(id);
        for index in self.workers.of_allocation(id) {
            self.ask_to_leave(index, "scaled down", false, out);
        }
    }

    /// Cancels given-up allocations whose workers have left.
    fn finish_retiring(&mut self, out: &mut Vec<Action>) {
        let done = |id: &AllocationId, a: &Allocation| {
            a.given_up
                && a.state == AllocationStateName::Running
                && self.workers.of_allocation(*id).is_empty()
        };
        let done: Vec<_> =
            self.allocations.list.iter().filter(|(id, a)| done(id, a)).map(|(id, _)| *id).collect();
        if !done.is_empty() {
            for id in &done {
                self.end_allocation(*id, AllocationStateName::Ended, out);
            }
            self.cancel_allocations(done, out);
        }
    }

    /// Once it is durable that they are not wanted.
    pub(super) fn cancel_allocations(&self, allocations: Vec<AllocationId>, out: &mut Vec<Action>) {
        let after = self.everything_so_far();
        out.push(Action::CancelAllocations { allocations, after });
    }

    fn end_allocation(&mut self, id: AllocationId, state: AllocationStateName, out: &mut Vec<Action>) {
        self.persist(Record::AllocationOver { allocation: id }, out);
        self.allocations.end(id, state);
    }

    pub(super) fn pending_workers(&self) -> u32 {
        self.count_workers(|state| {
            matches!(state, AllocationStateName::Pending | AllocationStateName::Submitting)
        })
    }

    pub(super) fn running_workers(&self) -> u32 {
        self.count_workers(|state| state == AllocationStateName::Running)
    }

    fn count_workers(&self, which: impl Fn(AllocationStateName) -> bool) -> u32 {
        let count = self.allocations.list.values().filter(|a| which(a.state) && !a.given_up).count();
        count as u32 * self.config.workers_per_allocation
    }

    pub(super) fn allocation_reports(&self) -> Vec<AllocationReport> {
        let report = |(id, a): (&AllocationId, &Allocation)| AllocationReport {
            id: *id,
            job: a.job.clone(),
            state: a.state,
            reason: a.reason.clone(),
            words: a.words.clone(),
            start_estimate_unix: a.start_estimate_unix,
            never: a.never && a.state == AllocationStateName::Pending,
            exit_code: a.exit_code,
            nodes: a.nodes.clone(),
            submitted_unix: self.unix_seconds(a.submitted),
            workers_connected: self.connected_of(*id),
        };
        self.allocations.list.iter().map(report).collect()
    }

    fn connected_of(&self, id: AllocationId) -> u32 {
        let workers = self.workers.of_allocation(id);
        workers.iter().filter(|w| self.workers.get(**w).is_some_and(|w| w.peer().is_some())).count() as u32
    }
}

#[cfg(test)]
mod tests;
