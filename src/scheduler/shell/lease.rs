//! Keeps the lease: a thread beats it, and looks whether the fence still stands.

use super::Incoming;
use crate::state::lease::{BEAT_EVERY, Lease, SILENT_AFTER};
use crate::state::{ClusterFile, Contact, Fence, StateDir, StateError, epoch};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc;
use tracing::error;

/// Beats the lease from a thread of its own, and looks whether the fence still stands. To drop it is to give the lease
/// up, so that a successor needn't wait.
pub(super) struct LeaseKeeper {
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    pulse: Pulse,
    told: Arc<OnceLock<Told>>,
    ended: Arc<OnceLock<String>>,
}

/// What this scheduler has told, or goes by.
pub(super) struct Told {
    pub contact: Contact,
    pub file: ClusterFile,
}

/// When the last beat that was completed began: a write may hang for long, and a process may be stopped. Whoever is
/// about to have an effect asks it.
#[derive(Clone)]
pub(super) struct Pulse(Arc<Mutex<Instant>>);

impl Pulse {
    fn new() -> Pulse {
        Pulse(Arc::new(Mutex::new(Instant::now())))
    }

    fn set(&self, at: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Whether this scheduler must fall silent, since another one may take its lease for abandoned.
    pub fn has_stopped(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= SILENT_AFTER
    }
}

impl LeaseKeeper {
    pub fn start(
        state: &StateDir,
        fence: &Fence,
        events: &mpsc::Sender<Incoming>,
    ) -> anyhow::Result<LeaseKeeper> {
        let pulse = Pulse::new();
        let mut lease = Lease::take(state.path(), fence.epoch())?;
        let (fence, events, beats) = (fence.try_clone()?, events.clone(), pulse.clone());
        let (told, ended): (Arc<OnceLock<Told>>, Arc<OnceLock<String>>) = Default::default();
        let (state, ours, life) = (state.clone(), told.clone(), ended.clone());
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let beat = move || {
            while stopped.recv_timeout(BEAT_EVERY) == Err(RecvTimeoutError::Timeout) {
                let began = Instant::now();
                match fence.check().and_then(|()| lease.beat()) {
                    // A pulse that has stopped never comes back: only a new claim can tell what happened meanwhile.
                    Ok(()) if beats.has_stopped() => {
                        let reason =
                            "it stood still for too long, and another one may have taken over".into();
                        let _ = events.blocking_send(Incoming::Fatal(reason));
                        return;
                    }
                    Ok(()) => {
                        beats.set(began);
                        if let Some(ours) = ours.get() {
                            put_right(&state, ours);
                        }
                    }
                    Err(error) if error.is_superseded() || beats.has_stopped() => {
                        let _ = events.blocking_send(Incoming::Fatal(error.to_string()));
                        return;
                    }
                    Err(error) => error!("the lease: {error}"),
                }
            }
            // A successor must not be told that we let go of what it holds.
            let last = fence.check().and_then(|()| match life.get() {
                Some(life) => end(&state, &mut lease, fence.epoch(), life),
                None => Ok(()),
            });
            if let Err(error) = last.and_then(|()| lease.release()) {
                error!("the lease is not released: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("lease".into()).spawn(beat)?;
        Ok(LeaseKeeper { stop: Some(stop), thread: Some(thread), pulse, told, ended })
    }

    /// What the scheduler has told, from now on kept so.
    pub fn told(&self) -> &OnceLock<Told> {
        &self.told
    }

    /// To give the lease up is the end of the cluster's life.
    pub fn end(&self, life: &str) {
        let _ = self.ended.set(life.to_owned());
    }

    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A beat that hangs must not keep a process that has nothing more to do.
        if let Some(thread) = self.thread.take().filter(|_| !self.pulse.has_stopped()) {
            let _ = thread.join();
        }
    }
}

/// The life's end is told by the lease, before anything is taken away, and while nobody else can have it.
fn end(state: &StateDir, lease: &mut Lease, epoch: u32, life: &str) -> Result<(), StateError> {
    lease.end(life)?;
    state.remove_contact(epoch)
}

/// Writes anew what others have lost or damaged. One that claimed before, and was stopped before it told where it is, may
/// tell it over ours when it goes on.
fn put_right(state: &StateDir, ours: &Told) {
    for written in [put_contact_right(state, &ours.contact), put_file_right(state, &ours.file)] {
        if let Err(error) = written {
            error!("{error}");
        }
    }
}

fn put_contact_right(state: &StateDir, ours: &Contact) -> Result<(), StateError> {
    let is_wrong = match state.read_contact() {
        Ok(Some(found)) if found.cluster_id == ours.cluster_id && found.epoch >= ours.epoch => {
            // A later one's, who has just taken over; or of an epoch that never was.
            found.epoch > ours.epoch && epoch::highest(state.path())? == Some(ours.epoch)
        }
        Ok(_) | Err(StateError::Malformed { .. }) => true,
        Err(error) => return Err(error),
    };
    if is_wrong { state.write_contact(ours) } else { Ok(()) }
}

/// What the cluster was asked to be is changed by others; only one that can't be read is ours to write.
fn put_file_right(state: &StateDir, ours: &ClusterFile) -> Result<(), StateError> {
    match state.read_cluster() {
        Ok(None) | Err(StateError::Malformed { .. }) => state.write_cluster(ours),
        Ok(Some(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
