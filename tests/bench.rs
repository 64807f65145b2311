//! `jq bench` as users run it: each kind with few tasks, its report, and that nothing of it is left.

mod support;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::sandbox::{Sandbox, as_json, names, start};

/// A short run on two workers, its report, and a world as it was before.
fn measured(sandbox: &Sandbox, kind: &str, flags: &[&str]) -> Value {
    let words = ["bench", kind, "--repeat", "2"];
    let report = sandbox.json(words.iter().chain(flags));
    assert_eq!((&report["kind"], &report["repeat"]), (&kind.into(), &2.into()), "{report}");
    assert!(report["durability"].as_str().unwrap().contains(" on "), "{report}");
    assert_eq!((&report["cluster"], &report["tls"]), (&Value::Null, &true.into()));
    nothing_is_left(sandbox);
    report
}

#[track_caller]
fn nothing_is_left(sandbox: &Sandbox) {
    sandbox.nothing_runs();
    assert_eq!(names(&sandbox.path().join("state")), [""; 0], "the state directory wasn't there before");
    assert_eq!(names(&sandbox.path().join("tmp")), [""; 0]);
    assert_eq!(names(&sandbox.work()), [""; 0]);
}

/// Figures that this kind has, each in order; all others are null.
#[track_caller]
fn has_figures(report: &Value, expected: &[&str]) {
    let all = [
        "tasks_per_s",
        "us_per_step",
        "us_per_step_p99",
        "bytes_per_s",
        "raw_bytes_per_s",
        "share_of_raw",
        "scheduler_cpu_us_per_task",
        "worker_cpu_us_per_task",
        "ingest_cpu_us_per_task",
        "scheduler_rss_bytes_per_task",
        "fdatasync_us",
        "seconds",
    ];
    for name in all {
        let figure = &report[name];
        if !expected.contains(&name) {
            assert_eq!(figure, &Value::Null, "{name} of {report}");
            continue;
        }
        let number = |key: &str| figure[key].as_f64().unwrap_or_else(|| panic!("{name}: {report}"));
        assert!(number("min") <= number("median") && number("median") <= number("max"), "{name}: {figure}");
    }
}

const COST: [&str; 4] = ["scheduler_cpu_us_per_task", "worker_cpu_us_per_task", "fdatasync_us", "seconds"];
const INGEST: [&str; 3] = ["tasks_per_s", "ingest_cpu_us_per_task", "scheduler_rss_bytes_per_task"];

#[test]
fn graphs_are_timed_and_their_sums_are_right() {
    let sandbox = Sandbox::new();
    for (kind, tasks) in [("tasks", 300), ("tree", 299), ("layers", 306)] {
        let report = measured(&sandbox, kind, &["--count", "300", "--workers", "2", "--threads", "2"]);
        assert_eq!((&report["tasks"], &report["count"]), (&tasks.into(), &300.into()));
        assert_eq!(
            (&report["workers"], &report["threads"], &report["bytes"]),
            (&2.into(), &2.into(), &8.into())
        );
        has_figures(&report, &[&COST[..], &INGEST].concat());
    }
    let report = measured(&sandbox, "chain", &["--count", "50"]);
    has_figures(&report, &[&COST[..], &INGEST, &["us_per_step"]].concat());
    // The same work has the same sum, whoever does it.
    assert_eq!(report["sum"], measured(&sandbox, "chain", &["--count", "50", "--bytes", "5KiB"])["sum"]);
}

#[test]
fn single_tasks_are_timed_one_by_one() {
    let sandbox = Sandbox::new();
    for kind in ["latency", "submit"] {
        let report = measured(&sandbox, kind, &["--count", "5"]);
        assert_eq!((&report["tasks"], &report["workers"]), (&5.into(), &1.into()));
        has_figures(&report, &[&COST[..], &["tasks_per_s", "us_per_step", "us_per_step_p99"]].concat());
    }
}

#[test]
fn large_values_go_from_worker_to_worker() {
    let sandbox = Sandbox::new();
    let report = measured(&sandbox, "transfer", &["--count", "4", "--bytes", "3MiB"]);
    has_figures(&report, &["bytes_per_s", "raw_bytes_per_s", "share_of_raw", "fdatasync_us", "seconds"]);
    let one = ["bench", "transfer", "--count", "2", "--bytes", "1KiB", "--workers", "1"];
    sandbox.run(one).exits(2).says("nothing to transfer").says("two workers");
    nothing_is_left(&sandbox);
}

