//! Writing the journal: a thread of its own appends what has piled up while it last synced, syncs once for all of
//! it, and says how far everything is durable.
//!
//! After an error nothing is written any more: what the disk holds of a failed write is unknown, and a later sync
//! that succeeds would not prove anything about it.

use super::JournalError;
use super::read::{History, segment_name};
use super::record::{
    self, KIND_SEAL, MAX_BODY_BYTES, RECORD_OVERHEAD_BYTES, Record, SegmentHeader, encode_seal,
};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What one sync may cover: enough to amortise it, little enough that it stays a matter of milliseconds.
const GROUP_BYTES: usize = 8 << 20;
/// Memory that the writer keeps for encoding; a larger group's is given back.
const KEPT_BYTES: usize = 1 << 20;

/// How the journal is cut into files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// A segment that has reached this length in bytes is followed by another.
    pub segment_bytes: u64,
}

/// One record to append.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Follows the one before it.
    pub seq: u64,
    /// What the body is, from 1; 0 is the journal's own.
    pub kind: u8,
    /// Version of the body's encoding.
    pub version: u8,
    pub body: Vec<u8>,
}

/// What the writer's thread reports, from that thread.
#[derive(Debug)]
pub enum Progress {
    /// Everything up to and with this record is on disk. Check the fence before acting on it.
    Durable(u64),
    /// A write or sync failed: nothing more will become durable, and the scheduler must stop. Reported once.
    Failed(JournalError),
}

/// The journal of this scheduler's epoch, open for appending. Dropping it writes out what was appended.
#[derive(Debug)]
pub struct Journal {
    entries: Option<Sender<Entry>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    next_seq: u64,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes appended and not yet durable.
    backlog: AtomicU64,
    /// Set before the failure is reported, so that nothing is taken after it.
    has_failed: AtomicBool,
    /// Why the thread has stopped, if it has.
    failure: Mutex<Option<String>>,
}

impl Default for Options {
    /// 64 MiB: read back in one piece, and a few dozen of them hold a week.
    fn default() -> Self {
        Self { segment_bytes: 64 << 20 }
    }
}

impl Journal {
    /// Begins the journal of `epoch` after what `history` tells of older epochs, and seals them: durable when this
    /// returns. `report` is called from the writer's thread and should hand on quickly.
    ///
    /// # Errors
    /// The directory can't be written, or holds segments of this epoch already.
    pub fn create(
        dir: &Path,
        epoch: u32,
        history: &History,
        options: Options,
        report: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Self, JournalError> {
        create_dir(dir)?;
        let header = SegmentHeader { epoch, index: 0, first_seq: history.next_seq.max(1) };
        let mut segments =
            Segments { dir: dir.to_owned(), options, file: new_segment(dir, header)?, header, nbytes: 0 };
        let mut seal = Vec::new();
        let body = encode_seal(&history.seal());
        let record = Record { seq: header.first_seq, epoch, kind: KIND_SEAL, version: 1, body: &body };
        if !record::encode(&record, &mut seal) {
            return Err(JournalError::TooLong { nbytes: body.len(), limit: MAX_BODY_BYTES });
        }
        segments.write(&seal, header.first_seq)?;

        let (sender, receiver) = channel();
        let shared = Arc::new(Shared::default());
        let writer = Writer { segments, shared: shared.clone(), report, group: Vec::new() };
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(|error| JournalError::io("start the thread of", dir, error))?;
        let next_seq = header.first_seq + 1;
        Ok(Self { entries: Some(sender), thread: Some(thread), shared, next_seq })
    }

    /// Number that the next entry must have.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Bytes that have been appended and aren't durable yet: whoever accepts work should slow down when this grows.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        self.shared.backlog.load(Ordering::Relaxed)
    }

