//! Brings a cluster up, or finds that it is; and waits for its workers.

use super::down::{self, DownError};
use super::hold::{Hold, Rest};
use super::launch::job::{self, JobError};
use super::launch::{self, Beginning, LaunchError, Patience};
use super::liveness::{Last, Liveness, Remains, look, look_patiently, look_without_spec, remains};
use super::revive::{self, Resumed};
use crate::client::{Client, ClientError};
use crate::datasets::DatasetError;
use crate::net::Transport;
use crate::protocol::{
    AllocationId, AllocationReport, AllocationStateName, Reply, Request, StatusReport, WorkerStateName,
};
use crate::scheduler::shell::{past::PastError, transport};
use crate::scheduler::spec::ClusterSpec;
use crate::state::Intents;
use crate::state::launch::LaunchRight;
use crate::state::{ClusterFile, Role, StateDir, StateError, lease};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Between two looks at a cluster that is coming up: short, since an embedded queue starts workers in no time.
const LOOK: Duration = Duration::from_millis(20);
const LATER_LOOK: Duration = Duration::from_millis(200);
/// For the batch system's first word about what was submitted.
const FIRST_WORD: Duration = Duration::from_secs(60);
/// Launches of others that came to nothing, before this one does.
const MAX_FOLLOWED: u32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum UpError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    Down(#[from] DownError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It was not launched, and what was submitted for it may still be there.
    #[error("{error}\nit isn't sure that everything is cancelled: {left}")]
    NotSure { error: Box<LaunchError>, left: Box<DownError> },
    #[error(transparent)]
    Past(#[from] PastError),
    /// Somebody else's launch, which may still come to something.
    #[error("the cluster is coming up: {0}")]
    OnItsWay(JobError),
    #[error("the cluster's identity can't be used: {0}")]
    Identity(String),
    /// A cluster that there is was asked for differently: one line a difference.
    #[error("cluster '{name}' is there already, and differs from what was asked for:\n{}", differences.join("\n"))]
    Differs { name: String, differences: Vec<String> },
    #[error("cluster '{name}' is going down (tasks that still run: {assigned})")]
    GoingDown { name: String, assigned: u64 },
    /// The batch system refused, or what it took can never start. Everything was cancelled.
    #[error("{words}")]
    Refused {
        words: String,
        exit_code: u8,
        /// Whose log may tell more.
        allocation: Option<AllocationId>,
    },
    #[error("cluster '{name}' has come to life, or has datasets now: it is left alone")]
    CameUp { name: String },
    #[error("{connected} of {wanted} workers were there after {} s", waited.as_secs())]
    TimedOut { connected: u32, wanted: u32, waited: Duration, status: Box<StatusReport> },
}

/// What is to be brought up.
pub struct Wish {
    pub spec: ClusterSpec,
    /// Whether `--workers` was given.
    pub workers_given: bool,
    /// Keys of settings that were given: only these are compared with a living cluster.
    pub given: Vec<String>,
    pub replace: bool,
}

impl Wish {
    /// What was given of the keys that only matter to whoever starts a scheduler.
    fn of_scheduler(&self) -> Vec<String> {
        self.given.iter().filter(|key| key.starts_with("scheduler.")).cloned().collect()
    }
}

/// How a cluster came to be up.
pub enum Brought {
    Started,
    /// Its scheduler was dead, and another one goes on from its journal.
    Resumed(Box<Resumed>),
    /// Its scheduler was dead, and it was to be replaced; this is what was given up with it.
    Afresh(Box<(Remains, Last)>),
    WasUp,
}

/// Brings the cluster up, unless it is.
///
/// # Errors
/// [`UpError`] says what stood in the way; nothing that was started by this call is left running, except a scheduler's
/// job for whose start there was no patience.
pub async fn bring_up(
    state: &StateDir,
    wish: &Wish,
    patience: Patience,
) -> Result<(Client, Brought), UpError> {
    if let Some(old) = spec_of(state)?
        && let Liveness::Alive(client) = look(state, &identity_of(state, &old)?).await?
        && (!wish.replace || differences(&old, &wish.spec, &wish.given).is_empty())
    {
        return reconcile(state, wish, &old, *client, patience).await;
    }
    let otherwise =
        |old: &ClusterSpec| wish.replace || !differences(old, &wish.spec, &wish.of_scheduler()).is_empty();
    let (right, (old, liveness)) = our_turn(state, patience, otherwise).await?;
    let is_known = old.is_some();
    let old = old.unwrap_or_else(|| wish.spec.clone());
    match liveness {
        Liveness::Alive(client) => {
            drop(right);
            reconcile(state, wish, &old, *client, patience).await
        }
        Liveness::Unreachable(error) => Err(error.into()),
        Liveness::Dead(dead) if wish.replace => {
            let lost = remains(state)?;
            let rest = clear_away(state, &old, Rest { right, highest: dead.highest }).await?;
            let client = start(state, wish, rest, patience).await?;
            Ok((client, Brought::Afresh(Box::new((lost, dead.last)))))
        }
        Liveness::Dead(dead) => {
            if !is_known {
                go_on_as(state, &old)?;
            }
            let old = with_scheduler(state, wish, old)?;
            check_differences(state, wish, &old)?;
            let (client, resumed) = revive::take_over(state, &old, dead, right, patience).await?;
            let (client, _) = reconcile(state, wish, &old, client, patience).await?;
            Ok((client, Brought::Resumed(Box::new(resumed))))
        }
        Liveness::Down { highest } => {
            // What a `down` couldn't cancel, because the batch system didn't answer.
            if down::may_have_jobs(state)?
                && let Some(batch) = old.batch(state)
            {
                down::sweep(state, &batch, "").await?;
            }
            Ok((start(state, wish, Rest { right, highest }, patience).await?, Brought::Started))
        }
    }
}

/// The right to launch, and what there is: somebody else may have brought the cluster up before it was our turn. A
/// scheduler's job that is under way is followed until it is there, or came to nothing; unless it is wanted `otherwise`:
/// whoever becomes the scheduler cancels it.
pub(super) async fn our_turn(
    state: &StateDir,
    patience: Patience,
    otherwise: impl Fn(&ClusterSpec) -> bool,
) -> Result<(LaunchRight, (Option<ClusterSpec>, Liveness)), UpError> {
    let mut followed = 0;
    loop {
        let right = launch::right(state, patience).await?;
        let there = known(state, patience.waiting).await?;
        let Some(spec) = &there.0 else { return Ok((right, there)) };
        let may_come = match there.1 {
            Liveness::Dead(_) | Liveness::Down { .. } => true,
            // One that has begun can't be reached before it tells where it is.
            Liveness::Unreachable(_) => has_not_told(state)?,
            Liveness::Alive(_) => false,
        };
        if !may_come {
            return Ok((right, there));
        }
        let launched = if otherwise(spec) { None } else { job::under_way(state)? };
        let Some(launched) = launched else { return Ok((right, there)) };
        drop(right);
        let before = state.sound_contact()?.map(|contact| contact.epoch);
        match job::follow(state, spec, &launched.name, before, patience).await {
            Ok(_) => {}
            Err(error @ (JobError::Ended { .. } | JobError::GivenUp | JobError::CantSubmit { .. }))
                if followed < MAX_FOLLOWED =>
            {
                (patience.say)(&error.to_string());
            }
            Err(error @ JobError::TimedOut { .. }) => return Err(UpError::OnItsWay(error)),
            Err(error) => return Err(LaunchError::Job(error).into()),
        }
        followed += 1;
    }
}

/// Whether the holder of the lease has yet to write its contact file.
fn has_not_told(state: &StateDir) -> Result<bool, StateError> {
    let told = state.sound_contact()?.map(|contact| contact.epoch);
    Ok(lease::sight(state.path())?.is_some_and(|sight| told < Some(sight.seen.epoch)))
}

/// The cluster as it was asked for; `None`: it never came up.
pub(super) fn spec_of(state: &StateDir) -> Result<Option<ClusterSpec>, UpError> {
    Ok(state.read_cluster()?.map(|file| file.spec_as()).transpose()?)
}

/// The cluster as it was asked for, where that is known, and whether it lives.
pub(super) async fn known(
    state: &StateDir,
    waiting: impl FnOnce(),
) -> Result<(Option<ClusterSpec>, Liveness), UpError> {
    let Some(spec) = spec_of(state)? else { return Ok((None, look_without_spec(state)?)) };
    let liveness = look_patiently(state, &spec, &identity_of(state, &spec)?, waiting).await?;
    Ok((Some(spec), liveness))
}

pub(super) fn identity_of(state: &StateDir, spec: &ClusterSpec) -> Result<Transport, UpError> {
    transport(state, spec, Role::Admin).map_err(|error| UpError::Identity(format!("{error:#}")))
}

async fn reconcile(
    state: &StateDir,
    wish: &Wish,
    old: &ClusterSpec,
    mut client: Client,
    patience: Patience,
) -> Result<(Client, Brought), UpError> {
    let before = status(&mut client).await?;
    if before.going_down && !wish.replace {
        return Err(UpError::GoingDown { name: state.name().to_owned(), assigned: before.counts.assigned });
    }
    if check_differences(state, wish, old)? || before.going_down {
        let (_, rest) = down::down(state, old, &identity_of(state, old)?, Duration::ZERO, patience).await?;
        let rest = rest.ok_or_else(|| UpError::CameUp { name: state.name().to_owned() })?;
        return Ok((start(state, wish, rest, patience).await?, Brought::Started));
    }
    if wish.workers_given || before.stopped {
        // A cluster that had stopped asking for workers begins again.
        let workers = if wish.workers_given { wish.spec.workers } else { before.target };
        let request = crate::client::random_request()?;
        client.call(Request::Scale { request, workers }).await?;
    }
    // One that is as it was needs no disk.
    if wish.workers_given && wish.spec.workers != old.workers {
        let spec = ClusterSpec { workers: wish.spec.workers, ..old.clone() };
        if let Some(file) = state.read_cluster()? {
            state.write_cluster(&file.with_spec(&spec)?)?;
        }
    }
    Ok((client, Brought::WasUp))
}

/// Whether it was asked for differently, and is to be replaced.
fn check_differences(state: &StateDir, wish: &Wish, old: &ClusterSpec) -> Result<bool, UpError> {
    let differences = differences(old, &wish.spec, &wish.given);
    if !differences.is_empty() && !wish.replace {
        return Err(UpError::Differs { name: state.name().to_owned(), differences });
    }
    Ok(!differences.is_empty())
}

/// The specification of a cluster that goes on, with what was given for its next scheduler: where that runs, and as what
/// job, needn't be as it was.
fn with_scheduler(state: &StateDir, wish: &Wish, old: ClusterSpec) -> Result<ClusterSpec, UpError> {
    let given = wish.of_scheduler();
    if differences(&old, &wish.spec, &given).is_empty() {
        return Ok(old);
    }
    let spec = old
        .with_settings_of(&wish.spec.settings, &given)
        .map_err(|reason| StateError::Malformed { path: state.cluster_path(), reason })?;
    if let Some(file) = state.read_cluster()? {
        state.write_cluster(&file.with_spec(&spec)?)?;
    }
    Ok(spec)
}

/// One line a setting that was given and is otherwise in the living cluster.
fn differences(old: &ClusterSpec, new: &ClusterSpec, given: &[String]) -> Vec<String> {
    let table = |spec: &ClusterSpec| toml::Table::try_from(&spec.settings).unwrap_or_default();
    let (old, new) = (table(old), table(new));
    let value = |table: &toml::Table, key: &str| {
        let (section, key) = key.split_once('.')?;
        table.get(section)?.get(key).map(ToString::to_string)
    };
    let mut lines = Vec::new();
    for key in given {
        let (is, asked) = (value(&old, key), value(&new, key));
        if is != asked {
            let text = |value: Option<String>| value.unwrap_or_else(|| "nothing".to_owned());
            lines.push(format!("  {key}: is {}, asked for {}", text(is), text(asked)));
        }
    }
    lines.dedup();
    lines
}

/// Makes room for a fresh start: the dead scheduler can't wake any more, its jobs are cancelled, its journal is put
/// aside.
async fn clear_away(state: &StateDir, spec: &ClusterSpec, rest: Rest) -> Result<Rest, UpError> {
    let mut hold = Hold::take(state, rest, "replaced")?;
    if let Some(batch) = spec.batch(state) {
        down::sweep(state, &batch, "").await?;
    }
    hold.end()?;
    put_journal_aside(state, &hold)?;
    Ok(hold.let_go())
}

/// The journal of what is over is kept once, under another name, for whoever wants to look. What its tasks printed goes:
/// nobody can name them any more.
fn put_journal_aside(state: &StateDir, hold: &Hold) -> Result<(), UpError> {
    hold.confirm()?;
    let journal = state.journal_dir();
    let aside = state.path().join("journal.lost");
    if journal.exists() {
        for old in [&aside, &state.results_dir(), &state.outbox_dir()] {
            match std::fs::remove_dir_all(old) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StateError::io("remove", old, error).into());
                }
                _ => {}
            }
        }
        std::fs::rename(&journal, &aside).map_err(|error| StateError::io("rename", &aside, error))?;
        tracing::info!("the journal of the cluster's last life is in {}", aside.display());
    }
    Ok(())
}

