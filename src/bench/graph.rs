//! Graphs to measure with, made part by part, so that ten million tasks need no more memory here than a few
//! thousand; with the sum that their results must have.

use super::Kind;
use crate::graph::{Columns, Op, Resources, TaskId};
use crate::kernels::probe;
use std::ops::Range;

/// Most tasks and dependencies of one part.
const PART_TASKS: usize = 50_000;
const PART_DEPS: usize = 200_000;
/// Most tasks side by side in a layered graph.
const MAX_WIDTH: u32 = 1000;
/// Inputs of a task that adds results up.
const FAN_IN: usize = 64;

/// A graph that is being made.
pub struct Stream {
    shape: Shape,
    op: Option<Op>,
    /// Tasks made so far.
    made: u32,
    /// The sum of the results, once all is made.
    sum: u64,
    /// The tasks with the results.
    results: Range<u32>,
}

enum Shape {
    /// So many tasks side by side, still to be made.
    Tasks { left: u32 },
    /// Each task needs the one before it, which had this number.
    Chain { left: u32, last: u64 },
    /// Leaves still to be made, and the trees that are whole, each as high as its height says.
    Tree { leaves: u32, trees: Vec<Tree> },
    /// Layers still to be made, and the last one's numbers.
    Layers { left: u32, width: u32, last: Vec<u64> },
}

struct Tree {
    root: u32,
    height: u32,
    number: u64,
}

impl Stream {
    /// The graph of that kind with about `count` tasks, whose values have `nbytes` bytes.
    pub fn new(kind: Kind, count: u32, nbytes: u64) -> Stream {
        let count = count.max(1);
        let shape = match kind {
            Kind::Chain => Shape::Chain { left: count, last: 0 },
            Kind::Tree => Shape::Tree { leaves: count.div_ceil(2), trees: Vec::new() },
            Kind::Layers => {
                let width = count.isqrt().min(MAX_WIDTH);
                Shape::Layers { left: count.div_ceil(width), width, last: Vec::new() }
            }
            _ => Shape::Tasks { left: count },
        };
        Stream { shape, op: Some(operation(nbytes)), made: 0, sum: 0, results: 0..0 }
    }

    /// Tasks made so far.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// The tasks whose results count, and the sum that they must have. True once all is made.
    pub fn results(&self) -> (Range<u32>, u64) {
        (self.results.clone(), self.sum)
    }

    pub fn is_whole(&self) -> bool {
        match &self.shape {
            Shape::Tasks { left } | Shape::Chain { left, .. } | Shape::Layers { left, .. } => *left == 0,
            Shape::Tree { leaves, trees } => *leaves == 0 && trees.len() <= 1,
        }
    }

    /// The next part. What a later part builds on is wanted, or it might be released before that part comes.
    pub fn part(&mut self) -> Columns {
        let mut part = Columns { ops: self.op.take().into_iter().collect(), ..Columns::default() };
        while !self.is_whole() && part.len() < PART_TASKS {
            self.step(&mut part);
        }
        match &self.shape {
            Shape::Tasks { .. } => part.wanted = (self.made - part.len() as u32..self.made).collect(),
            Shape::Chain { .. } => part.wanted = vec![self.made - 1],
            Shape::Tree { trees, .. } => part.wanted = trees.iter().map(|tree| tree.root).collect(),
            Shape::Layers { width, .. } => part.wanted = (self.made - width..self.made).collect(),
        }
        // Of earlier parts they are wanted already.
        let first = self.made - part.len() as u32;
        part.wanted.retain(|task| *task >= first);
        part
    }

    /// Adds a task, or a layer of them.
    fn step(&mut self, part: &mut Columns) {
        let task = self.made;
        let number = probe::number_of(task);
        match &mut self.shape {
            Shape::Tasks { left } => {
                *left -= 1;
                self.sum = self.sum.wrapping_add(number);
                self.results = 0..task + 1;
                push(part, &probe::args(task), []);
            }
            Shape::Chain { left, last } => {
                *left -= 1;
                *last = last.wrapping_add(number);
                self.sum = *last;
                self.results = task..task + 1;
                push(part, &probe::args(task), task.checked_sub(1));
            }
            Shape::Tree { leaves, trees } => {
                let tree = match trees.as_slice() {
                    [.., a, b] if a.height == b.height || *leaves == 0 => {
                        push(part, &probe::args(task), [a.root, b.root]);
                        let number = number.wrapping_add(a.number).wrapping_add(b.number);
                        let height = a.height.max(b.height) + 1;
                        trees.truncate(trees.len() - 2);
                        Tree { root: task, height, number }
                    }
                    _ => {
                        *leaves -= 1;
                        push(part, &probe::args(task), []);
                        Tree { root: task, height: 0, number }
                    }
                };
                self.sum = tree.number;
                self.results = task..task + 1;
                trees.push(tree);
            }
            Shape::Layers { left, width, last } => {
                *left -= 1;
                *last = layer(part, task, *width, last);
                self.sum = last.iter().copied().fold(0, u64::wrapping_add);
                self.results = task..task + *width;
                self.made += *width - 1;
            }
        }
        self.made += 1;
    }
}

