//! Writing netCDF-4 files without the C library, from many processes at once.
//!
//! Who writes which byte is decided by a pure function: [`layout`] turns a [`FileSpec`] and the sizes of the encoded
//! chunks into the place of every chunk and all metadata bytes. The same input gives the same file, whoever computes
//! it, and chunks can be written in any order, from any machine. The superblock is written last: until then the
//! file is not HDF5, so an unfinished file is never taken for a whole one.
//!
//! ```text
//! 0        superblock, alone in its page
//! 4096     chunks, region by region; each region starts on a page
//! page     contiguous data, chunk B-trees, reference heap, object headers, root group
//! ```
//!
//! The pieces of the format are those that netCDF-C, HDF5 1.8 and later read, and append to: superblock 2, object
//! headers 2 with creation order, compact links and attributes, layout 3 with version-1 B-trees, dimension scales
//! (HDF5 File Format Specification 3.0; netCDF-4 "Interoperability with HDF5").

mod attributes;
mod chunk_tree;
mod encode;
mod file;
mod heap;
mod layout;
mod messages;
mod plan;

pub use encode::{EncodeScratch, encode_chunk, pad_chunk};
pub use file::OutFile;
pub use layout::layout;

use super::{Attribute, DType, Dimension};
use serde::{Deserialize, Serialize};

/// Where each region of chunks starts: pages of this size are never shared by two writers, so that network file
/// systems, which cache and write back pages, can't mix their bytes.
pub const PAGE_BYTES: u64 = 4096;

/// A file to be written: everything but the bytes of its chunks.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct FileSpec {
    pub dimensions: Vec<Dimension>,
    pub attributes: Vec<Attribute>,
    pub variables: Vec<VarSpec>,
}

/// A variable to be written. A one-dimensional variable with its dimension's name is that dimension's coordinate.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VarSpec {
    pub name: String,
    /// Any but `String`.
    pub dtype: DType,
    /// Indexes into [`FileSpec::dimensions`]; empty for a scalar.
    pub dims: Vec<usize>,
    /// A `_FillValue` here serves as `fill` where that is `None`, and is otherwise replaced by it.
    pub attributes: Vec<Attribute>,
    /// One element, little-endian: becomes `_FillValue` too. `None`: netCDF's default, and no attribute.
    pub fill: Option<Vec<u8>>,
    pub storage: VarStorage,
}

/// How a variable's elements are stored.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum VarStorage {
    /// All elements, little-endian in C order. Not for unlimited dimensions.
    Contiguous(#[serde(with = "serde_bytes")] Vec<u8>),
    /// All elements, stored as unfiltered chunks that the layout makes itself: a small variable along an unlimited
    /// dimension.
    InlineChunks {
        chunk: Vec<u64>,
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// Chunks that the caller encodes by [`encode_chunk`] and writes where the layout says.
    Chunked { chunk: Vec<u64>, shuffle: bool, deflate_level: Option<u32> },
}

/// The encoded chunks of one [`VarStorage::Chunked`] variable, in C order over its grid.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EncodedChunks {
    /// Bytes of each; 0: the chunk is absent and reads as fill.
    pub sizes: Vec<u64>,
    /// The region of each: chunks of one region, of all variables, lie together and begin on a page, regions in
    /// ascending order. Empty: all in region 0. One region for each writer keeps writers' pages apart.
    pub regions: Vec<u32>,
}

/// Where everything in the file goes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Layout {
    /// For each [`VarStorage::Chunked`] variable, in the spec's order, the file offset of each chunk (0 if absent).
    pub chunk_offsets: Vec<Vec<u64>>,
    /// Bytes to be written before the superblock: offset and content.
    pub metadata: Vec<(u64, Vec<u8>)>,
    /// Goes to offset 0, last.
    pub superblock: Vec<u8>,
    /// Bytes of the whole file.
    pub len: u64,
}

impl VarSpec {
    /// Elements of a chunk along each dimension, or `None` for contiguous storage.
    pub fn chunk(&self) -> Option<&[u64]> {
        match &self.storage {
            VarStorage::Contiguous(_) => None,
            VarStorage::InlineChunks { chunk, .. } | VarStorage::Chunked { chunk, .. } => Some(chunk),
        }
    }

    /// One element for what was never written, little-endian: `fill`, `_FillValue`, or netCDF's default.
    pub fn fill_value(&self) -> Vec<u8> {
        self.explicit_fill().unwrap_or_else(|| self.dtype.default_fill())
    }

    /// `fill`, or else the attribute `_FillValue`.
    pub(in crate::format) fn explicit_fill(&self) -> Option<Vec<u8>> {
        self.fill.clone().or_else(|| {
            let attribute = self.attributes.iter().find(|a| a.name == "_FillValue")?;
            attribute.value.element(self.dtype)
        })
    }
}

#[cfg(test)]
mod tests;
