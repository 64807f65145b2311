//! Values: kept as long as somebody may need them, and made again when they are lost.

use super::*;
use crate::graph::Key;

/// A worker that holds `g1.1`, which nobody needs any more once its dependent is durable.
fn value_and_its_consumer() -> Story {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[0])], &[1]));
    s.sync();
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.sync();
    s.skip();
    s
}

#[test]
fn a_value_is_freed_once_the_completion_that_frees_it_is_durable() {
    let mut s = value_and_its_consumer();
    s.finish(1, held(execution(task(1, 1), 1, 1)));
    comes!(s, Action::Persist { record: Record::Fates(_), .. });
    comes!(s, Action::ToWorker { message: ToWorker::Acknowledge { .. }, .. });
    s.quiet();
    s.sync();
    comes!(s, Action::ToWorker { message: ToWorker::Free(tasks), .. } if tasks == [task(1, 0)]);
    s.quiet();
}

#[test]
fn a_value_that_was_needed_again_waits_for_its_last_consumer_to_be_durable() {
    let mut s = value_and_its_consumer();
    s.finish(1, held(execution(task(1, 1), 1, 1)));
    let first_consumer = JournalSeq(s.journal.len() as u64);
    s.submit(10, graph_upon(task(1, 0), &[(kernel(), &[u32::MAX])]));
    s.finish(1, held(execution(task(2, 0), 1, 1)));
    s.skip();
    s.tell(Event::Durable(first_consumer));
    s.quiet();
    s.sync();
    comes!(s, Action::ToWorker { message: ToWorker::Free(tasks), .. } if tasks == [task(2, 0), task(1, 0)]);
    s.quiet();
}

#[test]
fn a_superfluous_value_of_a_returning_worker_goes_in_the_ordinary_way() {
    let mut s = value_and_its_consumer();
    s.finish(1, held(execution(task(1, 1), 1, 1)));
    s.lose(1);
    s.skip();
    let holds = vec![Holding { task: task(1, 0), nbytes: 8 }, Holding { task: task(1, 1), nbytes: 8 }];
    s.register(2, Registration { holds, ..registration("w") });
    comes!(s, Action::ToWorker { message: ToWorker::Welcome { .. }, .. });
    s.quiet();
    assert_eq!((s.state(task(1, 0)), s.state(task(1, 1))), ("held", "held"));
    s.sync();
    comes!(s, Action::ToWorker { message: ToWorker::Free(tasks), .. } if tasks == [task(1, 0)]);
}

#[test]
fn new_tasks_upon_a_released_value_have_it_made_again_once() {
    let mut s = value_and_its_consumer();
    s.finish(1, held(execution(task(1, 1), 1, 1)));
    s.sync();
    s.skip();
    s.submit(
        10,
        graph_upon(task(1, 0), &[(kernel(), &[u32::MAX]), (kernel(), &[u32::MAX, 0]), (kernel(), &[1])]),
    );
    assert_eq!(s.state(task(1, 0)), "assigned");
    assert_eq!(s.state(task(2, 1)), "waiting");
    s.finish(1, held(execution(task(1, 0), 1, 2)));
    assert_eq!(s.state(task(2, 0)), "assigned");
}

#[test]
fn a_value_that_cannot_be_read_back_is_made_again() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[])], &[0]));
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.sync();
    s.skip();
    s.worker_says(1, FromWorker::ValuesLost(vec![task(1, 0)]));
    comes!(s, Action::ToWorker { message: ToWorker::Compute(_), after: None, .. });
    s.quiet();
}

