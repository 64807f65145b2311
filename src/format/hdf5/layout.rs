//! How a dataset's data are stored: the messages of layout, filters and fill value.

use super::file::File;
use super::object_header::{self, Message};
use crate::format::{Filter, FormatError};

/// Filters of a pipeline at most: HDF5's own limit (chunks have a mask of 32 bits).
const MAX_FILTERS: usize = 32;

/// A layout message.
pub(super) enum Layout {
    Compact(Vec<u8>),
    Contiguous {
        address: Option<u64>,
        nbytes: u64,
    },
    Chunked {
        /// Elements along each dimension, and the element's bytes as the last number.
        chunk: Vec<u64>,
        index: ChunkIndex,
        address: Option<u64>,
    },
}

/// The six ways to find chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ChunkIndex {
    BtreeV1,
    /// One chunk, with its stored bytes and filter mask if it is filtered.
    Single(Option<(u64, u32)>),
    Implicit,
    FixedArray,
    ExtensibleArray,
    BtreeV2,
}

/// Reads a layout message, versions 1 to 5.
pub(super) fn layout(file: &File<'_>, data: &[u8]) -> Result<Layout, FormatError> {
    let mut cursor = file.cursor(data, "data layout");
    let version = cursor.u8()?;
    match version {
        1 | 2 => old_layout(file, data),
        3..=5 => match cursor.u8()? {
            0 => {
                let len = usize::from(cursor.u16()?);
                Ok(Layout::Compact(cursor.take(len)?.to_vec()))
            }
            1 => Ok(Layout::Contiguous { address: cursor.address()?, nbytes: cursor.length()? }),
            2 if version == 3 => {
                let rank = usize::from(cursor.u8()?);
                let address = cursor.address()?;
                let chunk = (0..rank).map(|_| cursor.u32().map(u64::from)).collect::<Result<_, _>>()?;
                Ok(Layout::Chunked { chunk, index: ChunkIndex::BtreeV1, address })
            }
            2 => new_chunked(file, data),
            3 => Err(file.unsupported("a virtual dataset (its data are in other files)")),
            class => Err(file.unsupported(&format!("the data layout class {class}"))),
        },
        _ => Err(file.unsupported(&format!("data layout version {version}"))),
    }
}

fn old_layout(file: &File<'_>, data: &[u8]) -> Result<Layout, FormatError> {
    let mut cursor = file.cursor(data, "data layout");
    cursor.skip(1)?;
    let rank = usize::from(cursor.u8()?);
    let class = cursor.u8()?;
    cursor.skip(5)?;
    let address = if class == 0 { None } else { cursor.address()? };
    let sizes = (0..rank).map(|_| cursor.u32().map(u64::from)).collect::<Result<Vec<u64>, FormatError>>()?;
    match class {
        0 => {
            let len = cursor.u32()? as usize;
            Ok(Layout::Compact(cursor.take(len)?.to_vec()))
        }
        1 => {
            let nbytes = crate::format::grid::elements(&sizes);
            let nbytes = nbytes.ok_or_else(|| cursor.damaged("its sizes make no sense"))?;
            Ok(Layout::Contiguous { address, nbytes })
        }
        2 => Ok(Layout::Chunked { chunk: sizes, index: ChunkIndex::BtreeV1, address }),
        _ => Err(file.unsupported(&format!("the data layout class {class}"))),
    }
}

/// Chunks in versions 4 and 5, which differ in the width of stored sizes only.
fn new_chunked(file: &File<'_>, data: &[u8]) -> Result<Layout, FormatError> {
    let mut cursor = file.cursor(data, "data layout");
    cursor.skip(2)?;
    let flags = cursor.u8()?;
    let rank = usize::from(cursor.u8()?);
    let width = usize::from(cursor.u8()?);
    let chunk = (0..rank).map(|_| cursor.uint(width)).collect::<Result<Vec<u64>, _>>()?;
    let index = match cursor.u8()? {
        1 if flags & 2 != 0 => ChunkIndex::Single(Some((cursor.length()?, cursor.u32()?))),
        1 => ChunkIndex::Single(None),
        2 => ChunkIndex::Implicit,
        // What follows repeats what the index's own header says.
        3 => {
            cursor.skip(1)?;
            ChunkIndex::FixedArray
        }
        4 => {
            cursor.skip(5)?;
            ChunkIndex::ExtensibleArray
        }
        5 => {
            cursor.skip(6)?;
            ChunkIndex::BtreeV2
        }
        kind => return Err(file.unsupported(&format!("the chunk index type {kind}"))),
    };
    Ok(Layout::Chunked { chunk, index, address: cursor.address()? })
}

