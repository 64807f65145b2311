//! The scheduler's shell: it accepts links, feeds the core with what has arrived, and performs what the core wants.
//! One loop owns the core; no timer stands between an event and its consequence.

mod claim;
mod ground;
mod janitor;
mod launcher;
mod lease;
mod links;
pub mod past;

pub use ground::transport;

use super::core::{Core, Replay};
use super::event::{Action, Event, JournalSeq, PeerId, Time};
use super::record::Record;
use super::spec::ClusterSpec;
use crate::graph::GraphId;
use crate::journal::Journal;
use crate::net::Frame;
use crate::protocol::{FromClient, FromWorker, LeftBehind, Request};
use crate::state::lease::{SILENT_AFTER, Standstill};
use crate::state::{ClusterFile, Fence, Role, StateDir};
use anyhow::{Context as _, bail};
use launcher::{Command, Launcher};
use lease::{LeaseKeeper, Pulse};
use links::Peers;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

/// Events that wait for the core; whoever sends more waits.
const EVENT_QUEUE: usize = 8192;
/// Events taken at once: more makes the first of them wait for its answer.
const BATCH: usize = 4096;
/// For the last cancels at the end of a cluster.
const FINISH_TIMEOUT: Duration = Duration::from_secs(60);

/// Links are numbered from 1.
const NOBODY: PeerId = PeerId(0);

/// What reaches the main loop.
pub(crate) enum Incoming {
    Connected {
        peer: PeerId,
        frames: mpsc::Sender<Frame>,
    },
    FromWorker {
        peer: PeerId,
        messages: Vec<FromWorker>,
    },
    FromClient {
        peer: PeerId,
        messages: Vec<FromClient>,
    },
    Lost {
        peer: PeerId,
        reason: String,
    },
    Core(Event),
    /// This scheduler must not act any more.
    Fatal(String),
}

/// Runs the scheduler of a cluster until it goes down, going on from where older epochs left. Returns at once where
/// another scheduler lives. `stood_still`: the lease, as whoever started this one has watched it.
///
/// # Errors
/// The state directory, the network or the batch system of the cluster can't be used; or another scheduler took over.
pub async fn serve(state: StateDir, stood_still: Option<Standstill>) -> anyhow::Result<()> {
    let file = state.read_cluster()?.context("cluster.toml is missing: `jq up` writes it")?;
    let host = crate::net::listen::host_name().unwrap_or_default();
    let note = format!("pid {} on {host}", std::process::id());
    let Some(epoch) = claim::claim(&state, &note, stood_still).await? else { return Ok(()) };
    let clock = Clock::start();
    info!("epoch {} of cluster {} ({note})", epoch.number, state.name());
    let (events, incoming) = mpsc::channel(EVENT_QUEUE);
    let lease = LeaseKeeper::start(&state, &epoch.fence, &events)?;
    let ended = hold(&state, &file, &epoch.fence, clock, lease.pulse(), events, incoming).await;
    lease.release();
    ended
}

/// What the holder of an epoch does.
async fn hold(
    state: &StateDir,
    file: &ClusterFile,
    fence: &Fence,
    clock: Clock,
    pulse: Pulse,
    events: mpsc::Sender<Incoming>,
    incoming: mpsc::Receiver<Incoming>,
) -> anyhow::Result<()> {
    let spec: ClusterSpec = file.spec_as()?;
    let epoch = fence.epoch();
    let mut launcher = Launcher::new(state.clone(), spec.clone(), epoch, events.clone())?;
    let config = ground::core_config(&spec, epoch, launcher.last_allocation() + 1);
    let (core, journal) = resume(state, Replay::new(config, clock.now()), fence, &clock, &events)?;
    let inherited = launcher.inherit(&core.allocations_to_ask_about());
    let left = past::left_behind(state, &file.life)?;
    let transport = ground::transport(state, &spec, Role::Scheduler)?;
    let listener = ground::listen(&spec.settings)?;
    let own_fence = fence.try_clone()?;
    // Nothing that can fail comes after this: who sees the contact finds a scheduler.
    state.write_contact(&ground::contact(state, &listener, epoch, file)?)?;
    info!("listening {} ms after the claim", clock.now().0 / 1_000_000);
    let (commands, launched) = mpsc::unbounded_channel();
    tokio::spawn(launcher.run(launched));
    tokio::spawn(links::accept_all(listener, transport, events));
    let (forgotten, to_forget) = mpsc::unbounded_channel();
    tokio::spawn(janitor::run(state.clone(), to_forget));
    let peers = Peers::new(JournalSeq(journal.next_seq().saturating_sub(1)));
    let mut shell = Shell {
        core,
        clock,
        pulse,
        peers,
        journal,
        fence: own_fence,
        commands,
        waiting: Vec::new(),
        to_forget: VecDeque::new(),
        forgotten,
        spent: Vec::new(),
        owned: spec.owned,
        exit: None,
        broken: None,
    };
    shell.start(inherited, left);
    let ended = shell.run(incoming).await;
    let is_ours = state.read_contact()?.is_some_and(|contact| contact.epoch == epoch);
    if shell.exit.is_some() && is_ours {
        state.remove_contact()?;
    }
    ended
}

