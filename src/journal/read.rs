//! Reading the journal back: which files count, how much of each, and every record in them in order.
//!
//! The newest epoch that got as far as its first record tells: its seal names the older files that count, or its own
//! snapshot stands for them. Files that nobody names are left over from before a snapshot, or a zombie's.

use super::JournalError;
use super::record::{
    FileHeader, FileKind, HEADER_BYTES, KIND_END, KIND_SEAL, Place, RECORD_OVERHEAD_BYTES, Record, Records,
    Sealed, decode_end, decode_seal, format_of,
};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Where the journal's files are.
pub trait Files {
    /// Where they are, for messages.
    fn dir(&self) -> &Path;

    /// The names of all files; none if the directory isn't there.
    ///
    /// # Errors
    /// The directory can't be read.
    fn names(&self) -> Result<Vec<String>, JournalError>;

    /// # Errors
    /// The file can't be read.
    fn load(&self, name: &str) -> Result<Vec<u8>, JournalError>;
}

/// One file, as far as it counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counted {
    pub place: Place,
    pub path: PathBuf,
    /// Length of what counts, header included.
    pub nbytes: u64,
    /// Bytes beyond it: a torn tail, or what was appended after the seal.
    pub ignored_bytes: u64,
}

/// What the journal holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// The snapshot that stands for everything before the segments.
    pub base: Option<Counted>,
    /// In the order of their records.
    pub segments: Vec<Counted>,
    /// Number of the next record; 1 if there is none.
    pub next_seq: u64,
    /// Records there are, those of a snapshot included, the journal's own not.
    pub records: u64,
    /// A tail that a crash cut short: left out, and no loss.
    pub torn: Option<Torn>,
    /// Where a true prefix ends before the journal does. What was told so far is right; what came later is lost.
    pub damage: Option<Damage>,
    /// Bytes in which no record could be found. Only a [`salvage`] counts them.
    pub lost_bytes: u64,
}

/// Damage that no crash leaves.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{} is damaged at byte {offset}: {reason}", path.display())]
pub struct Damage {
    pub path: PathBuf,
    /// Up to here the file can be trusted.
    pub offset: u64,
    pub reason: String,
}

/// What a crash cut short.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the last {nbytes} bytes of {} (from byte {offset}) are a record that a crash cut short; nobody was told of it, and \
     it is left out",
    path.display()
)]
pub struct Torn {
    pub path: PathBuf,
    pub offset: u64,
    pub nbytes: u64,
}

