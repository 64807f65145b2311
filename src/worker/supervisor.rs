//! The process that a batch script becomes: it starts the worker, restarts it when it dies, and makes sure that
//! nothing a dead worker started goes on running, which is what lets the scheduler run its commands elsewhere.
//!
//! It is a subreaper: whatever a worker leaves behind becomes its child, so "no children" proves "no
//! descendants". That holds for one worker. Several workers in one allocation therefore get a supervisor each,
//! below one that only looks after those; it is this same code with another program to start.
//!
//! Synchronous, one thread (and one that reports), asleep unless a signal or a line of the worker's log comes.

mod report;
mod signals;
mod sweep;
mod tail;
mod verdict;

pub use report::Report;
pub use verdict::{VerdictRecord, read_verdicts};

use super::process::{OomCounter, Reaped, poll_timeout, reap_any, signal_on_parent_death};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use report::Reporter;
use signals::Signals;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use sweep::Sweep;
use tail::LogTail;

/// A worker that dies this often within `CRASH_WINDOW` isn't started again.
const CRASH_LIMIT: usize = 5;
const CRASH_WINDOW: Duration = Duration::from_secs(60);
/// A worker that ran at least this long is restarted without delay.
const LIVED_LONG: Duration = Duration::from_secs(10);
/// Between two looks for processes that are still there, if none of them says that it ended.
const SWEEP_EVERY: Duration = Duration::from_millis(100);
/// What supervisors of single workers get beyond their own grace.
const NESTED_EXTRA: Duration = Duration::from_secs(2);
/// A program and its first arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Launch {
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

/// What to supervise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Names of the workers; at least one.
    pub workers: Vec<String>,
    /// The worker; it gets `--worker NAME --incarnation ID` besides, ID being a new number at each start. Exit
    /// code 0 means that it left cleanly. It gets SIGTERM when it is to leave, perhaps more than once.
    pub worker: Launch,
    /// This program as the supervisor of one worker; it gets `--worker NAME` besides. Used for several workers.
    pub supervisor: Launch,
    /// Where verdicts are written.
    pub allocation_dir: PathBuf,
    /// Time for workers to leave after a SIGTERM from the batch system; less than that leaves before SIGKILL.
    pub grace: Duration,
    /// Before a worker is started again that died soon after its start.
    pub restart_delay: Duration,
    /// When the allocation's walltime ends, in seconds since 1970, if it is known: verdicts have it.
    pub deadline: Option<u64>,
}

/// How it ended. The later ones outweigh the earlier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    /// Every worker left by itself, or when it was told to.
    Left,
    /// Workers had to be killed when their grace was over.
    Killed,
    /// A worker died again and again.
    GaveUp,
}

/// Why there is nothing to supervise.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error("no worker to supervise: name at least one")]
    NoWorkers,
    #[error("a process can have only one supervisor")]
    Twice,
    #[error("{program}: the worker can't be started: {source}")]
    Start { program: String, source: io::Error },
    #[error("the supervisor can't be set up: {0}")]
    Setup(#[from] io::Error),
}

impl End {
    /// For the batch system: 143 is what a shell says of SIGTERM.
    pub fn exit_code(self) -> u8 {
        match self {
            End::Left => 0,
            End::Killed => 143,
            End::GaveUp => 1,
        }
    }
}

/// Supervises until all workers have left, the batch system ends it, or it gives up. Call it before the process
/// has other threads or children.
///
/// # Errors
/// The first start fails, or the kernel refuses what it needs.
pub fn run(settings: Settings, report: impl Report + 'static) -> Result<End, SupervisorError> {
    if settings.workers.is_empty() {
        return Err(SupervisorError::NoWorkers);
    }
    let signals = Signals::install()?.ok_or(SupervisorError::Twice)?;
    nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from)?;
    let reporter = Reporter::start(report)?;
    let slots = settings.workers.iter().map(|name| Slot::new(name)).collect();
    let oom = OomCounter::of_this_process();
    let mut supervisor = Supervisor {
        settings,
        signals,
        slots,
        oom,
        reporter,
        stopping: None,
        sweep: Sweep::start(),
        killed: false,
    };
    let end = supervisor.run();
    supervisor.reporter.finish();
    end
}

struct Supervisor {
    settings: Settings,
    signals: Signals,
    slots: Vec<Slot>,
    oom: OomCounter,
    reporter: Reporter,
    /// Since when workers are to leave; the time at which they are killed, until that is done.
    stopping: Option<Option<Instant>>,
    sweep: Sweep,
    killed: bool,
}

/// One worker through its incarnations.
struct Slot {
    name: String,
    state: SlotState,
    incarnation: u64,
    deaths: VecDeque<Instant>,
}

enum SlotState {
    Waiting {
        until: Option<Instant>,
    },
    Running(Box<Running>),
    /// It has ended; what it left behind is being killed.
    Sweeping(Box<VerdictRecord>, Instant),
    Done(End),
}

