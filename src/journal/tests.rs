//! The journal on a file system.

use super::files::path_of;
use super::record::{FileHeader, KIND_END, KIND_SEAL, Place};
use super::*;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

type Told = Receiver<Progress>;

fn small(segment_bytes: u64) -> Options {
    Options { segment_bytes, ..Options::default() }
}

fn begin(dir: &Path, epoch: u32, options: Options) -> (Journal, Told) {
    let history = read_all(dir, |_| {}).unwrap();
    assert_eq!(history.damage, None);
    begin_after(dir, epoch, &history, options)
}

fn begin_after(dir: &Path, epoch: u32, history: &History, options: Options) -> (Journal, Told) {
    let (sender, told) = channel();
    let report = move |progress| drop(sender.send(progress));
    (Journal::create(dir, epoch, history, options, report).unwrap(), told)
}

fn append(journal: &mut Journal, text: &str) -> u64 {
    let seq = journal.next_seq();
    journal.append(Entry { seq, kind: 1, version: 1, body: text.as_bytes().to_vec() }).unwrap();
    seq
}

/// Waits for the journal to reach `seq`; the long limit only ends a test that hangs.
fn wait_durable(told: &Told, seq: u64) {
    loop {
        match told.recv_timeout(Duration::from_secs(60)) {
            Ok(Progress::Durable(durable)) if durable >= seq => return,
            Ok(Progress::Durable(_)) => {}
            other => panic!("not durable: {other:?}"),
        }
    }
}

fn texts(dir: &Path) -> (Vec<String>, History) {
    let mut texts = Vec::new();
    let history = read_all(dir, |record| texts.push(String::from_utf8(record.body.to_vec()).unwrap()));
    (texts, history.unwrap())
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn what_is_told_durable_is_read_back_in_order_over_segments_and_epochs() {
    let dir = tempfile::tempdir().unwrap();
    let small = small(200);
    let mut expected = Vec::new();
    for epoch in [1, 2, 5] {
        let (mut journal, told) = begin(dir.path(), epoch, small);
        for n in 0..20 {
            let text = format!("epoch {epoch}, record {n}");
            let seq = append(&mut journal, &text);
            wait_durable(&told, seq);
            expected.push(text);
            assert_eq!(texts(dir.path()).0, expected, "before it is closed");
        }
        journal.close().unwrap();
    }
    let (read, history) = texts(dir.path());
    assert_eq!(read, expected);
    assert_eq!((history.records, history.next_seq, history.damage), (60, 64, None));
    assert!(history.segments.len() > 9, "{} segments", history.segments.len());
    assert_eq!(segments(dir.path()).len(), history.segments.len(), "no temporary file is left");
}

#[test]
fn appends_share_syncs_and_the_backlog_empties() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, told) = begin(dir.path(), 1, Options::default());
    let last = (0..20_000).map(|n| append(&mut journal, &n.to_string())).last().unwrap();
    wait_durable(&told, last);
    journal.close().unwrap();
    assert_eq!(texts(dir.path()).0.len(), 20_000);
    let (mut journal, told) = begin(dir.path(), 2, Options::default());
    let seq = append(&mut journal, "x");
    wait_durable(&told, seq);
    assert_eq!(journal.backlog_bytes(), 0);
}

#[test]
fn dropping_the_journal_writes_what_was_appended() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = begin(dir.path(), 1, Options::default());
    append(&mut journal, "last words");
    drop(journal);
    assert_eq!(texts(dir.path()).0, ["last words"]);
}

#[test]
fn what_a_superseded_scheduler_appends_after_the_seal_is_ignored_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let small = small(100);
    let (mut zombie, told) = begin(dir.path(), 1, small);
    let seq = append(&mut zombie, "in time");
    wait_durable(&told, seq);

    let (mut holder, _) = begin(dir.path(), 2, small);
    for n in 0..10 {
        let seq = append(&mut zombie, &format!("too late {n}"));
        wait_durable(&told, seq);
    }
    append(&mut holder, "after it");
    holder.close().unwrap();
    drop(zombie);
    assert_eq!(texts(dir.path()).0, ["in time", "after it"]);
    begin(dir.path(), 3, small).0.close().unwrap();
    let (read, history) = texts(dir.path());
    assert_eq!((read.as_slice(), history.damage), (&["in time".to_owned(), "after it".to_owned()][..], None));
}

