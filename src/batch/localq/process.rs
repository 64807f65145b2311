//! Processes of jobs: how they are started, recognised after the daemon was replaced, and signalled.
//!
//! A job's processes are those of its session, and those that left it but still carry the job's variables in the
//! environment that they were started with.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

use super::queue::{Job, Leader, Now, Stage, end_epoch};
use super::{DIR_VARIABLE, JOB_END_VARIABLE, JOB_ID_VARIABLE};

/// How often a job is searched again for processes that were made while it was being killed.
const KILL_ROUNDS: usize = 10;

/// How often an adopted process is looked at where the kernel can't tell us of its end (before Linux 5.3).
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Both clocks.
pub fn now() -> Now {
    let read = |clock| clock_gettime(clock).map_or((0, 0), |time| (time.tv_sec(), time.tv_nsec()));
    let (seconds, nanoseconds) = read(ClockId::CLOCK_MONOTONIC);
    let milliseconds = seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000);
    let (epoch, _) = read(ClockId::CLOCK_REALTIME);
    Now { boot_ms: milliseconds.try_into().unwrap_or(0), epoch_s: epoch.try_into().unwrap_or(0) }
}

/// This boot of this host.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// This host's name.
pub fn host() -> String {
    nix::unistd::gethostname()
        .map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Start a job's script in a session of its own, its output appended to the job's log.
pub fn start(job: &Job, script: &Path, dir: &Path) -> io::Result<(Child, Leader)> {
    let log = OpenOptions::new().append(true).create(true).open(&job.request.log).map_err(|error| {
        io::Error::new(error.kind(), format!("its log {} can't be written: {error}", job.request.log))
    })?;
    // By its interpreter, as the kernel would do it, but also where files can't be executed.
    let mut words =
        job.request.script.lines().next().unwrap_or_default().trim_start_matches("#!").trim().splitn(2, ' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words.map(str::trim)).arg(script);
    command.env_clear().envs(job.request.environment.iter().map(|(name, value)| (name, value)));
    command.env(JOB_ID_VARIABLE, job.id.to_string()).env(DIR_VARIABLE, dir);
    if let Stage::Starting { started, .. } = job.stage
        && let Some(end) = end_epoch(&job.request, started)
    {
        command.env(JOB_END_VARIABLE, end.to_string());
    }
    command.current_dir(&job.request.work_dir);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
    }
    let child = command.spawn().map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("its script can't be started in {}: {error}", job.request.work_dir),
        )
    })?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(0);
    // Not reaped yet, so its entry is there even if it has ended.
    let ticks = stat(pid).map_or(0, |stat| stat.ticks);
    Ok((child, Leader { pid, ticks }))
}

/// Whether `leader` has not ended.
pub fn is_alive(leader: Leader) -> bool {
    stat(leader.pid).is_some_and(|stat| stat.ticks == leader.ticks && !stat.ended)
}

/// Wait for the end of a process that is not our child.
pub async fn wait(leader: Leader) {
    // SAFETY: the registration owns the descriptor, which stays open and the same until both are dropped together.
    let watch = |fd: OwnedFd| unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    let Some(fd) = pidfd(leader.pid).and_then(|fd| watch(fd).ok()) else {
        while is_alive(leader) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        return;
    };
    // Asked after the descriptor is there: it can't be somebody else's then.
    if is_alive(leader) {
        let _ = fd.readable().await;
    }
}

/// The leader of job `id` of the queue in `dir`, if it exists.
pub fn find_leader(id: u64, dir: &Path) -> Option<Leader> {
    let found = processes().find(|(pid, stat)| stat.session == *pid && !stat.ended && carries(*pid, id, dir));
    found.map(|(pid, stat)| Leader { pid, ticks: stat.ticks })
}

/// SIGTERM for all processes of a job, SIGCONT too so that a stopped one hears it.
pub fn terminate(id: u64, leader: Leader, dir: &Path) {
    for pid in members(id, leader, dir) {
        // An error means that it has just ended.
        let _ = kill(pid, Signal::SIGTERM);
        let _ = kill(pid, Signal::SIGCONT);
    }
}

/// SIGKILL for all processes of a job, also those that are made meanwhile.
pub fn kill_all(id: u64, leader: Leader, dir: &Path) {
    for _ in 0..KILL_ROUNDS {
        let members = members(id, leader, dir);
        if members.is_empty() {
            return;
        }
        for pid in members {
            // An error means that it has just ended.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Add a line of the queue's own to a job's log.
pub fn note(log: &str, words: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(log)?;
    writeln!(file, "local queue: {words}")
}

/// What `/proc/<pid>/stat` says, as far as we need it.
struct Stat {
    session: i32,
    ticks: u64,
    /// A zombie, or about to be one.
    ended: bool,
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields as proc(5) numbers them: 3 state, 6 session, 22 start time. The name (2) may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        session: fields.get(3)?.parse().ok()?,
        ticks: fields.get(19)?.parse().ok()?,
        ended: matches!(*fields.first()?, "Z" | "X"),
    })
}

fn processes() -> impl Iterator<Item = (i32, Stat)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| stat(pid).map(|stat| (pid, stat)))
}

fn members(id: u64, leader: Leader, dir: &Path) -> Vec<Pid> {
    // A session's number may be given again when all its processes are gone.
    let reused = stat(leader.pid).is_some_and(|stat| stat.ticks != leader.ticks);
    let own = std::process::id() as i32;
    let member = |pid: i32, stat: &Stat| {
        pid != own && !stat.ended && ((stat.session == leader.pid && !reused) || carries(pid, id, dir))
    };
    processes().filter(|(pid, stat)| member(*pid, stat)).map(|(pid, _)| Pid::from_raw(pid)).collect()
}

/// Whether a process was started with the variables of job `id`. Only our own processes can be read.
fn carries(pid: i32, id: u64, dir: &Path) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let wanted = [format!("{JOB_ID_VARIABLE}={id}"), format!("{DIR_VARIABLE}={}", dir.display())];
    wanted.iter().all(|entry| environment.split(|&byte| byte == 0).any(|found| found == entry.as_bytes()))
}

fn pidfd(pid: i32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two numbers, touches no memory, and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0)?;
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec), and nobody else knows of it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_can_hold_anything() {
        let text = "42 (a) b (c) S 1 40 39 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.session, stat.ticks, stat.ended), (39, 987_654, false));
        assert!(parse_stat("42 (sh").is_none());
        assert!(parse_stat("").is_none());
    }

    #[test]
    fn we_are_alive_and_our_twin_of_another_time_is_not() {
        let pid = std::process::id() as i32;
        let ticks = stat(pid).unwrap().ticks;
        assert!(is_alive(Leader { pid, ticks }));
        assert!(!is_alive(Leader { pid, ticks: ticks + 1 }));
    }
}
