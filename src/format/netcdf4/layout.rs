//! The place of every byte of a file, computed from its description and the sizes of its encoded chunks.

use super::attributes;
use super::chunk_tree::{self, StoredChunk};
use super::heap::Heap;
use super::messages::{self, Bytes, DataPlace, UNDEFINED};
use super::plan::{Object, Plan};
use super::{EncodedChunks, FileSpec, Layout, PAGE_BYTES, VarStorage, pad_chunk};
use crate::format::grid::{self, Place};
use crate::format::lookup3::lookup3;
use crate::format::{DType, FormatError};

/// Lays the file out. `chunks` has one entry for each [`VarStorage::Chunked`] variable, in the spec's order. Equal
/// input gives equal output, on any machine.
///
/// `Unsupported` for what netCDF-4 or this writer can't hold: an attribute over 64 KiB, contiguous storage along an
/// unlimited dimension, data that don't fit the shape, names used twice, chunk sizes that don't fit the grid.
pub fn layout(spec: &FileSpec, chunks: &[EncodedChunks]) -> Result<Layout, FormatError> {
    let plan = Plan::new(spec, chunks)?;
    let (chunk_offsets, data_end) = place_chunks(chunks);
    let mut writer = Placer { at: data_end, metadata: Vec::new() };
    let places: Vec<DataPlace> = plan
        .objects
        .iter()
        .map(|object| place_data(&plan, object, chunks, &chunk_offsets, &mut writer))
        .collect();
    let mut heap = Heap::default();
    let attributes = attributes::encoded(&plan, &mut heap)?;
    // Lengths don't depend on addresses: measure with zeros, place, then encode for good.
    let zeros = vec![0; plan.objects.len()];
    let header = |i: usize, headers: &[u64], heap: &Heap| {
        messages::dataset_header(&plan, &plan.objects[i], places[i], &attributes[i], headers, heap)
    };
    heap.addresses = heap.sizes().iter().map(|size| writer.take(*size as u64)).collect();
    let headers: Vec<u64> =
        (0..plan.objects.len()).map(|i| writer.take(header(i, &zeros, &heap).len() as u64)).collect();
    for (address, bytes) in heap.addresses.clone().into_iter().zip(heap.encode(&headers)) {
        writer.metadata.push((address, bytes));
    }
    for (i, address) in headers.iter().enumerate() {
        writer.metadata.push((*address, header(i, &headers, &heap)));
    }
    let root_attributes = attributes.last().map_or(&[][..], Vec::as_slice);
    let root_bytes = messages::root_header(&plan, root_attributes, &headers, &heap);
    let root = writer.append(root_bytes);
    let len = writer.at;
    Ok(Layout { chunk_offsets, metadata: joined(writer.metadata), superblock: superblock(len, root), len })
}

/// Chunk offsets by region, variable and number; and where the metadata start.
fn place_chunks(chunks: &[EncodedChunks]) -> (Vec<Vec<u64>>, u64) {
    let mut order: Vec<(u32, usize, usize)> = Vec::new();
    for (v, table) in chunks.iter().enumerate() {
        for (i, _) in table.sizes.iter().enumerate().filter(|(_, size)| **size > 0) {
            order.push((table.regions.get(i).copied().unwrap_or(0), v, i));
        }
    }
    order.sort_unstable();
    let mut offsets: Vec<Vec<u64>> = chunks.iter().map(|table| vec![0; table.sizes.len()]).collect();
    let mut at = PAGE_BYTES;
    let mut region = None;
    for (of, v, i) in order {
        if region != Some(of) {
            at = at.next_multiple_of(PAGE_BYTES);
            region = Some(of);
        }
        offsets[v][i] = at;
        at += chunks[v].sizes[i];
    }
    (offsets, at.next_multiple_of(PAGE_BYTES))
}

/// Hands out the metadata's addresses, multiples of 8, in order.
struct Placer {
    at: u64,
    metadata: Vec<(u64, Vec<u8>)>,
}

impl Placer {
    fn take(&mut self, nbytes: u64) -> u64 {
        let address = self.at;
        self.at = (address + nbytes).next_multiple_of(8);
        address
    }