#[test]
fn an_epoch_that_died_at_its_first_record_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, told) = begin(dir.path(), 1, Options::default());
    let seq = append(&mut first, "a");
    wait_durable(&told, seq);
    // Epoch 2 made its segment, and died before its seal was whole; meanwhile the zombie went on.
    let header = FileHeader { place: Place::segment(2, 0), first_seq: 3 };
    let torn = [&header.encode()[..], &[17, 0, 0]].concat();
    std::fs::write(path_of(dir.path(), header.place), torn).unwrap();
    append(&mut first, "b");
    first.close().unwrap();

    let (mut third, _) = begin(dir.path(), 3, Options::default());
    append(&mut third, "c");
    third.close().unwrap();
    let (read, history) = texts(dir.path());
    assert_eq!((read.join(" "), history.damage), ("a b c".to_owned(), None));
}

#[test]
fn an_epoch_that_went_on_after_its_first_record_did_not_die_at_it() {
    let dir = tempfile::tempdir().unwrap();
    for epoch in [1, 2] {
        let (mut journal, told) = begin(dir.path(), epoch, small(1));
        for text in ["a", "b"] {
            let seq = append(&mut journal, text);
            wait_durable(&told, seq);
        }
        journal.close().unwrap();
    }
    let path = path_of(dir.path(), Place::segment(2, 0));
    let len = std::fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(len - 1).unwrap();
    let (read, history) = texts(dir.path());
    assert_eq!((read.len(), history.damage.unwrap().path), (0, path));
}

#[test]
fn a_torn_tail_ends_the_last_segment_and_is_cut_by_the_next_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = begin(dir.path(), 1, Options::default());
    for text in ["a", "b", "c"] {
        append(&mut journal, text);
    }
    journal.close().unwrap();
    let path = segments(dir.path()).remove(0);
    let len = std::fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(len - 1).unwrap();
    let (read, history) = texts(dir.path());
    assert_eq!((read.join(" "), history.damage.clone()), ("a b".to_owned(), None));
    assert!(history.segments[0].ignored_bytes > 0);
    let (mut next, _) = begin(dir.path(), 2, Options::default());
    append(&mut next, "d");
    next.close().unwrap();
    assert_eq!(texts(dir.path()).0.join(" "), "a b d");
}

#[test]
fn damage_ends_the_prefix_is_told_and_can_be_sealed_off() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, told) = begin(dir.path(), 1, small(100));
    for n in 0..12 {
        let seq = append(&mut journal, &format!("record {n:02}"));
        wait_durable(&told, seq);
    }
    journal.close().unwrap();
    let whole: Vec<(PathBuf, Vec<u8>)> =
        segments(dir.path()).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    let expected = texts(dir.path()).0;
    for (path, bytes) in &whole[..whole.len() - 1] {
        let mut harmed = bytes.clone();
        let at = harmed.len() - 1;
        harmed[at] ^= 1;
        for content in [&harmed[..], &bytes[..at], &bytes[..10], b""] {
            std::fs::write(path, content).unwrap();
            let (read, history) = texts(dir.path());
            assert_eq!(history.damage.unwrap().path, *path);
            assert_eq!(read, expected[..read.len()]);
            assert!(read.len() < expected.len());
        }
        std::fs::remove_file(path).unwrap();
        let (read, _) = texts(dir.path());
        assert_eq!(read, expected[..read.len()]);
        std::fs::write(path, bytes).unwrap();
    }
    std::fs::write(&whole[1].0, b"").unwrap();
    let (kept, history) = texts(dir.path());
    let (mut next, _) = begin_after(dir.path(), 2, &history, Options::default());
    append(&mut next, "afresh");
    next.close().unwrap();
    let (read, history) = texts(dir.path());
    assert_eq!(history.damage, None);
    assert_eq!(read, [kept, vec!["afresh".to_owned()]].concat());

    std::fs::remove_file(&whole[0].0).unwrap();
    let gone = texts(dir.path()).1.damage.unwrap();
    assert!(gone.to_string().contains("it is named by a later one, and is gone"), "{gone}");
}

fn bodies(texts: &[&str]) -> Bodies {
    let body = |text: &&str| Ok(Body { kind: 1, version: 1, body: text.as_bytes().to_vec() });
    Box::new(texts.iter().map(body).collect::<Vec<_>>().into_iter())
}

