//! What runs on this worker: kernels on the pool, commands as processes, renames of accepted outputs.

use super::{Incoming, Options};
use crate::graph::{CommandResult, Op, Value};
use crate::protocol::{
    ErrorKind, Execution, MissingInput, Outcome, PendingOutput, PlaceOutcome, StoredValue, TaskError,
    path_of_text, text_of_path,
};
use crate::worker::core::{Event, Input};
use crate::worker::run::{
    Attempt, CancelHandle, CommandHost, CommandOutcome, CommitError, KernelDone, KernelJob, KernelPool,
    TaskErrorKind, commit, discard,
};
use crate::worker::store::{Found, Store};
use bytes::Bytes;
use serde_bytes::ByteBuf;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tracing::warn;

/// A batch system that ends a job signals its processes one by one: when a command dies of SIGTERM, this worker's own
/// may be on its way, and tells whose doing it was.
const SAME_SIGNAL: Duration = Duration::from_millis(500);
const SIGTERM: i32 = 15;

pub(super) struct Running {
    pool: Arc<KernelPool>,
    host: Arc<CommandHost>,
    store: Arc<Store>,
    events: mpsc::UnboundedSender<Incoming>,
    kernels: HashMap<u64, Execution>,
    commands: HashMap<Execution, CancelHandle>,
    next_token: u64,
    /// Kernels to hand to the pool under one lock.
    batch: Vec<KernelJob>,
}

impl Running {
    pub fn new(
        options: &Options,
        store: Arc<Store>,
        events: mpsc::UnboundedSender<Incoming>,
    ) -> anyhow::Result<Running> {
        let settings = &options.settings;
        let ended = events.clone();
        let completions = move |done: Vec<KernelDone>| {
            // The main loop may have ended: nobody wants the values any more.
            let _ = ended.send(Incoming::Kernels(done));
        };
        let pool = Arc::new(KernelPool::new(settings.profile.cores.max(1) as usize, completions)?);
        let state = &options.state;
        let mut host = CommandHost::new(state.name(), &options.id.name, state.results_dir());
        host.inline_limit = usize::try_from(settings.task.inline_output).unwrap_or(usize::MAX);
        host.file_limit = if settings.task.max_output == 0 { u64::MAX } else { settings.task.max_output };
        host.kill_grace = settings.task.kill_grace;
        let root = state.root().display().to_string();
        host.extra_env.push((format!("{}CLUSTER__STATE_DIR", crate::config::ENVIRONMENT_PREFIX), root));
        let (kernels, commands) = (HashMap::new(), HashMap::new());
        Ok(Running {
            pool,
            host: Arc::new(host),
            store,
            events,
            kernels,
            commands,
            next_token: 0,
            batch: Vec::new(),
        })
    }

    pub fn start(
        &mut self,
        execution: Execution,
        op: Arc<Op>,
        args: Vec<u8>,
        name: Option<String>,
        inputs: Vec<Input>,
    ) {
        if matches!(*op, Op::Command(_)) {
            return self.start_command(execution, op, args, name);
        }
        self.next_token += 1;
        let token = self.next_token;
        self.kernels.insert(token, execution);
        match self.gather(&inputs) {
            Some(inputs) => self.batch.push(KernelJob { token, op, args: args.into(), inputs }),
            None => self.load_and_start(token, execution, op, args, inputs),
        }
    }

