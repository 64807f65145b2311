//! One HDF5 dataset, put together from its header's messages.

use super::attribute::{self, RawAttribute};
use super::chunk_index::{self, Described, SparseChunks};
use super::datatype::{self, Dataspace, Type};
use super::file::File;
use super::layout::{self, Layout};
use super::object_header::{self, Message};
use crate::format::bytewise::swap_bytes;
use crate::format::{DType, Filter, FormatError, grid};

/// A dataset as HDF5 has it: shape, type and place of data, but no dimensions yet.
pub(super) struct RawDataset {
    /// With its groups: `group/name`.
    pub(super) name: String,
    /// Of its object header: what references name.
    pub(super) address: u64,
    pub(super) shape: Vec<u64>,
    /// `None`: unlimited.
    pub(super) max: Vec<Option<u64>>,
    pub(super) dtype: DType,
    pub(super) big_endian: bool,
    /// The last dimension counts the bytes of a text of fixed length.
    pub(super) text_axis: bool,
    pub(super) fill: Option<Vec<u8>>,
    pub(super) storage: RawStorage,
    pub(super) attributes: Vec<RawAttribute>,
}

pub(super) enum RawStorage {
    Empty,
    Compact(Vec<u8>),
    Contiguous { offset: u64, nbytes: u64 },
    Chunked { filters: Vec<Filter>, chunks: SparseChunks },
}

/// Reads a dataset; `None` for other objects (a named datatype). `Unsupported` for what netCDF doesn't have.
pub(super) fn read(
    file: &File<'_>,
    name: &str,
    address: u64,
    messages: &[Message],
) -> Result<Option<RawDataset>, FormatError> {
    let find = |kind| object_header::find(messages, kind);
    let (Some(space), Some(kind), Some(data_layout)) =
        (find(object_header::DATASPACE), find(object_header::DATATYPE), find(object_header::DATA_LAYOUT))
    else {
        return Ok(None);
    };
    if find(object_header::EXTERNAL_FILES).is_some() {
        return Err(file.unsupported("its data are in other files"));
    }
    let attributes = attribute::all(file, messages)?;
    let mut space = datatype::dataspace(&mut file.cursor(space, "dataspace"))?;
    if space.null {
        return Err(file.unsupported("it has no extent at all"));
    }
    let kind = datatype::datatype(&mut file.cursor(kind, "datatype"))?;
    let (dtype, big_endian, text_len) = match kind {
        Type::Number { dtype, big_endian } => (dtype, big_endian, None),
        Type::Text { len: 0 | 1, .. } => (DType::Char, false, None),
        Type::Text { len, .. } => (DType::Char, false, Some(len as u64)),
        Type::VariableText if file.heap_reference_size() == DType::String.size() => {
            (DType::String, false, None)
        }
        Type::VariableText => return Err(file.unsupported("text of variable length with short addresses")),
        Type::Reference => return Err(file.unsupported("its type is reference")),
        Type::Sequence(_) => return Err(file.unsupported("its type is a sequence of variable length")),
        Type::Other(what, _) => return Err(file.unsupported(&format!("its type is {what}"))),
    };
    let element_size = text_len.unwrap_or(dtype.size() as u64);
    let storage = read_storage(file, data_layout, messages, &space, element_size, text_len)?;
    if let Some(len) = text_len {
        space.shape.push(len);
        space.max.push(Some(len));
    }
    let fill = layout::fill_value(file, messages)?.and_then(|mut fill| {
        if text_len.is_some() {
            fill.truncate(1);
        }
        if big_endian {
            swap_bytes(&mut fill, dtype.size());
        }
        (dtype != DType::String && fill.len() == dtype.size()).then_some(fill)
    });
    Ok(Some(RawDataset {
        name: name.to_owned(),
        address,
        shape: space.shape,
        max: space.max,
        dtype,
        big_endian,
        text_axis: text_len.is_some(),
        fill,
        storage,
        attributes,
    }))
}

fn read_storage(
    file: &File<'_>,
    data_layout: &[u8],
    messages: &[Message],
    space: &Dataspace,
    element_size: u64,
    text_len: Option<u64>,
) -> Result<RawStorage, FormatError> {
    let nbytes = space.elements().and_then(|n| n.checked_mul(element_size));
    let nbytes = nbytes.ok_or_else(|| file.damaged("a shape with more bytes than can be counted"))?;
    let enough = |stored: u64| {
        if stored >= nbytes {
            return Ok(());
        }
        Err(file.damaged(format!("{stored} bytes of data for a shape of {nbytes}")))
    };
    match layout::layout(file, data_layout)? {
        Layout::Compact(bytes) => {
            enough(bytes.len() as u64)?;
            Ok(RawStorage::Compact(bytes))
        }
        Layout::Contiguous { address: None, .. } => Ok(RawStorage::Empty),
        Layout::Contiguous { address: Some(address), nbytes: stored } => {
            enough(stored)?;
            Ok(RawStorage::Contiguous { offset: file.range(address, stored, "its data")?, nbytes: stored })
        }
        Layout::Chunked { mut chunk, index, address } => {
            let last = chunk.pop();
            if chunk.len() != space.shape.len() || chunk.contains(&0) || last != Some(element_size) {
                return Err(file.damaged(format!("chunks of {chunk:?} for the shape {:?}", space.shape)));
            }
            let whole = grid::elements(&chunk).and_then(|n| n.checked_mul(element_size));
            if whole.is_none_or(|n| n > u64::from(u32::MAX)) {
                return Err(file.unsupported("chunks of 4 GiB or more"));
            }
            let filters = layout::filters(file, messages)?;
            let described = Described { max: space.max.clone(), element_size, filtered: !filters.is_empty() };
            let mut chunks = SparseChunks { shape: space.shape.clone(), chunk, ..SparseChunks::default() };
            if let Some(address) = address {
                chunk_index::read(file, index, address, &described, &mut chunks)?;
            }
            if let Some(len) = text_len {
                add_text_axis(&mut chunks, len);
            }
            Ok(RawStorage::Chunked { filters, chunks })
        }
    }
}

/// A text of fixed length is `char` with one more dimension, which no chunk divides.
fn add_text_axis(chunks: &mut SparseChunks, len: u64) {
    let rank = chunks.chunk.len();
    chunks.shape.push(len);
    chunks.chunk.push(len);
    if rank > 0 {
        let places = std::mem::take(&mut chunks.places);
        chunks.places = places.chunks(rank).flat_map(|place| place.iter().copied().chain([0])).collect();
    }
}
