//! Schedulers that are stopped or cut off, and hosts that don't see each other: at most one acts, whoever thinks what.
//! Hosts are namespaces of this one (network, host name, processes) that share the state directory.

mod support;

use jobq::state::lease::{BEAT_EVERY, SILENT_AFTER};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use support::sandbox::{Sandbox, finish, names, start};
use support::{eventually_sync, is_alive};

/// Two hosts with one wire between them.
struct Hosts {
    hosts: [Host; 2],
}

/// Ends with everything that runs in it.
struct Host {
    /// The parent of its first process.
    unshare: Child,
    first: i32,
    name: &'static str,
}

impl Hosts {
    /// `None`, with a reason on stderr: this test's user may not make them.
    fn new(test: &str) -> Option<Hosts> {
        if !nix::unistd::geteuid().is_root() {
            return skip(test, "only root makes namespaces");
        }
        for program in ["unshare", "nsenter", "ip"] {
            if Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_err()
            {
                return skip(test, &format!("{program} is not installed"));
            }
        }
        let alpha = Host::start("alpha")?;
        let beta = Host::start("beta")?;
        let hosts = Hosts { hosts: [alpha, beta] };
        let [a, b] = &hosts.hosts;
        let (near, far) = (a.first.to_string(), b.first.to_string());
        let wire = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &far];
        // Of the network alone: process numbers are this test's.
        if !Command::new("nsenter")
            .args(["--target", &near, "--net", "--"])
            .args(wire)
            .status()
            .unwrap()
            .success()
        {
            return skip(test, "there is no veth here");
        }
        for (host, address) in [(a, "10.77.0.1/24"), (b, "10.77.0.2/24")] {
            assert!(host.run(&["ip", "link", "set", "lo", "up"]));
            assert!(host.run(&["ip", "address", "add", address, "dev", "eth0"]));
            assert!(host.run(&["ip", "link", "set", "eth0", "up"]));
        }
        // The kernel takes its time to see that a wire has two ends; before that, nobody listens there.
        for host in &hosts.hosts {
            let is_up = || host.run(&["sh", "-c", "ip link show eth0 | grep -q 'state UP'"]).then_some(());
            eventually_sync("the wire", is_up);
        }
        Some(hosts)
    }
}

fn skip(test: &str, why: &str) -> Option<Hosts> {
    support::process::skipped(test, why);
    None
}

impl Host {
    fn start(name: &'static str) -> Option<Host> {
        let mut unshare = Command::new("unshare")
            .args(["--net", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child", "--"])
            .args(["sh", "-c", "hostname \"$0\" && exec sleep infinity", name])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let parent = unshare.id();
        let children = format!("/proc/{parent}/task/{parent}/children");
        let first = eventually_sync("a namespace", || {
            if unshare.try_wait().unwrap().is_some() {
                return Some(None);
            }
            let first: i32 = fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()?;
            let is_ready = fs::read_to_string(format!("/proc/{first}/comm")).ok()?.trim() == "sleep";
            is_ready.then_some(Some(first))
        })?;
        Some(Host { unshare, first, name })
    }

    /// The command as it would run there.
    fn within(&self, command: &Command) -> Command {
        let mut there = Command::new("nsenter");
        there.args(["--target", &self.first.to_string(), "--net", "--uts", "--pid", "--mount", "--"]);
        // The directory is left with the mount namespace.
        let dir = command.get_current_dir().unwrap_or(Path::new("/"));
        there.args(["env", "-i", "-C"]).arg(dir);
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                let mut pair = name.to_owned();
                pair.push("=");
                pair.push(value);
                there.arg(pair);
            }
        }
        there.arg(command.get_program()).args(command.get_args());
        there
    }

    fn run(&self, words: &[&str]) -> bool {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        self.within(&command).status().unwrap().success()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The first process of a namespace takes all others with it.
        let _ = kill(Pid::from_raw(self.first), Signal::SIGKILL);
        let _ = self.unshare.wait();
    }
}

fn epochs(sandbox: &Sandbox) -> usize {
    names(&sandbox.cluster("default")).iter().filter(|name| name.starts_with("epoch.")).count()
}

const UP: [&str; 8] = ["up", "--queue", "local", "--workers", "1", "--wait", "--timeout", "100s"];

#[test]
fn a_scheduler_that_lives_behind_a_broken_wire_is_left_alone() {
    let Some(hosts) = Hosts::new("a_scheduler_that_lives_behind_a_broken_wire") else { return };
    let [alpha, beta] = &hosts.hosts;
    let sandbox = Sandbox::new();
    let jq = |host: &Host, words: &[&str]| finish(&mut host.within(&sandbox.jq(words)), b"");
    jq(alpha, &UP).exits(0);
    assert_eq!(sandbox.contact()["host"].as_str(), Some(alpha.name));
    jq(beta, &["status"]).exits(0);

    assert!(beta.run(&["ip", "link", "set", "eth0", "down"]));
    let status = jq(beta, &["status"]).exits(69);
    assert!(status.stderr.contains("10.77.0.1:") && status.stderr.contains(alpha.name), "{}", status.stderr);
    jq(beta, &UP).exits(69).says("10.77.0.1:");
    assert_eq!(epochs(&sandbox), 1, "nobody has claimed anything");
    // Its own host never lost it.
    jq(alpha, &["submit", "--wait", "--", "true"]).exits(0);

    assert!(beta.run(&["ip", "link", "set", "eth0", "up"]));
    jq(beta, &["submit", "--wait", "--", "true"]).exits(0);
    assert_eq!(epochs(&sandbox), 1);
    jq(alpha, &["down"]).exits(0);
}

