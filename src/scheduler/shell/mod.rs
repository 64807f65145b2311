//! The scheduler's shell: it accepts links, feeds the core with what has arrived, and performs what the core wants.
//! One loop owns the core; no timer stands between an event and its consequence.

mod desk;
mod launcher;
mod links;

use super::core::{Core, CoreConfig};
use super::event::{Action, Event, JournalSeq, PeerId, Time};
use super::record::Record;
use super::spec::ClusterSpec;
use crate::config::Settings;
use crate::graph::Resources;
use crate::journal::{self, Entry, Journal, Progress};
use crate::net::{Frame, Listener, Transport};
use crate::protocol::{self, FromClient, FromWorker, Request};
use crate::state::lease::{BEAT_EVERY, Lease, SILENT_AFTER};
use crate::state::{self, Contact, Fence, Holder, Role, StateDir};
use anyhow::{Context as _, bail};
use launcher::{Command, Launcher};
use links::Peers;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

/// Events that wait for the core; whoever sends more waits.
const EVENT_QUEUE: usize = 8192;
/// Events taken at once: more makes the first of them wait for its answer.
const BATCH: usize = 4096;
/// Kind and version of the core's records in the journal.
const RECORD_KIND: u8 = 1;
const RECORD_VERSION: u8 = 1;
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

/// Runs the scheduler of a cluster until it goes down.
///
/// # Errors
/// The state directory, the network or the batch system of the cluster can't be used; or another scheduler took over.
pub async fn serve(state: StateDir) -> anyhow::Result<()> {
    let file = state.read_cluster()?.context("cluster.toml is missing: `jq up` writes it")?;
    let spec: ClusterSpec = file.spec_as()?;
    let note =
        format!("pid {} on {}", std::process::id(), crate::net::listen::host_name().unwrap_or_default());
    let epoch = state::epoch::claim(state.path(), &note)?;
    info!("epoch {} of cluster {} ({note})", epoch.number, state.name());
    let (events, incoming) = mpsc::channel(EVENT_QUEUE);
    let lease = LeaseKeeper::start(&state, &epoch.fence, &events)?;
    let journal = open_journal(&state, &epoch.fence, &events)?;
    let transport = transport(&state, &spec, Role::Scheduler)?;
    let listener = listen(&spec.settings)?;
    let launcher = Launcher::new(state.clone(), spec.clone(), epoch.number, events.clone())?;
    // Nothing that can fail comes after this: who sees the contact finds a scheduler.
    state.write_contact(&contact(&state, &listener, epoch.number, file.cluster_id)?)?;
    let config = core_config(&spec, epoch.number, &journal, launcher.last_allocation() + 1);
    let (commands, launched) = mpsc::unbounded_channel();
    tokio::spawn(launcher.run(launched));
    tokio::spawn(links::accept_all(listener, transport, state.clone(), events));
    let clock = Clock::start();
    let core = Core::new(config, clock.now());
    let peers = Peers::new(JournalSeq(journal.next_seq().saturating_sub(1)));
    let mut shell = Shell {
        core,
        clock,
        peers,
        journal,
        commands,
        waiting: Vec::new(),
        owned: spec.owned,
        exit: None,
        broken: None,
    };
    shell.start(spec.workers);
    let ended = shell.run(incoming).await;
    let is_ours = state.read_contact()?.is_some_and(|contact| contact.epoch == epoch.number);
    if shell.exit.is_some() && is_ours {
        state.remove_contact()?;
    }
    lease.release();
    ended
}

/// TLS by the cluster's identity in that role, or none if the cluster was brought up so.
///
/// # Errors
/// The identity can't be read or used.
pub fn transport(state: &StateDir, spec: &ClusterSpec, role: Role) -> anyhow::Result<Transport> {
    if spec.insecure {
        return Ok(Transport::insecure());
    }
    Ok(Transport::tls(&state.identity(role)?)?)
}

fn listen(settings: &Settings) -> anyhow::Result<Listener> {
    let interface =
        [&settings.scheduler.interface, &settings.profile.interface].into_iter().find(|i| !i.is_empty());
    let ports = settings.scheduler.port_range;
    let ports = (!ports.is_any()).then_some(ports.first..=ports.last);
    Ok(Listener::bind(interface.map(String::as_str), ports)?)
}

fn contact(
    state: &StateDir,
    listener: &Listener,
    epoch: u32,
    cluster_id: state::ClusterId,
) -> anyhow::Result<Contact> {
    let holder = Holder::current()?;
    Ok(Contact {
        addresses: listener.addresses(),
        epoch,
        cluster_id,
        pid: holder.pid,
        start_time: holder.start_time,
        boot_id: holder.boot_id,
        host: crate::net::listen::host_name().unwrap_or_default(),
        started_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        version: env!("CARGO_PKG_VERSION").into(),
        log: state.path().join("scheduler.log"),
    })
}

fn core_config(spec: &ClusterSpec, epoch: u32, journal: &Journal, first_allocation: u32) -> CoreConfig {
    let settings = &spec.settings;
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    CoreConfig {
        epoch: protocol::Epoch(epoch),
        first_record: JournalSeq(journal.next_seq()),
        first_allocation,
        unix_nanos_at_zero: u64::try_from(unix.as_nanos()).unwrap_or(0),
        heartbeat: settings.scheduler.heartbeat,
        silence: settings.scheduler.heartbeat * 3,
        death_timeout: settings.worker.death_timeout,
        max_workers_lost: u8::try_from(settings.task.allowed_failures).unwrap_or(u8::MAX).max(1),
        workers_per_allocation: settings.profile.workers_per_job.max(1),
        worker_shape: Some(Resources {
            cores: settings.profile.cores.max(1),
            memory: settings.profile.memory,
            named: settings.profile.resources.iter().map(|(n, count)| (n.clone(), *count)).collect(),
        }),
        max_pending_allocations: settings.scheduler.max_pending,
        max_submits_per_minute: settings.scheduler.submits_per_minute,
        poll_interval: settings.scheduler.poll_interval,
        ..CoreConfig::default()
    }
}

