//! Reading HDF5 as netCDF-4 uses it: metadata and chunk tables, never data. Written after the HDF5 File Format
//! Specification (version 3.0, with the layout message version 5 of HDF5 2.0) and netCDF's "Interoperability with
//! HDF5".
//!
//! Nothing that a file says is believed before it is checked: each read is inside the file before memory is taken
//! for it, checksums are compared where the format has them, and all metadata reads of one file together have a
//! budget, so that structures that point at each other end as an error and not as a hang.

mod attribute;
mod btree_v1;
mod btree_v2;
mod chunk_index;
mod cursor;
mod dataset;
mod datatype;
mod extensible_array;
mod file;
mod fixed_array;
mod fractal_heap;
mod global_heap;
mod group;
mod layout;
mod object_header;
#[cfg(test)]
mod tests;
mod view;

use super::{Dataset, FormatError, ReadAt};
use file::File;

/// Reads what the file says of itself. Variables of nested groups are named `group/variable`, and so are their
/// dimensions and attributes.
///
/// `NotHdf5` if it isn't one, `Damaged` if it is cut short or inconsistent, `Unsupported` if the file as a whole
/// uses what this reader lacks; a single variable of that sort is listed in [`Dataset::skipped`] instead.
pub fn open(source: &dyn ReadAt) -> Result<Dataset, FormatError> {
    let file = File::open(source)?;
    let found = group::walk(&file)?;
    view::netcdf(&file, found)
}

/// The texts behind the 16-byte references that a variable of variable-length text is made of.
pub(super) fn read_string_refs(source: &dyn ReadAt, refs: &[u8]) -> Result<Vec<String>, FormatError> {
    let file = File::open(source)?;
    let size = file.heap_reference_size();
    if size != 16 {
        return Err(
            file.unsupported("text of variable length in a file with addresses of other than 8 bytes")
        );
    }
    refs.chunks_exact(size).map(|reference| global_heap::text(&file, reference)).collect()
}
