//! The frame, as a pure format.
//!
//! ```text
//! u32 header length | u8 number of bulk buffers | u64 length of each | header | the bulk buffers
//! ```
//!
//! Numbers are little-endian. The header is MessagePack made by others; bulk buffers are values that nobody encodes
//! again on their way. All lengths come first, so that a reader knows every size, and can refuse it, before it
//! sets memory aside. Text of another protocol on our port reads as an absurd header length.

use bytes::{Bytes, BytesMut};

/// Longest header: a graph of a few million tasks as columns. More is split by its sender.
pub const MAX_HEADER_BYTES: u64 = 64 << 20;
/// Most bulk buffers: the count is one byte.
pub const MAX_BUFFERS: usize = 255;
/// Longest bulk buffer: one value of a task; larger ones would not fit a worker's memory anyway.
pub const MAX_BUFFER_BYTES: u64 = 16 << 30;
/// Longest frame in all: four of the largest values.
pub const MAX_FRAME_BYTES: u64 = 64 << 30;
/// Longest frame from a peer that hasn't yet said, and shown, who it is: a hello has some hundred bytes.
pub const MAX_UNAUTHENTICATED_BYTES: u64 = 64 << 10;

/// Bytes of the prefix without the lengths of the buffers.
pub const FIXED_PREFIX_BYTES: usize = 5;
/// Bytes of the longest prefix.
pub const MAX_PREFIX_BYTES: usize = FIXED_PREFIX_BYTES + 8 * MAX_BUFFERS;

/// One message with its values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frame {
    /// Encoded by the protocol. It may share memory with other frames that arrived with it: decode and drop it.
    pub header: Bytes,
    pub buffers: Vec<Bytes>,
}

/// What a link accepts. Sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub header: u64,
    pub buffer: u64,
    pub frame: u64,
}

/// Why a frame was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    #[error(
        "the peer sent a header of {nbytes} bytes where {limit} are allowed; it may not speak jobq's protocol"
    )]
    HeaderTooLong { nbytes: u64, limit: u64 },
    #[error("a value of {nbytes} bytes is more than the {limit} that a message may carry")]
    BufferTooLong { nbytes: u64, limit: u64 },
    #[error("a message of {nbytes} bytes is more than the {limit} allowed")]
    FrameTooLong { nbytes: u64, limit: u64 },
    #[error("{0} values are more than the {MAX_BUFFERS} that a message may carry")]
    TooManyBuffers(usize),
    #[error("no memory for a message part of {nbytes} bytes")]
    NoMemory { nbytes: u64 },
}

/// The lengths at the start of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prefix {
    pub header: u64,
    pub buffers: Vec<u64>,
}

impl Limits {
    /// For peers whose certificate and hello have been accepted.
    pub const AUTHENTICATED: Self =
        Self { header: MAX_HEADER_BYTES, buffer: MAX_BUFFER_BYTES, frame: MAX_FRAME_BYTES };

    /// For all others: every part at most `nbytes`, usually [`MAX_UNAUTHENTICATED_BYTES`].
    #[must_use]
    pub const fn unauthenticated(nbytes: u64) -> Self {
        Self { header: nbytes, buffer: nbytes, frame: nbytes }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::unauthenticated(MAX_UNAUTHENTICATED_BYTES)
    }
}

impl Frame {
    /// A frame without values.
    pub fn new(header: impl Into<Bytes>) -> Self {
        Self { header: header.into(), buffers: Vec::new() }
    }

    /// Length on the wire.
    #[must_use]
    pub fn nbytes(&self) -> u64 {
        let values: u64 = self.buffers.iter().map(|buffer| buffer.len() as u64).sum();
        (FIXED_PREFIX_BYTES + 8 * self.buffers.len() + self.header.len()) as u64 + values
    }

    /// The lengths that precede it.
    #[must_use]
    pub fn prefix(&self) -> Prefix {
        Prefix {
            header: self.header.len() as u64,
            buffers: self.buffers.iter().map(|buffer| buffer.len() as u64).collect(),
        }
    }
}

impl Prefix {
    /// Reads a prefix from the first bytes of a frame. `Ok(None)`: more bytes are needed.
    ///
    /// # Errors
    /// A length is over its limit.
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Option<Self>, FrameError> {
        let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_PREFIX_BYTES>() else { return Ok(None) };
        let [a, b, c, d, count] = *fixed;
        let header = u64::from(u32::from_le_bytes([a, b, c, d]));
        if header > limits.header {
            return Err(FrameError::HeaderTooLong { nbytes: header, limit: limits.header });
        }
        let count = usize::from(count);
        let (lengths, _) = rest.as_chunks::<8>();
        let Some(lengths) = lengths.get(..count) else { return Ok(None) };
        let prefix =
            Self { header, buffers: lengths.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect() };
        prefix.check(limits)?;
        Ok(Some(prefix))
    }

    /// Appends the prefix to `out`.
    ///
    /// # Errors
    /// A length is over its limit; nothing has been appended then.
    pub fn encode(&self, limits: &Limits, out: &mut BytesMut) -> Result<(), FrameError> {
        self.check(limits)?;
        let too_long = FrameError::HeaderTooLong { nbytes: self.header, limit: limits.header };
        let header = u32::try_from(self.header).map_err(|_| too_long)?;
        let count =
            u8::try_from(self.buffers.len()).map_err(|_| FrameError::TooManyBuffers(self.buffers.len()))?;
        out.reserve(self.nbytes());
        out.extend_from_slice(&header.to_le_bytes());
        out.extend_from_slice(&[count]);
        for length in &self.buffers {
            out.extend_from_slice(&length.to_le_bytes());
        }
        Ok(())
    }

