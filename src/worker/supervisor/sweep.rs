//! The hunt for what dead workers left behind.

use super::note;
use crate::worker::process::{ProcessEntry, processes};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// Between two notes about processes that don't die (they hang in the kernel, say in a dead file server).
const SWEEP_NOTE: Duration = Duration::from_secs(30);
pub(super) struct Sweep {
    killed: u32,
    /// Looks in a row that found nothing.
    clean_looks: u32,
    noted: Instant,
}

impl Sweep {
    pub(super) fn start() -> Sweep {
        Sweep { killed: 0, clean_looks: 0, noted: Instant::now() }
    }

    /// Processes killed so far.
    pub(super) fn killed(&self) -> u32 {
        self.killed
    }

    /// Kills every child but those `running`. `true`: none was left, beside some that run. If none runs, only
    /// the kernel's word that there is no child proves that, and this is never `true`.
    ///
    /// Only direct children are killed: their ids can't be anybody else's before they are collected, and what
    /// they leave comes to this process and is found by the next look.
    pub(super) fn look(&mut self, running: &[Pid]) -> bool {
        let this = Pid::this();
        let orphans: Vec<ProcessEntry> =
            processes().into_iter().filter(|p| p.parent == this && !running.contains(&p.pid)).collect();
        for orphan in orphans.iter().filter(|p| p.state != 'Z') {
            if orphan.group == orphan.pid {
                // What it leads that isn't ours yet.
                let _ = killpg(orphan.pid, Signal::SIGKILL);
            }
            if kill(orphan.pid, Signal::SIGKILL).is_ok() {
                self.killed += 1;
            }
        }
        if let Some(survivor) = orphans.first().filter(|_| self.noted.elapsed() >= SWEEP_NOTE) {
            self.noted = Instant::now();
            let ProcessEntry { pid, state, .. } = survivor;
            note(&format!("process {pid} of a dead worker doesn't die (state {state}): waiting for it"));
        }
        // A process that changed hands during one look is seen by the next.
        self.clean_looks = if orphans.is_empty() { self.clean_looks + 1 } else { 0 };
        !running.is_empty() && self.clean_looks >= 2
    }
}
