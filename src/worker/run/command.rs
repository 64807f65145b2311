//! Runs one attempt of a command: fills in its words, starts it in a session of its own, keeps what it prints,
//! and says how it ended. A failed task is data here, never an `Err`.
//!
//! An attempt occupies one thread from start to wait, because the kernel ties a child's death signal to the
//! thread that started it.

use super::attempt::{self, Attempt, CancelHandle, CommandOutcome, TaskErrorKind, Usage};
use super::capture::Capture;
use super::environment::{self, Environment};
use super::judge::Judge;
use super::outputs::{self, discard, temporary_path};
use super::spawn::{Start, spawn};
use super::template::{self, Fill};
use super::watch::{Ended, Started, watch};
use crate::graph::{CommandResult, CommandSpec, Op, Value};
use crate::worker::process::{OomCounter, Reaped, peak_resident_bytes};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of each stream that are kept in memory, and travel with the result.
pub const INLINE_LIMIT: usize = 1 << 20;
/// Most bytes of one stream that are kept in a file: a runaway loop must not fill the state directory.
pub const FILE_LIMIT: u64 = 4 << 30;
/// Time between asking a task to end and killing it.
pub const KILL_GRACE: Duration = Duration::from_secs(5);
/// Earlier attempts whose temporaries are looked for: each later one has looked already.
const OLDER_ATTEMPTS: u32 = 8;
/// A program that was just written may be open for writing in a child of another thread that has forked, but
/// not yet executed its own program; that takes a moment at most.
const BUSY_TRIES: u32 = 50;
const BUSY_WAIT: Duration = Duration::from_millis(5);

/// What all commands of one worker share. `new` has defaults that can be changed until the first attempt.
#[derive(Clone, Debug)]
pub struct CommandHost {
    pub cluster: String,
    pub worker: String,
    /// For messages: the name of this machine.
    pub host: String,
    /// Where output beyond `inline_limit` goes; made when it is needed.
    pub spill_dir: PathBuf,
    /// Bytes of each stream kept in memory.
    pub inline_limit: usize,
    /// Bytes of each stream kept in a file.
    pub file_limit: u64,
    /// Time between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// Set for every task, such as `JOBQ_CLUSTER`; what the user sets goes before.
    pub extra_env: Vec<(String, String)>,
    pub(super) base_env: Environment,
    oom: OomCounter,
}

/// What an attempt is to execute, with nothing left to fill in.
pub(super) struct Plan {
    program: PathBuf,
    pub(super) argv: Vec<OsString>,
    env: Environment,
    cwd: PathBuf,
    stdin: OwnedFd,
    pub(super) outputs: Vec<PlannedOutput>,
}

pub(super) struct PlannedOutput {
    pub(super) temporary: PathBuf,
    pub(super) target: PathBuf,
    pub(super) fenced: bool,
}

pub(super) type Refusal = (TaskErrorKind, String);

impl CommandHost {
    /// With the worker's present environment as that of its tasks.
    pub fn new(cluster: &str, worker: &str, spill_dir: PathBuf) -> CommandHost {
        let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        CommandHost {
            cluster: cluster.to_owned(),
            worker: worker.to_owned(),
            host,
            spill_dir,
            inline_limit: INLINE_LIMIT,
            file_limit: FILE_LIMIT,
            kill_grace: KILL_GRACE,
            extra_env: vec![("JOBQ_CLUSTER".to_owned(), cluster.to_owned())],
            base_env: environment::base(std::env::vars_os()),
            oom: OomCounter::of_this_process(),
        }
    }

    /// Runs `op`, which must be a command, on a thread of the async runtime's blocking pool. Dropping the future
    /// doesn't stop the attempt; `cancel` does.
    pub async fn run(self: Arc<Self>, op: Arc<Op>, attempt: Attempt, cancel: CancelHandle) -> CommandOutcome {
        let attempt_task = attempt.task;
        let run = tokio::task::spawn_blocking(move || match &*op {
            Op::Command(spec) => self.run_blocking(spec, &attempt, &cancel),
            other => CommandOutcome::refused(
                TaskErrorKind::Spawn("not a command".to_owned()),
                format!("{}: not a command", other.family()),
            ),
        });
        run.await.unwrap_or_else(|e| {
            let text = format!("{attempt_task}: its thread ended: {e}");
            CommandOutcome::refused(TaskErrorKind::Spawn(text.clone()), text)
        })
    }

