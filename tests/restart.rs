//! A scheduler's start from a long journal, without its processes: what comes back, and how long it takes.
//!
//! `benches/restart.sh` runs the measurement, which is ignored otherwise.

use jobq::graph::{Columns, CommandSpec, EnvSource, GraphId, Op, Resources, TaskId};
use jobq::journal::{Entry, History, Journal, Options, Progress};
use jobq::protocol::{
    AllocationId, Counts, Epoch, Execution, GraphOptions, PendingOutput, RequestId, StoredValue, WorkerId,
};
use jobq::scheduler::core::{Core, CoreConfig, Replay};
use jobq::scheduler::event::{JournalSeq, Time};
use jobq::scheduler::record::{self, Fate, Record};
use jobq::scheduler::shell::past;
use jobq::state::StateDir;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Tasks of one part, as a stream brings them.
const PART: u32 = 10_000;
/// Fates of one batch of a busy scheduler.
const BATCH: u32 = 200;
const WORKERS: u64 = 64;

/// What the tasks of a journal are.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Commands,
    /// In layers, each of two of the layer before.
    Kernels,
}

fn command() -> Op {
    Op::Command(Box::new(CommandSpec {
        argv: vec!["process".into(), "{}".into()],
        substitute: true,
        cwd: "/work".into(),
        env_from: EnvSource::None,
        env: vec![],
        stdin: None,
        outputs: vec![],
        resources: Resources { cores: 1, memory: 0, named: vec![] },
        retries: 0,
        time_limit_ms: 0,
        at_most_once: false,
    }))
}

fn kernel() -> Op {
    Op::Kernel { name: "mix".into(), params: vec![], resources: Resources::default() }
}

/// A part of a graph, from its `first` task on.
fn part(kind: Kind, first: u32, count: u32) -> Columns {
    let mut columns = Columns::default();
    if first == 0 {
        columns.ops.push(if kind == Kind::Commands { command() } else { kernel() });
    }
    for task in first..first + count {
        columns.op_of.push(0);
        columns.args.extend_from_slice(format!("input-{task:08}.nc").as_bytes());
        columns.args_end.push(columns.args.len() as u32);
        if kind == Kind::Kernels && task >= 1000 {
            columns.deps.extend([task - 1000, task - 999]);
        }
        columns.deps_end.push(columns.deps.len() as u32);
    }
    columns.check(first, u32::from(first > 0), 0).unwrap();
    columns
}

fn worker(number: u64) -> WorkerId {
    WorkerId { name: format!("w{number}"), incarnation: 1 }
}

/// The records of a graph of so many tasks, the first half of which has ended.
fn records(kind: Kind, tasks: u32) -> Vec<Record> {
    let graph = GraphId(1);
    let mut records = vec![Record::Target { request: RequestId(1), workers: WORKERS as u32 }];
    for number in 0..WORKERS {
        let allocation = AllocationId(number as u32 + 1);
        records.push(Record::Intent { allocation });
        records.push(Record::Registered { worker: worker(number), allocation });
    }
    for (number, first) in (0..tasks).step_by(PART as usize).enumerate() {
        let count = PART.min(tasks - first);
        let columns = Box::new(part(kind, first, count));
        let (request, last) = (RequestId(2), first + count == tasks);
        let options = GraphOptions::default();
        records.push(Record::Part { graph, request, part: number as u32, last, columns, options });
    }
    for first in (0..tasks / 2).step_by(BATCH as usize) {
        let execution = |index| Execution { task: TaskId { graph, index }, epoch: Epoch(1), attempt: 1 };
        let batch: Vec<Execution> = (first..(first + BATCH).min(tasks / 2)).map(execution).collect();
        if kind == Kind::Commands {
            let number = u64::from(first / BATCH) % WORKERS;
            records.push(Record::Assigned { worker: worker(number), executions: batch.clone() });
        }
        let fate = |execution| match kind {
            Kind::Commands => (execution, Fate::Stored { result: Box::default(), nanos: 1_500_000 }),
            Kind::Kernels => (execution, Fate::Held { nbytes: 800, nanos: 1_500_000 }),
        };
        records.push(Record::Fates(batch.into_iter().map(fate).collect()));
    }
    records
}