async fn start(state: &StateDir, wish: &Wish, rest: Rest, patience: Patience) -> Result<Client, UpError> {
    let right = begin_life(state, &wish.spec, rest)?;
    let beginning = Beginning { begins: true, stood_still: None };
    if let Err(error) = launch::launch(state, &wish.spec, beginning, right, patience).await {
        return Err(clear_launch(state, &wish.spec, error).await);
    }
    Ok(Client::connect(state.clone(), identity_of(state, &wish.spec)?).await?)
}

/// Nothing is left of a launch that failed for good.
async fn clear_launch(state: &StateDir, spec: &ClusterSpec, error: LaunchError) -> UpError {
    // What may still come, or is somebody else's, is left alone.
    let over = match &error {
        LaunchError::Job(job) => !matches!(job, JobError::TimedOut { .. }),
        // Its workers' jobs, where it was first tried in a job; and the life that it began.
        LaunchError::Spawn { .. } | LaunchError::Ended { .. } | LaunchError::Silent { .. } => true,
        _ => false,
    };
    if !over {
        return error.into();
    }
    let links = match identity_of(state, spec) {
        Ok(links) => links,
        Err(error) => return error,
    };
    // The scheduler itself may be there by now.
    match down::down(state, spec, &links, Duration::ZERO, Patience::silent(|| ())).await {
        Ok(_) => error.into(),
        Err(left) => UpError::NotSure { error: Box::new(error), left: Box::new(left) },
    }
}

