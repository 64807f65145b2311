//! Work goes in, results come out.

use crate::bringing::{has_started, hold, let_go};
use crate::support::eventually_sync;
use crate::support::sandbox::{Sandbox, as_json, finish, start};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;

#[test]
fn exit_codes_are_as_the_contract_has_them() {
    let sandbox = Sandbox::new();
    sandbox.run(["submit", "--", "true"]).exits(69).says("jq up");
    sandbox.run(["map", "true", ":::", "a"]).exits(69);
    hold(&sandbox);
    sandbox.up(1);
    // 0 and 1: what the tasks did.
    sandbox.run(["submit", "--wait", "--key", "good", "--", "true"]).exits(0);
    let bad = ["submit", "--wait", "--key", "bad", "--", "sh", "-c", "echo out; echo oops >&2; exit 7"];
    sandbox.run(bad).exits(1).says("bad").says("exited with code 7").says("oops");
    sandbox.run(["map", "--wait", "test", "{}", "=", "a", ":::", "a", "b"]).exits(1).says("1 done, 1 failed");
    sandbox.run(["wait", "good"]).exits(0);
    sandbox.run(["wait", "good", "bad"]).exits(1);
    assert_eq!(sandbox.run(["result", "good"]).exits(0).text(), "");
    let result = sandbox.run(["result", "bad"]).exits(1);
    assert_eq!(result.text(), "out\n");
    assert_eq!(sandbox.run(["result", "bad", "--stderr"]).exits(1).text(), "oops\n");
    let report = sandbox.run(as_json(["result", "bad"])).exits(1).json();
    assert_eq!((&report["exit_code"], &report["stdout"]), (&7.into(), &"out\n".into()));
    // 2: what can't be meant.
    for words in [
        &["result", "nobody"][..],
        &["wait", "nobody"],
        &["wait", "g99"],
        &["cancel", "g1.99"],
        &["tasks", "--graph", "g99"],
        &["submit", "--after", "nobody", "--", "true"],
        &["submit", "--key", "has blank", "--", "true"],
        &["submit", "--key", "g7", "--", "true"],
        &["submit", "true"],
        &["map", "--key", "x", "true", ":::", "a"],
        &["map", "--kernel", "nothing", ":::", "a"],
        &["submit", "--output", "x", "--", "true", "{out2}"],
        &["result", "g3"],
    ] {
        sandbox.run(words).exits(2);
    }
    // 124: it may still come.
    sandbox.ok(["submit", "--key", "slow", "--", "hold", "slow"]);
    has_started(&sandbox, "slow");
    sandbox.run(["wait", "slow", "--timeout", "10ms"]).exits(124).says("10ms");
    sandbox.run(["result", "slow"]).exits(124).says("assigned").says("wait slow");
    sandbox
        .run(["submit", "--key", "slow", "--", "true"])
        .exits(2)
        .says("unfinished task named 'slow'")
        .says("g4.1");
    let_go(&sandbox, "slow");
    sandbox.ok(["wait", "--timeout", "100s"]);
    // One that has ended gives its name up, and stays known by its number.
    let again = sandbox.run(["submit", "--wait", "--key", "slow", "--", "echo", "other"]).exits(0);
    again.says("'slow' was the name of g4.1, which has ended");
    assert_eq!(
        (sandbox.ok(["result", "slow"]), sandbox.ok(["result", "g4.1"])),
        ("other\n".into(), "".into())
    );
    // Cancelled: 1.
    sandbox.ok(["submit", "--key", "never", "--", "sleep", "1000"]);
    assert_eq!(sandbox.json(["cancel", "never"])["cancelled"], 1);
    sandbox.run(["wait", "never"]).exits(1).says("1 cancelled");
    sandbox.run(["result", "never"]).exits(1).says("cancelled");
    assert_eq!(sandbox.json(["cancel", "never"])["cancelled"], 0, "it may be repeated");
}

