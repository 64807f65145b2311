//! A worker's log: handed on to the job's log as it comes, and its last lines kept for the verdict.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, PipeReader, Read, Write};

/// Lines that a verdict has.
const LINES: usize = 20;
/// Bytes of a line that are kept.
const LINE_BYTES: usize = 2000;
/// Reads before signals get their turn; together more than a pipe holds.
const READS_A_TURN: usize = 64;

pub(super) struct LogTail {
    pipe: Option<PipeReader>,
    lines: VecDeque<String>,
    line: Vec<u8>,
}

impl LogTail {
    pub(super) fn new(pipe: PipeReader) -> io::Result<LogTail> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(LogTail { pipe: Some(pipe), lines: VecDeque::new(), line: Vec::new() })
    }

    /// None once the worker has closed it.
    pub(super) fn pipe(&self) -> Option<&PipeReader> {
        self.pipe.as_ref()
    }

    /// Takes what is there, and hands it on to `job_log`.
    pub(super) fn pump(&mut self, job_log: &mut impl Write) {
        let mut bytes = [0; 16 << 10];
        for _ in 0..READS_A_TURN {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut bytes) {
                Ok(0) => self.pipe = None,
                Ok(n) => {
                    // A log that is closed or full is no reason to stop a worker.
                    let _ = job_log.write_all(&bytes[..n]);
                    self.keep(&bytes[..n]);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    /// The last lines, one without its end included.
    pub(super) fn lines(&mut self) -> Vec<String> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.lines.iter().cloned().collect()
    }

    fn keep(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line();
            } else if self.line.len() < LINE_BYTES {
                self.line.push(*byte);
            }
        }
    }

    fn end_line(&mut self) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(String::from_utf8_lossy(&self.line).into_owned());
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_all_of_them_handed_on() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut tail = LogTail::new(reader).unwrap();
        let mut job_log = Vec::new();
        tail.pump(&mut job_log);
        for i in 0..30 {
            writeln!(writer, "line {i}").unwrap();
        }
        write!(writer, "{}", "x".repeat(3000)).unwrap();
        drop(writer);
        tail.pump(&mut job_log);
        assert!(tail.pipe().is_none());
        let lines = tail.lines();
        assert_eq!((lines.len(), lines[0].as_str(), lines[19].len()), (20, "line 11", 2000));
        assert!(job_log.starts_with(b"line 0\nline 1\n") && job_log.ends_with(b"xx"));
    }
}
