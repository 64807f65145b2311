//! Workers: who is there, what each runs and holds, and what becomes of it when one is lost.

use super::Core;
use super::fast::{FastMap, FastSet};
use super::task::TaskState;
use crate::graph::{GraphId, Op, Resources, TaskId};
use crate::protocol::{
    AllocationId, Completion, ErrorKind, Execution, FromWorker, Holding, Registration, TaskError, ToWorker,
    WorkerId, WorkerIndex, WorkerStateName,
};
use crate::scheduler::event::{Action, PeerId, Time};
use crate::scheduler::record::Record;
use std::collections::{BTreeSet, HashMap};

/// Lost and departed workers that stay known, for `status` and for late reports.
const MAX_FORMER: usize = 1000;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Presence {
    Connected {
        peer: PeerId,
        last_heard: Time,
    },
    /// The link is gone. Its commands are in doubt until `settle_at`, a report, or its return.
    Lost {
        settle_at: Time,
        reason: String,
    },
    /// Surely dead, or left: nothing of it runs any more.
    Gone {
        reason: String,
    },
}

pub(super) struct Worker {
    pub registration: Registration,
    pub presence: Presence,
    pub leaving: bool,
    pub assigned: FastSet<TaskId>,
    pub holds: FastSet<TaskId>,
    pub cores_assigned: u32,
    pub memory_assigned: u64,
    pub named_assigned: HashMap<String, u32>,
    pub memory_used: u64,
    pub finished: u64,
    /// Tasks against which its loss was counted: taken back if it returns.
    pub blamed: Vec<TaskId>,
    /// Operations that it was sent.
    pub knows_ops: FastSet<(GraphId, u32)>,
    pub knows_peers: FastSet<WorkerIndex>,
}

impl Worker {
    pub fn peer(&self) -> Option<PeerId> {
        match self.presence {
            Presence::Connected { peer, .. } => Some(peer),
            _ => None,
        }
    }

    /// Whether it is there, or may come back.
    pub fn is_expected(&self) -> bool {
        !matches!(self.presence, Presence::Gone { .. })
    }

    pub fn state_name(&self) -> WorkerStateName {
        match self.presence {
            Presence::Connected { .. } if self.leaving => WorkerStateName::Leaving,
            Presence::Connected { .. } => WorkerStateName::Connected,
            Presence::Lost { .. } | Presence::Gone { .. } => WorkerStateName::Lost,
        }
    }

    /// Work per core, in thousandths: what the placement balances.
    fn load(&self) -> u32 {
        let cores = u64::from(self.registration.cores.max(1));
        u32::try_from(u64::from(self.cores_assigned) * 1000 / cores).unwrap_or(u32::MAX)
    }
}

#[derive(Default)]
pub(super) struct Workers {
    list: FastMap<WorkerIndex, Worker>,
    next: u32,
    by_id: HashMap<WorkerId, WorkerIndex>,
    by_peer: FastMap<PeerId, WorkerIndex>,
    by_allocation: FastMap<AllocationId, BTreeSet<WorkerIndex>>,
    /// Connected workers that take tasks, the least loaded first.
    pub by_load: BTreeSet<(u32, WorkerIndex)>,
    former: std::collections::VecDeque<WorkerIndex>,
}

impl Workers {
    pub fn get(&self, index: WorkerIndex) -> Option<&Worker> {
        self.list.get(&index)
    }

    pub fn get_mut(&mut self, index: WorkerIndex) -> Option<&mut Worker> {
        self.list.get_mut(&index)
    }

    pub fn iter(&self) -> impl Iterator<Item = (WorkerIndex, &Worker)> {
        self.list.iter().map(|(index, worker)| (*index, worker))
    }

    pub fn by_peer(&self, peer: PeerId) -> Option<WorkerIndex> {
        self.by_peer.get(&peer).copied()
    }

    pub fn by_id(&self, id: &WorkerId) -> Option<WorkerIndex> {
        self.by_id.get(id).copied()
    }

    pub fn any_alive(&self) -> bool {
        self.list.values().any(Worker::is_expected)
    }

    pub fn connected(&self) -> u32 {
        self.by_peer.len() as u32
    }

    pub fn add(&mut self, registration: Registration, presence: Presence) -> WorkerIndex {
        let index = WorkerIndex(self.next);
        self.next += 1;
        self.by_id.insert(registration.id.clone(), index);
        self.by_allocation.entry(registration.allocation).or_default().insert(index);
        let worker = Worker {
            registration,
            presence,
            leaving: false,
            assigned: FastSet::default(),
            holds: FastSet::default(),
            cores_assigned: 0,
            memory_assigned: 0,
            named_assigned: HashMap::new(),
            memory_used: 0,
            finished: 0,
            blamed: Vec::new(),
            knows_ops: FastSet::default(),
            knows_peers: FastSet::default(),
        };
        self.list.insert(index, worker);
        index
    }

