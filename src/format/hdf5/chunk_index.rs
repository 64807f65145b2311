//! Chunk tables out of any of the six indexes.

use super::btree_v1;
use super::btree_v2;
use super::extensible_array;
use super::file::File;
use super::fixed_array;
use super::layout::ChunkIndex;
use crate::format::{ChunkRef, FormatError, grid};

const WHAT: &str = "chunk index";

/// The chunks that a file has, each with its place in the grid.
#[derive(Default)]
pub(super) struct SparseChunks {
    pub(super) shape: Vec<u64>,
    /// Elements of a chunk along each dimension.
    pub(super) chunk: Vec<u64>,
    /// Places in chunk units, one number a dimension, chunk after chunk.
    pub(super) places: Vec<u64>,
    pub(super) refs: Vec<ChunkRef>,
}

/// What the indexes need to know of their dataset.
pub(super) struct Described {
    pub(super) max: Vec<Option<u64>>,
    pub(super) element_size: u64,
    pub(super) filtered: bool,
}

impl SparseChunks {
    /// Adds the chunk whose first element is at `at`. Chunks outside the shape are left over from before it shrank.
    pub(super) fn add_at_element(
        &mut self,
        file: &File<'_>,
        at: &[u64],
        address: u64,
        nbytes: u64,
        filter_mask: u32,
    ) -> Result<(), FormatError> {
        if at.iter().zip(&self.shape).any(|(at, len)| at >= len) {
            return Ok(());
        }
        if at.iter().zip(&self.chunk).any(|(at, len)| at % len != 0) {
            return Err(file.damaged(format!("{WHAT}: a chunk at {at:?} for chunks of {:?}", self.chunk)));
        }
        let offset = file.range(address, nbytes, WHAT)?;
        self.places.extend(at.iter().zip(&self.chunk).map(|(at, len)| at / len));
        self.refs.push(ChunkRef { offset, nbytes, filter_mask });
        Ok(())
    }

    /// Adds the chunk at `place` in the grid.
    fn add(
        &mut self,
        file: &File<'_>,
        place: &[u64],
        (address, nbytes, filter_mask): (u64, u64, u32),
    ) -> Result<(), FormatError> {
        let at: Option<Vec<u64>> =
            place.iter().zip(&self.chunk).map(|(i, len)| i.checked_mul(*len)).collect();
        match at {
            Some(at) => self.add_at_element(file, &at, address, nbytes, filter_mask),
            None => Ok(()),
        }
    }
}

/// Fills `out`, which knows shape and chunk, from the index at `address`.
pub(super) fn read(
    file: &File<'_>,
    index: ChunkIndex,
    address: u64,
    described: &Described,
    out: &mut SparseChunks,
) -> Result<(), FormatError> {
    let whole = grid::elements(&out.chunk).and_then(|n| n.checked_mul(described.element_size));
    let whole = whole.ok_or_else(|| file.damaged(format!("{WHAT}: a chunk too large")))?;
    match index {
        ChunkIndex::BtreeV1 => btree_v1::chunks(file, address, described.element_size, out),
        ChunkIndex::Single(stored) => {
            let (nbytes, mask) = stored.unwrap_or((whole, 0));
            let place = vec![0; out.chunk.len()];
            out.add(file, &place, (address, nbytes, mask))
        }
        ChunkIndex::Implicit => implicit(file, address, whole, described, out),
        ChunkIndex::FixedArray => {
            let counts = limit_counts(described, out);
            fixed_array::entries(file, address, |number, entry| {
                let stored = stored_chunk(file, entry, described.filtered, whole)?;
                match stored {
                    Some(stored) => out.add(file, &grid::chunk_index(number, &counts), stored),
                    None => Ok(()),
                }
            })
        }
        ChunkIndex::ExtensibleArray => extensible(file, address, whole, described, out),
        ChunkIndex::BtreeV2 => records(file, address, whole, out),
    }
}

/// Chunks along each dimension of the largest shape, which numbers the chunks; an unlimited one counts as it is.
fn limit_counts(described: &Described, out: &SparseChunks) -> Vec<u64> {
    let most = described.max.iter().zip(&out.shape).map(|(max, len)| max.unwrap_or(*len).max(*len));
    grid::chunk_counts(&most.collect::<Vec<u64>>(), &out.chunk)
}

