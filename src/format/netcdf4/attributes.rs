//! Attributes on their way to object headers: the user's, and those by which netCDF keeps its dimensions.

use super::VarSpec;
use super::heap::{Heap, HeapObject};
use super::messages::{Bytes, dataspace, datatype, list_dataspace, null_dataspace, text_datatype};
use super::plan::{Object, Plan, error};
use crate::format::{AttrValue, Attribute, DType, FormatError};

/// A message's length is a 16-bit number.
const MAX_MESSAGE_BYTES: usize = u16::MAX as usize;

/// An attribute as HDF5 has it, its heap objects already numbered.
pub(super) struct EncodedAttribute {
    name: String,
    datatype: Vec<u8>,
    dataspace: Vec<u8>,
    data: AttributeData,
}

enum AttributeData {
    Bytes(Vec<u8>),
    /// Length and heap number of each element.
    Heap(Vec<(u32, usize)>),
    /// Number of the referring object and its axis.
    References(Vec<(usize, u32)>),
}

/// All attributes of the file, by object, the root group's last.
pub(super) fn encoded(plan: &Plan<'_>, heap: &mut Heap) -> Result<Vec<Vec<EncodedAttribute>>, FormatError> {
    let mut referrers: Vec<Vec<(usize, u32)>> = vec![Vec::new(); plan.spec.dimensions.len()];
    for (number, object) in plan.objects.iter().enumerate().filter(|(_, o)| o.scale.is_none()) {
        for (axis, d) in object.dims.iter().enumerate() {
            referrers[*d].push((number, axis as u32));
        }
    }
    let mut all = Vec::with_capacity(plan.objects.len() + 1);
    for object in &plan.objects {
        let mut list = Vec::new();
        if let Some(variable) = object.variable {
            user_attributes(variable, heap, &mut list);
        }
        match object.scale {
            Some(d) => scale_attributes(plan, object, d, &referrers[d], &mut list),
            None if !object.dims.is_empty() => list.push(dimension_list(object, heap)),
            None => {}
        }
        all.push(list);
    }
    let root: Vec<EncodedAttribute> = plan.spec.attributes.iter().map(|a| user_attribute(a, heap)).collect();
    all.push(root);
    for (i, list) in all.iter().enumerate() {
        let of = plan.objects.get(i).map_or("the file", |o| o.name.as_str());
        for attribute in list {
            if attribute.encode(&[], &Heap::default()).len() > MAX_MESSAGE_BYTES {
                return Err(error(format!("attribute {} of {of}: more than 64 KiB", attribute.name)));
            }
        }
    }
    Ok(all)
}

impl EncodedAttribute {
    fn new(name: &str, datatype: Vec<u8>, dataspace: Vec<u8>, data: AttributeData) -> EncodedAttribute {
        EncodedAttribute { name: name.to_owned(), datatype, dataspace, data }
    }

    /// Message version 3, the name in UTF-8.
    pub(super) fn encode(&self, headers: &[u64], heap: &Heap) -> Vec<u8> {
        let mut out = Bytes::default();
        out.u8(3).u8(0).u16(self.name.len() as u16 + 1);
        out.u16(self.datatype.len() as u16).u16(self.dataspace.len() as u16).u8(1);
        out.put(self.name.as_bytes()).u8(0).put(&self.datatype).put(&self.dataspace);
        match &self.data {
            AttributeData::Bytes(bytes) => {
                out.put(bytes);
            }
            AttributeData::Heap(elements) => {
                for (len, number) in elements {
                    let (address, index) = heap.id(*number);
                    out.u32(*len).u64(address).u32(index);
                }
            }
            AttributeData::References(referrers) => {
                for (number, axis) in referrers {
                    out.u64(headers.get(*number).copied().unwrap_or(0)).u32(*axis).u32(0);
                }
            }
        }
        out.0
    }
}

fn user_attributes(variable: &VarSpec, heap: &mut Heap, list: &mut Vec<EncodedAttribute>) {
    if let Some(fill) = variable.explicit_fill() {
        let shape = dataspace(&[1], &[1]);
        list.push(EncodedAttribute::new(
            "_FillValue",
            datatype(variable.dtype),
            shape,
            AttributeData::Bytes(fill),
        ));
    }
    let others = variable.attributes.iter().filter(|a| a.name != "_FillValue");
    list.extend(others.map(|a| user_attribute(a, heap)));
}

