//! `submit`: one shell task.

use super::Context;
use super::connect::{block_on_interruptible, client};
use super::environment::select;
use super::exit::{CliError, Exit};
use super::task_flags::TaskFlags;
use super::wait::{self, Begun};
use crate::client::{Client, ClientError};
use crate::graph::{Builder, CommandSpec, EnvSource, GraphId, Key, Op, TaskId};
use crate::protocol::{GraphOptions, RefusalKind, Reply, Request};
use std::path::PathBuf;

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// A name for the task, to ask for its result by
    #[arg(long, value_name = "K")]
    pub key: Option<String>,
    #[command(flatten)]
    pub task: TaskFlags,
    /// Wait until it is done
    #[arg(long)]
    pub wait: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let spec = command(&args.task, args.command.clone(), false, context)?;
    let name = args.key.as_deref().map(Key::named).transpose();
    let name = name.map_err(|error| CliError::usage(format!("--key: {error}")))?;
    block_on_interruptible(async {
        let mut client = client(context).await?;
        let after = resolve(&mut client, &args.task.after).await?;
        let former = match &name {
            Some(name) => holder(&mut client, name).await?,
            None => None,
        };
        let mut graph = Builder::new();
        let label = spec.argv[0].clone();
        let op = graph.op(Op::Command(Box::new(spec)));
        let deps: Vec<u32> = after.into_iter().map(|task| graph.external(task)).collect();
        let task = graph.task(op, b"", &deps);
        if let Some(name) = &name {
            graph.name(task, name.clone());
        }
        let graph = graph.build().map_err(|error| CliError::usage(error.to_string()))?;
        let options = GraphOptions { label, ..GraphOptions::default() };
        let id = TaskId { graph: client.submit(graph, options).await?, index: task };
        if let (Some(name), Some(former)) = (&name, former.filter(|former| *former != id)) {
            context
                .out
                .note(format!("'{name}' was the name of {former}, which has ended; now it is this task's"));
        }
        let key = name.unwrap_or_else(|| id.to_string());
        if !context.out.is_json() {
            context.out.line(&key)?;
        }
        let begun = Begun {
            key: Some(key),
            task: Some(id.to_string()),
            cluster: Some(context.cluster.clone()),
            ..Begun::default()
        };
        if args.wait {
            return wait::for_keys(&mut client, vec![Key::Task(id)], None, Some(begun), context).await;
        }
        if context.out.is_json() {
            context.out.json(&begun)?;
        }
        Ok(Exit::Ok)
    })
}

/// The task that has the name so far. One that has ended gives it up; the scheduler refuses it while one hasn't.
async fn holder(client: &mut Client, name: &str) -> Result<Option<TaskId>, CliError> {
    match client.call(Request::Resolve(vec![Key::Named(name.to_owned())])).await {
        Ok(Reply::Resolved(tasks)) => Ok(tasks.first().copied()),
        Ok(other) => Err(crate::client::unexpected(&other).into()),
        Err(ClientError::Refused { kind: RefusalKind::Unknown, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The command with this shell's directory and environment, as the flags want it.
pub fn command(
    flags: &TaskFlags,
    argv: Vec<String>,
    substitute: bool,
    context: &Context,
) -> Result<CommandSpec, CliError> {
    let here = here()?;
    let environment = select(std::env::vars_os(), flags.env_from == EnvSource::Here, &flags.env)?;
    let spec = flags.command(argv, substitute, &here, environment)?;
    crate::worker::run::template::check(&spec).map_err(|error| CliError::usage(error.to_string()))?;
    if spec.outputs.iter().any(|output| !output.fenced) {
        context.out.detail(
            "an --output that the command line doesn't write as {out} is only fenced if the command writes \
             $JOBQ_TASK_OUTPUT; otherwise it is only looked for",
        );
    }
    Ok(spec)
}

/// The directory as the user sees it: `$PWD` keeps the names of links that other hosts may know it by.
fn here() -> Result<PathBuf, CliError> {
    let real =
        std::env::current_dir().map_err(|e| CliError::config(format!("the current directory: {e}")))?;
    let told = std::env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute());
    let same = |path: &PathBuf| path.canonicalize().is_ok_and(|told| Some(told) == real.canonicalize().ok());
    Ok(told.filter(same).unwrap_or(real))
}

/// The tasks that `--after` names.
pub async fn resolve(client: &mut Client, after: &[String]) -> Result<Vec<TaskId>, CliError> {
    if after.is_empty() {
        return Ok(Vec::new());
    }
    let keys = keys(after)?;
    match client.call(Request::Resolve(keys)).await? {
        Reply::Resolved(tasks) => Ok(tasks),
        other => Err(crate::client::unexpected(&other).into()),
    }
}

/// Keys as users write them.
pub fn keys(words: &[String]) -> Result<Vec<Key>, CliError> {
    words
        .iter()
        .map(|word| word.parse().map_err(|error: crate::graph::KeyError| CliError::usage(error.to_string())))
        .collect()
}

/// A graph as users write it.
pub fn graph_id(text: &str) -> Result<GraphId, String> {
    match text.parse() {
        Ok(Key::Graph(graph)) => Ok(graph),
        _ => Err(format!("`{text}` is not a graph such as g7")),
    }
}
