//! Submits a job that looks back at this host, and waits for what it saw.

use super::look::{self, Question, Seen};
use crate::batch::{AllocationSpec, Batch, BatchError, JobId, JobState, Templates};
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::ground::{Ground, nearest_existing};
use crate::cli::doctor::network::listener;
use crate::cli::exit::{CliError, Exit};
use crate::cli::live::Live;
use crate::cli::scratch::Scratch;
use crate::cli::script::template_dir;
use crate::config::Settings;
use crate::net::Transport;
use crate::state::{ClusterId, Role, StateDir, files, identity};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A job of one core and a few minutes that has not started by then tells nothing of the nodes.
const PATIENCE: Duration = Duration::from_secs(90);
/// Once the job is over: file servers' caches may show its answer late.
const LATE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(250);
/// Between two questions to the batch system.
const ASK: Duration = Duration::from_secs(5);
const WALLTIME: Duration = Duration::from_secs(300);
/// Of one core that only looks.
const MEMORY: u64 = 1 << 30;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Of a job's log, as what it said.
const LOG_BYTES: usize = 500;

/// A job's answer, and how long it took from the submit.
pub struct Told {
    pub job: String,
    pub took: Duration,
    pub seen: Seen,
}

/// # Errors
/// A finding that says why nothing is known of the nodes.
pub async fn send(ground: &Ground, settings: &Settings) -> Result<Told, Finding> {
    let place = nearest_existing(&settings.cluster.state_dir);
    let scratch = Scratch::below(place).map_err(Finding::error)?;
    let at = scratch.path();
    prepare(ground, settings, at).await.map_err(Finding::error)?;
    let exe = ground.exe.clone().map_err(|error| Finding::error(CliError::config(error)))?;
    let live = Live::new(settings, &ground.cluster, exe.clone(), &ground.path).map_err(Finding::error)?;
    let batch = live.batch();
    let spec = job(settings, &exe.display().to_string(), at).map_err(Finding::error)?;
    let templates = Some(template_dir()).filter(|dir| !dir.as_os_str().is_empty());
    let script = Templates::load(templates.as_deref()).and_then(|t| batch.system().render(&spec, &t));
    let script = script.map_err(Finding::error)?;
    let file = script_file(at);
    files::write_atomic(&file, script.as_bytes()).map_err(Finding::error)?;
    let submitted = Instant::now();
    let job = match batch.submit(&spec, &file).await {
        Ok(job) => job,
        Err(error) => {
            // It may be there all the same.
            let _ = batch.sweep(&spec.name).await;
            return Err(Finding::error(error));
        }
    };
    let answer = answer(batch, &job, at, submitted).await;
    if !matches!(answer, Ok(Some(_))) {
        let _ = batch.cancel(std::slice::from_ref(&job)).await;
    }
    match answer? {
        Some(seen) => Ok(Told { job: job.0, took: submitted.elapsed(), seen }),
        None => Err(unseen(&job, at, &spec.log)),
    }
}

fn script_file(at: &Path) -> PathBuf {
    at.join("job.sh")
}

/// Listens as a scheduler would, and writes down where.
async fn prepare(ground: &Ground, settings: &Settings, at: &Path) -> Result<(), CliError> {
    let keys = look::identity_dir(at);
    identity::create(&keys, ClusterId::random()?)?;
    let links = Transport::tls(&identity::load(&keys, Role::Scheduler)?)
        .map_err(|error| CliError::internal(error.to_string()))?;
    let listener = listener(settings)?;
    let contact = StateDir::open(&settings.cluster.state_dir, &ground.cluster);
    let contact = contact.and_then(|state| state.read_contact()).ok().flatten();
    let scheduler = contact.map(|contact| contact.addresses).unwrap_or_default();
    let (addresses, system) = (listener.addresses(), settings.profile.system.clone());
    let question = Question { addresses, scheduler, system, script: script_file(at) };
    look::write(&look::question_file(at), &question)?;
    tokio::spawn(async move {
        loop {
            // One that fails is told by whoever connects.
            if let Ok((stream, _)) = listener.accept().await {
                let _ = links.accept(stream, HANDSHAKE).await;
            }
        }
    });
    Ok(())
}

fn job(settings: &Settings, exe: &str, at: &Path) -> Result<AllocationSpec, CliError> {
    let profile = &settings.profile;
    let number =
        getrandom::u32().map_err(|error| CliError::internal(format!("no random number: {error}")))?;
    let words = [exe, "look", "--at"].map(str::to_owned);
    Ok(AllocationSpec {
        name: format!("jqlook{number:08x}"),
        queue: profile.queue.clone(),
        account: profile.account.clone(),
        qos: profile.qos.clone(),
        workers: 1,
        cores: 1,
        memory: profile.memory.min(MEMORY),
        walltime: if profile.walltime.is_zero() { WALLTIME } else { profile.walltime.min(WALLTIME) },
        command: words.into_iter().chain([at.display().to_string()]).collect(),
        work_dir: at.to_owned(),
        log: at.join("job.log"),
        environment: profile.environment.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        extra_directives: profile.extra_directives.clone(),
        skip_directives: profile.skip_directives.clone(),
        shebang: profile.shebang.clone(),
        prologue: profile.prologue.clone(),
        epilogue: profile.epilogue.clone(),
        ..AllocationSpec::default()
    })
}

/// Waits for the answer; `None`: the job is over and left none.
async fn answer(batch: &Batch, job: &JobId, at: &Path, submitted: Instant) -> Result<Option<Seen>, Finding> {
    let (mut asked, mut over): (Instant, Option<Instant>) = (submitted, None);
    let mut waits = String::new();
    loop {
        // A listing anew, since a cache may remember that there was no answer.
        let _ = std::fs::read_dir(at).map(Iterator::count);
        if let Some(seen) = look::read(&look::answer_file(at)).map_err(Finding::error)? {
            return Ok(Some(seen));
        }
        if over.is_some_and(|since| since.elapsed() > LATE) {
            return Ok(None);
        }
        if over.is_none() && asked.elapsed() >= ASK {
            asked = Instant::now();
            match state_of(batch, job).await {
                Ok(Some(JobState::Pending { words, .. })) => waits = words,
                Ok(Some(JobState::Running { .. })) => waits = "it runs".to_owned(),
                Ok(Some(JobState::Ended(_)) | None) => over = Some(Instant::now()),
                // It may answer the next time.
                Err(_) => {}
            }
        }
        if submitted.elapsed() > PATIENCE {
            let found = format!("job {} gave no answer within {} s", job.0, PATIENCE.as_secs());
            let found = if waits.is_empty() { found } else { format!("{found}: {waits}") };
            return Err(Finding::warning(found, "look again when the queue is emptier"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn state_of(batch: &Batch, job: &JobId) -> Result<Option<JobState>, BatchError> {
    let found = batch.status(std::slice::from_ref(job)).await?;
    Ok(found.into_iter().find(|status| status.id == *job).map(|status| status.state))
}

fn unseen(job: &JobId, at: &Path, log: &Path) -> Finding {
    let said = std::fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said[said.len().saturating_sub(LOG_BYTES)..]).trim().to_owned();
    let said = if said.is_empty() { "and left no log".to_owned() } else { format!("after saying: {said}") };
    Finding::failed(
        Exit::Config,
        format!("job {} ended without an answer in {}, {said}", job.0, at.display()),
        "nodes must see this program and the state directory under the same paths: move them, or set \
         `cluster.state_dir`",
    )
}
