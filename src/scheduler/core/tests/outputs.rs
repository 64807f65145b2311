//! Declared outputs: accepted once, and brought to their place by whoever is there.

use super::*;

/// A command's output was accepted, and its worker told to place it.
fn accepted() -> Story {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(command(1, 0), &[])], &[]));
    s.sync();
    s.skip();
    s.finish(1, written(execution(task(1, 0), 1, 1)));
    comes!(s, Action::Persist { record: Record::Fates(fates), .. } if matches!(fates[0].1, Fate::Accepted { .. }));
    comes!(s, Action::ToWorker { message: ToWorker::Acknowledge { .. }, .. });
    comes!(s, Action::ToWorker { message: ToWorker::Place { .. }, after: Some(_), .. });
    s.quiet();
    s
}

fn placed(s: &mut Story, peer: u64) {
    s.sync();
    let execution = execution(task(1, 0), 1, 1);
    s.worker_says(peer, FromWorker::Placed { execution, outcome: PlaceOutcome::Done });
    comes!(s, Action::Persist { record: Record::Fates(fates), .. } if fates[0].1 == Fate::Placed);
    s.quiet();
    assert_eq!(s.state(task(1, 0)), "stored");
}

#[test]
fn a_worker_with_a_new_link_is_told_again_to_place_outputs() {
    let mut s = accepted();
    // The message to it, or its answer, was lost with the old link; the acknowledgement had come.
    s.register(2, registration("w"));
    comes!(s, Action::Close { peer: PeerId(1), .. });
    comes!(s, Action::ToWorker { message: ToWorker::Welcome { .. }, .. });
    comes!(s, Action::ToWorker { peer: PeerId(2), message: ToWorker::Place { .. }, .. });
    placed(&mut s, 2);
}

#[test]
fn outputs_of_a_lost_worker_are_placed_by_the_next_one() {
    let mut s = accepted();
    s.lose(1);
    comes!(s, Action::Poll);
    s.quiet();
    s.register(2, registration("v"));
    comes!(s, Action::ToWorker { message: ToWorker::Welcome { .. }, .. });
    comes!(s, Action::ToWorker { peer: PeerId(2), message: ToWorker::Place { .. }, .. });
    placed(&mut s, 2);
}

#[test]
fn outputs_that_are_gone_revoke_the_acceptance() {
    let mut s = accepted();
    let execution = execution(task(1, 0), 1, 1);
    s.worker_says(1, FromWorker::Placed { execution, outcome: PlaceOutcome::Gone("gone".into()) });
    comes!(s, Action::Persist { record: Record::Fates(fates), .. } if fates[0].1 == Fate::Revoked);
    comes!(s, Action::Persist { record: Record::Assigned { executions, .. }, .. } if executions[0].attempt == 2);
    comes!(s, Action::ToWorker { message: ToWorker::Compute(_), after: Some(_), .. });
    s.quiet();
}

#[test]
fn what_a_failed_graph_was_writing_is_removed_by_the_first_worker_there_is() {
    let mut s = Story::new();
    let submit = |request, columns| Request::Submit {
        request: RequestId(request),
        part: 0,
        last: true,
        columns: Box::new(columns),
        options: GraphOptions { unfinished: vec![output()], ..GraphOptions::default() },
    };
    s.register(1, registration("w"));
    s.ask(submit(9, graph(&[(kernel(), &[])], &[])));
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.ask(submit(10, graph(&[(kernel(), &[]), (kernel(), &[0])], &[])));
    s.skip();
    s.finish(1, erred(execution(task(2, 0), 1, 1)));
    comes!(s, Action::Persist { record: Record::Fates(_), .. });
    comes!(s, Action::ToWorker { message: ToWorker::Acknowledge { .. }, .. });
    comes!(s, Action::ToWorker { message: ToWorker::Discard { outputs }, after: Some(_), .. } if outputs == [output()]);
    comes!(s, Action::ToWorker { message: ToWorker::Cancel(_), .. });
    s.quiet();
    s.lose(1);
    s.ask(submit(11, graph(&[(kernel(), &[])], &[])));
    s.ask(Request::Cancel { request: RequestId(12), keys: vec![crate::graph::Key::Graph(GraphId(3))] });
    s.skip();
    s.register(2, registration("v"));
    comes!(s, Action::ToWorker { message: ToWorker::Welcome { .. }, .. });
    comes!(s, Action::ToWorker { peer: PeerId(2), message: ToWorker::Discard { .. }, .. });
    s.quiet();
}

#[test]
fn outputs_that_could_not_be_placed_hold_nobody_up_after_a_restart() {
    let mut s = accepted();
    s.sync();
    let outcome = PlaceOutcome::Failed("permission denied".into());
    s.worker_says(1, FromWorker::Placed { execution: execution(task(1, 0), 1, 1), outcome });
    assert_eq!(s.state(task(1, 0)), "erred");
    s.restart();
    s.ask(Request::Down { drain_ms: 3_600_000 });
    s.tell(Event::Tick);
    assert!(s.out.iter().any(|action| matches!(action, Action::Exit { .. })), "{:?}", s.out);
}

#[test]
fn accepted_outputs_come_to_their_place_whatever_becomes_of_what_their_command_waited_for() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[]), (command(1, 0), &[0])], &[0]));
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.finish(1, written(execution(task(1, 1), 1, 1)));
    s.worker_says(1, FromWorker::ValuesLost(vec![task(1, 0)]));
    s.finish(1, erred(execution(task(1, 0), 1, 2)));
    assert_eq!((s.state(task(1, 0)), s.state(task(1, 1))), ("erred", "accepted"));
    s.worker_says(
        1,
        FromWorker::Placed { execution: execution(task(1, 1), 1, 1), outcome: PlaceOutcome::Done },
    );
    for _ in 0..2 {
        assert_eq!(s.state(task(1, 1)), "stored");
        s.restart();
    }
}
