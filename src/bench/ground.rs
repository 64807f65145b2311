//! Where is measured: a cluster of our own that comes and goes, or one that lives anyway.

use super::BenchError;
use crate::client::Client;
use crate::cluster::down;
use crate::cluster::launch::Patience;
use crate::cluster::up::{Wish, bring_up, status, wait_for_workers};
use crate::net::Transport;
use crate::protocol::{Reply, Request, StatusReport};
use crate::scheduler::shell::transport;
use crate::scheduler::spec::ClusterSpec;
use crate::state::{Contact, Role, StateDir};
use std::path::Path;
use std::time::{Duration, Instant};

/// For workers on this host to be there.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(120);
/// For processes that have nothing more to do to be gone: an embedded queue lingers for a moment.
const GONE_TIMEOUT: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(10);

pub enum Ground {
    /// A cluster on the embedded queue, with a state directory of its own.
    Fresh { state: StateDir, spec: Box<ClusterSpec> },
    /// Somebody's cluster: only our graphs are ours.
    Living { state: StateDir, spec: Box<ClusterSpec> },
}

impl Ground {
    pub fn is_fresh(&self) -> bool {
        matches!(self, Ground::Fresh { .. })
    }

    pub fn state(&self) -> &StateDir {
        let (Ground::Fresh { state, .. } | Ground::Living { state, .. }) = self;
        state
    }

    pub fn spec(&self) -> &ClusterSpec {
        let (Ground::Fresh { spec, .. } | Ground::Living { spec, .. }) = self;
        spec
    }

    /// Links of this cluster, in that role.
    ///
    /// # Errors
    /// Its identity can't be used.
    pub fn transport(&self, role: Role) -> Result<Transport, BenchError> {
        transport(self.state(), self.spec(), role).map_err(|error| BenchError::Identity(format!("{error:#}")))
    }

    /// A client; of a fresh cluster without workers, which [`Ground::staff`] brings.
    ///
    /// # Errors
    /// The cluster can't be brought up, or isn't there.
    pub async fn client(&self) -> Result<Client, BenchError> {
        match self {
            Ground::Fresh { state, spec } => {
                let spec = ClusterSpec { workers: 0, ..(**spec).clone() };
                let wish = Wish { spec, workers_given: true, given: Vec::new(), replace: false };
                Ok(bring_up(state, &wish, Patience::silent(|| ())).await?.0)
            }
            Ground::Living { state, .. } => {
                Ok(Client::connect(state.clone(), self.transport(Role::Admin)?).await?)
            }
        }
    }

    /// Sees to it that the workers are there.
    ///
    /// # Errors
    /// They don't come, or a living cluster has none.
    pub async fn staff(&self, client: &mut Client) -> Result<StatusReport, BenchError> {
        match self {
            Ground::Fresh { spec, .. } => {
                let request = crate::client::random_request()?;
                match client.call(Request::Scale { request, workers: spec.workers }).await? {
                    Reply::Scaled { .. } => {}
                    other => return Err(crate::client::unexpected(&other).into()),
                }
                let wanted = Some(spec.workers);
                Ok(wait_for_workers(client, wanted, Some(WORKERS_TIMEOUT), true, |_| ()).await?)
            }
            Ground::Living { state, .. } => {
                let status = status(client).await?;
                match status.connected {
                    0 => Err(BenchError::NoWorkers(state.name().to_owned())),
                    _ => Ok(status),
                }
            }
        }
    }

    /// Where the scheduler is.
    ///
    /// # Errors
    /// It has gone.
    pub fn contact(&self) -> Result<Contact, BenchError> {
        self.state().read_contact()?.ok_or(BenchError::Gone)
    }

    /// Ends a fresh cluster; a living one is left as it is.
    ///
    /// # Errors
    /// Something of it may be left.
    pub async fn end(&self) -> Result<(), BenchError> {
        let Ground::Fresh { state, spec } = self else { return Ok(()) };
        if state.read_cluster()?.is_none() {
            return Ok(());
        }
        let scheduler = state.read_contact()?.map(|contact| contact.pid);
        down::down(state, spec, &self.transport(Role::Admin)?, Duration::ZERO, Patience::silent(|| ()))
            .await?;
        gone("the scheduler", || scheduler.is_none_or(|pid| !runs(pid))).await
    }

    /// Waits until nothing of a fresh cluster that was ended runs any more: its directory may be removed then.
    ///
    /// # Errors
    /// Something stays.
    pub async fn leave(&self) -> Result<(), BenchError> {
        let Ground::Fresh { state, .. } = self else { return Ok(()) };
        // The queue's daemon removes it when it goes.
        let socket = state.path().join("queue").join("socket");
        gone("the embedded queue", || !socket.exists()).await
    }
}

async fn gone(what: &'static str, look: impl Fn() -> bool) -> Result<(), BenchError> {
    let started = Instant::now();
    while !look() {
        if started.elapsed() > GONE_TIMEOUT {
            return Err(BenchError::Stays(what));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Whether the process is there and not only waits for its parent, which we are.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    let state = stat.as_deref().ok().and_then(|stat| stat.rsplit_once(") ")?.1.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}
