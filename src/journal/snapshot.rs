//! Writing a snapshot beside the appends that go on, and removing what it stands for.
//!
//! It is written under a temporary name and gets its own only when it is whole and on disk. Until then, and whatever
//! crashes in between, the older files are in force. They are removed only after the snapshot is durable and whoever
//! writes it has made sure *then* that no later epoch was claimed: a later one that was claimed before that look
//! doesn't count this snapshot and needs the older files; one that was claimed after it finds the snapshot.

use super::JournalError;
use super::files::{Unnamed, remove_before};
use super::record::{self, FileHeader, KIND_END, MAX_BODY_BYTES, Place, Record, encode_end};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Written at once.
const WRITE_BYTES: usize = 1 << 20;

/// One record of a snapshot. The journal numbers them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Body {
    /// What the body is, as in [`super::Entry`].
    pub kind: u8,
    pub version: u8,
    pub body: Vec<u8>,
}

/// What a snapshot is made of: called from the thread that writes it, so that encoding disturbs nobody. An error ends
/// the snapshot with that reason.
pub type Bodies = Box<dyn Iterator<Item = Result<Body, String>> + Send>;

/// Whether this process may still act, asked once the snapshot is durable.
pub type Confirm = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// What came of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compacted {
    /// Size of the snapshot.
    pub nbytes: u64,
    /// Older files that were removed.
    pub removed: u32,
}

/// A snapshot about to be written.
pub(super) struct Writing<'a> {
    pub dir: PathBuf,
    pub epoch: u32,
    /// Of the segment that begins where the snapshot ends.
    pub index: u32,
    pub next_seq: u64,
    pub stop: &'a AtomicBool,
}

impl Writing<'_> {
    pub fn run(&self, bodies: Bodies, confirm: Confirm) -> Result<Compacted, JournalError> {
        let place = Place::snapshot(self.epoch, self.index);
        let nbytes = self.write(place, bodies)?;
        confirm().map_err(|reason| JournalError::Stopped { reason })?;
        let removed = remove_before(&self.dir, place)?;
        Ok(Compacted { nbytes, removed })
    }

    /// Writes it whole, and gives it its name.
    fn write(&self, place: Place, bodies: Bodies) -> Result<u64, JournalError> {
        let mut unnamed = Unnamed::create(&self.dir, FileHeader { place, first_seq: self.next_seq })?;
        let (mut buffer, mut nbytes, mut count) = (Vec::with_capacity(WRITE_BYTES), 0, 0);
        for body in bodies {
            if self.stop.load(Ordering::Acquire) {
                return Err(JournalError::Stopped { reason: "the scheduler ends".to_owned() });
            }
            let body = body.map_err(|reason| JournalError::Stopped { reason })?;
            count += 1;
            self.encode(count, &body, &mut buffer)?;
            if buffer.len() >= WRITE_BYTES {
                nbytes += flush(&mut unnamed, &mut buffer, &self.dir)?;
            }
        }
        let end = Body { kind: KIND_END, version: 1, body: encode_end(count).to_vec() };
        self.encode(count + 1, &end, &mut buffer)?;
        nbytes += flush(&mut unnamed, &mut buffer, &self.dir)?;
        unnamed.publish()?;
        Ok(record::HEADER_BYTES as u64 + nbytes)
    }

    fn encode(&self, seq: u64, body: &Body, buffer: &mut Vec<u8>) -> Result<(), JournalError> {
        let Body { kind, version, body } = body;
        let record = Record { seq, epoch: self.epoch, kind: *kind, version: *version, body };
        if record::encode(&record, buffer) {
            return Ok(());
        }
        Err(JournalError::TooLong { nbytes: body.len(), limit: MAX_BODY_BYTES })
    }
}

fn flush(unnamed: &mut Unnamed, buffer: &mut Vec<u8>, dir: &Path) -> Result<u64, JournalError> {
    let written = unnamed.file.write_all(buffer);
    written.map_err(|error| JournalError::io("write a snapshot into", dir, error))?;
    let nbytes = buffer.len() as u64;
    buffer.clear();
    Ok(nbytes)
}
