//! Talks to the batch system, one command at a time: intents, submits, cancels, and one question for all jobs.

use super::Incoming;
use crate::batch::{Batch, BatchError, ErrorKind, JobId, JobState, Outcome, Templates};
use crate::protocol::AllocationId;
use crate::scheduler::event::{AllocationStatus, Event, SubmitOutcome};
use crate::scheduler::spec::ClusterSpec;
use crate::state::{Intents, StateDir, intent};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// Something happened that the batch system may know more about: ask soon, but not for every event.
const SOON: Duration = Duration::from_secs(2);
/// A queue of our own costs nothing to ask.
const OWN_QUEUE_INTERVAL: Duration = Duration::from_secs(1);

pub(super) enum Command {
    Submit(AllocationId),
    Cancel(Vec<AllocationId>),
    /// Ask soon.
    Poll,
    /// Finish what was asked for, then say so.
    Finish(oneshot::Sender<()>),
}

/// A job that isn't over, as far as we know.
struct Job {
    name: String,
    id: Option<JobId>,
    cancelled: bool,
}

pub(super) struct Launcher {
    state: StateDir,
    spec: ClusterSpec,
    epoch: u32,
    batch: Batch,
    intents: Intents,
    templates: Templates,
    jobs: BTreeMap<AllocationId, Job>,
    events: mpsc::Sender<Incoming>,
    interval: Duration,
    next_poll: Instant,
    last_poll: Instant,
}

impl Launcher {
    pub fn new(
        state: StateDir,
        spec: ClusterSpec,
        epoch: u32,
        events: mpsc::Sender<Incoming>,
    ) -> anyhow::Result<Launcher> {
        let system = &spec.settings.profile.system;
        let batch =
            spec.batch(&state).ok_or_else(|| anyhow::anyhow!("no batch system is called '{system}'"))?;
        let identity = state.identity(crate::state::Role::Scheduler)?;
        let intents = Intents::open(&state.intents_dir(), identity.cluster_id())?;
        let templates = spec.templates()?;
        let own_queue = batch.system().programs().is_empty();
        let interval = if own_queue { OWN_QUEUE_INTERVAL } else { spec.settings.scheduler.poll_interval };
        let now = Instant::now();
        let jobs = BTreeMap::new();
        let next_poll = now + interval;
        Ok(Launcher {
            state,
            spec,
            epoch,
            batch,
            intents,
            templates,
            jobs,
            events,
            interval,
            next_poll,
            last_poll: now,
        })
    }

