//! Loops over boxes: which cells of each operand a run of cells reads. Dimensions that all operands run through in
//! one go are joined, so that pieces are long, and kept dimensions stand outside reduced ones, so that what is kept
//! for a piece of cells stays in the cache while the reduced dimensions stream by.

use super::program::PIECE_CELLS;

/// How one array follows the cells of a box.
#[derive(Clone, Debug)]
pub struct Follower {
    /// Elements from one index to the next along each dimension of the box; 0 where the array doesn't have it.
    pub steps: Vec<usize>,
}

impl Follower {
    /// A C-ordered array over those dimensions (positions in the box, in the array's own order) of the box.
    pub fn dense(extent: &[usize], dims: &[usize]) -> Follower {
        let mut steps = vec![0; extent.len()];
        let mut step = 1;
        for dim in dims.iter().rev() {
            steps[*dim] = step;
            step *= extent[*dim];
        }
        Follower { steps }
    }
}

/// One dimension of the loop: its length, and each follower's step.
#[derive(Clone, PartialEq, Debug)]
struct Loop {
    len: usize,
    steps: Vec<usize>,
}

/// A box cut into pieces. The last follower is the one that is written: where its step is 0, cells are reduced.
#[derive(Debug)]
pub struct Nest {
    kept: Vec<Loop>,
    reduced: Vec<Loop>,
    run: Loop,
}

/// A piece: `count` cells; each follower's first element.
pub struct Piece<'a> {
    pub count: usize,
    pub first: &'a [usize],
}

impl Nest {
    /// The loops over a box of `extent` cells.
    pub fn new(extent: &[usize], followers: &[Follower]) -> Nest {
        let mut loops: Vec<Loop> = Vec::new();
        for (dim, len) in extent.iter().enumerate().filter(|(_, len)| **len != 1) {
            let inner = Loop { len: *len, steps: followers.iter().map(|f| f.steps[dim]).collect() };
            match loops.last_mut() {
                // The outer one takes up where the inner one ends, for every follower.
                Some(outer) if outer.steps.iter().zip(&inner.steps).all(|(o, i)| *o == i * inner.len) => {
                    *outer = Loop { len: outer.len * inner.len, steps: inner.steps };
                }
                _ => loops.push(inner),
            }
        }
        let one = || Loop { len: 1, steps: vec![0; followers.len()] };
        let run = loops.pop().unwrap_or_else(one);
        let written = |l: &Loop| l.steps.last().is_some_and(|step| *step > 0);
        let (kept, reduced) = loops.into_iter().partition(written);
        Nest { kept, reduced, run }
    }

    /// Elements from one cell of a piece to the next, for each follower.
    pub fn steps(&self) -> &[usize] {
        &self.run.steps
    }

    /// Whether the cells of a piece all go to one cell of the written follower.
    pub fn reduces_runs(&self) -> bool {
        self.run.len > 1 && self.run.steps.last() == Some(&0)
    }

    /// Values that each written cell gets.
    pub fn rows(&self) -> usize {
        self.reduced.iter().map(|l| l.len).product::<usize>()
    }

    /// Calls `visit` for every piece, always in the same order.
    pub fn for_each(&self, mut visit: impl FnMut(Piece<'_>)) {
        let start = vec![0; self.run.steps.len()];
        each(&self.kept, start, &mut |outer| {
            if self.reduces_runs() {
                each(&self.reduced, outer.to_vec(), &mut |at| self.pieces(at, &mut visit));
            } else {
                self.pieces(outer, &mut |piece: Piece<'_>| {
                    let count = piece.count;
                    each(&self.reduced, piece.first.to_vec(), &mut |at| visit(Piece { count, first: at }));
                });
            }
        });
    }

