//! Reading the journal back: which segments count, how much of each, and every record in them in order.

use super::JournalError;
use super::record::{KIND_SEAL, Record, Records, SEGMENT_HEADER_BYTES, Sealed, SegmentHeader, decode_seal};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// One segment, as far as it counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    pub epoch: u32,
    pub index: u32,
    pub path: PathBuf,
    /// Length of what counts, header included.
    pub nbytes: u64,
    /// Bytes beyond it: a torn tail, or what was appended after the seal.
    pub ignored_bytes: u64,
}

/// What the journal holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// In the order of their records.
    pub segments: Vec<Segment>,
    /// Number of the next record; 1 if there is none.
    pub next_seq: u64,
    /// Records there are, seals not counted.
    pub records: u64,
    /// Where a true prefix ends before the journal does. What was told so far is right; what came later is lost.
    pub damage: Option<Damage>,
}

/// Damage that no crash leaves.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{} is damaged: {reason}; what was recorded after that is lost", path.display())]
pub struct Damage {
    pub path: PathBuf,
    pub reason: String,
}

/// Reads the journal in `dir`, oldest record first; seals are not told. Only to be called by the holder of an epoch
/// that has claimed it, or for looking at a cluster that is at rest.
///
/// # Errors
/// A file can't be read. Damage is no error: it is in the result, and the caller must say so.
pub fn read_all(dir: &Path, mut each: impl FnMut(Record<'_>)) -> Result<History, JournalError> {
    let mut history = History { next_seq: 1, ..History::default() };
    let files = list(dir)?;
    let seal = match last_seal(&files)? {
        Ok(seal) => seal,
        Err(damage) => {
            history.damage = Some(damage);
            return Ok(history);
        }
    };
    // Without a seal nothing was ever sent. Of older epochs counts what the seal tells, of later ones nothing: they
    // died before their own.
    let Some((epoch, mut places)) = seal else { return Ok(history) };
    let own = files.keys().filter(|place| place.0 == epoch);
    places.extend(own.map(|place| (*place, None)));
    for (place, limit) in places {
        let Some(path) = files.get(&place) else {
            let path = dir.join(segment_name(place.0, place.1));
            history.damage = Some(Damage { path, reason: "it was sealed, and is gone".to_owned() });
            return Ok(history);
        };
        let is_last_of_epoch = !files.contains_key(&(place.0, place.1.saturating_add(1)));
        let reading = Reading { place, path, limit, is_last_of_epoch };
        history.damage = reading.read(&mut history, &mut each)?;
        if history.damage.is_some() {
            break;
        }
    }
    Ok(history)
}

impl History {
    /// What a new epoch's seal says of all this.
    #[must_use]
    pub fn seal(&self) -> Vec<Sealed> {
        let sealed =
            |segment: &Segment| Sealed { epoch: segment.epoch, index: segment.index, nbytes: segment.nbytes };
        self.segments.iter().map(sealed).collect()
    }
}

/// The file name of a segment; sorts as its records do.
pub(super) fn segment_name(epoch: u32, index: u32) -> String {
    format!("{epoch:010}-{index:06}.journal")
}

type Place = (u32, u32);
/// The sealing epoch, and the lengths of the older segments that count.
type Seal = (u32, BTreeMap<Place, Option<u64>>);

/// One segment about to be read.
struct Reading<'a> {
    place: Place,
    path: &'a Path,
    /// Sealed length; what lies beyond doesn't count.
    limit: Option<u64>,
    is_last_of_epoch: bool,
}

impl Reading<'_> {
    fn read(
        &self,
        history: &mut History,
        each: &mut impl FnMut(Record<'_>),
    ) -> Result<Option<Damage>, JournalError> {
        let all = load(self.path)?;
        let damage = |reason: String| Ok(Some(Damage { path: self.path.to_owned(), reason }));
        let limit = self.limit.map_or(all.len(), |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let Some(bytes) = all.get(..limit) else {
            return damage(format!("it has {} bytes where {limit} were sealed", all.len()));
        };
        let header = SegmentHeader::decode(bytes).filter(|header| (header.epoch, header.index) == self.place);
        let Some(header) = header else { return damage("its header is wrong".to_owned()) };
        if !history.segments.is_empty() && header.first_seq != history.next_seq {
            let reason = format!("it begins with record {}, not {}", header.first_seq, history.next_seq);
            return damage(reason);
        }
        let mut records = Records::new(&bytes[SEGMENT_HEADER_BYTES..], header);
        let mut found = None;
        for outcome in &mut records {
            match outcome {
                Ok(record) if record.kind == KIND_SEAL => {}
                Ok(record) => {
                    history.records += 1;
                    each(record);
                }
                Err(damaged) => found = Some(damaged.to_string()),
            }
        }
        let valid = SEGMENT_HEADER_BYTES + records.valid_bytes();
        history.next_seq = records.next_seq();
        history.segments.push(Segment {
            epoch: self.place.0,
            index: self.place.1,
            path: self.path.to_owned(),
            nbytes: valid as u64,
            ignored_bytes: (all.len() - valid) as u64,
        });
        // The next segment is begun only after this one is durable, so only an epoch's last one may be torn.
        if found.is_none() && valid < bytes.len() && (self.limit.is_some() || !self.is_last_of_epoch) {
            found = Some(format!("record {} at byte {valid} isn't whole", records.next_seq()));
        }
        found.map_or(Ok(None), damage)
    }
}

/// All segments of the directory by place; none if it isn't there. Other files are left alone.
fn list(dir: &Path) -> Result<BTreeMap<Place, PathBuf>, JournalError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(JournalError::io("list", dir, error)),
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(|error| JournalError::io("list", dir, error))?;
        if let Some(place) = entry.file_name().to_str().and_then(place_of) {
            files.insert(place, entry.path());
        }
    }
    Ok(files)
}

fn place_of(name: &str) -> Option<Place> {
    let (epoch, index) = name.strip_suffix(".journal")?.split_once('-')?;
    let place = (epoch.parse().ok()?, index.parse().ok()?);
    (segment_name(place.0, place.1) == name).then_some(place)
}

/// The seal of the highest epoch that has one. An epoch without one never sent anything: it died at its first record.
fn last_seal(files: &BTreeMap<Place, PathBuf>) -> Result<Result<Option<Seal>, Damage>, JournalError> {
    for ((epoch, _), path) in files.iter().rev().filter(|((_, index), _)| *index == 0) {
        let bytes = load(path)?;
        let damage = |reason: &str| Damage { path: path.clone(), reason: reason.to_owned() };
        let Some(header) = SegmentHeader::decode(&bytes) else {
            return Ok(Err(damage("its header is wrong")));
        };
        match Records::new(&bytes[SEGMENT_HEADER_BYTES..], header).next() {
            None => {}
            Some(Err(damaged)) => return Ok(Err(damage(&damaged.to_string()))),
            Some(Ok(record)) => {
                let sealed = decode_seal(record.body).filter(|_| record.kind == KIND_SEAL);
                let Some(sealed) = sealed else { return Ok(Err(damage("it begins without a seal"))) };
                let older = sealed.into_iter().filter(|segment| segment.epoch < *epoch);
                let lengths = older.map(|s| ((s.epoch, s.index), Some(s.nbytes))).collect();
                return Ok(Ok(Some((*epoch, lengths))));
            }
        }
    }
    Ok(Ok(None))
}

fn load(path: &Path) -> Result<Vec<u8>, JournalError> {
    std::fs::read(path).map_err(|error| JournalError::io("read", path, error))
}
