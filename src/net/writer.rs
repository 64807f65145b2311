//! Frames into a byte stream.
//!
//! Small parts of many frames are gathered in one buffer; large ones are queued as they are, without a copy. `flush`
//! hands both to the system in vectored writes. What has been queued and how far it was written is kept in the
//! writer, so dropping the future of `flush` loses nothing.

use super::LinkError;
use super::frame::{Frame, FrameError, Limits};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Parts up to this length are copied: cheaper than a slot of a vectored write.
const COPY_BYTES: usize = 4 << 10;
/// `send` writes once so much is queued, so that a long batch neither waits for its end nor fills memory.
const WRITE_ABOVE_BYTES: usize = 1 << 20;
/// Slices of one vectored write; Linux takes 1024, and more than a few dozen gain nothing.
const MAX_SLICES: usize = 64;
/// Memory that the gathering buffer keeps between flushes.
const GATHER_BYTES: usize = 16 << 10;

/// Writes frames to `stream`.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    limits: Limits,
    /// Small parts since the last large one.
    gathered: BytesMut,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    needs_flush: bool,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// A writer with the limits of authenticated peers: what we send is ours to decide, but a frame that every
    /// receiver refuses is refused here.
    pub fn new(stream: W) -> Self {
        Self {
            stream,
            limits: Limits::AUTHENTICATED,
            gathered: BytesMut::new(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            needs_flush: false,
        }
    }

    /// Queues a frame without writing.
    ///
    /// # Errors
    /// The frame is over the limits; nothing of it has been queued.
    pub fn queue(&mut self, frame: &Frame) -> Result<(), FrameError> {
        frame.prefix().encode(&self.limits, &mut self.gathered)?;
        for part in std::iter::once(&frame.header).chain(&frame.buffers) {
            if part.len() <= COPY_BYTES {
                self.gathered.extend_from_slice(part);
            } else {
                self.close_gathered();
                self.queue.push_back(part.clone());
            }
        }
        self.queued_bytes += usize::try_from(frame.nbytes()).unwrap_or(usize::MAX);
        Ok(())
    }

    /// Queues a frame, and writes if much is queued. Nothing is sure to leave before [`FrameWriter::flush`].
    ///
    /// # Errors
    /// The frame is over the limits, or the connection is broken.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), LinkError> {
        self.queue(frame)?;
        if self.queued_bytes >= WRITE_ABOVE_BYTES {
            self.write_queued().await?;
        }
        Ok(())
    }

    /// Sends many frames and flushes.
    ///
    /// # Errors
    /// As [`FrameWriter::send`].
    pub async fn send_all(&mut self, frames: &[Frame]) -> Result<(), LinkError> {
        for frame in frames {
            self.send(frame).await?;
        }
        self.flush().await
    }

    /// Writes all that is queued. Cancel safe: a later call goes on where a dropped one was.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        self.write_queued().await?;
        if self.needs_flush {
            self.stream.flush().await?;
            self.needs_flush = false;
        }
        Ok(())
    }

    /// Bytes that are queued and not yet written.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Flushes and tells the peer that nothing more comes.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn close(&mut self) -> Result<(), LinkError> {
        self.flush().await?;
        self.stream.shutdown().await?;
        Ok(())
    }

    async fn write_queued(&mut self) -> io::Result<()> {
        self.close_gathered();
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let used = self.queue.len().min(MAX_SLICES);
            for (slice, part) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(part);
            }
            let written = self.stream.write_vectored(&slices[..used]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.needs_flush = true;
            self.advance(written);
        }
        self.queued_bytes = 0;
        Ok(())
    }

    /// Drops `written` bytes from the front of the queue.
    fn advance(&mut self, mut written: usize) {
        self.queued_bytes = self.queued_bytes.saturating_sub(written);
        while let Some(part) = self.queue.front_mut() {
            let step = written.min(part.len());
            part.advance(step);
            written -= step;
            if !part.is_empty() {
                return;
            }
            self.queue.pop_front();
        }
    }

    /// Moves the gathered small parts to the queue. `split` keeps the rest of the memory for the next ones, and
    /// `reserve` takes it all back once the queue has let go.
    fn close_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.queue.push_back(self.gathered.split().freeze());
        }
        if self.gathered.capacity() == 0 {
            self.gathered.reserve(GATHER_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::pool::Pool;
    use crate::net::reader::FrameReader;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    /// Counts writes, takes a limited number of bytes each time, and is pending every other time.
    #[derive(Default)]
    struct Sink {
        bytes: Vec<u8>,
        writes: usize,
        at_most: usize,
        is_pending: bool,
    }

    impl AsyncWrite for Sink {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.is_pending = !self.is_pending;
            if self.is_pending {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.writes += 1;
            let mut left = self.at_most;
            for slice in slices {
                let step = left.min(slice.len());
                self.bytes.extend_from_slice(&slice[..step]);
                left -= step;
            }
            Poll::Ready(Ok(self.at_most - left))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn frames() -> Vec<Frame> {
        let value = |len: usize| Bytes::from(vec![len as u8; len]);
        (0..200)
            .map(|n| Frame { header: value(n), buffers: vec![value(n * 50), value(0), value(n)] })
            .collect()
    }

    async fn read_back(bytes: Vec<u8>) -> Vec<Frame> {
        let mut reader = FrameReader::new(&bytes[..], Pool::default());
        reader.set_limits(Limits::AUTHENTICATED);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await.unwrap() {
            frames.push(frame);
        }
        frames
    }

    #[tokio::test]
    async fn many_small_frames_leave_in_one_write() {
        let mut writer = FrameWriter::new(Sink { at_most: usize::MAX, ..Sink::default() });
        for _ in 0..1000 {
            writer.send(&Frame::new("forty bytes or so of a heartbeat message")).await.unwrap();
        }
        assert_eq!(writer.stream.writes, 0, "nothing leaves before the flush");
        writer.flush().await.unwrap();
        assert_eq!(writer.stream.writes, 1);
        assert_eq!(writer.queued_bytes(), 0);
        writer.flush().await.unwrap();
        assert_eq!(writer.stream.writes, 1);
    }

    #[tokio::test]
    async fn short_writes_and_dropped_flushes_lose_and_repeat_nothing() {
        for at_most in [1000, 4097, usize::MAX] {
            let mut writer = FrameWriter::new(Sink { at_most, ..Sink::default() });
            for frame in &frames() {
                writer.queue(frame).unwrap();
                for _ in 0..2 {
                    tokio::select! {
                        biased;
                        outcome = writer.flush() => outcome.unwrap(),
                        () = std::future::ready(()) => {}
                    }
                }
            }
            writer.flush().await.unwrap();
            assert!(read_back(writer.stream.bytes).await == frames(), "{at_most}");
        }
    }

    #[tokio::test]
    async fn a_long_batch_is_written_as_it_grows() {
        let mut writer = FrameWriter::new(Sink { at_most: usize::MAX, ..Sink::default() });
        let frame = Frame { header: Bytes::new(), buffers: vec![Bytes::from(vec![1; 300 << 10])] };
        for _ in 0..40 {
            writer.send(&frame).await.unwrap();
            assert!(writer.queued_bytes() < 2 * WRITE_ABOVE_BYTES);
        }
        assert!(writer.stream.writes >= 5);
    }

    #[tokio::test]
    async fn a_frame_that_no_peer_would_take_is_refused_whole() {
        let mut writer = FrameWriter::new(Sink { at_most: usize::MAX, ..Sink::default() });
        let frame = Frame { header: Bytes::from_static(b"h"), buffers: vec![Bytes::new(); 256] };
        assert_eq!(writer.queue(&frame), Err(FrameError::TooManyBuffers(256)));
        writer.send(&Frame::new("next")).await.unwrap();
        writer.flush().await.unwrap();
        assert_eq!(read_back(writer.stream.bytes).await, [Frame::new("next")]);
    }
}
