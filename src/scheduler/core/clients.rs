//! What clients ask for, and who waits for what.

use super::ingest::{Answered, Part, refuse};
use super::{Core, fast::FastMap};
use crate::graph::{GraphId, Key, TaskId};
use crate::protocol::{
    Counts, ErrorKind, Failure, FromClient, MAX_FAILURES_TOLD, RefusalKind, Reply, Request, RequestId,
    ToClient,
};
use crate::scheduler::event::{Action, PeerId, Time};
use crate::scheduler::record::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Time between two progress reports to a waiting client.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// After workers were told to leave, the cluster waits this long for them.
const LEAVE_GRACE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Call {
    peer: PeerId,
    call: u64,
}

struct Waiter {
    graphs: BTreeSet<GraphId>,
    /// All tasks asked for one by one, and how many of them are unsettled.
    tasks: Vec<TaskId>,
    open_tasks: usize,
    progress: bool,
}

#[derive(Default)]
pub(super) struct Clients {
    waiters: BTreeMap<Call, Waiter>,
    by_graph: FastMap<GraphId, BTreeSet<Call>>,
    by_task: FastMap<TaskId, Vec<Call>>,
    /// Waits that may have come to their end in this batch.
    touched: BTreeSet<Call>,
    streams: FastMap<PeerId, BTreeSet<GraphId>>,
    next_progress: Time,
}

impl Clients {
    pub fn deadline(&self) -> Option<Time> {
        self.waiters.values().any(|w| w.progress).then_some(self.next_progress)
    }

    /// Whether somebody waits for this very task.
    pub fn waits_for(&self, task: TaskId) -> bool {
        self.by_task.contains_key(&task)
    }

    pub fn watches(&self, graph: GraphId) -> bool {
        self.by_graph.get(&graph).is_some_and(|calls| !calls.is_empty())
            || self.waiters.values().any(|w| w.tasks.iter().any(|t| t.graph == graph))
    }
}

/// The cluster ends: first running tasks may end, then workers leave, then it is over.
pub(super) struct GoingDown {
    call: Option<(PeerId, u64)>,
    /// As asked for: after a restart it begins anew.
    pub drain_ms: u64,
    until: Time,
    pub left: bool,
}

impl GoingDown {
    pub fn deadline(&self) -> Time {
        self.until
    }
}

impl Core {
    pub(super) fn on_client_message(&mut self, peer: PeerId, message: FromClient, out: &mut Vec<Action>) {
        let FromClient { call, request } = message;
        let reply = match request {
            Request::Submit { request, part, last, columns, options } => {
                let reply = self.on_submit(Part { request, part, last, columns, options }, out);
                self.note_stream(peer, &reply, last);
                reply
            }
            Request::Resolve(keys) => match self.resolve(&keys) {
                Ok((graphs, tasks)) => Reply::Resolved(self.all_tasks(&graphs, &tasks)),
                Err(refusal) => refusal,
            },
            Request::Wait { keys, progress } => match self.wait(Call { peer, call }, &keys, progress) {
                Ok(()) => return,
                Err(refusal) => refusal,
            },
            Request::Results(keys) => {
                let message = ToClient { call, reply: self.results(&keys) };
                return out.push(Action::ToClient { peer, message, after: self.everything_that_binds() });
            }
            Request::Cancel { request, keys } => self.on_cancel(request, &keys, out),
            Request::Retry { request, keys } => self.on_retry(request, &keys, out),
            Request::Tasks { state, graph, limit } => self.list_tasks(state, graph, limit),
            Request::Why { subject } => self.explain(&subject),
            Request::Status => Reply::Status(Box::new(self.status())),
            Request::Scale { request, workers } => self.on_scale(request, workers, out),
            Request::Pin { request: _, key } => self.on_pin(&key, out),
            Request::Unpin { request, key } => self.on_unpin(request, &key, out),
            // Its shell has the files.
            Request::Datasets | Request::DatasetFile { .. } => {
                refuse(RefusalKind::Unavailable, "this scheduler has no datasets at hand")
            }
            // Whether this one may be relieved is for whoever runs it to say.
            Request::Relieve { .. } => {
                refuse(RefusalKind::Unavailable, "this scheduler is not to be relieved".to_owned())
            }
            Request::Down { drain_ms } => {
                self.persist(Record::GoingDown { drain_ms }, out);
                return self.take_down(Some((peer, call)), drain_ms);
            }
        };
        let after = self.everything_so_far();
        out.push(Action::ToClient { peer, message: ToClient { call, reply }, after });
    }

