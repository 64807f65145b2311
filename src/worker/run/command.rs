//! Runs one attempt of a command: starts it in a session of its own, keeps what it prints, stops it when asked or
//! when its time is over, and says how it ended. A failed task is data here, never an `Err`.
//!
//! An attempt occupies one thread from fork to wait, because the kernel ties a child's death signal to the
//! thread that started it.

use super::capture::{Capture, Stream, scratch};
use super::environment::{self, Environment};
use super::outputs::{self, discard, temporary_path};
use super::spawn::{Start, spawn};
use super::template::{self, Fill};
use crate::graph::{CommandResult, CommandSpec, Op, TaskId, Value};
use crate::worker::process::{
    ExitWatch, OomCounter, Reaped, peak_resident_bytes, poll_timeout, processes, reap,
};
use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of each stream that are kept in memory, and travel with the result.
pub const INLINE_LIMIT: usize = 1 << 20;
/// Most bytes of one stream that are kept in a file: a runaway loop must not fill the state directory.
pub const FILE_LIMIT: u64 = 4 << 30;
/// Time between asking a task to end and killing it.
pub const KILL_GRACE: Duration = Duration::from_secs(5);
/// Time for which the streams of a command that has ended are read on while a child of it holds them open.
const DRAIN: Duration = Duration::from_millis(500);
/// A program that was just written may be open for writing in a child of another thread that has forked, but
/// not yet executed its own program; that takes a moment at most.
const BUSY_TRIES: u32 = 50;
const BUSY_WAIT: Duration = Duration::from_millis(5);
/// What shells make of a child that was killed by SIGKILL.
const SHELL_KILLED: i32 = 128 + 9;

/// One execution of a command task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    pub task: TaskId,
    /// The name that the user gave to the task.
    pub name: Option<String>,
    /// From 1.
    pub attempt: u32,
    /// The scheduler's epoch that assigned it.
    pub epoch: u32,
    /// The task's number from 1 within its `map`, `{#}`.
    pub ordinal: u64,
    pub args: Vec<u8>,
}

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

/// Stops an attempt from any thread. Clones stop the same one.
#[derive(Clone, Debug)]
pub struct CancelHandle(Arc<CancelPipe>);

/// The reader sees the end of the pipe once the writer is dropped.
#[derive(Debug)]
struct CancelPipe {
    reader: PipeReader,
    writer: Mutex<Option<PipeWriter>>,
}

/// Why an attempt failed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum TaskErrorKind {
    /// It ended with this code, which isn't 0. 128 + n is a shell's way to say that its child got signal n.
    Exit(i32),
    /// This signal ended it, and none of ours.
    Signal(i32),
    TimeLimit,
    OutOfMemory,
    /// It couldn't be started: the reason.
    Spawn(String),
    /// It ended well without making this output.
    MissingOutput(String),
    MissingCwd,
    MissingStdin,
    /// What it printed couldn't be kept: the reason.
    Unkept(String),
    Cancelled,
}

/// What an attempt used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// From before the fork until all is collected.
    pub wall: Duration,
    pub user: Duration,
    pub system: Duration,
    /// Bytes of its largest process; 0: unknown, but no more than this worker itself ever had.
    pub peak_rss: u64,
}

/// How an attempt ended. `result` has a `CommandResult` in MessagePack (with field names) as header and
/// `[stdout, stderr]` as buffers: the beginning of each, all of it being in the file that the header names when
/// there is more.
#[derive(Clone, PartialEq, Debug)]
pub enum CommandOutcome {
    /// Exit code 0, and every declared output made. The temporaries, with the paths that they are to have, are
    /// the scheduler's to accept (`outputs::commit`) or not (`outputs::discard`).
    Finished { result: Value, temporaries: Vec<(PathBuf, PathBuf)>, usage: Usage },
    /// Its temporaries are removed.
    Failed { kind: TaskErrorKind, message: String, result: Value, usage: Usage },
}

