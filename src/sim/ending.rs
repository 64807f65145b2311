//! How a scheduler lets go: it takes nothing more, waits for its disk, gives its lease up, tells who takes over, and
//! ends. It may die or stand still before each of these steps.

use super::faults::Fault;
use super::happening::Happening;
use super::letters::Letter;
use super::net::Peer;
use super::world::World;
use super::{Plant, SECOND};
use crate::protocol::{NO_CALL, Reply, ToClient, ToWorker};
use crate::scheduler::relay::Successor;

/// For the last records and a batch command that is under way.
const LET_GO_TIMEOUT: u64 = 20 * SECOND;
/// A state directory that hangs for longer than that, in milliseconds.
const LONG_HANG: (u64, u64) = (10_000, 60_000);
/// Between two looks whether they are done.
const LOOK_AGAIN: u64 = SECOND / 20;
/// A scheduler that lets go: it takes nothing any more.
pub(super) struct Ending {
    successor: Option<Successor>,
    until: u64,
    /// It didn't wait for everything to be on disk.
    is_late: bool,
    pub has_released: bool,
}

/// What a scheduler that lets go does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    WriteOut,
    Release,
    Tell,
    Close,
}

impl World {
    /// A strike: SIGTERM.
    pub fn terminate_scheduler(&mut self) {
        let Some(life) = self.holder().filter(|server| !server.is_paused).map(|server| server.life) else {
            return;
        };
        self.count_fault(Fault::SchedulerTerminated);
        self.begins_ending(life, None);
    }

    /// From now on it takes nothing.
    pub fn begins_ending(&mut self, life: u32, successor: Option<Successor>) {
        let Some(server) = self.servers.get_mut(&life).filter(|server| server.ending.is_none()) else {
            return;
        };
        let until = self.now + LET_GO_TIMEOUT;
        let kind = if successor.is_some() { "holders that made room" } else { "holders that let go unasked" };
        server.ending = Some(Ending { successor, until, is_late: false, has_released: false });
        self.count("relay", kind);
        self.note(|| format!("scheduler {life} lets go"));
        if self.strikes(self.faults.relay_trouble) {
            self.hang_directory(LONG_HANG);
        }
        self.after(0, Happening::LetsGo { life, step: Step::WriteOut });
    }

    pub fn lets_go(&mut self, life: u32, step: Step) {
        if !self.servers.contains_key(&life) || self.is_struck_while_ending(life, step) {
            return;
        }
        let next = match step {
            Step::WriteOut => self.waits_for_its_last_records(life),
            Step::Release => self.gives_up_its_lease(life),
            Step::Tell => self.tells_who_takes_over(life),
            Step::Close => return self.closes(life),
        };
        if let Some(next) = next {
            let delay = if next == step { LOOK_AGAIN } else { self.random.span(1, 200) };
            self.after(delay, Happening::LetsGo { life, step: next });
        }
    }

    fn is_struck_while_ending(&mut self, life: u32, step: Step) -> bool {
        // One step takes many looks.
        let often = if step == Step::WriteOut { 0.2 } else { 1.0 };
        if !self.strikes(self.faults.relay_trouble * often) {
            return false;
        }
        if self.random.chance(0.5) {
            self.count_fault(Fault::HolderDied);
            self.count("holder died", &format!("{step:?}"));
            self.server_dies(life);
            return true;
        }
        self.count_fault(Fault::HolderPaused);
        self.count("holder paused", &format!("{step:?}"));
        if self.random.chance(0.4) && self.stall_successor(life) {
            self.count_fault(Fault::HolderAndSuccessorPaused);
        }
        self.pause(life);
        if let Some(server) = self.servers.get_mut(&life) {
            server.asleep.push(Happening::LetsGo { life, step });
        }
        true
    }

    fn stall_successor(&mut self, life: u32) -> bool {
        let span = self.random.span(500, 200_000);
        let is_its = |seat: usize| self.batch.seats[seat].asked_by == life;
        let Some(claimant) = self.claimants.values_mut().find(|c| c.job.is_some_and(is_its)) else {
            return false;
        };
        claimant.stalled_until = self.now + span;
        true
    }

