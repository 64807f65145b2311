//! A cluster that is nobody's but ours. Whoever takes its folder apart, repairs it, or begins a new life in it, holds the
//! right to launch, has seen by the lease that no scheduler lives, and fences what may only seem dead: then nobody meets
//! half of what is done, and nobody who was acknowledged something loses it.

use super::launch::{self, Patience, job};
use super::liveness::Liveness;
use super::up::{UpError, known};
use crate::state::launch::LaunchRight;
use crate::state::{Fence, Lease, StateDir, StateError, epoch, lease};

/// A cluster without a scheduler, as was seen under the right to launch one.
pub struct Rest {
    pub(super) right: LaunchRight,
    /// Its last epoch, which is over.
    pub(super) highest: Option<u32>,
}

/// An epoch of the cluster's, in which no scheduler is to be. To drop it is to let go.
pub struct Hold {
    state: StateDir,
    right: LaunchRight,
    keep: Keep,
}

/// What is given up when it is dropped.
struct Keep {
    fence: Fence,
    lease: Lease,
}

/// Waits for the right to launch, and looks whether the cluster is down.
///
/// # Errors
/// It isn't, or is coming up.
pub async fn at_rest(state: &StateDir, patience: Patience) -> Result<Rest, UpError> {
    let right = launch::right(state, patience).await?;
    match known(state, patience.waiting).await? {
        (_, Liveness::Down { highest }) if job::under_way(state)?.is_none() => Ok(Rest { right, highest }),
        (None, Liveness::Unreachable(error)) => Err(error.into()),
        _ => Err(UpError::CameUp { name: state.name().to_owned() }),
    }
}

impl Hold {
    /// Claims the next epoch. `why`, such as `repaired`, is kept in its file for people.
    ///
    /// # Errors
    /// Somebody else is taking over at this moment, or the state directory can't be used.
    pub fn take(state: &StateDir, rest: Rest, why: &str) -> Result<Hold, StateError> {
        let Rest { right, highest } = rest;
        let life = state.life()?;
        let ended = lease::sight(state.path())?.filter(|sight| sight.has_ended(&life));
        let ended = ended.and_then(|sight| sight.seen.ended);
        let note = format!("{why} by pid {}", std::process::id());
        let epoch = epoch::claim(state.path(), highest, &note)?;
        let lease = Lease::take_of(state.path(), epoch.number, ended)?;
        Ok(Hold { state: state.clone(), right, keep: Keep { fence: epoch.fence, lease } })
    }

    /// Ends the cluster's life: nothing goes on from it.
    ///
    /// # Errors
    /// It can't be written down.
    pub fn end(&mut self) -> Result<(), StateError> {
        self.keep.lease.end(&self.state.life()?)?;
        self.state.remove_contact(self.keep.fence.epoch())
    }

    /// Whether it still is ours.
    ///
    /// # Errors
    /// Somebody else has taken over, or that can't be seen.
    pub fn confirm(&self) -> Result<(), StateError> {
        self.keep.fence.check()
    }

    /// For whoever writes in this epoch's name.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn fence(&self) -> Result<Fence, StateError> {
        self.keep.fence.try_clone()
    }

    /// Lets go, so that whoever goes on needn't wait; the right to launch is kept.
    pub(super) fn let_go(self) -> Rest {
        Rest { right: self.right, highest: Some(self.keep.fence.epoch()) }
    }

    /// Removes the cluster's folder and all that is in it.
    ///
    /// # Errors
    /// It can't be removed, or somebody else has taken over.
    pub fn remove(self) -> Result<(), StateError> {
        self.confirm()?;
        self.state.clone().remove()
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        // A successor must not be told that we let go of what it holds.
        match self.fence.check().and_then(|()| self.lease.release()) {
            // Or the whole folder is gone.
            Err(error) if !error.is_superseded() => tracing::warn!("the lease is not released: {error}"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_was_seen_at_rest_and_is_held_by_another_now_is_left() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::create(&home.path().join("jobq"), "winds").unwrap();
        let patience = Patience::silent(|| ());
        let rest = at_rest(&state, patience).await.unwrap();
        let epoch = epoch::claim(state.path(), None, "").unwrap();
        assert!(matches!(Hold::take(&state, rest, "purged"), Err(StateError::LostClaim { epoch: 1 })));
        let mut lease = Lease::take(state.path(), epoch.number).unwrap();
        assert!(at_rest(&state, patience).await.is_err(), "it lives");
        lease.release().unwrap();
        assert!(at_rest(&state, patience).await.is_err(), "it may be resumed");
        lease.end("").unwrap();
        let hold = Hold::take(&state, at_rest(&state, patience).await.unwrap(), "purged").unwrap();
        assert!(epoch.fence.check().unwrap_err().is_superseded(), "what only seemed over is fenced");
        hold.confirm().unwrap();
        // Whoever died in the middle leaves it at rest.
        assert_eq!(hold.let_go().highest, Some(2));
        let hold = Hold::take(&state, at_rest(&state, patience).await.unwrap(), "purged").unwrap();
        hold.remove().unwrap();
        assert!(!state.path().exists());
    }
}
