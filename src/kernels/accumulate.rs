//! Reductions: what is kept for each output cell while values stream by, how two such states are merged, and what
//! they come to. All in f64; missing values (NaN) don't count.
//!
//! Moments are summed as differences from the first value that a cell saw, which can't cancel badly: that value is
//! one of the sample, so the sum of squares about it is at most n + 1 times that about the mean. Windows of
//! `WINDOW_ROWS` values are folded into (n, mean, M2) by Chan, Golub and LeVeque's formula ("Updating formulae
//! and a pairwise algorithm for computing sample variances", 1979), as are the states of partial tasks.

use super::program::Slice;
use serde::{Deserialize, Serialize};

/// Values of a cell between two foldings: bounds the cancellation above to 4096 * 4096 * 1e-16 of the variance.
const WINDOW_ROWS: usize = 4096;

/// What is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Kept {
    /// Number and sum of the values.
    Sum,
    /// Number, mean and sum of squared differences from the mean.
    Moments,
    Min,
    Max,
}

/// What a state comes to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Reduction {
    Mean,
    Sum,
    Min,
    Max,
    Var { ddof: u32 },
    Std { ddof: u32 },
    Count,
}

impl Reduction {
    pub fn kept(self) -> Kept {
        match self {
            Reduction::Mean | Reduction::Sum | Reduction::Count => Kept::Sum,
            Reduction::Var { .. } | Reduction::Std { .. } => Kept::Moments,
            Reduction::Min => Kept::Min,
            Reduction::Max => Kept::Max,
        }
    }
}

impl Kept {
    /// Arrays of f64 that a state is made of when it travels.
    pub fn columns(self) -> usize {
        match self {
            Kept::Sum => 2,
            Kept::Moments => 3,
            Kept::Min | Kept::Max => 1,
        }
    }
}

/// The states of all cells of a tile, a column for each part.
#[derive(Clone, PartialEq, Debug)]
pub struct Accumulator {
    kept: Kept,
    /// Sum: n, sum. Moments: n, mean, M2. Min, Max: the value, missing as long as there is none.
    columns: Vec<Vec<f64>>,
    /// Moments since the last folding: n, first value, sum of differences, sum of their squares.
    window: Vec<Vec<f64>>,
    window_rows: usize,
}

impl Accumulator {
    pub fn new(kept: Kept, cells: usize) -> Accumulator {
        let start = if matches!(kept, Kept::Min | Kept::Max) { f64::NAN } else { 0.0 };
        let window = if kept == Kept::Moments { 4 } else { 0 };
        Accumulator {
            kept,
            columns: vec![vec![start; cells]; kept.columns()],
            window: vec![vec![0.0; cells]; window],
            window_rows: 0,
        }
    }

    /// To be called before up to `rows` values are added to each cell.
    pub fn expect_rows(&mut self, rows: usize) {
        if self.kept == Kept::Moments && self.window_rows + rows > WINDOW_ROWS {
            self.fold();
        }
        self.window_rows += rows;
    }

    /// Adds one value to each of the cells from `first`.
    pub fn add_row(&mut self, first: usize, values: Slice<'_>) {
        match values {
            Slice::F32(values) => self.add_row_of(first, values),
            Slice::F64(values) => self.add_row_of(first, values),
        }
    }

    fn add_row_of<T: Copy + Into<f64>>(&mut self, first: usize, values: &[T]) {
        let cells = first..first + values.len();
        match self.kept {
            Kept::Sum => {
                let [n, sum] = &mut self.columns[..] else { return };
                for ((n, sum), x) in n[cells.clone()].iter_mut().zip(&mut sum[cells]).zip(values) {
                    let x: f64 = (*x).into();
                    *sum += if x.is_nan() { 0.0 } else { x };
                    *n += if x.is_nan() { 0.0 } else { 1.0 };
                }
            }
            Kept::Moments => {
                let [n, origin, sum, squares] = &mut self.window[..] else { return };
                let (n, origin) = (&mut n[cells.clone()], &mut origin[cells.clone()]);
                let (sum, squares) = (&mut sum[cells.clone()], &mut squares[cells]);
                for ((((n, origin), sum), squares), x) in
                    n.iter_mut().zip(origin).zip(sum).zip(squares).zip(values)
                {
                    let x: f64 = (*x).into();
                    let from = if *n == 0.0 { x } else { *origin };
                    let difference = if x.is_nan() { 0.0 } else { x - from };
                    *origin = from;
                    *sum += difference;
                    *squares += difference * difference;
                    *n += if x.is_nan() { 0.0 } else { 1.0 };
                }
            }
            Kept::Min => {
                for (best, x) in self.columns[0][cells].iter_mut().zip(values) {
                    *best = lesser(*best, (*x).into());
                }
            }
            Kept::Max => {
                for (best, x) in self.columns[0][cells].iter_mut().zip(values) {
                    *best = -lesser(-*best, -(*x).into());
                }
            }
        }
    }

