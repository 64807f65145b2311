//! The scheduler's shell: it takes in what has arrived in one batch, holds back what waits for the journal, and dies.

use super::compaction::{self, Snapshot};
use super::disk::{decode, encode};
use super::faults::Fault;
use super::letters::{Letter, Letters};
use super::net::Peer;
use super::report::{variant, worker_message};
use super::world::{Happening, World};
use super::{Plant, SECOND};
use crate::graph::TaskId;
use crate::protocol::{
    self, AllocationId, Epoch, FromClient, FromWorker, Reply, ToClient, ToWorker, WorkerId,
};
use crate::scheduler::core::{Core, CoreConfig};
use crate::scheduler::event::{Action, Event, JournalSeq, PeerId, Time};
use std::collections::{BTreeSet, HashMap, VecDeque};

pub(super) struct Server {
    pub core: Core,
    pub life: u32,
    born: u64,
    /// What has arrived, and over which link.
    inbox: Vec<(Option<u64>, Event)>,
    wakes: bool,
    ticks_at: Option<u64>,
    /// Records on disk.
    durable: u64,
    unsynced: VecDeque<Vec<u8>>,
    /// Those whose records aren't all on disk.
    pub snapshots: VecDeque<Snapshot>,
    syncing: bool,
    pub letters: Letters,
    waiting_submits: Vec<(u64, AllocationId)>,
    pub next_poll: u64,
    /// The batch system has answered once.
    pub was_answered: bool,
    /// Allocations of which a worker has registered with this scheduler.
    registered: BTreeSet<AllocationId>,
    seen: HashMap<TaskId, &'static str>,
    exit: bool,
}

impl Server {
    /// The number of the last record that it has written.
    pub fn last_record(&self) -> u64 {
        self.durable + self.unsynced.len() as u64
    }
}

impl World {
    pub fn server_starts(&mut self) {
        if self.server.is_some() || self.went_down {
            return;
        }
        self.lives += 1;
        let life = self.lives;
        let config = CoreConfig {
            epoch: Epoch(life),
            max_workers_lost: self.faults.max_workers_lost,
            workers_per_allocation: self.faults.workers_per_allocation,
            keep_settled: self.faults.keep_settled,
            ..CoreConfig::default()
        };
        let records = self.disk.records();
        self.note(|| format!("scheduler {life} starts from {} records", records.len()));
        self.truth.relearn(&records);
        let start = self.records_to_start_from();
        let core = match Core::replay(config, Time(0), start, JournalSeq(self.disk.len())) {
            Ok(core) => core,
            Err(error) => return self.violate(error.to_string()),
        };
        core.check();
        let mut seen = HashMap::new();
        core.each_state(|task, state| {
            seen.insert(task, state);
        });
        self.server = Some(Server {
            core,
            life,
            born: self.now,
            inbox: Vec::new(),
            wakes: false,
            ticks_at: None,
            durable: self.disk.len(),
            snapshots: VecDeque::new(),
            unsynced: VecDeque::new(),
            syncing: false,
            letters: Letters::new(self.disk.len()),
            waiting_submits: Vec::new(),
            next_poll: 0,
            was_answered: false,
            registered: BTreeSet::new(),
            seen,
            exit: false,
        });
        for (worker, completions) in self.disk.outbox.clone() {
            self.server_takes(None, Event::LeftBehind { worker, completions });
        }
        self.after(0, Happening::ServerTicks { life });
        self.after(SECOND, Happening::Polls { life });
    }

    pub fn kill_server(&mut self) {
        let Some(server) = &self.server else { return };
        let between = !server.unsynced.is_empty();
        self.count_fault(Fault::SchedulerKilled);
        if between {
            self.count_fault(Fault::SchedulerKilledBetweenPersistAndDurable);
        }
        self.server_dies();
        let delay = self.random.span(100, 90_000);
        self.after(delay, Happening::ServerStarts);
    }

    /// What was handed to the disk but not synced may be there or not, from its beginning.
    fn server_dies(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        if server.syncing {
            let survive = self.random.below(server.unsynced.len() as u64 + 1);
            for bytes in server.unsynced.drain(..survive as usize) {
                self.disk.append(bytes);
            }
        }
        self.server_died();
    }

