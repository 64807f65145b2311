//! Clusters come and go.

use crate::support::sandbox::{Sandbox, as_json, finish, start};
use crate::support::{eventually_sync, is_alive};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;

fn address(sandbox: &Sandbox) -> String {
    sandbox.contact()["addresses"][0].as_str().unwrap().to_owned()
}

#[test]
fn up_again_finds_the_cluster_and_reconciles_the_workers() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let address = address(&sandbox);
    for words in [&["up", "--queue", "local"][..], &["up"], &["up", "--workers", "1", "--wait"]] {
        let said = sandbox.ok(words);
        assert!(said.contains(&format!("is up already at {address}")), "{words:?}: {said}");
    }
    sandbox.up(2);
    let status = sandbox.status();
    assert_eq!((&status["epoch"], &status["connected"]), (&1.into(), &2.into()));
    let of_scheduler = &status["scheduler"];
    assert_eq!((&of_scheduler["job"], &of_scheduler["walltime_left_s"]), (&"".into(), &Value::Null));
    assert_eq!(of_scheduler["pid"], sandbox.scheduler());
    let shown = sandbox.ok(["status"]);
    assert!(shown.contains(&format!("scheduler: process {} on ", sandbox.scheduler())), "{shown}");
    let report = sandbox.json(["up", "--wait"]);
    assert_eq!((&report["was_up"], &report["target"]), (&true.into(), &2.into()));

    let refused = sandbox.run(["up", "--queue", "local", "--cores", "2"]).exits(78);
    refused.says("profile.cores: is 1, asked for 2").says("--replace");
    // Without a queue it is the cluster's own that is meant.
    sandbox.run(["up", "--cores", "2"]).exits(78).says("profile.cores: is 1, asked for 2").says("--replace");
    assert!(sandbox.ok(["up", "--cores", "1", "--set", "slots=0"]).contains("is up already"));
    assert_eq!(sandbox.status()["epoch"], 1, "nothing was touched");
    sandbox.up_with(1, &["--cores", "2", "--replace"]);
    let status = sandbox.status();
    assert_eq!((&status["epoch"], &status["connected"]), (&3.into(), &1.into()));
    assert_eq!(status["workers"][0]["cores"], 2);
    let said = sandbox.ok(["up"]);
    assert!(
        said.contains("1 worker = 1 job x 1 worker x 2 cores"),
        "of the cluster, not of the flags: {said}"
    );
}

#[test]
fn two_ups_at_once_make_one_cluster() {
    let sandbox = Sandbox::new();
    let words = ["up", "--queue", "local", "--workers", "1", "--wait", "--timeout", "100s"];
    let both = [(); 3].map(|()| start(&mut sandbox.jq(words), b""));
    let said = both.map(|going| going.end().exits(0).text());
    let address = address(&sandbox);
    assert!(said.iter().all(|said| said.contains(&address)), "{said:?}");
    assert_eq!(said.iter().filter(|said| said.contains("is up already")).count(), 2, "{said:?}");
    let status = sandbox.status();
    assert_eq!((&status["epoch"], &status["connected"]), (&1.into(), &1.into()));
    assert_eq!(status["allocations"].as_array().unwrap().len(), 1);
    assert_eq!(sandbox.process_list().matches(" scheduler ").count(), 1, "{}", sandbox.process_list());
}

#[test]
fn a_starter_that_dies_doesnt_block_the_next_one() {
    let sandbox = Sandbox::new();
    sandbox.up(1).ok(["down"]);
    // What an `up` leaves behind that was killed before its scheduler was there.
    let going = start(sandbox.command("sleep").arg("1000"), b"");
    let pid = going.pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap();
    let text = format!(
        "pid = {pid}\nstart_time = {ticks}\nboot_id = \"{}\"\npid_namespace = \"{}\"\nhost = \"here\"\n",
        boot.trim(),
        namespace.display()
    );
    fs::write(sandbox.cluster("default").join("launch.1"), text).unwrap();
    let up = start(&mut sandbox.jq(["up", "--queue", "local", "--wait"]), b"");
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    going.end().exits(137);
    up.end().exits(0);
    assert_eq!(sandbox.status()["epoch"], 3);
    let left = crate::support::sandbox::names(&sandbox.cluster("default"));
    assert!(!left.iter().any(|name| name.starts_with("launch.")), "{left:?}");
}

