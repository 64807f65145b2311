//! The wire: a [`Link`] carries frames in and frames out, over TLS 1.3 with the cluster's own identity, or plain TCP
//! for measurement. What the header bytes of a frame mean is the protocol's business.
//!
//! `frame` is the pure format, `pool` keeps receive buffers, `reader` and `writer` move frames over any stream,
//! `link` is both ends of a connection, `tls` makes and accepts connections, `listen` finds a port and the addresses
//! that others may use, `accept` takes in whoever comes there, `backoff` says how long to wait before the next try,
//! `alarm` is a loop's one timer.

pub mod accept;
pub mod alarm;
pub mod backoff;
pub mod frame;
pub mod link;
pub mod listen;
pub mod pool;
pub mod reader;
pub mod tls;
pub mod values;
pub mod writer;

pub use accept::{Place, accept_all};
pub use alarm::Alarm;
pub use backoff::Backoff;
pub use frame::{Frame, Limits};
pub use link::{Link, Reader, Writer};
pub use listen::{Interface, Listener};
pub use tls::{AcceptError, ConnectError, Transport};

use frame::FrameError;
use std::io;

/// Why a link ended, other than by a clean close between two frames.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The peer sent, or we were asked to send, something outside the format or its limits.
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the connection was lost: {0}")]
    Io(#[from] io::Error),
    #[error("the peer closed the connection in the middle of a frame")]
    CutShort,
}
