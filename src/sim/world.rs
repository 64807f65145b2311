//! The event loop: one queue of things to come, one clock, one source of randomness.

use super::batch::Batch;
use super::claim::Claimant;
use super::client::Client;
use super::disk::Disk;
use super::faults::{Fault, Faults};
use super::folder::Folder;
use super::happening::Happening;
use super::host::Host;
use super::net::Link;
use super::random::Random;
use super::report::{Failure, Report};
use super::server::Server;
use super::truth::Truth;
use super::{Config, SECOND};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// Things that happened last and are shown with a failure.
const TRACE_LINES: usize = 100_000;
/// More events than any run needs: something spins.
const MAX_EVENTS: u64 = 3_000_000;

struct Coming {
    at: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Coming {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Coming {}

impl PartialOrd for Coming {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Coming {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub(super) struct World {
    pub seed: u64,
    pub config: Config,
    pub now: u64,
    coming: BinaryHeap<Reverse<Coming>>,
    order: u64,
    pub random: Random,
    pub faults: Faults,
    pub report: Report,
    pub links: BTreeMap<u64, Link>,
    pub disk: Disk,
    pub folder: Folder,
    /// Scheduler processes that serve, or think that they do, by epoch.
    pub servers: BTreeMap<u32, Server>,
    /// Those that don't serve yet.
    pub claimants: BTreeMap<u32, Claimant>,
    pub next_claimant: u32,
    pub batch: Batch,
    pub hosts: Vec<Host>,
    pub clients: Vec<Client>,
    pub truth: Truth,
    pub violation: Option<String>,
    /// The cluster went down as it was asked to; its last processes may still be ending.
    pub went_down: bool,
    trace: VecDeque<String>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.trace.iter().for_each(|line| eprintln!("{line}"));
            eprintln!("seed {}: the panic above, at {:.3} s", self.seed, self.now as f64 / 1e9);
        }
    }
}

impl World {
    pub fn new(seed: u64, config: Config) -> World {
        let mut random = Random::new(seed);
        let faults = Faults::random(&mut random, &config);
        let mut world = World {
            seed,
            config,
            now: 0,
            coming: BinaryHeap::new(),
            order: 0,
            random,
            faults,
            report: Report::default(),
            links: BTreeMap::new(),
            disk: Disk::default(),
            folder: Folder::default(),
            servers: BTreeMap::new(),
            claimants: BTreeMap::new(),
            next_claimant: 0,
            batch: Batch::default(),
            hosts: Vec::new(),
            clients: Vec::new(),
            truth: Truth::default(),
            violation: None,
            went_down: false,
            trace: VecDeque::new(),
        };
        world.create_clients();
        world.after(0, Happening::Revives);
        world.after(world.faults.interval, Happening::FaultStrikes);
        world.after(world.faults.until, Happening::Heals);
        world
    }

    pub fn run(mut self) -> Result<Report, Failure> {
        self.run_through()?;
        Ok(std::mem::take(&mut self.report))
    }

    pub fn run_through(&mut self) -> Result<(), Failure> {
        let mut events = 0;
        while !self.is_over() && self.violation.is_none() {
            let Some(Reverse(next)) = self.coming.pop() else {
                self.violate("nothing is to come any more, and the cluster isn't down");
                break;
            };
            self.now = next.at;
            self.happen(next.what);
            events += 1;
            if events > MAX_EVENTS || self.now > self.faults.until + 6000 * SECOND {
                self.violate_unsettled();
            }
        }
        if self.violation.is_none() {
            self.judge_end();
        }
        self.report.add("run", "events", events);
        match self.violation.take() {
            None => Ok(()),
            Some(what) => Err(Failure { seed: self.seed, what, trace: self.trace.drain(..).collect() }),
        }
    }

    fn is_over(&self) -> bool {
        self.went_down && self.hosts.iter().all(super::host::Host::is_gone)
    }

    fn happen(&mut self, what: Happening) {
        if let Some(server) = what.thread_of().and_then(|life| self.servers.get_mut(&life))
            && server.is_paused
        {
            return server.asleep.push(what);
        }
        match what {
            Happening::Revives => self.revives(),
            Happening::Claims { claimant } => self.claims(claimant),
            Happening::ServerWakes { life } => self.server_wakes(life, false),
            Happening::ServerTicks { life } => self.server_wakes(life, true),
            Happening::Written { life } => self.written(life),
            Happening::Compacts { life, step } => self.compacts(life, step),
            Happening::Synced { life } => self.synced(life),
            Happening::Beats { life } => self.beats(life),
            Happening::BeatLands { life } => self.beat_lands(life),
            Happening::BeatAnswered { life, began } => self.beat_answered(life, began),
            Happening::SchedulerContinues { life } => self.scheduler_continues(life),
            Happening::SchedulerEnds { life } => self.scheduler_ends(life),
            Happening::RelayDue { life } => self.relay_due(life),
            Happening::LetsGo { life, step } => self.lets_go(life, step),
            Happening::SeatStarts { seat } => self.seat_starts(seat),
            Happening::SeatEnds { seat } => self.seat_ends(seat),
            Happening::Polls { life } => self.polls(life),
            Happening::Answered { life, statuses } => self.poll_answered(life, statuses),
            Happening::Submits { life, allocation } => self.submits(life, allocation),
            Happening::Cancels { life, allocations } => self.cancels(life, &allocations),
            Happening::Up { link, frame } => self.arrives_up(link, &frame),
            Happening::Down { link, frame } => self.arrives_down(link, &frame),
            Happening::ServerLosesLink { link } => self.server_loses_link(link),
            Happening::PeerLosesLink { link } => self.peer_loses_link(link),
            Happening::HostConnects { host } => self.host_connects(host),
            Happening::HostLooks { host } => self.host_looks(host),
            Happening::HostWakes { host } => self.host_wakes(host, false),
            Happening::HostTicks { host } => self.host_wakes(host, true),
            Happening::RunEnds { host, execution, killed } => self.run_ends(host, execution, killed),
            Happening::Fetched { host, task, from } => self.fetched(host, task, &from),
            Happening::Places { host, execution, outputs } => self.places(host, execution, &outputs),
            Happening::GroupsKilled { host } => self.groups_killed(host),
            Happening::DeathTold { id, tries } => self.death_told(id, tries),
            Happening::JobStarts { job } => self.job_starts(job),
            Happening::JobKilled { job } => self.job_killed(job),
            Happening::ClientConnects { client } => self.client_connects(client),
            Happening::ClientSteps { client } => self.client_steps(client),
            Happening::FaultStrikes => self.fault_strikes(),
            Happening::Heals => self.heals(),
        }
    }

    pub fn after(&mut self, delay: u64, what: Happening) {
        self.order += 1;
        self.coming.push(Reverse(Coming { at: self.now + delay, order: self.order, what }));
    }

    pub fn at(&mut self, time: u64, what: Happening) {
        self.after(time.saturating_sub(self.now), what);
    }

    pub fn violate(&mut self, what: impl Into<String>) {
        if self.violation.is_none() {
            self.violation = Some(format!("at {:.3} s: {}", self.now as f64 / 1e9, what.into()));
        }
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if self.config.trace {
            let line = format!("{:>12.6} {}", self.now as f64 / 1e9, what());
            if self.trace.len() == TRACE_LINES {
                self.trace.pop_front();
            }
            self.trace.push_back(line);
        }
    }

    pub fn count(&mut self, group: &str, what: &str) {
        self.report.count(group, what);
    }

    /// A fault is struck.
    pub fn count_fault(&mut self, fault: Fault) {
        self.note(|| format!("FAULT {fault:?}"));
        self.count("fault", &format!("{fault:?}"));
    }

    /// Whether a fault of this probability strikes now.
    pub fn strikes(&mut self, probability: f64) -> bool {
        self.faults.on && self.random.chance(probability)
    }
}
