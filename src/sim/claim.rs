//! Schedulers that don't serve yet: each watches the lease, claims the next epoch, fences those before it, reads and
//! seals the journal, and only then serves. Several may try at a time, and each may die or stand still between any two
//! steps.

use super::Plant;
use super::SECOND;
use super::disk::Found;
use super::faults::{Fault, Faults};
use super::happening::Happening;
use super::relieve::{Relief, Relieving};
use super::world::World;
use crate::journal::record::Place;
use crate::state::lease::{LeaseWatch, Seen, Sight};
use std::time::Duration;

/// More at a time prove nothing new.
const MAX_CLAIMANTS: usize = 3;

pub(super) struct Claimant {
    stage: Stage,
    /// The batch job that it is in.
    pub job: Option<usize>,
    /// It is stopped until then.
    pub stalled_until: u64,
}

impl Claimant {
    pub fn relieving(&mut self) -> Option<&mut Relieving> {
        match &mut self.stage {
            Stage::Relieving(relieving) => Some(relieving),
            _ => None,
        }
    }
}

/// How one looks whether the holder of the lease lives.
#[derive(Default)]
struct Watch {
    lease: LeaseWatch,
    first: Option<Seen>,
    /// The epoch that was the highest when it began.
    highest: u32,
    /// It is where the holder of the lease ran, and can see that it is gone.
    is_on_its_host: bool,
}

enum Stage {
    /// It was asked for by a scheduler, which may make room for it.
    Relieving(Box<Relieving>),
    Watching(Box<Watch>),
    Claimed {
        epoch: u32,
        /// A planted defect: it reads before it fences.
        early: Option<Box<Found>>,
    },
    /// No lower epoch can act any more. `began`: when it took the lease.
    Fenced {
        epoch: u32,
        began: u64,
        early: Option<Box<Found>>,
    },
    Read {
        epoch: u32,
        began: u64,
        found: Box<Found>,
    },
    /// The file of its first record is there, and empty.
    Begun {
        epoch: u32,
        began: u64,
        found: Box<Found>,
    },
    /// All is ready; what is missing is to tell where.
    Sealed {
        epoch: u32,
        began: u64,
        found: Box<Found>,
    },
}

impl Stage {
    fn name(&self) -> &'static str {
        match self {
            Stage::Relieving(relieving) if relieving.waits() => "asking",
            Stage::Relieving(_) => "relieving",
            Stage::Watching(_) => "watching",
            Stage::Claimed { .. } => "claimed",
            Stage::Fenced { .. } => "fenced",
            Stage::Read { .. } => "read",
            Stage::Begun { .. } => "begun",
            Stage::Sealed { .. } => "sealed",
        }
    }
}

impl World {
    /// Somebody who needs a scheduler finds none, or thinks so.
    pub fn revives(&mut self) {
        if self.went_down {
            return;
        }
        let delay = self.random.span(2_000, 40_000);
        self.after(delay, Happening::Revives);
        let is_well = self.holder().is_some_and(|server| !server.is_paused && server.ending.is_none());
        let is_over = self.folder.said_over == self.holder().map(|server| server.life);
        let needless = self.config.restarts && self.random.chance(0.03);
        if is_well && !needless && !is_over {
            return;
        }
        // Several clients may find the same at the same time.
        let together = if self.strikes(0.2) { 2 } else { 1 };
        (0..together).for_each(|_| self.somebody_claims());
    }

    fn somebody_claims(&mut self) {
        if self.claimants.len() < MAX_CLAIMANTS {
            let job = self.clients_seat();
            let stage = self.begins_watching();
            self.claimant_starts(stage, job);
        }
    }

    /// The process in a job that a scheduler asked for.
    pub fn successor_starts(&mut self, job: usize) {
        self.claimant_starts(Stage::Relieving(Box::default()), Some(job));
    }

    fn claimant_starts(&mut self, stage: Stage, job: Option<usize>) {
        self.next_claimant += 1;
        self.claimants.insert(self.next_claimant, Claimant { stage, job, stalled_until: 0 });
        self.claims_soon(self.next_claimant);
    }

