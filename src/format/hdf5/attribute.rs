//! Attributes, in the header or in dense storage.

use super::btree_v2;
use super::datatype::{self, Type};
use super::file::File;
use super::fractal_heap::FractalHeap;
use super::global_heap;
use super::object_header::{self, Message};
use crate::format::{AttrValue, DType, FormatError};

const WHAT: &str = "attribute";

/// An attribute as HDF5 has it.
pub(super) struct RawAttribute {
    pub(super) name: String,
    pub(super) value: RawValue,
}

pub(super) enum RawValue {
    Plain(AttrValue),
    /// Lists of object addresses: a dimension list.
    References(Vec<Vec<u64>>),
    /// A type that netCDF attributes don't have here.
    Other,
}

impl RawAttribute {
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            RawValue::Plain(value) => value.text(),
            _ => None,
        }
    }

    /// The numbers, if they are integers.
    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        match &self.value {
            RawValue::Plain(AttrValue::Ints(_, values)) => Some(values.clone()),
            RawValue::Plain(AttrValue::UInts(_, values)) => {
                values.iter().map(|v| i64::try_from(*v).ok()).collect()
            }
            _ => None,
        }
    }
}

/// All attributes of an object, in the order of creation where that is known.
pub(super) fn all(file: &File<'_>, messages: &[Message]) -> Result<Vec<RawAttribute>, FormatError> {
    let mut found: Vec<(u32, RawAttribute)> = Vec::new();
    for (place, message) in messages.iter().enumerate() {
        match message.kind {
            object_header::ATTRIBUTE => {
                let order = message.order.map_or(place as u32, u32::from);
                found.push((order, attribute(file, &message.data)?));
            }
            object_header::ATTRIBUTE_INFO => dense(file, &message.data, &mut found)?,
            _ => {}
        }
    }
    found.sort_by_key(|(order, _)| *order);
    Ok(found.into_iter().map(|(_, attribute)| attribute).collect())
}

fn dense(file: &File<'_>, data: &[u8], found: &mut Vec<(u32, RawAttribute)>) -> Result<(), FormatError> {
    let mut cursor = file.cursor(data, "attribute info");
    cursor.skip(1)?;
    if cursor.u8()? & 1 != 0 {
        cursor.skip(2)?;
    }
    let (Some(heap), Some(tree)) = (cursor.address()?, cursor.address()?) else {
        return Ok(());
    };
    let heap = FractalHeap::open(file, heap)?;
    for record in btree_v2::records(file, tree)?.iter() {
        // By name: heap id of 8 bytes, message flags, order of creation, hash.
        let mut cursor = file.cursor(record, "attribute index");
        let id = cursor.take(8)?;
        let flags = cursor.u8()?;
        let order = cursor.u32()?;
        if flags & 2 != 0 {
            return Err(file.unsupported("an attribute in the file's shared-message heap"));
        }
        found.push((order, attribute(file, &heap.object(id)?)?));
    }
    Ok(())
}

/// An attribute message, versions 1 to 3.
fn attribute(file: &File<'_>, data: &[u8]) -> Result<RawAttribute, FormatError> {
    let mut cursor = file.cursor(data, WHAT);
    let (version, flags) = (cursor.u8()?, cursor.u8()?);
    if !(1..=3).contains(&version) {
        return Err(cursor.damaged(&format!("version {version}")));
    }
    let sizes = [cursor.u16()?, cursor.u16()?, cursor.u16()?].map(usize::from);
    if version == 3 {
        cursor.skip(1)?;
    }
    let padded = |size: usize| if version == 1 { size.next_multiple_of(8) } else { size };
    let name = cursor.take(padded(sizes[0]))?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    let type_bytes = cursor.take(padded(sizes[1]))?;
    let space_bytes = cursor.take(padded(sizes[2]))?;
    let part = |bytes: &[u8], is_shared: bool, kind: u16| {
        if is_shared { object_header::shared(file, bytes, kind) } else { Ok(bytes.to_vec()) }
    };
    let type_bytes = part(type_bytes, version > 1 && flags & 1 != 0, object_header::DATATYPE)?;
    let space_bytes = part(space_bytes, version > 1 && flags & 2 != 0, object_header::DATASPACE)?;
    let kind = datatype::datatype(&mut file.cursor(&type_bytes, WHAT))?;
    let space = datatype::dataspace(&mut file.cursor(&space_bytes, WHAT))?;
    let size = kind.size(file.heap_reference_size());
    let nbytes = space.elements().and_then(|n| n.checked_mul(size as u64));
    let nbytes = nbytes.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let raw = cursor.take(nbytes)?;
    Ok(RawAttribute { name, value: value(file, &kind, raw, size)? })
}

fn value(file: &File<'_>, kind: &Type, raw: &[u8], size: usize) -> Result<RawValue, FormatError> {
    let elements = || raw.chunks_exact(size.max(1));
    Ok(match kind {
        Type::Number { dtype, big_endian } => RawValue::Plain(numbers(*dtype, *big_endian, raw)),
        Type::Text { len, space_padded } => {
            let texts: Vec<String> = elements().map(|e| fixed_text(e, *space_padded)).collect();
            RawValue::Plain(if *len == 0 { AttrValue::Text(String::new()) } else { texts_or_text(texts) })
        }
        Type::VariableText => {
            let texts = elements().map(|e| global_heap::text(file, e)).collect::<Result<Vec<_>, _>>()?;
            RawValue::Plain(texts_or_text(texts))
        }
        Type::Sequence(inner) if **inner == Type::Reference => {
            let width = file.offset_size;
            let addresses = |element| -> Result<Vec<u64>, FormatError> {
                let bytes = global_heap::object(file, element, width)?;
                Ok(bytes.chunks_exact(width).map(|b| unsigned(b, false)).collect())
            };
            RawValue::References(elements().map(addresses).collect::<Result<_, _>>()?)
        }
        _ => RawValue::Other,
    })
}

/// netCDF does not tell a list of one text from a text, nor an empty one from an empty text.
fn texts_or_text(mut texts: Vec<String>) -> AttrValue {
    match texts.len() {
        0 => AttrValue::Text(String::new()),
        1 => AttrValue::Text(texts.remove(0)),
        _ => AttrValue::Texts(texts),
    }
}

fn fixed_text(bytes: &[u8], space_padded: bool) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    if space_padded { text.trim_end_matches(' ').to_owned() } else { text.into_owned() }
}

fn numbers(dtype: DType, big_endian: bool, raw: &[u8]) -> AttrValue {
    let elements = raw.chunks_exact(dtype.size());
    match dtype {
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => {
            let unused = 64 - 8 * dtype.size() as u32;
            let signed = |e: &[u8]| ((unsigned(e, big_endian) << unused) as i64) >> unused;
            AttrValue::Ints(dtype, elements.map(signed).collect())
        }
        DType::F32 => {
            let float = |e: &[u8]| f64::from(f32::from_bits(unsigned(e, big_endian) as u32));
            AttrValue::Floats(dtype, elements.map(float).collect())
        }
        DType::F64 => {
            AttrValue::Floats(dtype, elements.map(|e| f64::from_bits(unsigned(e, big_endian))).collect())
        }
        _ => AttrValue::UInts(dtype, elements.map(|e| unsigned(e, big_endian)).collect()),
    }
}

/// Up to 8 bytes as a number.
fn unsigned(bytes: &[u8], big_endian: bool) -> u64 {
    let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    if big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
}
