//! Submits the jobs of a cluster, each under a name that was written down before: for the scheduler, and for whoever
//! brings one up.

use super::spec::ClusterSpec;
use crate::batch::{AllocationSpec, Batch, BatchError, ErrorKind, JobId, Templates};
use crate::protocol::AllocationId;
use crate::state::{Intents, Outcome, Role, StateDir, intent};
use std::fmt;
use std::path::Path;
use tracing::warn;

/// The name of a script that is only looked at.
const TRIAL: &str = "trial";

/// What a job is for, as its intent says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The scheduler runs in it.
    Scheduler,
    Workers(AllocationId),
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Purpose::Scheduler => f.write_str(intent::SCHEDULER),
            Purpose::Workers(allocation) => allocation.fmt(f),
        }
    }
}

/// Intents, scripts and the batch system of one cluster, in the hands of one epoch (0: of a client).
pub struct Submitter {
    pub state: StateDir,
    pub spec: ClusterSpec,
    pub epoch: u32,
    pub batch: Batch,
    pub intents: Intents,
    templates: Templates,
}

impl Submitter {
    /// # Errors
    /// The cluster's batch system, identity, intents or templates can't be used.
    pub fn new(
        state: &StateDir,
        spec: &ClusterSpec,
        epoch: u32,
        role: Role,
    ) -> Result<Submitter, BatchError> {
        let system = &spec.settings.profile.system;
        let batch =
            spec.batch(state).ok_or_else(|| unusable(&format!("no batch system is called '{system}'")))?;
        let identity = state.identity(role).map_err(|error| unusable(&error))?;
        let intents = Intents::open(&state.intents_dir(), identity.cluster_id()).map_err(|e| unusable(&e))?;
        let templates = spec.templates()?;
        Ok(Submitter { state: state.clone(), spec: spec.clone(), epoch, batch, intents, templates })
    }

    /// The highest allocation number that was ever used: numbers are not used again.
    pub fn last_allocation(&self) -> u32 {
        let number = |intent: &intent::Intent| intent::allocation_number(&intent.purpose);
        self.intents.list().filter_map(number).max().unwrap_or(0)
    }

    /// The unique name of a job that is about to be submitted; durable when this returns.
    ///
    /// # Errors
    /// It can't be written down: then nothing may be submitted.
    pub fn intend(&mut self, purpose: Purpose) -> Result<String, BatchError> {
        let intent = self.intents.intend(self.epoch, &purpose.to_string()).map_err(|e| unusable(&e))?;
        Ok(intent.name)
    }

    /// Submits a job that was intended, `after` another's start, and writes down what came of it.
    ///
    /// # Errors
    /// The batch system's, or what kept us from asking it.
    pub async fn submit(
        &mut self,
        name: &str,
        purpose: Purpose,
        after: Option<&JobId>,
    ) -> Result<JobId, BatchError> {
        let result = self.hand_in(name, purpose, after).await;
        let outcome = match &result {
            Ok(job) => Outcome::Submitted { job: job.0.clone() },
            Err(error) if error.kind == ErrorKind::Ambiguous => Outcome::Ambiguous,
            Err(error) => Outcome::Ended { job: None, reason: error.to_string() },
        };
        self.settle(name, outcome);
        result
    }

    async fn hand_in(
        &self,
        name: &str,
        purpose: Purpose,
        after: Option<&JobId>,
    ) -> Result<JobId, BatchError> {
        let spec = AllocationSpec { after: after.cloned(), ..self.job(name, purpose) };
        let script = ClusterSpec::job_script(&self.state, name);
        let text = self.batch.system().render(&spec, &self.templates)?;
        crate::state::files::write_atomic(&script, text.as_bytes()).map_err(|e| unusable(&e))?;
        self.batch.submit(&spec, &script).await
    }

    /// Why no job can be submitted from this host, as far as that can be known without doing it: a scheduler that can't
    /// is of no use. Asked are the script that `own` may name, and a worker's: each queue may take jobs from other hosts.
    pub async fn refused_here(&self, own: Option<&Path>) -> Option<String> {
        let trial = ClusterSpec::job_script(&self.state, TRIAL);
        let job = self.job(TRIAL, Purpose::Workers(AllocationId(0)));
        let written = self.batch.system().render(&job, &self.templates).ok().and_then(|text| {
            crate::state::files::write_atomic(&trial, text.as_bytes()).ok()?;
            Some(trial.as_path())
        });
        let mut refused = None;
        for script in own.into_iter().chain(written) {
            let Err(error) = self.batch.may_submit(script).await else { continue };
            if error.may_be_the_hosts() {
                refused = Some(error);
                break;
            }
            warn!("the batch system has doubts: {error}");
            if matches!(error.kind, ErrorKind::TryAgain | ErrorKind::Ambiguous) {
                // Time may mend that, and asking again now takes time.
                break;
            }
        }
        // Of two at the same time, one finds it gone.
        let _ = std::fs::remove_file(&trial);
        let host = crate::net::listen::host_name().unwrap_or_default();
        refused.map(|error| format!("{} {host}: {error}", intent::CANT_SUBMIT))
    }

    fn job(&self, name: &str, purpose: Purpose) -> AllocationSpec {
        match purpose {
            Purpose::Scheduler => self.spec.scheduler_job(&self.state, name),
            Purpose::Workers(allocation) => self.spec.allocation(&self.state, name, allocation),
        }
    }

    /// Writes down what became of a job.
    pub fn settle(&mut self, name: &str, outcome: Outcome) {
        if let Err(error) = self.intents.settle(name, outcome) {
            warn!("the fate of job {name} could not be written down: {error}");
        }
    }
}

fn unusable(error: &dyn fmt::Display) -> BatchError {
    BatchError::new(ErrorKind::Refused, error.to_string())
}
