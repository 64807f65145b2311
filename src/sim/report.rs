//! What a run did: how often each thing happened, so that a simulation that exercises nothing can't pass.

use crate::protocol::FromWorker;
use std::collections::BTreeMap;
use std::fmt;

/// How often each kind of fault, action, answer and transition was seen.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Report {
    pub counts: BTreeMap<String, u64>,
}

/// A run that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
    /// The last things that happened, if the run was traced.
    pub trace: Vec<String>,
}

impl Report {
    pub fn count(&mut self, group: &str, what: &str) {
        self.add(group, what, 1);
    }

    pub fn add(&mut self, group: &str, what: &str, n: u64) {
        *self.counts.entry(format!("{group}: {what}")).or_default() += n;
    }

    pub fn merge(&mut self, other: &Report) {
        for (what, n) in &other.counts {
            *self.counts.entry(what.clone()).or_default() += n;
        }
    }

    /// Those of `expected` that never happened.
    pub fn missing<'a>(&self, expected: &[&'a str]) -> Vec<&'a str> {
        expected.iter().filter(|what| self.counts.get(**what).is_none_or(|n| *n == 0)).copied().collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.iter().try_for_each(|(what, n)| writeln!(f, "{n:>10}  {what}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {}: {}", self.seed, self.what)
    }
}

/// The name of a variant, from its debug form.
pub(super) fn variant(debug: &str) -> &str {
    debug.split(['(', '{', ' ']).next().unwrap_or(debug)
}

/// The name of a worker's message.
pub(super) fn worker_message(message: &FromWorker) -> &'static str {
    match message {
        FromWorker::Register(_) => "Register",
        FromWorker::Heartbeat { .. } => "Heartbeat",
        FromWorker::Finished(_) => "Finished",
        FromWorker::Replicas(_) => "Replicas",
        FromWorker::ValuesLost(_) => "ValuesLost",
        FromWorker::Placed { .. } => "Placed",
        FromWorker::Goodbye { .. } => "Goodbye",
        FromWorker::Dead { .. } => "Dead",
    }
}

