//! The journal's format, pure.
//!
//! ```text
//! segment   header | record | record | ...
//! snapshot  header | record | record | ... | end
//! header    "jobqjnl1" or, of a snapshot, "jobqsnp1" | u32 epoch | u32 index | u64 first seq | u32 0 |
//!           u32 crc32c of the 28 bytes before
//! record    u32 length of what follows the checksum | u32 crc32c of the length and of what follows |
//!           u64 seq | u32 epoch | u8 kind | u8 version | body
//! seal      body of an epoch's first record: of each older file that counts, u32 epoch | u32 index, its highest bit
//!           set for a snapshot | u64 length
//! end       body of a snapshot's last record: u64 number of the records before it
//! ```
//!
//! A snapshot stands for every record before the segment of the same epoch and index; its own records are numbered
//! from 1. The digit at the end of the magic is [`crate::STATE_FORMAT`].
//!
//! Numbers are little-endian. Within a segment the sequence numbers follow each other and the epoch is one, so a
//! record is known by more than its checksum. A crash leaves a torn tail: a record that isn't whole, and nothing
//! valid after it. Something valid after a bad record is damage, and is told apart from a torn tail.

/// Longest body: a graph's columns of a few million tasks; more is split by its author.
pub const MAX_BODY_BYTES: usize = 256 << 20;
/// Bytes of a record besides its body.
pub const RECORD_OVERHEAD_BYTES: usize = PREFIX_BYTES + FIXED_BYTES;
/// Bytes of a file's header.
pub const HEADER_BYTES: usize = 32;
/// The journal's own kind: the seal over older segments.
pub const KIND_SEAL: u8 = 0;
/// The journal's own kind: the end of a snapshot.
pub const KIND_END: u8 = 255;

const SEGMENT_MAGIC: &[u8; 7] = b"jobqjnl";
const SNAPSHOT_MAGIC: &[u8; 7] = b"jobqsnp";
const PREFIX_BYTES: usize = 8;
const FIXED_BYTES: usize = 14;
const SEAL_ENTRY_BYTES: usize = 16;
/// In a seal: the file is a snapshot.
const SNAPSHOT_BIT: u32 = 1 << 31;

/// One record. `kind` and `version` say what the body means; the journal doesn't know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    pub seq: u64,
    pub epoch: u32,
    pub kind: u8,
    pub version: u8,
    pub body: &'a [u8],
}

/// The two kinds of files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FileKind {
    /// Stands for all that came before the segment of the same epoch and index.
    Snapshot,
    Segment,
}

/// Which file. Sorts as the records do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    pub epoch: u32,
    /// Counts an epoch's segments from 0.
    pub index: u32,
    pub kind: FileKind,
}

/// The first bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileHeader {
    pub place: Place,
    /// Sequence number of a segment's first record; of the first one after a snapshot.
    pub first_seq: u64,
}

/// How much of one older file counts, header included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Sealed {
    pub place: Place,
    pub nbytes: u64,
}

/// A bad record with a valid one after it: this isn't what a crash leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("record {seq} at byte {offset} is damaged, and a valid one follows at byte {later}")]
pub struct Damaged {
    /// Number of the record that should be there.
    pub seq: u64,
    /// Where the true prefix ends, in bytes from the first record.
    pub offset: usize,
    /// Where the valid record after it begins.
    pub later: usize,
}

impl Damaged {
    /// The same, told from so many bytes before.
    #[must_use]
    pub fn behind(self, nbytes: usize) -> Damaged {
        Damaged { offset: self.offset + nbytes, later: self.later + nbytes, ..self }
    }
}

/// Appends an encoded record to `out`. `false`: the body is over [`MAX_BODY_BYTES`], and nothing was appended.
#[must_use]
pub fn encode(record: &Record<'_>, out: &mut Vec<u8>) -> bool {
    let Some(length) = u32::try_from(FIXED_BYTES + record.body.len()).ok().filter(|_| fits(record.body))
    else {
        return false;
    };
    let start = out.len();
    out.reserve(RECORD_OVERHEAD_BYTES + record.body.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&record.seq.to_le_bytes());
    out.extend_from_slice(&record.epoch.to_le_bytes());
    out.extend_from_slice(&[record.kind, record.version]);
    out.extend_from_slice(record.body);
    let sum = checksum(&out[start..start + 4], &out[start + PREFIX_BYTES..]);
    out[start + 4..start + PREFIX_BYTES].copy_from_slice(&sum.to_le_bytes());
    true
}

