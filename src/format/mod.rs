//! Bytes on disk -> dimensions, variables and chunk tables, and back. Reading is thread-safe by construction:
//! a [`Dataset`] is plain data, and its bytes are fetched through [`ReadAt`].
//!
//! | module | what it does |
//! |---|---|
//! | [`read_at`] | [`ReadAt`] for local files and memory |
//! | [`hdf5`] | a netCDF-4 (HDF5) file's metadata and chunk tables, no data: [`hdf5::open`] |
//! | [`decode`] | chunks and hyperslabs of a variable as plain little-endian bytes |
//! | [`netcdf4`] | the writer: a pure layout of the file's bytes, and thin IO for parallel writers |
//! | [`zarr`] | Zarr stores: a directory as one long file, and what is in it; and what is to be written |
//! | [`table`] | the metadata and chunk tables of many files in one file of our own |
//! | [`grid`] | arithmetic of chunk grids and boxes |
//! | [`example`] | sample wind files |

mod bytewise;
pub mod decode;
pub mod example;
pub mod grid;
pub mod hdf5;
mod lookup3;
pub mod netcdf4;
pub mod read_at;
pub mod table;
pub mod zarr;

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
    Shuffle {
        element_size: u32,
    },
    Deflate {
        level: u32,
    },
    Fletcher32,
    /// Deflate in gzip's wrapping.
    Gzip {
        level: u32,
    },
    /// A filter that this program can't undo: its chunks can be listed, not read.
    Other {
        id: u16,
        name: String,
    },
}

/// Where one chunk's bytes are in the file.
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
    /// One element, little-endian, for what was never written: `_FillValue`, or the file's own fill value, or zeros
    /// as HDF5 has it. Whether it also marks missing data is what [`Variable::missing`] says. Empty for text.
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
    /// Variables that are in the file but can't be had, and why (a compound type, data in another file).
    pub skipped: Vec<Skipped>,
}

/// A variable that is in the file but is not among [`Dataset::variables`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Skipped {
    pub name: String,
    pub reason: String,
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

impl FormatError {
    /// An IO error on the named file.
    pub fn io(file: impl Into<String>, source: io::Error) -> FormatError {
        FormatError::Io { file: file.into(), source }
    }

    /// What is wrong in the named file.
    pub fn damaged(file: impl Into<String>, what: impl Into<String>) -> FormatError {
        FormatError::Damaged { file: file.into(), what: what.into() }
    }

    /// What the named file has, or would have, that this program can't do.
    pub fn unsupported(file: impl Into<String>, what: impl Into<String>) -> FormatError {
        FormatError::Unsupported { file: file.into(), what: what.into() }
    }
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

    /// The fill value that the netCDF library uses where none is given (netCDF-C's `NC_FILL_*`), little-endian.
    pub fn default_fill(self) -> Vec<u8> {
        match self {
            DType::I8 => (-127i8).to_le_bytes().to_vec(),
            DType::U8 => vec![255],
            DType::Char => vec![0],
            DType::I16 => (-32767i16).to_le_bytes().to_vec(),
            DType::U16 => 65535u16.to_le_bytes().to_vec(),
            DType::I32 => (-2147483647i32).to_le_bytes().to_vec(),
            DType::U32 => u32::MAX.to_le_bytes().to_vec(),
            DType::I64 => (-9223372036854775806i64).to_le_bytes().to_vec(),
            DType::U64 => 18446744073709551614u64.to_le_bytes().to_vec(),
            DType::F32 => 9.969_21e36_f32.to_le_bytes().to_vec(),
            DType::F64 => 9.969_209_968_386_869e36_f64.to_le_bytes().to_vec(),
            DType::String => Vec::new(),
        }
    }
}

impl AttrValue {
    /// The text, if it is one text.
    pub fn text(&self) -> Option<&str> {
        match self {
            AttrValue::Text(text) => Some(text),
            AttrValue::Texts(texts) => match texts.as_slice() {
                [text] => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// The first number.
    pub fn number(&self) -> Option<f64> {
        match self {
            AttrValue::Ints(_, values) => values.first().map(|v| *v as f64),
            AttrValue::UInts(_, values) => values.first().map(|v| *v as f64),
            AttrValue::Floats(_, values) => values.first().copied(),
            AttrValue::Text(_) | AttrValue::Texts(_) => None,
        }
    }

    /// The first value as one little-endian element of `dtype`: how `_FillValue` is meant even where its type is not
    /// quite the variable's.
    pub fn element(&self, dtype: DType) -> Option<Vec<u8>> {
        if let (DType::Char, Some(text)) = (dtype, self.text()) {
            return Some(vec![text.bytes().next().unwrap_or(0)]);
        }
        let (own, bytes) = self.number_bytes()?;
        if own == dtype {
            return bytes.get(..dtype.size()).map(<[u8]>::to_vec);
        }
        let number = self.number()?;
        match dtype {
            DType::F32 => Some((number as f32).to_le_bytes().to_vec()),
            DType::F64 => Some(number.to_le_bytes().to_vec()),
            DType::String => None,
            DType::U64 => Some((number as u64).to_le_bytes().to_vec()),
            // Wider integers fold into narrower ones as C has it: 255 marks an i8 of -1.
            _ => Some((number as i64).to_le_bytes()[..dtype.size()].to_vec()),
        }
    }

    /// The element type and the numbers as little-endian bytes; `None` for text.
    pub fn number_bytes(&self) -> Option<(DType, Vec<u8>)> {
        let pick = |dtype: DType, bytes: [u8; 8]| bytes[..dtype.size().min(8)].to_vec();
        Some(match self {
            AttrValue::Ints(dtype, values) => {
                (*dtype, values.iter().flat_map(|v| pick(*dtype, v.to_le_bytes())).collect())
            }
            AttrValue::UInts(dtype, values) => {
                (*dtype, values.iter().flat_map(|v| pick(*dtype, v.to_le_bytes())).collect())
            }
            AttrValue::Floats(DType::F32, values) => {
                (DType::F32, values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect())
            }
            AttrValue::Floats(_, values) => {
                (DType::F64, values.iter().flat_map(|v| v.to_le_bytes()).collect())
            }
            AttrValue::Text(_) | AttrValue::Texts(_) => return None,
        })
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

    /// The element that marks missing data, little-endian: `_FillValue`, as CF and xarray have it. Without that
    /// attribute nothing is missing, whatever [`Variable::fill`] is.
    pub fn missing(&self) -> Option<Vec<u8>> {
        self.attribute("_FillValue")?.element(self.dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fill_value_of_another_type_is_taken_as_the_number_it_is() {
        let whole = AttrValue::Ints(DType::I16, vec![-999, 5]);
        assert_eq!(whole.element(DType::I16), Some((-999i16).to_le_bytes().to_vec()));
        assert_eq!(whole.element(DType::F32), Some((-999f32).to_le_bytes().to_vec()));
        assert_eq!(whole.element(DType::I64), Some((-999i64).to_le_bytes().to_vec()));
        let unsigned = AttrValue::UInts(DType::U8, vec![255]);
        assert_eq!(unsigned.element(DType::I8), Some(vec![255]));
        assert_eq!(AttrValue::Text("x".into()).element(DType::Char), Some(vec![b'x']));
        assert_eq!(AttrValue::Text("x".into()).element(DType::F32), None);
        assert_eq!(AttrValue::Floats(DType::F32, vec![]).element(DType::F32), None);
    }
}
