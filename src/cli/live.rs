//! A profile's batch system as it is now: whether it answers, and which queues it has.

use super::connect::block_on;
use super::exit::CliError;
use super::scratch::Scratch;
use crate::batch::{self, Batch, BatchError, BatchSystem, ErrorKind, QueueInfo, Site};
use crate::config::Settings;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

/// A batch system to ask. A queue of our own that no cluster has made yet is asked in a directory that goes away
/// with this.
pub(super) struct Live {
    batch: Batch,
    _scratch: Option<Scratch>,
}

impl Live {
    /// The batch system of `settings` for the cluster of that name. `exe` is our own program; commands are looked
    /// up on `path`.
    ///
    /// # Errors
    /// The profile names no batch system that we speak, or there is no room for a temporary directory.
    pub(super) fn new(
        settings: &Settings,
        cluster: &str,
        exe: PathBuf,
        path: &OsStr,
    ) -> Result<Live, CliError> {
        let system = system_of(settings)?;
        let own_queue = settings.cluster.state_dir.join(cluster).join("queue");
        let needs_room = system.programs().is_empty() && !own_queue.is_dir();
        let scratch = needs_room.then(|| Scratch::below(&std::env::temp_dir())).transpose()?;
        let dir = scratch.as_ref().map_or(own_queue, |scratch| scratch.path().to_owned());
        // Lossy is enough: a directory whose name is no UTF-8 holds no batch commands.
        let environment = vec![("PATH".to_owned(), path.to_string_lossy().into_owned())];
        let site = Site {
            exe,
            dir,
            slots: slots(settings),
            queue_wait: settings.profile.queue_wait,
            command_timeout: settings.scheduler.command_timeout,
            environment,
        };
        Ok(Live { batch: Batch::new(system, site), _scratch: scratch })
    }

    pub(super) fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Whether the controller answers; takes no longer than the batch system's own limit for that question.
    ///
    /// # Errors
    /// As [`Batch::health`].
    pub(super) fn health(&self) -> Result<(), BatchError> {
        wait_for(async { Ok(self.batch.health().await) })
    }

    /// The queues, if the answer comes within `patience`.
    ///
    /// # Errors
    /// As [`Batch::queues`]; `TryAgain` after `patience`.
    pub(super) fn queues(&self, patience: Duration) -> Result<Vec<QueueInfo>, BatchError> {
        wait_for(async {
            Ok(tokio::time::timeout(patience, self.batch.queues()).await.unwrap_or_else(|_| {
                let summary = format!(
                    "{} did not list its {}s within {} s",
                    self.batch.system().name(),
                    self.batch.system().queue_word(),
                    patience.as_secs()
                );
                Err(BatchError::new(ErrorKind::TryAgain, summary))
            }))
        })
    }
}

/// The batch system that the profile names.
///
/// # Errors
/// None is chosen, or it isn't one that we speak.
pub(super) fn system_of(settings: &Settings) -> Result<&'static dyn BatchSystem, CliError> {
    let name = &settings.profile.system;
    batch::system(name).ok_or_else(|| {
        let known: Vec<&str> = batch::SYSTEMS.iter().map(|system| system.name()).collect();
        let message = match name.as_str() {
            "" => "no batch system is chosen".to_owned(),
            name => format!("there is no batch system `{name}`"),
        };
        CliError::config(message)
            .hint(format!("choose a profile with --queue, or set `profile.system`: {}", known.join(", ")))
    })
}

/// Slots of a queue of our own: as asked for, else enough for this host and for one job of the profile.
fn slots(settings: &Settings) -> u32 {
    let profile = &settings.profile;
    if profile.slots > 0 {
        return profile.slots;
    }
    let host = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    host.max(profile.cores.saturating_mul(profile.workers_per_job))
}

fn wait_for<T>(work: impl Future<Output = Result<Result<T, BatchError>, CliError>>) -> Result<T, BatchError> {
    block_on(work).unwrap_or_else(|error| Err(BatchError::new(ErrorKind::Unexpected, error.message)))
}
