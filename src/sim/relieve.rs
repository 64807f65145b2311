//! The successor's side of a relay: a claimant in a job that a scheduler asked for asks that one to make room.

use super::SECOND;
use super::batch::JobState;
use super::net::{Moved, Peer};
use super::world::World;
use crate::protocol::{self, FromClient, Reply, Request, ToClient};
use crate::state::lease::{LeaseWatch, Sight};
use std::time::Duration;

/// For the holder to write its last records; longer than it waits for them itself.
const ANSWER_TIMEOUT: u64 = 45 * SECOND;

/// How far it has come.
#[derive(Default)]
pub(super) struct Relieving {
    lease: LeaseWatch,
    asked: Option<Asked>,
}

struct Asked {
    link: u64,
    until: u64,
    answer: Option<Reply>,
}

/// What came of a step.
pub(super) enum Relief {
    /// Nobody holds the lease any more, as far as is known here: claim.
    Free,
    /// Another one lives, and doesn't make room.
    NotWanted,
    Waits,
}

impl Relieving {
    /// It has asked, and waits for the answer.
    pub fn waits(&self) -> bool {
        self.asked.is_some()
    }
}

impl World {
    /// The next step of the claimant in that job.
    pub fn relieves(&mut self, claimant: u32, job: usize, relieving: &mut Relieving) -> Relief {
        if let Some(asked) = &relieving.asked {
            match &asked.answer {
                Some(Reply::Relieved) => {
                    self.count("relay", "successors that were given the lease");
                    return Relief::Free;
                }
                Some(_) => {
                    self.count("relay", "successors that were refused");
                    return Relief::NotWanted;
                }
                None if self.links[&asked.link].peer_open && self.now < asked.until => return Relief::Waits,
                None => self.peer_closes(asked.link),
            }
            self.count("relay", "successors that had no answer");
            relieving.asked = None;
        }
        let asked_by = self.batch.seats[job].asked_by;
        let Some(seen) = self.folder.lease.clone().filter(|seen| seen.epoch == asked_by && !seen.released)
        else {
            self.count("relay", "successors with nobody to relieve");
            return Relief::Free;
        };
        let sight = Sight { seen, highest: Some(self.folder.highest), is_gone: false };
        if relieving.lease.may_claim(&sight, Duration::from_nanos(self.now)) {
            self.count("relay", "successors of one that stood still");
            return Relief::Free;
        }
        relieving.asked = self.ask_to_make_room(claimant, job, asked_by);
        Relief::Waits
    }

    fn ask_to_make_room(&mut self, claimant: u32, job: usize, asked_by: u32) -> Option<Asked> {
        if self.folder.contact() != Some(asked_by) {
            return None;
        }
        let link = self.open_link(Peer::Successor(claimant), 0)?;
        if self.links[&link].life != asked_by {
            self.peer_closes(link);
            return None;
        }
        let request = Request::Relieve { job_name: job.to_string(), addresses: Moved::address(claimant) };
        if let Ok(frame) = protocol::encode(&[FromClient { call: 1, request }]) {
            self.send_up(link, frame);
        }
        Some(Asked { link, until: self.now + ANSWER_TIMEOUT, answer: None })
    }

    pub fn successor_hears(&mut self, claimant: u32, frame: &[u8]) {
        let messages: Vec<ToClient> = match protocol::decode(frame) {
            Ok(messages) => messages,
            Err(error) => return self.violate(format!("an answer is not understood: {error}")),
        };
        let replies = messages.into_iter().map(|message| message.reply);
        let reply = { replies }.find(|reply| matches!(reply, Reply::Relieved | Reply::Refused { .. }));
        let relieving = self.claimants.get_mut(&claimant).and_then(|claimant| claimant.relieving());
        if let (Some(asked), Some(_)) = (relieving.and_then(|relieving| relieving.asked.as_mut()), &reply) {
            asked.answer = reply;
        }
    }

    /// A successor's process is gone: its link goes with it.
    pub fn stop_relieving(&mut self, relieving: &Relieving) {
        if let Some(asked) = &relieving.asked {
            self.peer_closes(asked.link);
        }
    }

    /// The process in that job has ended.
    pub fn seat_is_free(&mut self, job: Option<usize>) {
        if let Some(seat) = job.and_then(|job| self.batch.seats.get_mut(job)) {
            seat.state = JobState::Ended { confirmed: true };
        }
    }
}
