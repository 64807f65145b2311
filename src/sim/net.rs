//! Links with latency: in order each way, and lost in as many ways as real ones are.

use super::SECOND;
use super::faults::Fault;
use super::happening::Happening;
use super::world::World;
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Peer {
    Host(usize),
    Client(usize),
    Supervisor,
    /// A claimant that wants to relieve the scheduler.
    Successor(u32),
}

/// The word of a scheduler that another one takes over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moved {
    successor: u32,
    /// Who can't be linked by then is looked for in the contact file.
    until: u64,
}

impl Moved {
    /// How a claimant is called.
    pub fn address(successor: u32) -> Vec<String> {
        vec![format!("successor#{successor}")]
    }

    pub fn to(addresses: &[String], now: u64) -> Option<Moved> {
        let successor = addresses.first()?.strip_prefix("successor#")?.parse().ok()?;
        Some(Moved { successor, until: now + MOVED_TIMEOUT })
    }
}

/// For whoever takes over to be there.
const MOVED_TIMEOUT: u64 = 15 * SECOND;

/// One connection. Each side has it open until it learns of its end; what flows is another matter.
pub(super) struct Link {
    pub peer: Peer,
    /// The scheduler that it leads to.
    pub life: u32,
    pub server_open: bool,
    pub peer_open: bool,
    pub up_flows: bool,
    pub down_flows: bool,
    /// The scheduler was told of its end.
    pub is_reported: bool,
    /// Nothing arrives before these times, so that order is kept.
    last_up: u64,
    last_down: u64,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Host(host) => write!(f, "worker {host}"),
            Peer::Client(client) => write!(f, "client {client}"),
            Peer::Supervisor => write!(f, "supervisor"),
            Peer::Successor(claimant) => write!(f, "successor {claimant}"),
        }
    }
}

impl World {
    /// A new link to the scheduler that the contact file names, if it is there and not of an epoch before `newest`.
    /// What is stopped shakes no hands.
    pub fn open_link(&mut self, peer: Peer, newest: u32) -> Option<u64> {
        let is_stale = self.strikes(self.faults.stale_contact);
        let stale = self.folder.stale_contact().filter(|life| is_stale && self.servers.contains_key(life));
        if stale.is_some() {
            self.count_fault(Fault::ContactStale);
        }
        let life = stale.or(self.folder.contact())?;
        if life < newest {
            self.count("network", "contact files of an epoch that is over");
            return None;
        }
        let server = self.servers.get(&life)?;
        if server.is_paused || server.ending.is_some() {
            let ends = server.ending.is_some();
            let what =
                if ends { "schedulers that took nobody any more" } else { "schedulers that shook no hands" };
            self.count("network", what);
            return None;
        }
        Some(self.new_link(peer, life))
    }

    /// A link to whoever takes over, if it serves by now; else whether to try again.
    pub fn follow(&mut self, peer: Peer, moved: Moved) -> Result<u64, Option<Moved>> {
        let mut serving = self.servers.values().filter(|server| server.claimant == moved.successor);
        if let Some(server) = serving.find(|server| !server.is_paused && server.ending.is_none()) {
            let life = server.life;
            let who = if let Peer::Host(_) = peer { "workers" } else { "clients" };
            self.count("relay", &format!("{who} that followed"));
            return Ok(self.new_link(peer, life));
        }
        let may_come = self.claimants.contains_key(&moved.successor) && self.now < moved.until;
        if !may_come {
            let who = if let Peer::Host(_) = peer { "workers" } else { "clients" };
            self.count("relay", &format!("{who} that took the contact file instead"));
        }
        Err(may_come.then_some(moved))
    }

    fn new_link(&mut self, peer: Peer, life: u32) -> u64 {
        let id = self.links.len() as u64 + 1;
        let link = Link {
            peer,
            life,
            server_open: true,
            peer_open: true,
            up_flows: true,
            down_flows: true,
            is_reported: false,
            last_up: 0,
            last_down: 0,
        };
        self.links.insert(id, link);
        self.note(|| format!("link {id} of {peer} to scheduler {life} opens"));
        id
    }

    fn latency(&mut self) -> u64 {
        if self.strikes(self.faults.slow_frame) {
            self.count_fault(Fault::SlowFrame);
            return self.random.span(1_000, 60_000);
        }
        self.random.span(1, 20) / 10
    }

    pub fn send_up(&mut self, id: u64, frame: Vec<u8>) {
        let latency = self.latency();
        let at = self.now + latency;
        let Some(link) = self.links.get_mut(&id).filter(|link| link.peer_open) else { return };
        link.last_up = link.last_up.max(at);
        let at = link.last_up;
        self.at(at, Happening::Up { link: id, frame });
    }

    pub fn send_down(&mut self, id: u64, frame: Vec<u8>) {
        let latency = self.latency();
        let at = self.now + latency;
        let Some(link) = self.links.get_mut(&id).filter(|link| link.server_open) else { return };
        link.last_down = link.last_down.max(at);
        let at = link.last_down;
        self.at(at, Happening::Down { link: id, frame });
    }

