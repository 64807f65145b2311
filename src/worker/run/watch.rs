//! A command from its start to its end: reads what it prints, and ends it when it is cancelled, its time is
//! over, or its output can't be kept.

use super::attempt::CancelHandle;
use super::capture::{Capture, Stream, scratch};
use crate::worker::process::{ExitWatch, Reaped, poll_timeout, processes, reap};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Time for which the streams of a command that has ended are read on while a child of it holds them open.
const DRAIN: Duration = Duration::from_millis(500);

/// Between two looks at whether a stopped command's other processes have ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// An attempt that has been started: its process, and our ends of its standard output and error.
pub(super) struct Started {
    pub(super) pid: Pid,
    pub(super) streams: [File; 2],
}

/// Why we ended an attempt ourselves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    TimeLimit,
    Unkept,
}

/// How a started attempt ended.
pub(super) struct Ended {
    pub(super) reaped: io::Result<Reaped>,
    pub(super) stop: Option<Stop>,
    pub(super) out: Capture,
    pub(super) err: Capture,
}

/// From the start to the wait. Stays until the process has ended, which one that hangs in the kernel doesn't.
pub(super) fn watch(
    started: Started,
    captures: [Capture; 2],
    limit: Option<Duration>,
    grace: Duration,
    cancel: &CancelHandle,
) -> Ended {
    let pid = started.pid;
    let mut watched = Watched {
        pid,
        exit: ExitWatch::new(pid),
        streams: started.streams.map(Some),
        captures,
        scratch: scratch(),
        stop: None,
        kill_at: None,
    };
    watched.run(limit, grace, cancel);
    // The zombie still holds the group's id, so this can't hit anybody else. What a command leaves running
    // would go on writing, into accepted outputs too. Looking for other groups takes long, with many processes
    // longer than short tasks do, so it is done only for those that we ended.
    match watched.stop {
        None => signal_group(pid, Signal::SIGKILL),
        Some(_) => signal_session(pid, Signal::SIGKILL),
    }
    let reaped = reap(pid);
    let Watched { stop, captures: [out, err], .. } = watched;
    Ended { reaped, stop, out, err }
}

/// A running attempt.
struct Watched {
    pid: Pid,
    exit: ExitWatch,
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
        let limit_at = limit.and_then(|l| Instant::now().checked_add(l));
        loop {
            let now = Instant::now();
            let limit_at = limit_at.filter(|_| self.stop.is_none());
            let deadline = [limit_at, self.kill_at, self.exit.look_at(now)].into_iter().flatten().min();
            self.sleep(deadline, now, Some(cancel));
            self.pump();
            if self.exit.has_ended() {
                break;
            }
            let over = limit_at.is_some_and(|at| Instant::now() >= at);
            self.stop_if(over, grace, cancel);
        }
        self.drain();
    }

    /// After the command's end: reads what is left while others hold its streams open. Those it was running get
    /// what is left of their time to clean up if they were told to end.
    fn drain(&mut self) {
        let until = self.kill_at.unwrap_or_else(|| Instant::now() + DRAIN);
        loop {
            // What it printed before its end is in the pipes by now.
            self.pump();
            let now = Instant::now();
            let cleaning_up = self.kill_at.is_some() && !groups(self.pid).is_empty();
            if now >= until || !(cleaning_up || self.streams.iter().any(Option::is_some)) {
                return;
            }
            let look_at = if cleaning_up { until.min(now + LOOK_EVERY) } else { until };
            self.sleep(Some(look_at), now, None);
        }
    }

    /// Asks the command to end if there is a reason to, and makes it when it was asked long enough ago.
    fn stop_if(&mut self, over: bool, grace: Duration, cancel: &CancelHandle) {
        if self.stop.is_some() {
            if self.kill_at.is_some_and(|at| Instant::now() >= at) {
                self.kill_at = None;
                signal_session(self.pid, Signal::SIGKILL);
            }
            return;
        }
        let unkept = self.captures.iter().any(|c| c.error().is_some());
        self.stop = if cancel.is_cancelled() {
            Some(Stop::Cancelled)
        } else if over {
            Some(Stop::TimeLimit)
        } else {
            unkept.then_some(Stop::Unkept)
        };
        if self.stop.is_some() {
            signal_session(self.pid, Signal::SIGTERM);
            // One that is stopped gets the other signal only once it goes on.
            signal_session(self.pid, Signal::SIGCONT);
            self.kill_at = Some(Instant::now() + grace);
        }
    }

    /// Sleeps until something is to be read, the command ended, somebody cancels, or the deadline. Without
    /// `cancel`, the command has ended already.
    fn sleep(&self, deadline: Option<Instant>, now: Instant, cancel: Option<&CancelHandle>) {
        let mut fds = Vec::with_capacity(4);
        fds.extend(self.streams.iter().flatten().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
        if let Some(cancel) = cancel {
            fds.extend(self.exit.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            // Once it is seen, it would end every sleep at once.
            let wanted = self.stop.is_none().then(|| cancel.fd());
            fds.extend(wanted.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
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

/// An empty group is no error: the zombie that leads it gets the signal.
fn signal_group(group: Pid, signal: Signal) {
    if let Err(e) = killpg(group, signal)
        && e != Errno::ESRCH
    {
        tracing::warn!("process group {group}: can't send {signal}: {e}");
    }
}

/// For all groups of a command's session: shells with job control and `timeout` make more of them.
fn signal_session(session: Pid, signal: Signal) {
    let mut groups = groups(session);
    groups.insert(session);
    for group in groups {
        signal_group(group, signal);
    }
}

/// The groups of a session that have a live process.
fn groups(session: Pid) -> BTreeSet<Pid> {
    processes().into_iter().filter(|p| p.session == session && p.state != 'Z').map(|p| p.group).collect()
}
