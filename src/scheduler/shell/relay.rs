//! What the holder of a relay knows of its own job, and who may relieve it.

use super::own_job::OwnJob;
use crate::scheduler::event::Time;
use crate::scheduler::relay::{Relay, plan};
use crate::scheduler::walltime::unix_now;
use crate::state::{Outcome, StateDir, intent};
use std::time::Duration;
use tracing::{info, warn};

/// The relay of a scheduler in that job. One without a job, or whose job has no end, is never relieved.
pub(super) fn relay_of(job: Option<&OwnJob>, now: Time) -> Relay {
    let Some(job) = job.filter(|job| job.ends_unix > 0) else { return Relay::default() };
    let left = Duration::from_secs(job.ends_unix.saturating_sub(unix_now()));
    let plan = plan(left, job.waited);
    info!(
        "in job {}, whose walltime ends in {} s; its successor is asked for in {} s",
        job.id,
        left.as_secs(),
        plan.ask_in.as_secs()
    );
    Relay::new(plan, now)
}

/// Whether the job of that name is the successor of this epoch's scheduler: its intent says so, and is on disk before
/// the job can start.
pub(super) fn admits(state: &StateDir, epoch: u32, job_name: &str) -> bool {
    match intent::read(&state.intents_dir(), job_name) {
        Ok(Some(intent)) => {
            let wanted = !matches!(intent.outcome, Outcome::Unwanted { .. } | Outcome::Ended { .. });
            wanted && intent.epoch == epoch && intent.purpose == intent::SCHEDULER
        }
        Ok(None) => false,
        Err(error) => {
            warn!("{error}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ClusterId, Intents};
    use std::path::PathBuf;

    #[test]
    fn only_a_job_that_this_epoch_asked_for_may_relieve_it() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::create(home.path(), "c").unwrap();
        let mut intents = Intents::open(&state.intents_dir(), ClusterId([0x3f; 16])).unwrap();
        let mut intend = |epoch, purpose| intents.intend(epoch, purpose).unwrap().name;
        let (ours, older, worker) =
            (intend(3, intent::SCHEDULER), intend(2, intent::SCHEDULER), intend(3, "a1"));
        assert!(admits(&state, 3, &ours));
        for other in [older.as_str(), &worker, "jq3f3f3fz", "../../etc"] {
            assert!(!admits(&state, 3, other), "{other}");
        }
        intents.settle(&ours, Outcome::Unwanted { job: None }).unwrap();
        assert!(!admits(&state, 3, &ours));
    }

    #[test]
    fn only_a_job_that_ends_is_relieved() {
        let job = |ends_unix| OwnJob {
            id: "7".into(),
            name: "jq3f3f3f0".into(),
            log: PathBuf::from("/log"),
            asked_by: 0,
            ends_unix,
            waited: Duration::ZERO,
        };
        let deadline = |job: Option<OwnJob>| relay_of(job.as_ref(), Time(0)).deadline();
        assert_eq!((deadline(None), deadline(Some(job(0)))), (None, None));
        assert!(deadline(Some(job(unix_now() + 3600))).is_some());
    }
}
