//! What failed is tried again.

use super::*;
use crate::graph::Key;

const GRAPH: GraphId = GraphId(1);

fn retry(s: &mut Story, request: u128, keys: Vec<Key>) -> u64 {
    s.skip();
    s.ask(Request::Retry { request: RequestId(request), keys });
    let reply = s.out.iter().find_map(|action| match action {
        Action::ToClient { message: ToClient { reply: Reply::Retried { tasks }, .. }, .. } => Some(*tasks),
        _ => None,
    });
    reply.unwrap_or_else(|| panic!("no answer in {:?}", s.out))
}

fn states(s: &Story, tasks: u32) -> Vec<&'static str> {
    (0..tasks).map(|index| s.state(task(1, index))).collect()
}

/// 0 and 1 are there for 2, which 3 needs.
fn failed_diamond() -> Story {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[]), (kernel(), &[0, 1]), (kernel(), &[2])], &[3]));
    s.sync();
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    s.finish(1, erred(execution(task(1, 1), 1, 1)));
    s.sync();
    assert_eq!(states(&s, 4), ["released", "erred", "erred", "erred"]);
    s
}

#[test]
fn a_failed_task_takes_along_what_it_needs_and_what_failed_by_it() {
    // Whichever is named: the cause, a consequence in the middle, or all of them.
    for key in [Key::Task(task(1, 1)), Key::Task(task(1, 2)), Key::Graph(GRAPH)] {
        let mut s = failed_diamond();
        assert_eq!(retry(&mut s, 20, vec![key]), 3);
        // What was released has to be made again too.
        assert_eq!(states(&s, 4), ["assigned", "ready", "waiting", "waiting"]);
        s.sync();
        s.finish(1, held(execution(task(1, 0), 1, 2)));
        s.finish(1, held(execution(task(1, 1), 1, 2)));
        s.finish(1, held(execution(task(1, 2), 1, 1)));
        s.finish(1, held(execution(task(1, 3), 1, 1)));
        s.sync();
        assert_eq!(states(&s, 4), ["released", "released", "released", "held"]);
    }
}

#[test]
fn a_retry_survives_a_restart_before_and_after_its_end() {
    let mut s = failed_diamond();
    assert_eq!(retry(&mut s, 20, vec![Key::Graph(GRAPH)]), 3);
    s.restart();
    assert_eq!(&states(&s, 4)[1..], ["ready", "waiting", "waiting"]);
    assert_eq!(retry(&mut s, 20, vec![Key::Graph(GRAPH)]), 3, "a repeat has the first answer");
    assert_eq!(retry(&mut s, 21, vec![Key::Graph(GRAPH)]), 0, "nothing of it has failed");
    let snapshot = s.core.snapshot();
    s.core = s.restored(snapshot);
    assert_eq!(retry(&mut s, 20, vec![Key::Graph(GRAPH)]), 3, "also by a snapshot");
}

#[test]
fn a_consequence_of_another_failure_stays_as_it_is() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[]), (kernel(), &[0, 1])], &[2]));
    s.sync();
    s.finish(1, erred(execution(task(1, 0), 1, 1)));
    s.finish(1, erred(execution(task(1, 1), 1, 1)));
    assert_eq!(retry(&mut s, 20, vec![Key::Task(task(1, 0))]), 1);
    assert_eq!(states(&s, 3), ["assigned", "erred", "erred"]);
    // Its second failure counts like the first; then all at once.
    s.finish(1, erred(execution(task(1, 0), 1, 2)));
    assert_eq!(retry(&mut s, 21, vec![Key::Task(task(1, 2))]), 3);
}

#[test]
fn a_cancelled_command_runs_again_with_its_whole_budget_and_a_late_end_is_stale() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(command(0, 1), &[])], &[]));
    s.sync();
    s.finish(1, erred(execution(task(1, 0), 1, 1)));
    s.sync();
    s.ask(Request::Cancel { request: RequestId(19), keys: vec![Key::Graph(GRAPH)] });
    assert_eq!(retry(&mut s, 20, vec![Key::Graph(GRAPH)]), 1);
    s.sync();
    s.finish(1, erred(execution(task(1, 0), 1, 2)));
    assert_eq!(s.state(task(1, 0)), "assigned", "that was of the cancelled one");
    s.finish(1, erred(execution(task(1, 0), 1, 3)));
    s.sync();
    assert_eq!(s.state(task(1, 0)), "assigned", "there is a retry left");
    s.finish(1, erred(execution(task(1, 0), 1, 4)));
    assert_eq!(s.state(task(1, 0)), "erred");
}

#[test]
fn what_was_cleaned_up_is_refused() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    let options = GraphOptions { unfinished: vec![output()], label: "means".into(), ..Default::default() };
    s.submit_with(9, graph(&[(kernel(), &[])], &[]), options);
    s.finish(1, erred(execution(task(1, 0), 1, 1)));
    s.skip();
    s.ask(Request::Retry { request: RequestId(20), keys: vec![Key::Graph(GRAPH)] });
    comes!(s, Action::ToClient { message: ToClient { reply: Reply::Refused { reason, .. }, .. }, .. } if reason.contains("means"));
    s.quiet();
}
