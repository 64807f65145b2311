//! An assigned task's way through a worker: its inputs come, it starts when there is room, it ends, it is reported.

use super::{
    Action, Assignment, Core, Doubtful, Execution, Held, Holder, Input, Outcome, SIGNAL_DOUBT, span,
};
use crate::graph::{Op, Resources, TaskId};
use crate::protocol::{ErrorKind, Holding, MissingInput, Source, TaskError, WorkerIndex};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An operation of a graph, as this worker knows it.
pub(super) struct Known {
    op: Arc<Op>,
    /// A kernel that needs one core and nothing else.
    is_plain: bool,
    /// What such a kernel takes, a moving average; 0: not known.
    nanos: u64,
}

impl Known {
    pub fn new(op: Op) -> Known {
        let needs = op.resources();
        let is_plain = op.is_pure() && needs == Resources::default();
        Known { op: Arc::new(op), is_plain, nanos: 0 }
    }

    fn learn(&mut self, nanos: u64) {
        let nanos = nanos.max(1);
        self.nanos = if self.nanos == 0 { nanos } else { self.nanos - self.nanos / 4 + nanos / 4 };
    }
}

pub(super) struct Task {
    pub op: Arc<Op>,
    /// In the graph's table.
    pub op_index: u32,
    pub needs: Resources,
    /// A kernel that needs one core and nothing else: it may be started ahead.
    pub is_plain: bool,
    pub args: Vec<u8>,
    pub name: Option<String>,
    pub inputs: Vec<(TaskId, Source)>,
    pub priority: u64,
    pub missing: usize,
    pub running: bool,
    /// Its end interests nobody any more.
    pub cancelled: bool,
    /// It is killed because another worker may have been told to run it.
    pub stopped: bool,
}

impl Core {
    pub(super) fn on_assignment(&mut self, assignment: Assignment, out: &mut Vec<Action>) {
        let Assignment { execution, op, args, name, inputs, priority } = assignment;
        if self.tasks.contains_key(&execution) || self.unacknowledged.contains_key(&execution) {
            return;
        }
        let op_index = op;
        let Some(known) = self.ops.get(&(execution.task.graph, op_index)) else {
            let message = format!("operation {op_index} of {} was never sent", execution.task.graph);
            let error = TaskError { kind: ErrorKind::Task, message };
            return self.complete(execution, 0, Outcome::Erred { error, result: None });
        };
        if self.leaving.is_some() {
            return self.complete(execution, 0, Outcome::Cancelled);
        }
        let (op, is_plain) = (known.op.clone(), known.is_plain);
        let needs = op.resources();
        // An input that is named twice is fetched once.
        let mut wanted: BTreeMap<TaskId, Vec<Holder>> = BTreeMap::new();
        for (input, source) in &inputs {
            if let Source::Peers(peers) = source
                && !self.held.contains_key(input)
            {
                wanted.entry(*input).or_insert_with(|| self.addresses(peers));
            }
        }
        let task = Task {
            op,
            op_index,
            needs,
            is_plain,
            args: args.into_vec(),
            name,
            inputs,
            priority,
            missing: wanted.len(),
            running: false,
            cancelled: false,
            stopped: false,
        };
        self.tasks.insert(execution, task);
        if wanted.is_empty() {
            self.runnable.insert((priority, execution));
        }
        for (input, from) in wanted {
            self.fetch(execution, input, from, out);
        }
    }

    /// Those who hold an input, but for this worker.
    fn addresses(&self, peers: &[WorkerIndex]) -> Vec<Holder> {
        peers
            .iter()
            .filter(|peer| Some(**peer) != self.index)
            .filter_map(|peer| Some(Holder { index: *peer, addresses: self.peers.get(peer)?.clone() }))
            .collect()
    }

    fn fetch(&mut self, execution: Execution, input: TaskId, from: Vec<Holder>, out: &mut Vec<Action>) {
        let first = !self.fetching.contains_key(&input);
        self.fetching.entry(input).or_default().insert(execution);
        if from.is_empty() {
            self.on_fetch_failed(self.not_here(input));
        } else if first {
            out.push(Action::Fetch { task: input, from });
        }
    }

    /// Fetches a value that no task here waits for, to hold it too.
    pub(super) fn replicate(&mut self, task: TaskId, holders: &[WorkerIndex], out: &mut Vec<Action>) {
        if let Some(held) = self.held.get(&task) {
            self.replicas.push(Holding { task, nbytes: held.nbytes });
            return;
        }
        let from = self.addresses(holders);
        if from.is_empty() || self.leaving.is_some() {
            self.lost.insert(task);
        } else if let Entry::Vacant(entry) = self.fetching.entry(task) {
            entry.insert(BTreeSet::new());
            out.push(Action::Fetch { task, from });
        }
    }

