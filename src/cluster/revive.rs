//! A scheduler that died is replaced by another one, which goes on from its journal.

use super::launch;
use super::liveness::{Dead, Liveness};
use super::up::{UpError, identity_of, known, right_to_launch, status};
use crate::client::{Client, ClientError, Revival, Revive};
use crate::net::Transport;
use crate::protocol::StatusReport;
use crate::scheduler::spec::ClusterSpec;
use crate::state::{Contact, StateDir};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A cluster that goes on under another scheduler.
pub struct Resumed {
    /// The scheduler that died.
    pub dead: Contact,
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
) -> Result<(Client, Resumed), UpError> {
    launch::launch(state, spec, dead.stood_still).await?;
    let mut client = Client::connect(state.clone(), identity_of(state, spec)?).await?;
    let status = status(&mut client).await?;
    Ok((client, Resumed { dead: dead.contact, status }))
}

/// Is told of a cluster that goes on.
pub type Tell = Arc<dyn Fn(&Resumed) + Send + Sync>;

/// What a client's verb does about a dead scheduler.
pub struct Reviver {
    state: StateDir,
    /// Called before it is watched for half a minute whether an unreachable scheduler still lives.
    waiting: fn(),
    tell: Tell,
}

impl Reviver {
    pub fn new(state: StateDir, waiting: fn(), tell: Tell) -> Reviver {
        Reviver { state, waiting, tell }
    }

    async fn try_to(&self) -> Result<Revival, UpError> {
        let _right = right_to_launch(&self.state).await?;
        // Somebody else may have done it before it was our turn.
        match known(&self.state, self.waiting).await? {
            Some((spec, Liveness::Dead(dead))) => {
                let (_, resumed) = take_over(&self.state, &spec, dead).await?;
                (self.tell)(&resumed);
                Ok(Revival::Alive)
            }
            Some((_, Liveness::Alive(_))) => Ok(Revival::Alive),
            Some((_, Liveness::Unreachable(_))) => Ok(Revival::Unreachable),
            Some((_, Liveness::Down)) | None => {
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
                Err(UpError::Busy { .. }) => Ok(Revival::Unreachable),
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
    let unreachable = match Client::connect(state.clone(), transport.clone()).await {
        Ok(client) => return Ok(client.reviving(reviver)),
        Err(error @ (ClientError::Unreachable { .. } | ClientError::Link(_))) => error,
        Err(error) => return Err(error),
    };
    match reviver.revive().await? {
        Revival::Alive => Ok(Client::connect(state.clone(), transport.clone()).await?.reviving(reviver)),
        Revival::Unreachable => Err(unreachable),
    }
}
