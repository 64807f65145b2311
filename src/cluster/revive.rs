//! A scheduler that died is replaced by another one, which goes on from its journal.

use super::launch::{self, Beginning, LaunchError, Patience, job};
use super::liveness::{Dead, Last, Liveness, look_without_spec};
use super::up::{UpError, identity_of, our_turn, status};
use crate::client::{Client, ClientError, Revival, Revive};
use crate::net::Transport;
use crate::protocol::StatusReport;
use crate::scheduler::spec::ClusterSpec;
use crate::state::launch::LaunchRight;
use crate::state::{StateDir, StateError};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Connections to schedulers that seemed to live, before something else must be wrong.
const MAX_TRIES: u32 = 5;
/// For one that ends to be gone.
const LAST_BREATH: Duration = Duration::from_millis(100);

/// A cluster that goes on under another scheduler.
pub struct Resumed {
    /// The scheduler that died.
    pub dead: Last,
    /// The cluster just after.
    pub status: StatusReport,
}

/// Starts a scheduler in the dead one's place. Only with the right to launch.
///
/// # Errors
/// It can't be started.
pub(super) async fn take_over(
    state: &StateDir,
    spec: &ClusterSpec,
    dead: Dead,
    right: LaunchRight,
    patience: Patience,
) -> Result<(Client, Resumed), UpError> {
    let beginning = Beginning { begins: false, stood_still: dead.stood_still };
    launch::launch(state, spec, beginning, right, patience).await?;
    let mut client = Client::connect(state.clone(), identity_of(state, spec)?).await?;
    let status = status(&mut client).await?;
    Ok((client, Resumed { dead: dead.last, status }))
}

/// Is told of a cluster that goes on.
pub type Tell = Arc<dyn Fn(&Resumed) + Send + Sync>;

/// What a client's verb does about a dead scheduler.
pub struct Reviver {
    state: StateDir,
    patience: Patience,
    tell: Tell,
}

impl Reviver {
    pub fn new(state: StateDir, patience: Patience, tell: Tell) -> Reviver {
        Reviver { state, patience, tell }
    }

    async fn try_to(&self) -> Result<Revival, UpError> {
        let (right, there) = our_turn(&self.state, self.patience, |_| false).await?;
        match there {
            (Some(spec), Liveness::Dead(dead)) => {
                let (_, resumed) = take_over(&self.state, &spec, dead, right, self.patience).await?;
                (self.tell)(&resumed);
                Ok(Revival::Alive)
            }
            (_, Liveness::Alive(_)) => Ok(Revival::Alive),
            (_, Liveness::Unreachable(_)) => Ok(Revival::Unreachable),
            (_, Liveness::Down { .. }) | (None, Liveness::Dead(_)) => {
                Err(ClientError::NotUp { name: self.state.name().to_owned() }.into())
            }
        }
    }
}

impl Revive for Reviver {
    fn revive(&self) -> Pin<Box<dyn Future<Output = Result<Revival, ClientError>> + Send + '_>> {
        Box::pin(async {
            match self.try_to().await {
                Ok(revival) => Ok(revival),
                // It may still succeed.
                Err(UpError::Launch(LaunchError::Busy { .. }) | UpError::OnItsWay(_)) => {
                    Ok(Revival::Unreachable)
                }
                // It lives, and is just coming to its end.
                Err(UpError::Client(ClientError::Link(_))) => {
                    tokio::time::sleep(LAST_BREATH).await;
                    Ok(Revival::Alive)
                }
                Err(UpError::Client(error)) => Err(error),
                Err(UpError::State(error)) => Err(error.into()),
                Err(error) => {
                    let name = self.state.name().to_owned();
                    Err(ClientError::NotRevived { name, reason: error.to_string() })
                }
            }
        })
    }
}

/// A client of a cluster, whose scheduler is started again if it is dead, now or later.
///
/// # Errors
/// The cluster isn't up, or its scheduler can neither be reached nor started again.
pub async fn connect(
    state: &StateDir,
    transport: &Transport,
    reviver: Arc<Reviver>,
) -> Result<Client, ClientError> {
    let mut tries = 1;
    loop {
        let unreachable =
            match Client::connect(state.clone(), transport.clone()).await {
                Ok(client) => return Ok(client.reviving(reviver)),
                // Its first scheduler may still be in the queue.
                Err(error @ ClientError::NotUp { .. }) if job::under_way(state)?.is_some() => error,
                // That nothing tells where it is doesn't mean that there is none.
                Err(
                    error @ (ClientError::NotUp { .. } | ClientError::State(StateError::Malformed { .. })),
                ) if !matches!(look_without_spec(state)?, Liveness::Down { .. }) => error,
                Err(error @ (ClientError::Unreachable { .. } | ClientError::Link(_))) => error,
                Err(error) => return Err(error),
            };
        // One that lived a moment ago may just be coming to its end.
        match reviver.revive().await? {
            Revival::Alive if tries < MAX_TRIES => tries += 1,
            Revival::Alive | Revival::Unreachable => return Err(unreachable),
        }
    }
}
