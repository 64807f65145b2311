//! `jq logs [scheduler|WORKER|ALLOCATION] [-f]`: what there is, or one log as its writer left it, with how workers
//! died at its end.

mod catalogue;
mod follow;
mod read;

use super::Context;
use super::connect::{block_on, state_dir};
use super::exit::{CliError, Exit};
use crate::config::about_size;
use crate::state::StateDir;
use crate::worker::supervisor::VerdictRecord;
use catalogue::{Catalogue, Log};
pub use read::obituary;
use serde::Serialize;
use std::fs::File;

/// How workers of that allocation died, by time; what can't be read is left out.
pub fn deaths(state: &StateDir, allocation: &str) -> Vec<VerdictRecord> {
    let log = Catalogue::open(state).and_then(|catalogue| catalogue.find(allocation));
    log.map(|log| log.verdicts()).unwrap_or_default()
}

/// Lines of a log in a JSON report, where `--lines` says nothing: reports are held in memory.
const JSON_LINES: u64 = 1000;
/// Most of them.
const MAX_JSON_LINES: u64 = 100_000;

#[derive(clap::Args)]
pub struct Args {
    /// `scheduler`, a worker (w3), an allocation (a3), or a job by its id or name; without it, what there is
    #[arg(value_name = "scheduler|WORKER|ALLOCATION")]
    log: Option<String>,
    /// Go on printing what comes, until Ctrl-C
    #[arg(short, long, requires = "log")]
    follow: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N", requires = "log")]
    lines: Option<u64>,
}

#[derive(Serialize)]
struct List {
    logs: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    /// What `logs` takes: `scheduler` or `a3`.
    name: String,
    job: String,
    job_name: String,
    state: String,
    path: String,
    /// `null` as long as there is none.
    bytes: Option<u64>,
}

#[derive(Serialize)]
struct Report {
    log: String,
    path: String,
    bytes: u64,
    /// The last ones; bytes that are no UTF-8 are replaced.
    lines: Vec<String>,
    verdicts: Vec<VerdictRecord>,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let catalogue = Catalogue::open(&state_dir(context)?)?;
    let Some(word) = &args.log else { return list(&catalogue, context) };
    let log = catalogue.find(word)?;
    if context.out.is_json() {
        if args.follow {
            return Err(CliError::usage("--json gives one report: leave --follow out"));
        }
        return report(&log, args.lines, context);
    }
    if args.follow {
        return block_on(follow::follow(&log, args.lines, context));
    }
    print(&log, args.lines, context)
}

fn list(catalogue: &Catalogue, context: &Context) -> Result<Exit, CliError> {
    let rows: Vec<Row> = catalogue.logs().iter().map(row).collect();
    if context.out.is_json() {
        context.out.json(&List { logs: rows })?;
        return Ok(Exit::Ok);
    }
    let cells = |row: &Row| {
        let size = row.bytes.map_or("-".to_owned(), about_size);
        vec![
            row.name.clone(),
            row.job.clone(),
            row.job_name.clone(),
            row.state.clone(),
            size,
            row.path.clone(),
        ]
    };
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    context.out.table(&["log", "job", "job name", "state", "size", "file"], &cells)?;
    Ok(Exit::Ok)
}

fn row(log: &Log) -> Row {
    Row {
        name: log.name.clone(),
        job: log.job.clone(),
        job_name: log.job_name.clone(),
        state: log.state.clone(),
        path: log.path.display().to_string(),
        bytes: log.path.metadata().ok().map(|meta| meta.len()),
    }
}

fn print(log: &Log, lines: Option<u64>, context: &Context) -> Result<Exit, CliError> {
    match open(log)? {
        Some(file) => {
            let end = length(log, &file)?;
            let start = read::start(&file, end, lines).map_err(|error| unreadable(log, &error))?;
            read::copy(&file, start..end, |bytes| context.out.bytes(bytes))
                .map_err(|error| error.or_else(|error| unreadable(log, &error)))?;
        }
        None => context.out.note(not_there(log)),
    }
    for verdict in log.verdicts() {
        context.out.line(read::obituary(&verdict))?;
    }
    Ok(Exit::Ok)
}

fn report(log: &Log, lines: Option<u64>, context: &Context) -> Result<Exit, CliError> {
    let count = lines.unwrap_or(JSON_LINES).min(MAX_JSON_LINES);
    let (mut bytes, mut text) = (0, Vec::new());
    if let Some(file) = open(log)? {
        bytes = length(log, &file)?;
        let start = read::start(&file, bytes, Some(count)).map_err(|error| unreadable(log, &error))?;
        // A line without end must not fill the memory either.
        let start = start.max(bytes.saturating_sub(read::MAX_REPORT_BYTES));
        let keep = |part: &[u8]| {
            text.extend_from_slice(part);
            Ok(())
        };
        read::copy(&file, start..bytes, keep)
            .map_err(|error| error.or_else(|error| unreadable(log, &error)))?;
    }
    context.out.json(&Report {
        log: log.name.clone(),
        path: log.path.display().to_string(),
        bytes,
        lines: String::from_utf8_lossy(&text).lines().map(str::to_owned).collect(),
        verdicts: log.verdicts(),
    })?;
    Ok(Exit::Ok)
}

/// `None`: nobody has written to it yet.
fn open(log: &Log) -> Result<Option<File>, CliError> {
    match File::open(&log.path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(log, &error)),
    }
}

fn length(log: &Log, file: &File) -> Result<u64, CliError> {
    Ok(file.metadata().map_err(|error| unreadable(log, &error))?.len())
}

fn not_there(log: &Log) -> String {
    let state = if log.state.is_empty() { String::new() } else { format!(" ({})", log.state) };
    format!("{}{state} has no log yet: {}", log.name, log.path.display())
}

fn unreadable(log: &Log, error: &std::io::Error) -> CliError {
    let exit = match error.kind() {
        std::io::ErrorKind::PermissionDenied => Exit::Permission,
        _ => Exit::Config,
    };
    CliError::new(exit, format!("can't read {}: {error}", log.path.display()))
}