    fn note_stream(&mut self, peer: PeerId, reply: &Reply, last: bool) {
        let Reply::Submitted { graph, .. } = reply else { return };
        // It streams here now, whatever becomes of an older link.
        for streams in self.clients.streams.values_mut() {
            streams.remove(graph);
        }
        self.broken_streams.remove(graph);
        let streams = self.clients.streams.entry(peer).or_default();
        if last {
            streams.remove(graph);
        } else {
            streams.insert(*graph);
        }
    }

    pub(super) fn on_client_lost(&mut self, peer: PeerId) {
        for graph in self.clients.streams.remove(&peer).unwrap_or_default() {
            self.stream_broke(graph);
        }
        let calls: Vec<Call> = self.clients.waiters.keys().filter(|c| c.peer == peer).copied().collect();
        for call in calls {
            self.remove_waiter(call);
        }
    }

    /// The graphs and tasks that keys name; the first unknown one refuses all.
    pub(super) fn resolve(&self, keys: &[Key]) -> Result<(BTreeSet<GraphId>, Vec<TaskId>), Reply> {
        let (mut graphs, mut tasks) = (BTreeSet::new(), Vec::new());
        for key in keys {
            let unknown = || Err(refuse(RefusalKind::Unknown, format!("there is no task or graph '{key}'")));
            match key {
                Key::Graph(graph) if self.graphs.contains_key(graph) => drop(graphs.insert(*graph)),
                Key::Task(task) if self.state(*task).is_some() => tasks.push(*task),
                Key::Named(name) => match self.names.get(name) {
                    Some(task) => tasks.push(*task),
                    None => return unknown(),
                },
                Key::Graph(_) | Key::Task(_) => return unknown(),
            }
        }
        Ok((graphs, tasks))
    }

    fn all_tasks(&self, graphs: &BTreeSet<GraphId>, tasks: &[TaskId]) -> Vec<TaskId> {
        let of_graphs = graphs.iter().filter_map(|id| self.graphs.get(id));
        let of_graphs = of_graphs.flat_map(|g| (0..g.tasks.len() as u32).map(|index| g.task_id(index)));
        of_graphs.chain(tasks.iter().copied()).take(crate::protocol::MAX_LISTED as usize).collect()
    }

    fn wait(&mut self, call: Call, keys: &[Key], progress: bool) -> Result<(), Reply> {
        let (mut graphs, tasks) = self.resolve(keys)?;
        if keys.is_empty() {
            graphs = self.graphs.values().filter(|g| !g.is_settled()).map(|g| g.id).collect();
        }
        let mut open_tasks = 0;
        for task in &tasks {
            if self.state(*task).is_some_and(|state| !state.is_settled()) {
                open_tasks += 1;
                self.clients.by_task.entry(*task).or_default().push(call);
            }
        }
        for graph in &graphs {
            self.clients.by_graph.entry(*graph).or_default().insert(call);
        }
        self.clients.waiters.insert(call, Waiter { graphs, tasks, open_tasks, progress });
        self.clients.touched.insert(call);
        Ok(())
    }

    /// A task won't change any more: whoever waits for it may be done.
    pub(super) fn on_settled(&mut self, task: TaskId) {
        for call in self.clients.by_task.remove(&task).unwrap_or_default() {
            if let Some(waiter) = self.clients.waiters.get_mut(&call) {
                waiter.open_tasks = waiter.open_tasks.saturating_sub(1);
                self.clients.touched.insert(call);
            }
        }
        self.on_graph_progress(task.graph);
    }

    /// The graph may have come to its end.
    pub(super) fn on_graph_progress(&mut self, graph: GraphId) {
        if !self.graphs.get(&graph).is_some_and(|g| g.is_settled()) {
            return;
        }
        self.enter_history(graph);
        if let Some(calls) = self.clients.by_graph.get(&graph) {
            self.clients.touched.extend(calls.iter().copied());
        }
    }

