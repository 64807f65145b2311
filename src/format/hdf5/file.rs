//! The open file: superblock, checked reads of metadata, and what is read once and used often.

use super::cursor::Cursor;
use super::global_heap::Collection;
use crate::format::lookup3::lookup3;
use crate::format::read_at::BlockCache;
use crate::format::{FormatError, ReadAt};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

const SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";

/// A user block is 0 or 512, 1024, 2048.. bytes; this is as far as the superblock is looked for.
const MAX_USER_BLOCK: u64 = 1 << 32;

/// Metadata reads may come to this many times the file's length, and [`BUDGET_FLOOR`]: a sound file's metadata are
/// read about once.
const BUDGET_TIMES: u64 = 16;
const BUDGET_FLOOR: u64 = 4 << 20;
/// The smallest price of a read, so that many tiny reads end too.
const READ_PRICE: u64 = 64;

/// One file while it is being opened.
pub(super) struct File<'a> {
    cache: BlockCache<'a>,
    /// Where the superblock is; all addresses count from here.
    base: u64,
    pub(super) offset_size: usize,
    pub(super) length_size: usize,
    /// Address of the root group's object header.
    pub(super) root: u64,
    budget: Cell<u64>,
    pub(super) collections: RefCell<HashMap<u64, Rc<Collection>>>,
}

impl<'a> File<'a> {
    /// Finds and reads the superblock, versions 0 to 3.
    pub(super) fn open(source: &'a dyn ReadAt) -> Result<File<'a>, FormatError> {
        let cache = BlockCache::new(source);
        let name = cache.name().to_owned();
        let Some(base) = find_superblock(&cache).map_err(|e| FormatError::io(&name, e))? else {
            return Err(FormatError::NotHdf5 { file: name });
        };
        let budget = Cell::new(cache.len().saturating_mul(BUDGET_TIMES).saturating_add(BUDGET_FLOOR));
        let collections = RefCell::default();
        let mut file = File { cache, base, offset_size: 8, length_size: 8, root: 0, budget, collections };
        file.read_superblock()?;
        Ok(file)
    }

    fn read_superblock(&mut self) -> Result<(), FormatError> {
        const WHAT: &str = "superblock";
        let bytes = self.read_up_to(0, 128, WHAT)?;
        let mut cursor = self.cursor(&bytes, WHAT);
        cursor.skip(8)?;
        let version = cursor.u8()?;
        if version > 3 {
            return Err(self.unsupported(&format!("superblock version {version}")));
        }
        if version < 2 {
            cursor.skip(4)?;
        }
        let (offset_size, length_size) = (usize::from(cursor.u8()?), usize::from(cursor.u8()?));
        if ![2, 4, 8].contains(&offset_size) || ![2, 4, 8].contains(&length_size) {
            return Err(
                cursor.damaged(&format!("addresses of {offset_size}, lengths of {length_size} bytes"))
            );
        }
        (cursor.offset_size, cursor.length_size) = (offset_size, length_size);
        let (end, root);
        if version < 2 {
            cursor.skip(if version == 1 { 13 } else { 9 })?;
            cursor.skip(2 * offset_size)?;
            end = cursor.address()?;
            cursor.skip(2 * offset_size)?;
            root = cursor.some_address()?;
        } else {
            cursor.skip(1 + 2 * offset_size)?;
            end = cursor.address()?;
            root = cursor.some_address()?;
            let covered = cursor.at;
            if cursor.u32()? != lookup3(&bytes[..covered]) && !believed() {
                return Err(cursor.damaged("its checksum does not match"));
            }
        }
        let end = end.unwrap_or(0);
        if end > self.cache.len() {
            return Err(FormatError::damaged(
                self.cache.name(),
                format!("it should have {end} bytes and has {}", self.cache.len()),
            ));
        }
        (self.offset_size, self.length_size, self.root) = (offset_size, length_size, root);
        Ok(())
    }

    pub(super) fn name(&self) -> &str {
        self.cache.name()
    }

    /// Bytes of the whole file.
    pub(super) fn len(&self) -> u64 {
        self.cache.len()
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> FormatError {
        FormatError::damaged(self.name(), what)
    }

    pub(super) fn unsupported(&self, what: &str) -> FormatError {
        FormatError::unsupported(self.name(), what)
    }

    pub(super) fn cursor<'b>(&'b self, bytes: &'b [u8], what: &'static str) -> Cursor<'b> {
        Cursor {
            file: self.cache.name(),
            what,
            bytes,
            at: 0,
            offset_size: self.offset_size,
            length_size: self.length_size,
        }
    }

