//! A graph as columns: it travels, is journalled and is held as a few arrays, never as a struct per task.

use super::{Op, TaskId};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Most tasks of one graph: indexes are `u32`, and an edge index must fit too.
pub const MAX_TASKS: u32 = 100_000_000;
/// Most argument bytes of one graph (they are resident in the scheduler).
pub const MAX_ARGS_BYTES: usize = 3 << 30;

/// A part of a graph, or a whole one, as it travels. Task `i` of the part has operation `op_of[i]`, arguments
/// `args[args_end[i-1]..args_end[i]]` and dependencies `deps[deps_end[i-1]..deps_end[i]]`.
///
/// A dependency `d` is an index within the whole graph (not the part), and smaller than the task's own; or,
/// counted down from `u32::MAX`, an entry of `externals`: tasks of earlier graphs.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Columns {
    /// Operations that this part adds to the graph's table.
    pub ops: Vec<Op>,
    #[serde(with = "super::steps")]
    pub op_of: Vec<u32>,
    #[serde(with = "serde_bytes")]
    pub args: Vec<u8>,
    #[serde(with = "super::steps")]
    pub args_end: Vec<u32>,
    #[serde(with = "super::steps")]
    pub deps: Vec<u32>,
    #[serde(with = "super::steps")]
    pub deps_end: Vec<u32>,
    /// Tasks of earlier graphs that this part adds to the graph's table of them.
    pub externals: Vec<TaskId>,
    /// Tasks whose results somebody wants, ascending.
    #[serde(with = "super::steps")]
    pub wanted: Vec<u32>,
    /// Names that users gave to tasks of this part.
    pub names: Vec<(u32, String)>,
}

/// A whole graph that passed [`Graph::check`].
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Graph {
    columns: Columns,
}

/// Why columns are no graph.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GraphError {
    #[error("the graph's columns disagree in length: {0}")]
    Ragged(&'static str),
    #[error("task {task} names operation {op}, but there are {ops}")]
    NoSuchOp { task: u32, op: u32, ops: u32 },
    #[error("task {task} depends on {dependency}, which doesn't come before it")]
    ForwardDependency { task: u32, dependency: u32 },
    #[error("the graph has more than {MAX_TASKS} tasks")]
    TooManyTasks,
    #[error("the graph's arguments take more than {MAX_ARGS_BYTES} bytes")]
    TooManyArgs,
    #[error("task {0} is wanted or named, but not in this part of the graph")]
    NoSuchTask(u32),
}

impl Columns {
    pub fn len(&self) -> usize {
        self.op_of.len()
    }

    pub fn is_empty(&self) -> bool {
        self.op_of.is_empty()
    }

    /// Argument bytes of the part's `i`th task. Call only after `check`.
    pub fn args(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.args_end[i - 1] as usize };
        &self.args[start..self.args_end[i] as usize]
    }

    /// Dependencies of the part's `i`th task. Call only after `check`.
    pub fn deps(&self, i: usize) -> &[u32] {
        let start = if i == 0 { 0 } else { self.deps_end[i - 1] as usize };
        &self.deps[start..self.deps_end[i] as usize]
    }

    /// Whether this part may be appended to a graph that has `first` tasks, `ops` operations and `externals`
    /// outside dependencies so far. Everything that later code indexes by is checked here, and only here.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, first: u32, ops: u32, externals: u32) -> Result<(), GraphError> {
        let n = self.op_of.len();
        if n as u64 + u64::from(first) > u64::from(MAX_TASKS) {
            return Err(GraphError::TooManyTasks);
        }
        if self.args.len() > MAX_ARGS_BYTES {
            return Err(GraphError::TooManyArgs);
        }
        ascending(&self.args_end, n, self.args.len(), "arguments")?;
        ascending(&self.deps_end, n, self.deps.len(), "dependencies")?;
        let ops = ops.saturating_add(self.ops.len() as u32);
        if let Some(i) = self.op_of.iter().position(|op| *op >= ops) {
            return Err(GraphError::NoSuchOp { task: first + i as u32, op: self.op_of[i], ops });
        }
        let externals = u64::from(externals) + self.externals.len() as u64;
        for i in 0..n {
            let task = first + i as u32;
            for &dependency in self.deps(i) {
                let outside = u64::from(u32::MAX - dependency) < externals;
                if dependency >= task && !outside {
                    return Err(GraphError::ForwardDependency { task, dependency });
                }
            }
        }
        let end = first + n as u32;
        let named = self.names.iter().map(|(task, _)| *task);
        match self.wanted.iter().copied().chain(named).find(|t| !(first..end).contains(t)) {
            Some(task) => Err(GraphError::NoSuchTask(task)),
            None => Ok(()),
        }
    }
}

