//! The holder's side of a relay, pure: when a scheduler in a batch job asks for the job that relieves it, who may
//! relieve it, and when it lets go by itself.
//!
//! The successor takes over as soon as it starts. If it doesn't start in time, the holder lets go a little before its
//! walltime, so that the journal is whole and nobody has to wait for its lease to run out.

use super::event::{AllocationStatus, Event, PeerId, SubmitOutcome, Time};
use crate::protocol::{AllocationId, FromClient, Request};
use std::time::Duration;

/// Stands for the job that relieves a scheduler: allocations are numbered from 1.
pub const SUCCESSOR: AllocationId = AllocationId(0);

/// The least time that a successor is given to start in, where the walltime has it to spare: queues that were empty
/// fill up.
const LEAST_LEAD: Duration = Duration::from_secs(600);
/// Waits grow: the last one is no promise.
const WAITS: u32 = 2;
/// Before the walltime, for the last records and words: batch systems end jobs a little early or late.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// Between two tries to get a successor into the queue.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// What to do, counted from now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    pub ask_in: Duration,
    pub let_go_in: Duration,
}

/// For a scheduler whose walltime has `left`, and whose own job `waited` in the queue. At most half of what is left
/// is lead: else a slow queue would hold a job for a successor all the time.
#[must_use]
pub fn plan(left: Duration, waited: Duration) -> Plan {
    let lead = LEAST_LEAD.max(waited.saturating_mul(WAITS)).min(left / 2);
    Plan { ask_in: left - lead, let_go_in: left - LAST_WORDS.min(left / 8) }
}

/// Before the next try, after so many that failed.
#[must_use]
pub fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LAST_PAUSE)
}

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Have the successor's job submitted.
    Ask,
    /// The walltime is nearly over: let go, whoever comes next.
    LetGo,
}

/// Whoever relieves this scheduler.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Successor {
    pub peer: PeerId,
    pub call: u64,
    pub addresses: Vec<String>,
}

/// See the module's documentation. One without a job, or whose job has no end, never has anything due.
#[derive(Default)]
pub struct Relay {
    ask_at: Option<Time>,
    let_go_at: Option<Time>,
    failures: u32,
    /// A successor was asked for, and may be in the queue.
    pub awaited: bool,
}

impl Relay {
    /// For a scheduler whose job ends when that plan says.
    #[must_use]
    pub fn new(plan: Plan, now: Time) -> Relay {
        let Plan { ask_in, let_go_in } = plan;
        Relay {
            ask_at: Some(now.plus(ask_in)),
            let_go_at: Some(now.plus(let_go_in)),
            failures: 0,
            awaited: false,
        }
    }

    /// When [`Relay::due`] has something next.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.ask_at.into_iter().chain(self.let_go_at).min()
    }

    /// What is due now. That the walltime is nearly over is said for as long as it is so.
    pub fn due(&mut self, now: Time) -> Option<Due> {
        if self.let_go_at.is_some_and(|at| at <= now) {
            return Some(Due::LetGo);
        }
        self.ask_at.take_if(|at| *at <= now)?;
        self.awaited = true;
        Some(Due::Ask)
    }

    /// What the batch system says of the successor's job. Returns the time until another one is asked for, and the
    /// reason, if it came to nothing.
    pub fn hear(&mut self, event: &Event, now: Time) -> Option<(Duration, String)> {
        match event {
            // One that is in doubt may come all the same: two are no harm, since only one can take over.
            Event::Submitted {
                allocation: SUCCESSOR,
                outcome: SubmitOutcome::Refused { words, .. } | SubmitOutcome::Ambiguous { words },
            } => Some(self.failed(words, now)),
            Event::Polled(statuses) => statuses.iter().find_map(|(allocation, _, status)| match status {
                AllocationStatus::Ended { words, .. } if *allocation == SUCCESSOR => {
                    Some(self.failed(words, now))
                }
                _ => None,
            }),
            _ => None,
        }
    }

    fn failed(&mut self, words: &str, now: Time) -> (Duration, String) {
        let pause = pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.awaited = false;
        self.ask_at = Some(now.plus(pause));
        (pause, words.to_owned())
    }
}

