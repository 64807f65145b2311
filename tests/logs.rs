//! `jq logs` as users meet it: by every name that a log has, its end alone, and as it grows.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use jobq::config::{Sources, load};
use jobq::scheduler::spec::ClusterSpec;
use jobq::state::intent::Outcome;
use jobq::state::{ClusterFile, Intents, Role, StateDir};
use jobq::worker::supervisor::VerdictRecord;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A cluster's folder as its scheduler leaves it: three allocations, of which the last has no log yet.
struct Cluster {
    root: tempfile::TempDir,
    state: StateDir,
    /// Job names of a1, a2 and a3.
    names: Vec<String>,
}

impl Cluster {
    fn new() -> Cluster {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::create(&root.path().join("state"), "winds").unwrap();
        let home = root.path().display().to_string();
        let sources = Sources { environment: vec![("HOME".into(), home)], ..Sources::default() };
        let spec = ClusterSpec {
            workers: 3,
            exe: support::jobq(),
            work_dir: root.path().to_owned(),
            template_dir: PathBuf::new(),
            insecure: false,
            owned: false,
            settings: load(&sources).unwrap().settings(Some("local"), &[]).unwrap(),
        };
        let id = state.identity(Role::Admin).unwrap().cluster_id();
        state.write_cluster(&ClusterFile::new("winds", id, 0, &spec).unwrap()).unwrap();
        let mut intents = Intents::open(&state.intents_dir(), id).unwrap();
        let mut names = Vec::new();
        for (number, job) in [(1, "4711"), (2, "4712"), (3, "4713[].pbs")] {
            let intent = intents.intend(1, &format!("a{number}")).unwrap();
            let outcome = match number {
                2 => Outcome::Ended { job: Some(job.into()), reason: "ran into its walltime".into() },
                _ => Outcome::Submitted { job: job.into() },
            };
            intents.settle(&intent.name, outcome).unwrap();
            names.push(intent.name);
        }
        let cluster = Cluster { root, state, names };
        fs::write(cluster.log(1), "one\ntwo\nthree\n").unwrap();
        fs::write(cluster.log(2), "of the second\n").unwrap();
        fs::write(cluster.state.path().join("scheduler.log"), "epoch 1\n").unwrap();
        cluster
    }

    fn log(&self, allocation: usize) -> PathBuf {
        self.state.allocations_dir().join(format!("{}.log", self.names[allocation - 1]))
    }

    /// Writes down a death as the supervisor of that allocation does.
    fn verdict(&self, dir: &Path, worker: &str, ended: u64) {
        fs::create_dir_all(dir).unwrap();
        let verdict = VerdictRecord {
            worker: worker.into(),
            incarnation: ended,
            pid: 42,
            cause: "ended by signal SIGSEGV".into(),
            ended,
            ..VerdictRecord::default()
        };
        let file = dir.join(format!("verdict-{worker}-{ended}.toml"));
        // At once, as the supervisor does: half a verdict is one too.
        let temporary = dir.join("being-written");
        fs::write(&temporary, toml::to_string(&verdict).unwrap()).unwrap();
        fs::rename(temporary, file).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(support::jobq());
        command.arg("logs").args(args).stdin(Stdio::null()).env_clear().env("JOBQ_CLUSTER", "winds");
        command.env("HOME", self.root.path()).env("XDG_CONFIG_DIRS", self.root.path());
        command.env("JOBQ_CFG_CLUSTER__STATE_DIR", self.state.root());
        command
    }

