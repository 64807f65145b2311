//! The version-1 B-tree over chunks: the index of every file up to HDF5 1.8's format, netCDF-4's default.

use super::chunk_index::SparseChunks;
use super::file::File;
use crate::format::FormatError;

const WHAT: &str = "chunk B-tree";
/// Levels at most: 64 children a node make more chunks than a file can have long before.
const MAX_LEVEL: u8 = 32;

/// Adds all chunks of the tree at `address`.
pub(super) fn chunks(
    file: &File<'_>,
    address: u64,
    element_size: u64,
    out: &mut SparseChunks,
) -> Result<(), FormatError> {
    node(file, address, None, element_size, out)
}

/// A child is one level below its parent: that ends the walk.
fn node(
    file: &File<'_>,
    address: u64,
    level: Option<u8>,
    element_size: u64,
    out: &mut SparseChunks,
) -> Result<(), FormatError> {
    let head = file.read(address, 8, WHAT)?;
    let mut cursor = file.cursor(&head, WHAT);
    cursor.signature(b"TREE")?;
    let (kind, own_level) = (cursor.u8()?, cursor.u8()?);
    let count = usize::from(cursor.u16()?);
    if kind != 1 || own_level > MAX_LEVEL || level.is_some_and(|level| level != own_level) {
        return Err(cursor.damaged("a node that does not belong there"));
    }
    let rank = out.chunk.len();
    let start = 8 + 2 * file.offset_size;
    let entry = 8 + 8 * (rank + 1) + file.offset_size;
    let bytes = file.read(address, start + count * entry, WHAT)?;
    let mut cursor = file.cursor(&bytes, WHAT);
    cursor.skip(start)?;
    let mut at = vec![0; rank];
    for _ in 0..count {
        let nbytes = u64::from(cursor.u32()?);
        let mask = cursor.u32()?;
        for place in &mut at {
            *place = cursor.u64()?;
        }
        // The element's own dimension: always 0.
        if cursor.u64()? % element_size.max(1) != 0 {
            return Err(cursor.damaged("a chunk inside an element"));
        }
        let child = cursor.some_address()?;
        match own_level.checked_sub(1) {
            Some(below) => node(file, child, Some(below), element_size, out)?,
            None => out.add_at_element(file, &at, child, nbytes, mask)?,
        }
    }
    Ok(())
}