    pub fn arrives_up(&mut self, id: u64, frame: &[u8]) {
        let Some(link) = self.links.get(&id) else { return };
        let (peer, life, flows) = (link.peer, link.life, link.up_flows);
        let heard = link.server_open && self.servers.contains_key(&link.life);
        match (flows, heard) {
            (false, _) => self.count("network", "frames lost on the way up"),
            (true, false) => self.count("network", "frames of an old link discarded by the scheduler"),
            (true, true) => self.server_hears(life, id, peer, frame),
        }
    }

    pub fn arrives_down(&mut self, id: u64, frame: &[u8]) {
        let Some(link) = self.links.get(&id) else { return };
        let (peer, flows, open) = (link.peer, link.down_flows, link.peer_open);
        match (flows, open) {
            (false, _) => self.count("network", "frames lost on the way down"),
            (true, false) => self.count("network", "frames of an old link discarded by the peer"),
            (true, true) => match peer {
                Peer::Host(host) => self.host_hears(host, id, frame),
                Peer::Client(client) => self.client_hears(client, frame),
                Peer::Successor(claimant) => self.successor_hears(claimant, frame),
                Peer::Supervisor => {}
            },
        }
    }

    /// The scheduler closes a link: the peer learns after what was sent before, if anything gets through.
    pub fn server_closes(&mut self, id: u64) {
        let latency = self.latency();
        let at = self.now + latency;
        let Some(link) = self.links.get_mut(&id).filter(|link| link.server_open) else { return };
        link.server_open = false;
        if link.down_flows {
            let at = link.last_down.max(at);
            self.at(at, Happening::PeerLosesLink { link: id });
        }
        // The reading half reports its end in any case.
        self.after(SECOND / 100, Happening::ServerLosesLink { link: id });
    }

    /// The peer closes a link or dies: the scheduler learns after what was sent before, if anything gets through.
    pub fn peer_closes(&mut self, id: u64) {
        let latency = self.latency();
        let at = self.now + latency;
        let Some(link) = self.links.get_mut(&id).filter(|link| link.peer_open) else { return };
        link.peer_open = false;
        if link.up_flows {
            let at = link.last_up.max(at);
            self.at(at, Happening::ServerLosesLink { link: id });
        }
    }

    pub fn peer_loses_link(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.peer_open) else { return };
        link.peer_open = false;
        let peer = link.peer;
        self.note(|| format!("{peer} learns that link {id} is gone"));
        match peer {
            Peer::Host(host) => self.host_unlinked(host, id),
            Peer::Client(client) => self.client_unlinked(client),
            // It looks at its link itself.
            Peer::Successor(_) | Peer::Supervisor => {}
        }
    }

    /// Every link that leads to a scheduler that died: each peer learns in its own time.
    pub fn server_died(&mut self, life: u32) {
        let led_there = |link: &&Link| link.server_open && link.life == life;
        let open: Vec<u64> =
            self.links.iter().filter(|(_, link)| led_there(link)).map(|(id, _)| *id).collect();
        for id in open {
            let at = self.now + self.random.span(1, 5_000);
            let Some(link) = self.links.get_mut(&id) else { continue };
            link.server_open = false;
            if link.down_flows && link.peer_open {
                let at = link.last_down.max(at);
                self.at(at, Happening::PeerLosesLink { link: id });
            }
        }
    }

    /// One open link stops to carry, one way or both; who learns of it, and when, is a matter of luck.
    pub fn break_link(&mut self) {
        let open: Vec<u64> = self
            .links
            .iter()
            .filter(|(_, l)| l.server_open && l.peer_open && l.up_flows && l.down_flows)
            .map(|(id, _)| *id)
            .collect();
        let Some(id) = self.random.pick(&open).copied() else { return };
        let fault = match self.random.below(6) {
            0 | 1 => Fault::LinkBroken,
            2 => Fault::LinkHalfOpenAtServer,
            3 => Fault::LinkHalfOpenAtPeer,
            4 => Fault::LinkOneWay,
            _ => Fault::LinkSilent,
        };
        self.count_fault(fault);
        self.note(|| format!("... link {id}"));
        let one_way = fault == Fault::LinkOneWay;
        let down_stops = !one_way || self.random.chance(0.5);
        if let Some(link) = self.links.get_mut(&id) {
            link.down_flows = !down_stops;
            link.up_flows = one_way && down_stops;
        }
        let soon = |world: &mut World| world.random.span(1, 5_000);
        if matches!(fault, Fault::LinkBroken | Fault::LinkHalfOpenAtPeer) {
            let delay = soon(self);
            self.after(delay, Happening::ServerLosesLink { link: id });
        }
        if matches!(fault, Fault::LinkBroken | Fault::LinkHalfOpenAtServer) {
            let delay = soon(self);
            self.after(delay, Happening::PeerLosesLink { link: id });
        }
        self.notice_by_keepalive(id);
    }

    /// Who wasn't told that a link carries nothing any more learns it from the system in the end.
    pub fn notice_by_keepalive(&mut self, id: u64) {
        let delay = self.random.between(50, 100) * SECOND;
        self.after(delay, Happening::ServerLosesLink { link: id });
        let delay = self.random.between(50, 100) * SECOND;
        self.after(delay, Happening::PeerLosesLink { link: id });
    }
}
