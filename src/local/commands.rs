//! Commands of a graph that is computed in this process: each attempt on a thread of its own.

use crate::graph::{CommandResult, Op, Value};
use crate::protocol::{ErrorKind, Execution, TaskError};
use crate::worker::run::{
    Attempt, CancelHandle, CommandHost, CommandOutcome, TaskErrorKind, commit, discard,
};
use bytes::Bytes;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

/// Most that a command may print to each of its streams. All of it is kept in memory: a file would have no owner
/// once this process has ended.
const MAX_PRINTED: usize = 64 << 20;

/// How one attempt ended. Its outputs are in their places.
pub(super) struct CommandEnded {
    pub task: u32,
    pub nanos: u64,
    pub result: Result<Value, TaskError>,
}

type Report = dyn Fn(CommandEnded) + Send + Sync;

/// Dropping it stops what runs, and waits for that.
pub(super) struct Commands {
    host: Arc<CommandHost>,
    report: Arc<Report>,
    running: HashMap<u32, Running>,
}

struct Running {
    cancel: CancelHandle,
    /// None: it couldn't be started, which is reported.
    thread: Option<JoinHandle<()>>,
}

impl Commands {
    /// `report` is called on the attempts' threads.
    pub fn new(report: Box<Report>) -> Commands {
        let suffix = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        let overflow = std::env::temp_dir().join(format!("jobq-{suffix:016x}"));
        let mut host = CommandHost::new("", "local", overflow);
        host.inline_limit = MAX_PRINTED;
        host.file_limit = MAX_PRINTED as u64;
        // There is no cluster to name; one that the user names stays named.
        host.extra_env.clear();
        Commands { host: Arc::new(host), report: report.into(), running: HashMap::new() }
    }

    pub fn start(&mut self, execution: Execution, op: Arc<Op>, args: Vec<u8>, name: Option<String>) {
        let task = execution.task.index;
        let attempt = Attempt {
            task: execution.task,
            name,
            attempt: execution.attempt,
            epoch: execution.epoch.0,
            ordinal: u64::from(task) + 1,
            args,
        };
        let unstarted = |error: std::io::Error| {
            let message = format!("{}: the command could not be started: {error}", op.family());
            (self.report)(CommandEnded { task, nanos: 0, result: Err(task_error(message)) });
        };
        let cancel = match CancelHandle::new() {
            Ok(cancel) => cancel,
            Err(error) => return unstarted(error),
        };
        let (host, report, stop) = (self.host.clone(), self.report.clone(), cancel.clone());
        let program = op.clone();
        let work = move || {
            let started = Instant::now();
            let result = run(&host, &program, &attempt, &stop);
            let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            report(CommandEnded { task, nanos, result });
        };
        match std::thread::Builder::new().name(format!("command-{task}")).spawn(work) {
            Ok(thread) => drop(self.running.insert(task, Running { cancel, thread: Some(thread) })),
            Err(error) => unstarted(error),
        }
    }

    pub fn kill(&self, task: u32) {
        if let Some(running) = self.running.get(&task) {
            running.cancel.cancel();
        }
    }

    /// Its end was reported.
    pub fn forget(&mut self, task: u32) {
        self.running.remove(&task).into_iter().for_each(join);
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.running.values().for_each(|running| running.cancel.cancel());
        self.running.drain().for_each(|(_, running)| join(running));
        // Where one that printed too much had begun a file.
        let _ = std::fs::remove_dir_all(&self.host.spill_dir);
    }
}

fn join(running: Running) {
    // A panic of that thread has been printed.
    let _ = running.thread.map(JoinHandle::join);
}

/// Runs the command to its end, and its outputs to their places.
fn run(host: &CommandHost, op: &Op, attempt: &Attempt, cancel: &CancelHandle) -> Result<Value, TaskError> {
    let Op::Command(spec) = op else { return Err(task_error(format!("'{}' is no command", op.family()))) };
    match host.run_blocking(spec, attempt, cancel) {
        CommandOutcome::Finished { temporaries, .. } if cancel.is_cancelled() => {
            discard(&temporaries);
            Err(task_error("cancelled".to_owned()))
        }
        CommandOutcome::Finished { result, temporaries, .. } => place(temporaries).map(|()| shortest(result)),
        CommandOutcome::Failed { kind, message, .. } => {
            let kind = match kind {
                TaskErrorKind::Exit(code) => ErrorKind::Exit(code),
                TaskErrorKind::Signal(number) => ErrorKind::Signal(number),
                TaskErrorKind::TimeLimit => ErrorKind::TimeLimit,
                TaskErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
                _ => ErrorKind::Task,
            };
            Err(TaskError { kind, message })
        }
    }
}

fn place(temporaries: Vec<(PathBuf, PathBuf)>) -> Result<(), TaskError> {
    commit(&temporaries).map_err(|error| {
        discard(&temporaries);
        task_error(error.to_string())
    })
}

/// The value as a cluster has it: that of a command that was fine and printed nothing is empty.
fn shortest(result: Value) -> Value {
    let plain = CommandResult { exit_code: Some(0), ..CommandResult::default() };
    let silent = result.buffers.iter().all(Bytes::is_empty);
    let is_plain = silent && rmp_serde::from_slice::<CommandResult>(&result.header).is_ok_and(|r| r == plain);
    if is_plain { Value::default() } else { result }
}

fn task_error(message: String) -> TaskError {
    TaskError { kind: ErrorKind::Task, message }
}