#[test]
fn a_wait_for_a_task_whose_value_is_lost_at_once_goes_on() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[])], &[0]));
    s.sync();
    s.ask(Request::Wait { keys: vec![crate::graph::Key::Task(task(1, 0))], progress: false });
    s.skip();
    let finished = FromWorker::Finished(vec![held(execution(task(1, 0), 1, 1))]);
    let events = [finished, FromWorker::ValuesLost(vec![task(1, 0)])];
    s.tell_all(events.map(|message| Event::FromWorker { peer: PeerId(1), message }).into());
    assert!(!s.out.iter().any(|action| matches!(action, Action::ToClient { .. })));
    s.finish(1, held(execution(task(1, 0), 1, 2)));
    assert!(s.out.iter().any(|action| matches!(action, Action::ToClient { .. })));
}

/// Two workers, of which the first holds the only value of a graph that is to have two holders.
fn pinned_value() -> Story {
    value_to_keep(false)
}

fn value_to_keep(unconfirmed: bool) -> Story {
    let mut s = Story::new();
    s.register(1, registration("w1"));
    s.submit_with(
        9,
        graph(&[(kernel(), &[])], &[0]),
        GraphOptions { replicas: 2, unconfirmed, ..GraphOptions::default() },
    );
    s.sync();
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.sync();
    s.skip();
    s.register(2, registration("w2"));
    s
}

fn answer(s: &mut Story) -> Reply {
    s.sync();
    let reply = std::iter::from_fn(|| s.next()).find_map(|action| match action {
        Action::ToClient { message, .. } => Some(message.reply),
        _ => None,
    });
    reply.unwrap()
}

fn pin(s: &mut Story) -> Reply {
    s.skip();
    s.ask(Request::Pin { request: RequestId(78), key: Key::Graph(GraphId(1)) });
    answer(s)
}

#[test]
fn a_graph_is_pinned_only_when_that_is_confirmed() {
    let in_history = |s: &Story| {
        let base = s.core.snapshot().into_iter().find_map(|record| match record {
            Record::Base(base) => Some(base.history),
            _ => None,
        });
        base.unwrap()
    };
    let mut s = value_to_keep(true);
    assert_eq!(in_history(&s), [GraphId(1)], "its turn to be forgotten comes, as any other's");
    s.restart();
    assert_eq!(in_history(&s), [GraphId(1)]);
    assert_eq!(pin(&mut s), Reply::Pinned);
    assert_eq!(in_history(&s), []);
    let journalled = s.journal.len();
    assert_eq!(pin(&mut s), Reply::Pinned);
    assert_eq!(s.journal.len(), journalled, "the same again is not journalled");
    s.restart();
    assert_eq!(in_history(&s), []);
}

#[test]
fn who_cancels_a_graph_that_was_to_be_kept_frees_its_values() {
    for unconfirmed in [true, false] {
        let mut s = value_to_keep(unconfirmed);
        s.skip();
        s.ask(Request::Cancel { request: RequestId(77), keys: vec![Key::Graph(GraphId(1))] });
        assert_eq!(answer(&mut s), Reply::Cancelled { tasks: 0 });
        assert_eq!(s.state(task(1, 0)), "released");
        assert!(matches!(pin(&mut s), Reply::Refused { kind: RefusalKind::Unknown, .. }));
        s.restart();
        assert_eq!(s.state(task(1, 0)), "released");
        s.ask(Request::Cancel { request: RequestId(77), keys: vec![Key::Graph(GraphId(1))] });
        assert_eq!(answer(&mut s), Reply::Cancelled { tasks: 0 }, "a repeat is known");
    }
}

fn replica(worker: u64) -> Event {
    let message = FromWorker::Replicas(vec![Holding { task: task(1, 0), nbytes: 8 }]);
    Event::FromWorker { peer: PeerId(worker), message }
}

