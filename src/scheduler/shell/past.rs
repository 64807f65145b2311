//! The journal as the core's: what older epochs recorded, and this epoch's own records after it.

use super::Incoming;
use crate::journal::record::Place;
use crate::journal::{
    Body, Compacted, Damage, Entry, History, Journal, JournalError, Options, Progress, read_all,
};
use crate::protocol::LeftBehind;
use crate::scheduler::event::{Event, JournalSeq};
use crate::scheduler::record::{self, Record, RecordError};
use crate::state::{Fence, StateDir, epoch, outbox};
use std::path::PathBuf;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

#[derive(Debug, thiserror::Error)]
pub enum PastError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("record {seq} of the journal in {dir} can't be replayed: {source}")]
    Record { seq: u64, dir: String, source: RecordError },
}

/// Tells every record of older epochs, oldest first. Damage of the journal is in the answer.
///
/// # Errors
/// A file can't be read, or a record not be understood: then nothing of the journal counts.
pub fn read(state: &StateDir, mut each: impl FnMut(Record)) -> Result<History, PastError> {
    let dir = state.journal_dir();
    let mut refused = None;
    let mut history = read_all(&dir, |found| {
        if refused.is_none() {
            match Record::decode(found.kind, found.version, found.body) {
                Ok(record) => each(record),
                Err(source) => refused = Some((found.seq, source)),
            }
        }
    })?;
    match refused {
        Some((seq, source)) => Err(PastError::Record { seq, dir: dir.display().to_string(), source }),
        None => {
            if history.damage.is_none() {
                history.damage = missing(state, &history);
            }
            Ok(history)
        }
    }
}

/// The files of the newest epochs may be gone without a trace in the others. But a scheduler that wrote the contact
/// file had begun its journal.
fn missing(state: &StateDir, history: &History) -> Option<Damage> {
    let contact = state.read_contact().ok()??;
    let file = state.read_cluster().ok()??;
    let claimed = epoch::highest(state.path()).ok()??;
    let has_begun = contact.life == file.life && contact.epoch <= claimed;
    if !has_begun || history.newest_epoch() >= Some(contact.epoch) {
        return None;
    }
    let path = state.journal_dir().join(Place::segment(contact.epoch, 0).file_name());
    let reason = format!("it is gone, and contact.toml says that epoch {} had begun it", contact.epoch);
    Some(Damage { path, offset: 0, reason })
}

/// What workers of this life of the cluster left behind, with the files that have it. What can't be read stays.
pub(super) fn left_behind(state: &StateDir, life: &str) -> anyhow::Result<Vec<(PathBuf, LeftBehind)>> {
    let mut found = Vec::new();
    for outbox::Left { path, bytes } in outbox::read_all(&state.outbox_dir())? {
        let left = bytes.map_err(|e| e.to_string()).and_then(|bytes| LeftBehind::decode(&bytes));
        match left {
            Ok(left) if left.life == life => found.push((path, left)),
            Ok(_) => warn!("{} is of another life of the cluster", path.display()),
            Err(error) => warn!("what a worker left in {} can't be read: {error}", path.display()),
        }
    }
    Ok(found)
}

/// Begins this epoch's journal after its past, which it seals. What is reported durable has passed the fence after
/// its sync.
pub(super) fn begin(
    state: &StateDir,
    history: &History,
    fence: &Fence,
    events: &mpsc::Sender<Incoming>,
) -> anyhow::Result<Journal> {
    let epoch = fence.epoch();
    let (fence, events) = (fence.try_clone()?, events.clone());
    let report = move |progress| {
        let incoming = match progress {
            Progress::Durable(seq) => match fence.check() {
                Ok(()) => Incoming::Core(Event::Durable(JournalSeq(seq))),
                Err(error) => Incoming::Fatal(error.to_string()),
            },
            Progress::Failed(error) => Incoming::Fatal(error.to_string()),
            Progress::Compacted(Compacted { nbytes, removed }) => {
                info!(
                    "a snapshot of {nbytes} bytes stands for {removed} older files of the journal, now removed"
                );
                return;
            }
            Progress::NotCompacted(error) => {
                error!("no snapshot was made, and the journal goes on growing: {error}");
                return;
            }
        };
        // The main loop has ended: nobody acts on it any more.
        let _ = events.blocking_send(incoming);
    };
    Ok(Journal::create(&state.journal_dir(), epoch, history, Options::default(), report)?)
}

/// Number of the record that seals this past.
pub(super) fn seal_of(history: &History) -> JournalSeq {
    JournalSeq(history.next_seq.max(1))
}

/// Appends a record; its number must follow.
pub(super) fn append(journal: &mut Journal, seq: JournalSeq, record: &Record) -> Result<(), String> {
    let body = record.encode().map_err(|error| format!("record {}: {error}", seq.0))?;
    let entry = Entry { seq: seq.0, kind: record::KIND, version: record::VERSION, body };
    journal.append(entry).map_err(|error| error.to_string())
}

/// Lets the journal begin anew from a snapshot, which is encoded and written beside what goes on. `fence` is looked at
/// before anything older is removed.
pub(super) fn begin_anew(journal: &mut Journal, snapshot: Vec<Record>, fence: Fence) -> Result<(), String> {
    let bodies = snapshot.into_iter().map(|record| {
        let body = record.encode().map_err(|error| error.to_string())?;
        Ok(Body { kind: record::KIND, version: record::VERSION, body })
    });
    let confirm = move || fence.check().map_err(|error| error.to_string());
    journal.snapshot(Box::new(bodies), Box::new(confirm)).map_err(|error| error.to_string())
}
