//! Whether a serving scheduler may still speak: its beats, its own clock, and what keeps it from both.

use super::Plant;
use super::faults::Fault;
use super::happening::Happening;
use super::world::World;
use crate::state::lease::{BEAT_EVERY, SILENT_AFTER};

impl World {
    /// The lease's thread: it checks the fence and beats. The write may land long before its answer comes, or as late.
    pub fn beats(&mut self, life: u32) {
        let stands = self.folder.stands(life);
        let Some(server) = self.servers.get_mut(&life) else { return };
        if !stands {
            self.count("run", "schedulers that found themselves superseded");
            return self.server_dies(life);
        }
        if server.ending.as_ref().is_some_and(|ending| ending.has_released) {
            return;
        }
        server.is_beating = true;
        let hangs = server.hangs_until.saturating_sub(self.now);
        let short = self.random.span(1, 50);
        let lands = if self.random.chance(0.5) { hangs } else { 0 };
        self.after(lands, Happening::BeatLands { life });
        self.after(short.max(hangs), Happening::BeatAnswered { life, began: self.now });
    }

    /// A write that was sent is executed, whatever became of whoever sent it.
    pub fn beat_lands(&mut self, life: u32) {
        let counter = self.folder.lease.as_ref().map_or(0, |seen| seen.counter);
        if self.folder.highest > life {
            self.count("run", "beats over the lease of a successor");
        }
        self.folder.beat(life, counter + 1, false);
    }

    pub fn beat_answered(&mut self, life: u32, began: u64) {
        let Some(server) = self.servers.get_mut(&life) else { return };
        // When it began is what counts: a claimant may have seen it land at once.
        server.last_good = began;
        server.is_beating = false;
        if self.must_be_silent(life) {
            return self.falls_silent(life);
        }
        // A late claimant may have told its own address over ours.
        if self.folder.contact() != Some(life) {
            self.count("run", "contact files put right");
            self.folder.write_contact(life);
        }
        self.after(BEAT_EVERY.as_nanos() as u64, Happening::Beats { life });
    }

    /// Its own clock says that somebody else may have claimed the cluster.
    pub fn must_be_silent(&self, life: u32) -> bool {
        let silent_after = SILENT_AFTER.as_nanos() as u64;
        let is_late = self.servers.get(&life).is_some_and(|s| self.now - s.last_good >= silent_after);
        is_late && !self.is_careless(life)
    }

    /// A planted defect: it was stopped once, and looks at nothing since.
    pub fn is_careless(&self, life: u32) -> bool {
        let planted = self.config.plant == Some(Plant::SendUnfenced);
        planted && self.servers.get(&life).is_some_and(|server| server.was_paused)
    }

    /// What the launcher asks before each command: its clock and its fence.
    pub fn may_act(&self, life: u32) -> bool {
        self.is_careless(life) || (self.folder.stands(life) && !self.must_be_silent(life))
    }

    pub fn falls_silent(&mut self, life: u32) {
        self.count("run", "schedulers that fell silent");
        self.server_dies(life);
    }

    /// A strike: SIGSTOP, and SIGCONT much later.
    pub fn pause_server(&mut self) {
        let Some(life) = self.holder().filter(|server| !server.is_paused).map(|server| server.life) else {
            return;
        };
        if self.servers[&life].has_pending() {
            self.count_fault(Fault::SchedulerPausedWithActionsPending);
        }
        self.count_fault(Fault::SchedulerPaused);
        self.pause(life);
    }

    pub fn pause(&mut self, life: u32) {
        let span = self.random.span(500, 200_000);
        let Some(server) = self.servers.get_mut(&life) else { return };
        (server.is_paused, server.was_paused) = (true, true);
        self.after(span, Happening::SchedulerContinues { life });
    }

    /// Each thread goes on where it was, in whatever order.
    pub fn scheduler_continues(&mut self, life: u32) {
        let Some(server) = self.servers.get_mut(&life).filter(|server| server.is_paused) else { return };
        server.is_paused = false;
        let asleep = std::mem::take(&mut server.asleep);
        self.note(|| format!("scheduler {life} continues"));
        if self.folder.highest > life {
            self.count("run", "superseded schedulers that woke up");
        }
        for happening in asleep {
            let delay = self.random.span(1, 20);
            self.after(delay, happening);
        }
    }

    /// A strike: for a while the state directory doesn't answer this host.
    pub fn hang_directory(&mut self, span_ms: (u64, u64)) {
        let until = self.now + self.random.span(span_ms.0, span_ms.1);
        let Some(life) = self.holder().map(|server| server.life) else { return };
        self.count_fault(Fault::DirectoryHangs);
        if let Some(server) = self.servers.get_mut(&life) {
            server.hangs_until = server.hangs_until.max(until);
        }
    }

    /// A strike: kill -9.
    pub fn kill_server(&mut self) {
        let lives: Vec<u32> = self.servers.keys().copied().collect();
        let Some(life) = self.random.pick(&lives).copied() else { return };
        self.count_fault(Fault::SchedulerKilled);
        if self.servers.get(&life).is_some_and(|server| server.has_unsynced()) {
            self.count_fault(Fault::SchedulerKilledBetweenPersistAndDurable);
        }
        self.server_dies(life);
    }

    /// What the batch system had said becomes true.
    pub fn scheduler_ends(&mut self, life: u32) {
        if self.servers.contains_key(&life) {
            self.server_dies(life);
        }
    }
}
