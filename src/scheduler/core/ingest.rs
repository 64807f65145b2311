//! Graphs in: parts of a stream become records, each exactly once; and out: settled ones are forgotten in time.

use super::ready::Ready;
use super::task::TaskState;
use super::{Class, Core, Family, GraphState};
use crate::config::display_size;
use crate::graph::{Columns, GraphId, Key, Op, Resources, TaskId};
use crate::protocol::{Counts, GraphOptions, RefusalKind, Reply, RequestId};
use crate::scheduler::event::Action;
use crate::scheduler::record::Record;

/// Settled graphs that stay known, whatever their size: each costs a few hundred bytes.
const MAX_SETTLED_GRAPHS: usize = 100_000;

/// What the scheduler keeps of settled graphs' arguments and results, in its memory.
const MAX_SETTLED_BYTES: u64 = 512 << 20;

/// What a changing request was answered with: a repeat gets the same.
pub(super) enum Answered {
    /// Parts by number: first task and count.
    Graph {
        graph: GraphId,
        parts: Vec<(u32, u32)>,
    },
    /// Of a graph that is forgotten: how many parts it had, and the last one's first task and count.
    Forgotten {
        graph: GraphId,
        parts: u32,
        last: (u32, u32),
    },
    Cancelled {
        tasks: u64,
    },
    Retried {
        tasks: u64,
    },
    Scaled {
        workers: u32,
    },
    Unpinned {
        tasks: u64,
    },
}

pub(super) struct Part {
    pub request: RequestId,
    pub part: u32,
    pub last: bool,
    pub columns: Box<Columns>,
    pub options: GraphOptions,
}

pub(super) fn refuse(kind: RefusalKind, reason: impl Into<String>) -> Reply {
    Reply::Refused { kind, reason: reason.into() }
}

impl Core {
    /// A part of a graph from a client: repeated ones get their first answer, others are checked, journalled, taken.
    pub(super) fn on_submit(&mut self, part: Part, out: &mut Vec<Action>) -> Reply {
        if let Some(answer) = self.repeated_submit(&part) {
            return answer;
        }
        if self.going_down.is_some() {
            return refuse(RefusalKind::Unavailable, "the cluster is going down");
        }
        let graph = match self.requests.get(&part.request) {
            Some(Answered::Graph { graph, .. }) => *graph,
            _ => GraphId(self.next_graph),
        };
        if let Err(refusal) = self.check_part(graph, &part) {
            // A client that is refused streams no more.
            self.stream_broke(graph);
            return refusal;
        }
        let Part { request, part, last, columns, options } = part;
        let record =
            Record::Part { graph, request, part, last, columns: columns.clone(), options: options.clone() };
        let seq = self.persist(record, out);
        let reply = self.take_part(graph, Part { request, part, last, columns, options });
        if let (Reply::Submitted { first, .. }, Some(graph)) = (&reply, self.graphs.get_mut(&graph)) {
            graph.note_part(*first, seq, self.durable);
        }
        reply
    }

    fn repeated_submit(&self, part: &Part) -> Option<Reply> {
        match self.requests.get(&part.request)? {
            Answered::Graph { graph, parts } => {
                let (first, tasks) = *parts.get(part.part as usize)?;
                Some(Reply::Submitted { graph: *graph, first, tasks })
            }
            // Earlier parts were acknowledged, or their client would not have sent the last.
            Answered::Forgotten { graph, parts, last: (first, tasks) } if part.part + 1 == *parts => {
                Some(Reply::Submitted { graph: *graph, first: *first, tasks: *tasks })
            }
            Answered::Forgotten { graph, .. } => {
                let reason = format!("{graph} is complete, and forgotten by now: no part may follow");
                Some(refuse(RefusalKind::Usage, reason))
            }
            _ => Some(refuse(RefusalKind::Usage, "this request id was used for something else")),
        }
    }

