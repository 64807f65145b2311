//! The scheduler as a pure state machine: events and a clock value in, actions out.
//!
//! The shell feeds what has arrived with [`Core::handle`], then calls [`Core::settle_down`] once: that places what is
//! ready, scales, and turns everything gathered into one batch of actions.

mod allocations;
mod check;
mod clients;
mod completions;
mod entry;
mod fast;
mod graphs;
mod held;
mod ingest;
#[cfg(any(test, feature = "sim"))]
mod inspect;
mod outbox;
mod placing;
mod ready;
mod recovery;
mod replay;
mod replicas;
mod reports;
mod retry;
mod roster;
mod snapshot;
mod spread;
mod states;
mod task;
#[cfg(test)]
mod tests;
mod why;
mod workers;

use super::event::{Action, Event, JournalSeq, PeerId, Time};
use super::record::{Fate, Record};
use crate::graph::{GraphId, Resources, TaskId};
use crate::protocol::{Counts, Epoch, Execution, PendingOutput, RequestId, SchedulerReport};
use allocations::Allocations;
use clients::Clients;
use fast::FastMap;
use graphs::GraphState;
use outbox::Outbox;
use ready::Ready;
use roster::Workers;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

pub use replay::{Replay, ReplayError};

/// What the core is told once.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    pub epoch: Epoch,
    /// Workers wanted, until somebody says otherwise.
    pub workers: u32,
    /// Number of the first record that this core writes.
    pub first_record: JournalSeq,
    /// Number of the first allocation that it asks for: older epochs used the smaller ones.
    pub first_allocation: u32,
    /// Nanoseconds since 1970 at this process's time 0; only for instants that people see.
    pub unix_nanos_at_zero: u64,
    pub heartbeat: Duration,
    /// Silence after which a worker is lost.
    pub silence: Duration,
    /// A worker without a scheduler kills its commands after this long.
    pub death_timeout: Duration,
    /// Different workers that a task may lose before it is the suspect.
    pub max_workers_lost: u8,
    pub workers_per_allocation: u32,
    pub max_pending_allocations: u32,
    pub max_submits_per_minute: u32,
    /// What one worker has, if all of this cluster have the same: what exceeds it is refused at once.
    pub worker_shape: Option<Resources>,
    /// Time between two questions to the batch system.
    pub poll_interval: Duration,
    /// Settled tasks that stay known.
    pub keep_settled: u64,
    /// Answers that stay known for repeats and go with no graph: to cancels, scalings and their like, and to submits of
    /// graphs that are forgotten by now.
    pub keep_answers: usize,
    /// A graph whose stream broke off is sealed after this long.
    pub stream_timeout: Duration,
    /// Where this scheduler runs: only for people.
    pub scheduler: SchedulerReport,
}

impl Default for CoreConfig {
    fn default() -> Self {
        CoreConfig {
            epoch: Epoch(1),
            workers: 0,
            first_record: JournalSeq(1),
            first_allocation: 1,
            unix_nanos_at_zero: 0,
            heartbeat: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            death_timeout: Duration::from_secs(120),
            max_workers_lost: 3,
            workers_per_allocation: 1,
            max_pending_allocations: 100,
            max_submits_per_minute: 30,
            worker_shape: None,
            poll_interval: Duration::from_secs(30),
            keep_settled: 2_000_000,
            // At three a second that is a day.
            keep_answers: 250_000,
            stream_timeout: Duration::from_secs(60),
            scheduler: SchedulerReport::default(),
        }
    }
}

/// How far beyond `death_timeout` a lost worker's commands are left alone (DESIGN: both clocks are read coarsely).
const LOST_COMMAND_MARGIN: Duration = Duration::from_secs(30);
/// After a restart, commands in doubt wait this much beyond `death_timeout`.
const RECOVERY_MARGIN: Duration = Duration::from_secs(60);

/// Weight of the newest duration in a family's mean.
const DURATION_WEIGHT: f64 = 0.1;

/// Tasks with the same resources share a queue, oldest graph and lowest index first.
struct Class {
    resources: Resources,
    ready: Ready,
}

/// Tasks of one operation name, over all graphs.
struct Family {
    name: String,
    counts: Counts,
    /// Exponentially weighted; 0: nothing known yet.
    mean_micros: f64,
}

