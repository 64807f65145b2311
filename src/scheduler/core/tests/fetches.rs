//! Fetches that fail: whose word counts, and what is made again.

use super::*;

/// The value `g1.0` is on the first worker, which is busy; the second one, of those that came after, is to compute with it.
fn a_value_elsewhere() -> Story {
    let mut s = Story::new();
    s.register(1, registration("holder"));
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[0]), (kernel(), &[0])], &[0]));
    s.sync();
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    assert_eq!(s.worker_of(task(1, 1)), Some(1));
    s.register(2, registration("w2"));
    assert_eq!(s.worker_of(task(1, 2)), Some(2));
    s.sync();
    s.skip();
    s
}

/// The worker at this link gives `g1.2` back: it could not get `g1.0` from the first worker.
fn out_of_reach(attempt: u32) -> Completion {
    let missing = MissingInput { unreachable: vec![WorkerIndex(0)], ..MissingInput::new(task(1, 0)) };
    let outcome = Outcome::InputsMissing(vec![missing]);
    Completion { execution: execution(task(1, 2), 1, attempt), nanos: 0, outcome }
}

#[test]
fn a_holder_that_one_worker_cannot_reach_keeps_its_value_and_the_task_goes_to_another() {
    let mut s = a_value_elsewhere();
    s.finish(2, out_of_reach(1));
    assert_eq!((s.state(task(1, 0)), s.state(task(1, 2))), ("held", "ready"));
    // The worker that couldn't reach the holder gets other tasks, queued behind this one.
    s.submit(10, graph(&[(kernel(), &[])], &[]));
    assert_eq!(s.worker_of(task(2, 0)), Some(2));
    s.register(3, registration("w3"));
    assert_eq!(s.worker_of(task(1, 2)), Some(3));
    assert_eq!(s.state(task(1, 0)), "held");
}

#[test]
fn a_worker_that_connects_anew_is_trusted_again() {
    let mut s = a_value_elsewhere();
    s.finish(2, out_of_reach(1));
    assert_eq!(s.state(task(1, 2)), "ready");
    s.register(3, registration("w2"));
    assert_eq!(s.worker_of(task(1, 2)), Some(3));
}

#[test]
fn a_value_that_its_holder_denies_is_made_again_at_once() {
    let mut s = a_value_elsewhere();
    let missing = MissingInput { denied: vec![WorkerIndex(0)], ..MissingInput::new(task(1, 0)) };
    let outcome = Outcome::InputsMissing(vec![missing]);
    s.finish(2, Completion { execution: execution(task(1, 2), 1, 1), nanos: 0, outcome });
    assert_eq!(s.state(task(1, 2)), "waiting");
    assert_eq!(s.worker_of(task(1, 0)), Some(2));
}

#[test]
fn a_value_that_three_workers_could_not_get_is_made_again() {
    let mut s = a_value_elsewhere();
    s.finish(2, out_of_reach(1));
    s.register(3, registration("w3"));
    s.finish(3, out_of_reach(2));
    s.register(4, registration("w4"));
    assert_eq!(s.state(task(1, 0)), "held");
    s.finish(4, out_of_reach(3));
    assert_eq!((s.state(task(1, 0)), s.state(task(1, 2))), ("assigned", "waiting"));
    assert!(s.worker_of(task(1, 0)).is_some_and(|worker| worker != 1), "its holder is still busy");
}

#[test]
fn a_value_that_nobody_who_takes_tasks_can_reach_is_made_again() {
    let mut s = a_value_elsewhere();
    s.finish(2, out_of_reach(1));
    assert_eq!(s.state(task(1, 2)), "ready");
    // The holder takes nothing more: it is leaving.
    let outcome = Outcome::Cancelled;
    s.finish(1, Completion { execution: execution(task(1, 1), 1, 1), nanos: 0, outcome });
    assert_eq!(s.worker_of(task(1, 0)), Some(2));
    assert_eq!((s.state(task(1, 1)), s.state(task(1, 2))), ("waiting", "waiting"));
}

#[test]
fn workers_that_cannot_reach_each_other_at_all_fail_the_task_in_the_end() {
    let mut s = Story::new();
    s.register(1, registration("w1"));
    s.register(2, registration("w2"));
    let (first, second, both) = (task(1, 0), task(1, 1), task(1, 2));
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[]), (kernel(), &[0, 1])], &[]));
    for round in 0..100 {
        // Some seconds lie between two tries.
        if round > 0 && s.state(both) == "ready" {
            [1, 2]
                .into_iter()
                .for_each(|peer| s.worker_says(peer, FromWorker::Heartbeat { memory: 0, running: 0 }));
            s.wait_secs(5);
        }
        for value in [first, second] {
            if let Some(maker) = s.worker_of(value) {
                s.finish(maker, held(s.core.current_execution(value).unwrap()));
            }
        }
        let Some(worker) = s.worker_of(both) else { continue };
        let missing = [first, second].map(|task| MissingInput {
            unreachable: vec![WorkerIndex(if worker == 1 { 1 } else { 0 })],
            ..MissingInput::new(task)
        });
        let execution = s.core.current_execution(both).unwrap();
        let outcome = Outcome::InputsMissing(missing.into());
        s.finish(worker, Completion { execution, nanos: 0, outcome });
    }
    assert_eq!(s.state(both), "erred");
    assert!(s.now >= Time(30_000_000_000), "what has broken routes had time to pass: {:?}", s.now);
    s.submit(10, graph(&[(kernel(), &[]), (kernel(), &[])], &[]));
    assert!(s.worker_of(task(2, 0)).is_some() && s.worker_of(task(2, 1)).is_some());
}
