//! netCDF's view of HDF5: dimensions out of dimension scales, bookkeeping attributes left out (netCDF-4
//! "Interoperability with HDF5"; files without dimension scales get made-up dimensions).

use super::attribute::{RawAttribute, RawValue};
use super::chunk_index::SparseChunks;
use super::dataset::{RawDataset, RawStorage};
use super::file::File;
use super::group::Found;
use crate::format::{
    Attribute, ChunkRef, DType, Dataset, Dimension, Filter, FormatError, Skipped, Storage, Variable, grid,
};
use std::collections::{HashMap, HashSet};

/// How netCDF-C marks the scale of a dimension that has no variable.
const PHANTOM: &str = "This is a netCDF dimension but not a netCDF variable";
/// How netCDF-C names a variable that has a dimension's name and isn't its coordinate.
const NOT_COORDINATE: &str = "_nc4_non_coord_";
/// Chunk tables may have this many entries whatever the file's length, and beyond that one for each byte of the file:
/// entries for chunks that were never written cost nothing in the file, but memory here.
const TABLE_FLOOR: u64 = 65_536;

/// Scales and made-up dimensions while variables are being given theirs.
#[derive(Default)]
struct Dimensions {
    list: Vec<Dimension>,
    /// From a scale's object address.
    by_address: HashMap<u64, usize>,
    /// From netCDF's own dimension number.
    by_number: HashMap<i64, usize>,
    /// Numbers of the dimensions that were made up.
    made_up: Vec<usize>,
    names: HashSet<String>,
}

/// Turns what was found into dimensions, variables and attributes.
pub(super) fn netcdf(file: &File<'_>, found: Found) -> Result<Dataset, FormatError> {
    let Found { datasets, attributes, mut skipped } = found;
    let mut dimensions = scales(&datasets);
    lengthen(&mut dimensions, &datasets);
    let mut variables = Vec::new();
    for dataset in datasets {
        if is_scale(&dataset) && text_of(&dataset, "NAME").is_some_and(|name| name.starts_with(PHANTOM)) {
            continue;
        }
        let dims = variable_dims(&mut dimensions, &dataset);
        let name = variable_name(&dataset.name);
        match variable(file, dataset, dims, &dimensions.list, name.clone()) {
            Ok(variable) => variables.push(variable),
            Err(FormatError::Unsupported { what, .. }) => skipped.push(Skipped { name, reason: what }),
            Err(error) => return Err(error),
        }
    }
    let attributes = plain_attributes(attributes);
    Ok(Dataset { dimensions: dimensions.list, variables, attributes, skipped })
}

fn attribute_of<'a>(dataset: &'a RawDataset, name: &str) -> Option<&'a RawAttribute> {
    dataset.attributes.iter().find(|a| a.name == name)
}

fn text_of<'a>(dataset: &'a RawDataset, name: &str) -> Option<&'a str> {
    attribute_of(dataset, name).and_then(RawAttribute::text)
}

fn is_scale(dataset: &RawDataset) -> bool {
    !dataset.shape.is_empty() && text_of(dataset, "CLASS") == Some("DIMENSION_SCALE")
}

/// Dimensions in the order of netCDF's numbers, those without a number behind them.
fn scales(datasets: &[RawDataset]) -> Dimensions {
    let mut scales: Vec<(Option<i64>, &RawDataset)> = datasets
        .iter()
        .filter(|dataset| is_scale(dataset))
        .map(|dataset| {
            let number = attribute_of(dataset, "_Netcdf4Dimid").and_then(RawAttribute::integers);
            (number.and_then(|numbers| numbers.first().copied()), dataset)
        })
        .collect();
    scales.sort_by_key(|(number, _)| number.unwrap_or(i64::MAX));
    let mut dimensions = Dimensions::default();
    for (number, dataset) in scales {
        let place = dimensions.list.len();
        dimensions.by_address.insert(dataset.address, place);
        if let Some(number) = number {
            dimensions.by_number.entry(number).or_insert(place);
        }
        dimensions.names.insert(dataset.name.clone());
        dimensions.list.push(Dimension {
            name: dataset.name.clone(),
            len: dataset.shape[0],
            unlimited: dataset.max[0].is_none(),
        });
    }
    dimensions
}

/// An unlimited dimension is as long as the longest variable along it: netCDF-C does not always lengthen the scale.
fn lengthen(dimensions: &mut Dimensions, datasets: &[RawDataset]) {
    for dataset in datasets.iter().filter(|d| matches!(d.storage, RawStorage::Chunked { .. })) {
        for (axis, len) in dataset.shape.iter().enumerate() {
            if let Some(place) = attached(dimensions, dataset, axis)
                && dimensions.list[place].unlimited
            {
                dimensions.list[place].len = dimensions.list[place].len.max(*len);
            }
        }
    }
}

/// The dimension that the file itself names for an axis.
fn attached(dimensions: &Dimensions, dataset: &RawDataset, axis: usize) -> Option<usize> {
    let by_number = || {
        let numbers = attribute_of(dataset, "_Netcdf4Coordinates")?.integers()?;
        dimensions.by_number.get(numbers.get(axis)?).copied()
    };
    if is_scale(dataset) {
        return if axis == 0 { dimensions.by_address.get(&dataset.address).copied() } else { by_number() };
    }
    let by_list = || match &attribute_of(dataset, "DIMENSION_LIST")?.value {
        RawValue::References(lists) => dimensions.by_address.get(lists.get(axis)?.first()?).copied(),
        _ => None,
    };
    by_list().or_else(by_number)
}