/// Adds a layer, each task of which needs three of the one below it; returns its numbers.
fn layer(part: &mut Columns, first: u32, width: u32, below: &[u64]) -> Vec<u64> {
    let mut numbers = Vec::with_capacity(width as usize);
    for j in 0..width {
        let number = probe::number_of(first + j);
        if below.is_empty() {
            push(part, &probe::args(first + j), []);
            numbers.push(number);
            continue;
        }
        let mut near = vec![(j + width - 1) % width, j, (j + 1) % width];
        near.sort_unstable();
        near.dedup();
        push(part, &probe::args(first + j), near.iter().map(|k| first - width + k));
        numbers.push(near.iter().fold(number, |sum, k| sum.wrapping_add(below[*k as usize])));
    }
    numbers
}

fn operation(nbytes: u64) -> Op {
    let params = probe::params(nbytes.max(probe::MIN_BYTES));
    Op::Kernel { name: probe::SUM.to_owned(), params, resources: Resources::default() }
}

fn push(part: &mut Columns, args: &[u8], deps: impl IntoIterator<Item = u32>) {
    part.op_of.push(0);
    part.args.extend_from_slice(args);
    part.args_end.push(part.args.len() as u32);
    part.deps.extend(deps);
    part.deps_end.push(part.deps.len() as u32);
}

/// A graph of the one task with that key.
pub fn single(key: u32, nbytes: u64) -> Columns {
    let mut part = Columns { ops: vec![operation(nbytes)], wanted: vec![0], ..Columns::default() };
    push(&mut part, &probe::args(key), []);
    part
}

/// A graph of the one task that adds up these results of earlier graphs.
pub fn sum_of(results: impl Iterator<Item = TaskId>) -> Columns {
    let mut part = Columns { ops: vec![operation(probe::MIN_BYTES)], wanted: vec![0], ..Columns::default() };
    part.externals = results.collect();
    let entries = part.externals.len() as u32;
    push(&mut part, b"", (0..entries).map(|entry| u32::MAX - entry));
    part
}

/// A tree that adds up the results of earlier graphs; its last task has the sum.
pub struct Reduction<I> {
    results: I,
    op: Option<Op>,
    /// Entries in the graph's table of outside tasks.
    outside: u32,
    made: u32,
    /// Tasks of each level that no task adds up yet.
    open: Vec<Vec<u32>>,
    ended: bool,
}

impl<I: Iterator<Item = TaskId>> Reduction<I> {
    pub fn new(results: I) -> Reduction<I> {
        let op = Some(operation(probe::MIN_BYTES));
        Reduction { results, op, outside: 0, made: 0, open: Vec::new(), ended: false }
    }

    pub fn is_whole(&self) -> bool {
        self.ended
    }

    /// Index of the last task.
    pub fn root(&self) -> u32 {
        self.made.saturating_sub(1)
    }

    /// The next part. All of it is wanted: what a later part adds up must still be there.
    pub fn part(&mut self) -> Columns {
        let mut part = Columns { ops: self.op.take().into_iter().collect(), ..Columns::default() };
        while !self.ended && part.len() < PART_TASKS && part.deps.len() < PART_DEPS {
            let leaves: Vec<TaskId> = self.results.by_ref().take(FAN_IN).collect();
            if leaves.is_empty() {
                self.close(&mut part);
                break;
            }
            let first = self.outside;
            self.outside += leaves.len() as u32;
            part.externals.extend_from_slice(&leaves);
            let deps: Vec<u32> = (first..self.outside).map(|entry| u32::MAX - entry).collect();
            self.add(&mut part, 0, deps);
        }
        part.wanted = (self.made - part.len() as u32..self.made).collect();
        part
    }

    /// Adds a task of that level, and those above it that are full now.
    fn add(&mut self, part: &mut Columns, mut level: usize, mut deps: Vec<u32>) {
        loop {
            push(part, b"", deps);
            self.made += 1;
            if self.open.len() <= level {
                self.open.push(Vec::new());
            }
            self.open[level].push(self.made - 1);
            if self.open[level].len() < FAN_IN {
                return;
            }
            deps = std::mem::take(&mut self.open[level]);
            level += 1;
        }
    }

