//! `wait`: until tasks are settled.

use super::Context;
use super::connect::{block_on_interruptible, client};
use super::exit::{CliError, Exit};
use super::idle::tell_if_idle;
use super::submit::keys;
use crate::client::Client;
use crate::cluster::up::status;
use crate::config::parse_duration;
use crate::graph::Key;
use crate::protocol::{Counts, Failure};
use serde::Serialize;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// Tasks and graphs to wait for
    #[arg(value_name = "KEY|GRAPH")]
    keys: Vec<String>,
    /// Everything that the cluster has
    #[arg(long, conflicts_with = "keys")]
    all: bool,
    /// How long to wait at most
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

/// What was waited for, where it was just begun.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Begun {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    begun: &'a Begun,
    counts: &'a Counts,
    failures: Vec<FailureRow<'a>>,
}

#[derive(Serialize)]
struct FailureRow<'a> {
    key: String,
    task: String,
    kind: String,
    exit_code: Option<i32>,
    message: &'a str,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let _ = args.all;
    let keys = keys(&args.keys)?;
    block_on_interruptible(async {
        let mut client = client(context).await?;
        for_keys(&mut client, keys, args.timeout, None, context).await
    })
}

/// Waits (for what was `begun` just now, if it was) with a progress bar, tells the failures, and returns the exit code for them.
pub async fn for_keys(
    client: &mut Client,
    keys: Vec<Key>,
    timeout: Option<Duration>,
    begun: Option<Begun>,
    context: &Context,
) -> Result<Exit, CliError> {
    let bar = context.out.progress(0, "tasks");
    let status = status(client).await?;
    if status.counts.settled() < status.counts.total() {
        tell_if_idle(&status, &bar, context);
    }
    let show_progress = !bar.is_hidden();
    if begun.is_some() && show_progress {
        context.out.detail("Ctrl-C stops waiting, not the tasks");
    }
    let mut progress = |counts: &Counts| {
        bar.set_length(counts.total());
        bar.set_position(counts.settled());
        if counts.erred > 0 {
            bar.set_message(format!("tasks, {} failed", counts.erred));
        }
    };
    let wait = client.wait(keys, show_progress.then_some(&mut progress as &mut dyn FnMut(&Counts)));
    let settled = match timeout {
        None => wait.await?,
        Some(timeout) => tokio::time::timeout(timeout, wait).await.map_err(|_| {
            CliError::new(
                Exit::TimedOut,
                format!("not settled within {}", crate::config::display_duration(timeout)),
            )
        })??,
    };
    bar.finish_and_clear();
    let (counts, failures) = settled;
    tell(&begun.unwrap_or_default(), &counts, &failures, context)?;
    Ok(if counts.erred + counts.cancelled > 0 { Exit::TaskFailed } else { Exit::Ok })
}

fn tell(begun: &Begun, counts: &Counts, failures: &[Failure], context: &Context) -> Result<(), CliError> {
    if context.out.is_json() {
        let row = |failure| failure_row(failure);
        return context.out.json(&Report { begun, counts, failures: failures.iter().map(row).collect() });
    }
    for failure in failures {
        let key = failure.name.clone().unwrap_or_else(|| failure.task.to_string());
        context.out.warning(format!("{key}: {}", failure.error.message));
    }
    let bad = counts.erred + counts.cancelled;
    if bad > failures.len() as u64 {
        let state = if counts.erred > 0 { "erred" } else { "cancelled" };
        context.out.warning(format!(
            "{bad} tasks failed or were cancelled in all; `{} tasks --state {state}` lists them",
            context.program
        ));
    }
    context
        .out
        .note(format!("{} done, {} failed, {} cancelled", counts.memory, counts.erred, counts.cancelled));
    Ok(())
}

fn failure_row(failure: &Failure) -> FailureRow<'_> {
    FailureRow {
        key: failure.name.clone().unwrap_or_else(|| failure.task.to_string()),
        task: failure.task.to_string(),
        kind: kind_name(failure.error.kind),
        exit_code: failure.error.kind.exit_code(),
        message: &failure.error.message,
    }
}

/// The kind of a failure as `--json` has it, such as `exit` or `time-limit`.
pub fn kind_name(kind: crate::protocol::ErrorKind) -> String {
    use crate::protocol::ErrorKind as Kind;
    let name = match kind {
        Kind::Exit(_) => "exit",
        Kind::Signal(_) => "signal",
        Kind::TimeLimit => "time-limit",
        Kind::OutOfMemory => "out-of-memory",
        Kind::Task => "task",
        Kind::WorkerLost => "worker-lost",
        Kind::OutcomeUnknown => "outcome-unknown",
        Kind::Dependency => "dependency",
    };
    name.to_owned()
}