fn ascending(ends: &[u32], n: usize, total: usize, what: &'static str) -> Result<(), GraphError> {
    let fits = ends.len() == n
        && ends.windows(2).all(|w| w[0] <= w[1])
        && ends.last().copied().unwrap_or(0) as usize == total;
    if fits { Ok(()) } else { Err(GraphError::Ragged(what)) }
}

/// Whole graphs are sent in parts of about so many bytes.
const PART_BYTES: usize = 8 << 20;

impl Graph {
    /// The graph cut into parts that can be sent one after the other, each with the operations that it is the
    /// first to need; at least one part.
    pub fn into_parts(self) -> Vec<Columns> {
        self.into_parts_of(PART_BYTES)
    }

    fn into_parts_of(self, most: usize) -> Vec<Columns> {
        let whole = self.columns;
        let mut ops = whole.ops.iter();
        let (mut known, mut start) = (0, 0);
        let mut parts = Vec::new();
        while start < whole.len() || parts.is_empty() {
            let mut part = Columns::default();
            if start == 0 {
                part.externals.clone_from(&whole.externals);
            }
            let (mut end, mut nbytes) = (start, 0);
            while end < whole.len() && (end == start || nbytes < most) {
                let news = (whole.op_of[end] as usize + 1).saturating_sub(known);
                let before = part.ops.len();
                part.ops.extend(ops.by_ref().take(news).cloned());
                known += news;
                nbytes += part.ops[before..].iter().map(Op::size_hint).sum::<usize>();
                nbytes += whole.args(end).len() + 4 * whole.deps(end).len() + 16;
                part.args.extend_from_slice(whole.args(end));
                part.args_end.push(part.args.len() as u32);
                part.deps.extend_from_slice(whole.deps(end));
                part.deps_end.push(part.deps.len() as u32);
                end += 1;
            }
            part.op_of.extend_from_slice(&whole.op_of[start..end]);
            let within = |task: &u32| (start..end).contains(&(*task as usize));
            part.wanted = whole.wanted.iter().copied().filter(within).collect();
            part.names = whole.names.iter().filter(|(task, _)| within(task)).cloned().collect();
            parts.push(part);
            start = end;
        }
        parts
    }

    /// # Errors
    /// What `Columns::check` finds, for columns that are a whole graph.
    pub fn check(columns: Columns) -> Result<Graph, GraphError> {
        columns.check(0, 0, 0)?;
        Ok(Graph { columns })
    }

    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    pub fn into_columns(self) -> Columns {
        self.columns
    }

    pub fn len(&self) -> usize {
        self.columns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    pub fn op(&self, task: u32) -> &Op {
        &self.columns.ops[self.columns.op_of[task as usize] as usize]
    }
}

/// Builds a graph task by task. Indexes it hands out are those of the graph.
#[derive(Default)]
pub struct Builder {
    columns: Columns,
    op_index: HashMap<Op, u32>,
}

impl Builder {
    pub fn new() -> Builder {
        Builder::default()
    }

    /// The index of `op` in the table; equal operations share one.
    pub fn op(&mut self, op: Op) -> u32 {
        if let Some(index) = self.op_index.get(&op) {
            return *index;
        }
        let index = self.columns.ops.len() as u32;
        self.columns.ops.push(op.clone());
        self.op_index.insert(op, index);
        index
    }

    /// Adds a task; `deps` are indexes that this builder returned before. Returns the task's index.
    pub fn task(&mut self, op: u32, args: &[u8], deps: &[u32]) -> u32 {
        let c = &mut self.columns;
        c.op_of.push(op);
        c.args.extend_from_slice(args);
        c.args_end.push(c.args.len() as u32);
        c.deps.extend_from_slice(deps);
        c.deps_end.push(c.deps.len() as u32);
        (c.op_of.len() - 1) as u32
    }

    /// A dependency on a task of an earlier graph, to be listed among `deps`.
    pub fn external(&mut self, task: TaskId) -> u32 {
        self.columns.externals.push(task);
        u32::MAX - (self.columns.externals.len() - 1) as u32
    }

    /// Keeps the task's result for whoever waits.
    pub fn want(&mut self, task: u32) {
        self.columns.wanted.push(task);
    }

