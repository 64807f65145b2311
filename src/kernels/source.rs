//! Where a tile's cells come from: boxes of variables that may go on from file to file, out of files whose metadata
//! each process reads once.

use super::KernelError;
use super::program::Decode;
use crate::format::decode::{Scratch, read_slab};
use crate::format::grid::{Place, copy_box};
use crate::format::read_at::LocalFile;
use crate::format::table::TablePart;
use crate::format::{Dataset, FormatError, ReadAt, Storage, hdf5, zarr};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Chunk entries that all kept metadata may have together (about 40 bytes each).
const CACHED_CHUNKS: usize = 4 << 20;
/// Files that are kept open: well below the usual limit of 1024 descriptors.
const OPEN_FILES: usize = 128;

/// A file as it was when the plan was made.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FileStamp {
    pub path: String,
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: i64,
    /// Where a published dataset keeps what its metadata say: then the file's own are not read.
    pub table: Option<TablePart>,
}

/// A variable of joined files, as a tile reads it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Source {
    pub variable: String,
    pub decode: Decode,
    /// Its shape over all files.
    pub shape: Vec<u64>,
    /// The dimension along which files follow each other; none: the variable is read from the first file.
    pub join: Option<usize>,
    /// Files by number, with the index along `join` where each begins.
    pub pieces: Vec<(u32, u64)>,
}

/// Files that a task holds open at a time: one may go through thousands.
const HELD_FILES: usize = 16;

/// A file or store and what its metadata say.
#[derive(Clone)]
pub struct OpenFile {
    pub file: Arc<dyn ReadAt>,
    pub dataset: Arc<Dataset>,
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpenFile").field(&self.file.name()).finish()
    }
}

/// The files of a plan, opened when they are needed.
#[derive(Debug)]
pub struct Files<'a> {
    stamps: &'a [FileStamp],
    held: RefCell<VecDeque<(usize, OpenFile)>>,
}

impl<'a> Files<'a> {
    pub fn new(stamps: &'a [FileStamp]) -> Files<'a> {
        Files { stamps, held: RefCell::default() }
    }

    fn get(&self, number: usize) -> Result<OpenFile, KernelError> {
        let mut held = self.held.borrow_mut();
        if let Some((_, file)) = held.iter().find(|(n, _)| *n == number) {
            return Ok(file.clone());
        }
        let stamp = self.stamps.get(number);
        let file = stamp
            .ok_or_else(|| KernelError::new("an array task names a file that the plan lacks"))?
            .open()?;
        if held.len() >= HELD_FILES {
            held.pop_front();
        }
        held.push_back((number, file.clone()));
        Ok(file)
    }
}

impl FileStamp {
    /// The file as it is now; of a store, the file that says what is in it.
    ///
    /// # Errors
    /// What `stat` says, and a directory that is no store.
    pub fn of(path: &Path) -> io::Result<FileStamp> {
        let mut metadata = std::fs::metadata(path)?;
        if metadata.is_dir() {
            let no_store =
                || io::Error::new(io::ErrorKind::InvalidInput, "a directory that is no Zarr store");
            metadata = std::fs::metadata(zarr::marker(path).ok_or_else(no_store)?)?;
        }
        let modified_ns =
            metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Ok(FileStamp { path: path.display().to_string(), size: metadata.len(), modified_ns, table: None })
    }

    /// Whether the file has the size and time that `other` has.
    pub fn is_same_state(&self, other: &FileStamp) -> bool {
        (self.size, self.modified_ns) == (other.size, other.modified_ns)
    }

    /// Opens the file, its metadata from this process's cache if they are there.
    ///
    /// # Errors
    /// The file can't be seen on this host, has changed since the plan was made, or can't be read.
    pub fn open(&self) -> Result<OpenFile, KernelError> {
        self.check()?;
        CACHE.open(self).map_err(|error| told(&error))
    }

    /// Looks whether the file is here, and as it was.
    ///
    /// # Errors
    /// The file can't be seen on this host, or has changed since the plan was made.
    pub fn check(&self) -> Result<(), KernelError> {
        let now = FileStamp::of(Path::new(&self.path)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if self.table.is_some() => KernelError::new(format!(
                "{} isn't there any more, or can't be seen on {}: it was when it was published",
                self.path,
                host()
            )),
            io::ErrorKind::NotFound => KernelError::new(format!(
                "visible here, not on {}: {} (its directory must be one that every worker sees)",
                host(),
                self.path
            )),
            _ => KernelError::new(format!("{}: {error} (on {})", self.path, host())),
        })?;
        if !self.is_same_state(&now) {
            let since = if self.table.is_some() { "it was published" } else { "the plan was made" };
            return Err(KernelError::new(format!("changed since {since}: {}", self.path)));
        }
        Ok(())
    }
}

/// What can't be read on one host may be readable on another: the message says on which it was tried.
fn told(error: &FormatError) -> KernelError {
    match error {
        FormatError::Io { .. } => KernelError::new(format!("{error} (on {})", host())),
        _ => KernelError::new(error.to_string()),
    }
}

/// This host's name, for messages.
pub fn host() -> String {
    nix::unistd::gethostname().map_or_else(|_| "this host".into(), |name| name.to_string_lossy().into_owned())
}

