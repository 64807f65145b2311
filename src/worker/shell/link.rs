//! The link to the scheduler: found by the contact file, and looked for anew whenever it breaks.

use super::Incoming;
use crate::net::{Frame, LinkError, Transport, values};
use crate::protocol::{self, PeerKind, ToWorker};
use crate::state::{Contact, Role, StateDir};
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// First wait before the next try; doubles up to [`LAST_WAIT`], each with some jitter, so that a thousand workers
/// don't ask a file server at once.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LAST_WAIT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the end of the last frames is looked for.
const WRITTEN_LOOK: Duration = Duration::from_millis(5);

/// Keeps a link for as long as the main loop listens.
pub(super) async fn keep(state: StateDir, transport: Transport, events: mpsc::UnboundedSender<Incoming>) {
    let mut generation = 0;
    let mut wait = FIRST_WAIT;
    let mut last_trouble = String::new();
    while !events.is_closed() {
        generation += 1;
        match once(&state, &transport, &events, generation).await {
            Ok(reason) => {
                info!("the link to the scheduler is gone: {reason}");
                let _ = events.send(Incoming::Unlinked { generation });
                wait = FIRST_WAIT;
                last_trouble.clear();
            }
            Err(trouble) => {
                if trouble != last_trouble {
                    warn!("no scheduler: {trouble}");
                    last_trouble = trouble;
                }
                wait = (wait * 2).min(LAST_WAIT);
            }
        }
        tokio::time::sleep(wait.mul_f64(jitter())).await;
    }
}

/// One link from its beginning to its end. An error: there was none.
async fn once(
    state: &StateDir,
    transport: &Transport,
    events: &mpsc::UnboundedSender<Incoming>,
    generation: u64,
) -> Result<String, String> {
    let contact: Contact =
        state.read_contact().map_err(|error| error.to_string())?.ok_or("there is no contact file")?;
    let link = transport
        .connect(&contact.addresses, Role::Scheduler, CONNECT_TIMEOUT)
        .await
        .map_err(|error| error.to_string())?;
    let (mut reader, mut writer) = link.split();
    writer.send_all(&[values::hello(PeerKind::Worker)]).await.map_err(|error| error.to_string())?;
    info!("linked to the scheduler of epoch {} on {}", contact.epoch, contact.host);
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
    let read = async {
        while let Some(frame) = reader.next().await.map_err(|error| error.to_string())? {
            let messages = protocol::decode::<ToWorker>(&frame.header)
                .map_err(|error| format!("the scheduler is not understood: {error}"))?;
            if events.send(Incoming::FromScheduler { generation, messages }).is_err() {
                return Ok("the worker ends".to_owned());
            }
        }
        Ok::<_, String>("closed by the scheduler".to_owned())
    };
    Ok(tokio::select! {
        ended = read => ended.unwrap_or_else(|reason| reason),
        ended = write => ended.unwrap_or_else(|error| error.to_string()),
    })
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

/// From 0.5 to 1.5.
fn jitter() -> f64 {
    let mut byte = [0u8];
    let random = getrandom::fill(&mut byte).map_or(128, |()| byte[0]);
    0.5 + f64::from(random) / 255.0
}
