//! Launches a scheduler as a batch job, and waits until it is there.
//!
//! Until that job starts there is no epoch. What stands for it meanwhile is its intent: whoever finds an open one
//! launches none, asks the batch system for the job of that name, and waits.

use super::{Beginning, Patience, log_words};
use crate::batch::{BatchError, ErrorKind, JobId, JobState, JobStatus};
use crate::config::display_duration;
use crate::protocol::AllocationId;
use crate::scheduler::scale::needed;
use crate::scheduler::spec::ClusterSpec;
use crate::scheduler::submit::{Purpose, Submitter};
use crate::state::launch as launch_right;
use crate::state::{Contact, Intent, Intents, Outcome, Role, StateDir, StateError, intent};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Between two looks at the contact file, at first and later.
const LOOK: Duration = Duration::from_millis(20);
const LATER_LOOK: Duration = Duration::from_millis(200);
const AT_FIRST: Duration = Duration::from_secs(5);
/// Before the batch system is asked for the first time: on an idle one the scheduler is there sooner.
const FIRST_QUESTION: Duration = Duration::from_secs(1);
/// Between two questions to a queue of our own.
const OWN_QUEUE_INTERVAL: Duration = Duration::from_millis(500);
/// A job that a batch system doesn't show isn't there, after so long: it may just have been submitted, or its submit
/// had no answer.
const ABSENT_FOR: Duration = Duration::from_secs(60);
const AMBIGUOUS_FOR: Duration = Duration::from_secs(600);
/// What was about to be submitted by somebody who has died since may still be on its way for so long. One that comes
/// later leaves as soon as it starts.
const ORPHANED_FOR: Duration = Duration::from_secs(10);
/// Of a job that ended at once, for its last words to reach a file server.
const LAST_LOOKS: u32 = 10;

#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    State(#[from] StateError),
    /// The batch system took no job. None is left.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Its job can never start. It was cancelled.
    #[error("the scheduler's job {job} will never start: {words}")]
    Never { job: String, words: String },
    #[error("the scheduler's job {job} ended before the scheduler was there: {words}\n{log}")]
    Ended { job: String, words: String, log: String },
    /// Jobs can't submit jobs on the host where it ran.
    #[error("the scheduler can't run in a job: {words}")]
    CantSubmit { words: String },
    #[error("the scheduler's job was given up while it waited: the cluster was brought down")]
    GivenUp,
    #[error("the scheduler was not there after {} s: {words}", waited.as_secs())]
    TimedOut { words: String, waited: Duration },
}

/// A scheduler's job that was submitted, and may still start or be about to say that it is there.
///
/// # Errors
/// The state directory can't be read.
pub fn under_way(state: &StateDir) -> Result<Option<Intent>, StateError> {
    let identity = state.identity(Role::Admin)?;
    let intents = Intents::open(&state.intents_dir(), identity.cluster_id())?;
    let present = state.sound_contact()?.map(|contact| contact.job_name);
    let open = intents.open_ones().filter(|intent| {
        let wanted = !matches!(intent.outcome, Outcome::Unwanted { .. });
        wanted && intent.purpose == intent::SCHEDULER && Some(&intent.name) != present.as_ref()
    });
    Ok(open.last().cloned())
}

/// Submits the scheduler's job; where the cluster begins, also the jobs of its first workers, to start after it.
/// Returns the job's name. Only for the holder of the right to launch.
///
/// # Errors
/// The batch system refuses: then nothing is left of what was submitted.
pub async fn submit(
    state: &StateDir,
    spec: &ClusterSpec,
    beginning: Beginning,
) -> Result<String, BatchError> {
    let mut submitter = Submitter::new(state, spec, 0, Role::Admin)?;
    let name = submitter.intend(Purpose::Scheduler)?;
    // All of them before the first job: the scheduler may be there before the last is submitted, and must know what is
    // under way already.
    let workers = if beginning.begins { intend_workers(&mut submitter)? } else { Vec::new() };
    let job = match submitter.submit(&name, Purpose::Scheduler, None).await {
        Ok(job) => Some(job),
        // It may be there all the same: whoever follows it finds out. Its workers are its own business then.
        Err(error) if error.kind == ErrorKind::Ambiguous => None,
        Err(error) => {
            cancel(&mut submitter, &name, beginning.begins).await;
            return Err(error);
        }
    };
    for (intended, purpose) in workers {
        let Some(job) = &job else {
            let reason = "the scheduler that it was to follow is in doubt".to_owned();
            submitter.settle(&intended, Outcome::Ended { job: None, reason });
            continue;
        };
        match submitter.submit(&intended, purpose, Some(job)).await {
            // The scheduler takes it over like the others, and looks for those that are in doubt.
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::Ambiguous => {}
            Err(error) => {
                cancel(&mut submitter, &name, true).await;
                return Err(error);
            }
        }
    }
    Ok(name)
}

