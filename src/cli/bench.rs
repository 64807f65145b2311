//! `bench KIND`: how fast the executor is on this host or site, every result checked.
//!
//! Without `--on` it brings up a cluster of its own below the configured state directory, since that is the disk
//! that a cluster's journal would be on, and leaves nothing of it.

use super::Context;
use super::connect::{block_on, cluster_spec};
use super::exit::{CliError, Exit};
use super::scratch::Scratch;
use super::stops::Stops;
use crate::bench::{self, BenchError, Ended, Ground, Kind, Measured, Plan, Spread, spreads};
use crate::config::{Flag, Settings, parse_size};
use crate::kernels::probe;
use crate::scheduler::spec::{ClusterSpec, own_program};
use crate::state::{StateDir, files};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Memory of a fresh cluster's worker: what it is to hold at most stays below that.
const WORKER_MEMORY: u64 = 4 << 30;
/// Shares of a worker's memory that the values of `transfer` take at most.
const SHARES: u64 = 3;

#[derive(clap::Args)]
pub struct Args {
    /// What to measure
    #[arg(value_name = "KIND")]
    kind: Word,
    /// Tasks of each repeat; of transfer: values
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_COUNT)))]
    count: Option<u32>,
    /// Worker processes of the fresh cluster
    #[arg(long, value_name = "W", conflicts_with = "on", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Option<u32>,
    /// Cores, and so threads, of each worker
    #[arg(long, value_name = "T", conflicts_with = "on", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Size of each task's value
    #[arg(long, value_name = "B", value_parser = parse_size)]
    bytes: Option<u64>,
    /// How many times, each with a cluster of its own
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// A living cluster instead of a fresh one on this host
    #[arg(long, value_name = "NAME", value_parser = super::context::cluster_name)]
    on: Option<String>,
    /// No TLS on the fresh cluster: what that costs
    #[arg(long, conflicts_with = "on")]
    insecure: bool,
    /// A program to run with `begin PID` before what is timed, and with `end PID` after it; PID is the scheduler's
    #[arg(long, value_name = "PROGRAM", hide = true)]
    probe: Option<PathBuf>,
}

/// Most tasks of a repeat: those of a graph, with the ones that add its results up.
const MAX_COUNT: u32 = 90_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Word {
    /// Independent tasks: throughput
    Tasks,
    /// Each task needs the one before it: time a step
    Chain,
    /// A reduction two by two
    Tree,
    /// Each task needs three of the layer below
    Layers,
    /// Submit one task and fetch its result, again and again
    Latency,
    /// Large values from worker to worker
    Transfer,
    /// Submit one task, again and again
    Submit,
}

impl Word {
    fn kind(self) -> Kind {
        match self {
            Word::Tasks => Kind::Tasks,
            Word::Chain => Kind::Chain,
            Word::Tree => Kind::Tree,
            Word::Layers => Kind::Layers,
            Word::Latency => Kind::Latency,
            Word::Transfer => Kind::Transfer,
            Word::Submit => Kind::Submit,
        }
    }