    /// Adds up what is left of all levels.
    fn close(&mut self, part: &mut Columns) {
        let mut level = 0;
        while level < self.open.len() {
            let above = self.open[level + 1..].iter().any(|tasks| !tasks.is_empty());
            let tasks = std::mem::take(&mut self.open[level]);
            // A lone task at the top is the sum.
            if tasks.len() > 1 || (above && !tasks.is_empty()) {
                self.add(part, level + 1, tasks);
            }
            level += 1;
        }
        self.ended = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::GraphId;
    use crate::graph::Value;
    use crate::kernels::{Call, lookup};

    /// Runs the parts as they come, and returns all numbers.
    fn computed(parts: &[Columns], outside: impl Fn(TaskId) -> u64) -> Vec<u64> {
        let kernel = lookup(probe::SUM).unwrap();
        let (mut numbers, mut externals): (Vec<u64>, Vec<TaskId>) = (Vec::new(), Vec::new());
        let ops = parts[0].ops.clone();
        for part in parts {
            part.check(numbers.len() as u32, if numbers.is_empty() { 0 } else { 1 }, externals.len() as u32)
                .unwrap();
            externals.extend(&part.externals);
            for i in 0..part.len() {
                let number = |dep: &u32| match numbers.get(*dep as usize) {
                    Some(number) => *number,
                    None => outside(externals[(u32::MAX - dep) as usize]),
                };
                let inputs: Vec<Value> =
                    part.deps(i).iter().map(|dep| Value::bytes(number(dep).to_le_bytes().to_vec())).collect();
                let Op::Kernel { params, .. } = &ops[0] else { panic!("no kernel") };
                let value = kernel(&Call { params, args: part.args(i), inputs: &inputs }).unwrap();
                numbers.push(probe::read(&value).unwrap());
            }
        }
        numbers
    }

    fn parts(stream: &mut Stream) -> Vec<Columns> {
        let mut parts = Vec::new();
        while !stream.is_whole() {
            parts.push(stream.part());
        }
        parts
    }

    #[test]
    fn the_sum_is_that_of_the_computed_results() {
        for kind in [Kind::Tasks, Kind::Chain, Kind::Tree, Kind::Layers] {
            for count in [1, 2, 3, 7, 100, 1001] {
                let mut stream = Stream::new(kind, count, 8);
                let parts = parts(&mut stream);
                let numbers = computed(&parts, |_| panic!("it stands alone"));
                let (results, sum) = stream.results();
                assert_eq!(numbers.len() as u32, stream.made(), "{kind:?} {count}");
                assert!(stream.made().abs_diff(count) <= 32, "{kind:?} {count}: {}", stream.made());
                let added = results.map(|task| numbers[task as usize]).fold(0, u64::wrapping_add);
                assert_eq!(added, sum, "{kind:?} {count}");
            }
        }
    }

    #[test]
    fn a_graph_of_several_parts_keeps_what_later_ones_need() {
        for kind in [Kind::Tasks, Kind::Chain, Kind::Tree, Kind::Layers] {
            let mut stream = Stream::new(kind, 120_001, 8);
            let parts = parts(&mut stream);
            assert!(parts.len() > 2, "{kind:?}");
            let (mut first, mut wanted) = (0, std::collections::BTreeSet::new());
            for part in &parts {
                assert!(part.len() <= PART_TASKS + MAX_WIDTH as usize);
                let earlier = part.deps.iter().filter(|dep| **dep < first);
                assert!(earlier.clone().all(|dep| wanted.contains(dep)), "{kind:?}");
                wanted.extend(part.wanted.iter().copied());
                first += part.len() as u32;
            }
            assert!(stream.results().0.all(|task| wanted.contains(&task)), "{kind:?}");
            assert_eq!(parts.iter().filter(|part| !part.ops.is_empty()).count(), 1);
        }
    }

    #[test]
    fn a_reduction_adds_up_all_results_of_earlier_graphs() {
        for count in [1, 2, 64, 65, 4096, 4097, 300_000] {
            let tasks = (0..count).map(|index| TaskId { graph: GraphId(7), index });
            let mut reduction = Reduction::new(tasks);
            let mut parts = Vec::new();
            while !reduction.is_whole() {
                parts.push(reduction.part());
            }
            let numbers = computed(&parts, |task| probe::number_of(task.index));
            let expected = (0..count).map(probe::number_of).fold(0, u64::wrapping_add);
            assert_eq!(numbers[reduction.root() as usize], expected, "{count}");
            assert_eq!(numbers.len() as u32, reduction.root() + 1);
            assert!(parts.iter().all(|part| part.deps.len() <= PART_DEPS + 4 * FAN_IN));
        }
    }
}
