//! How a claimant becomes a scheduler that serves.

use super::disk::Found;
use super::happening::Happening;
use super::server::Server;
use super::truth::Lineage;
use super::world::World;
use super::{Plant, SECOND};
use crate::protocol::{Epoch, FromWorker, WorkerId};
use crate::scheduler::core::{Core, CoreConfig};
use crate::scheduler::event::{Event, JournalSeq, PeerId, Time};
use crate::scheduler::record::Record;
use std::collections::BTreeSet;

impl World {
    /// A claimant, in that job if any, has read and sealed everything: it serves. `began`: when it took the lease.
    pub fn server_starts(
        &mut self,
        life: u32,
        began: u64,
        found: Found,
        (claimant, job): (u32, Option<usize>),
    ) {
        let config = CoreConfig {
            epoch: Epoch(life),
            max_workers_lost: self.faults.max_workers_lost,
            workers_per_allocation: self.faults.workers_per_allocation,
            keep_settled: self.faults.keep_settled,
            ..CoreConfig::default()
        };
        self.note(|| format!("scheduler {life} starts from {} records", found.records.len()));
        let (told, last) = (self.disk.records_of(&found), found.seal_seq());
        self.judge_found(&found, &told);
        let (lineage, former) = (Lineage::of(&told), former_workers(&told));
        let core = match Core::replay(config, Time(0), found.records, JournalSeq(last)) {
            Ok(core) => core,
            Err(error) => return self.violate(error.to_string()),
        };
        core.check();
        let mut server = Server::new(core, life, self.now, last);
        server.core.each_state(|task, state| {
            server.seen.insert(task, state);
        });
        (server.claimant, server.job, server.relay) = (claimant, job, self.relay_of(job));
        (server.lineage, server.last_good) = (lineage, began);
        self.servers.insert(life, server);
        self.settle_launches(job);
        self.wind_relay(life);
        for (worker, completions) in self.disk.outbox.clone() {
            self.server_takes(life, None, Event::LeftBehind { worker, completions });
        }
        self.after(0, Happening::ServerTicks { life });
        self.after(SECOND, Happening::Polls { life });
        self.after(0, Happening::Beats { life });
        if self.config.plant == Some(Plant::PlaceBeforeWindow) {
            for id in former {
                let message = FromWorker::Dead { id, verdict: "planted".into() };
                self.server_takes(life, None, Event::FromWorker { peer: PeerId(0), message });
            }
        }
    }
}

/// Workers that may run what is in doubt.
fn former_workers(records: &[Record]) -> BTreeSet<WorkerId> {
    let assigned = |record: &Record| match record {
        Record::Assigned { worker, .. } => Some(worker.clone()),
        _ => None,
    };
    records.iter().filter_map(assigned).collect()
}
