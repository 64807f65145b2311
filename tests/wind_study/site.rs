//! A user's place with clusters in it: state, home and working directory of its own, and the real program. What is
//! left running is stopped by pid.

use super::support::process::{Ended, ended};
use super::support::{self, PATIENCE, eventually_sync, is_alive};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, chown};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Somebody who isn't root, and may not read everything.
const NOBODY: u32 = 65534;

pub struct Site {
    dir: tempfile::TempDir,
    program: PathBuf,
    /// Whose processes they are, if not ours.
    user: Option<u32>,
    environment: Vec<(String, String)>,
}

impl Site {
    pub fn new() -> Site {
        let dir = tempfile::Builder::new().prefix("jobq-site-").tempdir().unwrap();
        for name in ["home", "work", "tmp"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Site { dir, program: support::jobq(), user: None, environment: Vec::new() }
    }

    /// Of a user for whom permissions count: us, or nobody if we are root.
    pub fn of_plain_user() -> Site {
        let mut site = Site::new();
        if nix::unistd::geteuid().is_root() {
            let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
            // Where everybody may execute it.
            site.program = site.path("jobq");
            fs::copy(support::jobq(), &site.program).unwrap();
            [site.dir.path(), &site.program].into_iter().for_each(open);
            site.user = Some(NOBODY);
            ["", "home", "work", "tmp"].into_iter().for_each(|name| site.give(&site.path(name)));
        }
        site
    }

    /// With more variables for every command.
    pub fn with(mut self, environment: Vec<(String, String)>) -> Site {
        self.environment = environment;
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file where commands run.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path("work").join(name)
    }

    /// Makes the site's user the owner of what a test has made.
    pub fn give(&self, path: &Path) {
        if let Some(user) = self.user {
            chown(path, Some(user.into()), Some(user.into())).unwrap();
        }
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).env_clear().current_dir(self.path("work")).stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.path("home"));
        command.env("XDG_CONFIG_DIRS", self.path("home")).env("TMPDIR", self.path("tmp"));
        command.env("JOBQ_CFG_CLUSTER__STATE_DIR", self.path("state"));
        command.envs(self.environment.iter().cloned());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    pub fn spawn(&self, words: &[&str]) -> Child {
        let mut command = self.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        loop {
            match command.spawn() {
                // Another test's child, just forked, still has our copy of the program open for writing.
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::yield_now()
                }
                spawned => return spawned.unwrap(),
            }
        }
    }

    pub fn run(&self, words: &[&str]) -> Ended {
        ended(self.spawn(words), &words.join(" "))
    }

    /// What a command that must go well prints.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let Ended { code, stdout, stderr } = self.run(words);
        assert_eq!(code, Some(0), "{words:?}: {stdout}{stderr}\n{}", self.log());
        stdout
    }

    /// The scheduler's log, for whoever looks at a failure.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("state/default/scheduler.log")).unwrap_or_default()
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ok(&["status", "--json"])).unwrap()
    }

    /// Looks at the status until `look` sees something.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut(&Value) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            let status = self.status();
            if let Some(seen) = look(&status) {
                return seen;
            }
            assert!(started.elapsed() < PATIENCE, "never came: {what}\n{status:#}\n{}", self.log());
        }
    }

    /// Down, with no process of the site's clusters left.
    pub fn down(&self) {
        self.ok(&["down"]);
        eventually_sync("no process of ours", || self.processes("").is_empty().then_some(()));
    }

    /// Processes of this site's clusters that have a role (all: empty), by what they were started with.
    pub fn processes(&self, role: &str) -> Vec<Pid> {
        let state = self.path("state").display().to_string();
        let ours = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            let plays = role.is_empty() || words.get(1) == Some(&role.as_bytes());
            plays && String::from_utf8_lossy(&line).contains(&state) && is_alive(*pid)
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(ours).map(Pid::from_raw).collect()
    }
}

impl Drop for Site {
    /// Nothing here panics, since a failing test comes by here too.
    fn drop(&mut self) {
        if self.processes("").is_empty() {
            return;
        }
        let _ = self.command(&["down"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        // Supervisors first: they start workers again.
        for role in ["supervisor", ""] {
            for pid in self.processes(role) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }
}
