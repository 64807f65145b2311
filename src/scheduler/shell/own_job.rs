//! The batch job in which this scheduler runs.

use crate::batch::{Batch, JobId};
use crate::scheduler::spec::ClusterSpec;
use crate::scheduler::submit::Submitter;
use crate::scheduler::walltime;
use crate::state::{Contact, Intent, Intents, Outcome, Role, StateDir, intent};
use std::path::PathBuf;
use std::time::Duration;
use tracing::info;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct OwnJob {
    /// As the batch system calls it; empty if it didn't say.
    pub id: String,
    pub name: String,
    pub log: PathBuf,
    /// The epoch of whoever asked for it; 0: a client.
    pub asked_by: u32,
    /// Seconds since 1970; 0: never.
    pub ends_unix: u64,
    /// How long it was in the queue.
    pub waited: Duration,
}

impl OwnJob {
    /// This process's job, which was submitted under that name.
    ///
    /// # Errors
    /// The state directory or the batch system can't be used.
    pub async fn find(state: &StateDir, spec: &ClusterSpec, name: &str) -> anyhow::Result<OwnJob> {
        let batch = batch(state, spec)?;
        let intent = intent::read(&state.intents_dir(), name)?;
        let now = walltime::unix_now();
        let created = intent.as_ref().map_or(now, |intent| intent.created_unix);
        Ok(OwnJob {
            id: walltime::own_job(&batch).map_or(String::new(), |id| id.0),
            name: name.to_owned(),
            log: spec.job_log(state, name),
            asked_by: intent.map_or(0, |intent| intent.epoch),
            ends_unix: walltime::end(&batch, spec.scheduler_walltime()).await,
            // Of two hosts' clocks; it is no more than a hint.
            waited: Duration::from_secs(now.saturating_sub(created)),
        })
    }

    /// Why no job can be submitted from here, if that is so.
    ///
    /// # Errors
    /// The batch system can't be used.
    pub async fn cannot_submit(
        &self,
        state: &StateDir,
        spec: &ClusterSpec,
    ) -> anyhow::Result<Option<String>> {
        let submitter = Submitter::new(state, spec, 0, Role::Scheduler)?;
        Ok(submitter.refused_here(Some(&ClusterSpec::job_script(state, &self.name))).await)
    }

    /// Writes down that the job has done what it was for, or why it couldn't.
    pub fn settle(&self, state: &StateDir, reason: &str) {
        let settle = || {
            let identity = state.identity(Role::Scheduler)?;
            let mut intents = Intents::open(&state.intents_dir(), identity.cluster_id())?;
            let job = (!self.id.is_empty()).then(|| self.id.clone());
            match intents.get(&self.name).map(|intent: &Intent| &intent.outcome) {
                None | Some(Outcome::Ended { .. }) => Ok(()),
                Some(_) => intents.settle(&self.name, Outcome::Ended { job, reason: reason.to_owned() }),
            }
        };
        if let Err(error) = settle() {
            info!("the end of job {} is not written down: {error}", self.name);
        }
    }
}

fn batch(state: &StateDir, spec: &ClusterSpec) -> anyhow::Result<Batch> {
    let system = &spec.settings.profile.system;
    spec.batch(state).ok_or_else(|| anyhow::anyhow!("no batch system is called '{system}'"))
}

/// Whether the batch system answers for the end of the job in which that scheduler ran. A lost node proves nothing.
pub async fn is_over(state: &StateDir, spec: &ClusterSpec, contact: &Contact) -> bool {
    if contact.job.is_empty() {
        return false;
    }
    let Some(batch) = spec.batch(state) else { return false };
    match batch.status(&[JobId(contact.job.clone())]).await {
        Ok(found) => found.iter().any(|status| status.state.is_surely_over()),
        Err(error) => {
            info!("the batch system can't be asked about the last scheduler's job: {error}");
            false
        }
    }
}
