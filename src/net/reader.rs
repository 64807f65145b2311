//! Frames out of a byte stream.
//!
//! Small parts are cut out of one read buffer, so that a single read brings many small frames. Large parts are read
//! straight into a pooled buffer of their own. All progress is kept in the reader, so dropping the future of `next`
//! loses nothing.

use super::LinkError;
use super::frame::{Frame, FrameError, Limits, MAX_PREFIX_BYTES, Prefix};
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

    /// The next frame; `None` once the peer has closed the stream after a whole frame. The kernel closes the sockets
    /// of a killed process too, so only a message of the protocol's can tell leaving from dying. Cancel safe: a
    /// dropped call loses no bytes. After an error the stream can't be used any more.
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
            // Most frames are a short header and nothing else, and it is here.
            let header = usize::try_from(prefix.header).unwrap_or(usize::MAX);
            if prefix.buffers.is_empty() && header <= self.buffer.len().min(INLINE_BYTES) {
                return Ok(Some(Frame::new(self.buffer.split_to(header))));
            }
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
        // Takes the old memory again if no header cut out of it is still held. Before it is full, since a read into
        // the last few bytes of it would bring only those.
        if self.buffer.capacity() - self.buffer.len() < READ_BUFFER_BYTES / 4 {
            self.buffer.reserve(READ_BUFFER_BYTES.saturating_sub(self.buffer.len()));
        }
        self.stream.read_buf(&mut self.buffer).await
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame::{MAX_BUFFER_BYTES, MAX_UNAUTHENTICATED_BYTES};
    use crate::net::writer::FrameWriter;
    use proptest::prelude::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::ReadBuf;

    /// A stream that hands out its bytes in pieces of given sizes, pending between them.
    struct Pieces {
        bytes: Bytes,
        sizes: Vec<usize>,
        reads: usize,
        is_pending: bool,
    }

    impl Pieces {
        fn new(bytes: impl Into<Bytes>, sizes: Vec<usize>) -> Self {
            Self { bytes: bytes.into(), sizes, reads: 0, is_pending: false }
        }
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.is_pending = !self.is_pending;
            if self.is_pending {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let size = self.sizes[self.reads % self.sizes.len()];
            self.reads += 1;
            let size = size.min(self.bytes.len()).min(buffer.remaining());
            let piece = self.bytes.split_to(size);
            buffer.put_slice(&piece);
            Poll::Ready(Ok(()))
        }
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    fn encoded(frames: &[Frame]) -> Vec<u8> {
        let mut bytes = Vec::new();
        block_on(FrameWriter::new(&mut bytes).send_all(frames)).unwrap();
        bytes
    }

    fn reader(bytes: impl Into<Bytes>, sizes: Vec<usize>) -> FrameReader<Pieces> {
        let mut reader = FrameReader::new(Pieces::new(bytes, sizes), Pool::default());
        reader.set_limits(Limits::AUTHENTICATED);
        reader
    }

    /// All frames until the end or an error, dropping each call's future once before it is finished.
    fn all(reader: &mut FrameReader<Pieces>) -> (Vec<Frame>, Option<LinkError>) {
        block_on(async {
            let mut frames = Vec::new();
            loop {
                let cancelled = tokio::select! {
                    biased;
                    outcome = reader.next() => Some(outcome),
                    () = std::future::ready(()) => None,
                };
                let outcome = match cancelled {
                    Some(outcome) => outcome,
                    None => reader.next().await,
                };
                match outcome {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => return (frames, None),
                    Err(error) => return (frames, Some(error)),
                }
            }
        })
    }

    fn bytes_of(len: usize, seed: usize) -> Bytes {
        (0..len).map(|n| ((n * 31 + seed) % 251) as u8).collect::<Vec<_>>().into()
    }

    fn frame(header: usize, buffers: &[usize]) -> Frame {
        let buffers = buffers.iter().enumerate().map(|(n, len)| bytes_of(*len, n)).collect();
        Frame { header: bytes_of(header, 77), buffers }
    }

    #[test]
    fn frames_of_every_size_arrive_as_they_were_sent() {
        let edge = INLINE_BYTES;
        let frames = [
            frame(0, &[]),
            frame(10, &[0, 1, 0]),
            frame(edge, &[edge, edge + 1, edge - 1]),
            frame(edge + 1, &[3 << 20, 5]),
            frame(1 << 20, &[]),
            frame(3, &[7; 255]),
        ];
        let bytes = Bytes::from(encoded(&frames));
        assert_eq!(bytes.len() as u64, frames.iter().map(Frame::nbytes).sum::<u64>());
        for sizes in [vec![usize::MAX], vec![4096], vec![65_000, 1, 17]] {
            let (read, error) = all(&mut reader(bytes.clone(), sizes));
            assert!(error.is_none(), "{error:?}");
            assert!(read == frames);
        }
    }

    #[test]
    fn one_read_brings_many_small_frames() {
        let frames = vec![frame(40, &[8]); 1000];
        let mut reader = reader(encoded(&frames), vec![usize::MAX]);
        let (read, _) = all(&mut reader);
        assert_eq!(read, frames);
        assert!(reader.stream.reads < 10, "{} reads", reader.stream.reads);
    }

    #[test]
    fn frames_at_hand_come_without_reading() {
        let frames = vec![frame(40, &[8]); 3];
        let mut reader = reader(encoded(&frames), vec![usize::MAX]);
        assert!(reader.next_buffered().unwrap().is_none());
        assert_eq!(block_on(reader.next()).unwrap().unwrap(), frames[0]);
        assert_eq!(reader.next_buffered().unwrap().unwrap(), frames[1]);
        assert_eq!(reader.next_buffered().unwrap().unwrap(), frames[2]);
        assert!(reader.next_buffered().unwrap().is_none());
        assert_eq!(reader.stream.reads, 1);
    }

    #[test]
    fn a_stream_that_ends_in_a_frame_is_cut_short() {
        let bytes = encoded(&[frame(100, &[200, 40_000])]);
        for len in (1..bytes.len()).step_by(211).chain([bytes.len() - 1]) {
            let (read, error) = all(&mut reader(bytes[..len].to_vec(), vec![1000]));
            assert!(read.is_empty() && matches!(error, Some(LinkError::CutShort)), "{len}");
        }
    }

    #[test]
    fn a_stranger_may_say_little_until_the_limits_are_raised() {
        let large = frame(0, &[usize::try_from(MAX_UNAUTHENTICATED_BYTES).unwrap() + 1]);
        let bytes = encoded(&[frame(100, &[]), large.clone()]);
        let mut stranger = FrameReader::new(Pieces::new(bytes, vec![500]), Pool::default());
        assert_eq!(block_on(stranger.next()).unwrap().unwrap(), frame(100, &[]));
        let refused = block_on(stranger.next()).unwrap_err();
        assert!(matches!(refused, LinkError::Frame(FrameError::BufferTooLong { .. })), "{refused}");

        let bytes = encoded(&[frame(100, &[]), large.clone()]);
        let mut friend = FrameReader::new(Pieces::new(bytes, vec![500]), Pool::default());
        block_on(friend.next()).unwrap();
        friend.set_limits(Limits::AUTHENTICATED);
        assert_eq!(block_on(friend.next()).unwrap().unwrap(), large);
    }

    #[test]
    fn an_announced_giant_sets_no_memory_aside_until_it_arrives() {
        let mut bytes = BytesMut::new();
        let giant = Prefix { header: 3, buffers: vec![MAX_BUFFER_BYTES] };
        giant.encode(&Limits::AUTHENTICATED, &mut bytes).unwrap();
        bytes.extend_from_slice(&[0; 1000]);
        let mut reader = reader(bytes.freeze(), vec![usize::MAX]);
        assert!(matches!(block_on(reader.next()), Err(LinkError::CutShort)));
        let filling = reader.partial.unwrap().current.unwrap();
        assert!(filling.bytes.capacity() <= 8 << 20, "{} bytes", filling.bytes.capacity());
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let length = prop_oneof![8 => 0_usize..100, 1 => 0_usize..70_000];
        (0_usize..300, proptest::collection::vec(length, 0..4)).prop_map(|(h, b)| frame(h, &b))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_frames_survive_any_cutting(
            frames in proptest::collection::vec(any_frame(), 0..8),
            sizes in proptest::collection::vec(1_usize..50_000, 1..5),
        ) {
            let (read, error) = all(&mut reader(encoded(&frames), sizes));
            prop_assert!(error.is_none());
            prop_assert!(read == frames);
        }

        #[test]
        fn harmed_streams_end_in_frames_or_an_error(
            frames in proptest::collection::vec(any_frame(), 1..4),
            harms in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encoded(&frames);
            for (place, value) in harms {
                let at = place.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            let total = bytes.len() as u64;
            let (read, _) = all(&mut reader(bytes, vec![700]));
            prop_assert!(read.iter().map(Frame::nbytes).sum::<u64>() <= total);
        }
    }
}
