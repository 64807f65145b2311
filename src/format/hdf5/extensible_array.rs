//! Extensible arrays: the chunk index of datasets with one unlimited dimension in HDF5 1.10's format. An index block
//! holds the first entries and the addresses of data blocks and super blocks, whose sizes double in pairs.

use super::cursor::Cursor;
use super::file::File;
use crate::format::FormatError;

const WHAT: &str = "extensible array";

struct Array<'a> {
    file: &'a File<'a>,
    entry_size: usize,
    /// Bytes of an offset in the array.
    offset_bytes: usize,
    in_index: u64,
    /// Entries of the smallest data block.
    smallest: u64,
    /// Entries of one page of a data block.
    per_page: u64,
    super_blocks: u32,
    /// Super blocks whose data blocks the index block lists itself.
    direct_super_blocks: u32,
    /// Entries that are asked for: those beyond are not part of the dataset.
    total: u64,
}

/// Calls `visit(number, entry)` for the first `total` entries, as far as their blocks exist.
pub(super) fn entries(
    file: &File<'_>,
    address: u64,
    total: u64,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let (so, sl) = (file.offset_size, file.length_size);
    let bytes = file.read_checked(address, 16 + 6 * sl + so, WHAT)?;
    let mut cursor = file.cursor(&bytes, WHAT);
    cursor.signature(b"EAHD")?;
    cursor.skip(2)?;
    let entry_size = usize::from(cursor.u8()?);
    let max_bits = u32::from(cursor.u8()?);
    let in_index = u64::from(cursor.u8()?);
    let smallest = u64::from(cursor.u8()?);
    let least_pointers = u64::from(cursor.u8()?);
    let page_bits = u32::from(cursor.u8()?);
    cursor.skip(6 * sl)?;
    let index_block = cursor.address()?;
    let sizes_make_sense = entry_size >= so
        && smallest.is_power_of_two()
        && least_pointers.is_power_of_two()
        && (1..=64).contains(&max_bits)
        && max_bits >= smallest.ilog2()
        && page_bits <= 32;
    if !sizes_make_sense {
        return Err(cursor.damaged("its sizes make no sense"));
    }
    let super_blocks = 1 + max_bits - smallest.ilog2();
    let direct_super_blocks = 2 * least_pointers.ilog2();
    if direct_super_blocks > super_blocks {
        return Err(cursor.damaged("its sizes make no sense"));
    }
    let array = Array {
        file,
        entry_size,
        offset_bytes: max_bits.div_ceil(8) as usize,
        in_index,
        smallest,
        per_page: 1 << page_bits,
        super_blocks,
        direct_super_blocks,
        total,
    };
    match index_block {
        Some(index_block) => array.read_index(index_block, 2 * (least_pointers - 1), &mut visit),
        None => Ok(()),
    }
}

type Visit<'v> = dyn FnMut(u64, &[u8]) -> Result<(), FormatError> + 'v;

