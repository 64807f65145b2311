//! A client goes on when its scheduler doesn't: it finds the next one, or has it started.

use super::{Client, ClientError, Link, is_patient, open, open_at};
use crate::net::Backoff;
use crate::protocol::{Counts, Reply, Request};
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// For coming back to a scheduler whose link broke.
const RECONNECT_FOR: Duration = Duration::from_secs(30);
/// Whoever waits for tasks has more patience: a successor may have to wait in a queue.
const FOLLOW_FOR: Duration = Duration::from_secs(3600);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(5);
/// Links that break before the scheduler ever said a word: it doesn't take us for one of its own.
const UNANSWERED_TRIES: u32 = 3;
const TURNED_AWAY_WITHIN: Duration = Duration::from_secs(2);

/// What came of a try to start a scheduler in a dead one's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revival {
    /// One is there: this one's, or somebody else's.
    Alive,
    /// The old one lives, as far as can be told, and can't be reached.
    Unreachable,
}

/// Starts another scheduler where one has died.
pub trait Revive: Send + Sync {
    /// # Errors
    /// It can't be started, or the cluster is not up any more.
    fn revive(&self) -> Pin<Box<dyn Future<Output = Result<Revival, ClientError>> + Send + '_>>;
}

impl Client {
    pub(super) async fn call_with_progress(
        &mut self,
        request: Request,
        mut progress: impl FnMut(&Counts),
    ) -> Result<Reply, ClientError> {
        let patience = if is_patient(&request) { FOLLOW_FOR } else { RECONNECT_FOR };
        let mut broken_since: Option<Instant> = None;
        let mut breaks = 0;
        loop {
            let began = Instant::now();
            let error = match self.once(&request, &mut progress).await {
                Ok(Reply::Refused { kind, reason }) => return Err(ClientError::Refused { kind, reason }),
                Ok(reply) => return Ok(reply),
                Err(error @ (ClientError::Link(_) | ClientError::Silent { .. })) => error,
                Err(error) => return Err(error),
            };
            if began.elapsed() > RECONNECT_FOR && matches!(error, ClientError::Link(_)) {
                // The link held for long: this is another trouble than the last.
                (broken_since, breaks) = (None, 0);
            }
            let since = *broken_since.get_or_insert(began);
            breaks += 1;
            // Who isn't taken for a client is turned away at once.
            self.answered |= began.elapsed() > TURNED_AWAY_WITHIN;
            let refused = !self.answered && breaks >= UNANSWERED_TRIES;
            let silent = matches!(error, ClientError::Silent { .. }) && breaks > 1;
            let over = matches!(request, Request::Down { .. });
            if over || refused || silent || (breaks > 1 && since.elapsed() > patience) {
                return Err(error);
            }
            self.link = self.follow(Instant::now() + patience, breaks > 1).await?;
        }
    }

    /// A link to whoever is the scheduler now. `wait`: not at once.
    async fn follow(&mut self, until: Instant, wait: bool) -> Result<Link, ClientError> {
        let moved = std::mem::take(&mut self.moved);
        if !moved.is_empty()
            && let Ok(link) = open_at(&self.home, &self.transport, &moved, String::new()).await
        {
            return Ok(link);
        }
        let mut backoff = Backoff::new(FIRST_WAIT, LAST_WAIT);
        let mut wait = wait;
        loop {
            if wait {
                tokio::time::sleep(backoff.wait()).await;
            }
            wait = true;
            let error = match open(&self.home, &self.transport).await {
                Ok((link, life)) if life == self.life => return Ok(link),
                Ok(_) => return Err(ClientError::AnotherLife { name: self.home.name().to_owned() }),
                // Brought down on purpose: nothing to wait for.
                Err(error @ ClientError::NotUp { .. }) => return Err(error),
                Err(error) => error,
            };
            let revival = match &self.reviver {
                Some(reviver) => reviver.revive().await?,
                None => Revival::Unreachable,
            };
            match revival {
                _ if Instant::now() > until => return Err(error),
                Revival::Alive => wait = false,
                Revival::Unreachable => {}
            }
        }
    }
}
