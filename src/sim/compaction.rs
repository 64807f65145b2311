//! Snapshots of a scheduler, beside its journal that goes on: each is written whole, and then removes the files that it
//! stands for, unless the fence is down. The process may stand still between any two of these steps.

use super::Plant;
use super::disk::Found;
use super::happening::Happening;
use super::world::World;
use crate::journal::record::Place;
use crate::protocol::{ErrorKind, Execution};
use crate::scheduler::core::{Core, CoreConfig};
use crate::scheduler::event::{JournalSeq, Time};
use crate::scheduler::record::Record;
use std::collections::BTreeSet;

/// How a scheduler stood when it had journalled this record.
pub struct Snapshot {
    pub last: u64,
    records: Vec<Record>,
}

/// What a snapshot's thread does next.
pub(super) enum Step {
    Publish { place: Place, snapshot: Snapshot },
    Confirm { place: Place },
    Remove { files: Vec<Place> },
}

impl World {
    /// Now and then a scheduler makes a snapshot, one at a time.
    pub fn maybe_snapshot(&mut self, life: u32) {
        let is_time = self.random.chance(self.faults.snapshot);
        let Some(server) = self.servers.get_mut(&life).filter(|server| is_time && !server.journal.compacting)
        else {
            return;
        };
        let snapshot = Snapshot { last: server.journal.last(), records: server.core.snapshot() };
        let records = snapshot.records.clone();
        server.journal.snapshot = Some(snapshot);
        server.journal.compacting = true;
        self.judge_snapshot(&records);
        self.sync(life);
    }

    /// All that it stands for is on disk: the next segment begins, and the snapshot is written.
    pub fn begin_snapshot(&mut self, life: u32) {
        let Some(server) = self.servers.get_mut(&life) else { return };
        let journal = &mut server.journal;
        let Some(snapshot) = journal.snapshot.take_if(|snapshot| snapshot.last == journal.durable) else {
            return;
        };
        journal.segment += 1;
        let place = Place::snapshot(life, journal.segment);
        self.disk.shelf.begin(Place::segment(life, journal.segment), snapshot.last + 1);
        self.compacts_soon(life, Step::Publish { place, snapshot });
    }

    fn compacts_soon(&mut self, life: u32, step: Step) {
        let hangs = self.servers.get(&life).map_or(0, |server| server.hangs_until.saturating_sub(self.now));
        let longest = if self.strikes(self.faults.slow_journal) { 20_000 } else { 2_000 };
        let delay = self.random.span(1, longest).max(hangs);
        self.after(delay, Happening::Compacts { life, step });
    }

    pub fn compacts(&mut self, life: u32, step: Step) {
        if !self.servers.contains_key(&life) {
            return;
        }
        let stands = self.folder.stands(life);
        let next = match step {
            Step::Publish { place, snapshot } => {
                self.note(|| format!("scheduler {life} has a snapshot up to record {}", snapshot.last));
                self.disk.shelf.publish(place, snapshot.last + 1, &snapshot.records);
                self.count("run", if stands { "snapshots" } else { "snapshots of superseded schedulers" });
                Some(Step::Confirm { place })
            }
            Step::Confirm { place } if stands || self.config.plant == Some(Plant::RemoveUnfenced) => {
                Some(Step::Remove { files: self.disk.shelf.before(place) })
            }
            Step::Confirm { .. } => None,
            Step::Remove { mut files } => {
                // In whatever order the directory has them.
                let file = (!files.is_empty()).then(|| self.random.below(files.len() as u64) as usize);
                file.map(|file| {
                    let place = files.swap_remove(file);
                    self.note(|| format!("scheduler {life} removes {}", place.file_name()));
                    self.disk.shelf.remove(place);
                    self.count("run", "files removed behind a snapshot");
                    Step::Remove { files }
                })
            }
        };
        match next {
            Some(step) => self.compacts_soon(life, step),
            None => self.servers.get_mut(&life).into_iter().for_each(|s| s.journal.compacting = false),
        }
    }

    /// A core that is made from it must be sound, and say the same of itself.
    fn judge_snapshot(&mut self, records: &[Record]) {
        let core = Core::replay(CoreConfig::default(), Time(0), records.to_vec(), JournalSeq(1));
        let again = core.and_then(|core| {
            core.check();
            Core::snapshot_of(records.to_vec())
        });
        match again {
            Err(error) => self.violate(format!("a snapshot can't be read: {error}")),
            Ok(again) if again != records => {
                let first = records.iter().zip(&again).find(|(record, again)| record != again);
                self.violate(format!("a snapshot reads back differently: {first:?}"));
            }
            Ok(_) => {}
        }
    }

    /// What the files say is what all records say together that came to the disk and count.
    pub fn judge_found(&mut self, found: &Found, told: &[Record]) {
        if found.history.base.is_none() {
            if found.records != told {
                self.violate("the journal's files tell other records than those that count");
            }
            return;
        }
        self.count("run", "starts from snapshots");
        let (of_files, of_all) = (Core::snapshot_of(found.records.clone()), Core::snapshot_of(told.to_vec()));
        let (files, all) = match (of_files, of_all) {
            (Ok(files), Ok(all)) => (files, all),
            (Err(why), _) | (_, Err(why)) => {
                return self.violate(format!("the journal can't be read: {why}"));
            }
        };
        let (files, all) = (Promised::of(files), Promised::of(all));
        let first = files.facts.iter().zip(&all.facts).find(|(files, all)| files != all);
        if first.is_some() || files.facts.len() != all.facts.len() {
            self.violate(format!("a snapshot says otherwise than the records it stands for: {first:?}"));
        }
        if let Some(unknown) = files.may_run.difference(&all.may_run).next() {
            self.violate(format!("a snapshot says that {unknown:?} may run, and the records don't"));
        }
    }
}

/// What others were told, of what a snapshot says. It knows more than the records: which kernels were assigned, how
/// large lost values were, and which workers are gone.
#[derive(Default)]
struct Promised {
    facts: Vec<Record>,
    may_run: BTreeSet<Execution>,
}

impl Promised {
    fn of(records: Vec<Record>) -> Promised {
        let mut promised = Promised::default();
        for mut record in records {
            match &mut record {
                Record::Assigned { executions, .. } => {
                    promised.may_run.extend(executions.iter().copied());
                    continue;
                }
                Record::Image(image) => {
                    image.epochs.clear();
                    image.attempts.clear();
                    image.nbytes.clear();
                    image.micros.clear();
                    image.used.clear();
                    // Of several inputs that failed, a consequence may name another one.
                    let derived = image.errors.iter_mut().filter(|(_, e)| e.kind == ErrorKind::Dependency);
                    derived.for_each(|(_, error)| error.message.clear());
                }
                // The order of what was settled again after a loss isn't journalled.
                Record::Base(base) => base.history.sort_unstable(),
                _ => {}
            }
            promised.facts.push(record);
        }
        promised
    }
}
