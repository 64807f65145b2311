//! The command line: one file a verb with its `Args` and its `run`. This file is the table of contents.
//!
//! A new verb is a file and a line in `verbs!`: that line makes it parse, run, appear in `jq help`, and be ours
//! when it is typed after `jq`. Verbs that scripts start and people don't type carry `#[command(hide = true)]`.

pub mod arguments;
mod bench;
mod cancel;
mod clean;
mod completions;
mod config;
pub mod connect;
mod context;
mod doctor;
mod down;
pub mod environment;
mod exit;
mod fit;
mod granted;
mod help;
mod idle;
mod inputs;
mod live;
mod logs;
mod ls;
mod output;
mod passthrough;
mod pinned;
mod queues;
mod result;
mod retry;
mod roles;
mod scale;
mod scratch;
mod status;
mod stops;
pub mod task_flags;
mod tasks;
pub mod up_flags;
mod version;
pub mod wait;
mod why;

pub mod compute;
pub mod datasets;
pub mod example_data;
pub mod fetch;
pub mod grant;
pub mod map;
pub mod open;
pub mod publish;
pub mod revoke;
pub mod run;
pub mod script;
pub mod submit;
pub mod unpublish;
pub mod up;

pub use context::Context;
pub use exit::{CliError, Exit};
pub use output::{Color, Output};

use doctor::job::look;
use roles::{local_queue, scheduler, supervisor, worker};

use clap::{CommandFactory, FromArgMatches, Parser};
use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

verbs! {
    /// Bring a cluster up
    "up" => Up(up),
    /// Bring a cluster down; nothing of it is left in the queue
    "down" => Down(down),
    /// Show one cluster: scheduler, workers, jobs, tasks
    "status" => Status(status),
    /// List all clusters
    "ls" => Ls(ls),
    /// Set the number of workers
    "scale" => Scale(scale),
    /// Print the exact job script that `up` would submit
    "script" => Script(script),
    /// Run one shell task
    "submit" => Submit(submit),
    /// Run one shell task an argument
    "map" => Map(map),
    /// Run a graph of shell tasks from a file
    "run" => Run(run),
    /// Wait for tasks
    "wait" => Wait(wait),
    /// Fetch what a task printed
    "result" => Result(result),
    /// Stop tasks
    "cancel" => Cancel(cancel),
    /// Try again what failed or was cancelled
    "retry" => Retry(retry),
    /// List tasks
    "tasks" => Tasks(tasks),
    /// Say why a task, a graph, a worker or a job is as it is
    "why" => Why(why),
    /// Show what is in files, from their metadata
    "open" => Open(open),
    /// Compute expressions over the variables of files
    "compute" => Compute(compute),
    /// Keep a dataset under a name, for longer than the cluster lives
    "publish" => Publish(publish),
    /// List published datasets, or show what is in one
    "datasets" => Datasets(datasets),
    /// Remove a published dataset; its source files stay
    "unpublish" => Unpublish(unpublish),
    /// Write a published dataset to a file
    "fetch" => Fetch(fetch),
    /// Let somebody else read this cluster, by a file
    "grant" => Grant(grant),
    /// Make a grant useless
    "revoke" => Revoke(revoke),
    /// Write sample wind files
    "example-data" => ExampleData(example_data),
    /// Show every setting in force, and where it came from
    "config" => Config(config),
    /// List the profiles that --queue can pick, and check one against its batch system
    "queues" => Queues(queues),
    /// Print the logs of the scheduler, of allocations and of workers
    "logs" => Logs(logs),
    /// Look whether everything that jobq needs is there, and say what to do where it isn't
    "doctor" => Doctor(doctor),
    /// Measure the executor on this host or site
    "bench" => Bench(bench),
    /// Remove what dead clusters and ended jobs left in the state directory
    "clean" => Clean(clean),
    /// Print what a shell needs to complete verbs and flags
    "completions" => Completions(completions),
    /// Explain a verb
    "help" => Help(help),
    /// Print the version
    "version" => Version(version),
    /// The scheduler's role
    #[command(hide = true)]
    "scheduler" => Scheduler(scheduler),
    /// The role that a job's script starts
    #[command(hide = true)]
    "supervisor" => Supervisor(supervisor),
    /// A worker's role
    #[command(hide = true)]
    "worker" => Worker(worker),
    /// What a job of the doctor runs
    #[command(hide = true)]
    "look" => Look(look),
    /// The embedded batch queue's commands
    #[command(hide = true)]
    "local-queue" => LocalQueue(local_queue),
}

