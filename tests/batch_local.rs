//! The embedded queue as a user's jobs meet it: through the trait, by commands, with real processes.

mod support;

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use jobq::batch::{self, AllocationSpec, Batch, ErrorKind, JobId, JobState, Outcome, Site};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use support::{eventually, eventually_sync, is_alive, job, write_script};

/// A queue in a directory of its own; leaves nothing behind.
struct Queue {
    dir: tempfile::TempDir,
    batch: Batch,
}

fn queue(slots: u32) -> Queue {
    queue_that_waits(slots, Duration::ZERO)
}

fn queue_that_waits(slots: u32, queue_wait: Duration) -> Queue {
    let dir = tempfile::tempdir().unwrap();
    let batch = open(dir.path(), slots, queue_wait);
    Queue { dir, batch }
}

fn open(dir: &Path, slots: u32, queue_wait: Duration) -> Batch {
    let site = Site { exe: support::jobq(), dir: dir.join("queue"), slots, queue_wait, ..Site::default() };
    Batch::new(batch::system("local").unwrap(), site)
}

impl Queue {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn job(&self, name: &str, script: &str) -> AllocationSpec {
        job(self.dir.path(), name, script)
    }

    async fn submit(&self, spec: &AllocationSpec) -> JobId {
        self.batch.submit(spec, &write_script(&self.batch, spec)).await.unwrap()
    }

    async fn run(&self, name: &str, script: &str) -> JobId {
        self.submit(&self.job(name, script)).await
    }

    async fn state(&self, id: &JobId) -> JobState {
        self.batch.status(std::slice::from_ref(id)).await.unwrap().remove(0).state
    }

    async fn outcome(&self, id: &JobId) -> Outcome {
        eventually("the end of a job", async || match self.state(id).await {
            JobState::Ended(outcome) => Some(outcome),
            _ => None,
        })
        .await
    }

