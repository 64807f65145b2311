//! A scheduler's journal: groups of records that are synced one after the other, the fence checked after each.

use super::Plant;
use super::compaction::Snapshot;
use super::faults::Fault;
use super::happening::Happening;
use super::server::Server;
use super::world::World;
use crate::journal::record::Place;
use crate::protocol::AllocationId;
use crate::scheduler::event::{Event, JournalSeq};
use std::collections::VecDeque;

pub(super) struct Journal {
    /// Records that were on disk while the fence stood.
    pub durable: u64,
    pub unsynced: VecDeque<Vec<u8>>,
    pub syncing: bool,
    /// Of those not synced, how many are being written.
    pub writing: usize,
    /// Of the epoch's segments, the one that is written to.
    pub segment: u32,
    /// Waits for what it stands for to be on disk.
    pub snapshot: Option<Snapshot>,
    /// A snapshot waits, is written, or removes what it stands for.
    pub compacting: bool,
    /// The first record that came to the disk when the fence was down.
    pub first_late: Option<u64>,
    /// Submits whose intent isn't durable yet.
    pub waiting_submits: Vec<(u64, AllocationId)>,
}

impl Journal {
    pub fn after(durable: u64) -> Journal {
        Journal {
            durable,
            unsynced: VecDeque::new(),
            syncing: false,
            writing: 0,
            segment: 0,
            snapshot: None,
            compacting: false,
            first_late: None,
            waiting_submits: Vec::new(),
        }
    }

    /// The number of the last record, whether it is on disk or not.
    pub fn last(&self) -> u64 {
        self.durable + self.unsynced.len() as u64
    }

    pub fn place(&self, epoch: u32) -> Place {
        Place::segment(epoch, self.segment)
    }
}

impl World {
    pub fn persist(&mut self, life: u32, seq: u64, bytes: Vec<u8>) {
        let Some(server) = self.servers.get_mut(&life) else { return };
        server.journal.unsynced.push_back(bytes);
        if server.journal.last() != seq {
            return self.violate(format!("record {seq} comes out of order"));
        }
        self.sync(life);
    }

    /// One sync at a time; it takes all that was appended before it began, up to where a snapshot was made.
    pub fn sync(&mut self, life: u32) {
        let slow = self.strikes(self.faults.slow_journal);
        if self.servers.get(&life).is_none_or(|server| server.journal.syncing) {
            return;
        }
        self.begin_snapshot(life);
        let Some(server) = self.servers.get_mut(&life) else { return };
        let (hangs, journal) = (server.hangs_until.saturating_sub(self.now), &mut server.journal);
        if journal.unsynced.is_empty() {
            return;
        }
        let before_snapshot = journal.snapshot.as_ref().map(|snapshot| snapshot.last - journal.durable);
        let count = before_snapshot.map_or(journal.unsynced.len(), |count| count as usize);
        (journal.syncing, journal.writing) = (true, count);
        if slow {
            self.count_fault(Fault::JournalSlow);
        }
        let delay = if slow { self.random.span(500, 20_000) } else { self.random.span(1, 30) };
        self.after(delay.max(hangs), Happening::Written { life });
    }

    /// The disk has a group, whether its writer is awake or not. What the writer does next is its own matter.
    pub fn written(&mut self, life: u32) {
        let Some(mut server) = self.servers.remove(&life) else { return };
        if !self.folder.stands(life) {
            server.journal.first_late.get_or_insert(server.journal.durable + 1);
        }
        let count = std::mem::take(&mut server.journal.writing);
        self.write_out(&mut server, count);
        self.servers.insert(life, server);
        // No sync begins before this one is reported.
        self.after(0, Happening::Synced { life });
    }

    pub fn write_out(&mut self, server: &mut Server, count: usize) {
        let (place, journal) = (server.journal.place(server.life), &mut server.journal);
        for bytes in journal.unsynced.drain(..count) {
            journal.durable += 1;
            self.disk.append(place, journal.durable, bytes);
        }
    }

    /// The writer looks at its fence, and reports.
    pub fn synced(&mut self, life: u32) {
        let stands = self.folder.stands(life);
        let Some(server) = self.servers.get_mut(&life) else { return };
        server.journal.syncing = false;
        let durable = server.journal.durable;
        if !stands && self.config.plant == Some(Plant::AnswerUnfenced) {
            server.letters.release_to_clients(durable);
            self.flush_server(life);
        }
        if !stands && !self.is_careless(life) {
            self.count("run", "schedulers that found themselves superseded");
            return self.server_dies(life);
        }
        self.server_takes(life, None, Event::Durable(JournalSeq(durable)));
        self.sync(life);
    }

    /// A scheduler that lets go hears of its disk and of nothing else; what waited for a record is said at the end.
    pub fn hears_of_the_disk(&mut self, life: u32) {
        let Some(server) = self.servers.get_mut(&life) else { return };
        server.wakes = false;
        for (_, event) in std::mem::take(&mut server.inbox) {
            if let Event::Durable(seq) = event {
                server.letters.release(seq.0.min(server.journal.durable));
            }
        }
        self.submit_durable(life);
    }

    pub fn submit_durable(&mut self, life: u32) {
        let Some(server) = self.servers.get_mut(&life) else { return };
        let (journal, released) = (&mut server.journal, server.letters.released());
        let (ready, waiting) = journal.waiting_submits.drain(..).partition(|(after, _)| *after <= released);
        journal.waiting_submits = waiting;
        let ready: Vec<(u64, AllocationId)> = ready;
        for (_, allocation) in ready {
            self.command_soon(life, 5_000, Happening::Submits { life, allocation });
        }
    }
}
