//! The global heap: collections of objects that variable-length values point to.

use super::file::File;
use crate::format::FormatError;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

const WHAT: &str = "global heap";

/// One collection, read once.
pub(super) struct Collection {
    bytes: Vec<u8>,
    objects: HashMap<u16, Range<usize>>,
}

/// The bytes that a reference (length, address, index) points to; empty for the null reference. `element_size`:
/// bytes of one unit of the length.
pub(super) fn object(file: &File<'_>, reference: &[u8], element_size: usize) -> Result<Vec<u8>, FormatError> {
    let mut cursor = file.cursor(reference, WHAT);
    let len = cursor.u32()? as usize;
    let address = cursor.address()?;
    let index = cursor.u32()?;
    let address = match address {
        Some(address) if address != 0 && len != 0 => address,
        _ => return Ok(Vec::new()),
    };
    let collection = collection(file, address)?;
    let range = u16::try_from(index).ok().and_then(|index| collection.objects.get(&index));
    let Some(range) = range else {
        return Err(file.damaged(format!("{WHAT} at {address}: there is no object {index}")));
    };
    let wanted = len.saturating_mul(element_size);
    if wanted > range.len() {
        return Err(file.damaged(format!("{WHAT} at {address}: object {index} is too short")));
    }
    Ok(collection.bytes[range.start..range.start + wanted].to_vec())
}

/// The text that a reference points to, up to its NUL.
pub(super) fn text(file: &File<'_>, reference: &[u8]) -> Result<String, FormatError> {
    let bytes = object(file, reference, 1)?;
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn collection(file: &File<'_>, address: u64) -> Result<Rc<Collection>, FormatError> {
    if let Some(known) = file.collections.borrow().get(&address) {
        return Ok(Rc::clone(known));
    }
    let head = file.read(address, 8 + file.length_size, WHAT)?;
    let mut cursor = file.cursor(&head, WHAT);
    cursor.signature(b"GCOL")?;
    cursor.skip(4)?;
    let size = usize::try_from(cursor.length()?).unwrap_or(usize::MAX);
    let bytes = file.read(address, size, WHAT)?;
    let mut cursor = file.cursor(&bytes, WHAT);
    cursor.skip(head.len())?;
    let mut objects = HashMap::new();
    while cursor.left() >= 8 + file.length_size {
        let index = cursor.u16()?;
        cursor.skip(6)?;
        let len = usize::try_from(cursor.length()?).unwrap_or(usize::MAX);
        // Number 0 is the free space at the end.
        if index == 0 {
            break;
        }
        let start = cursor.at;
        cursor.skip(len)?;
        objects.insert(index, start..start + len);
        cursor.skip(((8 - len % 8) % 8).min(cursor.left()))?;
    }
    let made = Rc::new(Collection { bytes, objects });
    file.collections.borrow_mut().insert(address, Rc::clone(&made));
    Ok(made)
}