/// What was left of the last life was given up when it was brought down.
fn begin_life(state: &StateDir, spec: &ClusterSpec, rest: Rest) -> Result<LaunchRight, UpError> {
    let file = cluster_file(state, spec)?;
    if rest.highest.is_none() {
        // Nobody ever was a scheduler here.
        state.write_cluster(&file)?;
        return Ok(rest.right);
    }
    let hold = Hold::take(state, rest, "begun anew")?;
    put_journal_aside(state, &hold)?;
    state.write_cluster(&file)?;
    Ok(hold.let_go().right)
}

fn cluster_file(state: &StateDir, spec: &ClusterSpec) -> Result<ClusterFile, StateError> {
    let identity = state.identity(Role::Admin)?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    ClusterFile::new(state.name(), identity.cluster_id(), created, spec)
}

/// What the cluster was asked to be is lost with its file: it goes on as what it is asked to be now, in the same life.
fn go_on_as(state: &StateDir, spec: &ClusterSpec) -> Result<(), UpError> {
    let file = cluster_file(state, spec)?;
    let life = state.sound_contact()?.map_or(file.life.clone(), |contact| contact.life);
    Ok(state.write_cluster(&ClusterFile { life, ..file })?)
}

/// Waits until the batch system has said a first word about every allocation, or until `wanted` workers are there.
/// A cluster that is `fresh` has nothing to lose: the first refusal, even a passing one, ends the wait.
///
/// # Errors
/// What was asked for is refused or can never start (then the caller should bring a fresh cluster down); or the time
/// is over.
pub async fn wait_for_workers(
    client: &mut Client,
    wanted: Option<u32>,
    timeout: Option<Duration>,
    fresh: bool,
    mut progress: impl FnMut(&StatusReport),
) -> Result<StatusReport, UpError> {
    let started = Instant::now();
    loop {
        let status = status(client).await?;
        progress(&status);
        if let Some(refusal) = refusal(&status, fresh) {
            return Err(refusal);
        }
        let enough = match wanted {
            Some(wanted) => status.connected >= wanted,
            None => first_word(&status) || started.elapsed() > FIRST_WORD,
        };
        if enough {
            return Ok(status);
        }
        let waited = started.elapsed();
        if let Some(wanted) = wanted.filter(|_| timeout.is_some_and(|timeout| waited >= timeout)) {
            return Err(UpError::TimedOut {
                connected: status.connected,
                wanted,
                waited,
                status: Box::new(status),
            });
        }
        tokio::time::sleep(if waited < Duration::from_secs(2) { LOOK } else { LATER_LOOK }).await;
    }
}