#[test]
fn a_pinned_value_gets_a_second_holder_and_another_when_one_is_lost() {
    let mut s = pinned_value();
    comes!(s, Action::ToWorker { message: ToWorker::Welcome { .. }, .. });
    comes!(s, Action::ToWorker { peer: PeerId(2), message: ToWorker::Peers(peers), .. } if peers.len() == 1);
    comes!(s, Action::ToWorker { peer: PeerId(2), message: ToWorker::Replicate(values), .. } if values[0].0 == task(1, 0));
    s.quiet();
    s.tell(replica(2));
    s.quiet();
    s.register(3, registration("w3"));
    comes!(s, Action::ToWorker { message: ToWorker::Welcome { .. }, .. });
    s.quiet();
    // Its first holder goes: the second has it, and a third gets it.
    s.lose(1);
    s.skip_until(|action| {
        matches!(action, Action::ToWorker { peer: PeerId(3), message: ToWorker::Replicate(_), .. })
    });
    assert_eq!(s.state(task(1, 0)), "held");
    s.tell(replica(3));
    s.lose(2);
    s.skip();
    assert_eq!(s.state(task(1, 0)), "held");
    // With its last holder it is made again, if there is anybody to make it.
    s.lose(3);
    assert_eq!(s.state(task(1, 0)), "ready");
}

#[test]
fn a_worker_that_can_not_get_a_pinned_value_is_asked_again_and_one_that_is_let_go_of_is_freed() {
    let mut s = pinned_value();
    s.skip();
    let message = FromWorker::ValuesLost(vec![task(1, 0)]);
    s.tell(Event::FromWorker { peer: PeerId(2), message });
    comes!(s, Action::ToWorker { peer: PeerId(2), message: ToWorker::Replicate(_), .. });
    s.quiet();
    s.tell(replica(2));
    s.ask(Request::Unpin { request: RequestId(77), key: Key::Graph(GraphId(1)) });
    s.sync();
    let mut freed = Vec::new();
    while let Some(action) = s.out.pop_front() {
        if let Action::ToWorker { peer, message: ToWorker::Free(tasks), .. } = action {
            assert_eq!(tasks, [task(1, 0)]);
            freed.push(peer);
        }
    }
    assert_eq!(freed, [PeerId(1), PeerId(2)]);
    assert_eq!(s.state(task(1, 0)), "released");
}

#[test]
fn a_later_scheduler_knows_which_values_are_pinned() {
    let mut s = pinned_value();
    s.tell(replica(2));
    s.skip();
    s.restart();
    let holds = vec![Holding { task: task(1, 0), nbytes: 8 }];
    s.register(1, Registration { holds, ..registration("w1") });
    s.register(2, registration("w2"));
    s.skip_until(|action| {
        matches!(action, Action::ToWorker { peer: PeerId(2), message: ToWorker::Replicate(_), .. })
    });
    s.ask(Request::Unpin { request: RequestId(77), key: Key::Task(task(1, 0)) });
    s.sync();
    s.restart();
    assert_eq!(s.state(task(1, 0)), "released", "it was let go of, and nothing makes it again");
}

/// A pinned value that both workers hold, and that the second one doesn't give to the third.
fn denied_by_the_second() -> Story {
    let mut s = pinned_value();
    s.tell(replica(2));
    s.register(3, registration("w3"));
    s.submit(
        10,
        graph_upon(task(1, 0), &[(kernel(), &[u32::MAX]), (kernel(), &[u32::MAX]), (kernel(), &[u32::MAX])]),
    );
    s.sync();
    s.skip();
    let consumer = (0..3).map(|index| task(2, index)).find(|task| s.worker_of(*task) == Some(3)).unwrap();
    let missing = MissingInput { denied: vec![WorkerIndex(1)], ..MissingInput::new(task(1, 0)) };
    let outcome = Outcome::InputsMissing(vec![missing]);
    s.finish(3, Completion { execution: execution(consumer, 1, 1), nanos: 1, outcome });
    s
}

fn asked_to_hold_it(action: &Action) -> Option<u64> {
    match action {
        Action::ToWorker { peer, message: ToWorker::Replicate(_), .. } => Some(peer.0),
        _ => None,
    }
}