/// Takes out of a client's messages the wish to relieve this scheduler, with the name of the job that wishes it.
pub fn wish(peer: PeerId, messages: &mut Vec<FromClient>) -> Option<(Successor, String)> {
    let at = messages.iter().position(|message| matches!(message.request, Request::Relieve { .. }))?;
    let FromClient { call, request } = messages.remove(at);
    let Request::Relieve { job_name, addresses } = request else { return None };
    Some((Successor { peer, call, addresses }, job_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_successor_is_asked_for_early_enough_and_never_all_the_time() {
        let ask = |left: Duration, waited: Duration| left - plan(left, waited).ask_in;
        assert_eq!(ask(60 * MINUTE, Duration::ZERO), 10 * MINUTE);
        assert_eq!(ask(60 * MINUTE, 12 * MINUTE), 24 * MINUTE, "as the queue was");
        assert_eq!(ask(60 * MINUTE, 600 * MINUTE), 30 * MINUTE, "but no more than half");
        assert_eq!(ask(MINUTE, Duration::ZERO), MINUTE / 2);
        assert_eq!(ask(Duration::ZERO, MINUTE), Duration::ZERO);
    }

    #[test]
    fn it_lets_go_before_the_end_and_after_it_has_asked() {
        for seconds in [0, 1, 4, 60, 3600, 604_800] {
            let left = Duration::from_secs(seconds);
            let plan = plan(left, MINUTE);
            assert!(plan.ask_in <= plan.let_go_in && plan.let_go_in <= left, "{left:?}: {plan:?}");
        }
        assert_eq!(plan(60 * MINUTE, MINUTE).let_go_in, 60 * MINUTE - LAST_WORDS);
    }

    /// Of a job of an hour, in an empty queue.
    fn relay() -> Relay {
        Relay::new(plan(60 * MINUTE, Duration::ZERO), Time(0))
    }

    #[test]
    fn a_successor_is_asked_for_once_and_the_end_comes_before_the_walltime() {
        let mut relay = relay();
        assert_eq!(relay.due(Time::from_secs(2900)), None);
        assert_eq!((relay.due(Time::from_secs(3001)), relay.awaited), (Some(Due::Ask), true));
        assert_eq!(relay.due(Time::from_secs(3400)), None, "it is in the queue");
        assert_eq!(relay.due(Time::from_secs(3571)), Some(Due::LetGo));
    }

    #[test]
    fn what_came_to_nothing_is_asked_for_again() {
        let (mut relay, now) = (relay(), Time::from_secs(3001));
        assert_eq!(relay.due(now), Some(Due::Ask));
        let refused = SubmitOutcome::Refused { words: "no".into(), fatal: true, exit_code: 78 };
        let heard = relay.hear(&Event::Submitted { allocation: SUCCESSOR, outcome: refused }, now);
        assert_eq!((heard, relay.awaited), (Some((Duration::from_secs(1), "no".into())), false));
        assert_eq!(relay.due(Time::from_secs(3002)), Some(Due::Ask));
        let ended = AllocationStatus::Ended { words: "cancelled".into(), confirmed: true, blameless: false };
        let others = (AllocationId(3), "4".to_owned(), ended.clone());
        assert_eq!(relay.hear(&Event::Polled(vec![others]), now), None);
        assert!(relay.awaited, "another job's end is none of it");
        relay.hear(&Event::Polled(vec![(SUCCESSOR, "9".to_owned(), ended)]), Time::from_secs(3003));
        let again = [3004, 3005].map(|second| relay.due(Time::from_secs(second)));
        assert_eq!(again, [None, Some(Due::Ask)]);
    }

    #[test]
    fn without_a_job_or_an_end_of_it_nothing_is_ever_due() {
        let mut relay = Relay::default();
        assert_eq!((relay.deadline(), relay.due(Time(u64::MAX))), (None, None));
    }

    #[test]
    fn failing_tries_become_rarer() {
        assert_eq!([0, 1, 2, 5, 6, 99].map(|n| pause(n).as_secs()), [1, 2, 4, 32, 60, 60]);
    }
}
