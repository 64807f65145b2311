//! `compute 'NAME = EXPR'.. --in FILE.. --out OUT`: lazy expressions over labelled arrays.
//!
//! Exit codes, beside those that every verb has: 2 for what was typed wrong (syntax, an unknown name or function,
//! dimensions that don't fit); 77 and 78 for inputs and outputs that can be seen to be unusable before any work is
//! done (a file that may not be read; one that is missing, damaged or doesn't fit the others; an output that exists
//! or has no directory); 69 for no cluster; 1 for what goes wrong while computing, a full disk too. Whatever happens,
//! the output is there whole or not at all.

use super::Context;
use super::connect::{block_on, client};
use super::exit::{CliError, Exit};
use super::idle::tell_if_idle;
use super::inputs::{Inputs, array_error, check_writable};
use super::stops::Stops;
use crate::array::compute::PlanSummary;
use crate::array::{self, ComputeRequest, Plan};
use crate::client::{Client, random_request};
use crate::cluster::up::status;
use crate::config::about_size;
use crate::graph::{Columns, Graph, GraphId, Key, Op};
use crate::local::{self, Host, LocalError};
use crate::protocol::{Counts, ErrorKind, Failure, GraphOptions, PendingOutput, Request, text_of_path};
use indicatif::ProgressBar;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// For a submission that is under way, and for cancelling, when the user doesn't want to wait any more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a graph that surely fit in one frame to the scheduler (64 MiB).
const MOST_SUBMITTED: usize = 60 << 20;
/// Failures that are told one by one.
const MOST_TOLD: usize = 5;

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// What to compute: NAME = EXPR, each may use the ones before it
    #[arg(required = true, value_name = "NAME = EXPR")]
    pub statements: Vec<String>,
    /// Files, or patterns of their names; several are joined. Or dataset:NAME
    #[arg(long = "in", required = true, num_args = 1.., value_name = "FILE|dataset:NAME")]
    pub inputs: Vec<String>,
    /// The file to write, or the Zarr store
    #[arg(long = "out", value_name = "OUT.nc|OUT.zarr")]
    pub output: PathBuf,
    /// Statements to keep in OUT although later ones use them
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub keep: Vec<String>,
    /// Tile sizes by dimension, such as time=24,lat=100
    #[arg(long, value_name = "DIM=N,..", value_delimiter = ',', value_parser = chunk)]
    pub chunks: Vec<(String, u64)>,
    /// Replace OUT if it is there
    #[arg(long)]
    pub overwrite: bool,
    /// Say what would be done; compute nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write the time and the inputs into the output's history
    #[arg(long)]
    pub stamp: bool,
    /// Compute on this host's threads, without a cluster
    #[arg(long)]
    pub local: bool,
    /// Threads to compute on with --local; else as many as there are cores
    #[arg(long, value_name = "N", requires = "local", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

/// What was done.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    plan: &'a PlanSummary,
    /// None: on this host's threads.
    graph: Option<String>,
    seconds: f64,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let mut inputs = Inputs::find(&args.inputs, context)?;
    if !args.local && !args.dry_run {
        inputs.find_held(context)?;
    }
    let names = inputs.files();
    let (files, dataset) = match inputs {
        Inputs::Files(files) => (files, None),
        Inputs::Dataset(dataset) => (Vec::new(), Some(dataset.1)),
    };
    let request = ComputeRequest {
        statements: args.statements,
        inputs: files,
        dataset,
        out: args.output,
        keep: args.keep,
        chunks: args.chunks,
        overwrite: args.overwrite,
        stamp: args.stamp,
    };
    let plan = array::plan(&request).map_err(|error| array_error(error, &names))?;
    check_writable(plan.summary.out.parent().unwrap_or(Path::new("/")))?;
    if args.dry_run {
        dry_run(&plan, context)?;
        return Ok(Exit::Ok);
    }
    let host = args
        .local
        .then(|| args.threads.map_or_else(Host::here, |threads| Host::with_threads(threads as usize)));
    let started = Instant::now();
    let graph = execute(&plan, host.as_ref(), context)?;
    tell(&plan, graph, started.elapsed(), context)?;
    Ok(Exit::Ok)
}

