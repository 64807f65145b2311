//! Signals as bytes in a pipe: the handler can be installed whatever threads there are, and leaves no blocked
//! signals to the children.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// The writing end; -1: no handler is installed.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// A child ended, or somebody wants this process to end.
const HANDLED: [Signal; 4] = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Catches signals until it is dropped.
pub(super) struct Signals {
    reader: PipeReader,
    _writer: PipeWriter,
    before: Vec<(Signal, SigAction)>,
}

impl Signals {
    /// None if somebody in this process has them already.
    pub(super) fn install() -> io::Result<Option<Signals>> {
        let (reader, writer) = io::pipe()?;
        for fd in [reader.as_fd(), writer.as_fd()] {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        if PIPE.compare_exchange(-1, writer.as_raw_fd(), Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return Ok(None);
        }
        let mut signals = Signals { reader, _writer: writer, before: Vec::new() };
        let flags = SaFlags::SA_RESTART | SaFlags::SA_NOCLDSTOP;
        let action = SigAction::new(SigHandler::Handler(on_signal), flags, SigSet::empty());
        for signal in HANDLED {
            // SAFETY: the handler does nothing but write(2), which is async-signal-safe, and keeps errno.
            let before = unsafe { sigaction(signal, &action) }?;
            signals.before.push((signal, before));
            if signal == Signal::SIGHUP && matches!(before.handler(), SigHandler::SigIgn) {
                // Started by nohup: so it stays.
                // SAFETY: puts back the action that was there.
                unsafe { sigaction(signal, &before) }?;
            }
        }
        Ok(Some(signals))
    }

    /// Readable when a signal has come.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// The signals that have come.
    pub(super) fn take(&mut self) -> Vec<Signal> {
        let mut bytes = [0; 256];
        let mut signals = Vec::new();
        while let Ok(n @ 1..) = self.reader.read(&mut bytes) {
            signals.extend(bytes[..n].iter().filter_map(|b| Signal::try_from(i32::from(*b)).ok()));
        }
        signals
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            // SAFETY: puts back the action that was there.
            let _ = unsafe { sigaction(*signal, before) };
        }
        PIPE.store(-1, Ordering::SeqCst);
    }
}

extern "C" fn on_signal(signal: libc::c_int) {
    let byte = signal as u8;
    let fd = PIPE.load(Ordering::SeqCst);
    // SAFETY: errno is this thread's; the byte lives through the write of one. A full pipe loses a signal of
    // which many are waiting to be read already, and a closed one belongs to nobody.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(fd, (&raw const byte).cast(), 1);
        *libc::__errno_location() = errno;
    }
}
