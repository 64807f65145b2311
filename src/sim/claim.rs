//! Schedulers that don't serve yet: each watches the lease, claims the next epoch, fences those before it, reads and
//! seals the journal, and only then serves. Several may try at a time, and each may die or stand still between any two
//! steps.

use super::SECOND;
use super::disk::Found;
use super::faults::Fault;
use super::world::{Happening, World};
use crate::journal::record::Place;
use crate::state::lease::{LeaseWatch, Seen, Sight};
use std::time::Duration;

/// More at a time prove nothing new.
const MAX_CLAIMANTS: usize = 3;

pub(super) struct Claimant(Stage);

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
    Watching(Box<Watch>),
    Claimed {
        epoch: u32,
    },
    /// No lower epoch can act any more. `began`: when it took the lease.
    Fenced {
        epoch: u32,
        began: u64,
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

impl World {
    /// Somebody who needs a scheduler finds none, or thinks so.
    pub fn revives(&mut self) {
        if self.went_down {
            return;
        }
        let delay = self.random.span(2_000, 40_000);
        self.after(delay, Happening::Revives);
        let is_well = self.holder().is_some_and(|server| !server.is_paused);
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
            self.next_claimant += 1;
            let is_on_its_host = self.random.chance(0.5);
            let watch = Watch { highest: self.folder.highest, is_on_its_host, ..Watch::default() };
            self.claimants.insert(self.next_claimant, Claimant(Stage::Watching(Box::new(watch))));
            self.claims_soon(self.next_claimant);
        }
    }

    fn claims_soon(&mut self, claimant: u32) {
        let delay = if self.strikes(self.faults.claim_trouble) {
            self.count_fault(Fault::ClaimantPaused);
            self.random.span(1_000, 100_000)
        } else {
            self.random.span(1, 3_000)
        };
        self.after(delay, Happening::Claims { claimant });
    }

    /// The claimant takes its next step.
    pub fn claims(&mut self, id: u32) {
        let Some(Claimant(stage)) = self.claimants.remove(&id) else { return };
        if self.went_down {
            return;
        }
        if self.strikes(self.faults.claim_trouble / 4.0) {
            return self.count_fault(Fault::ClaimantDied);
        }
        let next = match stage {
            Stage::Watching(watch) => self.watches(watch),
            Stage::Claimed { epoch } => self.fells_fences(epoch),
            Stage::Fenced { epoch, began } => match self.disk.find() {
                Ok(found) => Some(Stage::Read { epoch, began, found: Box::new(found) }),
                Err(why) => return self.violate(format!("epoch {epoch} can't read the journal: {why}")),
            },
            Stage::Read { epoch, began, found } => {
                self.disk.shelf.begin(Place::segment(epoch, 0), found.seal_seq());
                Some(Stage::Begun { epoch, began, found })
            }
            Stage::Begun { epoch, began, found } => self.seals(epoch, began, found),
            Stage::Sealed { epoch, began, found } => {
                self.folder.write_contact(epoch);
                self.server_starts(epoch, began, *found);
                None
            }
        };
        if let Some(stage) = next {
            self.claimants.insert(id, Claimant(stage));
            self.claims_soon(id);
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
        Some(Stage::Claimed { epoch })
    }

    fn fells_fences(&mut self, epoch: u32) -> Option<Stage> {
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
        Some(Stage::Fenced { epoch, began: self.now })
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