    /// The store has the value: that it was to be freed before is void.
    fn hold(&mut self, task: TaskId, nbytes: u64, made_here: bool, out: &mut Vec<Action>) {
        self.held.insert(task, Held { nbytes, made_here });
        self.lost.remove(&task);
        if self.freeing.remove(&task) {
            out.retain(|action| *action != Action::Free(task));
        }
    }

    pub(super) fn on_fetched(&mut self, input: TaskId, nbytes: u64, out: &mut Vec<Action>) {
        self.hold(input, nbytes, false, out);
        self.replicas.push(Holding { task: input, nbytes });
        for execution in self.fetching.remove(&input).unwrap_or_default() {
            if let Some(task) = self.tasks.get_mut(&execution) {
                task.missing = task.missing.saturating_sub(1);
                if task.missing == 0 && !task.running {
                    self.runnable.insert((task.priority, execution));
                }
            }
        }
    }

    /// A value that this worker may be thought to hold.
    fn not_here(&self, task: TaskId) -> MissingInput {
        MissingInput { denied: self.index.into_iter().collect(), ..MissingInput::new(task) }
    }

    /// Nobody gave the value: the tasks that wait for it go back to the scheduler.
    pub(super) fn on_fetch_failed(&mut self, missing: MissingInput) {
        let waiting = self.fetching.remove(&missing.task).unwrap_or_default();
        if waiting.is_empty() {
            // It was to be held too, and is not.
            self.lost.insert(missing.task);
        }
        for execution in waiting {
            if self.tasks.contains_key(&execution) {
                self.drop_task(execution);
                self.complete(execution, 0, Outcome::InputsMissing(vec![missing.clone()]));
            }
        }
    }

    pub(super) fn start_runnable(&mut self, out: &mut Vec<Action>) {
        let mut started = Vec::new();
        for (priority, execution) in &self.runnable {
            let Some(task) = self.tasks.get_mut(execution) else { continue };
            if let Some((lost, _)) = task
                .inputs
                .iter()
                .find(|(id, s)| matches!(s, Source::Peers(_)) && !self.held.contains_key(id))
            {
                // Freed or lost between its arrival and now.
                started.push((*priority, *execution, Some(*lost)));
                continue;
            }
            let is_taken = if task.is_plain {
                let known = self.ops.get(&(execution.task.graph, task.op_index));
                self.free.take_kernel(known.map_or(0, |known| known.nanos))
            } else {
                self.free.take(&task.needs)
            };
            if !is_taken {
                // Later ones that need less must not starve it.
                break;
            }
            task.running = true;
            let inputs = std::mem::take(&mut task.inputs).into_iter().map(|(id, source)| match source {
                Source::Peers(_) => Input::Held(id),
                Source::Inline(value) => Input::Inline(value),
            });
            out.push(Action::Run {
                execution: *execution,
                op: task.op.clone(),
                args: std::mem::take(&mut task.args),
                name: task.name.take(),
                inputs: inputs.collect(),
            });
            started.push((*priority, *execution, None));
        }
        for (priority, execution, lost) in started {
            self.runnable.remove(&(priority, execution));
            if let Some(input) = lost {
                self.drop_task(execution);
                self.complete(execution, 0, Outcome::InputsMissing(vec![self.not_here(input)]));
            }
        }
    }

    pub(super) fn on_ended(
        &mut self,
        execution: Execution,
        nanos: u64,
        outcome: Outcome,
        out: &mut Vec<Action>,
    ) {
        let Some(task) = self.tasks.get(&execution) else { return };
        if !task.cancelled && !self.signalled && is_terminated(&outcome) {
            let until = self.now + span(SIGNAL_DOUBT);
            self.doubtful.insert(execution, Doubtful { until, nanos, outcome });
            return;
        }
        self.conclude(execution, nanos, outcome, out);
    }

    /// Commands ended by SIGTERM whose doubt is over.
    pub(super) fn settle_doubts(&mut self, out: &mut Vec<Action>) {
        let due = |doubtful: &Doubtful| self.signalled || doubtful.until <= self.now;
        let due: Vec<Execution> =
            self.doubtful.iter().filter(|(_, doubtful)| due(doubtful)).map(|(e, _)| *e).collect();
        for execution in due {
            if let Some(Doubtful { nanos, outcome, .. }) = self.doubtful.remove(&execution) {
                self.conclude(execution, nanos, outcome, out);
            }
        }
    }

