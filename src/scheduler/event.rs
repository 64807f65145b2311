//! What the scheduler's core is told, and what it wants done.

use super::record::Record;
use crate::protocol::{AllocationId, Completion, FromClient, FromWorker, ToClient, ToWorker, WorkerId};
use std::time::Duration;

/// Nanoseconds on this process's monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    pub const fn from_millis(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    pub const fn from_secs(s: u64) -> Time {
        Time(s * 1_000_000_000)
    }

    pub fn plus(self, span: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A link, as the shell numbers them: never reused within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(pub u64);

/// The place of a record in the journal, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct JournalSeq(pub u64);

/// What a submit to the batch system came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SubmitOutcome {
    Accepted {
        job: String,
    },
    /// The batch system's own words. `fatal`: the same request will be refused again. `exit_code`: what the
    /// command line's contract has for it.
    Refused {
        words: String,
        fatal: bool,
        exit_code: u8,
    },
    /// No answer in time: it may have been submitted.
    Ambiguous {
        words: String,
    },
}

/// What the batch system says of an allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AllocationStatus {
    Pending {
        reason: String,
        words: String,
        start_estimate_unix: u64,
        never: bool,
    },
    Running {
        nodes: String,
        ends_unix: u64,
    },
    /// `confirmed`: its processes are surely gone (a failed node proves nothing).
    Ended {
        words: String,
        confirmed: bool,
    },
    /// Not in the answer.
    Absent,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    FromWorker {
        peer: PeerId,
        message: FromWorker,
    },
    FromClient {
        peer: PeerId,
        message: FromClient,
    },
    PeerLost {
        peer: PeerId,
        reason: String,
    },
    /// A worker that is gone has left these for whoever comes after its scheduler.
    LeftBehind {
        worker: WorkerId,
        completions: Vec<Completion>,
    },
    /// Everything up to this record is on disk.
    Durable(JournalSeq),
    Submitted {
        allocation: AllocationId,
        outcome: SubmitOutcome,
    },
    /// One answer of the batch system about every allocation asked for.
    Polled(Vec<(AllocationId, String, AllocationStatus)>),
    /// The batch system couldn't be asked.
    PollFailed {
        words: String,
    },
    Tick,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    Persist {
        seq: JournalSeq,
        record: Record,
    },
    /// `after`: not before that record is durable.
    ToWorker {
        peer: PeerId,
        message: ToWorker,
        after: Option<JournalSeq>,
    },
    ToClient {
        peer: PeerId,
        message: ToClient,
        after: Option<JournalSeq>,
    },
    Close {
        peer: PeerId,
        reason: String,
    },
    Submit {
        allocation: AllocationId,
        after: JournalSeq,
    },
    /// `after`: not before it is durable that they are not wanted.
    CancelAllocations {
        allocations: Vec<AllocationId>,
        after: Option<JournalSeq>,
    },
    /// Ask the batch system now rather than at the next interval.
    Poll,
    Exit {
        reason: String,
    },
}