    /// Answers the waits that are over, and reports progress to the others now and then.
    pub(super) fn tell_clients(&mut self, out: &mut Vec<Action>) {
        let after = self.everything_that_binds();
        for call in std::mem::take(&mut self.clients.touched) {
            self.watch_unsettled_again(call);
            let Some(waiter) = self.clients.waiters.get(&call) else { continue };
            let settled = |id: &GraphId| self.graphs.get(id).is_none_or(|g| g.is_settled());
            if waiter.open_tasks == 0 && waiter.graphs.iter().all(settled) {
                let reply =
                    Reply::Settled { counts: self.waited_counts(waiter), failures: self.failures(waiter) };
                let message = ToClient { call: call.call, reply };
                out.push(Action::ToClient { peer: call.peer, message, after });
                self.remove_waiter(call);
            }
        }
        if self.now >= self.clients.next_progress {
            self.clients.next_progress = self.now.plus(PROGRESS_INTERVAL);
            for (call, waiter) in self.clients.waiters.iter().filter(|(_, w)| w.progress) {
                let reply = Reply::Progress(self.waited_counts(waiter));
                let message = ToClient { call: call.call, reply };
                out.push(Action::ToClient { peer: call.peer, message, after: None });
            }
        }
    }

    /// A task that was settled may be made again, because its value was lost: whoever waits for it, waits again.
    fn watch_unsettled_again(&mut self, call: Call) {
        let Some(waiter) = self.clients.waiters.get(&call).filter(|w| w.open_tasks == 0) else { return };
        let open = |task: &&TaskId| self.state(**task).is_some_and(|state| !state.is_settled());
        let open: Vec<TaskId> = waiter.tasks.iter().filter(open).copied().collect();
        for task in &open {
            self.clients.by_task.entry(*task).or_default().push(call);
        }
        if let Some(waiter) = self.clients.waiters.get_mut(&call) {
            waiter.open_tasks = open.len();
        }
    }

    fn remove_waiter(&mut self, call: Call) {
        let Some(waiter) = self.clients.waiters.remove(&call) else { return };
        for graph in waiter.graphs {
            if let Some(calls) = self.clients.by_graph.get_mut(&graph) {
                calls.remove(&call);
                if calls.is_empty() {
                    self.clients.by_graph.remove(&graph);
                }
            }
        }
        for task in waiter.tasks {
            if let Some(calls) = self.clients.by_task.get_mut(&task) {
                calls.retain(|other| *other != call);
                if calls.is_empty() {
                    self.clients.by_task.remove(&task);
                }
            }
        }
    }

    fn waited_counts(&self, waiter: &Waiter) -> Counts {
        let mut counts = Counts::default();
        for graph in waiter.graphs.iter().filter_map(|id| self.graphs.get(id)) {
            counts.add(&graph.counts);
        }
        for task in waiter.tasks.iter().filter(|task| !waiter.graphs.contains(&task.graph)) {
            if let Some(state) = self.state(*task) {
                *super::graphs::counter(&mut counts, state) += 1;
            }
        }
        counts
    }

    /// The first failures among what was waited for, causes before consequences.
    fn failures(&self, waiter: &Waiter) -> Vec<Failure> {
        let mut found: Vec<(bool, TaskId)> = Vec::new();
        let mut note = |task: TaskId, kind: ErrorKind| {
            found.push((kind == ErrorKind::Dependency, task));
            // Bounded without losing the first ones of either kind.
            if found.len() > 4 * MAX_FAILURES_TOLD {
                found.sort_unstable();
                found.truncate(MAX_FAILURES_TOLD);
            }
        };
        for graph in waiter.graphs.iter().filter_map(|id| self.graphs.get(id)) {
            graph.errors.iter().for_each(|(index, error)| note(graph.task_id(*index), error.kind));
        }
        for task in &waiter.tasks {
            if let Some(error) = self.error(*task) {
                note(*task, error.kind);
            }
        }
        found.sort_unstable();
        found.dedup();
        found.truncate(MAX_FAILURES_TOLD);
        let failure = |(_, task): (bool, TaskId)| {
            let name = self.graphs.get(&task.graph)?.names.get(&task.index).cloned();
            Some(Failure { task, name, error: self.error(task)?.clone() })
        };
        found.into_iter().filter_map(failure).collect()
    }

