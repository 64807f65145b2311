//! The worker as a pure state machine: what it was told to run, what it waits for, what runs, what it holds, and
//! what its scheduler hasn't acknowledged yet.
//!
//! One worker core serves three hosts: threads in this process, workers of the embedded queue, workers in batch
//! allocations.

mod check;
mod contact;
mod free;
mod tasks;
#[cfg(test)]
mod tests;

use crate::graph::{GraphId, Op, TaskId};
use crate::protocol::{
    Assignment, Completion, Epoch, Execution, FromWorker, Holding, MissingInput, Outcome, PendingOutput,
    PlaceOutcome, Registration, StoredValue, ToWorker, WorkerIndex,
};
use contact::{Contact, span};
use free::Free;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tasks::{Known, Task};

/// Nanoseconds on this process's monotonic clock.
pub type Nanos = u64;

/// A command that was ended by SIGTERM counts as ended this much later: batch systems signal all of a job's processes,
/// and if this worker is among them, it was the job's end and not the command's own.
const SIGNAL_DOUBT: Duration = Duration::from_millis(500);
/// How long a leaving worker waits for the acknowledgement of what it finished.
const GOODBYE_GRACE: Duration = Duration::from_secs(10);

#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A link to a scheduler is there (a new one: nothing of an older one counts any more).
    Connected,
    Disconnected,
    FromScheduler(ToWorker),
    Fetched {
        task: TaskId,
        nbytes: u64,
    },
    /// Nobody gave the value.
    FetchFailed(MissingInput),
    /// An execution ended. A held value is in the store already.
    Ended {
        execution: Execution,
        nanos: u64,
        outcome: Outcome,
    },
    Placed {
        execution: Execution,
        outcome: PlaceOutcome,
    },
    /// A value that can't be read back from the store.
    ValueLost {
        task: TaskId,
    },
    /// A look at the state directory, begun at that instant, has shown that no scheduler had given this worker up by
    /// then: its epoch was the last one, and did nothing.
    NotGivenUp {
        at: Nanos,
    },
    /// A look has found no contact file: the cluster was brought down.
    BroughtDown,
    /// This process was asked to end (a signal, its walltime).
    AskedToLeave {
        reason: String,
    },
    Tick,
}

/// An input of a task that can start.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// In the store.
    Held(TaskId),
    Inline(Box<StoredValue>),
}

/// A worker that holds a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    pub index: WorkerIndex,
    pub addresses: Vec<String>,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    Send(FromWorker),
    /// Send a heartbeat with the memory in use.
    Heartbeat {
        running: u32,
    },
    /// Get a value from one of these, in that order.
    Fetch {
        task: TaskId,
        from: Vec<Holder>,
    },
    Run {
        execution: Execution,
        op: Arc<Op>,
        args: Vec<u8>,
        name: Option<String>,
        inputs: Vec<Input>,
    },
    Kill(Execution),
    /// Remove from the store.
    Free(TaskId),
    Place {
        execution: Execution,
        outputs: Vec<PendingOutput>,
    },
    Discard(Vec<PendingOutput>),
    /// Write these where the next scheduler looks, before this process ends.
    LeaveBehind(Vec<Completion>),
    /// End this process.
    Exit {
        reason: String,
    },
}

/// Everything a worker says of itself but what it holds and runs.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// `holds`, `runs` and `completions` are filled in at each registration.
    pub registration: Registration,
    /// Commands that may have been given to others end after so long.
    pub death_timeout: Duration,
    /// How long to stay without a scheduler and with nothing to do.
    pub idle_timeout: Duration,
}

/// A value in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    nbytes: u64,
    /// Nobody else may have it.
    made_here: bool,
}

pub struct Core {
    config: WorkerConfig,
    now: Nanos,
    epoch: Epoch,
    connected: bool,
    welcomed: bool,
    heartbeat: Duration,
    next_heartbeat: Nanos,
    contact: Contact,
    tasks: BTreeMap<Execution, Task>,
    /// Commands that were ended by SIGTERM, until it is clear whom it was meant for.
    doubtful: BTreeMap<Execution, Doubtful>,
    /// Executions that can start, by priority.
    runnable: BTreeSet<(u64, Execution)>,
    free: Free,
    held: BTreeMap<TaskId, Held>,
    /// Who waits for a value that is being fetched.
    fetching: BTreeMap<TaskId, BTreeSet<Execution>>,
    ops: HashMap<(GraphId, u32), Known>,
    peers: HashMap<WorkerIndex, Vec<String>>,
    index: Option<WorkerIndex>,
    unacknowledged: BTreeMap<Execution, Completion>,
    /// Not yet sent.
    finished: Vec<Completion>,
    replicas: Vec<Holding>,
    /// Values that are to be freed by actions of this round, which aren't performed yet.
    freeing: HashSet<TaskId>,
    /// Values that couldn't be read back. Not yet sent.
    lost: BTreeSet<TaskId>,
    leaving: Option<Leaving>,
    /// A signal ends this worker, and perhaps its commands beside it.
    signalled: bool,
    exited: bool,
}

struct Doubtful {
    until: Nanos,
    nanos: u64,
    outcome: Outcome,
}

