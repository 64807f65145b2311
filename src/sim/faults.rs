//! What may go wrong, and how often in this run.

use super::happening::Happening;
use super::random::Random;
use super::world::World;
use super::{Config, SECOND};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Fault {
    SlowFrame,
    LinkBroken,
    LinkHalfOpenAtServer,
    LinkHalfOpenAtPeer,
    LinkOneWay,
    LinkSilent,
    WorkerKilled,
    HostCrashed,
    HostUnreachable,
    DeathReportLate,
    DeathReportLost,
    SchedulerKilled,
    SchedulerKilledBetweenPersistAndDurable,
    SchedulerPaused,
    SchedulerPausedWithActionsPending,
    SchedulerSaidOver,
    SchedulerTerminated,
    SchedulerWalltimeEnded,
    SuccessorSaidOver,
    HolderDied,
    HolderPaused,
    HolderAndSuccessorPaused,
    MovedLost,
    ClaimantPaused,
    ClaimantDied,
    DirectoryHangs,
    ContactStale,
    JournalSlow,
    SubmitRefused,
    SubmitRefusedForGood,
    SubmitAmbiguousDone,
    SubmitAmbiguousNotDone,
    PollFailed,
    JobVanished,
    JobHidden,
    JobEndsWithoutWorker,
    JobOrphaned,
    WalltimeEnded,
    FetchFailed,
    FetchSlow,
    ValueUnreadable,
    TemporaryLost,
    PlaceRefused,
    ClientDied,
}

/// Probabilities and times of one run.
pub(super) struct Faults {
    pub on: bool,
    /// When the world heals.
    pub until: u64,
    /// Mean time between two strikes from outside.
    pub interval: u64,
    /// Strikes from outside, each as often as it is in here.
    lots: Vec<Strike>,
    pub slow_frame: f64,
    pub slow_journal: f64,
    pub submit_trouble: f64,
    pub poll_trouble: f64,
    pub job_trouble: f64,
    pub fetch_trouble: f64,
    pub place_trouble: f64,
    pub report_trouble: f64,
    pub claim_trouble: f64,
    pub stale_contact: f64,
    /// Of one that relieves another, at each of its steps.
    pub successor_trouble: f64,
    /// Of a scheduler that lets go, at each of its steps.
    pub relay_trouble: f64,
    /// How long jobs of schedulers last, about; 0: they run in none.
    pub scheduler_walltime: u64,
    /// Steps of a scheduler after which it makes a snapshot.
    pub snapshot: f64,
    pub max_workers_lost: u8,
    pub workers_per_allocation: u32,
    pub keep_settled: u64,
}

/// What strikes from outside at random times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Strike {
    Link,
    KillWorker,
    CrashHost,
    Unreachable,
    KillScheduler,
    PauseScheduler,
    SaySchedulerOver,
    Terminate,
    HangDirectory,
    Orphan,
    Vanish,
    EndWalltime,
    LoseValue,
    LoseTemporary,
    ClientDies,
}

impl Strike {
    fn ends_schedulers(self) -> bool {
        matches!(
            self,
            Strike::KillScheduler
                | Strike::PauseScheduler
                | Strike::SaySchedulerOver
                | Strike::Terminate
                | Strike::HangDirectory
        )
    }
}

impl Faults {
    pub fn random(random: &mut Random, config: &Config) -> Faults {
        let mut lots = vec![Strike::Link];
        let all = [
            Strike::Link,
            Strike::KillWorker,
            Strike::CrashHost,
            Strike::Unreachable,
            Strike::KillScheduler,
            Strike::PauseScheduler,
            Strike::SaySchedulerOver,
            Strike::Terminate,
            Strike::HangDirectory,
            Strike::Orphan,
            Strike::Vanish,
            Strike::EndWalltime,
            Strike::LoseValue,
            Strike::LoseTemporary,
            Strike::ClientDies,
        ];
        for strike in all {
            if !strike.ends_schedulers() || config.restarts {
                let often = *random.pick(&[0, 1, 1, 4]).unwrap_or(&1);
                lots.extend((0..often).map(|_| strike));
            }
        }
        let mut probability = |highest: f64| {
            if random.chance(0.4) { 0.0 } else { highest * random.chance(0.5) as u8 as f64 + highest / 4.0 }
        };
        Faults {
            on: true,
            slow_frame: probability(0.01),
            slow_journal: probability(0.3),
            submit_trouble: probability(0.5),
            poll_trouble: probability(0.3),
            job_trouble: probability(0.3),
            fetch_trouble: probability(0.1),
            place_trouble: probability(0.1),
            report_trouble: probability(0.8),
            claim_trouble: probability(0.3),
            stale_contact: probability(0.5),
            successor_trouble: probability(0.4),
            relay_trouble: probability(0.3),
            snapshot: probability(0.05),
            scheduler_walltime: match config.restarts && random.chance(0.6) {
                true => random.between(20, 100) * SECOND,
                false => 0,
            },
            until: random.between(100, 600) * SECOND,
            interval: random.span(2_000, 40_000),
            lots,
            max_workers_lost: if random.chance(0.3) { 3 } else { 250 },
            workers_per_allocation: random.between(1, 3) as u32,
            keep_settled: if random.chance(0.3) { random.between(0, 60) } else { 1_000_000 },
        }
    }
}

impl World {
    pub fn fault_strikes(&mut self) {
        if !self.faults.on {
            return;
        }
        let next = self.random.between(0, 2 * self.faults.interval);
        self.after(next, Happening::FaultStrikes);
        let Some(strike) = self.random.pick(&self.faults.lots).copied() else { return };
        match strike {
            Strike::Link => self.break_link(),
            Strike::KillWorker => self.kill_worker(),
            Strike::CrashHost => self.crash_host(),
            Strike::Unreachable => self.cut_host_off(),
            Strike::KillScheduler => self.kill_server(),
            Strike::PauseScheduler => self.pause_server(),
            Strike::SaySchedulerOver => self.say_scheduler_over(),
            Strike::Terminate => self.terminate_scheduler(),
            Strike::HangDirectory => self.hang_directory((500, 60_000)),
            Strike::Orphan => self.orphan_job(),
            Strike::Vanish => self.hide_job(),
            Strike::EndWalltime => self.end_walltime(),
            Strike::LoseValue => self.lose_value(),
            Strike::LoseTemporary => self.lose_temporary(),
            Strike::ClientDies => self.client_dies(),
        }
    }

    /// No fault strikes any more; what is broken heals, or is noticed in the ordinary way.
    pub fn heals(&mut self) {
        self.note(|| "the world heals".into());
        self.faults.on = false;
        let now = self.now;
        for host in &mut self.hosts {
            host.unreachable_until = host.unreachable_until.min(now);
        }
        for job in &mut self.batch.jobs {
            job.hidden_until = job.hidden_until.min(now);
        }
        let lives: Vec<u32> = self.servers.keys().copied().collect();
        for life in lives {
            if let Some(server) = self.servers.get_mut(&life) {
                server.hangs_until = server.hangs_until.min(now);
            }
            self.scheduler_continues(life);
        }
    }
}
