//! Object headers, versions 1 and 2: the list of messages that describe a group or dataset.

use super::file::File;
use crate::format::FormatError;

const WHAT: &str = "object header";
/// Continuation blocks of one header at most; real ones have a few.
const MAX_BLOCKS: usize = 4096;
/// A shared message lives in another header, which may not point on and on.
const MAX_SHARING: u32 = 4;

pub(super) const DATASPACE: u16 = 0x01;
pub(super) const LINK_INFO: u16 = 0x02;
pub(super) const DATATYPE: u16 = 0x03;
pub(super) const OLD_FILL_VALUE: u16 = 0x04;
pub(super) const FILL_VALUE: u16 = 0x05;
pub(super) const LINK: u16 = 0x06;
pub(super) const EXTERNAL_FILES: u16 = 0x07;
pub(super) const DATA_LAYOUT: u16 = 0x08;
pub(super) const FILTERS: u16 = 0x0b;
pub(super) const ATTRIBUTE: u16 = 0x0c;
const CONTINUATION: u16 = 0x10;
pub(super) const SYMBOL_TABLE: u16 = 0x11;
pub(super) const ATTRIBUTE_INFO: u16 = 0x15;

/// One message, its content where it belongs even if it was shared.
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) data: Vec<u8>,
    /// Place in the order of creation, where the header tracks it.
    pub(super) order: Option<u16>,
}

/// All messages of the header at `address`.
pub(super) fn messages(file: &File<'_>, address: u64) -> Result<Vec<Message>, FormatError> {
    messages_at(file, address, 0)
}

/// The content of a message that is shared: `data` says where it is.
pub(super) fn shared(file: &File<'_>, data: &[u8], kind: u16) -> Result<Vec<u8>, FormatError> {
    shared_at(file, data, kind, 0)
}

/// The first message of that kind.
pub(super) fn find(messages: &[Message], kind: u16) -> Option<&[u8]> {
    messages.iter().find(|m| m.kind == kind).map(|m| m.data.as_slice())
}

fn messages_at(file: &File<'_>, address: u64, sharing: u32) -> Result<Vec<Message>, FormatError> {
    let start = file.read_up_to(address, 16, WHAT)?;
    let mut found = if start.starts_with(b"OHDR") {
        version_2(file, address, &start)?
    } else {
        version_1(file, address, &start)?
    };
    for (message, flags) in &mut found {
        if *flags & 2 != 0 {
            message.data = shared_at(file, &message.data, message.kind, sharing)?;
        }
    }
    Ok(found.into_iter().map(|(message, _)| message).collect())
}

fn shared_at(file: &File<'_>, data: &[u8], kind: u16, sharing: u32) -> Result<Vec<u8>, FormatError> {
    let mut cursor = file.cursor(data, "shared message");
    let (version, place) = (cursor.u8()?, cursor.u8()?);
    if version == 1 {
        cursor.skip(6)?;
    }
    if version == 3 && place == 1 {
        return Err(file.unsupported("a message in the file's shared-message heap"));
    }
    let address = cursor.some_address()?;
    if sharing >= MAX_SHARING {
        return Err(cursor.damaged("it is shared over and over"));
    }
    let messages = messages_at(file, address, sharing + 1)?;
    let found = messages.into_iter().find(|m| m.kind == kind).map(|m| m.data);
    found.ok_or_else(|| file.damaged(format!("shared message at {address}: it is not there")))
}

/// Blocks of messages that are still to be read: address and length.
type Blocks = Vec<(u64, usize)>;

fn version_1(file: &File<'_>, address: u64, start: &[u8]) -> Result<Vec<(Message, u8)>, FormatError> {
    let mut cursor = file.cursor(start, WHAT);
    if cursor.u8()? != 1 {
        return Err(file.damaged(format!("there is no object header at {address}")));
    }
    cursor.skip(7)?;
    let size = cursor.u32()? as usize;
    let mut blocks: Blocks = vec![(address.saturating_add(16), size)];
    let mut found = Vec::new();
    let mut next = 0;
    while let Some((at, len)) = blocks.get(next).copied() {
        next += 1;
        let bytes = file.read(at, len, WHAT)?;
        let mut cursor = file.cursor(&bytes, WHAT);
        while cursor.left() >= 8 {
            let kind = cursor.u16()?;
            let len = usize::from(cursor.u16()?);
            let flags = cursor.u8()?;
            cursor.skip(3)?;
            let data = cursor.take(len)?;
            keep(file, kind, flags, data, None, &mut found, &mut blocks)?;
        }
    }
    Ok(found)
}

fn version_2(file: &File<'_>, address: u64, start: &[u8]) -> Result<Vec<(Message, u8)>, FormatError> {
    let mut cursor = file.cursor(start, WHAT);
    cursor.skip(4)?;
    let (version, flags) = (cursor.u8()?, cursor.u8()?);
    if version != 2 {
        return Err(file.unsupported(&format!("object header version {version}")));
    }
    let times = if flags & 0x20 != 0 { 16 } else { 0 };
    let phase = if flags & 0x10 != 0 { 4 } else { 0 };
    let size_bytes = 1 << (flags & 3);
    let prefix = file.read(address, 6 + times + phase + size_bytes, WHAT)?;
    let mut cursor = file.cursor(&prefix, WHAT);
    cursor.skip(6 + times + phase)?;
    let size = usize::try_from(cursor.uint(size_bytes)?).unwrap_or(usize::MAX);
    let tracked = flags & 4 != 0;
    let mut blocks: Blocks = vec![(address, size.saturating_add(prefix.len() + 4))];
    let mut found = Vec::new();
    let mut next = 0;
    while let Some((at, len)) = blocks.get(next).copied() {
        let bytes = file.read_checked(at, len, WHAT)?;
        let mut cursor = file.cursor(&bytes, WHAT);
        if next == 0 {
            cursor.skip(prefix.len())?;
        } else {
            cursor.signature(b"OCHK")?;
        }
        next += 1;
        // What is too short for a message is a gap.
        while cursor.left() >= if tracked { 6 } else { 4 } {
            let kind = u16::from(cursor.u8()?);
            let len = usize::from(cursor.u16()?);
            let flags = cursor.u8()?;
            let order = if tracked { Some(cursor.u16()?) } else { None };
            let data = cursor.take(len)?;
            keep(file, kind, flags, data, order, &mut found, &mut blocks)?;
        }
    }
    Ok(found)
}

/// Follows a continuation, keeps everything else but padding.
fn keep(
    file: &File<'_>,
    kind: u16,
    flags: u8,
    data: &[u8],
    order: Option<u16>,
    found: &mut Vec<(Message, u8)>,
    blocks: &mut Blocks,
) -> Result<(), FormatError> {
    if kind == CONTINUATION {
        let mut cursor = file.cursor(data, "object header continuation");
        let address = cursor.some_address()?;
        let len = usize::try_from(cursor.length()?).unwrap_or(usize::MAX);
        if blocks.len() >= MAX_BLOCKS {
            return Err(cursor.damaged("too many of them"));
        }
        blocks.push((address, len));
    } else if kind != 0 {
        found.push((Message { kind, data: data.to_vec(), order }, flags));
    }
    Ok(())
}
