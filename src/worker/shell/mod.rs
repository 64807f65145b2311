//! The worker's shell: it keeps a link to whoever is the scheduler, feeds the core, and performs what it wants with
//! the store, the runners and the links to other workers.

mod fetch;
mod link;
mod running;
mod watch;

use super::core::{Action, Core, Event, WorkerConfig};
use super::store::{Limits, Pressure, SpillDir, Store};
use crate::config::Settings;
use crate::graph::TaskId;
use crate::net::{Alarm, Frame, Link, Listener, Place, Transport, accept_all, values};
use crate::protocol::{
    self, AllocationId, Completion, FromWorker, LeftBehind, Registration, ToWorker, WorkerId,
};
use crate::state::{Role, StateDir, outbox};
use anyhow::Context as _;
use fetch::Fetcher;
use running::Running;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};
use watch::Watch;

/// Events taken at once.
const BATCH: usize = 4096;
/// For the last words to be written before the process ends.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Values above this share of the memory limit stop new tasks.
const PAUSE_SHARE: f64 = 0.95;

/// What a worker process is told at its start.
pub struct Options {
    pub state: StateDir,
    pub settings: Settings,
    pub transport: Transport,
    pub id: WorkerId,
    pub allocation: AllocationId,
    /// Seconds since 1970; 0: no end of its walltime is known.
    pub deadline_unix: u64,
    /// The life of the cluster that it works for.
    pub life: String,
}

/// What reaches the main loop.
enum Incoming {
    /// A new link; messages of older ones don't count any more.
    Linked {
        generation: u64,
        frames: mpsc::UnboundedSender<Frame>,
    },
    Unlinked {
        generation: u64,
    },
    FromScheduler {
        generation: u64,
        messages: Vec<ToWorker>,
    },
    Core(Event),
    /// Kernels that ended, by their tokens.
    Kernels(Vec<super::run::KernelDone>),
}

/// How a worker ended: always as it should; a crash ends the process without one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    pub reason: String,
}

/// Runs a worker until it leaves.
///
/// # Errors
/// It can't be set up: no port, no threads.
pub async fn run(options: Options) -> anyhow::Result<End> {
    let (events, incoming) = mpsc::unbounded_channel();
    let settings = &options.settings;
    let store = Arc::new(open_store(settings, &options.id));
    let listener = listen(settings)?;
    let registration = registration(&options, &listener);
    tokio::spawn(serve_values(listener, options.transport.clone(), store.clone()));
    let running = Running::new(&options, store.clone(), events.clone())?;
    let fetcher = Fetcher::new(options.transport.clone(), store.clone(), events.clone());
    let (death_timeout, started) = (settings.worker.death_timeout, Instant::now());
    let (quiet, is_quiet) = tokio::sync::watch::channel(None);
    let newest = tokio::sync::watch::Sender::new(0);
    let (state, heard) = (options.state.clone(), events.clone());
    let watch =
        Watch { state, death_timeout, started, quiet: is_quiet, newest: newest.clone(), events: heard };
    tokio::spawn(watch.keep());
    tokio::spawn(link::keep(options.state.clone(), options.transport.clone(), newest, events));
    let config = WorkerConfig { registration, death_timeout, idle_timeout: settings.worker.idle_timeout };
    let mut shell = Shell {
        core: Core::new(config, 0),
        started,
        quiet,
        quiet_after: death_timeout / 4,
        outbox: Outbox { dir: options.state.outbox_dir(), life: options.life, worker: options.id },
        link: None,
        generation: 0,
        store,
        running,
        fetcher,
        relieving: Arc::default(),
        end: None,
    };
    shell.run(incoming).await
}

fn listen(settings: &Settings) -> anyhow::Result<Listener> {
    let interface = &settings.profile.interface;
    Ok(Listener::bind((!interface.is_empty()).then_some(interface.as_str()), None)?)
}

fn registration(options: &Options, listener: &Listener) -> Registration {
    let profile = &options.settings.profile;
    Registration {
        id: options.id.clone(),
        allocation: options.allocation,
        host: node_name(),
        pid: std::process::id(),
        addresses: listener.addresses(),
        cores: profile.cores.max(1),
        memory: profile.memory,
        named: profile.resources.iter().map(|(name, count)| (name.clone(), *count)).collect(),
        deadline_unix: options.deadline_unix,
        holds: Vec::new(),
        runs: Vec::new(),
        completions: Vec::new(),
    }
}

