//! A graph as the scheduler holds it: the columns it came in, a record a task, and side tables for the few tasks
//! that have more to remember.

use super::fast::FastMap;
use super::task::{NONE, TaskRecord, TaskState};
use crate::graph::{Columns, GraphId, Op, TaskId};
use crate::protocol::{
    Counts, Execution, GraphOptions, RequestId, StoredValue, TaskError, TaskStateName, WorkerIndex,
};
use crate::scheduler::event::JournalSeq;
use std::sync::Arc;

/// An operation, with what the scheduler looks up at every task of it.
pub struct OpEntry {
    pub op: Op,
    /// Index of its resources among the ready queues.
    pub class: u32,
    /// Index among the task families.
    pub family: u32,
    pub pure: bool,
}

pub struct GraphState {
    pub id: GraphId,
    pub request: RequestId,
    pub options: GraphOptions,
    /// Parts received; the next one must have this number.
    pub parts: u32,
    /// Whether the last part came (or its stream broke off for good).
    pub sealed: bool,
    /// First tasks of the newest parts and their records, those that may not be durable yet among them.
    recent_parts: Vec<(u32, JournalSeq)>,
    /// Whether it was settled once, and is in the queue of those that may be forgotten.
    pub in_history: bool,
    pub ops: Vec<OpEntry>,
    pub tasks: Vec<TaskRecord>,
    args: Vec<u8>,
    args_end: Vec<u64>,
    deps: Vec<u32>,
    deps_end: Vec<u32>,
    /// Per dependency edge: the task that has it, and the next edge with the same dependency.
    edge_owner: Vec<u32>,
    edge_next: Vec<u32>,
    externals: Vec<TaskId>,
    pub counts: Counts,
    /// Tasks that failed themselves, not by a dependency.
    pub failures: u32,
    pub names: FastMap<u32, String>,
    pub errors: FastMap<u32, TaskError>,
    pub results: FastMap<u32, Arc<StoredValue>>,
    /// Holders besides the one in the state.
    pub replicas: FastMap<u32, Vec<WorkerIndex>>,
    /// Outputs that are accepted but not yet in their place.
    pub accepted: FastMap<u32, Vec<crate::protocol::PendingOutput>>,
    /// Tasks of later graphs that depend on ours.
    pub outside_dependents: FastMap<u32, Vec<TaskId>>,
}

impl GraphState {
    pub fn new(id: GraphId, request: RequestId, options: GraphOptions) -> GraphState {
        GraphState {
            id,
            request,
            options,
            parts: 0,
            sealed: false,
            recent_parts: Vec::new(),
            in_history: false,
            ops: Vec::new(),
            tasks: Vec::new(),
            args: Vec::new(),
            args_end: Vec::new(),
            deps: Vec::new(),
            deps_end: Vec::new(),
            edge_owner: Vec::new(),
            edge_next: Vec::new(),
            externals: Vec::new(),
            counts: Counts::default(),
            failures: 0,
            names: FastMap::default(),
            errors: FastMap::default(),
            results: FastMap::default(),
            replicas: FastMap::default(),
            accepted: FastMap::default(),
            outside_dependents: FastMap::default(),
        }
    }

    pub fn task_id(&self, index: u32) -> TaskId {
        TaskId { graph: self.id, index }
    }

    pub fn externals_len(&self) -> u32 {
        self.externals.len() as u32
    }

    pub fn edge_count(&self) -> u64 {
        self.deps.len() as u64
    }

