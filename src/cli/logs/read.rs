//! Reading logs of any size in bounded memory.

use crate::cli::exit::CliError;
use crate::config::about_size;
use crate::worker::supervisor::VerdictRecord;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const BLOCK_BYTES: usize = 64 << 10;
/// Most bytes of a log in a JSON report.
pub const MAX_REPORT_BYTES: u64 = 64 << 20;

/// Why a copy stopped: at its source or at its reader.
pub enum CopyError {
    Source(io::Error),
    Sink(CliError),
}

impl CopyError {
    /// The reader's error, or what `told` makes of the source's.
    pub fn or_else(self, told: impl FnOnce(io::Error) -> CliError) -> CliError {
        match self {
            CopyError::Source(error) => told(error),
            CopyError::Sink(error) => error,
        }
    }
}

/// Where the last `lines` lines of the first `end` bytes begin; the beginning for all lines.
///
/// # Errors
/// The file can't be read.
pub fn start(file: &File, end: u64, lines: Option<u64>) -> io::Result<u64> {
    let Some(wanted) = lines else { return Ok(0) };
    if wanted == 0 {
        return Ok(end);
    }
    let mut block = vec![0; BLOCK_BYTES];
    let (mut ends, mut upper) = (0, end);
    while upper > 0 {
        let lower = upper.saturating_sub(BLOCK_BYTES as u64);
        let length = usize::try_from(upper - lower).unwrap_or(BLOCK_BYTES);
        let part = &mut block[..length];
        match file.read_exact_at(part, lower) {
            Ok(()) => {}
            // It was truncated meanwhile: from its beginning, then.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            Err(error) => return Err(error),
        }
        for (index, byte) in part.iter().enumerate().rev() {
            let at = lower + index as u64;
            // The end of the last line is not the beginning of another.
            if *byte == b'\n' && at + 1 < end {
                ends += 1;
                if ends == wanted {
                    return Ok(at + 1);
                }
            }
        }
        upper = lower;
    }
    Ok(0)
}

/// Gives that part of the file to `sink`, block by block; where it was left.
///
/// # Errors
/// The file can't be read, or `sink` takes no more.
pub fn copy(
    file: &File,
    range: Range<u64>,
    mut sink: impl FnMut(&[u8]) -> Result<(), CliError>,
) -> Result<u64, CopyError> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = range.start;
    while at < range.end {
        let length = usize::try_from(range.end - at).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        match file.read_at(&mut block[..length], at) {
            Ok(0) => break,
            Ok(count) => {
                sink(&block[..count]).map_err(CopyError::Sink)?;
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Source(error)),
        }
    }
    Ok(at)
}

/// How a worker died, in a line that can't be taken for one of the log.
pub fn obituary(verdict: &VerdictRecord) -> String {
    let memory = if verdict.peak_rss > 0 {
        format!(", at most {} of memory", about_size(verdict.peak_rss))
    } else {
        String::new()
    };
    let killed = match verdict.processes_killed {
        0 => String::new(),
        1 => ", a process that it had left was killed".to_owned(),
        count => format!(", {count} processes that it had left were killed"),
    };
    let cause: String = verdict.cause.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    format!(
        "==> {} (process {}) {cause}; {}{memory}{killed}",
        crate::cli::output::printable(&verdict.worker),
        verdict.pid,
        utc(verdict.ended)
    )
}

/// `2026-11-20 09:54:55 UTC`. Days to a date as in Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".
fn utc(unix: u64) -> String {
    let (days, second) = (unix / 86_400, unix % 86_400);
    // Years begin in March, so that the leap day is the last; eras of 400 years begin on 0000-03-01.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn last(text: &[u8], lines: u64) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        let from = start(&file, text.len() as u64, Some(lines)).unwrap();
        text[usize::try_from(from).unwrap()..].to_vec()
    }

    #[test]
    fn the_last_lines_are_found_with_and_without_an_end() {
        for (text, lines, expected) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\nc\n", 3, "a\nb\nc\n"),
            ("a\nb\nc\n", 9, "a\nb\nc\n"),
            ("a\nb\n", 0, ""),
            ("\n\n\n", 2, "\n\n"),
            ("", 5, ""),
            ("no end", 1, "no end"),
        ] {
            assert_eq!(last(text.as_bytes(), lines), expected.as_bytes(), "{text:?} {lines}");
        }
    }

    #[test]
    fn lines_longer_than_a_block_are_one_line() {
        let long = [vec![b'x'; 3 * BLOCK_BYTES], b"\n".to_vec()].concat();
        let text = [b"first\n".to_vec(), long.clone(), b"last\n".to_vec()].concat();
        assert_eq!(last(&text, 2), [long, b"last\n".to_vec()].concat());
    }

    #[test]
    fn every_number_of_lines_of_a_large_log_is_right() {
        let text: Vec<u8> = (0..30_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        for wanted in [1_u64, 7, 6000, 29_999, 30_000] {
            let found = last(&text, wanted);
            assert_eq!(found.iter().filter(|byte| **byte == b'\n').count() as u64, wanted);
            assert!(found.starts_with(format!("line {}\n", 30_000 - wanted).as_bytes()));
        }
    }

    #[test]
    fn a_copy_ends_where_the_file_does_and_stops_with_its_reader() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![b'y'; 3 * BLOCK_BYTES + 5]).unwrap();
        let mut seen = 0;
        let count = |bytes: &[u8]| {
            seen += bytes.len();
            Ok(())
        };
        let Ok(end) = copy(&file, 2..u64::MAX, count) else { panic!("the file can be read") };
        assert_eq!((end, seen as u64), (3 * BLOCK_BYTES as u64 + 5, 3 * BLOCK_BYTES as u64 + 3));
        let mut calls = 0;
        let refuse = |_: &[u8]| {
            calls += 1;
            Err(CliError::silent(crate::cli::exit::Exit::Ok))
        };
        assert!(matches!(copy(&file, 0..u64::MAX, refuse), Err(CopyError::Sink(_))));
        assert_eq!(calls, 1);
    }

    #[test]
    fn instants_are_told_as_dates() {
        for (unix, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (1_795_168_495, "2026-11-20 09:54:55 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(unix), text);
        }
    }

    #[test]
    fn an_obituary_names_the_cause_and_moves_no_cursor() {
        let verdict = VerdictRecord {
            worker: "w3".into(),
            pid: 42,
            cause: "ended by signal SIGKILL\u{1b}[2J".into(),
            ended: 951_782_400,
            peak_rss: 3 << 30,
            processes_killed: 2,
            ..VerdictRecord::default()
        };
        let text = obituary(&verdict);
        assert_eq!(
            text,
            "==> w3 (process 42) ended by signal SIGKILL?[2J; 2000-02-29 00:00:00 UTC, at most 3.00 GiB of \
             memory, 2 processes that it had left were killed"
        );
    }
}
