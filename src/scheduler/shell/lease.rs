//! Keeps the lease: a thread beats it, and looks whether the fence still stands.

use super::Incoming;
use crate::state::lease::{BEAT_EVERY, Lease, SILENT_AFTER};
use crate::state::{Fence, StateDir};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc;
use tracing::error;

/// Beats the lease from a thread of its own, and looks whether the fence still stands.
pub(super) struct LeaseKeeper {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
    pulse: Pulse,
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
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let beat = move || {
            while stopped.recv_timeout(BEAT_EVERY) == Err(RecvTimeoutError::Timeout) {
                let began = Instant::now();
                match fence.check().and_then(|()| lease.beat()) {
                    // A pulse that has stopped never comes back: only a new claim can tell what happened meanwhile.
                    Ok(()) if !beats.has_stopped() => beats.set(began),
                    Ok(()) => return,
                    Err(error) if error.is_superseded() || beats.has_stopped() => {
                        let _ = events.blocking_send(Incoming::Fatal(error.to_string()));
                        return;
                    }
                    Err(error) => error!("the lease: {error}"),
                }
            }
            // A successor must not be told that we let go of what it holds.
            if let Err(error) = fence.check().and_then(|()| lease.release()) {
                error!("the lease is not released: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("lease".into()).spawn(beat)?;
        Ok(LeaseKeeper { stop, thread, pulse })
    }

    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Gives the lease up, so that a successor needn't wait.
    pub fn release(self) {
        drop(self.stop);
        // A beat that hangs must not keep a process that has nothing more to do.
        if !self.pulse.has_stopped() {
            let _ = self.thread.join();
        }
    }
}
