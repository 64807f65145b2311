//! A new epoch's core from the records of the older ones.
//!
//! What was running may still run: commands stay with the workers they were assigned to, as lost ones, until those
//! register and settle it, or the recovery window has passed. Values are where workers say, when they register:
//! `recovery` has that.

use super::held::micros;
use super::ingest::Part;
use super::task::TaskState;
use super::{Core, CoreConfig};
use crate::graph::TaskId;
use crate::protocol::{AllocationId, AllocationStateName, Execution, Reply, WorkerId};
use crate::scheduler::event::{JournalSeq, Time};
use crate::scheduler::record::{Fate, Record};

const CUT_SHORT: &str = "a snapshot is cut short";

/// A core that takes in the records of older epochs, oldest first.
pub struct Replay {
    core: Core,
    stage: Stage,
    /// Records taken in.
    applied: u64,
    refused: Option<ReplayError>,
}

/// A snapshot comes first, whole, or not at all: its images are in force only with its base.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    Images,
    Records,
}

/// Why records lead to no core: they aren't what one scheduler wrote after the other.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the journal contradicts itself after {applied} sound records: {reason}")]
pub struct ReplayError {
    pub applied: u64,
    pub reason: String,
}

impl Replay {
    /// `now` is the claim's time: what has to wait for former workers waits from then.
    pub fn new(config: CoreConfig, now: Time) -> Replay {
        let mut core = Core::new(config, now);
        core.replaying = true;
        Replay { core, stage: Stage::Start, applied: 0, refused: None }
    }

    /// Takes a record in. After one that can't follow, no more are taken.
    pub fn apply(&mut self, record: Record) {
        if self.refused.is_some() {
            return;
        }
        if let Err(reason) = self.apply_if_sound(record) {
            self.refused = Some(ReplayError { applied: self.applied, reason });
        }
    }

    /// Takes a record in, or leaves everything as it was.
    ///
    /// # Errors
    /// Why it can't follow those before it.
    pub fn apply_if_sound(&mut self, record: Record) -> Result<(), String> {
        let stage = match (self.stage, &record) {
            (Stage::Start | Stage::Images, Record::Image(_)) => Ok(Stage::Images),
            (Stage::Start | Stage::Images, Record::Base(_)) => Ok(Stage::Records),
            (_, Record::Image(_) | Record::Base(_)) => Err("a snapshot comes after other records".to_owned()),
            (Stage::Images, _) => Err(CUT_SHORT.to_owned()),
            (Stage::Start | Stage::Records, _) => Ok(Stage::Records),
        };
        let stage = stage?;
        self.core.apply(record)?;
        self.stage = stage;
        self.applied += 1;
        Ok(())
    }

    /// The snapshot of the core that the records lead to, before it concludes anything of its own, such as that values
    /// are lost which nobody has reported yet.
    ///
    /// # Errors
    /// A record couldn't follow those before it.
    pub fn into_snapshot(self) -> Result<Vec<Record>, ReplayError> {
        let mut core = self.into_core()?;
        core.drop_fates();
        Ok(core.snapshot())
    }

    fn into_core(self) -> Result<Core, ReplayError> {
        match self.refused {
            Some(refused) => Err(refused),
            None if self.stage == Stage::Images => {
                Err(ReplayError { applied: self.applied, reason: CUT_SHORT.to_owned() })
            }
            None => Ok(self.core),
        }
    }

    /// The core that the records lead to. `last` is the number of the last one on disk, this epoch's seal included.
    ///
    /// # Errors
    /// A record couldn't follow those before it.
    pub fn finish(self, last: JournalSeq) -> Result<Core, ReplayError> {
        let mut core = self.into_core()?;
        core.next_seq = JournalSeq(last.0 + 1);
        core.durable = last;
        core.drop_fates();
        core.outbox = super::Outbox::default();
        core.await_values();
        core.index_states();
        core.allocations.note_change();
        // Whoever streamed has to come again.
        let open: Vec<_> = core.graphs.values().filter(|graph| !graph.sealed).map(|graph| graph.id).collect();
        open.into_iter().for_each(|graph| core.stream_broke(graph));
        Ok(core)
    }
}

impl Core {
    /// [`Replay`] in one go.
    ///
    /// # Errors
    /// As [`Replay::finish`].
    pub fn replay(
        config: CoreConfig,
        now: Time,
        records: impl IntoIterator<Item = Record>,
        last: JournalSeq,
    ) -> Result<Core, ReplayError> {
        let mut replay = Replay::new(config, now);
        records.into_iter().for_each(|record| replay.apply(record));
        replay.finish(last)
    }

