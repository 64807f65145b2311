//! How a worker died, for people and for the scheduler: a small TOML file in the allocation's directory.

use crate::worker::process::Reaped;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "verdict-";
/// Largest verdict that is read.
const MAX_BYTES: u64 = 1 << 20;

/// One worker's death. All of its processes are gone by the time this is written or reported.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VerdictRecord {
    pub worker: String,
    /// 0: the supervisor of this worker died with it, and nobody else knows.
    pub incarnation: u64,
    pub pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The kernel killed it because the batch job's memory ran out.
    pub oom: bool,
    /// A sentence for people.
    pub cause: String,
    /// Seconds since 1970.
    pub started: u64,
    pub ended: u64,
    /// Bytes of the largest of the worker and its tasks.
    pub peak_rss: u64,
    /// Processes that it had left running, and that were killed.
    pub processes_killed: u32,
    /// When the allocation's walltime ends or ended, in seconds since 1970, if that was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// The last lines of its log.
    pub log: Vec<String>,
}

impl VerdictRecord {
    pub(super) fn of(worker: &str, incarnation: u64, reaped: &Reaped, memory_ran_out: bool) -> VerdictRecord {
        let signal = reaped.status.signal();
        let oom = memory_ran_out && signal == Some(Signal::SIGKILL as i32);
        let cause = match (signal, reaped.status.code()) {
            _ if oom => {
                "killed by the kernel: the batch job's memory ran out; ask for more with --memory".to_owned()
            }
            (Some(signal), _) => {
                let name =
                    Signal::try_from(signal).map_or_else(|_| signal.to_string(), |s| s.as_str().to_owned());
                format!("ended by signal {name}")
            }
            // What Rust programs end with after a panic.
            (None, Some(101)) => "panicked (exit code 101): its log says where".to_owned(),
            (None, code) => format!("exited with code {}", code.unwrap_or(-1)),
        };
        VerdictRecord {
            worker: worker.to_owned(),
            incarnation,
            pid: reaped.pid.as_raw(),
            exit_code: reaped.status.code(),
            signal,
            oom,
            cause,
            peak_rss: reaped.peak_rss,
            ..VerdictRecord::default()
        }
    }

    /// Writes `verdict-<worker>-<incarnation>.toml`: whole, or not at all.
    pub(super) fn write(&self, dir: &Path) -> io::Result<PathBuf> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let safe = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
        let worker: String = self.worker.chars().map(safe).take(100).collect();
        let name = format!("{PREFIX}{worker}-{}.toml", self.incarnation);
        fs::create_dir_all(dir)?;
        let (path, temporary) = (dir.join(&name), dir.join(format!(".{name}.tmp")));
        fs::write(&temporary, text)?;
        fs::rename(&temporary, &path)?;
        Ok(path)
    }
}

/// The verdicts in an allocation's directory, by time; files that are none are left out.
///
/// # Errors
/// The directory can't be read.
pub fn read_verdicts(dir: &Path) -> io::Result<Vec<VerdictRecord>> {
    let mut verdicts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|n| n.starts_with(PREFIX) && n.ends_with(".toml"));
        if ours && entry.metadata().is_ok_and(|m| m.len() <= MAX_BYTES) {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            verdicts.extend(toml::from_str::<VerdictRecord>(&text).ok());
        }
    }
    verdicts.sort_by(|a, b| (a.ended, a.incarnation, &a.worker).cmp(&(b.ended, b.incarnation, &b.worker)));
    Ok(verdicts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Pid;
    use std::process::ExitStatus;
    use std::time::Duration;

    fn reaped(raw: i32) -> Reaped {
        Reaped {
            pid: Pid::from_raw(42),
            status: ExitStatus::from_raw(raw),
            peak_rss: 5 << 20,
            user: Duration::ZERO,
            system: Duration::ZERO,
        }
    }

    #[test]
    fn a_verdict_says_what_happened_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = VerdictRecord::of("w/1", 7, &reaped(9), true);
        first.log = vec!["a \"quoted\" line".into(), String::new()];
        first.ended = 1;
        let mut second = VerdictRecord::of("w/1", 8, &reaped(101 << 8), true);
        second.ended = 2;
        second.write(dir.path()).unwrap();
        assert_eq!(first.write(dir.path()).unwrap(), dir.path().join("verdict-w_1-7.toml"));
        fs::write(dir.path().join("verdict-broken.toml"), "worker = ").unwrap();
        assert!(first.oom && !second.oom);
        assert!(first.cause.contains("memory ran out") && second.cause.contains("panicked"));
        assert_eq!(read_verdicts(dir.path()).unwrap(), [first, second]);
        let died = VerdictRecord::of("w", 1, &reaped(15), false);
        assert_eq!((died.signal, died.cause.as_str()), (Some(15), "ended by signal SIGTERM"));
    }
}
