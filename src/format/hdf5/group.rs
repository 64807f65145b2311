//! Groups: old symbol tables, compact links and dense links; and the walk over all of them.

use super::attribute::{self, RawAttribute};
use super::btree_v2;
use super::dataset::{self, RawDataset};
use super::file::File;
use super::fractal_heap::FractalHeap;
use super::object_header::{self, Message};
use crate::format::{FormatError, Skipped};
use std::collections::HashSet;

/// Groups inside groups at most.
const MAX_DEPTH: u32 = 32;
/// Levels of a symbol table's tree at most.
const MAX_TREE_LEVEL: u8 = 32;

/// What a walk over all groups finds.
#[derive(Default)]
pub(super) struct Found {
    pub(super) datasets: Vec<RawDataset>,
    /// Attributes of groups, nested groups' by `group/name`.
    pub(super) attributes: Vec<RawAttribute>,
    pub(super) skipped: Vec<Skipped>,
}

struct Link {
    name: String,
    address: u64,
    order: Option<u64>,
}

/// Everything below the root group, each object once.
pub(super) fn walk(file: &File<'_>) -> Result<Found, FormatError> {
    let mut found = Found::default();
    let mut seen = HashSet::from([file.root]);
    let messages = object_header::messages(file, file.root)?;
    visit(file, "", &messages, &mut seen, &mut found, 0)?;
    Ok(found)
}

fn visit(
    file: &File<'_>,
    path: &str,
    messages: &[Message],
    seen: &mut HashSet<u64>,
    found: &mut Found,
    depth: u32,
) -> Result<(), FormatError> {
    if depth > MAX_DEPTH {
        return Err(file.unsupported(&format!("groups nested as deep as {path}")));
    }
    for mut attribute in attribute::all(file, messages)? {
        attribute.name = format!("{path}{}", attribute.name);
        found.attributes.push(attribute);
    }
    for link in links(file, messages)?.unwrap_or_default() {
        if !seen.insert(link.address) {
            continue;
        }
        let name = format!("{path}{}", link.name);
        match read_object(file, &name, &link, seen, found, depth) {
            // What this reader lacks is that object's affair alone.
            Err(FormatError::Unsupported { what, .. }) => {
                found.skipped.push(Skipped { name, reason: what });
            }
            other => other?,
        }
    }
    Ok(())
}

fn read_object(
    file: &File<'_>,
    name: &str,
    link: &Link,
    seen: &mut HashSet<u64>,
    found: &mut Found,
    depth: u32,
) -> Result<(), FormatError> {
    let messages = object_header::messages(file, link.address)?;
    if is_group(&messages) {
        return visit(file, &format!("{name}/"), &messages, seen, found, depth + 1);
    }
    if let Some(dataset) = dataset::read(file, name, link.address, &messages)? {
        found.datasets.push(dataset);
    }
    Ok(())
}

fn is_group(messages: &[Message]) -> bool {
    let kinds = [object_header::LINK, object_header::LINK_INFO, object_header::SYMBOL_TABLE];
    messages.iter().any(|m| kinds.contains(&m.kind))
}

