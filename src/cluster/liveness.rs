//! Whether a cluster's scheduler lives.

use crate::client::{Client, ClientError};
use crate::net::Transport;
use crate::protocol::Counts;
use crate::scheduler::core::{CoreConfig, Replay};
use crate::scheduler::event::{JournalSeq, Time};
use crate::scheduler::shell::own_job;
use crate::scheduler::shell::past::{self, PastError};
use crate::scheduler::spec::ClusterSpec;
use crate::state::lease::{Seen, Sight, Standstill};
use crate::state::{Contact, LeaseWatch, StateDir, StateError, epoch, lease};
use std::time::{Duration, Instant};

/// For a process that can't be reached because it is just coming to its end.
const LAST_BREATH: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a look at a cluster shows.
pub enum Liveness {
    Alive(Box<Client>),
    /// Never up, or brought down in order. With the last epoch, which is over.
    Down {
        highest: Option<u32>,
    },
    /// Its scheduler ended without bringing it down.
    Dead(Dead),
    /// Its scheduler may live, but can't be reached.
    Unreachable(ClientError),
}

/// A scheduler that is surely dead, or so silent that another one may take over.
pub struct Dead {
    pub last: Last,
    /// The last epoch, which is over.
    pub highest: Option<u32>,
    /// Its lease, where that was watched standing still for long enough.
    pub stood_still: Option<Standstill>,
}

/// The last scheduler, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Last {
    pub epoch: u32,
    pub pid: u32,
    pub host: String,
}

impl Last {
    fn of(contact: Option<Contact>, seen: Option<&Seen>) -> Last {
        let of_lease = |seen: &Seen| (seen.epoch, seen.holder.pid, seen.holder.host.clone());
        let told = contact.map(|contact| (contact.epoch, contact.pid, contact.host));
        let (epoch, pid, host) = told.or_else(|| seen.map(of_lease)).unwrap_or((0, 0, "?".to_owned()));
        Last { epoch, pid, host }
    }
}

/// Tries to connect to where the contact file says, and if that fails asks the lease: whether its holder is gone, and
/// whether the cluster was brought down. That there is no contact file proves neither.
///
/// # Errors
/// The state directory can't be read.
pub async fn look(state: &StateDir, transport: &Transport) -> Result<Liveness, ClientError> {
    let contact = state.sound_contact()?;
    let unreachable = match &contact {
        None => ClientError::NotUp { name: state.name().to_owned() },
        Some(_) => match Client::connect(state.clone(), transport.clone()).await {
            Ok(client) => return Ok(Liveness::Alive(Box::new(client))),
            Err(error) => error,
        },
    };
    Ok(by_lease(state, contact, unreachable)?)
}

/// The same of a cluster of which it isn't known what it was asked to be.
///
/// # Errors
/// The state directory can't be read.
pub fn look_without_spec(state: &StateDir) -> Result<Liveness, StateError> {
    let reason =
        "it is missing, though the cluster was not brought down: its scheduler puts it back if it lives";
    let missing = StateError::Malformed { path: state.cluster_path(), reason: reason.to_owned() };
    by_lease(state, state.sound_contact()?, missing.into())
}

fn by_lease(
    state: &StateDir,
    contact: Option<Contact>,
    unreachable: ClientError,
) -> Result<Liveness, StateError> {
    let highest = epoch::highest(state.path())?;
    Ok(match lease::sight(state.path())? {
        None if contact.is_none() => Liveness::Down { highest },
        None => Liveness::Dead(Dead { last: Last::of(contact, None), highest, stood_still: None }),
        Some(sight) if !sight.is_over() => Liveness::Unreachable(unreachable),
        Some(sight) => return over(state, contact, &sight, None),
    })
}

/// Looks until there is an answer, or a process that just comes to its end has had its time.
async fn look_for_a_while(state: &StateDir, transport: &Transport) -> Result<Liveness, ClientError> {
    let began = Instant::now();
    loop {
        match look(state, transport).await? {
            Liveness::Unreachable(_) if began.elapsed() <= LAST_BREATH => {
                tokio::time::sleep(LOOK_AGAIN).await
            }
            other => return Ok(other),
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
    spec: &ClusterSpec,
    transport: &Transport,
    waiting: impl FnOnce(),
) -> Result<Liveness, ClientError> {
    let unreachable = match look_for_a_while(state, transport).await? {
        Liveness::Unreachable(error) => error,
        other => return Ok(other),
    };
    let contact = state.sound_contact()?;
    let Some(first) = lease::sight(state.path())? else { return look(state, transport).await };
    let is_of_holder = |contact: &&Contact| first.is_of_last() && contact.epoch == first.seen.epoch;
    if let Some(contact) = contact.as_ref().filter(is_of_holder)
        && own_job::is_over(state, spec, contact).await
    {
        return over(state, Some(contact.clone()), &first, None);
    }
    waiting();
    let (started, mut watch) = (Instant::now(), LeaseWatch::default());
    watch.may_claim(&first, started.elapsed());
    loop {
        tokio::time::sleep(lease::BEAT_EVERY / 5).await;
        let Some(sight) = lease::sight(state.path())? else { return look(state, transport).await };
        let seen = &sight.seen;
        if watch.may_claim(&sight, started.elapsed()) {
            let stood_still = watch.standstill(seen, started.elapsed());
            return over(state, contact, &sight, stood_still);
        }
        if seen.epoch != first.seen.epoch {
            // Another one has taken over.
            return look(state, transport).await;
        }
        if seen.counter != first.seen.counter {
            // It lives. Perhaps it was only too busy to answer, or puts right at this moment where it is.
            let answer = look_for_a_while(state, transport).await?;
            let has_told = state.sound_contact()?.is_some_and(|contact| contact.epoch >= seen.epoch);
            if matches!(answer, Liveness::Unreachable(_))
                && !has_told
                && started.elapsed() < lease::CLAIM_AFTER
            {
                continue;
            }
            return Ok(match answer {
                Liveness::Unreachable(_) => Liveness::Unreachable(unreachable),
                other => other,
            });
        }
    }
}

/// Its holder is over, in order or not.
fn over<E: From<StateError>>(
    state: &StateDir,
    contact: Option<Contact>,
    sight: &Sight,
    stood_still: Option<Standstill>,
) -> Result<Liveness, E> {
    let highest = sight.highest;
    if sight.has_ended(&state.life()?) {
        return Ok(Liveness::Down { highest });
    }
    Ok(Liveness::Dead(Dead { last: Last::of(contact, Some(&sight.seen)), highest, stood_still }))
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
