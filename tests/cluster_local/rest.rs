//! Files of a cluster that go missing, and verbs that take one apart while others want to go on with it.

use crate::restarts::kill_scheduler;
use crate::support::sandbox::{Sandbox, start};
use crate::support::{eventually_sync, is_alive};
use jobq::state::launch;
use std::fs;
use std::time::{Duration, SystemTime};

const UP: [&str; 5] = ["up", "--queue", "local", "--workers", "1"];

fn with_a_result() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.up(1).ok(["submit", "--wait", "--key", "kept", "--", "echo", "hi"]);
    sandbox
}

#[test]
fn a_living_scheduler_puts_right_what_tells_of_it_and_nobody_takes_its_work() {
    let sandbox = with_a_result();
    let (folder, scheduler) = (sandbox.cluster("default"), sandbox.scheduler());
    let (contact, cluster) = (folder.join("contact.toml"), folder.join("cluster.toml"));
    let good = fs::read_to_string(&contact).unwrap();
    let asked = fs::read_to_string(&cluster).unwrap();
    let is_right = || (fs::read_to_string(&contact).ok()? == good).then_some(());

    fs::remove_file(&contact).unwrap();
    sandbox.run(UP).exits(0);
    eventually_sync("the contact file", is_right);
    for bad in ["", "garbage", &good.replace("epoch = 1", "epoch = 99")] {
        fs::write(&contact, bad).unwrap();
        sandbox.run(["status"]).exits(0);
        eventually_sync("the contact file", is_right);
    }
    fs::remove_file(&cluster).unwrap();
    // It may be back already.
    let ran = sandbox.run(UP);
    assert!(ran.code == 0 || ran.stderr.contains("it is missing, though"), "{ran:?}");
    eventually_sync("cluster.toml", || (fs::read_to_string(&cluster).ok()? == asked).then_some(()));
    assert!(!folder.join("journal.lost").exists() && is_alive(scheduler));
    assert_eq!((sandbox.scheduler(), sandbox.ok(["result", "kept"])), (scheduler, "hi\n".into()));
    sandbox.ok(["down"]);
    sandbox.nothing_runs();
}

#[test]
fn a_dead_scheduler_whose_files_are_gone_is_resumed_all_the_same() {
    let sandbox = with_a_result();
    let folder = sandbox.cluster("default");
    kill_scheduler(&sandbox);
    fs::remove_file(folder.join("contact.toml")).unwrap();
    let doctor = sandbox.run(["doctor"]).text();
    assert!(doctor.contains("is dead"), "{doctor}");
    assert_eq!(sandbox.json(["ls"])["clusters"][0]["state"], "dead");
    sandbox.run(["result", "kept"]).exits(0).says("had died; resumed as epoch 2");
    kill_scheduler(&sandbox);
    for file in ["contact.toml", "cluster.toml"] {
        fs::remove_file(folder.join(file)).unwrap();
    }
    sandbox.run(UP).exits(0).says("had died; resumed as epoch 3");
    assert_eq!(sandbox.ok(["result", "kept"]), "hi\n");
    assert!(!folder.join("journal.lost").exists());
}

#[test]
fn down_waits_for_whoever_revives_and_then_ends_what_is_there() {
    let sandbox = with_a_result();
    let folder = sandbox.cluster("default");
    kill_scheduler(&sandbox);
    let right = launch::take(&folder, &[]).unwrap().unwrap();
    let down = start(&mut sandbox.jq(["down"]), b"");
    let status = start(&mut sandbox.jq(["status"]), b"");
    // Whoever finds the right taken leaves a temporary in passing.
    let passes = || fs::metadata(&folder).unwrap().modified().unwrap();
    let before = passes();
    eventually_sync("somebody who wants it too", || (passes() > before).then_some(()));
    assert!(folder.join("contact.toml").exists(), "nothing is done without the right");
    drop(right);
    // Either may be first.
    let status = status.end();
    assert!([0, 69].contains(&status.code), "{status:?}");
    down.end().exits(0);
    sandbox.run(["status"]).exits(69).says("is not up");
    sandbox.nothing_runs();
    sandbox.ok(["down", "--purge"]);
    assert!(!folder.exists());
}

#[test]
fn a_scheduler_of_a_life_that_was_ended_ends_at_once() {
    let sandbox = with_a_result();
    let folder = sandbox.cluster("default");
    kill_scheduler(&sandbox);
    sandbox.ok(["down"]);
    let root = sandbox.state_root();
    // Such as one whose job was in the queue all the time.
    let late = [
        "scheduler".as_ref(),
        "--state-root".as_ref(),
        root.as_os_str(),
        "--name".as_ref(),
        "default".as_ref(),
    ];
    sandbox.run(late).exits(0);
    assert!(!folder.join("contact.toml").exists() && !folder.join("epoch.3").exists());
    sandbox.run(["status"]).exits(69).says("is not up");
    assert!(sandbox.ok(["down"]).contains("was not up"));
    assert!(!folder.join("epoch.3").exists(), "what is down already is left as it is");
    sandbox.up(1);
    sandbox.run(["result", "kept"]).exits(2);
}

#[test]
fn clean_leaves_a_cluster_whose_first_scheduler_is_in_the_queue() {
    let sandbox = Sandbox::new();
    let flags = ["--scheduler", "job", "--set", "queue_wait=4s"];
    let up = start(&mut sandbox.jq(UP.iter().chain(&flags)), b"");
    let folder = sandbox.cluster("default");
    let submitted = || fs::read_dir(folder.join("intents")).ok()?.next().map(drop);
    eventually_sync("its intent", submitted);
    sandbox.run(["clean", "--older-than", "0s", "--yes"]).exits(0).says("its scheduler's job is on its way");
    up.end().exits(0);
    sandbox.ok(["submit", "--wait", "--", "true"]);
    sandbox.ok(["down"]);
}

#[test]
fn certificates_that_get_old_are_renewed_by_whoever_uses_them() {
    let sandbox = Sandbox::new();
    sandbox.up(1).ok(["down"]);
    let path = sandbox.cluster("default").join("identity/scheduler.pem");
    let long_ago = SystemTime::now() - Duration::from_secs(200 * 86_400);
    for verb in [&UP[..], &["status"]] {
        fs::File::options().append(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        let old = fs::read(&path).unwrap();
        sandbox.run(verb).exits(0);
        assert_ne!(fs::read(&path).unwrap(), old, "{verb:?}");
    }
    // Its workers and its scheduler have older ones.
    sandbox.ok(["submit", "--wait", "--", "true"]);
}
