//! Values of pinned graphs: several workers hold each, and one that is lost is replaced by another.

use super::Core;
use super::ingest::{Answered, refuse};
use super::task::TaskState;
use crate::graph::{GraphId, Key, TaskId};
use crate::protocol::{RefusalKind, Reply, RequestId, WorkerIndex};
use crate::scheduler::event::{Action, Time};
use crate::scheduler::record::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Values that are on their way to another holder at a time: they must not crowd out what tasks wait for.
const MAX_ON_THE_WAY: usize = 64;
/// A worker that has not reported a value after this long is asked no more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Workers that are looked at for one value.
const MAX_LOOKS: usize = 32;

/// Values that have fewer holders than they should.
#[derive(Default)]
pub(super) struct Replication {
    wanting: BTreeSet<TaskId>,
    /// Who was asked to hold it too, and until when that counts.
    asked: BTreeMap<TaskId, (WorkerIndex, Time)>,
}

impl Core {
    /// Workers that are to hold the task's value.
    fn replicas_wanted(&self, task: TaskId) -> usize {
        let Some(graph) = self.graphs.get(&task.graph).filter(|g| g.options.replicas > 1) else { return 0 };
        let wanted = graph.tasks.get(task.index as usize).is_some_and(|record| record.wanted);
        if wanted { usize::from(graph.options.replicas) } else { 0 }
    }

    /// Who holds the value has changed.
    pub(super) fn note_holders(&mut self, task: TaskId) {
        let wanted = self.replicas_wanted(task);
        match self.state(task) {
            Some(TaskState::Held { worker }) if self.holders(task, worker).len() < wanted => {
                self.replication.wanting.insert(task);
            }
            _ if wanted > 0 => self.forget_replication(task),
            _ => {}
        }
    }

    fn forget_replication(&mut self, task: TaskId) {
        self.replication.wanting.remove(&task);
        self.replication.asked.remove(&task);
    }

    /// The worker doesn't hold the value, though it may have been asked to.
    pub(super) fn note_not_held(&mut self, task: TaskId, worker: WorkerIndex) {
        if self.replication.asked.get(&task).is_some_and(|(asked, _)| *asked == worker) {
            self.replication.asked.remove(&task);
        }
    }

    /// Nothing comes of what the worker was asked for.
    pub(super) fn note_gone(&mut self, worker: WorkerIndex) {
        self.replication.asked.retain(|_, (asked, _)| *asked != worker);
    }

    /// Asks workers to fetch values that have too few holders.
    pub(super) fn replicate(&mut self) {
        if self.replication.wanting.is_empty() || self.workers.open_count() < 2 || self.going_down.is_some() {
            return;
        }
        self.workers.sort_by_load();
        let now = self.now;
        self.replication.asked.retain(|_, (_, until)| *until > now);
        let room = MAX_ON_THE_WAY.saturating_sub(self.replication.asked.len());
        let Replication { wanting, asked } = &self.replication;
        let next: Vec<TaskId> =
            wanting.iter().filter(|task| !asked.contains_key(task)).take(room).copied().collect();
        for (turn, task) in next.into_iter().enumerate() {
            let Some(TaskState::Held { worker: first }) = self.state(task) else { continue };
            let holders = self.holders(task, first);
            let free: Vec<WorkerIndex> = self.workers.by_load().take(MAX_LOOKS).collect();
            let mut free = free.iter().filter(|worker| !holders.contains(worker));
            // In turns, so that values are spread over workers that have as much to do.
            let count = free.clone().count();
            let Some(worker) = free.nth(turn.checked_rem(count).unwrap_or(0)).copied() else { continue };
            for holder in &holders {
                self.introduce_peer(worker, *holder);
            }
            self.outbox.replicate(worker, task, holders);
            self.replication.asked.insert(task, (worker, now.plus(PATIENCE)));
        }
    }

    /// The same again changes nothing, so no answer is kept for a repeat.
    pub(super) fn on_pin(&mut self, key: &Key, out: &mut Vec<Action>) -> Reply {
        let Some(graph) = self.graph_of(key) else {
            return refuse(RefusalKind::Unknown, format!("there is no task or graph '{key}'"));
        };
        let Some(state) = self.graphs.get(&graph).filter(|state| state.is_to_be_kept()) else {
            return refuse(RefusalKind::Unknown, format!("the values of '{key}' were let go"));
        };
        if !state.is_pinned() {
            self.persist(Record::Pinned { graph }, out);
            self.take_pin(graph);
        }
        Reply::Pinned
    }

    /// The graph's values are kept until it is unpinned. Also the way in of replay.
    pub(super) fn take_pin(&mut self, graph: GraphId) {
        self.leave_history(graph);
        if let Some(state) = self.graphs.get_mut(&graph) {
            state.options.unconfirmed = false;
        }
    }

    /// The graph that a key names, or that has the task that it names.
    fn graph_of(&self, key: &Key) -> Option<GraphId> {
        let graph = match key {
            Key::Graph(graph) => Some(*graph),
            Key::Task(task) => Some(task.graph),
            Key::Named(name) => self.names.get(name).map(|task| task.graph),
        };
        graph.filter(|graph| self.graphs.contains_key(graph))
    }

    pub(super) fn on_unpin(&mut self, request: RequestId, key: &Key, out: &mut Vec<Action>) -> Reply {
        if let Some(Answered::Unpinned { tasks }) = self.requests.get(&request) {
            return Reply::Unpinned { tasks: *tasks };
        }
        let Some(graph) = self.graph_of(key) else {
            return refuse(RefusalKind::Unknown, format!("there is no task or graph '{key}'"));
        };
        self.persist(Record::Unpinned { request, graph }, out);
        let tasks = self.take_unpin(request, graph);
        Reply::Unpinned { tasks }
    }

    /// Nobody wants the graph's values any more. Also the way in of replay.
    pub(super) fn take_unpin(&mut self, request: RequestId, graph: GraphId) -> u64 {
        let Some(state) = self.graphs.get_mut(&graph) else { return 0 };
        state.options.replicas = 0;
        let wanted: Vec<u32> = (0..).zip(&state.tasks).filter(|(_, r)| r.wanted).map(|(k, _)| k).collect();
        for index in &wanted {
            let task = TaskId { graph, index: *index };
            self.update(task, |record| record.wanted = false);
            self.forget_replication(task);
            self.release_when_durable(task);
        }
        self.on_graph_progress(graph);
        let tasks = wanted.len() as u64;
        self.note_answer(request, Answered::Unpinned { tasks });
        tasks
    }

    /// Proves that the values with too few holders are known, and no others.
    pub(super) fn check_replication(&self) {
        for graph in self.graphs.values().filter(|graph| graph.options.replicas > 1) {
            for index in 0..graph.tasks.len() as u32 {
                let task = graph.task_id(index);
                let lacks = match self.state(task) {
                    Some(TaskState::Held { worker }) => {
                        self.holders(task, worker).len() < self.replicas_wanted(task)
                    }
                    _ => false,
                };
                assert_eq!(self.replication.wanting.contains(&task), lacks, "{task}: too few holders");
            }
        }
        let known = |task: &TaskId| self.replication.wanting.contains(task);
        assert!(self.replication.asked.keys().all(known), "a value is asked for that has holders enough");
    }
}