/// Waits for what became of a snapshot.
fn outcome(told: &Told) -> Result<Compacted, JournalError> {
    loop {
        match told.recv_timeout(Duration::from_secs(60)) {
            Ok(Progress::Compacted(compacted)) => return Ok(compacted),
            Ok(Progress::NotCompacted(error)) => return Err(error),
            Ok(Progress::Durable(_)) => {}
            other => panic!("no outcome: {other:?}"),
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    segments(dir).iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_snapshot_stands_for_what_came_before_it_over_epochs() {
    let dir = tempfile::tempdir().unwrap();
    for epoch in [1, 2] {
        let (mut journal, _) = begin(dir.path(), epoch, small(60));
        for n in 0..4 {
            append(&mut journal, &format!("{epoch}.{n}"));
        }
        journal.close().unwrap();
    }
    let (mut journal, told) = begin(dir.path(), 3, Options::default());
    append(&mut journal, "before");
    journal.snapshot(bodies(&["all", "of it"]), Box::new(|| Ok(()))).unwrap();
    append(&mut journal, "meanwhile");
    let compacted = outcome(&told).unwrap();
    assert!(compacted.removed >= 3, "{compacted:?}");
    append(&mut journal, "after");
    journal.close().unwrap();
    assert_eq!(names(dir.path()), ["0000000003-000001.journal", "0000000003-000001.snapshot"]);
    let (read, history) = texts(dir.path());
    assert_eq!(read.join(" "), "all of it meanwhile after");
    assert_eq!((history.records, history.damage.clone()), (4, None));
    assert_eq!(history.base.unwrap().nbytes, compacted.nbytes);

    // A later epoch seals it, writes its own, and so on.
    for epoch in [4, 5] {
        let (mut journal, told) = begin(dir.path(), epoch, Options::default());
        append(&mut journal, "more");
        assert_eq!(texts(dir.path()).1.damage, None);
        journal.snapshot(bodies(&["all"]), Box::new(|| Ok(()))).unwrap();
        outcome(&told).unwrap();
        journal.snapshot(bodies(&["all", "again"]), Box::new(|| Ok(()))).unwrap();
        outcome(&told).unwrap();
        append(&mut journal, "and more");
        journal.close().unwrap();
        assert_eq!(texts(dir.path()).0.join(" "), "all again and more");
        assert_eq!(names(dir.path()).len(), 2);
    }
}

#[test]
fn nothing_is_removed_by_one_that_may_not_act_any_more_and_its_snapshot_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let (mut zombie, told) = begin(dir.path(), 1, Options::default());
    let seq = append(&mut zombie, "in time");
    wait_durable(&told, seq);
    let (mut holder, _) = begin(dir.path(), 2, Options::default());
    append(&mut zombie, "too late");
    zombie.snapshot(bodies(&["a lie"]), Box::new(|| Err("epoch 2 was claimed".to_owned()))).unwrap();
    assert!(outcome(&told).unwrap_err().to_string().contains("epoch 2 was claimed"));
    append(&mut holder, "after it");
    holder.close().unwrap();
    drop(zombie);
    assert_eq!(texts(dir.path()).0, ["in time", "after it"]);
    begin(dir.path(), 3, Options::default()).0.close().unwrap();
    assert_eq!(texts(dir.path()).0, ["in time", "after it"]);
}

#[test]
fn a_snapshot_that_a_crash_interrupts_leaves_the_older_files_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, told) = begin(dir.path(), 1, Options::default());
    append(&mut journal, "a");
    let (reached, at) = channel::<()>();
    let endless = std::iter::from_fn(move || {
        let _ = reached.send(());
        Some(Ok(Body { kind: 1, version: 1, body: vec![0; 1000] }))
    });
    journal.snapshot(Box::new(endless), Box::new(|| Ok(()))).unwrap();
    at.recv().unwrap();
    let seq = append(&mut journal, "b");
    wait_durable(&told, seq);
    assert_eq!(texts(dir.path()).0, ["a", "b"], "while it is written");
    assert!(!journal.wants_snapshot(), "one at a time");
    journal.close().unwrap();
    assert_eq!(texts(dir.path()).0, ["a", "b"], "it was given up");
    assert_eq!(names(dir.path()).len(), 2, "nothing of it is left");

    // Died after it was whole, and before anything was removed, once for each that could be left.
    let older: Vec<_> = segments(dir.path()).iter().map(|p| (p.clone(), std::fs::read(p).unwrap())).collect();
    let (mut journal, told) = begin(dir.path(), 2, Options::default());
    journal.snapshot(bodies(&["a and b"]), Box::new(|| Ok(()))).unwrap();
    outcome(&told).unwrap();
    append(&mut journal, "c");
    journal.close().unwrap();
    for (path, bytes) in &older {
        std::fs::write(path, bytes).unwrap();
        assert_eq!(texts(dir.path()).0, ["a and b", "c"]);
    }
    std::fs::write(dir.path().join(".0000000001-000007.snapshot.99.tmp"), b"half").unwrap();
    let (mut journal, told) = begin(dir.path(), 3, Options::default());
    assert_eq!(texts(dir.path()).0, ["a and b", "c"]);
    journal.snapshot(bodies(&["all"]), Box::new(|| Ok(()))).unwrap();
    outcome(&told).unwrap();
    assert_eq!(names(dir.path()).len(), 2, "those are removed with the next one");
}

