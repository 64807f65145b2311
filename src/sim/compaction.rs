//! Snapshots of the scheduler, beside the journal that goes on: what a restart may begin with.

use super::disk::{decode, encode};
use super::server::Server;
use super::world::World;
use crate::scheduler::core::{Core, CoreConfig};
use crate::scheduler::event::{JournalSeq, Time};
use crate::scheduler::record::Record;
use std::collections::VecDeque;

/// Steps of a scheduler after which it makes a snapshot.
const SNAPSHOT_CHANCE: f64 = 0.02;
/// Restarts that begin with a snapshot, if there is one: the others read everything.
const USE_CHANCE: f64 = 0.7;

/// Stands for the records up to and with this number.
#[derive(Clone)]
pub struct Snapshot {
    pub last: u64,
    records: Vec<Vec<u8>>,
}

impl World {
    /// Now and then the scheduler makes a snapshot. It counts once the records that it stands for are on disk.
    pub fn maybe_snapshot(&mut self, server: &mut Server) {
        if !self.random.chance(SNAPSHOT_CHANCE) {
            return;
        }
        let records = server.core.snapshot();
        self.judge_snapshot(&records);
        let records = records.iter().map(encode).collect();
        server.snapshots.push_back(Snapshot { last: server.last_record(), records });
        self.count("run", "snapshots");
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

    /// What the next scheduler starts from.
    pub fn records_to_start_from(&mut self) -> Vec<Record> {
        let Some(snapshot) = self.disk.snapshot.clone().filter(|_| self.random.chance(USE_CHANCE)) else {
            return self.disk.records();
        };
        self.count("run", "starts from snapshots");
        let records = snapshot.records.iter().map(|bytes| decode(bytes));
        records.chain(self.disk.records().into_iter().skip(snapshot.last as usize)).collect()
    }
}

/// The newest snapshot of those whose records are durable.
pub fn newest(snapshots: &mut VecDeque<Snapshot>, durable: u64) -> Option<Snapshot> {
    let mut found = None;
    while snapshots.front().is_some_and(|snapshot| snapshot.last <= durable) {
        found = snapshots.pop_front();
    }
    found
}
