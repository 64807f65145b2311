//! The cores at scale: one scheduler's core and thousands of workers', all in this process and in virtual time, with
//! everything that they say encoded and decoded as on the wire. `cargo bench --bench scale -- [TASKS] [WORKERS..]`
//! (default: 1,000,000 tasks with 10, 100, 1,000 and 10,000 workers).
//!
//! Prints for each number of workers what a task costs: processor time of the scheduler (its core, the frames, the
//! records) and of all workers together, bytes of frames and of records, and the resident memory of a task before any
//! worker is there; last the ratio of the dearest to the cheapest. Workers have four cores, and tasks take so long that
//! they end one by one on a worker, and 400 each millisecond on all of them, or fewer where there are fewer cores.

use jobq::graph::{Columns, Op, Resources};
use jobq::protocol::*;
use jobq::scheduler::core::{Core, CoreConfig};
use jobq::scheduler::event::{Action, AllocationStatus, Event, JournalSeq, PeerId, Time};
use jobq::worker::core as worker;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::Duration;

const CORES: u32 = 4;
/// Most tasks that end in a round, about.
const RATE: u32 = 400;
/// The shortest that a task takes, so that a worker's tasks end one by one.
const LEAST_ROUNDS: u32 = 4;
/// Nanoseconds of a round: what arrives within it is one batch.
const ROUND: u64 = 1_000_000;
/// Tasks of one part, as clients cut their graphs.
const PART: u32 = 50_000;
/// Tasks that follow each other, each taking the value of the one before.
const CHAIN: u32 = 10;
const PER_ALLOCATION: u32 = 100;
const CLIENT: PeerId = PeerId(1 << 40);
/// More rounds in which nothing ends, and something is stuck.
const PATIENCE: u64 = 60_000;

/// Processor time of this thread.
fn cpu() -> u64 {
    let time =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has one");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4096
}

#[derive(Default)]
struct Cost {
    scheduler_nanos: u64,
    worker_nanos: u64,
    frame_bytes: u64,
    record_bytes: u64,
    task_bytes: u64,
}

struct Host {
    core: worker::Core,
    /// What it hears in this round.
    heard: Vec<Vec<u8>>,
    events: Vec<worker::Event>,
    ticks_at: Option<u64>,
}

struct Cluster {
    scheduler: Core,
    hosts: Vec<Host>,
    round: u64,
    /// Rounds that a task takes.
    takes: u64,
    to_scheduler: Vec<(PeerId, Vec<u8>)>,
    /// What waits for its record, by worker.
    held_back: BTreeMap<usize, VecDeque<(u64, ToWorker)>>,
    written: u64,
    ends: BTreeMap<u64, Vec<(usize, Execution)>>,
    /// Workers that have something to do in this round.
    awake: BTreeSet<usize>,
    ticks: BinaryHeap<Reverse<(u64, usize)>>,
    settled: bool,
    cost: Cost,
}

fn encode<T: Serialize>(messages: &[T]) -> Vec<u8> {
    jobq::protocol::encode(messages).expect("it fits a frame")
}

impl Cluster {
    fn new(workers: u32) -> Cluster {
        let config = CoreConfig { workers, workers_per_allocation: PER_ALLOCATION, ..CoreConfig::default() };
        Cluster {
            scheduler: Core::new(config, Time(0)),
            hosts: Vec::new(),
            round: 0,
            takes: u64::from((workers * CORES / RATE).max(LEAST_ROUNDS)),
            to_scheduler: Vec::new(),
            held_back: BTreeMap::new(),
            written: 0,
            ends: BTreeMap::new(),
            awake: BTreeSet::new(),
            ticks: BinaryHeap::new(),
            settled: false,
            cost: Cost::default(),
        }
    }

    fn now(&self) -> u64 {
        self.round * ROUND
    }

    /// The scheduler takes in what has arrived, as its shell does.
    fn scheduler_round(&mut self, more: Vec<Event>) {
        let now = Time(self.now());
        let (heard, durable) = (std::mem::take(&mut self.to_scheduler), self.written);
        let began = cpu();
        let mut out = Vec::new();
        for (peer, frame) in heard {
            for message in decode::<FromWorker>(&frame).expect("a worker's frame") {
                self.scheduler.handle(now, Event::FromWorker { peer, message }, &mut out);
            }
        }
        for event in more.into_iter().chain([Event::Durable(JournalSeq(durable))]) {
            self.scheduler.handle(now, event, &mut out);
        }
        self.scheduler.settle_down(now, &mut out);
        let mut ready: BTreeMap<usize, Vec<ToWorker>> = BTreeMap::new();
        for (host, waiting) in &mut self.held_back {
            while let Some((_, message)) = waiting.pop_front_if(|(after, _)| *after <= durable) {
                ready.entry(*host).or_default().push(message);
            }
        }
        self.held_back.retain(|_, waiting| !waiting.is_empty());
        for action in out {
            self.perform(action, durable, &mut ready);
        }
        let frames: Vec<_> = ready.into_iter().map(|(host, said)| (host, encode(&said))).collect();
        self.cost.scheduler_nanos += cpu() - began;
        for (host, frame) in frames {
            self.cost.frame_bytes += frame.len() as u64;
            self.hosts[host].heard.push(frame);
            self.awake.insert(host);
        }
    }

