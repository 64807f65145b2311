//! The scheduler's shell: it accepts links, feeds the core with what has arrived, and performs what the core wants.
//! One loop owns the core; no timer stands between an event and its consequence.

mod claim;
mod desk;
mod ending;
mod ground;
mod janitor;
mod launcher;
mod lease;
mod links;
pub mod own_job;
pub mod past;
mod relay;
mod relieve;

pub use ground::transport;

use super::core::{Core, Replay};
use super::event::{Action, Event, JournalSeq, PeerId, Time};
use super::record::Record;
use super::relay::{Due, Relay, SUCCESSOR, Successor, wish};
use super::spec::ClusterSpec;
use crate::graph::GraphId;
use crate::journal::Journal;
use crate::net::{Alarm, Frame, Listener};
use crate::protocol::{
    FolderReport, FromClient, FromWorker, LeftBehind, PeerKind, RefusalKind, Reply, Request, ToClient,
};
use crate::state::lease::{SILENT_AFTER, Standstill};
use crate::state::{ClusterFile, Contact, Fence, Role, StateDir, grant};
use anyhow::{Context as _, bail};
use launcher::{Command, Launcher};
use lease::{LeaseKeeper, Pulse, Told};
use links::Peers;
use own_job::OwnJob;
use relieve::Relief;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

/// Events that wait for the core; whoever sends more waits.
const EVENT_QUEUE: usize = 8192;
/// Events taken at once: more makes the first of them wait for its answer.
const BATCH: usize = 4096;
/// Links are numbered from 1.
const NOBODY: PeerId = PeerId(0);

/// What reaches the main loop.
pub(crate) enum Incoming {
    Connected {
        peer: PeerId,
        kind: PeerKind,
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
    /// What the cluster's folder takes.
    Folder(FolderReport),
    /// This scheduler must not act any more.
    Fatal(String),
}

/// How a scheduler was started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The lease, as whoever started this one has watched it.
    pub stood_still: Option<Standstill>,
    /// The name of the batch job that it is in.
    pub job_name: Option<String>,
}

/// What the holder of an epoch has in its hands.
struct Seat<'a> {
    state: &'a StateDir,
    file: ClusterFile,
    spec: ClusterSpec,
    job: Option<&'a OwnJob>,
    listener: Listener,
    fence: Fence,
    clock: Clock,
    lease: LeaseKeeper,
}

/// Runs the scheduler of a cluster until it goes down or another one takes over, going on from where older epochs
/// left. Returns at once where another scheduler lives.
///
/// # Errors
/// The state directory, the network or the batch system of the cluster can't be used; or another scheduler took over.
pub async fn serve(state: StateDir, start: Start) -> anyhow::Result<()> {
    let file = state.read_cluster()?.context("cluster.toml is missing: `jq up` writes it")?;
    let spec: ClusterSpec = file.spec_as()?;
    let Some(name) = &start.job_name else { return sit(&state, file, spec, None, start.stood_still).await };
    let job = OwnJob::find(&state, &spec, name).await?;
    if let Some(words) = job.cannot_submit(&state, &spec).await? {
        job.settle(&state, &words);
        bail!("{words}");
    }
    let ended = sit(&state, file, spec, Some(&job), start.stood_still).await;
    let reason = ended.as_ref().err().map_or("it is done".to_owned(), |error| format!("{error:#}"));
    job.settle(&state, &reason);
    ended
}

/// Becomes the scheduler, if there is none, and is it until the end.
async fn sit(
    state: &StateDir,
    file: ClusterFile,
    spec: ClusterSpec,
    job: Option<&OwnJob>,
    stood_still: Option<Standstill>,
) -> anyhow::Result<()> {
    let host = crate::net::listen::host_name().unwrap_or_default();
    let note = format!("pid {} on {host}", std::process::id());
    // Before the claim, so that who is relieved can name the address.
    let listener = ground::listen(&spec.settings)?;
    if let Some(job) = job
        && relieve::relieve(state, &spec, job, &listener.addresses()).await? == Relief::NotWanted
    {
        return Ok(());
    }
    let Some(epoch) = claim::claim(state, (&spec, &file.life), &note, stood_still).await? else {
        return Ok(());
    };
    let clock = Clock::start();
    info!("epoch {} of cluster {} ({note})", epoch.number, state.name());
    let (events, incoming) = mpsc::channel(EVENT_QUEUE);
    let lease = LeaseKeeper::start(state, &epoch.fence, &events)?;
    hold(Seat { state, file, spec, job, listener, fence: epoch.fence, clock, lease }, events, incoming).await
}

