//! Brings a cluster down: its scheduler ends it, and the batch system is asked until nothing of ours is left.

use super::hold::{Hold, Rest};
use super::launch::{self, LaunchError, Patience};
use super::liveness::{Liveness, look, look_patiently};
use crate::batch::{Batch, BatchError, ErrorKind};
use crate::client::{Client, ClientError};
use crate::net::Transport;
use crate::protocol::{Reply, Request};
use crate::scheduler::spec::ClusterSpec;
use crate::state::{Intent, Intents, Outcome, Role, StateDir, StateError, epoch, intent, lease};
use std::time::{Duration, Instant};

/// For the batch system to let go of cancelled jobs.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(60);
/// For a scheduler that goes down: its workers' grace, and its last cancels.
const END_TIMEOUT: Duration = Duration::from_secs(90);
/// Between two looks at a scheduler that ends.
const ENDS_SOON: Duration = Duration::from_millis(10);
const SWEEP_WAIT: Duration = Duration::from_millis(300);
/// Schedulers that others may start again, before this one is the last.
const MAX_TRIES: u32 = 3;
/// For a controller that doesn't answer to come back.
const BUSY_FOR: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum DownError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("the scheduler has been told to end, and is still there after {} s", END_TIMEOUT.as_secs())]
    StillThere,
    #[error("jobs are still in the queue {} s after they were cancelled: {jobs}", SWEEP_TIMEOUT.as_secs())]
    Left { jobs: String },
}

/// What was brought down.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Downed {
    /// Whether a scheduler was there to end.
    pub was_alive: bool,
    /// Jobs that nobody knew how to end but by their name.
    pub swept: Vec<String>,
}

/// Ends the cluster, letting running tasks end for at most `drain`. Idempotent. What it returns besides is the cluster at
/// rest, for whoever wants to take it apart or begin anew; `None`: somebody else has brought it up again meanwhile.
///
/// # Errors
/// The scheduler lives but can't be reached, or the batch system doesn't let go of our jobs.
pub async fn down(
    state: &StateDir,
    spec: &ClusterSpec,
    transport: &Transport,
    drain: Duration,
    patience: Patience,
) -> Result<(Downed, Option<Rest>), DownError> {
    let mut downed = Downed::default();
    let mut ending = state.sound_contact()?.map_or(String::new(), |contact| contact.job_name);
    let life = state.life()?;
    for _ in 0..MAX_TRIES {
        // Without the right to launch: it may drain for hours, and nobody launches what lives.
        if let Liveness::Alive(client) = look(state, transport).await? {
            if downed.was_alive && state.life()? != life {
                return Ok((downed, None));
            }
            ending = state.sound_contact()?.map_or(ending, |contact| contact.job_name);
            downed.was_alive = true;
            ask_to_end(state, *client, drain).await?;
        }
        let right = launch::right(state, patience).await?;
        let rest = match look_patiently(state, spec, transport, patience.waiting).await? {
            // It was started again before it was our turn.
            Liveness::Alive(_) => continue,
            Liveness::Unreachable(error) => return Err(error.into()),
            Liveness::Down { highest } => Rest { right, highest },
            Liveness::Dead(dead) => {
                let rest = Rest { right, highest: dead.highest };
                let mut hold = Hold::take(state, rest, "brought down")?;
                hold.end()?;
                hold.let_go()
            }
        };
        // Still under the right: whoever comes up next must not lose its jobs.
        if let Some(batch) = spec.batch(state) {
            downed.swept = sweep(state, &batch, &ending).await?;
        }
        return Ok((downed, Some(rest)));
    }
    Err(DownError::StillThere)
}

/// Tells a scheduler to end with its cluster, and waits until it has.
async fn ask_to_end(state: &StateDir, mut client: Client, drain: Duration) -> Result<(), DownError> {
    let highest = epoch::highest(state.path())?;
    let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
    match client.call(Request::Down { drain_ms }).await {
        // It may end before its answer is read.
        Ok(Reply::GoingDown { .. }) | Err(ClientError::Link(_)) => {}
        Ok(other) => return Err(crate::client::unexpected(&other).into()),
        Err(error) => return Err(error.into()),
    }
    // It gives its lease up when its last cancel is done. Somebody else may have taken it by then.
    let started = Instant::now();
    while lease::sight(state.path())?.is_some_and(|sight| !sight.is_over() && sight.highest == highest) {
        if started.elapsed() > END_TIMEOUT {
            return Err(DownError::StillThere);
        }
        tokio::time::sleep(ENDS_SOON).await;
    }
    Ok(())
}

