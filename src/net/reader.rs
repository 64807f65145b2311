//! Frames out of a byte stream.
//!
//! Small parts are cut out of one read buffer, so that a single read brings many small frames. Large parts are read
//! straight into a pooled buffer of their own. All progress is kept in the reader, so dropping the future of `next`
//! loses nothing.

use super::LinkError;
use super::frame::{FIXED_PREFIX_BYTES, Frame, FrameError, Limits, MAX_PREFIX_BYTES, Prefix};
use super::pool::{Filling, Pool};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Parts up to this length come out of the read buffer; above it a buffer of their own is cheaper than a copy.
const INLINE_BYTES: usize = 32 << 10;
/// Length of the read buffer: two of the largest inline parts, and one TLS record more than the first.
const READ_BUFFER_BYTES: usize = 64 << 10;

const _: () = assert!(INLINE_BYTES + MAX_PREFIX_BYTES <= READ_BUFFER_BYTES);

/// Reads frames from `stream`.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    limits: Limits,
    pool: Pool,
    buffer: BytesMut,
    partial: Option<Partial>,
}

/// A frame of which the prefix has arrived.
#[derive(Debug)]
struct Partial {
    /// Lengths of the parts that haven't begun: the header, then the buffers.
    lengths: VecDeque<usize>,
    done: Vec<Bytes>,
    current: Option<Filling>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader with the limits of unauthenticated peers.
    pub fn new(stream: R, pool: Pool) -> Self {
        Self { stream, limits: Limits::default(), pool, buffer: BytesMut::new(), partial: None }
    }

    /// Changes the limits from the next frame on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The next frame; `None` once the peer has closed the stream after a whole frame. Cancel safe: a dropped call
    /// loses no bytes. After an error the stream can't be used any more.
    ///
    /// # Errors
    /// A frame over the limits, a broken connection, or one that ends in the middle of a frame.
    pub async fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        loop {
            if let Some(frame) = self.advance()? {
                return Ok(Some(frame));
            }
            if self.read_more().await? == 0 {
                let is_clean = self.partial.is_none() && self.buffer.is_empty();
                return if is_clean { Ok(None) } else { Err(LinkError::CutShort) };
            }
        }
    }

    /// A frame that has already arrived, without reading: for taking all that a read brought.
    ///
    /// # Errors
    /// A frame over the limits.
    pub fn next_buffered(&mut self) -> Result<Option<Frame>, LinkError> {
        Ok(self.advance()?)
    }

    /// Goes as far as the bytes at hand allow.
    fn advance(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.partial.is_none() {
            let Some(prefix) = Prefix::decode(&self.buffer, &self.limits)? else { return Ok(None) };
            drop(self.buffer.split_to(prefix.nbytes()));
            self.partial = Some(Partial::new(&prefix)?);
        }
        let Some(partial) = &mut self.partial else { return Ok(None) };
        if !partial.advance(&mut self.buffer, &self.pool)? {
            return Ok(None);
        }
        Ok(self.partial.take().map(Partial::into_frame))
    }

    /// One read, to where the bytes are wanted. 0: the stream has ended.
    async fn read_more(&mut self) -> io::Result<usize> {
        if let Some(filling) = self.partial.as_mut().and_then(|partial| partial.current.as_mut()) {
            let missing = filling.missing();
            return self.stream.read_buf(&mut (&mut filling.bytes).limit(missing)).await;
        }
        // Takes the old memory again if no header cut out of it is still held. Earlier than needed, since a read
        // into the last few bytes of it would bring only those.
        if self.buffer.capacity() - self.buffer.len() < self.wanted().max(READ_BUFFER_BYTES / 4) {
            self.buffer.reserve(READ_BUFFER_BYTES - self.buffer.len().min(READ_BUFFER_BYTES));
        }
        self.stream.read_buf(&mut self.buffer).await
    }

    /// How many bytes more than those at hand finish the prefix or the inline part that is waited for.
    fn wanted(&self) -> usize {
        let whole = match &self.partial {
            None => Prefix::needed(&self.buffer).max(FIXED_PREFIX_BYTES),
            Some(partial) => partial.lengths.front().copied().unwrap_or(0),
        };
        whole.saturating_sub(self.buffer.len()).max(1)
    }
}

impl Partial {
    fn new(prefix: &Prefix) -> Result<Self, FrameError> {
        let mut lengths = VecDeque::with_capacity(1 + prefix.buffers.len());
        for nbytes in std::iter::once(&prefix.header).chain(&prefix.buffers) {
            let length = usize::try_from(*nbytes).map_err(|_| FrameError::NoMemory { nbytes: *nbytes })?;
            lengths.push_back(length);
        }
        Ok(Self { done: Vec::with_capacity(lengths.len()), lengths, current: None })
    }

    /// Takes parts out of `buffer`; whether the frame is complete.
    fn advance(&mut self, buffer: &mut BytesMut, pool: &Pool) -> Result<bool, FrameError> {
        loop {
            if let Some(mut filling) = self.current.take() {
                while filling.missing() > 0 && !buffer.is_empty() {
                    filling.make_room()?;
                    let room = filling.bytes.capacity() - filling.bytes.len();
                    let piece = buffer.split_to(buffer.len().min(filling.missing()).min(room));
                    filling.bytes.extend_from_slice(&piece);
                }
                if filling.missing() > 0 {
                    filling.make_room()?;
                    self.current = Some(filling);
                    return Ok(false);
                }
                self.done.push(filling.finish());
            }
            let Some(length) = self.lengths.front().copied() else { return Ok(true) };
            if length > INLINE_BYTES {
                self.current = Some(pool.take(length));
            } else if buffer.len() >= length {
                let part = buffer.split_to(length);
                // Values live long: a few bytes must not pin the whole read buffer. Headers are dropped soon.
                let is_header = self.done.is_empty();
                self.done.push(if is_header { part.freeze() } else { Bytes::copy_from_slice(&part) });
            } else {
                return Ok(false);
            }
            self.lengths.pop_front();
        }
    }

    fn into_frame(self) -> Frame {
        let mut parts = self.done.into_iter();
        let header = parts.next().unwrap_or_default();
        Frame { header, buffers: parts.collect() }
    }
}