#[test]
fn a_snapshot_that_is_not_whole_is_damage_and_nothing_of_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, told) = begin(dir.path(), 1, Options::default());
    journal.snapshot(bodies(&["all", "of", "it"]), Box::new(|| Ok(()))).unwrap();
    outcome(&told).unwrap();
    append(&mut journal, "more");
    journal.close().unwrap();
    let path = dir.path().join("0000000001-000001.snapshot");
    let whole = std::fs::read(&path).unwrap();
    for len in 0..whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        let (read, history) = texts(dir.path());
        assert_eq!((read.len(), history.damage.unwrap().path), (0, path.clone()));
    }
    std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(texts(dir.path()).1.damage.is_some());
}

#[test]
fn a_snapshot_is_wanted_when_much_was_journalled_since_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { snapshot_bytes: 1000, ..Options::default() };
    let (mut journal, told) = begin(dir.path(), 1, options);
    let long = "x".repeat(600);
    for _ in 0..2 {
        assert!(!journal.wants_snapshot());
        let seq = append(&mut journal, &long);
        wait_durable(&told, seq);
    }
    assert!(journal.wants_snapshot());
    // One that fails is not tried again at once.
    journal.snapshot(Box::new(std::iter::once(Err("no".to_owned()))), Box::new(|| Ok(()))).unwrap();
    assert!(outcome(&told).unwrap_err().to_string().contains("no"));
    for _ in 0..3 {
        assert!(!journal.wants_snapshot());
        let seq = append(&mut journal, &long);
        wait_durable(&told, seq);
    }
    assert!(journal.wants_snapshot());
    journal.snapshot(bodies(&[&long, &long]), Box::new(|| Ok(()))).unwrap();
    let compacted = outcome(&told).unwrap();
    for _ in 0..4 {
        assert!(!journal.wants_snapshot(), "less than twice {compacted:?}");
        let seq = append(&mut journal, &long);
        wait_durable(&told, seq);
    }
    journal.close().unwrap();
    let (journal, _) = begin(dir.path(), 2, Options { snapshot_bytes: 0, ..options });
    assert!(!journal.wants_snapshot(), "not yet twice the snapshot, after a restart neither");
}

#[test]
fn a_newer_format_is_refused_and_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = begin(dir.path(), 1, Options::default());
    append(&mut journal, "a");
    journal.close().unwrap();
    let path = segments(dir.path()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[7] += 1;
    let sum = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let refused = read_all(dir.path(), |_| {}).unwrap_err();
    assert!(refused.to_string().contains("is of format 2, and this jobq reads format 1"), "{refused}");
}

#[test]
fn a_failed_write_is_told_once_and_nothing_is_taken_after_it() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("journal");
    let (mut journal, told) = begin(&dir, 1, small(1));
    std::fs::remove_dir_all(&dir).unwrap();
    append(&mut journal, "into nothing");
    match told.recv_timeout(Duration::from_secs(60)) {
        Ok(Progress::Failed(error)) => assert!(error.to_string().contains("begin"), "{error}"),
        other => panic!("no failure was told: {other:?}"),
    }
    // The thread ends after the report, and its end of the channel with it.
    assert_eq!(told.recv_timeout(Duration::from_secs(60)).unwrap_err(), RecvTimeoutError::Disconnected);
    let seq = journal.next_seq();
    let error = journal.append(Entry { seq, kind: 1, version: 1, body: vec![] }).unwrap_err();
    assert!(matches!(error, JournalError::Stopped { .. }), "{error}");
    assert!(matches!(journal.close(), Err(JournalError::Stopped { .. })));
}

