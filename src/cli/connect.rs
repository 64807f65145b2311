//! From the name of a cluster to a client of it, and from a client's errors to exit codes.

use super::Context;
use super::exit::{CliError, Exit};
use super::output::Output;
use crate::client::{Client, ClientError, Home};
use crate::cluster::revive::{self, Resumed, Reviver};
use crate::net::Transport;
use crate::protocol::RefusalKind;
use crate::scheduler::shell::transport;
use crate::scheduler::spec::ClusterSpec;
use crate::state::{Grant, Role, StateDir, StateError};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Runs a verb's asynchronous part.
pub fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CliError::internal(format!("no async runtime: {error}")))?.block_on(work)
}

/// The same, ended by Ctrl-C with its own exit code. What was submitted goes on.
pub fn block_on_interruptible<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    block_on(async {
        tokio::select! {
            outcome = work => outcome,
            _ = tokio::signal::ctrl_c() => Err(CliError::silent(Exit::Interrupted)),
        }
    })
}

/// The folder of the cluster that the flags name.
pub fn state_dir(context: &Context) -> Result<StateDir, CliError> {
    let settings = context.config()?.settings(None, &[])?;
    Ok(StateDir::open(&settings.cluster.state_dir, &context.cluster)?)
}

/// What the cluster was asked to be.
pub fn cluster_spec(state: &StateDir) -> Result<ClusterSpec, CliError> {
    let file = state.read_cluster()?;
    let file = file.ok_or_else(|| not_up(state.name()))?;
    Ok(file.spec_as()?)
}

/// A client of the cluster that the flags name. Its scheduler is started again if it is dead, unless that isn't wanted.
pub async fn client(context: &Context) -> Result<Client, CliError> {
    if let Some(path) = &context.grant {
        return granted(path).await;
    }
    let state = state_dir(context)?;
    if !context.revives {
        return client_of(state).await;
    }
    let reviver = reviver(&state, None, context);
    Ok(revive::connect(&state, &links(&state)?, reviver).await?)
}

/// Starts a dead scheduler again, and says so. A scheduler's job is waited for no longer than `timeout`.
pub fn reviver(state: &StateDir, timeout: Option<Duration>, context: &Context) -> Arc<Reviver> {
    let out = context.out;
    let tell = move |resumed: &Resumed| tell_resumption(resumed, out);
    Arc::new(Reviver::new(state.clone(), super::up::patience(timeout), Arc::new(tell)))
}

/// A client of somebody else's cluster, by a grant.
async fn granted(path: &Path) -> Result<Client, CliError> {
    let grant = Grant::read(path)?;
    let transport =
        Transport::tls(&grant.identity(path)?).map_err(|error| CliError::config(error.to_string()))?;
    let unseen = outdated(&grant);
    let client = Client::connect_to(Home::Grant(Box::new(grant)), transport).await;
    client.map_err(|error| CliError::from(error).hint(unseen))
}

/// What its bearer can do where a grant leads to no scheduler.
fn outdated(grant: &Grant) -> String {
    let told = grant.contact.display();
    match std::fs::File::open(&grant.contact) {
        Ok(_) => format!("the cluster's owner can bring it up again; {told} tells where it was last"),
        Err(error) => format!(
            "a scheduler that was started anew has other addresses, and {told}, where it tells them, can't be read here \
             ({error}): its owner can write the grant again, with a --contact that you can read"
        ),
    }
}

/// A client of this cluster, if its scheduler is there.
pub async fn client_of(state: StateDir) -> Result<Client, CliError> {
    let links = links(&state)?;
    Ok(Client::connect(state, links).await?)
}

fn links(state: &StateDir) -> Result<Transport, CliError> {
    transport(state, &cluster_spec(state)?, Role::Admin)
        .map_err(|error| CliError::config(format!("the cluster's identity can't be used: {error:#}")))
}

/// Says of a cluster that it goes on, and what of its journal was left out.
pub fn tell_resumption(resumed: &Resumed, out: Output) {
    out.warning(resumption(resumed));
    let cut = &resumed.status.scheduler.journal_cut;
    if !cut.is_empty() {
        out.warning(cut);
    }
}

fn resumption(resumed: &Resumed) -> String {
    let (dead, status) = (&resumed.dead, &resumed.status);
    let many = |count: u64, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    format!(
        "the scheduler (epoch {}, process {} on {}) had died; resumed as epoch {}: {}, {} open",
        dead.epoch,
        dead.pid,
        dead.host,
        status.epoch,
        many(u64::from(status.graphs), "graph"),
        many(status.counts.open().saturating_sub(status.awaited), "task"),
    )
}

fn not_up(name: &str) -> CliError {
    CliError::unavailable(format!("cluster '{name}' is not up"))
        .hint("`jq up` starts it; `jq ls` lists clusters")
}

impl From<StateError> for CliError {
    fn from(error: StateError) -> CliError {
        match &error {
            StateError::NoSuchCluster { .. } => {
                CliError::unavailable(error.to_string()).hint("`jq up` starts one; `jq ls` lists clusters")
            }
            _ if error.is_permission() => CliError::new(Exit::Permission, error.to_string()),
            _ => CliError::config(error.to_string()).hint("`jq doctor` looks at the state directory"),
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> CliError {
        match error {
            ClientError::NotUp { name } => not_up(&name),
            ClientError::State(error) => error.into(),
            ClientError::Unreachable { .. }
            | ClientError::Link(_)
            | ClientError::AnotherLife { .. }
            | ClientError::Silent { .. } => CliError::unavailable(error.to_string())
                .hint("`jq up` brings a dead cluster up again; `jq logs scheduler` tells how it ended"),
            ClientError::NotRevived { .. } => CliError::config(error.to_string())
                .hint("`jq doctor` looks closer; `jq logs scheduler` tells how the last one ended"),
            ClientError::Refused { kind, reason } => {
                let exit = match kind {
                    RefusalKind::Unknown | RefusalKind::Usage => Exit::Usage,
                    RefusalKind::Unavailable => Exit::Unavailable,
                    RefusalKind::Permission => Exit::Permission,
                };
                CliError::new(exit, reason)
            }
            ClientError::TaskFailed { .. } => CliError::new(Exit::TaskFailed, error.to_string()),
            ClientError::Answer(_) | ClientError::Random(_) => CliError::internal(error.to_string()),
        }
    }
}

impl From<crate::batch::BatchError> for CliError {
    fn from(error: crate::batch::BatchError) -> CliError {
        CliError::new(Exit::from_contract(error.kind.exit_code()), error.to_string())
    }
}
