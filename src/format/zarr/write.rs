//! What is written: the metadata of a store, and the names of its chunks. Pure.

use super::{CONSOLIDATED, GROUP, is_bad_name, numpy_name};
use crate::format::netcdf4::{FileSpec, VarSpec, VarStorage};
use crate::format::{AttrValue, Attribute, DType, FormatError, grid};
use serde_json::{Map, Value, json};

/// The metadata files below the store's root, by path. The one that makes it a store in the eyes of others,
/// [`CONSOLIDATED`], is the last.
///
/// # Errors
/// A variable whose name can't be a directory's.
pub fn metadata(spec: &FileSpec) -> Result<Vec<(String, Vec<u8>)>, FormatError> {
    let mut all = Map::new();
    all.insert(GROUP.to_owned(), json!({"zarr_format": 2}));
    all.insert(".zattrs".to_owned(), Value::Object(attributes(&spec.attributes)));
    for variable in &spec.variables {
        let name = &variable.name;
        if is_bad_name(name) {
            return Err(FormatError::unsupported("output", format!("a variable of a store called '{name}'")));
        }
        let mut own = attributes(&variable.attributes);
        own.remove("_FillValue");
        let dims = stored_dims(variable).iter().map(|d| spec.dimensions[*d].name.clone());
        own.insert("_ARRAY_DIMENSIONS".to_owned(), dims.collect::<Vec<_>>().into());
        all.insert(format!("{name}/.zarray"), array(spec, variable));
        all.insert(format!("{name}/.zattrs"), Value::Object(own));
    }
    let text = |value: &Value| {
        // Maps with text keys can always be told in JSON.
        let mut text = serde_json::to_vec_pretty(value).expect("metadata are plain JSON");
        text.push(b'\n');
        text
    };
    let mut files: Vec<(String, Vec<u8>)> =
        all.iter().map(|(path, value)| (path.clone(), text(value))).collect();
    let whole = json!({"zarr_consolidated_format": 1, "metadata": all});
    files.push((CONSOLIDATED.to_owned(), text(&whole)));
    Ok(files)
}

/// The chunk's path below the root, by its place in the variable's grid.
pub fn chunk_path(variable: &str, index: &[u64]) -> String {
    let place: Vec<String> = index.iter().map(u64::to_string).collect();
    // A scalar's only chunk is called 0.
    let place = if place.is_empty() { "0".to_owned() } else { place.join(".") };
    format!("{variable}/{place}")
}

/// The path of the only chunk of a variable that is stored in one piece.
pub fn whole_path(variable: &VarSpec) -> String {
    chunk_path(&variable.name, &vec![0; stored_dims(variable).len()])
}

/// Chunks along each dimension of a chunked variable.
pub fn chunk_counts(spec: &FileSpec, variable: &VarSpec) -> Vec<u64> {
    let shape = shape(spec, variable);
    grid::chunk_counts(&shape, variable.chunk().unwrap_or(&shape))
}

fn shape(spec: &FileSpec, variable: &VarSpec) -> Vec<u64> {
    stored_dims(variable).iter().map(|d| spec.dimensions[*d].len).collect()
}

/// Text of a fixed length is one element, which has no dimension of its own.
fn stored_dims(variable: &VarSpec) -> &[usize] {
    match &variable.dims[..] {
        [rest @ .., _] if variable.dtype == DType::Char => rest,
        all => all,
    }
}

fn array(spec: &FileSpec, variable: &VarSpec) -> Value {
    let shape = shape(spec, variable);
    let chunk = match &variable.storage {
        VarStorage::Contiguous(_) => None,
        VarStorage::InlineChunks { chunk, .. } | VarStorage::Chunked { chunk, .. } => Some(chunk.clone()),
    };
    // Not even an empty array has chunks without elements.
    let chunks: Vec<u64> = chunk.unwrap_or_else(|| shape.iter().map(|len| (*len).max(1)).collect());
    let dtype = match numpy_name(variable.dtype) {
        Some(name) => name.to_owned(),
        None => format!("|S{}", variable.dims.last().map_or(1, |d| spec.dimensions[*d].len.max(1))),
    };
    let (shuffled, level) = match variable.storage {
        VarStorage::Chunked { shuffle, deflate_level, .. } => (shuffle, deflate_level),
        _ => (false, None),
    };
    let size = variable.dtype.size();
    let filters =
        if shuffled && size > 1 { json!([{"id": "shuffle", "elementsize": size}]) } else { Value::Null };
    let compressor = level.map_or(Value::Null, |level| json!({"id": "zlib", "level": level}));
    json!({
        "zarr_format": 2,
        "shape": shape,
        "chunks": chunks,
        "dtype": dtype,
        "order": "C",
        "fill_value": fill_value(variable),
        "filters": filters,
        "compressor": compressor,
        "dimension_separator": ".",
    })
}

/// Readers mask by it: nothing, unless the variable says that something is missing.
fn fill_value(variable: &VarSpec) -> Value {
    let Some(fill) = variable.explicit_fill() else { return Value::Null };
    let long = |fill: &[u8]| {
        let mut bytes = [0; 8];
        bytes[..fill.len().min(8)].copy_from_slice(&fill[..fill.len().min(8)]);
        bytes
    };
    let narrow = 64 - 8 * variable.dtype.size().min(8) as u32;
    match variable.dtype {
        DType::F32 => {
            number(f64::from(f32::from_le_bytes(fill.get(..4).map_or([0; 4], |b| [b[0], b[1], b[2], b[3]]))))
        }
        DType::F64 => number(f64::from_le_bytes(long(&fill))),
        // The sign is that of the type's highest bit.
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => {
            (i64::from_le_bytes(long(&fill)) << narrow >> narrow).into()
        }
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => u64::from_le_bytes(long(&fill)).into(),
        DType::Char | DType::String => Value::Null,
    }
}

/// JSON has no other numbers than finite ones: the rest are words.
fn number(value: f64) -> Value {
    match value {
        v if v.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        v => v.into(),
    }
}

fn attributes(attributes: &[Attribute]) -> Map<String, Value> {
    fn one_or_all(values: Vec<Value>) -> Value {
        if values.len() == 1 {
            values.into_iter().next().unwrap_or(Value::Null)
        } else {
            Value::Array(values)
        }
    }
    let value = |value: &AttrValue| match value {
        AttrValue::Text(text) => text.clone().into(),
        AttrValue::Texts(texts) => Value::Array(texts.iter().map(|text| text.clone().into()).collect()),
        AttrValue::Ints(_, values) => one_or_all(values.iter().map(|v| (*v).into()).collect()),
        AttrValue::UInts(_, values) => one_or_all(values.iter().map(|v| (*v).into()).collect()),
        // An f32 of 0.1 stays the f32 that it is.
        AttrValue::Floats(_, values) => one_or_all(values.iter().map(|v| number(*v)).collect()),
    };
    attributes.iter().map(|a| (a.name.clone(), value(&a.value))).collect()
}
