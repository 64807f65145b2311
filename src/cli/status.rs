//! `status`: one cluster, as its scheduler sees it.

use super::Context;
use super::connect::{block_on_interruptible, client};
use super::exit::{CliError, Exit};
use crate::cluster::up::status as ask;
use crate::config::{about_size, display_duration};
use crate::protocol::{
    AllocationReport, AllocationStateName, Counts, FolderReport, SchedulerReport, StatusReport, WorkerReport,
    WorkerStateName,
};
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// Show it again and again until Ctrl-C
    #[arg(long)]
    watch: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    cluster: &'a str,
    #[serde(flatten)]
    status: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct FamilyRow<'a> {
    family: &'a str,
    #[serde(flatten)]
    counts: &'a Counts,
}

/// Between two looks of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Workers and allocations that are gone and still shown.
const FORMER_SHOWN: usize = 5;

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    block_on_interruptible(async {
        let mut client = client(context).await?;
        loop {
            let status = ask(&mut client).await?;
            if args.watch && !context.out.is_json() {
                // Home and clear to the end, as a terminal understands it.
                context.out.bytes(b"\x1b[H\x1b[J")?;
            }
            show(&status, context)?;
            if !args.watch {
                return Ok(Exit::Ok);
            }
            let _ = std::io::stdout().flush();
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    })
}

/// The report's fields, each family as an object of its own and ids as people write them.
fn fields(status: &StatusReport) -> Result<serde_json::Map<String, serde_json::Value>, CliError> {
    let failed = |error: serde_json::Error| CliError::internal(format!("can't write JSON: {error}"));
    let mut value = serde_json::to_value(status).map_err(failed)?;
    let families: Vec<FamilyRow> =
        status.families.iter().map(|(family, counts)| FamilyRow { family, counts }).collect();
    value["families"] = serde_json::to_value(families).map_err(failed)?;
    value["scheduler"]["walltime_left_s"] = left(&status.scheduler).map(|left| left.as_secs()).into();
    for (i, worker) in status.workers.iter().enumerate() {
        value["workers"][i]["allocation"] = worker.allocation.to_string().into();
    }
    for (i, allocation) in status.allocations.iter().enumerate() {
        value["allocations"][i]["id"] = allocation.id.to_string().into();
    }
    match value {
        serde_json::Value::Object(fields) => Ok(fields),
        _ => Err(CliError::internal("a status without fields")),
    }
}

fn show(status: &StatusReport, context: &Context) -> Result<(), CliError> {
    if context.out.is_json() {
        return context.out.json(&Report { cluster: &context.cluster, status: fields(status)? });
    }
    let c = &status.counts;
    context.out.line(format!(
        "cluster {}: {}{} of {} workers connected, {} running and {} pending in the queue; up for {}, epoch {}",
        context.cluster,
        if status.going_down { "going down, " } else { "" },
        status.connected,
        status.target,
        status.running,
        status.pending,
        display_duration(Duration::from_secs(status.uptime_s)),
        status.epoch
    ))?;
    context.out.line(format!("scheduler: {}", place(&status.scheduler)))?;
    context.out.line(format!(
        "tasks: {} waiting, {} ready, {} assigned, {} done, {} failed, {} cancelled",
        c.waiting, c.ready, c.assigned, c.memory, c.erred, c.cancelled
    ))?;
    let hours = |seconds: u64| seconds as f64 / 3600.0;
    context.out.line(format!(
        "core-hours: {:.2} used, {:.2} idle",
        hours(status.core_seconds_used),
        hours(status.core_seconds_idle)
    ))?;
    if !status.batch_trouble.is_empty() {
        context.out.warning(&status.batch_trouble);
    }
    if status.scheduler.folder.is_near() {
        context.out.warning(format!(
            "{}: `{} clean` removes what is of no use any more",
            folder(&status.scheduler.folder),
            context.program
        ));
    }
    families(status, context)?;
    workers(status, context)?;
    allocations(status, context)
}

/// What is left of the scheduler's walltime; `None`: it has no end.
fn left(scheduler: &SchedulerReport) -> Option<Duration> {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    (scheduler.ends_unix > 0).then(|| Duration::from_secs(scheduler.ends_unix.saturating_sub(now)))
}

/// Where the scheduler runs, and until when.
fn place(scheduler: &SchedulerReport) -> String {
    let SchedulerReport { host, pid, job, queue, .. } = scheduler;
    if job.is_empty() {
        return format!("process {pid} on {host}");
    }
    let queue = if queue.is_empty() { String::new() } else { format!(" of queue {queue}") };
    let until = left(scheduler).map_or(String::new(), |left| {
        format!(", which ends in {}; another takes over before", display_duration(to_the_minute(left)))
    });
    format!("job {job}{queue} on {host}{until}")
}

