//! A user's world for one test: home, configuration, state and PATH of its own, and the real program in it. What the
//! test leaves running is brought down, and killed if need be, when it goes.

use super::{PATIENCE, eventually_sync, is_alive};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Programs that tests use beside ours.
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

pub struct Sandbox {
    dir: tempfile::TempDir,
    /// Without links, as processes name it.
    path: PathBuf,
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Ran {
    /// 128 + n for signal n, as shells have it.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// # Panics
    /// It ended otherwise.
    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.text(), self.stderr);
        self
    }

    /// # Panics
    /// It didn't say so on stderr.
    #[track_caller]
    pub fn says(self, words: &str) -> Ran {
        assert!(self.stderr.contains(words), "no {words:?} in:\n{}", self.stderr);
        self
    }

    /// # Panics
    /// What it printed is no JSON of our schema.
    #[track_caller]
    pub fn json(&self) -> Value {
        let value: Value = serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}\nstderr:\n{}", self.text(), self.stderr));
        assert_eq!(value["schema"], 1, "{value}");
        value
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Sandbox::new()
    }
}

impl Sandbox {
    pub fn new() -> Sandbox {
        let dir = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(dir.path()).unwrap();
        for folder in ["bin", "home", "config/jobq", "site", "state", "tmp", "work"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink(super::jobq(), path.join("bin/jobq")).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_jq"), path.join("bin/jq")).unwrap();
        Sandbox { dir, path }
    }

    /// With this as the user's configuration.
    pub fn configured(text: &str) -> Sandbox {
        let sandbox = Sandbox::new();
        fs::write(sandbox.path.join("config/jobq/config.toml"), text).unwrap();
        sandbox
    }

    /// Where commands run.
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.work().join(name)
    }

