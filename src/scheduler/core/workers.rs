//! Workers come, go and are lost, and what becomes of their tasks and values then.

use super::Core;
use super::fast::FastSet;
use super::roster::{Presence, Worker};
use super::task::TaskState;
use crate::graph::{Op, TaskId};
use crate::protocol::{
    Completion, ErrorKind, Execution, FromWorker, Holding, Registration, TaskError, ToWorker, WorkerId,
    WorkerIndex,
};
use crate::scheduler::event::{Action, PeerId};
use crate::scheduler::record::Record;

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
                let mut ends = completions.into_iter();
                loop {
                    let taken = self.take_held(worker, ends.as_slice());
                    match ends.nth(taken) {
                        Some(end) => self.on_completion(worker, end),
                        None => break,
                    }
                }
            }
            FromWorker::Replicas(holdings) => {
                for holding in holdings {
                    self.on_replica(worker, holding);
                }
            }
            FromWorker::ValuesLost(tasks) => {
                for task in tasks {
                    let is_answer = self.workers.get_mut(worker).is_some_and(|w| w.struck.remove(&task));
                    if !is_answer {
                        self.strike_off(task, worker);
                    }
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
        // It was told before, but the message may have been lost with the link.
        if let Some((reason, now)) = self.reason_to_leave(index) {
            self.ask_to_leave(index, reason, now, out);
        }
    }

    /// The worker takes nothing more and ends, `now` or when what it runs has ended. One that is lost is told when it
    /// comes back.
    pub(super) fn ask_to_leave(
        &mut self,
        index: WorkerIndex,
        reason: &str,
        now: bool,
        out: &mut Vec<Action>,
    ) {
        self.workers.set_leaving(index);
        if let Some(peer) = self.workers.get(index).and_then(Worker::peer) {
            let message = ToWorker::Leave { reason: reason.to_owned(), now };
            out.push(Action::ToWorker { peer, message, after: None });
        }
    }

    /// Why the worker isn't wanted, if so, and whether that can't wait for what it runs.
    fn reason_to_leave(&self, index: WorkerIndex) -> Option<(&'static str, bool)> {
        let worker = self.workers.get(index)?;
        let given_up = self.allocations.is_superseded(worker.registration.allocation);
        if self.going_down.as_ref().is_some_and(|down| down.left) {
            return Some(("the cluster goes down", true));
        }
        (given_up || worker.leaving).then_some(("scaled down", false))
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
        self.note_gone(index);
        let holds: Vec<TaskId> =
            self.workers.get(index).map(|w| w.holds.iter().copied().collect()).unwrap_or_default();
        for task in holds {
            self.strike_off(task, index);
        }
    }

    pub(super) fn strike_off(&mut self, task: TaskId, index: WorkerIndex) {
        self.workers.drop_holding(index, task);
        self.note_not_held(task, index);
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
                self.note_holders(task);
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

    /// Whether its walltime was over, as far as it or the batch system knows: no task ended it.
    fn is_out_of_time(&self, index: WorkerIndex) -> bool {
        let Some(registration) = self.workers.get(index).map(|w| &w.registration) else { return false };
        let deadline = registration.deadline_unix;
        let is_over = deadline > 0 && self.unix_seconds(self.now) >= deadline;
        is_over || self.allocations.is_blameless(registration.allocation)
    }

    /// No task was at fault: the worker is back and only its link was lost, or its job ended by itself.
    pub(super) fn forgive(&mut self, index: WorkerIndex) {
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
