//! A store's chunks as one long file: each chunk's file has its place in it, so that chunk tables and everything that
//! reads by them know nothing of directories.

use crate::format::ReadAt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The chunk files of a store, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Store {
    name: String,
    root: PathBuf,
    /// Where each begins, ascending, and its path below the root.
    files: Vec<(u64, String)>,
    len: u64,
}

impl Store {
    pub(super) fn new(root: PathBuf) -> Store {
        Store { name: root.display().to_string(), root, files: Vec::new(), len: 0 }
    }

    /// Adds a file; where it begins.
    pub(super) fn push(&mut self, path: String, nbytes: u64) -> u64 {
        let at = self.len;
        self.files.push((at, path));
        self.len += nbytes;
        at
    }
}

impl ReadAt for Store {
    /// Bytes of one chunk: what reaches into the next is beyond its end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let after = self.files.partition_point(|(start, _)| *start <= offset);
        let Some((start, path)) = after.checked_sub(1).map(|at| &self.files[at]) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let path = self.root.join(path);
        let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        File::open(&path).and_then(|file| file.read_exact_at(buf, offset - start)).map_err(told)
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn name(&self) -> &str {
        &self.name
    }
}
