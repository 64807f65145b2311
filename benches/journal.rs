//! What journalling costs: a graph of kernels through the scheduler's core, with the journal on disk and with nothing,
//! in turns in one run. `cargo bench --bench journal -- [TASKS] [DIRECTORY]`; the journal is written into DIRECTORY
//! (default: the temporary directory). Prints the processor time of the whole process, the writer's thread included,
//! the wall time, and the ratios of the medians. A third kind of round writes the journal and has everything count as
//! durable at once: no scheduler may do that, but it tells what writing costs apart from what it costs the core to keep
//! values until the disk has answered. A core alone is no scheduler: then `jq bench tasks` runs as many tasks
//! on a real cluster, whose journal can't be switched off, and what journalling took from the core is told as a share
//! of what the scheduler, and scheduler and workers together, spend without it.
//!
//! `cargo bench --bench journal -- --endless [SECONDS] [DIRECTORY]` runs small graphs for so long with a small history
//! and small files, and prints how large the journal and the process are meanwhile: both stay flat.

use jobq::graph::{Builder, Columns, Op, Resources};
use jobq::journal::{Body, Entry, Journal, Options, Progress, read_all};
use jobq::protocol::*;
use jobq::scheduler::core::{Core, CoreConfig};
use jobq::scheduler::event::{Action, Event, JournalSeq, PeerId, Time};
use jobq::scheduler::record::{KIND, Record, VERSION};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const WORKERS: u64 = 8;
const CORES: u32 = 8;
const ROUNDS: usize = 5;
/// Tasks of one part, as clients cut their graphs.
const PART: u32 = 50_000;

/// The kinds of rounds.
const KINDS: [&str; 3] = ["on     ", "written", "off    "];
const ON: usize = 0;
const WRITTEN: usize = 1;
const OFF: usize = 2;

/// Where records go.
enum Sink {
    /// Counted as durable at once.
    Nowhere,
    Disk(Box<Journal>, Receiver<Progress>),
}

struct Cluster {
    core: Core,
    sink: Sink,
    /// What is written counts only once the disk has answered.
    waits: bool,
    started: Instant,
    durable: u64,
    request: u128,
    /// Kernels that were sent to each worker and not finished.
    sent: Vec<Vec<Execution>>,
    out: Vec<Action>,
    finished: u64,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let number = |i: usize, otherwise: u64| args.get(i).and_then(|n| n.parse().ok()).unwrap_or(otherwise);
    let dir = |i: usize| args.get(i).map_or_else(std::env::temp_dir, PathBuf::from);
    if args.first().is_some_and(|arg| arg == "--endless") {
        endless(Duration::from_secs(number(1, 60)), &dir(2));
    } else {
        ratio(u32::try_from(number(0, 1_000_000)).unwrap_or(u32::MAX), &dir(1));
    }
}

