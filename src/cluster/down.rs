//! Brings a cluster down: its scheduler ends it, and the batch system is asked until nothing of ours is left.

use super::liveness::{Dead, Liveness, look_patiently};
use crate::batch::{Batch, BatchError, ErrorKind};
use crate::client::ClientError;
use crate::net::Transport;
use crate::protocol::{Reply, Request};
use crate::scheduler::spec::ClusterSpec;
use crate::state::{Intent, Intents, Lease, Outcome, Role, StateDir, StateError, epoch, intent};
use std::time::{Duration, Instant};

/// For the batch system to let go of cancelled jobs.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(60);
/// For a scheduler that goes down: its workers' grace, and its last cancels.
const END_TIMEOUT: Duration = Duration::from_secs(90);
const SWEEP_WAIT: Duration = Duration::from_millis(300);
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

/// Ends the cluster, letting running tasks end for at most `drain`. Idempotent. `waiting` is called before it is
/// watched for half a minute whether an unreachable scheduler still lives.
///
/// # Errors
/// The scheduler lives but can't be reached, or the batch system doesn't let go of our jobs.
pub async fn down(
    state: &StateDir,
    spec: &ClusterSpec,
    transport: &Transport,
    drain: Duration,
    waiting: impl FnOnce(),
) -> Result<Downed, DownError> {
    let mut downed = Downed::default();
    match look_patiently(state, transport, waiting).await? {
        Liveness::Alive(mut client) => {
            downed.was_alive = true;
            let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
            match client.call(Request::Down { drain_ms }).await {
                // It may end before its answer is read.
                Ok(Reply::GoingDown { .. }) | Err(ClientError::Link(_)) => {}
                Ok(other) => return Err(crate::client::unexpected(&other).into()),
                Err(error) => return Err(error.into()),
            }
            if !has_ended(state).await? {
                return Err(DownError::StillThere);
            }
        }
        Liveness::Down => {}
        Liveness::Dead(dead) => {
            fence_off(state, &dead)?;
            state.remove_contact()?;
        }
        Liveness::Unreachable(error) => return Err(error.into()),
    }
    if let Some(batch) = spec.batch(state) {
        downed.swept = sweep(state, &batch).await?;
    }
    Ok(downed)
}

/// Makes sure that a scheduler that only seemed dead does nothing any more.
///
/// # Errors
/// Somebody else is taking over at this moment, or the state directory can't be used.
pub(super) fn fence_off(state: &StateDir, dead: &Dead) -> Result<(), StateError> {
    let note = format!("brought down by pid {}", std::process::id());
    let epoch = epoch::claim(state.path(), dead.highest, &note)?;
    // Nobody holds the cluster now: whoever brings it up again needn't wait.
    Lease::take(state.path(), epoch.number)?.release()
}

/// The scheduler removes its contact file when its last cancel is done.
async fn has_ended(state: &StateDir) -> Result<bool, StateError> {
    let started = Instant::now();
    while state.read_contact()?.is_some() {
        if started.elapsed() > END_TIMEOUT {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(true)
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
/// this all the same, because its submit's answer was lost or it can't be cancelled now, leaves at once.
///
/// # Errors
/// The batch system can't be asked although jobs of ours may exist, or doesn't let go.
pub async fn sweep(state: &StateDir, batch: &Batch) -> Result<Vec<String>, DownError> {
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
