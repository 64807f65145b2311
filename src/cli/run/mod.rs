//! `run`: a graph of shell tasks from a file.

mod file;

use super::Context;
use super::connect::{block_on_interruptible, client};
use super::exit::{CliError, Exit};
use super::output::printable;
use super::submit::{command, resolve};
use super::wait::{self, Begun};
use crate::graph::{Builder, Graph, Key, Op, TaskId};
use crate::protocol::GraphOptions;
use file::{Entry, GraphFile};
use serde::Serialize;
use std::io::Read;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// The file, in TOML: a [[task]] for each; `-` reads it from standard input
    #[arg(value_name = "GRAPH.toml")]
    file: PathBuf,
    /// Start only after that task is done (repeatable)
    #[arg(long, value_name = "KEY")]
    after: Vec<String>,
    /// Wait until all tasks are done
    #[arg(long)]
    wait: bool,
    /// Show the tasks in an order that they can run in, and submit nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let shown = args.file.display();
    let text = read(&args.file).map_err(|error| CliError::usage(format!("{shown}: {error}")))?;
    let parsed = file::parse(&text).map_err(|error| CliError::usage(format!("{shown}: {error}")))?;
    // What is wrong is found without a cluster.
    let graph = build(&parsed, &[], context)?;
    if args.dry_run {
        return show(&parsed, context).map(|()| Exit::Ok);
    }
    block_on_interruptible(async {
        let mut client = client(context).await?;
        let after = resolve(&mut client, &args.after).await?;
        let graph = if after.is_empty() { graph } else { build(&parsed, &after, context)? };
        let tasks = graph.len() as u64;
        let stem = || args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let label = parsed.label.clone().or_else(stem).unwrap_or_default();
        let options = GraphOptions { label, max_failures: parsed.max_fails, ..GraphOptions::default() };
        let graph = client.submit(graph, options).await?;
        if !context.out.is_json() {
            context.out.line(graph.to_string())?;
        }
        let begun = Begun {
            graph: Some(graph.to_string()),
            tasks: Some(tasks),
            cluster: Some(context.cluster.clone()),
            ..Begun::default()
        };
        if args.wait {
            return wait::for_keys(&mut client, vec![Key::Graph(graph)], None, Some(begun), context).await;
        }
        if context.out.is_json() {
            context.out.json(&begun)?;
        }
        Ok(Exit::Ok)
    })
}

fn read(file: &Path) -> std::io::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// `after`: tasks of earlier graphs, which all that depend on nothing else wait for.
fn build(file: &GraphFile, after: &[TaskId], context: &Context) -> Result<Graph, CliError> {
    let mut graph = Builder::new();
    let outside: Vec<u32> = after.iter().map(|task| graph.external(*task)).collect();
    // Of each entry: its tasks, which are numbered in a row.
    let mut made: Vec<std::ops::Range<u32>> = Vec::with_capacity(file.tasks.len());
    for entry in &file.tasks {
        let spec = command(&entry.flags, entry.argv.clone(), entry.each.is_some(), context)
            .map_err(|error| error.about(&subject(entry)))?;
        if entry.each.is_some() {
            super::map::check_outputs(&spec).map_err(|error| error.about(&subject(entry)))?;
        }
        let op = graph.op(Op::Command(Box::new(spec)));
        let mut deps: Vec<u32> = entry.after.iter().flat_map(|on| made[*on].clone()).collect();
        if deps.is_empty() {
            deps.clone_from(&outside);
        }
        let nothing = [String::new()];
        let arguments = entry.each.as_deref().unwrap_or(&nothing);
        let mut tasks = 0..0;
        for (number, argument) in arguments.iter().enumerate() {
            let task = graph.task(op, argument.as_bytes(), &deps);
            if number == 0 {
                tasks.start = task;
            }
            tasks.end = task + 1;
            if let Some(name) = entry.name(number + 1) {
                graph.name(task, name);
            }
        }
        made.push(tasks);
    }
    graph.build().map_err(|error| CliError::usage(error.to_string()))
}

fn subject(entry: &Entry) -> String {
    entry.key.as_ref().map_or_else(|| entry.argv.join(" "), |key| format!("task '{key}'"))
}

#[derive(Serialize)]
struct Row<'a> {
    key: &'a Option<String>,
    tasks: usize,
    after: Vec<&'a Option<String>>,
    command: &'a [String],
}

fn show(file: &GraphFile, context: &Context) -> Result<(), CliError> {
    let rows = file.tasks.iter().map(|entry| Row {
        key: &entry.key,
        tasks: entry.len(),
        after: entry.after.iter().map(|on| &file.tasks[*on].key).collect(),
        command: &entry.argv,
    });
    if context.out.is_json() {
        return context.out.json(&serde_json::json!({ "tasks": rows.collect::<Vec<_>>() }));
    }
    for row in rows {
        let after: Vec<&str> = row.after.iter().filter_map(|key| key.as_deref()).collect();
        let after = if after.is_empty() { String::new() } else { format!("  after {}", after.join(" ")) };
        let many = if row.tasks == 1 { String::new() } else { format!("  x {}", row.tasks) };
        let key = row.key.as_deref().unwrap_or("-");
        context.out.line(printable(&format!("{key}{many}{after}: {}", row.command.join(" "))))?;
    }
    Ok(())
}