fn ratio(tasks: u32, dir: &Path) {
    let parts: Vec<Columns> = (0..tasks.div_ceil(PART)).map(|n| part(PART.min(tasks - n * PART))).collect();
    // Processor and wall of each round, by kind.
    let mut spent = KINDS.map(|_| Vec::new());
    for round in 0..ROUNDS {
        for turn in 0..KINDS.len() {
            let kind = (round + turn) % KINDS.len();
            let home = Home::in_dir(dir);
            let sink = if kind == OFF { Sink::Nowhere } else { disk(&home.0, Options::default()) };
            let mut cluster = Cluster::new(sink, kind == ON, CoreConfig::default());
            let (cpu, wall) = (cpu_seconds(), Instant::now());
            for (n, columns) in parts.iter().enumerate() {
                cluster.submit(n as u32, n + 1 == parts.len(), columns.clone(), 1);
            }
            cluster.run_until(u64::from(tasks));
            cluster.close();
            let (cpu, wall) = (cpu_seconds() - cpu, wall.elapsed().as_secs_f64());
            println!("journal {}: {cpu:.3} s of processor, {wall:.3} s of wall", KINDS[kind]);
            spent[kind].push((cpu, wall));
        }
    }
    println!("the core alone, {tasks} tasks:");
    let median = |times: &[(f64, f64)], which: fn(&(f64, f64)) -> f64| {
        let mut times: Vec<f64> = times.iter().map(which).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    for (what, which) in [("processor", (|t| t.0) as fn(&(f64, f64)) -> f64), ("wall", |t| t.1)] {
        let [with, writing, without] = [ON, WRITTEN, OFF].map(|kind| median(&spent[kind], which));
        let percent = |seconds: f64| (seconds / without - 1.0) * 100.0;
        println!(
            "{what}: {with:.3} s with, {without:.3} s without the journal: {:+.1} %; {:+.1} % if nothing waits for it",
            percent(with),
            percent(writing)
        );
    }
    let [with, without] = [ON, OFF].map(|kind| median(&spent[kind], |t| t.0));
    share_of_a_cluster(tasks, dir, with - without);
}

/// What `journalling` seconds of processor are to a cluster that runs so many tasks.
fn share_of_a_cluster(tasks: u32, dir: &Path, journalling: f64) {
    let home = Home::in_dir(dir);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_jq"))
        .args(["bench", "tasks", "--quiet", "--json", "--workers", &WORKERS.to_string()])
        .args(["--count", &tasks.to_string()])
        .env("XDG_STATE_HOME", &home.0)
        .output()
        .expect("jq starts");
    assert!(output.status.success(), "jq bench: {}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
    let figure = |name: &str| report[name]["median"].as_f64().expect("a figure of every run");
    let scheduler = figure("scheduler_cpu_us_per_task");
    let all = scheduler + figure("worker_cpu_us_per_task");
    let journal = journalling / f64::from(tasks) * 1e6;
    let percent = |of: f64| journal / (of - journal) * 100.0;
    println!("a cluster of {WORKERS} workers, {tasks} tasks, {:.2} s of wall:", figure("seconds"));
    println!(
        "of {scheduler:.2} us of the scheduler's processor a task {journal:.3} are the journal's: {:+.1} % on the rest",
        percent(scheduler)
    );
    println!("of {all:.2} us of scheduler and workers together: {:+.1} % on the rest", percent(all));
}

fn endless(span: Duration, dir: &Path) {
    let home = Home::in_dir(dir);
    let options = Options { segment_bytes: 1 << 20, snapshot_bytes: 4 << 20 };
    let config = CoreConfig { keep_settled: 20_000, ..CoreConfig::default() };
    let mut cluster = Cluster::new(disk(&home.0, options), true, config);
    let (mut tasks, mut graph, mut told) = (0, 0, Instant::now());
    let columns = part(1000);
    println!("{:>8} {:>10} {:>12} {:>12}", "seconds", "tasks", "journal KiB", "memory KiB");
    while cluster.started.elapsed() < span {
        graph += 1;
        cluster.submit(0, true, columns.clone(), graph);
        tasks += 1000;
        cluster.run_until(tasks);
        cluster.maybe_snapshot();
        if told.elapsed() > span / 20 {
            told = Instant::now();
            let (seconds, kept) = (cluster.started.elapsed().as_secs(), journal_bytes(&home.0) >> 10);
            println!("{seconds:>8} {tasks:>10} {kept:>12} {:>12}", memory_kib());
        }
    }
    cluster.close();
}

impl Cluster {
    fn new(sink: Sink, waits: bool, config: CoreConfig) -> Cluster {
        let core = Core::new(config, Time(0));
        let mut cluster = Cluster {
            core,
            sink,
            waits,
            started: Instant::now(),
            durable: 0,
            request: 0,
            sent: vec![Vec::new(); WORKERS as usize],
            out: Vec::new(),
            finished: 0,
        };
        cluster.ask(Request::Scale { request: RequestId(1 << 100), workers: WORKERS as u32 });
        // Allocations first: a worker of none isn't wanted.
        cluster.settle();
        for worker in 0..WORKERS {
            let registration = Registration {
                id: WorkerId { name: format!("w{worker}"), incarnation: 1 },
                allocation: AllocationId(worker as u32 + 1),
                host: "n1".into(),
                pid: 1,
                addresses: vec![],
                cores: CORES,
                memory: 0,
                named: vec![],
                deadline_unix: 0,
                holds: vec![],
                runs: vec![],
                completions: vec![],
            };
            let message = FromWorker::Register(Box::new(registration));
            cluster.handle(Event::FromWorker { peer: PeerId(worker), message });
        }
        cluster.settle();
        cluster
    }

    fn now(&self) -> Time {
        Time(self.started.elapsed().as_nanos() as u64)
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        self.core.handle(now, event, &mut self.out);
    }

    fn ask(&mut self, request: Request) {
        let message = FromClient { call: 1, request };
        self.handle(Event::FromClient { peer: PeerId(1000), message });
    }

    fn submit(&mut self, part: u32, last: bool, columns: Columns, request: u128) {
        self.request = request;
        let options = GraphOptions::default();
        self.ask(Request::Submit {
            request: RequestId(request),
            part,
            last,
            columns: Box::new(columns),
            options,
        });
        self.settle();
    }

    /// Lets workers finish what they were sent, until so many tasks have ended.
    fn run_until(&mut self, tasks: u64) {
        while self.finished < tasks {
            for worker in 0..WORKERS {
                let done = std::mem::take(&mut self.sent[worker as usize]);
                if done.is_empty() {
                    continue;
                }
                self.finished += done.len() as u64;
                let completion = |execution| Completion {
                    execution,
                    nanos: 1_000_000,
                    outcome: Outcome::Held { nbytes: 8 },
                };
                let message = FromWorker::Finished(done.into_iter().map(completion).collect());
                self.handle(Event::FromWorker { peer: PeerId(worker), message });
            }
            self.settle();
            self.hear(false);
        }
        self.hear(true);
        self.settle();
    }

    fn settle(&mut self) {
        let now = self.now();
        self.core.settle_down(now, &mut self.out);
        for action in std::mem::take(&mut self.out) {
            match action {
                Action::Persist { seq, record } => self.persist(seq, record),
                Action::ToWorker { peer, message: ToWorker::Compute(assignments), .. } => {
                    self.sent[peer.0 as usize].extend(assignments.iter().map(|a| a.execution));
                }
                _ => {}
            }
        }
    }

    fn persist(&mut self, seq: JournalSeq, record: Record) {
        match &mut self.sink {
            Sink::Nowhere => self.durable = seq.0,
            Sink::Disk(journal, _) => {
                let body = record.encode().expect("a record can be written");
                // The seal is the journal's own record, before the core's first.
                let entry = Entry { seq: seq.0 + 1, kind: KIND, version: VERSION, body };
                journal.append(entry).expect("the journal takes records in order");
                if !self.waits {
                    self.durable = seq.0;
                }
            }
        }
    }

    /// Takes in what became durable; waits for everything if asked to.
    fn hear(&mut self, everything: bool) {
        if let Sink::Disk(journal, told) = &mut self.sink {
            loop {
                let wait = everything && self.waits && self.durable + 2 < journal.next_seq();
                let progress = if wait { told.recv().ok() } else { told.try_recv().ok() };
                match progress {
                    Some(Progress::Durable(seq)) => self.durable = self.durable.max(seq - 1),
                    Some(Progress::Failed(error)) => panic!("{error}"),
                    Some(_) => {}
                    None => break,
                }
            }
        }
        let durable = JournalSeq(self.durable);
        self.handle(Event::Durable(durable));
    }

    fn maybe_snapshot(&mut self) {
        let Sink::Disk(journal, _) = &mut self.sink else { return };
        if journal.wants_snapshot() {
            let bodies = self.core.snapshot().into_iter().map(|record| {
                Ok(Body { kind: KIND, version: VERSION, body: record.encode().map_err(|e| e.to_string())? })
            });
            journal.snapshot(Box::new(bodies), Box::new(|| Ok(()))).expect("the journal goes on");
        }
    }

    fn close(self) {
        if let Sink::Disk(journal, _) = self.sink {
            journal.close().expect("the journal is written");
        }
    }
}

/// Kernels that depend on nothing: what each costs is what the scheduler does for it.
fn part(tasks: u32) -> Columns {
    let mut builder = Builder::new();
    let op = Op::Kernel { name: "sum".into(), params: vec![], resources: Resources::default() };
    let op = builder.op(op);
    for task in 0..tasks {
        builder.task(op, &task.to_le_bytes(), &[]);
    }
    builder.build().expect("the graph is sound").into_columns()
}

fn disk(dir: &Path, options: Options) -> Sink {
    let history = read_all(dir, |_| {}).expect("the directory can be read");
    let (sender, told) = channel();
    let report = move |progress| drop(sender.send(progress));
    let journal = Journal::create(dir, 1, &history, options, report).expect("the journal can be begun");
    Sink::Disk(Box::new(journal), told)
}

/// A folder of its own, removed at the end.
struct Home(PathBuf);

impl Home {
    fn in_dir(dir: &Path) -> Home {
        Home(dir.join(format!("jobq-bench-journal-{}", std::process::id())))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn journal_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

/// Of all threads of this process.
fn cpu_seconds() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)
        .expect("the kernel tells it");
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}