    /// The highest allocation number that was ever used: numbers are not used again.
    pub fn last_allocation(&self) -> u32 {
        let number = |purpose: &str| purpose.strip_prefix('a')?.parse::<u32>().ok();
        self.intents.list().filter_map(|intent| number(&intent.purpose)).max().unwrap_or(0)
    }

    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let poll = sleep_until(self.next_poll);
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::Submit(id)) => self.submit(id).await,
                    Some(Command::Cancel(ids)) => self.cancel(&ids).await,
                    Some(Command::Poll) => self.poll_soon(),
                    Some(Command::Finish(done)) => {
                        let _ = done.send(());
                        return;
                    }
                },
                () = poll => self.poll().await,
            }
        }
    }

    fn poll_soon(&mut self) {
        self.next_poll = self.next_poll.min((self.last_poll + SOON).max(Instant::now()));
    }

    async fn tell(&self, event: Event) {
        let _ = self.events.send(Incoming::Core(event)).await;
    }

    async fn submit(&mut self, id: AllocationId) {
        let outcome = match self.try_submit(id).await {
            Ok(job) => {
                info!("allocation {id} is job {job}");
                SubmitOutcome::Accepted { job: job.0 }
            }
            Err(error) => {
                warn!("allocation {id}: {error}");
                let (words, exit_code) = (error.to_string(), error.kind.exit_code());
                match error.kind {
                    ErrorKind::Ambiguous => SubmitOutcome::Ambiguous { words },
                    kind => {
                        let fatal = !matches!(kind, ErrorKind::TryAgain | ErrorKind::Unexpected);
                        SubmitOutcome::Refused { words, fatal, exit_code }
                    }
                }
            }
        };
        self.tell(Event::Submitted { allocation: id, outcome }).await;
        self.poll_soon();
    }

    async fn try_submit(&mut self, id: AllocationId) -> Result<JobId, BatchError> {
        let unusable = |error: &dyn std::fmt::Display| BatchError::new(ErrorKind::Refused, error.to_string());
        let intent = self.intents.intend(self.epoch, &id.to_string()).map_err(|e| unusable(&e))?;
        let name = intent.name;
        let spec = self.spec.allocation(&self.state, &name, id);
        let script = ClusterSpec::job_script(&self.state, &name);
        let text = self.batch.system().render(&spec, &self.templates)?;
        crate::state::files::write_atomic(&script, text.as_bytes()).map_err(|e| unusable(&e))?;
        self.jobs.insert(id, Job { name: name.clone(), id: None, cancelled: false });
        let result = self.batch.submit(&spec, &script).await;
        let outcome = match &result {
            Ok(job) => intent::Outcome::Submitted { job: job.0.clone() },
            Err(error) if error.kind == ErrorKind::Ambiguous => intent::Outcome::Ambiguous,
            Err(error) => intent::Outcome::Ended { job: None, reason: error.to_string() },
        };
        match &outcome {
            intent::Outcome::Submitted { job } => {
                if let Some(entry) = self.jobs.get_mut(&id) {
                    entry.id = Some(JobId(job.clone()));
                }
            }
            intent::Outcome::Ended { .. } => drop(self.jobs.remove(&id)),
            _ => {}
        }
        self.settle(&name, outcome);
        result
    }

    fn settle(&mut self, name: &str, outcome: intent::Outcome) {
        if let Err(error) = self.intents.settle(name, outcome) {
            warn!("the fate of job {name} could not be written down: {error}");
        }
    }

    async fn cancel(&mut self, ids: &[AllocationId]) {
        let mut jobs = Vec::new();
        for id in ids {
            if let Some(job) = self.jobs.get_mut(id) {
                job.cancelled = true;
                jobs.extend(job.id.clone());
            }
        }
        if !jobs.is_empty()
            && let Err(error) = self.batch.cancel(&jobs).await
        {
            warn!("jobs could not be cancelled: {error}");
        }
        self.poll_soon();
    }

    async fn poll(&mut self) {
        self.last_poll = Instant::now();
        self.next_poll = self.last_poll + self.interval;
        if self.jobs.is_empty() {
            return;
        }
        match self.ask().await {
            Ok(statuses) => self.tell(Event::Polled(statuses)).await,
            Err(error) => {
                warn!("the batch system can't be asked: {error}");
                self.tell(Event::PollFailed { words: error.to_string() }).await;
            }
        }
    }

    async fn ask(&mut self) -> Result<Vec<(AllocationId, String, AllocationStatus)>, BatchError> {
        self.find_ambiguous().await?;
        let ids: Vec<JobId> = self.jobs.values().filter_map(|job| job.id.clone()).collect();
        let found = self.batch.status(&ids).await?;
        let mut statuses = Vec::new();
        let mut over = Vec::new();
        for (allocation, job) in &self.jobs {
            let Some(id) = &job.id else {
                statuses.push((*allocation, String::new(), AllocationStatus::Absent));
                continue;
            };
            let status = match found.iter().find(|status| status.id == *id) {
                None => AllocationStatus::Absent,
                Some(status) => translate(&status.state),
            };
            if let AllocationStatus::Ended { words, .. } = &status {
                over.push((*allocation, id.clone(), words.clone()));
            }
            statuses.push((*allocation, id.0.clone(), status));
        }
        for (allocation, id, reason) in over {
            if let Some(job) = self.jobs.remove(&allocation) {
                self.settle(&job.name, intent::Outcome::Ended { job: Some(id.0), reason });
            }
        }
        Ok(statuses)
    }

    /// Looks for jobs whose submit had no answer, by their names; cancels those that are not wanted any more.
    async fn find_ambiguous(&mut self) -> Result<(), BatchError> {
        let unknown: Vec<(AllocationId, String)> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.id.is_none())
            .map(|(id, job)| (*id, job.name.clone()))
            .collect();
        for (allocation, name) in unknown {
            let found = self.batch.find(&name).await?;
            let Some(found) = found.into_iter().find(|job| job.name == name) else { continue };
            self.settle(&name, intent::Outcome::Submitted { job: found.id.0.clone() });
            let Some(job) = self.jobs.get_mut(&allocation) else { continue };
            job.id = Some(found.id.clone());
            if job.cancelled {
                self.batch.cancel(std::slice::from_ref(&found.id)).await?;
            }
        }
        Ok(())
    }
}

fn translate(state: &JobState) -> AllocationStatus {
    match state {
        JobState::Pending { reason, words, start_estimate, never } => AllocationStatus::Pending {
            reason: reason.clone(),
            words: words.clone(),
            start_estimate_unix: start_estimate.unwrap_or(0),
            never: *never,
        },
        JobState::Running { nodes, ends, .. } => {
            AllocationStatus::Running { nodes: nodes.clone(), ends_unix: ends.unwrap_or(0) }
        }
        JobState::Ended(outcome) => {
            // What is left of it on a lost node may run on.
            let confirmed = !matches!(outcome, Outcome::NodeFailed | Outcome::Unknown(_));
            AllocationStatus::Ended { words: outcome.to_string(), confirmed }
        }
    }
}