    fn logs(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What is printed for these arguments, which must do.
    fn printed(&self, args: &[&str]) -> String {
        let output = self.logs(args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn without_a_name_everything_is_listed() {
    let cluster = Cluster::new();
    let text = cluster.printed(&[]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(lines[1].starts_with("scheduler"), "{text}");
    for part in ["a2", "4712", cluster.names[1].as_str(), "ran into its walltime", "14 B"] {
        assert!(lines[3].contains(part), "{part}: {text}");
    }
    let report: serde_json::Value = serde_json::from_str(&cluster.printed(&["--json"])).unwrap();
    assert_eq!(report["logs"][1]["bytes"], 14);
    assert_eq!(
        (&report["logs"][3]["name"], &report["logs"][3]["bytes"]),
        (&"a3".into(), &serde_json::Value::Null)
    );
}

#[test]
fn a_log_is_found_by_each_of_its_names() {
    let cluster = Cluster::new();
    for name in ["a1", "4711", cluster.names[0].as_str(), "w1"] {
        assert_eq!(cluster.printed(&[name]), "one\ntwo\nthree\n", "{name}");
    }
    assert_eq!(cluster.printed(&["scheduler"]), "epoch 1\n");
    assert_eq!(cluster.printed(&["a2"]), "of the second\n");
    assert_eq!(cluster.printed(&["a1", "--lines", "2"]), "two\nthree\n");
    assert_eq!(cluster.printed(&["a1", "--lines=0"]), "");
}

#[test]
fn a_name_of_nothing_is_told_with_the_nearest_ones() {
    let cluster = Cluster::new();
    for (name, nearest) in
        [("shceduler", "`scheduler`"), ("a4", "`a1`, `a2`, `a3`"), ("4714", "`4711`"), ("w9", "a1")]
    {
        let output = cluster.logs(&[name]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{said}");
        assert!(said.contains(&format!("`{name}`")) && said.contains(nearest), "{said}");
    }
    let output = cluster.logs(&["a1", "--name", "nope"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
}

#[test]
fn a_log_that_nobody_has_written_is_empty_and_says_so() {
    let cluster = Cluster::new();
    let output = cluster.logs(&["4713[].pbs"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("a3 (submitted) has no log yet") && said.contains("allocations"), "{said}");
}

#[test]
fn how_its_workers_died_stands_at_the_end() {
    let cluster = Cluster::new();
    let all = cluster.state.allocations_dir();
    cluster.verdict(&all.join(&cluster.names[0]), "w1", 951_782_400);
    cluster.verdict(&all, "w1", 951_782_401);
    cluster.verdict(&all, "w2-1", 951_782_402);
    cluster.verdict(&all, "w2-2", 951_782_403);
    let deaths = |name: &str| -> Vec<String> {
        let text = cluster.printed(&[name]);
        text.lines().filter(|line| line.starts_with("==> ")).map(str::to_owned).collect()
    };
    let first = deaths("a1");
    assert_eq!(first.len(), 2, "{first:?}");
    assert!(
        first[0].contains("w1 (process 42) ended by signal SIGSEGV; 2000-02-29 00:00:00 UTC"),
        "{first:?}"
    );
    assert_eq!(deaths("w1"), first);
    assert_eq!(deaths("a2").len(), 2);
    assert_eq!(deaths("w2-2").len(), 1);
    assert_eq!(deaths("scheduler").len(), 0);
    let report: serde_json::Value = serde_json::from_str(&cluster.printed(&["w2", "--json"])).unwrap();
    assert_eq!(report["verdicts"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(report["lines"], serde_json::json!(["of the second"]));
}

#[test]
fn a_huge_log_is_read_in_little_memory() {
    let cluster = Cluster::new();
    // Without blocks on the disk.
    let file = fs::File::create(cluster.log(1)).unwrap();
    file.set_len(1 << 40).unwrap();
    drop(file);
    let mut file = fs::OpenOptions::new().append(true).open(cluster.log(1)).unwrap();
    file.write_all(b"\nlast but one\nlast\n").unwrap();
    let limited = |args: &str| {
        let script = format!("ulimit -v 1000000; \"$0\" logs a1 --name winds {args}");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script]).arg(support::jobq()).stdin(Stdio::null()).env_clear();
        command.env("HOME", cluster.root.path()).env("XDG_CONFIG_DIRS", cluster.root.path());
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.env("JOBQ_CFG_CLUSTER__STATE_DIR", cluster.state.root()).output().unwrap()
    };
    let output = limited("--lines 2");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "last but one\nlast\n", "{output:?}");
    // A reader that has seen enough ends it, quietly.
    let output = limited("| head -c 100000 | wc -c");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "100000", "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

/// `jq logs -f` while it runs; stopped when dropped.
struct Following {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Following {
    fn start(cluster: &Cluster, args: &[&str]) -> Following {
        let mut child = cluster.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Following { child, lines }
    }

    /// Waits for the next line.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Ctrl-C; the exit code and what was said on stderr.
    fn interrupt(mut self) -> (Option<i32>, String) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGINT).unwrap();
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn following_prints_what_comes_through_rotation_and_truncation_until_ctrl_c() {
    let cluster = Cluster::new();
    let log = cluster.log(1);
    let mut following = Following::start(&cluster, &["a1", "-f", "--lines", "1"]);
    assert_eq!(following.line(), "three");
    append(&log, "four\n");
    assert_eq!(following.line(), "four");

    fs::rename(&log, log.with_extension("old")).unwrap();
    append(&log, "in a new file\n");
    assert_eq!(following.line(), "in a new file");

    append(&log, "much longer than what comes after it was cut short\n");
    assert_eq!(following.line(), "much longer than what comes after it was cut short");
    let file = fs::OpenOptions::new().write(true).truncate(true).open(&log).unwrap();
    drop(file);
    append(&log, "anew\n");
    assert_eq!(following.line(), "anew");

    cluster.verdict(&cluster.state.allocations_dir(), "w1", 951_782_400);
    assert!(following.line().starts_with("==> w1"));
    let (code, said) = following.interrupt();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("begins anew") && said.contains("was cut short"), "{said}");
}

#[test]
fn following_waits_for_a_log_that_is_not_there_yet() {
    let cluster = Cluster::new();
    let mut following = Following::start(&cluster, &["w3", "--follow"]);
    append(&cluster.log(3), "it started\n");
    assert_eq!(following.line(), "it started");
    assert_eq!(following.interrupt().0, Some(130));
}

#[test]
fn what_cannot_be_asked_together_is_a_usage_error() {
    let cluster = Cluster::new();
    for args in [&["-f"][..], &["--lines", "3"], &["a1", "-f", "--json"], &["a1", "--lines", "some"]] {
        assert_eq!(cluster.logs(args).status.code(), Some(2), "{args:?}");
    }
}