    /// Runs one attempt on the calling thread, which must not end before this returns.
    pub fn run_blocking(
        &self,
        spec: &CommandSpec,
        attempt: &Attempt,
        cancel: &CancelHandle,
    ) -> CommandOutcome {
        if cancel.is_cancelled() {
            return CommandOutcome::refused(
                TaskErrorKind::Cancelled,
                format!("{}: cancelled before it started", attempt.key()),
            );
        }
        let started = Instant::now();
        let kills = self.oom.count();
        let plan = match self.plan(spec, attempt) {
            Ok(plan) => plan,
            Err((kind, message)) => return CommandOutcome::refused(kind, message),
        };
        let child = match self.spawn(&plan) {
            Ok(child) => child,
            Err((kind, message)) => return CommandOutcome::refused(kind, message),
        };
        let limit = (spec.time_limit_ms > 0).then(|| Duration::from_millis(spec.time_limit_ms));
        let ended = watch(child, self.captures(attempt), limit, self.kill_grace, cancel);
        let killed_for_memory = self.oom.count() > kills;
        let usage = usage(&ended.reaped, started);
        let judge =
            Judge { host: &self.host, plan: &plan, time_limit_ms: spec.time_limit_ms, killed_for_memory };
        let verdict = judge.failure(&ended);
        let temporaries = plan.temporaries();
        let (result, unkept) = result_of(ended);
        let verdict = match (verdict, unkept) {
            (None, Some(reason)) => {
                let message = format!("what {} printed couldn't be kept: {reason}", attempt.key());
                Some((TaskErrorKind::Unkept(reason), message))
            }
            (verdict, _) => verdict,
        };
        match verdict {
            None => CommandOutcome::Finished { result, temporaries, usage },
            Some((kind, message)) => {
                discard(&temporaries);
                CommandOutcome::Failed { kind, message, result, usage }
            }
        }
    }

    fn plan(&self, spec: &CommandSpec, attempt: &Attempt) -> Result<Plan, Refusal> {
        let refuse = |text: String| (TaskErrorKind::Spawn(text.clone()), text);
        let cwd = PathBuf::from(&spec.cwd);
        let not_there = match cwd.metadata() {
            Ok(found) if found.is_dir() => None,
            Ok(_) => Some("not a directory".to_owned()),
            Err(e) => Some(e.to_string()),
        };
        if let Some(why) = not_there {
            let message =
                format!("{}: the task's directory isn't there on {}: {why}", cwd.display(), self.host);
            return Err((TaskErrorKind::MissingCwd, message));
        }
        let mut fill = Fill { argument: &attempt.args, ordinal: attempt.ordinal, outputs: &[] };
        let outputs: Vec<PlannedOutput> = spec
            .outputs
            .iter()
            .map(|output| {
                let target = cwd.join(template::output_path(spec, &output.path, fill));
                let temporary = temporary_path(&target, attempt.task, attempt.epoch, attempt.attempt);
                PlannedOutput { temporary, target, fenced: output.fenced }
            })
            .collect();
        remove_older(attempt, &outputs);
        let temporaries: Vec<PathBuf> = outputs.iter().map(|o| o.temporary.clone()).collect();
        fill.outputs = &temporaries;
        let argv = template::argv(spec, fill);
        let env = environment::of_attempt(self, spec, attempt, &temporaries);
        let word = argv.first().ok_or_else(|| refuse("the command has no words".to_owned()))?;
        let program = environment::program(word, &env, &cwd, &self.host).map_err(refuse)?;
        let stdin = cwd.join(spec.stdin.as_deref().unwrap_or("/dev/null"));
        let stdin = File::open(&stdin).map_err(|e| {
            let text = format!("{}: can't be read as standard input on {}: {e}", stdin.display(), self.host);
            (TaskErrorKind::MissingStdin, text)
        })?;
        Ok(Plan { program, argv, env, cwd, stdin: stdin.into(), outputs })
    }