/// Reads the filter message, versions 1 and 2; without one there are none.
pub(super) fn filters(file: &File<'_>, messages: &[Message]) -> Result<Vec<Filter>, FormatError> {
    let Some(data) = object_header::find(messages, object_header::FILTERS) else {
        return Ok(Vec::new());
    };
    let mut cursor = file.cursor(data, "filter pipeline");
    let version = cursor.u8()?;
    let count = usize::from(cursor.u8()?);
    if !(1..=2).contains(&version) || count > MAX_FILTERS {
        return Err(cursor.damaged(&format!("version {version} with {count} filters")));
    }
    if version == 1 {
        cursor.skip(6)?;
    }
    let mut filters = Vec::new();
    for _ in 0..count {
        let id = cursor.u16()?;
        let named = version == 1 || id >= 256;
        let name_len = if named { usize::from(cursor.u16()?) } else { 0 };
        cursor.skip(2)?;
        let values = usize::from(cursor.u16()?);
        let name_len = if version == 1 { name_len.next_multiple_of(8) } else { name_len };
        let name = cursor.take(name_len)?;
        let first = cursor.clone().u32().unwrap_or(0);
        cursor.skip(4 * values)?;
        if version == 1 && values % 2 == 1 {
            cursor.skip(4)?;
        }
        let value = if values > 0 { first } else { 0 };
        filters.push(filter(id, value, name));
    }
    Ok(filters)
}

fn filter(id: u16, value: u32, name: &[u8]) -> Filter {
    match id {
        1 => Filter::Deflate { level: value },
        2 => Filter::Shuffle { element_size: value },
        3 => Filter::Fletcher32,
        _ => {
            let own = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = match known_filter(id) {
                Some(known) => known.to_owned(),
                None if own.is_empty() => "an unknown filter".to_owned(),
                None => String::from_utf8_lossy(own).into_owned(),
            };
            Filter::Other { id, name }
        }
    }
}

/// Names of filters that netCDF files may have (the HDF Group's registry of filters).
fn known_filter(id: u16) -> Option<&'static str> {
    Some(match id {
        4 => "szip",
        5 => "nbit",
        6 => "scale-offset",
        307 => "bzip2",
        32000 => "lzf",
        32001 => "blosc",
        32004 => "lz4",
        32008 => "bitshuffle",
        32013 => "zfp",
        32015 => "zstd",
        32026 => "blosc2",
        _ => return None,
    })
}

/// The fill value's bytes, if the file defines one other than the library's zeros.
pub(super) fn fill_value(file: &File<'_>, messages: &[Message]) -> Result<Option<Vec<u8>>, FormatError> {
    let Some(data) = object_header::find(messages, object_header::FILL_VALUE) else {
        return old_fill_value(file, messages);
    };
    let mut cursor = file.cursor(data, "fill value");
    let version = cursor.u8()?;
    let defined = match version {
        1 => {
            cursor.skip(3)?;
            true
        }
        2 => {
            cursor.skip(2)?;
            cursor.u8()? != 0
        }
        3 => cursor.u8()? & 0x20 != 0,
        _ => return Err(cursor.damaged(&format!("version {version}"))),
    };
    if !defined {
        return Ok(None);
    }
    let len = cursor.u32()? as usize;
    let bytes = cursor.take(len)?;
    Ok((len > 0).then(|| bytes.to_vec()))
}

fn old_fill_value(file: &File<'_>, messages: &[Message]) -> Result<Option<Vec<u8>>, FormatError> {
    let Some(data) = object_header::find(messages, object_header::OLD_FILL_VALUE) else {
        return Ok(None);
    };
    let mut cursor = file.cursor(data, "fill value");
    let len = cursor.u32()? as usize;
    let bytes = cursor.take(len)?;
    Ok((len > 0).then(|| bytes.to_vec()))
}