/// Writes them as the first epoch's journal.
fn write(state: &StateDir, records: &[Record]) {
    let (sender, told) = channel();
    let report = move |progress| drop(sender.send(progress));
    let history = History { next_seq: 1, ..History::default() };
    let mut journal = Journal::create(&state.journal_dir(), 1, &history, Options::default(), report).unwrap();
    let first = journal.next_seq();
    for (seq, record) in (first..).zip(records) {
        let body = record.encode().unwrap();
        journal.append(Entry { seq, kind: record::KIND, version: record::VERSION, body }).unwrap();
    }
    journal.close().unwrap();
    assert!(told.iter().all(|progress| matches!(progress, Progress::Durable(_))));
}

struct Restarted {
    core: Core,
    history: History,
    took: Duration,
}

fn restart(state: &StateDir) -> Restarted {
    let began = Instant::now();
    let config = CoreConfig { epoch: Epoch(2), ..CoreConfig::default() };
    let mut replay = Replay::new(config, Time::default());
    let history = past::read(state, |record| replay.apply(record)).unwrap();
    assert_eq!(history.damage, None);
    let core = replay.finish(JournalSeq(history.next_seq)).unwrap();
    Restarted { core, history, took: began.elapsed() }
}

/// How long the disk takes to begin that epoch's journal, which comes between the replay and the contact file.
fn begin(state: &StateDir, epoch: u32, history: &History) -> Duration {
    let began = Instant::now();
    let journal = Journal::create(&state.journal_dir(), epoch, history, Options::default(), |_| {}).unwrap();
    let took = began.elapsed();
    journal.close().unwrap();
    took
}

fn state() -> (tempfile::TempDir, StateDir) {
    let home = tempfile::tempdir().unwrap();
    let state = StateDir::create(&home.path().join("jobq"), "c").unwrap();
    (home, state)
}

#[test]
fn half_a_graph_comes_back_as_it_was() {
    for kind in [Kind::Commands, Kind::Kernels] {
        let (_home, state) = state();
        let tasks = 24_000;
        let mut records = records(kind, tasks);
        // Some more that is in every journal: a command under way, one whose outputs are accepted.
        let execution =
            |index| Execution { task: TaskId { graph: GraphId(1), index }, epoch: Epoch(1), attempt: 1 };
        if kind == Kind::Commands {
            let executions = vec![execution(tasks / 2), execution(tasks / 2 + 1)];
            records.push(Record::Assigned { worker: worker(3), executions });
            let outputs = vec![PendingOutput { temporary: "/out.tmp".into(), target: "/out".into() }];
            let accepted = Fate::Accepted { outputs, result: Box::<StoredValue>::default(), nanos: 7 };
            records.push(Record::Fates(vec![(execution(tasks / 2), accepted)]));
        }
        write(&state, &records);
        let core = restart(&state).core;
        core.check();
        let status = core.status();
        let half = u64::from(tasks / 2);
        let expected = match kind {
            Kind::Commands => Counts { memory: half, assigned: 2, ready: half - 2, ..Counts::default() },
            // The last layer's values are awaited, and nothing may be made of them before.
            Kind::Kernels => Counts { memory: half - 1000, waiting: half + 1000, ..Counts::default() },
        };
        assert_eq!(status.counts, expected, "{kind:?}");
        assert_eq!((status.target, status.graphs), (WORKERS as u32, 1));
        assert_eq!(core.allocations_to_ask_about().len() as u64, WORKERS);
    }
}

#[test]
#[ignore = "a measurement: benches/restart.sh"]
fn how_long_a_restart_takes() {
    for tasks in [100_000, 1_000_000] {
        for kind in [Kind::Commands, Kind::Kernels] {
            let (_home, state) = state();
            write(&state, &records(kind, tasks));
            let mut rounds: Vec<(Duration, Duration)> = Vec::new();
            let mut nbytes = 0;
            for epoch in 2..7 {
                let restarted = restart(&state);
                nbytes = restarted.history.segment_bytes();
                rounds.push((restarted.took, begin(&state, epoch, &restarted.history)));
            }
            rounds.sort_unstable();
            let ms = |took: Duration| took.as_secs_f64() * 1e3;
            println!(
                "{tasks:>8} tasks, half of them ended, {kind:?}: {:.1} ms (of five: {:.1} to {:.1}), {:.1} MiB; \
                 and {:.1} ms to begin a journal",
                ms(rounds[2].0),
                ms(rounds[0].0),
                ms(rounds[4].0),
                nbytes as f64 / f64::from(1 << 20),
                ms(rounds[2].1),
            );
        }
    }
}
