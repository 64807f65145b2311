//! Processes, as far as running and watching them needs more than the standard library has: their end without
//! polling for it, what they used, who descends from whom, and whether the kernel killed one for memory.

use nix::errno::Errno;
use nix::libc;
use nix::poll::PollTimeout;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// How often a child's end is looked for on kernels without pidfds (before 5.3).
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Sees a child's end. The child stays a zombie, and so its id and its group's id stay taken, until [`reap`].
pub(super) struct ExitWatch {
    pid: Pid,
    pidfd: Option<OwnedFd>,
}

impl ExitWatch {
    pub(super) fn new(pid: Pid) -> ExitWatch {
        // SAFETY: the call takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        // SAFETY: a descriptor the kernel has just made for us (close-on-exec by definition), owned by nobody else.
        let pidfd = (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) });
        ExitWatch { pid, pidfd }
    }

    /// Readable once the child has ended; none on old kernels.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Until when a poll may sleep without missing the child's end.
    pub(super) fn look_at(&self, now: Instant) -> Option<Instant> {
        self.pidfd.is_none().then(|| now + LOOK_EVERY)
    }

    pub(super) fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(self.pid), flags), Ok(WaitStatus::StillAlive) | Err(Errno::EINTR))
    }
}

/// How a child ended and what it and the children it waited for used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reaped {
    pub(super) pid: Pid,
    pub(super) status: ExitStatus,
    /// Largest resident size of one process, in bytes. A process counts from its fork on, so it is never less
    /// than its parent had then.
    pub(super) peak_rss: u64,
    pub(super) user: Duration,
    pub(super) system: Duration,
}

/// Collects a child that has ended, waiting for it if need be.
///
/// # Errors
/// `ECHILD` if it isn't a child of this process, or was collected by somebody else.
pub(super) fn reap(pid: Pid) -> io::Result<Reaped> {
    loop {
        match wait4(pid.as_raw(), 0) {
            Ok(Some(reaped)) => return Ok(reaped),
            Ok(None) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Collects any child that has ended, without waiting. `Err(ECHILD)`: there are no children at all, and so, for
/// a subreaper, no descendants.
pub(super) fn reap_any() -> io::Result<Option<Reaped>> {
    wait4(-1, libc::WNOHANG)
}

fn wait4(pid: libc::pid_t, flags: libc::c_int) -> io::Result<Option<Reaped>> {
    let mut status = 0;
    // SAFETY: `rusage` is plain numbers, for which all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the types that the call fills.
    let pid = unsafe { libc::wait4(pid, &mut status, flags, &mut usage) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(Reaped {
            pid: Pid::from_raw(pid),
            status: ExitStatus::from_raw(status),
            // Linux counts it in KiB.
            peak_rss: (usage.ru_maxrss as u64).saturating_mul(1024),
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
        })),
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec.max(0) as u64) + Duration::from_micros(time.tv_usec.max(0) as u64)
}

/// Makes `command`'s process get `signal` when the thread that spawns it ends.
pub(super) fn signal_on_parent_death(command: &mut Command, signal: Signal) {
    let parent = Pid::this();
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(signal)?;
        // The parent may have died before that; then nobody would send the signal any more.
        if nix::unistd::getppid() != parent {
            return Err(io::Error::from(Errno::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls, which are async-signal-safe; it
    // allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// The sleep until `deadline`, rounded up to the millisecond so that it isn't woken just before.
pub(super) fn poll_timeout(deadline: Option<Instant>, now: Instant) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let ms = deadline.saturating_duration_since(now).as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(ms.min(i32::MAX as u128) as i32).unwrap_or(PollTimeout::MAX)
}

/// One process, from `/proc/PID/stat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ProcessEntry {
    pub(super) pid: Pid,
    pub(super) state: char,
    pub(super) parent: Pid,
    pub(super) group: Pid,
    pub(super) session: Pid,
    /// Clock ticks since boot: tells a process from a later one of the same id.
    pub(super) started: u64,
}

/// All processes that this one can see. One that ends meanwhile may be missing.
pub(super) fn processes() -> Vec<ProcessEntry> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| process(Pid::from_raw(pid)))
        .collect()
}

/// Waits until a process that isn't a child of this one is dead.
#[cfg(test)]
pub(super) fn wait_gone(pid: i32) {
    let gone = || process(Pid::from_raw(pid)).is_none_or(|p| p.state == 'Z');
    let started = Instant::now();
    while !gone() {
        assert!(started.elapsed() < Duration::from_secs(60), "process {pid} lives on");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One process, if it is there.
pub(super) fn process(pid: Pid) -> Option<ProcessEntry> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields as in proc(5); the name, in parentheses, may itself have blanks and parentheses.
fn parse_stat(text: &str) -> Option<ProcessEntry> {
    let pid = text.split(' ').next()?.parse().ok()?;
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let mut number = || fields.next()?.parse().ok().map(Pid::from_raw);
    let (parent, group, session) = (number()?, number()?, number()?);
    let started = fields.nth(15)?.parse().ok()?;
    Some(ProcessEntry { pid: Pid::from_raw(pid), state, parent, group, session, started })
}

/// Bytes of memory that this process has resident; none where `/proc` doesn't say.
pub fn resident_bytes() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * page as u64)
}

/// The most that this process ever had resident, in bytes; 0 where `/proc` doesn't say.
pub(super) fn peak_resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: Option<u64> = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Counts the kernel's out-of-memory kills in this process's memory cgroup, which is the batch job's.
#[derive(Clone, Debug, Default)]
pub(super) struct OomCounter {
    file: Option<PathBuf>,
}

impl OomCounter {
    /// That of this process; one that never counts where there is no cgroup to read.
    pub(super) fn of_this_process() -> OomCounter {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let file = candidates(&cgroups, Path::new("/sys/fs/cgroup")).into_iter().find(|f| f.is_file());
        OomCounter { file }
    }

    #[cfg(test)]
    pub(super) fn of_file(file: PathBuf) -> OomCounter {
        OomCounter { file: Some(file) }
    }

    /// Kills so far; only differences mean something.
    pub(super) fn count(&self) -> u64 {
        let text = self.file.as_ref().and_then(|f| fs::read_to_string(f).ok());
        text.as_deref().and_then(parse_oom_kills).unwrap_or(0)
    }
}

/// Files that may have the counter, for the lines of `/proc/self/cgroup` (`id:controllers:path`): version 2's, the
/// one with no controllers, and version 1's memory controller. A container may see its own cgroup as the root.
fn candidates(cgroups: &str, root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            files.push(root.join(path).join("memory.events"));
        } else if controllers.split(',').any(|c| c == "memory") {
            files.push(root.join("memory").join(path).join("memory.oom_control"));
            files.push(root.join("memory/memory.oom_control"));
        }
    }
    files
}

