//! One task, small and flat: everything long is in its graph's columns and side tables.

use crate::protocol::{Epoch, TaskStateName, WorkerIndex};

/// No entry, in columns of indexes.
pub const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskState {
    /// For so many dependencies.
    Waiting {
        missing: u32,
    },
    Ready,
    Assigned {
        worker: WorkerIndex,
    },
    /// Its outputs are accepted; that worker brings them to their place (`None`: somebody has to be found).
    Accepted {
        worker: Option<WorkerIndex>,
    },
    /// Finished; this worker holds the value, others may too.
    Held {
        worker: WorkerIndex,
    },
    /// Finished; the scheduler has the value itself.
    Stored,
    /// Finished; nobody needed the value any more.
    Released,
    Erred,
    Cancelled,
}

impl TaskState {
    pub fn name(self) -> TaskStateName {
        match self {
            TaskState::Waiting { .. } => TaskStateName::Waiting,
            TaskState::Ready => TaskStateName::Ready,
            TaskState::Assigned { .. } | TaskState::Accepted { .. } => TaskStateName::Assigned,
            TaskState::Held { .. } | TaskState::Stored | TaskState::Released => TaskStateName::Memory,
            TaskState::Erred => TaskStateName::Erred,
            TaskState::Cancelled => TaskStateName::Cancelled,
        }
    }

    /// Whether it won't change by itself any more.
    pub fn is_settled(self) -> bool {
        self.is_finished() || matches!(self, TaskState::Erred | TaskState::Cancelled)
    }

    pub fn is_finished(self) -> bool {
        matches!(self, TaskState::Held { .. } | TaskState::Stored | TaskState::Released)
    }

    /// Whether a dependent could get the value now.
    pub fn has_value(self) -> bool {
        matches!(self, TaskState::Held { .. } | TaskState::Stored)
    }
}

/// 48 bytes a task.
#[derive(Clone, Debug)]
pub struct TaskRecord {
    pub state: TaskState,
    pub op: u32,
    /// Of the last execution; the first is 1.
    pub attempt: u32,
    pub epoch: Epoch,
    /// First edge of the list of dependents, in the graph's edge columns.
    pub first_dependent: u32,
    /// Dependents that may still need the value.
    pub needed_by: u32,
    pub nbytes: u64,
    /// Microseconds of the last execution, saturating.
    pub micros: u32,
    pub retries_used: u16,
    /// Different workers that were lost while they ran it.
    pub workers_lost: u8,
    /// Times that its inputs were out of reach, or its outputs vanished.
    pub fetch_failures: u8,
    pub wanted: bool,
    /// Times that it is among the values to release once something is durable.
    pub releases_due: u16,
}

impl TaskRecord {
    /// Whether some execution ended well once, whatever became of its value.
    pub fn has_ended_well(&self) -> bool {
        self.attempt > 0 && self.micros > 0
    }

    /// Whether some worker holds its value, and nobody needs it.
    pub fn is_superfluous(&self) -> bool {
        self.needed_by == 0 && !self.wanted && matches!(self.state, TaskState::Held { .. })
    }

    pub fn new(op: u32, wanted: bool) -> TaskRecord {
        TaskRecord {
            state: TaskState::Ready,
            op,
            attempt: 0,
            epoch: Epoch(0),
            first_dependent: NONE,
            needed_by: 0,
            nbytes: 0,
            micros: 0,
            retries_used: 0,
            workers_lost: 0,
            fetch_failures: 0,
            wanted,
            releases_due: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_stays_small() {
        assert!(size_of::<TaskRecord>() <= 48, "{}", size_of::<TaskRecord>());
    }
}
