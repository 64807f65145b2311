//! The scheduler's shell: it takes in what has arrived in one batch, holds back what waits for the journal, and dies.

use super::disk::{decode, encode};
use super::ending::Ending;
use super::happening::Happening;
use super::journal::Journal;
use super::letters::{Letter, Letters};
use super::net::Peer;
use super::report::{variant, worker_message};
use super::truth::Lineage;
use super::world::World;
use super::{Plant, SECOND};
use crate::graph::TaskId;
use crate::protocol::{self, AllocationId, FromClient, FromWorker, Reply, ToClient, ToWorker, WorkerId};
use crate::scheduler::core::Core;
use crate::scheduler::event::{Action, Event, PeerId, Time};
use crate::scheduler::relay::{Relay, Successor};
use std::collections::{BTreeSet, HashMap};

pub(super) struct Server {
    pub core: Core,
    pub life: u32,
    pub born: u64,
    /// The claimant that it was.
    pub claimant: u32,
    /// The batch job that it is in.
    pub job: Option<usize>,
    pub relay: Relay,
    pub relays_at: Option<u64>,
    /// Who may take over, once this batch is done.
    pub wish: Option<Successor>,
    /// It takes nothing any more.
    pub ending: Option<Ending>,
    /// It has told who takes over.
    pub has_let_go: bool,
    /// Batch commands that it was asked for and that aren't done.
    pub commands: usize,
    /// A beat is under way.
    pub is_beating: bool,
    /// What has arrived, and over which link.
    pub inbox: Vec<(Option<u64>, Event)>,
    pub wakes: bool,
    ticks_at: Option<u64>,
    pub journal: Journal,
    pub letters: Letters,
    pub next_poll: u64,
    /// The batch system has answered once.
    pub was_answered: bool,
    /// Allocations that this scheduler asked for itself, or of which a worker has registered with it.
    known: BTreeSet<AllocationId>,
    pub lineage: Lineage,
    pub seen: HashMap<TaskId, &'static str>,
    exit: bool,
    /// When the last beat began that was answered, with the fence still standing.
    pub last_good: u64,
    /// Its state directory doesn't answer before.
    pub hangs_until: u64,
    /// It is stopped, and wakes up where it was.
    pub is_paused: bool,
    pub was_paused: bool,
    /// What its threads do when it wakes up.
    pub asleep: Vec<Happening>,
}

impl Server {
    /// With that core, of that epoch; so much of the journal is on disk.
    pub fn new(core: Core, life: u32, born: u64, durable: u64) -> Server {
        Server {
            core,
            life,
            born,
            claimant: 0,
            job: None,
            relay: Relay::default(),
            relays_at: None,
            wish: None,
            ending: None,
            has_let_go: false,
            commands: 0,
            is_beating: false,
            inbox: Vec::new(),
            wakes: false,
            ticks_at: None,
            journal: Journal::after(durable),
            letters: Letters::new(durable),
            next_poll: 0,
            was_answered: false,
            known: BTreeSet::new(),
            lineage: Lineage::default(),
            seen: HashMap::new(),
            exit: false,
            last_good: born,
            hangs_until: 0,
            is_paused: false,
            was_paused: false,
            asleep: Vec::new(),
        }
    }

    pub fn has_unsynced(&self) -> bool {
        !self.journal.unsynced.is_empty()
    }

    /// Something is on its way out, or in.
    pub fn has_pending(&self) -> bool {
        self.has_unsynced() || !self.inbox.is_empty() || !self.journal.waiting_submits.is_empty()
    }
}

impl World {
    /// The scheduler that may act, if there is one: nobody has fenced it.
    pub fn holder(&self) -> Option<&Server> {
        self.servers.values().find(|server| self.folder.stands(server.life))
    }

    /// What was handed to the disk but not synced may be there or not, from its beginning.
    pub fn server_dies(&mut self, life: u32) {
        let Some(mut server) = self.servers.remove(&life) else { return };
        self.note(|| format!("scheduler {life} is no more"));
        self.seat_is_free(server.job);
        if server.journal.syncing {
            let survive = self.random.below(server.journal.writing as u64 + 1);
            self.write_out(&mut server, survive as usize);
            let torn =
                server.journal.unsynced.pop_front().filter(|_| survive < server.journal.writing as u64);
            let part = self.random.below(1000) as f64 / 1000.0;
            if let Some(bytes) = torn {
                let (place, seq) = (server.journal.place(life), server.journal.durable + 1);
                self.disk.shelf.tear(place, seq, &bytes, part);
            }
        }
        // A submit command that runs already runs on.
        for happening in server.asleep {
            if let Happening::Submits { .. } = happening {
                self.after(0, happening);
            }
        }
        self.server_died(life);
    }