#[test]
fn a_report_that_crosses_the_order_to_let_go_of_a_value_is_not_believed() {
    let mut s = denied_by_the_second();
    s.skip_until(|action| {
        matches!(action, Action::ToWorker { peer: PeerId(2), message: ToWorker::Strike(values), .. } if values[..] == [task(1, 0)])
    });
    s.skip();
    // It said so before it was told to let go.
    s.tell(replica(2));
    s.lose(1);
    assert_ne!(s.state(task(1, 0)), "held", "its only holder is gone");
}

#[test]
fn a_worker_that_has_let_go_of_a_value_may_hold_it_again() {
    let mut s = denied_by_the_second();
    let asked = s.out.iter().find_map(asked_to_hold_it);
    assert!(asked.is_some(), "one holder is too few");
    s.worker_says(2, FromWorker::ValuesLost(vec![task(1, 0)]));
    s.tell(replica(2));
    s.lose(1);
    assert_eq!(s.state(task(1, 0)), "held");
}

#[test]
fn a_worker_that_connects_anew_is_believed_again() {
    let mut s = denied_by_the_second();
    s.register(
        4,
        Registration { holds: vec![Holding { task: task(1, 0), nbytes: 8 }], ..registration("w2") },
    );
    s.lose(1);
    assert_eq!(s.state(task(1, 0)), "held");
}

#[test]
fn a_value_that_is_found_while_it_is_made_again_is_made_no_more() {
    let mut s = pinned_value();
    s.lose(1);
    assert_eq!(s.worker_of(task(1, 0)), Some(2), "the only holder is gone");
    s.skip();
    s.register(
        3,
        Registration { holds: vec![Holding { task: task(1, 0), nbytes: 8 }], ..registration("w1") },
    );
    assert_eq!(s.state(task(1, 0)), "held");
    s.skip_until(|action| {
        matches!(action, Action::ToWorker { peer: PeerId(2), message: ToWorker::Cancel(_), .. })
    });
}

#[test]
fn a_graph_is_cancelled_as_a_whole_and_what_depends_on_it_fails() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[0]), (kernel(), &[1])], &[2]));
    s.submit(10, graph_upon(task(1, 2), &[(kernel(), &[u32::MAX])]));
    s.skip();
    s.ask(Request::Cancel { request: RequestId(11), keys: vec![crate::graph::Key::Graph(GraphId(1))] });
    comes!(s, Action::Persist { record: Record::Cancelled { tasks, .. }, .. } if tasks.len() == 3);
    comes!(s, Action::ToClient { message: ToClient { reply: Reply::Cancelled { tasks: 3 }, .. }, .. });
    comes!(s, Action::ToWorker { message: ToWorker::Cancel(executions), .. } if executions.len() == 1);
    s.quiet();
    for index in 0..3 {
        assert_eq!(s.state(task(1, index)), "cancelled");
    }
    assert_eq!(s.state(task(2, 0)), "erred");
}

#[test]
fn who_waits_is_told_of_a_kernels_end_at_once_and_of_a_commands_when_it_is_durable() {
    let told = |by: JournalSeq| {
        move |action: &Action| {
            let settled = |message: &ToClient| matches!(message.reply, Reply::Settled { .. });
            matches!(action, Action::ToClient { message, after, .. } if settled(message) && *after == Some(by))
        }
    };
    let key = |graph| vec![crate::graph::Key::Graph(GraphId(graph))];
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[])], &[0]));
    let submitted = JournalSeq(s.journal.len() as u64);
    s.ask(Request::Wait { keys: key(1), progress: false });
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.skip_until(told(submitted));
    s.submit(10, graph(&[(command(0, 0), &[])], &[0]));
    s.ask(Request::Wait { keys: key(2), progress: false });
    let outcome = Outcome::Command { result: Box::default(), outputs: vec![] };
    s.finish(1, Completion { execution: execution(task(2, 0), 1, 1), nanos: 1, outcome });
    s.skip_until(told(JournalSeq(s.journal.len() as u64)));
}