    fn begins_watching(&mut self) -> Stage {
        let is_on_its_host = self.random.chance(0.5);
        Stage::Watching(Box::new(Watch { highest: self.folder.highest, is_on_its_host, ..Watch::default() }))
    }

    fn is_successor(&self, claimant: &Claimant) -> bool {
        claimant.job.is_some_and(|job| self.batch.seats[job].asked_by > 0)
    }

    fn claim_trouble(&self, claimant: &Claimant) -> f64 {
        let Faults { successor_trouble, claim_trouble, .. } = self.faults;
        match (self.is_successor(claimant), claimant.stage.name()) {
            (false, _) => claim_trouble,
            // Few come to the later steps, and those are to be struck as often.
            (true, "relieving" | "asking" | "watching") => successor_trouble / 2.0,
            (true, _) => successor_trouble * 2.0,
        }
    }

    fn claims_soon(&mut self, claimant: u32) {
        let Some(c) = self.claimants.get(&claimant) else { return };
        let (name, is_successor) = (c.stage.name(), self.is_successor(c));
        let trouble = self.claim_trouble(c);
        let delay = if name == "asking" {
            self.random.span(10, 200)
        } else if self.strikes(trouble) {
            self.count_fault(Fault::ClaimantPaused);
            if is_successor {
                self.count("successor paused", name);
            }
            self.random.span(1_000, 100_000)
        } else {
            self.random.span(1, 3_000)
        };
        self.after(delay, Happening::Claims { claimant });
    }

    /// The claimant takes its next step.
    pub fn claims(&mut self, id: u32) {
        let Some(claimant) = self.claimants.remove(&id) else { return };
        if self.now < claimant.stalled_until {
            self.at(claimant.stalled_until, Happening::Claims { claimant: id });
            self.claimants.insert(id, claimant);
            return;
        }
        let often = if self.is_successor(&claimant) { 0.6 } else { 0.25 };
        // One that waits for an answer looks many times.
        let often = if claimant.stage.name() == "asking" { often / 5.0 } else { often };
        if self.went_down || self.strikes(self.claim_trouble(&claimant) * often) {
            return self.claimant_dies(claimant);
        }
        let job = claimant.job;
        let next = match claimant.stage {
            Stage::Relieving(relieving) => self.makes_room(id, job, relieving),
            Stage::Watching(watch) => self.watches(watch),
            Stage::Claimed { epoch, early } => self.fells_fences(epoch, early),
            Stage::Fenced { epoch, began, early: Some(found) } => Some(Stage::Read { epoch, began, found }),
            Stage::Fenced { epoch, began, early: None } => {
                self.finds(epoch).map(|found| Stage::Read { epoch, began, found })
            }
            Stage::Read { epoch, began, found } => {
                self.disk.shelf.begin(Place::segment(epoch, 0), found.seal_seq());
                Some(Stage::Begun { epoch, began, found })
            }
            Stage::Begun { epoch, began, found } => self.seals(epoch, began, found),
            Stage::Sealed { epoch, began, found } => {
                self.folder.write_contact(epoch);
                return self.server_starts(epoch, began, *found, (id, job));
            }
        };
        match next {
            Some(stage) => {
                self.claimants.insert(id, Claimant { stage, job, stalled_until: 0 });
                self.claims_soon(id);
            }
            None => self.seat_is_free(job),
        }
    }

    fn claimant_dies(&mut self, claimant: Claimant) {
        if !self.went_down {
            self.count_fault(Fault::ClaimantDied);
            if self.is_successor(&claimant) {
                self.count("successor died", claimant.stage.name());
            }
        }
        if let Stage::Relieving(relieving) = &claimant.stage {
            self.stop_relieving(relieving);
        }
        self.seat_is_free(claimant.job);
    }

    /// Its walltime is over.
    pub fn claimant_of_seat_dies(&mut self, seat: usize) {
        let found = self.claimants.iter().find(|(_, claimant)| claimant.job == Some(seat));
        if let Some(claimant) = found.map(|(id, _)| *id).and_then(|id| self.claimants.remove(&id)) {
            self.claimant_dies(claimant);
        }
    }

