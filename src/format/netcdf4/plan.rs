//! What a [`FileSpec`] means in HDF5: one object for each variable and one for each dimension that has no coordinate
//! variable, in the order of creation; and whether it can be written at all.

use super::{EncodedChunks, FileSpec, VarSpec, VarStorage};
use crate::format::{Attribute, DType, Dimension, FormatError, grid};
use std::collections::HashSet;

/// netCDF's own limit, and well above what HDF5's messages hold otherwise.
const MAX_RANK: usize = 32;
/// netCDF's `NC_MAX_NAME`.
const MAX_NAME_BYTES: usize = 256;
/// Creation orders of attributes are 16-bit numbers; room is left for the bookkeeping ones.
const MAX_ATTRIBUTES: usize = 60_000;
/// Elements of a chunk of a dimension without variable; it is never written, the format only wants a number.
const PHANTOM_CHUNK: u64 = 1024;

/// Attributes by which netCDF-C keeps its books: nobody else writes them.
const RESERVED: [&str; 7] = [
    "CLASS",
    "NAME",
    "REFERENCE_LIST",
    "DIMENSION_LIST",
    "_Netcdf4Dimid",
    "_Netcdf4Coordinates",
    "_NCProperties",
];

/// The HDF5 objects of a file, in order of creation: dimension scales by dimension, then the other variables.
pub(super) struct Plan<'a> {
    pub(super) spec: &'a FileSpec,
    pub(super) objects: Vec<Object<'a>>,
}

/// One HDF5 dataset.
pub(super) struct Object<'a> {
    /// Its link's name.
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) dims: Vec<usize>,
    pub(super) chunk: Option<Vec<u64>>,
    /// The dimension that it is the scale of. The object of dimension d is number d.
    pub(super) scale: Option<usize>,
    /// `None`: a dimension without variable.
    pub(super) variable: Option<&'a VarSpec>,
    /// Its place in the list of encoded chunks.
    pub(super) chunked: Option<usize>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(spec: &'a FileSpec, chunks: &[EncodedChunks]) -> Result<Plan<'a>, FormatError> {
        check_names(spec)?;
        check_attributes("the file", &spec.attributes)?;
        let mut chunked = 0;
        let mut variables = Vec::with_capacity(spec.variables.len());
        for variable in &spec.variables {
            check_variable(spec, variable)?;
            let place = match variable.storage {
                VarStorage::Chunked { .. } => {
                    let table = chunks.get(chunked);
                    let table = table.ok_or_else(|| refused(variable, "its chunk sizes are not given"))?;
                    check_chunks(spec, variable, table)?;
                    chunked += 1;
                    Some(chunked - 1)
                }
                _ => None,
            };
            variables.push((variable, place));
        }
        if chunked != chunks.len() {
            return Err(error(format!("chunk sizes of {} variables for {chunked}", chunks.len())));
        }
        Ok(Plan { spec, objects: objects(spec, &variables) })
    }

    pub(super) fn shape(&self, object: &Object<'_>) -> Vec<u64> {
        object.dims.iter().map(|d| self.spec.dimensions[*d].len).collect()
    }
}

/// An error about the file to be written as a whole.
pub(super) fn error(what: String) -> FormatError {
    FormatError::unsupported("output", what)
}

fn refused(variable: &VarSpec, what: &str) -> FormatError {
    error(format!("variable {}: {what}", variable.name))
}

fn objects<'a>(spec: &'a FileSpec, variables: &[(&'a VarSpec, Option<usize>)]) -> Vec<Object<'a>> {
    let is_coordinate = |d: usize, v: &VarSpec| v.name == spec.dimensions[d].name && v.dims == [d];
    let mut objects: Vec<Object<'a>> = Vec::with_capacity(spec.dimensions.len() + variables.len());
    for (d, dimension) in spec.dimensions.iter().enumerate() {
        objects.push(match variables.iter().find(|(v, _)| is_coordinate(d, v)) {
            Some((variable, chunked)) => object(variable.name.clone(), variable, *chunked, Some(d)),
            None => phantom(d, dimension),
        });
    }
    for (variable, chunked) in variables {
        if variable.dims.first().is_some_and(|d| is_coordinate(*d, variable)) {
            continue;
        }
        // netCDF-C's own prefix for a variable that has a dimension's name and isn't its coordinate.
        let clashes = spec.dimensions.iter().any(|d| d.name == variable.name);
        let prefix = if clashes { "_nc4_non_coord_" } else { "" };
        objects.push(object(format!("{prefix}{}", variable.name), variable, *chunked, None));
    }
    objects
}

fn object<'a>(
    name: String,
    variable: &'a VarSpec,
    chunked: Option<usize>,
    scale: Option<usize>,
) -> Object<'a> {
    Object {
        name,
        dtype: variable.dtype,
        dims: variable.dims.clone(),
        chunk: variable.chunk().map(<[u64]>::to_vec),
        scale,
        variable: Some(variable),
        chunked,
    }
}

fn phantom<'a>(d: usize, dimension: &Dimension) -> Object<'a> {
    Object {
        name: dimension.name.clone(),
        dtype: DType::F32,
        dims: vec![d],
        chunk: dimension.unlimited.then(|| vec![PHANTOM_CHUNK]),
        scale: Some(d),
        variable: None,
        chunked: None,
    }
}