    async fn reason(&self, id: &JobId) -> String {
        match self.state(id).await {
            JobState::Pending { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// A named pipe: whoever opens it waits for the other end, so that a job can be held and awaited.
    fn gate(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let text = CString::new(path.to_str().unwrap()).unwrap();
        nix::unistd::mkfifo(text.as_c_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    }

    /// The daemon's pid, from the lock that it holds.
    fn daemon(&self) -> i32 {
        let lock = fs::read_to_string(self.path("queue/lock")).unwrap();
        lock.split_whitespace().last().unwrap().parse().unwrap()
    }

    fn kill_daemon(&self) {
        let daemon = self.daemon();
        kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
        eventually_sync("the daemon's death", || (!is_alive(daemon)).then_some(()));
    }

    fn verb(&self, args: &[&str]) -> Command {
        let mut command = Command::new(support::jobq());
        command.arg("local-queue").arg("--dir").arg(self.path("queue")).args(args);
        command
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let status = self.verb(&["status"]).output().unwrap();
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        let live = text.lines().filter(|line| line.contains("\"waiting\"") || line.contains("\"running\""));
        let id = |line: &str| {
            line.split_once("\"id\":").and_then(|(_, rest)| rest.split(',').next()).map(str::to_owned)
        };
        let ids: Vec<String> = live.filter_map(id).collect();
        if !ids.is_empty() {
            let args: Vec<&str> = std::iter::once("cancel").chain(ids.iter().map(String::as_str)).collect();
            self.verb(&args).output().unwrap();
        }
        if self.path("queue/lock").exists() {
            let daemon = self.daemon();
            eventually_sync("a daemon that leaves", || (!is_alive(daemon)).then_some(()));
        }
    }
}

/// Run something that may block for ever in a thread that nobody waits for then.
async fn aside<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || done.send(work()));
    let result = tokio::time::timeout(support::PATIENCE, result).await;
    result.unwrap_or_else(|_| panic!("never came: {what}")).unwrap()
}

/// Opens a gate for writing and closes it: the job that reads it goes on.
async fn release(gate: &Path) {
    let gate = gate.to_owned();
    aside("a job that reads its gate", move || fs::write(gate, "go\n").unwrap()).await;
}

/// What a job writes into a gate.
async fn hear(gate: &Path) -> String {
    let gate = gate.to_owned();
    aside("a job that writes into its gate", move || fs::read_to_string(gate).unwrap().trim().to_owned())
        .await
}

#[tokio::test]
async fn a_job_runs_with_a_clean_environment_and_its_log() {
    let queue = queue(1);
    let script = "pwd; echo id=$JOBQ_LOCAL_JOB_ID end=$JOBQ_LOCAL_JOB_END a=$A; env | grep -c ^CARGO; echo oops >&2; cat";
    let spec = AllocationSpec { environment: vec![("A".into(), "it's".into())], ..queue.job("jqa", script) };
    fs::write(&spec.log, "an earlier life\n").unwrap();
    let id = queue.submit(&spec).await;
    assert_eq!(queue.outcome(&id).await, Outcome::Completed);
    let log = queue.log("jqa");
    let lines: Vec<&str> = log.lines().collect();
    let here = fs::canonicalize(queue.dir.path()).unwrap();
    assert_eq!(lines[0], "an earlier life");
    assert_eq!(lines[1], here.to_str().unwrap());
    assert!(lines[2].starts_with(&format!("id={id} end=")) && lines[2].ends_with(" a=it's"), "{log}");
    assert_eq!(lines[3..], ["0", "oops"]);
}

#[tokio::test]
async fn jobs_end_as_they_end() {
    let queue = queue(2);
    let seven = queue.run("jqa", "exit 7").await;
    let segv = queue.run("jqb", "kill -SEGV $$").await;
    let lost = queue
        .submit(&AllocationSpec { command: vec!["/no/such/program".into()], ..queue.job("jqc", "") })
        .await;
    assert_eq!(queue.outcome(&seven).await, Outcome::Failed { exit_code: Some(7), signal: None });
    assert_eq!(queue.outcome(&segv).await, Outcome::Failed { exit_code: None, signal: Some(11) });
    assert_eq!(queue.outcome(&lost).await, Outcome::Failed { exit_code: Some(127), signal: None });
    assert!(queue.log("jqc").contains("/no/such/program"));
}

#[tokio::test]
async fn first_in_first_out_over_a_few_slots() {
    let queue = queue(2);
    let gate = queue.gate("gate");
    let mut first = queue.job("jqa", &format!("cat {}", gate.display()));
    (first.workers, first.cores) = (2, 1);
    let first = queue.submit(&first).await;
    let order = queue.path("order");
    let mut rest = Vec::new();
    for name in ["jqb", "jqc", "jqd"] {
        let spec =
            AllocationSpec { cores: 2, ..queue.job(name, &format!("echo {name} >> {}", order.display())) };
        rest.push(queue.submit(&spec).await);
    }
    assert!(
        matches!(queue.state(&first).await, JobState::Running { started, ends: Some(ends), .. } if ends == started + 120)
    );
    assert_eq!(queue.reason(&rest[0]).await, "Slots");
    assert_eq!(queue.reason(&rest[2]).await, "Order");
    release(&gate).await;
    for id in &rest {
        assert_eq!(queue.outcome(id).await, Outcome::Completed);
    }
    assert_eq!(fs::read_to_string(order).unwrap(), "jqb\njqc\njqd\n");
}

#[tokio::test]
async fn a_job_that_never_fits_is_refused() {
    let queue = queue(2);
    let spec = AllocationSpec { workers: 3, ..queue.job("jqa", "true") };
    let error = queue.batch.submit(&spec, &write_script(&queue.batch, &spec)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.to_string().contains("needs 3 slots and the queue has 2"), "{error}");
    assert!(error.to_string().contains("jobq local-queue submit"), "{error}");
}

#[tokio::test]
async fn a_missing_log_directory_is_refused_before_anything_is_submitted() {
    let queue = queue(1);
    let spec = AllocationSpec { log: queue.path("missing/a.log"), ..queue.job("jqa", "true") };
    let error = queue.batch.submit(&spec, Path::new("/dev/null")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.to_string().contains("missing"), "{error}");
    assert_eq!(queue.batch.find("jq").await.unwrap(), []);
}

/// A job that ignores SIGTERM, with a child in its group and one that has run away into a session of its own.
fn stubborn(queue: &Queue) -> (String, PathBuf) {
    let ready = queue.gate("ready");
    let script = format!(
        "trap 'echo asked to stop' TERM
         setsid sh -c 'trap \"\" TERM; echo $$ > {runaway}; while :; do sleep 1000; done' &
         sh -c 'trap \"\" TERM; while :; do sleep 1000; done' & echo $! > {child}
         until [ -s {runaway} ]; do sleep 0.01; done
         echo ready > {ready}
         while :; do wait; done",
        runaway = queue.path("runaway").display(),
        child = queue.path("child").display(),
        ready = ready.display(),
    );
    let file = queue.path("stubborn");
    fs::write(&file, script).unwrap();
    (format!(". {}", file.display()), ready)
}

fn pid_in(path: &Path) -> i32 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn walltime_asks_and_then_kills_everything_of_the_job() {
    let queue = queue(1);
    let (script, ready) = stubborn(&queue);
    let mut spec = queue.job("jqa", &script);
    spec.walltime = Duration::from_secs(4);
    spec.extra_directives = vec!["--grace=0.3".into()];
    let id = queue.submit(&spec).await;
    assert_eq!(hear(&ready).await, "ready");
    let (child, runaway) = (pid_in(&queue.path("child")), pid_in(&queue.path("runaway")));
    assert!(is_alive(child) && is_alive(runaway));
    assert_eq!(queue.outcome(&id).await, Outcome::TimedOut);
    let log = queue.log("jqa");
    assert!(log.contains("local queue: job 1 has reached its walltime of 4 s and is stopped"), "{log}");
    assert!(log.contains("asked to stop"), "{log}");
    eventually("the death of the job's processes", async || {
        (!is_alive(child) && !is_alive(runaway)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn cancelling_waiting_and_running_jobs() {
    let queue = queue(1);
    let (script, ready) = stubborn(&queue);
    let mut spec = queue.job("jqa", &script);
    spec.extra_directives = vec!["--grace=0.1".into()];
    let running = queue.submit(&spec).await;
    assert_eq!(hear(&ready).await, "ready");
    let never = queue.path("never");
    let waiting = queue.run("jqb", &format!("touch {}", never.display())).await;
    let next = queue.run("jqc", "true").await;
    let unknown = JobId("4711".into());
    queue.batch.cancel(&[waiting.clone(), running.clone(), unknown]).await.unwrap();
    queue.batch.cancel(std::slice::from_ref(&running)).await.unwrap();
    assert_eq!(queue.outcome(&running).await, Outcome::Cancelled);
    assert_eq!(queue.outcome(&waiting).await, Outcome::Cancelled);
    assert_eq!(queue.outcome(&next).await, Outcome::Completed);
    assert!(!never.exists());
    let runaway = pid_in(&queue.path("runaway"));
    eventually("the death of the runaway", async || (!is_alive(runaway)).then_some(())).await;
}

#[tokio::test]
async fn a_sweep_takes_only_what_bears_its_name() {
    let queue = queue(2);
    let gate = queue.gate("gate");
    let script = format!("cat {}", gate.display());
    let ours = queue.run("jqaa1", &script).await;
    let theirs = queue.run("jqbb1", &script).await;
    let waiting = queue.run("jqaa2", &script).await;
    assert_eq!(queue.batch.sweep("jqaa").await.unwrap(), [ours.clone(), waiting.clone()]);
    assert_eq!(queue.outcome(&ours).await, Outcome::Cancelled);
    assert_eq!(queue.batch.sweep("jqaa").await.unwrap(), []);
    assert!(queue.state(&theirs).await.is_live());
    assert_eq!(queue.batch.sweep("").await.unwrap_err().kind, ErrorKind::Refused);
}

#[tokio::test]
async fn jobs_outlive_the_shell_that_submitted_them() {
    let queue = queue(1);
    let (gate, submitted) = (queue.gate("gate"), queue.gate("submitted"));
    let spec = queue.job("jqa", &format!("cat {}; echo done", gate.display()));
    let script = write_script(&queue.batch, &spec);
    // A shell that submits, says so, and stays until it is killed with everything in its group.
    let line = format!(
        "'{}' local-queue --dir '{}' submit '{}' > '{}'; sleep 1000",
        support::jobq().display(),
        queue.path("queue").display(),
        script.display(),
        submitted.display()
    );
    let mut shell =
        Command::new("/bin/sh").args(["-c", &line]).process_group(0).stdin(Stdio::null()).spawn().unwrap();
    let id = JobId(hear(&submitted).await);
    killpg(Pid::from_raw(shell.id().try_into().unwrap()), Signal::SIGKILL).unwrap();
    shell.wait().unwrap();
    assert!(queue.state(&id).await.is_live());
    release(&gate).await;
    assert_eq!(queue.outcome(&id).await, Outcome::Completed);
    assert_eq!(queue.log("jqa"), "go\ndone\n");
}

#[tokio::test]
async fn the_next_daemon_adopts_what_a_killed_one_left() {
    let queue = queue(1);
    let (gate, ready) = (queue.gate("gate"), queue.gate("ready"));
    let before = queue.run("jqa", "exit 3").await;
    queue.outcome(&before).await;
    let spec = queue.job("jqb", &format!("echo $$ > {}; cat {}; echo done", ready.display(), gate.display()));
    let running = queue.submit(&spec).await;
    let order = queue.path("order");
    let mut waiting = Vec::new();
    for name in ["jqc", "jqd"] {
        waiting.push(queue.run(name, &format!("echo {name} >> {}", order.display())).await);
    }
    let leader: i32 = hear(&ready).await.parse().unwrap();
    queue.kill_daemon();
    assert!(is_alive(leader), "the job doesn't notice");

    // Any question brings the next daemon.
    assert_eq!(
        queue.state(&before).await,
        JobState::Ended(Outcome::Failed { exit_code: Some(3), signal: None })
    );
    assert!(matches!(queue.state(&running).await, JobState::Running { .. }));
    assert_eq!(queue.reason(&waiting[0]).await, "Slots");
    let fourth = queue.run("jqe", &format!("echo jqe >> {}", order.display())).await;
    assert_eq!(fourth.0, "5", "ids go on");
    release(&gate).await;
    // How it ended was its parent's to know, and that is gone.
    assert!(matches!(queue.outcome(&running).await, Outcome::Unknown(_)));
    assert_eq!(queue.log("jqb"), "go\ndone\n");
    assert_eq!(queue.outcome(&fourth).await, Outcome::Completed);
    assert_eq!(fs::read_to_string(&order).unwrap(), "jqc\njqd\njqe\n");
}

#[tokio::test]
async fn an_adopted_job_can_be_cancelled() {
    let queue = queue(1);
    let (script, ready) = stubborn(&queue);
    let mut spec = queue.job("jqa", &script);
    spec.extra_directives = vec!["--grace=0.1".into()];
    let id = queue.submit(&spec).await;
    hear(&ready).await;
    queue.kill_daemon();
    queue.batch.cancel(std::slice::from_ref(&id)).await.unwrap();
    assert_eq!(queue.outcome(&id).await, Outcome::Cancelled);
    let (child, runaway) = (pid_in(&queue.path("child")), pid_in(&queue.path("runaway")));
    eventually("the death of the job's processes", async || {
        (!is_alive(child) && !is_alive(runaway)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_job_that_ended_while_no_daemon_was_there_is_over() {
    let queue = queue(1);
    let (gate, ready) = (queue.gate("gate"), queue.gate("ready"));
    let id = queue.run("jqa", &format!("echo $$ > {}; cat {}", ready.display(), gate.display())).await;
    let next = queue.run("jqb", "true").await;
    let leader: i32 = hear(&ready).await.parse().unwrap();
    queue.kill_daemon();
    release(&gate).await;
    eventually("the job's end", async || (!is_alive(leader)).then_some(())).await;
    assert!(matches!(queue.outcome(&id).await, Outcome::Unknown(_)));
    assert_eq!(queue.outcome(&next).await, Outcome::Completed);
}

#[tokio::test]
async fn a_job_whose_start_was_not_written_down_is_recognised() {
    let queue = queue(1);
    let (gate, ready) = (queue.gate("gate"), queue.gate("ready"));
    let id = queue.run("jqa", &format!("echo $$ > {}; cat {}", ready.display(), gate.display())).await;
    let leader: i32 = hear(&ready).await.parse().unwrap();
    queue.kill_daemon();
    // As the disk is when the daemon dies between making the process and saving its pid; and a write that it began.
    let file = queue.path("queue/jobs/1.json");
    let mut saved: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let running = saved["stage"]["running"].take();
    assert_eq!(running["leader"]["pid"], leader);
    saved["stage"] = serde_json::json!({"starting": {"started": running["started"], "started_boot_ms": running["started_boot_ms"]}});
    fs::write(&file, saved.to_string()).unwrap();
    fs::write(queue.path("queue/jobs/1.tmp"), "half").unwrap();

    assert!(matches!(queue.state(&id).await, JobState::Running { .. }));
    assert!(!queue.path("queue/jobs/1.tmp").exists());
    let saved: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(saved["stage"]["running"]["leader"], running["leader"]);
    queue.batch.cancel(std::slice::from_ref(&id)).await.unwrap();
    assert_eq!(queue.outcome(&id).await, Outcome::Cancelled);
    assert!(!is_alive(leader));
}

#[tokio::test]
async fn a_job_that_was_never_started_is_not_started_twice() {
    let queue = queue(1);
    let gate = queue.gate("gate");
    let first = queue.run("jqa", &format!("cat {}", gate.display())).await;
    let ran = queue.path("ran");
    let second = queue.run("jqb", &format!("touch {}", ran.display())).await;
    queue.kill_daemon();
    let file = queue.path("queue/jobs/2.json");
    let mut saved: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    saved["stage"] = serde_json::json!({"starting": {"started": 1, "started_boot_ms": 1}});
    fs::write(&file, saved.to_string()).unwrap();
    assert!(
        matches!(queue.outcome(&second).await, Outcome::Unknown(words) if words.contains("died while it started"))
    );
    assert!(!ran.exists());
    assert!(queue.state(&first).await.is_live());
}

#[tokio::test]
async fn the_artificial_wait_is_a_wait_and_has_an_estimate() {
    let queue = queue_that_waits(1, Duration::from_secs(3600));
    let id = queue.run("jqa", "true").await;
    match queue.state(&id).await {
        JobState::Pending { reason, start_estimate: Some(_), never: false, .. } => {
            assert_eq!(reason, "QueueWait")
        }
        other => panic!("{other:?}"),
    }
    let short = open(queue.dir.path(), 1, Duration::from_millis(300));
    queue.batch.cancel(&[id]).await.unwrap();
    let spec = queue.job("jqb", "true");
    let id = short.submit(&spec, &write_script(&short, &spec)).await.unwrap();
    assert_eq!(queue.outcome(&id).await, Outcome::Completed);
}

#[tokio::test]
async fn many_at_once_start_one_daemon() {
    let queue = queue(4);
    let scripts: Vec<PathBuf> = (0..12)
        .map(|number| {
            write_script(&queue.batch, &queue.job(&format!("jq{}", (b'a' + number) as char), "true"))
        })
        .collect();
    let spawn =
        |script: &PathBuf| queue.verb(&["submit"]).arg(script).stdout(Stdio::piped()).spawn().unwrap();
    let children: Vec<_> = scripts.iter().map(spawn).collect();
    let mut ids = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        ids.push(String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=12).collect::<Vec<_>>());
    for id in ids {
        assert_eq!(queue.outcome(&JobId(id.to_string())).await, Outcome::Completed);
    }
}

#[tokio::test]
async fn the_daemon_leaves_when_nothing_is_left_to_do() {
    let queue = queue(1);
    let id = queue.run("jqa", "true").await;
    let daemon = queue.daemon();
    eventually("a daemon that leaves", async || (!is_alive(daemon)).then_some(())).await;
    assert!(!queue.path("queue/socket").exists());
    // What was is told from disk, without a daemon.
    assert_eq!(queue.outcome(&id).await, Outcome::Completed);
    queue.batch.health().await.unwrap();
    queue.batch.cancel(&[id]).await.unwrap();
    assert!(!queue.path("queue/socket").exists());
}

#[tokio::test]
async fn a_queue_that_was_removed_and_made_anew_keeps_its_socket() {
    let queue = queue(1);
    let id = queue.run("jqa", "true").await;
    queue.outcome(&id).await;
    let old = queue.daemon();
    fs::remove_dir_all(queue.path("queue")).unwrap();
    let gate = queue.gate("gate");
    let id = queue.run("jqb", &format!("cat {}", gate.display())).await;
    let new = queue.daemon();
    eventually("the old daemon's leave", async || (!is_alive(old)).then_some(())).await;
    assert!(queue.path("queue/socket").exists());
    assert!(queue.state(&id).await.is_live());
    assert_eq!(queue.daemon(), new);
}

#[tokio::test]
async fn a_daemon_that_hangs_is_an_error_in_bounded_time() {
    let queue = queue(1);
    let gate = queue.gate("gate");
    let id = queue.run("jqa", &format!("cat {}", gate.display())).await;
    let daemon = Pid::from_raw(queue.daemon());
    kill(daemon, Signal::SIGSTOP).unwrap();
    let spec = queue.job("jqb", "true");
    let script = write_script(&queue.batch, &spec);
    let (health, submit) = tokio::join!(queue.batch.health(), queue.batch.submit(&spec, &script));
    kill(daemon, Signal::SIGCONT).unwrap();
    assert_eq!(health.unwrap_err().kind, ErrorKind::TryAgain);
    assert_eq!(submit.unwrap_err().kind, ErrorKind::Ambiguous);
    // And that is right: the daemon may have read it. Its name tells.
    let found = eventually("an answer", async || queue.batch.find("jq").await.ok()).await;
    assert!(found.iter().any(|job| job.id == id));
    queue.batch.sweep("jq").await.unwrap();
}

#[tokio::test]
async fn a_path_may_be_longer_than_a_sockets_address() {
    let outer = tempfile::tempdir().unwrap();
    let long = outer.path().join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&long).unwrap();
    let dir = tempfile::tempdir_in(&long).unwrap();
    let batch = open(dir.path(), 1, Duration::ZERO);
    let queue = Queue { dir, batch };
    let id = queue.run("jqa", "true").await;
    assert_eq!(queue.outcome(&id).await, Outcome::Completed);
}

#[tokio::test]
async fn a_directory_that_others_can_write_is_not_used() {
    let queue = queue(1);
    let dir = queue.path("queue");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let error = queue.batch.health().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Permission);
    assert!(error.to_string().contains("writable by nobody else"), "{error}");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn with_an_epilogue_signals_reach_the_command_and_then_the_epilogue_runs() {
    let queue = queue(1);
    let ready = queue.gate("ready");
    // Only the shell is told; it has to hand the signal on.
    let script = format!(
        "trap 'echo leaving; exit 5' TERM; echo $PPID > {}; while :; do sleep 0.05; done",
        ready.display()
    );
    let spec = AllocationSpec { epilogue: vec!["echo cleaned up".into()], ..queue.job("jqa", &script) };
    let id = queue.submit(&spec).await;
    let shell: i32 = hear(&ready).await.parse().unwrap();
    kill(Pid::from_raw(shell), Signal::SIGTERM).unwrap();
    assert_eq!(queue.outcome(&id).await, Outcome::Failed { exit_code: Some(5), signal: None });
    assert_eq!(queue.log("jqa"), "leaving\ncleaned up\n");
}

#[tokio::test]
async fn queues_tell_the_slots() {
    let queue = queue(3);
    let queues = queue.batch.queues().await.unwrap();
    assert_eq!((queues.len(), queues[0].name.as_str(), queues[0].cores_per_node), (1, "local", 3));
}