/// Does what the plan says, on the threads of this host or on the cluster; the graph there. What fails leaves
/// nothing behind.
pub(super) fn execute(
    plan: &Plan,
    host: Option<&Host>,
    context: &Context,
) -> Result<Option<GraphId>, CliError> {
    if !plan.summary.left_out.is_empty() {
        context.out.warning(format!("coordinates that don't go along: {}", plan.summary.left_out.join(", ")));
    }
    let bar = context.out.progress(plan.summary.tasks, "computing");
    let outcome = match host {
        Some(host) => locally(plan, host, &bar, context).map(|()| None),
        None => block_on(on_cluster(plan, &bar, context)).map(Some),
    };
    bar.finish_and_clear();
    if outcome.is_err()
        && let Err(left) = array::discard(plan)
    {
        context.out.warning(format!("{}: can't be removed: {left}", plan.temporary.display()));
    }
    outcome
}

fn dry_run(plan: &Plan, context: &Context) -> Result<(), CliError> {
    if context.out.is_json() {
        context.out.json_with_schema(&plan.summary)
    } else {
        context.out.bytes(super::output::printable_lines(&plan.describe()).as_bytes())
    }
}

fn tell(plan: &Plan, graph: Option<GraphId>, took: Duration, context: &Context) -> Result<(), CliError> {
    let (summary, seconds) = (&plan.summary, took.as_secs_f64());
    if context.out.is_json() {
        let graph = graph.map(|graph| graph.to_string());
        return context.out.json_with_schema(&Report { plan: summary, graph, seconds });
    }
    let names: Vec<&str> = summary.outputs.iter().map(|output| output.name.as_str()).collect();
    context.out.note(format!(
        "wrote {} ({}): {} tasks in {seconds:.1} s",
        summary.out.display(),
        names.join(", "),
        summary.tasks
    ));
    Ok(())
}

/// Makes the temporary file: from here on, a signal must find somebody who removes it.
fn begin(plan: &Plan) -> Result<(), CliError> {
    array::begin(plan).map_err(|error| {
        let exit = if error.kind() == std::io::ErrorKind::PermissionDenied {
            Exit::Permission
        } else {
            Exit::Config
        };
        CliError::new(exit, format!("{}: can't be made: {error}", plan.temporary.display()))
    })
}

fn locally(plan: &Plan, host: &Host, bar: &ProgressBar, context: &Context) -> Result<(), CliError> {
    let cancel = AtomicBool::new(false);
    let (ended, mut end) = tokio::sync::oneshot::channel();
    std::thread::scope(|scope| {
        let work = || {
            let show = |counts: &Counts| bar.set_position(counts.settled());
            // The other side waits for this.
            let _ = ended.send(local::compute(&plan.graph, host, &cancel, show).map(drop));
        };
        block_on(async {
            // Before there is anything to stop.
            let mut stops = Stops::new()?;
            begin(plan)?;
            context.out.detail(format!("computing on {} threads; Ctrl-C stops it", host.threads));
            scope.spawn(work);
            let stopped = tokio::select! {
                outcome = &mut end => return local_outcome(outcome),
                exit = stops.next() => exit,
            };
            cancel.store(true, Ordering::Relaxed);
            match end.await {
                Ok(Err(LocalError::Cancelled)) => Err(CliError::silent(stopped)),
                outcome => local_outcome(outcome),
            }
        })
    })
}

fn local_outcome<E>(outcome: Result<Result<(), LocalError>, E>) -> Result<(), CliError> {
    let outcome = outcome.map_err(|_| CliError::internal("the computing thread ended early"))?;
    outcome.map_err(|error| match &error {
        LocalError::Task { .. } | LocalError::Cancelled => CliError::new(Exit::TaskFailed, error.to_string()),
        LocalError::TooLarge { .. } => CliError::config(error.to_string()),
        LocalError::Threads(_) => CliError::new(Exit::TryAgain, error.to_string()),
        LocalError::Foreign => CliError::internal(error.to_string()),
    })
}