/// The jobs of the first workers, as many as may be submitted at once.
fn intend_workers(submitter: &mut Submitter) -> Result<Vec<(String, Purpose)>, BatchError> {
    let settings = &submitter.spec.settings;
    let jobs = needed(submitter.spec.workers, settings.profile.workers_per_job)
        .min(settings.scheduler.max_pending)
        .min(settings.scheduler.submits_per_minute);
    let first = submitter.last_allocation() + 1;
    let intend = |number| {
        let purpose = Purpose::Workers(AllocationId(number));
        Ok((submitter.intend(purpose)?, purpose))
    };
    (first..first + jobs).map(intend).collect()
}

/// Waits until the scheduler of that job is there: until the contact file names a later epoch than `before`.
///
/// # Errors
/// It won't come; then neither its job nor workers that were to follow it are left, except after
/// [`JobError::TimedOut`].
pub async fn follow(
    state: &StateDir,
    spec: &ClusterSpec,
    name: &str,
    before: Option<u32>,
    patience: Patience,
) -> Result<Contact, JobError> {
    let mut follower = Follower::new(state, spec, name, before, patience.say)?;
    loop {
        if let Some(contact) = follower.is_there()? {
            return Ok(contact);
        }
        follower.check_intent()?;
        if follower.next_question <= Instant::now() {
            follower.ask().await?;
        }
        let waited = follower.started.elapsed();
        if patience.timeout.is_some_and(|timeout| waited >= timeout) {
            return Err(JobError::TimedOut { words: follower.said, waited });
        }
        tokio::time::sleep(if waited < AT_FIRST { LOOK } else { LATER_LOOK }).await;
    }
}

struct Follower<'a> {
    state: &'a StateDir,
    name: &'a str,
    before: Option<u32>,
    tell: fn(&str),
    submitter: Submitter,
    prefix: String,
    interval: Duration,
    started: Instant,
    next_question: Instant,
    last_seen: Instant,
    /// The last thing that was told.
    said: String,
}

impl<'a> Follower<'a> {
    fn new(
        state: &'a StateDir,
        spec: &ClusterSpec,
        name: &'a str,
        before: Option<u32>,
        tell: fn(&str),
    ) -> Result<Self, JobError> {
        let submitter = Submitter::new(state, spec, 0, Role::Admin)?;
        let own_queue = submitter.batch.system().programs().is_empty();
        let interval = if own_queue { OWN_QUEUE_INTERVAL } else { spec.settings.limits.min_poll_interval };
        let prefix = intent::prefix(state.identity(Role::Admin)?.cluster_id());
        let now = Instant::now();
        let next_question = now + FIRST_QUESTION.min(interval);
        let said = "nothing is known of its job yet".to_owned();
        Ok(Self {
            state,
            name,
            before,
            tell,
            submitter,
            prefix,
            interval,
            started: now,
            next_question,
            last_seen: now,
            said,
        })
    }

    fn is_there(&self) -> Result<Option<Contact>, StateError> {
        Ok(self.state.sound_contact()?.filter(|contact| Some(contact.epoch) > self.before))
    }

    fn intent(&self) -> Result<Option<Intent>, StateError> {
        intent::read(&self.state.intents_dir(), self.name)
    }

    /// What others have written down about the job: it itself, or a `down`.
    fn check_intent(&self) -> Result<(), JobError> {
        match self.intent()?.map(|intent| intent.outcome) {
            Some(Outcome::Unwanted { .. }) => Err(JobError::GivenUp),
            Some(Outcome::Ended { reason, .. }) if reason.starts_with(intent::CANT_SUBMIT) => {
                Err(JobError::CantSubmit { words: reason })
            }
            // Between its claim and its end it may have told us where it is.
            Some(Outcome::Ended { job, reason }) if self.is_there()?.is_none() => {
                Err(self.ended(job.unwrap_or_default(), reason))
            }
            _ => Ok(()),
        }
    }

    async fn ask(&mut self) -> Result<(), JobError> {
        let found = self.submitter.batch.find(&self.prefix).await;
        self.next_question = Instant::now() + self.interval;
        let mut answered = match found {
            Ok(found) => found.into_iter().filter(|job| job.name == self.name).collect::<Vec<_>>(),
            Err(error) => return self.on_no_answer(error).await,
        };
        self.submitter.batch.explain(&mut answered).await;
        match answered.pop() {
            Some(job) => self.on_seen(job).await,
            None => self.on_absent().await,
        }
    }