    fn append(&mut self, bytes: Vec<u8>) -> u64 {
        let address = self.take(bytes.len() as u64);
        self.metadata.push((address, bytes));
        address
    }
}

/// Places an object's data, if they come with the spec, and its chunk tree.
fn place_data(
    plan: &Plan<'_>,
    object: &Object<'_>,
    chunks: &[EncodedChunks],
    offsets: &[Vec<u64>],
    writer: &mut Placer,
) -> DataPlace {
    let shape = plan.shape(object);
    let size = object.dtype.size();
    let Some(chunk) = &object.chunk else {
        let nbytes = grid::elements(&shape).unwrap_or(0) * size as u64;
        let data = match object.variable.map(|v| &v.storage) {
            Some(VarStorage::Contiguous(data)) if !data.is_empty() => writer.append(data.clone()),
            _ => UNDEFINED,
        };
        return DataPlace::Contiguous { address: data, nbytes };
    };
    let counts = grid::chunk_counts(&shape, chunk);
    let start_of = |ordinal: usize| -> Vec<u64> {
        grid::chunk_index(ordinal as u64, &counts).iter().zip(chunk).map(|(i, len)| i * len).collect()
    };
    let stored: Vec<StoredChunk> = match (object.variable.map(|v| &v.storage), object.chunked) {
        (Some(VarStorage::InlineChunks { data, .. }), _) => {
            let fill = object.variable.map(|v| v.fill_value()).unwrap_or_default();
            let total = grid::elements(&counts).unwrap_or(0) as usize;
            (0..total)
                .map(|ordinal| {
                    let start = start_of(ordinal);
                    let bytes = inline_chunk(data, &shape, chunk, &start, object.dtype, &fill);
                    let nbytes = bytes.len() as u32;
                    StoredChunk { start, address: writer.append(bytes), nbytes }
                })
                .collect()
        }
        (_, Some(v)) => (0..offsets[v].len())
            .filter(|i| chunks[v].sizes[*i] > 0)
            .map(|i| StoredChunk {
                start: start_of(i),
                address: offsets[v][i],
                nbytes: chunks[v].sizes[i] as u32,
            })
            .collect(),
        _ => Vec::new(),
    };
    if stored.is_empty() {
        return DataPlace::Tree(UNDEFINED);
    }
    let tree = chunk_tree::build(&stored, chunk, size, writer.at);
    writer.append(tree.bytes);
    DataPlace::Tree(tree.root)
}

/// The whole chunk that starts at `start`, cut from all of a variable's data.
fn inline_chunk(
    data: &[u8],
    shape: &[u64],
    chunk: &[u64],
    start: &[u64],
    dtype: DType,
    fill: &[u8],
) -> Vec<u8> {
    let count: Vec<u64> = (0..shape.len()).map(|k| chunk[k].min(shape[k] - start[k])).collect();
    let origin = vec![0; shape.len()];
    let mut part = vec![0; grid::elements(&count).unwrap_or(0) as usize * dtype.size()];
    grid::copy_box(
        &count,
        (data, Place { shape, start }),
        (&mut part, Place { shape: &count, start: &origin }),
        dtype.size(),
    );
    pad_chunk(&part, &count, chunk, fill, dtype.size())
}

/// One piece: what follows the chunks has no holes but the padding to multiples of 8.
fn joined(mut pieces: Vec<(u64, Vec<u8>)>) -> Vec<(u64, Vec<u8>)> {
    pieces.sort_unstable_by_key(|(address, _)| *address);
    let Some((first, _)) = pieces.first() else {
        return Vec::new();
    };
    let first = *first;
    let mut bytes = Vec::new();
    for (address, piece) in pieces {
        bytes.resize((address - first) as usize, 0);
        bytes.extend_from_slice(&piece);
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    vec![(first, bytes)]
}

/// Version 2: addresses and lengths of 8 bytes.
fn superblock(len: u64, root: u64) -> Vec<u8> {
    let mut out = Bytes::default();
    out.put(b"\x89HDF\r\n\x1a\n").put(&[2, 8, 8, 0]).u64(0).u64(UNDEFINED).u64(len).u64(root);
    let sum = lookup3(&out.0);
    out.u32(sum);
    out.0
}
