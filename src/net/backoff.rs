//! How long to wait before the next try, so that many who lost the same peer don't come back at the same moment.

use std::time::Duration;

/// Waits that double from the first to the last, each with some jitter.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    pub const fn new(first: Duration, last: Duration) -> Backoff {
        Backoff { first, last, next: first }
    }

    /// It went well: the next wait is the first again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// From half to one and a half of the wait that is due.
    pub fn wait(&mut self) -> Duration {
        let due = self.next;
        self.next = (due * 2).min(self.last);
        due.mul_f64(0.5 + fraction())
    }
}

/// From 0 to 1, at random.
pub fn fraction() -> f64 {
    let mut byte = [0u8];
    // Without randomness everybody waits alike, which is no more than slow.
    let random = getrandom::fill(&mut byte).map_or(128, |()| byte[0]);
    f64::from(random) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_last_and_begin_anew() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 5 * second);
        for due in [1, 2, 4, 5, 5] {
            let wait = backoff.wait();
            assert!(wait >= due * second / 2 && wait <= due * second * 3 / 2, "{wait:?} for {due}");
        }
        backoff.reset();
        assert!(backoff.wait() <= second * 3 / 2);
    }
}