/// What the holder of an epoch does.
async fn hold(
    seat: Seat<'_>,
    events: mpsc::Sender<Incoming>,
    incoming: mpsc::Receiver<Incoming>,
) -> anyhow::Result<()> {
    let Seat { state, file, spec, job, listener, fence, clock, lease } = seat;
    let epoch = fence.epoch();
    let mut launcher = Launcher::new(state, &spec, (&fence, lease.pulse()), events.clone())?;
    let scheduler = ground::scheduler_report(state, &spec, job);
    let config = ground::core_config(&spec, epoch, launcher.last_allocation() + 1, scheduler);
    let (mut core, journal) = resume(state, Replay::new(config, clock.now()), &fence, &clock, &events)?;
    let mut actions = Vec::new();
    core.take_over_allocations(&launcher.asked_for_before(), &mut actions);
    let inherited = launcher.inherit(&core.allocations_to_ask_about());
    let predecessor = state.sound_contact()?.map_or(String::new(), |contact| contact.job_name);
    launcher.settle_launches(job.map_or("", |job| &job.name), &predecessor);
    let left = past::left_behind(state, &file.life)?;
    let transport = ground::transport(state, &spec, Role::Scheduler)?;
    // Nothing that can fail comes after this: who sees the contact finds a scheduler.
    let contact = ground::contact(state, &listener, epoch, &file, job)?;
    state.write_contact(&contact)?;
    announce(state, &contact);
    let life = file.life.clone();
    let _ = lease.told().set(Told { contact, file });
    info!("listening {} ms after the claim", clock.now().0 / 1_000_000);
    let (commands, launched) = mpsc::unbounded_channel();
    tokio::spawn(launcher.run(launched));
    let (forgotten, to_forget) = mpsc::unbounded_channel();
    let limits = spec.settings.limits.clone();
    tokio::spawn(janitor::run(state.clone(), limits, to_forget, events.clone()));
    let mut shell = Shell {
        core,
        relay: relay::relay_of(job, clock.now()),
        clock,
        pulse: lease.pulse(),
        peers: Peers::new(JournalSeq(journal.next_seq().saturating_sub(1))),
        journal,
        commands,
        accepting: tokio::spawn(links::accept_all(listener, transport, state.clone(), events)),
        state: state.clone(),
        fence,
        lease: Some(lease),
        waiting: Vec::new(),
        spent: Vec::new(),
        to_forget: VecDeque::new(),
        forgotten,
        owned: spec.owned,
        exit: None,
        broken: None,
        let_go: None,
        successor: None,
    };
    shell.start(inherited, left, actions);
    let ended = shell.run(incoming).await;
    if let (Some(_), Some(lease)) = (&shell.exit, &shell.lease) {
        lease.end(&life);
    }
    ended
}

/// Tells bearers of grants where this scheduler is, beside its work: the places are others' file systems.
fn announce(state: &StateDir, contact: &Contact) {
    let (state, contact) = (state.clone(), contact.clone());
    tokio::task::spawn_blocking(move || {
        for error in grant::announce(&state, &contact) {
            warn!("a grant's bearer isn't told where this scheduler is: {error}");
        }
    });
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
    let mut core = replay.finish(past::seal_of(&history))?;
    core.scheduler_report().journal_cut = history.torn.as_ref().map_or(String::new(), ToString::to_string);
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
    commands: mpsc::UnboundedSender<Command>,
    accepting: tokio::task::JoinHandle<()>,
    state: StateDir,
    fence: Fence,
    /// Until it is given up.
    lease: Option<LeaseKeeper>,
    relay: Relay,
    /// Submits and cancels whose reason isn't durable yet.
    waiting: Vec<(JournalSeq, Command)>,
    /// Files to remove once these records are durable.
    spent: Vec<(JournalSeq, PathBuf)>,
    /// Graphs that are forgotten once that record is durable.
    to_forget: VecDeque<(JournalSeq, GraphId)>,
    /// Where they go then.
    forgotten: mpsc::UnboundedSender<GraphId>,
    /// To be asked to end is the cluster's end.
    owned: bool,
    /// Set when the cluster is over, with the reason.
    exit: Option<String>,
    /// Set when nothing may be promised any more.
    broken: Option<String>,
    /// Set when this process has to end and the cluster hasn't, with the reason.
    let_go: Option<String>,
    /// Who takes over.
    successor: Option<Successor>,
}

