//! Whether this process may become the scheduler: only where nobody else can be it any more.

use super::own_job;
use crate::scheduler::spec::ClusterSpec;
use crate::state::lease::{self, Seen, Standstill};
use crate::state::{Epoch, LeaseWatch, StateDir, epoch};
use std::time::{Duration, Instant};
use tracing::info;

/// Between two looks at a lease that may have stopped: well below a beat.
const LOOK: Duration = Duration::from_secs(1);

/// Claims the next epoch once the lease is released, its holder surely gone, or unmoved for long enough.
/// `stood_still`: what the launcher has watched for that time already. `None`: somebody else is the scheduler.
///
/// # Errors
/// The state directory can't be used.
pub(super) async fn claim(
    state: &StateDir,
    (spec, life): (&ClusterSpec, &str),
    note: &str,
    stood_still: Option<Standstill>,
) -> anyhow::Result<Option<Epoch>> {
    let highest = match judge_holder(state, (spec, life), stood_still).await? {
        Judged::Over { highest } => highest,
        Judged::Ended => {
            info!("the cluster was brought down: nothing to do");
            return Ok(None);
        }
        Judged::Lives(holder) => {
            info!("the scheduler of epoch {} lives on {}: nothing to do", holder.epoch, holder.holder.host);
            return Ok(None);
        }
    };
    match epoch::claim(state.path(), highest, note) {
        Ok(epoch) => Ok(Some(epoch)),
        Err(error) if error.is_superseded() => {
            info!("another scheduler was faster: {error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

enum Judged {
    /// Nobody acts for the cluster any more, of this epoch and those before it.
    Over {
        highest: Option<u32>,
    },
    Lives(Seen),
    /// This life of the cluster is over.
    Ended,
}

/// Watches the lease until it is clear whether its holder lives.
async fn judge_holder(
    state: &StateDir,
    (spec, life): (&ClusterSpec, &str),
    stood_still: Option<Standstill>,
) -> anyhow::Result<Judged> {
    let (started, mut watch) = (Instant::now(), LeaseWatch::default());
    let mut first: Option<Seen> = None;
    loop {
        let highest = epoch::highest(state.path())?;
        let Some(sight) = lease::sight(state.path())? else { return Ok(Judged::Over { highest }) };
        if sight.seen.has_ended(life) {
            return Ok(Judged::Ended);
        }
        let stands = stood_still.is_some_and(|still| still.is(&sight.seen));
        if watch.may_claim(&sight, started.elapsed()) || stands {
            return Ok(Judged::Over { highest: sight.highest });
        }
        let (is_of_last, seen) = (sight.is_of_last(), sight.seen);
        match &first {
            None => {
                let contact = state.sound_contact()?.filter(|contact| contact.epoch == seen.epoch);
                if let Some(contact) = contact.filter(|_| is_of_last)
                    && own_job::is_over(state, spec, &contact).await
                {
                    return Ok(Judged::Over { highest: sight.highest });
                }
                let seconds = lease::CLAIM_AFTER.as_secs();
                info!("watching for {seconds} s whether the scheduler of epoch {} lives", seen.epoch);
                first = Some(seen);
            }
            Some(before) if *before != seen => return Ok(Judged::Lives(seen)),
            Some(_) => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}
