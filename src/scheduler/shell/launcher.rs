//! Talks to the batch system, one command at a time: intents, submits, cancels, and one question for all jobs.

mod inherit;

use super::Incoming;
use super::lease::Pulse;
use crate::batch::{BatchError, ErrorKind, JobId, JobState, JobStatus, Outcome};
use crate::protocol::AllocationId;
use crate::scheduler::event::{AllocationStatus, Event, SubmitOutcome};
use crate::scheduler::relay::SUCCESSOR;
use crate::scheduler::spec::ClusterSpec;
use crate::scheduler::submit::{Purpose, Submitter};
use crate::state::{Fence, Role, StateDir, intent, launch};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// Something happened that the batch system may know more about: ask soon, but not for every event.
const SOON: Duration = Duration::from_secs(2);
/// A queue of our own costs nothing to ask.
const OWN_QUEUE_INTERVAL: Duration = Duration::from_secs(1);
/// A batch system that failed and then isn't well either gets no submits for so long: each of a burst would take ten
/// seconds of a hung controller.
const BREAK: Duration = Duration::from_secs(10);
/// A cancel that the queue doesn't show is repeated after so long.
const CANCEL_AGAIN: Duration = Duration::from_secs(10);
/// One whose client is still at it, or whose answer was lost, is looked for soon.
const YOUNG: Duration = Duration::from_secs(60);
/// What was to be submitted together with this scheduler, by somebody who has died since, may still be on its way for so
/// long. One that comes later leaves as soon as it starts.
const ORPHANED_FOR: Duration = Duration::from_secs(10);
/// A submit without an answer is looked for so long, by the name of its job.
const AMBIGUOUS_FOR: Duration = Duration::from_secs(600);

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
    /// None: its submit has had no answer.
    id: Option<JobId>,
    submitted: Instant,
    /// Since when it isn't wanted any more.
    cancelled: Option<Instant>,
}

struct Trouble {
    error: BatchError,
    /// When its health was found to be bad as well.
    unwell_since: Option<Instant>,
}

pub(super) struct Launcher {
    submitter: Submitter,
    pulse: Pulse,
    fence: Arc<Fence>,
    /// What the names of all jobs of this cluster begin with.
    prefix: String,
    jobs: BTreeMap<AllocationId, Job>,
    events: mpsc::Sender<Incoming>,
    interval: Duration,
    /// Least time between two polls, whatever happens.
    soon: Duration,
    next_poll: Instant,
    last_poll: Option<Instant>,
    /// The last word of a batch system that is dead, hung or at a limit.
    trouble: Option<Trouble>,
    /// Jobs of other schedulers that may still start, and aren't wanted now that there is this one.
    rivals: Vec<JobId>,
}

impl Launcher {
    /// # Errors
    /// The cluster's batch system, identity, intents or templates can't be used.
    pub fn new(
        state: &StateDir,
        spec: &ClusterSpec,
        (fence, pulse): (&Fence, Pulse),
        events: mpsc::Sender<Incoming>,
    ) -> anyhow::Result<Launcher> {
        let submitter = Submitter::new(state, spec, fence.epoch(), Role::Scheduler)?;
        let own_queue = submitter.batch.system().programs().is_empty();
        let (interval, soon) = if own_queue {
            (OWN_QUEUE_INTERVAL, SOON)
        } else {
            let settings = &spec.settings;
            (settings.scheduler.poll_interval, SOON.max(settings.limits.min_poll_interval))
        };
        let prefix = intent::prefix(state.identity(Role::Scheduler)?.cluster_id());
        let jobs = BTreeMap::new();
        let next_poll = Instant::now() + interval;
        Ok(Launcher {
            submitter,
            pulse,
            fence: Arc::new(fence.try_clone()?),
            prefix,
            jobs,
            events,
            interval,
            soon,
            next_poll,
            last_poll: None,
            trouble: None,
            rivals: Vec::new(),
        })
    }

    /// The highest allocation number that was ever used.
    pub fn last_allocation(&self) -> u32 {
        self.submitter.last_allocation()
    }

    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let rivals = std::mem::take(&mut self.rivals);
        self.scancel(&rivals).await;
        loop {
            let poll = sleep_until(self.next_poll);
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::Submit(_) | Command::Cancel(_)) if !self.may_act().await => return,
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

    /// Whether this scheduler still holds the cluster: a command may have waited for long behind one that hung, or while
    /// this process was stopped.
    async fn may_act(&self) -> bool {
        if self.pulse.has_stopped() {
            return false;
        }
        // A file server may keep it waiting.
        let fence = self.fence.clone();
        match tokio::task::spawn_blocking(move || fence.check()).await {
            Ok(Ok(())) => !self.pulse.has_stopped(),
            Ok(Err(error)) => {
                let _ = self.events.send(Incoming::Fatal(error.to_string())).await;
                false
            }
            // The process ends.
            Err(_) => false,
        }
    }