/// # Errors
/// The scheduler doesn't answer.
pub async fn status(client: &mut Client) -> Result<StatusReport, ClientError> {
    match client.call(Request::Status).await? {
        Reply::Status(status) => Ok(*status),
        other => Err(crate::client::unexpected(&other)),
    }
}

/// Whether something about this cluster can never come right by itself; if it is fresh, or won't soon.
fn refusal(status: &StatusReport, fresh: bool) -> Option<UpError> {
    use AllocationStateName::{Ended, Pending, Refused, Running, Submitting};
    let refused = |words: String, exit_code, allocation| UpError::Refused { words, exit_code, allocation };
    let all = &status.allocations;
    if let Some(stuck) = all.iter().find(|a| a.state == Pending && a.never) {
        let words = format!("job {} will never start: {} ({})", stuck.job, stuck.reason, stuck.words);
        return Some(refused(words, 78, None));
    }
    let last = all.iter().max_by_key(|a| a.id);
    if let Some(last) = last.filter(|a| a.state == Refused && (fresh || status.stopped)) {
        return Some(refused(last.reason.clone(), last.exit_code, None));
    }
    // One that never was a job tells nothing: its scheduler, or whoever was to submit it, died before.
    let ended = all.iter().rev().find(|a| a.state == Ended && !a.job.is_empty());
    if status.stopped {
        return Some(refused(status.batch_trouble.clone(), 78, ended.map(|a| a.id)));
    }
    if !fresh || status.connected > 0 {
        return None;
    }
    let ambiguous = all.iter().any(|a| a.state == Submitting && !a.words.is_empty());
    if ambiguous && status.failed_polls > 0 {
        return Some(refused(status.batch_trouble.clone(), 75, None));
    }
    // One bad node of several is no reason to give up: others may be about to register.
    let hopeless = status.workers.is_empty() && !all.iter().any(|a| a.state == Running);
    ended.filter(|_| hopeless).map(|a| {
        let words = format!("job {} ended before a worker of it was there: {}", a.job, a.reason);
        refused(words, 78, Some(a.id))
    })
}

/// What an allocation's job left in its log, for an error message.
pub fn job_log(state: &StateDir, spec: &ClusterSpec, allocation: AllocationId) -> Option<String> {
    let identity = state.identity(Role::Admin).ok()?;
    let intents = Intents::open(&state.intents_dir(), identity.cluster_id()).ok()?;
    let purpose = allocation.to_string();
    let name = intents.list().filter(|intent| intent.purpose == purpose).last()?.name.clone();
    Some(launch::log_words(&spec.job_log(state, &name)))
}

/// The batch system has answered about every allocation that is under way, or its workers are here.
fn first_word(status: &StatusReport) -> bool {
    let workers = status.workers.iter().filter(|w| w.state == WorkerStateName::Connected).count() as u32;
    let submitted = status.allocations.iter().all(|a| a.state != AllocationStateName::Submitting);
    let asked_for = status.target == 0 || !status.allocations.is_empty();
    let explained = |a: &AllocationReport| a.state != AllocationStateName::Pending || !a.reason.is_empty();
    workers >= status.target
        || (asked_for && submitted && status.polls > 0 && status.allocations.iter().all(explained))
}
