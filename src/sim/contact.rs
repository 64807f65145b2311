//! How a worker finds its scheduler: by the contact file, by the word of the last one, and by looking whether anybody
//! has taken over from one that doesn't answer.

use super::SECOND;
use super::happening::Happening;
use super::host::Incoming;
use super::net::{Moved, Peer};
use super::world::World;
use crate::state::LeaseWatch;
use crate::worker::core::Event;
use std::time::Duration;

/// Without an answer for so long, a worker looks at the state directory.
const QUIET_AFTER: Duration = Duration::from_secs(30);
/// A lease that has stood still for so long is of a scheduler that is silent.
const STILL: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK_EVERY: (u64, u64) = (10 * SECOND, 30 * SECOND);

/// What a worker knows of where its scheduler is.
#[derive(Default)]
pub(super) struct Way {
    is_linking: bool,
    /// The newest epoch that a contact file has told it of.
    newest: u32,
    /// The epoch that it takes the scheduler for, to which it is linked.
    linked_as: u32,
    /// The one that takes over, by the word of the last one.
    pub moved: Option<Moved>,
    /// The epoch whose scheduler doesn't answer, and its lease as this worker has watched it.
    watched: (u32, LeaseWatch),
}

impl World {
    pub fn host_links_soon(&mut self, host: usize, low_ms: u64, high_ms: u64) {
        if !std::mem::replace(&mut self.hosts[host].way.is_linking, true) {
            let delay = self.random.span(low_ms, high_ms);
            self.after(delay, Happening::HostConnects { host });
        }
    }

    pub fn host_connects(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        h.way.is_linking = false;
        if !h.is_alive || h.link.is_some() {
            return;
        }
        if h.unreachable_until > self.now {
            return self.host_finds_nobody(host);
        }
        if let Some(moved) = h.way.moved.take() {
            match self.follow(Peer::Host(host), moved) {
                Ok(link) => {
                    // It has an epoch after all that were heard of.
                    self.hosts[host].way.linked_as = self.hosts[host].way.newest + 1;
                    return self.host_linked(host, link);
                }
                Err(Some(moved)) => {
                    self.hosts[host].way.moved = Some(moved);
                    return self.host_links_soon(host, 50, 500);
                }
                Err(None) => {}
            }
        }
        match self.open_link(Peer::Host(host), self.hosts[host].way.newest) {
            Some(link) => {
                let life = self.links[&link].life;
                (self.hosts[host].way.newest, self.hosts[host].way.linked_as) = (life, life);
                self.host_linked(host, link);
            }
            None => self.host_finds_nobody(host),
        }
    }

    fn host_linked(&mut self, host: usize, link: u64) {
        self.hosts[host].link = Some(link);
        self.host_takes(host, Incoming::Linked(link));
    }

    fn host_finds_nobody(&mut self, host: usize) {
        let h = &self.hosts[host];
        if self.went_down && h.core.epoch().is_some() && h.unreachable_until <= self.now {
            self.host_takes(host, Incoming::Core(Event::BroughtDown));
        }
        self.host_links_soon(host, 500, 10_000);
    }

    pub fn host_looks_again(&mut self, host: usize) {
        let delay = self.random.between(LOOK_EVERY.0, LOOK_EVERY.1);
        self.after(delay, Happening::HostLooks { host });
    }

    /// While its scheduler doesn't answer, it looks at the contact file, the lease and the fence.
    pub fn host_looks(&mut self, host: usize) {
        if !self.hosts[host].is_alive {
            return;
        }
        self.host_looks_again(host);
        let h = &self.hosts[host];
        let is_quiet = h.link.is_none() || h.out_of_touch(self.now) > QUIET_AFTER;
        let is_reachable = h.unreachable_until <= self.now;
        let Some(epoch) = h.core.epoch().filter(|_| is_quiet && is_reachable) else { return };
        if self.proves(host, epoch.0) {
            let at = self.now - self.hosts[host].born;
            self.count("run", "looks that found nobody given up");
            self.host_takes(host, Incoming::Core(Event::NotGivenUp { at }));
        }
        let h = &mut self.hosts[host];
        h.way.newest = h.way.newest.max(self.folder.contact().unwrap_or(0));
        if let Some(link) = h.link.filter(|_| h.way.linked_as < h.way.newest) {
            self.count("run", "workers that left a superseded scheduler");
            self.peer_closes(link);
            self.host_unlinked(host, link);
        }
    }

    /// Nobody can act for the cluster: that epoch's scheduler is silent, and its fence stands.
    fn proves(&mut self, host: usize, epoch: u32) -> bool {
        let Some(seen) = self.folder.lease.clone() else { return false };
        let watched = &mut self.hosts[host].way.watched;
        if watched.0 != epoch {
            *watched = (epoch, LeaseWatch::default());
        }
        let still = watched.1.observe(&seen, Duration::from_nanos(self.now)) >= STILL;
        seen.epoch == epoch && (still || seen.released) && self.folder.stands(epoch)
    }
}