/// What every faithful set of runs does at least once.
pub const EXPECTED: &[&str] = &[
    "action: CancelAllocations",
    "action: Close",
    "action: Exit",
    "action: Poll",
    "action: Submit",
    "batch: pending jobs cancelled",
    "claim: another was first",
    "claim: at once",
    "claim: of a lease that stood still",
    "claim: records of a superseded scheduler ignored",
    "claim: schedulers superseded alive",
    "claim: superseded on the way",
    "claim: the lease moves",
    "commands: gone on with under a later scheduler",
    "commands: ran well",
    "commands: started again",
    "fault: ClaimantDied",
    "fault: ClaimantPaused",
    "fault: ClientDied",
    "fault: ContactStale",
    "fault: DeathReportLate",
    "fault: DeathReportLost",
    "fault: DirectoryHangs",
    "fault: FetchFailed",
    "fault: FetchSlow",
    "fault: HolderAndSuccessorPaused",
    "fault: HolderDied",
    "fault: HolderPaused",
    "fault: HostCrashed",
    "fault: HostUnreachable",
    "fault: JobEndsWithoutWorker",
    "fault: JobHidden",
    "fault: JobOrphaned",
    "fault: JobVanished",
    "fault: JournalSlow",
    "fault: LinkBroken",
    "fault: LinkHalfOpenAtPeer",
    "fault: LinkHalfOpenAtServer",
    "fault: LinkOneWay",
    "fault: LinkSilent",
    "fault: MovedLost",
    "fault: PlaceRefused",
    "fault: PollFailed",
    "fault: SchedulerKilled",
    "fault: SchedulerKilledBetweenPersistAndDurable",
    "fault: SchedulerPaused",
    "fault: SchedulerPausedWithActionsPending",
    "fault: SchedulerSaidOver",
    "fault: SchedulerTerminated",
    "fault: SchedulerWalltimeEnded",
    "fault: SlowFrame",
    "fault: SuccessorSaidOver",
    "fault: SubmitAmbiguousDone",
    "fault: SubmitAmbiguousNotDone",
    "fault: SubmitRefused",
    "fault: SubmitRefusedForGood",
    "fault: TemporaryLost",
    "fault: ValueUnreadable",
    "fault: WalltimeEnded",
    "fault: WorkerKilled",
    "holder died: Close",
    "holder died: Release",
    "holder died: Tell",
    "holder died: WriteOut",
    "holder paused: Close",
    "holder paused: Release",
    "holder paused: Tell",
    "holder paused: WriteOut",
    "kernels: gone on with under a later scheduler",
    "network: contact files of an epoch that is over",
    "network: frames lost on the way down",
    "network: frames lost on the way up",
    "network: frames of an old link discarded by the peer",
    "network: frames of an old link discarded by the scheduler",
    "network: schedulers that shook no hands",
    "network: schedulers that took nobody any more",
    "placed: Done",
    "placed: Failed",
    "placed: Gone",
    "record: AllocationOver",
    "record: Assigned",
    "record: Cancelled",
    "record: Fates",
    "record: Forgotten",
    "record: GivenUp",
    "record: Intent",
    "record: Part",
    "record: Sealed",
    "record: Target",
    "relay: clients that followed",
    "relay: clients that took the contact file instead",
    "relay: holders that left something undone",
    "relay: holders that let go unasked",
    "relay: holders that made room",
    "relay: holders whose walltime came first",
    "relay: successors asked for",
    "relay: successors of one that stood still",
    "relay: successors that had no answer",
    "relay: successors that were given the lease",
    "relay: successors that were refused",
    "relay: successors with nobody to relieve",
    "relay: successors' jobs that came to nothing",
    "relay: successors' jobs that others cancelled",
    "relay: workers that followed",
    "relay: workers that took the contact file instead",
    "run: beats over the lease of a successor",
    "run: clean ends",
    "run: contact files put right",
    "run: files removed behind a snapshot",
    "run: forgotten graphs asked for",
    "run: looks that found nobody given up",
    "run: orphans refused",
    "run: requests repeated",
    "run: schedulers that fell silent",
    "run: schedulers that found themselves superseded",
    "run: snapshots",
    "run: snapshots of superseded schedulers",
    "run: starts from snapshots",
    "run: streams cut short",
    "run: superseded schedulers that woke up",
    "run: workers gave their scheduler up",
    "run: workers left",
    "run: workers that left a superseded scheduler",
    "status: absent",
    "status: ended",
    "status: ended, not confirmed",
    "status: pending",
    "status: running",
    "successor died: asking",
    "successor died: begun",
    "successor died: claimed",
    "successor died: fenced",
    "successor died: read",
    "successor died: relieving",
    "successor died: sealed",
    "successor died: watching",
    "successor paused: begun",
    "successor paused: claimed",
    "successor paused: fenced",
    "successor paused: read",
    "successor paused: relieving",
    "successor paused: sealed",
    "successor paused: watching",
    "task: accepted -> erred",
    "task: accepted -> ready",
    "task: accepted -> stored",
    "task: assigned -> accepted",
    "task: assigned -> cancelled",
    "task: assigned -> erred",
    "task: assigned -> held",
    "task: assigned -> ready",
    "task: assigned -> stored",
    "task: assigned -> waiting",
    "task: held -> ready",
    "task: held -> released",
    "task: held -> waiting",
    "task: ready -> assigned",
    "task: ready -> cancelled",
    "task: ready -> held",
    "task: ready -> waiting",
    "task: released -> held",
    "task: released -> ready",
    "task: released -> waiting",
    "task: waiting -> assigned",
    "task: waiting -> cancelled",
    "task: waiting -> erred",
    "task: waiting -> held",
    "task: waiting -> ready",
    "to client: Cancelled",
    "to client: GoingDown",
    "to client: Moved",
    "to client: Progress",
    "to client: Refused",
    "to client: Relieved",
    "to client: Resolved",
    "to client: Results",
    "to client: Scaled",
    "to client: Settled",
    "to client: Status",
    "to client: Submitted",
    "to client: Tasks",
    "to scheduler: Dead",
    "to scheduler: Finished",
    "to scheduler: Goodbye",
    "to scheduler: Heartbeat",
    "to scheduler: Placed",
    "to scheduler: Register",
    "to scheduler: Replicas",
    "to scheduler: ValuesLost",
    "to worker: Acknowledge",
    "to worker: Cancel",
    "to worker: Compute",
    "to worker: Discard",
    "to worker: ForgetGraph",
    "to worker: Free",
    "to worker: HeartbeatAnswer",
    "to worker: Leave",
    "to worker: Moved",
    "to worker: Ops",
    "to worker: Peers",
    "to worker: Place",
    "to worker: Refused",
    "to worker: Replicate",
    "to worker: Strike",
    "to worker: Welcome",
    "worker action: Discard",
    "worker action: Exit",
    "worker action: Fetch",
    "worker action: Free",
    "worker action: Heartbeat",
    "worker action: Kill",
    "worker action: LeaveBehind",
    "worker action: Place",
    "worker action: Run",
    "worker action: Send",
];
