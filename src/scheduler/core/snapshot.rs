//! The core as records from which the same core can be made again, and the way back.
//!
//! "The same" is what a journal can tell: two cores are the same if their snapshots are. Links, holders of values,
//! what is being placed and what was measured are not part of it; after a restart workers tell those anew. A kernel
//! whose value was lost, or is being made again, stands as finished: so the journal has it, and it is made again if
//! somebody needs it and nobody reports it.

use super::Core;
use super::graphs::{GraphState, counter};
use super::ingest::Answered;
use super::roster::Worker;
use super::task::{TaskRecord, TaskState};
use crate::graph::{GraphId, Op, TaskId};
use crate::protocol::{AllocationId, Epoch, Execution, RequestId, WorkerId, WorkerIndex};
use crate::scheduler::image::{Answer, Base, Image, Standing, Whole};
use crate::scheduler::record::Record;
use std::collections::BTreeMap;

/// Tasks and bytes of arguments and results that one image may have: a record is written and read in one piece.
const MAX_TASKS: u32 = 65_536;
const MAX_BYTES: usize = 4 << 20;

impl Core {
    /// Everything that a later epoch has to know, as of the last record that this core wrote. To be called when
    /// nothing is gathered: right after [`Core::settle_down`].
    pub fn snapshot(&self) -> Vec<Record> {
        // Each field is either told or named here with the reason why not: a new one must be thought of.
        let Core {
            graphs,
            next_graph,
            settled_graphs,
            names: _,    // with their tasks
            requests: _, // of graphs with those, others below
            answers,
            workers: _, // they register anew; who is expected, and what they may run, is below
            allocations,
            going_down,
            settled_tasks: _, // from here on: follow from the graphs
            settled_bytes: _,
            broken_streams: _,
            families: _,
            family_index: _,
            classes: _,
            class_index: _,
            unplaced_outputs: _,
            leftovers: _,
            replication: _,
            lost_routes: _,
            // Of this epoch only.
            config: _,
            now: _,
            started: _,
            clients: _,
            releasable: _,
            next_seq: _,
            durable: _,
            fates,
            outbox: _,
            next_sweep: _,
            last_step: _,
            fates_bind: _,
            binding: _,
            replaying: _,
            recovery: _,
        } = self;
        debug_assert!(fates.is_empty(), "fates that are gathered are in no record yet");
        let mut ids: Vec<GraphId> = graphs.keys().copied().collect();
        ids.sort_unstable();
        let mut records = Vec::new();
        let mut history: Vec<GraphId> =
            settled_graphs.iter().copied().filter(|id| graphs.contains_key(id)).collect();
        for id in &ids {
            self.images(&graphs[id], &mut records);
            // Nobody needs what is still being made again there: for the journal it is over.
            if !graphs[id].in_history && !graphs[id].is_pinned() && is_over(&graphs[id]) {
                history.push(*id);
            }
        }
        let answer = |request: &RequestId| Some((*request, self.answer(request)?));
        records.push(Record::Base(Box::new(Base {
            next_graph: *next_graph,
            next_allocation: allocations.next(),
            target: allocations.target,
            answers: answers.iter().filter_map(answer).collect(),
            history,
        })));
        records.extend(self.worker_records(&ids));
        records.extend(allocations.open().into_iter().map(|allocation| Record::Intent { allocation }));
        let given_up = allocations.given_up();
        if !given_up.is_empty() {
            records.push(Record::GivenUp { allocations: given_up });
        }
        records.extend(going_down.as_ref().map(|down| Record::GoingDown { drain_ms: down.drain_ms }));
        records
    }

    /// Who is expected back, who isn't, and the commands that may run on them.
    fn worker_records(&self, ids: &[GraphId]) -> Vec<Record> {
        let mut records = Vec::new();
        // Of one that is only known by what it left behind, no record says that it was there.
        let registered =
            |(_, worker): &(WorkerIndex, &Worker)| worker.registration.allocation != AllocationId(0);
        let mut known: Vec<_> = self.workers.iter().filter(registered).collect();
        known.sort_unstable_by_key(|(index, _)| *index);
        for (_, worker) in known {
            let (id, allocation) = (worker.registration.id.clone(), worker.registration.allocation);
            records.push(Record::Registered { worker: id.clone(), allocation });
            if !worker.is_expected() {
                records.push(Record::Departed { worker: id });
            }
        }
        for (worker, executions) in self.commands_that_may_run(ids) {
            records.push(Record::Assigned { worker, executions });
        }
        records
    }