impl Source {
    /// Reads the box of `count` elements from `start` into `out`, C-ordered and little-endian.
    pub fn read(
        &self,
        files: &Files<'_>,
        (start, count): (&[u64], &[u64]),
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), KernelError> {
        let Some(join) = self.join else {
            return self.read_piece(files, 0, (start, count), scratch, out);
        };
        let (from, to) = (start[join], start[join] + count[join]);
        let end_of = |k: usize| self.pieces.get(k + 1).map_or(self.shape[join], |next| next.1);
        let first = self.pieces.partition_point(|(_, begin)| *begin <= from).saturating_sub(1);
        let last = self.pieces.partition_point(|(_, begin)| *begin < to).saturating_sub(1).max(first);
        if first == last {
            let mut local = start.to_vec();
            local[join] -= self.pieces[first].1;
            return self.read_piece(files, first, (&local, count), scratch, out);
        }
        let size = self.decode.dtype.size();
        out.resize(count.iter().product::<u64>() as usize * size, 0);
        let mut part = Vec::new();
        let origin = vec![0; count.len()];
        for k in first..=last {
            let begin = self.pieces[k].1;
            let (low, high) = (from.max(begin), to.min(end_of(k)));
            if low >= high {
                continue;
            }
            let (mut local, mut extent, mut target) = (start.to_vec(), count.to_vec(), origin.clone());
            local[join] = low - begin;
            extent[join] = high - low;
            target[join] = low - from;
            self.read_piece(files, k, (&local, &extent), scratch, &mut part)?;
            let (from, to) =
                (Place { shape: &extent, start: &origin }, Place { shape: count, start: &target });
            copy_box(&extent, (&part, from), (out, to), size);
        }
        Ok(())
    }

    /// A box that lies in one file.
    fn read_piece(
        &self,
        files: &Files<'_>,
        piece: usize,
        (start, count): (&[u64], &[u64]),
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), KernelError> {
        let number = self.pieces.get(piece).map_or(usize::MAX, |(file, _)| *file as usize);
        let OpenFile { file, dataset } = files.get(number)?;
        let found = dataset.variable(&self.variable);
        let Some(variable) = found.filter(|v| v.dtype.size() == self.decode.dtype.size()) else {
            return Err(KernelError::new(format!(
                "{}: no variable {} as planned",
                file.name(),
                self.variable
            )));
        };
        read_slab(&*file, &dataset, variable, start, count, scratch, out).map_err(|error| told(&error))
    }
}

type Kept<T> = Vec<(FileStamp, Arc<T>)>;

/// Metadata and open files of this process, newest last.
struct Cache {
    datasets: Mutex<Kept<Dataset>>,
    files: Mutex<Kept<dyn ReadAt>>,
}

static CACHE: Cache = Cache { datasets: Mutex::new(Vec::new()), files: Mutex::new(Vec::new()) };

impl Cache {
    fn open(&self, stamp: &FileStamp) -> Result<OpenFile, FormatError> {
        if let (Some(file), Some(dataset)) = (used(&self.files, stamp), used(&self.datasets, stamp)) {
            return Ok(OpenFile { file, dataset });
        }
        let (file, dataset): (Arc<dyn ReadAt>, Arc<Dataset>) = if Path::new(&stamp.path).is_dir() {
            let (store, dataset) = zarr::open(Path::new(&stamp.path))?;
            (Arc::new(store), Arc::new(dataset))
        } else {
            let file = match used(&self.files, stamp) {
                Some(file) => file,
                None => Arc::new(LocalFile::open(&stamp.path)?),
            };
            // Two threads may read the same metadata at once; the second to finish finds them kept.
            let dataset = match used(&self.datasets, stamp) {
                Some(dataset) => dataset,
                None => Arc::new(metadata(stamp, &*file)?),
            };
            (file, dataset)
        };
        keep(&self.files, stamp, &file, |_| 1, OPEN_FILES);
        keep(&self.datasets, stamp, &dataset, weight, CACHED_CHUNKS);
        Ok(OpenFile { file, dataset })
    }
}

/// What the file says of itself: by the table that was published of it, if there still is one.
fn metadata(stamp: &FileStamp, file: &dyn ReadAt) -> Result<Dataset, FormatError> {
    match stamp.table.as_ref().map(TablePart::read) {
        Some(Err(FormatError::Io { source, .. })) if source.kind() == io::ErrorKind::NotFound => {}
        Some(read) => return read,
        None => {}
    }
    hdf5::open(file)
}

/// What the cache has, which becomes its newest entry.
fn used<T: ?Sized>(cache: &Mutex<Kept<T>>, stamp: &FileStamp) -> Option<Arc<T>> {
    let mut entries = cache.lock().unwrap_or_else(PoisonError::into_inner);
    let at = entries.iter().rposition(|(kept, _)| kept == stamp)?;
    let entry = entries.remove(at);
    let found = Arc::clone(&entry.1);
    entries.push(entry);
    Some(found)
}

/// Adds an entry and drops the oldest while all together weigh more than `limit`.
fn keep<T: ?Sized>(
    cache: &Mutex<Kept<T>>,
    stamp: &FileStamp,
    value: &Arc<T>,
    weigh: impl Fn(&T) -> usize,
    limit: usize,
) {
    let mut entries = cache.lock().unwrap_or_else(PoisonError::into_inner);
    // Other states of the same path are of no use any more.
    entries.retain(|(kept, _)| kept.path != stamp.path);
    entries.push((stamp.clone(), Arc::clone(value)));
    let mut total: usize = entries.iter().map(|(_, value)| weigh(value)).sum();
    let mut dropped = 0;
    while total > limit && dropped + 1 < entries.len() {
        total -= weigh(&entries[dropped].1);
        dropped += 1;
    }
    entries.drain(..dropped);
}

/// Roughly the chunk entries that metadata hold.
fn weight(dataset: &Dataset) -> usize {
    let chunks = dataset.variables.iter().map(|v| match &v.storage {
        Storage::Chunked { chunks, .. } => chunks.len(),
        Storage::Compact(bytes) => bytes.len() / 40,
        Storage::Empty | Storage::Contiguous { .. } => 0,
    });
    // A variable with its attributes takes about as much as a hundred chunks.
    chunks.sum::<usize>() + 100 * dataset.variables.len()
}