#[test]
fn the_shell_that_brought_it_up_is_killed_with_its_group() {
    let sandbox = Sandbox::new();
    let script = "jq up --queue local --workers 1 --wait && touch up && sleep 1000";
    let shell = start(sandbox.command("bash").args(["-c", script]), b"");
    eventually_sync("the cluster", || sandbox.file("up").exists().then_some(()));
    shell.signal_group(Signal::SIGKILL);
    shell.end().exits(137);
    sandbox.ok(["map", "--wait", "echo", ":::", "a", "b"]);
    assert_eq!(sandbox.ok(["result", "g1.2"]), "b\n");
}

#[test]
fn up_with_a_command_passes_its_code_on_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let up = |command: &[&str]| {
        let words = ["up", "--queue", "local", "--workers", "1", "--wait", "--"];
        sandbox.run(words.iter().chain(command))
    };
    up(&["sh", "-c", "jq submit --wait -- true && exit 7"]).exits(7);
    sandbox.nothing_runs();
    up(&["sh", "-c", "kill -9 $$"]).exits(137);
    up(&["no-such-program"]).exits(127).says("no-such-program");
    up(&["sh", "-c", "exit 3"]).exits(3);
    sandbox.nothing_runs();
    assert_eq!(sandbox.json(["ls"])["clusters"][0]["state"], "down");
}

#[test]
fn up_with_a_command_leaves_a_cluster_that_was_up_before() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let up = sandbox.run(["up", "--queue", "local", "--", "sh", "-c", "exit 7"]).exits(7);
    up.says("was up before, and stays up");
    assert_eq!(sandbox.status()["connected"], 1);
}

#[test]
fn a_cluster_that_goes_down_can_be_replaced_at_once() {
    let sandbox = Sandbox::new();
    hold(&sandbox);
    sandbox.up(1);
    sandbox.ok(["map", "hold", ":::", "first"]);
    has_started(&sandbox, "first");
    let down = start(&mut sandbox.jq(["down", "--drain", "100s"]), b"");
    eventually_sync("a cluster that goes down", || (sandbox.status()["going_down"] == true).then_some(()));
    sandbox.up_with(1, &["--replace"]);
    down.end();
    assert_eq!(sandbox.status()["epoch"], 3, "whoever began anew claimed the second");
}

#[test]
fn a_command_under_up_that_is_interrupted_takes_the_cluster_with_it() {
    let sandbox = Sandbox::new();
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let _ = fs::remove_file(sandbox.file("started"));
        let words =
            ["up", "--queue", "local", "--workers", "1", "--", "sh", "-c", "touch started; exec sleep 1000"];
        let up = start(&mut sandbox.jq(words), b"");
        eventually_sync("the command", || sandbox.file("started").exists().then_some(()));
        match signal {
            // A terminal tells the whole group, a batch system perhaps only the first process.
            Signal::SIGINT => up.signal_group(signal),
            _ => kill(Pid::from_raw(up.pid()), signal).unwrap(),
        }
        up.end().exits(code);
        sandbox.nothing_runs();
    }
}