    /// A submit that had no answer, and now nobody to ask: nothing was promised, so it is given up.
    async fn on_no_answer(&mut self, error: BatchError) -> Result<(), JobError> {
        if matches!(self.intent()?.map(|intent| intent.outcome), Some(Outcome::Ambiguous)) {
            cancel(&mut self.submitter, self.name, self.before.is_none()).await;
            return Err(error.into());
        }
        self.say(format!("the batch system can't be asked for the scheduler's job: {error}"));
        Ok(())
    }

    async fn on_seen(&mut self, job: JobStatus) -> Result<(), JobError> {
        self.last_seen = Instant::now();
        let id = job.id.0;
        if matches!(self.intent()?.map(|i| i.outcome), Some(Outcome::Intended | Outcome::Ambiguous)) {
            self.settle(Outcome::Submitted { job: id.clone() });
        }
        match job.state {
            JobState::Pending { reason, words, never: true, .. } => {
                cancel(&mut self.submitter, self.name, self.before.is_none()).await;
                Err(JobError::Never { job: id, words: format!("{reason} ({words})") })
            }
            JobState::Pending { reason, words, start_estimate, .. } => {
                let estimate = start_estimate.map_or(String::new(), estimate);
                self.say(format!("the scheduler's job {id} waits: {reason} ({words}){estimate}"));
                Ok(())
            }
            JobState::Running { nodes, .. } => {
                self.say(format!("the scheduler's job {id} runs on {nodes}: it is about to be there"));
                Ok(())
            }
            JobState::Ended(outcome) => self.on_over(id, outcome.to_string()).await,
        }
    }

    async fn on_absent(&mut self) -> Result<(), JobError> {
        let (job, patience) = match self.intent()?.map(|intent| intent.outcome) {
            Some(Outcome::Submitted { job }) => (job, ABSENT_FOR),
            Some(Outcome::Intended) if !launch_right::is_under_way(self.state.path())? => {
                (String::new(), ORPHANED_FOR)
            }
            _ => (String::new(), AMBIGUOUS_FOR),
        };
        if self.last_seen.elapsed() >= patience {
            return self.on_over(job, "the batch system knows it no more".to_owned()).await;
        }
        self.say(format!("the batch system doesn't show the scheduler's job {} yet", self.name));
        Ok(())
    }

    /// Its last words may still be on their way.
    async fn on_over(&mut self, job: String, words: String) -> Result<(), JobError> {
        for _ in 0..LAST_LOOKS {
            if self.is_there()?.is_some() {
                return Ok(());
            }
            self.check_intent()?;
            tokio::time::sleep(LOOK).await;
        }
        self.settle(Outcome::Ended { job: Some(job.clone()), reason: words.clone() });
        cancel(&mut self.submitter, self.name, self.before.is_none()).await;
        Err(self.ended(job, words))
    }

    fn ended(&self, job: String, words: String) -> JobError {
        let log = self.submitter.spec.job_log(self.state, self.name);
        let log = log_words(&log);
        JobError::Ended { job, words, log }
    }

    fn settle(&mut self, outcome: Outcome) {
        match self.submitter.intents.reload() {
            Ok(()) => self.submitter.settle(self.name, outcome),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    fn say(&mut self, words: String) {
        if words != self.said {
            (self.tell)(&words);
            self.said = words;
        }
    }
}

/// Cancels the scheduler's job of that name and, where no scheduler has ever taken them over, those of its workers.
async fn cancel(submitter: &mut Submitter, name: &str, workers: bool) {
    if let Err(error) = submitter.intents.reload() {
        tracing::warn!("{error}");
    }
    let unwanted = |intent: &&Intent| {
        let of_workers = intent.epoch == 0 && intent.purpose != intent::SCHEDULER;
        intent.name == name || (workers && of_workers)
    };
    let doomed: Vec<Intent> = submitter.intents.open_ones().filter(unwanted).cloned().collect();
    let mut jobs = Vec::new();
    for intent in doomed {
        let job = match intent.outcome {
            Outcome::Submitted { job } => Some(job),
            Outcome::Unwanted { job } => job,
            _ => None,
        };
        jobs.extend(job.clone().map(JobId));
        // One that can't be cancelled, or whose submit had no answer, leaves as soon as it starts.
        submitter.settle(&intent.name, Outcome::Unwanted { job });
    }
    if let Err(error) = submitter.batch.cancel(&jobs).await {
        tracing::warn!("jobs could not be cancelled: {error}");
    }
}

/// Such as `, expected to start in 20m`.
fn estimate(start_unix: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match start_unix.checked_sub(now) {
        Some(seconds) if seconds > 0 => {
            format!(", expected to start in {}", display_duration(Duration::from_secs(seconds)))
        }
        _ => String::new(),
    }
}
