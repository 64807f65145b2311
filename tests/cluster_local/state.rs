//! State directories that can't be used.

use crate::restarts::kill_scheduler;
use crate::support::sandbox::{Ran, Sandbox, finish, names};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;

/// A user without rights.
const NOBODY: u32 = 65_534;

fn up(sandbox: &Sandbox) -> Ran {
    sandbox.run(["up", "--queue", "local", "--workers", "1"])
}

#[test]
fn a_state_directory_that_is_none_is_told_by_its_path() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.state_root(), "a file").unwrap();
    let root = sandbox.state_root().display().to_string();
    up(&sandbox).exits(78).says(&root).says("isn't a directory");
    sandbox.run(["status"]).exits(78).says(&root);
    sandbox.run(["ls"]).exits(78).says(&root);
    fs::remove_file(sandbox.state_root()).unwrap();
    sandbox.run(["status"]).exits(69).says("jq up");
    assert_eq!(sandbox.json(["ls"])["clusters"], serde_json::json!([]));
    sandbox.nothing_runs();
}

#[test]
fn a_state_directory_that_others_could_write_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.up(1).ok(["down"]);
    let folder = sandbox.cluster("default");
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    for verb in ["up", "status", "down"] {
        sandbox.run([verb]).exits(77).says("chmod 0700").says(&folder.display().to_string());
    }
    assert_eq!(sandbox.json(["ls"])["clusters"][0]["state"], "broken");
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(sandbox.state_root(), Permissions::from_mode(0o777)).unwrap();
    up(&sandbox).exits(77).says("chmod");
    sandbox.nothing_runs();
}

#[test]
fn a_state_directory_without_rights_is_a_matter_of_permission() {
    let sandbox = Sandbox::new();
    let state = sandbox.path().join("state");
    fs::set_permissions(&state, Permissions::from_mode(0o555)).unwrap();
    let mut command = sandbox.jq(["up", "--queue", "local"]);
    if nix::unistd::geteuid().is_root() {
        // Root may write anywhere, so somebody else tries.
        fs::set_permissions(sandbox.path(), Permissions::from_mode(0o755)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    finish(&mut command, b"").exits(77).says(&state.display().to_string());
    fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_cluster_of_another_owner_is_not_trusted() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can give a folder away");
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.up(1).ok(["down"]);
    let folder = sandbox.cluster("default");
    chown(&folder, Some(NOBODY), None).unwrap();
    for verb in ["up", "status", "down"] {
        sandbox.run([verb]).exits(77).says("belongs to user 65534").says(&folder.display().to_string());
    }
    chown(&folder, Some(0), None).unwrap();
}

#[test]
fn damaged_files_are_named() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let contact = sandbox.cluster("default").join("contact.toml");
    let good = fs::read_to_string(&contact).unwrap();
    fs::write(&contact, "format = 99").unwrap();
    sandbox.run(["status"]).exits(78).says("contact.toml");
    fs::write(&contact, good).unwrap();
    let cluster = sandbox.cluster("default").join("cluster.toml");
    let good = fs::read_to_string(&cluster).unwrap();
    fs::write(&cluster, "format = 99").unwrap();
    sandbox.run(["status"]).exits(78).says("cluster.toml");
    fs::write(&cluster, good).unwrap();
    sandbox.ok(["status"]);
}

#[test]
fn a_folder_that_takes_more_than_it_may_loses_what_ended_jobs_left_and_says_so() {
    let sandbox = Sandbox::configured("[limits]\nstate_inodes = 60\n");
    sandbox.up(1);
    // Of jobs that ended long ago.
    let allocations = sandbox.cluster("default").join("allocations");
    for n in 0..40 {
        let file = fs::File::create(allocations.join(format!("jq00000{n}.log"))).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(100_000 - n))
            .unwrap();
    }
    // It is looked at when a scheduler begins, and now and then.
    kill_scheduler(&sandbox);
    sandbox.ok(["status"]);
    let left = || names(&allocations).iter().filter(|name| name.starts_with("jq00000")).count();
    let status = sandbox.until("a look at it", |status| status["scheduler"]["folder"]["inodes"] != 0);
    assert!((1..40).contains(&left()), "{}", left());
    let folder = &status["scheduler"]["folder"];
    assert!(folder["inodes"].as_u64().unwrap() >= 48 && folder["max_inodes"] == 60, "{status}");
    sandbox.run(["status"]).exits(0).says("of 10.0 GiB (limits.state_bytes) and 60 (limits.state_inodes)");
    let doctor = sandbox.run(["doctor"]).text();
    assert!(doctor.contains("60 (limits.state_inodes)"), "{doctor}");
    // What is of use stays.
    sandbox.ok(["submit", "--wait", "--", "true"]);
}
