//! Loops over the bytes of a chunk: shuffle, Fletcher-32 and byte order. They run once for every byte that is read
//! or written, so each is written for the compiler to vectorise.

/// Groups the bytes of all elements by their place in the element: first all first bytes, and so on. What is left
/// over at the end stays as it is.
pub(super) fn shuffle(plain: &[u8], element_size: usize, out: &mut Vec<u8>) {
    let count = plain.len() / element_size.max(1);
    out.clear();
    if element_size < 2 || count < 2 {
        out.extend_from_slice(plain);
        return;
    }
    out.resize(plain.len(), 0);
    for (place, plane) in out.chunks_exact_mut(count).take(element_size).enumerate() {
        match element_size {
            2 => gather::<2>(plain, place, plane),
            4 => gather::<4>(plain, place, plane),
            8 => gather::<8>(plain, place, plane),
            _ => {
                for (byte, element) in plane.iter_mut().zip(plain.chunks_exact(element_size)) {
                    *byte = element[place];
                }
            }
        }
    }
    let rest = count * element_size;
    out[rest..].copy_from_slice(&plain[rest..]);
}

fn gather<const N: usize>(plain: &[u8], place: usize, plane: &mut [u8]) {
    let (elements, _) = plain.as_chunks::<N>();
    for (byte, element) in plane.iter_mut().zip(elements) {
        *byte = element[place];
    }
}

/// Undoes [`shuffle`].
pub(super) fn unshuffle(shuffled: &[u8], element_size: usize, out: &mut Vec<u8>) {
    let count = shuffled.len() / element_size.max(1);
    if element_size < 2 || count < 2 {
        out.clear();
        out.extend_from_slice(shuffled);
        return;
    }
    out.resize(shuffled.len(), 0);
    let (planes, rest) = shuffled.split_at(count * element_size);
    match element_size {
        2 => interleave_2(planes, count, out),
        4 => interleave_4(planes, count, out),
        8 => interleave_8(planes, count, out),
        _ => {
            for (place, plane) in planes.chunks_exact(count).enumerate() {
                for (element, byte) in out.chunks_exact_mut(element_size).zip(plane) {
                    element[place] = *byte;
                }
            }
        }
    }
    out[count * element_size..].copy_from_slice(rest);
}

fn interleave_2(planes: &[u8], count: usize, out: &mut [u8]) {
    let (a, b) = planes.split_at(count);
    for ((element, a), b) in out.as_chunks_mut::<2>().0.iter_mut().zip(a).zip(b) {
        *element = [*a, *b];
    }
}

/// Elements that are interleaved at a time: the halves stay in the first cache and in vector registers.
const BLOCK: usize = 64;

fn interleave_4(planes: &[u8], count: usize, out: &mut [u8]) {
    let (low, high) = planes.split_at(2 * count);
    let ((a, b), (c, d)) = (low.split_at(count), high.split_at(count));
    let mut elements = out.as_chunks_mut::<4>().0.chunks_mut(BLOCK);
    for (((a, b), c), d) in a.chunks(BLOCK).zip(b.chunks(BLOCK)).zip(c.chunks(BLOCK)).zip(d.chunks(BLOCK)) {
        let (low, high) = (pairs(a, b), pairs(c, d));
        let Some(block) = elements.next() else { return };
        for ((element, low), high) in block.iter_mut().zip(&low).zip(&high) {
            *element = (u32::from(*low) | u32::from(*high) << 16).to_le_bytes();
        }
    }
}

fn interleave_8(planes: &[u8], count: usize, out: &mut [u8]) {
    let plane = |k: usize, at: usize, n: usize| &planes[k * count + at..][..n];
    for (number, block) in out.as_chunks_mut::<8>().0[..count].chunks_mut(BLOCK).enumerate() {
        let (at, n) = (number * BLOCK, block.len());
        let quads = |k: usize| {
            let low = pairs(plane(k, at, n), plane(k + 1, at, n));
            let high = pairs(plane(k + 2, at, n), plane(k + 3, at, n));
            let mut quads = [0u32; BLOCK];
            for ((quad, low), high) in quads.iter_mut().zip(&low).zip(&high) {
                *quad = u32::from(*low) | u32::from(*high) << 16;
            }
            quads
        };
        let (low, high) = (quads(0), quads(4));
        for ((element, low), high) in block.iter_mut().zip(&low).zip(&high) {
            *element = (u64::from(*low) | u64::from(*high) << 32).to_le_bytes();
        }
    }
}

