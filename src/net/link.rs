//! A connection to one peer, in both directions.

use super::frame::Limits;
use super::pool::Pool;
use super::reader::FrameReader;
use super::writer::FrameWriter;
use crate::state::Role;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::TlsStream;

/// Idle time after which the kernel probes whether the peer is there. Heartbeats come every 10 s, so this only
/// concerns links between workers, and clients that wait.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// Time between such probes.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// Unacknowledged for so long, a link is lost: longer than a switch takes to fail over, shorter than the default
/// death timeout of 120 s, so that a worker can still register anew in time.
const USER_TIMEOUT: Duration = Duration::from_secs(90);

/// What lies between the socket and the TLS library on the way in. The library asks for 4 KiB at a time, which would
/// be four system calls a record; with this it is one for several records.
const TLS_READ_BUFFER_BYTES: usize = 64 << 10;

/// The receiving half: frames in.
pub type Reader = FrameReader<ReadHalf>;
/// The sending half: frames out.
pub type Writer = FrameWriter<WriteHalf>;

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Link {
    stream: Stream,
    peer: Peer,
    limits: Limits,
    pool: Pool,
}

/// Who is at the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// As its certificate says; `None` without TLS: anyone.
    pub role: Option<Role>,
    /// The certificate of a granted reader, by which the grant is known.
    pub grant: Option<Vec<u8>>,
}

/// A TLS connection of ours.
type Tls = TlsStream<BufReader<TcpStream>>;

#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

/// Bytes in, from either kind of stream.
#[derive(Debug)]
pub enum ReadHalf {
    Plain(OwnedReadHalf),
    Tls(tokio::io::ReadHalf<Tls>),
}

/// Bytes out, to either kind of stream.
#[derive(Debug)]
pub enum WriteHalf {
    Plain(OwnedWriteHalf),
    Tls(tokio::io::WriteHalf<Tls>),
}

impl Link {
    pub(super) fn new(stream: Stream, peer: Peer, limits: Limits, pool: Pool) -> Self {
        Self { stream, peer, limits, pool }
    }

    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    #[cfg(test)]
    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// The two halves, each for a task of its own.
    ///
    /// The reader of an accepted link has the limits of unauthenticated peers until
    /// [`set_limits`](FrameReader::set_limits) raises them, that of a link that we made has those of authenticated
    /// ones.
    #[must_use]
    pub fn split(self) -> (Reader, Writer) {
        let (limits, pool) = (self.limits, self.pool.clone());
        let (read, write) = self.into_halves();
        let mut reader = FrameReader::new(read, pool);
        reader.set_limits(limits);
        (reader, FrameWriter::new(write))
    }

    /// The two halves without frames: bytes as they are, to measure what frames cost.
    #[must_use]
    pub fn into_halves(self) -> (ReadHalf, WriteHalf) {
        match self.stream {
            Stream::Plain(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Plain(read), WriteHalf::Plain(write))
            }
            Stream::Tls(stream) => {
                let (read, write) = tokio::io::split(*stream);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        }
    }
}

/// The socket as the TLS library gets it.
pub(super) fn buffered(stream: TcpStream) -> BufReader<TcpStream> {
    BufReader::with_capacity(TLS_READ_BUFFER_BYTES, stream)
}

/// Sets what every connection of ours has, on both sides: no delay of small messages, and an end to silence.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &seconds(KEEPALIVE_IDLE))?;
    setsockopt(stream, sockopt::TcpKeepInterval, &seconds(KEEPALIVE_EVERY))?;
    let milliseconds = u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, sockopt::TcpUserTimeout, &milliseconds)?;
    Ok(())
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_read(cx, buffer),
            Self::Tls(half) => Pin::new(half).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_write(cx, bytes),
            Self::Tls(half) => Pin::new(half).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_write_vectored(cx, slices),
            Self::Tls(half) => Pin::new(half).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(half) => half.is_write_vectored(),
            Self::Tls(half) => half.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_flush(cx),
            Self::Tls(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_shutdown(cx),
            Self::Tls(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
