//! A segment read piece by piece: what is read is told at once, and its memory taken for the next piece. Fresh memory
//! costs more than reading a file that was written lately.

use super::source::{Files, Opened};
use crate::journal::JournalError;
use crate::journal::record::{FileHeader, HEADER_BYTES, Place, Record, Records, extent, sound};
use std::io::{self, Read};
use std::path::PathBuf;

/// Read at once, unless a record is longer.
const PIECE_BYTES: usize = 256 << 10;

/// A file, as far as it was read.
pub(super) struct Tape {
    path: PathBuf,
    source: Box<dyn Read>,
    /// Length of the file when it was opened.
    pub nbytes: u64,
    /// Bytes to be read still.
    left: usize,
    buffer: Vec<u8>,
    /// Of the buffer: what was told lies before, what was read and not told up to `filled`.
    told: usize,
    filled: usize,
}

/// How far the records of a segment go.
pub(super) struct Told {
    /// Length of the sound ones.
    pub valid_bytes: usize,
    pub next_seq: u64,
    /// What is wrong behind them, unless it is their end or torn.
    pub damage: Option<String>,
}

impl Tape {
    /// # Errors
    /// The file can't be read.
    pub fn open(files: &impl Files, place: Place) -> Result<Tape, JournalError> {
        let name = place.file_name();
        let Opened { source, nbytes } = files.open(&name)?;
        let left = usize::try_from(nbytes).unwrap_or(usize::MAX);
        let path = files.dir().join(name);
        Ok(Tape { path, source, nbytes, left, buffer: Vec::new(), told: 0, filled: 0 })
    }

    /// Only so many bytes count. To be called before anything is read.
    pub fn limit(&mut self, nbytes: u64) {
        self.left = self.left.min(usize::try_from(nbytes).unwrap_or(usize::MAX));
    }

