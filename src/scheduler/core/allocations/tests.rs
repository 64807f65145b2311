//! Allocations asked for, refused, ended, and what their workers are told.

use super::answers::AMBIGUOUS_FOR;
use super::*;
use crate::protocol::{FromWorker, Registration, ToWorker, WorkerId};
use crate::scheduler::core::CoreConfig;
use crate::scheduler::event::{AllocationStatus, Event, JournalSeq, PeerId, SubmitOutcome};

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
    AllocationStatus::Ended { words: "over".into(), confirmed, blameless: false }
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
    handle(&mut core, Time::from_secs(10), submitted(1, SubmitOutcome::Ambiguous { words: "late".into() }));
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
            Event::FromWorker { peer: PeerId(1), message: FromWorker::Heartbeat { memory: 0, running: 0 } },
        );
        assert_eq!(submits(&handle(&mut core, now, polled(1, AllocationStatus::Absent))), [0; 0]);
    }
}

fn pending() -> AllocationStatus {
    let (reason, words) = ("Priority".to_owned(), "(Priority)".to_owned());
    AllocationStatus::Pending { reason, words, start_estimate_unix: 0, never: false }
}

fn intents(out: &[Action]) -> Vec<u32> {
    let intent = |action: &Action| match action {
        Action::Persist { record: Record::Intent { allocation }, .. } => Some(allocation.0),
        _ => None,
    };
    out.iter().filter_map(intent).collect()
}

/// A new scheduler for two workers, whose allocations were asked for together with it.
fn core_that_takes_over() -> Core {
    let mut core = core(2);
    let mut out = Vec::new();
    core.take_over_allocations(&[AllocationId(1), AllocationId(2)], &mut out);
    core.check();
    assert_eq!(intents(&out), [1, 2]);
    assert_eq!(out.len(), 2, "nothing else is known of them: {out:?}");
    core
}

#[test]
fn allocations_that_were_asked_for_before_are_taken_over_once() {
    let mut core = core_that_takes_over();
    let mut out = Vec::new();
    core.take_over_allocations(&[AllocationId(2), AllocationId(1)], &mut out);
    assert_eq!(out, [], "they are known");
    let out = handle(&mut core, Time::from_secs(1), Event::Tick);
    assert_eq!(out, [Action::Poll], "nothing is asked for on a guess");
    assert_eq!(core.allocations_to_ask_about(), [AllocationId(1), AllocationId(2)]);
    let both = [1, 2].map(|id| (AllocationId(id), id.to_string(), pending()));
    assert_eq!(handle(&mut core, Time::from_secs(2), Event::Polled(both.into())), []);
    let out = handle(&mut core, Time::from_secs(3), polled(1, over(true)));
    assert_eq!(intents(&out), [0; 0], "it ended without a worker: that is waited a little for");
    let now = core.allocations.backoff_until;
    assert_eq!(submits(&handle(&mut core, now, Event::Tick)), [3], "their numbers are taken");
}

#[test]
fn a_worker_of_an_allocation_that_was_taken_over_is_welcome_before_the_batch_system_tells_of_it() {
    let mut core = core_that_takes_over();
    let out = handle(&mut core, Time::from_secs(1), register(1, 2, 1));
    assert!(!refused(&out) && !told_to_leave(&out));
    let out = handle(&mut core, Time::from_secs(2), polled(1, pending()));
    assert_eq!(submits(&out), [0; 0]);
    assert_eq!((core.pending_workers(), core.running_workers()), (1, 1));
}

#[test]
fn allocations_that_the_journal_has_given_up_are_not_taken_over() {
    let records = [
        Record::Intent { allocation: AllocationId(1) },
        Record::GivenUp { allocations: vec![AllocationId(1)] },
        Record::Intent { allocation: AllocationId(2) },
        Record::AllocationOver { allocation: AllocationId(2) },
    ];
    let mut core =
        Core::replay(CoreConfig::default(), Time::default(), records, JournalSeq(4)).expect("sound records");
    let mut out = Vec::new();
    core.take_over_allocations(&[AllocationId(1), AllocationId(2)], &mut out);
    core.check();
    assert_eq!(out, []);
    assert_eq!(core.allocations.given_up(), [AllocationId(1)]);
    assert_eq!(core.allocations_to_ask_about(), [AllocationId(1)]);
}