    /// Gives the task a name of the user's.
    pub fn name(&mut self, task: u32, name: String) {
        self.columns.names.push((task, name));
    }

    /// # Errors
    /// What [`Graph::check`] finds.
    pub fn build(mut self) -> Result<Graph, GraphError> {
        self.columns.wanted.sort_unstable();
        self.columns.wanted.dedup();
        Graph::check(self.columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::GraphId;

    fn diamond() -> Builder {
        let mut b = Builder::new();
        let data = b.op(Op::Data);
        let sum = b.op(Op::Kernel { name: "sum".into(), params: vec![], resources: Default::default() });
        let a = b.task(data, b"1", &[]);
        let (l, r) = (b.task(sum, b"", &[a]), b.task(sum, b"", &[a]));
        let end = b.task(sum, b"x", &[l, r]);
        b.want(end);
        b
    }

    #[test]
    fn a_built_graph_has_its_tasks_in_columns() {
        let g = diamond().build().unwrap();
        let c = g.columns();
        assert_eq!((g.len(), c.ops.len()), (4, 2));
        assert_eq!((c.args(0), c.args(3)), (&b"1"[..], &b"x"[..]));
        assert_eq!((c.deps(0), c.deps(3)), (&[][..], &[1, 2][..]));
        assert_eq!(c.wanted, [3]);
    }

    #[test]
    fn broken_columns_are_refused() {
        let good = diamond().build().unwrap().into_columns();
        let broken = |f: &dyn Fn(&mut Columns)| {
            let mut c = good.clone();
            f(&mut c);
            Graph::check(c).unwrap_err()
        };
        assert_eq!(broken(&|c| c.args_end[0] = 9), GraphError::Ragged("arguments"));
        assert_eq!(broken(&|c| c.deps_end.truncate(1)), GraphError::Ragged("dependencies"));
        assert_eq!(broken(&|c| c.op_of[2] = 2), GraphError::NoSuchOp { task: 2, op: 2, ops: 2 });
        assert_eq!(broken(&|c| c.deps[0] = 1), GraphError::ForwardDependency { task: 1, dependency: 1 });
        assert_eq!(
            broken(&|c| c.deps[0] = u32::MAX),
            GraphError::ForwardDependency { task: 1, dependency: u32::MAX }
        );
        assert_eq!(broken(&|c| c.wanted = vec![4]), GraphError::NoSuchTask(4));
    }

    #[test]
    fn a_graph_in_parts_is_the_same_graph() {
        let mut whole = diamond();
        let outside = whole.external(TaskId { graph: GraphId(1), index: 5 });
        let last =
            whole.op(Op::Kernel { name: "max".into(), params: vec![7; 40], resources: Default::default() });
        let end = whole.task(last, b"yz", &[outside, 3]);
        whole.name(end, "end".to_owned());
        let whole = whole.build().unwrap();
        for most in [1, 30, 100, 1000] {
            let parts = whole.clone().into_parts_of(most);
            let mut joined = Columns::default();
            for part in &parts {
                let (tasks, ops) = (joined.len() as u32, joined.ops.len() as u32);
                assert_eq!(part.check(tasks, ops, joined.externals.len() as u32), Ok(()), "{most}");
                let (args, deps) = (joined.args.len() as u32, joined.deps.len() as u32);
                joined.ops.extend(part.ops.clone());
                joined.op_of.extend(&part.op_of);
                joined.args.extend(&part.args);
                joined.args_end.extend(part.args_end.iter().map(|end| args + end));
                joined.deps.extend(&part.deps);
                joined.deps_end.extend(part.deps_end.iter().map(|end| deps + end));
                joined.externals.extend(&part.externals);
                joined.wanted.extend(&part.wanted);
                joined.names.extend(part.names.clone());
            }
            assert_eq!(&joined, whole.columns(), "{most}");
            assert_eq!(parts.len() == 1, most == 1000);
        }
        assert_eq!(Graph::default().into_parts(), [Columns::default()]);
    }

    #[test]
    fn a_part_continues_a_graph_and_may_reach_outside() {
        let mut b = Builder::new();
        let op = b.op(Op::Data);
        let outside = b.external(TaskId { graph: GraphId(1), index: 5 });
        b.task(op, b"", &[outside]);
        let c = b.build().unwrap().into_columns();
        assert_eq!(c.check(0, 0, 0), Ok(()));
        assert_eq!(c.check(10, 1, 2), Ok(()));
    }
}