/// The node as its batch system calls it, else the host's name.
fn node_name() -> String {
    let of_batch_system = crate::batch::SYSTEMS.iter().filter_map(|system| system.variables().node);
    let told = of_batch_system.filter_map(|name| std::env::var(name).ok()).find(|name| !name.is_empty());
    told.or_else(crate::net::listen::host_name).unwrap_or_default()
}

/// The store, with a place to spill to where there is one.
fn open_store(settings: &Settings, id: &WorkerId) -> Store {
    let memory = if settings.profile.memory > 0 { settings.profile.memory } else { u64::MAX };
    let share = |part: f64| (memory as f64 * part) as u64;
    let limits = Limits { target: share(settings.worker.memory_target), pause: share(PAUSE_SHARE) };
    let spill = spill_base(settings.local_directory()).and_then(|base| {
        SpillDir::open(&base, &id.name, id.incarnation)
            .inspect_err(|error| warn!("values stay in memory: {error}"))
            .ok()
    });
    Store::new(limits, spill)
}

/// The configured directory with its variables filled in here, on the worker's host; else the system's own.
fn spill_base(configured: &str) -> Option<PathBuf> {
    let configured = if configured.is_empty() { "$TMPDIR" } else { configured };
    let lookup = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match crate::config::expand(configured, &lookup) {
        Ok(path) if Path::new(&path).is_absolute() => Some(path.into()),
        // Without TMPDIR: what is always there, and survives no reboot.
        _ => Some(std::env::temp_dir()),
    }
}

/// Gives values to whoever asks, each connection on a task of its own.
async fn serve_values(listener: Listener, transport: Transport, store: Arc<Store>) {
    let serve = move |link: Link, place: Place| {
        let store = store.clone();
        async move {
            let _place = place;
            // Without TLS there are no roles.
            if link.peer().role.is_some_and(|role| !matches!(role, Role::Admin | Role::Worker)) {
                return Err("its certificate doesn't allow it to read values".to_owned());
            }
            let (reader, writer) = link.split();
            let lookup = move |task: TaskId| match store.load(task) {
                Ok(value) => value,
                Err(error) => {
                    warn!("{task}: {error}");
                    None
                }
            };
            values::serve(reader, writer, lookup).await.map_err(|error| error.to_string())
        }
    };
    accept_all(listener, transport, serve).await;
}

/// Where it leaves what no scheduler has taken.
struct Outbox {
    dir: PathBuf,
    life: String,
    worker: WorkerId,
}

impl Outbox {
    fn leave(&self, completions: Vec<Completion>) {
        let count = completions.len();
        let name = format!("{}-{}", self.worker.name, self.worker.incarnation);
        let left = LeftBehind::new(self.life.clone(), self.worker.clone(), completions);
        let written = left
            .encode(outbox::MAX_BYTES)
            .map_err(|error| error.to_string())
            .and_then(|bytes| outbox::leave(&self.dir, &name, &bytes).map_err(|error| error.to_string()));
        match written {
            Ok(path) => info!("{count} results that no scheduler has taken are left in {}", path.display()),
            Err(error) => warn!("{count} results that no scheduler has taken are lost: {error}"),
        }
    }
}

struct Shell {
    core: Core,
    started: Instant,
    /// The scheduler's epoch while it doesn't answer.
    quiet: tokio::sync::watch::Sender<Option<u32>>,
    /// For an answer: then the state directory is looked at.
    quiet_after: Duration,
    outbox: Outbox,
    link: Option<mpsc::UnboundedSender<Frame>>,
    generation: u64,
    store: Arc<Store>,
    running: Running,
    fetcher: Fetcher,
    /// A thread is spilling values.
    relieving: Arc<AtomicBool>,
    end: Option<End>,
}