    fn answer(&self, request: &RequestId) -> Option<Answer> {
        match self.requests.get(request)? {
            Answered::Graph { .. } => None,
            Answered::Forgotten { graph, parts, last } => {
                Some(Answer::Forgotten { graph: *graph, parts: *parts, last: *last })
            }
            Answered::Cancelled { tasks } => Some(Answer::Cancelled { tasks: *tasks }),
            Answered::Retried { tasks } => Some(Answer::Retried { tasks: *tasks }),
            Answered::Scaled { workers } => Some(Answer::Scaled { workers: *workers }),
            Answered::Unpinned { tasks } => Some(Answer::Unpinned { tasks: *tasks }),
        }
    }

    fn commands_that_may_run(&self, ids: &[GraphId]) -> BTreeMap<WorkerId, Vec<Execution>> {
        let mut assigned: BTreeMap<WorkerId, Vec<Execution>> = BTreeMap::new();
        for graph in ids.iter().map(|id| &self.graphs[id]) {
            for (index, record) in graph.tasks.iter().enumerate() {
                let index = index as u32;
                if let TaskState::Assigned { worker } = record.state
                    && !graph.op_entry(index).pure
                    && let Some(worker) = self.workers.get(worker)
                {
                    let (epoch, attempt) = (record.epoch, record.attempt);
                    let execution = Execution { task: graph.task_id(index), epoch, attempt };
                    assigned.entry(worker.registration.id.clone()).or_default().push(execution);
                }
            }
        }
        assigned
    }

    /// The graph in pieces of bounded size; one at least, so that an empty graph is known too.
    fn images(&self, graph: &GraphState, records: &mut Vec<Record>) {
        let total = graph.tasks.len() as u32;
        let (mut first, mut done) = (0, false);
        while !done {
            let (mut end, mut nbytes) = (first, 0);
            while end < total && end - first < MAX_TASKS && nbytes < MAX_BYTES {
                nbytes += graph.task_bytes(end);
                end += 1;
            }
            done = end == total;
            let mut image = self.image(graph, first, end);
            image.last = done.then(|| self.whole(graph));
            records.push(Record::Image(Box::new(image)));
            first = end;
        }
    }

    fn whole(&self, graph: &GraphState) -> Whole {
        let parts = match self.requests.get(&graph.request) {
            Some(Answered::Graph { parts, .. }) => parts.clone(),
            _ => Vec::new(),
        };
        Whole { parts, sealed: graph.sealed, failures: graph.failures }
    }

    fn image(&self, graph: &GraphState, first: u32, end: u32) -> Image {
        let columns = Box::new(graph.export(first, end));
        let count = (end - first) as usize;
        let named = columns
            .names
            .iter()
            .filter(|(index, name)| self.names.get(name) == Some(&TaskId { graph: graph.id, index: *index }));
        let mut image = Image {
            graph: graph.id,
            request: graph.request,
            options: graph.options.clone(),
            first,
            last: None,
            named: named.map(|(index, _)| *index).collect(),
            columns,
            standing: Vec::with_capacity(count),
            epochs: Vec::with_capacity(count),
            attempts: Vec::with_capacity(count),
            nbytes: Vec::with_capacity(count),
            micros: Vec::with_capacity(count),
            used: Vec::new(),
            errors: Vec::new(),
            results: Vec::new(),
            accepted: Vec::new(),
        };
        for index in first..end {
            let record = &graph.tasks[index as usize];
            let pure = graph.op_entry(index).pure;
            // That a kernel is assigned is in no record.
            let forgets = pure && matches!(record.state, TaskState::Assigned { .. });
            image.standing.push(standing(record, pure) as u8);
            image.epochs.push(record.epoch.0);
            image.attempts.push(if forgets { record.attempt.saturating_sub(1) } else { record.attempt });
            image.nbytes.push(record.nbytes);
            image.micros.push(record.micros);
            let used = (index, record.retries_used, record.workers_lost, record.fetch_failures);
            if used != (index, 0, 0, 0) {
                image.used.push(used);
            }
            image.errors.extend(graph.errors.get(&index).map(|error| (index, error.clone())));
            image.results.extend(graph.results.get(&index).map(|result| (index, result.clone())));
            image.accepted.extend(graph.accepted.get(&index).map(|outputs| (index, outputs.clone())));
        }
        image
    }
}