struct Leaving {
    reason: String,
    /// Set once nothing runs: then only acknowledgements are waited for.
    goodbye_by: Option<Nanos>,
}

/// Bytes of results in one message: far below what a frame may have.
const PART_BYTES: usize = 8 << 20;

/// Completions in parts that each fit a message.
fn parts_of(completions: Vec<Completion>) -> Vec<Vec<Completion>> {
    let mut parts: Vec<Vec<Completion>> = Vec::new();
    let mut room = 0;
    for completion in completions {
        let stored = match &completion.outcome {
            Outcome::Command { result, .. } => Some(result),
            Outcome::Erred { result, .. } => result.as_ref(),
            _ => None,
        };
        let nbytes = 64 + stored.map_or(0, |s| s.buffers.iter().map(|b| b.len()).sum::<usize>());
        if nbytes > room || parts.is_empty() {
            parts.push(Vec::new());
            room = PART_BYTES;
        }
        room = room.saturating_sub(nbytes);
        if let Some(part) = parts.last_mut() {
            part.push(completion);
        }
    }
    parts
}

impl Core {
    pub fn new(config: WorkerConfig, now: Nanos) -> Core {
        let free = Free::new(&config.registration);
        Core {
            now,
            epoch: Epoch::default(),
            connected: false,
            welcomed: false,
            heartbeat: Duration::from_secs(10),
            next_heartbeat: now,
            contact: Contact::new(now),
            tasks: BTreeMap::new(),
            doubtful: BTreeMap::new(),
            runnable: BTreeSet::new(),
            free,
            held: BTreeMap::new(),
            fetching: BTreeMap::new(),
            ops: HashMap::new(),
            peers: HashMap::new(),
            index: None,
            unacknowledged: BTreeMap::new(),
            finished: Vec::new(),
            replicas: Vec::new(),
            freeing: HashSet::new(),
            lost: BTreeSet::new(),
            leaving: None,
            signalled: false,
            exited: false,
            config,
        }
    }

    pub fn handle(&mut self, now: Nanos, event: Event, out: &mut Vec<Action>) {
        self.now = now;
        match event {
            Event::Connected => self.on_connected(out),
            Event::Disconnected => (self.connected, self.welcomed) = (false, false),
            Event::FromScheduler(message) => self.on_scheduler_message(message, out),
            Event::Fetched { task, nbytes } => self.on_fetched(task, nbytes, out),
            Event::FetchFailed(missing) => self.on_fetch_failed(missing),
            Event::Ended { execution, nanos, outcome } => self.on_ended(execution, nanos, outcome, out),
            Event::Placed { execution, outcome } => {
                out.push(Action::Send(FromWorker::Placed { execution, outcome }));
            }
            Event::ValueLost { task } => {
                if self.held.remove(&task).is_some() {
                    self.lost.insert(task);
                }
            }
            Event::NotGivenUp { at } => self.contact.prove(at),
            Event::BroughtDown => self.contact.end(self.now),
            Event::AskedToLeave { reason } => {
                self.signalled = true;
                self.settle_doubts(out);
                self.leave(reason);
            }
            Event::Tick => {}
        }
    }

    /// Starts what can start, reports what ended, and does what is due. Call it after the events that have arrived.
    pub fn settle_down(&mut self, now: Nanos, out: &mut Vec<Action>) {
        self.now = now;
        self.freeing.clear();
        self.settle_doubts(out);
        self.start_runnable(out);
        if self.welcomed {
            self.report(out);
            if now >= self.next_heartbeat {
                self.beat(out);
            }
        }
        self.watch_contact(out);
        self.finish_leaving(out);
    }

    /// Tells what there is to tell. What is lost comes last: it may have been told of as held in the same round.
    fn report(&mut self, out: &mut Vec<Action>) {
        if !self.replicas.is_empty() {
            out.push(Action::Send(FromWorker::Replicas(std::mem::take(&mut self.replicas))));
        }
        if !self.finished.is_empty() {
            let parts = parts_of(std::mem::take(&mut self.finished));
            out.extend(parts.into_iter().map(|part| Action::Send(FromWorker::Finished(part))));
        }
        if !self.lost.is_empty() {
            let lost = std::mem::take(&mut self.lost).into_iter().collect();
            out.push(Action::Send(FromWorker::ValuesLost(lost)));
        }
    }

    /// When to call again with a tick, if nothing happens before.
    pub fn deadline(&self) -> Option<Nanos> {
        if self.exited {
            return None;
        }
        let heartbeat = self.welcomed.then_some(self.next_heartbeat);
        let goodbye = self.leaving.as_ref().and_then(|leaving| leaving.goodbye_by);
        let doubt = self.doubtful.values().map(|doubtful| doubtful.until).min();
        [heartbeat, goodbye, doubt, self.contact_deadline()].into_iter().flatten().min()
    }

