//! A new scheduler that starts from the records of an old one.

use super::*;
use std::time::Duration;

#[test]
fn a_retried_failure_that_is_reported_again_counts_once() {
    let mut s = Story::new();
    s.submit(9, graph(&[(command(0, 1), &[])], &[]));
    s.register(1, registration("w"));
    let first = execution(task(1, 0), 1, 1);
    s.finish(1, erred(first));
    // The second attempt was never sent: its record was lost with the scheduler.
    s.journal.retain(
        |record| !matches!(record, Record::Assigned { executions, .. } if executions[0].attempt == 2),
    );
    s.restart();
    s.register(1, Registration { completions: vec![erred(first)], ..registration("w") });
    assert_eq!(s.state(task(1, 0)), "assigned");
    assert_eq!(s.core.current_execution(task(1, 0)), Some(execution(task(1, 0), 2, 2)));
}

#[test]
fn a_running_command_stays_with_its_worker() {
    let mut s = Story::new();
    s.submit(9, graph(&[(command(0, 0), &[])], &[]));
    s.register(1, registration("w"));
    s.restart();
    let runs = vec![execution(task(1, 0), 1, 1)];
    s.register(1, Registration { runs, ..registration("w") });
    comes!(s, Action::ToWorker { message: ToWorker::Welcome { epoch: Epoch(2), .. }, .. });
    s.quiet();
    assert_eq!(s.core.current_execution(task(1, 0)), Some(execution(task(1, 0), 1, 1)));
}

#[test]
fn a_value_that_is_freed_because_its_holder_denied_it_is_not_taken_for_held_by_the_same_registration() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[0])], &[0, 1]));
    s.sync();
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    let missing = MissingInput { denied: vec![WorkerIndex(0)], ..MissingInput::new(task(1, 0)) };
    let outcome = Outcome::InputsMissing(vec![missing]);
    let completions = vec![Completion { execution: execution(task(1, 1), 1, 1), nanos: 1, outcome }];
    let holds = vec![Holding { task: task(1, 0), nbytes: 8 }];
    s.register(2, Registration { holds, completions, ..registration("w") });
    let freed = |action: &Action| matches!(action, Action::ToWorker { message: ToWorker::Strike(_), .. });
    assert!(s.out.iter().any(freed));
    assert_ne!(s.state(task(1, 0)), "held");
}

#[test]
fn a_settled_graph_under_a_later_one_is_not_run_again() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[])], &[]));
    s.submit(10, graph_upon(task(1, 0), &[(kernel(), &[u32::MAX])]));
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.finish(1, held(execution(task(2, 0), 1, 1)));
    s.restart();
    assert_eq!((s.state(task(1, 0)), s.state(task(2, 0))), ("released", "released"));
}

#[test]
fn a_failure_of_a_task_that_had_succeeded_before_stays() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[])], &[0]));
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.worker_says(1, FromWorker::ValuesLost(vec![task(1, 0)]));
    s.finish(1, erred(execution(task(1, 0), 1, 2)));
    s.restart();
    assert_eq!(s.state(task(1, 0)), "erred");
}

#[test]
fn a_task_cancelled_with_its_graph_while_its_value_was_made_again_stays_cancelled() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.ask(Request::Submit {
        request: RequestId(9),
        part: 0,
        last: true,
        columns: Box::new(graph(&[(kernel(), &[]), (command(0, 0), &[])], &[0])),
        options: GraphOptions { max_failures: Some(0), ..GraphOptions::default() },
    });
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.register(2, Registration { cores: 2, ..registration("v") });
    s.worker_says(1, FromWorker::ValuesLost(vec![task(1, 0)]));
    let peer = if s.core.assigned_peer(task(1, 1)) == Some(PeerId(1)) { 1 } else { 2 };
    s.finish(peer, erred(execution(task(1, 1), 1, 1)));
    assert_eq!(s.state(task(1, 0)), "cancelled");
    s.restart();
    assert_eq!((s.state(task(1, 0)), s.state(task(1, 1))), ("cancelled", "erred"));
}