    /// The content of a file that commands run beside.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// A program in the working directory.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        executable(&self.file(name), text)
    }

    /// A program on PATH.
    pub fn program(&self, name: &str, text: &str) -> PathBuf {
        executable(&self.path.join("bin").join(name), text)
    }

    /// The directory of all clusters' state.
    pub fn state_root(&self) -> PathBuf {
        self.path.join("state/jobq")
    }

    /// A cluster's folder.
    pub fn cluster(&self, name: &str) -> PathBuf {
        self.state_root().join(name)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Any program in this world.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let in_dir = |name: &str| self.path.join(name);
        command
            .env_clear()
            .env("PATH", format!("{}:{SYSTEM_PATH}", in_dir("bin").display()))
            .env("HOME", in_dir("home"))
            .env("XDG_STATE_HOME", in_dir("state"))
            .env("XDG_CONFIG_HOME", in_dir("config"))
            .env("XDG_CONFIG_DIRS", in_dir("site"))
            .env("TMPDIR", in_dir("tmp"))
            .env("LANG", "C.UTF-8")
            .env("USER", "tester")
            .current_dir(self.work());
        command
    }

    /// Our program as people type it.
    pub fn jq<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(self.path.join("bin/jq"));
        command.args(args);
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        finish(&mut self.jq(args), b"")
    }

    /// A line for the shell.
    pub fn bash(&self, script: &str) -> Ran {
        finish(self.command("bash").arg("-c").arg(script), b"")
    }

    /// What it prints; it must succeed.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        self.run(args).exits(0).text()
    }

    /// What it reports; it must succeed.
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        self.run(as_json(args)).exits(0).json()
    }

    /// A cluster of so many workers on the embedded queue, all there.
    #[track_caller]
    pub fn up(&self, workers: u32) -> &Sandbox {
        self.up_with(workers, &[])
    }

    #[track_caller]
    pub fn up_with(&self, workers: u32, flags: &[&str]) -> &Sandbox {
        let workers = workers.to_string();
        let words = ["up", "--queue", "local", "--workers", &workers, "--wait", "--timeout", "100s"];
        self.ok(words.iter().chain(flags));
        self
    }

    pub fn status(&self) -> Value {
        self.json(["status"])
    }

    /// The contact file of the default cluster.
    pub fn contact(&self) -> toml::Table {
        toml::from_str(&fs::read_to_string(self.cluster("default").join("contact.toml")).unwrap()).unwrap()
    }

    pub fn scheduler(&self) -> i32 {
        i32::try_from(self.contact()["pid"].as_integer().unwrap()).unwrap()
    }

    /// Process ids of connected workers.
    pub fn workers(&self) -> Vec<i32> {
        let status = self.status();
        let connected = status["workers"].as_array().unwrap().iter().filter(|w| w["state"] == "connected");
        connected.map(|w| i32::try_from(w["pid"].as_i64().unwrap()).unwrap()).collect()
    }

    /// Waits until the status is as the predicate wants it.
    #[track_caller]
    pub fn until(&self, what: &str, mut look: impl FnMut(&Value) -> bool) -> Value {
        eventually_sync(what, || Some(self.status()).filter(|status| look(status)))
    }

    /// Live processes that were started in this world.
    pub fn processes(&self) -> Vec<i32> {
        let mark = self.path.as_os_str().as_encoded_bytes();
        let ours = |pid: &i32| {
            let has = |file: &str| {
                let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                bytes.windows(mark.len()).any(|part| part == mark)
            };
            *pid != std::process::id() as i32 && is_alive(*pid) && (has("environ") || has("cmdline"))
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(ours).collect()
    }

    /// What those processes were started as.
    pub fn process_list(&self) -> String {
        let line = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            format!("{pid}: {}", String::from_utf8_lossy(&words).replace('\0', " "))
        };
        self.processes().iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Waits until nothing of this world runs any more.
    #[track_caller]
    pub fn nothing_runs(&self) {
        let started = Instant::now();
        while !self.processes().is_empty() {
            assert!(started.elapsed() < PATIENCE, "still there:\n{}", self.process_list());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn clean_up(&self) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
        for entry in fs::read_dir(self.state_root()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().join("contact.toml").exists() {
                let mut down = self.jq(["down", "--name", &name]);
                let ran = finish(&mut down, b"");
                if ran.code != 0 {
                    eprintln!("down {name}: {}", ran.stderr);
                }
            }
        }
        // What a story killed the scheduler of, and queue daemons that linger.
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.cluster("default").join("scheduler.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("the scheduler's log, newest first:\n{}", tail.join("\n"));
            eprintln!("processes:\n{}", self.process_list());
        }
        self.clean_up();
    }
}

/// These words with `--json` after the verb.
pub fn as_json<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Vec<OsString> {
    let mut words: Vec<OsString> = args.into_iter().map(|word| word.as_ref().to_owned()).collect();
    words.insert(1, "--json".into());
    words
}

/// A command's whole run, killed if it hangs. It gets `input` to read.
pub fn finish(command: &mut Command, input: &[u8]) -> Ran {
    start(command, input).end()
}

/// A command under way.
pub struct Going {
    child: Child,
    said: [std::thread::JoinHandle<Vec<u8>>; 2],
}

/// Starts a command in a process group of its own, with its output collected.
pub fn start(command: &mut Command, input: &[u8]) -> Going {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may not read everything, or anything.
    std::thread::spawn(move || drop(stdin.write_all(&input)));
    let said = [collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap())];
    Going { child, said }
}

fn collect(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes).unwrap_or_default()
    })
}

impl Going {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// To its whole group, as a terminal does it.
    pub fn signal_group(&self, signal: Signal) {
        nix::sys::signal::killpg(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It hangs.
    pub fn end(mut self) -> Ran {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > PATIENCE {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                panic!("it hangs");
            }
            std::thread::sleep(std::time::Duration::from_millis(3));
        };
        let [out, err] = self.said.map(|said| said.join().unwrap());
        Ran {
            code: status.code().or(status.signal().map(|signal| 128 + signal)).unwrap(),
            stdout: out,
            stderr: String::from_utf8_lossy(&err).into_owned(),
        }
    }
}

fn executable(path: &Path, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

/// Files of a directory by name, hidden ones too.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
