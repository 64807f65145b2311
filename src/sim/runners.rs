//! Fake runners: kernels that compute a digest of their inputs, commands that leave a trace in the truth and files on
//! the disk, fetches between workers.

use super::faults::Fault;
use super::graphs::{self, FAILS, FLAKY, SLOW, command_output, kernel_value, read_args};
use super::happening::Happening;
use super::host::{DEATH_TIMEOUT, Host, Incoming, KILL_GRACE_MS};
use super::random::digest_bytes;
use super::server::Server;
use super::truth::{End, Run};
use super::world::World;
use crate::graph::{Op, TaskId};
use crate::protocol::{
    ErrorKind, Execution, MissingInput, Outcome, PendingOutput, PlaceOutcome, StoredValue, TaskError,
};
use crate::worker::core::{Event, Holder, Input};
use serde_bytes::ByteBuf;

/// Something that runs on a worker.
pub(super) struct Running {
    pub key: u64,
    pub is_command: bool,
    behaviour: u8,
    outputs: usize,
    started: u64,
    /// Of a kernel.
    value: u64,
}

/// What a stored value is as an input.
pub(super) fn digest_stored(value: &StoredValue) -> u64 {
    digest_bytes(value.buffers.iter().flat_map(|buffer| buffer.iter().copied()))
}

fn target(key: u64, output: usize) -> String {
    format!("out/{key:016x}.{output}")
}

/// Final paths of a command's outputs.
pub(super) fn targets(key: u64, outputs: usize) -> impl Iterator<Item = String> {
    (0..outputs).map(move |output| target(key, output))
}

impl World {
    pub fn start_run(&mut self, host: usize, execution: Execution, op: &Op, args: &[u8], inputs: &[Input]) {
        let (key, behaviour) = read_args(args);
        let mut running =
            Running { key, behaviour, is_command: false, outputs: 0, started: self.now, value: 0 };
        match op {
            Op::Command(spec) => {
                (running.is_command, running.outputs) = (true, spec.outputs.len());
                self.judge_start(host, key, execution, spec.at_most_once);
            }
            _ => match self.gather(host, inputs) {
                Ok(values) => {
                    running.value = kernel_value(key, &values);
                    let runs = |h: &Host| h.is_alive && h.runs.keys().any(|e| e.task == execution.task);
                    if self.hosts.iter().any(runs) {
                        self.count("kernels", "started while they ran elsewhere");
                    }
                }
                Err(lost) => {
                    let outcome = Outcome::InputsMissing(vec![MissingInput::new(lost)]);
                    self.host_takes(host, Incoming::Core(Event::ValueLost { task: lost }));
                    return self.host_takes(host, Incoming::Ended(execution, 0, outcome, None));
                }
            },
        }
        let slow = behaviour == SLOW;
        let span = match (running.is_command, slow) {
            (false, false) => self.random.span(1, 300),
            (false, true) => self.random.span(500, 20_000),
            (true, false) => self.random.span(50, 3_000),
            (true, true) => self.random.span(3_000, 90_000),
        };
        self.hosts[host].runs.insert(execution, running);
        self.after(span, Happening::RunEnds { host, execution, killed: false });
    }

    fn gather(&mut self, host: usize, inputs: &[Input]) -> Result<Vec<u64>, TaskId> {
        let mut values = Vec::new();
        for input in inputs {
            match input {
                Input::Inline(stored) => values.push(digest_stored(stored)),
                Input::Held(task) => match self.hosts[host].store.get(task) {
                    Some(value) => values.push(*value),
                    None => {
                        if !self.hosts[host].spoilt.contains(task) {
                            self.violate(format!("worker {host} thinks that it holds {task}, but freed it"));
                        }
                        return Err(*task);
                    }
                },
            }
        }
        Ok(values)
    }