    fn perform(&mut self, action: Action, durable: u64, ready: &mut BTreeMap<usize, Vec<ToWorker>>) {
        match action {
            Action::Persist { seq, record } => {
                let body = record.encode().expect("a record can be written");
                self.cost.record_bytes += body.len() as u64;
                self.written = seq.0;
            }
            Action::ToWorker { peer, message, after } => {
                let host = peer.0 as usize;
                match after.filter(|after| after.0 > durable) {
                    Some(after) => self.held_back.entry(host).or_default().push_back((after.0, message)),
                    None => ready.entry(host).or_default().push(message),
                }
            }
            Action::ToClient { message: ToClient { reply: Reply::Settled { counts, .. }, .. }, .. } => {
                assert_eq!(counts.settled(), counts.total());
                self.settled = true;
            }
            Action::ToClient { message: ToClient { reply: Reply::Refused { reason, .. }, .. }, .. } => {
                panic!("refused: {reason}")
            }
            Action::Close { reason, .. } => panic!("a link is closed: {reason}"),
            _ => {}
        }
    }

    fn workers_round(&mut self) {
        let (now, round) = (self.now(), self.round);
        for (host, execution) in self.ends.remove(&round).unwrap_or_default() {
            let (outcome, nanos) = (Outcome::Held { nbytes: 8 }, self.takes * ROUND);
            self.hosts[host].events.push(worker::Event::Ended { execution, nanos, outcome });
            self.awake.insert(host);
        }
        while let Some(Reverse((at, host))) = self.ticks.peek().copied()
            && at <= now
        {
            self.ticks.pop();
            self.hosts[host].ticks_at = None;
            self.awake.insert(host);
        }
        let began = cpu();
        for host in std::mem::take(&mut self.awake) {
            self.host_round(host, now);
        }
        self.cost.worker_nanos += cpu() - began;
    }

    fn host_round(&mut self, index: usize, now: u64) {
        let host = &mut self.hosts[index];
        let mut out = Vec::new();
        for frame in std::mem::take(&mut host.heard) {
            for message in decode::<ToWorker>(&frame).expect("the scheduler's frame") {
                host.core.handle(now, worker::Event::FromScheduler(message), &mut out);
            }
        }
        for event in std::mem::take(&mut host.events) {
            host.core.handle(now, event, &mut out);
        }
        host.core.settle_down(now, &mut out);
        if let Some(deadline) = host.core.deadline()
            && host.ticks_at.is_none_or(|at| at > deadline)
        {
            host.ticks_at = Some(deadline);
            self.ticks.push(Reverse((deadline, index)));
        }
        let mut said = Vec::new();
        for action in out {
            match action {
                worker::Action::Send(message) => said.push(message),
                worker::Action::Heartbeat { running } => {
                    said.push(FromWorker::Heartbeat { memory: 1, running })
                }
                worker::Action::Run { execution, .. } => {
                    // Not all at the same time.
                    let takes = self.takes / 2 + u64::from(execution.task.index) * 7919 % self.takes;
                    self.ends.entry(self.round + takes.max(1)).or_default().push((index, execution));
                }
                // It is there in the next round.
                worker::Action::Fetch { task, .. } => {
                    host.events.push(worker::Event::Fetched { task, nbytes: 8 });
                    self.ticks.push(Reverse((now + ROUND, index)));
                }
                worker::Action::Exit { reason } => panic!("a worker leaves: {reason}"),
                _ => {}
            }
        }
        if !said.is_empty() {
            let frame = encode(&said);
            self.cost.frame_bytes += frame.len() as u64;
            self.to_scheduler.push((PeerId(index as u64), frame));
        }
    }

    fn start_worker(&mut self, index: u32) {
        let registration = Registration {
            id: WorkerId { name: format!("w{index}"), incarnation: 1 },
            allocation: AllocationId(index / PER_ALLOCATION + 1),
            host: format!("n{index}"),
            pid: index,
            addresses: vec![format!("10.0.0.1:{index}")],
            cores: CORES,
            memory: 0,
            named: Vec::new(),
            deadline_unix: 0,
            holds: Vec::new(),
            runs: Vec::new(),
            completions: Vec::new(),
        };
        let timeout = Duration::from_secs(1_000_000);
        let config = worker::WorkerConfig { registration, death_timeout: timeout, idle_timeout: timeout };
        let core = worker::Core::new(config, self.now());
        let events = vec![worker::Event::Connected];
        self.hosts.push(Host { core, heard: Vec::new(), events, ticks_at: None });
        self.awake.insert(index as usize);
    }

    fn ask(&mut self, request: Request) {
        let message = FromClient { call: 1, request };
        self.scheduler_round(vec![Event::FromClient { peer: CLIENT, message }]);
    }
}

