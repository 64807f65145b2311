//! A worker's shell: it feeds the core with what arrives over its link, and performs what the core wants.

use super::SECOND;
use super::contact::Way;
use super::happening::Happening;
use super::net::Moved;
use super::runners::Running;
use super::world::World;
use crate::graph::TaskId;
use crate::protocol::{self, Execution, FromWorker, Outcome, Registration, ToWorker, WorkerId};
use crate::worker::core::{Action, Core, Event, WorkerConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(super) enum Incoming {
    Linked(u64),
    Unlinked(u64),
    Messages(u64, Vec<ToWorker>),
    /// With the value of a kernel, which comes to the store first.
    Ended(Execution, u64, Outcome, Option<u64>),
    Core(Event),
}

/// One worker process, with what it started.
pub(super) struct Host {
    pub id: WorkerId,
    pub job: usize,
    pub core: Core,
    pub born: u64,
    pub is_alive: bool,
    /// Its supervisor lives.
    pub is_supervised: bool,
    pub link: Option<u64>,
    inbox: Vec<Incoming>,
    wakes: bool,
    ticks_at: Option<u64>,
    pub store: BTreeMap<TaskId, u64>,
    /// Values that a fault took from the store.
    pub spoilt: BTreeSet<TaskId>,
    pub runs: BTreeMap<Execution, Running>,
    /// Nothing gets through to it or from it.
    pub unreachable_until: u64,
    pub way: Way,
}

impl Host {
    /// Neither the worker nor anything that it started runs.
    pub fn is_gone(&self) -> bool {
        !self.is_alive && self.runs.is_empty()
    }

    /// How long ago it sent what a scheduler answered last.
    pub fn out_of_touch(&self, now: u64) -> Duration {
        Duration::from_nanos(now.saturating_sub(self.born + self.core.last_answer()))
    }

    pub fn address(&self) -> String {
        format!("{}#{}", self.id.name, self.id.incarnation)
    }
}

impl World {
    pub fn start_host(&mut self, job: usize) {
        let ordinal = self.batch.jobs[job].hosts.len();
        let allocation = self.batch.jobs[job].allocation;
        let id = WorkerId { name: format!("{allocation}-{ordinal}"), incarnation: self.hosts.len() as u64 };
        let host = self.hosts.len();
        let registration = Registration {
            allocation,
            host: format!("n{job}"),
            pid: host as u32,
            addresses: vec![format!("{}#{}", id.name, id.incarnation)],
            cores: self.random.between(2, 4) as u32,
            memory: 0,
            named: Vec::new(),
            deadline_unix: 0,
            holds: Vec::new(),
            runs: Vec::new(),
            completions: Vec::new(),
            id: id.clone(),
        };
        let config = WorkerConfig {
            registration,
            death_timeout: DEATH_TIMEOUT,
            idle_timeout: Duration::from_secs(1800),
        };
        self.hosts.push(Host {
            id,
            job,
            core: Core::new(config, 0),
            born: self.now,
            is_alive: true,
            is_supervised: true,
            link: None,
            inbox: Vec::new(),
            wakes: false,
            ticks_at: None,
            store: BTreeMap::new(),
            spoilt: BTreeSet::new(),
            runs: BTreeMap::new(),
            unreachable_until: 0,
            way: Way::default(),
        });
        self.batch.jobs[job].hosts.push(host);
        self.count("run", "workers started");
        self.host_links_soon(host, 100, 3_000);
        self.host_looks_again(host);
        self.wind_host(host);
    }

    pub fn host_hears(&mut self, host: usize, link: u64, frame: &[u8]) {
        match protocol::decode::<ToWorker>(frame) {
            Ok(messages) => self.host_takes(host, Incoming::Messages(link, messages)),
            Err(error) => self.violate(format!("a frame of the scheduler is not understood: {error}")),
        }
    }

    /// The worker learns that its link is gone.
    pub fn host_unlinked(&mut self, host: usize, link: u64) {
        self.host_takes(host, Incoming::Unlinked(link));
    }

    pub fn host_takes(&mut self, host: usize, incoming: Incoming) {
        if !self.hosts[host].is_alive {
            return;
        }
        self.hosts[host].inbox.push(incoming);
        if !std::mem::replace(&mut self.hosts[host].wakes, true) {
            // Now and then it is busy, and much arrives meanwhile.
            let delay = if self.random.chance(0.05) { self.random.span(1, 2_000) } else { 20_000 };
            self.after(delay, Happening::HostWakes { host });
        }
    }

    pub fn host_wakes(&mut self, host: usize, ticks: bool) {
        if !self.hosts[host].is_alive {
            return;
        }
        let now = self.now - self.hosts[host].born;
        let mut out = Vec::new();
        if ticks {
            self.hosts[host].ticks_at = None;
            self.hosts[host].core.handle(now, Event::Tick, &mut out);
        } else {
            self.hosts[host].wakes = false;
            for incoming in std::mem::take(&mut self.hosts[host].inbox) {
                self.host_handles(host, now, incoming, &mut out);
            }
        }
        let h = &mut self.hosts[host];
        h.core.settle_down(now, &mut out);
        h.core.check();
        self.host_acts(host, out);
        self.wind_host(host);
    }

    fn host_handles(&mut self, host: usize, now: u64, incoming: Incoming, out: &mut Vec<Action>) {
        let events = match incoming {
            Incoming::Linked(link) if self.hosts[host].link == Some(link) => vec![Event::Connected],
            Incoming::Unlinked(link) if self.hosts[host].link == Some(link) => {
                self.hosts[host].link = None;
                match self.hosts[host].way.moved {
                    Some(_) => self.host_links_soon(host, 1, 50),
                    None => self.host_links_soon(host, 200, 5_000),
                }
                vec![Event::Disconnected]
            }
            Incoming::Messages(link, messages) if self.hosts[host].link == Some(link) => {
                messages.into_iter().map(Event::FromScheduler).collect()
            }
            Incoming::Linked(_) | Incoming::Unlinked(_) | Incoming::Messages(..) => vec![],
            Incoming::Ended(execution, nanos, outcome, value) => {
                if let Some(value) = value {
                    self.hosts[host].store.insert(execution.task, value);
                    self.hosts[host].spoilt.remove(&execution.task);
                }
                vec![Event::Ended { execution, nanos, outcome }]
            }
            Incoming::Core(event) => vec![event],
        };
        for event in events {
            self.note(|| format!("worker {host} <- {event:?}"));
            match &event {
                Event::FromScheduler(ToWorker::Refused { .. }) => self.count("run", "orphans refused"),
                Event::FromScheduler(ToWorker::Moved { addresses }) => {
                    self.hosts[host].way.moved = Moved::to(addresses, self.now);
                }
                _ => {}
            }
            self.hosts[host].core.handle(now, event, out);
            self.hosts[host].core.check();
        }
    }

    fn host_acts(&mut self, host: usize, actions: Vec<Action>) {
        let mut messages = Vec::new();
        let mut exit = None;
        for action in actions {
            self.note(|| format!("worker {host} -> {action:?}"));
            self.count("worker action", super::report::variant(&format!("{action:?}")));
            match action {
                Action::Send(message) => messages.push(message),
                Action::Heartbeat { running } => messages.push(FromWorker::Heartbeat { memory: 1, running }),
                Action::Fetch { task, from } => self.start_fetch(host, task, from),
                Action::Run { execution, op, args, inputs, .. } => {
                    self.start_run(host, execution, &op, &args, &inputs);
                }
                Action::Kill(execution) => self.kill_run(host, execution),
                Action::Free(task) => drop(self.hosts[host].store.remove(&task)),
                Action::Place { execution, outputs } => {
                    let delay = self.random.span(1, 3_000);
                    self.after(delay, Happening::Places { host, execution, outputs });
                }
                Action::Discard(outputs) => {
                    for output in outputs {
                        self.disk.files.remove(&output.temporary);
                    }
                }
                Action::LeaveBehind(completions) => {
                    let id = self.hosts[host].id.clone();
                    self.disk.outbox.push((id, completions));
                }
                Action::Exit { reason } => exit = Some(reason),
            }
        }
        if let Some(link) = self.hosts[host].link.filter(|_| !messages.is_empty())
            && let Ok(frame) = protocol::encode(&messages)
        {
            self.send_up(link, frame);
        }
        if let Some(reason) = exit {
            let gave_up = reason.starts_with("no scheduler");
            self.count("run", if gave_up { "workers gave their scheduler up" } else { "workers left" });
            self.host_exits(host);
        }
    }

    /// Sets the next tick. A deadline that stays in the past would spin.
    fn wind_host(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        let Some(deadline) = h.core.deadline().filter(|_| h.is_alive) else { return };
        let at = h.born + deadline;
        if at <= self.now && self.now > h.born {
            return self.violate(format!("the deadline of worker {host} stays in the past"));
        }
        if h.ticks_at.is_none_or(|ticks| ticks > at) {
            h.ticks_at = Some(at);
            self.at(at, Happening::HostTicks { host });
        }
    }

    pub fn ask_host_to_leave(&mut self, host: usize) {
        let reason = "SIGTERM".to_owned();
        self.host_takes(host, Incoming::Core(Event::AskedToLeave { reason }));
    }

    pub fn host_by_address(&self, address: &[String]) -> Option<usize> {
        self.hosts.iter().position(|h| h.is_alive && address.first() == Some(&h.address()))
    }
}

pub(super) const DEATH_TIMEOUT: Duration = Duration::from_secs(120);
/// Grace of the end of a run that was killed.
pub(super) const KILL_GRACE_MS: (u64, u64) = (1, 5 * SECOND / 1_000_000);