/// Replays the journal of older epochs, and begins this one's after it.
fn resume(
    state: &StateDir,
    mut replay: Replay,
    fence: &Fence,
    clock: &Clock,
    events: &mpsc::Sender<Incoming>,
) -> anyhow::Result<(Core, Journal)> {
    let began = clock.now();
    let history = past::read(state, |record| replay.apply(record))?;
    if let Some(damage) = &history.damage {
        let name = state.name();
        bail!(
            "{damage}. Nothing was changed. `jq doctor --repair --name {name}` keeps all that is sound, and says \
             what is lost; `jq up --replace` gives all its work up and starts afresh"
        );
    }
    if let Some(torn) = &history.torn {
        warn!("{torn}");
    }
    let core = replay.finish(past::seal_of(&history))?;
    let journal = past::begin(state, &history, fence, events)?;
    if history.records > 0 {
        let status = core.status();
        info!(
            "resumed from {} records, {} bytes, in {} ms: {} graphs, {} tasks open, {} values awaited, {} tasks settled",
            history.records,
            history.segments.iter().map(|segment| segment.nbytes).sum::<u64>(),
            clock.now().since(began).as_millis(),
            status.graphs,
            status.counts.open() - status.awaited,
            status.awaited,
            status.counts.settled(),
        );
    }
    Ok((core, journal))
}

/// This process's monotonic clock.
struct Clock(Instant);

impl Clock {
    fn start() -> Clock {
        Clock(Instant::now())
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn instant(&self, time: Time) -> tokio::time::Instant {
        (self.0 + Duration::from_nanos(time.0)).into()
    }
}

struct Shell {
    core: Core,
    clock: Clock,
    pulse: Pulse,
    peers: Peers,
    journal: Journal,
    fence: Fence,
    commands: mpsc::UnboundedSender<Command>,
    /// Submits and cancels whose reason isn't durable yet.
    waiting: Vec<(JournalSeq, Command)>,
    /// Graphs that are forgotten once that record is durable.
    to_forget: VecDeque<(JournalSeq, GraphId)>,
    /// Where they go then.
    forgotten: mpsc::UnboundedSender<GraphId>,
    /// Files to remove once these records are durable.
    spent: Vec<(JournalSeq, PathBuf)>,
    /// To be asked to end is the cluster's end.
    owned: bool,
    /// Set when the cluster is over, with the reason.
    exit: Option<String>,
    /// Set when nothing may be promised any more.
    broken: Option<String>,
}

impl Shell {
    /// `inherited`: what is known of older epochs' jobs; `left`: what their workers left behind.
    fn start(&mut self, inherited: Option<Event>, left: Vec<(PathBuf, LeftBehind)>) {
        let mut actions = Vec::new();
        if let Some(event) = inherited {
            self.core.handle(self.clock.now(), event, &mut actions);
        }
        let mut files = Vec::new();
        for (path, LeftBehind { worker, completions, .. }) in left {
            info!("{} results that {worker} left behind are taken", completions.len());
            let event = Event::LeftBehind { worker, completions };
            self.core.handle(self.clock.now(), event, &mut actions);
            files.push(path);
        }
        self.settle(actions);
        let last = JournalSeq(self.journal.next_seq().saturating_sub(1));
        self.spent.extend(files.into_iter().map(|path| (last, path)));
        self.remove_spent(self.peers.durable_so_far());
    }