/// Bytes of two planes side by side; what is beyond their length is zero.
fn pairs(a: &[u8], b: &[u8]) -> [u16; BLOCK] {
    let mut pairs = [0u16; BLOCK];
    for ((pair, a), b) in pairs.iter_mut().zip(a).zip(b) {
        *pair = u16::from_le_bytes([*a, *b]);
    }
    pairs
}

/// Reverses the bytes of each element in place.
pub(super) fn swap_bytes(bytes: &mut [u8], element_size: usize) {
    match element_size {
        0 | 1 => {}
        2 => bytes.as_chunks_mut::<2>().0.iter_mut().for_each(|e| e.reverse()),
        4 => bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|e| e.reverse()),
        8 => bytes.as_chunks_mut::<8>().0.iter_mut().for_each(|e| e.reverse()),
        _ => bytes.chunks_exact_mut(element_size).for_each(<[u8]>::reverse),
    }
}

/// HDF5's Fletcher-32: over big-endian 16-bit words, sums modulo 65535 kept in 1..=65535 once they are not zero.
pub(super) fn fletcher32(bytes: &[u8]) -> u32 {
    let (mut low, mut high) = (0u32, 0u32);
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    let (words, rest) = bytes.as_chunks::<2>();
    // After 360 words the second sum may no longer fit in 32 bits.
    for block in words.chunks(360) {
        for word in block {
            low += u32::from(u16::from_be_bytes(*word));
            high += low;
        }
        (low, high) = (fold(low), fold(high));
    }
    if let [last] = rest {
        low += u32::from(*last) << 8;
        high += low;
        (low, high) = (fold(low), fold(high));
    }
    (low, high) = (fold(low), fold(high));
    high << 16 | low
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unshuffle_undoes_shuffle(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            element_size in 1usize..13,
        ) {
            let (mut shuffled, mut back) = (vec![7; 5], vec![7; 5]);
            shuffle(&bytes, element_size, &mut shuffled);
            unshuffle(&shuffled, element_size, &mut back);
            prop_assert_eq!(back, bytes);
        }

        #[test]
        fn shuffle_puts_byte_p_of_element_i_at_p_times_n_plus_i(
            bytes in prop::collection::vec(any::<u8>(), 2..600),
            element_size in prop::sample::select(vec![2usize, 3, 4, 8]),
        ) {
            let mut shuffled = vec![];
            shuffle(&bytes, element_size, &mut shuffled);
            let count = bytes.len() / element_size;
            for (at, byte) in bytes[..count * element_size].iter().enumerate() {
                prop_assert_eq!(shuffled[at % element_size * count + at / element_size], *byte);
            }
        }

        #[test]
        fn fletcher_sums_equal_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
            let mut padded = bytes.clone();
            if padded.len() % 2 == 1 {
                padded.push(0);
            }
            let (mut low, mut high) = (0u64, 0u64);
            for word in padded.chunks(2) {
                low += u64::from(word[0]) << 8 | u64::from(word[1]);
                high += low;
            }
            // Folding keeps a nonzero multiple of 65535 at 65535.
            let modulo = |sum: u64| if sum == 0 { 0 } else { (sum - 1) % 65535 + 1 };
            prop_assert_eq!(u64::from(fletcher32(&bytes)), modulo(high) << 16 | modulo(low));
        }
    }

    #[test]
    fn swapping_reverses_each_element() {
        let mut bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        swap_bytes(&mut bytes, 4);
        assert_eq!(bytes, [4, 3, 2, 1, 8, 7, 6, 5]);
        swap_bytes(&mut bytes, 2);
        assert_eq!(bytes, [3, 4, 1, 2, 7, 8, 5, 6]);
    }
}
