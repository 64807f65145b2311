//! Journals of simulated clusters, written by the real writer in several segments and epochs with snapshots in between,
//! and then harmed: what is read back is a true prefix or a refusal. `JOBQ_TEST_SEED=n` runs another seed.

use jobq::graph::{Builder, Columns, Op};
use jobq::journal::{
    Bodies, Body, Entry, Files, History, Journal, JournalError, Options, Progress, read_all, read_from,
};
use jobq::protocol::{FromClient, GraphOptions, Request, RequestId};
use jobq::scheduler::core::{Core, CoreConfig};
use jobq::scheduler::event::{Action, Event, JournalSeq, PeerId, Time};
use jobq::scheduler::record::{KIND, Record, VERSION};
use jobq::sim;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

const HARMS: u64 = 10_000;
/// Graphs that were altered, and then replayed.
const ALTERED: u64 = 1_500;

/// SplitMix64: enough for choosing where to strike.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let seed = std::env::var("JOBQ_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        println!("JOBQ_TEST_SEED={seed}");
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn records(seed: u64) -> Vec<Record> {
    sim::journal(seed, &sim::Config::default()).unwrap_or_else(|failure| panic!("{failure}"))
}

fn core(records: Vec<Record>) -> Core {
    Core::replay(CoreConfig::default(), Time::default(), records, JournalSeq(1)).unwrap()
}

/// Where the files of a journal are, in memory.
#[derive(Clone)]
struct Shelf(BTreeMap<String, Vec<u8>>);

impl Files for Shelf {
    fn dir(&self) -> &Path {
        Path::new("journal")
    }

    fn names(&self) -> Result<Vec<String>, JournalError> {
        Ok(self.0.keys().cloned().collect())
    }

    fn load(&self, name: &str) -> Result<Vec<u8>, JournalError> {
        Ok(self.0[name].clone())
    }
}

/// An epoch that goes on from what is there.
struct Writing {
    journal: Journal,
    told: Receiver<Progress>,
}

impl Writing {
    fn begin(dir: &Path, epoch: u32) -> Writing {
        Writing::begin_with(dir, epoch, Options { segment_bytes: 500, ..Options::default() })
    }

    fn begin_with(dir: &Path, epoch: u32, options: Options) -> Writing {
        let history = read_all(dir, |_| {}).unwrap();
        assert_eq!(history.damage, None);
        let (sender, told) = channel();
        let report = move |progress| drop(sender.send(progress));
        Writing { journal: Journal::create(dir, epoch, &history, options, report).unwrap(), told }
    }

    fn append(&mut self, record: &Record) {
        let body = record.encode().unwrap();
        let entry = Entry { seq: self.journal.next_seq(), kind: KIND, version: VERSION, body };
        let seq = entry.seq;
        self.journal.append(entry).unwrap();
        self.wait(|progress| matches!(progress, Progress::Durable(durable) if *durable >= seq));
    }

    fn snapshot(&mut self, core: &Core) {
        let bodies = core.snapshot().into_iter().map(|record| {
            Ok(Body { kind: KIND, version: VERSION, body: record.encode().map_err(|e| e.to_string())? })
        });
        let bodies: Bodies = Box::new(bodies);
        self.journal.snapshot(bodies, Box::new(|| Ok(()))).unwrap();
        self.wait(|progress| matches!(progress, Progress::Compacted(_)));
    }

    fn wait(&self, until: impl Fn(&Progress) -> bool) {
        while !until(&self.told.recv().unwrap()) {}
    }
}

/// A journal of three epochs. With a snapshot, it begins with one of the second epoch.
fn write(records: &[Record], with_snapshot: bool) -> Shelf {
    let dir = tempfile::tempdir().unwrap();
    let third = records.len() / 3;
    for (epoch, part) in [(1, 0..third), (2, third..2 * third), (3, 2 * third..records.len())] {
        let mut writing = Writing::begin(dir.path(), epoch);
        for n in part {
            if with_snapshot && n == records.len() / 2 {
                writing.snapshot(&core(records[..n].to_vec()));
            }
            writing.append(&records[n]);
        }
        writing.journal.close().unwrap();
    }
    let entries = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap());
    Shelf(entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect())
}

