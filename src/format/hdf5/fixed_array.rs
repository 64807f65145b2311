//! Fixed arrays: the chunk index of datasets without unlimited dimensions in HDF5 1.10's format.

use super::file::File;
use crate::format::FormatError;

const WHAT: &str = "fixed array";

/// Calls `visit(number, entry)` for all entries that were ever initialised.
pub(super) fn entries(
    file: &File<'_>,
    address: u64,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let (so, sl) = (file.offset_size, file.length_size);
    let bytes = file.read_checked(address, 12 + sl + so, WHAT)?;
    let mut cursor = file.cursor(&bytes, WHAT);
    cursor.signature(b"FAHD")?;
    cursor.skip(2)?;
    let entry_size = usize::from(cursor.u8()?);
    let page_bits = u32::from(cursor.u8()?);
    let count = cursor.length()?;
    let Some(block) = cursor.address()? else {
        return Ok(());
    };
    if entry_size < so || page_bits > 32 {
        return Err(cursor.damaged("its sizes make no sense"));
    }
    let per_page = 1u64 << page_bits;
    let prefix = 6 + so;
    let entry_bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).saturating_mul(entry_size);
    if count <= per_page {
        let bytes = file.read_checked(block, entry_bytes(count).saturating_add(prefix + 4), WHAT)?;
        file.cursor(&bytes, WHAT).signature(b"FADB")?;
        let all = bytes[prefix..].chunks_exact(entry_size).enumerate();
        return all.into_iter().try_for_each(|(i, entry)| visit(i as u64, entry));
    }
    let pages = count.div_ceil(per_page);
    let bitmap_bytes = usize::try_from(pages.div_ceil(8)).unwrap_or(usize::MAX);
    let head = file.read_checked(block, bitmap_bytes.saturating_add(prefix + 4), WHAT)?;
    file.cursor(&head, WHAT).signature(b"FADB")?;
    let bitmap = &head[prefix..];
    let mut at = block.saturating_add((head.len() + 4) as u64);
    for page in 0..pages {
        let first = page * per_page;
        let entries = per_page.min(count - first);
        let page_bytes = entry_bytes(entries).saturating_add(4);
        // A page that was never touched has no checksum, and no entries.
        if bitmap[page as usize / 8] & (0x80 >> (page % 8)) != 0 {
            let bytes = file.read_checked(at, page_bytes, WHAT)?;
            for (i, entry) in bytes.chunks_exact(entry_size).enumerate() {
                visit(first + i as u64, entry)?;
            }
        }
        at = at.saturating_add(page_bytes as u64);
    }
    Ok(())
}
