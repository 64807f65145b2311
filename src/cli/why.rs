//! `why`: the story of a task, a graph, a worker or a job, from the scheduler and from what its workers left on disk.

use super::Context;
use super::connect::{block_on_interruptible, client, state_dir};
use super::exit::{CliError, Exit};
use super::logs;
use super::output::printable;
use crate::client::unexpected;
use crate::protocol::{Explanation, Reply, Request};
use crate::worker::supervisor::VerdictRecord;
use serde::Serialize;

/// Deaths of which the story is told, the last ones.
const DEATHS: usize = 3;
/// Lines of a dead worker's log that are shown, the last ones.
const LOG_LINES: usize = 10;

#[derive(clap::Args)]
pub struct Args {
    /// A task, a graph, a worker (w3), an allocation (a3) or a job's id
    #[arg(value_name = "KEY|GRAPH|WORKER|ALLOCATION")]
    subject: String,
}

#[derive(Serialize)]
struct Report {
    about: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    subject: String,
    state: String,
    sentences: Vec<String>,
    /// How workers of it died, as their supervisors saw it.
    deaths: Vec<VerdictRecord>,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let request = Request::Why { subject: args.subject.clone() };
    let explained = block_on_interruptible(async {
        match client(context).await?.call(request).await? {
            Reply::Why(explained) => Ok(explained),
            other => Err(unexpected(&other).into()),
        }
    })?;
    let row = |explanation: Explanation| {
        let deaths = deaths(&args.subject, &explanation, context);
        let Explanation { subject, state, sentences, .. } = explanation;
        Row { subject, state, sentences, deaths }
    };
    let about: Vec<Row> = explained.into_iter().map(row).collect();
    if context.out.is_json() {
        context.out.json(&Report { about })?;
        return Ok(Exit::Ok);
    }
    about.iter().try_for_each(|row| print(row, context))?;
    Ok(Exit::Ok)
}

/// What supervisors wrote down; a granted reader can't see it.
fn deaths(subject: &str, explanation: &Explanation, context: &Context) -> Vec<VerdictRecord> {
    let Some(allocation) = explanation.allocation.filter(|_| context.grant.is_none()) else {
        return Vec::new();
    };
    let Ok(state) = state_dir(context) else { return Vec::new() };
    let is_it = |death: &VerdictRecord| match explanation.incarnation {
        0 => true,
        incarnation => death.worker == subject && death.incarnation == incarnation,
    };
    let mut deaths = logs::deaths(&state, &allocation.to_string());
    deaths.retain(is_it);
    deaths.drain(..deaths.len().saturating_sub(DEATHS));
    deaths
}

fn print(row: &Row, context: &Context) -> Result<(), CliError> {
    let line = |text: &str| context.out.line(printable(text));
    // As `status` has it.
    let state = match row.state.as_str() {
        "memory" => "done",
        "erred" => "failed",
        state => state,
    };
    line(&format!("{} is {state}", row.subject))?;
    // What a program printed may have several lines.
    for sentence in row.sentences.iter().flat_map(|sentence| sentence.lines()) {
        line(&format!("  {sentence}"))?;
    }
    for death in &row.deaths {
        context.out.line(format!("  {}", logs::obituary(death)))?;
        let shown = death.log.len().saturating_sub(LOG_LINES);
        for words in &death.log[shown..] {
            line(&format!("    {words}"))?;
        }
    }
    Ok(())
}