    /// What was left behind is in the journal now.
    fn remove_spent(&mut self, durable: JournalSeq) {
        for (_, path) in self.spent.extract_if(.., |(after, _)| *after <= durable) {
            if let Err(error) = std::fs::remove_file(&path) {
                error!("{}: {error}", path.display());
            }
        }
    }

    async fn run(&mut self, mut incoming: mpsc::Receiver<Incoming>) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut batch = Vec::new();
        loop {
            let deadline = self.core.deadline().map(|time| self.clock.instant(time));
            let tick = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let mut actions = Vec::new();
            tokio::select! {
                taken = incoming.recv_many(&mut batch, BATCH) => if taken == 0 {
                    bail!("the event queue is closed");
                },
                () = tick => self.core.handle(self.clock.now(), Event::Tick, &mut actions),
                _ = terminate.recv() => {
                    if !self.owned {
                        bail!("ended by SIGTERM");
                    }
                    // The batch job that it runs in ends, and may leave no time for more than a word to the workers.
                    info!("SIGTERM: the cluster goes down with its owner");
                    let message = FromClient { call: 0, request: Request::Down { drain_ms: 0 } };
                    self.core.handle(self.clock.now(), Event::FromClient { peer: NOBODY, message }, &mut actions);
                }
                _ = interrupt.recv() => bail!("ended by SIGINT"),
            }
            for event in batch.drain(..) {
                self.take(event, &mut actions)?;
            }
            self.settle(actions);
            if let Some(reason) = self.exit.take() {
                info!("the cluster ends: {reason}");
                self.finish(&mut incoming).await;
                self.exit = Some(reason);
                return Ok(());
            }
            if let Some(reason) = self.broken.take() {
                bail!("this scheduler must stop: {reason}");
            }
        }
    }

    fn take(&mut self, incoming: Incoming, actions: &mut Vec<Action>) -> anyhow::Result<()> {
        let now = self.clock.now();
        match incoming {
            Incoming::Connected { peer, frames } => self.peers.add(peer, frames),
            Incoming::FromWorker { peer, messages } if self.peers.contains(peer) => {
                for message in messages {
                    self.core.handle(now, Event::FromWorker { peer, message }, actions);
                }
            }
            Incoming::FromClient { peer, messages } if self.peers.contains(peer) => {
                for message in messages {
                    self.core.handle(now, Event::FromClient { peer, message }, actions);
                }
            }
            Incoming::FromWorker { .. } | Incoming::FromClient { .. } => {}
            Incoming::Lost { peer, reason } => {
                self.peers.remove(peer);
                self.core.handle(now, Event::PeerLost { peer, reason }, actions);
            }
            Incoming::Core(event) => {
                if let Event::Durable(seq) = event {
                    self.on_durable(seq);
                }
                self.core.handle(now, event, actions);
            }
            Incoming::Fatal(reason) => bail!("this scheduler must stop: {reason}"),
        }
        Ok(())
    }

    fn on_durable(&mut self, seq: JournalSeq) {
        self.peers.durable(seq);
        while let Some((_, graph)) = self.to_forget.pop_front_if(|(after, _)| *after <= seq) {
            // The janitor lives as long as this loop.
            let _ = self.forgotten.send(graph);
        }
        self.remove_spent(seq);
        let ready: Vec<_> = self.waiting.extract_if(.., |(after, _)| *after <= seq).collect();
        for (_, command) in ready {
            self.command(command);
        }
    }

    /// Lets the core draw its conclusions, performs them, and flushes.
    fn settle(&mut self, mut actions: Vec<Action>) {
        self.core.settle_down(self.clock.now(), &mut actions);
        for action in actions {
            self.perform(action);
        }
        self.flush();
        if self.journal.wants_snapshot() {
            self.snapshot();
        }
    }