    /// Appends a record; returns at once. It is durable when [`Progress::Durable`] says so.
    ///
    /// # Errors
    /// The number doesn't follow, the body is too long, or the journal has stopped.
    pub fn append(&mut self, entry: Entry) -> Result<(), JournalError> {
        if entry.seq != self.next_seq {
            return Err(JournalError::OutOfOrder { expected: self.next_seq, got: entry.seq });
        }
        if entry.kind == KIND_SEAL {
            return Err(JournalError::ReservedKind);
        }
        if !record::fits(&entry.body) {
            return Err(JournalError::TooLong { nbytes: entry.body.len(), limit: MAX_BODY_BYTES });
        }
        if self.shared.has_failed.load(Ordering::Acquire) {
            return Err(self.stopped());
        }
        let nbytes = entry_bytes(&entry);
        self.shared.backlog.fetch_add(nbytes, Ordering::Relaxed);
        let sent = self.entries.as_ref().is_some_and(|entries| entries.send(entry).is_ok());
        if !sent {
            return Err(self.stopped());
        }
        self.next_seq += 1;
        Ok(())
    }

    /// Waits until everything is durable, and ends the thread.
    ///
    /// # Errors
    /// A write or sync has failed.
    pub fn close(mut self) -> Result<(), JournalError> {
        self.join();
        let failed = self.shared.failure().is_some();
        if failed { Err(self.stopped()) } else { Ok(()) }
    }

    fn join(&mut self) {
        drop(self.entries.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the report function has been printed; the journal itself doesn't panic.
            if thread.join().is_err() {
                self.shared.fail("its thread has died");
            }
        }
    }

    fn stopped(&self) -> JournalError {
        let reason = self.shared.failure().unwrap_or_else(|| "its thread has died".to_owned());
        JournalError::Stopped { reason }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first reason stays.
    fn fail(&self, reason: &str) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| reason.to_owned());
        self.has_failed.store(true, Ordering::Release);
    }
}

/// The thread's side.
struct Writer<F> {
    segments: Segments,
    shared: Arc<Shared>,
    report: F,
    group: Vec<u8>,
}

impl<F: FnMut(Progress)> Writer<F> {
    fn run(mut self, entries: &Receiver<Entry>) {
        while let Ok(first) = entries.recv() {
            match self.commit(first, entries) {
                Ok(last_seq) => (self.report)(Progress::Durable(last_seq)),
                Err(error) => {
                    self.shared.fail(&error.to_string());
                    (self.report)(Progress::Failed(error));
                    return;
                }
            }
        }
    }

    /// Writes and syncs what has piled up; the number of the last record.
    fn commit(&mut self, first: Entry, entries: &Receiver<Entry>) -> Result<u64, JournalError> {
        let first_seq = first.seq;
        let (mut last_seq, mut nbytes) = (first_seq, 0);
        let mut next = Some(first);
        while let Some(entry) = next {
            nbytes += entry_bytes(&entry);
            last_seq = entry.seq;
            let Entry { seq, kind, version, body } = &entry;
            let epoch = self.segments.header.epoch;
            if !record::encode(
                &Record { seq: *seq, epoch, kind: *kind, version: *version, body },
                &mut self.group,
            ) {
                return Err(JournalError::TooLong { nbytes: body.len(), limit: MAX_BODY_BYTES });
            }
            next = if self.group.len() < GROUP_BYTES { entries.try_recv().ok() } else { None };
        }
        self.segments.write(&self.group, first_seq)?;
        self.shared.backlog.fetch_sub(nbytes, Ordering::Relaxed);
        self.group.clear();
        self.group.shrink_to(KEPT_BYTES);
        Ok(last_seq)
    }
}

/// The segment that is written to, and how the next one is begun.
#[derive(Debug)]
struct Segments {
    dir: PathBuf,
    options: Options,
    file: File,
    header: SegmentHeader,
    nbytes: u64,
}

impl Segments {
    /// Appends a group that starts with record `first_seq`, and syncs. What came before is durable already, so a
    /// new segment never begins beside a torn one.
    fn write(&mut self, group: &[u8], first_seq: u64) -> Result<(), JournalError> {
        if self.nbytes >= self.options.segment_bytes {
            let header = SegmentHeader { index: self.header.index + 1, first_seq, ..self.header };
            self.file = new_segment(&self.dir, header)?;
            (self.header, self.nbytes) = (header, 0);
        }
        let written = self.file.write_all(group).and_then(|()| self.file.sync_data());
        written.map_err(|error| JournalError::io("write", &path_of(&self.dir, self.header), error))?;
        self.nbytes += group.len() as u64;
        Ok(())
    }
}

