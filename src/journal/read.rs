//! Reading the journal back: which files count, how much of each, and every record in them in order.
//!
//! The newest epoch that got as far as its first record tells: its seal names the older files that count, or its own
//! snapshot stands for them. Files that nobody names are left over from before a snapshot, or a zombie's.

mod plan;
mod reading;
mod source;
mod tape;

pub use source::{Files, Opened};

use super::JournalError;
use super::record::{FileKind, Place, Record, Sealed};
use plan::plan;
use reading::Reading;
use source::Directory;
use std::path::{Path, PathBuf};
use tape::Tape;

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
        let is_last_of_epoch = !places.contains(&Place { index: place.index.saturating_add(1), ..place });
        let reading = Reading { place, path, limit, is_last_of_epoch };
        let load = || files.load(&place.file_name());
        let damage = match place.kind {
            _ if salvages => reading.salvage(&load()?, &mut history, &mut each)?,
            FileKind::Snapshot => reading.read_snapshot(&load()?, &mut history, &mut each)?,
            FileKind::Segment => reading.read_segment(Tape::open(files, place)?, &mut history, &mut each)?,
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
