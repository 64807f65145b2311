//! What a job sees: it looks back at the host that submitted it, and writes that down where both see it.

use crate::batch::{Batch, BatchError, Site};
use crate::cli::Context;
use crate::cli::connect::block_on;
use crate::cli::doctor::state::probe;
use crate::cli::exit::{CliError, Exit};
use crate::net::Transport;
use crate::state::{Role, StateError, files, identity};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// For one address; within a site a connection takes a millisecond.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the job is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Question {
    /// Where the asking host listens with the identity beside this question.
    pub addresses: Vec<String>,
    /// Where the cluster's scheduler listens, if there is one; whether anybody accepts is all that is asked.
    pub scheduler: Vec<String>,
    /// The batch system, and a script of the asking host's to have it check: whether jobs may submit jobs.
    pub system: String,
    pub script: PathBuf,
}

/// What it saw.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    pub host: String,
    /// What doesn't work in the state directory; empty: all does.
    pub state_trouble: String,
    /// By how much the job's clock is ahead of whoever keeps the state directory, and how sure that is.
    pub ahead_ms: i64,
    pub unsure_ms: u64,
    pub addresses: Vec<Tried>,
    pub scheduler: Vec<Tried>,
    /// Why no job can be submitted from there; empty: as far as can be told, they can.
    pub submit_trouble: String,
}

/// One address, with what happened there; empty: it works.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tried {
    pub address: String,
    pub trouble: String,
}

#[derive(clap::Args)]
pub struct Args {
    /// Where the question is, and the answer goes
    #[arg(long, value_name = "DIR")]
    at: PathBuf,
}

/// The role of the job.
pub fn run(args: Args, _context: &Context) -> Result<Exit, CliError> {
    let Some(question) = read::<Question>(&question_file(&args.at))? else {
        // Whoever asked has gone away.
        return Ok(Exit::Ok);
    };
    let seen = look(&args.at, &question)?;
    write(&answer_file(&args.at), &seen)?;
    Ok(Exit::Ok)
}

fn look(at: &Path, question: &Question) -> Result<Seen, CliError> {
    let (state_trouble, ahead_ms, unsure_ms) = match clock_and_state(at) {
        Ok((ahead_ms, unsure_ms)) => (String::new(), ahead_ms, unsure_ms),
        Err(error) => (error.to_string(), 0, 0),
    };
    let (addresses, scheduler) = block_on(async {
        let identity = identity::load(&identity_dir(at), Role::Worker)?;
        let links = Transport::tls(&identity).map_err(|error| CliError::internal(error.to_string()))?;
        let mut addresses = Vec::new();
        for address in &question.addresses {
            let link = links.connect(std::slice::from_ref(address), Role::Scheduler, PATIENCE).await;
            let trouble = link.map(drop).map_err(|error| {
                error.failures.into_iter().map(|(_, reason)| reason).collect::<Vec<_>>().join(", ")
            });
            addresses.push(tried(address, trouble));
        }
        let mut scheduler = Vec::new();
        for address in &question.scheduler {
            let connected = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(address)).await;
            let trouble = match connected {
                Ok(connected) => connected.map(drop).map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            };
            scheduler.push(tried(address, trouble));
        }
        Ok((addresses, scheduler))
    })?;
    let submit_trouble = block_on(async { Ok(submit_trouble(question).await) })?;
    let host = crate::net::listen::host_name().unwrap_or_default();
    Ok(Seen { host, state_trouble, ahead_ms, unsure_ms, addresses, scheduler, submit_trouble })
}

async fn submit_trouble(question: &Question) -> String {
    let Some(system) = crate::batch::system(&question.system) else { return String::new() };
    let refused = Batch::new(system, Site::default()).may_submit(&question.script).await.err();
    refused.filter(BatchError::may_be_the_hosts).map_or(String::new(), |error| error.to_string())
}

fn tried(address: &str, trouble: Result<(), String>) -> Tried {
    Tried { address: address.to_owned(), trouble: trouble.err().unwrap_or_default() }
}

/// By how many milliseconds this clock is ahead of whoever keeps `place`, and how sure that is.
///
/// # Errors
/// What clusters do in it doesn't work there.
pub fn clock_and_state(place: &Path) -> Result<(i64, u64), StateError> {
    let before = SystemTime::now();
    let probe = probe(place)?;
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let ahead = match before.duration_since(probe.written) {
        Ok(ahead) => millis(ahead),
        Err(behind) => -millis(behind.duration()),
    };
    Ok((ahead, u64::try_from(probe.took.as_millis()).unwrap_or(u64::MAX)))
}

pub fn question_file(at: &Path) -> PathBuf {
    at.join("question.json")
}

pub fn answer_file(at: &Path) -> PathBuf {
    at.join("answer.json")
}

pub fn identity_dir(at: &Path) -> PathBuf {
    at.join("identity")
}

/// # Errors
/// It can't be written.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), CliError> {
    let text = serde_json::to_vec(value).map_err(|error| CliError::internal(error.to_string()))?;
    Ok(files::write_atomic(path, &text)?)
}

/// `None`: it isn't there.
///
/// # Errors
/// It can't be read, or is something else.
pub fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, CliError> {
    let Some(bytes) = files::read_small(path)? else { return Ok(None) };
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|error| CliError::config(format!("{}: {error}", path.display())))
}