    fn conclude(&mut self, execution: Execution, nanos: u64, outcome: Outcome, out: &mut Vec<Action>) {
        let Some(task) = self.tasks.remove(&execution) else { return };
        if task.is_plain {
            self.free.give_back_kernel();
        } else {
            self.free.give_back(&task.needs);
        }
        if task.cancelled {
            return self.drop_outcome(execution, outcome, out);
        }
        if let Outcome::Held { nbytes } = outcome {
            if let Some(known) = self.ops.get_mut(&(execution.task.graph, task.op_index)) {
                known.learn(nanos);
            }
            self.hold(execution.task, nbytes, true, out);
        }
        // The job's end took the command with it: it runs again elsewhere.
        let outcome = if self.signalled && fails_with_its_job(&task.op, &outcome) {
            Outcome::Cancelled
        } else if task.stopped {
            stopped(&task.op, outcome)
        } else {
            outcome
        };
        self.complete(execution, nanos, outcome);
    }

    fn drop_outcome(&mut self, execution: Execution, outcome: Outcome, out: &mut Vec<Action>) {
        match outcome {
            // Unless an older attempt's value is held under the same name, this one goes.
            Outcome::Held { .. } if !self.held.contains_key(&execution.task) => {
                self.freeing.insert(execution.task);
                out.push(Action::Free(execution.task));
            }
            Outcome::Command { outputs, .. } if !outputs.is_empty() => out.push(Action::Discard(outputs)),
            _ => {}
        }
    }

    pub(super) fn cancel(&mut self, execution: Execution, out: &mut Vec<Action>) {
        self.unacknowledged.remove(&execution);
        match self.tasks.get_mut(&execution) {
            Some(task) if task.running && !task.cancelled => {
                task.cancelled = true;
                if let Some(Doubtful { nanos, outcome, .. }) = self.doubtful.remove(&execution) {
                    return self.conclude(execution, nanos, outcome, out);
                }
                out.push(Action::Kill(execution));
            }
            Some(task) if !task.running => self.drop_task(execution),
            _ => {}
        }
    }

    pub(super) fn kill_everything(&mut self, out: &mut Vec<Action>) {
        let all: Vec<Execution> = self.tasks.keys().copied().collect();
        for execution in all {
            self.cancel(execution, out);
        }
    }

    /// Forgets a task that hasn't started.
    pub(super) fn drop_task(&mut self, execution: Execution) {
        if let Some(task) = self.tasks.remove(&execution) {
            self.runnable.remove(&(task.priority, execution));
            for waiting in self.fetching.values_mut() {
                waiting.remove(&execution);
            }
        }
    }

    pub(super) fn free_value(&mut self, task: TaskId, out: &mut Vec<Action>) {
        if self.held.remove(&task).is_some() {
            self.freeing.insert(task);
            out.push(Action::Free(task));
        }
    }
}

/// The end of a command that was killed because nobody knew any more whose it was.
fn stopped(op: &Op, outcome: Outcome) -> Outcome {
    match outcome {
        // It was faster.
        Outcome::Command { .. } => outcome,
        _ if matches!(op, Op::Command(spec) if spec.at_most_once) => {
            let message = "its worker lost touch with every scheduler and stopped it".to_owned();
            Outcome::Erred { error: TaskError { kind: ErrorKind::OutcomeUnknown, message }, result: None }
        }
        _ => Outcome::Stopped,
    }
}

/// Whether a command was ended by SIGTERM, itself or as a shell tells of its child.
fn is_terminated(outcome: &Outcome) -> bool {
    const SIGTERM: i32 = 15;
    let Outcome::Erred { error, .. } = outcome else { return false };
    matches!(error.kind, ErrorKind::Signal(SIGTERM)) || error.kind == ErrorKind::Exit(128 + SIGTERM)
}

