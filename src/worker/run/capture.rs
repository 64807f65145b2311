//! What a task prints: the beginning in memory, and all of it in a file once it is more than that.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes of one read: what a pipe holds at most by default.
const READ_BYTES: usize = 64 << 10;
/// Reads from one stream before the other one gets its turn.
const READS_A_TURN: usize = 16;

/// One captured stream.
pub(super) struct Capture {
    head: Vec<u8>,
    inline_limit: usize,
    file_limit: u64,
    path: PathBuf,
    file: Option<File>,
    written: u64,
    error: Option<String>,
}

/// Whether a stream may have more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stream {
    Open,
    Ended,
}

impl Capture {
    /// Keeps `inline_limit` bytes, and beyond that everything in the file `path`, of at most `file_limit` bytes.
    pub(super) fn new(path: PathBuf, inline_limit: usize, file_limit: u64) -> Capture {
        Capture { head: Vec::new(), inline_limit, file_limit, path, file: None, written: 0, error: None }
    }

    /// Takes what is there to read now, from a stream that doesn't block. A stream that can't be kept is read on
    /// all the same, so that the task doesn't hang on it; [`Capture::finish`] tells.
    pub(super) fn pump(&mut self, stream: &mut impl Read, scratch: &mut [u8]) -> Stream {
        for _ in 0..READS_A_TURN {
            match stream.read(scratch) {
                Ok(0) => return Stream::Ended,
                Ok(n) => self.keep(&scratch[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Stream::Open,
                Err(e) => {
                    self.error.get_or_insert(format!("reading it failed: {e}"));
                    return Stream::Ended;
                }
            }
        }
        Stream::Open
    }

    /// What went wrong, if anything; the task can't be called done then.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The last line that is in memory, for messages.
    pub(super) fn last_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.head);
        let line = text.lines().rev().map(str::trim).find(|l| !l.is_empty())?;
        Some(line.chars().take(300).collect())
    }

    /// The beginning, and the file that has everything if there is one, which is then on disk.
    pub(super) fn finish(mut self) -> (Vec<u8>, Option<PathBuf>, Option<String>) {
        let Some(file) = self.file.take() else { return (self.head, None, self.error) };
        if let Err(e) = file.sync_all() {
            self.error.get_or_insert(format!("{}: {e}", self.path.display()));
        }
        (self.head, Some(self.path), self.error)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.inline_limit - self.head.len();
        if self.file.is_none() && bytes.len() <= room {
            self.head.extend_from_slice(bytes);
            return;
        }
        if self.error.is_some() {
            return;
        }
        if let Err(e) = self.spill(bytes) {
            self.error = Some(format!("{}: {e}", self.path.display()));
        }
        self.head.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }

    fn spill(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut file = create(&self.path)?;
                file.write_all(&self.head)?;
                self.written = self.head.len() as u64;
                none.insert(file)
            }
        };
        self.written += bytes.len() as u64;
        if self.written > self.file_limit {
            let limit = self.file_limit;
            return Err(io::Error::other(format!("the task printed more than the limit of {limit} bytes")));
        }
        file.write_all(bytes)
    }
}

/// A buffer to read with.
pub(super) fn scratch() -> Vec<u8> {
    vec![0; READ_BYTES]
}

fn create(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(dir: &Path, text: &[u8]) -> (Vec<u8>, Option<PathBuf>, Option<String>) {
        let mut capture = Capture::new(dir.join("deeper/g1.1.stdout"), 8, 100);
        let mut stream = text;
        // A small buffer, so that the limit falls within a read.
        while capture.pump(&mut stream, &mut [0; 5]) == Stream::Open {}
        capture.finish()
    }

    #[test]
    fn little_stays_in_memory_and_more_is_in_a_file_from_its_first_byte() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(capture(dir.path(), b"12345678"), (b"12345678".to_vec(), None, None));
        let (head, file, error) = capture(dir.path(), b"1234567890abc");
        assert_eq!((head.as_slice(), error), (&b"12345678"[..], None));
        assert_eq!(fs::read(file.unwrap()).unwrap(), b"1234567890abc");
    }

    #[test]
    fn what_cant_be_kept_is_told_and_the_beginning_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (head, _, error) = capture(dir.path(), &[b'x'; 200]);
        assert_eq!(head, [b'x'; 8]);
        assert!(error.unwrap().contains("limit of 100 bytes"));

        fs::write(dir.path().join("plain"), "").unwrap();
        let (head, file, error) = capture(&dir.path().join("plain"), &[b'x'; 50]);
        assert_eq!((head.len(), file), (8, None));
        assert!(error.unwrap().contains("deeper"));
    }
}