    fn judge_start(&mut self, host: usize, key: u64, execution: Execution, at_most_once: bool) {
        let worker = self.hosts[host].address();
        if !self.disk.has_assigned(execution, &worker) {
            self.violate(format!("{execution:?} starts on {worker}, which isn't durable"));
        }
        if self.disk.has_end_of_command(execution.task) {
            self.violate(format!("{execution:?} starts, but the end of the task is durable"));
        }
        self.count("commands", "started");
        let run = Run { execution, host, ended: None };
        let hosts = &self.hosts;
        let again = self.truth.runs.get(&key).is_some_and(|runs| !runs.is_empty());
        let now = self.now;
        // One that has been out of touch for so long may be thought dead, whatever it has done meanwhile.
        let gone = |host: usize| !hosts[host].is_alive || hosts[host].out_of_touch(now) >= DEATH_TIMEOUT;
        if let Err(why) = self.truth.start(key, run, gone, at_most_once) {
            self.violate(why);
        }
        if again {
            self.count("commands", "started again");
        }
    }

    /// What a registration says to run, and goes on under a later scheduler.
    pub fn count_adopted(&mut self, server: &Server, ran: &[Execution]) {
        for execution in ran.iter().filter(|execution| execution.epoch.0 < server.life) {
            let is_taken = server.core.current_execution(execution.task) == Some(*execution);
            let run = self.hosts.iter().find_map(|host| host.runs.get(execution));
            if let (true, Some(run)) = (is_taken, run) {
                let what = if run.is_command { "commands" } else { "kernels" };
                self.count(what, "gone on with under a later scheduler");
            }
        }
    }

    /// SIGTERM and SIGKILL to a command's group; a kernel that has begun runs to its end.
    pub fn kill_run(&mut self, host: usize, execution: Execution) {
        let Some(run) = self.hosts[host].runs.get(&execution) else { return };
        if run.is_command || self.random.chance(0.3) {
            let delay = self.random.span(KILL_GRACE_MS.0, KILL_GRACE_MS.1);
            self.after(delay, Happening::RunEnds { host, execution, killed: true });
        }
    }

    pub fn run_ends(&mut self, host: usize, execution: Execution, killed: bool) {
        let Some(run) = self.hosts[host].runs.remove(&execution) else { return };
        let nanos = self.now - run.started;
        let (outcome, value, end) = if killed {
            (Outcome::Cancelled, None, End::Killed)
        } else if run.is_command {
            self.command_ends(execution, &run)
        } else if run.behaviour == FAILS {
            (erred(ErrorKind::Task), None, End::Failed)
        } else {
            (Outcome::Held { nbytes: 8 }, Some(run.value), End::Well)
        };
        if run.is_command {
            self.truth.end(run.key, execution, host, self.now, end);
        }
        self.truth.ends.insert(execution, end);
        self.host_takes(host, Incoming::Ended(execution, nanos, outcome, value));
        self.look_at_job(self.hosts[host].job);
    }

    fn command_ends(&mut self, execution: Execution, run: &Running) -> (Outcome, Option<u64>, End) {
        if run.behaviour == FLAKY && self.random.chance(0.5) {
            return (erred(ErrorKind::Exit(1)), None, End::Failed);
        }
        let outputs: Vec<PendingOutput> = targets(run.key, run.outputs)
            .map(|target| PendingOutput {
                temporary: format!("{target}.{}.{}", execution.epoch, execution.attempt),
                target,
            })
            .collect();
        for output in &outputs {
            self.disk.files.insert(output.temporary.clone(), run.key);
        }
        let buffers = vec![ByteBuf::from(command_output(run.key))];
        let result = Box::new(StoredValue { header: vec![], buffers });
        (Outcome::Command { result, outputs }, None, End::Well)
    }

    pub fn places(&mut self, host: usize, execution: Execution, outputs: &[PendingOutput]) {
        if !self.hosts[host].is_alive {
            return;
        }
        let outcome = self.place(execution, outputs);
        self.count("placed", super::report::variant(&format!("{outcome:?}")));
        self.host_takes(host, Incoming::Core(Event::Placed { execution, outcome }));
    }