/// Whether jobs of this cluster may exist, as far as was written down.
///
/// # Errors
/// The state directory can't be read.
pub fn may_have_jobs(state: &StateDir) -> Result<bool, StateError> {
    Ok(open_intents(state)?.open_ones().next().is_some())
}

fn open_intents(state: &StateDir) -> Result<Intents, StateError> {
    let identity = state.identity(Role::Admin)?;
    Intents::open(&state.intents_dir(), identity.cluster_id())
}

/// Cancels whatever bears this cluster's name in the batch system, until nothing does. A job that comes to life after
/// this all the same, because its submit's answer was lost or it can't be cancelled now, leaves at once. The job of
/// the name `ending` is about to end by itself, and gets a moment for that.
///
/// # Errors
/// The batch system can't be asked although jobs of ours may exist, or doesn't let go.
pub async fn sweep(state: &StateDir, batch: &Batch, ending: &str) -> Result<Vec<String>, DownError> {
    let mut intents = open_intents(state)?;
    if intents.list().next().is_none() {
        return Ok(Vec::new());
    }
    let open: Vec<Intent> = intents.open_ones().cloned().collect();
    for intent in &open {
        let job = match &intent.outcome {
            Outcome::Submitted { job } => Some(job.clone()),
            Outcome::Unwanted { job } => job.clone(),
            _ => None,
        };
        intents.settle(&intent.name, Outcome::Unwanted { job })?;
    }
    let prefix = intent::prefix(state.identity(Role::Admin)?.cluster_id());
    if !ending.is_empty() {
        has_left(batch, ending).await?;
    }
    let patience = if open.is_empty() { Duration::ZERO } else { BUSY_FOR };
    let mut swept = match sweep_by_name(batch, &prefix, patience).await {
        Ok(swept) => swept,
        // All that were ever submitted are known to be over: this was only to make sure.
        Err(DownError::Batch(_)) if open.is_empty() => Vec::new(),
        Err(error) => return Err(error),
    };
    for intent in open {
        let reason = "brought down".to_owned();
        intents.settle(&intent.name, Outcome::Ended { job: None, reason })?;
    }
    intents.prune()?;
    swept.sort();
    swept.dedup();
    Ok(swept)
}

/// Waits for a job to be over by itself, for a while.
async fn has_left(batch: &Batch, name: &str) -> Result<(), DownError> {
    let started = Instant::now();
    while started.elapsed() < BUSY_FOR {
        match batch.find(name).await {
            Ok(found) if found.iter().any(|job| job.name == name && job.state.is_live()) => {}
            Ok(_) => return Ok(()),
            // Whoever sweeps asks again, and says so.
            Err(_) => return Ok(()),
        }
        tokio::time::sleep(SWEEP_WAIT).await;
    }
    Ok(())
}

async fn sweep_by_name(batch: &Batch, prefix: &str, patience: Duration) -> Result<Vec<String>, DownError> {
    let started = Instant::now();
    let mut swept = Vec::new();
    loop {
        let live = match batch.sweep(prefix).await {
            Ok(live) => live,
            // A controller that is busy gets another chance.
            Err(error) if error.kind == ErrorKind::TryAgain && started.elapsed() < patience => {
                tokio::time::sleep(SWEEP_WAIT).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if live.is_empty() {
            return Ok(swept);
        }
        let jobs: Vec<String> = live.into_iter().map(|id| id.0).collect();
        if started.elapsed() > SWEEP_TIMEOUT {
            return Err(DownError::Left { jobs: jobs.join(" ") });
        }
        swept.extend(jobs);
        tokio::time::sleep(SWEEP_WAIT).await;
    }
}
