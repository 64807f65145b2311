//! The journal's thread: it appends what has piled up while it last synced, syncs once for all of it, and says how far
//! everything is durable. A snapshot is written by a thread beside it.
//!
//! After an error nothing is written any more: what the disk holds of a failed write is unknown, and a later sync
//! that succeeds would not prove anything about it.

use super::JournalError;
use super::file::{Entry, Progress, entry_bytes};
use super::files::Segments;
use super::record::{self, MAX_BODY_BYTES, Record};
use super::snapshot::{Bodies, Compacted, Confirm, Writing};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

/// What one sync may cover: enough to amortise it, little enough that it stays a matter of milliseconds.
const GROUP_BYTES: usize = 8 << 20;
/// Memory that the writer keeps for encoding; a larger group's is given back.
const KEPT_BYTES: usize = 1 << 20;

/// What the thread is told.
pub(super) enum Order {
    Append(Entry),
    Snapshot {
        bodies: Bodies,
        confirm: Confirm,
        /// Where the outcome goes: to this very thread.
        back: Sender<Order>,
    },
    Snapshotted {
        outcome: Result<Compacted, JournalError>,
        /// Bytes that the snapshot stands for.
        covered: u64,
    },
}

/// What both sides see.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Bytes appended and not yet durable.
    pub backlog: AtomicU64,
    /// Set before the failure is reported, so that nothing is taken after it.
    pub has_failed: AtomicBool,
    /// Nobody appends any more.
    pub is_closing: AtomicBool,
    /// A snapshot is being written.
    pub is_compacting: AtomicBool,
    /// Bytes journalled since the last snapshot.
    pub since_snapshot: AtomicU64,
    /// Another is wanted beyond so many.
    pub snapshot_at: AtomicU64,
    least_snapshot_bytes: u64,
    /// Why the thread has stopped, if it has.
    failure: Mutex<Option<String>>,
}

impl Shared {
    pub fn new(least_snapshot_bytes: u64, since_snapshot: u64) -> Shared {
        let since_snapshot = AtomicU64::new(since_snapshot);
        Shared { least_snapshot_bytes, since_snapshot, ..Shared::default() }
    }

    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first reason stays.
    pub fn fail(&self, reason: &str) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| reason.to_owned());
        self.has_failed.store(true, Ordering::Release);
    }
}

pub(super) struct Writer<F> {
    segments: Segments,
    shared: Arc<Shared>,
    report: F,
    group: Vec<u8>,
    /// Number of the next entry.
    next_seq: u64,
    snapshot: Option<std::thread::JoinHandle<()>>,
}

impl<F: FnMut(Progress)> Writer<F> {
    pub fn new(segments: Segments, shared: Arc<Shared>, next_seq: u64, report: F) -> Self {
        Self { segments, shared, report, group: Vec::new(), next_seq, snapshot: None }
    }

    pub fn run(mut self, orders: &Receiver<Order>) {
        let mut held_back = None;
        while let Some(order) = held_back.take().or_else(|| orders.recv().ok()) {
            let done = match order {
                Order::Append(entry) => self.commit(entry, orders).map(|next| held_back = next),
                Order::Snapshot { bodies, confirm, back } => self.begin_snapshot(bodies, confirm, back),
                Order::Snapshotted { outcome, covered } => {
                    self.end_snapshot(outcome, covered);
                    Ok(())
                }
            };
            if let Err(error) = done {
                self.shared.fail(&error.to_string());
                self.shared.is_closing.store(true, Ordering::Release);
                (self.report)(Progress::Failed(error));
                break;
            }
        }
        if let Some(snapshot) = self.snapshot.take() {
            let _ = snapshot.join();
        }
    }

    /// Writes and syncs what has piled up. Returns the order that isn't part of it.
    fn commit(&mut self, first: Entry, orders: &Receiver<Order>) -> Result<Option<Order>, JournalError> {
        let (first_seq, epoch) = (first.seq, self.segments.place().epoch);
        let (mut nbytes, mut other) = (0, None);
        let mut next = Some(first);
        while let Some(entry) = next.take() {
            nbytes += entry_bytes(&entry);
            self.next_seq = entry.seq + 1;
            let Entry { seq, kind, version, body } = &entry;
            let record = Record { seq: *seq, epoch, kind: *kind, version: *version, body };
            if !record::encode(&record, &mut self.group) {
                return Err(JournalError::TooLong { nbytes: body.len(), limit: MAX_BODY_BYTES });
            }
            if self.group.len() < GROUP_BYTES {
                match orders.try_recv() {
                    Ok(Order::Append(entry)) => next = Some(entry),
                    Ok(order) => other = Some(order),
                    Err(_) => {}
                }
            }
        }
        self.segments.write(&self.group, first_seq)?;
        self.shared.since_snapshot.fetch_add(nbytes, Ordering::Relaxed);
        self.shared.backlog.fetch_sub(nbytes, Ordering::Relaxed);
        self.group.clear();
        self.group.shrink_to(KEPT_BYTES);
        (self.report)(Progress::Durable(self.next_seq - 1));
        Ok(other)
    }

    /// Everything appended so far is in older segments from now on, and the snapshot stands for those.
    fn begin_snapshot(
        &mut self,
        bodies: Bodies,
        confirm: Confirm,
        back: Sender<Order>,
    ) -> Result<(), JournalError> {
        self.segments.begin_next(self.next_seq)?;
        let covered = self.shared.since_snapshot.load(Ordering::Relaxed);
        let (dir, place) = (self.segments.dir().to_owned(), self.segments.place());
        let (shared, next_seq) = (self.shared.clone(), self.next_seq);
        let write = move || {
            let (epoch, index) = (place.epoch, place.index);
            let writing = Writing { dir, epoch, index, next_seq, stop: &shared.is_closing };
            let outcome = writing.run(bodies, confirm);
            // If the thread has ended, it was because of a failure that it told.
            let _ = back.send(Order::Snapshotted { outcome, covered });
        };
        let thread = std::thread::Builder::new().name("snapshot".to_owned()).spawn(write);
        let failed = |error| JournalError::io("start the snapshot's thread of", self.segments.dir(), error);
        self.snapshot = Some(thread.map_err(failed)?);
        Ok(())
    }

    fn end_snapshot(&mut self, outcome: Result<Compacted, JournalError>, covered: u64) {
        let shared = &self.shared;
        let least = shared.least_snapshot_bytes;
        let at = match &outcome {
            Ok(compacted) => {
                shared.since_snapshot.fetch_sub(covered, Ordering::Relaxed);
                least.max(compacted.nbytes.saturating_mul(2))
            }
            // Not at once again: what hindered it is probably still there.
            Err(_) => least.max(covered.saturating_mul(2)),
        };
        shared.snapshot_at.store(at, Ordering::Relaxed);
        shared.is_compacting.store(false, Ordering::Release);
        let is_over = shared.is_closing.load(Ordering::Acquire);
        match outcome {
            Ok(compacted) => (self.report)(Progress::Compacted(compacted)),
            Err(_) if is_over => {}
            Err(error) => (self.report)(Progress::NotCompacted(error)),
        }
    }
}
