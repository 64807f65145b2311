//! Starts a scheduler where it is to run: in a batch job, or left behind on this host.

mod here;
pub mod job;
mod service;

use crate::scheduler::spec::{ClusterSpec, Place};
use crate::scheduler::submit::Submitter;
use crate::state::launch::{self as launch_right, LaunchRight, Launching};
use crate::state::lease::Standstill;
use crate::state::{self, Contact, Role, StateDir, StateError};
use job::JobError;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(20);
/// After so long it is said who else is bringing the cluster up: longer than a scheduler may take to start.
const OTHERS_TIME: Duration = Duration::from_secs(60);
/// One whose process can't be seen from here is given up after so long.
const OTHERS_PATIENCE: Duration = Duration::from_secs(600);
/// Of a log, in an error message.
const TAIL_BYTES: u64 = 2000;

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("{}: {source}", program.display())]
    Spawn { program: std::path::PathBuf, source: std::io::Error },
    #[error("the scheduler ended at once ({status}); its log ends with:\n{tail}")]
    Ended { status: String, tail: String },
    #[error("a scheduler was started, and found another one alive; try again")]
    AnotherLives,
    #[error("the scheduler gave no sign of life within {} s; its log ends with:\n{tail}", here::START_TIMEOUT.as_secs())]
    Silent { tail: String },
    #[error(
        "process {} on {} has been bringing cluster '{name}' up for {} s; if it is gone, remove {}",
        by.holder.pid, by.holder.host, waited.as_secs(), by.path.display()
    )]
    Busy { name: String, by: Box<Launching>, waited: Duration },
    /// Where a scheduler that died is to be followed by another.
    #[error("the scheduler can't run on this host: {words}. The last one ran on {last}")]
    CantSubmit { words: String, last: String },
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    State(#[from] StateError),
}

/// How long whoever brings a cluster up waits, and whom it tells.
#[derive(Clone, Copy)]
pub struct Patience {
    /// Called before it is watched for half a minute whether an unreachable scheduler still lives.
    pub waiting: fn(),
    /// Told whatever is new about what takes its time.
    pub say: fn(&str),
    /// For a scheduler's job to start; `None`: as long as it takes.
    pub timeout: Option<Duration>,
}

impl Patience {
    /// As long as it takes, without a word but `waiting`.
    pub fn silent(waiting: fn()) -> Patience {
        Patience { waiting, say: |_| (), timeout: None }
    }
}

/// What a scheduler begins with.
#[derive(Clone, Copy, Default)]
pub struct Beginning {
    /// The cluster comes up, rather than going on: its first workers are asked for at once.
    pub begins: bool,
    /// The last scheduler's lease, if it was watched for long enough.
    pub stood_still: Option<Standstill>,
}

/// Waits until nobody else is launching a scheduler of this cluster. One on another host may have died over it: it is
/// passed over when it has been at it for far too long.
pub(super) async fn right(state: &StateDir, patience: Patience) -> Result<LaunchRight, LaunchError> {
    let started = Instant::now();
    let mut lost = Vec::new();
    let mut other: Option<(Launching, Instant)> = None;
    let mut said = false;
    loop {
        let by =
            match launch_right::take(state.path(), &lost).map_err(|error| unless_removed(state, error))? {
                Ok(right) => return Ok(right),
                Err(by) => by,
            };
        let waited = started.elapsed();
        if other.as_ref().is_none_or(|(seen, _)| *seen != by) {
            other = Some((by.clone(), Instant::now()));
        }
        let since = other.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let unseen = by.holder.liveness() == state::Liveness::Unknown;
        let busy = LaunchError::Busy { name: state.name().to_owned(), by: Box::new(by.clone()), waited };
        if patience.timeout.is_some_and(|timeout| waited >= timeout) || (!unseen && since >= OTHERS_PATIENCE)
        {
            return Err(busy);
        }
        if unseen && since >= OTHERS_PATIENCE {
            lost.push(by.holder);
            continue;
        }
        if !said && waited >= OTHERS_TIME {
            (patience.say)(&busy.to_string());
            said = true;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whoever had the right before may have removed the cluster.
fn unless_removed(state: &StateDir, error: StateError) -> StateError {
    if state.path().is_dir() {
        return error;
    }
    StateError::NoSuchCluster { name: state.name().to_owned(), root: state.root().to_owned() }
}

/// Starts the scheduler, and returns once it can be connected to.
///
/// # Errors
/// It can't be started, or ends at once: with its own words. What was submitted is cancelled, except where it only takes
/// longer than there is patience for.
pub async fn launch(
    state: &StateDir,
    spec: &ClusterSpec,
    beginning: Beginning,
    right: LaunchRight,
    patience: Patience,
) -> Result<Contact, LaunchError> {
    if spec.place() == Place::Here {
        if !beginning.begins {
            must_submit_here(state, spec).await?;
        }
        return here::launch(state, spec, beginning.stood_still, patience.say).await;
    }
    let before = state.sound_contact()?.map(|contact| contact.epoch);
    let name = job::submit(state, spec, beginning).await.map_err(JobError::from)?;
    // From here on the intent stands for the launch: whoever comes now follows it too.
    drop(right);
    match job::follow(state, spec, &name, before, patience).await {
        Err(JobError::CantSubmit { words }) if spec.settings.scheduler.place == "auto" => {
            (patience.say)(&format!("{words}; the scheduler runs on this host instead"));
            // Whoever starts it again is to know.
            let mut spec = spec.clone();
            "here".clone_into(&mut spec.settings.scheduler.place);
            if let Some(file) = state.read_cluster()? {
                state.write_cluster(&file.with_spec(&spec)?)?;
            }
            let _right = self::right(state, patience).await?;
            // Whoever followed it too may have been faster.
            if let Some(contact) = state.sound_contact()?.filter(|contact| Some(contact.epoch) > before) {
                return Ok(contact);
            }
            here::launch(state, &spec, beginning.stood_still, patience.say).await
        }
        followed => Ok(followed?),
    }
}

/// Who starts a dead scheduler again may be in a job, or on another host than whoever brought the cluster up.
async fn must_submit_here(state: &StateDir, spec: &ClusterSpec) -> Result<(), LaunchError> {
    let submitter = Submitter::new(state, spec, 0, Role::Admin).map_err(JobError::from)?;
    if submitter.batch.system().programs().is_empty() {
        return Ok(());
    }
    let Some(words) = submitter.refused_here(None).await else { return Ok(()) };
    let last = state.sound_contact()?.map_or(String::new(), |contact| contact.host);
    Err(LaunchError::CantSubmit { words, last })
}

/// The end of a log, for an error message.
fn tail_of(log: &Path) -> String {
    tail(log, TAIL_BYTES).unwrap_or_else(|error| format!("({}: {error})", log.display()))
}

/// What a job left in its log, for an error message.
pub(super) fn log_words(log: &Path) -> String {
    match tail(log, TAIL_BYTES) {
        Ok(text) if text.trim().is_empty() => format!("its log {} is empty", log.display()),
        Ok(text) => format!("its log {} ends with:\n{}", log.display(), text.trim_end()),
        Err(error) => format!("it has no log {} ({error}): can jobs write there?", log.display()),
    }
}

/// The last bytes of a log.
///
/// # Errors
/// It can't be read.
fn tail(log: &Path, nbytes: u64) -> std::io::Result<String> {
    let mut file = std::fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(nbytes)))?;
    let mut bytes = Vec::new();
    file.take(nbytes).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