    fn spawn(&self, plan: &Plan) -> Result<Started, Refusal> {
        let mut tries = 0;
        loop {
            let error = match start(plan) {
                Ok(started) => return Ok(started),
                Err(error) => error,
            };
            tries += 1;
            if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES {
                std::thread::sleep(BUSY_WAIT);
                continue;
            }
            let text = self.spawn_error(&plan.program, &error);
            return Err((TaskErrorKind::Spawn(text.clone()), text));
        }
    }

    fn spawn_error(&self, program: &Path, error: &io::Error) -> String {
        let hint = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) => ": the interpreter that its first line names isn't there",
            Some(Errno::E2BIG) => ": its arguments and environment are too long for one command",
            Some(Errno::EAGAIN) => ": no more processes are allowed here (ulimit -u)",
            Some(Errno::ENOMEM) => ": no memory left to start it",
            _ => "",
        };
        format!("{}: can't be started on {}{hint} ({error})", program.display(), self.host)
    }

    fn captures(&self, attempt: &Attempt) -> [Capture; 2] {
        let stem = format!("{}.{}.{}", attempt.task, attempt.epoch, attempt.attempt);
        ["stdout", "stderr"].map(|stream| {
            let path = self.spill_dir.join(format!("{stem}.{stream}"));
            Capture::new(path, self.inline_limit, self.file_limit)
        })
    }
}

impl Plan {
    fn temporaries(&self) -> Vec<(PathBuf, PathBuf)> {
        let fenced = self.outputs.iter().filter(|o| o.fenced || outputs::exists(&o.temporary));
        fenced.map(|o| (o.temporary.clone(), o.target.clone())).collect()
    }
}

/// Removes what earlier attempts left behind whose worker died: a command is given to another only when nothing of it
/// runs any more.
fn remove_older(attempt: &Attempt, outputs: &[PlannedOutput]) {
    for older in attempt.attempt.saturating_sub(OLDER_ATTEMPTS).max(1)..attempt.attempt {
        let temporary = |o: &PlannedOutput| temporary_path(&o.target, attempt.task, attempt.epoch, older);
        let pairs: Vec<_> = outputs.iter().map(|o| (temporary(o), o.target.clone())).collect();
        discard(&pairs);
    }
}

/// Starts a planned attempt.
fn start(plan: &Plan) -> io::Result<Started> {
    let (out, out_end) = stream()?;
    let (err, err_end) = stream()?;
    let stdio = [&plan.stdin, &out_end, &err_end];
    let pid =
        spawn(&Start { program: &plan.program, argv: &plan.argv, env: &plan.env, cwd: &plan.cwd, stdio })?;
    Ok(Started { pid, streams: [out, err] })
}

/// A pipe of which our end doesn't block.
fn stream() -> io::Result<(File, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((File::from(OwnedFd::from(reader)), writer.into()))
}

fn usage(reaped: &io::Result<Reaped>, started: Instant) -> Usage {
    let wall = started.elapsed();
    match reaped {
        Ok(r) => {
            // Before its exec, the child was a copy of this process and counted as large.
            let peak_rss = if r.peak_rss > peak_resident_bytes() { r.peak_rss } else { 0 };
            Usage { wall, user: r.user, system: r.system, peak_rss }
        }
        Err(_) => Usage { wall, ..Usage::default() },
    }
}

fn result_of(ended: Ended) -> (Value, Option<String>) {
    let status = ended.reaped.ok().map(|r| r.status);
    let (out, out_file, out_error) = ended.out.finish();
    let (err, err_file, err_error) = ended.err.finish();
    let text = |path: Option<PathBuf>| path.map(|p| p.to_string_lossy().into_owned());
    let header = CommandResult {
        exit_code: status.and_then(|s| s.code()),
        signal: status.and_then(|s| s.signal()),
        stdout_file: text(out_file),
        stderr_file: text(err_file),
    };
    (attempt::value(&header, out, err), out_error.or(err_error))
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