    /// A known worker says anew what it is; what it was told over its old link may be lost.
    pub fn set_registration(&mut self, index: WorkerIndex, registration: Registration) {
        let Some(worker) = self.list.get_mut(&index) else { return };
        self.by_load.remove(&(worker.load(), index));
        if let Some(workers) = self.by_allocation.get_mut(&worker.registration.allocation) {
            workers.remove(&index);
        }
        self.by_allocation.entry(registration.allocation).or_default().insert(index);
        worker.registration = registration;
        worker.knows_ops.clear();
        worker.knows_peers.clear();
        self.reload(index);
    }

    /// Sets the presence, keeping the tables by link and by load true.
    pub fn set_presence(&mut self, index: WorkerIndex, presence: Presence) {
        let Some(worker) = self.list.get_mut(&index) else { return };
        if let Some(peer) = worker.peer() {
            self.by_peer.remove(&peer);
        }
        worker.presence = presence;
        if let Some(peer) = worker.peer() {
            self.by_peer.insert(peer, index);
        }
        if matches!(worker.presence, Presence::Gone { .. }) {
            self.former.push_back(index);
        }
        let load = worker.load();
        self.by_load.remove(&(load, index));
        self.reload(index);
        while self.former.len() > MAX_FORMER
            && let Some(old) = self.former.pop_front()
        {
            if let Some(worker) = self.list.remove(&old) {
                self.by_id.remove(&worker.registration.id);
                let allocation = worker.registration.allocation;
                if let Some(workers) = self.by_allocation.get_mut(&allocation) {
                    workers.remove(&old);
                    if workers.is_empty() {
                        self.by_allocation.remove(&allocation);
                    }
                }
            }
        }
    }

    pub fn set_leaving(&mut self, index: WorkerIndex) {
        let Some(worker) = self.list.get_mut(&index) else { return };
        worker.leaving = true;
        let load = worker.load();
        self.by_load.remove(&(load, index));
    }

    fn reload(&mut self, index: WorkerIndex) {
        let Some(worker) = self.list.get(&index) else { return };
        if worker.peer().is_some() && !worker.leaving {
            self.by_load.insert((worker.load(), index));
        }
    }

    pub fn assign(&mut self, index: WorkerIndex, task: TaskId, resources: &Resources) {
        let Some(worker) = self.list.get_mut(&index) else { return };
        let load = worker.load();
        self.by_load.remove(&(load, index));
        worker.assigned.insert(task);
        worker.cores_assigned = worker.cores_assigned.wrapping_add(resources.cores);
        worker.memory_assigned = worker.memory_assigned.wrapping_add(resources.memory);
        for (name, count) in &resources.named {
            let assigned = worker.named_assigned.entry(name.clone()).or_default();
            *assigned = assigned.saturating_add(*count);
        }
        self.reload(index);
    }

    pub fn unassign(&mut self, index: WorkerIndex, task: TaskId, resources: &Resources) {
        let Some(worker) = self.list.get_mut(&index) else { return };
        let load = worker.load();
        self.by_load.remove(&(load, index));
        if worker.assigned.remove(&task) {
            worker.cores_assigned = worker.cores_assigned.wrapping_sub(resources.cores);
            worker.memory_assigned = worker.memory_assigned.wrapping_sub(resources.memory);
            for (name, count) in &resources.named {
                if let Some(assigned) = worker.named_assigned.get_mut(name) {
                    *assigned = assigned.saturating_sub(*count);
                }
            }
        }
        self.reload(index);
    }

    pub fn add_holding(&mut self, index: WorkerIndex, task: TaskId) {
        if let Some(worker) = self.list.get_mut(&index) {
            worker.holds.insert(task);
        }
    }

    pub fn drop_holding(&mut self, index: WorkerIndex, task: TaskId) {
        if let Some(worker) = self.list.get_mut(&index) {
            worker.holds.remove(&task);
        }
    }

    pub fn forget_ops(&mut self, graph: GraphId) {
        for worker in self.list.values_mut() {
            worker.knows_ops.retain(|(of, _)| *of != graph);
        }
    }

    pub fn heard_from(&mut self, index: WorkerIndex, now: Time) {
        if let Some(Presence::Connected { last_heard, .. }) =
            self.list.get_mut(&index).map(|w| &mut w.presence)
        {
            *last_heard = now;
        }
    }