    fn place(&mut self, execution: Execution, outputs: &[PendingOutput]) -> PlaceOutcome {
        let is_to_move = outputs.iter().any(|output| self.disk.files.contains_key(&output.temporary));
        if is_to_move && self.strikes(self.faults.place_trouble) {
            self.count_fault(Fault::PlaceRefused);
            self.truth.revoked.insert(execution);
            return PlaceOutcome::Failed("permission denied".into());
        }
        let there = |file: &String| self.disk.files.contains_key(file);
        if let Some(lost) = outputs.iter().find(|o| !there(&o.temporary) && !there(&o.target)) {
            self.truth.revoked.insert(execution);
            return PlaceOutcome::Gone(format!("{} is gone", lost.temporary));
        }
        for output in outputs {
            if let Some(key) = self.disk.files.remove(&output.temporary) {
                self.disk.files.insert(output.target.clone(), key);
                if let Err(why) = self.truth.place(&output.target, execution) {
                    self.violate(why);
                }
            }
        }
        PlaceOutcome::Done
    }

    pub fn start_fetch(&mut self, host: usize, task: TaskId, from: Vec<Holder>) {
        let slow = self.strikes(self.faults.fetch_trouble);
        if slow {
            self.count_fault(Fault::FetchSlow);
        }
        let delay = if slow { self.random.span(1_000, 60_000) } else { self.random.span(1, 200) };
        self.after(delay, Happening::Fetched { host, task, from });
    }

    pub fn fetched(&mut self, host: usize, task: TaskId, from: &[Holder]) {
        let fails = self.strikes(self.faults.fetch_trouble);
        if fails {
            self.count_fault(Fault::FetchFailed);
        }
        let reachable = |host: usize| self.hosts[host].unreachable_until <= self.now;
        let mut missing = MissingInput::new(task);
        let mut value = None;
        for holder in from {
            let there = self.host_by_address(&holder.addresses);
            match there.filter(|other| !fails && reachable(*other) && reachable(host)) {
                None => missing.unreachable.push(holder.index),
                Some(other) => {
                    value = self.hosts[other].store.get(&task).copied();
                    if value.is_some() {
                        break;
                    }
                    missing.denied.push(holder.index);
                }
            }
        }
        if !self.hosts[host].is_alive {
            return;
        }
        match value {
            Some(value) => {
                self.hosts[host].store.insert(task, value);
                self.hosts[host].spoilt.remove(&task);
                self.host_takes(host, Incoming::Core(Event::Fetched { task, nbytes: 8 }));
            }
            None => self.host_takes(host, Incoming::Core(Event::FetchFailed(missing))),
        }
    }

    /// A value can't be read back from a worker's store.
    pub fn lose_value(&mut self) {
        let stores = self.hosts.iter().enumerate().filter(|(_, h)| h.is_alive);
        let values: Vec<(usize, TaskId)> =
            stores.flat_map(|(host, h)| h.store.keys().map(move |task| (host, *task))).collect();
        let Some((host, task)) = self.random.pick(&values).copied() else { return };
        self.count_fault(Fault::ValueUnreadable);
        self.note(|| format!("... {task} of worker {host}"));
        self.hosts[host].store.remove(&task);
        self.hosts[host].spoilt.insert(task);
        self.host_takes(host, Incoming::Core(Event::ValueLost { task }));
    }

    /// A temporary file is gone before it came to its place.
    pub fn lose_temporary(&mut self) {
        let is_temporary = |file: &&String| file.matches('.').count() > 1;
        let temporaries: Vec<String> = self.disk.files.keys().filter(is_temporary).cloned().collect();
        let Some(file) = self.random.pick(&temporaries) else { return };
        self.count_fault(Fault::TemporaryLost);
        self.disk.files.remove(file);
    }
}

fn erred(kind: ErrorKind) -> Outcome {
    let error = TaskError { kind, message: format!("behaviour {}", graphs::FAILS) };
    Outcome::Erred { error, result: None }
}
