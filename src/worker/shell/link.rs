//! The link to the scheduler: found by the contact file, and looked for anew whenever it breaks.

use super::Incoming;
use super::watch::tell_newest;
use crate::net::{Backoff, Frame, LinkError, Transport, values};
use crate::protocol::{self, PeerKind, ToWorker};
use crate::state::{Contact, Role, StateDir};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

/// Between two looks at the contact file: a thousand workers must not overwhelm a file server.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the end of the last frames is looked for.
const WRITTEN_LOOK: Duration = Duration::from_millis(5);

/// Keeps a link for as long as the main loop listens. `newest`: the latest epoch that anybody has heard of.
pub(super) async fn keep(
    state: StateDir,
    transport: Transport,
    newest: watch::Sender<u32>,
    events: mpsc::UnboundedSender<Incoming>,
) {
    let mut generation = 0;
    let mut backoff = Backoff::new(FIRST_WAIT, LAST_WAIT);
    let mut last_trouble = String::new();
    let mut moved = Vec::new();
    while !events.is_closed() {
        generation += 1;
        let began = Instant::now();
        match once(&state, &transport, &newest, &events, generation, &mut moved).await {
            Ok(Ended { reason, welcomed }) => {
                info!("the link to the scheduler is gone: {reason}");
                let _ = events.send(Incoming::Unlinked { generation });
                last_trouble.clear();
                if welcomed {
                    backoff.reset();
                }
                // The first look is at once: a successor may have taken over. Unless links break again and again.
                if began.elapsed() > FIRST_WAIT || !moved.is_empty() {
                    continue;
                }
            }
            Err(trouble) => {
                if trouble != last_trouble {
                    warn!("no scheduler: {trouble}");
                    last_trouble = trouble;
                }
            }
        }
        tokio::time::sleep(backoff.wait()).await;
    }
}

/// How a link ended.
struct Ended {
    reason: String,
    /// The scheduler took us in.
    welcomed: bool,
}

/// One link from its beginning to its end. An error: there was none. `moved`: where the last scheduler said that the
/// next one is, which a file server may not show for a while; and where this one says so.
async fn once(
    state: &StateDir,
    transport: &Transport,
    newest: &watch::Sender<u32>,
    events: &mpsc::UnboundedSender<Incoming>,
    generation: u64,
    moved: &mut Vec<String>,
) -> Result<Ended, String> {
    let (addresses, epoch, whose) = match std::mem::take(moved) {
        addresses if addresses.is_empty() => {
            let contact: Contact =
                state.read_contact().map_err(|error| error.to_string())?.ok_or("there is no contact file")?;
            if contact.epoch < *newest.borrow() {
                return Err(format!("the contact file is of epoch {}, which is over", contact.epoch));
            }
            tell_newest(newest, contact.epoch);
            (contact.addresses, contact.epoch, format!("of epoch {} on {}", contact.epoch, contact.host))
        }
        // It has an epoch after all that were heard of.
        addresses => (addresses, newest.borrow().saturating_add(1), "that takes over".to_owned()),
    };
    let link = transport
        .connect(&addresses, Role::Scheduler, CONNECT_TIMEOUT)
        .await
        .map_err(|error| error.to_string())?;
    let (mut reader, mut writer) = link.split();
    writer.send_all(&[values::hello(PeerKind::Worker)]).await.map_err(|error| error.to_string())?;
    info!("linked to the scheduler {whose}");
    let (frames, mut outgoing) = mpsc::unbounded_channel::<Frame>();
    let _ = events.send(Incoming::Linked { generation, frames });
    let write = async {
        let mut batch = Vec::new();
        while outgoing.recv_many(&mut batch, 64).await > 0 {
            writer.send_all(&batch).await?;
            batch.clear();
        }
        writer.close().await?;
        Ok::<_, LinkError>("closed by us".to_owned())
    };
    let mut welcomed = false;
    let read = async {
        while let Some(frame) = reader.next().await.map_err(|error| error.to_string())? {
            let messages = protocol::decode::<ToWorker>(&frame.header)
                .map_err(|error| format!("the scheduler is not understood: {error}"))?;
            for message in &messages {
                match message {
                    ToWorker::Welcome { .. } => welcomed = true,
                    ToWorker::Moved { addresses } => moved.clone_from(addresses),
                    _ => {}
                }
            }
            if events.send(Incoming::FromScheduler { generation, messages }).is_err() {
                return Ok("the worker ends".to_owned());
            }
        }
        Ok::<_, String>("closed by the scheduler".to_owned())
    };
    let mut newest = newest.subscribe();
    let superseded = async {
        // A scheduler that hangs doesn't close its links.
        let later = newest.wait_for(|newest| *newest > epoch).await.map(|epoch| *epoch);
        format!("epoch {} has taken over", later.unwrap_or_default())
    };
    let reason = tokio::select! {
        reason = superseded => reason,
        ended = read => ended.unwrap_or_else(|reason| reason),
        ended = write => ended.unwrap_or_else(|error| error.to_string()),
    };
    Ok(Ended { reason, welcomed })
}

/// Waits until the link has taken everything: its writer lets go of the queue once it is written.
pub(super) async fn written(frames: mpsc::UnboundedSender<Frame>) {
    let queue = frames.downgrade();
    drop(frames);
    while queue.strong_count() > 0 {
        tokio::time::sleep(WRITTEN_LOOK).await;
    }
    // The writer closes the stream after its last frame.
    tokio::time::sleep(WRITTEN_LOOK * 10).await;
}
