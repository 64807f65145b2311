//! A worker's shell and its process: it links to whoever is the scheduler, feeds the core, and dies in many ways.

use super::SECOND;
use super::faults::Fault;
use super::net::Peer;
use super::runners::Running;
use super::truth::End;
use super::world::{Happening, World};
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
    born: u64,
    pub is_alive: bool,
    /// Its supervisor lives.
    is_supervised: bool,
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
    is_linking: bool,
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
            is_linking: false,
        });
        self.batch.jobs[job].hosts.push(host);
        self.count("run", "workers started");
        self.host_links_soon(host, 100, 3_000);
        self.wind_host(host);
    }

    fn host_links_soon(&mut self, host: usize, low_ms: u64, high_ms: u64) {
        if !std::mem::replace(&mut self.hosts[host].is_linking, true) {
            let delay = self.random.span(low_ms, high_ms);
            self.after(delay, Happening::HostConnects { host });
        }
    }

    pub fn host_connects(&mut self, host: usize) {
        self.hosts[host].is_linking = false;
        if !self.hosts[host].is_alive || self.hosts[host].link.is_some() {
            return;
        }
        let reachable = self.hosts[host].unreachable_until <= self.now;
        match if reachable { self.open_link(Peer::Host(host)) } else { None } {
            Some(link) => {
                self.hosts[host].link = Some(link);
                self.host_takes(host, Incoming::Linked(link));
            }
            None => {
                if self.server.is_none() && self.hosts[host].core.epoch().is_some() {
                    // It finds the last epoch's fence standing, and its scheduler gone.
                    let at = self.now - self.hosts[host].born;
                    let event = if self.went_down { Event::BroughtDown } else { Event::NotGivenUp { at } };
                    self.host_takes(host, Incoming::Core(event));
                }
                self.host_links_soon(host, 500, 10_000);
            }
        }
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
                self.host_links_soon(host, 200, 5_000);
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
            if let Event::FromScheduler(ToWorker::Refused { .. }) = event {
                self.count("run", "orphans refused");
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

    /// The worker's process ends; its children were killed before, or are now.
    fn host_exits(&mut self, host: usize) {
        self.note(|| format!("worker {host} exits"));
        self.hosts[host].is_alive = false;
        if let Some(link) = self.hosts[host].link.take() {
            self.peer_closes(link);
        }
        self.end_groups(host);
    }

    /// The supervisor has killed what a dead worker left running.
    pub fn groups_killed(&mut self, host: usize) {
        if !self.hosts[host].is_supervised {
            return;
        }
        self.end_groups(host);
        self.supervise(host);
    }

    fn end_groups(&mut self, host: usize) {
        self.truth.losses += 1;
        self.hosts[host].is_supervised = false;
        for (execution, run) in std::mem::take(&mut self.hosts[host].runs) {
            if run.is_command {
                self.truth.end(run.key, execution, host, self.now, End::Killed);
            }
        }
        self.look_at_job(self.hosts[host].job);
    }

    /// What the supervisor of a dead worker does: it tells the scheduler, and starts another.
    fn supervise(&mut self, host: usize) {
        let delay = match self.random.below(4) {
            _ if !self.strikes(self.faults.report_trouble) => self.random.span(10, 500),
            0..=2 => {
                self.count_fault(Fault::DeathReportLate);
                self.random.span(5_000, 200_000)
            }
            _ => {
                self.count_fault(Fault::DeathReportLost);
                return self.restart_host(host);
            }
        };
        self.after(delay, Happening::DeathTold { id: self.hosts[host].id.clone(), tries: 20 });
        self.restart_host(host);
    }

    fn restart_host(&mut self, host: usize) {
        let job = self.hosts[host].job;
        if self.batch.jobs[job].state == super::batch::JobState::Running && self.random.chance(0.7) {
            self.start_host(job);
            let name = self.hosts[host].id.name.clone();
            self.note(|| format!("... in place of {name}"));
        }
    }

    fn random_host(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.hosts.len()).filter(|host| self.hosts[*host].is_alive).collect();
        self.random.pick(&alive).copied()
    }

    /// kill -9 of the worker: its supervisor notices, kills its process groups, and then reports.
    pub fn kill_worker(&mut self) {
        let Some(host) = self.random_host() else { return };
        self.count_fault(Fault::WorkerKilled);
        self.note(|| format!("... worker {host}"));
        self.hosts[host].is_alive = false;
        if let Some(link) = self.hosts[host].link.take() {
            self.peer_closes(link);
        }
        let delay = self.random.span(10, 2_000);
        self.after(delay, Happening::GroupsKilled { host });
    }

    /// The whole node goes without a word.
    pub fn crash_host(&mut self) {
        let Some(host) = self.random_host() else { return };
        self.count_fault(Fault::HostCrashed);
        self.power_off(host, false);
    }

    /// Everything of that worker ends at this moment; `clean`: its kernel still closes the link.
    pub fn power_off(&mut self, host: usize, clean: bool) {
        if self.hosts[host].is_gone() {
            return;
        }
        self.note(|| format!("worker {host} is no more"));
        self.hosts[host].is_alive = false;
        if let Some(id) = self.hosts[host].link.take() {
            if clean {
                self.peer_closes(id);
            } else if let Some(link) = self.links.get_mut(&id) {
                (link.up_flows, link.down_flows) = (false, false);
                self.notice_by_keepalive(id);
            }
        }
        self.end_groups(host);
    }

    pub fn cut_host_off(&mut self) {
        let Some(host) = self.random_host() else { return };
        self.count_fault(Fault::HostUnreachable);
        let until = self.now + self.random.span(1_000, 400_000);
        self.isolate(host, until);
    }

    /// Nothing gets through to this worker until then; nobody is told.
    pub fn isolate(&mut self, host: usize, until: u64) {
        self.note(|| format!("... worker {host} is unreachable until {:.1} s", until as f64 / 1e9));
        let h = &mut self.hosts[host];
        h.unreachable_until = h.unreachable_until.max(until);
        let Some(id) = h.link else { return };
        if let Some(link) = self.links.get_mut(&id) {
            (link.up_flows, link.down_flows) = (false, false);
            self.notice_by_keepalive(id);
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