struct Running {
    pid: Pid,
    since: Instant,
    started: u64,
    kills_before: u64,
    log: LogTail,
}

impl Slot {
    fn new(name: &str) -> Slot {
        Slot {
            name: name.to_owned(),
            state: SlotState::Waiting { until: None },
            incarnation: 0,
            deaths: VecDeque::new(),
        }
    }

    fn pid(&self) -> Option<Pid> {
        match &self.state {
            SlotState::Running(running) => Some(running.pid),
            _ => None,
        }
    }

    /// Notes a death; `true`: it was one too many.
    fn died(&mut self, now: Instant) -> bool {
        self.deaths.push_back(now);
        while self.deaths.front().is_some_and(|at| now.duration_since(*at) > CRASH_WINDOW) {
            self.deaths.pop_front();
        }
        self.deaths.len() >= CRASH_LIMIT
    }
}

impl Supervisor {
    /// Workers directly below, or supervisors of one each.
    fn nested(&self) -> bool {
        self.settings.workers.len() > 1
    }

    fn run(&mut self) -> Result<End, SupervisorError> {
        loop {
            self.start_due()?;
            if let Some(end) = self.end() {
                return Ok(end);
            }
            self.sleep();
            for signal in self.signals.take() {
                if signal != Signal::SIGCHLD {
                    self.stop(signal);
                }
            }
            self.read_logs();
            let none_left = self.reap();
            let sweeping = self.slots.iter().any(|s| matches!(s.state, SlotState::Sweeping(..)));
            if sweeping && (none_left || self.swept()) {
                self.conclude();
            }
            self.kill_overdue();
        }
    }

    fn end(&self) -> Option<End> {
        let ends = self.slots.iter().map(|slot| match slot.state {
            SlotState::Done(end) => Some(end),
            _ => None,
        });
        let worst = ends.collect::<Option<Vec<End>>>()?.into_iter().max()?;
        Some(if self.killed { worst.max(End::Killed) } else { worst })
    }

    /// Starts the workers whose time it is.
    fn start_due(&mut self) -> Result<(), SupervisorError> {
        let now = Instant::now();
        for i in 0..self.slots.len() {
            let SlotState::Waiting { until } = self.slots[i].state else { continue };
            if self.stopping.is_some() {
                self.slots[i].state = SlotState::Done(End::Left);
                continue;
            }
            if until.is_some_and(|at| now < at) {
                continue;
            }
            match self.start(i) {
                Ok(running) => self.slots[i].state = SlotState::Running(Box::new(running)),
                Err(source) => {
                    let program = self.launch().program.display().to_string();
                    if until.is_none() {
                        self.stop(Signal::SIGTERM);
                        return Err(SupervisorError::Start { program, source });
                    }
                    note(&format!("{program}: can't be started: {source}"));
                    let gave_up = self.slots[i].died(now);
                    let again = now + self.settings.restart_delay.max(Duration::from_secs(1));
                    self.slots[i].state = if gave_up {
                        SlotState::Done(End::GaveUp)
                    } else {
                        SlotState::Waiting { until: Some(again) }
                    };
                }
            }
        }
        Ok(())
    }

    fn launch(&self) -> &Launch {
        if self.nested() { &self.settings.supervisor } else { &self.settings.worker }
    }

    fn start(&mut self, i: usize) -> io::Result<Running> {
        let nested = self.nested();
        let slot = &mut self.slots[i];
        let launch = if nested { &self.settings.supervisor } else { &self.settings.worker };
        let mut command = Command::new(&launch.program);
        command.args(&launch.args).arg("--worker").arg(&slot.name).stdin(Stdio::null());
        if !nested {
            // Ascending even if the clock is set back; microseconds are exact as JSON numbers too.
            slot.incarnation = (unix_time().as_micros() as u64).max(slot.incarnation + 1);
            command.arg("--incarnation").arg(slot.incarnation.to_string());
        }
        // A worker without its supervisor leaves cleanly if it can. It stays in this session, so that a batch
        // system that kills a session reaches it.
        signal_on_parent_death(&mut command, Signal::SIGTERM);
        let (reader, writer) = io::pipe()?;
        command.stderr(writer);
        let child = command.spawn()?;
        Ok(Running {
            pid: Pid::from_raw(child.id() as i32),
            since: Instant::now(),
            started: unix_time().as_secs(),
            kills_before: self.oom.count(),
            log: LogTail::new(reader)?,
        })
    }