    /// Workers of this allocation, connected or lost.
    pub fn of_allocation(&self, allocation: AllocationId) -> Vec<WorkerIndex> {
        let is_there = |index: &WorkerIndex| self.list.get(index).is_some_and(Worker::is_expected);
        self.by_allocation.get(&allocation).into_iter().flatten().copied().filter(is_there).collect()
    }

    /// Nobody could be heard for so long.
    pub fn excuse_silence(&mut self, span: std::time::Duration) {
        for worker in self.list.values_mut() {
            if let Presence::Connected { last_heard, .. } = &mut worker.presence {
                *last_heard = last_heard.plus(span);
            }
        }
    }
}

impl Core {
    pub(super) fn on_worker_message(&mut self, peer: PeerId, message: FromWorker, out: &mut Vec<Action>) {
        match message {
            FromWorker::Register(registration) => return self.on_register(peer, *registration, out),
            FromWorker::Dead { id, verdict } => return self.on_dead(&id, &verdict, out),
            _ => {}
        }
        let Some(worker) = self.workers.by_peer(peer) else {
            return self.close(peer, "the first message of a worker must be its registration", out);
        };
        self.workers.heard_from(worker, self.now);
        match message {
            FromWorker::Heartbeat { memory, .. } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.memory_used = memory;
                }
                out.push(Action::ToWorker { peer, message: ToWorker::HeartbeatAnswer, after: None });
            }
            FromWorker::Finished(completions) => {
                for completion in completions {
                    self.on_completion(worker, completion);
                }
            }
            FromWorker::Replicas(holdings) => {
                for holding in holdings {
                    self.on_replica(worker, holding);
                }
            }
            FromWorker::ValuesLost(tasks) => {
                for task in tasks {
                    self.strike_off(task, worker);
                }
            }
            FromWorker::Placed { execution, outcome } => self.on_placed(worker, execution, outcome),
            FromWorker::Goodbye { reason } => {
                let reason = format!("left: {reason}");
                self.on_departed(worker, &reason, out);
            }
            FromWorker::Register(_) | FromWorker::Dead { .. } => {}
        }
    }

    fn on_register(&mut self, peer: PeerId, mut registration: Registration, out: &mut Vec<Action>) {
        if let Some(reason) = self.reason_to_refuse(&registration) {
            out.push(Action::ToWorker {
                peer,
                message: ToWorker::Refused { reason: reason.clone() },
                after: None,
            });
            return self.close(peer, &reason, out);
        }
        let holds = std::mem::take(&mut registration.holds);
        let runs = std::mem::take(&mut registration.runs);
        let completions = std::mem::take(&mut registration.completions);
        let connected = Presence::Connected { peer, last_heard: self.now };
        let index = match self.workers.by_id(&registration.id) {
            Some(index) => {
                if let Some(old) = self.workers.get(index).and_then(Worker::peer) {
                    self.close(old, "the worker has connected anew", out);
                }
                self.outbox.drop_letter(index);
                self.forgive(index);
                self.workers.set_registration(index, registration);
                self.workers.set_presence(index, connected);
                index
            }
            None => {
                let (worker, allocation) = (registration.id.clone(), registration.allocation);
                self.persist(Record::Registered { worker, allocation }, out);
                let index = self.workers.add(registration, Presence::Gone { reason: String::new() });
                self.workers.set_presence(index, connected);
                index
            }
        };
        let heartbeat_ms = self.config.heartbeat.as_millis() as u64;
        let welcome = ToWorker::Welcome { epoch: self.config.epoch, index, heartbeat_ms };
        out.push(Action::ToWorker { peer, message: welcome, after: None });
        self.on_worker_started(index);
        self.settle_registration(index, &holds, &runs, completions);
        self.tell_to_leave_again(index, peer, out);
    }

    /// It was told before, but the message may have been lost with the link.
    fn tell_to_leave_again(&mut self, index: WorkerIndex, peer: PeerId, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get(index) else { return };
        let given_up = self.allocations.is_superseded(worker.registration.allocation);
        if let Some(now) = self.going_down.as_ref().map(|d| d.left).filter(|left| *left) {
            let message = ToWorker::Leave { reason: "the cluster goes down".into(), now };
            self.workers.set_leaving(index);
            out.push(Action::ToWorker { peer, message, after: None });
        } else if given_up || worker.leaving {
            let message = ToWorker::Leave { reason: "scaled down".into(), now: false };
            self.workers.set_leaving(index);
            out.push(Action::ToWorker { peer, message, after: None });
        }
    }

    fn reason_to_refuse(&self, registration: &Registration) -> Option<String> {
        let known = self.workers.by_id(&registration.id).and_then(|index| self.workers.get(index));
        if self.going_down.is_some() && known.is_none() {
            return Some("the cluster is going down".into());
        }
        if let Some(Worker { presence: Presence::Gone { reason }, .. }) = known {
            return Some(format!("this incarnation is over: {reason}"));
        }
        if known.is_none() && self.allocations.is_superseded(registration.allocation) {
            return Some(format!("allocation {} is not wanted any more", registration.allocation));
        }
        None
    }

    /// What the worker lists settles every doubt about it: it runs this, it holds that, and it never got the rest.
    fn settle_registration(
        &mut self,
        index: WorkerIndex,
        holds: &[Holding],
        runs: &[Execution],
        completions: Vec<Completion>,
    ) {
        // What the old link carried is lost: outputs that it was told to place, or said that it had placed, too.
        self.reassign_outputs(index);
        let listed: FastSet<Execution> =
            runs.iter().copied().chain(completions.iter().map(|completion| completion.execution)).collect();
        let assigned: Vec<TaskId> =
            self.workers.get(index).map(|w| w.assigned.iter().copied().collect()).unwrap_or_default();
        for task in assigned {
            if !self.execution(task).is_some_and(|current| listed.contains(&current)) {
                self.run_again(task);
            }
        }
        for execution in runs {
            if !self.is_current(*execution, index) && !self.adopt(*execution, index) {
                self.outbox.cancel(index, *execution);
            }
        }
        for completion in completions {
            self.on_completion(index, completion);
        }
        for holding in holds {
            self.on_replica(index, *holding);
        }
    }

    /// The supervisor's word: that incarnation is dead, and all that it started.
    fn on_dead(&mut self, id: &WorkerId, verdict: &str, out: &mut Vec<Action>) {
        if let Some(index) = self.workers.by_id(id) {
            self.on_departed(index, verdict, out);
        }
    }

    /// Nothing of this worker runs any more: what it ran can be placed again.
    pub(super) fn on_departed(&mut self, index: WorkerIndex, reason: &str, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get(index) else { return };
        if matches!(worker.presence, Presence::Gone { .. }) {
            return;
        }
        let clean = reason.starts_with("left");
        let (peer, id) = (worker.peer(), worker.registration.id.clone());
        if let Some(peer) = peer {
            self.close(peer, reason, out);
        }
        self.persist(Record::Departed { worker: id }, out);
        self.workers.set_presence(index, Presence::Gone { reason: reason.to_owned() });
        self.allocations.note_change();
        self.lose_values_of(index);
        self.take_back(index, reason, clean, |_| true);
    }

    pub(super) fn on_peer_lost(&mut self, peer: PeerId, reason: &str, out: &mut Vec<Action>) {
        self.on_client_lost(peer);
        if let Some(index) = self.workers.by_peer(peer) {
            self.on_lost(index, reason, out);
        }
    }

    /// The link is gone. Kernels go elsewhere at once; commands wait until it is sure that they don't run.
    fn on_lost(&mut self, index: WorkerIndex, reason: &str, out: &mut Vec<Action>) {
        let allocation = self.workers.get(index).map(|w| w.registration.allocation);
        if allocation.is_some_and(|id| self.allocations.is_confirmed_over(id)) {
            return self.on_departed(index, &format!("its job ended: {reason}"), out);
        }
        let settle_at = self.now.plus(self.config.death_timeout + super::LOST_COMMAND_MARGIN);
        self.workers.set_presence(index, Presence::Lost { settle_at, reason: reason.to_owned() });
        self.lose_values_of(index);
        self.take_back(index, reason, false, Op::is_pure);
        out.push(Action::Poll);
    }

    fn lose_values_of(&mut self, index: WorkerIndex) {
        let holds: Vec<TaskId> =
            self.workers.get(index).map(|w| w.holds.iter().copied().collect()).unwrap_or_default();
        for task in holds {
            self.strike_off(task, index);
        }
    }

    pub(super) fn strike_off(&mut self, task: TaskId, index: WorkerIndex) {
        self.workers.drop_holding(index, task);
        let Some(TaskState::Held { worker: first }) = self.state(task) else { return };
        let mut others = self.holders(task, first);
        if !others.contains(&index) {
            return;
        }
        others.retain(|holder| *holder != index);
        match others.first().copied() {
            None => self.lose_value(task),
            Some(next) => {
                if let Some(graph) = self.graphs.get_mut(&task.graph) {
                    graph.replicas.insert(task.index, others[1..].to_vec());
                }
                self.update(task, |record| record.state = TaskState::Held { worker: next });
            }
        }
    }

    /// Takes tasks of a lost worker back: they are placed again, or failed if they lost too many workers.
    fn take_back(&mut self, index: WorkerIndex, reason: &str, clean: bool, which: impl Fn(&Op) -> bool) {
        let Some(worker) = self.workers.get(index) else { return };
        let name = worker.registration.id.name.clone();
        let no_fault = clean || self.is_out_of_time(index);
        let mut tasks: Vec<TaskId> = worker.assigned.iter().copied().collect();
        tasks.sort_unstable();
        for task in tasks {
            let Some(op) = self.graphs.get(&task.graph).map(|g| &g.op_entry(task.index).op) else { continue };
            if !which(op) {
                continue;
            }
            let at_most_once = matches!(op, Op::Command(spec) if spec.at_most_once);
            if at_most_once && !clean {
                let message = format!("worker {name} was lost ({reason}) and it isn't known whether it ran");
                let error = TaskError { kind: ErrorKind::OutcomeUnknown, message };
                self.fail_for_good(task, error);
            } else {
                self.count_loss(task, index, &name, reason, no_fault);
            }
        }
        self.reassign_outputs(index);
    }

    /// Whether its walltime was over: the batch system ended it, no task did.
    fn is_out_of_time(&self, index: WorkerIndex) -> bool {
        let deadline = self.workers.get(index).map_or(0, |w| w.registration.deadline_unix);
        deadline > 0 && self.unix_seconds(self.now) >= deadline
    }

    /// The worker is back: only its link was lost, and that was no task's fault.
    fn forgive(&mut self, index: WorkerIndex) {
        for task in self.workers.get_mut(index).map(|w| std::mem::take(&mut w.blamed)).unwrap_or_default() {
            self.update(task, |record| record.workers_lost = record.workers_lost.saturating_sub(1));
        }
    }

    fn count_loss(&mut self, task: TaskId, index: WorkerIndex, worker: &str, reason: &str, no_fault: bool) {
        if !no_fault {
            self.update(task, |record| record.workers_lost = record.workers_lost.saturating_add(1));
            if let Some(worker) = self.workers.get_mut(index) {
                worker.blamed.push(task);
            }
        }
        let lost = self.record(task).map_or(0, |r| r.workers_lost);
        if lost >= self.config.max_workers_lost {
            let message =
                format!("{lost} workers were lost while they ran it, the last one {worker}: {reason}");
            self.fail_for_good(task, TaskError { kind: ErrorKind::WorkerLost, message });
        } else {
            self.run_again(task);
        }
    }

    /// Outputs that the lost worker was to bring to their place: somebody else does.
    pub(super) fn reassign_outputs(&mut self, index: WorkerIndex) {
        let open: Vec<TaskId> = self
            .graphs
            .values()
            .flat_map(|g| g.accepted.keys().map(|task| g.task_id(*task)))
            .filter(|task| self.state(*task) == Some(TaskState::Accepted { worker: Some(index) }))
            .collect();
        for task in open {
            self.set_state(task, TaskState::Accepted { worker: None });
        }
    }

    /// Silent workers are lost; commands of lost ones are taken back when nothing of them can run any more.
    pub(super) fn sweep_workers(&mut self, out: &mut Vec<Action>) {
        let now = self.now;
        let silence = self.config.silence;
        let connected = || self.workers.iter().map(|(_, w)| w).filter(|w| w.peer().is_some());
        let cores = connected().map(|w| w.registration.cores).sum();
        let busy = connected().map(|w| w.cores_assigned.min(w.registration.cores)).sum();
        self.allocations.sample(now, busy, cores);
        let mut silent = Vec::new();
        let mut settled = Vec::new();
        for (index, worker) in self.workers.iter() {
            match &worker.presence {
                Presence::Connected { peer, last_heard } if now.since(*last_heard) >= silence => {
                    silent.push((index, *peer));
                }
                Presence::Lost { settle_at, .. } if *settle_at <= now => settled.push(index),
                _ => {}
            }
        }
        silent.sort_unstable();
        settled.sort_unstable();
        for (index, peer) in silent {
            let reason = format!("nothing heard for {} s", silence.as_secs());
            self.close(peer, &reason, out);
            self.on_lost(index, &reason, out);
        }
        for index in settled {
            let reason = self.workers.get(index).map(|w| match &w.presence {
                Presence::Lost { reason, .. } | Presence::Gone { reason } => reason.clone(),
                Presence::Connected { .. } => String::new(),
            });
            self.on_departed(index, &reason.unwrap_or_default(), out);
        }
    }
}