    /// Appends the columns of a checked part; states and counters of its tasks are the caller's to set.
    /// Returns the index of the part's first task.
    pub fn append(&mut self, part: &Columns) -> u32 {
        let first = self.tasks.len() as u32;
        let args_base = self.args.len() as u64;
        let deps_base = self.deps.len() as u32;
        self.args.extend_from_slice(&part.args);
        self.args_end.extend(part.args_end.iter().map(|end| args_base + u64::from(*end)));
        self.deps.extend_from_slice(&part.deps);
        self.deps_end.extend(part.deps_end.iter().map(|end| deps_base + end));
        self.externals.extend_from_slice(&part.externals);
        self.tasks.extend(part.op_of.iter().map(|op| TaskRecord::new(*op, false)));
        for task in &part.wanted {
            self.tasks[*task as usize].wanted = true;
        }
        self.names.extend(part.names.iter().cloned());
        self.edge_owner.resize(self.deps.len(), NONE);
        self.edge_next.resize(self.deps.len(), NONE);
        for index in first..self.tasks.len() as u32 {
            for edge in self.edges(index) {
                let dependency = self.deps[edge];
                self.edge_owner[edge] = index;
                if (dependency as usize) < self.tasks.len() {
                    let head = &mut self.tasks[dependency as usize].first_dependent;
                    self.edge_next[edge] = *head;
                    *head = edge as u32;
                }
            }
        }
        first
    }

    /// The columns of tasks from `first` to before `end`, as a part that brings them after all before them. The first
    /// one brings all operations and outside dependencies.
    pub fn export(&self, first: u32, end: u32) -> Columns {
        let tasks = first as usize..end as usize;
        let args_base = tasks.start.checked_sub(1).map_or(0, |before| self.args_end[before]);
        let args_end = tasks.end.checked_sub(1).map_or(0, |last| self.args_end[last]);
        let deps_base = tasks.start.checked_sub(1).map_or(0, |before| self.deps_end[before]);
        let deps_end = tasks.end.checked_sub(1).map_or(0, |last| self.deps_end[last]);
        let named = self.names.iter().filter(|(index, _)| (first..end).contains(*index));
        let mut names: Vec<(u32, String)> = named.map(|(index, name)| (*index, name.clone())).collect();
        names.sort_unstable();
        Columns {
            ops: if first == 0 {
                self.ops.iter().map(|entry| entry.op.clone()).collect()
            } else {
                Vec::new()
            },
            op_of: self.tasks[tasks.clone()].iter().map(|record| record.op).collect(),
            args: self.args[args_base as usize..args_end as usize].to_vec(),
            args_end: self.args_end[tasks.clone()].iter().map(|end| (end - args_base) as u32).collect(),
            deps: self.deps[deps_base as usize..deps_end as usize].to_vec(),
            deps_end: self.deps_end[tasks].iter().map(|end| end - deps_base).collect(),
            externals: if first == 0 { self.externals.clone() } else { Vec::new() },
            wanted: (first..end).filter(|index| self.tasks[*index as usize].wanted).collect(),
            names,
        }
    }

    /// What the task's arguments and result take.
    pub fn task_bytes(&self, index: u32) -> usize {
        let buffers = self.results.get(&index).into_iter().flat_map(|result| &result.buffers);
        self.args(index).len() + buffers.map(|buffer| buffer.len()).sum::<usize>()
    }

    /// Tasks of other graphs that this one depends on.
    pub fn externals(&self) -> &[TaskId] {
        &self.externals
    }

    /// The part that begins with task `first` is this record; older ones up to `durable` need no memory.
    pub fn note_part(&mut self, first: u32, seq: JournalSeq, durable: JournalSeq) {
        self.recent_parts.retain(|(_, seq)| *seq > durable);
        self.recent_parts.push((first, seq));
    }

    /// The record that brought the task, if it is one of the newest.
    pub fn part_of(&self, index: u32) -> Option<JournalSeq> {
        self.recent_parts.iter().rev().find(|(first, _)| *first <= index).map(|(_, seq)| *seq)
    }

    /// Whether the task of this execution is assigned to that worker for it.
    pub fn is_current(&self, execution: Execution, worker: WorkerIndex) -> bool {
        self.tasks.get(execution.task.index as usize).is_some_and(|record| {
            record.state == TaskState::Assigned { worker }
                && record.epoch == execution.epoch
                && record.attempt == execution.attempt
        })
    }

    /// Whether nothing in this graph depends on the task.
    pub fn is_leaf(&self, index: u32) -> bool {
        self.tasks[index as usize].first_dependent == NONE
    }

    /// A dependent in this graph, by its edge, and the next edge with the same dependency, or [`NONE`].
    pub fn dependent(&self, edge: u32) -> (u32, u32) {
        (self.edge_owner[edge as usize], self.edge_next[edge as usize])
    }