    /// The file's header, not decoded.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn header(&mut self) -> Result<Vec<u8>, JournalError> {
        let bytes = self.look(HEADER_BYTES)?;
        let header = bytes[..bytes.len().min(HEADER_BYTES)].to_vec();
        self.told += header.len();
        Ok(header)
    }

    /// What `take` makes of the first record; `None` if that isn't whole, as after a crash; in words what is wrong if it
    /// is damaged.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn first<T>(
        &mut self,
        header: FileHeader,
        take: impl FnOnce(Record<'_>) -> T,
    ) -> Result<Result<Option<T>, String>, JournalError> {
        if let Some((record, _)) = self.sound(header)? {
            return Ok(Ok(Some(take(record))));
        }
        let damage = Records::new(self.look(usize::MAX)?, header).find_map(Result::err);
        Ok(damage.map_or(Ok(None), |damaged| Err(damaged.to_string())))
    }

    /// Tells every sound record from where it stands, and finds out why there are no more.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn tell(
        &mut self,
        header: FileHeader,
        mut each: impl FnMut(Record<'_>),
    ) -> Result<Told, JournalError> {
        let (mut next_seq, mut valid_bytes) = (header.first_seq, 0);
        while let Some((record, nbytes)) = self.sound(FileHeader { first_seq: next_seq, ..header })? {
            each(record);
            self.told += nbytes;
            (next_seq, valid_bytes) = (next_seq + 1, valid_bytes + nbytes);
        }
        // The end, or no sound record: which of the two, all that follows tells.
        let mut rest = Records::new(self.look(usize::MAX)?, FileHeader { first_seq: next_seq, ..header });
        let damage = rest.find_map(|outcome| outcome.map(&mut each).err());
        let damage = damage.map(|damaged| damaged.behind(valid_bytes).to_string());
        Ok(Told { valid_bytes: valid_bytes + rest.valid_bytes(), next_seq: rest.next_seq(), damage })
    }

    /// The record that comes now, and its length, if it is sound and the one that `header` wants first.
    ///
    /// # Errors
    /// The file can't be read.
    fn sound(&mut self, header: FileHeader) -> Result<Option<(Record<'_>, usize)>, JournalError> {
        let Some(nbytes) = extent(self.look(size_of::<u32>())?) else { return Ok(None) };
        Ok(sound(self.look(nbytes)?, header))
    }

    /// What was read and not told: so many bytes at least, if there are.
    ///
    /// # Errors
    /// The file can't be read.
    fn look(&mut self, nbytes: usize) -> Result<&[u8], JournalError> {
        if self.filled - self.told < nbytes && self.left > 0 {
            self.fill(nbytes).map_err(|error| JournalError::io("read", &self.path, error))?;
        }
        Ok(&self.buffer[self.told..self.filled])
    }

    fn fill(&mut self, nbytes: usize) -> io::Result<()> {
        self.buffer.copy_within(self.told..self.filled, 0);
        (self.told, self.filled) = (0, self.filled - self.told);
        // What a record says of its length takes no more memory than the file has bytes.
        let wanted = nbytes.max(PIECE_BYTES).min(self.filled.saturating_add(self.left));
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        while self.filled < wanted {
            match self.source.read(&mut self.buffer[self.filled..wanted]) {
                Ok(0) => self.left = 0,
                Ok(nbytes) => (self.filled, self.left) = (self.filled + nbytes, self.left - nbytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.left == 0 {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record::{RECORD_OVERHEAD_BYTES, encode};

    const HEADER: FileHeader = FileHeader { place: Place::segment(3, 0), first_seq: 100 };

    /// Gives a few bytes at a time, as a file server may.
    struct Drops(io::Cursor<Vec<u8>>);

    impl Read for Drops {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(7_919);
            self.0.read(&mut buffer[..most])
        }
    }

    fn tape(bytes: &[u8]) -> Tape {
        Tape {
            path: "journal".into(),
            source: Box::new(Drops(io::Cursor::new(bytes.to_vec()))),
            nbytes: bytes.len() as u64,
            left: bytes.len(),
            buffer: Vec::new(),
            told: 0,
            filled: 0,
        }
    }

    /// Several pieces long, with records shorter and longer than one.
    fn segment() -> (Vec<u8>, usize) {
        let sizes = [0, 40, 90_000, 7, 200_000, 700_000, 1, 130_000, 262_122, 262_144, 50];
        let mut bytes = HEADER.encode().to_vec();
        for (seq, size) in (HEADER.first_seq..).zip(sizes) {
            let body = vec![seq as u8; size];
            assert!(encode(&Record { seq, epoch: 3, kind: 1, version: 1, body: &body }, &mut bytes));
        }
        (bytes, sizes.len())
    }

    /// The tape tells what the records in one piece tell.
    fn check(bytes: &[u8]) {
        let mut tape = tape(bytes);
        assert_eq!(tape.header().unwrap(), HEADER.encode());
        let mut told = Vec::new();
        let outcome = tape.tell(HEADER, |record| told.push((record.seq, record.body.len()))).unwrap();
        let mut whole = Records::new(&bytes[HEADER_BYTES..], HEADER);
        let (mut expected, mut damage) = (Vec::new(), None);
        for outcome in &mut whole {
            match outcome {
                Ok(record) => expected.push((record.seq, record.body.len())),
                Err(damaged) => damage = Some(damaged.to_string()),
            }
        }
        assert_eq!(told, expected);
        assert_eq!(
            (outcome.valid_bytes, outcome.next_seq, outcome.damage),
            (whole.valid_bytes(), whole.next_seq(), damage)
        );
    }

    #[test]
    fn pieces_tell_what_the_whole_tells_also_of_harmed_segments() {
        let (bytes, _) = segment();
        check(&bytes);
        let ends: Vec<usize> = (HEADER_BYTES..bytes.len()).step_by(61_111).chain([bytes.len() - 3]).collect();
        for at in ends {
            check(&bytes[..at]);
            let mut harmed = bytes.clone();
            harmed[at] ^= 4;
            check(&harmed);
            harmed[at..].fill(0);
            check(&harmed);
        }
    }

    #[test]
    fn memory_is_taken_for_a_piece_and_not_for_what_a_length_claims() {
        let record = |seq| Record { seq, epoch: 3, kind: 1, version: 1, body: &[7; 1000] };
        let mut bytes = HEADER.encode().to_vec();
        for seq in 100..2_000 {
            assert!(encode(&record(seq), &mut bytes));
        }
        let mut tape = tape(&bytes);
        tape.header().unwrap();
        assert_eq!(tape.tell(HEADER, |_| {}).unwrap().next_seq, 2_000);
        assert!(tape.buffer.len() <= PIECE_BYTES + 1_000 + RECORD_OVERHEAD_BYTES, "{}", tape.buffer.len());

        let mut claims = HEADER.encode().to_vec();
        claims.extend_from_slice(&(200_u32 << 20).to_le_bytes());
        let mut tape = self::tape(&claims);
        tape.header().unwrap();
        let told = tape.tell(HEADER, |_| {}).unwrap();
        assert_eq!((told.valid_bytes, told.damage, tape.buffer.len()), (0, None, claims.len()));
    }

    #[test]
    fn the_first_record_is_there_or_torn_or_damaged() {
        let (bytes, count) = segment();
        let first = |bytes: &[u8]| {
            let mut tape = tape(bytes);
            tape.header().unwrap();
            tape.first(HEADER, |record| record.seq).unwrap()
        };
        assert!(count > 1);
        assert_eq!(first(&bytes), Ok(Some(100)));
        assert_eq!(first(&bytes[..HEADER_BYTES + 3]), Ok(None));
        let mut harmed = bytes;
        harmed[HEADER_BYTES + 9] ^= 1;
        assert!(first(&harmed).unwrap_err().contains("record 100 at byte 0 is damaged"));
    }
}
