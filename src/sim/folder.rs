//! The cluster's folder as far as fencing goes: which epochs are claimed, how many links each fence has, the lease, and
//! what the contact file says. Each call is one operation that a file server executes, whoever asks for it.

use crate::state::Holder;
use crate::state::lease::Seen;
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Folder {
    /// The highest `epoch.<n>`.
    pub highest: u32,
    fences: BTreeMap<u32, Fence>,
    pub lease: Option<Seen>,
    /// Epochs that the contact file has named, the newest last.
    contacts: Vec<u32>,
    /// The scheduler whose job is over, as the batch system says.
    pub said_over: Option<u32>,
}

struct Fence {
    links: u32,
    /// When it got its second link.
    fell: u64,
}

impl Folder {
    /// link(2) to `epoch.<n>`: whether it was free.
    pub fn link_epoch(&mut self, epoch: u32) -> bool {
        let is_free = epoch > self.highest;
        self.highest = self.highest.max(epoch);
        is_free
    }

    /// Creates `fence.<n>`; false if a later claimant has put it there, fallen.
    pub fn raise_fence(&mut self, epoch: u32) -> bool {
        let is_new = !self.fences.contains_key(&epoch);
        self.fences.entry(epoch).or_insert(Fence { links: 1, fell: 0 });
        is_new
    }

    pub fn fell_fences_below(&mut self, epoch: u32, now: u64) {
        for lower in 1..epoch {
            let fence = self.fences.entry(lower).or_insert(Fence { links: 1, fell: now });
            if fence.links == 1 {
                *fence = Fence { links: 2, fell: now };
            }
        }
    }

    /// What futimens and fstat of the open fence tell.
    pub fn stands(&self, epoch: u32) -> bool {
        self.fences.get(&epoch).is_some_and(|fence| fence.links == 1)
    }

    /// For how long the fence has been down.
    pub fn fallen_for(&self, epoch: u32, now: u64) -> u64 {
        self.fences.get(&epoch).filter(|fence| fence.links > 1).map_or(0, |fence| now - fence.fell)
    }

    /// The lease is overwritten in place. Whoever is late overwrites what another wrote.
    pub fn beat(&mut self, epoch: u32, counter: u64, released: bool) {
        let words = String::new;
        let holder =
            Holder { pid: epoch, start_time: 0, boot_id: words(), pid_namespace: words(), host: words() };
        self.lease = Some(Seen { epoch, counter, released, holder, ended: None });
    }

    pub fn write_contact(&mut self, epoch: u32) {
        if self.contacts.last() != Some(&epoch) {
            self.contacts.push(epoch);
        }
    }

    pub fn contact(&self) -> Option<u32> {
        self.contacts.last().copied()
    }

    /// What a cache may still show of it.
    pub fn stale_contact(&self) -> Option<u32> {
        self.contacts.iter().rev().nth(1).copied()
    }
}
