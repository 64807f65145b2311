//! Fractal heaps: where links and attributes live when there are many of them.

use super::btree_v2::{self, Records};
use super::file::{File, believed};
use crate::format::FormatError;
use crate::format::lookup3::lookup3;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

const WHAT: &str = "fractal heap";
/// Indirect blocks inside indirect blocks at most: each level multiplies what a heap can hold.
const MAX_DEPTH: u32 = 16;

/// An open heap; blocks are read and checked once.
pub(super) struct FractalHeap<'a> {
    file: &'a File<'a>,
    max_managed: u64,
    huge_tree: Option<u64>,
    width: u64,
    start_size: u64,
    max_direct: u64,
    /// Bytes of an offset in the heap.
    offset_bytes: usize,
    root: Option<u64>,
    root_rows: u64,
    direct_checksums: bool,
    blocks: RefCell<HashMap<u64, Rc<Vec<u8>>>>,
    huge: OnceCell<Records>,
}

impl<'a> FractalHeap<'a> {
    /// Reads the heap header at `address`.
    pub(super) fn open(file: &'a File<'a>, address: u64) -> Result<FractalHeap<'a>, FormatError> {
        let (so, sl) = (file.offset_size, file.length_size);
        let len = 26 + 12 * sl + 3 * so;
        let filters = file.read(address, 9, WHAT)?;
        if filters.starts_with(b"FRHP") && filters[7..9] != [0, 0] {
            return Err(file.unsupported("compressed group or attribute storage"));
        }
        let bytes = file.read_checked(address, len, WHAT)?;
        let mut cursor = file.cursor(&bytes, WHAT);
        cursor.signature(b"FRHP")?;
        cursor.skip(5)?;
        let flags = cursor.u8()?;
        let max_managed = u64::from(cursor.u32()?);
        cursor.skip(sl)?;
        let huge_tree = cursor.address()?;
        cursor.skip(sl + so + 8 * sl)?;
        let width = u64::from(cursor.u16()?);
        let (start_size, max_direct) = (cursor.length()?, cursor.length()?);
        let bits = usize::from(cursor.u16()?);
        cursor.skip(2)?;
        let root = cursor.address()?;
        let root_rows = u64::from(cursor.u16()?);
        let sizes_make_sense = start_size.is_power_of_two()
            && max_direct.is_power_of_two()
            && max_direct >= start_size
            && width.is_power_of_two()
            && bits > 0
            && bits <= 64
            && root_rows <= 64;
        if !sizes_make_sense {
            return Err(cursor.damaged("its sizes make no sense"));
        }
        Ok(FractalHeap {
            file,
            max_managed,
            huge_tree,
            width,
            start_size,
            max_direct,
            offset_bytes: bits.div_ceil(8),
            root,
            root_rows,
            direct_checksums: flags & 2 != 0,
            blocks: RefCell::default(),
            huge: OnceCell::new(),
        })
    }

    /// The object with that heap id.
    pub(super) fn object(&self, id: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut cursor = self.file.cursor(id, "heap id");
        let flags = cursor.u8()?;
        match flags >> 4 & 3 {
            0 => {
                let offset = cursor.uint(self.offset_bytes)?;
                let most = self.max_direct.min(self.max_managed).max(1);
                let len = cursor.uint(most.ilog2() as usize / 8 + 1)?;
                self.managed(offset, len)
            }
            1 => {
                let key = cursor.uint(cursor.left().min(self.file.length_size))?;
                self.huge(key)
            }
            2 => {
                let len = usize::from(flags & 15) + 1;
                Ok(cursor.take(len)?.to_vec())
            }
            _ => Err(cursor.damaged("an unknown kind")),
        }
    }

    fn managed(&self, offset: u64, len: u64) -> Result<Vec<u8>, FormatError> {
        let Some(root) = self.root else {
            return Err(self.damaged("an object in an empty heap"));
        };
        let (block, start) = if self.root_rows == 0 {
            (self.direct_block(root, self.start_size)?, 0)
        } else {
            self.find(root, self.root_rows, 0, offset, 0)?
        };
        let from = usize::try_from(offset - start).ok();
        let range = from.and_then(|from| Some(from..from.checked_add(usize::try_from(len).ok()?)?));
        let found = range.and_then(|range| block.get(range));
        found.map(<[u8]>::to_vec).ok_or_else(|| self.damaged("an object beyond its block"))
    }

    /// The direct block that covers `offset`, below the indirect block at `address` that covers from `base`; and where
    /// it starts.
    fn find(
        &self,
        address: u64,
        rows: u64,
        base: u64,
        offset: u64,
        depth: u32,
    ) -> Result<(Rc<Vec<u8>>, u64), FormatError> {
        if depth > MAX_DEPTH || rows > 64 {
            return Err(self.damaged("blocks nested too deep"));
        }
        let block = self.indirect_block(address, rows)?;
        let mut cursor = self.file.cursor(&block, WHAT);
        cursor.skip(5 + self.file.offset_size + self.offset_bytes)?;
        let mut start = base;
        for row in 0..rows {
            let shift = row.saturating_sub(1) as u32;
            let size = self.start_size.checked_mul(1u64.checked_shl(shift).unwrap_or(0));
            let size = size.filter(|size| *size > 0).ok_or_else(|| self.damaged("a block too large"))?;
            for _ in 0..self.width {
                let child = cursor.address()?;
                let end = start.checked_add(size).ok_or_else(|| self.damaged("a block too large"))?;
                if offset < start || offset >= end {
                    start = end;
                    continue;
                }
                let child = child.ok_or_else(|| self.damaged("an object in a missing block"))?;
                if size <= self.max_direct {
                    return Ok((self.direct_block(child, size)?, start));
                }
                let first_row = self.start_size.saturating_mul(self.width);
                let rows = (size / first_row).checked_ilog2().map(|log| u64::from(log) + 1);
                let rows = rows.ok_or_else(|| self.damaged("an indirect block without rows"))?;
                return self.find(child, rows, start, offset, depth + 1);
            }
        }
        Err(self.damaged("an object beyond its blocks"))
    }

    fn indirect_block(&self, address: u64, rows: u64) -> Result<Rc<Vec<u8>>, FormatError> {
        if let Some(known) = self.blocks.borrow().get(&address) {
            return Ok(Rc::clone(known));
        }
        let so = self.file.offset_size;
        let len = 5 + so + self.offset_bytes + (rows * self.width) as usize * so + 4;
        let bytes = self.file.read_checked(address, len, WHAT)?;
        self.file.cursor(&bytes, WHAT).signature(b"FHIB")?;
        Ok(self.keep(address, bytes))
    }

    fn direct_block(&self, address: u64, size: u64) -> Result<Rc<Vec<u8>>, FormatError> {
        if let Some(known) = self.blocks.borrow().get(&address) {
            return Ok(Rc::clone(known));
        }
        let size = usize::try_from(size).map_err(|_| self.damaged("a block too large"))?;
        let mut bytes = self.file.read(address, size, WHAT)?;
        self.file.cursor(&bytes, WHAT).signature(b"FHDB")?;
        if self.direct_checksums {
            // The sum is made with zeros in its own place.
            let at = 5 + self.file.offset_size + self.offset_bytes;
            let Some(place) = bytes.get_mut(at..at + 4) else {
                return Err(self.damaged("a block too small"));
            };
            let sum = u32::from_le_bytes([place[0], place[1], place[2], place[3]]);
            place.fill(0);
            if lookup3(&bytes) != sum && !believed() {
                return Err(self.damaged("a block's checksum does not match"));
            }
        }
        Ok(self.keep(address, bytes))
    }

    fn keep(&self, address: u64, bytes: Vec<u8>) -> Rc<Vec<u8>> {
        let block = Rc::new(bytes);
        self.blocks.borrow_mut().insert(address, Rc::clone(&block));
        block
    }

    /// An object that is too large for the blocks, found by its number in a B-tree.
    fn huge(&self, key: u64) -> Result<Vec<u8>, FormatError> {
        let records = match self.huge.get() {
            Some(records) => records,
            None => {
                let tree = self.huge_tree.ok_or_else(|| self.damaged("a huge object without index"))?;
                let read = btree_v2::records(self.file, tree)?;
                self.huge.get_or_init(|| read)
            }
        };
        if records.kind != 1 {
            return Err(self.file.unsupported("compressed group or attribute storage"));
        }
        for record in records.iter() {
            let mut cursor = self.file.cursor(record, WHAT);
            let address = cursor.some_address()?;
            let len = usize::try_from(cursor.length()?).unwrap_or(usize::MAX);
            if cursor.length()? == key {
                return self.file.read(address, len, WHAT);
            }
        }
        Err(self.damaged("a huge object is missing"))
    }

    fn damaged(&self, what: &str) -> FormatError {
        self.file.damaged(format!("{WHAT}: {what}"))
    }
}
