//! Chunk tables on disk: what the metadata of many files say, in one file of our own, so that none of them has to be
//! read again. Each file's part can be read by itself.
//!
//! ```text
//! 0      magic "JQCHUNKS", version (u32), number of parts (u32)
//! 16     for each part: offset (u64), bytes (u64), CRC-32C (u32)
//! ..     CRC-32C of everything above
//! ..     the parts: the head, which is whoever writes the table's own, then one a file
//! ```
//!
//! All numbers are little-endian. A file's part is its metadata without chunks in MessagePack, behind its length
//! (u32), and then, for each chunked variable, its chunks as numbers of seven bits a byte: their count, whether there
//! are filter masks, and for each chunk its `bytes + 1` (0: never written), the distance from the end of the chunk
//! before it, and the mask. Chunks mostly follow each other, so one takes three to five bytes.

use super::{ChunkRef, Dataset, FormatError, Storage, Variable};
use crc32c::crc32c;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: [u8; 8] = *b"JQCHUNKS";
const VERSION: u32 = 1;
const INDEX_AT: usize = 16;
const ENTRY_BYTES: usize = 20;
/// Parts of one table: a million files and the head.
const MAX_PARTS: usize = 1_000_001;
/// Bytes of one part; a file of a million chunks has five megabytes.
const MAX_PART_BYTES: u64 = 1 << 30;

/// Where the part of one file is: it can be told to others, who read it alone.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct TablePart {
    pub table: String,
    pub offset: u64,
    pub nbytes: u64,
    pub checksum: u32,
}

/// A table of which head and index are read.
#[derive(Clone, Debug)]
pub struct Table {
    pub head: Vec<u8>,
    /// One for each file, in their order.
    pub parts: Vec<TablePart>,
}

/// The bytes of a table.
pub fn encode(head: &[u8], files: &[&Dataset]) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = vec![head.to_vec()];
    parts.extend(files.iter().map(|dataset| encode_dataset(dataset)));
    let mut out = Vec::new();
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend((parts.len() as u32).to_le_bytes());
    let mut offset = (INDEX_AT + parts.len() * ENTRY_BYTES + 4) as u64;
    for part in &parts {
        out.extend(offset.to_le_bytes());
        out.extend((part.len() as u64).to_le_bytes());
        out.extend(crc32c(part).to_le_bytes());
        offset += part.len() as u64;
    }
    out.extend(crc32c(&out).to_le_bytes());
    parts.iter().for_each(|part| out.extend(part));
    out
}

impl Table {
    /// Reads the head and the index.
    ///
    /// # Errors
    /// The file can't be read, is no such table, of a later version, or damaged.
    pub fn open(path: &Path) -> Result<Table, FormatError> {
        let name = path.display().to_string();
        let io = |error: io::Error| FormatError::io(&name, error);
        let damaged = |what: &str| FormatError::damaged(&name, what);
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut start = [0; INDEX_AT];
        file.read_exact_at(&mut start, 0).map_err(|_| damaged("it is no chunk table"))?;
        let word = |at: usize| u32::from_le_bytes(start[at..at + 4].try_into().unwrap_or_default());
        if start[..8] != MAGIC {
            return Err(damaged("it is no chunk table"));
        }
        if word(8) != VERSION {
            let what = format!("version {} of chunk tables, this program reads version {VERSION}", word(8));
            return Err(FormatError::unsupported(&name, what));
        }
        let count = word(12) as usize;
        let covered = INDEX_AT + count.min(MAX_PARTS) * ENTRY_BYTES;
        if count == 0 || count > MAX_PARTS || (covered + 4) as u64 > len {
            return Err(damaged("its index is longer than the file"));
        }
        let mut index = vec![0; covered + 4];
        file.read_exact_at(&mut index, 0).map_err(io)?;
        if crc32c(&index[..covered]).to_le_bytes() != index[covered..] {
            return Err(damaged("its index doesn't match its checksum"));
        }
        let (entries, _) = index[INDEX_AT..covered].as_chunks::<ENTRY_BYTES>();
        let parts: Vec<TablePart> = entries.iter().map(|entry| part(&name, entry)).collect();
        let (head, files) = parts.split_first().ok_or_else(|| damaged("it has no head"))?;
        Ok(Table { head: head.bytes(&file)?, parts: files.to_vec() })
    }
}