/// Reads the journal in `dir`, oldest record first; the journal's own records are not told. Only to be called by the
/// holder of an epoch that has claimed it, or for looking at a cluster that is at rest.
///
/// # Errors
/// A file can't be read, or is of another format. Damage is no error: it is in the result, and the caller must say so.
pub fn read_all(dir: &Path, each: impl FnMut(Record<'_>)) -> Result<History, JournalError> {
    read_from(&Directory(dir), each)
}

/// The same from wherever the files are.
///
/// # Errors
/// As [`read_all`].
pub fn read_from(files: &impl Files, each: impl FnMut(Record<'_>)) -> Result<History, JournalError> {
    read(files, false, each)
}

/// Tells every record that is sound by itself, those behind damage too. What it tells isn't what one scheduler wrote
/// after the other: records are missing in between.
///
/// # Errors
/// As [`read_all`].
pub fn salvage(dir: &Path, each: impl FnMut(Record<'_>)) -> Result<History, JournalError> {
    read(&Directory(dir), true, each)
}

fn read(
    files: &impl Files,
    salvages: bool,
    mut each: impl FnMut(Record<'_>),
) -> Result<History, JournalError> {
    let mut history = History { next_seq: 1, ..History::default() };
    let mut places: Vec<Place> = files.names()?.iter().filter_map(|name| Place::of_file(name)).collect();
    places.sort_unstable();
    let plan = match plan(files, &places)? {
        Ok(plan) => plan,
        Err(damage) => {
            history.damage = Some(damage);
            // Whatever there is, in its order.
            salvages.then(|| places.iter().map(|place| (*place, None)).collect())
        }
    };
    // Without a seal or a snapshot nothing was ever sent.
    let Some(plan) = plan else { return Ok(history) };
    for (place, limit) in plan {
        let path = files.dir().join(place.file_name());
        if !places.contains(&place) {
            let reason = "it is named by a later one, and is gone".to_owned();
            history.damage.get_or_insert(Damage { path, offset: 0, reason });
            if salvages {
                continue;
            }
            return Ok(history);
        }
        let all = files.load(&place.file_name())?;
        let is_last_of_epoch = !places.contains(&Place { index: place.index.saturating_add(1), ..place });
        let reading = Reading { place, path, limit, is_last_of_epoch };
        let damage = match place.kind {
            _ if salvages => reading.salvage(&all, &mut history, &mut each)?,
            FileKind::Snapshot => reading.read_snapshot(&all, &mut history, &mut each)?,
            FileKind::Segment => reading.read_segment(&all, &mut history, &mut each)?,
        };
        if let Some(damage) = damage {
            history.damage.get_or_insert(damage);
            if !salvages {
                break;
            }
        }
    }
    Ok(history)
}

impl History {
    /// What a new epoch's seal says of all this.
    #[must_use]
    pub fn seal(&self) -> Vec<Sealed> {
        let counted = self.base.iter().chain(&self.segments);
        counted.map(|file| Sealed { place: file.place, nbytes: file.nbytes }).collect()
    }

    /// The newest epoch of which a file counts.
    #[must_use]
    pub fn newest_epoch(&self) -> Option<u32> {
        self.base.iter().chain(&self.segments).map(|file| file.place.epoch).max()
    }

    /// Bytes of the segments: what was journalled since the snapshot.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.nbytes).sum()
    }
}

/// The files that count, in order, with their sealed lengths.
type Plan = BTreeMap<Place, Option<u64>>;

/// Finds the newest epoch that got as far as its first record, and what it says. An epoch without one never sent
/// anything: it died before. What a lower epoch appends or snapshots later doesn't count.
fn plan(files: &impl Files, places: &[Place]) -> Result<Result<Option<Plan>, Damage>, JournalError> {
    let mut epochs: Vec<u32> = places.iter().map(|place| place.epoch).collect();
    epochs.dedup();
    for epoch in epochs.into_iter().rev() {
        let own = |from: u32| {
            let own = places.iter().filter(move |place| {
                place.epoch == epoch && place.index >= from && place.kind == FileKind::Segment
            });
            own.map(|place| (*place, None))
        };
        let snapshot = places.iter().rfind(|place| place.epoch == epoch && place.kind == FileKind::Snapshot);
        if let Some(snapshot) = snapshot {
            // Its segment is begun before it is written.
            let after = Place::segment(epoch, snapshot.index);
            let plan = [(*snapshot, None), (after, None)].into_iter().chain(own(snapshot.index));
            return Ok(Ok(Some(plan.collect())));
        }
        match seal_of(files, epoch)? {
            Err(damage) => return Ok(Err(damage)),
            Ok(None) if own(1).next().is_some() => {
                let path = files.dir().join(Place::segment(epoch, 0).file_name());
                let reason = "its first record isn't whole, and others come after it".to_owned();
                return Ok(Err(Damage { path, offset: HEADER_BYTES as u64, reason }));
            }
            Ok(None) => {}
            Ok(Some(sealed)) => {
                let older = sealed.into_iter().filter(|sealed| sealed.place.epoch < epoch);
                let older = older.map(|sealed| (sealed.place, Some(sealed.nbytes)));
                return Ok(Ok(Some(older.chain(own(0)).collect())));
            }
        }
    }
    Ok(Ok(None))
}

/// What an epoch's first record says of the older ones; `None` if it died before that was whole.
fn seal_of(files: &impl Files, epoch: u32) -> Result<Result<Option<Vec<Sealed>>, Damage>, JournalError> {
    let place = Place::segment(epoch, 0);
    let path = files.dir().join(place.file_name());
    if !files.names()?.contains(&place.file_name()) {
        let reason = "it is the first of its epoch, and is gone".to_owned();
        return Ok(Err(Damage { path, offset: 0, reason }));
    }
    let bytes = files.load(&place.file_name())?;
    let header = match header(&bytes, place, &path)? {
        Ok(header) => header,
        Err(damage) => return Ok(Err(damage)),
    };
    let damage =
        |reason: &str| Damage { path: path.clone(), offset: HEADER_BYTES as u64, reason: reason.to_owned() };
    Ok(match Records::new(&bytes[HEADER_BYTES..], header).next() {
        None => Ok(None),
        Some(Err(damaged)) => Err(damage(&damaged.to_string())),
        Some(Ok(record)) => match decode_seal(record.body).filter(|_| record.kind == KIND_SEAL) {
            Some(sealed) => Ok(Some(sealed)),
            None => Err(damage("it begins without a seal")),
        },
    })
}

/// The header of that file.
fn header(bytes: &[u8], place: Place, path: &Path) -> Result<Result<FileHeader, Damage>, JournalError> {
    match FileHeader::decode(bytes, place.kind).filter(|header| header.place == place) {
        Some(header) => Ok(Ok(header)),
        None => match format_of(bytes).filter(|format| *format != crate::STATE_FORMAT) {
            Some(found) => Err(JournalError::Format { path: path.to_owned(), found }),
            None => {
                let reason = "its header is wrong".to_owned();
                Ok(Err(Damage { path: path.to_owned(), offset: 0, reason }))
            }
        },
    }
}

/// One file about to be read.
struct Reading {
    place: Place,
    path: PathBuf,
    /// Sealed length; what lies beyond doesn't count.
    limit: Option<u64>,
    is_last_of_epoch: bool,
}

impl Reading {
    fn damage(&self, offset: usize, reason: impl Into<String>) -> Result<Option<Damage>, JournalError> {
        Ok(Some(Damage { path: self.path.clone(), offset: offset as u64, reason: reason.into() }))
    }

    /// What counts of the file and its header.
    fn open<'a>(&self, all: &'a [u8]) -> Result<Result<(&'a [u8], FileHeader), Damage>, JournalError> {
        let limit = self.limit.map_or(all.len(), |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let Some(bytes) = all.get(..limit) else {
            let reason = format!("it has {} bytes where {limit} were sealed", all.len());
            return Ok(Err(Damage { path: self.path.clone(), offset: all.len() as u64, reason }));
        };
        Ok(header(bytes, self.place, &self.path)?.map(|header| (bytes, header)))
    }

    /// A snapshot is whole or worth nothing: it is told only after its end was seen.
    fn read_snapshot(
        &self,
        all: &[u8],
        history: &mut History,
        each: &mut impl FnMut(Record<'_>),
    ) -> Result<Option<Damage>, JournalError> {
        let (bytes, header) = match self.open(all)? {
            Ok(opened) => opened,
            Err(damage) => return Ok(Some(damage)),
        };
        let mut records = Records::new(&bytes[HEADER_BYTES..], header);
        let (mut count, mut end) = (0, None);
        for outcome in &mut records {
            match outcome {
                Err(damaged) => return self.damage(HEADER_BYTES + damaged.offset, damaged.to_string()),
                Ok(_) if end.is_some() => break,
                Ok(record) if record.kind == KIND_END => end = decode_end(record.body),
                Ok(_) => count += 1,
            }
        }
        let valid = HEADER_BYTES + records.valid_bytes();
        if end != Some(count) || valid < bytes.len() {
            return self.damage(valid, "it isn't whole");
        }
        for record in Records::new(&bytes[HEADER_BYTES..], header).map_while(Result::ok) {
            if record.kind != KIND_END {
                each(record);
            }
        }
        history.records += count;
        history.next_seq = header.first_seq;
        history.base = Some(Counted {
            place: self.place,
            path: self.path.clone(),
            nbytes: valid as u64,
            ignored_bytes: (all.len() - valid) as u64,
        });
        Ok(None)
    }

    /// Tells what is sound, wherever it is. Only the first damage is told.
    fn salvage(
        &self,
        all: &[u8],
        history: &mut History,
        each: &mut impl FnMut(Record<'_>),
    ) -> Result<Option<Damage>, JournalError> {
        let limit = self.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(all.len());
        let bytes = all.get(..limit).unwrap_or(all);
        let header = match header(bytes, self.place, &self.path)? {
            Ok(header) => header,
            Err(damage) => {
                history.lost_bytes += bytes.len() as u64;
                return Ok(Some(damage));
            }
        };
        let mut records = Records::new(&bytes[HEADER_BYTES..], header);
        let (mut told, mut found, mut sound) = (0, None, HEADER_BYTES);
        while let Some(outcome) = records.next() {
            match outcome {
                Ok(record) => {
                    sound += RECORD_OVERHEAD_BYTES + record.body.len();
                    if !matches!(record.kind, KIND_SEAL | KIND_END) {
                        told += 1;
                        each(record);
                    }
                }
                Err(damaged) => {
                    found.get_or_insert((HEADER_BYTES + damaged.offset, damaged.to_string()));
                    records.go_on_behind(&damaged);
                }
            }
        }
        history.records += told;
        history.next_seq = history.next_seq.max(match self.place.kind {
            FileKind::Snapshot => header.first_seq,
            FileKind::Segment => records.next_seq(),
        });
        let is_torn = self.place.kind == FileKind::Segment && self.limit.is_none() && self.is_last_of_epoch;
        if found.is_none() && (sound < bytes.len() && !is_torn || limit > all.len()) {
            found = Some((sound, "its end is missing or not whole".to_owned()));
        }
        history.lost_bytes += (limit.max(bytes.len()) - sound) as u64;
        found.map_or(Ok(None), |(offset, reason)| self.damage(offset, reason))
    }

    fn read_segment(
        &self,
        all: &[u8],
        history: &mut History,
        each: &mut impl FnMut(Record<'_>),
    ) -> Result<Option<Damage>, JournalError> {
        let (bytes, header) = match self.open(all)? {
            Ok(opened) => opened,
            Err(damage) => return Ok(Some(damage)),
        };
        let is_first = history.segments.is_empty() && history.base.is_none();
        if !is_first && header.first_seq != history.next_seq {
            let reason = format!("it begins with record {}, not {}", header.first_seq, history.next_seq);
            return self.damage(0, reason);
        }
        let mut records = Records::new(&bytes[HEADER_BYTES..], header);
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
        let valid = HEADER_BYTES + records.valid_bytes();
        history.next_seq = records.next_seq();
        history.segments.push(Counted {
            place: self.place,
            path: self.path.clone(),
            nbytes: valid as u64,
            ignored_bytes: (all.len() - valid) as u64,
        });
        if found.is_none() && valid < bytes.len() {
            // The next segment is begun only after this one is durable, so only an epoch's last one may be torn.
            if self.limit.is_some() || !self.is_last_of_epoch {
                found = Some(format!("record {} isn't whole", records.next_seq()));
            } else {
                let (offset, nbytes) = (valid as u64, (bytes.len() - valid) as u64);
                history.torn = Some(Torn { path: self.path.clone(), offset, nbytes });
            }
        }
        found.map_or(Ok(None), |reason| self.damage(valid, reason))
    }
}

/// A directory of the file system.
struct Directory<'a>(&'a Path);

impl Files for Directory<'_> {
    fn dir(&self) -> &Path {
        self.0
    }

    fn names(&self) -> Result<Vec<String>, JournalError> {
        let failed = |error| JournalError::io("list", self.0, error);
        let entries = match std::fs::read_dir(self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let name = |entry: io::Result<std::fs::DirEntry>| match entry {
            Ok(entry) => entry.file_name().into_string().ok().map(Ok),
            Err(error) => Some(Err(failed(error))),
        };
        entries.filter_map(name).collect()
    }

    fn load(&self, name: &str) -> Result<Vec<u8>, JournalError> {
        let path = self.0.join(name);
        std::fs::read(&path).map_err(|error| JournalError::io("read", &path, error))
    }
}