#[test]
fn ctrl_c_stops_waiting_and_not_the_task() {
    let sandbox = Sandbox::new();
    hold(&sandbox);
    sandbox.up(1);
    let submit = start(&mut sandbox.jq(["submit", "--wait", "--key", "one", "--", "hold", "one"]), b"");
    has_started(&sandbox, "one");
    submit.signal_group(Signal::SIGINT);
    assert_eq!(submit.end().exits(130).text(), "one\n");
    let wait = start(&mut sandbox.jq(["wait", "one"]), b"");
    let map = start(&mut sandbox.jq(["map", "--wait", "echo"]), b"a\nb\n");
    let_go(&sandbox, "one");
    wait.end().exits(0);
    map.end().exits(0);
    assert!(sandbox.file("one.done").exists());
}

#[test]
fn reports_are_json_of_schema_1_with_these_fields() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    sandbox.run(["submit", "--wait", "--key", "bad", "--", "false"]).exits(1);
    let fields = |value: &Value| -> BTreeSet<String> { value.as_object().unwrap().keys().cloned().collect() };
    let expect = |value: &Value, names: &str| {
        let names: BTreeSet<String> = names.split_whitespace().map(str::to_owned).collect();
        assert_eq!(fields(value), names);
    };
    let counts = "waiting ready assigned memory erred cancelled";
    expect(
        &sandbox.json(["up"]),
        "schema cluster state_dir address was_up resumed target connected allocations scheduler_job",
    );
    expect(&sandbox.json(["submit", "--key", "one", "--", "echo", "1"]), "schema key task cluster");
    let waited = sandbox.json(["submit", "--wait", "--key", "two", "--", "echo", "2"]);
    expect(&waited, "schema key task cluster counts failures");
    assert_eq!((&waited["key"], &waited["task"]), (&"two".into(), &"g3.1".into()));
    expect(&sandbox.json(["map", "echo", ":::", "a"]), "schema graph tasks cluster");
    let waited = sandbox.json(["map", "--wait", "echo", ":::", "a", "b"]);
    expect(&waited, "schema graph tasks cluster counts failures");
    assert_eq!((&waited["graph"], &waited["tasks"]), (&"g5".into(), &2.into()));
    let report = sandbox.run(as_json(["wait", "bad"])).exits(1).json();
    expect(&report, "schema counts failures");
    expect(&report["counts"], counts);
    expect(&report["failures"][0], "key task kind exit_code message");
    assert_eq!(report["failures"][0]["kind"], "exit");
    let result = sandbox.json(["result", "two"]);
    expect(&result, "schema key task state attempt exit_code signal error seconds stdout stderr");
    assert_eq!(
        (&result["state"], &result["stdout"], &result["exit_code"]),
        (&"memory".into(), &"2\n".into(), &0.into())
    );
    let tasks = sandbox.json(["tasks"]);
    expect(&tasks, "schema tasks more");
    expect(&tasks["tasks"][0], "key task family state attempt worker seconds error");
    expect(&sandbox.json(["cancel", "g1"]), "schema cancelled");
    let status = sandbox.json(["status"]);
    expect(&status["families"][0], &format!("family {counts}"));
    let worker =
        "name allocation host pid cores memory_limit memory state assigned finished deadline_unix note";
    expect(&status["workers"][0], worker);
    assert_eq!(status["workers"][0]["allocation"], "a1");
    let ls = sandbox.json(["ls"]);
    expect(&ls, "schema state_dir clusters");
    expect(&ls["clusters"][0], "name state host workers target unfinished note");
    expect(&sandbox.json(["scale", "1"]), "schema cluster target");
    for words in [
        &["config"][..],
        &["queues"],
        &["version"],
        &["script", "--queue", "local"],
        &["up", "--queue", "local", "--dry-run"],
    ] {
        sandbox.json(words);
    }
    expect(&sandbox.json(["down"]), "schema cluster was_up swept purged");
}

