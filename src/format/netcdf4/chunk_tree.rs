//! The version-1 B-tree that lists a dataset's chunks, packed full from the left (HDF5 File Format Specification
//! 3.0, III.A.1, node type 1).

use super::messages::{Bytes, UNDEFINED};

/// Half the children of a node: HDF5's default for files whose superblock doesn't say otherwise.
const HALF_CHILDREN: usize = 32;
const CHILDREN: usize = 2 * HALF_CHILDREN;

/// One stored chunk.
pub(super) struct StoredChunk {
    /// First element along each dimension.
    pub(super) start: Vec<u64>,
    pub(super) address: u64,
    pub(super) nbytes: u32,
}

/// A finished tree.
pub(super) struct ChunkTree {
    pub(super) root: u64,
    pub(super) bytes: Vec<u8>,
}

/// Builds the tree over `chunks` (in C order, not empty) to lie at `address`, a multiple of 8.
pub(super) fn build(chunks: &[StoredChunk], chunk: &[u64], element_size: usize, address: u64) -> ChunkTree {
    let node_bytes = node_bytes(chunk.len());
    let mut bytes = Vec::new();
    let mut entries: Vec<(Vec<u8>, u64)> = chunks.iter().map(|c| (key(c), c.address)).collect();
    let end = end_key(chunks, chunk, element_size);
    let mut level = 0;
    loop {
        let count = entries.len().div_ceil(CHILDREN);
        let first = address + bytes.len() as u64;
        let at = |number: usize| first + (number * node_bytes) as u64;
        let mut parents = Vec::with_capacity(count);
        for (number, part) in entries.chunks(CHILDREN).enumerate() {
            let mut node = Bytes::default();
            node.put(b"TREE").u8(1).u8(level).u16(part.len() as u16);
            node.u64(if number > 0 { at(number - 1) } else { UNDEFINED });
            node.u64(if number + 1 < count { at(number + 1) } else { UNDEFINED });
            for (key, child) in part {
                node.put(key).u64(*child);
            }
            let next = entries.get((number + 1) * CHILDREN).map_or(&end, |(key, _)| key);
            node.put(next);
            node.0.resize(node_bytes, 0);
            bytes.extend_from_slice(&node.0);
            parents.push((part[0].0.clone(), at(number)));
        }
        if count <= 1 {
            return ChunkTree { root: first, bytes };
        }
        entries = parents;
        level += 1;
    }
}

/// Bytes of a node with all its keys and children.
fn node_bytes(rank: usize) -> usize {
    let key = 8 + 8 * (rank + 1);
    (24 + (CHILDREN + 1) * key + CHILDREN * 8).next_multiple_of(8)
}

/// Stored bytes, filter mask 0 (all filters applied), and the chunk's start with 0 for the element's own dimension.
fn key(chunk: &StoredChunk) -> Vec<u8> {
    let mut out = Bytes::default();
    out.u32(chunk.nbytes).u32(0);
    chunk.start.iter().for_each(|at| {
        out.u64(*at);
    });
    out.u64(0);
    out.0
}

/// The key behind the last chunk.
fn end_key(chunks: &[StoredChunk], chunk: &[u64], element_size: usize) -> Vec<u8> {
    let mut out = Bytes::default();
    out.u32(0).u32(0);
    if let Some(last) = chunks.last() {
        last.start.iter().zip(chunk).for_each(|(at, len)| {
            out.u64(at + len);
        });
    }
    out.u64(element_size as u64);
    out.0
}
