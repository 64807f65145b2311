//! The global heap: what attributes of variable length point to. Every reference gets an object of its own, because
//! HDF5 frees the object when the attribute is rewritten (renaming a variable does that).

use super::messages::Bytes;

/// Objects of one collection at most: their numbers are 16 bits.
const OBJECTS: usize = 60_000;
/// HDF5's smallest collection.
const MIN_BYTES: usize = 4096;

/// What one heap object holds.
pub(super) enum HeapObject {
    /// The address of the header of the object with that number: an object reference.
    Reference(usize),
    Text(String),
}

impl HeapObject {
    fn len(&self) -> usize {
        match self {
            HeapObject::Reference(_) => 8,
            HeapObject::Text(text) => text.len(),
        }
    }
}

/// All heap objects of the file, in the order in which headers mention them.
#[derive(Default)]
pub(super) struct Heap {
    objects: Vec<HeapObject>,
    /// Addresses of the collections, once they are placed.
    pub(super) addresses: Vec<u64>,
}

impl Heap {
    /// Adds an object; returns its number.
    pub(super) fn add(&mut self, object: HeapObject) -> usize {
        self.objects.push(object);
        self.objects.len() - 1
    }

    /// Bytes of each collection.
    pub(super) fn sizes(&self) -> Vec<usize> {
        self.objects.chunks(OBJECTS).map(collection_bytes).collect()
    }

    /// Address of the collection and index in it: what a variable-length value stores beside its length.
    pub(super) fn id(&self, number: usize) -> (u64, u32) {
        let address = self.addresses.get(number / OBJECTS).copied().unwrap_or(0);
        (address, (number % OBJECTS) as u32 + 1)
    }

    /// The collections' bytes, given the addresses of all object headers.
    pub(super) fn encode(&self, headers: &[u64]) -> Vec<Vec<u8>> {
        self.objects.chunks(OBJECTS).map(|part| encode_collection(part, headers)).collect()
    }
}

fn used_bytes(part: &[HeapObject]) -> usize {
    16 + part.iter().map(|o| 16 + o.len().next_multiple_of(8)).sum::<usize>()
}

fn collection_bytes(part: &[HeapObject]) -> usize {
    // Room for the free-space object that ends the collection.
    (used_bytes(part) + 16).max(MIN_BYTES)
}

fn encode_collection(part: &[HeapObject], headers: &[u64]) -> Vec<u8> {
    let size = collection_bytes(part);
    let mut out = Bytes::default();
    out.put(b"GCOL").put(&[1, 0, 0, 0]).u64(size as u64);
    for (i, object) in part.iter().enumerate() {
        out.u16(i as u16 + 1).u16(0).u32(0).u64(object.len() as u64);
        match object {
            HeapObject::Reference(number) => out.u64(headers[*number]),
            HeapObject::Text(text) => out.put(text.as_bytes()),
        };
        out.0.resize(out.0.len().next_multiple_of(8), 0);
    }
    out.u16(0).u16(0).u32(0).u64((size - used_bytes(part)) as u64);
    out.0.resize(size, 0);
    out.0
}