/// The dimension of each axis; made up where the file names none, or one of another length.
fn variable_dims(dimensions: &mut Dimensions, dataset: &RawDataset) -> Vec<usize> {
    let chunked = matches!(dataset.storage, RawStorage::Chunked { .. });
    let mut dims = Vec::with_capacity(dataset.shape.len());
    for (axis, len) in dataset.shape.iter().enumerate() {
        let fits = |place: &usize| {
            let dimension = &dimensions.list[*place];
            // Along an unlimited dimension the chunks that are not there yet read as fill.
            dimension.len == *len || (dimension.unlimited && chunked && dimension.len > *len)
        };
        let found = attached(dimensions, dataset, axis).filter(fits);
        let place = match found {
            Some(place) => place,
            None => {
                let text = dataset.text_axis && axis + 1 == dataset.shape.len();
                make_up(dimensions, *len, dataset.max[axis].is_none(), text, &dims)
            }
        };
        dims.push(place);
    }
    dims
}

/// A made-up dimension of that length, the same for all variables, but not twice in one.
fn make_up(dimensions: &mut Dimensions, len: u64, unlimited: bool, text: bool, used: &[usize]) -> usize {
    let wanted = if text { format!("string{len}") } else { String::new() };
    let known = dimensions.made_up.iter().copied().find(|place| {
        let dimension = &dimensions.list[*place];
        dimension.len == len
            && dimension.unlimited == unlimited
            && !used.contains(place)
            && dimension.name.starts_with("string") == text
    });
    if let Some(place) = known {
        return place;
    }
    let numbered = (dimensions.made_up.len()..).map(|n| format!("dim_{n}"));
    let mut names = Some(wanted).filter(|name| !name.is_empty()).into_iter().chain(numbered);
    let name = names.find(|name| !dimensions.names.contains(name)).unwrap_or_default();
    dimensions.names.insert(name.clone());
    dimensions.list.push(Dimension { name, len, unlimited });
    dimensions.made_up.push(dimensions.list.len() - 1);
    dimensions.list.len() - 1
}

fn variable_name(path: &str) -> String {
    let (group, name) = path.rsplit_once('/').map_or(("", path), |(group, name)| (group, name));
    let name = name.strip_prefix(NOT_COORDINATE).unwrap_or(name);
    if group.is_empty() { name.to_owned() } else { format!("{group}/{name}") }
}

fn variable(
    file: &File<'_>,
    dataset: RawDataset,
    dims: Vec<usize>,
    dimensions: &[Dimension],
    name: String,
) -> Result<Variable, FormatError> {
    let shape: Vec<u64> = dims.iter().map(|d| dimensions[*d].len).collect();
    let storage = match dataset.storage {
        RawStorage::Empty => Storage::Empty,
        RawStorage::Compact(bytes) => Storage::Compact(bytes),
        RawStorage::Contiguous { offset, nbytes } => Storage::Contiguous { offset, nbytes },
        RawStorage::Chunked { filters, chunks } => table(file, &shape, filters, chunks)?,
    };
    let attributes = plain_attributes(dataset.attributes);
    let dtype = dataset.dtype;
    let from_attribute =
        attributes.iter().find(|a| a.name == "_FillValue").and_then(|a| a.value.element(dtype));
    let zeros = if dtype == DType::String { Vec::new() } else { vec![0; dtype.size()] };
    let fill = from_attribute.or(dataset.fill).unwrap_or(zeros);
    Ok(Variable { name, dtype, big_endian: dataset.big_endian, dims, attributes, fill, storage })
}

/// The chunk table over the whole grid of `shape`.
fn table(
    file: &File<'_>,
    shape: &[u64],
    filters: Vec<Filter>,
    found: SparseChunks,
) -> Result<Storage, FormatError> {
    if found.refs.is_empty() {
        return Ok(Storage::Empty);
    }
    let counts = grid::chunk_counts(shape, &found.chunk);
    let total = grid::elements(&counts).filter(|total| *total <= file.len().max(TABLE_FLOOR));
    let Some(total) = total else {
        return Err(file.unsupported(&format!(
            "a grid of {counts:?} chunks in a file of {} bytes with {} chunks",
            file.len(),
            found.refs.len()
        )));
    };
    let mut chunks: Vec<Option<ChunkRef>> = vec![None; total as usize];
    let rank = found.chunk.len();
    for (place, stored) in found.places.chunks(rank.max(1)).zip(found.refs) {
        // Places are inside the dataset's own shape, which the grid covers.
        if let Some(entry) = chunks.get_mut(grid::chunk_ordinal(place, &counts) as usize) {
            *entry = Some(stored);
        }
    }
    Ok(Storage::Chunked { chunk: found.chunk, filters, chunks })
}

/// The attributes that are the user's, as netCDF shows them.
fn plain_attributes(attributes: Vec<RawAttribute>) -> Vec<Attribute> {
    let bookkeeping = |name: &str| {
        let own = name.rsplit('/').next().unwrap_or(name);
        ["CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "_NCProperties"].contains(&own)
            || own.starts_with("_Netcdf4")
    };
    let keep = |a: RawAttribute| match a.value {
        RawValue::Plain(value) if !bookkeeping(&a.name) => Some(Attribute { name: a.name, value }),
        _ => None,
    };
    attributes.into_iter().filter_map(keep).collect()
}
