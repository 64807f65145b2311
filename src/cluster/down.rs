//! Brings a cluster down: its scheduler ends it, and the batch system is asked until nothing of ours is left.

use super::liveness::{Liveness, look};
use crate::batch::{Batch, BatchError, ErrorKind};
use crate::client::ClientError;
use crate::net::Transport;
use crate::protocol::{Reply, Request};
use crate::scheduler::spec::ClusterSpec;
use crate::state::{Intents, Role, StateDir, StateError, intent};
use std::time::{Duration, Instant};

/// For the batch system to let go of cancelled jobs.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(60);
const SWEEP_WAIT: Duration = Duration::from_millis(300);

#[derive(Debug, thiserror::Error)]
pub enum DownError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Batch(#[from] BatchError),
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

/// Ends the cluster, letting running tasks end for at most `drain`. Idempotent.
///
/// # Errors
/// The scheduler lives but can't be reached, or the batch system doesn't let go of our jobs.
pub async fn down(
    state: &StateDir,
    spec: &ClusterSpec,
    transport: &Transport,
    drain: Duration,
) -> Result<Downed, DownError> {
    let mut downed = Downed::default();
    match look(state, transport).await? {
        Liveness::Alive(mut client) => {
            downed.was_alive = true;
            let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
            match client.call(Request::Down { drain_ms }).await {
                // It may end before its answer is read.
                Ok(Reply::GoingDown { .. }) | Err(ClientError::Link(_)) => {}
                Ok(other) => return Err(crate::client::unexpected(&other).into()),
                Err(error) => return Err(error.into()),
            }
            wait_for_end(state).await?;
        }
        Liveness::Down => {}
        Liveness::Dead(_) => state.remove_contact()?,
        Liveness::Unreachable(error) => return Err(error.into()),
    }
    if let Some(batch) = spec.batch(state) {
        downed.swept = sweep(state, &batch).await?;
    }
    Ok(downed)
}

/// The scheduler removes its contact file when its last cancel is done.
async fn wait_for_end(state: &StateDir) -> Result<(), StateError> {
    let started = Instant::now();
    while state.read_contact()?.is_some() && started.elapsed() < SWEEP_TIMEOUT {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Cancels whatever bears this cluster's name in the batch system, until nothing does.
///
/// # Errors
/// The batch system can't be asked, or doesn't let go.
pub async fn sweep(state: &StateDir, batch: &Batch) -> Result<Vec<String>, DownError> {
    let identity = state.identity(Role::Admin)?;
    let mut intents = Intents::open(&state.intents_dir(), identity.cluster_id())?;
    if intents.list().next().is_none() {
        return Ok(Vec::new());
    }
    let prefix = format!("jq{}", identity.cluster_id().short());
    let started = Instant::now();
    let mut swept = Vec::new();
    loop {
        let live = match batch.sweep(&prefix).await {
            Ok(live) => live,
            // A controller that is busy gets another chance.
            Err(error) if error.kind == ErrorKind::TryAgain && started.elapsed() < SWEEP_TIMEOUT / 2 => {
                tokio::time::sleep(SWEEP_WAIT).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if live.is_empty() {
            break;
        }
        let jobs: Vec<String> = live.into_iter().map(|id| id.0).collect();
        if started.elapsed() > SWEEP_TIMEOUT {
            return Err(DownError::Left { jobs: jobs.join(" ") });
        }
        swept.extend(jobs);
        tokio::time::sleep(SWEEP_WAIT).await;
    }
    let open: Vec<String> = intents.open_ones().map(|intent| intent.name.clone()).collect();
    for name in open {
        let reason = "brought down".to_owned();
        intents.settle(&name, intent::Outcome::Ended { job: None, reason })?;
    }
    intents.prune()?;
    swept.sort();
    swept.dedup();
    Ok(swept)
}