    fn on_cancel(&mut self, request: RequestId, keys: &[Key], out: &mut Vec<Action>) -> Reply {
        if let Some(Answered::Cancelled { tasks }) = self.requests.get(&request) {
            return Reply::Cancelled { tasks: *tasks };
        }
        let (graphs, named) = match self.resolve(keys) {
            Ok(resolved) => resolved,
            Err(refusal) => return refusal,
        };
        // Of a whole graph nobody wants what is kept of it either.
        let is_kept = |id: &GraphId| self.graphs.get(id).is_some_and(|graph| graph.is_to_be_kept());
        for graph in graphs.iter().copied().filter(is_kept).collect::<Vec<_>>() {
            self.persist(Record::Unpinned { request, graph }, out);
            self.take_unpin(request, graph);
        }
        let mut tasks = named;
        for graph in graphs.iter().filter_map(|id| self.graphs.get(id)) {
            tasks.extend((0..graph.tasks.len() as u32).map(|index| graph.task_id(index)));
        }
        tasks.retain(|task| self.state(*task).is_some_and(|state| !state.is_settled()));
        self.persist(Record::Cancelled { request, tasks: tasks.clone() }, out);
        let tasks = self.take_cancel(request, &tasks);
        Reply::Cancelled { tasks }
    }

    pub(super) fn take_cancel(&mut self, request: RequestId, tasks: &[TaskId]) -> u64 {
        let cancelled = self.cancel_all(tasks);
        self.note_answer(request, Answered::Cancelled { tasks: cancelled });
        cancelled
    }

    fn on_scale(&mut self, request: RequestId, workers: u32, out: &mut Vec<Action>) -> Reply {
        if let Some(Answered::Scaled { workers }) = self.requests.get(&request) {
            return Reply::Scaled { workers: *workers };
        }
        if self.going_down.is_some() {
            return refuse(RefusalKind::Unavailable, "the cluster is going down");
        }
        self.persist(Record::Target { request, workers }, out);
        self.take_target(request, workers);
        Reply::Scaled { workers }
    }

    pub(super) fn take_target(&mut self, request: RequestId, workers: u32) {
        self.note_answer(request, Answered::Scaled { workers });
        self.allocations.set_target(workers);
    }

    /// `call`: who asked for it, if that was in this epoch.
    pub(super) fn take_down(&mut self, call: Option<(PeerId, u64)>, drain_ms: u64) {
        let until = self.now.plus(Duration::from_millis(drain_ms));
        self.going_down = Some(GoingDown { call, drain_ms, until, left: false });
        self.allocations.set_target(0);
    }

    /// One step of going down, when its time has come or nothing is left to wait for.
    pub(super) fn go_down(&mut self, out: &mut Vec<Action>) {
        let Some(GoingDown { call, drain_ms, until, left }) = self.going_down else { return };
        let placing = self.graphs.values().any(|g| !g.accepted.is_empty());
        let running = placing || self.workers.iter().any(|(_, w)| w.is_expected() && !w.assigned.is_empty());
        if !left && (!running || self.now >= until) {
            let connected = self.workers.iter().filter(|(_, w)| w.peer().is_some());
            let workers: Vec<_> = connected.map(|(index, _)| index).collect();
            for index in workers {
                self.ask_to_leave(index, "the cluster goes down", true, out);
            }
            self.going_down =
                Some(GoingDown { call, drain_ms, until: self.now.plus(LEAVE_GRACE), left: true });
        }
        let Some(GoingDown { call, until, left: true, .. }) = self.going_down else { return };
        let present = self.workers.connected();
        if present == 0 || self.now >= until {
            self.cancel_allocations(self.allocations.open(), out);
            if let Some((peer, call)) = call {
                let message = ToClient { call, reply: Reply::GoingDown { left: present } };
                let after = self.everything_so_far();
                out.push(Action::ToClient { peer, message, after });
            }
            self.dismiss_waiters(out);
            out.push(Action::Exit { reason: "jq down".into() });
        }
    }

    /// Nobody waits for what will never come.
    fn dismiss_waiters(&mut self, out: &mut Vec<Action>) {
        let calls: Vec<Call> = self.clients.waiters.keys().copied().collect();
        for call in calls {
            let reason = "the cluster is not up any more: it was brought down";
            let message = ToClient { call: call.call, reply: refuse(RefusalKind::Unavailable, reason) };
            out.push(Action::ToClient { peer: call.peer, message, after: None });
            self.remove_waiter(call);
        }
    }

    pub(super) fn error(&self, task: TaskId) -> Option<&crate::protocol::TaskError> {
        self.graphs.get(&task.graph)?.errors.get(&task.index)
    }
}