#[test]
fn people_get_a_table() {
    let sandbox = Sandbox::new();
    let ran = sandbox
        .run(["bench", "tasks", "--count", "20", "--workers", "1", "--repeat", "1", "--insecure"])
        .exits(0);
    let text = ran.text();
    assert!(
        text.starts_with("TASKS") && text.contains("MEDIAN") && text.contains("tasks a second"),
        "{text}"
    );
    assert!(!text.contains("worker to worker"), "a figure that there isn't: {text}");
    ran.says("whoever reaches this host").says("no TLS").says("sum is right");
    nothing_is_left(&sandbox);
}

#[test]
fn a_profiler_is_told_when_it_begins_and_ends() {
    let sandbox = Sandbox::new();
    let probe = sandbox
        .program("probe", "#!/bin/sh\nreadlink /proc/$2/exe >> \"$HOME/said\"; echo $1 >> \"$HOME/said\"\n");
    sandbox.json(["bench", "chain", "--count", "5", "--repeat", "1", "--probe", probe.to_str().unwrap()]);
    let said = std::fs::read_to_string(sandbox.path().join("home/said")).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 4 && lines[0] == lines[2] && lines[0].ends_with("/jobq"), "{said}");
    assert_eq!([lines[1], lines[3]], ["begin", "end"]);
    nothing_is_left(&sandbox);
    let ran = sandbox.run(["bench", "chain", "--count", "5", "--repeat", "1", "--probe", "false"]);
    ran.exits(78).says("false: exit status: 1");
    nothing_is_left(&sandbox);
}

#[test]
fn a_living_cluster_is_measured_and_left_as_it_is() {
    let sandbox = Sandbox::new();
    sandbox.up(2);
    let (scheduler, workers) = (sandbox.scheduler(), sandbox.workers());
    for kind in ["tasks", "latency"] {
        let report = sandbox.json(["bench", kind, "--on", "default", "--count", "10", "--repeat", "1"]);
        assert_eq!((&report["cluster"], &report["workers"]), (&"default".into(), &2.into()));
        assert!(report["scheduler_cpu_us_per_task"]["median"].is_f64(), "{report}");
        assert_eq!(report["scheduler_rss_bytes_per_task"], Value::Null, "its own work would be counted");
    }
    assert_eq!((sandbox.scheduler(), sandbox.workers()), (scheduler, workers));
    sandbox.ok(["scale", "0"]);
    sandbox.until("all workers are gone", |status| status["connected"] == 0);
    sandbox.run(["bench", "tasks", "--on", "default"]).exits(69).says("has no workers");
}

#[test]
fn what_cannot_be_measured_says_why() {
    let sandbox = Sandbox::new();
    for words in [
        &["bench"][..],
        &["bench", "everything"],
        &["bench", "tasks", "--count", "0"],
        &["bench", "tasks", "--bytes", "7"],
        &["bench", "tasks", "--bytes", "5GiB"],
        &["bench", "tasks", "--on", "default", "--workers", "2"],
        &["bench", "tasks", "--on", "default", "--insecure"],
    ] {
        sandbox.run(words).exits(2);
    }
    sandbox.run(["bench", "tasks", "--on", "nowhere"]).exits(69).says("nowhere");
    nothing_is_left(&sandbox);
}

#[test]
fn a_signal_ends_it_and_leaves_nothing() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let sandbox = Sandbox::new();
        let words = as_json(["bench", "latency", "--count", "1000000"]);
        let going = start(&mut sandbox.jq(words), b"");
        support::eventually_sync("it is under way", || {
            sandbox.process_list().contains(" worker ").then_some(())
        });
        going.signal_group(signal);
        let ran = going.end().exits(code);
        assert_eq!(ran.text(), "");
        nothing_is_left(&sandbox);
    }
}

#[test]
fn a_scheduler_that_dies_is_told_and_nothing_is_left() {
    let sandbox = Sandbox::new();
    let going = start(&mut sandbox.jq(["bench", "submit", "--count", "1000000"]), b"");
    let scheduler = support::eventually_sync("its scheduler works", || {
        let list = sandbox.process_list();
        let line =
            list.lines().find(|line| line.contains(" scheduler ")).filter(|_| list.contains(" worker "))?;
        line.split(':').next()?.parse().ok()
    });
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(scheduler), Signal::SIGKILL).unwrap();
    let ran = going.end();
    assert!(ran.code == 69, "{}: {}", ran.code, ran.stderr);
    nothing_is_left(&sandbox);
}