fn user_attribute(attribute: &Attribute, heap: &mut Heap) -> EncodedAttribute {
    let (datatype, dataspace, data) = match &attribute.value {
        AttrValue::Text(text) if text.is_empty() => {
            (text_datatype(1), null_dataspace(), AttributeData::Bytes(Vec::new()))
        }
        AttrValue::Text(text) => (
            text_datatype(text.len() as u32),
            dataspace(&[], &[]),
            AttributeData::Bytes(text.as_bytes().to_vec()),
        ),
        AttrValue::Texts(texts) => {
            // The NUL is stored too: an empty text without it would be no text at all to C readers.
            let elements = texts.iter().map(|text| {
                let text = format!("{text}\0");
                (text.len() as u32, heap.add(HeapObject::Text(text)))
            });
            (variable_text_datatype(), list_dataspace(texts.len()), AttributeData::Heap(elements.collect()))
        }
        numbers => {
            let (dtype, bytes) = numbers.number_bytes().unwrap_or((DType::U8, Vec::new()));
            (datatype(dtype), list_dataspace(bytes.len() / dtype.size()), AttributeData::Bytes(bytes))
        }
    };
    EncodedAttribute::new(&attribute.name, datatype, dataspace, data)
}

/// What makes a dataset a dimension scale, and which dimension of the file it is.
fn scale_attributes(
    plan: &Plan<'_>,
    object: &Object<'_>,
    d: usize,
    referrers: &[(usize, u32)],
    list: &mut Vec<EncodedAttribute>,
) {
    let text = |name: &str, value: &str| {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        let datatype = text_datatype(bytes.len() as u32);
        EncodedAttribute::new(name, datatype, dataspace(&[], &[]), AttributeData::Bytes(bytes))
    };
    let name = match object.variable {
        Some(_) => object.name.clone(),
        // netCDF-C knows such a dimension by this very text.
        None => {
            format!("This is a netCDF dimension but not a netCDF variable.{:10}", plan.spec.dimensions[d].len)
        }
    };
    list.push(text("CLASS", "DIMENSION_SCALE"));
    list.push(text("NAME", &name));
    let id = AttributeData::Bytes((d as i32).to_le_bytes().to_vec());
    list.push(EncodedAttribute::new("_Netcdf4Dimid", datatype(DType::I32), dataspace(&[], &[]), id));
    if referrers.is_empty() {
        return;
    }
    let back = EncodedAttribute::new(
        "REFERENCE_LIST",
        reference_list_datatype(),
        list_dataspace(referrers.len()),
        AttributeData::References(referrers.to_vec()),
    );
    // A convenience for other tools that doesn't fit beyond some 4,000 variables; readers do without.
    if back.encode(&[], &Heap::default()).len() <= MAX_MESSAGE_BYTES {
        list.push(back);
    }
}

/// Which scale belongs to each axis. The object of a dimension's scale has the dimension's number.
fn dimension_list(object: &Object<'_>, heap: &mut Heap) -> EncodedAttribute {
    let mut datatype = Bytes::default();
    datatype.put(&[0x19, 0, 0, 0]).u32(16).put(&reference_datatype());
    let elements = object.dims.iter().map(|d| (1, heap.add(HeapObject::Reference(*d))));
    let data = AttributeData::Heap(elements.collect());
    EncodedAttribute::new("DIMENSION_LIST", datatype.0, list_dataspace(object.dims.len()), data)
}

/// Text of variable length: class 9, type 1 (text), NUL-terminated, UTF-8; over one-byte text.
fn variable_text_datatype() -> Vec<u8> {
    let mut out = Bytes::default();
    out.put(&[0x19, 0x01, 0x01, 0]).u32(16).put(&text_datatype(1));
    out.0
}

fn reference_datatype() -> Vec<u8> {
    let mut out = Bytes::default();
    out.put(&[0x17, 0, 0, 0]).u32(8);
    out.0
}

/// The compound {dataset: reference at 0, dimension: i32 at 8} of 16 bytes, datatype version 1, as HDF5's
/// dimension-scale functions write it.
fn reference_list_datatype() -> Vec<u8> {
    let mut out = Bytes::default();
    out.put(&[0x16, 2, 0, 0]).u32(16);
    for (name, offset, datatype) in
        [("dataset", 0, reference_datatype()), ("dimension", 8, datatype(DType::I32))]
    {
        let mut padded = name.as_bytes().to_vec();
        padded.resize((name.len() + 1).next_multiple_of(8), 0);
        out.put(&padded).u32(offset).put(&[0; 28]).put(&datatype);
    }
    out.0
}
