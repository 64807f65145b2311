//! The journal of one epoch, open for appending.

use super::JournalError;
use super::files::{Segments, create_dir};
use super::read::History;
use super::record::{
    self, FileHeader, KIND_END, KIND_SEAL, MAX_BODY_BYTES, Place, RECORD_OVERHEAD_BYTES, Record, encode_seal,
};
use super::snapshot::{Bodies, Compacted, Confirm};
use super::writer::{Order, Shared, Writer};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// After a restart, less than this is read again faster than a snapshot of it is worth.
const RESTART_BYTES: u64 = 4 << 20;
/// A journal in more files than this is worth a snapshot, however small they are: each restart begins one.
const MANY_SEGMENTS: usize = 64;

/// How the journal is cut into files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// A segment that has reached this length in bytes is followed by another.
    pub segment_bytes: u64,
    /// A snapshot is wanted when more than this, and more than twice the last snapshot, was journalled since.
    pub snapshot_bytes: u64,
}

/// One record to append.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Follows the one before it.
    pub seq: u64,
    /// What the body is, from 1 to 254; the others are the journal's own.
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
    /// A snapshot is in force, and what it stands for is removed.
    Compacted(Compacted),
    /// A snapshot came to nothing, or what it stands for could not be removed. Nothing is lost by that, and another
    /// is wanted later.
    NotCompacted(JournalError),
}

/// The journal of this scheduler's epoch, open for appending. Dropping it writes out what was appended.
#[derive(Debug)]
pub struct Journal {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    next_seq: u64,
}

impl Default for Options {
    /// 64 MiB: read back in one piece, and a few of them hold a day.
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, snapshot_bytes: 64 << 20 }
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
        sync_counted(history)?;
        let header = FileHeader { place: Place::segment(epoch, 0), first_seq: history.next_seq.max(1) };
        let mut seal = Vec::new();
        let body = encode_seal(&history.seal());
        let record = Record { seq: header.first_seq, epoch, kind: KIND_SEAL, version: 1, body: &body };
        if !record::encode(&record, &mut seal) {
            return Err(JournalError::TooLong { nbytes: body.len(), limit: MAX_BODY_BYTES });
        }
        let segments = Segments::begin(dir, header, &seal, options.segment_bytes)?;

        let (sender, receiver) = channel();
        let shared = Arc::new(Shared::new(options.snapshot_bytes, history.segment_bytes()));
        let base = history.base.as_ref().map_or(0, |base| base.nbytes);
        let many = history.segments.len() >= MANY_SEGMENTS;
        let first = RESTART_BYTES.min(options.snapshot_bytes).max(base * 2);
        shared.snapshot_at.store(if many { 0 } else { first }, Ordering::Relaxed);
        let next_seq = header.first_seq + 1;
        let writer = Writer::new(segments, shared.clone(), next_seq, report);
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(|error| JournalError::io("start the thread of", dir, error))?;
        Ok(Self { orders: Some(sender), thread: Some(thread), shared, next_seq })
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
        if matches!(entry.kind, KIND_SEAL | KIND_END) {
            return Err(JournalError::ReservedKind { kind: entry.kind });
        }
        if !record::fits(&entry.body) {
            return Err(JournalError::TooLong { nbytes: entry.body.len(), limit: MAX_BODY_BYTES });
        }
        if self.shared.has_failed.load(Ordering::Acquire) {
            return Err(self.stopped());
        }
        self.shared.backlog.fetch_add(entry_bytes(&entry), Ordering::Relaxed);
        self.order(Order::Append(entry))?;
        self.next_seq += 1;
        Ok(())
    }

    /// Whether so much was journalled since the last snapshot that another is worth its while.
    #[must_use]
    pub fn wants_snapshot(&self) -> bool {
        let shared = &self.shared;
        shared.since_snapshot.load(Ordering::Relaxed) > shared.snapshot_at.load(Ordering::Relaxed)
            && !shared.is_compacting.load(Ordering::Acquire)
    }

    /// Writes a snapshot that stands for everything appended so far, beside the appends that go on. [`Progress`] tells
    /// what came of it. Nothing waits for it, and nothing is removed before it is durable and `confirm` says that no
    /// later epoch was claimed. One at a time: while one is being written, this does nothing.
    ///
    /// # Errors
    /// The journal has stopped.
    pub fn snapshot(&mut self, bodies: Bodies, confirm: Confirm) -> Result<(), JournalError> {
        if self.shared.is_compacting.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let Some(back) = self.orders.clone() else { return Err(self.stopped()) };
        self.order(Order::Snapshot { bodies, confirm, back })
    }

    /// Waits until everything is durable, and ends the thread. A snapshot that is being written is given up.
    ///
    /// # Errors
    /// A write or sync has failed.
    pub fn close(mut self) -> Result<(), JournalError> {
        self.join();
        let failed = self.shared.failure().is_some();
        if failed { Err(self.stopped()) } else { Ok(()) }
    }

    fn order(&self, order: Order) -> Result<(), JournalError> {
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        if sent { Ok(()) } else { Err(self.stopped()) }
    }

    fn join(&mut self) {
        self.shared.is_closing.store(true, Ordering::Release);
        drop(self.orders.take());
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

/// What was read counts from now on, and is acted on. Whoever wrote the last of it may have died before its sync.
fn sync_counted(history: &History) -> Result<(), JournalError> {
    for counted in history.base.iter().chain(&history.segments) {
        let synced = File::open(&counted.path).and_then(|file| file.sync_data());
        synced.map_err(|error| JournalError::io("sync", &counted.path, error))?;
    }
    Ok(())
}

/// What an entry takes in the journal.
pub(super) fn entry_bytes(entry: &Entry) -> u64 {
    (RECORD_OVERHEAD_BYTES + entry.body.len()) as u64
}
