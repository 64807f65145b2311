//! Chunks on their way to the file: padded to the whole chunk, shuffled, deflated. Pure, for any thread.

use crate::format::DType;
use crate::format::bytewise::shuffle;
use crate::format::grid::{self, Place};
use libdeflater::{CompressionLvl, Compressor};

/// Buffers and a compressor that are used again for every chunk. One for each thread.
#[derive(Default)]
pub struct EncodeScratch {
    shuffled: Vec<u8>,
    compressor: Option<(u32, Compressor)>,
}

impl std::fmt::Debug for EncodeScratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncodeScratch").finish_non_exhaustive()
    }
}

/// The bytes to be stored for one whole chunk of little-endian elements, coded as [`super::VarStorage::Chunked`]
/// says it: pass the same `shuffle` and `level`. Levels are zlib's 0 to 9; higher ones count as 9.
pub fn encode_chunk(
    raw: &[u8],
    dtype: DType,
    shuffled: bool,
    level: Option<u32>,
    scratch: &mut EncodeScratch,
) -> Vec<u8> {
    let EncodeScratch { shuffled: buffer, compressor } = scratch;
    let input = if shuffled && dtype.size() > 1 {
        shuffle(raw, dtype.size(), buffer);
        buffer.as_slice()
    } else {
        raw
    };
    let Some(level) = level.map(|level| level.min(9)) else {
        return input.to_vec();
    };
    if compressor.as_ref().is_none_or(|(made_for, _)| *made_for != level) {
        let lvl = CompressionLvl::new(level as i32).unwrap_or_default();
        *compressor = Some((level, Compressor::new(lvl)));
    }
    let Some((_, compressor)) = compressor else {
        return input.to_vec();
    };
    let mut out = vec![0; compressor.zlib_compress_bound(input.len())];
    // The bound is libdeflate's promise that the output fits.
    let made = compressor.zlib_compress(input, &mut out).expect("the output has the compressor's own bound");
    out.truncate(made);
    out.shrink_to_fit();
    out
}

/// Widens a box of `shape` to the whole `chunk` (both in elements, `shape` not larger), the rest filled with `fill`
/// (one element). Edge chunks are stored whole.
pub fn pad_chunk(data: &[u8], shape: &[u64], chunk: &[u64], fill: &[u8], element_size: usize) -> Vec<u8> {
    let total = grid::elements(chunk).unwrap_or(0) as usize * element_size;
    let mut out = vec![0; total];
    grid::fill_with(&mut out, fill);
    let origin = vec![0; chunk.len()];
    grid::copy_box(
        shape,
        (data, Place { shape, start: &origin }),
        (&mut out, Place { shape: chunk, start: &origin }),
        element_size,
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_chunk_gives_the_same_bytes_whatever_was_encoded_before() {
        let raw: Vec<u8> = (0..4000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        let first = encode_chunk(&raw, DType::F32, true, Some(4), &mut EncodeScratch::default());
        let mut used = EncodeScratch::default();
        encode_chunk(&raw[..100], DType::I16, true, Some(1), &mut used);
        encode_chunk(&raw[..1000], DType::F64, true, Some(4), &mut used);
        assert_eq!(encode_chunk(&raw, DType::F32, true, Some(4), &mut used), first);
        assert!(first.len() < raw.len() / 4);
        let mut back = vec![0; raw.len()];
        libdeflater::Decompressor::new().zlib_decompress(&first, &mut back).unwrap();
        let mut plain = vec![];
        crate::format::bytewise::unshuffle(&back, 4, &mut plain);
        assert_eq!(plain, raw);
    }

    #[test]
    fn an_edge_chunk_is_padded_with_fill() {
        let padded = pad_chunk(&[1, 2, 3, 4], &[2, 2], &[3, 3], &[9], 1);
        assert_eq!(padded, [1, 2, 9, 3, 4, 9, 9, 9, 9]);
    }
}