/// Turn a batch queue into a living cluster for lazy task graphs
#[derive(Parser)]
#[command(version, disable_help_subcommand = true, arg_required_else_help = true, after_help = AFTER_HELP)]
#[command(subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: context::CommonFlags,
}

const AFTER_HELP: &str = "\
Flags follow the verb; `jq help VERB` explains one. Anything else that is typed after `jq` goes to the JSON \
processor of that name, if there is one on PATH.";

pub(crate) use passthrough::before_main;

/// The program: what `jq` and `jobq` both are.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // Before anything else: a JSON jq call should not notice that we were asked first.
    let exit = match passthrough::consider(&args) {
        passthrough::Verdict::Ours => guarded(&args),
        passthrough::Verdict::OurHelp => help::print_overview(passthrough::program(&args)),
        passthrough::Verdict::NotFound(error) => error.report(),
    };
    ExitCode::from(exit.code())
}

/// A panic is a bug of ours, and has its exit code.
fn guarded(args: &[OsString]) -> Exit {
    std::panic::catch_unwind(AssertUnwindSafe(|| parse_and_run(args)))
        .unwrap_or_else(|_| CliError::new(Exit::Internal, "internal error: this is a bug in jobq").report())
}

fn parse_and_run(args: &[OsString]) -> Exit {
    let program = passthrough::program(args);
    let parsed = command(program).try_get_matches_from(args).and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // What can't be printed can't be helped either.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    let context = Context::new(program, cli.common);
    let allowed = check_grant(cli.verb.word(), &context);
    allowed.and_then(|()| cli.verb.run(&context)).unwrap_or_else(|error| error.report())
}

/// What can be done with a grant, which is for somebody else's cluster; `compute` with `--local`.
const WITH_GRANT: [&str; 9] =
    ["status", "tasks", "why", "datasets", "open", "fetch", "compute", "help", "version"];

fn check_grant(verb: &str, context: &Context) -> Result<(), CliError> {
    match &context.grant {
        Some(grant) if !WITH_GRANT.contains(&verb) => {
            let message = format!("`{verb}` is not for a grant ({}), which only reads", grant.display());
            let hint = "without --grant and JOBQ_GRANT, it is about a cluster of your own";
            Err(CliError::new(Exit::Permission, message).hint(hint))
        }
        _ => Ok(()),
    }
}

/// The parser, which calls itself what the user called it.
fn command(program: &'static str) -> clap::Command {
    Cli::command().name(program).bin_name(program)
}

/// Lines of `"word" => Variant(module)`, each with the verb's one-line description.
macro_rules! verbs {
    ($($(#[$meta:meta])* $word:literal => $variant:ident($module:ident),)+) => {
        #[derive(clap::Subcommand)]
        #[allow(clippy::large_enum_variant, reason = "one value a process")]
        enum Verb {
            $($(#[$meta])* #[command(name = $word)] $variant($module::Args),)+
        }

        /// Every verb, hidden ones too: what is ours when it follows `jq`.
        pub const VERBS: &[&str] = &[$($word),+];

        impl Verb {
            fn word(&self) -> &'static str {
                match self {
                    $(Verb::$variant(_) => $word,)+
                }
            }

            fn run(self, context: &Context) -> Result<Exit, CliError> {
                match self {
                    $(Verb::$variant(args) => $module::run(args, context),)+
                }
            }
        }
    };
}
use verbs;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        command("jq").debug_assert();
    }

    #[test]
    fn every_verb_is_described() {
        for verb in command("jq").get_subcommands() {
            assert!(verb.get_about().is_some(), "{} has no description", verb.get_name());
        }
        assert_eq!(command("jq").get_subcommands().count(), VERBS.len());
    }
}
