//! Schedulers that die, and are followed by others.

use crate::bringing::{has_started, hold, let_go};
use crate::support::sandbox::{Sandbox, finish, start};
use crate::support::{eventually_sync, is_alive};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

pub fn kill_scheduler(sandbox: &Sandbox) {
    let pid = sandbox.scheduler();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    eventually_sync("the scheduler's end", || (!is_alive(pid)).then_some(()));
}

fn sorted_lines(sandbox: &Sandbox, name: &str) -> Vec<String> {
    let mut lines: Vec<String> = sandbox.read(name).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn up_resumes_a_dead_cluster_and_its_workers_go_on() {
    let sandbox = Sandbox::new();
    hold(&sandbox);
    sandbox.program("count", "#!/bin/sh\necho \"$1\" >> log; exec hold \"$1\"\n");
    sandbox.up(1);
    sandbox.ok(["submit", "--wait", "--key", "done", "--", "echo", "said"]);
    sandbox.run(["submit", "--wait", "--key", "failed", "--", "false"]).exits(1);
    sandbox.ok(["map", "count", ":::", "first", "second"]);
    sandbox.ok(["submit", "--key", "behind", "--after", "failed", "--", "true"]);
    has_started(&sandbox, "first");
    let workers = sandbox.workers();
    kill_scheduler(&sandbox);
    assert_eq!(sandbox.json(["ls"])["clusters"][0]["state"], "dead");
    sandbox.run(["status", "--no-revive"]).exits(69).says("can't be reached").says("jq up");

    let up = sandbox.run(["up", "--queue", "local", "--workers", "1", "--wait"]).exits(0);
    let up = up.says("had died; resumed as epoch 2: 4 graphs, 2 tasks open");
    assert!(up.text().contains("is up again"), "{}", up.text());
    assert_eq!(sandbox.workers(), workers, "the same process");
    let status = sandbox.status();
    assert_eq!((&status["epoch"], &status["target"]), (&2.into(), &1.into()));
    let counts = &status["counts"];
    assert_eq!((&counts["memory"], &counts["erred"]), (&1.into(), &2.into()), "{counts}");
    assert_eq!(status["allocations"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(sandbox.ok(["result", "done"]), "said\n");
    let_go(&sandbox, "first");
    let_go(&sandbox, "second");
    sandbox.ok(["wait", "--timeout", "100s"]);
    assert_eq!(sorted_lines(&sandbox, "log"), ["first", "second"], "each ran once");
    sandbox.ok(["down"]);
    sandbox.nothing_runs();
}

#[test]
fn a_verb_that_finds_the_scheduler_dead_starts_another_and_a_wait_goes_on() {
    let sandbox = Sandbox::new();
    hold(&sandbox);
    sandbox.up(1).ok(["scale", "2"]);
    // Both have their link once their task has begun.
    let submit = |key: &str, flags: &[&str]| {
        let words = ["submit", "--wait", "--key", key];
        let waits = start(&mut sandbox.jq(words.iter().chain(flags).chain(&["--", "hold", key])), b"");
        has_started(&sandbox, key);
        waits
    };
    let (reviving, passive) = (submit("a", &[]), submit("b", &["--no-revive"]));
    for round in 0..2 {
        kill_scheduler(&sandbox);
        let submit = sandbox.run(["submit", "--key", &format!("k{round}"), "--", "echo", "hello"]).exits(0);
        assert_eq!(submit.text().trim(), format!("k{round}"));
    }
    let status = sandbox.until("its workers", |status| status["connected"] == 2);
    assert_eq!((&status["epoch"], &status["target"]), (&3.into(), &2.into()), "the target is remembered");
    let_go(&sandbox, "a");
    let_go(&sandbox, "b");
    reviving.end().exits(0);
    passive.end().exits(0);
    sandbox.ok(["wait", "k0", "k1", "--timeout", "100s"]);
    assert_eq!(sandbox.ok(["result", "k1"]), "hello\n");
}

#[test]
fn an_up_that_waits_for_workers_starts_a_scheduler_again_that_dies_meanwhile() {
    let sandbox = Sandbox::new();
    // Its worker comes well after the scheduler's end.
    let words = ["up", "--queue", "local", "--workers", "1", "--wait", "--set", "queue_wait=6s"];
    let up = start(&mut sandbox.jq(words), b"");
    eventually_sync("a job that waits", || {
        let status = sandbox.run(["status", "--json"]);
        (status.code == 0 && status.json()["pending"] == 1).then_some(())
    });
    kill_scheduler(&sandbox);
    let up = up.end().exits(0).says("resumed as epoch 2");
    assert!(up.text().contains("1 workers connected"), "{}", up.text());
}

#[test]
fn what_a_crash_cut_off_the_journal_is_told_by_whoever_starts_the_scheduler_again() {
    let sandbox = Sandbox::new();
    sandbox.up(1).ok(["submit", "--wait", "--key", "k", "--", "echo", "kept"]);
    for verb in [&["status"][..], &["up"]] {
        kill_scheduler(&sandbox);
        let folder = sandbox.cluster("default").join("journal");
        let mut segments: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        segments.sort();
        let last = segments.last().unwrap();
        // The beginning of a record.
        let torn = [fs::read(last).unwrap(), vec![200, 0, 0]].concat();
        fs::write(last, torn).unwrap();
        let told = sandbox.run(verb).exits(0).says("resumed as epoch").says("the last 3 bytes of");
        told.says("nobody was told of it");
    }
    assert_eq!(sandbox.ok(["result", "k"]), "kept\n");
}

#[test]
fn a_dead_cluster_that_is_wanted_differently_is_replaced_only_if_asked_for() {
    let sandbox = Sandbox::new();
    hold(&sandbox);
    sandbox.up(1);
    let words = ["submit", "--wait", "--no-revive", "--key", "old", "--", "hold", "old"];
    let wait = start(&mut sandbox.jq(words), b"");
    has_started(&sandbox, "old");
    let workers = sandbox.workers();
    kill_scheduler(&sandbox);
    let other = ["up", "--queue", "local", "--workers", "1", "--cores", "2", "--wait"];
    sandbox.run(other).exits(78).says("profile.cores: is 1, asked for 2").says("--replace");
    let up = sandbox.run(other.iter().chain(&["--replace"])).exits(0);
    up.says("had died").says("1 graphs with 1 unfinished");
    eventually_sync("the end of the old worker", || (!is_alive(workers[0])).then_some(()));
    wait.end().exits(69).says("another life");
    sandbox.run(["result", "old"]).exits(2).says("no task or graph 'old'");
    let status = sandbox.status();
    assert_eq!((&status["workers"][0]["cores"], &status["counts"]["assigned"]), (&2.into(), &0.into()));
}

#[test]
fn a_cluster_that_was_brought_down_begins_with_nothing() {
    let sandbox = Sandbox::new();
    sandbox.up(1).ok(["submit", "--wait", "--key", "k", "--", "true"]);
    sandbox.ok(["down"]);
    sandbox.run(["status"]).exits(69).says("not up");
    sandbox.up(1);
    assert_eq!(sandbox.status()["graphs"], 0);
    kill_scheduler(&sandbox);
    let down = sandbox.run(["down"]).exits(0);
    assert!(down.text().contains("1 jobs that its scheduler didn't end were cancelled"), "{}", down.text());
    sandbox.nothing_runs();
    sandbox.run(["submit", "--", "true"]).exits(69).says("not up");
}

#[test]
fn workers_that_nobody_comes_back_for_finish_and_leave_and_what_they_did_counts() {
    let sandbox =
        Sandbox::configured("[scheduler]\nheartbeat = \"200ms\"\n[worker]\nidle_timeout = \"1s\"\n");
    hold(&sandbox);
    sandbox.program("count", "#!/bin/sh\necho \"$1\" >> log; hold \"$1\"; echo \"said $1\" | tee \"$2\"\n");
    sandbox.up_with(2, &["--death-timeout", "1s", "--workers-per-job", "2"]);
    for key in ["a", "b"] {
        sandbox.ok(["submit", "--key", key, "--output", &format!("out.{key}"), "--", "count", key, "{out}"]);
        has_started(&sandbox, key);
    }
    kill_scheduler(&sandbox);
    // Nobody can take their tasks from them: well beyond the death timeout they still run.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let_go(&sandbox, "a");
    let_go(&sandbox, "b");
    sandbox.nothing_runs();
    assert!(!sandbox.file("out.a").exists(), "nobody has accepted it");
    let left = crate::support::sandbox::names(&sandbox.cluster("default").join("outbox"));
    assert_eq!(left.len(), 2, "{left:?}");
    sandbox.ok(["wait", "a", "b", "--timeout", "100s"]);
    assert_eq!((sandbox.read("out.a"), sandbox.ok(["result", "b"])), ("said a\n".into(), "said b\n".into()));
    assert_eq!(sorted_lines(&sandbox, "log"), ["a", "b"], "each ran once");
    eventually_sync("an empty outbox", || {
        crate::support::sandbox::names(&sandbox.cluster("default").join("outbox")).is_empty().then_some(())
    });
}

#[test]
fn a_scheduler_that_stood_still_is_superseded_and_does_nothing_any_more() {
    let sandbox = Sandbox::new();
    hold(&sandbox);
    sandbox.program("count", "#!/bin/sh\necho \"$1\" >> log; exec hold \"$1\"\n");
    sandbox.up(1);
    sandbox.ok(["map", "count", ":::", "first", "second"]);
    has_started(&sandbox, "first");
    let (zombie, workers) = (sandbox.scheduler(), sandbox.workers());
    kill(Pid::from_raw(zombie), Signal::SIGSTOP).unwrap();
    // It takes half a minute to be sure.
    let status = sandbox.run(["status"]).exits(0);
    status.says("resumed as epoch 2");
    let_go(&sandbox, "first");
    let_go(&sandbox, "second");
    kill(Pid::from_raw(zombie), Signal::SIGCONT).unwrap();
    eventually_sync("the zombie's end", || (!is_alive(zombie)).then_some(()));
    sandbox.ok(["wait", "g1", "--timeout", "100s"]);
    assert_eq!((sandbox.workers(), sandbox.status()["epoch"].as_u64()), (workers, Some(2)));
    assert_eq!(sorted_lines(&sandbox, "log"), ["first", "second"], "each ran once");
}

#[test]
fn a_scheduler_that_lives_and_cant_be_reached_is_left_alone() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let contact = sandbox.cluster("default").join("contact.toml");
    let good = fs::read_to_string(&contact).unwrap();
    let mut bad = sandbox.contact();
    bad.insert("addresses".into(), toml::Value::Array(vec!["127.0.0.1:9".into()]));
    fs::write(&contact, bad.to_string()).unwrap();
    for verb in ["status", "up", "down"] {
        sandbox.run([verb]).exits(69).says("127.0.0.1:9");
    }
    fs::write(&contact, good).unwrap();
    assert_eq!(sandbox.status()["epoch"], 1, "nobody has claimed another");
}

/// Runs a line for the shell in a mount namespace of its own; `None`: this user may not.
fn with_own_mounts(sandbox: &Sandbox, script: &str) -> Option<crate::support::sandbox::Ran> {
    let script = format!("mount --make-rprivate / && {{ {script}; }}");
    let may = finish(sandbox.command("unshare").args(["-m", "mount", "--make-rprivate", "/"]), b"").code == 0;
    if !may {
        eprintln!("skipped: mounting needs root");
        return None;
    }
    Some(finish(sandbox.command("unshare").args(["-m", "bash", "-c", &script]), b""))
}

#[test]
fn a_state_directory_that_cant_be_written_is_told_and_nothing_is_lost() {
    let sandbox = Sandbox::new();
    sandbox.up(1).ok(["submit", "--wait", "--key", "k", "--", "echo", "kept"]);
    kill_scheduler(&sandbox);
    let folder = sandbox.cluster("default").display().to_string();
    let read_only =
        format!("mount --bind {folder} {folder} && mount -o remount,bind,ro {folder} && jq status");
    let Some(ran) = with_own_mounts(&sandbox, &read_only) else { return };
    ran.exits(78).says("read-only").says(&folder);
    // A disk with just enough room for what is there.
    let full = format!(
        "cp -a {folder}/journal j && mount -t tmpfs -o size=16k,mode=700 none {folder}/journal \
         && cp -a j/. {folder}/journal/ && {{ cat /dev/zero > {folder}/journal/filler 2> /dev/null; jq status; }}"
    );
    let ran = with_own_mounts(&sandbox, &full).unwrap();
    ran.exits(78).says("No space left").says("journal");
    assert_eq!(sandbox.ok(["result", "k"]), "kept\n");
}

/// A number from the environment, for longer runs.
fn number(variable: &str, otherwise: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn killed_at_random_moments_nothing_is_lost() {
    let rounds = number("JOBQ_TEST_RESTART_ROUNDS", 5);
    let tasks = number("JOBQ_TEST_RESTART_TASKS", 400);
    let sandbox = Sandbox::new();
    // Appending a short line is atomic; with it we know what ran, and how often.
    sandbox.program("count", "#!/bin/sh\necho \"$1\" >> log\necho \"made of $1\" > \"$2\"\n");
    fs::create_dir(sandbox.file("out")).unwrap();
    sandbox.up(2);
    let args: String = (0..tasks).map(|task| format!("{task}\n")).collect();
    let words = ["map", "--wait", "--output", "out/{}", "count", "{}", "{out}"];
    let map = start(&mut sandbox.jq(words), args.as_bytes());
    let mut acknowledged = Vec::new();
    for round in 0..rounds {
        // Anywhere in the work: the disk's and the scheduler's own pace make each moment another.
        let ran = || fs::read_to_string(sandbox.file("log")).map_or(0, |log| log.lines().count() as u32);
        let until = (tasks / (rounds + 1)) * (round + 1);
        eventually_sync("progress", || (ran() >= until).then_some(()));
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), round);
        std::thread::sleep(std::time::Duration::from_millis(random % 300));
        kill_scheduler(&sandbox);
        let key = format!("k{round}");
        sandbox.ok(["submit", "--key", &key, "--", "echo", &key]);
        acknowledged.push(key);
    }
    map.end().exits(0);
    let submitted = acknowledged.iter().map(String::as_str);
    sandbox.ok(["wait", "--timeout", "100s"].into_iter().chain(submitted));
    for key in &acknowledged {
        assert_eq!(sandbox.ok(["result", key]), format!("{key}\n"));
    }
    let counts = sandbox.status()["counts"].clone();
    assert_eq!(counts["memory"], u64::from(tasks + rounds), "{counts}");
    for task in 0..tasks {
        assert_eq!(sandbox.read(&format!("out/{task}")), format!("made of {task}\n"));
    }
    assert_eq!(crate::support::sandbox::names(&sandbox.file("out")).len() as u32, tasks, "temporary files");
    // What was assigned and had not begun may run again elsewhere; here every worker came back and told.
    let log = sorted_lines(&sandbox, "log");
    assert_eq!(log.len() as u32, tasks, "each ran once");
}

#[test]
fn a_graph_of_kernels_goes_on_from_where_it_was() {
    let sandbox = Sandbox::new();
    sandbox.up(2);
    let args: String = (0..20_000).map(|task| format!("{task}\n")).collect();
    let map = start(&mut sandbox.jq(["map", "--wait", "--kernel", "echo"]), args.as_bytes());
    for settled in [1, 8_000] {
        sandbox.until("progress", |status| status["counts"]["memory"].as_u64().unwrap() >= settled);
        kill_scheduler(&sandbox);
    }
    map.end().exits(0);
    // It may have ended before the last kill: then its values come back with the workers.
    sandbox.until("all values", |status| status["counts"]["memory"] == 20_000);
    assert_eq!(sandbox.status()["epoch"], 3);
}

#[test]
fn a_journal_of_a_newer_program_and_a_damaged_one_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.up(1).ok(["submit", "--wait", "--", "true"]);
    kill_scheduler(&sandbox);
    let folder = sandbox.cluster("default").join("journal");
    let segment = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&segment).unwrap();
    let mut bad = good.clone();
    // In the middle of a record with others after it.
    bad[100] ^= 1;
    fs::write(&segment, &bad).unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap();
    sandbox.run(["status"]).exits(78).says(name).says("damaged");
    sandbox.run(["up"]).exits(78).says(name).says("damaged");
    fs::write(&segment, good).unwrap();
    sandbox.ok(["status"]);
    let _ = finish(&mut sandbox.jq(["down"]), b"");
}