#[test]
fn down_leaves_nothing_and_may_be_repeated() {
    let sandbox = Sandbox::new();
    sandbox.up(2);
    // What a task leaves behind on purpose goes too, when its worker does.
    let daemon = "setsid sleep 1000 < /dev/null > /dev/null 2>&1 & echo $!";
    sandbox.ok(["submit", "--wait", "--", "sh", "-c", daemon]);
    sandbox.ok(["map", "sleep", ":::", "1000", "1000", "1000"]);
    sandbox.until("running tasks", |status| status["counts"]["assigned"] == 2);
    let wait = start(&mut sandbox.jq(["wait"]), b"");
    let both = [(); 2].map(|()| start(&mut sandbox.jq(as_json(["down"])), b""));
    wait.end().exits(69).says("not up");
    let [report, _] = both.map(|down| down.end().exits(0).json());
    assert_eq!(report["purged"], false);
    assert_eq!(report["swept"], serde_json::json!([]), "its scheduler ended them");
    sandbox.nothing_runs();
    let queue = sandbox.cluster("default").join("queue");
    let jobs = finish(sandbox.jq(["local-queue", "--dir"]).arg(queue).arg("status"), b"").exits(0).text();
    assert!(!jobs.contains("waiting") && !jobs.contains("running"), "{jobs}");

    assert!(sandbox.ok(["down"]).contains("was not up"));
    sandbox.run(["status"]).exits(69).says("not up").says("jq up");
    assert_eq!(sandbox.json(["ls"])["clusters"][0]["state"], "down");
    sandbox.ok(["down", "--purge"]);
    assert_eq!(sandbox.json(["ls"])["clusters"], serde_json::json!([]));
    assert!(sandbox.ok(["down"]).contains("was not up"), "there is no such cluster any more");
    sandbox.run(["status"]).exits(69).says("no cluster 'default'");
}

#[test]
fn a_purged_cluster_can_come_up_again_at_once() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let daemon = queue_daemon(&sandbox);
    sandbox.ok(["down", "--purge"]);
    sandbox.up(1);
    // The old queue's daemon may linger: when it goes, it takes nothing of the new one's along.
    eventually_sync("the old daemon's end", || (!is_alive(daemon)).then_some(()));
    sandbox.up(2);
}

fn queue_daemon(sandbox: &Sandbox) -> i32 {
    let lock = fs::read_to_string(sandbox.cluster("default").join("queue/lock")).unwrap();
    lock.split_whitespace().last().unwrap().parse().unwrap()
}

/// A program that tells that it has started, and waits to be let go.
pub fn hold(sandbox: &Sandbox) {
    let text =
        "#!/bin/sh\ntouch \"$1.started\"\nuntil [ -e \"$1.go\" ]; do sleep 0.02; done\ntouch \"$1.done\"\n";
    sandbox.program("hold", text);
}

pub fn has_started(sandbox: &Sandbox, name: &str) {
    let file = sandbox.file(&format!("{name}.started"));
    eventually_sync("a task's start", || file.exists().then_some(()));
}

pub fn let_go(sandbox: &Sandbox, name: &str) {
    fs::write(sandbox.file(&format!("{name}.go")), "").unwrap();
}

#[test]
fn draining_lets_running_tasks_end_and_starts_no_more() {
    let sandbox = Sandbox::new();
    hold(&sandbox);
    sandbox.up(1);
    sandbox.ok(["map", "hold", ":::", "first", "second"]);
    has_started(&sandbox, "first");
    let down = start(&mut sandbox.jq(["down", "--drain", "100s"]), b"");
    eventually_sync("a cluster that goes down", || {
        (sandbox.run(["submit", "--", "true"]).code == 69).then_some(())
    });
    sandbox.run(["up", "--queue", "local"]).exits(69).says("going down").says("still run: 1");
    assert_eq!(sandbox.json(["ls"])["clusters"][0]["state"], "going down");
    assert_eq!(sandbox.status()["going_down"], true);
    let_go(&sandbox, "first");
    down.end().exits(0);
    assert!(sandbox.file("first.done").exists());
    assert!(!sandbox.file("second.started").exists());
    sandbox.nothing_runs();
}

#[test]
fn scaling_follows_the_target_both_ways() {
    let sandbox = Sandbox::new();
    sandbox.up_with(2, &["--workers-per-job", "2"]);
    assert_eq!(sandbox.json(["scale", "4"])["target"], 4);
    sandbox.until("more workers", |status| status["connected"] == 4);
    sandbox.ok(["scale", "0"]);
    sandbox.until("no workers", |status| status["connected"] == 0 && status["running"] == 0);
    sandbox.ok(["submit", "--key", "later", "--", "true"]);
    sandbox.ok(["scale", "2"]);
    sandbox.ok(["wait", "later"]);
    assert!(sandbox.ok(["script", "--queue", "local"]).contains("#JOBQ --slots=1"));
}
