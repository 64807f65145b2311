//! Object headers and their messages, as bytes (HDF5 File Format Specification 3.0, IV.A).

use super::attributes::EncodedAttribute;
use super::heap::Heap;
use super::plan::{Object, Plan};
use super::{VarSpec, VarStorage};
use crate::format::DType;
use crate::format::lookup3::lookup3;

/// The address that means "nowhere".
pub(super) const UNDEFINED: u64 = u64::MAX;

const DATASPACE: u8 = 0x01;
const LINK_INFO: u8 = 0x02;
const DATATYPE: u8 = 0x03;
const FILL_VALUE: u8 = 0x05;
const LINK: u8 = 0x06;
const DATA_LAYOUT: u8 = 0x08;
const GROUP_INFO: u8 = 0x0a;
const FILTERS: u8 = 0x0b;
const ATTRIBUTE: u8 = 0x0c;
const ATTRIBUTE_INFO: u8 = 0x15;

/// Little-endian bytes under construction.
#[derive(Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Bytes {
    pub(super) fn put(&mut self, bytes: &[u8]) -> &mut Bytes {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Bytes {
        self.put(&[value])
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Bytes {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Bytes {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Bytes {
        self.put(&value.to_le_bytes())
    }
}

/// Where a dataset's data are.
#[derive(Clone, Copy)]
pub(super) enum DataPlace {
    Contiguous { address: u64, nbytes: u64 },
    Tree(u64),
}

/// The header of dataset `object` with tracked attribute order. `headers` are all objects' addresses: 0s serve to
/// learn the header's length.
pub(super) fn dataset_header(
    plan: &Plan<'_>,
    object: &Object<'_>,
    place: DataPlace,
    attributes: &[EncodedAttribute],
    headers: &[u64],
    heap: &Heap,
) -> Vec<u8> {
    let shape = plan.shape(object);
    let max: Vec<u64> = object
        .dims
        .iter()
        .zip(&shape)
        .map(|(d, len)| if plan.spec.dimensions[*d].unlimited { UNDEFINED } else { *len })
        .collect();
    let mut messages = vec![
        (DATASPACE, 0, dataspace(&shape, &max)),
        (DATATYPE, 1, datatype(object.dtype)),
        (FILL_VALUE, 1, fill_message(object)),
    ];
    if let Some(filters) = object.variable.and_then(filter_message) {
        messages.push((FILTERS, 1, filters));
    }
    messages.push((DATA_LAYOUT, 0, layout_message(object, place)));
    object_header(messages, attributes, headers, heap)
}

/// The root group's header: links in order of creation.
pub(super) fn root_header(
    plan: &Plan<'_>,
    attributes: &[EncodedAttribute],
    headers: &[u64],
    heap: &Heap,
) -> Vec<u8> {
    let mut info = Bytes::default();
    // Flags 3: creation order is tracked and indexed; without it netCDF-C does not open the file for appending.
    info.u8(0).u8(3).u64(plan.objects.len() as u64).u64(UNDEFINED).u64(UNDEFINED).u64(UNDEFINED);
    let mut messages = vec![(LINK_INFO, 0, info.0), (GROUP_INFO, 1, vec![0, 0])];
    for (order, object) in plan.objects.iter().enumerate() {
        let name = object.name.as_bytes();
        let mut link = Bytes::default();
        // Flags: creation order (4), character set (16), the name's length in 2 bytes (1); a hard link.
        link.u8(1).u8(0x15).u64(order as u64).u8(1).u16(name.len() as u16).put(name).u64(headers[order]);
        messages.push((LINK, 0, link.0));
    }
    object_header(messages, attributes, headers, heap)
}

/// Version 2, with creation order of attributes, and its checksum.
fn object_header(
    mut messages: Vec<(u8, u8, Vec<u8>)>,
    attributes: &[EncodedAttribute],
    headers: &[u64],
    heap: &Heap,
) -> Vec<u8> {
    let mut info = Bytes::default();
    info.u8(0).u8(1).u16(attributes.len() as u16).u64(UNDEFINED).u64(UNDEFINED);
    messages.push((ATTRIBUTE_INFO, 4, info.0));
    let first_attribute = messages.len();
    messages.extend(attributes.iter().map(|a| (ATTRIBUTE, 0, a.encode(headers, heap))));
    let mut body = Bytes::default();
    for (i, (kind, flags, data)) in messages.iter().enumerate() {
        let order = i.saturating_sub(first_attribute) as u16;
        body.u8(*kind).u16(data.len() as u16).u8(*flags).u16(order).put(data);
    }
    let mut header = Bytes::default();
    header.put(b"OHDR").u8(2).u8(0x06).u32(body.0.len() as u32).put(&body.0);
    let sum = lookup3(&header.0);
    header.u32(sum);
    header.0
}

/// Version 2: a scalar without lengths, else a simple extent; largest lengths only where they differ.
pub(super) fn dataspace(shape: &[u64], max: &[u64]) -> Vec<u8> {
    let mut out = Bytes::default();
    out.u8(2).u8(shape.len() as u8).u8(u8::from(shape != max)).u8(u8::from(!shape.is_empty()));
    shape.iter().for_each(|len| {
        out.u64(*len);
    });
    if shape != max {
        max.iter().for_each(|len| {
            out.u64(*len);
        });
    }
    out.0
}

pub(super) fn null_dataspace() -> Vec<u8> {
    vec![2, 0, 0, 2]
}

/// One dimension, or nothing at all: netCDF stores empty attributes without extent.
pub(super) fn list_dataspace(len: usize) -> Vec<u8> {
    if len == 0 { null_dataspace() } else { dataspace(&[len as u64], &[len as u64]) }
}

pub(super) fn datatype(dtype: DType) -> Vec<u8> {
    let size = dtype.size() as u32;
    let mut out = Bytes::default();
    match dtype {
        DType::F32 => out.put(&[0x11, 0x20, 31, 0]).u32(4).u16(0).u16(32).put(&[23, 8, 0, 23]).u32(127),
        DType::F64 => out.put(&[0x11, 0x20, 63, 0]).u32(8).u16(0).u16(64).put(&[52, 11, 0, 52]).u32(1023),
        DType::Char | DType::String => return text_datatype(1),
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => {
            out.put(&[0x10, 8, 0, 0]).u32(size).u16(0).u16(size as u16 * 8)
        }
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => {
            out.put(&[0x10, 0, 0, 0]).u32(size).u16(0).u16(size as u16 * 8)
        }
    };
    out.0
}

/// Text of fixed length, NUL-terminated where there is room, UTF-8.
pub(super) fn text_datatype(len: u32) -> Vec<u8> {
    let mut out = Bytes::default();
    out.put(&[0x13, 0x10, 0, 0]).u32(len);
    out.0
}

/// Version 3. Chunks get room when they are written, contiguous data late; the fill value is written if set.
fn fill_message(object: &Object<'_>) -> Vec<u8> {
    let allocation = if object.chunk.is_some() { 3 } else { 2 };
    let (write_if_set, defined) = (2 << 2, 1 << 5);
    let fill = object.variable.map_or_else(|| object.dtype.default_fill(), VarSpec::fill_value);
    let mut out = Bytes::default();
    out.u8(3).u8(allocation | write_if_set | defined).u32(fill.len() as u32).put(&fill);
    out.0
}

/// Version 2, in the order of application. The filters are optional ones, as netCDF-C declares them.
fn filter_message(variable: &VarSpec) -> Option<Vec<u8>> {
    let VarStorage::Chunked { shuffle, deflate_level, .. } = &variable.storage else {
        return None;
    };
    let mut list = Vec::new();
    if *shuffle && variable.dtype.size() > 1 {
        list.push((2u16, variable.dtype.size() as u32));
    }
    if let Some(level) = deflate_level {
        list.push((1, (*level).min(9)));
    }
    if list.is_empty() {
        return None;
    }
    let mut out = Bytes::default();
    out.u8(2).u8(list.len() as u8);
    for (id, value) in list {
        out.u16(id).u16(1).u16(1).u32(value);
    }
    Some(out.0)
}

/// Version 3. A chunk's shape has the element's size as its last number.
fn layout_message(object: &Object<'_>, place: DataPlace) -> Vec<u8> {
    let mut out = Bytes::default();
    match place {
        DataPlace::Contiguous { address, nbytes } => {
            out.u8(3).u8(1).u64(address).u64(nbytes);
        }
        DataPlace::Tree(root) => {
            let chunk = object.chunk.as_deref().unwrap_or_default();
            out.u8(3).u8(2).u8(chunk.len() as u8 + 1).u64(root);
            chunk.iter().for_each(|len| {
                out.u32(*len as u32);
            });
            out.u32(object.dtype.size() as u32);
        }
    }
    out.0
}