/// The records of a segment, its header left out, up to a torn tail.
///
/// Yields each record once, then [`Damaged`] if there is damage, then nothing. [`Records::valid_bytes`] tells how
/// long the true prefix is.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    epoch: u32,
    next_seq: u64,
    offset: usize,
    is_over: bool,
}

impl<'a> Records<'a> {
    /// `bytes` after the header, which has told the epoch and the first sequence number.
    #[must_use]
    pub fn new(bytes: &'a [u8], header: FileHeader) -> Self {
        let next_seq = match header.place.kind {
            FileKind::Segment => header.first_seq,
            FileKind::Snapshot => 1,
        };
        Self { bytes, epoch: header.place.epoch, next_seq, offset: 0, is_over: false }
    }

    /// Length of the records yielded so far.
    #[must_use]
    pub fn valid_bytes(&self) -> usize {
        self.offset
    }

    /// Number of the record that would come next.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Goes on behind damage that was just told, with the valid record there.
    pub fn go_on_behind(&mut self, damaged: &Damaged) {
        let at = self.bytes.get(damaged.later..).and_then(decode);
        if let Some((record, _)) =
            at.filter(|(record, _)| record.epoch == self.epoch && damaged.later > self.offset)
        {
            (self.offset, self.next_seq, self.is_over) = (damaged.later, record.seq, false);
        }
    }