    fn check_part(&self, graph: GraphId, part: &Part) -> Result<(), Reply> {
        let usage = |reason: String| Err(refuse(RefusalKind::Usage, reason));
        self.check_columns(graph, part)?;
        if let Some(reason) = part.columns.ops.iter().find_map(|op| self.exceeds_workers(op)) {
            return usage(reason);
        }
        for (_, name) in &part.columns.names {
            match Key::named(name) {
                Err(error) => return usage(error.to_string()),
                Ok(_) => {
                    if let Some(task) = self.unfinished_of_name(name) {
                        return usage(format!("there is an unfinished task named '{name}' already: {task}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// What later code relies on, whoever brings the part.
    pub(super) fn check_columns(&self, graph: GraphId, part: &Part) -> Result<(), Reply> {
        let usage = |reason: String| Err(refuse(RefusalKind::Usage, reason));
        if graph.0 == u32::MAX {
            return usage("this cluster has had all the graphs it can have".into());
        }
        let (first, ops, externals, edges) = match self.graphs.get(&graph) {
            Some(g) if g.sealed => return usage(format!("{graph} is complete: no part may follow")),
            Some(g) if g.parts != part.part => {
                return usage(format!("part {} is not the next one", part.part));
            }
            Some(g) => (g.tasks.len() as u32, g.ops.len() as u32, g.externals_len(), g.edge_count()),
            None if part.part != 0 => return usage("the first part of this graph never came".into()),
            None => (0, 0, 0, 0),
        };
        if edges + part.columns.deps.len() as u64 >= u64::from(u32::MAX) {
            return usage("the graph has more than 4294967294 dependencies".into());
        }
        if let Err(error) = part.columns.check(first, ops, externals) {
            return usage(error.to_string());
        }
        if let Some(outside) = part.columns.externals.iter().find(|task| self.state(**task).is_none()) {
            return Err(refuse(RefusalKind::Unknown, format!("there is no task {outside} to depend on")));
        }
        Ok(())
    }

    /// Why no worker of this cluster could ever run such a task.
    fn exceeds_workers(&self, op: &Op) -> Option<String> {
        let (shape, needs) = (self.config.worker_shape.as_ref()?, op.resources());
        if needs.cores > shape.cores {
            let (has, wants) = (shape.cores, needs.cores);
            return Some(format!(
                "a task wants {wants} cores, and workers of this cluster have {has}: see `up --cores`"
            ));
        }
        if shape.memory > 0 && needs.memory > shape.memory {
            let (has, wants) = (display_size(shape.memory), display_size(needs.memory));
            return Some(format!(
                "a task wants {wants} of memory, and workers of this cluster have {has}: see `up --memory`"
            ));
        }
        let has = |name: &str| shape.named.iter().find(|(n, _)| n == name).map_or(0, |(_, count)| *count);
        let (name, wants) = needs.named.iter().find(|(name, count)| *count > has(name))?;
        Some(format!("a task wants {name}={wants}, and workers of this cluster have {name}={}", has(name)))
    }

    /// A name may be used again once the task that has it is settled.
    fn unfinished_of_name(&self, name: &str) -> Option<TaskId> {
        let task = *self.names.get(name)?;
        self.state(task).filter(|state| !state.is_settled()).map(|_| task)
    }

    /// Takes a checked part in. Also the way in of replay.
    pub(super) fn take_part(&mut self, id: GraphId, part: Part) -> Reply {
        let Part { request, last, columns, options, .. } = part;
        self.next_graph = self.next_graph.max(id.0 + 1);
        self.broken_streams.remove(&id);
        let ops: Vec<_> = columns.ops.iter().map(|op| self.op_entry(op.clone())).collect();
        let graph = self.graphs.entry(id).or_insert_with(|| GraphState::new(id, request, options));
        graph.parts += 1;
        graph.sealed = last;
        graph.ops.extend(ops);
        let first = graph.append(&columns);
        let tasks = columns.len() as u32;
        for (index, name) in &columns.names {
            self.names.insert(name.clone(), TaskId { graph: id, index: *index });
        }
        // All are known before any gets its state: what happens to one may reach those that depend on it.
        self.introduce_part(id, first);
        // Too many may have failed before this part came: then nothing of it sets out, or needs values again.
        self.enforce_max_failures(id);
        self.set_part_out(id, first);
        let answered =
            self.requests.entry(request).or_insert(Answered::Graph { graph: id, parts: Vec::new() });
        if let Answered::Graph { parts, .. } = answered {
            parts.push((first, tasks));
        }
        self.on_graph_progress(id);
        Reply::Submitted { graph: id, first, tasks }
    }

    pub(super) fn op_entry(&mut self, op: Op) -> super::graphs::OpEntry {
        let (class, family, pure) = (self.class(op.resources()), self.family(op.family()), op.is_pure());
        super::graphs::OpEntry { op, class, family, pure }
    }

    fn class(&mut self, resources: Resources) -> u32 {
        if let Some(index) = self.class_index.get(&resources) {
            return *index;
        }
        let index = self.classes.len() as u32;
        self.classes.push(Class { resources: resources.clone(), ready: Ready::default() });
        self.class_index.insert(resources, index);
        index
    }

    fn family(&mut self, name: &str) -> u32 {
        if let Some(index) = self.family_index.get(name) {
            return *index;
        }
        let index = self.families.len() as u32;
        let family = Family { name: name.to_owned(), counts: Counts::default(), mean_micros: 0.0 };
        self.families.push(family);
        self.family_index.insert(name.to_owned(), index);
        index
    }

    /// The client that streams this graph is gone: it has a while to come back.
    pub(super) fn stream_broke(&mut self, graph: GraphId) {
        if self.graphs.get(&graph).is_some_and(|g| !g.sealed) {
            self.broken_streams.insert(graph, self.now.plus(self.config.stream_timeout));
        }
    }

    pub(super) fn sweep_streams(&mut self, out: &mut Vec<Action>) {
        let due: Vec<_> =
            self.broken_streams.iter().filter(|(_, at)| **at <= self.now).map(|(g, _)| *g).collect();
        for graph in due {
            self.broken_streams.remove(&graph);
            self.persist(Record::Sealed { graph }, out);
            self.seal(graph);
        }
    }

    pub(super) fn seal(&mut self, id: GraphId) {
        if let Some(graph) = self.graphs.get_mut(&id) {
            graph.sealed = true;
        }
        self.on_graph_progress(id);
    }

    /// Forgets the oldest settled graphs beyond what is kept; their values are freed.
    pub(super) fn forget_history(&mut self, out: &mut Vec<Action>) {
        let full = |core: &Core| {
            core.settled_tasks > core.config.keep_settled
                || core.settled_graphs.len() > MAX_SETTLED_GRAPHS
                || core.settled_bytes > MAX_SETTLED_BYTES
        };
        // Each is looked at once: what is still watched or needed goes to the end of the queue.
        for _ in 0..self.settled_graphs.len().saturating_sub(1) {
            if !full(self) {
                return;
            }
            let Some(id) = self.settled_graphs.pop_front() else { return };
            let Some(graph) = self.graphs.get(&id) else { continue };
            let needed = graph.tasks.iter().any(|record| record.needed_by > 0);
            let free = !needed && !self.is_depended_on(graph) && !self.clients.watches(id);
            if graph.is_settled() && free {
                self.settled_tasks = self.settled_tasks.saturating_sub(graph.tasks.len() as u64);
                self.settled_bytes = self.settled_bytes.saturating_sub(graph.kept_bytes());
                self.persist(Record::Forgotten { graph: id }, out);
                self.forget(id);
            } else {
                self.settled_graphs.push_back(id);
            }
        }
    }

    /// Notes an answer that goes with no graph.
    pub(super) fn note_answer(&mut self, request: RequestId, answered: Answered) {
        if self.requests.insert(request, answered).is_none() {
            self.answers.push_back(request);
        }
        while self.answers.len() > self.config.keep_answers
            && let Some(old) = self.answers.pop_front()
        {
            self.requests.remove(&old);
        }
    }

    /// A repeat of a submit makes no second graph, though nobody knows the first any more.
    fn note_forgotten(&mut self, request: RequestId) {
        if let Some(Answered::Graph { graph, parts }) = self.requests.get(&request)
            && let Some(last) = parts.last()
        {
            let parts = u32::try_from(parts.len()).unwrap_or(u32::MAX);
            let forgotten = Answered::Forgotten { graph: *graph, parts, last: *last };
            self.requests.remove(&request);
            self.note_answer(request, forgotten);
        }
    }

    /// The graph was settled once: from now on its turn to be forgotten comes nearer.
    pub(super) fn enter_history(&mut self, id: GraphId) {
        let enters = |graph: &&mut GraphState| !graph.is_pinned() && !graph.in_history;
        if let Some(graph) = self.graphs.get_mut(&id).filter(enters) {
            graph.in_history = true;
            self.settled_tasks += graph.tasks.len() as u64;
            self.settled_bytes += graph.kept_bytes();
            self.settled_graphs.push_back(id);
            if graph.counts.erred + graph.counts.cancelled > 0 {
                self.leftovers.extend_from_slice(&graph.options.unfinished);
            }
        }
    }

    /// It is to be worked on again: its turn to be forgotten begins anew when it is settled again.
    pub(super) fn leave_history(&mut self, id: GraphId) {
        if let Some(graph) = self.graphs.get_mut(&id).filter(|graph| graph.in_history) {
            graph.in_history = false;
            self.settled_tasks = self.settled_tasks.saturating_sub(graph.tasks.len() as u64);
            self.settled_bytes = self.settled_bytes.saturating_sub(graph.kept_bytes());
            self.settled_graphs.retain(|other| *other != id);
        }
    }

    /// Whether later graphs lean on this one: commands that come after it, kernels that would be made again from it.
    fn is_depended_on(&self, graph: &GraphState) -> bool {
        let leans = |task: &TaskId| {
            self.state(*task).is_some_and(|state| !state.is_settled() || self.consumes_values(*task))
        };
        graph.outside_dependents.values().flatten().any(leans)
    }

    pub(super) fn forget(&mut self, id: GraphId) {
        let Some(graph) = self.graphs.get(&id) else { return };
        let tasks: Vec<(TaskId, TaskState)> = (0..graph.tasks.len() as u32)
            .map(|index| (graph.task_id(index), graph.tasks[index as usize].state))
            .collect();
        for (task, state) in tasks {
            // By the rules everything is settled; a journal may say otherwise.
            if !state.is_settled() {
                self.drop_inputs(task);
            }
            if let TaskState::Held { worker } = state {
                for holder in self.holders(task, worker) {
                    self.outbox.free_forgotten(holder, task);
                }
            }
            // Off the workers' tables.
            if matches!(state, TaskState::Held { .. } | TaskState::Assigned { .. }) {
                self.set_state(task, TaskState::Released);
            }
        }
        let Some(graph) = self.graphs.remove(&id) else { return };
        for dependency in graph.externals() {
            if let Some(other) = self.graphs.get_mut(&dependency.graph) {
                other.forget_dependents(dependency.index, id);
            }
        }
        for record in &graph.tasks {
            let family = graph.ops[record.op as usize].family as usize;
            *super::graphs::counter(&mut self.families[family].counts, record.state) -= 1;
        }
        for (index, name) in &graph.names {
            if self.names.get(name) == Some(&TaskId { graph: id, index: *index }) {
                self.names.remove(name);
            }
        }
        self.note_forgotten(graph.request);
        // By the rules nobody waits for it; whoever does all the same, waits no more.
        for task in graph.outside_dependents.into_values().flatten() {
            if matches!(self.state(task), Some(TaskState::Waiting { .. })) {
                self.run_again(task);
            }
        }
        self.outbox.forget(id);
        self.workers.forget_ops(id);
    }
}