/// What a journal tells, as kinds, versions and bodies.
fn read(shelf: &Shelf) -> Result<(Vec<Vec<u8>>, History), JournalError> {
    let mut told = Vec::new();
    let history = read_from(shelf, |record| {
        told.push([&[record.kind, record.version], record.body].concat());
    })?;
    Ok((told, history))
}

/// Does something to one of the files that a crash, a bad disk or a person might do. What, for messages.
fn harm(shelf: &mut Shelf, random: &mut Random) -> String {
    let names: Vec<String> = shelf.0.keys().cloned().collect();
    let name = names[random.below(names.len())].clone();
    let bytes = shelf.0.get_mut(&name).unwrap();
    let at = random.below(bytes.len());
    match random.below(20) {
        0..=8 => {
            bytes.truncate(at);
            format!("{name} cut at {at}")
        }
        9..=16 if !bytes.is_empty() => {
            let bit = random.below(8);
            bytes[at] ^= 1 << bit;
            format!("{name}: bit {bit} of byte {at} flipped")
        }
        9..=17 => {
            bytes[at..].fill(0);
            format!("{name} zeroed from {at}")
        }
        18 => {
            bytes.extend_from_within(at..);
            format!("{name}: its end from {at} twice")
        }
        _ => {
            shelf.0.remove(&name);
            format!("{name} removed")
        }
    }
}

#[test]
fn a_harmed_journal_reads_as_a_true_prefix_or_is_refused() {
    let mut random = Random::new();
    let records = records(7);
    assert!(records.len() > 60, "{} records", records.len());
    for with_snapshot in [false, true] {
        let whole = write(&records, with_snapshot);
        let (truth, history) = read(&whole).unwrap();
        assert_eq!((&history.damage, &history.torn), (&None, &None));
        assert_eq!(history.base.is_some(), with_snapshot);
        assert!(history.segments.len() > 3, "{} segments", history.segments.len());
        if !with_snapshot {
            assert_eq!(truth.len(), records.len());
        }
        let (mut replayed, mut refusals, mut prefixes) = (HashSet::new(), 0, 0);
        for _ in 0..HARMS / 2 {
            let mut shelf = whole.clone();
            let mut what = harm(&mut shelf, &mut random);
            if random.below(4) == 0 && !shelf.0.is_empty() {
                what += &format!(", {}", harm(&mut shelf, &mut random));
            }
            // A refusal by its format: nothing was told.
            let Ok((told, history)) = read(&shelf) else { continue };
            assert!(told.len() <= truth.len() && told == truth[..told.len()], "{what}: an invented record");
            if history.damage.is_some() {
                refusals += 1;
            } else {
                prefixes += 1;
                // Only the end can be missing without a word: it may never have been there.
                let in_last_epoch = history.segments.last().is_some_and(|s| s.place.epoch >= 2);
                assert!(told.len() == truth.len() || in_last_epoch || told.is_empty(), "{what}");
            }
            if replayed.insert(told.len()) {
                let records = told.iter().map(|told| Record::decode(told[0], told[1], &told[2..]).unwrap());
                core(records.collect()).check();
            }
        }
        println!("{refusals} refused, {prefixes} read as a prefix, {} lengths replayed", replayed.len());
        assert!(refusals > 1000 && prefixes > 100);
    }
}

