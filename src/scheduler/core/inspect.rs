//! What tests and the simulation look at, beyond actions.

use super::task::TaskState;
use super::{Core, CoreConfig, Replay, ReplayError};
use crate::graph::TaskId;
use crate::protocol::Execution;
use crate::scheduler::event::{PeerId, Time};
use crate::scheduler::record::Record;

impl Core {
    /// Every task with the name of its state.
    pub fn each_state(&self, mut see: impl FnMut(TaskId, &'static str)) {
        for graph in self.graphs.values() {
            for (index, record) in graph.tasks.iter().enumerate() {
                see(graph.task_id(index as u32), name(record.state));
            }
        }
    }

    /// The snapshot of the core that these records lead to, before it concludes anything of its own, such as that
    /// values are lost which nobody has reported yet.
    ///
    /// # Errors
    /// As [`Core::replay`].
    pub fn snapshot_of(records: Vec<Record>) -> Result<Vec<Record>, ReplayError> {
        let mut replay = Replay::new(CoreConfig::default(), Time::default());
        records.into_iter().for_each(|record| replay.apply(record));
        let mut core = replay.into_core()?;
        core.fates.clear();
        Ok(core.snapshot())
    }

    pub fn is_going_down(&self) -> bool {
        self.going_down.is_some()
    }

    pub fn state_name(&self, task: TaskId) -> Option<&'static str> {
        self.state(task).map(name)
    }

    /// The link of the worker that a task is assigned to.
    pub fn assigned_peer(&self, task: TaskId) -> Option<PeerId> {
        match self.state(task) {
            Some(TaskState::Assigned { worker }) => self.workers.get(worker)?.peer(),
            _ => None,
        }
    }

    /// The last execution of a task that this core knows of.
    pub fn current_execution(&self, task: TaskId) -> Option<Execution> {
        self.execution(task)
    }
}

fn name(state: TaskState) -> &'static str {
    match state {
        TaskState::Waiting { .. } => "waiting",
        TaskState::Ready => "ready",
        TaskState::Assigned { .. } => "assigned",
        TaskState::Accepted { .. } => "accepted",
        TaskState::Held { .. } => "held",
        TaskState::Stored => "stored",
        TaskState::Released => "released",
        TaskState::Erred => "erred",
        TaskState::Cancelled => "cancelled",
    }
}