    /// `len` bytes of metadata at `address`.
    pub(super) fn read(&self, address: u64, len: usize, what: &'static str) -> Result<Vec<u8>, FormatError> {
        let Some(left) = self.budget.get().checked_sub((len as u64).max(READ_PRICE)) else {
            return Err(self.damaged(format!("{what} at {address}: its structures run in circles")));
        };
        self.budget.set(left);
        let offset = self.absolute(address)?;
        self.cache.read(offset, len).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                self.damaged(format!("{what} of {len} bytes at {address} is beyond the file's end"))
            }
            _ => FormatError::io(self.name(), e),
        })
    }

    /// As [`File::read`], but less where the file ends.
    pub(super) fn read_up_to(
        &self,
        address: u64,
        len: usize,
        what: &'static str,
    ) -> Result<Vec<u8>, FormatError> {
        let left = self.cache.len().saturating_sub(self.absolute(address)?);
        self.read(address, (len as u64).min(left) as usize, what)
    }

    /// As [`File::read`]; the last four bytes are the checksum of the others, and are dropped.
    pub(super) fn read_checked(
        &self,
        address: u64,
        len: usize,
        what: &'static str,
    ) -> Result<Vec<u8>, FormatError> {
        let mut bytes = self.read(address, len, what)?;
        let Some((data, sum)) = bytes.split_last_chunk::<4>() else {
            return Err(self.damaged(format!("{what} at {address}: it is too short")));
        };
        if lookup3(data) != u32::from_le_bytes(*sum) && !believed() {
            return Err(self.damaged(format!("{what} at {address}: its checksum does not match")));
        }
        bytes.truncate(bytes.len() - 4);
        Ok(bytes)
    }

    /// The address as an offset in the source.
    pub(super) fn absolute(&self, address: u64) -> Result<u64, FormatError> {
        let offset = address.checked_add(self.base).filter(|offset| *offset <= self.cache.len());
        offset.ok_or_else(|| self.damaged(format!("the address {address} is beyond the file's end")))
    }

    /// The address as an offset in the source, once it is known that `nbytes` lie there.
    pub(super) fn range(&self, address: u64, nbytes: u64, what: &str) -> Result<u64, FormatError> {
        let offset = self.absolute(address)?;
        if nbytes > self.cache.len() - offset {
            return Err(self.damaged(format!("{what}: {nbytes} bytes at {offset} are beyond the file's end")));
        }
        Ok(offset)
    }

    /// Bytes of a reference to variable-length data: length, address, index.
    pub(super) fn heap_reference_size(&self) -> usize {
        4 + self.offset_size + 4
    }
}

#[cfg(test)]
thread_local! {
    /// Tests of damaged files get past the checksums by this, to what lies behind them.
    pub(super) static BELIEVE: Cell<bool> = const { Cell::new(false) };
}

#[cfg(test)]
pub(super) fn believed() -> bool {
    BELIEVE.get()
}

/// Whether wrong checksums are let through: never.
#[cfg(not(test))]
pub(super) fn believed() -> bool {
    false
}

fn find_superblock(cache: &BlockCache<'_>) -> io::Result<Option<u64>> {
    let mut at = 0;
    while at <= MAX_USER_BLOCK && at + 8 <= cache.len() {
        if cache.read(at, 8)? == SIGNATURE {
            return Ok(Some(at));
        }
        at = if at == 0 { 512 } else { at * 2 };
    }
    Ok(None)
}
