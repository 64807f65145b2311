//! `up`: a cluster comes to be, or is found to be.

use super::Context;
use super::connect::{block_on, cluster_spec, reviver, tell_resumption};
use super::exit::{CliError, Exit};
use super::up_flags::UpFlags;
use crate::client::Client;
use crate::cluster::down;
use crate::cluster::launch::job::JobError;
use crate::cluster::launch::{LaunchError, Patience};
use crate::cluster::up::{Brought, UpError, Wish, bring_up, job_log, wait_for_workers};
use crate::config::{Config, Settings, display_duration, display_size, parse_duration};
use crate::protocol::StatusReport;
use crate::scheduler::shell::transport;
use crate::scheduler::spec::{ClusterSpec, own_program};
use crate::state::{Role, StateDir, StateError};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::Serialize;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    #[command(flatten)]
    pub cluster: UpFlags,
    /// Wait until N workers are there (without N: all that were asked for)
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "all",
          value_parser = wait_for)]
    pub wait: Option<WaitFor>,
    /// How long to wait at most
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Replace a living cluster that was asked for differently
    #[arg(long)]
    pub replace: bool,
    /// Print the script and where each value came from; submit nothing
    #[arg(long)]
    pub dry_run: bool,
    /// No TLS: anyone who reaches the ports can run commands as you. For measurement
    #[arg(long)]
    pub insecure: bool,
    /// Run this with the cluster up, with its exit code, then bring the cluster down; one that was up before stays up
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// How many workers `--wait` waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    All,
    Count(u32),
}

#[derive(Serialize)]
struct Report<'a> {
    cluster: &'a str,
    state_dir: String,
    address: String,
    was_up: bool,
    /// Its scheduler had died, and another one goes on from its journal.
    resumed: bool,
    target: u32,
    connected: u32,
    allocations: Vec<String>,
    /// The job in which the scheduler runs; empty: in none.
    scheduler_job: String,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let config = context.config()?;
    let spec = match as_it_was(&args, &config, context)? {
        Some(spec) => spec,
        None => {
            let (settings, note) = args.cluster.resolve(&config)?;
            if !note.is_empty() {
                context.out.note(note);
            }
            spec(&args, settings)?
        }
    };
    if args.dry_run {
        return super::script::print(&spec.settings, spec.workers, super::script::Of::Worker, context, true);
    }
    let state = StateDir::create(&spec.settings.cluster.state_dir, &context.cluster)?;
    if spec.insecure {
        context.out.warning("--insecure: whoever reaches this cluster's ports can run commands as you");
    }
    block_on(up(&args, state, spec, context))
}

/// The number of workers, as asked for; one job's where nothing was said.
pub fn workers(flags: &UpFlags, settings: &Settings) -> u32 {
    flags.workers.unwrap_or(settings.profile.workers_per_job.max(1))
}

/// Where neither flags nor configuration choose a queue, a cluster that there is stays, or comes back, as it was asked
/// for, but for what flags say.
fn as_it_was(args: &Args, config: &Config, context: &Context) -> Result<Option<ClusterSpec>, CliError> {
    let settings = config.settings(None, &args.cluster.settings())?;
    if args.cluster.queue.is_some() || !settings.profile.system.is_empty() {
        return Ok(None);
    }
    let state = match StateDir::open(&settings.cluster.state_dir, &context.cluster) {
        Err(StateError::NoSuchCluster { .. }) => return Ok(None),
        opened => opened?,
    };
    let Some(file) = state.read_cluster()? else { return Ok(None) };
    let spec: ClusterSpec = file.spec_as()?;
    settings.check_workers(args.cluster.workers.unwrap_or(0), "--workers")?;
    let spec = spec.with_settings_of(&settings, &given(&args.cluster)).map_err(CliError::internal)?;
    Ok(Some(ClusterSpec { workers: args.cluster.workers.unwrap_or(spec.workers), ..spec }))
}

