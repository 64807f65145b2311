//! Whether a cluster's scheduler lives.

use crate::client::{Client, ClientError};
use crate::journal;
use crate::net::Transport;
use crate::protocol::Counts;
use crate::scheduler::core::{Core, CoreConfig};
use crate::scheduler::event::{JournalSeq, Time};
use crate::scheduler::record::Record;
use crate::state::{Contact, LeaseWatch, StateDir, lease};
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
    Dead(Contact),
    /// Its scheduler may live, but can't be reached.
    Unreachable(ClientError),
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
            let seen = lease::look(state.path())?;
            let gone = seen.is_none_or(|seen| seen.released || seen.holder_is_gone());
            Ok(if gone { Liveness::Dead(contact) } else { Liveness::Unreachable(error) })
        }
    }
}

/// The same, but where the scheduler can't be reached and its process can't be looked at from here (another host, or
/// this one since a reboot), watches the lease until it has stood still long enough. `waiting` is called before that.
///
/// # Errors
/// The state directory can't be read.
pub async fn look_patiently(
    state: &StateDir,
    transport: &Transport,
    waiting: impl FnOnce(),
) -> Result<Liveness, ClientError> {
    let first = Instant::now();
    let (contact, seen) = loop {
        let unreachable = match look(state, transport).await? {
            Liveness::Unreachable(error) => error,
            other => return Ok(other),
        };
        let (Some(contact), Some(seen)) = (state.read_contact()?, lease::look(state.path())?) else {
            return Ok(Liveness::Down);
        };
        if seen.holder.liveness() != lease::Liveness::Alive {
            break (contact, seen);
        }
        if first.elapsed() > LAST_BREATH {
            return Ok(Liveness::Unreachable(unreachable));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    waiting();
    let (started, mut watch) = (Instant::now(), LeaseWatch::default());
    watch.may_claim(&seen, started.elapsed());
    loop {
        tokio::time::sleep(lease::BEAT_EVERY / 5).await;
        let Some(now) = lease::look(state.path())? else { return Ok(Liveness::Down) };
        if now.counter != seen.counter || now.epoch != seen.epoch {
            // It lives; perhaps it can be reached now.
            return look(state, transport).await;
        }
        if watch.may_claim(&now, started.elapsed()) {
            return Ok(Liveness::Dead(contact));
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

/// Folds the journal of a cluster that is at rest.
///
/// # Errors
/// It can't be read.
pub fn remains(state: &StateDir) -> Result<Remains, journal::JournalError> {
    let mut records = Vec::new();
    let mut unreadable = 0u64;
    let history = journal::read_all(&state.journal_dir(), |record| {
        match rmp_serde::from_slice::<Record>(record.body) {
            Ok(record) => records.push(record),
            Err(_) => unreadable += 1,
        }
    })?;
    let mut damage = history.damage.map_or(String::new(), |damage| damage.to_string());
    if unreadable > 0 {
        damage = format!("{unreadable} records are of another version");
    }
    let core = Core::replay(CoreConfig::default(), Time::default(), records, JournalSeq(history.next_seq));
    let report = core.status();
    Ok(Remains { graphs: report.graphs, counts: report.counts, damage })
}
