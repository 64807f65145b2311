//! When a scheduler in a batch job asks for the job that relieves it, and when it lets go by itself. Pure.
//!
//! The successor takes over as soon as it starts. If it doesn't start in time, the holder lets go a little before its
//! walltime, so that the journal is whole and nobody has to wait for its lease to run out.

use std::time::Duration;

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

    #[test]
    fn failing_tries_become_rarer() {
        assert_eq!([0, 1, 2, 5, 6, 99].map(|n| pause(n).as_secs()), [1, 2, 4, 32, 60, 60]);
    }
}
