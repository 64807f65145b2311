//! The scheduler in a batch job of its own: launched, relieved before its walltime, killed, and never in the way.

use crate::support::sandbox::{Sandbox, finish, start};
use crate::support::{eventually_sync, is_alive};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

const JOB: [&str; 2] = ["--scheduler", "job"];

fn up_in_job(sandbox: &Sandbox, workers: u32, flags: &[&str]) {
    sandbox.up_with(workers, &[&JOB, flags].concat());
}

fn epoch(sandbox: &Sandbox) -> i64 {
    sandbox.contact()["epoch"].as_integer().unwrap()
}

fn text(sandbox: &Sandbox, key: &str) -> String {
    sandbox.contact()[key].as_str().unwrap().to_owned()
}

/// One line a run in `runs`, so that what ran twice is seen.
fn map_slowly(sandbox: &Sandbox, count: u32, seconds: &str) -> String {
    let numbers: Vec<String> = (1..=count).map(|n| n.to_string()).collect();
    let command = format!("sleep {seconds}; echo $0 >> runs");
    let mut words = vec!["map", "sh", "-c", &command, "{}", ":::"];
    words.extend(numbers.iter().map(String::as_str));
    sandbox.ok(words).trim().to_owned()
}

fn runs(sandbox: &Sandbox) -> Vec<u32> {
    let mut runs: Vec<u32> = sandbox.read("runs").lines().map(|line| line.parse().unwrap()).collect();
    runs.sort_unstable();
    runs
}

