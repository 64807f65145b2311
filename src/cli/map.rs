//! `map`: one shell task an argument, streamed.

use super::Context;
use super::arguments::{Arguments, split};
use super::connect::{block_on_interruptible, client};
use super::exit::{CliError, Exit};
use super::submit::{command, resolve};
use super::task_flags::TaskFlags;
use super::wait::{self, Begun};
use crate::client::{Client, Submission};
use crate::graph::{Columns, CommandSpec, Key, Op, TaskId};
use crate::protocol::GraphOptions;
use crate::worker::run::template;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    #[command(flatten)]
    pub task: TaskFlags,
    /// One task a line of FILE
    #[arg(long, value_name = "FILE")]
    pub each_line: Option<PathBuf>,
    /// Cancel what is left after more than N tasks failed
    #[arg(long, value_name = "N")]
    pub max_fails: Option<u32>,
    /// Call a native kernel with each argument instead of a command
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,
    /// Wait until all tasks are done
    #[arg(long)]
    pub wait: bool,
    /// CMD.. with {} {/} {.} {/.} {#} {out}, then `::: ARG..`, `:::: FILE`, or lines on stdin
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD.. ::: ARG..")]
    pub words: Vec<OsString>,
}

/// A part is sent when it has so many tasks or bytes, or when its first task has waited so long: a pipe that
/// trickles gets its tasks going, a million lines go in a few dozen messages.
const PART_TASKS: usize = 50_000;
const PART_BYTES: usize = 4 << 20;
const PART_AGE: Duration = Duration::from_millis(50);
/// Lines that are read ahead of the part that is being sent; the longest have 128 KiB each.
const LINES_AHEAD: usize = 256;

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let (op, label, source) = what(&args, context)?;
    let source = source.or_each_line(args.each_line.as_deref())?;
    let arguments = source.open(std::io::stdin(), std::io::stdin().is_terminal())?;
    block_on_interruptible(async {
        let mut client = client(context).await?;
        let after = resolve(&mut client, &args.task.after).await?;
        let options = GraphOptions { label, max_failures: args.max_fails, ..GraphOptions::default() };
        let mut stream = Stream { op: Some(op), after, submission: Submission::new(options)? };
        stream.send_all(&mut client, arguments).await?;
        let Some(graph) = stream.submission.graph else {
            context.out.note("there was nothing to map over");
            return Ok(Exit::Ok);
        };
        let tasks = stream.submission.tasks;
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

/// The operation of all tasks, a word for it, and where the arguments come from.
fn what(args: &Args, context: &Context) -> Result<(Op, String, super::arguments::ArgSource), CliError> {
    let Some(kernel) = &args.kernel else {
        let (argv, source) = split(args.words.clone())?;
        let label = argv[0].clone();
        let spec = command(&args.task, argv, true, context)?;
        check_outputs(&spec)?;
        return Ok((Op::Command(Box::new(spec)), label, source));
    };
    if crate::kernels::lookup(kernel).is_none() {
        return Err(CliError::usage(format!("there is no kernel `{kernel}`")));
    }
    // The splitter wants a command: the kernel stands for it.
    let words = std::iter::once(OsString::from(kernel)).chain(args.words.iter().cloned()).collect();
    let (rest, source) = split(words)?;
    if rest.len() > 1 {
        return Err(CliError::usage("--kernel takes arguments after `:::`, and no command"));
    }
    let op = Op::Kernel { name: kernel.clone(), params: Vec::new(), resources: args.task.occupies() };
    Ok((op, kernel.clone(), source))
}

/// An output that is written for each argument must have a name of its own for each.
pub fn check_outputs(spec: &CommandSpec) -> Result<(), CliError> {
    match spec.outputs.iter().find(|output| output.fenced && !template::has_argument(&output.path)) {
        None => Ok(()),
        Some(output) => {
            let message = format!("--output {}: every task would write the same file", output.path);
            Err(CliError::usage(message).hint("put {} or {#} into its name, such as out/{#}.txt"))
        }
    }
}

/// A graph on its way, part by part.
struct Stream {
    /// The one operation, until the first part has taken it.
    op: Option<Op>,
    after: Vec<TaskId>,
    submission: Submission,
}

impl Stream {
    async fn send_all(&mut self, client: &mut Client, arguments: Arguments) -> Result<(), CliError> {
        let (lines, mut received) = tokio::sync::mpsc::channel(LINES_AHEAD);
        // Reading may block for ever: it has a thread of its own, which the end of the process takes with it.
        std::thread::spawn(move || {
            for argument in arguments {
                if lines.blocking_send(argument).is_err() {
                    return;
                }
            }
        });
        let mut part = Columns::default();
        let mut since = Instant::now();
        loop {
            let patience = async {
                if part.is_empty() {
                    std::future::pending().await
                } else {
                    tokio::time::sleep_until((since + PART_AGE).into()).await
                }
            };
            tokio::select! {
                line = received.recv() => match line {
                    Some(argument) => {
                        if part.is_empty() {
                            since = Instant::now();
                        }
                        self.push(&mut part, &argument?);
                    }
                    None => break,
                },
                () = patience => self.send(client, &mut part, false).await?,
            }
            if part.len() >= PART_TASKS || part.args.len() >= PART_BYTES {
                self.send(client, &mut part, false).await?;
            }
        }
        if part.is_empty() && self.submission.graph.is_none() {
            return Ok(());
        }
        self.send(client, &mut part, true).await
    }

    fn push(&mut self, part: &mut Columns, argument: &[u8]) {
        part.ops.extend(self.op.take());
        if self.submission.graph.is_none() && part.externals.is_empty() {
            part.externals.clone_from(&self.after);
        }
        part.op_of.push(0);
        part.args.extend_from_slice(argument);
        part.args_end.push(part.args.len() as u32);
        // Entries of the table of outside tasks count down from the top.
        part.deps.extend((0..self.after.len() as u32).map(|i| u32::MAX - i));
        part.deps_end.push(part.deps.len() as u32);
        // Results of kernels are kept for whoever asks.
        part.wanted.push(self.submission.tasks as u32 + part.op_of.len() as u32 - 1);
    }

    async fn send(&mut self, client: &mut Client, part: &mut Columns, last: bool) -> Result<(), CliError> {
        client.submit_part(&mut self.submission, std::mem::take(part), last).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::arguments::{ArgSource, split};
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        map: Args,
    }

    #[test]
    fn flags_end_where_the_command_starts() {
        let args =
            Cli::try_parse_from(["map", "--retries", "2", "./task.sh", "--retries", "{}", ":::", "1", "-2"]);
        let map = args.unwrap().map;
        assert_eq!(map.task.retries, 2);
        let (command, source) = split(map.words).unwrap();
        assert_eq!(command, ["./task.sh", "--retries", "{}"]);
        assert_eq!(source, ArgSource::Words(vec!["1".into(), "-2".into()]));
    }

    #[test]
    fn a_mistyped_flag_is_no_command() {
        let map = Cli::try_parse_from(["map", "--retires", "2", "./task.sh"]).unwrap().map;
        assert!(split(map.words).unwrap_err().message.contains("--retires"));
    }
}