impl Attempt {
    /// What the task is called in `JOBQ_TASK_KEY` and in messages.
    pub fn key(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.task.to_string())
    }
}

impl CancelHandle {
    /// # Errors
    /// No more file descriptors.
    pub fn new() -> io::Result<CancelHandle> {
        let (reader, writer) = io::pipe()?;
        Ok(CancelHandle(Arc::new(CancelPipe { reader, writer: Mutex::new(Some(writer)) })))
    }

    /// Asks the attempt to end, and makes it after the grace. Again, or after its end: nothing.
    pub fn cancel(&self) {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

/// What an attempt is to execute, with nothing left to fill in.
struct Plan {
    program: PathBuf,
    argv: Vec<OsString>,
    env: Environment,
    cwd: PathBuf,
    stdin: OwnedFd,
    outputs: Vec<PlannedOutput>,
}

struct PlannedOutput {
    temporary: PathBuf,
    target: PathBuf,
    fenced: bool,
}

type Refusal = (TaskErrorKind, String);

/// An attempt that has been started: its process, and our ends of its standard output and error.
struct Started {
    pid: Pid,
    streams: [File; 2],
}

/// Why we ended an attempt ourselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    Cancelled,
    TimeLimit,
    Unkept,
}

/// How a started attempt ended.
struct Ended {
    reaped: io::Result<Reaped>,
    stop: Option<Stop>,
    out: Capture,
    err: Capture,
}

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
            other => refused(
                TaskErrorKind::Spawn("not a command".to_owned()),
                format!("{}: not a command", other.family()),
            ),
        });
        run.await.unwrap_or_else(|e| {
            let text = format!("{attempt_task}: its thread ended: {e}");
            refused(TaskErrorKind::Spawn(text.clone()), text)
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
            return refused(
                TaskErrorKind::Cancelled,
                format!("{}: cancelled before it started", attempt.key()),
            );
        }
        let started = Instant::now();
        let kills = self.oom.count();
        let plan = match self.plan(spec, attempt) {
            Ok(plan) => plan,
            Err((kind, message)) => return refused(kind, message),
        };
        let child = match self.spawn(&plan) {
            Ok(child) => child,
            Err((kind, message)) => return refused(kind, message),
        };
        let limit = (spec.time_limit_ms > 0).then(|| Duration::from_millis(spec.time_limit_ms));
        let ended = self.watch(child, attempt, limit, cancel);
        let killed_for_memory = self.oom.count() > kills;
        let usage = usage(&ended.reaped, started);
        let verdict = self.judge(spec, &plan, &ended, killed_for_memory);
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
        if !cwd.is_dir() {
            let message = format!("{}: the task's directory isn't there on {}", cwd.display(), self.host);
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

    /// From the fork to the wait.
    fn watch(
        &self,
        child: Started,
        attempt: &Attempt,
        limit: Option<Duration>,
        cancel: &CancelHandle,
    ) -> Ended {
        let stem = format!("{}.{}.{}", attempt.task, attempt.epoch, attempt.attempt);
        let capture = |stream: &str| {
            let path = self.spill_dir.join(format!("{stem}.{stream}"));
            Capture::new(path, self.inline_limit, self.file_limit)
        };
        let pid = child.pid;
        let mut watched = Watched {
            pid,
            watch: ExitWatch::new(pid),
            streams: child.streams.map(Some),
            captures: [capture("stdout"), capture("stderr")],
            scratch: scratch(),
            stop: None,
            kill_at: None,
        };
        watched.run(limit, self.kill_grace, cancel);
        // The zombie still holds the group's id, so this can't hit anybody else. What a command leaves running
        // would go on writing, into accepted outputs too.
        signal_group(pid, Signal::SIGKILL);
        if watched.stop.is_some() {
            kill_session(pid);
        }
        let reaped = reap(pid);
        let Watched { stop, captures: [out, err], .. } = watched;
        Ended { reaped, stop, out, err }
    }

    /// Why the attempt failed; none if it didn't.
    fn judge(
        &self,
        spec: &CommandSpec,
        plan: &Plan,
        ended: &Ended,
        killed_for_memory: bool,
    ) -> Option<Refusal> {
        let program = plan.argv[0].display();
        let on = format!("on {}", self.host);
        let last = ended.err.last_line().map_or(String::new(), |line| format!(": {line}"));
        let after = match ended.stop {
            Some(Stop::Cancelled) => {
                return Some((TaskErrorKind::Cancelled, format!("'{program}' was cancelled {on}")));
            }
            Some(Stop::TimeLimit) => {
                let limit = spec.time_limit_ms as f64 / 1e3;
                let text = format!("'{program}' was stopped {on}: its time limit of {limit} s is over{last}");
                return Some((TaskErrorKind::TimeLimit, text));
            }
            // The capture has the reason.
            Some(Stop::Unkept) => return None,
            None => match &ended.reaped {
                Ok(reaped) => reaped.status,
                Err(e) => {
                    let text = format!("'{program}' {on}: how it ended is unknown: {e}");
                    return Some((TaskErrorKind::Spawn(text.clone()), text));
                }
            },
        };
        let killed = after.signal() == Some(Signal::SIGKILL as i32) || after.code() == Some(SHELL_KILLED);
        if killed && killed_for_memory {
            let text = format!(
                "'{program}' was killed {on}: the memory of its batch job ran out; ask for more with --memory"
            );
            return Some((TaskErrorKind::OutOfMemory, text));
        }
        if let Some(signal) = after.signal() {
            let name =
                Signal::try_from(signal).map_or_else(|_| signal.to_string(), |s| s.as_str().to_owned());
            let text = format!("'{program}' was ended by signal {name} {on}{last}");
            return Some((TaskErrorKind::Signal(signal), text));
        }
        match after.code() {
            Some(0) => self.missing_output(plan),
            code => {
                let code = code.unwrap_or(-1);
                let text =
                    format!("'{program}' exited with code {code} {on}{last}{}", missing_directories(plan));
                Some((TaskErrorKind::Exit(code), text))
            }
        }
    }

    fn missing_output(&self, plan: &Plan) -> Option<Refusal> {
        // A script may use JOBQ_TASK_OUTPUT where the command line doesn't show it.
        let made =
            |o: &PlannedOutput| outputs::exists(&o.temporary) || (!o.fenced && outputs::exists(&o.target));
        let missing = plan.outputs.iter().find(|o| !made(o))?;
        let target = missing.target.display();
        let how = if missing.fenced { " at {out} (JOBQ_TASK_OUTPUT)" } else { "" };
        let text = format!(
            "'{}' exited with code 0 on {}, but didn't write its output {target}{how}{}",
            plan.argv[0].display(),
            self.host,
            missing_directories(plan)
        );
        Some((TaskErrorKind::MissingOutput(target.to_string()), text))
    }
}

impl Plan {
    fn temporaries(&self) -> Vec<(PathBuf, PathBuf)> {
        let fenced = self.outputs.iter().filter(|o| o.fenced || outputs::exists(&o.temporary));
        fenced.map(|o| (o.temporary.clone(), o.target.clone())).collect()
    }
}

/// A running attempt.
struct Watched {
    pid: Pid,
    watch: ExitWatch,
    /// Standard output and error, until they end.
    streams: [Option<File>; 2],
    captures: [Capture; 2],
    scratch: Vec<u8>,
    stop: Option<Stop>,
    kill_at: Option<Instant>,
}

impl Watched {
    /// Until the command has ended, and its streams too or the time for that.
    fn run(&mut self, limit: Option<Duration>, grace: Duration, cancel: &CancelHandle) {
        let started = Instant::now();
        let limit_at = limit.and_then(|l| started.checked_add(l));
        let mut ended_at: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let deadline = match ended_at {
                Some(at) => Some(at + DRAIN),
                None => {
                    let limit_at = limit_at.filter(|_| self.stop.is_none());
                    [limit_at, self.kill_at, self.watch.look_at(now)].into_iter().flatten().min()
                }
            };
            self.sleep(deadline, now, ended_at.is_none(), cancel);
            self.pump();
            if ended_at.is_none() && self.watch.has_ended() {
                ended_at = Some(Instant::now());
                // What it printed before its end is in the pipes by now.
                self.pump();
            }
            let now = Instant::now();
            if let Some(at) = ended_at {
                if self.streams.iter().all(Option::is_none) || now >= at + DRAIN {
                    return;
                }
                continue;
            }
            if self.stop.is_none() {
                let over = limit_at.is_some_and(|at| now >= at);
                let unkept = self.captures.iter().any(|c| c.error().is_some());
                self.stop = if cancel.is_cancelled() {
                    Some(Stop::Cancelled)
                } else if over {
                    Some(Stop::TimeLimit)
                } else {
                    unkept.then_some(Stop::Unkept)
                };
                if self.stop.is_some() {
                    signal_group(self.pid, Signal::SIGTERM);
                    // One that is stopped gets the other signal only once it goes on.
                    signal_group(self.pid, Signal::SIGCONT);
                    self.kill_at = Some(now + grace);
                }
            } else if self.kill_at.is_some_and(|at| now >= at) {
                self.kill_at = None;
                signal_group(self.pid, Signal::SIGKILL);
            }
        }
    }

    /// Sleeps until something is to be read, the command ended, somebody cancels, or the deadline.
    fn sleep(&self, deadline: Option<Instant>, now: Instant, running: bool, cancel: &CancelHandle) {
        let mut fds = Vec::with_capacity(4);
        fds.extend(self.streams.iter().flatten().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
        if running {
            fds.extend(self.watch.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        }
        if self.stop.is_none() && running {
            fds.push(PollFd::new(cancel.0.reader.as_fd(), PollFlags::POLLIN));
        }
        // Interrupted or out of memory: the loop looks at everything anyway.
        if let Err(e) = poll(&mut fds, poll_timeout(deadline, now))
            && e != Errno::EINTR
        {
            tracing::warn!("poll: {e}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn pump(&mut self) {
        for (stream, capture) in self.streams.iter_mut().zip(&mut self.captures) {
            if let Some(file) = stream
                && capture.pump(file, &mut self.scratch) == Stream::Ended
            {
                *stream = None;
            }
        }
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

/// An empty group is no error: the zombie that leads it gets the signal.
fn signal_group(group: Pid, signal: Signal) {
    if let Err(e) = killpg(group, signal)
        && e != Errno::ESRCH
    {
        tracing::warn!("process group {group}: can't send {signal}: {e}");
    }
}

/// Kills the groups that a command's shell made within the command's session.
fn kill_session(session: Pid) {
    let groups: BTreeSet<Pid> =
        processes().into_iter().filter(|p| p.session == session && p.state != 'Z').map(|p| p.group).collect();
    for group in groups {
        signal_group(group, Signal::SIGKILL);
    }
}

/// The directories of outputs that aren't there, as the end of a message.
fn missing_directories(plan: &Plan) -> String {
    let missing = plan.outputs.iter().filter_map(|o| o.target.parent()).find(|p| !p.is_dir());
    missing.map_or(String::new(), |p| format!(" (the output's directory {} isn't there)", p.display()))
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
    (value(&header, out, err), out_error.or(err_error))
}

fn value(header: &CommandResult, out: Vec<u8>, err: Vec<u8>) -> Value {
    // Two numbers and two texts always encode; an empty header would only say less.
    let header = rmp_serde::to_vec_named(header).unwrap_or_default();
    Value { header: header.into(), buffers: vec![Bytes::from(out), Bytes::from(err)] }
}

/// The outcome of an attempt that never started.
fn refused(kind: TaskErrorKind, message: String) -> CommandOutcome {
    let result = value(&CommandResult::default(), Vec::new(), Vec::new());
    CommandOutcome::Failed { kind, message, result, usage: Usage::default() }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