fn check_names(spec: &FileSpec) -> Result<(), FormatError> {
    let dimensions = spec.dimensions.iter().map(|d| &d.name);
    let variables = spec.variables.iter().map(|v| &v.name);
    let (mut seen_dimensions, mut seen_variables) = (HashSet::new(), HashSet::new());
    for (name, new) in dimensions
        .map(|name| (name, seen_dimensions.insert(name)))
        .chain(variables.map(|name| (name, seen_variables.insert(name))))
    {
        if !new {
            return Err(error(format!("two dimensions or two variables have the name {name:?}")));
        }
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(['/', '\0']) {
            return Err(error(format!(
                "the name {name:?} (1 to {MAX_NAME_BYTES} bytes without '/' are possible)"
            )));
        }
    }
    Ok(())
}

fn check_attributes(of: &str, attributes: &[Attribute]) -> Result<(), FormatError> {
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(error(format!("{} attributes of {of}", attributes.len())));
    }
    let mut seen = HashSet::new();
    for attribute in attributes {
        let name = attribute.name.as_str();
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
            return Err(error(format!("{of}: the attribute name {name:?}")));
        }
        if RESERVED.contains(&name) {
            return Err(error(format!("{of}: the attribute name {name} is netCDF's own")));
        }
        if !seen.insert(name) {
            return Err(error(format!("{of}: two attributes have the name {name}")));
        }
    }
    Ok(())
}

fn check_variable(spec: &FileSpec, variable: &VarSpec) -> Result<(), FormatError> {
    let no = |what: &str| Err(refused(variable, what));
    check_attributes(&format!("variable {}", variable.name), &variable.attributes)?;
    if variable.dtype == DType::String {
        return no("text of variable length (write it as char with a dimension for its length)");
    }
    if variable.dims.len() > MAX_RANK {
        return no("more than 32 dimensions");
    }
    if variable.dims.iter().any(|d| *d >= spec.dimensions.len()) {
        return no("a dimension that is not in the file");
    }
    if variable.fill.as_ref().is_some_and(|fill| fill.len() != variable.dtype.size()) {
        return no("a fill value of another size than its elements");
    }
    let shape: Vec<u64> = variable.dims.iter().map(|d| spec.dimensions[*d].len).collect();
    let nbytes = grid::elements(&shape).and_then(|n| n.checked_mul(variable.dtype.size() as u64));
    if nbytes.is_none_or(|n| n > i64::MAX as u64) {
        return no("more bytes than a file can have");
    }
    match &variable.storage {
        VarStorage::Contiguous(data) => {
            if variable.dims.iter().any(|d| spec.dimensions[*d].unlimited) {
                return no("contiguous storage along an unlimited dimension (give it chunks)");
            }
            if Some(data.len() as u64) != nbytes {
                return no(&format!("{} bytes of data for the shape {shape:?}", data.len()));
            }
        }
        VarStorage::InlineChunks { chunk, data } => {
            check_chunk_shape(spec, variable, chunk)?;
            if Some(data.len() as u64) != nbytes {
                return no(&format!("{} bytes of data for the shape {shape:?}", data.len()));
            }
        }
        VarStorage::Chunked { chunk, .. } => check_chunk_shape(spec, variable, chunk)?,
    }
    Ok(())
}

fn check_chunk_shape(spec: &FileSpec, variable: &VarSpec, chunk: &[u64]) -> Result<(), FormatError> {
    if chunk.is_empty() || chunk.len() != variable.dims.len() || chunk.contains(&0) {
        return Err(refused(variable, &format!("the chunk shape {chunk:?}")));
    }
    for (step, d) in chunk.iter().zip(&variable.dims) {
        let dimension = &spec.dimensions[*d];
        if !dimension.unlimited && *step > dimension.len.max(1) {
            return Err(refused(
                variable,
                &format!("a chunk of {step} along {}, which has {}", dimension.name, dimension.len),
            ));
        }
    }
    let nbytes = grid::elements(chunk).and_then(|n| n.checked_mul(variable.dtype.size() as u64));
    if nbytes.is_none_or(|n| n > u64::from(u32::MAX)) {
        return Err(refused(variable, "a chunk of 4 GiB or more"));
    }
    Ok(())
}

fn check_chunks(spec: &FileSpec, variable: &VarSpec, table: &EncodedChunks) -> Result<(), FormatError> {
    let VarStorage::Chunked { chunk, shuffle: _, deflate_level } = &variable.storage else {
        return Ok(());
    };
    let shape: Vec<u64> = variable.dims.iter().map(|d| spec.dimensions[*d].len).collect();
    let wanted = grid::elements(&grid::chunk_counts(&shape, chunk));
    if Some(table.sizes.len() as u64) != wanted {
        return Err(refused(
            variable,
            &format!("sizes of {} chunks, its grid has {}", table.sizes.len(), wanted.unwrap_or(u64::MAX)),
        ));
    }
    if !table.regions.is_empty() && table.regions.len() != table.sizes.len() {
        return Err(refused(variable, "regions for some of its chunks only"));
    }
    let plain = grid::elements(chunk).unwrap_or(0) * variable.dtype.size() as u64;
    for size in &table.sizes {
        if *size > u64::from(u32::MAX) || (deflate_level.is_none() && *size != 0 && *size != plain) {
            return Err(refused(variable, &format!("an encoded chunk of {size} bytes")));
        }
    }
    Ok(())
}