/// Both versions have a line `oom_kill N`.
fn parse_oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_even_if_the_name_is_hostile() {
        let line = "42 (a) R 1 (b) S 7 40 39 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 0 0\n";
        let p = parse_stat(line).unwrap();
        assert_eq!((p.pid.as_raw(), p.state, p.parent.as_raw()), (42, 'S', 7));
        assert_eq!((p.group.as_raw(), p.session.as_raw(), p.started), (40, 39, 987_654));
        assert_eq!(parse_stat("garbage"), None);
        let me = process(Pid::this()).unwrap();
        assert_eq!((me.parent, me.group), (Pid::parent(), nix::unistd::getpgrp()));
    }

    #[test]
    fn kills_for_memory_are_read_from_either_version_of_cgroups() {
        assert_eq!(parse_oom_kills("low 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(parse_oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"), Some(5));
        assert_eq!(parse_oom_kills("oom_kill_disable 0\n"), None);
        let root = Path::new("/c");
        assert_eq!(candidates("0::/slurm/job_7\n", root), [Path::new("/c/slurm/job_7/memory.events")]);
        assert_eq!(
            candidates("5:cpu:/x\n4:memory:/slurm/uid_0\n", root),
            [
                Path::new("/c/memory/slurm/uid_0/memory.oom_control"),
                Path::new("/c/memory/memory.oom_control")
            ]
        );
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "reap() is what is tested")]
    fn an_old_kernel_without_pidfds_sees_a_childs_end_too() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let watch = ExitWatch { pid, pidfd: None };
        assert!(watch.fd().is_none() && !watch.has_ended());
        drop(child.stdin.take());
        while !watch.has_ended() {
            let now = Instant::now();
            let look_at = watch.look_at(now).unwrap();
            nix::poll::poll(&mut [], poll_timeout(Some(look_at), now)).unwrap();
        }
        assert_eq!(reap(pid).unwrap().status.code(), Some(0));
        assert!(reap(pid).is_err(), "only once");
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "reap() is what is tested")]
    fn a_child_stays_to_be_collected_after_its_end_is_seen() {
        let child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let watch = ExitWatch::new(pid);
        if let Some(fd) = watch.fd() {
            let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, PollTimeout::NONE).unwrap();
            assert!(watch.has_ended());
        }
        let reaped = reap(pid).unwrap();
        assert_eq!((reaped.pid, reaped.status.code()), (pid, Some(3)));
        assert!(reaped.peak_rss > 0);
    }
}