    fn apply(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Part { graph, request, part, last, columns, options } => {
                let part = Part { request, part, last, columns, options };
                if let Err(Reply::Refused { reason, .. }) = self.check_columns(graph, &part) {
                    return Err(format!("part {} of {graph}: {reason}", part.part));
                }
                self.take_part(graph, part);
            }
            Record::Image(image) => self.restore_image(*image)?,
            Record::Base(base) => self.restore_base(*base),
            Record::Sealed { graph } => self.seal(graph),
            Record::Registered { worker, allocation } => drop(self.former_worker(worker, allocation)),
            Record::Departed { worker } => self.replay_departed(&worker),
            Record::Assigned { worker, executions } => self.replay_assigned(worker, &executions),
            Record::Fates(fates) => self.replay_fates(fates),
            Record::Cancelled { request, tasks } => {
                tasks.iter().for_each(|task| self.lose_again(*task));
                self.take_cancel(request, &tasks);
            }
            Record::Retried { request, tasks } => drop(self.take_retry(request, &tasks)),
            Record::Target { request, workers } => self.take_target(request, workers),
            Record::Intent { allocation } => self.inherit_allocation(allocation),
            Record::GivenUp { allocations } => {
                allocations.into_iter().for_each(|id| self.give_up_allocation(id))
            }
            Record::AllocationOver { allocation } => {
                self.allocations.end(allocation, AllocationStateName::Ended)
            }
            Record::Pinned { graph } => self.take_pin(graph),
            Record::Unpinned { request, graph } => drop(self.take_unpin(request, graph)),
            Record::Forgotten { graph } => self.forget(graph),
            Record::GoingDown { drain_ms } => self.take_down(None, drain_ms),
        }
        Ok(())
    }

    fn replay_assigned(&mut self, worker: WorkerId, executions: &[Execution]) {
        let index = self.former_worker(worker, AllocationId(0));
        for execution in executions {
            let Some(state) = self.state(execution.task).filter(|state| !state.is_settled()) else {
                continue;
            };
            self.set_execution(*execution);
            if matches!(state, TaskState::Accepted { .. }) {
                self.forget_accepted(execution.task);
            }
            self.set_state(execution.task, TaskState::Assigned { worker: index });
        }
    }

    fn set_execution(&mut self, execution: Execution) {
        self.update(execution.task, |record| {
            record.epoch = execution.epoch;
            record.attempt = execution.attempt;
        });
    }

    /// A failure is told with all that ended by it and had succeeded once: that was unfinished again when it came.
    fn replay_fates(&mut self, fates: Vec<(Execution, Fate)>) {
        let is_end = |fate: &Fate| matches!(fate, Fate::Erred { .. } | Fate::Cancelled);
        if !fates.iter().any(|(_, fate)| is_end(fate)) {
            return fates.into_iter().for_each(|(execution, fate)| self.replay_fate(execution, fate));
        }
        let ends: Vec<Option<TaskId>> =
            fates.iter().map(|(e, fate)| is_end(fate).then_some(e.task)).collect();
        for (i, (execution, fate)) in fates.into_iter().enumerate() {
            if i == 0 || ends[i - 1].is_none() {
                ends[i..].iter().map_while(|end| *end).for_each(|task| self.lose_again(task));
            }
            self.replay_fate(execution, fate);
        }
    }

    fn replay_fate(&mut self, execution: Execution, fate: Fate) {
        let task = execution.task;
        let Some(state) = self.state(task).filter(|state| !state.is_settled()) else { return };
        self.set_execution(execution);
        // Whatever comes after an acceptance ends it.
        if matches!(state, TaskState::Accepted { .. }) {
            self.forget_accepted(task);
        }
        match fate {
            // Who holds it is not journalled: registrations tell.
            Fate::Held { nbytes, nanos } => {
                self.update(task, |record| (record.nbytes, record.micros) = (nbytes, micros(nanos)));
                self.finish(task, TaskState::Released);
            }
            Fate::Stored { result, nanos } => {
                self.update(task, |record| record.micros = micros(nanos));
                self.keep_result(task, Some(result));
                self.finish(task, TaskState::Stored);
            }
            Fate::Accepted { outputs, result, nanos } => {
                self.update(task, |record| record.micros = micros(nanos));
                self.keep_result(task, Some(result));
                if let Some(graph) = self.graphs.get_mut(&task.graph) {
                    graph.accepted.insert(task.index, outputs);
                }
                self.set_state(task, TaskState::Accepted { worker: None });
            }
            Fate::Placed => self.finish(task, TaskState::Stored),
            Fate::Revoked => self.run_again(task),
            Fate::Erred { error, result } => {
                self.keep_result(task, result);
                self.fail(task, error);
            }
            Fate::Cancelled => {
                self.cancel(task);
            }
            Fate::Retried => {
                self.update(task, |record| record.retries_used = record.retries_used.saturating_add(1));
                self.run_again(task);
            }
        }
    }

    /// The record that comes now shows that the task was unfinished again by then, because its value had been lost.
    fn lose_again(&mut self, task: TaskId) {
        if self.state(task) == Some(TaskState::Released) {
            self.bring_back(task);
        }
    }

    pub(super) fn forget_accepted(&mut self, task: TaskId) {
        if let Some(graph) = self.graphs.get_mut(&task.graph) {
            graph.accepted.remove(&task.index);
            // Nobody may be wanted any more.
            self.allocations.note_change();
        }
    }
}