/// Has the cluster compute it. After a failure or a signal nothing of it goes on: the result has no other owner.
async fn on_cluster(plan: &Plan, bar: &ProgressBar, context: &Context) -> Result<GraphId, CliError> {
    check_size(plan.graph.columns())?;
    let mut client = client(context).await?;
    let mut stops = Stops::new()?;
    begin(plan)?;
    let name = plan.summary.out.file_name().unwrap_or_default().to_string_lossy();
    let status = status(&mut client).await?;
    tell_if_idle(&status, bar, context);
    let looks = array::look_graph(&plan.look, status.connected);
    let hidden = ProgressBar::hidden();
    let options = |what: &str| GraphOptions {
        label: format!("{what} {name}"),
        max_failures: Some(0),
        unfinished: vec![PendingOutput {
            temporary: text_of_path(&plan.temporary),
            target: text_of_path(&plan.summary.out),
        }],
        replicas: 0,
        unconfirmed: false,
    };
    settled(&mut client, looks, options("look at files for"), &hidden, &mut stops, context).await?;
    settled(&mut client, plan.graph.clone(), options("compute"), bar, &mut stops, context).await
}

/// Submits a graph and waits for its end. It is cancelled if that isn't good, or isn't waited for.
async fn settled(
    client: &mut Client,
    graph: Graph,
    options: GraphOptions,
    bar: &ProgressBar,
    stops: &mut Stops,
    context: &Context,
) -> Result<GraphId, CliError> {
    let graph = submitted(client, graph, options, stops).await?;
    let mut show = |counts: &Counts| bar.set_position(counts.settled());
    let progress = (!bar.is_hidden()).then_some(&mut show as &mut dyn FnMut(&Counts));
    let waited = tokio::select! {
        settled = client.wait(vec![Key::Graph(graph)], progress) => settled.map_err(CliError::from),
        exit = stops.next() => Err(CliError::silent(exit)),
    };
    let outcome = waited.and_then(|(counts, failures)| match failure(&counts, &failures, graph) {
        Some(failure) => Err(failure),
        None => Ok(graph),
    });
    if outcome.is_err() {
        cancel(client, graph, context).await;
    }
    outcome
}

/// A graph is submitted in one piece, so that no value is released before all that needs it is known.
pub(super) fn check_size(columns: &Columns) -> Result<(), CliError> {
    // A number takes five bytes at most.
    let numbers = [&columns.op_of, &columns.args_end, &columns.deps, &columns.deps_end].map(Vec::len);
    let params = |op: &Op| if let Op::Kernel { params, .. } = op { params.len() } else { 0 };
    let ops: usize = columns.ops.iter().map(params).sum();
    let nbytes = columns.args.len() + ops + 5 * numbers.iter().sum::<usize>();
    if nbytes <= MOST_SUBMITTED {
        return Ok(());
    }
    let (tasks, about) = (columns.len(), about_size(nbytes as u64));
    let message = format!("the plan has {tasks} tasks: at {about} it is too large to be submitted");
    Err(CliError::usage(message).hint("choose larger --chunks, or fewer files at a time"))
}

async fn submitted(
    client: &mut Client,
    graph: Graph,
    options: GraphOptions,
    stops: &mut Stops,
) -> Result<GraphId, CliError> {
    let stopped = {
        let mut submission = Box::pin(client.submit(graph, options));
        let exit = tokio::select! {
            submitted = &mut submission => return Ok(submitted?),
            exit = stops.next() => exit,
        };
        // It may be known to the cluster already.
        (exit, tokio::time::timeout(PATIENCE, submission).await)
    };
    let (exit, submitted) = stopped;
    if let Ok(Ok(graph)) = submitted {
        let _ = tokio::time::timeout(PATIENCE, cancelled(client, graph)).await;
    }
    Err(CliError::silent(exit))
}

pub(super) async fn cancel(client: &mut Client, graph: GraphId, context: &Context) {
    let told = match tokio::time::timeout(PATIENCE, cancelled(client, graph)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.message,
        Err(_) => "the scheduler doesn't answer".to_owned(),
    };
    context.out.warning(format!("{graph} could not be cancelled: {told}"));
}

