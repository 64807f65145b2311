use super::*;
use crate::worker::process::{process, wait_gone};
use nix::sys::stat::Mode;
use std::fs;
use std::path::Path;
use std::process::{Child, ExitStatus};
use tempfile::TempDir;

const THE_PROCESS: &str = "worker::supervisor::tests::the_supervisor_process";

/// Not a test by itself: the supervisor is a process of its own, which is this program again.
#[test]
fn the_supervisor_process() {
    let Some(dir) = std::env::var_os("JOBQ_TEST_SUPERVISOR") else { return };
    let dir = PathBuf::from(dir);
    let setting = |name: &str| std::env::var(name).unwrap_or_default();
    let settings = Settings {
        workers: setting("JOBQ_TEST_WORKERS").split_whitespace().map(str::to_owned).collect(),
        worker: Launch {
            program: setting("JOBQ_TEST_SHELL").into(),
            args: vec![dir.join("worker.sh").into()],
        },
        supervisor: Launch { program: "/bin/sh".into(), args: vec![dir.join("supervisor.sh").into()] },
        allocation_dir: dir.join("allocation"),
        grace: Duration::from_millis(setting("JOBQ_TEST_GRACE_MS").parse().unwrap()),
        restart_delay: Duration::ZERO,
        deadline: Some(1_800_000_000),
    };
    let reports = dir.join("reports");
    let report = move |verdict: &VerdictRecord| {
        use io::Write;
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&reports).unwrap();
        writeln!(file, "{} {}", verdict.worker, verdict.incarnation).unwrap();
    };
    std::process::exit(match run(settings, report) {
        Ok(end) => end.exit_code().into(),
        Err(e) => {
            eprintln!("{e}");
            78
        }
    });
}

struct Fixture {
    dir: TempDir,
    workers: &'static str,
    shell: &'static str,
    grace_ms: u64,
}

/// Killed with the test if it is still there.
struct Supervised(Child);

impl Supervised {
    fn ended(&mut self) -> Option<i32> {
        self.0.wait().as_ref().ok().and_then(ExitStatus::code)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // An error: it has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Fixture {
    /// The worker is a shell script that runs in the test's directory, `$2` its name and `$4` its incarnation.
    fn new(worker: &str) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("worker.sh"), worker).unwrap();
        let exe = std::env::current_exe().unwrap();
        let nested = format!(
            "JOBQ_TEST_WORKERS=\"$2\" exec {} {THE_PROCESS} --exact --nocapture --test-threads=1\n",
            exe.display()
        );
        fs::write(dir.path().join("supervisor.sh"), nested).unwrap();
        // Time enough for every script that heeds the signal.
        Fixture { dir, workers: "w1", shell: "/bin/sh", grace_ms: 60_000 }
    }

    fn start(&self) -> Supervised {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([THE_PROCESS, "--exact", "--nocapture", "--test-threads=1"])
            .current_dir(self.dir.path())
            .env("JOBQ_TEST_SUPERVISOR", self.dir.path())
            .env("JOBQ_TEST_WORKERS", self.workers)
            .env("JOBQ_TEST_SHELL", self.shell)
            .env("JOBQ_TEST_GRACE_MS", self.grace_ms.to_string())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.dir.path().join("job.log")).unwrap())
            .spawn();
        Supervised(child.unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn fifo(&self, name: &str) {
        nix::unistd::mkfifo(&self.path(name), Mode::from_bits_truncate(0o600)).unwrap();
    }

    /// Waits until a worker writes to the named pipe, or reads what it wrote to a file before.
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default().trim().to_owned()
    }

    fn pids(&self, name: &str) -> Vec<i32> {
        self.read(name).split_whitespace().map(|p| p.parse().unwrap()).collect()
    }

    fn verdicts(&self) -> Vec<VerdictRecord> {
        read_verdicts(&self.path("allocation")).unwrap_or_default()
    }
}