    /// Lets the journal begin anew from what there is now. Only copying it is done here; encoding and writing, and the
    /// look at the fence before anything older goes, belong to the journal's threads.
    fn snapshot(&mut self) {
        let fence = match self.fence.try_clone() {
            Ok(fence) => fence,
            Err(error) => return error!("no snapshot of the journal: {error}"),
        };
        if let Err(error) = past::begin_anew(&mut self.journal, self.core.snapshot(), fence) {
            self.broken.get_or_insert(error);
        }
    }

    fn flush(&mut self) {
        if self.pulse.has_stopped() {
            let seconds = SILENT_AFTER.as_secs();
            self.broken.get_or_insert(format!("its lease could not be renewed for {seconds} s"));
            return;
        }
        for peer in self.peers.flush() {
            // Its reader or writer notices that the other half is gone, and reports it lost.
            error!("link {} takes nothing any more and is closed", peer.0);
            self.peers.remove(peer);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Persist { seq, record } => self.persist(seq, &record),
            Action::ToWorker { peer, message, after } => self.peers.tell_worker(peer, message, after),
            Action::ToClient { peer, message, after } => self.peers.tell_client(peer, message, after),
            Action::Close { peer, reason } => {
                info!("link {} is closed: {reason}", peer.0);
                // What was said to it still goes out.
                self.flush();
                self.peers.remove(peer);
            }
            Action::Submit { allocation, after } => self.waiting.push((after, Command::Submit(allocation))),
            Action::CancelAllocations { allocations, after } => {
                let cancelled =
                    |command: &Command| matches!(command, Command::Submit(id) if allocations.contains(id));
                self.waiting.retain(|(_, command)| !cancelled(command));
                match after.filter(|after| *after > self.peers.durable_so_far()) {
                    Some(after) => self.waiting.push((after, Command::Cancel(allocations))),
                    None => self.command(Command::Cancel(allocations)),
                }
            }
            Action::Poll => self.command(Command::Poll),
            Action::Exit { reason } => self.exit = Some(reason),
        }
    }

    /// A record that can't be appended leaves a gap that nothing may follow: the scheduler stops.
    fn persist(&mut self, seq: JournalSeq, record: &Record) {
        if let Err(reason) = past::append(&mut self.journal, seq, record) {
            error!("{reason}");
            self.broken.get_or_insert(format!("the journal can't go on: {reason}"));
        }
        if let Record::Forgotten { graph } = record {
            self.to_forget.push_back((seq, *graph));
        }
    }

    fn command(&mut self, command: Command) {
        if self.pulse.has_stopped() {
            return;
        }
        // The launcher lives as long as this loop.
        let _ = self.commands.send(command);
    }

    /// Waits for the last records to be durable, the last answers to be written and the last cancels to be done.
    async fn finish(&mut self, incoming: &mut mpsc::Receiver<Incoming>) {
        let (done, mut finished) = oneshot::channel();
        let mut done = Some(done);
        let until = tokio::time::Instant::now() + FINISH_TIMEOUT;
        let mut launcher_done = false;
        while !launcher_done || self.journal.backlog_bytes() > 0 {
            // The last cancels are on their way to the launcher: it may end after them.
            if self.waiting.is_empty()
                && let Some(done) = done.take()
            {
                self.command(Command::Finish(done));
            }
            tokio::select! {
                _ = &mut finished, if !launcher_done => launcher_done = true,
                event = incoming.recv() => match event {
                    Some(Incoming::Core(Event::Durable(seq))) => self.on_durable(seq),
                    Some(Incoming::Fatal(reason)) => return error!("{reason}"),
                    Some(_) => {}
                    None => return,
                },
                () = tokio::time::sleep_until(until) => {
                    error!("the batch system didn't take the last cancels within {} s", FINISH_TIMEOUT.as_secs());
                    break;
                }
            }
        }
        while let Ok(event) = incoming.try_recv() {
            if let Incoming::Core(Event::Durable(seq)) = event {
                self.peers.durable(seq);
            }
        }
        self.flush();
        for peer in self.peers.ids() {
            self.peers.remove(peer);
        }
        // Writers end once their queues are empty; a link that is stuck must not hold the process.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
