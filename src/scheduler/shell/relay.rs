//! The holder's side of a relay: when it asks for its successor, and who may relieve it.

use super::own_job::OwnJob;
use crate::protocol::{AllocationId, FromClient, Request};
use crate::scheduler::event::{AllocationStatus, Event, PeerId, SubmitOutcome};
use crate::scheduler::relay::{pause, plan};
use crate::scheduler::walltime::unix_now;
use crate::state::{Outcome, StateDir, intent};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// Have the successor's job submitted.
    Ask,
    /// The walltime is nearly over: let go, whoever comes next.
    LetGo,
}

/// Whoever relieves this scheduler.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Successor {
    pub peer: PeerId,
    pub call: u64,
    pub addresses: Vec<String>,
}

/// See the module's documentation. One without a job, or whose job has no end, never has anything due.
#[derive(Default)]
pub(super) struct Relay {
    ask_at: Option<Instant>,
    let_go_at: Option<Instant>,
    failures: u32,
    /// A successor was asked for, and may be in the queue.
    pub awaited: bool,
}

impl Relay {
    pub fn new(job: Option<&OwnJob>, now: Instant) -> Relay {
        let Some(job) = job.filter(|job| job.ends_unix > 0) else { return Relay::default() };
        let left = Duration::from_secs(job.ends_unix.saturating_sub(unix_now()));
        let plan = plan(left, job.waited);
        info!(
            "in job {}, whose walltime ends in {} s; its successor is asked for in {} s",
            job.id,
            left.as_secs(),
            plan.ask_in.as_secs()
        );
        Relay {
            ask_at: Some(now + plan.ask_in),
            let_go_at: Some(now + plan.let_go_in),
            failures: 0,
            awaited: false,
        }
    }

    /// When [`Relay::due`] has something next.
    pub fn deadline(&self) -> Option<Instant> {
        self.ask_at.into_iter().chain(self.let_go_at).min()
    }

    pub fn due(&mut self, now: Instant) -> Option<Due> {
        if self.let_go_at.is_some_and(|at| at <= now) {
            return Some(Due::LetGo);
        }
        self.ask_at.take_if(|at| *at <= now)?;
        self.awaited = true;
        Some(Due::Ask)
    }

    /// What the batch system says of the successor's job.
    pub fn hear(&mut self, event: &Event, successor: AllocationId, now: Instant) {
        match event {
            // One that is in doubt may come all the same: two are no harm, since only one can take over.
            Event::Submitted {
                allocation,
                outcome: SubmitOutcome::Refused { words, .. } | SubmitOutcome::Ambiguous { words },
            } if *allocation == successor => self.failed(words, now),
            Event::Polled(statuses) => {
                for (allocation, _, status) in statuses {
                    if let AllocationStatus::Ended { words, .. } = status
                        && *allocation == successor
                    {
                        self.failed(words, now);
                    }
                }
            }
            _ => {}
        }
    }

    fn failed(&mut self, words: &str, now: Instant) {
        let pause = pause(self.failures);
        warn!("the successor's job came to nothing, another is asked for in {} s: {words}", pause.as_secs());
        self.failures += 1;
        self.awaited = false;
        self.ask_at = Some(now + pause);
    }
}

/// Takes out of a client's messages the wish to relieve this scheduler.
pub(super) fn wish(peer: PeerId, messages: &mut Vec<FromClient>) -> Option<(Successor, String)> {
    let at = messages.iter().position(|message| matches!(message.request, Request::Relieve { .. }))?;
    let FromClient { call, request } = messages.remove(at);
    let Request::Relieve { job_name, addresses } = request else { return None };
    Some((Successor { peer, call, addresses }, job_name))
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

    const SUCCESSOR: AllocationId = AllocationId(0);

    fn relay(ends_unix: u64, now: Instant) -> Relay {
        let job = OwnJob {
            id: "7".into(),
            name: "jq3f3f3f0".into(),
            log: "/log".into(),
            asked_by: 0,
            ends_unix,
            waited: Duration::ZERO,
        };
        Relay::new(Some(&job), now)
    }

    fn after(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn a_successor_is_asked_for_once_and_the_end_comes_before_the_walltime() {
        let now = Instant::now();
        let mut relay = relay(unix_now() + 3600, now);
        assert_eq!(relay.due(after(now, 2900)), None);
        assert_eq!((relay.due(after(now, 3001)), relay.awaited), (Some(Due::Ask), true));
        assert_eq!(relay.due(after(now, 3400)), None, "it is in the queue");
        assert_eq!(relay.due(after(now, 3571)), Some(Due::LetGo));
    }

    #[test]
    fn what_came_to_nothing_is_asked_for_again() {
        let now = Instant::now();
        let mut relay = relay(unix_now() + 3600, now);
        assert_eq!(relay.due(after(now, 3001)), Some(Due::Ask));
        let refused = SubmitOutcome::Refused { words: "no".into(), fatal: true, exit_code: 78 };
        relay.hear(&Event::Submitted { allocation: SUCCESSOR, outcome: refused }, SUCCESSOR, now);
        assert!(!relay.awaited);
        assert_eq!(relay.due(after(now, 2)), Some(Due::Ask));
        let ended = AllocationStatus::Ended { words: "cancelled".into(), confirmed: true, blameless: false };
        let others = (AllocationId(3), "4".to_owned(), ended.clone());
        relay.hear(&Event::Polled(vec![others]), SUCCESSOR, now);
        assert!(relay.awaited, "another job's end is none of it");
        let own = (SUCCESSOR, "9".to_owned(), ended);
        relay.hear(&Event::Polled(vec![own]), SUCCESSOR, now);
        assert_eq!((relay.due(after(now, 1)), relay.due(after(now, 3))), (None, Some(Due::Ask)));
    }

    #[test]
    fn without_a_job_or_an_end_of_it_nothing_is_ever_due() {
        let now = Instant::now();
        assert_eq!(Relay::new(None, now).deadline(), None);
        assert_eq!(relay(0, now).due(after(now, 1_000_000)), None);
    }

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
}
