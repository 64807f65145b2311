//! Takes connections in for as long as somebody listens.

use super::Link;
use super::listen::{Listener, link_limit};
use super::tls::Transport;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

/// For a handshake, and for the hello that may follow it.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a connection that could not be accepted: too many files are open, which takes time to pass.
const PAUSE: Duration = Duration::from_millis(100);

/// One of the links that this process may have; given back when it is dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// Accepts connections for ever. Each is on a task of its own, so that one that hangs or fails costs the others nothing:
/// there the handshake is made, and `serve` has the link until it ends, with the reason if that is worth a word. Whoever
/// comes when there are as many links as open files allow is turned away.
pub async fn accept_all<Served>(
    listener: Listener,
    transport: Transport,
    serve: impl Fn(Link, Place) -> Served + Clone + Send + 'static,
) where
    Served: Future<Output = Result<(), String>> + Send,
{
    let room = Arc::new(Semaphore::new(link_limit()));
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            warn!("{address} is turned away: there are as many links as open files allow");
            continue;
        };
        let (transport, serve) = (transport.clone(), serve.clone());
        tokio::spawn(async move {
            let place = Place { _permit: permit };
            let ended = match transport.accept(stream, HANDSHAKE_TIMEOUT).await {
                Ok(link) => serve(link, place).await,
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = ended {
                debug!("{address}: {reason}");
            }
        });
    }
}
