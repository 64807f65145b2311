//! Computes a whole graph in this process: with the core and the runners of a worker, and no cluster.
//!
//! What the scheduler is to a worker, this module is to the core: it hands out tasks whose dependencies are done, in
//! an order that keeps few values alive (`order`), frees each value once nothing needs it, and ends everything at
//! the first task that fails for good.

mod commands;
mod host;
mod order;

pub use host::Host;

use crate::graph::{Columns, Graph, GraphId, Op, TaskId, Value};
use crate::kernels;
use crate::protocol::{
    Assignment, Completion, Counts, Epoch, ErrorKind, Execution, FromWorker, Outcome, Source, TaskError,
    ToWorker, WorkerIndex,
};
use crate::worker::core::{Action, Core, Event, Input, WorkerConfig};
use crate::worker::run::kernel::Lookup;
use crate::worker::run::{KernelDone, KernelJob, KernelPool};
use commands::{CommandEnded, Commands};
use order::Dependents;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The only graph there is.
const GRAPH: GraphId = GraphId(0);
/// How long a wish to cancel may go unnoticed while nothing ends.
const CANCEL_POLL: Duration = Duration::from_millis(50);
/// Tasks that the core has been given and that haven't ended, for each thread: the next one is there when one ends,
/// and what becomes ready meanwhile doesn't wait behind many others.
const ASSIGNED_PER_THREAD: usize = 2;
/// The core lives without heartbeats here: there is no other side whose death could be noticed.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
const NO_HEARTBEAT_MS: u64 = 365 * 24 * 3600 * 1000;

/// Why a graph has no values.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The first task that failed for good. Nothing runs any more.
    #[error("{task}: {message}")]
    Task {
        /// The user's name for it, or its number.
        task: String,
        kind: ErrorKind,
        message: String,
    },
    /// The flag was raised. Nothing runs any more.
    #[error("cancelled")]
    Cancelled,
    #[error("{task} needs {needs}, and there is only {has} to compute with here")]
    TooLarge { task: String, needs: String, has: String },
    /// The values of other graphs are on a cluster.
    #[error(
        "the graph depends on tasks of another graph: it can only be computed on the cluster that has them"
    )]
    Foreign,
    #[error("threads for kernels can't be started: {0} (ulimit -u)")]
    Threads(io::Error),
}

/// Runs every task of the graph; returns the values of those that are wanted, in their order. `progress` is told the
/// counts whenever they have changed. Raising `cancel` ends it soon: commands are stopped, and kernels that run are
/// waited for.
///
/// # Errors
/// A task that failed for good, a task that can never run here, or the flag. Nothing runs any more by then.
pub fn compute(
    graph: &Graph,
    host: &Host,
    cancel: &AtomicBool,
    progress: impl FnMut(&Counts),
) -> Result<Vec<Value>, LocalError> {
    let mut run = Run::new(graph, host, kernels::lookup)?;
    run.drive(cancel, progress)?;
    Ok(run.into_wanted())
}

/// Something that a runner reports.
enum Ended {
    Kernels(Vec<KernelDone>),
    Command(CommandEnded),
}

/// One graph on its way.
struct Run<'a> {
    columns: &'a Columns,
    names: HashMap<u32, &'a str>,
    dependents: Dependents,
    /// Each task's place in the order.
    places: Vec<u32>,
    /// For each task, dependencies that aren't done, and uses of its value that are still to come.
    waiting_for: Vec<u32>,
    needed_by: Vec<u32>,
    /// Tasks that failed, and how often.
    failed: HashMap<u32, u32>,
    /// By their places.
    ready: BinaryHeap<Reverse<(u32, u32)>>,
    /// Given to the core, and not ended.
    assigned: BTreeSet<Execution>,
    /// What the core has started, and hasn't ended.
    running: BTreeMap<u32, Execution>,
    values: HashMap<u32, Value>,
    /// The most values that were held at once.
    most_held: usize,
    counts: Counts,
    failure: Option<LocalError>,
    core: Core,
    /// For the core, at the next opportunity.
    messages: Vec<ToWorker>,
    most_assigned: usize,
    epoch: Epoch,
    started: Instant,
    pool: KernelPool,
    commands: Commands,
    ended: Receiver<Ended>,
}