#[test]
fn arguments_arrive_as_they_are() {
    let sandbox = Sandbox::new();
    sandbox.program("show", "#!/bin/sh\nfor word; do printf '[%s]' \"$word\"; done\n");
    sandbox.up(2);
    let odd: Vec<OsString> = [
        &b"plain"[..],
        b"two words",
        b"",
        b"it's \"quoted\"",
        b"line one\nline two",
        b"caf\xe9 \xff\xfe",
        b"$HOME `id` ; rm -rf {} *",
        b"-n",
        b"--wait",
        b"\t tab ",
        b"{.}",
        "größe".as_bytes(),
    ]
    .map(|bytes| OsStr::from_bytes(bytes).to_owned())
    .into();
    let words = ["map", "--wait", "show", "{}", "x{}y", "lit eral", ":::"].map(OsString::from);
    sandbox.run(words.iter().chain(&odd)).exits(0);
    for (i, argument) in odd.iter().enumerate() {
        let got = sandbox.run(["result", &format!("g1.{}", i + 1)]).exits(0).stdout;
        let bytes = argument.as_bytes();
        let expected = [b"[", bytes, b"][x", bytes, b"y][lit eral]"].concat();
        assert_eq!(got, expected, "{argument:?}");
    }
    // Lines: from stdin, from a file, with an empty one, without a last end.
    let lines = b"one\n\ntwo words\ncaf\xe9\nlast";
    finish(&mut sandbox.jq(["map", "--wait", "show"]), lines).exits(0);
    fs::write(sandbox.file("list"), lines).unwrap();
    sandbox.ok(["map", "--wait", "show", "::::", "list"]);
    sandbox.ok(["map", "--wait", "--each-line", "list", "show"]);
    for graph in ["g2", "g3", "g4"] {
        let result = |n: u32| sandbox.run(["result", &format!("{graph}.{n}")]).exits(0).stdout;
        let got: Vec<_> = (1..=5).map(result).collect();
        assert_eq!(got, [&b"[one]"[..], b"[]", b"[two words]", b"[caf\xe9]", b"[last]"]);
    }
    let words = ["map", "--wait", "show", "{}", "{/}", "{.}", "{/.}", "{#}", ":::", "d/f.tar.gz", "e"];
    sandbox.ok(words);
    assert_eq!(sandbox.ok(["result", "g5.1"]), "[d/f.tar.gz][f.tar.gz][d/f.tar][f.tar][1]");
    assert_eq!(sandbox.ok(["result", "g5.2"]), "[e][e][e][e][2]");
    // `submit` takes its words as they are.
    sandbox.ok(["submit", "--wait", "--", "show", "{}", "{#}", "a\nb", "", "--wait"]);
    assert_eq!(sandbox.ok(["result", "g6.1"]), "[{}][{#}][a\nb][][--wait]");
    assert_eq!(
        finish(&mut sandbox.jq(["map", "show"]), b"").exits(0).stderr,
        "there was nothing to map over\n"
    );
}

