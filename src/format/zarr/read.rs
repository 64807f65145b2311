//! What is read: the metadata of a store and where its chunks are, no data.

use super::{CONSOLIDATED, GROUP, GROUP_3, Store, is_bad_name, numpy_name, of_name_3};
use crate::format::{
    AttrValue, Attribute, ChunkRef, DType, Dataset, Dimension, Filter, FormatError, Skipped, Storage,
    Variable, grid,
};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// Longest metadata file that is read.
const MAX_METADATA_BYTES: u64 = 256 << 20;
/// Chunks of one variable: each has an entry in memory.
const MAX_CHUNKS: u64 = 50_000_000;
/// As HDF5 has it, and numpy.
const MAX_RANK: usize = 32;
const IN_SUBGROUP: &str = "it is in a subgroup, or has the name of a hidden file";

type Json = Map<String, Value>;

/// A variable as its metadata have it, of either version.
struct Array {
    name: String,
    shape: Vec<u64>,
    chunk: Vec<u64>,
    dtype: DType,
    big_endian: bool,
    /// Bytes of an element of fixed-length text.
    text_width: Option<u64>,
    filters: Vec<Filter>,
    fill: Value,
    /// Whether the fill value also marks missing cells.
    fill_is_missing: bool,
    dims: Vec<String>,
    attributes: Json,
    /// Before a chunk's place, and between its numbers.
    prefix: String,
    separator: char,
}

/// Opens the store at `root`: reads its metadata and lists its chunks.
///
/// # Errors
/// It is no store, its metadata can't be read or understood, or its variables don't agree in their dimensions.
pub fn open(root: &Path) -> Result<(Store, Dataset), FormatError> {
    let name = root.display().to_string();
    let damaged = |what: String| FormatError::damaged(&name, what);
    let (attributes, arrays) = if root.join(GROUP_3).is_file() { version_3(root)? } else { version_2(root)? };
    let mut store = Store::new(root.to_owned());
    let mut dataset = Dataset { attributes: attributes_of(&attributes), ..Dataset::default() };
    for (name, array) in arrays {
        match array.and_then(|array| variable(root, array, &mut store, &mut dataset.dimensions)) {
            Ok(variable) => dataset.variables.push(variable),
            Err(Refused::Reason(reason)) => dataset.skipped.push(Skipped { name, reason }),
            Err(Refused::Damaged(what)) => return Err(damaged(format!("{name}: {what}"))),
            Err(Refused::Io(error)) => {
                return Err(FormatError::io(format!("{}/{name}", root.display()), error));
            }
        }
    }
    Ok((store, dataset))
}

/// Why a variable can't be had.
enum Refused {
    /// It is of a sort that isn't read: others may be.
    Reason(String),
    Damaged(String),
    Io(io::Error),
}

type Arrays = Vec<(String, Result<Array, Refused>)>;

fn version_2(root: &Path) -> Result<(Json, Arrays), FormatError> {
    let all = match read(&root.join(CONSOLIDATED))? {
        Some(consolidated) => object(consolidated.get("metadata")),
        None => {
            let mut all = Json::new();
            for file in [GROUP, ".zattrs"] {
                all.extend(read(&root.join(file))?.map(|value| (file.to_owned(), Value::Object(value))));
            }
            for name in folders(root)? {
                for file in [".zarray", ".zattrs"] {
                    let path = format!("{name}/{file}");
                    all.extend(read(&root.join(&path))?.map(|value| (path, Value::Object(value))));
                }
            }
            all
        }
    };
    if !all.contains_key(GROUP) {
        let what = "it is no Zarr group (a directory with .zgroup or zarr.json)";
        return Err(FormatError::unsupported(root.display().to_string(), what));
    }
    let mut arrays = Vec::new();
    for (path, metadata) in &all {
        let Some(name) = path.strip_suffix("/.zarray") else { continue };
        let attributes = object(all.get(&format!("{name}/.zattrs")));
        let array = match metadata {
            _ if is_bad_name(name) => Err(Refused::Reason(IN_SUBGROUP.to_owned())),
            Value::Object(metadata) => array_2(name, metadata, attributes),
            _ => Err(Refused::Damaged("its .zarray is no object".to_owned())),
        };
        arrays.push((name.to_owned(), array));
    }
    Ok((object(all.get(".zattrs")), arrays))
}

