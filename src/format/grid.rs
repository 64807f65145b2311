//! Arithmetic of chunk grids and of boxes in C-ordered arrays. Shapes and starts are in elements.

/// Chunks along each dimension of an array of `shape`; the last one along a dimension may stand over.
pub fn chunk_counts(shape: &[u64], chunk: &[u64]) -> Vec<u64> {
    shape.iter().zip(chunk).map(|(len, step)| len.div_ceil((*step).max(1))).collect()
}

/// Position in the grid of the chunk with that number in C order.
pub fn chunk_index(ordinal: u64, counts: &[u64]) -> Vec<u64> {
    let mut rest = ordinal;
    let mut index = vec![0; counts.len()];
    for (at, count) in index.iter_mut().zip(counts).rev() {
        *at = rest % (*count).max(1);
        rest /= (*count).max(1);
    }
    index
}

/// Number in C order of the chunk at `index`.
pub fn chunk_ordinal(index: &[u64], counts: &[u64]) -> u64 {
    index.iter().zip(counts).fold(0, |ordinal, (at, count)| ordinal * count + at)
}

/// The product, or `None` where it exceeds 64 bits. An empty list is a scalar: 1.
pub fn elements(shape: &[u64]) -> Option<u64> {
    // A zero anywhere makes the product zero, whatever the others are.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1u64, |product, len| product.checked_mul(*len))
}

/// A box of `count` elements that lies at `start` in a C-ordered array of `shape`.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub shape: &'a [u64],
    pub start: &'a [u64],
}

/// Calls `visit(byte in a, byte in b, bytes)` for each longest run of the box that is contiguous in both arrays, in
/// order. Both places must contain the box: callers check that.
pub fn for_each_run(
    count: &[u64],
    a: Place<'_>,
    b: Place<'_>,
    element_size: usize,
    mut visit: impl FnMut(usize, usize, usize),
) {
    if count.contains(&0) {
        return;
    }
    let rank = count.len();
    // Dimensions that are covered whole in both arrays belong to the run, and so does the one before them.
    let mut outer = rank;
    while outer > 0 && count[outer - 1] == a.shape[outer - 1] && count[outer - 1] == b.shape[outer - 1] {
        outer -= 1;
    }
    let outer = outer.saturating_sub(1);
    let run = count[outer..].iter().product::<u64>() as usize * element_size;
    let (steps_a, steps_b) = (strides(a.shape, element_size), strides(b.shape, element_size));
    let origin = |start: &[u64], steps: &[usize]| -> usize {
        start.iter().zip(steps).map(|(at, step)| *at as usize * step).sum()
    };
    let (mut at_a, mut at_b) = (origin(a.start, &steps_a), origin(b.start, &steps_b));
    let mut index = vec![0u64; outer];
    loop {
        visit(at_a, at_b, run);
        let mut k = outer;
        loop {
            if k == 0 {
                return;
            }
            k -= 1;
            index[k] += 1;
            at_a += steps_a[k];
            at_b += steps_b[k];
            if index[k] < count[k] {
                break;
            }
            at_a -= steps_a[k] * count[k] as usize;
            at_b -= steps_b[k] * count[k] as usize;
            index[k] = 0;
        }
    }
}

/// Copies a box of `count` elements from one array to another.
pub fn copy_box(count: &[u64], from: (&[u8], Place<'_>), to: (&mut [u8], Place<'_>), element_size: usize) {
    let (source, from) = from;
    let (target, to) = to;
    for_each_run(count, from, to, element_size, |a, b, n| {
        target[b..b + n].copy_from_slice(&source[a..a + n]);
    });
}

/// Fills `bytes` with repeats of `element`; an empty element means zeros.
pub fn fill_with(bytes: &mut [u8], element: &[u8]) {
    if element.iter().all(|byte| *byte == 0) {
        bytes.fill(0);
        return;
    }
    let first = element.len().min(bytes.len());
    bytes[..first].copy_from_slice(&element[..first]);
    let mut done = first;
    while done < bytes.len() {
        let more = done.min(bytes.len() - done);
        bytes.copy_within(..more, done);
        done += more;
    }
}

/// Bytes from one element to the next along each dimension.
fn strides(shape: &[u64], element_size: usize) -> Vec<usize> {
    let mut steps = vec![element_size; shape.len()];
    for k in (1..shape.len()).rev() {
        steps[k - 1] = steps[k] * shape[k] as usize;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinals_and_indexes_are_inverse() {
        let counts = chunk_counts(&[10, 7, 5], &[3, 7, 2]);
        assert_eq!(counts, [4, 1, 3]);
        for ordinal in 0..12 {
            assert_eq!(chunk_ordinal(&chunk_index(ordinal, &counts), &counts), ordinal);
        }
        assert_eq!(chunk_ordinal(&[], &[]), 0);
    }

    #[test]
    fn a_box_covered_whole_is_one_run() {
        let shape = [4, 5, 6];
        let place = Place { shape: &shape, start: &[0, 0, 0] };
        let mut runs = vec![];
        for_each_run(&shape, place, place, 4, |a, b, n| runs.push((a, b, n)));
        assert_eq!(runs, [(0, 0, 480)]);
        let mut scalar = 0;
        let place = Place { shape: &[], start: &[] };
        for_each_run(&[], place, place, 8, |_, _, n| scalar += n);
        assert_eq!(scalar, 8);
    }

    #[test]
    fn fill_repeats_the_element() {
        let mut bytes = [9; 10];
        fill_with(&mut bytes, &[1, 2, 3]);
        assert_eq!(bytes, [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]);
        fill_with(&mut bytes, &[]);
        assert_eq!(bytes, [0; 10]);
    }

    proptest! {
        #[test]
        fn a_copied_box_equals_element_by_element(
            dims in prop::collection::vec((1u64..5, 0u64..3, 0u64..3, 0u64..3, 0u64..3), 0..4),
        ) {
            let count: Vec<u64> = dims.iter().map(|d| d.0).collect();
            let (start_a, start_b): (Vec<u64>, Vec<u64>) = dims.iter().map(|d| (d.1, d.3)).unzip();
            let shape_a: Vec<u64> = dims.iter().map(|d| d.0 + d.1 + d.2).collect();
            let shape_b: Vec<u64> = dims.iter().map(|d| d.0 + d.3 + d.4).collect();
            let total_a = elements(&shape_a).unwrap() as usize;
            let source: Vec<u8> = (0..total_a * 2).map(|i| (i % 255) as u8 + 1).collect();
            let mut target = vec![0; elements(&shape_b).unwrap() as usize * 2];
            let mut wanted = target.clone();
            for ordinal in 0..elements(&count).unwrap() {
                let index = chunk_index(ordinal, &count);
                let at = |start: &[u64], shape: &[u64]| {
                    let moved: Vec<u64> = index.iter().zip(start).map(|(i, s)| i + s).collect();
                    chunk_ordinal(&moved, shape) as usize * 2
                };
                let (a, b) = (at(&start_a, &shape_a), at(&start_b, &shape_b));
                wanted[b..b + 2].copy_from_slice(&source[a..a + 2]);
            }
            copy_box(
                &count,
                (&source, Place { shape: &shape_a, start: &start_a }),
                (&mut target, Place { shape: &shape_b, start: &start_b }),
                2,
            );
            prop_assert_eq!(target, wanted);
        }
    }
}
