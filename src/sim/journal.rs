//! A scheduler's journal: groups of records that are synced one after the other, the fence checked after each.

use super::Plant;
use super::faults::Fault;
use super::world::{Happening, World};
use crate::protocol::AllocationId;
use crate::scheduler::event::{Event, JournalSeq};
use std::collections::VecDeque;

pub(super) struct Journal {
    /// Records that were on disk while the fence stood.
    pub durable: u64,
    pub unsynced: VecDeque<Vec<u8>>,
    pub syncing: bool,
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
            first_late: None,
            waiting_submits: Vec::new(),
        }
    }
}

impl World {
    pub fn persist(&mut self, life: u32, seq: u64, bytes: Vec<u8>) {
        let Some(server) = self.servers.get_mut(&life) else { return };
        server.journal.unsynced.push_back(bytes);
        if server.journal.durable + server.journal.unsynced.len() as u64 != seq {
            return self.violate(format!("record {seq} comes out of order"));
        }
        self.sync(life);
    }

    /// One sync at a time; it takes all that was appended before it began.
    fn sync(&mut self, life: u32) {
        let slow = self.strikes(self.faults.slow_journal);
        let Some(server) = self.servers.get_mut(&life) else { return };
        if server.journal.syncing || server.journal.unsynced.is_empty() {
            return;
        }
        server.journal.syncing = true;
        let (count, hangs) = (server.journal.unsynced.len(), server.hangs_until.saturating_sub(self.now));
        if slow {
            self.count_fault(Fault::JournalSlow);
        }
        let delay = if slow { self.random.span(500, 20_000) } else { self.random.span(1, 30) };
        self.after(delay.max(hangs), Happening::Written { life, count });
    }

    /// The disk has a group, whether its writer is awake or not. What the writer does next is its own matter.
    pub fn written(&mut self, life: u32, count: usize) {
        let Some(server) = self.servers.get_mut(&life) else { return };
        server.journal.syncing = false;
        for bytes in server.journal.unsynced.drain(..count) {
            self.disk.append(life, bytes);
        }
        if !self.folder.stands(life) {
            server.journal.first_late.get_or_insert(server.journal.durable + 1);
        }
        server.journal.durable += count as u64;
        // No sync begins before this one is reported.
        server.journal.syncing = true;
        self.after(0, Happening::Synced { life });
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

    pub fn submit_durable(&mut self, life: u32) {
        let Some(server) = self.servers.get_mut(&life) else { return };
        let (journal, released) = (&mut server.journal, server.letters.released());
        let (ready, waiting) = journal.waiting_submits.drain(..).partition(|(after, _)| *after <= released);
        journal.waiting_submits = waiting;
        let ready: Vec<(u64, AllocationId)> = ready;
        for (_, allocation) in ready {
            let delay = self.random.span(50, 5_000);
            self.after(delay, Happening::Submits { life, allocation });
        }
    }
}
