//! What asks this program to stop: a verb that has to clean up listens to it from before there is anything to clean.

use super::exit::{CliError, Exit};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C and SIGTERM, noticed from when this is made.
pub(super) struct Stops {
    interrupt: Signal,
    terminate: Signal,
}

impl Stops {
    /// To be called within a runtime.
    pub(super) fn new() -> Result<Stops, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::internal(format!("can't listen to signals: {error}")))
        };
        Ok(Stops { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for one; how this program then ends.
    pub(super) async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
        }
    }
}