fn part(table: &str, entry: &[u8; ENTRY_BYTES]) -> TablePart {
    let long = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap_or_default());
    let checksum = u32::from_le_bytes(entry[16..].try_into().unwrap_or_default());
    TablePart { table: table.to_owned(), offset: long(0), nbytes: long(8), checksum }
}

impl TablePart {
    /// What the file that this part is of has in it.
    ///
    /// # Errors
    /// The table can't be read, or this part of it is damaged.
    pub fn read(&self) -> Result<Dataset, FormatError> {
        let file = File::open(&self.table).map_err(|error| FormatError::io(&self.table, error))?;
        let bytes = self.bytes(&file)?;
        decode_dataset(&bytes).ok_or_else(|| FormatError::damaged(&self.table, "a part of it makes no sense"))
    }

    fn bytes(&self, file: &File) -> Result<Vec<u8>, FormatError> {
        let len = file.metadata().map_err(|error| FormatError::io(&self.table, error))?.len();
        if self.nbytes > MAX_PART_BYTES || self.offset.saturating_add(self.nbytes) > len {
            return Err(FormatError::damaged(&self.table, "a part of it is beyond its end"));
        }
        let mut bytes = vec![0; self.nbytes as usize];
        file.read_exact_at(&mut bytes, self.offset).map_err(|error| FormatError::io(&self.table, error))?;
        if crc32c(&bytes) != self.checksum {
            return Err(FormatError::damaged(&self.table, "a part of it doesn't match its checksum"));
        }
        Ok(bytes)
    }
}

fn encode_dataset(dataset: &Dataset) -> Vec<u8> {
    let mut bare = dataset.clone();
    let mut columns = Vec::new();
    for variable in &mut bare.variables {
        if let Storage::Chunked { chunks, .. } = &mut variable.storage {
            encode_chunks(&std::mem::take(chunks), &mut columns);
        }
    }
    // Plain data: only a map with keys of odd types could fail.
    let metadata = rmp_serde::to_vec(&bare).expect("metadata of a file is plain data");
    [&(metadata.len() as u32).to_le_bytes()[..], &metadata, &columns].concat()
}

fn encode_chunks(chunks: &[Option<ChunkRef>], out: &mut Vec<u8>) {
    let has_masks = chunks.iter().flatten().any(|chunk| chunk.filter_mask != 0);
    put(chunks.len() as u64, out);
    put(u64::from(has_masks), out);
    let mut end = 0u64;
    for chunk in chunks {
        let Some(chunk) = chunk else {
            put(0, out);
            continue;
        };
        put(chunk.nbytes.saturating_add(1), out);
        put(zigzag(chunk.offset.wrapping_sub(end) as i64), out);
        if has_masks {
            put(u64::from(chunk.filter_mask), out);
        }
        end = chunk.offset.wrapping_add(chunk.nbytes);
    }
}

fn decode_dataset(bytes: &[u8]) -> Option<Dataset> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (metadata, mut columns) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let mut dataset: Dataset = rmp_serde::from_slice(metadata).ok()?;
    for variable in &mut dataset.variables {
        if let Storage::Chunked { chunks, .. } = &mut variable.storage {
            *chunks = decode_chunks(&mut columns)?;
        }
    }
    let dims = dataset.dimensions.len();
    (columns.is_empty() && dataset.variables.iter().all(|v| is_sound(v, dims))).then_some(dataset)
}