    fn poll_soon(&mut self) {
        let now = Instant::now();
        let earliest = self.last_poll.map_or(now + SOON, |last| (last + self.soon).max(now));
        self.next_poll = self.next_poll.min(earliest);
    }

    async fn tell(&self, event: Event) {
        let _ = self.events.send(Incoming::Core(event)).await;
    }

    async fn submit(&mut self, id: AllocationId) {
        let outcome = match self.try_submit(id).await {
            Ok(job) => {
                info!("{} is job {job}", what(id));
                SubmitOutcome::Accepted { job: job.0 }
            }
            Err(error) => {
                warn!("{}: {error}", what(id));
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

    /// Notes whether the batch system is well.
    fn judge<T>(&mut self, result: &Result<T, BatchError>) {
        match result {
            Ok(_) => self.trouble = None,
            Err(error) if matches!(error.kind, ErrorKind::TryAgain | ErrorKind::Ambiguous) => {
                self.trouble = Some(Trouble { error: error.clone(), unwell_since: None });
            }
            // It answered, if not as we wished.
            Err(_) => {}
        }
    }

    fn is_broken(&self) -> bool {
        let since = self.trouble.as_ref().and_then(|trouble| trouble.unwell_since);
        since.is_some_and(|since| since.elapsed() < BREAK)
    }

    /// After a failure: whether the batch system is well again, asked once in a while.
    async fn well_enough(&mut self) -> Result<(), BatchError> {
        let broken = self.is_broken();
        if self.trouble.is_some() && !broken && self.submitter.batch.health().await.is_ok() {
            self.trouble = None;
        }
        let Some(trouble) = &mut self.trouble else { return Ok(()) };
        if !broken {
            trouble.unwell_since = Some(Instant::now());
        }
        Err(BatchError {
            kind: ErrorKind::TryAgain,
            summary: format!("not submitted, after this: {}", trouble.error.summary),
            ..trouble.error.clone()
        })
    }

    async fn try_submit(&mut self, id: AllocationId) -> Result<JobId, BatchError> {
        self.well_enough().await?;
        let purpose = if id == SUCCESSOR { Purpose::Scheduler } else { Purpose::Workers(id) };
        let name = self.submitter.intend(purpose)?;
        let submitted = Instant::now();
        let result = self.submitter.submit(&name, purpose, None).await;
        self.judge(&result);
        let job = match &result {
            Ok(job) => Some(job.clone()),
            Err(error) if error.kind == ErrorKind::Ambiguous => None,
            Err(_) => return result,
        };
        self.jobs.insert(id, Job { name, id: job, submitted, cancelled: None });
        result
    }

    fn settle(&mut self, name: &str, outcome: intent::Outcome) {
        self.submitter.settle(name, outcome);
    }

    async fn cancel(&mut self, ids: &[AllocationId]) {
        let mut jobs = Vec::new();
        let mut nameless = Vec::new();
        for id in ids {
            let Some(job) = self.jobs.get_mut(id) else { continue };
            job.cancelled = Some(Instant::now());
            match &job.id {
                Some(id) => jobs.push(id.clone()),
                None => nameless.push(job.name.clone()),
            }
        }
        // What can't be cancelled yet must leave by itself when it starts.
        for name in nameless {
            self.settle(&name, intent::Outcome::Unwanted { job: None });
        }
        self.scancel(&jobs).await;
        self.poll_soon();
    }

    async fn scancel(&mut self, jobs: &[JobId]) {
        if !jobs.is_empty()
            && self.may_act().await
            && let Err(error) = self.submitter.batch.cancel(jobs).await
        {
            warn!("jobs could not be cancelled: {error}");
        }
    }

    async fn poll(&mut self) {
        let now = Instant::now();
        if self.is_broken() {
            self.next_poll = now + BREAK;
            return;
        }
        self.last_poll = Some(now);
        self.next_poll = now + self.interval.mul_f64(jitter());
        if self.jobs.is_empty() {
            return;
        }
        let answer = self.ask().await;
        self.judge(&answer);
        match answer {
            Ok(statuses) => {
                self.tell(Event::Polled(statuses)).await;
                let young = |job: &Job| job.id.is_none() && job.submitted.elapsed() < YOUNG;
                if self.jobs.values().any(young) {
                    self.poll_soon();
                }
            }
            Err(error) => {
                warn!("the batch system can't be asked: {error}");
                self.tell(Event::PollFailed { words: error.to_string() }).await;
            }
        }
    }

    /// One question for the whole cluster.
    async fn ask(&mut self) -> Result<Vec<(AllocationId, String, AllocationStatus)>, BatchError> {
        let found = self.look().await?;
        let mut statuses = self.never_submitted();
        let mut over = Vec::new();
        let mut again = Vec::new();
        for (allocation, job) in &mut self.jobs {
            let Some(id) = &job.id else {
                statuses.push((*allocation, String::new(), AllocationStatus::Absent));
                continue;
            };
            let state = found.iter().find(|status| status.id == *id).map(|status| &status.state);
            let status = state.map_or(AllocationStatus::Absent, translate);
            if let AllocationStatus::Ended { words, .. } = &status {
                over.push((*allocation, id.clone(), words.clone()));
            } else if state.is_some() && job.cancelled.is_some_and(|at| at.elapsed() >= CANCEL_AGAIN) {
                job.cancelled = Some(Instant::now());
                again.push(id.clone());
            }
            statuses.push((*allocation, id.0.clone(), status));
        }
        for (allocation, id, reason) in over {
            if let Some(job) = self.jobs.remove(&allocation) {
                self.settle(&job.name, intent::Outcome::Ended { job: Some(id.0), reason });
            }
        }
        self.scancel(&again).await;
        // What never appeared and isn't wanted any more; its intent still tells it to leave.
        self.jobs.retain(|_, job| {
            job.id.is_some() || job.cancelled.is_none() || job.submitted.elapsed() < AMBIGUOUS_FOR
        });
        Ok(statuses)
    }

    /// Jobs that whoever brought the cluster up was still to submit, and then didn't, or died over it.
    fn never_submitted(&mut self) -> Vec<(AllocationId, String, AllocationStatus)> {
        if self.jobs.values().all(|job| job.id.is_some()) {
            return Vec::new();
        }
        let dir = self.submitter.state.intents_dir();
        // Where that can't be told, somebody may still be at it.
        let abandoned = !launch::is_under_way(self.submitter.state.path()).unwrap_or(true);
        let ended = |job: &Job| match intent::read(&dir, &job.name) {
            Ok(Some(intent)) if intent.epoch == 0 && job.id.is_none() => match intent.outcome {
                intent::Outcome::Ended { job: None, reason } => Some((reason, false)),
                intent::Outcome::Intended if abandoned && job.submitted.elapsed() >= ORPHANED_FOR => {
                    Some(("whoever was to submit it is gone".to_owned(), true))
                }
                _ => None,
            },
            _ => None,
        };
        let nameless = self.jobs.iter().filter(|(_, job)| job.id.is_none());
        let over: Vec<_> = nameless.filter_map(|(id, job)| Some((*id, ended(job)?))).collect();
        let mut statuses = Vec::new();
        for (id, (words, orphaned)) in over {
            let Some(job) = self.jobs.remove(&id) else { continue };
            if orphaned {
                self.settle(&job.name, intent::Outcome::Ended { job: None, reason: words.clone() });
            }
            // Nothing is wrong with the job, or with where it was to run, if only its submitter died.
            let ended = AllocationStatus::Ended { words, confirmed: true, blameless: orphaned };
            statuses.push((id, String::new(), ended));
        }
        statuses
    }

    /// The jobs that the batch system knows, by their ids; by their names while some submit has had no answer.
    async fn look(&mut self) -> Result<Vec<JobStatus>, BatchError> {
        if self.jobs.values().all(|job| job.id.is_some()) {
            let ids: Vec<JobId> = self.jobs.values().filter_map(|job| job.id.clone()).collect();
            return self.submitter.batch.status(&ids).await;
        }
        let mut found = self.submitter.batch.find(&self.prefix).await?;
        found.retain(|status| self.jobs.values().any(|job| job.name == status.name));
        self.submitter.batch.explain(&mut found).await;
        let mut unwanted = Vec::new();
        for status in &found {
            let job = self.jobs.values_mut().find(|job| job.id.is_none() && job.name == status.name);
            let Some(job) = job else { continue };
            info!("the submit of {} had no answer, but it is job {}", job.name, status.id);
            job.id = Some(status.id.clone());
            let name = job.name.clone();
            if job.cancelled.is_some() {
                unwanted.push(status.id.clone());
                self.settle(&name, intent::Outcome::Unwanted { job: Some(status.id.0.clone()) });
            } else {
                self.settle(&name, intent::Outcome::Submitted { job: status.id.0.clone() });
            }
        }
        self.scancel(&unwanted).await;
        Ok(found)
    }
}

/// For the log.
fn what(id: AllocationId) -> String {
    if id == SUCCESSOR { "the successor".to_owned() } else { format!("allocation {id}") }
}

/// From 1 to 1.2: clusters that were brought up together don't ask together for ever, and none asks too often.
fn jitter() -> f64 {
    1.0 + crate::net::backoff::fraction() * 0.2
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
            let blameless = matches!(outcome, Outcome::TimedOut | Outcome::Preempted);
            AllocationStatus::Ended { words: outcome.to_string(), confirmed, blameless }
        }
    }
}