    /// The dependency of an edge: an index here, or a task of an earlier graph.
    pub fn dependency(&self, edge: usize) -> Result<u32, TaskId> {
        let dependency = self.deps[edge];
        if (dependency as usize) < self.tasks.len() {
            Ok(dependency)
        } else {
            Err(self.externals[(u32::MAX - dependency) as usize])
        }
    }

    /// The first task whose part isn't durable yet.
    pub fn first_early(&self, durable: JournalSeq) -> u32 {
        let early = |(_, seq): &&(u32, JournalSeq)| *seq > durable;
        self.recent_parts.iter().find(early).map_or(u32::MAX, |(first, _)| *first)
    }

    /// The task's dependencies, by their edges.
    pub fn edges(&self, index: u32) -> std::ops::Range<usize> {
        let start = if index == 0 { 0 } else { self.deps_end[index as usize - 1] };
        start as usize..self.deps_end[index as usize] as usize
    }

    pub fn args(&self, index: u32) -> &[u8] {
        let start = if index == 0 { 0 } else { self.args_end[index as usize - 1] };
        &self.args[start as usize..self.args_end[index as usize] as usize]
    }

    /// The task's dependencies, outside ones resolved.
    pub fn dependencies(&self, index: u32) -> impl Iterator<Item = TaskId> + '_ {
        self.deps[self.edges(index)].iter().map(|dependency| {
            if (*dependency as usize) < self.tasks.len() {
                self.task_id(*dependency)
            } else {
                self.externals[(u32::MAX - dependency) as usize]
            }
        })
    }

    /// Tasks that depend on this one, here and in later graphs. A task that names it twice comes twice.
    pub fn dependents(&self, index: u32) -> impl Iterator<Item = TaskId> + '_ {
        let first = Some(self.tasks[index as usize].first_dependent).filter(|edge| *edge != NONE);
        let next = |edge: &u32| Some(self.edge_next[*edge as usize]).filter(|edge| *edge != NONE);
        let here =
            std::iter::successors(first, next).map(|edge| self.task_id(self.edge_owner[edge as usize]));
        here.chain(self.outside_dependents.get(&index).into_iter().flatten().copied())
    }

    /// Tasks of that graph are forgotten.
    pub fn forget_dependents(&mut self, index: u32, graph: GraphId) {
        if let Some(dependents) = self.outside_dependents.get_mut(&index) {
            dependents.retain(|task| task.graph != graph);
            if dependents.is_empty() {
                self.outside_dependents.remove(&index);
            }
        }
    }

    /// Bytes that its tasks' arguments and results take: what a long history costs.
    pub fn kept_bytes(&self) -> u64 {
        let buffers = self.results.values().flat_map(|result| &result.buffers);
        (self.args.len() + buffers.map(|buffer| buffer.len()).sum::<usize>()) as u64
    }

    pub fn op_entry(&self, index: u32) -> &OpEntry {
        &self.ops[self.tasks[index as usize].op as usize]
    }

    /// Its values are kept until it is unpinned, so it doesn't go into the history.
    pub fn is_pinned(&self) -> bool {
        self.options.replicas > 0 && !self.options.unconfirmed
    }

    /// It is pinned, or is to be.
    pub fn is_to_be_kept(&self) -> bool {
        self.options.replicas > 0
    }

    /// Whether its tasks write to files that are removed when it fails.
    pub fn is_undone(&self) -> bool {
        !self.options.unfinished.is_empty()
    }

    pub fn is_settled(&self) -> bool {
        self.sealed && self.counts.settled() == self.counts.total()
    }
}

/// The counter of `counts` for this state.
pub fn counter(counts: &mut Counts, state: TaskState) -> &mut u64 {
    match state.name() {
        TaskStateName::Waiting => &mut counts.waiting,
        TaskStateName::Ready => &mut counts.ready,
        TaskStateName::Assigned => &mut counts.assigned,
        TaskStateName::Memory => &mut counts.memory,
        TaskStateName::Erred => &mut counts.erred,
        TaskStateName::Cancelled => &mut counts.cancelled,
    }
}