/// Whether a failure may be the work of the signal that ends this worker's job. One that must not run twice stays
/// failed.
fn fails_with_its_job(op: &Op, outcome: &Outcome) -> bool {
    let Outcome::Erred { error, .. } = outcome else { return false };
    let kind = matches!(error.kind, ErrorKind::Signal(_) | ErrorKind::Exit(_) | ErrorKind::Task);
    kind && matches!(op, Op::Command(spec) if !spec.at_most_once)
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Nanos, WorkerConfig};
    use super::*;
    use crate::graph::{CommandSpec, EnvSource, GraphId};
    use crate::protocol::{AllocationId, Epoch, FromWorker, Registration, ToWorker, WorkerId, WorkerIndex};
    use std::time::Duration;

    const GRAPH: GraphId = GraphId(1);

    fn execution(index: u32) -> Execution {
        Execution { task: TaskId { graph: GRAPH, index }, epoch: Epoch(1), attempt: 1 }
    }

    fn command(at_most_once: bool) -> Op {
        Op::Command(Box::new(CommandSpec {
            argv: vec!["true".into()],
            substitute: false,
            cwd: "/".into(),
            env_from: EnvSource::None,
            env: Vec::new(),
            stdin: None,
            outputs: Vec::new(),
            resources: Resources { cores: 1, memory: 0, named: Vec::new() },
            retries: 0,
            time_limit_ms: 0,
            at_most_once,
        }))
    }

    fn failed(kind: ErrorKind) -> Outcome {
        Outcome::Erred { error: TaskError { kind, message: "it failed".into() }, result: None }
    }

    /// A worker of three cores that runs three commands, the last of them at most once.
    fn busy_worker() -> Core {
        let registration = Registration {
            id: WorkerId { name: "w1".into(), incarnation: 1 },
            allocation: AllocationId(1),
            host: String::new(),
            pid: 1,
            addresses: Vec::new(),
            cores: 3,
            memory: 0,
            named: Vec::new(),
            deadline_unix: 0,
            holds: Vec::new(),
            runs: Vec::new(),
            completions: Vec::new(),
        };
        let config = WorkerConfig {
            registration,
            death_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(1800),
        };
        let mut core = Core::new(config, 0);
        let assignment = |index| Assignment {
            execution: execution(index),
            op: u32::from(index == 2),
            args: Default::default(),
            name: None,
            inputs: Vec::new(),
            priority: u64::from(index),
        };
        let mut out = Vec::new();
        core.handle(0, Event::Connected, &mut out);
        for message in [
            ToWorker::Welcome { epoch: Epoch(1), index: WorkerIndex(1), heartbeat_ms: 10_000 },
            ToWorker::Ops { graph: GRAPH, ops: vec![(0, command(false)), (1, command(true))] },
            ToWorker::Compute((0..3).map(assignment).collect()),
        ] {
            core.handle(0, Event::FromScheduler(message), &mut out);
        }
        core.settle_down(0, &mut out);
        core.check();
        core
    }

    fn end(core: &mut Core, now: Nanos, index: u32, outcome: Outcome) -> Vec<Action> {
        let mut out = Vec::new();
        core.handle(now, Event::Ended { execution: execution(index), nanos: 1, outcome }, &mut out);
        core.settle_down(now, &mut out);
        core.check();
        out
    }

    fn reported(out: &[Action]) -> Vec<(u32, Outcome)> {
        let completions = out.iter().filter_map(|action| match action {
            Action::Send(FromWorker::Finished(completions)) => Some(completions),
            _ => None,
        });
        completions.flatten().map(|c| (c.execution.task.index, c.outcome.clone())).collect()
    }

    #[test]
    fn a_signal_to_the_whole_job_is_no_failure_of_its_commands() {
        let mut core = busy_worker();
        // The command's end is seen before our own signal.
        assert_eq!(reported(&end(&mut core, 5, 0, failed(ErrorKind::Signal(15)))), []);
        let mut out = Vec::new();
        core.handle(6, Event::AskedToLeave { reason: "SIGTERM".into() }, &mut out);
        core.settle_down(6, &mut out);
        core.check();
        assert_eq!(reported(&out), [(0, Outcome::Cancelled)]);
        // Others clean up first, and fail in their own way.
        assert_eq!(reported(&end(&mut core, 7, 1, failed(ErrorKind::Exit(1)))), [(1, Outcome::Cancelled)]);
        let once = failed(ErrorKind::Signal(15));
        assert_eq!(reported(&end(&mut core, 8, 2, once.clone())), [(2, once)], "may not run again");
    }

    #[test]
    fn a_command_that_somebody_terminates_alone_has_failed() {
        let mut core = busy_worker();
        let exit = failed(ErrorKind::Exit(1));
        assert_eq!(reported(&end(&mut core, 5, 1, exit.clone())), [(1, exit)], "no doubt about that");
        let outcome = failed(ErrorKind::Exit(143));
        assert_eq!(reported(&end(&mut core, 5, 0, outcome.clone())), []);
        let due = 5 + SIGNAL_DOUBT.as_nanos() as Nanos;
        assert_eq!(core.deadline(), Some(due));
        let mut out = Vec::new();
        core.settle_down(due, &mut out);
        core.check();
        assert_eq!(reported(&out), [(0, outcome)]);
    }

    #[test]
    fn a_command_that_is_cancelled_while_in_doubt_is_gone() {
        let mut core = busy_worker();
        end(&mut core, 5, 0, failed(ErrorKind::Signal(15)));
        let mut out = Vec::new();
        core.handle(6, Event::FromScheduler(ToWorker::Cancel(vec![execution(0)])), &mut out);
        core.settle_down(6, &mut out);
        core.check();
        assert_eq!(out, [], "nothing to kill, nothing to tell");
    }
}