impl Shell {
    async fn run(&mut self, mut incoming: mpsc::UnboundedReceiver<Incoming>) -> anyhow::Result<End> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut tick = Alarm::new();
        let mut batch = Vec::new();
        loop {
            let deadline = self.core.deadline().map(|at| self.started + Duration::from_nanos(at));
            tick.set(deadline.map(Into::into));
            let mut actions = Vec::new();
            tokio::select! {
                taken = incoming.recv_many(&mut batch, BATCH) => { (taken > 0).then_some(()).context("the event queue is closed")?; },
                () = tick.rings() => self.core.handle(self.now(), Event::Tick, &mut actions),
                _ = terminate.recv() => self.asked_to_leave("asked to by SIGTERM", &mut actions),
                _ = interrupt.recv() => self.asked_to_leave("asked to by SIGINT", &mut actions),
            }
            for event in batch.drain(..) {
                self.take(event, &mut actions);
            }
            self.core.settle_down(self.now(), &mut actions);
            self.perform(actions);
            self.note_silence();
            self.relieve();
            if let Some(end) = self.end.take() {
                info!("this worker ends: {}", end.reason);
                self.say_goodbye().await;
                return Ok(end);
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Sets the watch on, or off.
    fn note_silence(&self) {
        let since = Duration::from_nanos(self.now().saturating_sub(self.core.last_answer()));
        let is_quiet = self.link.is_none() || since > self.quiet_after;
        let epoch = self.core.epoch().filter(|_| is_quiet).map(|epoch| epoch.0);
        self.quiet.send_if_modified(|quiet| std::mem::replace(quiet, epoch) != epoch);
    }

    fn asked_to_leave(&mut self, reason: &str, actions: &mut Vec<Action>) {
        self.core.handle(self.now(), Event::AskedToLeave { reason: reason.into() }, actions);
    }

    fn take(&mut self, incoming: Incoming, actions: &mut Vec<Action>) {
        let now = self.now();
        match incoming {
            Incoming::Linked { generation, frames } => {
                self.generation = generation;
                self.link = Some(frames);
                self.core.handle(now, Event::Connected, actions);
            }
            Incoming::Unlinked { generation } if generation == self.generation => {
                self.link = None;
                self.core.handle(now, Event::Disconnected, actions);
            }
            Incoming::FromScheduler { generation, messages } if generation == self.generation => {
                for message in messages {
                    self.core.handle(now, Event::FromScheduler(message), actions);
                }
            }
            Incoming::Unlinked { .. } | Incoming::FromScheduler { .. } => {}
            Incoming::Core(event) => {
                if let Event::Ended { execution, .. } = &event {
                    self.running.ended(*execution);
                }
                self.core.handle(now, event, actions);
            }
            Incoming::Kernels(done) => {
                for event in done.into_iter().filter_map(|done| self.running.kernel_ended(done)) {
                    self.core.handle(now, event, actions);
                }
            }
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        let mut messages = Vec::new();
        for action in actions {
            match action {
                Action::Send(message) => messages.push(message),
                Action::Heartbeat { running } => {
                    let memory = super::resident_bytes().unwrap_or_else(|| self.store.held().memory);
                    messages.push(FromWorker::Heartbeat { memory, running });
                }
                Action::Fetch { task, from } => self.fetcher.fetch(task, from),
                Action::Run { execution, op, args, name, inputs } => {
                    self.running.start(execution, op, args, name, inputs);
                }
                Action::Kill(execution) => self.running.kill(execution),
                Action::Free(task) => drop(self.store.free(task)),
                Action::Place { execution, outputs } => self.running.place(execution, outputs),
                Action::Discard(outputs) => self.running.discard(outputs),
                Action::LeaveBehind(completions) => self.outbox.leave(completions),
                Action::Exit { reason } => self.end = Some(End { reason }),
            }
        }
        self.running.flush();
        self.send(&messages);
    }

    fn send(&mut self, messages: &[FromWorker]) {
        let Some(link) = self.link.as_ref().filter(|_| !messages.is_empty()) else { return };
        match protocol::encode_split(messages) {
            // A link that is gone reports itself.
            Ok(headers) => headers.into_iter().for_each(|header| drop(link.send(Frame::new(header)))),
            Err(error) => warn!("a message could not be encoded: {error}"),
        }
    }

    /// Spills while values are above their share of memory.
    fn relieve(&self) {
        if self.store.pressure(0) == Pressure::Normal || self.relieving.swap(true, Ordering::AcqRel) {
            return;
        }
        let (store, relieving) = (self.store.clone(), self.relieving.clone());
        tokio::task::spawn_blocking(move || {
            let relief = store.relieve();
            if let Some(error) = relief.error {
                warn!("values stay in memory: {error}");
            }
            relieving.store(false, Ordering::Release);
        });
    }

    /// Lets the last frames reach the scheduler.
    async fn say_goodbye(&mut self) {
        if let Some(link) = self.link.take() {
            let closed = link.clone();
            drop(link);
            let _ = tokio::time::timeout(LAST_WORDS, link::written(closed)).await;
        }
    }
}
