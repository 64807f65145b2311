//! Journals of a dead cluster, damaged in places that matter.

use super::*;
use crate::graph::{Builder, Columns, CommandSpec, EnvSource, Op, Resources};
use crate::journal::{Entry, Journal, Options, Progress, read_all};
use crate::protocol::{Epoch, Execution, GraphOptions, RequestId, StoredValue};
use crate::scheduler::image::Standing;
use crate::state::epoch;
use std::sync::mpsc::channel;

fn command(name: &str) -> Op {
    Op::Command(Box::new(CommandSpec {
        argv: vec![name.into()],
        substitute: false,
        cwd: "/".into(),
        env_from: EnvSource::None,
        env: vec![],
        stdin: None,
        outputs: vec![],
        resources: Resources::default(),
        retries: 0,
        time_limit_ms: 0,
        at_most_once: false,
    }))
}

fn part(graph: u32, tasks: u32) -> Record {
    let mut builder = Builder::new();
    let op = builder.op(command("act"));
    for _ in 0..tasks {
        builder.task(op, b"", &[]);
    }
    let columns: Columns = builder.build().unwrap().into_columns();
    Record::Part {
        graph: GraphId(graph),
        request: RequestId(u128::from(graph)),
        part: 0,
        last: true,
        columns: Box::new(columns),
        options: GraphOptions::default(),
    }
}

fn end(graph: u32, index: u32) -> Record {
    let task = TaskId { graph: GraphId(graph), index };
    let execution = Execution { task, epoch: Epoch(1), attempt: 1 };
    let result = Box::new(StoredValue::default());
    Record::Fates(vec![(execution, Fate::Stored { result, nanos: 1 })])
}

/// A cluster whose scheduler of epoch 1 wrote these, with a snapshot after so many of them.
fn cluster(records: &[Record], snapshot_after: Option<usize>) -> (tempfile::TempDir, StateDir) {
    let home = tempfile::tempdir().unwrap();
    let state = StateDir::create(&home.path().join("jobq"), "winds").unwrap();
    epoch::claim(state.path(), epoch::highest(state.path()).unwrap(), "test").unwrap();
    let (sender, told) = channel();
    let report = move |progress| drop(sender.send(progress));
    let history = read_all(&state.journal_dir(), |_| {}).unwrap();
    let mut journal = Journal::create(&state.journal_dir(), 1, &history, Options::default(), report).unwrap();
    for (n, record) in records.iter().enumerate() {
        let body = record.encode().unwrap();
        let seq = journal.next_seq();
        journal.append(Entry { seq, kind: record::KIND, version: record::VERSION, body }).unwrap();
        if snapshot_after == Some(n + 1) {
            let mut replay = Replay::new(CoreConfig::default(), Time::default());
            records[..=n].iter().for_each(|record| replay.apply(record.clone()));
            let bodies = replay.into_snapshot().unwrap().into_iter().map(|record| {
                Ok(Body { kind: record::KIND, version: record::VERSION, body: record.encode().unwrap() })
            });
            journal.snapshot(Box::new(bodies), Box::new(|| Ok(()))).unwrap();
            while !matches!(told.recv().unwrap(), Progress::Compacted(_)) {}
        }
    }
    journal.close().unwrap();
    (home, state)
}

