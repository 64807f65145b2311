//! `jq queues [PROFILE]`: the profiles that `--queue` can pick and the queues that the site's batch system has, or
//! what one profile asks for and whether its batch system can ever give it.

use super::Context;
use super::exit::{CliError, Exit};
use super::fit::{Fit, fit};
use super::live::{Live, system_of};
use crate::batch::{BatchError, QueueInfo};
use crate::config::{Choice, Config, ConfigError, Settings, display_duration, display_size};
use crate::scheduler::spec::own_program;
use serde::Serialize;
use std::time::Duration;

/// For a list that nobody asked for by name.
const GLANCE: Duration = Duration::from_secs(5);
/// For the queues of the profile that is to be checked: longer than the batch systems' own timeouts.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub struct Args {
    /// Only this one, in full, and checked against its batch system
    profile: Option<String>,
}

#[derive(Serialize)]
struct Report {
    profiles: Vec<Row>,
    /// Queues of the site's default batch system; empty if there is none or it gave no answer in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    queues: Option<Vec<Queue>>,
    /// Of the one profile that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Check>,
}

/// What the batch system's own limits say of a profile.
#[derive(Serialize)]
struct Check {
    /// Its jobs can run, as far as the limits tell.
    fits: bool,
    queue: Option<Queue>,
    never: Vec<String>,
    doubts: Vec<String>,
    /// Why the batch system could not be asked; empty: it could.
    error: String,
}

/// A queue as the batch system has it; 0: it doesn't say, or has no limit.
#[derive(Serialize)]
struct Queue {
    name: String,
    default: bool,
    open: bool,
    walltime_s: u64,
    nodes: u64,
    cores_per_node: u64,
    memory_per_node_bytes: u64,
    nodes_differ: bool,
}

/// One profile; `error` says why it can't be used.
#[derive(Serialize)]
struct Row {
    name: String,
    sources: Vec<String>,
    system: String,
    queue: String,
    cores: u32,
    memory_bytes: u64,
    walltime_s: u64,
    error: String,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let config = context.config()?;
    match args.profile {
        Some(name) => one(&config, &name, context),
        None => all(&config, context),
    }
}

fn all(config: &Config, context: &Context) -> Result<Exit, CliError> {
    let profiles: Vec<Row> = config
        .profiles()
        .into_iter()
        .map(|profile| {
            let sources = profile.sources.iter().map(|s| s.display().to_string()).collect();
            row(profile.name.clone(), sources, config.settings(Some(&profile.name), &[]))
        })
        .collect();
    let broken: Vec<String> = profiles.iter().map(|p| p.error.clone()).filter(|e| !e.is_empty()).collect();
    if context.out.is_json() {
        let queues = site_queues(config, context).unwrap_or_default();
        context.out.json(&Report {
            profiles,
            queues: Some(queues.iter().map(Queue::from).collect()),
            check: None,
        })?;
    } else {
        let rows: Vec<Vec<String>> = profiles.iter().map(cells).collect();
        context.out.table(&["profile", "system", "queue", "cores", "memory", "walltime", "from"], &rows)?;
        if let Some(queues) = site_queues(config, context) {
            context.out.line("")?;
            let rows: Vec<Vec<String>> = queues.iter().map(queue_cells).collect();
            context.out.table(&["queue", "open", "walltime", "nodes", "cores", "memory"], &rows)?;
        }
    }
    for error in broken {
        context.out.warning(error);
    }
    Ok(Exit::Ok)
}

/// The queues of the site's default batch system, if it has one that answers at once; else a note says why not.
fn site_queues(config: &Config, context: &Context) -> Option<Vec<QueueInfo>> {
    let settings = config.settings(None, &[]).ok().filter(|settings| !settings.profile.system.is_empty())?;
    match live(&settings, context).and_then(|live| Ok(live.queues(GLANCE)?)) {
        Ok(queues) => Some(queues),
        Err(error) => {
            let system = &settings.profile.system;
            context.out.note(format!("the queues of {system} are not listed: {}", error.message));
            None
        }
    }
}

fn one(config: &Config, name: &str, context: &Context) -> Result<Exit, CliError> {
    let settings = config.settings(Some(name), &[])?;
    if let Choice::Literal { queue, system } = &settings.choice {
        context.out.note(format!("no profile `{queue}`: taken as a queue of {system}"));
    }
    if !context.out.is_json() {
        for entry in settings.entries.iter().filter(|e| e.key.starts_with("profile.")) {
            let key = entry.key.trim_start_matches("profile.");
            context.out.line(format!("{:<40}  # {}", format!("{key} = {}", entry.value), entry.origin))?;
        }
    }
    // The profile is told before the batch system is asked, which may take its time.
    let checked = check(&settings, context);
    if context.out.is_json() {
        let sources = config.profiles().into_iter().filter(|p| p.name == name).flat_map(|p| p.sources);
        let sources = sources.map(|s| s.display().to_string()).collect();
        let profiles = vec![row(name.to_owned(), sources, Ok(settings))];
        context.out.json(&Report { profiles, queues: None, check: Some(Check::from(&checked)) })?;
    }
    verdict(name, checked?, context)
}

