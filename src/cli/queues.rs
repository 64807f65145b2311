//! `jq queues [PROFILE]`: the profiles that `--queue` can pick, or what one of them asks for.

use super::Context;
use super::exit::{CliError, Exit};
use crate::config::{Choice, Config, ConfigError, Settings, display_duration, display_size};
use serde::Serialize;

#[derive(clap::Args)]
pub struct Args {
    /// Only this one, in full
    profile: Option<String>,
}

#[derive(Serialize)]
struct Report {
    profiles: Vec<Row>,
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
    if context.out.is_json() {
        context.out.json(&Report { profiles })?;
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = profiles.iter().map(cells).collect();
    context.out.table(&["profile", "system", "queue", "cores", "memory", "walltime", "from"], &rows)?;
    for broken in profiles.iter().filter(|p| !p.error.is_empty()) {
        context.out.warning(&broken.error);
    }
    Ok(Exit::Ok)
}

fn one(config: &Config, name: &str, context: &Context) -> Result<Exit, CliError> {
    let settings = config.settings(Some(name), &[])?;
    if let Choice::Literal { queue, system } = &settings.choice {
        context.out.note(format!("no profile `{queue}`: taken as a queue of {system}"));
    }
    if context.out.is_json() {
        let sources = config.profiles().into_iter().filter(|p| p.name == name).flat_map(|p| p.sources);
        let sources = sources.map(|s| s.display().to_string()).collect();
        context.out.json(&Report { profiles: vec![row(name.to_owned(), sources, Ok(settings))] })?;
        return Ok(Exit::Ok);
    }
    for entry in settings.entries.iter().filter(|e| e.key.starts_with("profile.")) {
        let key = entry.key.trim_start_matches("profile.");
        context.out.line(format!("{:<40}  # {}", format!("{key} = {}", entry.value), entry.origin))?;
    }
    Ok(Exit::Ok)
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