#[test]
fn what_had_succeeded_and_failed_with_an_input_that_was_lost_stays_failed() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[0])], &[0, 1]));
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.finish(1, held(execution(task(1, 1), 1, 1)));
    s.worker_says(1, FromWorker::ValuesLost(vec![task(1, 0), task(1, 1)]));
    s.finish(1, erred(execution(task(1, 0), 1, 2)));
    for _ in 0..2 {
        assert_eq!((s.state(task(1, 0)), s.state(task(1, 1))), ("erred", "erred"));
        s.restart();
    }
}

#[test]
fn what_had_succeeded_and_can_not_be_made_again_stays_failed() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.ask(Request::Submit {
        request: RequestId(9),
        part: 0,
        last: true,
        columns: Box::new(graph(&[(kernel(), &[]), (kernel(), &[0]), (command(0, 0), &[])], &[0, 1])),
        options: GraphOptions { max_failures: Some(0), ..GraphOptions::default() },
    });
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.finish(1, held(execution(task(1, 1), 1, 1)));
    s.worker_says(1, FromWorker::ValuesLost(vec![task(1, 0)]));
    s.finish(1, erred(execution(task(1, 2), 1, 1)));
    s.worker_says(1, FromWorker::ValuesLost(vec![task(1, 1)]));
    for _ in 0..2 {
        assert_eq!((s.state(task(1, 0)), s.state(task(1, 1))), ("cancelled", "erred"));
        s.restart();
    }
}

/// The first part of a graph that may have no failure.
fn submit_strict(s: &mut Story, last: bool, columns: Columns) {
    let options = GraphOptions { max_failures: Some(0), ..GraphOptions::default() };
    s.ask(Request::Submit { request: RequestId(9), part: 0, last, columns: Box::new(columns), options });
}

#[test]
fn what_failed_with_a_lost_value_is_not_cancelled_after_a_restart() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    let tasks = [(kernel(), &[][..]), (kernel(), &[0]), (command(0, 0), &[]), (kernel(), &[1, 2])];
    submit_strict(&mut s, true, graph(&tasks, &[0, 1]));
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.finish(1, held(execution(task(1, 1), 1, 1)));
    s.worker_says(1, FromWorker::ValuesLost(vec![task(1, 0), task(1, 1)]));
    s.register(2, Registration { cores: 2, ..registration("v") });
    let peer = s.core.assigned_peer(task(1, 0)).unwrap();
    s.finish(peer.0, erred(execution(task(1, 0), 1, 2)));
    for _ in 0..2 {
        let states = [0, 1, 2, 3].map(|index| s.state(task(1, index)));
        assert_eq!(states, ["erred", "erred", "cancelled", "erred"]);
        s.restart();
    }
}

#[test]
fn what_comes_after_too_many_failures_is_cancelled_and_needs_no_value_again() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    submit_strict(&mut s, false, graph(&[(kernel(), &[]), (command(0, 0), &[])], &[]));
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.sync();
    s.finish(1, erred(execution(task(1, 1), 1, 1)));
    s.sync();
    assert_eq!(s.state(task(1, 0)), "released");
    let second =
        Columns { op_of: vec![0], args_end: vec![0], deps: vec![0], deps_end: vec![1], ..Columns::default() };
    s.submit_part(9, 1, true, second);
    for _ in 0..2 {
        let states = [0, 1, 2].map(|index| s.state(task(1, index)));
        assert_eq!(states, ["released", "erred", "cancelled"]);
        s.restart();
    }
}

#[test]
fn a_stream_that_nobody_continues_is_given_up() {
    let mut s = Story::new();
    s.submit_part(9, 0, false, graph(&[(kernel(), &[])], &[]));
    s.restart();
    s.wait_secs(100);
    assert!(s.journal.contains(&Record::Sealed { graph: GraphId(1) }));
}

