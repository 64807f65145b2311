//! A Slurm of eight nodes with our program beside it: a state directory, a home and a working directory of its own,
//! and a place for wrappers around Slurm's commands. What a test leaves running is stopped by pid.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::support::process::{Ended, ended};
use super::support::slurm::{self, Slurm};
use super::support::{PATIENCE, eventually_sync, is_alive, jobq};

pub struct Lab {
    pub slurm: Slurm,
    dir: PathBuf,
    /// More variables for every command.
    environment: Vec<(String, String)>,
}

impl Lab {
    /// `None` after saying what is missing; the test then returns.
    pub fn start(test: &str) -> Option<Lab> {
        let slurm = slurm::start(test)?;
        let dir = slurm.dir().join("lab");
        for name in ["state", "home", "work/out", "bin"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let lab = Lab { slurm, dir, environment: Vec::new() };
        // One line in `runs` for each time it runs; the output is its argument.
        lab.script("work/task.sh", "sleep 0.1\necho \"$1\" >> runs\necho \"$1\" > \"$JOBQ_TASK_OUTPUT\"");
        Some(lab)
    }

    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// The folder of the cluster `default`.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state/default")
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.into()));
    }

    pub fn script(&self, path: &str, lines: &str) -> PathBuf {
        let path = self.dir.join(path);
        fs::write(&path, format!("#!/bin/bash\n{lines}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A program in front of Slurm's own of that name; `$real` is that one.
    pub fn wrap(&self, name: &str, lines: &str) {
        let output = Command::new("sh").args(["-c", &format!("command -v {name}")]).output().unwrap();
        let real = String::from_utf8(output.stdout).unwrap();
        self.script(
            &format!("bin/{name}"),
            &format!("real={}\nlab={}\n{lines}", real.trim(), self.dir.display()),
        );
    }

    /// A command in the lab's environment, and in nobody else's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap();
        command.env_clear().current_dir(self.work()).stdin(Stdio::null());
        command.env("PATH", format!("{}:{path}", self.dir.join("bin").display()));
        command.env("HOME", self.dir.join("home")).env("XDG_CONFIG_DIRS", self.dir.join("home"));
        command.env("JOBQ_CFG_CLUSTER__STATE_DIR", self.dir.join("state"));
        // Most stories are about workers, and count jobs.
        command.env("JOBQ_CFG_SCHEDULER__PLACE", "here");
        // A real site is asked every half minute.
        for name in ["LIMITS__MIN_POLL_INTERVAL", "SCHEDULER__POLL_INTERVAL"] {
            command.env(format!("JOBQ_CFG_{name}"), "1s");
        }
        command.envs(self.slurm.env()).envs(self.environment.iter().cloned());
        command
    }

    pub fn run(&self, words: &[&str]) -> Ended {
        let mut command = self.command(jobq());
        command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        ended(command.spawn().unwrap(), &words.join(" "))
    }

    /// What a command that must go well prints.
    pub fn ok(&self, words: &[&str]) -> String {
        let ended = self.run(words);
        assert_eq!(ended.code, Some(0), "{words:?}: {}{}\n{}", ended.stdout, ended.stderr, self.log());
        ended.stdout
    }

    /// The scheduler's log, for whoever looks at a failure.
    fn log(&self) -> String {
        fs::read_to_string(self.state().join("scheduler.log")).unwrap_or_default()
    }

    pub fn up(&self, words: &[&str]) -> String {
        self.ok(&[&["up", "--queue", "spice", "--wait"], words].concat())
    }

    /// One task an argument from 1 to `count`, each with an output `out/<argument>`; returns the graph.
    pub fn map(&self, count: u32) -> String {
        let numbers: Vec<String> = (1..=count).map(|n| n.to_string()).collect();
        let mut words = vec!["map", "--output", "out/{}", "./task.sh", "{}", ":::"];
        words.extend(numbers.iter().map(String::as_str));
        self.ok(&words).trim().to_owned()
    }

    /// Every output is in its place, with nothing beside it.
    pub fn check_outputs(&self, count: u32) {
        let entries = fs::read_dir(self.work().join("out")).unwrap().map(|entry| entry.unwrap().path());
        let names: BTreeSet<String> =
            entries.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
        let expected: BTreeSet<String> = (1..=count).map(|n| n.to_string()).collect();
        assert_eq!(names.symmetric_difference(&expected).collect::<Vec<_>>(), [""; 0]);
        for name in &names {
            assert_eq!(fs::read_to_string(self.work().join("out").join(name)).unwrap(), format!("{name}\n"));
        }
    }

    /// The scheduler's process, as the contact file has it.
    pub fn scheduler(&self) -> i32 {
        let contact = fs::read_to_string(self.state().join("contact.toml")).unwrap();
        let contact: toml::Table = toml::from_str(&contact).unwrap();
        i32::try_from(contact["pid"].as_integer().unwrap()).unwrap()
    }

    /// How often tasks ran in all.
    pub fn runs(&self) -> usize {
        fs::read_to_string(self.work().join("runs")).unwrap().lines().count()
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ok(&["status", "--json"])).unwrap()
    }

    /// Looks at the status until `look` sees something.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut(&Value) -> Option<T>) -> T {
        let started = std::time::Instant::now();
        loop {
            let last = self.status();
            if let Some(seen) = look(&last) {
                return seen;
            }
            assert!(started.elapsed() < PATIENCE, "never came: {what}\n{last:#}\n{}", self.log());
        }
    }

    pub fn until_connected(&self, workers: u64) {
        self.until(&format!("{workers} workers"), |status| (status["connected"] == workers).then_some(()));
    }

    /// Jobs in the queue, those that are being cleaned up not included.
    pub fn jobs(&self) -> Vec<String> {
        let live = |line: &String| !line.contains(" COMPLETING ");
        self.slurm.squeue().into_iter().filter(live).collect()
    }

    pub fn until_empty(&self) {
        eventually_sync("an empty queue", || self.slurm.squeue().is_empty().then_some(()));
        eventually_sync("no process of ours", || self.processes().is_empty().then_some(()));
    }

    /// Down, with nothing left.
    pub fn down(&self) {
        self.ok(&["down"]);
        assert_eq!(self.slurm.squeue(), [""; 0]);
        // The scheduler ends just after its last word.
        eventually_sync("no process of ours", || self.processes().is_empty().then_some(()));
    }

    /// Processes of this lab's clusters: their roles name the state directory, their tasks run in `work`.
    pub fn processes(&self) -> Vec<i32> {
        let state = self.dir.join("state");
        let ours = |pid: i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let role = String::from_utf8_lossy(&line).contains(&format!("--state-root\0{}", state.display()));
            let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
            (role || cwd.is_ok_and(|cwd| cwd == self.work())) && is_alive(pid)
        };
        let entries =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        entries.filter(|pid| *pid != std::process::id() as i32 && ours(*pid)).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.slurm.continue_controller_if_there();
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A shell in a process group of its own.
pub fn in_own_group(command: &mut Command) -> Child {
    command.process_group(0).spawn().unwrap()
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