/// The keys of settings that flags give. One without a section is the profile's.
fn given(flags: &UpFlags) -> Vec<String> {
    let full = |key: String| if key.contains('.') { key } else { format!("profile.{key}") };
    flags.settings().into_iter().map(|flag| full(flag.key)).collect()
}

fn spec(args: &Args, settings: Settings) -> Result<ClusterSpec, CliError> {
    let exe = own_program().map_err(|error| CliError::internal(format!("where is this program? {error}")))?;
    let work_dir = std::env::current_dir()
        .map_err(|error| CliError::config(format!("the current directory: {error}")))?;
    Ok(ClusterSpec {
        workers: workers(&args.cluster, &settings),
        exe,
        work_dir,
        template_dir: super::script::template_dir(),
        insecure: args.insecure,
        owned: !args.command.is_empty(),
        settings,
    })
}

async fn up(args: &Args, state: StateDir, spec: ClusterSpec, context: &Context) -> Result<Exit, CliError> {
    let mut given = given(&args.cluster);
    if args.cluster.queue.is_some() {
        given.extend(["profile.system".to_owned(), "profile.queue".to_owned()]);
    }
    let wish = Wish { spec, workers_given: args.cluster.workers.is_some(), given, replace: args.replace };
    let began = Instant::now();
    let (mut client, brought) = tokio::select! {
        brought = bring_up(&state, &wish, patience(args.timeout)) => brought.map_err(|error| explain(error, context))?,
        exit = interrupted() => {
            context.out.note(format!("what was submitted stays; `{} down` ends it", context.program));
            return Err(CliError::silent(exit));
        }
    };
    if context.revives {
        client = client.reviving(reviver(&state, args.timeout, context));
    }
    tell_losses(&brought, context);
    let ours = matches!(brought, Brought::Started | Brought::Afresh(_));
    let timeout = args.timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
    match wait(args, timeout, ours, &state, &mut client, context).await {
        Ok(status) => report(&state, &cluster_spec(&state)?, &status, &brought, context)?,
        Err(NotThere::Refused(error)) => {
            return Err(error.hint(if ours {
                give_up(&state, &wish.spec, context).await
            } else {
                format!("the cluster stays up; `{0} status` and `{0} queues` look closer", context.program)
            }));
        }
        Err(NotThere::Yet(error)) if args.command.is_empty() || !ours => return Err(error),
        Err(NotThere::Yet(error)) => {
            // It was only there for the command.
            bring_down(&state, &wish.spec, Duration::ZERO).await?;
            return Err(CliError { hint: String::new(), ..error });
        }
    }
    if args.command.is_empty() {
        return Ok(Exit::Ok);
    }
    let code = run_command(&args.command, context).await;
    if ours {
        bring_down(&state, &wish.spec, Duration::ZERO).await?;
    } else {
        let name = state.name();
        let program = context.program;
        context.out.note(format!("cluster {name} was up before, and stays up; `{program} down` ends it"));
    }
    code
}

/// Why the workers aren't there.
enum NotThere {
    /// They can never be.
    Refused(CliError),
    /// The time was over, or the user's patience.
    Yet(CliError),
}

async fn wait(
    args: &Args,
    timeout: Option<Duration>,
    fresh: bool,
    state: &StateDir,
    client: &mut Client,
    context: &Context,
) -> Result<StatusReport, NotThere> {
    let program = context.program;
    let wanted = match args.wait {
        None => None,
        Some(WaitFor::Count(count)) => Some(count),
        Some(WaitFor::All) => {
            let status = crate::cluster::up::status(client).await;
            Some(status.map_err(|error| NotThere::Yet(error.into()))?.target)
        }
    };
    let bar = context.out.progress(u64::from(wanted.unwrap_or(0)), "workers");
    let progress = |status: &StatusReport| bar.set_position(u64::from(status.connected));
    let waited = tokio::select! {
        waited = wait_for_workers(client, wanted, timeout, fresh, progress) => waited,
        exit = interrupted() => {
            bar.finish_and_clear();
            if args.command.is_empty() {
                context.out.note(format!("the cluster stays up; `{program} down` ends it"));
            }
            return Err(NotThere::Yet(CliError::silent(exit)));
        }
    };
    bar.finish_and_clear();
    waited.map_err(|error| match error {
        UpError::Refused { words, exit_code, allocation } => {
            let spec = cluster_spec(state).ok();
            let log = allocation.zip(spec).and_then(|(id, spec)| job_log(state, &spec, id));
            let words = [Some(words), log].into_iter().flatten().collect::<Vec<_>>().join("\n");
            NotThere::Refused(CliError::new(Exit::from_contract(exit_code), words))
        }
        _ => NotThere::Yet(explain(error, context)),
    })
}