impl Shell {
    /// `inherited`: what is known of older epochs' jobs; `left`: what their workers left behind; `actions`: what taking
    /// over came to.
    fn start(
        &mut self,
        inherited: Option<Event>,
        left: Vec<(PathBuf, LeftBehind)>,
        mut actions: Vec<Action>,
    ) {
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
        let (mut tick, mut relay_tick) = (Alarm::new(), Alarm::new());
        let mut batch = Vec::new();
        loop {
            tick.set(self.core.deadline().map(|time| self.clock.instant(time)));
            relay_tick.set(self.relay.deadline().map(|time| self.clock.instant(time)));
            let mut actions = Vec::new();
            tokio::select! {
                taken = incoming.recv_many(&mut batch, BATCH) => if taken == 0 {
                    bail!("the event queue is closed");
                },
                () = tick.rings() => self.core.handle(self.clock.now(), Event::Tick, &mut actions),
                () = relay_tick.rings() => self.on_relay_due(),
                _ = terminate.recv() => self.on_terminate(&mut actions),
                _ = interrupt.recv() => self.let_go = Some("SIGINT".to_owned()),
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
            if let Some(reason) = self.let_go.take() {
                info!("this scheduler lets go: {reason}");
                let successor = self.successor.take();
                self.let_go(&mut incoming, successor).await;
                return Ok(());
            }
        }
    }

    fn on_terminate(&mut self, actions: &mut Vec<Action>) {
        if !self.owned {
            self.let_go = Some("SIGTERM".to_owned());
            return;
        }
        // The batch job that it runs in ends, and may leave no time for more than a word to the workers.
        info!("SIGTERM: the cluster goes down with its owner");
        let message = FromClient { call: 0, request: Request::Down { drain_ms: 0 } };
        self.core.handle(self.clock.now(), Event::FromClient { peer: NOBODY, message }, actions);
    }

    fn on_relay_due(&mut self) {
        match self.relay.due(self.clock.now()) {
            // As before every effect: nobody may have taken over.
            Some(Due::Ask) => match self.fence.check() {
                Ok(()) => self.command(Command::Submit(SUCCESSOR)),
                Err(error) => drop(self.broken.get_or_insert(error.to_string())),
            },
            Some(Due::LetGo) => self.let_go = Some("its walltime is nearly over".to_owned()),
            None => {}
        }
    }

    /// Somebody wants to relieve this scheduler.
    fn on_wish(&mut self, successor: Successor, job_name: &str) {
        if relay::admits(&self.state, self.fence.epoch(), job_name) {
            self.let_go = Some(format!("job {job_name} takes over"));
            self.successor = Some(successor);
            return;
        }
        let reason = format!("job {job_name} is not the one that is to relieve it");
        let reply = Reply::Refused { kind: RefusalKind::Unavailable, reason };
        self.peers.tell_client(successor.peer, ToClient { call: successor.call, reply }, None);
    }

    fn take(&mut self, incoming: Incoming, actions: &mut Vec<Action>) -> anyhow::Result<()> {
        let now = self.clock.now();
        match incoming {
            Incoming::Connected { peer, kind, frames } => self.peers.add(peer, kind, frames),
            Incoming::FromWorker { peer, messages } if self.peers.contains(peer) => {
                for message in messages {
                    self.core.handle(now, Event::FromWorker { peer, message }, actions);
                }
            }
            Incoming::FromClient { peer, mut messages } if self.peers.contains(peer) => {
                if let Some((successor, job_name)) = wish(peer, &mut messages) {
                    self.on_wish(successor, &job_name);
                }
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
                if let Some((pause, words)) = self.relay.hear(&event, now) {
                    let seconds = pause.as_secs();
                    warn!(
                        "the successor's job came to nothing, another is asked for in {seconds} s: {words}"
                    );
                }
                self.core.handle(now, event, actions);
            }
            Incoming::Folder(report) => self.core.scheduler_report().folder = report,
            Incoming::Fatal(reason) => bail!("this scheduler must stop: {reason}"),
        }
        Ok(())
    }

    fn on_durable(&mut self, seq: JournalSeq) {
        self.peers.durable(seq);
        self.remove_spent(seq);
        while let Some((_, graph)) = self.to_forget.pop_front_if(|(after, _)| *after <= seq) {
            // The janitor lives as long as this loop.
            let _ = self.forgotten.send(graph);
        }
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
}