fn lives(pid: i32) -> bool {
    process(Pid::from_raw(pid)).is_some_and(|p| p.state != 'Z')
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[test]
fn a_worker_that_leaves_cleanly_ends_the_allocation_without_a_verdict() {
    let f = Fixture::new("echo \"$@\" > args; exit 0\n");
    assert_eq!(f.start().ended(), Some(0));
    let args = f.read("args");
    let incarnation: u64 = args.strip_prefix("--worker w1 --incarnation ").unwrap().parse().unwrap();
    assert!(incarnation > 0);
    assert!(f.verdicts().is_empty() && !exists(&f.path("reports")));
}

#[test]
fn when_a_worker_is_killed_all_it_started_dies_before_the_next_one_starts() {
    // A child, one in a session of its own, and one that has left its parents behind.
    let f = Fixture::new(
        r#"
        if [ -e pids ]; then
            for pid in $(cat pids); do kill -0 $pid && echo $pid >> survivors; done 2> /dev/null
            echo $4 > second
            exit 0
        fi
        sleep 1000 & a=$!
        setsid sh -c 'sleep 1000 & echo $! > b; wait' &
        (setsid sh -c 'echo $$ > c; exec sleep 1000' &)
        while [ ! -s b ] || [ ! -s c ]; do sleep 0.01; done
        echo $a $(cat b c) > pids
        echo $4 > first
        echo a last word >&2
        kill -KILL $$
        "#,
    );
    assert_eq!(f.start().ended(), Some(0));
    assert_eq!(f.pids("pids").len(), 3);
    assert_eq!(f.read("survivors"), "");
    assert!(f.pids("pids").into_iter().all(|pid| !lives(pid)));
    let verdicts = f.verdicts();
    let [verdict] = &verdicts[..] else { panic!("{verdicts:?}") };
    assert_eq!((verdict.worker.as_str(), verdict.signal, verdict.exit_code), ("w1", Some(9), None));
    assert_eq!((verdict.incarnation.to_string(), verdict.deadline), (f.read("first"), Some(1_800_000_000)));
    assert_eq!(verdict.log, ["a last word"]);
    assert!(verdict.processes_killed >= 3 && verdict.peak_rss > 0, "{verdict:?}");
    assert!(verdict.started > 0 && verdict.started <= verdict.ended);
    assert_eq!(f.read("reports"), format!("w1 {}", f.read("first")));
    assert!(f.read("second").parse::<u64>().unwrap() > f.read("first").parse().unwrap());
    assert!(f.read("job.log").contains("a last word"), "the job's log has what the worker logs");
}

#[test]
fn a_worker_that_dies_again_and_again_is_given_up() {
    let f = Fixture::new("echo start >> starts; exit 3\n");
    assert_eq!(f.start().ended(), Some(1));
    assert_eq!(f.read("starts").lines().count(), CRASH_LIMIT);
    let verdicts = f.verdicts();
    assert_eq!(verdicts.len(), CRASH_LIMIT);
    assert!(verdicts.iter().all(|v| v.exit_code == Some(3) && v.cause == "exited with code 3"));
    assert_eq!(f.read("reports").lines().count(), CRASH_LIMIT);
}

/// Whoever ran the tests under `nohup` has said that a hangup means nothing, and a supervisor keeps to that.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    u64::from_str_radix(ignored, 16).unwrap() & 1 == 1
}

#[test]
fn a_signal_of_the_batch_system_lets_the_worker_leave_and_clears_what_it_forgot() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        if signal == Signal::SIGHUP && is_hangup_ignored() {
            continue;
        }
        let f = Fixture::new(
            "trap 'echo left > left; exit 0' TERM; sleep 1000 & echo $! > ready; while :; do sleep 1000 & wait; done\n",
        );
        f.fifo("ready");
        let mut supervised = f.start();
        let child: i32 = f.read("ready").parse().unwrap();
        supervised.signal(signal);
        assert_eq!(supervised.ended(), Some(0));
        assert_eq!(f.read("left"), "left");
        assert!(!lives(child) && f.verdicts().is_empty());
    }
}

#[test]
fn a_worker_that_doesnt_leave_in_time_is_killed_and_not_started_again() {
    let mut f = Fixture::new("trap '' TERM; echo $$ > ready; while :; do sleep 1000; done\n");
    f.grace_ms = 50;
    f.fifo("ready");
    let mut supervised = f.start();
    let worker: i32 = f.read("ready").parse().unwrap();
    supervised.signal(Signal::SIGTERM);
    assert_eq!(supervised.ended(), Some(143));
    assert!(!lives(worker));
    assert_eq!(f.verdicts().iter().map(|v| v.signal).collect::<Vec<_>>(), [Some(9)]);
}

#[test]
fn a_worker_that_cant_be_started_is_an_error_at_once() {
    let mut f = Fixture::new("");
    f.shell = "/no/such/program";
    assert_eq!(f.start().ended(), Some(78));
    assert!(f.read("job.log").contains("/no/such/program: the worker can't be started"));
}

#[test]
fn one_of_two_workers_dies_alone() {
    // Each leaves a process behind that its parents don't know any more.
    let mut f = Fixture::new(
        r#"
        trap 'exit 0' TERM
        (setsid sh -c "echo \$\$ > daemon.$4; exec sleep 1000" &)
        while [ ! -s daemon.$4 ]; do sleep 0.01; done
        echo $$ $(cat daemon.$4) > ready.$2
        while :; do sleep 1000 & wait; done
        "#,
    );
    f.workers = "a b";
    f.fifo("ready.a");
    f.fifo("ready.b");
    let mut supervised = f.start();
    let (a, b) = (f.pids("ready.a"), f.pids("ready.b"));
    kill(Pid::from_raw(a[0]), Signal::SIGKILL).unwrap();
    let again = f.pids("ready.a");
    assert!(a.iter().all(|pid| !lives(*pid)), "its successor starts only when all of it is gone");
    assert!(b.iter().all(|pid| lives(*pid)), "the other one doesn't notice");
    assert_eq!(f.verdicts().iter().map(|v| v.worker.as_str()).collect::<Vec<_>>(), ["a"]);

    // A worker's own supervisor is killed: the one above clears up after it, and starts another.
    let nested = process(Pid::from_raw(b[0])).unwrap().parent;
    kill(nested, Signal::SIGKILL).unwrap();
    let b_again = f.pids("ready.b");
    assert!(b.iter().all(|pid| !lives(*pid)));
    assert!(again.iter().all(|pid| lives(*pid)));

    supervised.signal(Signal::SIGTERM);
    assert_eq!(supervised.ended(), Some(0));
    for pid in again.into_iter().chain(b_again) {
        wait_gone(pid);
    }
}
