//! Why an attempt failed, as data for the scheduler and as a sentence for people.

use super::attempt::TaskErrorKind;
use super::command::{Plan, PlannedOutput, Refusal};
use super::outputs;
use super::watch::{Ended, Stop};
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// What shells make of a child that was killed by SIGKILL.
const SHELL_KILLED: i32 = 128 + 9;

/// What is to be known besides how the process ended.
pub(super) struct Judge<'a> {
    /// The name of this machine.
    pub(super) host: &'a str,
    pub(super) plan: &'a Plan,
    pub(super) time_limit_ms: u64,
    /// Whether the kernel killed a process of this batch job for memory meanwhile.
    pub(super) killed_for_memory: bool,
}

impl Judge<'_> {
    /// Why the attempt failed; none if it didn't, or if only its output couldn't be kept, which is the
    /// capture's to tell.
    pub(super) fn failure(&self, ended: &Ended) -> Option<Refusal> {
        let (program, host) = (self.plan.argv[0].display(), self.host);
        let last = ended.err.last_line().map_or(String::new(), |line| format!(": {line}"));
        match (ended.stop, &ended.reaped) {
            (Some(Stop::Cancelled), _) => {
                Some((TaskErrorKind::Cancelled, format!("'{program}' was cancelled on {host}")))
            }
            (Some(Stop::TimeLimit), _) => {
                let limit = self.time_limit_ms as f64 / 1e3;
                let text =
                    format!("'{program}' was stopped on {host}: its time limit of {limit} s is over{last}");
                Some((TaskErrorKind::TimeLimit, text))
            }
            (Some(Stop::Unkept), _) => None,
            (None, Ok(reaped)) => self.by_status(reaped.status, &last),
            (None, Err(e)) => {
                let text = format!("'{program}' on {host}: how it ended is unknown: {e}");
                Some((TaskErrorKind::Spawn(text.clone()), text))
            }
        }
    }

    fn by_status(&self, status: ExitStatus, last: &str) -> Option<Refusal> {
        let (program, host) = (self.plan.argv[0].display(), self.host);
        let (signal, code) = (status.signal(), status.code().unwrap_or(-1));
        let killed = signal == Some(Signal::SIGKILL as i32) || code == SHELL_KILLED;
        if killed && self.killed_for_memory {
            let text = format!(
                "'{program}' was killed on {host}: the memory of its batch job ran out; ask for more with --memory"
            );
            return Some((TaskErrorKind::OutOfMemory, text));
        }
        if let Some(signal) = signal {
            let name =
                Signal::try_from(signal).map_or_else(|_| signal.to_string(), |s| s.as_str().to_owned());
            let text = format!("'{program}' was ended by signal {name} on {host}{last}");
            return Some((TaskErrorKind::Signal(signal), text));
        }
        if code == 0 {
            return self.missing_output();
        }
        let text = format!("'{program}' exited with code {code} on {host}{last}{}", self.missing_directory());
        Some((TaskErrorKind::Exit(code), text))
    }

    fn missing_output(&self) -> Option<Refusal> {
        // A script may use JOBQ_TASK_OUTPUT where the command line doesn't show it.
        let made =
            |o: &PlannedOutput| outputs::exists(&o.temporary) || (!o.fenced && outputs::exists(&o.target));
        let missing = self.plan.outputs.iter().find(|o| !made(o))?;
        let (program, host, target) = (self.plan.argv[0].display(), self.host, missing.target.display());
        let how = if missing.fenced { " at {out} (JOBQ_TASK_OUTPUT)" } else { "" };
        let text = format!(
            "'{program}' exited with code 0 on {host}, but didn't write its output {target}{how}{}",
            self.missing_directory()
        );
        Some((TaskErrorKind::MissingOutput(target.to_string()), text))
    }

    /// The directory of an output that isn't there, as the end of a message.
    fn missing_directory(&self) -> String {
        let missing = self.plan.outputs.iter().filter_map(|o| o.target.parent()).find(|p| !p.is_dir());
        missing.map_or(String::new(), |p| format!(" (the output's directory {} isn't there)", p.display()))
    }
}