    /// The last records are on disk and the last batch command is done, or that takes too long.
    fn waits_for_its_last_records(&mut self, life: u32) -> Option<Step> {
        let (now, plant) = (self.now, self.config.plant);
        let server = self.servers.get_mut(&life)?;
        let is_written = !server.has_unsynced() && !server.journal.syncing;
        let is_done = is_written && server.commands == 0 && server.journal.waiting_submits.is_empty();
        let ending = server.ending.as_mut()?;
        ending.is_late = !is_done && now >= ending.until;
        if ending.is_late {
            self.count("relay", "holders that left something undone");
            return Some(Step::Release);
        }
        let may_go = is_done || plant == Some(Plant::LetGoUnwritten);
        Some(if may_go { Step::Release } else { Step::WriteOut })
    }

    /// Its lease's thread does this after the beat that is under way, if its fence stands.
    fn gives_up_its_lease(&mut self, life: u32) -> Option<Step> {
        let now = self.now;
        if self.must_be_silent(life) {
            return Some(Step::Tell);
        }
        let (counter, stands) =
            (self.folder.lease.as_ref().map_or(0, |seen| seen.counter), self.folder.stands(life));
        let server = self.servers.get_mut(&life)?;
        if server.is_beating || server.hangs_until > now {
            return Some(Step::Release);
        }
        server.ending.as_mut()?.has_released = true;
        if stands {
            self.folder.beat(life, counter + 1, true);
        }
        Some(Step::Tell)
    }

    fn tells_who_takes_over(&mut self, life: u32) -> Option<Step> {
        if self.must_be_silent(life) {
            self.falls_silent(life);
            return None;
        }
        let Some(Successor { peer, call, addresses }) =
            self.servers.get_mut(&life)?.ending.as_mut()?.successor.take()
        else {
            return Some(Step::Close);
        };
        self.tell_all_moved(life, &addresses);
        let server = self.servers.get_mut(&life)?;
        server.letters.post(peer.0, Letter::Client(ToClient { call, reply: Reply::Relieved }), None);
        server.has_let_go = true;
        self.flush_server(life);
        if self.config.plant == Some(Plant::ServeOn) {
            self.servers.get_mut(&life)?.ending = None;
            return None;
        }
        Some(Step::Close)
    }

    fn tell_all_moved(&mut self, life: u32, addresses: &[String]) {
        let open = self.links.iter().filter(|(_, link)| link.life == life && link.server_open);
        let open: Vec<(u64, Peer)> = open.map(|(id, link)| (*id, link.peer)).collect();
        for (id, peer) in open {
            if self.strikes(self.faults.relay_trouble) {
                self.count_fault(Fault::MovedLost);
                if let Some(link) = self.links.get_mut(&id) {
                    link.down_flows = false;
                }
                self.notice_by_keepalive(id);
            }
            let Some(server) = self.servers.get_mut(&life) else { return };
            server.letters.drop_held_back(id);
            let addresses = addresses.to_vec();
            let letter = match peer {
                Peer::Host(_) => Letter::Worker(ToWorker::Moved { addresses }),
                Peer::Client(_) | Peer::Successor(_) => {
                    Letter::Client(ToClient { call: NO_CALL, reply: Reply::Moved { addresses } })
                }
                // It has said what it had to say.
                Peer::Supervisor => continue,
            };
            server.letters.post(id, letter, None);
        }
    }

    /// Its process ends. All that it took is on disk, unless that took too long or another one had taken over.
    fn closes(&mut self, life: u32) {
        let Some(server) = self.servers.get(&life) else { return };
        let is_late = server.ending.as_ref().is_none_or(|ending| ending.is_late);
        if server.has_unsynced() && !is_late {
            self.violate(format!("scheduler {life} lets go, and not all that it took is on disk"));
        }
        self.server_dies(life);
    }
}
