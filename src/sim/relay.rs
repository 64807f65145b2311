//! The holder's side of a relay: the batch jobs in which schedulers run, and when a holder asks for its successor.

use super::SECOND;
use super::batch::JobState;
use super::faults::Fault;
use super::happening::Happening;
use super::letters::Letter;
use super::server::Server;
use super::world::World;
use crate::protocol::{AllocationId, RefusalKind, Reply, ToClient};
use crate::scheduler::event::{AllocationStatus, Event, SubmitOutcome, Time};
use crate::scheduler::relay::{Due, Relay, SUCCESSOR, Successor, plan, wish};
use std::time::Duration;

/// A scheduler's job that starts when everything must come to rest has time for that.
const LONG_WALLTIME: (u64, u64) = (2_000 * SECOND, 4_000 * SECOND);

/// A batch job for a scheduler.
pub(super) struct Seat {
    /// The epoch of whoever asked for it; 0: a client.
    pub asked_by: u32,
    pub state: JobState,
    /// No other scheduler has come meanwhile, as far as its intent says.
    is_wanted: bool,
    asked_at: u64,
    /// When its walltime is over.
    ends: u64,
    waited: u64,
}

impl World {
    /// A job for a scheduler that a client asks for, if they run in jobs; it starts at once.
    pub fn clients_seat(&mut self) -> Option<usize> {
        if self.faults.scheduler_walltime == 0 {
            return None;
        }
        let seat = self.add_seat(0);
        self.seat_begins(seat);
        Some(seat)
    }

    fn add_seat(&mut self, asked_by: u32) -> usize {
        let (state, asked_at) = (JobState::Pending, self.now);
        self.batch.seats.push(Seat { asked_by, state, is_wanted: true, asked_at, ends: 0, waited: 0 });
        self.batch.seats.len() - 1
    }

    fn seat_begins(&mut self, seat: usize) {
        let walltime = if self.faults.on {
            let mean = self.faults.scheduler_walltime;
            self.random.between(mean / 2, 2 * mean)
        } else {
            self.random.between(LONG_WALLTIME.0, LONG_WALLTIME.1)
        };
        let s = &mut self.batch.seats[seat];
        (s.state, s.ends, s.waited) = (JobState::Running, self.now + walltime, self.now - s.asked_at);
        self.after(walltime, Happening::SeatEnds { seat });
    }

    pub fn seat_starts(&mut self, seat: usize) {
        if self.batch.seats[seat].state == JobState::Pending && !self.went_down {
            self.note(|| format!("job {seat} of a successor starts"));
            self.seat_begins(seat);
            if self.strikes(self.faults.job_trouble) {
                self.count_fault(Fault::SuccessorSaidOver);
                (self.batch.seats[seat].state, self.batch.seats[seat].is_wanted) =
                    (JobState::Ended { confirmed: false }, false);
            }
            self.successor_starts(seat);
        }
    }

    /// SIGKILL for what still runs in it.
    pub fn seat_ends(&mut self, seat: usize) {
        let server = self.servers.values().find(|server| server.job == Some(seat));
        match server.map(|server| server.life) {
            Some(life) => {
                self.count_fault(Fault::SchedulerWalltimeEnded);
                self.folder.said_over = Some(life);
                self.server_dies(life);
            }
            None => self.claimant_of_seat_dies(seat),
        }
        self.seat_is_free(Some(seat));
    }

    /// When the scheduler in that job asks for its successor, and when it lets go.
    pub fn relay_of(&self, job: Option<usize>) -> Relay {
        let Some(seat) = job.map(|job| &self.batch.seats[job]) else { return Relay::default() };
        let left = Duration::from_nanos(seat.ends.saturating_sub(self.now));
        Relay::new(plan(left, Duration::from_nanos(seat.waited)), Time(0))
    }

    /// Other launches of schedulers are not wanted now; some start all the same.
    pub fn settle_launches(&mut self, own: Option<usize>) {
        for seat in (0..self.batch.seats.len()).filter(|seat| Some(*seat) != own) {
            self.batch.seats[seat].is_wanted = false;
            if self.batch.seats[seat].state == JobState::Pending && self.random.chance(0.7) {
                self.count("relay", "successors' jobs that others cancelled");
                self.batch.seats[seat].state = JobState::Ended { confirmed: true };
            }
        }
    }

