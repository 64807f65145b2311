//! Version-2 B-trees: the records of links, attributes, huge heap objects and chunks, in their order.

use super::file::File;
use crate::format::FormatError;

const WHAT: &str = "B-tree (version 2)";
/// Levels at most; a node has many children, so real trees have two or three.
const MAX_DEPTH: usize = 32;
/// Signature, version and type before a node's records, and the checksum behind its content.
const NODE_OVERHEAD: usize = 10;

/// All records of a tree, one after another.
pub(super) struct Records {
    /// Which kind of records (5: links by name, 8: attributes by name, 10 and 11: chunks..).
    pub(super) kind: u8,
    pub(super) size: usize,
    bytes: Vec<u8>,
}

impl Records {
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(self.size.max(1))
    }
}

struct Tree<'a> {
    file: &'a File<'a>,
    kind: u8,
    node_size: usize,
    record_size: usize,
    /// Bytes of a child's own number of records.
    count_size: usize,
    /// Bytes of the number of all records below a child at each depth; 0 for leaves.
    total_sizes: Vec<usize>,
}

/// Reads the tree whose header is at `address`.
pub(super) fn records(file: &File<'_>, address: u64) -> Result<Records, FormatError> {
    let bytes = file.read_checked(address, 22 + file.offset_size + file.length_size, WHAT)?;
    let mut cursor = file.cursor(&bytes, WHAT);
    cursor.signature(b"BTHD")?;
    cursor.skip(1)?;
    let kind = cursor.u8()?;
    let node_size = cursor.u32()? as usize;
    let record_size = usize::from(cursor.u16()?);
    let depth = usize::from(cursor.u16()?);
    cursor.skip(2)?;
    let root = cursor.address()?;
    let count = usize::from(cursor.u16()?);
    let mut out = Vec::new();
    if let Some(root) = root
        && count > 0
    {
        if depth > MAX_DEPTH || record_size == 0 || node_size <= NODE_OVERHEAD + record_size {
            return Err(cursor.damaged("its sizes make no sense"));
        }
        let tree = Tree::new(file, kind, node_size, record_size, depth)?;
        tree.read_node(root, count, depth, &mut out)?;
    }
    Ok(Records { kind, size: record_size, bytes: out })
}

impl<'a> Tree<'a> {
    /// Derives the widths of the counts in the nodes, which follow from how much a node can hold.
    fn new(
        file: &'a File<'a>,
        kind: u8,
        node_size: usize,
        record_size: usize,
        depth: usize,
    ) -> Result<Tree<'a>, FormatError> {
        let leaf_most = ((node_size - NODE_OVERHEAD) / record_size) as u64;
        let count_size = bytes_for(leaf_most);
        let mut total_most = leaf_most;
        let mut total_sizes = vec![0];
        for level in 1..=depth {
            let pointer = file.offset_size + count_size + total_sizes[level - 1];
            let room = (node_size - NODE_OVERHEAD).saturating_sub(pointer);
            let most = (room / (record_size + pointer)) as u64;
            if most == 0 {
                return Err(file.damaged(format!("{WHAT}: its nodes are too small")));
            }
            total_most = (most + 1).saturating_mul(total_most).saturating_add(most);
            total_sizes.push(bytes_for(total_most));
        }
        Ok(Tree { file, kind, node_size, record_size, count_size, total_sizes })
    }

    fn read_node(
        &self,
        address: u64,
        count: usize,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        let total_size = if depth > 1 { self.total_sizes[depth - 1] } else { 0 };
        let pointer = self.file.offset_size + self.count_size + total_size;
        let children = if depth > 0 { (count + 1) * pointer } else { 0 };
        let len = NODE_OVERHEAD + count * self.record_size + children;
        if len > self.node_size {
            return Err(self.file.damaged(format!("{WHAT} at {address}: {count} records in a node")));
        }
        let bytes = self.file.read_checked(address, len, WHAT)?;
        let mut cursor = self.file.cursor(&bytes, WHAT);
        cursor.signature(if depth == 0 { b"BTLF" } else { b"BTIN" })?;
        cursor.skip(1)?;
        if cursor.u8()? != self.kind {
            return Err(cursor.damaged("a node of another tree"));
        }
        let records = cursor.take(count * self.record_size)?;
        if depth == 0 {
            out.extend_from_slice(records);
            return Ok(());
        }
        // Records of an inner node stand between those of its children.
        for i in 0..=count {
            let child = cursor.some_address()?;
            let child_count = cursor.uint(self.count_size)? as usize;
            cursor.skip(total_size)?;
            self.read_node(child, child_count, depth - 1, out)?;
            if i < count {
                out.extend_from_slice(&records[i * self.record_size..][..self.record_size]);
            }
        }
        Ok(())
    }
}

/// Bytes that hold numbers up to `most`.
fn bytes_for(most: u64) -> usize {
    most.max(1).ilog2() as usize / 8 + 1
}