#[test]
fn allocations_that_run_are_kept_and_ended_ones_are_not_asked_about() {
    let mut s = Story::new();
    let polled = |statuses: &[(u32, AllocationStatus)]| {
        let one = |(id, status): &(u32, AllocationStatus)| (AllocationId(*id), String::new(), status.clone());
        Event::Polled(statuses.iter().map(one).collect())
    };
    let ended = AllocationStatus::Ended { words: "COMPLETED".into(), confirmed: true, blameless: false };
    s.tell(polled(&[(1, ended)]));
    s.wait_secs(3);
    let open = [AllocationId(2)];
    assert_eq!(s.core.allocations_to_ask_about(), open);
    s.restart();
    s.tell(Event::Tick);
    comes!(s, Action::Poll);
    s.quiet();
    assert_eq!(s.core.allocations_to_ask_about(), open);
    s.tell(polled(&[(2, AllocationStatus::Running { nodes: "n1".into(), ends_unix: 0 })]));
    s.quiet();
}

/// A task of two cores' worth of inputs: two wanted values, and one made of both that nobody has begun.
fn two_values_and_one_of_them() -> Story {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.register(2, registration("v"));
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[]), (kernel(), &[0, 1])], &[2]));
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.finish(2, held(execution(task(1, 1), 1, 1)));
    s
}

fn holding(name: &str, index: u32) -> Registration {
    Registration { holds: vec![Holding { task: task(1, index), nbytes: 8 }], ..registration(name) }
}

#[test]
fn values_that_former_workers_hold_are_not_made_again() {
    let mut s = two_values_and_one_of_them();
    s.restart();
    assert_eq!(s.state(task(1, 0)), "waiting");
    // The first to come could make both again: it is given nothing that another may bring.
    s.register(1, holding("w", 0));
    assert_eq!(
        (s.state(task(1, 0)), s.state(task(1, 1)), s.state(task(1, 2))),
        ("held", "waiting", "waiting")
    );
    s.skip();
    s.wait_secs(9);
    s.out.retain(|action| !matches!(action, Action::Poll));
    s.quiet();
    s.register(2, holding("v", 1));
    assert_eq!((s.state(task(1, 1)), s.state(task(1, 2))), ("held", "assigned"));
}

#[test]
fn values_of_former_workers_that_do_not_come_are_made_again() {
    for reported_dead in [false, true] {
        let mut s = two_values_and_one_of_them();
        s.restart();
        s.register(1, holding("w", 0));
        if reported_dead {
            s.worker_says(7, FromWorker::Dead { id: registration("v").id, verdict: "killed".into() });
        } else {
            s.wait_secs(10);
        }
        assert_eq!(s.state(task(1, 1)), "assigned", "{reported_dead}");
        assert_eq!(s.core.assigned_peer(task(1, 1)), Some(PeerId(1)));
        // Its holder comes late, and is as good.
        if !reported_dead {
            s.register(2, holding("v", 1));
            s.finish(1, held(execution(task(1, 1), 2, 2)));
            assert_eq!((s.state(task(1, 1)), s.state(task(1, 2))), ("held", "assigned"));
        }
    }
}

/// A kernel that took so long, and another one that ran when the scheduler died.
fn one_kernel_runs(seconds: u64) -> Story {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[])], &[]));
    let first = execution(task(1, 0), 1, 1);
    s.finish(1, Completion { nanos: seconds * 1_000_000_000, ..held(first) });
    assert_eq!(s.worker_of(task(1, 1)), Some(1));
    s.restart();
    s.register(2, registration("v"));
    assert_eq!(s.state(task(1, 1)), "ready", "nobody may begin what somebody may run");
    s.skip();
    s
}

fn runs_the_second() -> Registration {
    Registration { runs: vec![execution(task(1, 1), 1, 1)], ..registration("w") }
}

#[test]
fn a_kernel_that_a_former_worker_runs_goes_on_there() {
    let mut s = one_kernel_runs(3600);
    s.wait_secs(44);
    s.register(1, runs_the_second());
    let cancelled = |action: &Action| matches!(action, Action::ToWorker { message: ToWorker::Cancel(_), .. });
    assert!(!s.out.iter().any(cancelled), "{:?}", s.out);
    assert_eq!(s.core.current_execution(task(1, 1)), Some(execution(task(1, 1), 1, 1)));
    s.finish(1, held(execution(task(1, 1), 1, 1)));
    assert_eq!(s.state(task(1, 1)), "held");
}

