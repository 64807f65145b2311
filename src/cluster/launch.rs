//! Starts a scheduler on this host that outlives the shell.

use crate::scheduler::spec::ClusterSpec;
use crate::state::lease::Standstill;
use crate::state::{Contact, StateDir, StateError};
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// For the scheduler's first sign of life: TLS keys, a claim, a socket; file servers take their time.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);
/// Of the log, when it didn't start.
const TAIL_BYTES: u64 = 2000;

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("{}: {source}", program.display())]
    Spawn { program: PathBuf, source: std::io::Error },
    #[error("the scheduler ended at once ({status}); its log ends with:\n{tail}")]
    Ended { status: String, tail: String },
    #[error("a scheduler was started, and found another one alive; try again")]
    AnotherLives,
    #[error("the scheduler gave no sign of life within {} s; its log ends with:\n{tail}", START_TIMEOUT.as_secs())]
    Silent { tail: String },
    #[error(transparent)]
    State(#[from] StateError),
}

/// Starts the scheduler in a session of its own, and returns once it can be connected to. `stood_still`: the last
/// one's lease, if it was watched for long enough.
///
/// # Errors
/// It can't be started, or ends at once: with its own words.
pub async fn launch(
    state: &StateDir,
    spec: &ClusterSpec,
    stood_still: Option<Standstill>,
) -> Result<Contact, LaunchError> {
    let log = state.path().join("scheduler.log");
    let spawn_error = |source| LaunchError::Spawn { program: spec.exe.clone(), source };
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&log).map_err(spawn_error)?;
    let errors = file.try_clone().map_err(spawn_error)?;
    let before = state.read_contact()?.map(|contact| contact.epoch);
    let mut child = Command::new(&spec.exe)
        .arg("scheduler")
        .arg("--state-root")
        .arg(state.root())
        .arg("--name")
        .arg(state.name())
        .args(stood_still.into_iter().flat_map(|still| ["--stood-still".to_owned(), still.to_string()]))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .map_err(spawn_error)?;
    let started = Instant::now();
    loop {
        if let Some(contact) = state.read_contact()?.filter(|contact| Some(contact.epoch) > before) {
            return Ok(contact);
        }
        if let Ok(Some(status)) = child.try_wait() {
            if status.success() {
                return Err(LaunchError::AnotherLives);
            }
            return Err(LaunchError::Ended { status: status.to_string(), tail: tail_of(&log) });
        }
        if started.elapsed() > START_TIMEOUT {
            // It must not come to life later, unasked for.
            let _ = child.kill();
            let _ = child.wait();
            return Err(LaunchError::Silent { tail: tail_of(&log) });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The end of the scheduler's log, for an error message.
fn tail_of(log: &Path) -> String {
    tail(log, TAIL_BYTES).unwrap_or_else(|error| format!("({}: {error})", log.display()))
}

/// The last bytes of a log.
///
/// # Errors
/// It can't be read.
pub(super) fn tail(log: &Path, nbytes: u64) -> std::io::Result<String> {
    let mut file = std::fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(nbytes)))?;
    let mut bytes = Vec::new();
    file.take(nbytes).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