/// Nothing is left behind of what can't be; the hint says so.
async fn give_up(state: &StateDir, spec: &ClusterSpec, context: &Context) -> String {
    let program = context.program;
    match bring_down(state, spec, Duration::ZERO).await {
        Ok(()) => {
            format!("what was submitted is cancelled; `{program} doctor` and `{program} queues` look closer")
        }
        Err(error) => {
            context.out.warning(format!("it isn't sure that everything is cancelled: {}", error.message));
            format!(
                "`{program} down`, once the batch system answers, makes sure that nothing is left; what starts \
                 before that leaves at once"
            )
        }
    }
}

async fn bring_down(state: &StateDir, spec: &ClusterSpec, drain: Duration) -> Result<(), CliError> {
    // A cluster that was up already may have been asked for differently.
    let in_force = cluster_spec(state).unwrap_or_else(|_| spec.clone());
    let spec = &in_force;
    let links =
        transport(state, spec, Role::Admin).map_err(|error| CliError::config(format!("{error:#}")))?;
    down::down(state, spec, &links, drain, patience(None)).await.map_err(super::down::explain)?;
    Ok(())
}

fn tell_losses(brought: &Brought, context: &Context) {
    let (lost, last) = match brought {
        Brought::Started | Brought::WasUp => return,
        Brought::Resumed(resumed) => return tell_resumption(resumed, context.out),
        Brought::Afresh(lost) => lost.as_ref(),
    };
    let c = &lost.counts;
    let unfinished = c.open();
    context.out.warning(format!(
        "the scheduler of cluster {} (epoch {}, process {} on {}) had died. Given up with it: {} graphs with {unfinished} \
         unfinished, {} finished and {} failed tasks. Its jobs were cancelled; the cluster starts afresh",
        context.cluster, last.epoch, last.pid, last.host, lost.graphs, c.memory, c.erred + c.cancelled,
    ));
    if !lost.damage.is_empty() {
        context.out.warning(format!("its journal can't be read to the end: {}", lost.damage));
    }
}

fn report(
    state: &StateDir,
    spec: &ClusterSpec,
    status: &StatusReport,
    brought: &Brought,
    context: &Context,
) -> Result<(), CliError> {
    let contact = state.read_contact()?;
    let address = contact.as_ref().and_then(|contact| contact.addresses.first().cloned()).unwrap_or_default();
    let (job, host) = contact.map_or((String::new(), String::new()), |contact| (contact.job, contact.host));
    let open = status.allocations.iter().filter(|a| is_open(a) && !a.job.is_empty());
    let allocations: Vec<String> = open.map(|a| a.job.clone()).collect();
    let was_up = matches!(brought, Brought::WasUp);
    let resumed = matches!(brought, Brought::Resumed(_));
    if context.out.is_json() {
        return context.out.json(&Report {
            cluster: state.name(),
            state_dir: state.path().display().to_string(),
            address,
            was_up,
            resumed,
            target: status.target,
            connected: status.connected,
            allocations,
            scheduler_job: job,
        });
    }
    let how = match brought {
        Brought::WasUp => "is up already",
        Brought::Resumed(_) => "is up again",
        Brought::Started | Brought::Afresh(_) => "is up",
    };
    context.out.line(format!("cluster {} {how} at {address}", state.name()))?;
    context.out.line(arithmetic(spec, status.target))?;
    if !job.is_empty() {
        context.out.line(format!("the scheduler is job {job} on {host}"))?;
    }
    let waiting = status.target.saturating_sub(status.connected);
    let waiting = if waiting > 0 { format!(", {waiting} to come") } else { String::new() };
    context.out.line(format!(
        "{} workers connected{waiting}; jobs: {}",
        status.connected,
        or_none(&allocations)
    ))?;
    context.out.note(format!(
        "`{0} map CMD ::: ARGS` gives it work, `{0} status` shows it, `{0} down` ends it, `{0} help` tells the rest",
        context.program
    ));
    Ok(())
}