impl<'a> Run<'a> {
    fn new(graph: &'a Graph, host: &Host, lookup: Lookup) -> Result<Run<'a>, LocalError> {
        let columns = graph.columns();
        let names: HashMap<u32, &str> = columns.names.iter().map(|(i, name)| (*i, name.as_str())).collect();
        refuse(columns, &names, host)?;
        let n = columns.len();
        let dependents = Dependents::of(columns);
        let (sender, ended) = channel();
        let of_kernels = sender.clone();
        // Both runners outlive nothing that listens: what they send too late interests nobody.
        let completions = move |done| drop(of_kernels.send(Ended::Kernels(done)));
        let threads = host.threads.max(1) as usize;
        let pool =
            KernelPool::with_lookup(threads, Box::new(completions), lookup).map_err(LocalError::Threads)?;
        let mut run = Run {
            columns,
            names,
            places: order::places(columns, &dependents),
            waiting_for: (0..n).map(|i| columns.deps(i).len() as u32).collect(),
            needed_by: (0..n as u32).map(|i| dependents.of_task(i).len() as u32).collect(),
            dependents,
            failed: HashMap::new(),
            ready: BinaryHeap::new(),
            assigned: BTreeSet::new(),
            running: BTreeMap::new(),
            values: HashMap::new(),
            most_held: 0,
            counts: Counts { waiting: n as u64, ..Counts::default() },
            failure: None,
            core: Core::new(
                WorkerConfig { registration: host.registration(), death_timeout: NEVER, idle_timeout: NEVER },
                0,
            ),
            messages: Vec::new(),
            most_assigned: ASSIGNED_PER_THREAD * threads,
            // Part of the names of temporary outputs: of this process alone.
            epoch: Epoch(std::process::id()),
            started: Instant::now(),
            pool,
            commands: Commands::new(Box::new(move |done| drop(sender.send(Ended::Command(done))))),
            ended,
        };
        for task in &columns.wanted {
            run.needed_by[*task as usize] += 1;
        }
        run.begin();
        Ok(run)
    }

    /// Makes the core a worker that a scheduler has welcomed.
    fn begin(&mut self) {
        let mut actions = Vec::new();
        self.core.handle(0, Event::Connected, &mut actions);
        let welcome =
            ToWorker::Welcome { epoch: self.epoch, index: WorkerIndex(0), heartbeat_ms: NO_HEARTBEAT_MS };
        let ops = (0..).zip(self.columns.ops.iter().cloned()).collect();
        self.messages = vec![welcome, ToWorker::Ops { graph: GRAPH, ops }];
        for task in (0..self.columns.len() as u32).filter(|i| self.columns.deps(*i as usize).is_empty()) {
            self.becomes_ready(task);
        }
    }

    fn drive(&mut self, cancel: &AtomicBool, mut progress: impl FnMut(&Counts)) -> Result<(), LocalError> {
        let mut told = None;
        loop {
            if cancel.load(Ordering::Relaxed) {
                self.fail(LocalError::Cancelled);
            }
            self.settle();
            if told.replace(self.counts) != Some(self.counts) {
                progress(&self.counts);
            }
            match self.failure.take() {
                Some(failure) if self.running.is_empty() => return Err(failure),
                failure => self.failure = failure,
            }
            if self.counts.memory == self.columns.len() as u64 {
                return Ok(());
            }
            match self.ended.recv_timeout(CANCEL_POLL) {
                Ok(ended) => self.take(ended),
                Err(RecvTimeoutError::Timeout) => continue,
                // Both runners are held by `self`, and they hold the senders.
                Err(RecvTimeoutError::Disconnected) => unreachable!("the runners are gone"),
            }
            while let Ok(ended) = self.ended.try_recv() {
                self.take(ended);
            }
        }
    }

    /// Tells the core what there is to tell and performs what it wants, until both have nothing more.
    fn settle(&mut self) {
        loop {
            self.assign();
            let mut actions = Vec::new();
            for message in std::mem::take(&mut self.messages) {
                self.core.handle(self.now(), Event::FromScheduler(message), &mut actions);
            }
            self.core.settle_down(self.now(), &mut actions);
            #[cfg(test)]
            self.core.check();
            if actions.is_empty() && self.messages.is_empty() {
                return;
            }
            let mut jobs = Vec::new();
            for action in actions {
                self.perform(action, &mut jobs);
            }
            self.pool.submit_all(jobs);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Gives the first tasks of the order that are ready to the core.
    fn assign(&mut self) {
        let mut assignments = Vec::new();
        while self.assigned.len() < self.most_assigned
            && let Some(Reverse((place, task))) = self.ready.pop()
        {
            let attempt = self.failed.get(&task).copied().unwrap_or(0) + 1;
            let execution = Execution { task: id(task), epoch: self.epoch, attempt };
            self.assigned.insert(execution);
            assignments.push(self.assignment(execution, place));
        }
        self.counts.ready -= assignments.len() as u64;
        self.counts.assigned += assignments.len() as u64;
        if !assignments.is_empty() {
            self.messages.push(ToWorker::Compute(assignments));
        }
    }

    fn assignment(&self, execution: Execution, place: u32) -> Assignment {
        let task = execution.task.index as usize;
        let op = self.columns.op_of[task];
        // As on a cluster: a command's dependencies are only of order.
        let is_command = matches!(self.columns.ops[op as usize], Op::Command(_));
        let deps = if is_command { &[] } else { self.columns.deps(task) };
        let held = Source::Peers(Default::default());
        Assignment {
            execution,
            op,
            args: self.columns.args(task).into(),
            name: self.names.get(&execution.task.index).map(|name| (*name).to_owned()),
            inputs: deps.iter().map(|dep| (id(*dep), held.clone())).collect(),
            priority: u64::from(place),
        }
    }

    fn perform(&mut self, action: Action, jobs: &mut Vec<KernelJob>) {
        match action {
            Action::Send(FromWorker::Finished(completions)) => {
                completions.into_iter().for_each(|completion| self.on_completion(completion));
            }
            Action::Run { execution, op, args, name, inputs } => {
                let task = execution.task.index;
                self.running.insert(task, execution);
                match &*op {
                    Op::Command(_) => self.commands.start(execution, op, args, name),
                    _ => jobs.push(self.job(task, op, args, &inputs)),
                }
            }
            Action::Kill(execution) => self.kill(execution),
            Action::Free(task) => drop(self.values.remove(&task.index)),
            // There is nobody to register with or to fetch from, and commands place their outputs themselves.
            Action::Send(_)
            | Action::Heartbeat { .. }
            | Action::Fetch { .. }
            | Action::Place { .. }
            | Action::Discard(_)
            | Action::LeaveBehind(_)
            | Action::Exit { .. } => {}
        }
    }

    fn job(&self, task: u32, op: Arc<Op>, args: Vec<u8>, inputs: &[Input]) -> KernelJob {
        let value = |input: &Input| match input {
            Input::Held(input) => self.values.get(&input.index).cloned(),
            Input::Inline(_) => None,
        };
        let inputs = inputs.iter().map(value).collect::<Option<_>>();
        let inputs = inputs.expect("the core starts a task only while its inputs are held");
        KernelJob { token: u64::from(task), op, args: args.into(), inputs }
    }

    /// A command is asked to end; a kernel that no thread has taken yet won't run.
    fn kill(&mut self, execution: Execution) {
        let task = execution.task.index;
        if self.pool.withdraw(u64::from(task)) {
            self.tell_end(task, 0, Outcome::Cancelled);
        } else {
            self.commands.kill(task);
        }
    }

    /// A runner's report, to the core. A value is held by then.
    fn take(&mut self, ended: Ended) {
        match ended {
            Ended::Kernels(done) => {
                for KernelDone { token, result, nanos } in done {
                    let task = u32::try_from(token).expect("tokens are indexes of tasks");
                    let result = result.map_err(|message| TaskError { kind: ErrorKind::Task, message });
                    self.take_result(task, nanos, result);
                }
            }
            Ended::Command(CommandEnded { task, nanos, result }) => {
                self.commands.forget(task);
                self.take_result(task, nanos, result);
            }
        }
    }

    fn take_result(&mut self, task: u32, nanos: u64, result: Result<Value, TaskError>) {
        let outcome = match result {
            Ok(value) => {
                let nbytes = value.nbytes();
                self.values.insert(task, value);
                self.most_held = self.most_held.max(self.values.len());
                Outcome::Held { nbytes }
            }
            Err(error) => Outcome::Erred { error, result: None },
        };
        self.tell_end(task, nanos, outcome);
    }

    fn tell_end(&mut self, task: u32, nanos: u64, outcome: Outcome) {
        let Some(execution) = self.running.remove(&task) else { return };
        let mut actions = Vec::new();
        self.core.handle(self.now(), Event::Ended { execution, nanos, outcome }, &mut actions);
        // Of a cancelled task: its value goes, nothing else.
        for action in actions {
            self.perform(action, &mut Vec::new());
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        let Completion { execution, outcome, .. } = completion;
        self.messages.push(ToWorker::Acknowledge { executions: vec![execution] });
        if !self.assigned.remove(&execution) {
            return;
        }
        let task = execution.task.index;
        self.counts.assigned -= 1;
        match outcome {
            Outcome::Held { .. } | Outcome::Command { .. } => self.on_finished(task),
            Outcome::Erred { error, .. } => self.on_failed(task, error),
            Outcome::InputsMissing(_) | Outcome::Cancelled | Outcome::Stopped => {
                let message = "it was given back unrun".to_owned();
                self.on_failed(task, TaskError { kind: ErrorKind::Task, message });
            }
        }
    }

    fn on_finished(&mut self, task: u32) {
        self.counts.memory += 1;
        for i in 0..self.dependents.of_task(task).len() {
            let dependent = self.dependents.of_task(task)[i];
            self.waiting_for[dependent as usize] -= 1;
            if self.waiting_for[dependent as usize] == 0 {
                self.becomes_ready(dependent);
            }
        }
        let mut unneeded = Vec::new();
        for dep in self.columns.deps(task as usize) {
            let needed = &mut self.needed_by[*dep as usize];
            *needed -= 1;
            if *needed == 0 {
                unneeded.push(id(*dep));
            }
        }
        if self.needed_by[task as usize] == 0 {
            unneeded.push(id(task));
        }
        self.messages.push(ToWorker::Free(unneeded));
    }

    fn becomes_ready(&mut self, task: u32) {
        self.counts.waiting -= 1;
        self.counts.ready += 1;
        self.ready.push(Reverse((self.places[task as usize], task)));
    }

    fn on_failed(&mut self, task: u32, error: TaskError) {
        let failures = self.failed.entry(task).or_default();
        *failures += 1;
        let op = &self.columns.ops[self.columns.op_of[task as usize] as usize];
        if *failures <= op.retries() && self.failure.is_none() {
            self.counts.ready += 1;
            self.ready.push(Reverse((self.places[task as usize], task)));
            return;
        }
        self.counts.erred += 1;
        let TaskError { kind, message } = error;
        let task = task_name(&self.names, task);
        self.fail(LocalError::Task { task, kind, message });
    }

    /// Starts nothing more, and ends what runs.
    fn fail(&mut self, failure: LocalError) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(failure);
        self.counts.cancelled = self.counts.waiting + self.counts.ready + self.counts.assigned;
        (self.counts.waiting, self.counts.ready, self.counts.assigned) = (0, 0, 0);
        self.ready.clear();
        let assigned = std::mem::take(&mut self.assigned);
        self.messages.push(ToWorker::Cancel(assigned.into_iter().collect()));
    }

    fn into_wanted(self) -> Vec<Value> {
        let value = |task: &u32| self.values.get(task).cloned();
        let wanted = self.columns.wanted.iter().map(value).collect::<Option<_>>();
        wanted.expect("a wanted value is held until the end")
    }
}

fn id(task: u32) -> TaskId {
    TaskId { graph: GRAPH, index: task }
}

/// What can't be computed on this host at all.
fn refuse(columns: &Columns, names: &HashMap<u32, &str>, host: &Host) -> Result<(), LocalError> {
    if !columns.externals.is_empty() {
        return Err(LocalError::Foreign);
    }
    for (number, op) in columns.ops.iter().enumerate() {
        let Some((needs, has)) = host.lacks(&op.resources()) else { continue };
        if let Some(task) = columns.op_of.iter().position(|op| *op as usize == number) {
            let task = format!("{} ({})", task_name(names, task as u32), op.family());
            return Err(LocalError::TooLarge { task, needs, has });
        }
    }
    Ok(())
}

/// What a task is called in messages, which themselves say what it runs.
fn task_name(names: &HashMap<u32, &str>, task: u32) -> String {
    let number = || format!("task {}", u64::from(task) + 1);
    names.get(&task).map_or_else(number, |name| (*name).to_owned())
}

#[cfg(test)]
mod tests;
