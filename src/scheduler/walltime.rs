//! When the walltime of the job that this process runs in ends.

use crate::batch::{Batch, JobId};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing::warn;

/// The id of the batch job that this process runs in, as its batch system's variable has it.
#[must_use]
pub fn own_job(batch: &Batch) -> Option<JobId> {
    std::env::var(batch.system().variables().job_id).ok().filter(|id| !id.is_empty()).map(JobId)
}

/// Seconds since 1970, as the batch system says, else from now and what was `asked_for`; 0: never.
pub async fn end(batch: &Batch, asked_for: Duration) -> u64 {
    let otherwise = if asked_for.is_zero() { 0 } else { unix_now() + asked_for.as_secs() };
    let Some(job) = own_job(batch) else { return otherwise };
    match batch.deadline(&job).await {
        Ok(told) => told.unwrap_or(otherwise),
        Err(error) => {
            warn!("the end of the walltime is reckoned from what was asked for: {error}");
            otherwise
        }
    }
}

/// Seconds since 1970.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
