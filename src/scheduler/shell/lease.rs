//! Keeps the lease: a thread beats it, and looks whether the fence still stands.

use super::Incoming;
use crate::state::lease::{BEAT_EVERY, Lease, SILENT_AFTER};
use crate::state::{Fence, StateDir};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Instant;
use tokio::sync::mpsc;
use tracing::error;

/// Beats the lease from a thread of its own, and looks whether the fence still stands. To drop it is to give the lease
/// up, so that a successor needn't wait.
pub(super) struct LeaseKeeper {
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl LeaseKeeper {
    pub fn start(
        state: &StateDir,
        fence: &Fence,
        events: &mpsc::Sender<Incoming>,
    ) -> anyhow::Result<LeaseKeeper> {
        let mut lease = Lease::take(state.path(), fence.epoch())?;
        let (fence, events) = (fence.try_clone()?, events.clone());
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let beat = move || {
            let mut last_good = Instant::now();
            while stopped.recv_timeout(BEAT_EVERY) == Err(RecvTimeoutError::Timeout) {
                match fence.check().and_then(|()| lease.beat()) {
                    Ok(()) => last_good = Instant::now(),
                    Err(error) if error.is_superseded() || last_good.elapsed() >= SILENT_AFTER => {
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
        Ok(LeaseKeeper { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