    /// Adds all of `values` to one cell.
    pub fn add_run(&mut self, cell: usize, values: Slice<'_>) {
        match values {
            Slice::F32(values) => self.add_run_of(cell, values),
            Slice::F64(values) => self.add_run_of(cell, values),
        }
    }

    fn add_run_of<T: Copy + Into<f64>>(&mut self, cell: usize, values: &[T]) {
        match self.kept {
            Kept::Sum => {
                let [n, sum, _] = sums(values, 0.0);
                self.columns[0][cell] += n;
                self.columns[1][cell] += sum;
            }
            Kept::Moments => {
                let known = values.iter().map(|x| (*x).into()).find(|x: &f64| !x.is_nan());
                let Some(origin) = known else { return };
                let [n, sum, squares] = sums(values, origin);
                self.merge_cell(cell, about_mean(n, origin, sum, squares));
            }
            Kept::Min => {
                let best = &mut self.columns[0][cell];
                *best = values.iter().fold(*best, |best, x| lesser(best, (*x).into()));
            }
            Kept::Max => {
                let best = &mut self.columns[0][cell];
                *best = values.iter().fold(*best, |best, x| -lesser(-best, -(*x).into()));
            }
        }
    }

    /// Ends the window: its moments become part of the whole ones.
    fn fold(&mut self) {
        let window = std::mem::take(&mut self.window);
        if let [n, origin, sum, squares] = &window[..] {
            for cell in 0..n.len() {
                if n[cell] > 0.0 {
                    self.merge_cell(cell, about_mean(n[cell], origin[cell], sum[cell], squares[cell]));
                }
            }
        }
        self.window = window;
        self.window.iter_mut().for_each(|column| column.fill(0.0));
        self.window_rows = 0;
    }

    fn merge_cell(&mut self, cell: usize, other: [f64; 3]) {
        let [n, mean, m2] = &mut self.columns[..] else { return };
        let merged = merge_moments([n[cell], mean[cell], m2[cell]], other);
        [n[cell], mean[cell], m2[cell]] = merged;
    }

    /// Adds what another accumulator has seen, in its own right: a later part of the same cells.
    pub fn merge(&mut self, other: &[Vec<f64>]) {
        for (cell, first) in other[0].iter().enumerate() {
            match self.kept {
                Kept::Sum => {
                    self.columns[0][cell] += first;
                    self.columns[1][cell] += other[1][cell];
                }
                Kept::Moments => self.merge_cell(cell, [*first, other[1][cell], other[2][cell]]),
                Kept::Min => self.columns[0][cell] = lesser(self.columns[0][cell], *first),
                Kept::Max => self.columns[0][cell] = -lesser(-self.columns[0][cell], -first),
            }
        }
    }

    /// The state as it travels: [`Kept::columns`] arrays.
    pub fn columns(&mut self) -> &[Vec<f64>] {
        self.fold();
        &self.columns
    }

    /// What the state comes to. As in xarray, the sum of nothing is 0, and the variance of no more than `ddof`
    /// values is missing.
    pub fn finish(&mut self, reduction: Reduction) -> Vec<f64> {
        self.fold();
        let column = |k: usize| &self.columns[k];
        let spread = |ddof: u32| {
            let pairs = column(0).iter().zip(&self.columns[2]);
            let divided = move |(n, m2): (&f64, &f64)| {
                let left = n - f64::from(ddof);
                if left > 0.0 { m2 / left } else { f64::NAN }
            };
            pairs.map(divided)
        };
        match reduction {
            Reduction::Mean => column(1).iter().zip(column(0)).map(|(sum, n)| sum / n).collect(),
            Reduction::Sum => column(1).clone(),
            Reduction::Count | Reduction::Min | Reduction::Max => column(0).clone(),
            Reduction::Var { ddof } => spread(ddof).collect(),
            Reduction::Std { ddof } => spread(ddof).map(f64::sqrt).collect(),
        }
    }
}

/// The smaller of two, or the one that isn't missing.
#[inline(always)]
fn lesser(best: f64, x: f64) -> f64 {
    // The comparison is false for a missing x, and so keeps `best`.
    if x < best || best.is_nan() { x } else { best }
}

/// Number, sum and sum of squares of the differences from `origin`, in eight lanes that are added in a fixed order.
fn sums<T: Copy + Into<f64>>(values: &[T], origin: f64) -> [f64; 3] {
    const LANES: usize = 8;
    let (mut n, mut sum, mut squares) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    let mut add = |lane: usize, x: T| {
        let x: f64 = x.into();
        let difference = if x.is_nan() { 0.0 } else { x - origin };
        n[lane] += if x.is_nan() { 0.0 } else { 1.0 };
        sum[lane] += difference;
        squares[lane] += difference * difference;
    };
    let (eights, rest) = values.as_chunks::<LANES>();
    for eight in eights {
        (0..LANES).for_each(|lane| add(lane, eight[lane]));
    }
    rest.iter().enumerate().for_each(|(lane, x)| add(lane, *x));
    [n.iter().sum(), sum.iter().sum(), squares.iter().sum()]
}