    /// Length of the prefix itself.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        FIXED_PREFIX_BYTES + 8 * self.buffers.len()
    }

    fn check(&self, limits: &Limits) -> Result<(), FrameError> {
        if self.header > limits.header {
            return Err(FrameError::HeaderTooLong { nbytes: self.header, limit: limits.header });
        }
        if self.buffers.len() > MAX_BUFFERS {
            return Err(FrameError::TooManyBuffers(self.buffers.len()));
        }
        if let Some(nbytes) = self.buffers.iter().copied().find(|nbytes| *nbytes > limits.buffer) {
            return Err(FrameError::BufferTooLong { nbytes, limit: limits.buffer });
        }
        let nbytes = self.buffers.iter().fold(self.header, |sum, nbytes| sum.saturating_add(*nbytes));
        if nbytes > limits.frame {
            return Err(FrameError::FrameTooLong { nbytes, limit: limits.frame });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(prefix: &Prefix) -> BytesMut {
        let mut out = BytesMut::new();
        prefix.encode(&Limits::AUTHENTICATED, &mut out).unwrap();
        out
    }

    #[test]
    fn the_bytes_are_as_the_format_says() {
        let prefix = Prefix { header: 0x0102, buffers: vec![3, 1 << 32] };
        assert_eq!(encoded(&prefix)[..], [2, 1, 0, 0, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        let frame = Frame { header: Bytes::from_static(b"h"), buffers: vec![Bytes::from_static(b"abc")] };
        assert_eq!(frame.nbytes(), 5 + 8 + 1 + 3);
        assert_eq!(frame.prefix(), Prefix { header: 1, buffers: vec![3] });
    }

    #[test]
    fn another_protocols_text_is_refused_at_its_first_bytes() {
        for text in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x", b"\x16\x03\x01\x02\x00\x01"] {
            let refused = Prefix::decode(text, &Limits::default());
            assert!(matches!(refused, Err(FrameError::HeaderTooLong { .. })), "{text:?}");
        }
    }

    #[test]
    fn each_limit_is_held_on_both_ways() {
        let limits = Limits { header: 10, buffer: 20, frame: 30 };
        let cases = [
            (Prefix { header: 11, buffers: vec![] }, FrameError::HeaderTooLong { nbytes: 11, limit: 10 }),
            (Prefix { header: 0, buffers: vec![1, 21] }, FrameError::BufferTooLong { nbytes: 21, limit: 20 }),
            (Prefix { header: 10, buffers: vec![20, 1] }, FrameError::FrameTooLong { nbytes: 31, limit: 30 }),
        ];
        for (prefix, error) in cases {
            assert_eq!(Prefix::decode(&encoded(&prefix), &limits), Err(error.clone()));
            assert_eq!(prefix.encode(&limits, &mut BytesMut::new()), Err(error));
        }
        let many = Prefix { header: 0, buffers: vec![0; 256] };
        let error = many.encode(&Limits::AUTHENTICATED, &mut BytesMut::new());
        assert_eq!(error, Err(FrameError::TooManyBuffers(256)));
        let absurd = Prefix { header: 0, buffers: vec![u64::MAX; 255] };
        let limits = Limits { buffer: u64::MAX, ..Limits::AUTHENTICATED };
        let error = absurd.encode(&limits, &mut BytesMut::new());
        assert_eq!(error, Err(FrameError::FrameTooLong { nbytes: u64::MAX, limit: MAX_FRAME_BYTES }));
    }

    proptest! {
        #[test]
        fn a_prefix_reads_back_from_exactly_its_bytes(
            header in 0..=MAX_HEADER_BYTES,
            buffers in proptest::collection::vec(0..=(MAX_FRAME_BYTES - MAX_HEADER_BYTES) / 255, 0..=MAX_BUFFERS),
            tail in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let prefix = Prefix { header, buffers: buffers.into_iter().map(|n| n.min(MAX_BUFFER_BYTES)).collect() };
            let mut bytes = encoded(&prefix);
            prop_assert_eq!(bytes.len(), prefix.nbytes());
            for len in 0..bytes.len() {
                prop_assert_eq!(Prefix::decode(&bytes[..len], &Limits::AUTHENTICATED), Ok(None));
            }
            bytes.extend_from_slice(&tail);
            prop_assert_eq!(Prefix::decode(&bytes, &Limits::AUTHENTICATED), Ok(Some(prefix)));
        }

        #[test]
        fn no_bytes_make_it_panic_or_pass_the_limits(bytes in proptest::collection::vec(any::<u8>(), 0..2100)) {
            let limits = Limits { header: 1 << 30, buffer: 1 << 62, frame: 1 << 62 };
            if let Ok(Some(prefix)) = Prefix::decode(&bytes, &limits) {
                prop_assert!(prefix.header <= limits.header);
                prop_assert!(prefix.buffers.iter().all(|n| *n <= limits.buffer));
                prop_assert_eq!(&encoded_with(&prefix, &limits)[..], &bytes[..prefix.nbytes()]);
            }
        }
    }

    fn encoded_with(prefix: &Prefix, limits: &Limits) -> BytesMut {
        let mut out = BytesMut::new();
        prefix.encode(limits, &mut out).unwrap();
        out
    }
}
