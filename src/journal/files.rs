//! Making and removing the journal's files: each comes to its name whole, and no other process's is replaced.

use super::JournalError;
use super::record::{FileHeader, FileKind, Place};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file that holds its header and has no name yet. Dropped without [`Unnamed::publish`], it is removed.
pub(super) struct Unnamed {
    pub file: File,
    temporary: PathBuf,
    dir: PathBuf,
    place: Place,
}

impl Unnamed {
    pub fn create(dir: &Path, header: FileHeader) -> Result<Unnamed, JournalError> {
        let name = header.place.file_name();
        let temporary = dir.join(format!(".{name}.{}.tmp", std::process::id()));
        let _ = std::fs::remove_file(&temporary);
        let failed = |error| JournalError::io("begin", &dir.join(&name), error);
        let file =
            OpenOptions::new().append(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
        let mut made = Unnamed { file, temporary, dir: dir.to_owned(), place: header.place };
        made.file.write_all(&header.encode()).map_err(failed)?;
        Ok(made)
    }

    /// Gives the file its name, once all that was written to it is on disk. It is linked, so that no other file of
    /// that name is replaced.
    pub fn publish(self) -> Result<File, JournalError> {
        let path = path_of(&self.dir, self.place);
        let published = (|| {
            self.file.sync_all()?;
            std::fs::hard_link(&self.temporary, &path)?;
            std::fs::remove_file(&self.temporary)?;
            sync_dir(&self.dir)?;
            self.file.try_clone()
        })();
        published.map_err(|error: io::Error| JournalError::io("begin", &path, error))
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Removes every file that a durable snapshot stands for, and what crashes left half made. Returns how many.
///
/// # Errors
/// The directory can't be read or a file not removed: then those that are left are only a waste.
pub(super) fn remove_before(dir: &Path, snapshot: Place) -> Result<u32, JournalError> {
    let failed = |error| JournalError::io("clear", dir, error);
    let mut removed = 0;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let left_half_made = || {
            let (name, _) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
            Place::of_file(name)
        };
        if Place::of_file(name).or_else(left_half_made).is_some_and(|place| place < snapshot) {
            std::fs::remove_file(entry.path()).map_err(failed)?;
            removed += 1;
        }
    }
    sync_dir(dir).map_err(failed)?;
    Ok(removed)
}

/// Gives every file of the journal a second name in `aside`.
///
/// # Errors
/// The directories can't be read or written.
pub(super) fn link_all(dir: &Path, aside: &Path) -> Result<(), JournalError> {
    create_dir(aside)?;
    let failed = |error| JournalError::io("keep", aside, error);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_str().and_then(Place::of_file).is_some() {
            std::fs::hard_link(entry.path(), aside.join(entry.file_name())).map_err(failed)?;
        }
    }
    sync_dir(aside).map_err(failed)
}

pub(super) fn path_of(dir: &Path, place: Place) -> PathBuf {
    dir.join(place.file_name())
}

pub(super) fn create_dir(dir: &Path) -> Result<(), JournalError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(JournalError::io("create", dir, error))
        }
        _ => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The segment that is written to, and how the next one is begun.
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    segment_bytes: u64,
    file: File,
    place: Place,
    nbytes: u64,
}

impl Segments {
    /// Begins an epoch's first segment, which comes to its name with these records in it.
    pub fn begin(
        dir: &Path,
        header: FileHeader,
        records: &[u8],
        segment_bytes: u64,
    ) -> Result<Segments, JournalError> {
        debug_assert_eq!(header.place.kind, FileKind::Segment, "a snapshot is written once");
        let mut unnamed = Unnamed::create(dir, header)?;
        let written = unnamed.file.write_all(records);
        written.map_err(|error| JournalError::io("begin", &path_of(dir, header.place), error))?;
        let (file, nbytes) = (unnamed.publish()?, records.len() as u64);
        Ok(Segments { dir: dir.to_owned(), segment_bytes, file, place: header.place, nbytes })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// Begins the next segment, with record `first_seq`. What came before is durable, so that none ever begins
    /// beside a torn one.
    pub fn begin_next(&mut self, first_seq: u64) -> Result<(), JournalError> {
        let place = Place { index: self.place.index + 1, ..self.place };
        self.file = Unnamed::create(&self.dir, FileHeader { place, first_seq })?.publish()?;
        (self.place, self.nbytes) = (place, 0);
        Ok(())
    }

    /// Appends a group that starts with record `first_seq`, and syncs.
    pub fn write(&mut self, group: &[u8], first_seq: u64) -> Result<(), JournalError> {
        if self.nbytes >= self.segment_bytes {
            self.begin_next(first_seq)?;
        }
        let written = self.file.write_all(group).and_then(|()| self.file.sync_data());
        written.map_err(|error| JournalError::io("write", &path_of(&self.dir, self.place), error))?;
        self.nbytes += group.len() as u64;
        Ok(())
    }
}