/// Beats the lease from a thread of its own, and looks whether the fence still stands.
struct LeaseKeeper {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl LeaseKeeper {
    fn start(
        state: &StateDir,
        fence: &Fence,
        events: &mpsc::Sender<Incoming>,
    ) -> anyhow::Result<LeaseKeeper> {
        let mut lease = Lease::take(state.path(), fence.epoch())?;
        let (fence, events) = (fence.try_clone()?, events.clone());
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let beat = move || {
            let mut last_good = Instant::now();
            while stopped.recv_timeout(BEAT_EVERY) == Err(RecvTimeoutError::Timeout) {
                match fence.check().and_then(|()| lease.beat()) {
                    Ok(()) => last_good = Instant::now(),
                    Err(error) if error.is_superseded() || last_good.elapsed() >= SILENT_AFTER => {
                        let _ = events.blocking_send(Incoming::Fatal(error.to_string()));
                        return;
                    }
                    Err(error) => error!("the lease: {error}"),
                }
            }
            // A successor must not be told that we let go of what it holds.
            if let Err(error) = fence.check().and_then(|()| lease.release()) {
                error!("the lease is not released: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("lease".into()).spawn(beat)?;
        Ok(LeaseKeeper { stop, thread })
    }

    /// Gives the lease up, so that a successor needn't wait.
    fn release(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

/// Begins this epoch's journal. What is reported durable has passed the fence after its sync.
fn open_journal(state: &StateDir, fence: &Fence, events: &mpsc::Sender<Incoming>) -> anyhow::Result<Journal> {
    let history = journal::read_all(&state.journal_dir(), |_| {})?;
    let epoch = fence.epoch();
    let (fence, events) = (fence.try_clone()?, events.clone());
    let report = move |progress| {
        let incoming = match progress {
            Progress::Durable(seq) => match fence.check() {
                Ok(()) => Incoming::Core(Event::Durable(JournalSeq(seq))),
                Err(error) => Incoming::Fatal(error.to_string()),
            },
            Progress::Failed(error) => Incoming::Fatal(error.to_string()),
        };
        // The main loop has ended: nobody acts on it any more.
        let _ = events.blocking_send(incoming);
    };
    let options = journal::Options::default();
    Ok(Journal::create(&state.journal_dir(), epoch, &history, options, report)?)
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
    peers: Peers,
    journal: Journal,
    commands: mpsc::UnboundedSender<Command>,
    /// Submits whose intent isn't durable yet.
    waiting: Vec<(JournalSeq, protocol::AllocationId)>,
    /// To be asked to end is the cluster's end.
    owned: bool,
    /// Set when the cluster is over, with the reason.
    exit: Option<String>,
    /// Set when nothing may be promised any more.
    broken: Option<String>,
}

impl Shell {
    fn start(&mut self, workers: u32) {
        self.core.set_target(workers);
        self.settle(Vec::new());
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
                bail!("the journal can't go on: {reason}");
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
        let (ready, waiting) = self.waiting.drain(..).partition(|(after, _)| *after <= seq);
        self.waiting = waiting;
        let ready: Vec<(JournalSeq, protocol::AllocationId)> = ready;
        for (_, allocation) in ready {
            self.command(Command::Submit(allocation));
        }
    }

    /// Lets the core draw its conclusions, performs them, and flushes.
    fn settle(&mut self, mut actions: Vec<Action>) {
        self.core.settle_down(self.clock.now(), &mut actions);
        for action in actions {
            self.perform(action);
        }
        self.flush();
    }

    fn flush(&mut self) {
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
            Action::Submit { allocation, after } => self.waiting.push((after, allocation)),
            Action::CancelAllocations(allocations) => {
                self.waiting.retain(|(_, waiting)| !allocations.contains(waiting));
                self.command(Command::Cancel(allocations));
            }
            Action::Poll => self.command(Command::Poll),
            Action::Exit { reason } => self.exit = Some(reason),
        }
    }

    /// A record that can't be appended leaves a gap that nothing may follow: the scheduler stops.
    fn persist(&mut self, seq: JournalSeq, record: &Record) {
        let appended = match rmp_serde::to_vec(record) {
            Ok(body) => {
                let entry = Entry { seq: seq.0, kind: RECORD_KIND, version: RECORD_VERSION, body };
                self.journal.append(entry).map_err(|error| error.to_string())
            }
            Err(error) => Err(format!("record {} can't be encoded: {error}", seq.0)),
        };
        if let Err(reason) = appended {
            error!("{reason}");
            self.broken.get_or_insert(reason);
        }
    }

    fn command(&self, command: Command) {
        // The launcher lives as long as this loop.
        let _ = self.commands.send(command);
    }

    /// Waits for the last records to be durable, the last answers to be written and the last cancels to be done.
    async fn finish(&mut self, incoming: &mut mpsc::Receiver<Incoming>) {
        let (done, mut finished) = oneshot::channel();
        self.command(Command::Finish(done));
        let until = tokio::time::Instant::now() + FINISH_TIMEOUT;
        let mut launcher_done = false;
        while !launcher_done || self.journal.backlog_bytes() > 0 {
            tokio::select! {
                _ = &mut finished, if !launcher_done => launcher_done = true,
                event = incoming.recv() => match event {
                    Some(Incoming::Core(Event::Durable(seq))) => self.peers.durable(seq),
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