    /// Asks whoever asked for it to make room.
    fn makes_room(&mut self, id: u32, job: Option<usize>, mut relieving: Box<Relieving>) -> Option<Stage> {
        match self.relieves(id, job?, &mut relieving) {
            Relief::Free => Some(self.begins_watching()),
            Relief::NotWanted => None,
            Relief::Waits => Some(Stage::Relieving(relieving)),
        }
    }

    fn finds(&mut self, epoch: u32) -> Option<Box<Found>> {
        match self.disk.find() {
            Ok(found) => Some(Box::new(found)),
            Err(why) => {
                self.violate(format!("epoch {epoch} can't read the journal: {why}"));
                None
            }
        }
    }

    /// Whether the lease may be taken over, by the rules for it.
    fn watches(&mut self, mut watch: Box<Watch>) -> Option<Stage> {
        let highest = watch.highest;
        if self.folder.highest != highest {
            self.count("claim", "another was first");
            return None;
        }
        if let Some(seen) = self.folder.lease.clone() {
            let now = Duration::from_nanos(self.now);
            let is_gone = watch.is_on_its_host && !self.servers.contains_key(&seen.epoch);
            // The batch system's word is as good as the host's.
            let is_gone = is_gone || self.folder.said_over == Some(seen.epoch);
            let sight = Sight { seen, highest: Some(highest), is_gone };
            if !watch.lease.may_claim(&sight, now) {
                if watch.first.as_ref().is_some_and(|first| *first != sight.seen) {
                    self.count("claim", "the lease moves");
                    return None;
                }
                watch.first.get_or_insert(sight.seen);
                return Some(Stage::Watching(watch));
            }
            self.count("claim", if sight.is_over() { "at once" } else { "of a lease that stood still" });
        }
        let epoch = highest + 1;
        if !self.folder.link_epoch(epoch) {
            self.count("claim", "another was first");
            return None;
        }
        self.note(|| format!("epoch {epoch} is claimed"));
        let superseded = self.servers.keys().filter(|life| **life < epoch).count() as u64;
        self.report.add("claim", "schedulers superseded alive", superseded);
        let reads = self.config.plant == Some(Plant::ReadUnfenced);
        let early = if reads { self.finds(epoch) } else { None };
        Some(Stage::Claimed { epoch, early })
    }

    fn fells_fences(&mut self, epoch: u32, early: Option<Box<Found>>) -> Option<Stage> {
        if !self.folder.raise_fence(epoch) {
            self.count("claim", "superseded on the way");
            return None;
        }
        self.folder.fell_fences_below(epoch, self.now);
        if self.folder.highest > epoch {
            self.count("claim", "superseded on the way");
            return None;
        }
        self.note(|| format!("every fence below {epoch} is down"));
        let counter = self.folder.lease.as_ref().map_or(0, |seen| seen.counter);
        self.folder.beat(epoch, counter + 1, false);
        Some(Stage::Fenced { epoch, began: self.now, early })
    }

    /// The seal is on disk: what older epochs append from now on counts for nobody.
    fn seals(&mut self, epoch: u32, began: u64, found: Box<Found>) -> Option<Stage> {
        let cut = self.disk.seal(epoch, &found);
        self.report.add("claim", "records of a superseded scheduler ignored", cut.len() as u64);
        cut.iter().for_each(|record| self.judge_cut(record));
        if !self.folder.stands(epoch) {
            self.count("claim", "superseded on the way");
            return None;
        }
        Some(Stage::Sealed { epoch, began, found })
    }

    /// A strike: the batch system has the scheduler's job as over, while its processes live on for a while.
    pub fn say_scheduler_over(&mut self) {
        let Some(life) = self.holder().map(|server| server.life) else { return };
        self.count_fault(Fault::SchedulerSaidOver);
        self.folder.said_over = Some(life);
        let grace = self.random.between(0, 30 * SECOND);
        self.after(grace, Happening::SchedulerEnds { life });
        self.somebody_claims();
    }
}