pub struct Core {
    config: CoreConfig,
    now: Time,
    started: Time,
    graphs: FastMap<GraphId, GraphState>,
    next_graph: u32,
    /// Settled graphs, oldest first, for forgetting.
    settled_graphs: VecDeque<GraphId>,
    settled_tasks: u64,
    /// What the scheduler keeps for them.
    settled_bytes: u64,
    /// Graphs whose stream is broken off, and when to give it up.
    broken_streams: BTreeMap<GraphId, Time>,
    names: HashMap<String, TaskId>,
    requests: HashMap<RequestId, ingest::Answered>,
    /// Cancels and scalings among those, the oldest first.
    answers: VecDeque<RequestId>,
    families: Vec<Family>,
    family_index: HashMap<String, u32>,
    classes: Vec<Class>,
    class_index: HashMap<Resources, u32>,
    workers: Workers,
    clients: Clients,
    allocations: Allocations,
    /// Accepted outputs without a worker to bring them to their place.
    unplaced_outputs: Vec<TaskId>,
    /// What graphs that failed have left, until a worker is there to remove it.
    leftovers: Vec<PendingOutput>,
    replication: replicas::Replication,
    /// Tasks whose inputs were made again because no worker could reach all of them, and when.
    lost_routes: FastMap<TaskId, Time>,
    /// Values that nobody needs once this record is durable.
    releasable: VecDeque<(JournalSeq, TaskId)>,
    /// The number that the next record gets.
    next_seq: JournalSeq,
    /// Everything up to this record is on disk.
    durable: JournalSeq,
    fates: Vec<(Execution, Fate)>,
    /// Whether those tell more than ends of kernels.
    fates_bind: bool,
    /// The last record that tells more than ends of kernels. A restart finds those out again: the worker repeats them,
    /// or the kernels, which are pure, run again.
    binding: JournalSeq,
    outbox: Outbox,
    next_sweep: Time,
    /// When this core last came to a conclusion.
    last_step: Time,
    going_down: Option<clients::GoingDown>,
    /// Records are being folded: values count as there until all of them are read.
    replaying: bool,
    /// After a restart, until former workers have come back or were waited for long enough.
    recovery: Option<recovery::Recovery>,
}

impl Core {
    pub fn new(config: CoreConfig, now: Time) -> Core {
        Core {
            now,
            started: now,
            graphs: FastMap::default(),
            next_graph: 1,
            settled_graphs: VecDeque::new(),
            settled_tasks: 0,
            settled_bytes: 0,
            broken_streams: BTreeMap::new(),
            names: HashMap::new(),
            requests: HashMap::new(),
            answers: VecDeque::new(),
            families: Vec::new(),
            family_index: HashMap::new(),
            classes: Vec::new(),
            class_index: HashMap::new(),
            workers: Workers::default(),
            clients: Clients::default(),
            allocations: Allocations::new(config.first_allocation, config.workers),
            unplaced_outputs: Vec::new(),
            leftovers: Vec::new(),
            replication: replicas::Replication::default(),
            lost_routes: FastMap::default(),
            releasable: VecDeque::new(),
            next_seq: config.first_record,
            durable: JournalSeq(config.first_record.0 - 1),
            fates: Vec::new(),
            fates_bind: false,
            binding: JournalSeq(0),
            outbox: Outbox::default(),
            next_sweep: now,
            last_step: now,
            going_down: None,
            replaying: false,
            recovery: None,
            config,
        }
    }

    /// Takes one event in. Its consequences come out here or at the next [`Core::settle_down`].
    pub fn handle(&mut self, now: Time, event: Event, out: &mut Vec<Action>) {
        self.now = now;
        match event {
            Event::FromWorker { peer, message } => self.on_worker_message(peer, message, out),
            Event::FromClient { peer, message } => self.on_client_message(peer, message, out),
            Event::PeerLost { peer, reason } => self.on_peer_lost(peer, &reason, out),
            Event::LeftBehind { worker, completions } => self.on_left_behind(worker, completions),
            Event::Durable(seq) => self.on_durable(seq),
            Event::Submitted { allocation, outcome } => self.on_submitted(allocation, outcome, out),
            Event::Polled(statuses) => self.on_polled(statuses, out),
            Event::PollFailed { words } => self.on_poll_failed(words),
            Event::Tick => {}
        }
    }