fn is_over(graph: &GraphState) -> bool {
    let settles = |(index, record): (usize, &TaskRecord)| {
        !matches!(standing(record, graph.op_entry(index as u32).pure), Standing::Open | Standing::Accepted)
    };
    graph.sealed && graph.tasks.iter().enumerate().all(settles)
}

fn standing(record: &TaskRecord, pure: bool) -> Standing {
    match record.state {
        TaskState::Waiting { .. } | TaskState::Ready | TaskState::Assigned { .. } => {
            if pure && record.has_ended_well() { Standing::Finished } else { Standing::Open }
        }
        TaskState::Accepted { .. } => Standing::Accepted,
        TaskState::Held { .. } | TaskState::Released => Standing::Finished,
        TaskState::Stored => Standing::Stored,
        TaskState::Erred => Standing::Erred,
        TaskState::Cancelled => Standing::Cancelled,
    }
}

impl Core {
    /// Takes an image in; its tasks come into force with the [`Base`].
    ///
    /// # Errors
    /// It doesn't follow what came before, or contradicts itself.
    pub(super) fn restore_image(&mut self, image: Image) -> Result<(), String> {
        let id = image.graph;
        self.check_image(&image).map_err(|reason| format!("the image of {id}: {reason}"))?;
        let ops: Vec<_> = image.columns.ops.iter().map(|op| self.op_entry(op.clone())).collect();
        let graph =
            self.graphs.entry(id).or_insert_with(|| GraphState::new(id, image.request, image.options));
        graph.ops.extend(ops);
        graph.append(&image.columns);
        for (i, number) in image.standing.iter().enumerate() {
            let record = &mut graph.tasks[image.first as usize + i];
            record.state = match Standing::of_number(*number) {
                Some(Standing::Accepted) => TaskState::Accepted { worker: None },
                Some(Standing::Finished) => TaskState::Released,
                Some(Standing::Stored) => TaskState::Stored,
                Some(Standing::Erred) => TaskState::Erred,
                Some(Standing::Cancelled) => TaskState::Cancelled,
                Some(Standing::Open) | None => TaskState::Waiting { missing: 0 },
            };
            (record.epoch, record.attempt) = (Epoch(image.epochs[i]), image.attempts[i]);
            (record.nbytes, record.micros) = (image.nbytes[i], image.micros[i]);
        }
        for (index, retries, workers, fetches) in image.used {
            let record = &mut graph.tasks[index as usize];
            (record.retries_used, record.workers_lost, record.fetch_failures) = (retries, workers, fetches);
        }
        graph.errors.extend(image.errors);
        graph.results.extend(image.results);
        graph.accepted.extend(image.accepted);
        for index in image.named {
            if let Some(name) = graph.names.get(&index) {
                self.names.insert(name.clone(), TaskId { graph: id, index });
            }
        }
        if let Some(Whole { parts, sealed, failures }) = image.last {
            graph.parts = parts.len() as u32;
            (graph.sealed, graph.failures) = (sealed, failures);
            self.requests.insert(image.request, Answered::Graph { graph: id, parts });
        }
        Ok(())
    }

