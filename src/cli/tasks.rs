//! `tasks`: a list of them.

use super::Context;
use super::connect::{block_on_interruptible, client};
use super::exit::{CliError, Exit};
use super::submit::graph_id;
use crate::graph::GraphId;
use crate::protocol::{MAX_LISTED, Reply, Request, TaskReport, TaskStateName};
use serde::Serialize;

#[derive(clap::Args)]
pub struct Args {
    /// Only those in this state
    #[arg(long, value_name = "S")]
    state: Option<State>,
    /// Only those of this graph
    #[arg(long, value_name = "G", value_parser = graph_id)]
    graph: Option<GraphId>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LISTED)))]
    limit: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum State {
    Waiting,
    Ready,
    Assigned,
    Memory,
    Erred,
    Cancelled,
}

#[derive(Serialize)]
struct Report {
    tasks: Vec<Row>,
    more: bool,
}

#[derive(Serialize)]
struct Row {
    key: String,
    task: String,
    family: String,
    state: TaskStateName,
    attempt: u32,
    worker: Option<String>,
    seconds: f64,
    error: Option<String>,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let state = args.state.map(|state| match state {
        State::Waiting => TaskStateName::Waiting,
        State::Ready => TaskStateName::Ready,
        State::Assigned => TaskStateName::Assigned,
        State::Memory => TaskStateName::Memory,
        State::Erred => TaskStateName::Erred,
        State::Cancelled => TaskStateName::Cancelled,
    });
    let request = Request::Tasks { state, graph: args.graph, limit: args.limit };
    let (tasks, more) = block_on_interruptible(async {
        match client(context).await?.call(request).await? {
            Reply::Tasks { tasks, more } => Ok((tasks, more)),
            other => Err(crate::client::unexpected(&other).into()),
        }
    })?;
    let rows: Vec<Row> = tasks.into_iter().map(row).collect();
    if context.out.is_json() {
        context.out.json(&Report { tasks: rows, more })?;
        return Ok(Exit::Ok);
    }
    let cells = |row: &Row| {
        let state = format!("{:?}", row.state).to_lowercase();
        let seconds = if row.seconds > 0.0 { format!("{:.3}", row.seconds) } else { String::new() };
        let worker = row.worker.clone().unwrap_or_default();
        let error = row.error.as_deref().and_then(|error| error.lines().next()).unwrap_or("").to_owned();
        vec![row.key.clone(), row.family.clone(), state, row.attempt.to_string(), worker, seconds, error]
    };
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    context.out.table(&["key", "task", "state", "attempt", "worker", "seconds", "error"], &cells)?;
    if more {
        context
            .out
            .note(format!("there are more: --limit, --graph and --state choose (shown: {})", args.limit));
    }
    Ok(Exit::Ok)
}

fn row(report: TaskReport) -> Row {
    Row {
        key: report.name.unwrap_or_else(|| report.task.to_string()),
        task: report.task.to_string(),
        family: report.family,
        state: report.state,
        attempt: report.attempt,
        worker: report.worker,
        seconds: report.nanos as f64 / 1e9,
        error: report.error.map(|error| error.message),
    }
}
