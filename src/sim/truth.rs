//! What really happened, seen from outside: which commands ran when, and which files came to their place. Judges each
//! step at once, so that a broken promise is reported where it breaks.

use crate::graph::{Columns, GraphId, Op, TaskId};
use crate::protocol::Execution;
use crate::scheduler::record::Record;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How a run of a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Well,
    Failed,
    Killed,
}

/// One run of a command.
#[derive(Clone, Debug)]
pub struct Run {
    pub execution: Execution,
    pub host: usize,
    pub ended: Option<(u64, End)>,
}

/// What a scheduler was told of a task.
pub struct Known {
    /// Kernels that take its value.
    pub consumers: Vec<TaskId>,
}

/// The graphs as one scheduler knows them, some parts maybe not durable yet.
#[derive(Default)]
pub struct Lineage {
    known: HashMap<TaskId, Known>,
    graph_len: HashMap<GraphId, u32>,
    graph_ops: HashMap<GraphId, Vec<bool>>,
    graph_externals: HashMap<GraphId, Vec<TaskId>>,
}

#[derive(Default)]
pub struct Truth {
    /// Runs of commands by key.
    pub runs: BTreeMap<u64, Vec<Run>>,
    /// How executions ended on their workers, kernels too.
    pub ends: HashMap<Execution, End>,
    /// Executions whose outputs could not be brought to their place.
    pub revoked: BTreeSet<Execution>,
    /// Which execution's file came to each target.
    pub placed: BTreeMap<String, Execution>,
    /// Tasks that a client was told have failed.
    pub told_failed: BTreeSet<TaskId>,
    /// Workers that were lost or left.
    pub losses: u64,
}

impl Lineage {
    /// The scheduler takes a part in: its tasks get their numbers.
    pub fn learn(&mut self, record: &Record) {
        let Record::Part { graph, columns, .. } = record else { return };
        let first = *self.graph_len.get(graph).unwrap_or(&0);
        self.graph_len.insert(*graph, first + columns.len() as u32);
        let commands = columns.ops.iter().map(|op| matches!(op, Op::Command(_)));
        self.graph_ops.entry(*graph).or_default().extend(commands);
        self.graph_externals.entry(*graph).or_default().extend(&columns.externals);
        for i in 0..columns.len() {
            self.learn_task(*graph, first, columns, i);
        }
    }

    fn learn_task(&mut self, graph: GraphId, first: u32, columns: &Columns, i: usize) {
        let task = TaskId { graph, index: first + i as u32 };
        let is_command = self.graph_ops[&graph][columns.op_of[i] as usize];
        self.known.insert(task, Known { consumers: Vec::new() });
        if is_command {
            return;
        }
        let externals = &self.graph_externals[&graph];
        for dependency in columns.deps(i) {
            let id = match externals.get((u32::MAX - dependency) as usize) {
                Some(outside) => *outside,
                None => TaskId { graph, index: *dependency },
            };
            if let Some(known) = self.known.get_mut(&id) {
                known.consumers.push(task);
            }
        }
    }

    /// What these records tell: what was never durable is forgotten.
    pub fn of(records: &[Record]) -> Lineage {
        let mut lineage = Lineage::default();
        records.iter().for_each(|record| lineage.learn(record));
        lineage
    }

    pub fn get(&self, task: &TaskId) -> Option<&Known> {
        self.known.get(task)
    }
}

impl Truth {
    /// A command starts.
    ///
    /// # Errors
    /// It must not: it runs already, or ran well and nothing undid that.
    pub fn start(
        &mut self,
        key: u64,
        run: Run,
        gone: impl Fn(usize) -> bool,
        once: bool,
    ) -> Result<(), String> {
        let runs = self.runs.entry(key).or_default();
        for earlier in runs.iter() {
            let what = match earlier.ended {
                None => "while it still ran as",
                Some((_, End::Well)) if !gone(earlier.host) && !self.revoked.contains(&earlier.execution) => {
                    "though its worker is alive that ran it well as"
                }
                Some(_) if once => "though it is to run at most once, after",
                Some(_) => continue,
            };
            return Err(format!("{:?} started on worker {} {what} {earlier:?}", run.execution, run.host));
        }
        runs.push(run);
        Ok(())
    }

    /// The run ended, unless it had ended before.
    pub fn end(&mut self, key: u64, execution: Execution, host: usize, now: u64, end: End) {
        let runs = self.runs.entry(key).or_default();
        let run = runs.iter_mut().find(|r| r.execution == execution && r.host == host && r.ended.is_none());
        if let Some(run) = run {
            run.ended = Some((now, end));
        }
    }

    /// A file comes to its place.
    ///
    /// # Errors
    /// One of another execution was accepted and is there already.
    pub fn place(&mut self, target: &str, execution: Execution) -> Result<(), String> {
        match self.placed.insert(target.to_owned(), execution) {
            Some(other) if other != execution && !self.revoked.contains(&other) => {
                Err(format!("{target} was placed for {other:?}, and now for {execution:?} too"))
            }
            _ => Ok(()),
        }
    }

    pub fn ended_well(&self, key: u64) -> bool {
        self.count(key, End::Well) > 0
    }

    pub fn count(&self, key: u64, end: End) -> usize {
        let ended = |run: &&Run| run.ended.is_some_and(|(_, how)| how == end);
        self.runs.get(&key).map_or(0, |runs| runs.iter().filter(ended).count())
    }
}
