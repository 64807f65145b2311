//! Telling the scheduler of a death, without waiting for it.

use super::{VerdictRecord, note};
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// For reports that are still under way at the end.
const REPORT_WAIT: Duration = Duration::from_secs(5);

/// Is told of each worker that is dead and all of whose processes are gone. Called on a thread of its own; it
/// must not start processes, which would be taken for the worker's.
pub trait Report: Send {
    fn dead(&mut self, verdict: &VerdictRecord);
}

impl<F: FnMut(&VerdictRecord) + Send> Report for F {
    fn dead(&mut self, verdict: &VerdictRecord) {
        self(verdict);
    }
}

/// Hands verdicts to a thread, so that a scheduler that doesn't answer holds up nothing here.
pub(super) struct Reporter {
    verdicts: Option<Sender<VerdictRecord>>,
    finished: Receiver<()>,
}

impl Reporter {
    pub(super) fn start(mut report: impl Report + 'static) -> io::Result<Reporter> {
        let (verdicts, incoming) = channel::<VerdictRecord>();
        let (done, finished) = channel();
        std::thread::Builder::new().name("report".to_owned()).spawn(move || {
            for verdict in incoming {
                report.dead(&verdict);
            }
            // Nobody may be waiting any more.
            let _ = done.send(());
        })?;
        Ok(Reporter { verdicts: Some(verdicts), finished })
    }

    pub(super) fn report(&self, verdict: VerdictRecord) {
        if let Some(verdicts) = &self.verdicts {
            // Fails only if a report panicked, which has been printed.
            let _ = verdicts.send(verdict);
        }
    }

    /// Lets reports that are under way get through, within limits.
    pub(super) fn finish(&mut self) {
        self.verdicts = None;
        if self.finished.recv_timeout(REPORT_WAIT).is_err() {
            note("the last report didn't get through");
        }
    }
}