    /// What later code relies on.
    fn check_image(&self, image: &Image) -> Result<(), String> {
        let graph = self.graphs.get(&image.graph);
        let (tasks, ops, externals) =
            graph.map_or((0, 0, 0), |g| (g.tasks.len() as u32, g.ops.len() as u32, g.externals_len()));
        if tasks != image.first {
            return Err(format!("it begins at task {}, after {tasks}", image.first));
        }
        if image.graph.0 == u32::MAX {
            return Err("no graph has this number".to_owned());
        }
        let edges = graph.map_or(0, GraphState::edge_count) + image.columns.deps.len() as u64;
        if edges >= u64::from(u32::MAX) {
            return Err("it has too many dependencies".to_owned());
        }
        image.columns.check(tasks, ops, externals).map_err(|error| error.to_string())?;
        let count = image.columns.len();
        let lengths = [
            image.standing.len(),
            image.epochs.len(),
            image.attempts.len(),
            image.nbytes.len(),
            image.micros.len(),
        ];
        if lengths.iter().any(|length| *length != count) {
            return Err("its columns disagree in length".to_owned());
        }
        let known = |index: u32| (image.first..image.first + count as u32).contains(&index);
        let sides = image.used.iter().map(|side| side.0).chain(image.named.iter().copied());
        let sides = sides.chain(image.errors.iter().map(|side| side.0));
        let sides = sides.chain(image.results.iter().map(|side| side.0));
        if let Some(index) = sides.chain(image.accepted.iter().map(|side| side.0)).find(|i| !known(*i)) {
            return Err(format!("it has no task {index}"));
        }
        let mut reasons = image.errors.iter().map(|(index, _)| *index).collect::<Vec<_>>();
        let mut outputs = image.accepted.iter().map(|(index, _)| *index).collect::<Vec<_>>();
        reasons.sort_unstable();
        outputs.sort_unstable();
        for (index, number) in (image.first..).zip(&image.standing) {
            let standing = Standing::of_number(*number);
            let sound = match standing {
                Some(Standing::Erred) => reasons.binary_search(&index).is_ok(),
                standing => standing.is_some(),
            };
            let has_outputs = outputs.binary_search(&index).is_ok();
            if !sound || has_outputs != (standing == Some(Standing::Accepted)) {
                return Err(format!("task {index} can't stand as {number}"));
            }
        }
        Ok(())
    }

    /// Puts the images into force: who waits for whom, who may run, what is counted.
    pub(super) fn restore_base(&mut self, base: Base) {
        let mut ids: Vec<GraphId> = self.graphs.keys().copied().collect();
        ids.sort_unstable();
        for id in &ids {
            self.count_restored(*id);
        }
        for id in &ids {
            for index in 0..self.graphs[id].tasks.len() as u32 {
                let task = TaskId { graph: *id, index };
                if matches!(self.state(task), Some(TaskState::Waiting { .. })) {
                    self.run_again(task);
                }
            }
        }
        let highest = ids.last().map_or(1, |id| id.0.saturating_add(1));
        self.next_graph = self.next_graph.max(base.next_graph).max(highest);
        self.allocations.set_next(base.next_allocation);
        self.allocations.set_target(base.target);
        for (request, answer) in base.answers {
            self.note_answer(
                request,
                match answer {
                    Answer::Cancelled { tasks } => Answered::Cancelled { tasks },
                    Answer::Forgotten { graph, parts, last } => Answered::Forgotten { graph, parts, last },
                    Answer::Retried { tasks } => Answered::Retried { tasks },
                    Answer::Scaled { workers } => Answered::Scaled { workers },
                    Answer::Unpinned { tasks } => Answered::Unpinned { tasks },
                },
            );
        }
        // In this order, also those that were settled once and aren't just now.
        for id in base.history {
            self.enter_history(id);
        }
        ids.into_iter().for_each(|id| self.on_graph_progress(id));
    }

    /// Counts a restored graph's tasks, and notes which of them need what.
    fn count_restored(&mut self, id: GraphId) {
        let Some(graph) = self.graphs.get_mut(&id) else { return };
        let mut outside = Vec::new();
        for index in 0..graph.tasks.len() as u32 {
            let state = graph.tasks[index as usize].state;
            let entry = graph.op_entry(index);
            let (family, pure, literal) = (entry.family as usize, entry.pure, matches!(entry.op, Op::Data));
            *counter(&mut graph.counts, state) += 1;
            *counter(&mut self.families[family].counts, state) += 1;
            let needs = pure && !state.is_settled();
            let dependencies: Vec<TaskId> = graph.dependencies(index).collect();
            for dependency in dependencies {
                if dependency.graph != id {
                    outside.push((dependency, index, needs, literal));
                } else if needs && let Some(record) = graph.tasks.get_mut(dependency.index as usize) {
                    record.needed_by += 1;
                }
            }
        }
        for (dependency, index, needs, literal) in outside {
            if let Some(graph) = self.graphs.get_mut(&dependency.graph).filter(|_| !literal) {
                graph
                    .outside_dependents
                    .entry(dependency.index)
                    .or_default()
                    .push(TaskId { graph: id, index });
            }
            if needs {
                self.update(dependency, |record| record.needed_by += 1);
            }
        }
    }
}