#[test]
fn flags_shape_tasks() {
    let sandbox = Sandbox::new();
    hold(&sandbox);
    sandbox.up(2);
    // --after: order only; and a failure takes those behind it along.
    sandbox.ok(["submit", "--key", "first", "--", "hold", "first"]);
    sandbox.ok(["submit", "--key", "second", "--after", "first", "--", "sh", "-c", "ls first.done"]);
    sandbox.ok(["map", "--after", "first", "--after", "second", "ls", ":::", "first.done"]);
    assert_eq!(sandbox.json(["tasks", "--state", "waiting"])["tasks"].as_array().unwrap().len(), 2);
    let_go(&sandbox, "first");
    sandbox.ok(["wait", "--all"]);
    assert_eq!(sandbox.ok(["result", "second"]), "first.done\n");
    sandbox.ok(["submit", "--key", "broken", "--", "sh", "-c", "exit 9"]);
    sandbox.ok(["submit", "--key", "behind", "--after", "broken", "--", "touch", "behind"]);
    sandbox.run(["wait", "behind"]).exits(1).says("broken").says("code 9");
    assert!(!sandbox.file("behind").exists());
    // --retries: the next attempt knows its number.
    let third = ["submit", "--wait", "--key", "third", "--retries", "2", "--", "sh", "-c"];
    let script = "echo $JOBQ_TASK_ATTEMPT >> tries; [ $JOBQ_TASK_ATTEMPT = 3 ]";
    sandbox.ok(third.iter().chain(&[script]));
    assert_eq!(sandbox.read("tries"), "1\n2\n3\n");
    sandbox.run(["submit", "--wait", "--retries", "1", "--", "sh", "-c", "echo x >> twice; exit 5"]).exits(1);
    assert_eq!(sandbox.read("twice"), "x\nx\n");
    // --max-fails: the rest is cancelled.
    sandbox.ok(["scale", "1"]);
    sandbox.until("one worker", |status| status["connected"] == 1);
    let args: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let words = ["map", "--wait", "--max-fails", "2", "false", ":::"].map(str::to_owned);
    let report = sandbox.run(as_json(words.iter().chain(&args))).exits(1).json();
    assert_eq!(report["counts"]["memory"], 0);
    let (erred, cancelled) =
        (report["counts"]["erred"].as_u64().unwrap(), report["counts"]["cancelled"].as_u64().unwrap());
    assert!(erred == 3 && cancelled == 197, "{report}");
    // --time-limit, with a grandchild that must go too.
    let limited = [
        "submit",
        "--key",
        "limited",
        "--time-limit",
        "300ms",
        "--",
        "sh",
        "-c",
        "sleep 1000 & echo $! > child; wait",
    ];
    sandbox.ok(limited);
    let report = sandbox.run(as_json(["wait", "limited"])).exits(1).json();
    assert_eq!(report["failures"][0]["kind"], "time-limit");
    let child: i32 = sandbox.read("child").trim().parse().unwrap();
    eventually_sync("the grandchild's end", || (!crate::support::is_alive(child)).then_some(()));
    // --stdin and --cwd.
    fs::create_dir(sandbox.file("deeper")).unwrap();
    fs::write(sandbox.file("deeper/input"), "from a file\n").unwrap();
    sandbox.ok([
        "submit", "--wait", "--key", "fed", "--cwd", "deeper", "--stdin", "input", "--", "sh", "-c",
        "pwd; cat",
    ]);
    let here = sandbox.file("deeper").display().to_string();
    assert_eq!(sandbox.ok(["result", "fed"]), format!("{here}\nfrom a file\n"));
    for (flags, words) in [
        (["--stdin", "nowhere"], "can't be read as standard input"),
        (["--cwd", "nowhere"], "directory isn't there"),
    ] {
        sandbox.run(["submit", "--wait"].iter().chain(&flags).chain(&["--", "cat"])).exits(1).says(words);
    }
    sandbox.run(["submit", "--wait", "--", "no-such-program"]).exits(1).says("not found").says("PATH=");
    sandbox.run(["submit", "--wait", "--", "./deeper"]).exits(1).says("is a directory");
    fs::write(sandbox.file("plain"), "echo hi\n").unwrap();
    sandbox.run(["submit", "--wait", "--", "./plain"]).exits(1).says("chmod +x");
}

#[test]
fn what_a_task_prints_is_kept_whole() {
    let sandbox = Sandbox::configured("[task]\ninline_output = \"1KiB\"\n");
    sandbox.up(1);
    sandbox.ok(["submit", "--wait", "--key", "much", "--", "sh", "-c", "seq 100000; seq 5000 >&2"]);
    let count = |to: u32| (1..=to).map(|n| format!("{n}\n")).collect::<String>();
    assert_eq!(sandbox.ok(["result", "much"]), count(100_000));
    assert_eq!(sandbox.ok(["result", "much", "--stderr"]), count(5000));
    let report = sandbox.json(["result", "much"]);
    assert_eq!(report["stdout"].as_str().unwrap().len(), count(100_000).len());
    sandbox.ok(["submit", "--wait", "--key", "little", "--", "printf", "\\377\\000x"]);
    assert_eq!(sandbox.run(["result", "little"]).exits(0).stdout, b"\xff\0x");
    // One that goes away in the middle of the reading.
    sandbox.bash("set -o pipefail; jq result much | head -n 1").exits(0);
}

