//! `result`: what a task left behind.

use super::Context;
use super::connect::{block_on_interruptible, client};
use super::exit::{CliError, Exit};
use super::submit::keys;
use crate::client::{Client, value_of};
use crate::graph::{CommandResult, Value};
use crate::protocol::{TaskReport, TaskStateName};
use serde::Serialize;
use std::io::Read;

#[derive(clap::Args)]
pub struct Args {
    /// The task
    #[arg(value_name = "KEY")]
    key: String,
    /// What it wrote to stderr
    #[arg(long)]
    stderr: bool,
}

#[derive(Serialize)]
struct Report {
    key: String,
    task: String,
    state: TaskStateName,
    attempt: u32,
    exit_code: Option<i32>,
    signal: Option<i32>,
    error: Option<String>,
    seconds: f64,
    stdout: String,
    stderr: String,
}

/// Bytes of a result's file that are copied at a time.
const PIECE: usize = 64 << 10;

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let keys = keys(std::slice::from_ref(&args.key))?;
    block_on_interruptible(async {
        let mut client = client(context).await?;
        let reports = client.results(keys).await?;
        let [report] = reports.as_slice() else {
            return Err(CliError::usage(format!(
                "{} names {} tasks; ask for one, such as {0}.1",
                args.key,
                reports.len()
            )));
        };
        if !matches!(report.state, TaskStateName::Memory | TaskStateName::Erred) {
            let state = format!("{:?}", report.state).to_lowercase();
            let message = format!("{} has no result: it is {state}", args.key);
            return Err(match report.state {
                TaskStateName::Cancelled => CliError::new(Exit::TaskFailed, message),
                _ => CliError::new(Exit::TimedOut, message)
                    .hint(format!("`{} wait {}` waits for it", context.program, args.key)),
            });
        }
        let value = value(&mut client, report).await?;
        let result: CommandResult = rmp_serde::from_slice(&value.header).unwrap_or_default();
        if context.out.is_json() {
            json(&args.key, report, &value, &result, context)?;
        } else {
            print(&value, &result, args.stderr, context)?;
            if let Some(error) = &report.error {
                context.out.note(format!("{}: {}", args.key, error.message));
            }
        }
        Ok(if report.state == TaskStateName::Erred { Exit::TaskFailed } else { Exit::Ok })
    })
}

/// The value, wherever it is; a task that failed before it printed anything has an empty one.
async fn value(client: &mut Client, report: &TaskReport) -> Result<Value, CliError> {
    match &report.stored {
        Some(stored) => Ok(value_of((**stored).clone())),
        // A command that printed nothing.
        None if report.state == TaskStateName::Erred || report.holders.is_empty() => Ok(Value::default()),
        None => Ok(client.gather(&[report.task]).await?.remove(0)),
    }
}

/// The stream: all of it is in the file, if one is named; else in the value's buffer.
fn stream<'a>(value: &'a Value, result: &'a CommandResult, stderr: bool) -> (Option<&'a str>, &'a [u8]) {
    let file = if stderr { &result.stderr_file } else { &result.stdout_file };
    (file.as_deref(), value.buffers.get(usize::from(stderr)).map_or(&[], |buffer| buffer))
}

fn print(value: &Value, result: &CommandResult, stderr: bool, context: &Context) -> Result<(), CliError> {
    let (file, buffer) = stream(value, result, stderr);
    let Some(path) = file else { return context.out.bytes(buffer) };
    let unreadable = |error| CliError::config(format!("{path}: {error}"));
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).map_err(unreadable)? {
            0 => return Ok(()),
            n => context.out.bytes(&piece[..n])?,
        }
    }
}

fn json(
    key: &str,
    report: &TaskReport,
    value: &Value,
    result: &CommandResult,
    context: &Context,
) -> Result<(), CliError> {
    let text = |stderr| -> Result<String, CliError> {
        let (file, buffer) = stream(value, result, stderr);
        let bytes = match file {
            Some(path) => {
                std::fs::read(path).map_err(|error| CliError::config(format!("{path}: {error}")))?
            }
            None => buffer.to_vec(),
        };
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let finished = report.state == TaskStateName::Memory;
    context.out.json(&Report {
        key: key.to_owned(),
        task: report.task.to_string(),
        state: report.state,
        attempt: report.attempt,
        exit_code: result.exit_code.or(finished.then_some(0)),
        signal: result.signal,
        error: report.error.as_ref().map(|error| error.message.clone()),
        seconds: report.nanos as f64 / 1e9,
        stdout: text(false)?,
        stderr: text(true)?,
    })
}
