//! What is to come in a run, and to whom.

use super::{compaction, ending};
use crate::graph::TaskId;
use crate::protocol::{AllocationId, Execution, PendingOutput, WorkerId};
use crate::scheduler::event::AllocationStatus;
use crate::worker::core::Holder;

pub(super) enum Happening {
    /// Somebody looks whether a scheduler is needed.
    Revives,
    /// A scheduler that doesn't serve yet takes its next step.
    Claims {
        claimant: u32,
    },
    ServerWakes {
        life: u32,
    },
    ServerTicks {
        life: u32,
    },
    Written {
        life: u32,
    },
    Compacts {
        life: u32,
        step: compaction::Step,
    },
    Synced {
        life: u32,
    },
    Beats {
        life: u32,
    },
    BeatLands {
        life: u32,
    },
    BeatAnswered {
        life: u32,
        began: u64,
    },
    SchedulerContinues {
        life: u32,
    },
    SchedulerEnds {
        life: u32,
    },
    /// It may be time to ask for a successor, or to let go.
    RelayDue {
        life: u32,
    },
    LetsGo {
        life: u32,
        step: ending::Step,
    },
    /// A job in which a scheduler is to run.
    SeatStarts {
        seat: usize,
    },
    SeatEnds {
        seat: usize,
    },
    Polls {
        life: u32,
    },
    Answered {
        life: u32,
        statuses: Option<Vec<(AllocationId, String, AllocationStatus)>>,
    },
    Submits {
        life: u32,
        allocation: AllocationId,
    },
    Cancels {
        life: u32,
        allocations: Vec<AllocationId>,
    },
    Up {
        link: u64,
        frame: Vec<u8>,
    },
    Down {
        link: u64,
        frame: Vec<u8>,
    },
    ServerLosesLink {
        link: u64,
    },
    PeerLosesLink {
        link: u64,
    },
    HostConnects {
        host: usize,
    },
    /// It looks at the contact file.
    HostLooks {
        host: usize,
    },
    HostWakes {
        host: usize,
    },
    HostTicks {
        host: usize,
    },
    RunEnds {
        host: usize,
        execution: Execution,
        killed: bool,
    },
    Fetched {
        host: usize,
        task: TaskId,
        from: Vec<Holder>,
    },
    Places {
        host: usize,
        execution: Execution,
        outputs: Vec<PendingOutput>,
    },
    GroupsKilled {
        host: usize,
    },
    DeathTold {
        id: WorkerId,
        tries: u32,
    },
    JobStarts {
        job: usize,
    },
    JobKilled {
        job: usize,
    },
    ClientConnects {
        client: usize,
    },
    ClientSteps {
        client: usize,
    },
    FaultStrikes,
    Heals,
}

impl Happening {
    /// The scheduler of which a thread does this: none if others do, or the kernel.
    pub fn thread_of(&self) -> Option<u32> {
        match self {
            Happening::ServerWakes { life }
            | Happening::ServerTicks { life }
            | Happening::Synced { life }
            | Happening::Compacts { life, .. }
            | Happening::Beats { life }
            | Happening::BeatAnswered { life, .. }
            | Happening::RelayDue { life }
            | Happening::LetsGo { life, .. }
            | Happening::Polls { life }
            | Happening::Answered { life, .. }
            | Happening::Submits { life, .. }
            | Happening::Cancels { life, .. } => Some(*life),
            _ => None,
        }
    }
}