/// Tasks of one graph of chains.
fn part(tasks: Range<u32>) -> Columns {
    let kernel = Op::Kernel { name: "mix".into(), params: vec![], resources: Resources::default() };
    let count = tasks.len();
    let mut columns = Columns { op_of: vec![0; count], args_end: vec![0; count], ..Columns::default() };
    if tasks.start == 0 {
        columns.ops.push(kernel);
    }
    for task in tasks {
        columns.deps.extend((task % CHAIN > 0).then(|| task - 1));
        columns.deps_end.push(columns.deps.len() as u32);
    }
    columns
}

fn measure(workers: u32, tasks: u32) -> Cost {
    let mut cluster = Cluster::new(workers);
    let (before, mut first) = (resident(), 0);
    for number in 0..tasks.div_ceil(PART) {
        let (end, request) = (tasks.min(first + PART), RequestId(1));
        let (columns, last) = (Box::new(part(first..end)), end == tasks);
        cluster.ask(Request::Submit {
            request,
            part: number,
            last,
            columns,
            options: GraphOptions::default(),
        });
        first = end;
    }
    cluster.cost.task_bytes = resident().saturating_sub(before);
    let mut out = Vec::new();
    let allocations: Vec<_> = (1..=workers.div_ceil(PER_ALLOCATION)).map(AllocationId).collect();
    cluster.scheduler.take_over_allocations(&allocations, &mut out);
    out.into_iter().for_each(|action| cluster.perform(action, 0, &mut BTreeMap::new()));
    let running = || AllocationStatus::Running { nodes: "n".into(), ends_unix: 0 };
    let statuses = allocations.iter().map(|id| (*id, id.0.to_string(), running())).collect();
    cluster.scheduler_round(vec![Event::Polled(statuses)]);
    (0..workers).for_each(|index| cluster.start_worker(index));
    cluster.ask(Request::Wait { keys: Vec::new(), progress: false });
    // What it costs to get them all is none of a task's.
    let ingest = std::mem::take(&mut cluster.cost);
    let mut quiet = 0;
    while !cluster.settled {
        cluster.round += 1;
        cluster.workers_round();
        quiet = if cluster.to_scheduler.is_empty() { quiet + 1 } else { 0 };
        assert!(quiet < PATIENCE, "nothing goes on: {:?}", cluster.scheduler.status().counts);
        cluster.scheduler_round(Vec::new());
    }
    let task_bytes = ingest.task_bytes;
    Cost { task_bytes, ..cluster.cost }
}

/// What a task costs: of the scheduler and the workers in microseconds, then bytes of frames, records and memory.
type Row = [f64; 5];

fn row(workers: u32, tasks: u32) -> Row {
    let cost = measure(workers, tasks);
    let each = |sum: u64| sum as f64 / f64::from(tasks);
    let micros = |nanos: u64| each(nanos) / 1e3;
    let (scheduler, workers) = (micros(cost.scheduler_nanos), micros(cost.worker_nanos));
    [scheduler, workers, each(cost.frame_bytes), each(cost.record_bytes), each(cost.task_bytes)]
}

/// The same in a process of its own, whose memory nobody has used before.
fn row_of_its_own(workers: u32, tasks: u32) -> Row {
    let program = std::env::current_exe().expect("this program has a path");
    let output = std::process::Command::new(program)
        .args([tasks.to_string(), workers.to_string(), ROW.to_owned()])
        .stderr(std::process::Stdio::inherit())
        .output()
        .expect("this program can be run");
    let text = String::from_utf8(output.stdout).expect("numbers");
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    numbers.try_into().expect("a row")
}

/// Asks for one row, as bare numbers.
const ROW: &str = "row";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u32> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let tasks = numbers.first().copied().unwrap_or(1_000_000);
    let workers = if numbers.len() > 1 { numbers[1..].to_vec() } else { vec![10, 100, 1_000, 10_000] };
    if arguments.iter().any(|argument| argument == ROW) {
        row(workers[0], tasks).iter().for_each(|number| print!("{number} "));
        return;
    }
    println!("{tasks} tasks in chains of {CHAIN}; a task costs:");
    println!(" workers  scheduler us  workers us  frames B  records B  memory B");
    let mut extremes: [(f64, f64); 5] = [(f64::MAX, 0.0); 5];
    for workers in workers {
        let row = row_of_its_own(workers, tasks);
        let [scheduler, of_workers, frames, records, memory] = row;
        println!(
            "{workers:>8} {scheduler:>13.2} {of_workers:>11.2} {frames:>9.1} {records:>10.1} {memory:>9.1}"
        );
        for ((low, high), value) in extremes.iter_mut().zip(row) {
            (*low, *high) = (low.min(value), high.max(value));
        }
    }
    let [scheduler, of_workers, frames, records, memory] = extremes.map(|(low, high)| high / low);
    println!(
        "{:>8} {scheduler:>13.2} {of_workers:>11.2} {frames:>9.2} {records:>10.2} {memory:>9.2}",
        "ratio"
    );
}
