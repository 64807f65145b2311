//! What is cancelled, cut off or out of time.

use crate::bringing::{has_started, hold, let_go};
use crate::support::sandbox::Sandbox;
use crate::support::{eventually_sync, is_alive};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

#[test]
fn cancelling_ends_everything_that_a_task_started() {
    let sandbox = Sandbox::configured("[task]\nkill_grace = \"300ms\"\n");
    sandbox.up(2);
    // A child, a grandchild that ignores being asked, and a shell that waits for them.
    sandbox.script(
        "family.sh",
        "#!/bin/sh
         sh -c 'trap \"\" TERM; echo $$ > grandchild; while :; do sleep 1; done' &
         until [ -s grandchild ]; do sleep 0.02; done
         echo $$ > parent; : > out.partial; echo begun > \"$JOBQ_TASK_OUTPUT\"; touch ready; wait\n",
    );
    fs::create_dir(sandbox.file("out")).unwrap();
    sandbox.ok(["submit", "--key", "family", "--output", "out/x", "--", "./family.sh"]);
    sandbox.ok(["submit", "--key", "other", "--", "sleep", "1000"]);
    sandbox.ok(["submit", "--key", "queued", "--", "touch", "queued"]);
    sandbox.ok(["submit", "--key", "behind", "--after", "family", "--", "touch", "behind"]);
    eventually_sync("the family", || sandbox.file("ready").exists().then_some(()));
    assert_eq!(sandbox.json(["cancel", "family", "other", "queued"])["cancelled"], 3);
    sandbox.run(["wait"]).exits(0);
    sandbox.run(["wait", "behind"]).exits(1).says("family").says("cancelled");
    for name in ["parent", "grandchild"] {
        let pid: i32 = sandbox.read(name).trim().parse().unwrap();
        eventually_sync("the end of a process", || (!is_alive(pid)).then_some(()));
    }
    eventually_sync("an empty directory", || {
        crate::support::sandbox::names(&sandbox.file("out")).is_empty().then_some(())
    });
    // Both workers are free again, and nothing of the cancelled runs later.
    sandbox.ok(["map", "--wait", "echo", ":::", "a", "b", "c"]);
    assert!(!sandbox.file("queued").exists() && !sandbox.file("behind").exists());
    sandbox.ok(["map", "sleep", ":::", "1000", "1000", "1000"]);
    assert_eq!(sandbox.json(["cancel", "g6"])["cancelled"], 3, "a whole graph");
}

#[test]
fn a_worker_that_was_cut_off_comes_back_with_what_it_runs() {
    // Silence is three heartbeats.
    let sandbox = Sandbox::configured("[scheduler]\nheartbeat = \"200ms\"\n");
    hold(&sandbox);
    sandbox.program("count", "#!/bin/sh\necho \"start $1\" >> log; hold \"$1\"; echo \"end $1\" >> log\n");
    sandbox.up(2);
    let workers = sandbox.workers();
    sandbox.ok(["map", "count", ":::", "a", "b"]);
    has_started(&sandbox, "a");
    has_started(&sandbox, "b");
    // A worker that stands still is lost; its command may still run, so it waits.
    kill(Pid::from_raw(workers[0]), Signal::SIGSTOP).unwrap();
    let status = sandbox.until("a lost worker", |status| status["connected"] == 1);
    assert_eq!(status["counts"]["assigned"], 2);
    kill(Pid::from_raw(workers[0]), Signal::SIGCONT).unwrap();
    sandbox.until("its return", |status| status["connected"] == 2);
    // A scheduler that stood still believes everyone silent, or finds what they said meanwhile: either way they
    // go on.
    let scheduler = Pid::from_raw(sandbox.scheduler());
    kill(scheduler, Signal::SIGSTOP).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    kill(scheduler, Signal::SIGCONT).unwrap();
    sandbox.until("both workers", |status| status["connected"] == 2);
    for name in ["a", "b"] {
        let_go(&sandbox, name);
    }
    sandbox.ok(["wait", "--timeout", "100s"]);
    let mut log: Vec<String> = sandbox.read("log").lines().map(str::to_owned).collect();
    log.sort();
    assert_eq!(log, ["end a", "end b", "start a", "start b"], "nothing ran twice");
    assert_eq!(sandbox.workers(), workers, "the same processes");
    assert_eq!(sandbox.status()["counts"]["memory"], 2);
}

#[test]
fn a_walltime_that_ends_is_no_fault_of_the_task() {
    let sandbox = Sandbox::configured("[task]\nallowed_failures = 1\n");
    hold(&sandbox);
    sandbox.program("count", "#!/bin/sh\necho \"$JOBQ_TASK_ATTEMPT\" >> log; exec hold \"$1\"\n");
    sandbox.up_with(1, &["--walltime", "2s"]);
    sandbox.ok(["submit", "--key", "long", "--", "count", "long"]);
    has_started(&sandbox, "long");
    let status = sandbox.until("the end of the first job", |status| {
        let first = &status["allocations"][0];
        first["state"] == "ended" && status["connected"] == 1
    });
    let reason = status["allocations"][0]["reason"].as_str().unwrap().to_lowercase();
    assert!(reason.contains("walltime") || reason.contains("time"), "{reason}");
    eventually_sync("another attempt", || (sandbox.read("log").lines().count() > 1).then_some(()));
    let_go(&sandbox, "long");
    sandbox.ok(["wait", "long", "--timeout", "100s"]);
    assert_eq!(sandbox.json(["result", "long"])["state"], "memory");
}