#[test]
fn wrong_entries_are_refused_before_they_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = begin(dir.path(), 1, Options::default());
    let seq = journal.next_seq();
    let entry = |seq, kind| Entry { seq, kind, version: 1, body: vec![] };
    assert!(matches!(journal.append(entry(seq + 1, 1)), Err(JournalError::OutOfOrder { .. })));
    for kind in [KIND_SEAL, KIND_END] {
        assert!(matches!(journal.append(entry(seq, kind)), Err(JournalError::ReservedKind { .. })));
    }
    journal.append(entry(seq, 1)).unwrap();
    journal.close().unwrap();
    assert_eq!(texts(dir.path()).1.records, 1);
}

#[test]
fn an_epoch_is_begun_only_once() {
    let dir = tempfile::tempdir().unwrap();
    begin(dir.path(), 1, Options::default()).0.close().unwrap();
    let history = read_all(dir.path(), |_| {}).unwrap();
    assert!(Journal::create(dir.path(), 1, &history, Options::default(), |_| {}).is_err());
    assert_eq!(segments(dir.path()).len(), 1);
}

/// This test's own program again, as a process that appends until it is ended and prints what is durable.
fn appender(shell: &str, test: &str, dir: &Path) -> std::process::Child {
    std::process::Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" --exact \"$1\" --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .arg(format!("journal::tests::{test}"))
        .env(APPEND_IN, dir)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

const APPEND_IN: &str = "JOBQ_TEST_APPEND_IN";

fn append_for_ever(dir: &Path) {
    let (mut journal, told) = begin(dir, 1, small(4096));
    loop {
        let seq = journal.next_seq();
        let body = format!("record {seq}").into_bytes();
        let is_taken = journal.append(Entry { seq, kind: 1, version: 1, body }).is_ok();
        // A few records a group; printing fails, and ends this, when the parent has gone.
        while !is_taken || journal.backlog_bytes() > 400 {
            match told.recv().unwrap() {
                Progress::Durable(seq) => println!("durable {seq}"),
                Progress::Failed(error) => return println!("failed: {error}"),
                other => panic!("nobody asked for a snapshot: {other:?}"),
            }
        }
    }
}

/// Whatever was told durable is there, and what is there is what was appended.
fn check_after(dir: &Path, durable: u64) {
    let mut next = 2;
    let history = read_all(dir, |record| {
        assert_eq!((record.seq, record.body), (next, format!("record {next}").as_bytes()));
        next += 1;
    });
    let history = history.unwrap();
    assert_eq!(history.damage, None);
    assert!(history.next_seq > durable, "{durable} was told durable; {} is next", history.next_seq);
}

fn durable_in(line: &str) -> Option<u64> {
    line.split_once("durable ")?.1.parse().ok()
}

#[test]
fn a_killed_process_leaves_all_that_it_told_durable() {
    use std::io::{BufRead, BufReader};
    if let Some(dir) = std::env::var_os(APPEND_IN) {
        return append_for_ever(Path::new(&dir));
    }
    for round in 1..=5 {
        let dir = tempfile::tempdir().unwrap();
        let mut child = appender("", "a_killed_process_leaves_all_that_it_told_durable", dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut durable = lines.by_ref().filter_map(|line| durable_in(&line)).nth(round * 3).unwrap();
        child.kill().unwrap();
        durable = lines.filter_map(|line| durable_in(&line)).last().unwrap_or(durable);
        child.wait().unwrap();
        check_after(dir.path(), durable);
    }
}

/// The shell's limit on file sizes stands in for a full disk: the write is cut short, then refused.
#[test]
fn a_write_that_is_cut_short_stops_the_journal_and_leaves_a_true_prefix() {
    if let Some(dir) = std::env::var_os(APPEND_IN) {
        return append_for_ever(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let test = "a_write_that_is_cut_short_stops_the_journal_and_leaves_a_true_prefix";
    // Blocks of 512 bytes: less than a segment, so that the limit strikes within one.
    let output = appender("trap '' XFSZ; ulimit -f 5;", test, dir.path()).wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("failed: can't write the journal's"), "{text}");
    let durable = text.lines().rev().find_map(durable_in).unwrap_or(1);
    check_after(dir.path(), durable);
    let history = read_all(dir.path(), |_| {}).unwrap();
    assert!(history.segments.last().unwrap().ignored_bytes > 0, "the cut record is ignored");
}