    /// Places what is ready, scales, and flushes everything gathered since the last call: one message of a kind a
    /// peer, the records first.
    pub fn settle_down(&mut self, now: Time, out: &mut Vec<Action>) {
        self.now = now;
        self.note_stall();
        if self.now >= self.next_sweep {
            self.sweep(out);
        }
        self.place_outputs();
        self.discard_leftovers();
        self.end_recovery();
        self.place();
        self.replicate();
        self.scale(out);
        self.flush_fates(out);
        self.flush_outbox(out);
        self.tell_clients(out);
        self.forget_history(out);
        self.go_down(out);
    }

    /// When to call again with a tick, if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        let sweep = (self.workers.any_alive() || !self.broken_streams.is_empty()).then_some(self.next_sweep);
        [
            sweep,
            self.clients.deadline(),
            self.recovery_deadline(),
            // Nothing more is asked for at the end.
            self.allocations.deadline().filter(|_| self.going_down.is_none()),
            self.going_down.as_ref().map(|d| d.deadline()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// While this process stood still (stopped, swapped out, busy) it heard nobody, and that was nobody's silence.
    fn note_stall(&mut self) {
        let stood_still = self.now.since(std::mem::replace(&mut self.last_step, self.now));
        if stood_still > self.config.heartbeat {
            self.workers.excuse_silence(stood_still);
        }
    }

    /// What is due by the clock alone: silent workers, commands long in doubt, broken streams.
    fn sweep(&mut self, out: &mut Vec<Action>) {
        self.next_sweep = self.now.plus(self.config.heartbeat / 2);
        self.sweep_workers(out);
        self.sweep_streams(out);
        self.lost_routes.retain(|_, at| self.now.since(*at) < placing::ROUTE_PATIENCE);
    }

    fn on_durable(&mut self, seq: JournalSeq) {
        self.durable = seq;
        self.release_due(seq);
    }

    fn unix_seconds(&self, at: Time) -> u64 {
        (self.config.unix_nanos_at_zero + at.0) / 1_000_000_000
    }

    /// Notes a fate for the record that this batch will write; returns that record's number.
    fn note_fate(&mut self, execution: Execution, fate: Fate) -> JournalSeq {
        self.fates_bind |= !matches!(fate, Fate::Held { .. });
        self.fates.push((execution, fate));
        self.next_seq
    }

    /// What replay has noted is journalled already.
    fn drop_fates(&mut self) {
        self.fates.clear();
        self.fates_bind = false;
    }

    fn flush_fates(&mut self, out: &mut Vec<Action>) {
        if !self.fates.is_empty() {
            let (fates, binding) = (std::mem::take(&mut self.fates), self.binding);
            self.persist(Record::Fates(fates), out);
            if !std::mem::take(&mut self.fates_bind) {
                self.binding = binding;
            }
        }
    }

    /// Hands a record to the journal, after the fates that are gathered: they happened before it.
    fn persist(&mut self, record: Record, out: &mut Vec<Action>) -> JournalSeq {
        if !self.fates.is_empty() && !matches!(record, Record::Fates(_)) {
            self.flush_fates(out);
        }
        let seq = self.next_seq;
        self.next_seq = JournalSeq(seq.0 + 1);
        self.binding = seq;
        out.push(Action::Persist { seq, record });
        seq
    }

    /// The last record that exists or is being gathered: what is sent after it, is sent after everything so far.
    fn everything_so_far(&self) -> Option<JournalSeq> {
        let last = if self.fates.is_empty() { self.next_seq.0 - 1 } else { self.next_seq.0 };
        (last > 0).then_some(JournalSeq(last))
    }

    /// The last record that must be durable before anybody is told how tasks stand.
    fn everything_that_binds(&self) -> Option<JournalSeq> {
        let last = if self.fates_bind { self.next_seq } else { self.binding };
        (last.0 > 0).then_some(last)
    }

    fn close(&self, peer: PeerId, reason: &str, out: &mut Vec<Action>) {
        out.push(Action::Close { peer, reason: reason.to_owned() });
    }
}