    fn on_connected(&mut self, out: &mut Vec<Action>) {
        (self.connected, self.welcomed) = (true, false);
        // What was on its way over the old link counts as never sent; the tables are sent anew.
        self.finished.clear();
        self.replicas.clear();
        self.peers.clear();
        // Completions are repeated, also those of values that are gone since.
        let is_gone = |c: &&Completion| {
            matches!(c.outcome, Outcome::Held { .. }) && !self.held.contains_key(&c.execution.task)
        };
        self.lost = self.unacknowledged.values().filter(is_gone).map(|c| c.execution.task).collect();
        let mut registration = self.config.registration.clone();
        registration.holds =
            self.held.iter().map(|(task, held)| Holding { task: *task, nbytes: held.nbytes }).collect();
        registration.runs = self.tasks.iter().filter(|(_, t)| !t.cancelled).map(|(e, _)| *e).collect();
        // What doesn't fit one message is told as running, and right after that as finished.
        let mut parts = parts_of(self.unacknowledged.values().cloned().collect()).into_iter();
        registration.completions = parts.next().unwrap_or_default();
        let rest: Vec<Vec<Completion>> = parts.collect();
        registration.runs.extend(rest.iter().flatten().map(|completion| completion.execution));
        self.contact.begin(self.now);
        out.push(Action::Send(FromWorker::Register(Box::new(registration))));
        out.extend(rest.into_iter().map(|part| Action::Send(FromWorker::Finished(part))));
    }

    fn on_scheduler_message(&mut self, message: ToWorker, out: &mut Vec<Action>) {
        match message {
            ToWorker::Welcome { epoch, index, heartbeat_ms } => {
                self.contact.welcome();
                self.welcomed = true;
                self.epoch = epoch;
                self.index = Some(index);
                self.heartbeat = Duration::from_millis(heartbeat_ms.max(1));
                self.next_heartbeat = self.now + span(self.heartbeat);
            }
            ToWorker::Refused { reason } => {
                self.kill_everything(out);
                // Nobody wants what it finished, either.
                self.unacknowledged.clear();
                self.exit(format!("the scheduler refused this worker: {reason}"), out);
            }
            ToWorker::HeartbeatAnswer => self.contact.answer(),
            // Whoever keeps the link goes there.
            ToWorker::Moved { .. } => {}
            ToWorker::Ops { graph, ops } => {
                self.ops.extend(ops.into_iter().map(|(index, op)| ((graph, index), Known::new(op))));
            }
            ToWorker::Peers(peers) => self.peers.extend(peers),
            ToWorker::Compute(assignments) => {
                for assignment in assignments {
                    self.on_assignment(assignment, out);
                }
            }
            ToWorker::Place { execution, outputs } => out.push(Action::Place { execution, outputs }),
            ToWorker::Acknowledge { executions } => {
                for execution in executions {
                    self.unacknowledged.remove(&execution);
                }
            }
            ToWorker::Discard { outputs } => out.push(Action::Discard(outputs)),
            ToWorker::Cancel(executions) => {
                for execution in executions {
                    self.cancel(execution, out);
                }
            }
            ToWorker::Free(tasks) => {
                for task in tasks {
                    self.free_value(task, out);
                }
            }
            ToWorker::Strike(tasks) => {
                // Whatever was to be told of them comes before the answer.
                self.report(out);
                for task in &tasks {
                    self.free_value(*task, out);
                }
                out.push(Action::Send(FromWorker::ValuesLost(tasks)));
            }
            ToWorker::Replicate(values) => {
                for (task, holders) in values {
                    self.replicate(task, &holders, out);
                }
            }
            ToWorker::ForgetGraph(graph) => self.ops.retain(|(of, _), _| *of != graph),
            ToWorker::Leave { reason, now } => {
                if now {
                    self.kill_everything(out);
                }
                self.leave(reason);
            }
        }
    }

    fn leave(&mut self, reason: String) {
        if self.leaving.is_none() {
            self.leaving = Some(Leaving { reason, goodbye_by: None });
            // What hasn't started goes back to be run elsewhere.
            let waiting: Vec<Execution> =
                self.tasks.iter().filter(|(_, t)| !t.running).map(|(e, _)| *e).collect();
            for execution in waiting {
                self.drop_task(execution);
                self.complete(execution, 0, Outcome::Cancelled);
            }
        }
    }

    fn finish_leaving(&mut self, out: &mut Vec<Action>) {
        let Some(leaving) = &mut self.leaving else { return };
        if self.exited || !self.tasks.is_empty() {
            return;
        }
        let by = *leaving.goodbye_by.get_or_insert(self.now + span(GOODBYE_GRACE));
        let acknowledged = self.unacknowledged.is_empty();
        if acknowledged || self.now >= by {
            let reason = leaving.reason.clone();
            self.say_goodbye(reason, out);
        }
    }

    fn exit(&mut self, reason: String, out: &mut Vec<Action>) {
        if !self.exited {
            self.exited = true;
            self.leave_behind(out);
            out.push(Action::Exit { reason });
        }
    }

    fn complete(&mut self, execution: Execution, nanos: u64, outcome: Outcome) {
        let completion = Completion { execution, nanos, outcome };
        self.unacknowledged.insert(execution, completion.clone());
        self.finished.push(completion);
    }

    fn running(&self) -> u32 {
        self.tasks.values().filter(|task| task.running).count() as u32
    }
}