    pub fn server_hears(&mut self, life: u32, link: u64, peer: Peer, frame: &[u8]) {
        let understood = match peer {
            Peer::Client(_) | Peer::Successor(_) => protocol::decode::<FromClient>(frame).map(|messages| {
                messages.into_iter().for_each(|message| {
                    self.server_takes(life, Some(link), Event::FromClient { peer: PeerId(link), message });
                });
            }),
            Peer::Host(_) | Peer::Supervisor => protocol::decode::<FromWorker>(frame).map(|messages| {
                for message in messages {
                    self.plant_stale_attempts(life, &message);
                    self.count("to scheduler", worker_message(&message));
                    self.server_takes(life, Some(link), Event::FromWorker { peer: PeerId(link), message });
                }
            }),
        };
        if let Err(error) = understood {
            self.violate(format!("a frame of {peer} is not understood: {error}"));
        }
    }

    pub fn server_loses_link(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.server_open = false;
        if std::mem::replace(&mut link.is_reported, true) {
            return;
        }
        let (peer, life) = (link.peer, link.life);
        let reason = "the link broke".to_owned();
        self.server_event(life, Event::PeerLost { peer: PeerId(id), reason });
        if let (Some(Plant::AssignTwice), Peer::Host(host)) = (self.config.plant, peer) {
            let message = FromWorker::Dead { id: self.hosts[host].id.clone(), verdict: "planted".into() };
            self.server_event(life, Event::FromWorker { peer: PeerId(id), message });
        }
    }

    /// A supervisor connects, and tells that its worker is dead. Without a scheduler it tries again.
    pub fn death_told(&mut self, id: WorkerId, tries: u32) {
        if let Some(link) = self.open_link(Peer::Supervisor, 0) {
            if let Ok(frame) = protocol::encode(&[FromWorker::Dead { id, verdict: "killed".into() }]) {
                self.send_up(link, frame);
            }
            self.peer_closes(link);
        } else if tries > 0 {
            self.after(10 * SECOND, Happening::DeathTold { id, tries: tries - 1 });
        }
    }

    /// Something happens to that scheduler, if it still lives.
    pub fn server_event(&mut self, life: u32, event: Event) {
        self.server_takes(life, None, event);
    }

    pub fn server_takes(&mut self, life: u32, link: Option<u64>, event: Event) {
        let Some(server) = self.servers.get_mut(&life) else { return };
        server.inbox.push((link, event));
        if !std::mem::replace(&mut server.wakes, true) {
            // Now and then it is busy, and much arrives meanwhile.
            let delay = if self.random.chance(0.05) { self.random.span(1, 1_000) } else { 20_000 };
            self.after(delay, Happening::ServerWakes { life });
        }
    }

    pub fn server_wakes(&mut self, life: u32, ticks: bool) {
        let Some(mut server) = self.servers.remove(&life) else { return };
        let now = Time(self.now - server.born);
        let mut out = Vec::new();
        if server.ending.is_some() {
            self.servers.insert(life, server);
            return self.hears_of_the_disk(life);
        }
        if ticks {
            server.ticks_at = None;
            server.core.handle(now, Event::Tick, &mut out);
        } else {
            server.wakes = false;
            for (link, event) in std::mem::take(&mut server.inbox) {
                let closed = link.is_some_and(|id| !self.links.get(&id).is_some_and(|l| l.server_open));
                let is_dead_report =
                    matches!(event, Event::FromWorker { message: FromWorker::Dead { .. }, .. });
                if closed && !is_dead_report {
                    continue;
                }
                if let Event::Durable(seq) = event {
                    server.letters.release(seq.0.min(server.journal.durable));
                }
                self.note(|| format!("scheduler {life} <- {event:?}"));
                let Some(event) = self.hears_wish(&mut server, event) else { continue };
                if server.relay.hear(&event, now).is_some() {
                    self.count("relay", "successors' jobs that came to nothing");
                }
                let mut ran = Vec::new();
                if let Event::FromWorker { message: FromWorker::Register(registration), .. } = &event {
                    server.known.insert(registration.allocation);
                    ran.clone_from(&registration.runs);
                }
                let is_heartbeat =
                    matches!(event, Event::FromWorker { message: FromWorker::Heartbeat { .. }, .. });
                server.core.handle(now, event, &mut out);
                self.count_adopted(&server, &ran);
                if !is_heartbeat {
                    server.core.check();
                }
            }
        }
        server.core.settle_down(now, &mut out);
        let quiet = |action: &Action| {
            matches!(action, Action::ToWorker { message: ToWorker::HeartbeatAnswer, .. })
                || matches!(
                    action,
                    Action::ToClient { message: ToClient { reply: Reply::Progress(_), .. }, .. }
                )
        };
        if !out.iter().all(quiet) || !ticks {
            server.core.check();
            self.watch_states(&mut server);
        }
        self.servers.insert(life, server);
        out.into_iter().for_each(|action| self.server_acts(life, action));
        self.submit_durable(life);
        self.flush_server(life);
        self.maybe_snapshot(life);
        self.wind_server(life);
        self.wind_relay(life);
        if let Some(successor) = self.servers.get_mut(&life).and_then(|server| server.wish.take()) {
            self.begins_ending(life, Some(successor));
        }
    }