fn version_3(root: &Path) -> Result<(Json, Arrays), FormatError> {
    let group = read(&root.join(GROUP_3))?.unwrap_or_default();
    if group.get("node_type").and_then(Value::as_str) != Some("group") {
        let what = "it is no Zarr group: name the directory of the group that the array is in";
        return Err(FormatError::unsupported(root.display().to_string(), what));
    }
    let consolidated = group.get("consolidated_metadata").and_then(|c| c.get("metadata"));
    let members = match consolidated {
        Some(Value::Object(members)) => members.clone(),
        _ => {
            let mut members = Json::new();
            for name in folders(root)? {
                members
                    .extend(read(&root.join(&name).join(GROUP_3))?.map(|value| (name, Value::Object(value))));
            }
            members
        }
    };
    let mut arrays = Vec::new();
    for (name, metadata) in members {
        let Value::Object(metadata) = metadata else { continue };
        if metadata.get("node_type").and_then(Value::as_str) == Some("array") {
            let array = match is_bad_name(&name) {
                true => Err(Refused::Reason(IN_SUBGROUP.to_owned())),
                false => array_3(&name, &metadata),
            };
            arrays.push((name, array));
        }
    }
    Ok((object(group.get("attributes")), arrays))
}

fn array_2(name: &str, metadata: &Json, mut attributes: Json) -> Result<Array, Refused> {
    let (shape, chunk) = (lengths(metadata, "shape")?, lengths(metadata, "chunks")?);
    let dtype = match metadata.get("dtype") {
        Some(Value::String(dtype)) => dtype.clone(),
        other => return Err(Refused::Reason(format!("elements of type {}", shown(other)))),
    };
    let (dtype, big_endian, text_width) = numpy_type(&dtype)?;
    if metadata.get("order").and_then(Value::as_str) != Some("C") && shape.len() > 1 {
        return Err(Refused::Reason("it is not stored in C order".to_owned()));
    }
    let mut filters = Vec::new();
    for filter in metadata.get("filters").and_then(Value::as_array).into_iter().flatten() {
        filters.push(numcodec(filter));
    }
    if let Some(compressor) = metadata.get("compressor").filter(|c| !c.is_null()) {
        filters.push(numcodec(compressor));
    }
    let dims = match attributes.remove("_ARRAY_DIMENSIONS") {
        Some(Value::Array(names)) => names.iter().map(|n| n.as_str().unwrap_or("").to_owned()).collect(),
        _ => Vec::new(),
    };
    let separator = metadata.get("dimension_separator").and_then(Value::as_str);
    Ok(Array {
        name: name.to_owned(),
        shape,
        chunk,
        dtype,
        big_endian,
        text_width,
        filters,
        fill: metadata.get("fill_value").cloned().unwrap_or_default(),
        fill_is_missing: true,
        dims,
        attributes,
        prefix: String::new(),
        separator: if separator == Some("/") { '/' } else { '.' },
    })
}

/// numpy's name of a type: the type, whether it is big-endian, and the length of text.
fn numpy_type(name: &str) -> Result<(DType, bool, Option<u64>), Refused> {
    let refused = || Refused::Reason(format!("elements of type {name}"));
    let (order, kind) = name.split_at_checked(1).ok_or_else(refused)?;
    if let Some(width) = kind.strip_prefix('S') {
        let width = width.parse().ok().filter(|w| (1..=1 << 20).contains(w)).ok_or_else(refused)?;
        return Ok((DType::Char, false, Some(width)));
    }
    let kind = if kind == "b1" { "u1" } else { kind };
    let all = [
        DType::I8,
        DType::U8,
        DType::I16,
        DType::U16,
        DType::I32,
        DType::U32,
        DType::I64,
        DType::U64,
        DType::F32,
        DType::F64,
    ];
    let found = all.into_iter().find(|dtype| numpy_name(*dtype).is_some_and(|n| &n[1..] == kind));
    let known = matches!(order, "<" | ">" | "|" | "=");
    found.filter(|_| known).map(|dtype| (dtype, order == ">", None)).ok_or_else(refused)
}

/// A codec of version 2.
fn numcodec(codec: &Value) -> Filter {
    let number =
        |key: &str, otherwise: u64| codec.get(key).and_then(Value::as_u64).unwrap_or(otherwise) as u32;
    match codec.get("id").and_then(Value::as_str) {
        Some("shuffle") => Filter::Shuffle { element_size: number("elementsize", 4) },
        Some("zlib") => Filter::Deflate { level: number("level", 1) },
        Some("gzip") => Filter::Gzip { level: number("level", 1) },
        other => Filter::Other { id: 0, name: other.unwrap_or("without a name").to_owned() },
    }
}

