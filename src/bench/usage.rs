//! What processes have used, as the kernel counts it, and what the disk below the state directory is.

use crate::protocol::{StatusReport, WorkerStateName};
use crate::state::Contact;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Syncs that the median is taken of.
const SYNCS: usize = 32;
/// About a journal's record of one small graph.
const SYNCED_BYTES: usize = 256;

/// A cluster's processes, as far as they are on this host.
pub struct Processes {
    scheduler: Option<u32>,
    /// Empty if any worker is elsewhere.
    workers: Vec<u32>,
}

/// CPU time that was used, in microseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cpu {
    pub scheduler: Option<f64>,
    pub workers: Option<f64>,
}

impl Processes {
    pub fn of(contact: &Contact, status: &StatusReport) -> Processes {
        let here = crate::net::listen::host_name().unwrap_or_default();
        let connected = || status.workers.iter().filter(|w| w.state == WorkerStateName::Connected);
        let all_here = connected().all(|worker| worker.host == here);
        Processes {
            scheduler: (contact.host == here).then_some(contact.pid),
            workers: connected().filter(|_| all_here).map(|worker| worker.pid).collect(),
        }
    }

    pub fn scheduler(&self) -> Option<u32> {
        self.scheduler
    }

    /// What they have used since they began.
    pub fn cpu(&self) -> Cpu {
        let workers: Option<f64> = self.workers.iter().map(|pid| cpu_micros(*pid)).sum();
        Cpu {
            scheduler: self.scheduler.and_then(cpu_micros),
            workers: workers.filter(|_| !self.workers.is_empty()),
        }
    }

    /// Memory of the scheduler that is in RAM, in bytes.
    pub fn scheduler_rss(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.scheduler?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kibibytes * 1024.0)
    }
}

impl Cpu {
    /// What was used since `before`.
    pub fn since(self, before: Cpu) -> Cpu {
        let difference = |now: Option<f64>, then: Option<f64>| Some((now? - then?).max(0.0));
        Cpu {
            scheduler: difference(self.scheduler, before.scheduler),
            workers: difference(self.workers, before.workers),
        }
    }
}

/// User and system time of all threads of a process, ended ones too, by its own clock: `/proc/PID/stat` has the same
/// in ticks of 10 ms, too coarse for a thousand tasks.
fn cpu_micros(pid: u32) -> Option<f64> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(pid).ok()?)).ok()?;
    Some(Duration::from(clock_gettime(clock).ok()?).as_nanos() as f64 / 1e3)
}

/// The file system that a directory is on, such as `ext4`; what the kernel mounts it as.
pub fn file_system(dir: &Path) -> Option<String> {
    let path = fs::canonicalize(dir).ok()?;
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounted_at(&table, &path)
}

/// Of the mounts above the path the lowest, and of those at one place the last.
fn mounted_at(table: &str, path: &Path) -> Option<String> {
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let place = unescaped(place.split(' ').nth(4)?);
        path.starts_with(&place).then(|| (place.len(), kind.split(' ').next().unwrap_or("").to_owned()))
    };
    table.lines().filter_map(mount).max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

/// Blanks and backslashes of a path stand there as octal numbers.
fn unescaped(place: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(place.to_owned(), |text, (code, character)| text.replace(code, character))
}

/// Median time that this directory's disk takes to make a small append durable, in microseconds.
///
/// # Errors
/// The directory can't be written.
pub fn sync_micros(dir: &Path) -> io::Result<f64> {
    let path = dir.join(format!(".jobq-sync-{}", std::process::id()));
    let timed = (|| -> io::Result<Vec<Duration>> {
        let mut file = fs::OpenOptions::new().create_new(true).append(true).mode(0o600).open(&path)?;
        let mut times = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            let started = Instant::now();
            file.write_all(&[0x2e; SYNCED_BYTES])?;
            file.sync_data()?;
            times.push(started.elapsed());
        }
        Ok(times)
    })();
    let removed = fs::remove_file(&path);
    let mut times = timed?;
    removed?;
    times.sort_unstable();
    Ok(times[SYNCS / 2].as_nanos() as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_some_cpu_and_one_that_is_gone_none() {
        let own = cpu_micros(std::process::id()).unwrap();
        assert!(own > 0.0 && cpu_micros(std::process::id()).unwrap() > own);
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        assert_eq!(cpu_micros(gone.id()), None);
    }

    #[test]
    fn a_directory_is_on_the_lowest_and_latest_mount_above_it() {
        let table = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     22 21 0:5 / /scratch rw shared:2 - nfs4 server:/scratch rw\n\
                     23 21 0:6 / /scratch rw - lustre mgs:/x rw\n\
                     24 21 0:7 / /scratch/my\\040disk rw - xfs /dev/sdb rw\n";
        let at = |path: &str| mounted_at(table, Path::new(path)).unwrap();
        assert_eq!([at("/home/u"), at("/scratch/u"), at("/scratchy")], ["ext4", "lustre", "ext4"]);
        assert_eq!(at("/scratch/my disk/u"), "xfs");
        assert!(file_system(Path::new("/")).is_some());
    }

    #[test]
    fn syncing_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(sync_micros(dir.path()).unwrap() > 0.0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(sync_micros(&dir.path().join("none")).is_err());
    }
}