    /// How many tasks, on how many workers, with values of how many bytes.
    fn defaults(self) -> (u32, u32, u64) {
        match self {
            Word::Tasks | Word::Tree | Word::Layers => (100_000, 8, probe::MIN_BYTES),
            Word::Chain => (10_000, 1, probe::MIN_BYTES),
            Word::Latency | Word::Submit => (500, 1, probe::MIN_BYTES),
            Word::Transfer => (8, 2, 64 << 20),
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    kind: String,
    count: u32,
    /// Timed in each repeat.
    tasks: u64,
    workers: u32,
    threads: u32,
    bytes: u64,
    repeat: u32,
    /// Null: a fresh one.
    cluster: Option<&'a str>,
    tls: bool,
    durability: String,
    sum: String,
    #[serde(flatten)]
    figures: BTreeMap<&'static str, Option<Spread>>,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let (count, _, bytes) = args.kind.defaults();
    let plan = Plan {
        kind: args.kind.kind(),
        count: args.count.unwrap_or(count),
        bytes: args.bytes.unwrap_or(bytes),
        repeat: args.repeat,
        probe: args.probe.clone(),
    };
    if !(probe::MIN_BYTES..=probe::MAX_BYTES).contains(&plan.bytes) {
        let (min, max) = (probe::MIN_BYTES, crate::config::display_size(probe::MAX_BYTES));
        return Err(CliError::usage(format!("--bytes is from {min} to {max}")));
    }
    match &args.on {
        Some(name) => {
            let settings = context.config()?.settings(None, &[])?;
            let state = StateDir::open(&settings.cluster.state_dir, name)?;
            let spec = Box::new(cluster_spec(&state)?);
            on(&plan, &args, Ground::Living { state, spec }, context)
        }
        None => {
            if args.insecure {
                context.out.warning(
                    "--insecure: while this measures, whoever reaches this host can run commands as you",
                );
            }
            let settings = settings(&args, &plan, context)?;
            let room = Room::below(&settings.cluster.state_dir)?;
            let state = StateDir::create(room.scratch.path(), "bench")?;
            let spec = spec(&args, settings)?;
            on(&plan, &args, Ground::Fresh { state, spec: Box::new(spec) }, context)
        }
    }
}

/// A directory for a fresh cluster, and the state directory around it if that wasn't there; both go, in this order.
struct Room {
    scratch: Scratch,
    _around: Option<Made>,
}

/// A directory that we made.
struct Made(PathBuf);

impl Room {
    fn below(state_root: &Path) -> Result<Room, CliError> {
        let around = (!state_root.exists()).then(|| Made(state_root.to_owned()));
        if let Some(parent) = around.as_ref().and_then(|made| made.0.parent()) {
            std::fs::create_dir_all(parent)
                .map_err(|error| CliError::config(format!("can't create {}: {error}", parent.display())))?;
            files::create_private_dir(state_root)?;
        }
        Ok(Room { scratch: Scratch::below(state_root)?, _around: around })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Unless somebody has put something in it since.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The embedded queue, with workers as they are to be measured.
fn settings(args: &Args, plan: &Plan, context: &Context) -> Result<Settings, CliError> {
    let (workers, threads) = size(args);
    let memory = plan.bytes.saturating_mul(u64::from(plan.count)).saturating_mul(SHARES);
    let flag = |key: &str, value: String| Flag::new(key, value, "bench");
    let flags = [
        flag("profile.system", "local".to_owned()),
        Flag::new("profile.cores", threads, "--threads"),
        flag("profile.memory", crate::config::display_size(memory.max(WORKER_MEMORY))),
        flag("profile.workers_per_job", workers.to_string()),
        flag("profile.slots", workers.saturating_mul(threads).to_string()),
        flag("profile.queue_wait", "0s".to_owned()),
    ];
    let settings = context.config()?.settings_for_queue(Some("local"), &flags)?;
    settings.check_workers(workers, "--workers")?;
    Ok(settings)
}

fn size(args: &Args) -> (u32, u32) {
    (args.workers.unwrap_or(args.kind.defaults().1), args.threads.unwrap_or(1))
}

fn spec(args: &Args, settings: Settings) -> Result<ClusterSpec, CliError> {
    let exe = own_program().map_err(|error| CliError::internal(format!("where is this program? {error}")))?;
    Ok(ClusterSpec {
        workers: size(args).0,
        exe,
        work_dir: PathBuf::from("/"),
        template_dir: PathBuf::new(),
        insecure: args.insecure,
        owned: true,
        settings,
    })
}

fn on(plan: &Plan, args: &Args, ground: Ground, context: &Context) -> Result<Exit, CliError> {
    let durability = durability(ground.state(), context);
    let bar = context.out.progress(u64::from(plan.repeat), "repeats");
    block_on(async {
        let mut stops = Stops::new()?;
        let repeated = |number| bar.set_position(u64::from(number));
        let outcome = bench::measure(plan, &ground, stops.next(), repeated).await;
        bar.finish_and_clear();
        let told = match outcome {
            Ok(Ended::Measured(measured)) => {
                tell(plan, args, &measured, &ground, durability, context).map(|()| Exit::Ok)
            }
            Ok(Ended::Stopped(exit)) => Err(CliError::silent(exit)),
            Err(error) => Err(explain(error, context)),
        };
        let left = ground.leave().await.map_err(|error| explain(error, context));
        told.and_then(|exit| left.map(|()| exit))
    })
}

/// What an acknowledged task survives.
fn durability(state: &StateDir, context: &Context) -> String {
    let file_system = bench::file_system(state.path()).unwrap_or_else(|| "an unknown file system".to_owned());
    if matches!(file_system.as_str(), "tmpfs" | "ramfs") {
        context.out.warning(format!(
            "{} is memory ({file_system}): a real disk is slower, and a cluster's state directory must be on one",
            state.root().display()
        ));
        return format!("none: {file_system} is memory");
    }
    format!("fdatasync on {file_system}")
}

fn tell(
    plan: &Plan,
    args: &Args,
    measured: &Measured,
    ground: &Ground,
    durability: String,
    context: &Context,
) -> Result<(), CliError> {
    let kind = format!("{:?}", plan.kind).to_lowercase();
    let figures = spreads(&measured.samples);
    let tls = !ground.spec().insecure;
    let (tasks, workers, threads) = (measured.tasks, measured.workers, measured.threads);
    if context.out.is_json() {
        let figures = figures.into_iter().map(|(figure, spread)| (figure.name, spread)).collect();
        let (bytes, count, repeat) = (plan.bytes, plan.count, plan.repeat);
        let (cluster, sum) = (args.on.as_deref(), format!("{:#018x}", measured.sum));
        return context.out.json(&Report {
            kind,
            count,
            tasks,
            workers,
            threads,
            bytes,
            repeat,
            cluster,
            tls,
            durability,
            sum,
            figures,
        });
    }
    let rows: Vec<Vec<String>> = figures
        .iter()
        .filter_map(|(figure, spread)| {
            let texts =
                spread.as_ref().map(|s| [s.median, s.min, s.max].map(|value| figure.unit.text(value)))?;
            Some(std::iter::once(figure.label.to_owned()).chain(texts).collect())
        })
        .collect();
    context.out.table(&[&kind, "median", "min", "max"], &rows)?;
    let places = match &args.on {
        Some(name) => format!("cluster {name}"),
        None => "a fresh cluster each".to_owned(),
    };
    let links = if tls { "TLS" } else { "no TLS" };
    context.out.note(format!(
        "{tasks} tasks, {} repeats, {places}: {workers} workers x {threads} threads, values of {} bytes; {links}; \
         journal: {durability}; the results' sum is right",
        plan.repeat, plan.bytes
    ));
    Ok(())
}

fn explain(error: BenchError, context: &Context) -> CliError {
    match error {
        BenchError::WrongSum { .. } | BenchError::Identity(_) | BenchError::Raw(_) => {
            CliError::internal(error.to_string())
        }
        BenchError::Failed { .. } => CliError::new(Exit::TaskFailed, error.to_string()),
        BenchError::NoWorkers(ref name) => CliError::unavailable(error.to_string())
            .hint(format!("`{} scale 2 --name {name}` brings some", context.program)),
        BenchError::NothingToTransfer => {
            CliError::usage(error.to_string()).hint("it takes two workers or more")
        }
        BenchError::Gone | BenchError::Stays(_) => CliError::unavailable(error.to_string()),
        BenchError::Disk { .. } | BenchError::Probe { .. } => CliError::config(error.to_string()),
        BenchError::Client(error) => error.into(),
        BenchError::Up(error) => super::up::explain(error, context),
        BenchError::Down(error) => super::down::explain(error),
        BenchError::State(error) => error.into(),
    }
}