fn array_3(name: &str, metadata: &Json) -> Result<Array, Refused> {
    let get = |path: &[&str]| {
        path.iter()
            .try_fold(None, |at: Option<&Value>, key| {
                Some(Some(match at {
                    None => metadata.get(*key)?,
                    Some(value) => value.get(*key)?,
                }))
            })
            .flatten()
    };
    let shape = lengths(metadata, "shape")?;
    if get(&["chunk_grid", "name"]).and_then(Value::as_str) != Some("regular") {
        return Err(Refused::Reason("its chunks are not a regular grid".to_owned()));
    }
    let chunk = get(&["chunk_grid", "configuration", "chunk_shape"]).and_then(numbers);
    let chunk = chunk.ok_or_else(|| Refused::Damaged("its chunk shape is missing".to_owned()))?;
    let dtype = match get(&["data_type"]) {
        Some(Value::String(dtype)) => of_name_3(dtype),
        _ => None,
    };
    let dtype =
        dtype.ok_or_else(|| Refused::Reason(format!("elements of type {}", shown(get(&["data_type"])))))?;
    let (mut filters, mut big_endian) = (Vec::new(), false);
    for codec in get(&["codecs"]).and_then(Value::as_array).into_iter().flatten() {
        let setting = |key: &str| codec.get("configuration").and_then(|c| c.get(key));
        let number = |key: &str, otherwise: u32| {
            setting(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(otherwise)
        };
        match codec.get("name").and_then(Value::as_str).unwrap_or("without a name") {
            "bytes" => big_endian = setting("endian").and_then(Value::as_str) == Some("big"),
            "gzip" => filters.push(Filter::Gzip { level: number("level", 1) }),
            "numcodecs.zlib" => filters.push(Filter::Deflate { level: number("level", 1) }),
            "numcodecs.shuffle" => {
                filters.push(Filter::Shuffle { element_size: number("elementsize", dtype.size() as u32) });
            }
            other => filters.push(Filter::Other { id: 0, name: other.to_owned() }),
        }
    }
    // The fill value marks nothing there: xarray has an attribute for that.
    let dims = get(&["dimension_names"]).and_then(Value::as_array);
    let dims = dims.into_iter().flatten().map(|n| n.as_str().unwrap_or("").to_owned()).collect();
    let separator = get(&["chunk_key_encoding", "configuration", "separator"]).and_then(Value::as_str);
    let is_old = get(&["chunk_key_encoding", "name"]).and_then(Value::as_str) == Some("v2");
    let separator = separator.unwrap_or(if is_old { "." } else { "/" });
    let prefix = match is_old {
        true => String::new(),
        false if shape.is_empty() => "c".to_owned(),
        false => format!("c{separator}"),
    };
    Ok(Array {
        name: name.to_owned(),
        shape,
        chunk,
        dtype,
        big_endian,
        text_width: None,
        filters,
        fill: metadata.get("fill_value").cloned().unwrap_or_default(),
        fill_is_missing: false,
        dims,
        attributes: decoded_fill(object(metadata.get("attributes")), dtype),
        prefix,
        separator: if separator == "/" { '/' } else { '.' },
    })
}

/// xarray writes the attribute `_FillValue` of floats as the base64 of a little-endian f64.
fn decoded_fill(mut attributes: Json, dtype: DType) -> Json {
    let is_float = matches!(dtype, DType::F32 | DType::F64);
    if let Some(Value::String(text)) = attributes.get("_FillValue").filter(|_| is_float)
        && let Some(bytes) = from_base64(text)
        && let Ok(bytes) = <[u8; 8]>::try_from(bytes)
    {
        let value = f64::from_le_bytes(bytes);
        let value = serde_json::Number::from_f64(value).map_or_else(|| "NaN".into(), Value::Number);
        attributes.insert("_FillValue".to_owned(), value);
    }
    attributes
}

/// RFC 4648, with padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.trim_end_matches('=').bytes().map(|b| LETTERS.iter().position(|l| *l == b));
    let (mut bits, mut count, mut out) = (0u32, 0, Vec::new());
    for digit in digits {
        bits = bits << 6 | digit? as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(out)
}

/// The variable, whose dimensions and chunk files are noted.
fn variable(
    root: &Path,
    array: Array,
    store: &mut Store,
    dimensions: &mut Vec<Dimension>,
) -> Result<Variable, Refused> {
    let Array { name, mut shape, mut chunk, dtype, text_width, mut dims, .. } = array;
    if chunk.len() != shape.len() || chunk.contains(&0) || shape.len() > MAX_RANK {
        return Err(Refused::Damaged(format!("chunks of {chunk:?} for the shape {shape:?}")));
    }
    let counts = grid::chunk_counts(&shape, &chunk);
    let total = grid::elements(&counts).filter(|n| *n <= MAX_CHUNKS);
    let total = total.ok_or_else(|| Refused::Reason(format!("more than {MAX_CHUNKS} chunks")))?;
    let place = Place { folder: root.join(&name), prefix: array.prefix, separator: array.separator };
    let chunks = chunks(&name, &place, &counts, total, store)?;
    dims.resize_with(shape.len(), String::new);
    for (axis, dim) in dims.iter_mut().enumerate().filter(|(_, dim)| dim.is_empty()) {
        *dim = format!("{name}_dim{axis}");
    }
    if let Some(width) = text_width {
        dims.push(format!("string{width}"));
        shape.push(width);
        chunk.push(width);
    }
    let dims = dims.iter().zip(&shape).map(|(dim, len)| dimension(dimensions, dim, *len));
    let dims = dims.collect::<Result<Vec<_>, _>>()?;
    let mut attributes = attributes_of(&array.attributes);
    let fill = fill_element(&array.fill, dtype);
    if let Some(value) = fill.clone().filter(|_| array.fill_is_missing && dtype != DType::Char) {
        attributes.retain(|a| a.name != "_FillValue");
        attributes.insert(0, Attribute { name: "_FillValue".to_owned(), value });
    }
    Ok(Variable {
        name,
        dtype,
        big_endian: array.big_endian,
        dims,
        attributes,
        fill: fill.and_then(|fill| fill.element(dtype)).unwrap_or_else(|| vec![0; dtype.size()]),
        storage: Storage::Chunked { chunk, filters: array.filters, chunks },
    })
}

fn dimension(dimensions: &mut Vec<Dimension>, name: &str, len: u64) -> Result<usize, Refused> {
    if let Some(at) = dimensions.iter().position(|d| d.name == name) {
        let there = dimensions[at].len;
        return if there == len {
            Ok(at)
        } else {
            Err(Refused::Damaged(format!("the dimension '{name}' is {len} here and {there} elsewhere")))
        };
    }
    dimensions.push(Dimension { name: name.to_owned(), len, unlimited: false });
    Ok(dimensions.len() - 1)
}

/// How a variable's chunks are called.
struct Place {
    folder: std::path::PathBuf,
    prefix: String,
    separator: char,
}

/// All chunks that are there, each with its place in the store. What isn't there reads as fill.
fn chunks(
    name: &str,
    place: &Place,
    counts: &[u64],
    total: u64,
    store: &mut Store,
) -> Result<Vec<Option<ChunkRef>>, Refused> {
    let sizes = sizes(&place.folder)?;
    let mut chunks = Vec::with_capacity(total as usize);
    for ordinal in 0..total {
        let index: Vec<String> = grid::chunk_index(ordinal, counts).iter().map(u64::to_string).collect();
        let numbers = index.join(&place.separator.to_string());
        let is_scalar = counts.is_empty() && place.prefix.is_empty();
        let path = format!("{}{}", place.prefix, if is_scalar { "0" } else { &numbers });
        chunks.push(sizes.get(&path).map(|nbytes| ChunkRef {
            offset: store.push(format!("{name}/{path}"), *nbytes),
            nbytes: *nbytes,
            filter_mask: 0,
        }));
    }
    Ok(chunks)
}

/// The files below a folder, by path, with their sizes.
fn sizes(folder: &Path) -> Result<HashMap<String, u64>, Refused> {
    let mut found = HashMap::new();
    let mut open = vec![(folder.to_owned(), String::new(), 0)];
    while let Some((at, prefix, depth)) = open.pop() {
        let entries = match std::fs::read_dir(&at) {
            Ok(entries) => entries,
            // A variable that was never written.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Refused::Io(error)),
        };
        for entry in entries {
            let entry = entry.map_err(Refused::Io)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{prefix}{name}");
            let metadata = entry.metadata().map_err(Refused::Io)?;
            if metadata.is_dir() && depth <= MAX_RANK {
                open.push((entry.path(), format!("{path}/"), depth + 1));
            } else if metadata.is_file() {
                found.insert(path, metadata.len());
            }
        }
    }
    Ok(found)
}

/// A fill value as the attribute that it stands for.
fn fill_element(fill: &Value, dtype: DType) -> Option<AttrValue> {
    let word = |text: &str| match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    };
    match (dtype, fill) {
        (DType::Char | DType::String, _) => None,
        (DType::F32 | DType::F64, Value::String(text)) => Some(AttrValue::Floats(dtype, vec![word(text)?])),
        (DType::F32 | DType::F64, value) => Some(AttrValue::Floats(dtype, vec![value.as_f64()?])),
        (DType::U8 | DType::U16 | DType::U32 | DType::U64, value) => {
            let value = value.as_u64().or_else(|| value.as_bool().map(u64::from))?;
            Some(AttrValue::UInts(dtype, vec![value]))
        }
        (_, value) => Some(AttrValue::Ints(dtype, vec![value.as_i64()?])),
    }
}