    /// The run from `at`, piece by piece.
    fn pieces(&self, at: &[usize], visit: &mut impl FnMut(Piece<'_>)) {
        let mut first = at.to_vec();
        let mut left = self.run.len;
        while left > 0 {
            let count = left.min(PIECE_CELLS);
            visit(Piece { count, first: &first });
            first.iter_mut().zip(&self.run.steps).for_each(|(first, step)| *first += step * count);
            left -= count;
        }
    }
}

/// Calls `visit` with the followers' places for every index of the loops, the last one fastest.
fn each(loops: &[Loop], mut at: Vec<usize>, visit: &mut impl FnMut(&[usize])) {
    if loops.iter().any(|l| l.len == 0) {
        return;
    }
    let mut index = vec![0; loops.len()];
    loop {
        visit(&at);
        let mut dim = loops.len();
        loop {
            if dim == 0 {
                return;
            }
            dim -= 1;
            let Loop { len, steps } = &loops[dim];
            index[dim] += 1;
            if index[dim] < *len {
                at.iter_mut().zip(steps).for_each(|(at, step)| *at += step);
                break;
            }
            at.iter_mut().zip(steps).for_each(|(at, step)| *at -= step * (len - 1));
            index[dim] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For each cell of the written array, the elements of the first follower that reach it, in order.
    fn visited(extent: &[usize], followers: &[Follower]) -> Vec<Vec<usize>> {
        let nest = Nest::new(extent, followers);
        let mut cells: Vec<Vec<usize>> = Vec::new();
        nest.for_each(|piece| {
            for i in 0..piece.count {
                let written = piece.first.last().unwrap() + i * nest.steps().last().unwrap();
                cells.resize(cells.len().max(written + 1), Vec::new());
                cells[written].push(piece.first[0] + i * nest.steps()[0]);
            }
        });
        cells
    }

    #[test]
    fn every_cell_is_visited_once_and_goes_where_it_belongs() {
        let extent = [3, 4, 5];
        let all = |dims: &[usize]| Follower::dense(&extent, dims);
        assert_eq!(
            visited(&extent, &[all(&[0, 1, 2]), all(&[0, 1, 2])]),
            (0..60).map(|i| vec![i]).collect::<Vec<_>>()
        );
        // Reduced over the first, the middle, and the last dimension.
        for (kept, other) in [([1, 2], 0), ([0, 2], 1), ([0, 1], 2)] {
            let cells = visited(&extent, &[all(&[0, 1, 2]), all(&kept)]);
            let steps = [20, 5, 1];
            for (number, elements) in cells.iter().enumerate() {
                let inner = extent[kept[1]];
                let start = number / inner * steps[kept[0]] + number % inner * steps[kept[1]];
                let expected: Vec<usize> = (0..extent[other]).map(|i| start + i * steps[other]).collect();
                assert_eq!(*elements, expected);
            }
        }
        // Everything to one cell, and a transposed array.
        assert_eq!(visited(&extent, &[all(&[0, 1, 2]), all(&[])]), [(0..60).collect::<Vec<_>>()]);
        let turned = visited(&[2, 3], &[Follower { steps: vec![1, 2] }, Follower { steps: vec![3, 1] }]);
        assert_eq!(turned, [[0], [2], [4], [1], [3], [5]].map(|x| x.to_vec()));
    }

    #[test]
    fn dimensions_that_run_on_are_joined_and_long_runs_cut() {
        let extent = [24, 50, 60];
        let (full, kept) = (Follower::dense(&extent, &[0, 1, 2]), Follower::dense(&extent, &[1, 2]));
        let nest = Nest::new(&extent, &[full, kept]);
        assert_eq!((nest.kept.len(), nest.reduced.len(), nest.run.len), (0, 1, 3000));
        let mut counts = Vec::new();
        nest.for_each(|piece| counts.push(piece.count));
        assert_eq!(counts.len(), 24 * 3);
        assert_eq!((counts[0], counts[71]), (1024, 3000 - 2048));
    }

    #[test]
    fn an_empty_box_has_no_pieces_and_a_scalar_has_one() {
        let follower = |extent: &[usize]| Follower::dense(extent, &(0..extent.len()).collect::<Vec<_>>());
        for (extent, pieces) in [(vec![], 1), (vec![1, 1], 1), (vec![0, 5], 0), (vec![5, 0], 0)] {
            let mut seen = 0;
            Nest::new(&extent, &[follower(&extent)]).for_each(|_| seen += 1);
            assert_eq!(seen, pieces, "{extent:?}");
        }
    }
}
