//! Allocations: asked for, pending, running, ended; and what the batch system's word settles.

use super::Core;
use super::workers::Presence;
use crate::protocol::{AllocationId, AllocationReport, AllocationStateName, ToWorker, WorkerIndex};
use crate::scheduler::event::{Action, AllocationStatus, SubmitOutcome, Time};
use crate::scheduler::record::Record;
use crate::scheduler::scale::{Limits, Open, decide, needed};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Answers without the allocation before it counts as ended: a controller that is just back may know little.
const MAX_ABSENT_POLLS: u8 = 3;
/// A submit without an answer counts as pending for so long: its job may still appear.
const AMBIGUOUS_FOR: Duration = Duration::from_secs(600);
/// Allocations in a row that end without a worker before no more are asked for.
const MAX_FAILED_STARTS: u32 = 5;
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
            let sum = |f: &dyn Fn(&super::workers::Worker) -> usize| {
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
            unseen: false,
            given_up: false,
        };
        self.allocations.list.insert(id, allocation);
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
            self.ask_to_leave(index, "scaled down", out);
        }
    }

    /// The worker finishes what it runs, takes nothing more, and ends. One that is lost is told when it comes back.
    pub(super) fn ask_to_leave(&mut self, index: WorkerIndex, reason: &str, out: &mut Vec<Action>) {
        self.workers.set_leaving(index);
        if let Some(peer) = self.workers.get(index).and_then(|w| w.peer()) {
            let message = ToWorker::Leave { reason: reason.to_owned(), now: false };
            out.push(Action::ToWorker { peer, message, after: None });
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

    pub(super) fn on_submitted(&mut self, id: AllocationId, outcome: SubmitOutcome, out: &mut Vec<Action>) {
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

    pub(super) fn on_poll_failed(&mut self, words: String) {
        self.allocations.failed_polls = self.allocations.failed_polls.saturating_add(1);
        self.allocations.trouble = words;
    }

    pub(super) fn on_polled(
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
                AllocationStatus::Ended { words, confirmed } => {
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
        let reason = format!("its job ended: {words}");
        for index in self.workers.of_allocation(id) {
            match self.workers.get(index).map(|w| &w.presence) {
                Some(Presence::Lost { .. }) if confirmed => self.on_departed(index, &reason, out),
                _ => self.ask_to_leave(index, &reason, out),
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
    pub(super) fn on_worker_started(&mut self, index: WorkerIndex) {
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
mod tests {
    use super::*;
    use crate::protocol::{FromWorker, Registration, WorkerId};
    use crate::scheduler::core::CoreConfig;
    use crate::scheduler::event::{Event, PeerId};

    const POLL: Duration = Duration::from_secs(30);

    fn core(target: u32) -> Core {
        Core::new(CoreConfig { workers: target, ..CoreConfig::default() }, Time::default())
    }

    fn handle(core: &mut Core, now: Time, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        core.handle(now, event, &mut out);
        core.settle_down(now, &mut out);
        core.check();
        out
    }

    fn submits(out: &[Action]) -> Vec<u32> {
        let submit = |action: &Action| match action {
            Action::Submit { allocation, .. } => Some(allocation.0),
            _ => None,
        };
        out.iter().filter_map(submit).collect()
    }

    fn submitted(id: u32, outcome: SubmitOutcome) -> Event {
        Event::Submitted { allocation: AllocationId(id), outcome }
    }

    fn accepted(id: u32) -> Event {
        submitted(id, SubmitOutcome::Accepted { job: format!("{id}") })
    }

    fn polled(id: u32, status: AllocationStatus) -> Event {
        Event::Polled(vec![(AllocationId(id), format!("{id}"), status)])
    }

    fn over(confirmed: bool) -> AllocationStatus {
        AllocationStatus::Ended { words: "over".into(), confirmed }
    }

    fn register(peer: u64, allocation: u32, incarnation: u64) -> Event {
        let registration = Registration {
            id: WorkerId { name: format!("w{allocation}"), incarnation },
            allocation: AllocationId(allocation),
            host: String::new(),
            pid: 1,
            addresses: Vec::new(),
            cores: 1,
            memory: 0,
            named: Vec::new(),
            deadline_unix: 0,
            holds: Vec::new(),
            runs: Vec::new(),
            completions: Vec::new(),
        };
        Event::FromWorker { peer: PeerId(peer), message: FromWorker::Register(Box::new(registration)) }
    }

    fn told_to_leave(out: &[Action]) -> bool {
        let leave = |action: &Action| {
            matches!(action, Action::ToWorker { message: ToWorker::Leave { now: false, .. }, .. })
        };
        out.iter().any(leave)
    }

    fn refused(out: &[Action]) -> bool {
        out.iter().any(|a| matches!(a, Action::ToWorker { message: ToWorker::Refused { .. }, .. }))
    }

    #[test]
    fn a_worker_on_a_node_that_was_given_up_finishes_and_leaves_and_another_is_asked_for() {
        let mut core = core(1);
        assert_eq!(submits(&handle(&mut core, Time::default(), Event::Tick)), [1]);
        handle(&mut core, Time::from_secs(1), accepted(1));
        handle(&mut core, Time::from_secs(2), register(1, 1, 1));
        let out = handle(&mut core, Time::from_secs(3), polled(1, over(false)));
        assert!(told_to_leave(&out));
        assert_eq!(submits(&out), [2]);
        // Its link breaks, and it comes back: it may not have heard.
        handle(&mut core, Time::from_secs(4), Event::PeerLost { peer: PeerId(1), reason: "cut".into() });
        assert!(told_to_leave(&handle(&mut core, Time::from_secs(5), register(2, 1, 1))));
        // Another life of it isn't wanted.
        assert!(refused(&handle(&mut core, Time::from_secs(6), register(3, 1, 2))));
    }

    #[test]
    fn a_link_that_breaks_after_the_job_is_over_leaves_no_doubt() {
        for (confirmed, departed) in [(true, true), (false, false)] {
            let mut core = core(1);
            handle(&mut core, Time::default(), Event::Tick);
            handle(&mut core, Time::from_secs(1), accepted(1));
            handle(&mut core, Time::from_secs(2), register(1, 1, 1));
            handle(&mut core, Time::from_secs(3), polled(1, over(confirmed)));
            let lost = Event::PeerLost { peer: PeerId(1), reason: "cut".into() };
            handle(&mut core, Time::from_secs(4), lost);
            assert_eq!(core.workers.of_allocation(AllocationId(1)).is_empty(), departed);
        }
    }

    #[test]
    fn failures_of_one_round_are_one_step_back() {
        let mut core = core(4);
        handle(&mut core, Time::default(), Event::Tick);
        for id in 1..=4 {
            let words = "the controller is dead".to_owned();
            let outcome = SubmitOutcome::Refused { words, fatal: false, exit_code: 75 };
            handle(&mut core, Time::from_secs(1), submitted(id, outcome));
        }
        let again = Time::from_secs(1).plus(FIRST_BACKOFF);
        assert_eq!(core.deadline(), Some(again));
        assert_eq!(submits(&handle(&mut core, again, Event::Tick)), [5, 6, 7, 8]);
    }

    #[test]
    fn a_submit_without_an_answer_is_waited_for_and_then_not_wanted() {
        let mut core = core(1);
        handle(&mut core, Time::default(), Event::Tick);
        handle(
            &mut core,
            Time::from_secs(10),
            submitted(1, SubmitOutcome::Ambiguous { words: "late".into() }),
        );
        let nothing = || Event::Polled(vec![(AllocationId(1), String::new(), AllocationStatus::Absent)]);
        let mut now = Time::from_secs(10);
        while now.plus(POLL) < Time::default().plus(AMBIGUOUS_FOR) {
            now = now.plus(POLL);
            assert_eq!(submits(&handle(&mut core, now, nothing())), [0; 0], "it may still come");
        }
        now = now.plus(POLL);
        let out = handle(&mut core, now, nothing());
        let cancels = |action: &Action| matches!(action, Action::CancelAllocations { allocations, after: Some(_) } if *allocations == [AllocationId(1)]);
        assert!(out.iter().any(cancels), "{out:?}");
        now = core.allocations.backoff_until;
        assert_eq!(submits(&handle(&mut core, now, Event::Tick)), [2]);
        assert!(refused(&handle(&mut core, now, register(1, 1, 1))), "too late");
        assert_eq!(core.status().polls, 20);
    }

    #[test]
    fn a_worker_says_more_than_the_silence_of_the_queue() {
        let mut core = core(1);
        handle(&mut core, Time::default(), Event::Tick);
        handle(&mut core, Time::from_secs(1), accepted(1));
        handle(&mut core, Time::from_secs(2), register(1, 1, 1));
        for poll in 1..10 {
            let now = Time::from_secs(2).plus(POLL * poll);
            handle(
                &mut core,
                now,
                Event::FromWorker {
                    peer: PeerId(1),
                    message: FromWorker::Heartbeat { memory: 0, running: 0 },
                },
            );
            assert_eq!(submits(&handle(&mut core, now, polled(1, AllocationStatus::Absent))), [0; 0]);
        }
    }
}