/// One value, somewhere in a record, is another one.
fn alter(record: &Record, random: &mut Random) -> Option<Record> {
    let mut body = record.encode().unwrap();
    for _ in 0..=random.below(3) {
        let at = random.below(body.len());
        body[at] = match random.below(4) {
            0 => body[at] ^ (1 << random.below(8)),
            1 => body[at].wrapping_add(1),
            2 => [0, 0xff, 0x7f, 0xcc, 0xc0][random.below(5)],
            _ => random.next() as u8,
        };
    }
    Record::decode(KIND, VERSION, &body).ok()
}

#[test]
fn altered_records_are_refused_or_lead_to_a_sound_core() {
    let mut random = Random::new();
    let (mut sound, mut refused) = (0, 0);
    let journals: Vec<Vec<Record>> = [3, 7, 11].into_iter().map(records).collect();
    for n in 0..ALTERED {
        let journal = &journals[random.below(journals.len())];
        let mut records = journal[..random.below(journal.len().min(80))].to_vec();
        if n % 3 == 0 && !records.is_empty() {
            let snapshot = core(records).snapshot();
            records = snapshot.into_iter().chain(journal.iter().take(5).cloned()).collect();
        }
        for _ in 0..=random.below(4) {
            if records.is_empty() {
                break;
            }
            let at = random.below(records.len());
            match random.below(6) {
                0 => drop(records.remove(at)),
                1 => records.insert(at, journal[random.below(journal.len())].clone()),
                2 => {
                    let other = random.below(records.len());
                    records.swap(at, other);
                }
                _ => {
                    if let Some(altered) = alter(&records[at], &mut random) {
                        records[at] = altered;
                    }
                }
            }
        }
        match Core::replay(CoreConfig::default(), Time::default(), records, JournalSeq(1)) {
            Ok(core) => {
                core.check();
                sound += 1;
            }
            Err(_) => refused += 1,
        }
    }
    println!("{sound} led to a sound core, {refused} were refused");
    assert!(sound > 100 && refused > 100);
}

fn literals(count: u32) -> Columns {
    let mut builder = Builder::new();
    let op = builder.op(Op::Data);
    for _ in 0..count {
        builder.task(op, &[7; 50], &[]);
    }
    builder.build().unwrap().into_columns()
}

fn bytes_in(dir: &Path) -> u64 {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// Work without an end, with a short history and small files.
#[test]
fn a_journal_stays_small_however_long_the_cluster_works() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 4 << 10, snapshot_bytes: 16 << 10 };
    let mut writing = Writing::begin_with(dir.path(), 1, options);
    let config = CoreConfig { keep_settled: 100, keep_answers: 100, ..CoreConfig::default() };
    let mut core = Core::new(config, Time::default());
    let (mut largest, mut snapshots) = ([0, 0], 0);
    for n in 1..=1000_u32 {
        let request = Request::Submit {
            request: RequestId(u128::from(n)),
            part: 0,
            last: true,
            columns: Box::new(literals(10)),
            options: GraphOptions::default(),
        };
        let message = FromClient { call: u64::from(n), request };
        let mut out = Vec::new();
        core.handle(Time::default(), Event::FromClient { peer: PeerId(1), message }, &mut out);
        core.settle_down(Time::default(), &mut out);
        for action in out {
            if let Action::Persist { record, .. } = action {
                writing.append(&record);
            }
        }
        if writing.journal.wants_snapshot() {
            writing.snapshot(&core);
            snapshots += 1;
        }
        let half = usize::from(n > 500);
        largest[half] = largest[half].max(bytes_in(dir.path()));
    }
    writing.journal.close().unwrap();
    assert!(snapshots > 10, "{snapshots} snapshots");
    assert!(largest[1] <= largest[0] && largest[0] < 64 << 10, "{largest:?} bytes at most");
    // And it still tells how things stand.
    let mut told = Vec::new();
    let history =
        read_all(dir.path(), |r| told.push(Record::decode(r.kind, r.version, r.body).unwrap())).unwrap();
    assert_eq!(history.damage, None);
    let status = self::core(told).status();
    assert!((10..=12).contains(&status.graphs), "{} graphs", status.graphs);
}
