//! Why something is as it is.

use crate::bringing::{has_started, hold, let_go};
use crate::support::eventually_sync;
use crate::support::sandbox::{Sandbox, as_json};

fn why(sandbox: &Sandbox, subject: &str) -> String {
    sandbox.ok(["why", subject])
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    words.iter().for_each(|word| assert!(text.contains(word), "`{word}` is not in: {text}"));
}

#[test]
fn a_task_that_waits_or_runs_says_for_what_and_where() {
    let sandbox = Sandbox::new();
    hold(&sandbox);
    sandbox.up(1);
    sandbox.ok(["submit", "--key", "first", "--", "hold", "first"]);
    sandbox.ok(["submit", "--key", "second", "--after", "first", "--", "true"]);
    sandbox.ok(["submit", "--key", "third", "--", "true"]);
    has_started(&sandbox, "first");
    says(&why(&sandbox, "first"), &["first (g1.1): hold is assigned", "attempt 1 was given to worker w1"]);
    says(
        &why(&sandbox, "second"),
        &["second (g2.1): true is waiting", "1 of the 1 tasks", "first is assigned"],
    );
    says(&why(&sandbox, "third"), &["is ready", "the 1 worker that could run it is busy; 0 tasks"]);
    says(&why(&sandbox, "w1"), &["worker w1 is connected", "allocation a1", "given to it: first"]);
    says(&why(&sandbox, "a1"), &["allocation a1 is running", "worker w1: connected"]);
    says(&why(&sandbox, "g2"), &["g2 is open", "1 tasks: 1 waiting", "second (g2.1)"]);
    sandbox.run(["why", "w7"]).exits(2).says("no task, graph, worker or allocation 'w7'");
    let_go(&sandbox, "first");
    sandbox.ok(["wait", "--timeout", "100s"]);
    says(&why(&sandbox, "third"), &["is done", "it ended well", "the scheduler has its result"]);
}

#[test]
fn a_task_without_a_worker_says_what_became_of_those_that_were_asked_for() {
    let sandbox = Sandbox::new();
    let up = ["up", "--queue", "local", "--workers", "1", "--set", "profile.queue_wait=1h"];
    sandbox.ok(up);
    sandbox.ok(["submit", "--key", "k", "--", "true"]);
    sandbox.until("a pending job", |status| status["pending"] == 1);
    says(
        &why(&sandbox, "k"),
        &["k (g1.1): true is ready", "no worker is connected", "allocation a1: job 1, pending"],
    );
    sandbox.ok(["scale", "0"]);
    eventually_sync("its word", || why(&sandbox, "k").contains("no workers are asked for").then_some(()));
}

#[test]
fn a_task_that_failed_says_how_and_what_failed_by_it_says_where_it_began() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    sandbox
        .run(["submit", "--key", "slow", "--time-limit", "200ms", "--wait", "--", "sleep", "100"])
        .exits(1);
    says(
        &why(&sandbox, "slow"),
        &["slow (g1.1): sleep is failed", "its time limit of 0.2 s", "`jq retry slow`"],
    );
    let segfault =
        ["submit", "--key", "crash", "--retries", "1", "--wait", "--", "sh", "-c", "kill -SEGV $$"];
    sandbox.run(segfault).exits(1);
    says(&why(&sandbox, "crash"), &["SIGSEGV", "1 earlier attempts failed", "attempt 2"]);
    for (key, after) in [("middle", "crash"), ("end", "middle")] {
        sandbox.run(["submit", "--key", key, "--after", after, "--wait", "--", "true"]).exits(1);
    }
    says(&why(&sandbox, "end"), &["the cause is crash:", "SIGSEGV", "`jq retry crash`"]);
    sandbox.ok(["submit", "--key", "gone", "--after", "slow", "--", "true"]);
    let all = sandbox.json(["why", "g1"]);
    assert_eq!(
        (&all["about"][0]["state"], &all["about"][1]["state"]),
        (&"settled".into(), &"erred".into()),
        "{all}"
    );
}

#[test]
fn a_task_that_kills_its_workers_is_told_with_their_deaths() {
    let sandbox = Sandbox::configured("[task]\nallowed_failures = 2\n");
    sandbox.up(2);
    // Whoever runs it dies, and the other task with it, which isn't blamed alone.
    sandbox
        .run(["submit", "--key", "poison", "--wait", "--", "sh", "-c", "kill -9 $PPID; sleep 100"])
        .exits(1);
    let story = why(&sandbox, "poison");
    says(
        &story,
        &[
            "poison (g1.1): sh is failed",
            "2 workers were lost while they ran it",
            "was lost while it ran it:",
        ],
    );
    says(&story, &["SIGKILL"]);
    let killed = story.lines().find_map(|line| line.trim().strip_prefix("worker ")).unwrap();
    let worker = killed.split(' ').next().unwrap();
    let told = sandbox.run(as_json(["why", worker])).exits(0).json();
    let deaths: Vec<_> =
        told["about"].as_array().unwrap().iter().flat_map(|row| row["deaths"].as_array().unwrap()).collect();
    assert!(deaths.iter().any(|death| death["signal"] == 9 && death["worker"] == worker), "{told}");
    says(&why(&sandbox, worker), &["it ran then: poison", "ended by signal SIGKILL"]);
    // The cluster serves on.
    sandbox.ok(["submit", "--wait", "--", "true"]);
}