    pub fn wind_relay(&mut self, life: u32) {
        let Some(server) = self.servers.get_mut(&life).filter(|server| server.ending.is_none()) else {
            return;
        };
        let Some(deadline) = server.relay.deadline() else { return };
        let at = (server.born + deadline.0).max(self.now);
        if server.relays_at.is_none_or(|relays| relays > at) {
            server.relays_at = Some(at);
            self.at(at, Happening::RelayDue { life });
        }
    }

    pub fn relay_due(&mut self, life: u32) {
        let Some(server) = self.servers.get_mut(&life).filter(|server| server.ending.is_none()) else {
            return;
        };
        server.relays_at = None;
        match server.relay.due(Time(self.now - server.born)) {
            // As before every effect: nobody may have taken over.
            Some(Due::Ask) if !self.folder.stands(life) => {
                self.count("run", "schedulers that found themselves superseded");
                return self.server_dies(life);
            }
            Some(Due::Ask) => {
                self.count("relay", "successors asked for");
                self.command_soon(life, 5_000, Happening::Submits { life, allocation: SUCCESSOR });
            }
            Some(Due::LetGo) => {
                self.count("relay", "holders whose walltime came first");
                self.begins_ending(life, None);
            }
            None => {}
        }
        self.wind_relay(life);
    }

    /// The launcher does this when it comes to it.
    pub fn command_soon(&mut self, life: u32, longest_ms: u64, command: Happening) {
        let delay = self.random.span(50, longest_ms);
        if let Some(server) = self.servers.get_mut(&life) {
            server.commands += 1;
        }
        self.after(delay, command);
    }

    pub fn command_is_done(&mut self, life: u32) {
        if let Some(server) = self.servers.get_mut(&life) {
            server.commands -= 1;
        }
    }

    /// The scheduler has the job submitted that is to relieve it.
    pub fn submits_successor(&mut self, life: u32, is_in: bool, outcome: SubmitOutcome) {
        if is_in {
            let seat = self.add_seat(life);
            let wait = self.random.span(100, 2_000 * self.faults.scheduler_walltime / SECOND);
            self.after(wait, Happening::SeatStarts { seat });
        }
        self.server_event(life, Event::Submitted { allocation: SUCCESSOR, outcome });
    }

    /// What the batch system knows of the job that is to relieve this scheduler.
    pub fn status_of_successor(&self, life: u32) -> Option<(AllocationId, String, AllocationStatus)> {
        self.servers.get(&life).filter(|server| server.relay.awaited)?;
        let last = self.batch.seats.iter().rposition(|seat| seat.asked_by == life)?;
        let status = self.batch.seats[last].state.status(last);
        Some((SUCCESSOR, last.to_string(), status))
    }

    /// The cluster goes down, and whoever was to relieve its scheduler isn't wanted.
    pub fn cancel_seats(&mut self) {
        for seat in &mut self.batch.seats {
            if seat.state == JobState::Pending {
                seat.state = JobState::Ended { confirmed: true };
            }
        }
    }

    /// Takes the wish to relieve this scheduler out of what it hears.
    pub fn hears_wish(&self, server: &mut Server, event: Event) -> Option<Event> {
        let Event::FromClient { peer, message } = event else { return Some(event) };
        let mut messages = vec![message];
        if let Some((successor, job_name)) = wish(peer, &mut messages) {
            self.on_wish(server, successor, &job_name);
        }
        messages.pop().map(|message| Event::FromClient { peer, message })
    }

    fn on_wish(&self, server: &mut Server, successor: Successor, job_name: &str) {
        let seat = job_name.parse().ok().and_then(|seat: usize| self.batch.seats.get(seat));
        if seat.is_some_and(|seat| seat.asked_by == server.life && seat.is_wanted) {
            server.wish = Some(successor);
            return;
        }
        let kind = RefusalKind::Unavailable;
        let reply = Reply::Refused { kind, reason: "it is not the one that is to relieve it".into() };
        let letter = Letter::Client(ToClient { call: successor.call, reply });
        server.letters.post(successor.peer.0, letter, None);
    }
}