#[test]
fn of_two_hosts_that_bring_a_cluster_up_at_the_same_moment_both_get_the_same_one() {
    let Some(hosts) = Hosts::new("of_two_hosts_that_bring_a_cluster_up") else { return };
    let [alpha, beta] = &hosts.hosts;
    let sandbox = Sandbox::new();
    for round in 1..=3 {
        let both = [alpha, beta].map(|host| start(&mut host.within(&sandbox.jq(UP)), b""));
        for up in both {
            up.end().exits(0);
        }
        let statuses = [alpha, beta]
            .map(|host| finish(&mut host.within(&sandbox.jq(["status", "--json"])), b"").exits(0).json());
        assert_eq!(statuses[0]["epoch"], statuses[1]["epoch"], "round {round}");
        for status in &statuses {
            assert_eq!(
                (&status["connected"], &status["target"]),
                (&1.into(), &1.into()),
                "round {round}: {status}"
            );
        }
        assert_eq!(epochs(&sandbox), 2 * round - 1, "one claim by whoever begins anew, one by its scheduler");
        let there = if sandbox.contact()["host"].as_str() == Some(alpha.name) { alpha } else { beta };
        finish(&mut there.within(&sandbox.jq(["down"])), b"").exits(0);
    }
}

#[test]
fn a_scheduler_stopped_under_load_is_superseded_and_every_output_comes_to_its_place_once() {
    const TASKS: usize = 60;
    let sandbox = Sandbox::new();
    sandbox.program("work", "#!/bin/sh\necho \"$1\" >> log\nsleep 0.2\necho \"made by $1\" > \"$2\"\n");
    sandbox.up(2);
    let tasks: Vec<String> = (0..TASKS).map(|task| format!("t{task}")).collect();
    let map = ["map", "--output", "out.{}", "work", "{}", "{out}", ":::"];
    sandbox.ok(map.into_iter().map(str::to_owned).chain(tasks.iter().cloned()));
    let lines = || fs::read_to_string(sandbox.file("log")).unwrap_or_default().lines().count();
    eventually_sync("some tasks", || (lines() >= 10).then_some(()));
    let zombie = sandbox.scheduler();
    kill(Pid::from_raw(zombie), Signal::SIGSTOP).unwrap();
    // What it has not even read when it is stopped.
    let pending = start(&mut sandbox.jq(["submit", "--wait", "--key", "late", "--", "echo", "late"]), b"");
    // Both see that it stands still; one of them starts another.
    sandbox.ok(["status"]);
    kill(Pid::from_raw(zombie), Signal::SIGCONT).unwrap();
    eventually_sync("the stopped one's end", || (!is_alive(zombie)).then_some(()));
    sandbox.ok(["wait", "g1", "--timeout", "100s"]);
    pending.end().exits(0);
    assert_eq!(sandbox.ok(["result", "late"]), "late\n");
    for task in &tasks {
        assert_eq!(sandbox.read(&format!("out.{task}")), format!("made by {task}\n"));
    }
    let left: Vec<String> = names(&sandbox.work()).into_iter().filter(|name| name.contains("out.")).collect();
    assert_eq!(left.len(), TASKS, "no temporary file is left: {left:?}");
    assert_eq!(lines(), TASKS, "each ran once: its worker never died");
    assert_eq!(sandbox.status()["epoch"], 2);
}

#[test]
fn a_scheduler_that_was_stopped_for_too_long_ends_by_itself_even_if_nobody_has_claimed_the_cluster() {
    let sandbox = Sandbox::new();
    sandbox.up(0);
    let stopped = sandbox.scheduler();
    kill(Pid::from_raw(stopped), Signal::SIGSTOP).unwrap();
    std::thread::sleep(SILENT_AFTER + BEAT_EVERY);
    kill(Pid::from_raw(stopped), Signal::SIGCONT).unwrap();
    // Nobody talks to it.
    eventually_sync("its end", || (!is_alive(stopped)).then_some(()));
    assert_eq!(epochs(&sandbox), 1);
    sandbox.run(["status"]).exits(0).says("resumed as epoch 2");
}

#[test]
fn a_contact_file_that_a_late_claimant_overwrote_is_put_right() {
    let sandbox = Sandbox::new();
    sandbox.up(0);
    let file = sandbox.cluster("default").join("contact.toml");
    let ours = fs::read_to_string(&file).unwrap();
    let epoch = |text: &str| toml::from_str::<toml::Table>(text).unwrap()["epoch"].as_integer().unwrap();
    assert_eq!(epoch(&ours), 1);
    let late = ours.replacen("epoch = 1", "epoch = 0", 1);
    assert_eq!(epoch(&late), 0);
    let aside = sandbox.cluster("default").join("contact.late");
    fs::write(&aside, late).unwrap();
    fs::set_permissions(&aside, fs::metadata(&file).unwrap().permissions()).unwrap();
    fs::rename(&aside, &file).unwrap();
    eventually_sync("its own contact", || (fs::read_to_string(&file).ok()? == ours).then_some(()));
    sandbox.ok(["status"]);
}