/// A segment that holds its header, under its name for good. Made under a temporary name, so that no segment ever
/// has half a header, and linked, so that no other process's segment is replaced.
fn new_segment(dir: &Path, header: SegmentHeader) -> Result<File, JournalError> {
    let path = path_of(dir, header);
    let temporary =
        dir.join(format!(".{}.{}.tmp", segment_name(header.epoch, header.index), std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    let made = (|| {
        let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&header.encode())?;
        file.sync_all()?;
        std::fs::hard_link(&temporary, &path)?;
        std::fs::remove_file(&temporary)?;
        File::open(dir)?.sync_all()?;
        Ok(file)
    })();
    made.map_err(|error: io::Error| {
        let _ = std::fs::remove_file(&temporary);
        JournalError::io("begin", &path, error)
    })
}

fn path_of(dir: &Path, header: SegmentHeader) -> PathBuf {
    dir.join(segment_name(header.epoch, header.index))
}

fn create_dir(dir: &Path) -> Result<(), JournalError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(JournalError::io("create", dir, error))
        }
        _ => Ok(()),
    }
}

fn entry_bytes(entry: &Entry) -> u64 {
    (RECORD_OVERHEAD_BYTES + entry.body.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::read_all;
    use std::sync::mpsc::RecvTimeoutError;
    use std::time::Duration;

    type Told = Receiver<Progress>;

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
        let small = Options { segment_bytes: 200 };
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
        let small = Options { segment_bytes: 100 };
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
        assert_eq!(
            (read.as_slice(), history.damage),
            (&["in time".to_owned(), "after it".to_owned()][..], None)
        );
    }

    #[test]
    fn an_epoch_that_died_at_its_first_record_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let (mut first, told) = begin(dir.path(), 1, Options::default());
        let seq = append(&mut first, "a");
        wait_durable(&told, seq);
        // Epoch 2 made its segment, and died before its seal was whole; meanwhile the zombie went on.
        let header = SegmentHeader { epoch: 2, index: 0, first_seq: 3 };
        let torn = [&header.encode()[..], &[17, 0, 0]].concat();
        std::fs::write(path_of(dir.path(), header), torn).unwrap();
        append(&mut first, "b");
        first.close().unwrap();

        let (mut third, _) = begin(dir.path(), 3, Options::default());
        append(&mut third, "c");
        third.close().unwrap();
        let (read, history) = texts(dir.path());
        assert_eq!((read.join(" "), history.damage), ("a b c".to_owned(), None));
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
        let (mut journal, told) = begin(dir.path(), 1, Options { segment_bytes: 100 });
        for n in 0..12 {
            let seq = append(&mut journal, &format!("record {n:02}"));
            wait_durable(&told, seq);
        }
        journal.close().unwrap();
        let whole: Vec<(PathBuf, Vec<u8>)> = segments(dir.path())
            .into_iter()
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
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
        assert!(gone.to_string().contains("it was sealed, and is gone"), "{gone}");
    }

    #[test]
    fn a_failed_write_is_told_once_and_nothing_is_taken_after_it() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("journal");
        let (mut journal, told) = begin(&dir, 1, Options { segment_bytes: 1 });
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
        assert!(matches!(journal.append(entry(seq, KIND_SEAL)), Err(JournalError::ReservedKind)));
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
            .arg(format!("journal::file::tests::{test}"))
            .env(APPEND_IN, dir)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    }

    const APPEND_IN: &str = "JOBQ_TEST_APPEND_IN";

    fn append_for_ever(dir: &Path) {
        let (mut journal, told) = begin(dir, 1, Options { segment_bytes: 4096 });
        loop {
            let seq = journal.next_seq();
            let body = format!("record {seq}").into_bytes();
            let is_taken = journal.append(Entry { seq, kind: 1, version: 1, body }).is_ok();
            // A few records a group; printing fails, and ends this, when the parent has gone.
            while !is_taken || journal.backlog_bytes() > 400 {
                match told.recv().unwrap() {
                    Progress::Durable(seq) => println!("durable {seq}"),
                    Progress::Failed(error) => return println!("failed: {error}"),
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
}