pub fn is_open(a: &crate::protocol::AllocationReport) -> bool {
    use crate::protocol::AllocationStateName as Name;
    matches!(a.state, Name::Submitting | Name::Pending | Name::Running)
}

fn or_none(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(" ") }
}

/// Such as `8 workers = 2 jobs x 4 workers x 1 core, 4 GiB each, 1h of the queue spice (slurm)`.
pub fn arithmetic(spec: &ClusterSpec, workers: u32) -> String {
    let profile = &spec.settings.profile;
    let per_job = profile.workers_per_job.max(1);
    let (jobs, cores) = (workers.div_ceil(per_job), profile.cores);
    let many = |count: u32, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let memory =
        if profile.memory == 0 { String::new() } else { format!(", {} each", display_size(profile.memory)) };
    let queue = if profile.queue.is_empty() { String::new() } else { format!(" of queue {}", profile.queue) };
    format!(
        "{} = {} x {} x {}{memory}, {}{queue} ({})",
        many(workers, "worker"),
        many(jobs, "job"),
        many(per_job, "worker"),
        many(cores, "core"),
        display_duration(profile.walltime),
        profile.system
    )
}

/// Ctrl-C or SIGTERM, with its exit code.
async fn interrupted() -> Exit {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            // Then it ends us in the kernel's way.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => Exit::Interrupted,
        _ = terminated => Exit::Terminated,
    }
}

async fn run_command(command: &[String], context: &Context) -> Result<Exit, CliError> {
    let [program, arguments @ ..] = command else { return Ok(Exit::Ok) };
    let mut child = tokio::process::Command::new(program);
    child.args(arguments).env("JOBQ_CLUSTER", &context.cluster);
    let mut child = match child.spawn() {
        Ok(child) => child,
        Err(error) => return Err(CliError::new(Exit::Command(127), format!("{program}: {error}"))),
    };
    let status = until_end(&mut child).await;
    let status = status.map_err(|error| CliError::internal(format!("{program}: {error}")))?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(70);
    Ok(Exit::Command(u8::try_from(code).unwrap_or(70)))
}

/// Waits for the command, whatever we are told meanwhile: the cluster goes down after it. A terminal's Ctrl-C reaches
/// the command as well; what reaches us alone is passed on.
async fn until_end(child: &mut tokio::process::Child) -> std::io::Result<std::process::ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    loop {
        let told = tokio::select! {
            status = child.wait() => return status,
            _ = interrupt.recv() => continue,
            _ = terminate.recv() => Signal::SIGTERM,
            _ = hang_up.recv() => Signal::SIGHUP,
        };
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended just now.
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), told);
        }
    }
}

/// Tells on stderr what takes its time, and waits for a scheduler's job for so long.
pub fn patience(timeout: Option<Duration>) -> Patience {
    // A closed stderr is no reason to stop.
    let say = |words: &str| drop(writeln!(std::io::stderr(), "{words}"));
    Patience { waiting: super::down::tell_waiting, say, timeout }
}