    /// The first valid record of this segment beyond `offset`: what damage has and a torn tail hasn't. Only what
    /// looks like a record of this epoch in this place has its checksum computed, so this is one pass in practice.
    fn later_record(&self) -> Option<usize> {
        let last_start = self.bytes.len().checked_sub(RECORD_OVERHEAD_BYTES)?;
        (self.offset + 1..=last_start).find(|start| {
            let at = &self.bytes[*start..];
            let seq =
                at.get(PREFIX_BYTES..).and_then(|rest| rest.first_chunk()).map(|b| u64::from_le_bytes(*b));
            let most = ((*start - self.offset) / RECORD_OVERHEAD_BYTES + 1) as u64;
            let is_near = seq.and_then(|seq| seq.checked_sub(self.next_seq)).is_some_and(|gap| gap <= most);
            is_near && decode(at).is_some_and(|(record, _)| record.epoch == self.epoch)
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over || self.offset == self.bytes.len() {
            return None;
        }
        let decoded = decode(&self.bytes[self.offset..]);
        let expected =
            decoded.filter(|(record, _)| record.seq == self.next_seq && record.epoch == self.epoch);
        if let Some((record, nbytes)) = expected {
            self.offset += nbytes;
            self.next_seq += 1;
            return Some(Ok(record));
        }
        self.is_over = true;
        // A whole record that doesn't belong here is damage by itself.
        let later = decoded.map(|_| self.offset).or_else(|| self.later_record())?;
        Some(Err(Damaged { seq: self.next_seq, offset: self.offset, later }))
    }
}

impl Place {
    #[must_use]
    pub const fn segment(epoch: u32, index: u32) -> Self {
        Self { epoch, index, kind: FileKind::Segment }
    }

    #[must_use]
    pub fn snapshot(epoch: u32, index: u32) -> Self {
        Self { epoch, index, kind: FileKind::Snapshot }
    }

    #[must_use]
    pub fn file_name(&self) -> String {
        let ending = match self.kind {
            FileKind::Segment => "journal",
            FileKind::Snapshot => "snapshot",
        };
        format!("{:010}-{:06}.{ending}", self.epoch, self.index)
    }

    /// The place that a file's name tells; `None`: it is no file of ours.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        let (stem, ending) = name.split_once('.')?;
        let (epoch, index) = stem.split_once('-')?;
        let kind = match ending {
            "journal" => FileKind::Segment,
            "snapshot" => FileKind::Snapshot,
            _ => return None,
        };
        let place = Self { epoch: epoch.parse().ok()?, index: index.parse().ok()?, kind };
        (place.file_name() == name).then_some(place)
    }
}

impl FileHeader {
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..7].copy_from_slice(magic(self.place.kind));
        bytes[7] = b'0' + crate::STATE_FORMAT;
        bytes[8..12].copy_from_slice(&self.place.epoch.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.place.index.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_seq.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None`: this is no file of ours of that kind, of another format, or its header is damaged.
    #[must_use]
    pub fn decode(bytes: &[u8], kind: FileKind) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
        let epoch = u32::from_le_bytes(*bytes[8..].first_chunk()?);
        let index = u32::from_le_bytes(*bytes[12..].first_chunk()?);
        let first_seq = u64::from_le_bytes(*bytes[16..].first_chunk()?);
        let header = Self { place: Place { epoch, index, kind }, first_seq };
        (header.encode() == *bytes).then_some(header)
    }
}

/// The format that a file's first bytes tell, if it is one of ours and they are sound.
#[must_use]
pub fn format_of(bytes: &[u8]) -> Option<u8> {
    let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
    let is_ours = bytes.starts_with(SEGMENT_MAGIC) || bytes.starts_with(SNAPSHOT_MAGIC);
    let is_sound = crc32c::crc32c(&bytes[..28]).to_le_bytes() == bytes[28..];
    bytes[7].checked_sub(b'0').filter(|_| is_ours && is_sound)
}

fn magic(kind: FileKind) -> &'static [u8; 7] {
    match kind {
        FileKind::Segment => SEGMENT_MAGIC,
        FileKind::Snapshot => SNAPSHOT_MAGIC,
    }
}

/// The body of a seal.
#[must_use]
pub fn encode_seal(sealed: &[Sealed]) -> Vec<u8> {
    let mut body = Vec::with_capacity(sealed.len() * SEAL_ENTRY_BYTES);
    for Sealed { place, nbytes } in sealed {
        let bit = if place.kind == FileKind::Snapshot { SNAPSHOT_BIT } else { 0 };
        body.extend_from_slice(&place.epoch.to_le_bytes());
        body.extend_from_slice(&(place.index | bit).to_le_bytes());
        body.extend_from_slice(&nbytes.to_le_bytes());
    }
    body
}

/// Reads a seal's body; `None` if it is none.
#[must_use]
pub fn decode_seal(body: &[u8]) -> Option<Vec<Sealed>> {
    let (entries, rest) = body.as_chunks::<SEAL_ENTRY_BYTES>();
    if !rest.is_empty() {
        return None;
    }
    let entry = |bytes: &[u8; SEAL_ENTRY_BYTES]| {
        let epoch = u32::from_le_bytes(*bytes.first_chunk()?);
        let index = u32::from_le_bytes(*bytes[4..].first_chunk()?);
        let kind = if index & SNAPSHOT_BIT == 0 { FileKind::Segment } else { FileKind::Snapshot };
        let nbytes = u64::from_le_bytes(*bytes[8..].first_chunk()?);
        Some(Sealed { place: Place { epoch, index: index & !SNAPSHOT_BIT, kind }, nbytes })
    };
    entries.iter().map(entry).collect()
}

/// The body of a snapshot's end.
#[must_use]
pub fn encode_end(records: u64) -> [u8; 8] {
    records.to_le_bytes()
}

/// Reads the body of a snapshot's end: the number of records before it.
#[must_use]
pub fn decode_end(body: &[u8]) -> Option<u64> {
    body.try_into().ok().map(u64::from_le_bytes)
}

/// Whether a body may be journalled.
pub(super) fn fits(body: &[u8]) -> bool {
    body.len() <= MAX_BODY_BYTES
}

/// How long the record at the start of `bytes` says that it is; `None`: nothing that could be a record.
#[must_use]
pub fn extent(bytes: &[u8]) -> Option<usize> {
    let length = usize::try_from(u32::from_le_bytes(*bytes.first_chunk()?)).ok()?;
    (FIXED_BYTES..=FIXED_BYTES + MAX_BODY_BYTES).contains(&length).then_some(PREFIX_BYTES + length)
}

/// The record at the start of `bytes` and its length, if it is whole and sound, and the one that `header` tells to be
/// the first.
#[must_use]
pub fn sound(bytes: &[u8], header: FileHeader) -> Option<(Record<'_>, usize)> {
    decode(bytes).filter(|(record, _)| record.seq == header.first_seq && record.epoch == header.place.epoch)
}

/// The record at the start of `bytes` and its length, if it is whole and its checksum right.
fn decode(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let nbytes = extent(bytes)?;
    let rest = bytes.get(PREFIX_BYTES..nbytes)?;
    let sum = u32::from_le_bytes(*bytes[4..].first_chunk()?);
    if checksum(&bytes[..4], rest) != sum {
        return None;
    }
    let (fixed, body) = rest.split_at(FIXED_BYTES);
    let record = Record {
        seq: u64::from_le_bytes(*fixed.first_chunk()?),
        epoch: u32::from_le_bytes(*fixed[8..].first_chunk()?),
        kind: fixed[12],
        version: fixed[13],
        body,
    };
    Some((record, nbytes))
}

fn checksum(length: &[u8], rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(length), rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::TestRng;

    const HEADER: FileHeader =
        FileHeader { place: Place { epoch: 3, index: 0, kind: FileKind::Segment }, first_seq: 100 };

    /// A body and what it is, owned.
    type Owned = (u8, u8, Vec<u8>);

    fn journal(records: &[Owned]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        for (n, (kind, version, body)) in records.iter().enumerate() {
            let seq = HEADER.first_seq + n as u64;
            let record = Record { seq, epoch: HEADER.place.epoch, kind: *kind, version: *version, body };
            assert!(encode(&record, &mut bytes));
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn some_records(count: usize) -> Vec<Owned> {
        (0..count).map(|n| ((n % 5) as u8, 1, vec![n as u8; (n * 7) % 40])).collect()
    }

    /// Reads a journal back and checks that what comes out is a prefix of what went in.
    fn prefix_of(bytes: &[u8], records: &[Owned]) -> (usize, Option<Damaged>) {
        let mut reading = Records::new(bytes, HEADER);
        let (mut count, mut damage) = (0, None);
        for outcome in &mut reading {
            match outcome {
                Ok(record) => {
                    let (kind, version, body) = &records[count];
                    let seq = HEADER.first_seq + count as u64;
                    assert_eq!(
                        record,
                        Record { seq, epoch: 3, kind: *kind, version: *version, body },
                        "an invented record"
                    );
                    count += 1;
                }
                Err(damaged) => damage = Some(damaged),
            }
        }
        assert!(reading.next().is_none(), "it ends for good");
        assert_eq!(reading.next_seq(), HEADER.first_seq + count as u64);
        (count, damage)
    }

    #[test]
    fn the_bytes_are_as_the_format_says() {
        let mut bytes = Vec::new();
        assert!(encode(&Record { seq: 258, epoch: 3, kind: 4, version: 5, body: b"ab" }, &mut bytes));
        assert_eq!(bytes[..4], [16, 0, 0, 0]);
        assert_eq!(bytes[8..], [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4, 5, b'a', b'b']);
        let mut summed = bytes[..4].to_vec();
        summed.extend_from_slice(&bytes[8..]);
        assert_eq!(bytes[4..8], crc32c::crc32c(&summed).to_le_bytes());
        assert_eq!(bytes.len(), RECORD_OVERHEAD_BYTES + 2);
    }

    #[test]
    fn every_truncation_yields_exactly_the_whole_records_before_it() {
        let records = some_records(30);
        let (bytes, ends) = journal(&records);
        for len in 0..=bytes.len() {
            let whole = ends.iter().filter(|end| **end <= len).count() - 1;
            assert_eq!(prefix_of(&bytes[..len], &records), (whole, None), "cut at {len}");
        }
    }

    #[test]
    fn every_bit_flip_is_told_as_damage_or_lies_in_the_last_record() {
        let records = some_records(20);
        let (mut bytes, ends) = journal(&records);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let hit = ends.iter().filter(|end| **end <= bit / 8).count() - 1;
            let (count, damage) = prefix_of(&bytes, &records);
            assert_eq!(count, hit, "bit {bit}");
            match damage {
                Some(damaged) => {
                    assert_eq!((damaged.offset, damaged.seq), (ends[hit], 100 + hit as u64));
                    assert_eq!(damaged.later, ends[hit + 1]);
                }
                None => assert_eq!(hit, records.len() - 1, "bit {bit}"),
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_tail_of_zeros_is_torn_not_damage() {
        let records = some_records(10);
        let (bytes, ends) = journal(&records);
        for keep in 0..bytes.len() {
            let mut zeroed = bytes.clone();
            zeroed[keep..].fill(0);
            let whole = ends.iter().filter(|end| **end <= keep).count() - 1;
            let (count, damage) = prefix_of(&zeroed, &records);
            // The bytes that were cut off may have been zeros themselves.
            assert!((whole..=whole + 1).contains(&count) && damage.is_none(), "zeros from {keep}");
        }
    }

    /// Ten thousand journals, each harmed in a few ways at once.
    #[test]
    fn whatever_happens_to_the_bytes_no_record_is_invented() {
        let mut config = ProptestConfig::with_cases(10_000);
        config.failure_persistence = None;
        let harm = (any::<prop::sample::Index>(), 0_u8..5, any::<u8>());
        let strategy = (
            prop::collection::vec(
                (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..60)),
                1..12,
            ),
            prop::collection::vec(harm, 1..4),
        );
        let rng = TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
        let mut runner = proptest::test_runner::TestRunner::new_with_rng(config, rng);
        let outcome = runner.run(&strategy, |(records, harms)| {
            let (mut bytes, _) = journal(&records);
            for (place, what, value) in harms {
                if bytes.is_empty() {
                    break;
                }
                let at = place.index(bytes.len());
                match what {
                    0 => bytes.truncate(at),
                    1 => bytes[at] ^= 1 << (value % 8),
                    2 => bytes[at] = value,
                    3 => bytes.insert(at, value),
                    _ => bytes.extend_from_within(at..),
                }
            }
            prefix_of(&bytes, &records);
            Ok(())
        });
        outcome.unwrap();
    }

    #[test]
    fn a_record_of_another_epoch_or_place_is_damage_even_at_the_end() {
        let records = some_records(3);
        for (seq, epoch) in [(103, 2), (104, 3), (99, 3)] {
            let (mut bytes, ends) = journal(&records);
            assert!(encode(&Record { seq, epoch, kind: 1, version: 1, body: b"" }, &mut bytes));
            let (count, damage) = prefix_of(&bytes, &records);
            assert_eq!(count, 3);
            assert_eq!(damage, Some(Damaged { seq: 103, offset: ends[3], later: ends[3] }));
        }
    }

    #[test]
    fn scanning_a_large_damaged_segment_takes_one_pass() {
        // Lengths that look possible everywhere must not make the search quadratic: with checksums computed for
        // each of them this would read 70 TB.
        let bytes = vec![1_u8; 20 << 20];
        assert_eq!(Records::new(&bytes, HEADER).count(), 0);
    }

    #[test]
    fn headers_and_seals_read_back_and_no_harmed_header_does() {
        for place in [Place::segment(7, 2), Place::snapshot(7, 2)] {
            let header = FileHeader { place, first_seq: u64::MAX };
            let bytes = header.encode();
            assert_eq!(FileHeader::decode(&bytes, place.kind), Some(header));
            assert_eq!(format_of(&bytes), Some(crate::STATE_FORMAT));
            assert_eq!(Place::of_file(&place.file_name()), Some(place));
            for bit in 0..bytes.len() * 8 {
                let mut harmed = bytes;
                harmed[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(FileHeader::decode(&harmed, place.kind), None);
                assert_eq!(format_of(&harmed), None);
            }
            assert_eq!(FileHeader::decode(&bytes[..31], place.kind), None);
        }
        let bytes = FileHeader { place: Place::segment(7, 2), first_seq: 1 }.encode();
        assert_eq!(FileHeader::decode(&bytes, FileKind::Snapshot), None);
        let sealed = [
            Sealed { place: Place::snapshot(1, 0), nbytes: 32 },
            Sealed { place: Place::segment(2, 9), nbytes: 1 << 40 },
        ];
        assert_eq!(decode_seal(&encode_seal(&sealed)).unwrap(), sealed);
        assert_eq!(decode_seal(&[0; 15]), None);
        assert_eq!((decode_end(&encode_end(7)), decode_end(&[0; 7])), (Some(7), None));
    }
}