/// Whether every index in it is one of something.
fn is_sound(variable: &Variable, dims: usize) -> bool {
    let fill = variable.fill.len();
    let chunk_fits = match &variable.storage {
        Storage::Chunked { chunk, .. } => chunk.len() == variable.dims.len() && !chunk.contains(&0),
        _ => true,
    };
    let fill_fits = fill == 0 || fill == variable.dtype.size();
    variable.dims.iter().all(|d| *d < dims) && fill_fits && chunk_fits
}

fn decode_chunks(columns: &mut &[u8]) -> Option<Vec<Option<ChunkRef>>> {
    let count = usize::try_from(take(columns)?).ok()?;
    let has_masks = take(columns)? != 0;
    // Each takes a byte at least: no more memory is taken than a small multiple of what was read.
    if count > columns.len() {
        return None;
    }
    let mut chunks = Vec::with_capacity(count);
    let mut end = 0u64;
    for _ in 0..count {
        let Some(nbytes) = take(columns)?.checked_sub(1) else {
            chunks.push(None);
            continue;
        };
        let offset = end.wrapping_add(unzigzag(take(columns)?) as u64);
        let filter_mask = if has_masks { u32::try_from(take(columns)?).ok()? } else { 0 };
        end = offset.wrapping_add(nbytes);
        chunks.push(Some(ChunkRef { offset, nbytes, filter_mask }));
    }
    Some(chunks)
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn put(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Small numbers of either sign as small numbers.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::example::{WindSizes, example_winds};
    use crate::format::hdf5;
    use crate::format::read_at::LocalFile;
    use proptest::prelude::*;

    fn chunk() -> impl Strategy<Value = Option<ChunkRef>> {
        let some = (any::<u64>(), 0..u64::MAX, prop_oneof![Just(0u32), any::<u32>()]);
        proptest::option::of(some.prop_map(|(offset, nbytes, filter_mask)| ChunkRef {
            offset,
            nbytes,
            filter_mask,
        }))
    }

    proptest! {
        #[test]
        fn chunks_come_back(chunks in proptest::collection::vec(chunk(), 0..40)) {
            let mut bytes = Vec::new();
            encode_chunks(&chunks, &mut bytes);
            let mut rest = &bytes[..];
            prop_assert_eq!(decode_chunks(&mut rest), Some(chunks));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_dataset(&bytes);
            let _ = decode_chunks(&mut &bytes[..]);
        }
    }

    #[test]
    fn a_table_gives_back_what_files_say_and_finds_damage_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let sizes = WindSizes {
            times: 6,
            latitudes: 40,
            longitudes: 40,
            chunk: [2, 1, 20, 20],
            ..WindSizes::default()
        };
        let files = example_winds(dir.path(), 2, &sizes).unwrap();
        let read = |path| hdf5::open(&LocalFile::open(path).unwrap()).unwrap();
        let datasets: Vec<Dataset> = files.iter().map(read).collect();
        let bytes = encode(b"head", &datasets.iter().collect::<Vec<_>>());
        let path = dir.path().join("chunks");
        let back = |bytes: &[u8]| -> Result<(Vec<u8>, Vec<Dataset>), FormatError> {
            std::fs::write(&path, bytes).unwrap();
            let table = Table::open(&path)?;
            let read = table.parts.iter().map(TablePart::read).collect::<Result<_, _>>()?;
            Ok((table.head, read))
        };
        assert_eq!(back(&bytes).unwrap(), (b"head".to_vec(), datasets));
        for at in (0..bytes.len()).step_by(7).chain(0..80) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            assert!(back(&damaged).is_err(), "byte {at}");
        }
        for len in [0, 7, 15, 20, bytes.len() - 1] {
            assert!(back(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn chunks_that_follow_each_other_take_few_bytes() {
        let offsets = (0..1000).map(|k| 4096 + k * 150_000);
        let chunks: Vec<_> =
            offsets.map(|offset| Some(ChunkRef { offset, nbytes: 150_000, filter_mask: 0 })).collect();
        let mut bytes = Vec::new();
        encode_chunks(&chunks, &mut bytes);
        assert!(bytes.len() < 4100, "{}", bytes.len());
    }
}
