//! Receive buffers that are used again. Fresh memory costs a page fault every 4 KiB, which on common machines makes
//! receiving several times slower than the network is.
//!
//! A buffer goes out as [`Bytes`] and comes back by itself when the last clone of it is dropped.

use super::frame::FrameError;
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes that idle buffers may hold. More is given back to the system.
const MAX_IDLE_BYTES: usize = 256 << 20;
/// Most idle buffers, so that looking for a fitting one stays cheap.
const MAX_IDLE_BUFFERS: usize = 64;
/// A first piece of a large buffer; it then doubles as bytes arrive, so that a peer that announces 16 GiB and sends
/// nothing costs little.
const FIRST_PIECE_BYTES: usize = 4 << 20;
/// A used buffer may be so many times larger than what it is used for.
const MAX_WASTE: usize = 4;

/// A shared stock of receive buffers.
#[derive(Clone, Default, Debug)]
pub struct Pool {
    idle: Arc<Mutex<Idle>>,
}

#[derive(Default, Debug)]
struct Idle {
    buffers: Vec<Vec<u8>>,
    nbytes: usize,
}

/// A buffer being filled. It never grows beyond the length it was asked for.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) bytes: Vec<u8>,
    nbytes: usize,
    pool: Pool,
}

/// A full buffer on loan.
struct Loan {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Pool {
    /// An empty buffer for `nbytes` bytes to come, without memory for all of them yet.
    pub(super) fn take(&self, nbytes: usize) -> Filling {
        let bytes = self.with(|idle| idle.take(nbytes)).unwrap_or_default();
        Filling { bytes, nbytes, pool: self.clone() }
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        // What doesn't fit is dropped outside the lock.
        drop(self.with(|idle| idle.put(bytes)));
    }

    fn with<T>(&self, work: impl FnOnce(&mut Idle) -> T) -> T {
        // A panic elsewhere can't leave the list half changed.
        work(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Idle {
    /// The smallest buffer that fits and isn't far too large.
    fn take(&mut self, nbytes: usize) -> Option<Vec<u8>> {
        let fits = nbytes..=nbytes.saturating_mul(MAX_WASTE);
        let candidates =
            self.buffers.iter().enumerate().filter(|(_, bytes)| fits.contains(&bytes.capacity()));
        let (index, _) = candidates.min_by_key(|(_, bytes)| bytes.capacity())?;
        let bytes = self.buffers.swap_remove(index);
        self.nbytes -= bytes.capacity();
        Some(bytes)
    }

    /// Keeps a buffer, in place of the oldest ones if need be; returns what can't be kept.
    fn put(&mut self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        if bytes.capacity() > MAX_IDLE_BYTES {
            return vec![bytes];
        }
        let mut dropped = Vec::new();
        while self.buffers.len() >= MAX_IDLE_BUFFERS || self.nbytes + bytes.capacity() > MAX_IDLE_BYTES {
            let oldest = self.buffers.remove(0);
            self.nbytes -= oldest.capacity();
            dropped.push(oldest);
        }
        self.nbytes += bytes.capacity();
        self.buffers.push(bytes);
        dropped
    }
}

impl Filling {
    /// How many bytes are still to come.
    pub(super) fn missing(&self) -> usize {
        self.nbytes - self.bytes.len()
    }

    /// Makes room for at least one more byte, if any is to come.
    ///
    /// # Errors
    /// No memory is left.
    pub(super) fn make_room(&mut self) -> Result<(), FrameError> {
        if self.missing() == 0 || self.bytes.capacity() > self.bytes.len() {
            return Ok(());
        }
        let piece = self.bytes.len().max(FIRST_PIECE_BYTES).min(self.missing());
        let no_memory = FrameError::NoMemory { nbytes: self.nbytes as u64 };
        self.bytes.try_reserve_exact(piece).map_err(|_| no_memory)
    }

    /// The full buffer.
    pub(super) fn finish(mut self) -> Bytes {
        debug_assert_eq!(self.missing(), 0);
        let (bytes, pool) = (std::mem::take(&mut self.bytes), self.pool.clone());
        Bytes::from_owner(Loan { bytes, pool })
    }
}

impl Drop for Filling {
    /// A connection that broke in the middle of a frame gives its buffer back too.
    fn drop(&mut self) {
        if self.bytes.capacity() > 0 {
            self.pool.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(pool: &Pool, nbytes: usize) -> Bytes {
        let mut filling = pool.take(nbytes);
        while filling.missing() > 0 {
            filling.make_room().unwrap();
            let room = (filling.bytes.capacity() - filling.bytes.len()).min(filling.missing());
            filling.bytes.resize(filling.bytes.len() + room, 7);
        }
        filling.finish()
    }

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let pool = Pool::default();
        let first = full(&pool, 1 << 20);
        let (address, clone) = (first.as_ptr(), first.slice(10..20));
        drop(first);
        assert_ne!(full(&pool, 1 << 20).as_ptr(), address, "a slice of it is still held");
        drop(clone);
        let again = (0..2).map(|_| full(&pool, 1 << 20)).collect::<Vec<_>>();
        assert!(again.iter().any(|bytes| bytes.as_ptr() == address));
    }

    #[test]
    fn a_large_announcement_costs_little_until_bytes_arrive() {
        let pool = Pool::default();
        let mut filling = pool.take(16 << 30);
        filling.make_room().unwrap();
        assert!(filling.bytes.capacity() <= FIRST_PIECE_BYTES);
    }

    #[test]
    fn what_is_idle_is_bounded() {
        let pool = Pool::default();
        let loans: Vec<_> = (0..MAX_IDLE_BUFFERS + 10).map(|_| full(&pool, 1000)).collect();
        drop(loans);
        pool.with(|idle| assert_eq!(idle.buffers.len(), MAX_IDLE_BUFFERS));
        pool.with(|idle| {
            drop(idle.put(Vec::with_capacity(MAX_IDLE_BYTES)));
            assert_eq!((idle.buffers.len(), idle.nbytes), (1, MAX_IDLE_BYTES));
            assert_eq!(idle.put(Vec::with_capacity(MAX_IDLE_BYTES + 1)).len(), 1);
        });
    }

    #[test]
    fn a_small_value_never_pins_a_large_buffer() {
        let pool = Pool::default();
        drop(full(&pool, 1 << 20));
        let small = full(&pool, 100);
        pool.with(|idle| assert_eq!(idle.buffers.len(), 1, "the large one stays for large ones"));
        drop(small);
    }
}