/// Highest resident size of a process so far, KiB.
fn peak(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn a_hundred_thousand_arguments_stream_through_in_bounded_memory() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let line = "x".repeat(250);
    let input: String = (0..100_000).map(|n| format!("{n} {line}\n")).collect();
    let map = start(&mut sandbox.jq(["map", "--kernel", "echo"]), input.as_bytes());
    let mut highest = 0;
    eventually_sync("the end of the stream", || match peak(map.pid()) {
        Some(now) => {
            highest = highest.max(now);
            None
        }
        None => Some(()),
    });
    assert_eq!(map.end().exits(0).text(), "g1\n");
    eprintln!("{} MiB of arguments through {} MiB", input.len() >> 20, highest >> 10);
    assert!(highest < 48 << 10, "{highest} KiB for {} KiB of arguments", input.len() >> 10);
    sandbox.ok(["wait", "g1"]);
    let counts = &sandbox.status()["counts"];
    assert_eq!(counts["memory"], 100_000, "{counts}");
}

#[test]
fn a_map_of_nothing_but_a_word_is_told_to_the_user() {
    let sandbox = Sandbox::new();
    sandbox.up(0);
    sandbox.run(["map", "--retires", "3", "true", ":::", "a"]).exits(2).says("--retires");
    sandbox.run(["map"]).exits(2);
    sandbox.run(["map", "true", "::::", "nowhere"]).exits(2).says("nowhere");
    assert_eq!(sandbox.json(["tasks"])["tasks"], json!([]));
}

#[test]
fn looking_at_a_cluster_takes_this_long() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let mut times: Vec<_> = (0..10)
        .map(|_| {
            let started = std::time::Instant::now();
            sandbox.ok(["status"]);
            started.elapsed()
        })
        .collect();
    times.sort();
    eprintln!(
        "`jq status`: median {:?}, best {:?} (of this build, on this machine, now)",
        times[5], times[0]
    );
}

#[test]
fn who_waits_on_a_cluster_without_workers_is_told_why_nothing_happens() {
    let sandbox = Sandbox::new();
    sandbox.ok(["up", "--queue", "local", "--workers", "1", "--set", "queue_wait=1h"]);
    sandbox.until("a job that waits", |status| status["allocations"][0]["state"] == "pending");
    let ran = sandbox.run(["submit", "--key", "k", "--", "true"]).exits(0);
    assert!(!ran.stderr.contains("waiting"), "nobody waits here: {}", ran.stderr);
    let ran = sandbox.run(["wait", "--timeout", "1s", "k"]).exits(124);
    ran.says("none of the 1 workers of cluster default is there yet").says("job 1: pending");
    sandbox.ok(["scale", "0"]);
    sandbox.run(["wait", "--timeout", "1s", "k"]).exits(124).says("jq scale N");
    sandbox.ok(["cancel", "k"]);
    let ran = sandbox.run(["wait", "k"]).exits(1);
    assert!(!ran.stderr.contains("scale"), "nothing is waited for: {}", ran.stderr);
}

#[test]
fn what_failed_is_tried_again_with_what_failed_by_it() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let check = ["submit", "--key", "input", "--", "cat", "input"];
    sandbox.ok(check);
    sandbox.run(["submit", "--wait", "--key", "then", "--after", "input", "--", "echo", "then"]).exits(1);
    sandbox.run(["retry", "nobody"]).exits(2).says("'nobody'");
    let again = sandbox.run(["retry", "input", "--wait"]).exits(1);
    assert!(again.text().contains("2 tasks are tried again"), "{}", again.text());
    again.says("No such file");
    fs::write(sandbox.file("input"), "there\n").unwrap();
    let again = sandbox.run(as_json(["retry", "then"])).exits(0).json();
    assert_eq!(again["retried"], 2);
    sandbox.ok(["wait", "input", "then", "--timeout", "100s"]);
    assert_eq!(
        (sandbox.ok(["result", "input"]), sandbox.ok(["result", "then"])),
        ("there\n".into(), "then\n".into())
    );
    assert!(sandbox.ok(["retry", "then"]).contains("0 tasks"));
}