/// What the cluster's folder takes of what it may.
pub fn folder(report: &FolderReport) -> String {
    format!(
        "the cluster's folder takes {} in {} inodes, of {} (limits.state_bytes) and {} (limits.state_inodes) that it may take",
        about_size(report.nbytes),
        report.inodes,
        about_size(report.max_nbytes),
        report.max_inodes
    )
}

/// For times that people see, and that change while they look.
fn to_the_minute(duration: Duration) -> Duration {
    let seconds = duration.as_secs();
    Duration::from_secs(if seconds > 120 { seconds / 60 * 60 } else { seconds })
}

fn families(status: &StatusReport, context: &Context) -> Result<(), CliError> {
    if status.families.is_empty() {
        return Ok(());
    }
    let row = |(name, c): &(String, Counts)| {
        let numbers = [c.waiting, c.ready, c.assigned, c.memory, c.erred, c.cancelled];
        std::iter::once(name.clone()).chain(numbers.iter().map(u64::to_string)).collect()
    };
    let rows: Vec<Vec<String>> = status.families.iter().map(row).collect();
    context.out.line("")?;
    context.out.table(&["task", "waiting", "ready", "assigned", "done", "failed", "cancelled"], &rows)
}

fn workers(status: &StatusReport, context: &Context) -> Result<(), CliError> {
    let (here, gone): (Vec<_>, Vec<_>) =
        status.workers.iter().partition(|worker| worker.state != WorkerStateName::Lost);
    if here.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let row = |w: &&WorkerReport| {
        let state = match w.state {
            WorkerStateName::Connected => "connected".to_owned(),
            WorkerStateName::Leaving => "leaving".to_owned(),
            WorkerStateName::Lost => format!("gone: {}", w.note),
        };
        let memory = if w.memory == 0 { "-".to_owned() } else { about_size(w.memory) };
        let numbers = [w.assigned.to_string(), w.finished.to_string()];
        [vec![w.name.clone(), w.host.clone(), w.cores.to_string(), memory], numbers.to_vec(), vec![state]]
            .concat()
    };
    let newest_gone = gone.iter().skip(gone.len().saturating_sub(FORMER_SHOWN));
    let rows: Vec<Vec<String>> = here.iter().chain(newest_gone).map(row).collect();
    context.out.line("")?;
    context.out.table(&["worker", "host", "cores", "memory", "assigned", "finished", "state"], &rows)
}

fn allocations(status: &StatusReport, context: &Context) -> Result<(), CliError> {
    let over =
        |a: &&AllocationReport| matches!(a.state, AllocationStateName::Ended | AllocationStateName::Refused);
    let (ended, open): (Vec<_>, Vec<_>) = status.allocations.iter().partition(over);
    if ended.is_empty() && open.is_empty() {
        return Ok(());
    }
    let newest_ended = ended.iter().skip(ended.len().saturating_sub(FORMER_SHOWN));
    let rows: Vec<Vec<String>> = open.iter().chain(newest_ended).map(|a| row(a)).collect();
    context.out.line("")?;
    context.out.table(&["allocation", "job", "state", "workers", "nodes", "reason"], &rows)
}

fn row(a: &AllocationReport) -> Vec<String> {
    let job = if a.job.is_empty() { "-".to_owned() } else { a.job.clone() };
    let workers = a.workers_connected.to_string();
    vec![a.id.to_string(), job, state_word(a.state).to_owned(), workers, a.nodes.clone(), reason(a)]
}

/// The state of an allocation as people read it.
pub fn state_word(state: AllocationStateName) -> &'static str {
    match state {
        AllocationStateName::Submitting => "submitting",
        AllocationStateName::Pending => "pending",
        AllocationStateName::Running => "running",
        AllocationStateName::Ended => "ended",
        AllocationStateName::Refused => "refused",
    }
}

/// Why an allocation is as it is, in the batch system's word and ours, and when it may start.
pub fn reason(a: &AllocationReport) -> String {
    let estimate = match a.start_estimate_unix {
        0 => String::new(),
        at => format!(", may start {}", in_words(at)),
    };
    let never = if a.never { "never starts: " } else { "" };
    let words =
        if a.words.is_empty() || a.words == a.reason { String::new() } else { format!(" ({})", a.words) };
    format!("{never}{}{words}{estimate}", a.reason)
}

fn in_words(unix: u64) -> String {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    match unix.checked_sub(now) {
        Some(seconds) => {
            format!("in {}", display_duration(to_the_minute(Duration::from_secs(seconds))))
        }
        None => "soon".to_owned(),
    }
}
