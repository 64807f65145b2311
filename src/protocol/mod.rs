//! What peers say to each other: data only. A frame's header is the MessagePack of one [`Hello`], or of a list of
//! messages of one of the enums here; the buffers of values travel beside it.
//!
//! Pure. The scheduler and the worker never import each other: this is where they meet.

mod client;
mod compact;
mod ids;
mod left;
mod peer;
mod worker;

pub use client::*;
pub use ids::*;
pub use left::LeftBehind;
pub use peer::*;
pub use worker::*;

use serde::{Deserialize, Serialize};

/// Both sides of a link must have the same.
pub const VERSION: u32 = 3;

/// A list longer than this is cut: far below what a frame's header may have.
const MAX_LIST_BYTES: usize = 16 << 20;

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

/// Messages as several lists where one would be too long for a frame. A single message over the limit stays whole:
/// senders bound what they put into one.
///
/// # Errors
/// As [`encode`].
pub fn encode_split<T: Serialize>(messages: &[T]) -> Result<Vec<Vec<u8>>, rmp_serde::encode::Error> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let whole = encode(messages)?;
    if whole.len() <= MAX_LIST_BYTES || messages.len() == 1 {
        return Ok(vec![whole]);
    }
    let (first, second) = messages.split_at(messages.len() / 2);
    let mut lists = encode_split(first)?;
    lists.extend(encode_split(second)?);
    Ok(lists)
}

/// # Errors
/// Bytes that are no list of such messages: another version, or damage.
pub fn decode<'a, T: Deserialize<'a>>(header: &'a [u8]) -> Result<Vec<T>, rmp_serde::decode::Error> {
    rmp_serde::from_slice(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_and_nothing_of_it_is_lost() {
        let messages: Vec<Vec<u8>> = (0..100u8).map(|i| vec![i; 1 << 19]).collect();
        let lists = encode_split(&messages).unwrap();
        assert!(lists.len() > 1 && lists.iter().all(|list| list.len() <= MAX_LIST_BYTES));
        let back: Vec<Vec<u8>> = lists.iter().flat_map(|list| decode::<Vec<u8>>(list).unwrap()).collect();
        assert_eq!(back, messages);
        assert!(encode_split::<u8>(&[]).unwrap().is_empty());
    }
}