    pub fn server_hears(&mut self, link: u64, peer: Peer, frame: &[u8]) {
        let understood = match peer {
            Peer::Client(_) => protocol::decode::<FromClient>(frame).map(|messages| {
                messages.into_iter().for_each(|message| {
                    self.server_takes(Some(link), Event::FromClient { peer: PeerId(link), message });
                });
            }),
            Peer::Host(_) | Peer::Supervisor => protocol::decode::<FromWorker>(frame).map(|messages| {
                for message in messages {
                    self.plant_stale_attempts(&message);
                    self.count("to scheduler", worker_message(&message));
                    self.server_takes(Some(link), Event::FromWorker { peer: PeerId(link), message });
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
        if self.server.is_some() {
            if let Some(link) = self.open_link(Peer::Supervisor)
                && let Ok(frame) = protocol::encode(&[FromWorker::Dead { id, verdict: "killed".into() }])
            {
                self.send_up(link, frame);
                self.peer_closes(link);
            }
        } else if tries > 0 {
            self.after(10 * SECOND, Happening::DeathTold { id, tries: tries - 1 });
        }
    }

    /// Something happens to that scheduler, if it still lives.
    pub fn server_event(&mut self, life: u32, event: Event) {
        if self.server.as_ref().is_some_and(|server| server.life == life) {
            self.server_takes(None, event);
        }
    }

    pub fn server_takes(&mut self, link: Option<u64>, event: Event) {
        let Some(server) = &mut self.server else { return };
        server.inbox.push((link, event));
        if !std::mem::replace(&mut server.wakes, true) {
            let life = server.life;
            // Now and then it is busy, and much arrives meanwhile.
            let delay = if self.random.chance(0.05) { self.random.span(1, 1_000) } else { 20_000 };
            self.after(delay, Happening::ServerWakes { life });
        }
    }

    pub fn server_wakes(&mut self, life: u32, ticks: bool) {
        let Some(mut server) = self.server.take_if(|server| server.life == life) else { return };
        let now = Time(self.now - server.born);
        let mut out = Vec::new();
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
                    server.letters.release(seq.0.min(self.disk.len()));
                }
                self.note(|| format!("scheduler <- {event:?}"));
                if let Event::FromWorker { message: FromWorker::Register(registration), .. } = &event {
                    server.registered.insert(registration.allocation);
                }
                let is_heartbeat =
                    matches!(event, Event::FromWorker { message: FromWorker::Heartbeat { .. }, .. });
                server.core.handle(now, event, &mut out);
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
        self.server = Some(server);
        out.into_iter().for_each(|action| self.server_acts(action));
        self.submit_durable();
        self.flush_server();
        if let Some(mut server) = self.server.take() {
            self.maybe_snapshot(&mut server);
            self.server = Some(server);
        }
        self.wind_server(life);
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
    fn finish_server(&mut self) {
        let Some(server) = &mut self.server else { return };
        for bytes in server.unsynced.drain(..) {
            self.disk.append(bytes);
        }
        server.letters.release(self.disk.len());
        self.flush_server();
    }

    /// Sets the next tick. A deadline that stays in the past would spin.
    fn wind_server(&mut self, life: u32) {
        let Some(server) = self.server.as_mut().filter(|server| server.life == life) else { return };
        if server.exit {
            self.count("run", "clean ends");
            self.went_down = true;
            self.finish_server();
            self.server_dies();
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

    fn server_acts(&mut self, action: Action) {
        self.note(|| format!("scheduler -> {action:?}"));
        let Some(server) = &mut self.server else { return };
        let (life, plant) = (server.life, self.config.plant);
        match action {
            Action::Persist { seq, record } => {
                let bytes = encode(&record);
                if decode(&bytes) != record {
                    self.violate(format!("record {} reads back differently", seq.0));
                }
                self.truth.learn(&record);
                self.judge_fates(&record);
                self.count("record", variant(&format!("{record:?}")));
                self.persist(seq.0, bytes);
                if plant == Some(Plant::FreeEarly) {
                    self.server_takes(None, Event::Durable(seq));
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
                self.flush_server();
                if let Some(server) = &mut self.server {
                    server.letters.drop_held_back(peer.0);
                }
                self.server_closes(peer.0);
            }
            Action::Submit { allocation, after } => {
                self.report.count("action", "Submit");
                server.waiting_submits.push((after.0, allocation));
            }
            Action::CancelAllocations { allocations, .. } => {
                self.report.count("action", "CancelAllocations");
                let is_new = !server.was_answered && life > 1 && !server.core.is_going_down();
                let wanted = |id: &AllocationId| {
                    !self.disk.given_up.contains(id)
                        && !server.registered.contains(id)
                        && self.batch.runs(*id)
                };
                if is_new && allocations.iter().any(wanted) {
                    let why = "a new scheduler gives up running allocations before it has asked about them";
                    return self.violate(why);
                }
                server.waiting_submits.retain(|(_, waiting)| !allocations.contains(waiting));
                let delay = self.random.span(50, 3_000);
                self.after(delay, Happening::Cancels { allocations });
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

    fn persist(&mut self, seq: u64, bytes: Vec<u8>) {
        let Some(server) = &mut self.server else { return };
        server.unsynced.push_back(bytes);
        if server.durable + server.unsynced.len() as u64 != seq {
            return self.violate(format!("record {seq} comes out of order"));
        }
        self.sync();
    }

    /// One sync at a time; it takes all that was appended before it began.
    fn sync(&mut self) {
        let slow = self.strikes(self.faults.slow_journal);
        let Some(server) = self.server.as_mut().filter(|s| !s.syncing && !s.unsynced.is_empty()) else {
            return;
        };
        server.syncing = true;
        let (life, count) = (server.life, server.unsynced.len());
        if slow {
            self.count_fault(Fault::JournalSlow);
        }
        let delay = if slow { self.random.span(500, 20_000) } else { self.random.span(1, 30) };
        self.after(delay, Happening::Synced { life, count });
    }

    pub fn synced(&mut self, life: u32, count: usize) {
        let Some(server) = self.server.as_mut().filter(|server| server.life == life) else { return };
        server.syncing = false;
        for bytes in server.unsynced.drain(..count) {
            self.disk.append(bytes);
        }
        server.durable += count as u64;
        let snapshot = compaction::newest(&mut server.snapshots, server.durable);
        self.disk.snapshot = snapshot.or(self.disk.snapshot.take());
        let durable = JournalSeq(server.durable);
        self.server_takes(None, Event::Durable(durable));
        self.sync();
    }

    fn submit_durable(&mut self) {
        let Some(server) = &mut self.server else { return };
        let (life, durable) = (server.life, self.disk.len());
        let (ready, waiting) = server.waiting_submits.drain(..).partition(|(after, _)| *after <= durable);
        server.waiting_submits = waiting;
        let ready: Vec<(u64, AllocationId)> = ready;
        for (_, allocation) in ready {
            let delay = self.random.span(50, 5_000);
            self.after(delay, Happening::Submits { life, allocation });
        }
    }
}