/// (n, mean, M2) of n values whose differences from `origin` have these sums.
fn about_mean(n: f64, origin: f64, sum: f64, squares: f64) -> [f64; 3] {
    let m2 = squares - sum * sum / n;
    // Rounding may leave a little below zero; NaN (of infinite values) stays.
    [n, origin + sum / n, if m2 < 0.0 { 0.0 } else { m2 }]
}

/// Chan's merge: n = na + nb, mean = ma + d nb/n, M2 = M2a + M2b + d d na nb/n, with d = mb - ma.
fn merge_moments([na, ma, sa]: [f64; 3], [nb, mb, sb]: [f64; 3]) -> [f64; 3] {
    if na == 0.0 {
        return [nb, mb, sb];
    }
    if nb == 0.0 {
        return [na, ma, sa];
    }
    let (n, d) = (na + nb, mb - ma);
    [n, ma + d * (nb / n), sa + sb + d * d * (na * nb / n)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The naive two-pass truth: (n, mean, M2).
    fn truth(values: &[f64]) -> [f64; 3] {
        let known: Vec<f64> = values.iter().copied().filter(|x| !x.is_nan()).collect();
        let n = known.len() as f64;
        let mean = known.iter().sum::<f64>() / n;
        [n, mean, known.iter().map(|x| (x - mean) * (x - mean)).sum()]
    }

    fn near(a: f64, b: f64) -> bool {
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-9)
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![8 => -50.0..350.0, 1 => Just(f64::NAN), 1 => 1e4..1e5]
    }

    proptest! {
        #[test]
        fn parts_merged_in_any_cut_have_the_moments_of_the_whole(
            values in prop::collection::vec(value(), 1..200), cuts in prop::collection::vec(0usize..200, 0..6)
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(values.len())).collect();
            cuts.extend([0, values.len()]);
            cuts.sort_unstable();
            let mut whole = Accumulator::new(Kept::Moments, 1);
            for (k, pair) in cuts.windows(2).enumerate() {
                let mut part = Accumulator::new(Kept::Moments, 1);
                let values = &values[pair[0]..pair[1]];
                if k % 2 == 0 {
                    part.add_run(0, Slice::F64(values));
                } else {
                    part.expect_rows(values.len());
                    values.iter().for_each(|x| part.add_row(0, Slice::F64(&[*x])));
                }
                whole.merge(part.columns());
            }
            let [n, mean, m2] = truth(&values);
            let columns = whole.columns();
            prop_assert_eq!(columns[0][0], n);
            if n > 0.0 {
                prop_assert!(near(columns[1][0], mean), "{} {}", columns[1][0], mean);
                prop_assert!(near(columns[2][0], m2), "{} {}", columns[2][0], m2);
            }
        }

        #[test]
        fn rows_and_runs_agree_with_two_passes(values in prop::collection::vec(value(), 0..60), ddof in 0u32..2) {
            for reduction in [
                Reduction::Mean, Reduction::Sum, Reduction::Min, Reduction::Max, Reduction::Count,
                Reduction::Var { ddof }, Reduction::Std { ddof },
            ] {
                let (mut rows, mut run) = (
                    Accumulator::new(reduction.kept(), 1), Accumulator::new(reduction.kept(), 1),
                );
                rows.expect_rows(values.len());
                values.iter().for_each(|x| rows.add_row(0, Slice::F64(&[*x])));
                run.add_run(0, Slice::F64(&values));
                let [n, mean, m2] = truth(&values);
                let known = || values.iter().copied().filter(|x| !x.is_nan());
                let var = if n > f64::from(ddof) { m2 / (n - f64::from(ddof)) } else { f64::NAN };
                let expected = match reduction {
                    Reduction::Mean => mean,
                    Reduction::Sum => known().sum(),
                    Reduction::Count => n,
                    Reduction::Min => known().fold(f64::NAN, f64::min),
                    Reduction::Max => known().fold(f64::NAN, f64::max),
                    Reduction::Var { .. } => var,
                    Reduction::Std { .. } => var.sqrt(),
                };
                for made in [rows.finish(reduction)[0], run.finish(reduction)[0]] {
                    prop_assert!(near(made, expected), "{reduction:?}: {made}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn a_large_mean_and_a_first_value_far_off_lose_no_digits() {
        let mut values: Vec<f64> = (0..20_000).map(|i| 1e7 + f64::from(i % 7)).collect();
        values[0] = 0.0;
        let mut accumulator = Accumulator::new(Kept::Moments, 1);
        for x in &values {
            accumulator.expect_rows(1);
            accumulator.add_row(0, Slice::F64(&[*x]));
        }
        let variance = accumulator.finish(Reduction::Var { ddof: 1 })[0];
        let expected = truth(&values)[2] / 19_999.0;
        assert!((variance / expected - 1.0).abs() < 1e-9, "{variance} {expected}");
    }
}