    /// Hands the kernels of this round to the pool.
    pub fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.pool.submit_all(self.batch.drain(..));
        }
    }

    /// All inputs, if they are in memory.
    fn gather(&self, inputs: &[Input]) -> Option<Vec<Value>> {
        let one = |input: &Input| match input {
            Input::Inline(stored) => Some(value_of(stored)),
            Input::Held(task) => match self.store.get(*task) {
                Found::Here(value) => Some(value),
                Found::Spilled | Found::Absent => None,
            },
        };
        inputs.iter().map(one).collect()
    }

    /// Reads spilled inputs on a thread that may block, then starts the kernel.
    fn load_and_start(
        &self,
        token: u64,
        execution: Execution,
        op: Arc<Op>,
        args: Vec<u8>,
        inputs: Vec<Input>,
    ) {
        let (store, pool, events) = (self.store.clone(), self.pool.clone(), self.events.clone());
        tokio::task::spawn_blocking(move || {
            let mut values = Vec::with_capacity(inputs.len());
            for input in inputs {
                match input {
                    Input::Inline(stored) => values.push(value_of(&stored)),
                    Input::Held(task) => match store.load(task) {
                        Ok(Some(value)) => values.push(value),
                        outcome => {
                            if let Err(error) = outcome {
                                warn!("{task}: {error}");
                            }
                            let _ = events.send(Incoming::Core(Event::ValueLost { task }));
                            let outcome = Outcome::InputsMissing(vec![MissingInput::new(task)]);
                            let _ =
                                events.send(Incoming::Core(Event::Ended { execution, nanos: 0, outcome }));
                            return;
                        }
                    },
                }
            }
            pool.submit(KernelJob { token, op, args: args.into(), inputs: values });
        });
    }

    /// A kernel's end as the core's event; its value is in the store by then.
    pub fn kernel_ended(&mut self, done: KernelDone) -> Option<Event> {
        let execution = self.kernels.remove(&done.token)?;
        let outcome = match done.result {
            Ok(value) => {
                let nbytes = value.nbytes();
                self.store.insert(execution.task, value);
                Outcome::Held { nbytes }
            }
            Err(message) => {
                Outcome::Erred { error: TaskError { kind: ErrorKind::Task, message }, result: None }
            }
        };
        Some(Event::Ended { execution, nanos: done.nanos, outcome })
    }

    fn start_command(&mut self, execution: Execution, op: Arc<Op>, args: Vec<u8>, name: Option<String>) {
        let attempt = Attempt {
            task: execution.task,
            name,
            attempt: execution.attempt,
            epoch: execution.epoch.0,
            ordinal: u64::from(execution.task.index) + 1,
            args,
        };
        let cancel = match CancelHandle::new() {
            Ok(cancel) => cancel,
            Err(error) => {
                let message = format!("the command could not be started: {error}");
                let outcome =
                    Outcome::Erred { error: TaskError { kind: ErrorKind::Task, message }, result: None };
                let _ = self.events.send(Incoming::Core(Event::Ended { execution, nanos: 0, outcome }));
                return;
            }
        };
        self.commands.insert(execution, cancel.clone());
        let (host, events) = (self.host.clone(), self.events.clone());
        tokio::spawn(async move {
            let started = Instant::now();
            let outcome = translate(host.run(op, attempt, cancel).await);
            let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            if was_terminated(&outcome) {
                tokio::time::sleep(SAME_SIGNAL).await;
            }
            let _ = events.send(Incoming::Core(Event::Ended { execution, nanos, outcome }));
        });
    }

    /// The core is about to hear of this end.
    pub fn ended(&mut self, execution: Execution) {
        self.commands.remove(&execution);
    }

    pub fn kill(&mut self, execution: Execution) {
        if let Some(cancel) = self.commands.get(&execution) {
            return cancel.cancel();
        }
        // A kernel that has begun runs to its end; one that waits for a thread is taken back.
        let token = self.kernels.iter().find(|(_, running)| **running == execution).map(|(token, _)| *token);
        if let Some(token) = token
            && self.pool.withdraw(token)
        {
            self.kernels.remove(&token);
            let outcome = Outcome::Cancelled;
            let _ = self.events.send(Incoming::Core(Event::Ended { execution, nanos: 0, outcome }));
        }
    }

    pub fn place(&self, execution: Execution, outputs: Vec<PendingOutput>) {
        let events = self.events.clone();
        tokio::task::spawn_blocking(move || {
            let outputs = paths(outputs);
            let outcome = match commit(&outputs) {
                Ok(()) => PlaceOutcome::Done,
                Err(error @ CommitError::Lost { .. }) => PlaceOutcome::Gone(error.to_string()),
                Err(error) => {
                    // The attempt has failed, and what it made goes with it.
                    discard(&outputs);
                    PlaceOutcome::Failed(error.to_string())
                }
            };
            let _ = events.send(Incoming::Core(Event::Placed { execution, outcome }));
        });
    }

    pub fn discard(&self, outputs: Vec<PendingOutput>) {
        tokio::task::spawn_blocking(move || discard(&paths(outputs)));
    }
}

fn paths(outputs: Vec<PendingOutput>) -> Vec<(PathBuf, PathBuf)> {
    let path = |text: String| path_of_text(&text);
    outputs.into_iter().map(|output| (path(output.temporary), path(output.target))).collect()
}

/// Whether a command was ended by SIGTERM, as itself or its shell tells it.
fn was_terminated(outcome: &Outcome) -> bool {
    let kind = match outcome {
        Outcome::Erred { error, .. } => error.kind,
        _ => return false,
    };
    matches!(kind, ErrorKind::Signal(SIGTERM)) || kind == ErrorKind::Exit(128 + SIGTERM)
}

fn value_of(stored: &StoredValue) -> Value {
    let buffers = stored.buffers.iter().map(|buffer| Bytes::copy_from_slice(buffer)).collect();
    Value { header: Bytes::copy_from_slice(&stored.header), buffers }
}

fn stored(value: Value) -> Box<StoredValue> {
    let buffers = value.buffers.into_iter().map(|buffer| ByteBuf::from(buffer.to_vec())).collect();
    Box::new(StoredValue { header: value.header.to_vec(), buffers })
}

/// A command's end in the protocol's words. One that was fine and printed nothing has an empty value.
fn translate(outcome: CommandOutcome) -> Outcome {
    match outcome {
        CommandOutcome::Finished { result, temporaries, .. } => {
            let silent = result.buffers.iter().all(Bytes::is_empty);
            let plain = CommandResult { exit_code: Some(0), ..CommandResult::default() };
            let plain =
                silent && rmp_serde::from_slice::<CommandResult>(&result.header).is_ok_and(|r| r == plain);
            let pending = |(temporary, target): (PathBuf, PathBuf)| PendingOutput {
                temporary: text_of_path(&temporary),
                target: text_of_path(&target),
            };
            Outcome::Command {
                result: if plain { Box::default() } else { stored(result) },
                outputs: temporaries.into_iter().map(pending).collect(),
            }
        }
        CommandOutcome::Failed { kind: TaskErrorKind::Cancelled, .. } => Outcome::Cancelled,
        CommandOutcome::Failed { kind, message, result, .. } => {
            let kind = match kind {
                TaskErrorKind::Exit(code) => ErrorKind::Exit(code),
                TaskErrorKind::Signal(number) => ErrorKind::Signal(number),
                TaskErrorKind::TimeLimit => ErrorKind::TimeLimit,
                TaskErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
                _ => ErrorKind::Task,
            };
            Outcome::Erred { error: TaskError { kind, message }, result: Some(stored(result)) }
        }
    }
}