async fn cancelled(client: &mut Client, graph: GraphId) -> Result<(), CliError> {
    let request = Request::Cancel { request: random_request()?, keys: vec![Key::Graph(graph)] };
    client.call(request).await?;
    Ok(())
}

/// What failed, if not all went well. Tasks that failed for another one's failure say nothing new.
pub(super) fn failure(counts: &Counts, failures: &[Failure], graph: GraphId) -> Option<CliError> {
    if counts.erred + counts.cancelled == 0 {
        return None;
    }
    let own: Vec<&Failure> = failures.iter().filter(|f| f.error.kind != ErrorKind::Dependency).collect();
    let text = |f: &&Failure| {
        let key = f.name.clone().unwrap_or_else(|| f.task.to_string());
        format!("{key}: {}", f.error.message)
    };
    let mut lines: Vec<String> = own.iter().take(MOST_TOLD).map(text).collect();
    if own.is_empty() {
        lines.push(format!("{graph} was cancelled"));
    } else if own.len() > MOST_TOLD {
        lines.push(format!("(more: `tasks --state erred --graph {graph}` lists them)"));
    }
    Some(CliError::new(Exit::TaskFailed, lines.join("\n  ")))
}

pub(super) fn chunk(text: &str) -> Result<(String, u64), String> {
    let bad = || format!("`{text}` is not DIMENSION=LENGTH");
    let (name, length) = text.split_once('=').ok_or_else(bad)?;
    let length: u64 = length.trim().parse().map_err(|_| bad())?;
    if name.trim().is_empty() || length == 0 { Err(bad()) } else { Ok((name.trim().to_owned(), length)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        compute: Args,
    }

    #[test]
    fn statements_and_files_are_told_apart() {
        let words = [
            "compute",
            "speed = wind_speed(u, v)",
            "m = mean(speed, time)",
            "--in",
            "a.nc",
            "b.nc",
            "--out",
            "o.nc",
            "--keep",
            "speed,m",
            "--chunks",
            "time=24,lat=100",
        ];
        let args = Cli::try_parse_from(words).unwrap().compute;
        assert_eq!((args.statements.len(), args.inputs.len(), args.keep.len()), (2, 2, 2));
        assert_eq!(args.chunks, [("time".to_owned(), 24), ("lat".to_owned(), 100)]);
        assert!(
            Cli::try_parse_from(["compute", "x = y", "--in", "a", "--out", "b", "--chunks", "t=0"]).is_err()
        );
        assert!(
            Cli::try_parse_from(["compute", "x = y", "--in", "a", "--out", "b", "--threads", "2"]).is_err(),
            "a cluster has its own workers"
        );
        assert!(Cli::try_parse_from(["compute", "x = y", "--out", "b"]).is_err());
    }

    #[test]
    fn a_graph_that_fits_in_no_frame_is_not_sent() {
        let mut columns = Columns { args: vec![0; 1 << 20], ..Columns::default() };
        assert_eq!(check_size(&columns), Ok(()));
        columns.deps = vec![0; MOST_SUBMITTED / 5];
        assert_eq!(check_size(&columns).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn only_failures_of_their_own_are_told() {
        use crate::graph::TaskId;
        use crate::protocol::TaskError;
        let graph = GraphId(7);
        let failed = |index, kind, message: &str| Failure {
            task: TaskId { graph, index },
            name: None,
            error: TaskError { kind, message: message.to_owned() },
        };
        let failures =
            [failed(0, ErrorKind::Dependency, "g7.2 failed"), failed(1, ErrorKind::Task, "u.nc: gone")];
        let counts = Counts { memory: 3, ..Counts::default() };
        assert_eq!(failure(&counts, &[], graph), None);
        let error = failure(&Counts { erred: 2, ..counts }, &failures, graph).unwrap();
        assert_eq!((error.exit, error.message.as_str()), (Exit::TaskFailed, "g7.2: u.nc: gone"));
        let error = failure(&Counts { cancelled: 2, ..counts }, &[], graph).unwrap();
        assert_eq!(error.message, "g7 was cancelled");
    }
}
