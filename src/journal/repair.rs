//! A new beginning after a damaged journal, whose files are kept beside it.

use super::JournalError;
use super::files::{self, Segments};
use super::record::{FileHeader, Place};
use super::snapshot::{Bodies, Compacted, Confirm, Writing};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Begins the journal of `epoch`, which was just claimed, with a snapshot; record `next_seq` follows it. Everything
/// older is linked into `aside` first, and is in force until the snapshot is whole. `confirm` says then whether no
/// later epoch was claimed, before the older files lose their place in `dir`.
///
/// # Errors
/// A file can't be made or written: what was there is in force.
pub fn begin_after_damage(
    dir: &Path,
    aside: &Path,
    epoch: u32,
    next_seq: u64,
    bodies: Bodies,
    confirm: Confirm,
) -> Result<Compacted, JournalError> {
    files::link_all(dir, aside)?;
    // Without a first record it counts for nothing by itself.
    let header = FileHeader { place: Place::segment(epoch, 0), first_seq: next_seq };
    Segments::begin(dir, header, &[], u64::MAX)?;
    let stop = AtomicBool::new(false);
    Writing { dir: dir.to_owned(), epoch, index: 0, next_seq, stop: &stop }.run(bodies, confirm)
}