#[test]
fn a_kernel_waits_for_a_former_worker_no_longer_than_it_takes() {
    for (seconds, waits) in [(1, 1), (20, 20), (3600, 45)] {
        let mut s = one_kernel_runs(seconds);
        s.wait_secs(waits - 1);
        assert_eq!(s.state(task(1, 1)), "ready", "{seconds} s");
        assert!(s.core.deadline() <= Some(s.now.plus(Duration::from_secs(1))));
        s.wait_secs(1);
        assert_eq!(s.worker_of(task(1, 1)), Some(2), "{seconds} s");
        assert!(s.core.deadline() > Some(s.now));
    }
}

#[test]
fn a_kernel_of_which_nothing_is_known_waits_a_little() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[])], &[]));
    s.restart();
    s.register(2, registration("v"));
    s.wait_secs(9);
    assert_eq!(s.state(task(1, 0)), "ready");
    // What no older scheduler knew of nobody can be running.
    s.submit(10, graph(&[(kernel(), &[])], &[]));
    assert_eq!(s.worker_of(task(2, 0)), Some(2));
    s.register(3, registration("u"));
    s.wait_secs(1);
    assert_eq!(s.worker_of(task(1, 0)), Some(3));
}

#[test]
fn nothing_waits_once_every_former_worker_has_come_or_is_dead() {
    for is_dead in [false, true] {
        let mut s = one_kernel_runs(3600);
        if is_dead {
            s.worker_says(7, FromWorker::Dead { id: registration("w").id, verdict: "killed".into() });
        } else {
            s.register(1, registration("w"));
        }
        assert_eq!(s.state(task(1, 1)), "assigned", "{is_dead}");
    }
}

#[test]
fn what_is_awaited_from_one_needs_its_own_inputs_only_if_that_one_does_not_come() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[0]), (command(0, 0), &[1]), (kernel(), &[1])], &[]));
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.finish(1, held(execution(task(1, 1), 1, 1)));
    s.sync();
    assert_eq!(s.state(task(1, 0)), "released");
    s.restart();
    assert_eq!((s.state(task(1, 0)), s.state(task(1, 1))), ("released", "waiting"));
    s.register(1, holding("w", 1));
    assert_eq!((s.state(task(1, 0)), s.state(task(1, 1))), ("released", "held"));
}

#[test]
fn a_command_of_a_worker_that_was_known_dead_waits_for_nobody() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(command(0, 0), &[])], &[]));
    s.worker_says(7, FromWorker::Dead { id: registration("w").id, verdict: "killed".into() });
    s.restart();
    assert_eq!(s.state(task(1, 0)), "ready");
    s.register(1, registration("w"));
    comes!(s, Action::ToWorker { message: ToWorker::Refused { .. }, .. });
}

#[test]
fn a_command_of_a_former_worker_runs_elsewhere_once_its_job_is_surely_over() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(command(0, 0), &[])], &[]));
    s.restart();
    s.register(2, registration("v"));
    assert_eq!((s.state(task(1, 0)), s.core.assigned_peer(task(1, 0))), ("assigned", None));
    let over = AllocationStatus::Ended { words: "COMPLETED".into(), confirmed: true, blameless: false };
    s.tell(Event::Polled(vec![(AllocationId(1), "7".into(), over)]));
    assert_eq!(s.state(task(1, 0)), "ready");
}

#[test]
fn a_cluster_that_was_going_down_goes_down() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(command(0, 0), &[])], &[]));
    s.ask(Request::Down { drain_ms: 5_000 });
    s.restart();
    s.tell(Event::Tick);
    s.quiet();
    s.register(1, Registration { runs: vec![execution(task(1, 0), 1, 1)], ..registration("w") });
    s.skip();
    s.wait_secs(5);
    comes!(s, Action::ToWorker { message: ToWorker::Leave { now: true, .. }, .. });
    s.lose(1);
    assert!(s.out.iter().any(|action| matches!(action, Action::Exit { .. })), "{:?}", s.out);
}