/// Flips a bit in the middle of the body of that record of that file, and says where the record begins.
fn damage(state: &StateDir, ending: &str, record: usize) {
    let files = std::fs::read_dir(state.journal_dir()).unwrap().map(|entry| entry.unwrap().path());
    let path = files.filter(|path| path.to_str().unwrap().ends_with(ending)).max().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let mut at = 32;
    for _ in 0..record {
        at += 8 + u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    }
    bytes[at + 30] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

fn mended(state: &StateDir) -> Repair {
    let epoch = epoch::claim(state.path(), epoch::highest(state.path()).unwrap(), "test").unwrap();
    let outcome = mend(state, 3, epoch.fence).unwrap();
    let Outcome::Repaired(repair) = outcome else { panic!("{outcome:?}") };
    assert!(matches!(look(state).unwrap(), Soundness::Sound { torn: None }));
    *repair
}

/// The snapshot that the journal leads to, and its last part.
fn standing(state: &StateDir) -> (Vec<(u32, Vec<u8>)>, Base) {
    let mut replay = Replay::new(CoreConfig::default(), Time::default());
    past::read(state, |record| replay.apply(record)).unwrap();
    let (mut graphs, mut last) = (Vec::new(), Base::default());
    for record in replay.into_snapshot().unwrap() {
        match record {
            Record::Image(image) => graphs.push((image.graph.0, image.standing)),
            Record::Base(base) => last = *base,
            _ => {}
        }
    }
    (graphs, last)
}

const OPEN: u8 = Standing::Open as u8;
const STORED: u8 = Standing::Stored as u8;

#[test]
fn what_stands_in_a_hole_is_lost_and_the_rest_is_kept() {
    let records = [part(1, 2), end(1, 0), part(2, 5), part(3, 1), end(2, 4), end(1, 1), end(3, 0)];
    // The seal comes first. The hole takes the second graph.
    let (_home, state) = cluster(&records, None);
    damage(&state, ".journal", 3);
    let repair = mended(&state);
    assert!(repair.damage.contains("is damaged at byte"), "{}", repair.damage);
    assert_eq!(repair.kept, Work { graphs: 2, tasks: 3 });
    assert_eq!(repair.lost, Work { graphs: 1, tasks: 5 });
    let (graphs, base) = standing(&state);
    assert_eq!(graphs, [(1, vec![STORED, STORED]), (3, vec![STORED])]);
    assert!(base.next_graph > 4, "more graphs than are known may stand in the hole: {}", base.next_graph);
    assert!(repair.aside.join("0000000001-000000.journal").exists(), "the damaged file is kept");
    // The next scheduler goes on.
    let history = read_all(&state.journal_dir(), |_| {}).unwrap();
    Journal::create(&state.journal_dir(), 9, &history, Options::default(), |_| {}).unwrap().close().unwrap();
    assert_eq!(standing(&state).0, graphs);
}

#[test]
fn a_task_whose_end_is_lost_runs_again() {
    let (_home, state) = cluster(&[part(1, 2), end(1, 0), end(1, 1)], None);
    damage(&state, ".journal", 2);
    let repair = mended(&state);
    assert_eq!((repair.kept, repair.lost), (Work { graphs: 1, tasks: 2 }, Work::default()));
    assert_eq!(standing(&state).0, [(1, vec![OPEN, STORED])]);
}

#[test]
fn whole_graphs_of_a_damaged_snapshot_are_kept() {
    let records = [part(1, 2), part(2, 3), end(1, 0), end(2, 0), part(3, 1)];
    for (image, graphs) in [
        (1, vec![(1, vec![STORED, OPEN]), (3, vec![OPEN])]),
        (2, vec![(1, vec![STORED, OPEN]), (2, vec![STORED, OPEN, OPEN]), (3, vec![OPEN])]),
    ] {
        let (_home, state) = cluster(&records, Some(3));
        damage(&state, ".snapshot", image);
        let repair = mended(&state);
        assert_eq!(repair.lost.graphs, 3 - graphs.len() as u64);
        assert_eq!(standing(&state).0, graphs);
        if image == 2 {
            assert_eq!(standing(&state).1.target, 3, "as it was brought up");
        }
    }
}

#[test]
fn a_sound_journal_is_left_alone_and_so_is_a_newer_one() {
    let (_home, state) = cluster(&[part(1, 2)], None);
    let files = |state: &StateDir| std::fs::read_dir(state.journal_dir()).unwrap().count();
    let before = files(&state);
    let epoch = epoch::claim(state.path(), epoch::highest(state.path()).unwrap(), "test").unwrap();
    assert_eq!(mend(&state, 1, epoch.fence).unwrap(), Outcome::Sound { torn: None });
    assert_eq!(files(&state), before);

    let history = read_all(&state.journal_dir(), |_| {}).unwrap();
    let mut journal = Journal::create(&state.journal_dir(), 5, &history, Options::default(), |_| {}).unwrap();
    let seq = journal.next_seq();
    let version = record::VERSION + 1;
    journal.append(Entry { seq, kind: record::KIND, version, body: vec![1] }).unwrap();
    journal.close().unwrap();
    let epoch = epoch::claim(state.path(), epoch::highest(state.path()).unwrap(), "test").unwrap();
    let refused = mend(&state, 1, epoch.fence).unwrap_err().to_string();
    assert!(refused.contains(&format!("version {version}")), "{refused}");
}
