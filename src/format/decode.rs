//! A variable's data as plain bytes: little-endian elements in C order, whatever the file holds. Everything is
//! driven by the [`Variable`]'s own tables, so any thread may read any part at any time; a [`Scratch`] a thread
//! keeps the buffers and the decompressor.

use super::bytewise::{fletcher32, swap_bytes, unshuffle};
use super::grid::{self, Place};
use super::{ChunkRef, DType, Dataset, Filter, FormatError, ReadAt, Storage, Variable, hdf5};

/// Bytes that [`read_all`] and [`read_strings`] give at most: they are meant for coordinates and small variables.
pub const READ_ALL_BYTES: u64 = 1 << 30;

/// Deflate makes at most 1032 bytes of one (RFC 1951: 258 bytes for two bits); more is a lie, refused before memory
/// is taken for it.
const INFLATE_RATIO: u64 = 1040;

/// A contiguous variable's box is fetched in one read if what lies between its runs is not more than this.
const GAP_BYTES: u64 = 1 << 20;

/// Buffers and a decompressor that are used again for every chunk. One for each thread.
pub struct Scratch {
    inflate: libdeflater::Decompressor,
    stored: Vec<u8>,
    other: Vec<u8>,
    chunk: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch {
            inflate: libdeflater::Decompressor::new(),
            stored: Vec::new(),
            other: Vec::new(),
            chunk: Vec::new(),
        }
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

/// Decodes the chunk with number `ordinal` (C order over the variable's chunk grid) into `out`: the whole chunk, also
/// where it stands over the array's edge. False: the chunk was never written, and `out` is all fill.
///
/// Errors name the file, the variable and the chunk. A variable that isn't chunked is `Unsupported`.
pub fn read_chunk(
    source: &dyn ReadAt,
    variable: &Variable,
    ordinal: usize,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<bool, FormatError> {
    let part = Part { source, variable };
    let Storage::Chunked { chunk, filters, chunks } = &variable.storage else {
        return Err(part.unsupported("it is not stored in chunks"));
    };
    let Some(found) = chunks.get(ordinal) else {
        return Err(part.damaged(format!("there is no chunk {ordinal} of {}", chunks.len())));
    };
    let nbytes = part.bytes_of(chunk)?;
    let Some(stored) = found else {
        out.resize(nbytes, 0);
        grid::fill_with(out, &variable.fill);
        return Ok(false);
    };
    part.decode(stored, filters, nbytes, ordinal, scratch, out)?;
    if variable.big_endian {
        swap_bytes(out, variable.dtype.size());
    }
    Ok(true)
}

/// Reads the box of `count` elements from `start` into `out`, which holds just that box afterwards. `dataset` is the
/// one that the variable belongs to.
///
/// Errors name the file and the variable; a box that isn't inside the variable is `Unsupported`.
pub fn read_slab(
    source: &dyn ReadAt,
    dataset: &Dataset,
    variable: &Variable,
    start: &[u64],
    count: &[u64],
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<(), FormatError> {
    let part = Part { source, variable };
    let shape = dataset.shape(variable);
    part.check_inside(&shape, start, count)?;
    out.resize(part.bytes_of(count)?, 0);
    if out.is_empty() {
        return Ok(());
    }
    match &variable.storage {
        Storage::Empty => grid::fill_with(out, &variable.fill),
        Storage::Compact(bytes) => {
            part.check_length(&shape, bytes.len() as u64)?;
            part.copy_from(bytes, &shape, start, count, out);
            part.to_little_endian(out);
        }
        Storage::Contiguous { offset, nbytes } => {
            part.check_length(&shape, *nbytes)?;
            part.read_contiguous(*offset, &shape, start, count, scratch, out)?;
            part.to_little_endian(out);
        }
        Storage::Chunked { chunk, chunks, .. } => {
            let counts = grid::chunk_counts(&shape, chunk);
            if chunk.len() != shape.len() || grid::elements(&counts) != Some(chunks.len() as u64) {
                return Err(part.damaged("its chunk table does not fit its shape".to_owned()));
            }
            part.read_chunked((chunk, chunks), start, count, &counts, scratch, out)?;
        }
    }
    Ok(())
}

/// The whole variable, for coordinates and small variables: at most [`READ_ALL_BYTES`].
pub fn read_all(source: &dyn ReadAt, dataset: &Dataset, variable: &Variable) -> Result<Vec<u8>, FormatError> {
    let part = Part { source, variable };
    let shape = dataset.shape(variable);
    if part.bytes_of(&shape)? as u64 > READ_ALL_BYTES {
        return Err(part.unsupported("it is too large to be read whole"));
    }
    let mut out = Vec::new();
    let start = vec![0; shape.len()];
    read_slab(source, dataset, variable, &start, &shape, &mut Scratch::default(), &mut out)?;
    Ok(out)
}

/// The texts of a variable of variable-length strings, or of `char` (the last dimension is the text's length; what
/// follows a NUL is padding, and so are trailing spaces). Other types are `Unsupported`.
pub fn read_strings(
    source: &dyn ReadAt,
    dataset: &Dataset,
    variable: &Variable,
) -> Result<Vec<String>, FormatError> {
    let bytes = read_all(source, dataset, variable)?;
    match variable.dtype {
        DType::String => hdf5::read_string_refs(source, &bytes),
        DType::Char => {
            let shape = dataset.shape(variable);
            let width = shape.last().map_or(1, |len| *len as usize).max(1);
            Ok(bytes.chunks(width).map(text_of_padded).collect())
        }
        _ => Err(Part { source, variable }.unsupported("it is not text")),
    }
}

fn text_of_padded(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).trim_end_matches(' ').to_owned()
}

/// A variable and where its bytes come from: what every helper needs, and what its errors name.
struct Part<'a> {
    source: &'a dyn ReadAt,
    variable: &'a Variable,
}

impl Part<'_> {
    fn damaged(&self, what: String) -> FormatError {
        FormatError::damaged(self.source.name(), format!("variable {}: {what}", self.variable.name))
    }