/// All chunks one after another, unfiltered.
fn implicit(
    file: &File<'_>,
    address: u64,
    whole: u64,
    described: &Described,
    out: &mut SparseChunks,
) -> Result<(), FormatError> {
    let limits = limit_counts(described, out);
    let counts = grid::chunk_counts(&out.shape, &out.chunk);
    let total = grid::elements(&counts).unwrap_or(u64::MAX);
    // All of them are in the file, which bounds the loop.
    file.range(address, total.saturating_mul(whole), WHAT)?;
    for ordinal in 0..total {
        let place = grid::chunk_index(ordinal, &counts);
        let before = grid::chunk_ordinal(&place, &limits).checked_mul(whole);
        let at = before.and_then(|before| address.checked_add(before));
        let at = at.ok_or_else(|| file.damaged(format!("{WHAT}: a chunk beyond the file's end")))?;
        out.add(file, &place, (at, whole, 0))?;
    }
    Ok(())
}

/// Chunks are numbered with the one unlimited dimension first.
fn extensible(
    file: &File<'_>,
    address: u64,
    whole: u64,
    described: &Described,
    out: &mut SparseChunks,
) -> Result<(), FormatError> {
    let limits = limit_counts(described, out);
    let counts = grid::chunk_counts(&out.shape, &out.chunk);
    let first = described.max.iter().position(Option::is_none).unwrap_or(0);
    let rank = counts.len();
    let mut axes: Vec<usize> = (0..rank).filter(|k| *k != first).collect();
    axes.insert(0, first.min(rank));
    if rank == 0 {
        return Err(file.damaged(format!("{WHAT}: chunks of a scalar")));
    }
    let turned: Vec<u64> = axes.iter().map(|k| if *k == first { counts[*k] } else { limits[*k] }).collect();
    let total = grid::elements(&turned).unwrap_or(u64::MAX);
    extensible_array::entries(file, address, total, |number, entry| {
        let Some(stored) = stored_chunk(file, entry, described.filtered, whole)? else {
            return Ok(());
        };
        let turned_place = grid::chunk_index(number, &turned);
        let mut place = vec![0; rank];
        axes.iter().zip(turned_place).for_each(|(axis, at)| place[*axis] = at);
        out.add(file, &place, stored)
    })
}

/// An array entry: an address, and for filtered chunks the stored bytes and the filter mask.
fn stored_chunk(
    file: &File<'_>,
    entry: &[u8],
    filtered: bool,
    whole: u64,
) -> Result<Option<(u64, u64, u32)>, FormatError> {
    let mut cursor = file.cursor(entry, WHAT);
    let address = cursor.address()?;
    let (nbytes, mask) = if filtered {
        let width = cursor.left().saturating_sub(4);
        (cursor.uint(width)?, cursor.u32()?)
    } else {
        (whole, 0)
    };
    Ok(address.map(|address| (address, nbytes, mask)))
}

/// Version-2 B-tree: records of kind 10 (unfiltered) and 11, with places in chunk units.
fn records(file: &File<'_>, address: u64, whole: u64, out: &mut SparseChunks) -> Result<(), FormatError> {
    let records = btree_v2::records(file, address)?;
    let rank = out.chunk.len();
    let width = records.size.checked_sub(file.offset_size + 8 * rank);
    let width = match (records.kind, width) {
        (10, Some(0)) => None,
        (11, Some(width)) if (5..=12).contains(&width) => Some(width - 4),
        // An empty tree says nothing of its records.
        _ if records.iter().next().is_none() => return Ok(()),
        _ => return Err(file.damaged(format!("{WHAT}: B-tree records of another kind"))),
    };
    let mut place = vec![0; rank];
    for record in records.iter() {
        let mut cursor = file.cursor(record, WHAT);
        let address = cursor.some_address()?;
        let (nbytes, mask) = match width {
            Some(width) => (cursor.uint(width)?, cursor.u32()?),
            None => (whole, 0),
        };
        for at in &mut place {
            *at = cursor.u64()?;
        }
        out.add(file, &place, (address, nbytes, mask))?;
    }
    Ok(())
}