#[test]
fn the_scheduler_runs_in_a_job_with_its_workers_after_it() {
    let sandbox = Sandbox::new();
    up_in_job(&sandbox, 2, &[]);
    assert_eq!((text(&sandbox, "job"), epoch(&sandbox)), ("1".into(), 1), "the first job of the queue");
    let script = fs::read_to_string(
        sandbox.cluster("default").join(format!("allocations/{}.sh", text(&sandbox, "job_name"))),
    )
    .unwrap();
    assert!(script.contains("'scheduler' ") && script.contains("#JOBQ --slots=1"), "{script}");
    let status = sandbox.status();
    assert_eq!((&status["connected"], &status["target"]), (&2.into(), &2.into()));
    let names: Vec<&str> =
        status["allocations"].as_array().unwrap().iter().map(|a| a["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["a1", "a2"], "those that were asked for with it, and no others");
    // Where the scheduler is, and until when.
    let of_scheduler = &status["scheduler"];
    assert_eq!((&of_scheduler["job"], &of_scheduler["queue"]), (&"1".into(), &"".into()), "{status}");
    assert!(of_scheduler["walltime_left_s"].as_u64().unwrap() > 0, "{status}");
    let shown = sandbox.ok(["status"]);
    assert!(shown.contains("scheduler: job 1 on ") && shown.contains(", which ends in "), "{shown}");
    sandbox.ok(["submit", "--wait", "--", "true"]);
    assert!(sandbox.ok(["logs", "scheduler"]).contains("epoch 1 of cluster default"));

    // The same again changes nothing; elsewhere is another cluster.
    assert!(sandbox.ok(["up", "--queue", "local", "--scheduler", "job"]).contains("is up already"));
    let here = sandbox.run(["up", "--queue", "local", "--scheduler", "here"]).exits(78);
    here.says("scheduler.place");
    let down = sandbox.run(["down"]).exits(0);
    assert!(!down.text().contains("didn't end"), "its own job ends by itself: {}", down.text());
    sandbox.nothing_runs();
}

#[test]
fn schedulers_relieve_each_other_while_tasks_run_and_a_client_waits() {
    let sandbox = Sandbox::new();
    up_in_job(&sandbox, 2, &["--set", "scheduler.walltime=6s"]);
    let graph = map_slowly(&sandbox, 40, "0.5");
    let waiting = start(&mut sandbox.jq(["wait", &graph]), b"");
    sandbox.until("the third scheduler", |status| status["epoch"].as_u64().unwrap() >= 3);
    waiting.end().exits(0);
    assert_eq!(runs(&sandbox), (1..=40).collect::<Vec<_>>(), "each ran once");
    let status = sandbox.status();
    assert_eq!((&status["counts"]["memory"], &status["connected"]), (&40.into(), &2.into()));
    let workers = status["workers"].as_array().unwrap().iter().map(|w| w["name"].as_str().unwrap());
    let mut workers: Vec<&str> = workers.collect();
    workers.sort_unstable();
    assert_eq!(workers, ["w1", "w2"], "they lived through all of it");
    sandbox.ok(["down"]);
    sandbox.nothing_runs();
}

#[test]
fn a_successor_that_comes_too_late_goes_on_where_the_last_one_let_go() {
    let sandbox = Sandbox::new();
    // Each job waits longer than a scheduler has left when it asks.
    up_in_job(&sandbox, 1, &["--set", "scheduler.walltime=6s", "--set", "queue_wait=4s"]);
    let graph = map_slowly(&sandbox, 20, "0.5");
    sandbox.ok(["wait", &graph]);
    assert_eq!(runs(&sandbox), (1..=20).collect::<Vec<_>>());
    assert!(epoch(&sandbox) >= 2);
    let log = fs::read_dir(sandbox.cluster("default").join("allocations")).unwrap();
    let said = log.flatten().any(|entry| {
        fs::read_to_string(entry.path()).unwrap_or_default().contains("its walltime is nearly over")
    });
    assert!(said, "it wasn't relieved in time");
    sandbox.ok(["down"]);
    sandbox.nothing_runs();
}

#[test]
fn a_killed_scheduler_is_replaced_by_another_job() {
    let sandbox = Sandbox::new();
    up_in_job(&sandbox, 1, &[]);
    let graph = map_slowly(&sandbox, 4, "0.5");
    let waiting = start(&mut sandbox.jq(["wait", &graph]), b"");
    let first = text(&sandbox, "job");
    kill(Pid::from_raw(sandbox.scheduler()), Signal::SIGKILL).unwrap();
    waiting.end().exits(0);
    assert_eq!(runs(&sandbox), (1..=4).collect::<Vec<_>>());
    assert_ne!(text(&sandbox, "job"), first);
    assert_eq!(epoch(&sandbox), 2);
    // To be asked to end is no end of the cluster either.
    kill(Pid::from_raw(sandbox.scheduler()), Signal::SIGTERM).unwrap();
    let status = sandbox.run(["status", "--json"]).exits(0).json();
    assert_eq!(status["epoch"], 3);
    // The next one may run elsewhere, and nothing is lost; also where a launch waits in the queue.
    kill(Pid::from_raw(sandbox.scheduler()), Signal::SIGKILL).unwrap();
    let up = sandbox.run(["up", "--queue", "local", "--set", "queue_wait=100s", "--timeout", "1s"]);
    up.exits(78).says("profile.queue_wait");
    sandbox.ok(["up", "--queue", "local", "--scheduler", "here"]);
    let status = sandbox.status();
    assert_eq!((&status["epoch"], &status["counts"]["memory"]), (&4.into(), &4.into()));
    assert_eq!(text(&sandbox, "job"), "");
    sandbox.ok(["down"]);
    sandbox.nothing_runs();
}

#[test]
fn a_launch_that_waits_is_waited_for_and_never_doubled() {
    let sandbox = Sandbox::new();
    let words = ["up", "--queue", "local", "--workers", "1", "--scheduler", "job", "--set", "queue_wait=5s"];
    let up = sandbox.run(words.iter().chain(&["--timeout", "1s"])).exits(124);
    up.says("QueueWait").says("expected to start in").says("stays in the queue");
    // Another `up` with less patience finds it, and launches nothing.
    sandbox.run(words.iter().chain(&["--timeout", "1s"])).exits(69).says("is coming up").says("QueueWait");
    // Any verb waits for it.
    sandbox.ok(["submit", "--wait", "--key", "first", "--", "true"]);
    assert_eq!((text(&sandbox, "job"), epoch(&sandbox)), ("1".into(), 1));
    sandbox.ok(["down"]);
    sandbox.nothing_runs();
    sandbox.run(["status"]).exits(69).says("not up");

    // One that is brought down meanwhile says so, and nothing of it starts.
    let up = start(&mut sandbox.jq(words), b"");
    eventually_sync("its job", || {
        let intents = sandbox.cluster("default").join("intents");
        let named = |entry: &fs::DirEntry| {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            text.contains("\"submitted\"") && text.contains("\"a2\"")
        };
        fs::read_dir(intents).unwrap().flatten().any(|entry| named(&entry)).then_some(())
    });
    sandbox.ok(["down"]);
    up.end().exits(69).says("brought down");
    sandbox.nothing_runs();
}

#[test]
fn two_ups_at_once_launch_one_scheduler() {
    let sandbox = Sandbox::new();
    let words = ["up", "--queue", "local", "--workers", "1", "--wait", "--timeout", "100s"];
    let words = [&words[..], &JOB].concat();
    let all = [(); 3].map(|()| start(&mut sandbox.jq(&words), b""));
    let said = all.map(|going| going.end().exits(0).text());
    assert_eq!(said.iter().filter(|said| said.contains("is up already")).count(), 2, "{said:?}");
    let status = sandbox.status();
    assert_eq!((&status["epoch"], &status["connected"]), (&1.into(), &1.into()));
    assert_eq!(text(&sandbox, "job"), "1");
}

#[test]
fn a_scheduler_that_cant_start_tells_why_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let words = ["up", "--queue", "local", "--workers", "2", "--scheduler", "job"];
    let refused =
        sandbox.run(words.iter().chain(&["--set", "prologue=['echo the disk is not here; exit 3']"]));
    refused.exits(78).says("exit code 3").says("the disk is not here");
    sandbox.nothing_runs();
    let refused = sandbox.run(words.iter().chain(&["--set", "scheduler.queue=nowhere"])).exits(78);
    refused.says("nowhere");
    sandbox.nothing_runs();
    sandbox.run(words.iter().chain(&["--set", "scheduler.cores=500", "--set", "slots=8"])).exits(78);
    sandbox.nothing_runs();
    // What failed is no hindrance.
    up_in_job(&sandbox, 1, &[]);
}

#[test]
fn a_scheduler_that_nobody_asked_for_leaves_the_one_that_there_is_alone() {
    let sandbox = Sandbox::new();
    up_in_job(&sandbox, 1, &[]);
    let pid = sandbox.scheduler();
    let root = sandbox.state_root();
    for job_name in [None, Some("jqffffff7")] {
        let mut role = sandbox.command(sandbox.path().join("bin/jobq"));
        role.arg("scheduler").arg("--state-root").arg(&root).args(["--name", "default"]);
        if let Some(name) = job_name {
            role.args(["--job-name", name]);
        }
        finish(&mut role, b"").exits(0);
    }
    assert_eq!((sandbox.scheduler(), epoch(&sandbox)), (pid, 1));
    assert!(is_alive(pid));
}