    fn unsupported(&self, what: &str) -> FormatError {
        FormatError::unsupported(self.source.name(), format!("variable {}: {what}", self.variable.name))
    }

    fn bytes_of(&self, shape: &[u64]) -> Result<usize, FormatError> {
        grid::elements(shape)
            .and_then(|n| n.checked_mul(self.variable.dtype.size() as u64))
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n < isize::MAX as usize)
            .ok_or_else(|| self.unsupported("more bytes than memory can have"))
    }

    fn check_inside(&self, shape: &[u64], start: &[u64], count: &[u64]) -> Result<(), FormatError> {
        let inside = start.len() == shape.len()
            && count.len() == shape.len()
            && (0..shape.len()).all(|k| start[k].checked_add(count[k]).is_some_and(|end| end <= shape[k]));
        if inside {
            return Ok(());
        }
        Err(self.unsupported(&format!("no box of {count:?} at {start:?} in the shape {shape:?}")))
    }

    fn check_length(&self, shape: &[u64], nbytes: u64) -> Result<(), FormatError> {
        if self.bytes_of(shape)? as u64 <= nbytes {
            return Ok(());
        }
        Err(self.damaged(format!("{nbytes} bytes for the shape {shape:?}")))
    }

    fn to_little_endian(&self, bytes: &mut [u8]) {
        if self.variable.big_endian {
            swap_bytes(bytes, self.variable.dtype.size());
        }
    }

    fn read(&self, offset: u64, nbytes: usize, out: &mut Vec<u8>) -> Result<(), FormatError> {
        if offset.checked_add(nbytes as u64).is_none_or(|end| end > self.source.len()) {
            return Err(self.damaged(format!("its bytes at {offset}+{nbytes} are beyond the file's end")));
        }
        out.resize(nbytes, 0);
        self.source.read_at(offset, out).map_err(|e| FormatError::io(self.source.name(), e))
    }

    fn copy_from(&self, from: &[u8], shape: &[u64], start: &[u64], count: &[u64], out: &mut [u8]) {
        let origin = vec![0; shape.len()];
        grid::copy_box(
            count,
            (from, Place { shape, start }),
            (out, Place { shape: count, start: &origin }),
            self.variable.dtype.size(),
        );
    }

    /// One read for the whole span if little lies between the runs, else one for each run.
    fn read_contiguous(
        &self,
        offset: u64,
        shape: &[u64],
        start: &[u64],
        count: &[u64],
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<(), FormatError> {
        let origin = vec![0; shape.len()];
        let places = (Place { shape, start }, Place { shape: count, start: &origin });
        let size = self.variable.dtype.size();
        let (mut first, mut end) = (u64::MAX, 0);
        grid::for_each_run(count, places.0, places.1, size, |a, _, n| {
            first = first.min(a as u64);
            end = end.max((a + n) as u64);
        });
        if (end - first).saturating_sub(out.len() as u64) <= GAP_BYTES {
            self.read(self.after(offset, first)?, (end - first) as usize, &mut scratch.stored)?;
            grid::for_each_run(count, places.0, places.1, size, |a, b, n| {
                out[b..b + n].copy_from_slice(&scratch.stored[a - first as usize..][..n]);
            });
            return Ok(());
        }
        self.after(offset, end)?;
        let mut result = Ok(());
        grid::for_each_run(count, places.0, places.1, size, |a, b, n| {
            if result.is_ok() {
                result = self.source.read_at(offset + a as u64, &mut out[b..b + n]);
            }
        });
        result.map_err(|e| FormatError::io(self.source.name(), e))
    }

    fn after(&self, offset: u64, by: u64) -> Result<u64, FormatError> {
        offset.checked_add(by).ok_or_else(|| self.damaged(format!("its bytes start at {offset}")))
    }

    fn read_chunked(
        &self,
        (chunk, table): (&[u64], &[Option<ChunkRef>]),
        start: &[u64],
        count: &[u64],
        counts: &[u64],
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        let rank = chunk.len();
        let first: Vec<u64> = start.iter().zip(chunk).map(|(s, c)| s / c).collect();
        let spans: Vec<u64> =
            (0..rank).map(|k| (start[k] + count[k] - 1) / chunk[k] - first[k] + 1).collect();
        let whole = count == chunk && (0..rank).all(|k| start[k].is_multiple_of(chunk[k]));
        if whole {
            let ordinal = grid::chunk_ordinal(&first, counts) as usize;
            return read_chunk(self.source, self.variable, ordinal, scratch, out).map(|_| ());
        }
        let mut decoded = std::mem::take(&mut scratch.chunk);
        let result = (0..spans.iter().product::<u64>()).try_for_each(|number| {
            let mut index = grid::chunk_index(number, &spans);
            index.iter_mut().zip(&first).for_each(|(at, first)| *at += first);
            let ordinal = grid::chunk_ordinal(&index, counts) as usize;
            // What was never written is filled where it belongs: a whole chunk of it may be larger than the box.
            if table.get(ordinal).is_some_and(Option::is_some) {
                read_chunk(self.source, self.variable, ordinal, scratch, &mut decoded)?;
                self.copy_overlap(&index, chunk, Some(&decoded), (start, count), out);
            } else {
                self.copy_overlap(&index, chunk, None, (start, count), out);
            }
            Ok(())
        });
        scratch.chunk = decoded;
        result
    }

    /// Copies what the chunk at `index` and the box have in common, or fills it where there are no bytes.
    fn copy_overlap(
        &self,
        index: &[u64],
        chunk: &[u64],
        decoded: Option<&[u8]>,
        (start, count): (&[u64], &[u64]),
        out: &mut [u8],
    ) {
        let rank = chunk.len();
        let corner: Vec<u64> = (0..rank).map(|k| index[k] * chunk[k]).collect();
        let low: Vec<u64> = (0..rank).map(|k| corner[k].max(start[k])).collect();
        let size: Vec<u64> = (0..rank)
            .map(|k| (corner[k] + chunk[k]).min(start[k] + count[k]).saturating_sub(low[k]))
            .collect();
        let in_chunk: Vec<u64> = (0..rank).map(|k| low[k] - corner[k]).collect();
        let in_box: Vec<u64> = (0..rank).map(|k| low[k] - start[k]).collect();
        let (from, to) = (Place { shape: chunk, start: &in_chunk }, Place { shape: count, start: &in_box });
        grid::for_each_run(&size, from, to, self.variable.dtype.size(), |a, b, n| match decoded {
            Some(decoded) => out[b..b + n].copy_from_slice(&decoded[a..a + n]),
            None => grid::fill_with(&mut out[b..b + n], &self.variable.fill),
        });
    }

    /// Undoes the filters that were applied to this chunk, last first.
    fn decode(
        &self,
        stored: &ChunkRef,
        filters: &[Filter],
        nbytes: usize,
        ordinal: usize,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        let length = usize::try_from(stored.nbytes)
            .map_err(|_| self.damaged(format!("chunk {ordinal} has {} bytes", stored.nbytes)))?;
        self.read(stored.offset, length, &mut scratch.stored)?;
        let applied = |i: usize| i >= 32 || stored.filter_mask & (1 << i) == 0;
        for (i, filter) in filters.iter().enumerate().rev().filter(|(i, _)| applied(*i)) {
            match filter {
                Filter::Fletcher32 => self.check_fletcher(ordinal, &mut scratch.stored)?,
                Filter::Deflate { .. } | Filter::Gzip { .. } => {
                    // Checksums that were put on before deflate are still in its output.
                    let sums = filters[..i].iter().enumerate();
                    let sums = sums.filter(|(i, f)| applied(*i) && **f == Filter::Fletcher32).count();
                    self.inflate(ordinal, nbytes + 4 * sums, filter, scratch)?;
                    std::mem::swap(&mut scratch.stored, &mut scratch.other);
                }
                Filter::Shuffle { element_size } => {
                    unshuffle(&scratch.stored, *element_size as usize, &mut scratch.other);
                    std::mem::swap(&mut scratch.stored, &mut scratch.other);
                }
                Filter::Other { id, name } => {
                    let number = if *id == 0 { String::new() } else { format!(" (HDF5 filter {id})") };
                    return Err(self.unsupported(&format!("compressed with {name}{number}")));
                }
            }
        }
        if scratch.stored.len() != nbytes {
            return Err(self
                .damaged(format!("chunk {ordinal} has {} bytes, expected {nbytes}", scratch.stored.len())));
        }
        // The decoded bytes go out, and the caller's old buffer serves for the next chunk.
        std::mem::swap(&mut scratch.stored, out);
        Ok(())
    }

    fn inflate(
        &self,
        ordinal: usize,
        nbytes: usize,
        filter: &Filter,
        scratch: &mut Scratch,
    ) -> Result<(), FormatError> {
        let most = (scratch.stored.len() as u64).saturating_mul(INFLATE_RATIO);
        if nbytes as u64 > most {
            return Err(self.damaged(format!(
                "chunk {ordinal}: {} stored bytes can't hold {nbytes}",
                scratch.stored.len()
            )));
        }
        scratch.other.resize(nbytes, 0);
        let Scratch { inflate, stored, other, .. } = scratch;
        let made = match filter {
            Filter::Gzip { .. } => inflate.gzip_decompress(stored, other),
            _ => inflate.zlib_decompress(stored, other),
        };
        match made {
            Ok(made) if made == nbytes => Ok(()),
            Ok(made) => {
                Err(self.damaged(format!("chunk {ordinal} inflates to {made} bytes, expected {nbytes}")))
            }
            Err(error) => Err(self.damaged(format!("chunk {ordinal} does not inflate: {error}"))),
        }
    }

    /// Checks and drops the checksum at the end of the bytes.
    fn check_fletcher(&self, ordinal: usize, bytes: &mut Vec<u8>) -> Result<(), FormatError> {
        let Some((data, sum)) = bytes.split_last_chunk::<4>() else {
            return Err(self.damaged(format!("chunk {ordinal} is shorter than its checksum")));
        };
        let (sum, made) = (u32::from_le_bytes(*sum), fletcher32(data));
        // Old libraries stored the two bytes of each half in the machine's order; both are accepted, as HDF5 does.
        let swapped = (made & 0x00ff_00ff) << 8 | (made >> 8) & 0x00ff_00ff;
        if sum != made && sum != swapped {
            return Err(self.damaged(format!("chunk {ordinal} does not match its Fletcher-32 checksum")));
        }
        bytes.truncate(bytes.len() - 4);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Dimension;
    use crate::format::read_at::Memory;
    use std::io;

    /// A long file whose byte at any offset is computed, and that counts its reads.
    struct Computed {
        len: u64,
        reads: std::sync::atomic::AtomicUsize,
    }

    impl ReadAt for Computed {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            for (i, byte) in buf.iter_mut().enumerate() {
                *byte = byte_at(offset + i as u64);
            }
            Ok(())
        }

        fn len(&self) -> u64 {
            self.len
        }

        fn name(&self) -> &str {
            "computed"
        }
    }

    fn byte_at(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9e37_79b9) >> 16) as u8
    }

    fn dataset(shape: &[u64], dtype: DType, storage: Storage) -> Dataset {
        let dimension =
            |(i, len): (usize, &u64)| Dimension { name: format!("d{i}"), len: *len, unlimited: false };
        let variable = Variable {
            name: "v".into(),
            dtype,
            big_endian: false,
            dims: (0..shape.len()).collect(),
            attributes: vec![],
            fill: vec![1, 2, 3, 4][..dtype.size().min(4)].to_vec(),
            storage,
        };
        let dimensions = shape.iter().enumerate().map(dimension).collect();
        Dataset { dimensions, variables: vec![variable], ..Dataset::default() }
    }

    #[test]
    fn a_box_of_a_contiguous_variable_is_one_read_if_its_runs_are_near_and_swapped_if_big_endian() {
        let shape = [50u64, 40, 3000];
        let source = Computed { len: 100 + 50 * 40 * 3000 * 4, reads: 0.into() };
        let storage = Storage::Contiguous { offset: 100, nbytes: 50 * 40 * 3000 * 4 };
        let mut dataset = dataset(&shape, DType::F32, storage);
        dataset.variables[0].big_endian = true;
        let mut out = vec![];
        for (start, count, reads) in
            [([3, 2, 7], [1, 4, 10], 1), ([0, 0, 5], [50, 1, 2], 50), ([49, 39, 2999], [1, 1, 1], 1)]
        {
            source.reads.store(0, std::sync::atomic::Ordering::Relaxed);
            let variable = &dataset.variables[0];
            read_slab(&source, &dataset, variable, &start, &count, &mut Scratch::default(), &mut out)
                .unwrap();
            let mut wanted = vec![];
            for ordinal in 0..count.iter().product() {
                let at = grid::chunk_index(ordinal, &count);
                let place: Vec<u64> = at.iter().zip(&start).map(|(a, b)| a + b).collect();
                let first = 100 + 4 * grid::chunk_ordinal(&place, &shape);
                wanted.extend((0..4).rev().map(|i| byte_at(first + i)));
            }
            assert_eq!(out, wanted, "{count:?} at {start:?}");
            assert_eq!(source.reads.load(std::sync::atomic::Ordering::Relaxed), reads);
        }
    }

    #[test]
    fn filters_that_a_chunk_skipped_are_not_undone_and_checksums_are_checked() {
        let plain: Vec<u8> = (0..16).collect();
        let mut shuffled = vec![];
        crate::format::bytewise::shuffle(&plain, 4, &mut shuffled);
        let summed = |bytes: &[u8]| [bytes, &fletcher32(bytes).to_le_bytes()].concat();
        let mut bytes = summed(&shuffled);
        bytes.extend(summed(&plain));
        let stored = |offset, filter_mask| Some(ChunkRef { offset, nbytes: 20, filter_mask });
        let storage = Storage::Chunked {
            chunk: vec![4],
            filters: vec![Filter::Shuffle { element_size: 4 }, Filter::Fletcher32],
            chunks: vec![stored(0, 0), stored(20, 1), None, stored(30, 0)],
        };
        let dataset = dataset(&[16], DType::I32, storage);
        let source = Memory::new("m", bytes);
        let (mut scratch, mut out) = (Scratch::default(), vec![]);
        let mut read = |source: &Memory, ordinal| {
            read_chunk(source, &dataset.variables[0], ordinal, &mut scratch, &mut out)
                .map(|found| (found, out.clone()))
        };
        assert_eq!(read(&source, 0).unwrap(), (true, plain.clone()));
        assert_eq!(read(&source, 1).unwrap(), (true, plain));
        assert_eq!(read(&source, 2).unwrap(), (false, [1, 2, 3, 4].repeat(4)));
        assert!(read(&source, 3).unwrap_err().to_string().ends_with("are beyond the file's end"));
        assert!(read(&source, 4).unwrap_err().to_string().ends_with("there is no chunk 4 of 4"));
        let mut damaged = source;
        damaged.bytes[3] ^= 4;
        let error = read(&damaged, 0).unwrap_err().to_string();
        assert_eq!(
            error,
            "m: damaged or cut short: variable v: chunk 0 does not match its Fletcher-32 checksum"
        );
    }

    #[test]
    fn char_rows_are_texts_and_what_was_never_written_is_fill() {
        let chars = dataset(&[2, 4], DType::Char, Storage::Compact(b"ab\0zcd  ".to_vec()));
        let source = Memory::new("m", vec![]);
        assert_eq!(read_strings(&source, &chars, &chars.variables[0]).unwrap(), ["ab", "cd"]);
        let empty = dataset(&[3], DType::F32, Storage::Empty);
        assert_eq!(read_all(&source, &empty, &empty.variables[0]).unwrap(), [1, 2, 3, 4].repeat(3));
        let error = read_strings(&source, &empty, &empty.variables[0]).unwrap_err().to_string();
        assert_eq!(error, "m: not supported: variable v: it is not text");
        let huge = dataset(&[1 << 40], DType::F32, Storage::Empty);
        let error = read_all(&source, &huge, &huge.variables[0]).unwrap_err().to_string();
        assert_eq!(error, "m: not supported: variable v: it is too large to be read whole");
    }
}
