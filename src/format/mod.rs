//! Bytes on disk -> dimensions, variables and chunk tables, and back. Reading is thread-safe by construction:
//! a [`Dataset`] is plain data, and its bytes are fetched through [`ReadAt`].

use serde::{Deserialize, Serialize};
use std::io;

/// Random access to bytes: a local file, or byte ranges of anything.
pub trait ReadAt: Send + Sync {
    /// Fills `buf` from `offset`; an end of file before that is `UnexpectedEof`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Bytes in all.
    fn len(&self) -> u64;
    /// For messages: the path or address.
    fn name(&self) -> &str;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Element type of a variable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum DType {
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
    /// netCDF `char`: one byte of text.
    Char,
    /// Variable-length text.
    String,
}

/// An attribute's value.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum AttrValue {
    Text(String),
    Texts(Vec<String>),
    /// Numbers keep their type; integers up to 64 bits are exact.
    Ints(DType, Vec<i64>),
    UInts(DType, Vec<u64>),
    Floats(DType, Vec<f64>),
}

/// An attribute of a variable or of the whole dataset, in file order.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Attribute {
    pub name: String,
    pub value: AttrValue,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dimension {
    pub name: String,
    pub len: u64,
    pub unlimited: bool,
}

/// One step of a chunk's coding, in the order in which it was applied when writing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Filter {
    Shuffle { element_size: u32 },
    Deflate { level: u32 },
    Fletcher32,
}

/// Where one chunk's bytes are. `index` is in chunk units, one number a dimension.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkRef {
    pub offset: u64,
    pub nbytes: u64,
    /// Bit i set: filter i was skipped for this chunk.
    pub filter_mask: u32,
}

/// Where a variable's bytes are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Storage {
    /// Never written: all fill.
    Empty,
    Compact(#[serde(with = "serde_bytes")] Vec<u8>),
    Contiguous {
        offset: u64,
        nbytes: u64,
    },
    Chunked {
        /// Elements of a chunk along each dimension; edge chunks are stored whole.
        chunk: Vec<u64>,
        filters: Vec<Filter>,
        /// One entry for each chunk of the grid, in C order; `None`: all fill.
        chunks: Vec<Option<ChunkRef>>,
    },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Variable {
    pub name: String,
    pub dtype: DType,
    pub big_endian: bool,
    /// Indexes into `Dataset::dimensions`.
    pub dims: Vec<usize>,
    pub attributes: Vec<Attribute>,
    /// One element, little-endian: the fill message, or netCDF's default for the type.
    #[serde(with = "serde_bytes")]
    pub fill: Vec<u8>,
    pub storage: Storage,
}

/// What one file says of itself: metadata and chunk tables, no data.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Dataset {
    pub dimensions: Vec<Dimension>,
    pub variables: Vec<Variable>,
    pub attributes: Vec<Attribute>,
}

/// Why a file can't be read or written. The message names the file, and what in it.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error("{file}: {source}")]
    Io { file: String, source: io::Error },
    #[error("{file}: not a netCDF-4 (HDF5) file")]
    NotHdf5 { file: String },
    #[error("{file}: damaged or cut short: {what}")]
    Damaged { file: String, what: String },
    #[error("{file}: not supported: {what}")]
    Unsupported { file: String, what: String },
}

impl DType {
    /// Bytes of one element; text of variable length counts as its 16-byte reference.
    pub fn size(self) -> usize {
        match self {
            DType::I8 | DType::U8 | DType::Char => 1,
            DType::I16 | DType::U16 => 2,
            DType::I32 | DType::U32 | DType::F32 => 4,
            DType::I64 | DType::U64 | DType::F64 => 8,
            DType::String => 16,
        }
    }
}

impl Dataset {
    pub fn variable(&self, name: &str) -> Option<&Variable> {
        self.variables.iter().find(|v| v.name == name)
    }

    /// Lengths of the variable's dimensions.
    pub fn shape(&self, variable: &Variable) -> Vec<u64> {
        variable.dims.iter().map(|d| self.dimensions[*d].len).collect()
    }
}

impl Variable {
    pub fn attribute(&self, name: &str) -> Option<&AttrValue> {
        self.attributes.iter().find(|a| a.name == name).map(|a| &a.value)
    }
}
