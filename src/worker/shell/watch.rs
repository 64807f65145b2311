//! While no scheduler answers: whether the state directory proves that none has given this worker's tasks to others,
//! and whether another one has taken over.

use super::Incoming;
use crate::state::{FenceState, LeaseWatch, StateDir, epoch, lease};
use crate::worker::core::Event;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// A scheduler whose lease has stood still for so long sends nothing any more: it falls silent after 15 s.
const STILL: Duration = Duration::from_secs(20);
/// Looks within one death timeout, at least and at most: every 10 to 30 s of two minutes.
const LOOKS: (u32, u32) = (4, 12);

pub(super) struct Watch {
    pub state: StateDir,
    pub death_timeout: Duration,
    /// This worker's time 0.
    pub started: Instant,
    /// The scheduler's epoch while it doesn't answer; `None` while it does.
    pub quiet: watch::Receiver<Option<u32>>,
    /// The newest epoch that any contact file has told.
    pub newest: watch::Sender<u32>,
    pub events: mpsc::UnboundedSender<Incoming>,
}

impl Watch {
    /// Looks now and then, for as long as the main loop listens.
    pub async fn keep(mut self) {
        loop {
            let Ok(epoch) = self.quiet.wait_for(Option::is_some).await.map(|epoch| *epoch) else { return };
            let Some(epoch) = epoch else { continue };
            self.look_on(epoch).await;
        }
    }

    /// Until that epoch's scheduler answers again, or another one's.
    async fn look_on(&mut self, epoch: u32) {
        let mut lease = LeaseWatch::default();
        while *self.quiet.borrow() == Some(epoch) && !self.events.is_closed() {
            let at = self.started.elapsed();
            let state = self.state.clone();
            // A file server may keep us waiting.
            let look = move || {
                let contact = state.read_contact();
                let is_ours = proves(&state, epoch, &mut lease, at);
                (contact, is_ours, lease)
            };
            let Ok((contact, is_ours, watched)) = tokio::task::spawn_blocking(look).await else { return };
            lease = watched;
            let is_down = matches!(contact, Ok(None));
            tell_newest(&self.newest, contact.ok().flatten().map_or(0, |contact| contact.epoch));
            if is_down {
                let _ = self.events.send(Incoming::Core(Event::BroughtDown));
            } else if is_ours {
                let at = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
                let _ = self.events.send(Incoming::Core(Event::NotGivenUp { at }));
            }
            let (fewest, most) = LOOKS;
            let wait = self.death_timeout / most
                + (self.death_timeout / fewest - self.death_timeout / most)
                    .mul_f64(crate::net::backoff::fraction());
            tokio::time::sleep(wait).await;
        }
    }
}

/// Notes the epoch of a contact file.
pub(super) fn tell_newest(newest: &watch::Sender<u32>, epoch: u32) {
    newest.send_if_modified(|known| {
        let is_newer = epoch > *known;
        *known = (*known).max(epoch);
        is_newer
    });
}

/// Whether nobody could act for the cluster at `at`, when this look began: no later epoch has been claimed, and this
/// one's scheduler is gone or has long been silent.
fn proves(state: &StateDir, epoch: u32, lease: &mut LeaseWatch, at: Duration) -> bool {
    let Ok(Some(seen)) = lease::look(state.path()) else { return false };
    let still = lease.observe(&seen, at) >= STILL;
    let is_silent = seen.epoch == epoch && (still || seen.released || seen.holder_is_gone());
    // The fence comes last: whoever claims later has waited for the lease as well.
    is_silent && matches!(epoch::look(state.path(), epoch), Ok(FenceState::Standing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Lease;

    #[test]
    fn only_a_silent_lease_under_a_standing_fence_proves_anything() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::create(home.path(), "c").unwrap();
        let held = epoch::claim(state.path(), "").unwrap();
        let (mut watch, second) = (LeaseWatch::default(), Duration::from_secs(1));
        assert!(!proves(&state, 1, &mut watch, second), "no lease was ever taken");
        let mut lease = Lease::take(state.path(), 1).unwrap();
        assert!(!proves(&state, 1, &mut watch, second));
        assert!(!proves(&state, 1, &mut watch, 20 * second), "only 19 s");
        assert!(proves(&state, 1, &mut watch, 21 * second));
        lease.beat().unwrap();
        assert!(!proves(&state, 1, &mut watch, 22 * second), "it lives");
        lease.release().unwrap();
        assert!(proves(&state, 1, &mut watch, 23 * second));
        assert!(!proves(&state, 2, &mut watch, 23 * second), "that is another's lease");
        epoch::claim(state.path(), "").unwrap();
        assert!(!proves(&state, 1, &mut watch, 60 * second), "a later epoch was claimed");
        drop(held);
    }
}