fn attributes_of(attributes: &Json) -> Vec<Attribute> {
    let one = |(name, value): (&String, &Value)| {
        Some(Attribute { name: name.clone(), value: attribute_value(value)? })
    };
    attributes.iter().filter_map(one).collect()
}

/// `None`: null, or nothing that a netCDF attribute could hold.
fn attribute_value(value: &Value) -> Option<AttrValue> {
    let all = match value {
        Value::String(text) => return Some(AttrValue::Text(text.clone())),
        Value::Array(all) => all.as_slice(),
        Value::Object(_) => return Some(AttrValue::Text(value.to_string())),
        Value::Null => return None,
        one => std::slice::from_ref(one),
    };
    if let Some(texts) = all.iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>() {
        return (!texts.is_empty()).then_some(AttrValue::Texts(texts));
    }
    let whole = |v: &Value| v.as_i64().or_else(|| v.as_bool().map(i64::from));
    if let Some(values) = all.iter().map(whole).collect::<Option<Vec<_>>>() {
        return Some(AttrValue::Ints(DType::I64, values));
    }
    if let Some(values) = all.iter().map(Value::as_u64).collect::<Option<Vec<_>>>() {
        return Some(AttrValue::UInts(DType::U64, values));
    }
    let values = all.iter().map(Value::as_f64).collect::<Option<Vec<_>>>();
    Some(values.map_or_else(|| AttrValue::Text(value.to_string()), |v| AttrValue::Floats(DType::F64, v)))
}

