//! How a scheduler that was asked for takes over from the one that asked for it.

use super::ground;
use super::own_job::OwnJob;
use crate::net::{Frame, Transport, values};
use crate::protocol::{self, FromClient, PeerKind, Reply, Request, ToClient};
use crate::scheduler::spec::ClusterSpec;
use crate::state::lease::{self, Sight};
use crate::state::{LeaseWatch, Role, StateDir};
use std::time::{Duration, Instant};
use tracing::{info, warn};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the holder to write its last records; longer than it waits for them itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);
/// Between two tries to reach it, or looks at its lease.
const PAUSE: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Relief {
    /// Nobody holds the lease any more, as far as is known here: claim.
    Free,
    /// Another one lives, and doesn't make room.
    NotWanted,
}

/// Asks the holder to make room, if it is the one that asked for this job; else that is for the lease to say.
///
/// # Errors
/// The state directory can't be used.
pub(super) async fn relieve(
    state: &StateDir,
    spec: &ClusterSpec,
    job: &OwnJob,
    addresses: &[String],
) -> anyhow::Result<Relief> {
    let transport = ground::transport(state, spec, Role::Admin)?;
    let (started, mut watch) = (Instant::now(), LeaseWatch::default());
    let mut trouble = String::new();
    loop {
        let Some(sight) = holder(state, job)? else { return Ok(Relief::Free) };
        if watch.may_claim(&sight, started.elapsed()) {
            return Ok(Relief::Free);
        }
        let seen = sight.seen;
        match ask(state, &transport, job, addresses).await {
            Ok(Reply::Relieved) => {
                info!("the scheduler of epoch {} has let go", seen.epoch);
                return Ok(Relief::Free);
            }
            Ok(Reply::Refused { reason, .. }) => {
                info!("the scheduler of epoch {} goes on: {reason}", seen.epoch);
                return Ok(Relief::NotWanted);
            }
            Ok(_) => anyhow::bail!("the scheduler of epoch {} is not understood", seen.epoch),
            Err(words) => {
                if words != trouble {
                    warn!("the scheduler of epoch {} can't be asked to make room: {words}", seen.epoch);
                    trouble = words;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The lease, while it is held by whoever asked for this job.
fn holder(state: &StateDir, job: &OwnJob) -> anyhow::Result<Option<Sight>> {
    let held = |sight: &Sight| sight.seen.epoch == job.asked_by && !sight.seen.released;
    Ok(lease::sight(state.path())?.filter(held))
}

async fn ask(
    state: &StateDir,
    transport: &Transport,
    job: &OwnJob,
    addresses: &[String],
) -> Result<Reply, String> {
    let contact = state.read_contact().map_err(|error| error.to_string())?.ok_or("no contact file")?;
    if contact.epoch != job.asked_by {
        return Err("the contact file doesn't name it yet".to_owned());
    }
    let link = transport.connect(&contact.addresses, Role::Scheduler, CONNECT_TIMEOUT).await;
    let (mut reader, mut writer) = link.map_err(|error| error.to_string())?.split();
    let request = Request::Relieve { job_name: job.name.clone(), addresses: addresses.to_vec() };
    let question = protocol::encode(&[FromClient { call: 1, request }]).map_err(|error| error.to_string())?;
    let frames = [values::hello(PeerKind::Client), Frame::new(question)];
    writer.send_all(&frames).await.map_err(|error| error.to_string())?;
    let answer = async {
        while let Some(frame) = reader.next().await.map_err(|error| error.to_string())? {
            let messages: Vec<ToClient> =
                protocol::decode(&frame.header).map_err(|error| error.to_string())?;
            let replies = messages.into_iter().map(|message| message.reply);
            let reply = { replies }.find(|reply| matches!(reply, Reply::Relieved | Reply::Refused { .. }));
            if let Some(reply) = reply {
                return Ok(reply);
            }
        }
        Err("it closed the link".to_owned())
    };
    tokio::time::timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| "it doesn't answer".to_owned())?
}
