//! One timer for a loop that looks at its next deadline at every turn: setting up another each time would cost more
//! than most turns.

use std::pin::Pin;
use tokio::time::{Instant, Sleep};

/// Rings at one instant at a time.
pub struct Alarm {
    sleep: Pin<Box<Sleep>>,
    at: Option<Instant>,
}

impl Alarm {
    /// One that isn't set. Call it within a runtime.
    pub fn new() -> Alarm {
        Alarm { sleep: Box::pin(tokio::time::sleep_until(Instant::now())), at: None }
    }

    /// Sets it, or turns it off.
    pub fn set(&mut self, at: Option<Instant>) {
        if let Some(at) = at.filter(|at| Some(*at) != self.at) {
            self.sleep.as_mut().reset(at);
        }
        self.at = at;
    }

    /// Returns when it rings, never if it isn't set. Cancel safe.
    pub async fn rings(&mut self) {
        match self.at {
            Some(_) => self.sleep.as_mut().await,
            None => std::future::pending().await,
        }
        self.at = None;
    }
}

impl Default for Alarm {
    fn default() -> Alarm {
        Alarm::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn it_rings_once_for_each_time_that_it_is_set() {
        let mut alarm = Alarm::new();
        let now = Instant::now();
        for at in [now, now, now + Duration::from_millis(1)] {
            alarm.set(Some(at));
            alarm.rings().await;
            assert!(Instant::now() >= at && alarm.at.is_none());
        }
    }

    #[tokio::test]
    async fn the_last_setting_counts() {
        let mut alarm = Alarm::new();
        alarm.set(Some(Instant::now() + Duration::from_secs(3600)));
        alarm.set(Some(Instant::now()));
        alarm.rings().await;
        alarm.set(Some(Instant::now()));
        alarm.set(None);
        tokio::select! {
            biased;
            () = alarm.rings() => panic!("it was turned off"),
            () = tokio::task::yield_now() => {}
        }
    }
}
