//! Whether a cluster's scheduler lives.

use crate::client::{Client, ClientError};
use crate::net::Transport;
use crate::protocol::Counts;
use crate::scheduler::core::{CoreConfig, Replay};
use crate::scheduler::event::{JournalSeq, Time};
use crate::scheduler::shell::past::{self, PastError};
use crate::state::lease::Standstill;
use crate::state::{Contact, LeaseWatch, StateDir, epoch, lease};
use std::time::{Duration, Instant};

/// For a process that can't be reached because it is just coming to its end.
const LAST_BREATH: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a look at a cluster shows.
pub enum Liveness {
    Alive(Box<Client>),
    /// Never up, or brought down in order.
    Down,
    /// Its scheduler ended without bringing it down.
    Dead(Dead),
    /// Its scheduler may live, but can't be reached.
    Unreachable(ClientError),
}

/// A scheduler that is surely dead, or so silent that another one may take over.
pub struct Dead {
    pub contact: Contact,
    /// The last epoch, which is over.
    pub highest: Option<u32>,
    /// Its lease, where that was watched standing still for long enough.
    pub stood_still: Option<Standstill>,
}

/// Looks at the contact file, tries to connect, and if that fails asks the lease whether its holder is gone.
///
/// # Errors
/// The state directory can't be read.
pub async fn look(state: &StateDir, transport: &Transport) -> Result<Liveness, ClientError> {
    let Some(contact) = state.read_contact()? else { return Ok(Liveness::Down) };
    match Client::connect(state.clone(), transport.clone()).await {
        Ok(client) => Ok(Liveness::Alive(Box::new(client))),
        Err(ClientError::NotUp { .. }) => Ok(Liveness::Down),
        Err(error) => {
            let highest = epoch::highest(state.path())?;
            Ok(match lease::sight(state.path())? {
                Some(sight) if !sight.is_over() => Liveness::Unreachable(error),
                _ => Liveness::Dead(Dead { contact, highest, stood_still: None }),
            })
        }
    }
}

/// The same, but where the scheduler can't be reached and isn't surely gone (it is on another host, or hangs), watches
/// the lease until it has moved, or has stood still for long enough. `waiting` is called before that.
///
/// # Errors
/// The state directory can't be read.
pub async fn look_patiently(
    state: &StateDir,
    transport: &Transport,
    waiting: impl FnOnce(),
) -> Result<Liveness, ClientError> {
    let began = Instant::now();
    let (contact, first, unreachable) = loop {
        let unreachable = match look(state, transport).await? {
            Liveness::Unreachable(error) => error,
            other => return Ok(other),
        };
        let (Some(contact), Some(sight)) = (state.read_contact()?, lease::sight(state.path())?) else {
            return Ok(Liveness::Down);
        };
        if sight.seen.holder.liveness() != lease::Liveness::Alive || began.elapsed() > LAST_BREATH {
            break (contact, sight, unreachable);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    waiting();
    let (started, mut watch) = (Instant::now(), LeaseWatch::default());
    watch.may_claim(&first, started.elapsed());
    loop {
        tokio::time::sleep(lease::BEAT_EVERY / 5).await;
        let Some(sight) = lease::sight(state.path())? else { return Ok(Liveness::Down) };
        let seen = &sight.seen;
        if watch.may_claim(&sight, started.elapsed()) {
            let stood_still = watch.standstill(seen, started.elapsed());
            return Ok(Liveness::Dead(Dead { contact, highest: sight.highest, stood_still }));
        }
        if seen.epoch != first.seen.epoch {
            // Another one has taken over.
            return look(state, transport).await;
        }
        if seen.counter != first.seen.counter {
            // It lives. Perhaps it was only too busy to answer.
            return Ok(match look(state, transport).await? {
                Liveness::Unreachable(_) => Liveness::Unreachable(unreachable),
                other => other,
            });
        }
    }
}

/// What a dead cluster's journal knows of its work.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remains {
    pub graphs: u32,
    pub counts: Counts,
    /// What of the journal itself can't be read; empty: nothing.
    pub damage: String,
}

/// Folds the journal of a cluster that is at rest, as far as it can be read.
///
/// # Errors
/// It can't be read at all.
pub fn remains(state: &StateDir) -> Result<Remains, PastError> {
    let mut replay = Replay::new(CoreConfig::default(), Time::default());
    let (last, damage) = match past::read(state, |record| replay.apply(record)) {
        Ok(history) => (history.next_seq, history.damage.map_or(String::new(), |damage| damage.to_string())),
        Err(error @ PastError::Record { .. }) => (1, error.to_string()),
        Err(error) => return Err(error),
    };
    Ok(match replay.finish(JournalSeq(last)) {
        Ok(core) => {
            let report = core.status();
            Remains { graphs: report.graphs, counts: report.counts, damage }
        }
        Err(error) => Remains { damage: error.to_string(), ..Remains::default() },
    })
}