/// Hard links in the order of creation where it is known, else by name; `None`: not a group.
fn links(file: &File<'_>, messages: &[Message]) -> Result<Option<Vec<Link>>, FormatError> {
    if !is_group(messages) {
        return Ok(None);
    }
    let mut links = Vec::new();
    for message in messages {
        match message.kind {
            object_header::LINK => links.extend(link(file, &message.data)?),
            object_header::LINK_INFO => dense_links(file, &message.data, &mut links)?,
            object_header::SYMBOL_TABLE => symbol_table(file, &message.data, &mut links)?,
            _ => {}
        }
    }
    if links.iter().all(|link| link.order.is_some()) {
        links.sort_by_key(|link| link.order);
    } else {
        links.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Ok(Some(links))
}

/// A link message; soft and external links are not followed.
fn link(file: &File<'_>, data: &[u8]) -> Result<Option<Link>, FormatError> {
    let mut cursor = file.cursor(data, "link");
    cursor.skip(1)?;
    let flags = cursor.u8()?;
    let kind = if flags & 8 != 0 { cursor.u8()? } else { 0 };
    let order = if flags & 4 != 0 { Some(cursor.u64()?) } else { None };
    if flags & 16 != 0 {
        cursor.skip(1)?;
    }
    let len = usize::try_from(cursor.uint(1 << (flags & 3))?).unwrap_or(usize::MAX);
    let name = String::from_utf8_lossy(cursor.take(len)?).into_owned();
    if kind != 0 {
        return Ok(None);
    }
    Ok(Some(Link { name, address: cursor.some_address()?, order }))
}

fn dense_links(file: &File<'_>, data: &[u8], links: &mut Vec<Link>) -> Result<(), FormatError> {
    let mut cursor = file.cursor(data, "link info");
    cursor.skip(1)?;
    if cursor.u8()? & 1 != 0 {
        cursor.skip(8)?;
    }
    let (Some(heap), Some(tree)) = (cursor.address()?, cursor.address()?) else {
        return Ok(());
    };
    let heap = FractalHeap::open(file, heap)?;
    let records = btree_v2::records(file, tree)?;
    // By name: a hash of 4 bytes, then the heap id.
    if records.size < 5 {
        return Err(cursor.damaged("its index has no heap ids"));
    }
    for record in records.iter() {
        links.extend(link(file, &heap.object(&record[4..])?)?);
    }
    Ok(())
}

fn symbol_table(file: &File<'_>, data: &[u8], links: &mut Vec<Link>) -> Result<(), FormatError> {
    let mut cursor = file.cursor(data, "symbol table");
    let (tree, heap) = (cursor.some_address()?, cursor.some_address()?);
    let head = file.read(heap, 8 + 2 * file.length_size + file.offset_size, "local heap")?;
    let mut cursor = file.cursor(&head, "local heap");
    cursor.signature(b"HEAP")?;
    cursor.skip(4)?;
    let size = usize::try_from(cursor.length()?).unwrap_or(usize::MAX);
    cursor.length()?;
    let names = file.read(cursor.some_address()?, size, "local heap")?;
    symbol_nodes(file, tree, None, &names, links)
}

/// The tree over symbol nodes: version 1, node type 0. A child is one level below its parent, which ends the walk.
fn symbol_nodes(
    file: &File<'_>,
    address: u64,
    level: Option<u8>,
    names: &[u8],
    links: &mut Vec<Link>,
) -> Result<(), FormatError> {
    const WHAT: &str = "group B-tree";
    let head = file.read(address, 8, WHAT)?;
    let mut cursor = file.cursor(&head, WHAT);
    cursor.signature(b"TREE")?;
    let (kind, own_level) = (cursor.u8()?, cursor.u8()?);
    let count = usize::from(cursor.u16()?);
    if kind != 0 || own_level > MAX_TREE_LEVEL || level.is_some_and(|level| level != own_level) {
        return Err(cursor.damaged("a node that does not belong there"));
    }
    let (so, sl) = (file.offset_size, file.length_size);
    let bytes = file.read(address, 8 + 2 * so + count * (sl + so), WHAT)?;
    let mut cursor = file.cursor(&bytes, WHAT);
    cursor.skip(8 + 2 * so)?;
    for _ in 0..count {
        cursor.length()?;
        let child = cursor.some_address()?;
        match own_level.checked_sub(1) {
            Some(below) => symbol_nodes(file, child, Some(below), names, links)?,
            None => symbols(file, child, names, links)?,
        }
    }
    Ok(())
}

fn symbols(file: &File<'_>, address: u64, names: &[u8], links: &mut Vec<Link>) -> Result<(), FormatError> {
    const WHAT: &str = "symbol node";
    let head = file.read(address, 8, WHAT)?;
    let mut cursor = file.cursor(&head, WHAT);
    cursor.signature(b"SNOD")?;
    cursor.skip(2)?;
    let count = usize::from(cursor.u16()?);
    let bytes = file.read(address, 8 + count * (2 * file.offset_size + 24), WHAT)?;
    let mut cursor = file.cursor(&bytes, WHAT);
    cursor.skip(8)?;
    for _ in 0..count {
        let name_at = usize::try_from(cursor.uint(file.offset_size)?).unwrap_or(usize::MAX);
        let target = cursor.address()?;
        let cached = cursor.u32()?;
        cursor.skip(20)?;
        // 2: a soft link.
        let (Some(target), true) = (target, cached != 2) else { continue };
        let name = names.get(name_at..).and_then(|rest| rest.split(|byte| *byte == 0).next());
        let name = name.ok_or_else(|| cursor.damaged("a name is missing"))?;
        links.push(Link { name: String::from_utf8_lossy(name).into_owned(), address: target, order: None });
    }
    Ok(())
}