fn explain_launch(error: &LaunchError, context: &Context) -> CliError {
    let (program, words) = (context.program, error.to_string());
    match error {
        LaunchError::Job(JobError::Batch(error)) => CliError::new(Exit::from_contract(error.kind.exit_code()), words),
        LaunchError::Job(JobError::TimedOut { .. }) => CliError::new(Exit::TimedOut, words).hint(format!(
            "its job stays in the queue: `{program} status` waits for it, `{program} down` ends it"
        )),
        LaunchError::Job(JobError::CantSubmit { .. }) => CliError::config(words)
            .hint(format!("`{program} up --scheduler here` runs the scheduler on this host")),
        LaunchError::CantSubmit { .. } => CliError::config(words)
            .hint(format!("`{program} up` on a host that may submit jobs brings the cluster up again")),
        LaunchError::Busy { .. } => CliError::new(Exit::TryAgain, words),
        LaunchError::Job(JobError::GivenUp) | LaunchError::AnotherLives => CliError::unavailable(words),
        LaunchError::Job(JobError::Never { .. } | JobError::Ended { .. }) => CliError::config(words)
            .hint(format!("`{program} doctor` and `{program} queues` look closer; [scheduler] in the configuration has what its job asks for")),
        _ => CliError::config(words),
    }
}

/// What stood in the way, with its exit code.
pub(super) fn explain(error: UpError, context: &Context) -> CliError {
    let (program, whole) = (context.program, error.to_string());
    match error {
        UpError::Launch(error) => explain_launch(&error, context),
        UpError::NotSure { ref error, .. } => {
            let exit = explain_launch(error, context).exit;
            CliError::new(exit, whole).hint(format!(
                "`{program} down`, once the batch system answers, makes sure that nothing is left; what starts before \
                 that leaves at once"
            ))
        }
        UpError::OnItsWay(_) => CliError::unavailable(error.to_string())
            .hint(format!("`{program} status` waits for it, `{program} down` ends it")),
        UpError::Client(error) => error.into(),
        UpError::State(error) => error.into(),
        UpError::Dataset(error) => error.into(),
        UpError::Down(error) => super::down::explain(error),
        UpError::Differs { .. } => CliError::config(error.to_string()).hint(format!(
            "`{program} up --replace` with the same flags replaces it; `{program} scale N` only changes the workers"
        )),
        UpError::Refused { ref words, exit_code, .. } => {
            CliError::new(Exit::from_contract(exit_code), words.clone())
        }
        UpError::TimedOut { ref status, .. } => {
            let reasons: Vec<String> = status.allocations.iter().filter(|a| is_open(a)).map(super::idle::job_line).collect();
            CliError::new(Exit::TimedOut, format!("{error}\n{}", reasons.join("\n")))
                .hint(format!("the cluster stays up: `{program} status` shows it, `{program} down` ends it"))
        }
        UpError::GoingDown { .. } => CliError::unavailable(error.to_string()).hint(format!(
            "`{program} up` again once it is down; `{program} down` ends it at once, and `up --replace` does both"
        )),
        UpError::CameUp { .. } => CliError::new(Exit::TryAgain, error.to_string()),
        UpError::Past(_) | UpError::Identity(_) => CliError::config(error.to_string()),
    }
}

fn wait_for(text: &str) -> Result<WaitFor, String> {
    match text {
        "all" => Ok(WaitFor::All),
        _ => text.parse().map(WaitFor::Count).map_err(|_| format!("`{text}` is not a number of workers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        up: Args,
    }

    fn parse(words: &[&str]) -> Args {
        Cli::try_parse_from([&["up"], words].concat()).unwrap().up
    }

    #[test]
    fn wait_takes_a_number_only_with_an_equals_sign() {
        assert_eq!(parse(&[]).wait, None);
        assert_eq!(parse(&["--wait"]).wait, Some(WaitFor::All));
        assert_eq!(parse(&["--wait=3", "--replace"]).wait, Some(WaitFor::Count(3)));
        let with_command = parse(&["--wait", "--", "make", "--wait=2"]);
        assert_eq!((with_command.wait, with_command.command.len()), (Some(WaitFor::All), 2));
    }
}