#[test]
fn accepted_outputs_have_a_worker_even_where_none_is_wanted() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(command(1, 0), &[])], &[]));
    s.finish(1, written(execution(task(1, 0), 1, 1)));
    s.worker_says(7, FromWorker::Dead { id: registration("w").id, verdict: "killed".into() });
    s.ask(Request::Scale { request: RequestId(2), workers: 0 });
    s.tell(Event::Polled(vec![(
        AllocationId(1),
        "7".into(),
        AllocationStatus::Ended { words: "COMPLETED".into(), confirmed: true, blameless: false },
    )]));
    assert!(s.out.iter().any(|action| matches!(action, Action::Submit { allocation: AllocationId(2), .. })));
    s.restart();
    s.register(2, Registration { allocation: AllocationId(2), ..registration("v") });
    comes!(s, Action::ToWorker { message: ToWorker::Welcome { .. }, .. });
    comes!(s, Action::ToWorker { message: ToWorker::Place { .. }, .. });
    s.quiet();
    s.worker_says(
        2,
        FromWorker::Placed { execution: execution(task(1, 0), 1, 1), outcome: PlaceOutcome::Done },
    );
    assert_eq!(s.state(task(1, 0)), "stored");
    assert!(s.out.iter().any(|a| matches!(a, Action::ToWorker { message: ToWorker::Leave { .. }, .. })));
}

#[test]
fn what_a_worker_left_behind_counts_once() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(command(1, 0), &[])], &[]));
    s.restart();
    let left = || Event::LeftBehind {
        worker: registration("w").id,
        completions: vec![written(execution(task(1, 0), 1, 1))],
    };
    s.tell_all(vec![left(), left()]);
    comes!(s, Action::Poll);
    comes!(s, Action::Persist { record: Record::Fates(fates), .. } if fates.len() == 1);
    assert_eq!(s.state(task(1, 0)), "accepted");
    s.register(2, registration("v"));
    assert!(s.out.iter().any(|a| matches!(a, Action::ToWorker { message: ToWorker::Place { .. }, .. })));
}

#[test]
fn an_input_that_is_made_again_for_others_counts_once_for_what_is_awaited() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.register(2, Registration { cores: 2, ..registration("v") });
    let tasks: &[(Op, &[u32])] = &[(kernel(), &[]), (kernel(), &[0]), (kernel(), &[]), (kernel(), &[1])];
    s.submit(9, graph(tasks, &[]));
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.sync();
    s.finish(1, held(execution(task(1, 1), 1, 1)));
    s.finish(2, held(execution(task(1, 1), 1, 1)));
    s.sync();
    s.restart();
    assert_eq!((s.state(task(1, 0)), s.state(task(1, 1))), ("released", "waiting"));
    // Somebody new needs the released one, which nobody is awaited for.
    s.register(2, Registration { cores: 2, ..registration("v") });
    s.submit(10, graph_upon(task(1, 0), &[(kernel(), &[u32::MAX])]));
    assert_eq!((s.state(task(1, 0)), s.state(task(1, 1))), ("assigned", "waiting"));
    s.wait_secs(10);
    s.finish(2, held(execution(task(1, 0), 2, 2)));
    assert_eq!(s.state(task(1, 1)), "assigned");
}

#[test]
fn what_may_run_once_is_not_begun_again_though_only_its_workers_end_was_journalled() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    let Op::Command(spec) = command(0, 0) else { panic!("a command") };
    let once = Op::Command(Box::new(CommandSpec { at_most_once: true, ..*spec }));
    s.submit(9, graph(&[(once, &[])], &[]));
    s.sync();
    s.worker_says(7, FromWorker::Dead { id: registration("w").id, verdict: "killed".into() });
    assert_eq!(s.state(task(1, 0)), "erred");
    assert!(matches!(s.journal.pop(), Some(Record::Fates(_))), "the crash takes the last record");
    assert!(matches!(s.journal.last(), Some(Record::Departed { .. })));
    s.restart();
    assert_eq!(s.state(task(1, 0)), "erred", "nobody knows whether it ran");
    s.register(3, registration("other"));
    assert_eq!(s.worker_of(task(1, 0)), None);
}
