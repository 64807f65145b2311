//! The thin IO of writing: many processes may have one [`OutFile`] open and write their own chunks.

use super::Layout;
use crate::format::FormatError;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file that is being written. Errors name it.
#[derive(Debug)]
pub struct OutFile {
    file: File,
    path: PathBuf,
}

impl OutFile {
    /// Creates `path` with `len` bytes, emptying what was there. Where the file system can, room is taken now, so that
    /// a full disk shows before any work is done.
    pub fn create(path: impl AsRef<Path>, len: u64) -> Result<OutFile, FormatError> {
        let path = path.as_ref();
        let options = OpenOptions::new().write(true).create(true).truncate(true).clone();
        let out = OutFile::opened(path, options.open(path))?;
        if let Ok(length) = i64::try_from(len)
            && length > 0
            && let Err(nix::errno::Errno::ENOSPC | nix::errno::Errno::EDQUOT) =
                fallocate(&out.file, FallocateFlags::empty(), 0, length)
        {
            // Half of it may have been taken; other errors only mean that this file system has no such call.
            let _ = out.file.set_len(0);
            return Err(out.error(io::ErrorKind::StorageFull.into()));
        }
        out.file.set_len(len).map_err(|e| out.error(e))?;
        Ok(out)
    }

    /// Opens a file that another process created.
    pub fn open(path: impl AsRef<Path>) -> Result<OutFile, FormatError> {
        let path = path.as_ref();
        OutFile::opened(path, OpenOptions::new().write(true).open(path))
    }

    /// Writes all of `bytes` at `offset`. Several threads and processes may do so at once, each its own range.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FormatError> {
        self.file.write_all_at(bytes, offset).map_err(|e| self.error(e))
    }

    /// Returns once what this process wrote is on the disk or the file server. A writer calls it before it reports
    /// its chunks as written: network file systems tell of a full disk only here.
    pub fn sync(&self) -> Result<(), FormatError> {
        self.file.sync_all().map_err(|e| self.error(e))
    }

    /// Writes the metadata and then, once that is durable, the superblock. To be called after every writer's
    /// [`OutFile::sync`]; repeating it changes nothing.
    pub fn finish(&self, layout: &Layout) -> Result<(), FormatError> {
        for (offset, bytes) in &layout.metadata {
            self.write_at(*offset, bytes)?;
        }
        self.sync()?;
        self.write_at(0, &layout.superblock)?;
        self.sync()
    }

    /// Renames the finished file to `target`, replacing what is there, and makes the name durable.
    pub fn publish(self, target: impl AsRef<Path>) -> Result<(), FormatError> {
        let target = target.as_ref();
        let moved = std::fs::rename(&self.path, target).and_then(|()| {
            let folder = target.parent().filter(|p| !p.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        });
        moved.map_err(|e| FormatError::io(target.display().to_string(), e))
    }

    fn opened(path: &Path, opened: io::Result<File>) -> Result<OutFile, FormatError> {
        match opened {
            Ok(file) => Ok(OutFile { file, path: path.to_owned() }),
            Err(e) => Err(FormatError::io(path.display().to_string(), e)),
        }
    }

    fn error(&self, source: io::Error) -> FormatError {
        FormatError::io(self.path.display().to_string(), source)
    }
}
