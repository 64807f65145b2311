//! Where the journal's files are.

use crate::journal::JournalError;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

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

    /// The file from its beginning, to be read in pieces.
    ///
    /// # Errors
    /// As [`Files::load`].
    fn open(&self, name: &str) -> Result<Opened, JournalError> {
        let bytes = self.load(name)?;
        Ok(Opened { nbytes: bytes.len() as u64, source: Box::new(io::Cursor::new(bytes)) })
    }
}

/// A file about to be read.
pub struct Opened {
    pub source: Box<dyn Read>,
    /// Its length now.
    pub nbytes: u64,
}

/// A directory of the file system.
pub(super) struct Directory<'a>(pub &'a Path);

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
    fn open(&self, name: &str) -> Result<Opened, JournalError> {
        let path = self.0.join(name);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (nbytes, file) = opened.map_err(|error| JournalError::io("read", &path, error))?;
        Ok(Opened { source: Box::new(file), nbytes })
    }
}
