//! Where bytes come from: local files by `pread`, memory, and a block cache for reading scattered metadata.

use super::{FormatError, ReadAt};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

/// Bytes of one cached block. Headers are small and scattered: larger blocks would mostly fetch array data.
const BLOCK_BYTES: u64 = 16 * 1024;

/// Blocks kept at most (64 MiB): beyond that the cache starts afresh.
const BLOCKS_KEPT: usize = 4096;

/// A local file. It is read with `pread` and never mapped: a mapped file that is truncated in use kills the reader.
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    len: u64,
    name: String,
}

impl LocalFile {
    /// Opens `path` for reading. The length is that of now; a file that shrinks gives `UnexpectedEof` later.
    pub fn open(path: impl AsRef<Path>) -> Result<LocalFile, FormatError> {
        let name = path.as_ref().display().to_string();
        // Asked before opening: to open a pipe would wait for its writer.
        let opened = std::fs::metadata(&path).and_then(|metadata| {
            if !metadata.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            let file = File::open(&path)?;
            Ok((file.metadata()?.len(), file))
        });
        let (len, file) = opened.map_err(|e| FormatError::io(&name, e))?;
        Ok(LocalFile { file, len, name })
    }
}

impl ReadAt for LocalFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// A whole file in memory.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Memory {
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Memory {
        Memory { name: name.into(), bytes }
    }
}

impl ReadAt for Memory {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.checked_add(buf.len());
        let Some(found) = end.and_then(|end| self.bytes.get(start..end)) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        buf.copy_from_slice(found);
        Ok(())
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// Small reads out of blocks that are fetched once. For one thread, while one file is opened.
pub(super) struct BlockCache<'a> {
    source: &'a dyn ReadAt,
    len: u64,
    blocks: RefCell<HashMap<u64, Rc<Vec<u8>>>>,
}

impl<'a> BlockCache<'a> {
    pub(super) fn new(source: &'a dyn ReadAt) -> BlockCache<'a> {
        BlockCache { source, len: source.len(), blocks: RefCell::default() }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn name(&self) -> &'a str {
        self.source.name()
    }

    /// `len` bytes from `offset`. Nothing is allocated before it is known that the file is that long.
    pub(super) fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.len);
        let Some(end) = end else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        if len as u64 > BLOCK_BYTES {
            let mut bytes = vec![0; len];
            self.source.read_at(offset, &mut bytes)?;
            return Ok(bytes);
        }
        let mut bytes = Vec::with_capacity(len);
        let mut at = offset;
        while at < end {
            let number = at / BLOCK_BYTES;
            let block = self.block(number)?;
            let from = (at - number * BLOCK_BYTES) as usize;
            let to = ((end - number * BLOCK_BYTES) as usize).min(block.len());
            bytes.extend_from_slice(&block[from..to]);
            at += (to - from) as u64;
        }
        Ok(bytes)
    }

    fn block(&self, number: u64) -> io::Result<Rc<Vec<u8>>> {
        if let Some(block) = self.blocks.borrow().get(&number) {
            return Ok(Rc::clone(block));
        }
        let start = number * BLOCK_BYTES;
        let mut bytes = vec![0; (self.len - start).min(BLOCK_BYTES) as usize];
        self.source.read_at(start, &mut bytes)?;
        let block = Rc::new(bytes);
        let mut blocks = self.blocks.borrow_mut();
        if blocks.len() >= BLOCKS_KEPT {
            blocks.clear();
        }
        blocks.insert(number, Rc::clone(&block));
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting_bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn a_local_file_reads_anywhere_and_says_where_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bytes");
        std::fs::write(&path, counting_bytes(1000)).unwrap();
        let file = LocalFile::open(&path).unwrap();
        let mut buf = [0; 3];
        file.read_at(997, &mut buf).unwrap();
        assert_eq!(buf, [997 % 251, 998 % 251, 999 % 251].map(|x: i32| x as u8));
        assert_eq!(file.read_at(998, &mut buf).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(file.len(), 1000);
    }

    #[test]
    fn a_missing_file_and_a_directory_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = LocalFile::open(dir.path().join("no.nc")).unwrap_err().to_string();
        assert!(error.contains("no.nc"), "{error}");
        let error = LocalFile::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn cached_reads_equal_the_bytes_at_block_edges_and_across_them() {
        let memory = Memory::new("m", counting_bytes(3 * BLOCK_BYTES as usize + 77));
        let cache = BlockCache::new(&memory);
        let edge = BLOCK_BYTES;
        for (offset, len) in [(0, 1), (edge - 1, 2), (edge, 16384), (5, 40000), (3 * edge + 70, 7), (9, 0)] {
            let wanted = &memory.bytes[offset as usize..offset as usize + len];
            assert_eq!(cache.read(offset, len).unwrap(), wanted, "{offset}+{len}");
        }
        assert!(cache.read(3 * edge + 70, 8).is_err());
        assert!(cache.read(u64::MAX, 8).is_err());
    }
}
