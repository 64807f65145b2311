//! What peers say to each other: data only. A frame's header is the MessagePack of one [`Hello`], or of a list of
//! messages of one of the enums here; the buffers of values travel beside it.
//!
//! Pure. The scheduler and the worker never import each other: this is where they meet.

mod client;
mod ids;
mod peer;
mod worker;

pub use client::*;
pub use ids::*;
pub use peer::*;
pub use worker::*;

use serde::{Deserialize, Serialize};

/// Both sides of a link must have the same.
pub const VERSION: u32 = 1;

/// What a peer is, said first; its certificate must allow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PeerKind {
    Client,
    Worker,
    /// The process above a worker, which reports its death.
    Supervisor,
}

/// The first frame of whoever connects.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    pub kind: PeerKind,
}

/// Messages between processes that are encoded as a list.
///
/// # Errors
/// Only values that MessagePack can't hold, which our types never are.
pub fn encode<T: Serialize>(messages: &[T]) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    rmp_serde::to_vec(messages)
}

/// # Errors
/// Bytes that are no list of such messages: another version, or damage.
pub fn decode<'a, T: Deserialize<'a>>(header: &'a [u8]) -> Result<Vec<T>, rmp_serde::decode::Error> {
    rmp_serde::from_slice(header)
}