fn lengths(metadata: &Json, key: &str) -> Result<Vec<u64>, Refused> {
    let found = metadata.get(key).and_then(numbers);
    found.ok_or_else(|| Refused::Damaged(format!("its '{key}' is {}", shown(metadata.get(key)))))
}

fn numbers(value: &Value) -> Option<Vec<u64>> {
    value.as_array()?.iter().map(Value::as_u64).collect()
}

fn object(value: Option<&Value>) -> Json {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}

fn shown(value: Option<&Value>) -> String {
    value.map_or("missing".to_owned(), |value| value.to_string().chars().take(80).collect())
}

/// Folders of a store that may be arrays.
fn folders(root: &Path) -> Result<Vec<String>, FormatError> {
    let io = |error| FormatError::io(root.display().to_string(), error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root).map_err(io)? {
        let entry = entry.map_err(io)?;
        if let (true, Ok(name)) = (entry.path().is_dir(), entry.file_name().into_string()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A metadata file; `None` if it isn't there.
fn read(path: &Path) -> Result<Option<Json>, FormatError> {
    let name = path.display().to_string();
    let text = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(there) if there.len() > MAX_METADATA_BYTES => {
            return Err(FormatError::unsupported(name, format!("longer than {MAX_METADATA_BYTES} bytes")));
        }
        _ => std::fs::read_to_string(path).map_err(|error| FormatError::io(&name, error))?,
    };
    match serde_json::from_str(&without_bare_words(&text)) {
        Ok(Value::Object(value)) => Ok(Some(value)),
        Ok(_) => Err(FormatError::damaged(name, "it is no JSON object")),
        Err(error) => Err(FormatError::damaged(name, error.to_string())),
    }
}

/// Python writes NaN and Infinity into JSON, which has no such words: they become texts.
fn without_bare_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut in_text) = (text, false);
    'letters: while let Some(letter) = rest.chars().next() {
        for word in ["NaN", "Infinity", "-Infinity"] {
            if !in_text && let Some(after) = rest.strip_prefix(word) {
                out.push_str(&format!("\"{word}\""));
                rest = after;
                continue 'letters;
            }
        }
        let mut len = letter.len_utf8();
        match letter {
            '"' => in_text = !in_text,
            // What comes after it ends no text.
            '\\' => len += rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => {}
        }
        out.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    out
}