    /// Until a signal, a line of a log, or the next deadline.
    fn sleep(&self) {
        let now = Instant::now();
        let waits = self.slots.iter().filter_map(|slot| match slot.state {
            SlotState::Waiting { until } => until,
            SlotState::Sweeping(..) => Some(now + SWEEP_EVERY),
            SlotState::Running(_) | SlotState::Done(_) => None,
        });
        let deadline = waits.chain(self.stopping.flatten()).min();
        let mut fds = vec![PollFd::new(self.signals.fd(), PollFlags::POLLIN)];
        let logs = self.slots.iter().filter_map(|slot| match &slot.state {
            SlotState::Running(running) => running.log.pipe(),
            _ => None,
        });
        fds.extend(logs.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        if let Err(e) = poll(&mut fds, poll_timeout(deadline, now))
            && e != Errno::EINTR
        {
            note(&format!("poll: {e}"));
            std::thread::sleep(SWEEP_EVERY);
        }
    }

    fn read_logs(&mut self) {
        for slot in &mut self.slots {
            if let SlotState::Running(running) = &mut slot.state {
                running.log.pump(&mut io::stderr());
            }
        }
    }

    /// Passes a signal on as SIGTERM, once, and counts the grace from it.
    fn stop(&mut self, signal: Signal) {
        if self.stopping.is_some() {
            return;
        }
        let extra = if self.nested() { NESTED_EXTRA } else { Duration::ZERO };
        let grace = self.settings.grace + extra;
        self.stopping = Some(Some(Instant::now() + grace));
        note(&format!("{signal}: workers are to leave within {} s", grace.as_secs_f32()));
        for pid in self.slots.iter().filter_map(Slot::pid) {
            // It may be a zombie by now, which the next look finds.
            let _ = kill(pid, Signal::SIGTERM);
        }
    }

    fn kill_overdue(&mut self) {
        let Some(Some(at)) = self.stopping else { return };
        if Instant::now() < at {
            return;
        }
        self.stopping = Some(None);
        for slot in &self.slots {
            if let Some(pid) = slot.pid() {
                note(&format!("{} didn't leave in time: killed", slot.name));
                self.killed = true;
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    /// Collects whoever has ended. `true`: there is no child left, and so no descendant.
    fn reap(&mut self) -> bool {
        loop {
            match reap_any() {
                Ok(Some(reaped)) => self.ended(&reaped),
                Ok(None) => return false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.raw_os_error() == Some(Errno::ECHILD as i32),
            }
        }
    }

    fn ended(&mut self, reaped: &Reaped) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.pid() == Some(reaped.pid)) else { return };
        let SlotState::Running(running) = &mut slot.state else { return };
        running.log.pump(&mut io::stderr());
        let ran_out = self.oom.count() > running.kills_before;
        let mut verdict = VerdictRecord::of(&slot.name, slot.incarnation, reaped, ran_out);
        verdict.started = running.started;
        verdict.ended = unix_time().as_secs();
        verdict.deadline = self.settings.deadline;
        verdict.log = running.log.lines();
        slot.state = SlotState::Sweeping(Box::new(verdict), running.since);
        self.sweep = Sweep::start();
    }

    fn swept(&mut self) -> bool {
        let running: Vec<Pid> = self.slots.iter().filter_map(Slot::pid).collect();
        self.sweep.look(&running)
    }

    /// Writes the verdicts of workers whose processes are all gone, reports them, and decides what comes next.
    fn conclude(&mut self) {
        let killed = self.sweep.killed();
        let now = Instant::now();
        let nested = self.nested();
        for slot in &mut self.slots {
            let SlotState::Sweeping(verdict, since) = &mut slot.state else { continue };
            let mut verdict = std::mem::take(&mut **verdict);
            let lived = now.duration_since(*since);
            verdict.processes_killed = killed;
            if verdict.exit_code == Some(0) {
                slot.state = SlotState::Done(End::Left);
                continue;
            }
            // A supervisor of one worker that ends with a code has said and done all by itself.
            if nested && verdict.signal.is_none() {
                slot.state = SlotState::Done(End::of_nested(verdict.exit_code));
                continue;
            }
            note(&format!("{}: {}", slot.name, verdict.cause));
            if let Err(e) = verdict.write(&self.settings.allocation_dir) {
                note(&format!(
                    "{}: the verdict can't be written: {e}",
                    self.settings.allocation_dir.display()
                ));
            }
            if verdict.incarnation > 0 {
                self.reporter.report(verdict);
            }
            slot.state = if self.stopping.is_some() {
                SlotState::Done(End::Left)
            } else if slot.died(now) {
                note(&format!(
                    "{}: died {CRASH_LIMIT} times within {} s: giving up",
                    slot.name,
                    CRASH_WINDOW.as_secs()
                ));
                SlotState::Done(End::GaveUp)
            } else {
                let delay = if lived >= LIVED_LONG { Duration::ZERO } else { self.settings.restart_delay };
                SlotState::Waiting { until: Some(now + delay) }
            };
        }
    }
}

impl End {
    fn of_nested(code: Option<i32>) -> End {
        match code {
            Some(0) => End::Left,
            Some(143) => End::Killed,
            _ => End::GaveUp,
        }
    }
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// To the job's log. Nothing is to be done if that is closed or full.
fn note(text: &str) {
    use io::Write;
    let _ = writeln!(io::stderr(), "jobq supervisor: {text}");
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
