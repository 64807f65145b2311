//! Zarr stores on disk: a directory with a file for each chunk, and its metadata in JSON (Zarr storage specification
//! version 2; Zarr core specification 3.0, read only).
//!
//! | module | what it does |
//! |---|---|
//! | [`mod@write`] | a file's description -> metadata files and the names of chunks |
//! | [`read`] | a store -> dimensions, variables and chunk tables |
//! | [`store`] | a store's chunks as one long file, which is what chunk tables point into |
//!
//! What is written is version 2 with consolidated metadata: every Zarr library reads it, netCDF-C and GDAL too.
//! Chunks are shuffled and deflated as in netCDF files, by codecs that each installation has. Of what others wrote,
//! groups without subgroups are read whose chunks are plain, shuffled, or coded by zlib or gzip; a variable of
//! another sort is listed among those that can't be had.

pub mod read;
pub mod store;
pub mod write;

use super::DType;
pub use read::open;
use std::path::{Path, PathBuf};
pub use store::Store;

/// The metadata of all variables, in version 2.
pub const CONSOLIDATED: &str = ".zmetadata";
/// Metadata of a group: in version 2, and in version 3.
const GROUP: &str = ".zgroup";
const GROUP_3: &str = "zarr.json";

/// The file that says what the store at `path` holds; `None` if that is no store. When a store is made anew, this
/// file is another one.
pub fn marker(path: &Path) -> Option<PathBuf> {
    [CONSOLIDATED, GROUP_3, GROUP].into_iter().map(|name| path.join(name)).find(|file| file.is_file())
}

/// Names that a variable of a store may not have: they are metadata, or lead elsewhere.
fn is_bad_name(name: &str) -> bool {
    name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) || name.len() > 200
}

/// numpy's name of a type in little-endian order; `None` for text.
fn numpy_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::I16 => "<i2",
        DType::U16 => "<u2",
        DType::I32 => "<i4",
        DType::U32 => "<u4",
        DType::I64 => "<i8",
        DType::U64 => "<u8",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::Char | DType::String => return None,
    })
}

/// The type that version 3 calls so.
fn of_name_3(name: &str) -> Option<DType> {
    Some(match name {
        "bool" | "uint8" => DType::U8,
        "int8" => DType::I8,
        "int16" => DType::I16,
        "uint16" => DType::U16,
        "int32" => DType::I32,
        "uint32" => DType::U32,
        "int64" => DType::I64,
        "uint64" => DType::U64,
        "float32" => DType::F32,
        "float64" => DType::F64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