impl Array<'_> {
    fn read_index(&self, address: u64, data_blocks: u64, visit: &mut Visit<'_>) -> Result<(), FormatError> {
        let so = self.file.offset_size;
        let listed = u64::from(self.super_blocks - self.direct_super_blocks);
        let len =
            6 + so + self.in_index as usize * self.entry_size + (data_blocks + listed) as usize * so + 4;
        let bytes = self.file.read_checked(address, len, WHAT)?;
        let mut cursor = self.file.cursor(&bytes, WHAT);
        cursor.signature(b"EAIB")?;
        cursor.skip(2 + so)?;
        for number in 0..self.in_index {
            let entry = cursor.take(self.entry_size)?;
            if number < self.total {
                visit(number, entry)?;
            }
        }
        let mut first = self.in_index;
        for number in 0..self.super_blocks {
            if first >= self.total {
                break;
            }
            let blocks = 1u64 << (number / 2);
            // Numbers of entries beyond 64 bits are beyond any dataset.
            let entries = (1u64 << number.div_ceil(2)).saturating_mul(self.smallest);
            if number < self.direct_super_blocks {
                for _ in 0..blocks {
                    let block = cursor.address()?;
                    self.read_data_block(block, first, entries, None, visit)?;
                    first = first.saturating_add(entries);
                }
            } else {
                let block = cursor.address()?;
                if let Some(block) = block {
                    self.read_super_block(block, first, blocks, entries, visit)?;
                }
                first = first.saturating_add(blocks.saturating_mul(entries));
            }
        }
        Ok(())
    }

    fn read_super_block(
        &self,
        address: u64,
        mut first: u64,
        blocks: u64,
        entries: u64,
        visit: &mut Visit<'_>,
    ) -> Result<(), FormatError> {
        let so = self.file.offset_size;
        let pages = if entries > self.per_page { entries / self.per_page } else { 0 };
        let bitmap = usize::try_from(pages.div_ceil(8)).unwrap_or(usize::MAX);
        let blocks = usize::try_from(blocks).unwrap_or(usize::MAX);
        let lists = blocks.saturating_mul(bitmap.saturating_add(so));
        let len = lists.saturating_add(6 + so + self.offset_bytes + 4);
        let bytes = self.file.read_checked(address, len, WHAT)?;
        let mut cursor: Cursor<'_> = self.file.cursor(&bytes, WHAT);
        cursor.signature(b"EASB")?;
        cursor.skip(2 + so + self.offset_bytes)?;
        let bitmaps = cursor.take(blocks * bitmap)?;
        for number in 0..blocks {
            if first >= self.total {
                break;
            }
            let block = cursor.address()?;
            let initialised = (bitmap > 0).then(|| &bitmaps[number * bitmap..][..bitmap]);
            self.read_data_block(block, first, entries, initialised, visit)?;
            first = first.saturating_add(entries);
        }
        Ok(())
    }

    /// A data block of `entries`, in pages if it is larger than one; `initialised` has a bit for each page.
    fn read_data_block(
        &self,
        address: Option<u64>,
        first: u64,
        entries: u64,
        initialised: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), FormatError> {
        let Some(address) = address.filter(|_| first < self.total) else {
            return Ok(());
        };
        let prefix = 6 + self.file.offset_size + self.offset_bytes;
        let entry_bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).saturating_mul(self.entry_size);
        if entries <= self.per_page {
            let len = entry_bytes(entries).saturating_add(prefix + 4);
            let bytes = self.file.read_checked(address, len, WHAT)?;
            self.file.cursor(&bytes, WHAT).signature(b"EADB")?;
            return self.visit_entries(first, &bytes[prefix..], visit);
        }
        let head = self.file.read_checked(address, prefix + 4, WHAT)?;
        self.file.cursor(&head, WHAT).signature(b"EADB")?;
        let page_bytes = entry_bytes(self.per_page).saturating_add(4);
        let mut at = address.saturating_add((prefix + 4) as u64);
        for page in 0..entries / self.per_page {
            let number = first.saturating_add(page * self.per_page);
            if number >= self.total {
                break;
            }
            let present = initialised.is_none_or(|bits| bits[page as usize / 8] & (0x80 >> (page % 8)) != 0);
            if present {
                let bytes = self.file.read_checked(at, page_bytes, WHAT)?;
                self.visit_entries(number, &bytes, visit)?;
            }
            at = at.saturating_add(page_bytes as u64);
        }
        Ok(())
    }

    fn visit_entries(&self, first: u64, bytes: &[u8], visit: &mut Visit<'_>) -> Result<(), FormatError> {
        for (i, entry) in bytes.chunks_exact(self.entry_size).enumerate() {
            let number = first.saturating_add(i as u64);
            if number >= self.total {
                break;
            }
            visit(number, entry)?;
        }
        Ok(())
    }
}