    fn watch_states(&mut self, server: &mut Server) {
        let (seen, report) = (&mut server.seen, &mut self.report);
        server.core.each_state(|task, state| {
            let before = seen.insert(task, state).unwrap_or("new");
            if before != state {
                report.count("task", &format!("{before} -> {state}"));
            }
        });
    }

    /// As the shell does it at the end: the last records become durable, and what waited for them is sent.
    fn finish_server(&mut self, life: u32) {
        let Some(mut server) = self.servers.remove(&life) else { return };
        let count = server.journal.unsynced.len();
        server.journal.writing = 0;
        self.write_out(&mut server, count);
        server.letters.release(server.journal.durable);
        self.servers.insert(life, server);
        self.flush_server(life);
    }

    /// Sets the next tick. A deadline that stays in the past would spin.
    fn wind_server(&mut self, life: u32) {
        let Some(server) = self.servers.get_mut(&life) else { return };
        if server.exit {
            if self.folder.stands(life) {
                self.count("run", "clean ends");
                self.went_down = true;
                self.cancel_seats();
                self.finish_server(life);
            }
            self.server_dies(life);
            return;
        }
        let Some(deadline) = server.core.deadline() else { return };
        let at = server.born + deadline.0;
        if at <= self.now {
            return self.violate("the scheduler's deadline stays in the past");
        }
        if server.ticks_at.is_none_or(|ticks| ticks > at) {
            server.ticks_at = Some(at);
            self.at(at, Happening::ServerTicks { life });
        }
    }

    fn server_acts(&mut self, life: u32, action: Action) {
        self.note(|| format!("scheduler {life} -> {action:?}"));
        let Some(server) = self.servers.get_mut(&life) else { return };
        let plant = self.config.plant;
        match action {
            Action::Persist { seq, record } => {
                if server.has_let_go {
                    return self.violate(format!("scheduler {life} has let go, and takes {record:?}"));
                }
                let bytes = encode(&record);
                server.lineage.learn(&record);
                if decode(&bytes) != record {
                    self.violate(format!("record {} reads back differently", seq.0));
                }
                self.judge_fates(&record);
                self.count("record", variant(&format!("{record:?}")));
                self.persist(life, seq.0, bytes);
                if plant == Some(Plant::FreeEarly) {
                    self.server_takes(life, None, Event::Durable(seq));
                }
            }
            Action::ToWorker { peer, message, after } => {
                let after = after.filter(|_| plant != Some(Plant::ActBeforeDurable));
                server.letters.post(peer.0, Letter::Worker(message), after);
            }
            Action::ToClient { peer, message, after } => {
                let after = after.filter(|_| plant != Some(Plant::AnswerBeforeDurable));
                server.letters.post(peer.0, Letter::Client(message), after);
            }
            Action::Close { peer, .. } => {
                self.count("action", "Close");
                self.flush_server(life);
                if let Some(server) = self.servers.get_mut(&life) {
                    server.letters.drop_held_back(peer.0);
                }
                self.server_closes(peer.0);
            }
            Action::Submit { allocation, after } => {
                self.report.count("action", "Submit");
                server.journal.waiting_submits.push((after.0, allocation));
                server.known.insert(allocation);
            }
            Action::CancelAllocations { allocations, .. } => {
                self.report.count("action", "CancelAllocations");
                let is_new = !server.was_answered && life > 1 && !server.core.is_going_down();
                let wanted = |id: &AllocationId| {
                    !self.disk.has_given_up(*id) && !server.known.contains(id) && self.batch.runs(*id)
                };
                if is_new && allocations.iter().any(wanted) {
                    let why = "a new scheduler gives up running allocations before it has asked about them";
                    return self.violate(why);
                }
                server.journal.waiting_submits.retain(|(_, waiting)| !allocations.contains(waiting));
                self.command_soon(life, 3_000, Happening::Cancels { life, allocations });
            }
            Action::Poll => {
                self.report.count("action", "Poll");
                server.next_poll = server.next_poll.min(self.now + 2 * SECOND);
                let at = server.next_poll;
                self.at(at, Happening::Polls { life });
            }
            Action::Exit { .. } => {
                self.report.count("action", "Exit");
                server.exit = true;
            }
        }
    }
}
