//! The jobs of older epochs: which of them are still ours to watch, and which are to go.

use super::{CANCEL_AGAIN, Job, Launcher};
use crate::batch::JobId;
use crate::protocol::AllocationId;
use crate::scheduler::event::{AllocationStatus, Event};
use crate::state::{Intent, Outcome, intent};
use std::collections::BTreeSet;
use tokio::time::Instant;
use tracing::info;

impl Launcher {
    /// Takes over the jobs that older epochs left. `open` are the allocations whose end was not journalled. Returns
    /// what is known of them without asking the batch system.
    pub fn inherit(&mut self, open: &[AllocationId]) -> Option<Event> {
        let intents: Vec<(AllocationId, Intent)> =
            self.intents.open_ones().filter_map(|i| Some((allocation_of(i)?, i.clone()))).collect();
        let open: BTreeSet<AllocationId> = open.iter().copied().collect();
        for (allocation, intent) in intents {
            if !open.contains(&allocation) {
                // Its end was wished for, but perhaps not yet brought about.
                info!("job {} of an older epoch is not wanted any more", intent.name);
                self.settle(&intent.name, Outcome::Unwanted { job: job_of(&intent) });
            }
            let unwanted = !open.contains(&allocation) || matches!(intent.outcome, Outcome::Unwanted { .. });
            let now = Instant::now();
            // In the past, so that the first answer that shows it leads to its cancelling.
            let cancelled = unwanted.then(|| now.checked_sub(CANCEL_AGAIN).unwrap_or(now));
            let id = job_of(&intent).map(JobId);
            self.jobs.insert(allocation, Job { name: intent.name, id, submitted: now, cancelled });
        }
        if !self.jobs.is_empty() {
            info!("{} jobs of older epochs are asked about", self.jobs.len());
            self.next_poll = Instant::now();
        }
        let gone = open.into_iter().filter(|id| !self.jobs.contains_key(id));
        let fates: Vec<_> = gone.map(|id| (id, String::new(), self.fate(id))).collect();
        (!fates.is_empty()).then_some(Event::Polled(fates))
    }

    /// Of an allocation without an open intent: its job is over, or it never was submitted.
    fn fate(&self, allocation: AllocationId) -> AllocationStatus {
        let of_it = |intent: &&Intent| allocation_of(intent) == Some(allocation);
        match self.intents.list().filter(of_it).last().map(|intent| &intent.outcome) {
            Some(Outcome::Ended { job: Some(_), reason }) => {
                AllocationStatus::Ended { words: reason.clone(), confirmed: false }
            }
            Some(Outcome::Ended { job: None, reason }) => {
                AllocationStatus::Ended { words: reason.clone(), confirmed: true }
            }
            _ => AllocationStatus::Ended { words: "it was never submitted".to_owned(), confirmed: true },
        }
    }
}

fn allocation_of(intent: &Intent) -> Option<AllocationId> {
    intent::allocation_number(&intent.purpose).map(AllocationId)
}

fn job_of(intent: &Intent) -> Option<String> {
    match &intent.outcome {
        Outcome::Submitted { job } => Some(job.clone()),
        Outcome::Unwanted { job } | Outcome::Ended { job, .. } => job.clone(),
        Outcome::Intended | Outcome::Ambiguous => None,
    }
}