/// Compares the profile with what its batch system says now.
fn check(settings: &Settings, context: &Context) -> Result<Fit, CliError> {
    let system = system_of(settings)?;
    let live = live(settings, context)?;
    // A dead controller says so at once to this question, and only after its timeout to the next.
    let queues = live.health().and_then(|()| live.queues(PATIENCE));
    let queues = queues.map_err(|error: BatchError| {
        CliError::from(error).hint("the profile was not checked; `jq doctor` looks closer")
    })?;
    Ok(fit(settings, system, &queues))
}

fn live(settings: &Settings, context: &Context) -> Result<Live, CliError> {
    let exe = own_program().map_err(|error| CliError::internal(format!("where is this program? {error}")))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    Live::new(settings, &context.cluster, exe, &path)
}

fn verdict(name: &str, fit: Fit, context: &Context) -> Result<Exit, CliError> {
    for doubt in &fit.doubts {
        context.out.warning(doubt);
    }
    if fit.never.is_empty() {
        let queue = fit.queue.map_or(String::new(), |queue| queue.name);
        context.out.note(format!("profile {name} fits: `{queue}` allows its walltime, cores and memory"));
        return Ok(Exit::Ok);
    }
    let reasons = fit.never.join("\n  ");
    Err(CliError::config(format!("jobs of profile {name} can never run:\n  {reasons}"))
        .hint("change the profile; `jq queues` lists the queues of the site's batch system"))
}

impl From<&Result<Fit, CliError>> for Check {
    fn from(checked: &Result<Fit, CliError>) -> Check {
        match checked {
            Ok(fit) => Check {
                fits: fit.never.is_empty(),
                queue: fit.queue.as_ref().map(Queue::from),
                never: fit.never.clone(),
                doubts: fit.doubts.clone(),
                error: String::new(),
            },
            Err(error) => Check {
                fits: false,
                queue: None,
                never: Vec::new(),
                doubts: Vec::new(),
                error: error.message.clone(),
            },
        }
    }
}

impl From<&QueueInfo> for Queue {
    fn from(queue: &QueueInfo) -> Queue {
        Queue {
            name: queue.name.clone(),
            default: queue.default,
            open: queue.open,
            walltime_s: queue.walltime.map_or(0, |limit| limit.as_secs()),
            nodes: queue.nodes,
            cores_per_node: queue.cores_per_node,
            memory_per_node_bytes: queue.memory_per_node,
            nodes_differ: queue.nodes_differ,
        }
    }
}

fn queue_cells(queue: &QueueInfo) -> Vec<String> {
    let plus = if queue.nodes_differ { "+" } else { "" };
    let number =
        |number: u64, text: String| if number == 0 { "?".to_owned() } else { format!("{text}{plus}") };
    vec![
        format!("{}{}", queue.name, if queue.default { " (default)" } else { "" }),
        if queue.open { "yes" } else { "no" }.to_owned(),
        queue.walltime.map_or("no limit".to_owned(), display_duration),
        queue.nodes.to_string(),
        number(queue.cores_per_node, queue.cores_per_node.to_string()),
        number(queue.memory_per_node, display_size(queue.memory_per_node)),
    ]
}

fn row(name: String, sources: Vec<String>, settings: Result<Settings, ConfigError>) -> Row {
    match settings {
        Ok(settings) => Row {
            name,
            sources,
            system: settings.profile.system,
            queue: settings.profile.queue,
            cores: settings.profile.cores,
            memory_bytes: settings.profile.memory,
            walltime_s: settings.profile.walltime.as_secs(),
            error: String::new(),
        },
        Err(error) => Row {
            name,
            sources,
            system: String::new(),
            queue: String::new(),
            cores: 0,
            memory_bytes: 0,
            walltime_s: 0,
            error: error.to_string(),
        },
    }
}

fn cells(row: &Row) -> Vec<String> {
    let sources = row.sources.join(", ");
    if !row.error.is_empty() {
        let unknown = || "?".to_owned();
        return vec![row.name.clone(), unknown(), unknown(), unknown(), unknown(), unknown(), sources];
    }
    let walltime = display_duration(std::time::Duration::from_secs(row.walltime_s));
    let queue = if row.queue.is_empty() { "-".to_owned() } else { row.queue.clone() };
    let memory = display_size(row.memory_bytes);
    vec![row.name.clone(), row.system.clone(), queue, row.cores.to_string(), memory, walltime, sources]
}
