//! Which files count, by what the newest epoch says.

use super::Damage;
use super::source::Files;
use super::tape::Tape;
use crate::journal::JournalError;
use crate::journal::record::{
    FileHeader, FileKind, HEADER_BYTES, KIND_SEAL, Place, Record, Sealed, decode_seal, format_of,
};
use std::collections::BTreeMap;
use std::path::Path;

/// The files that count, in order, with their sealed lengths.
pub(super) type Plan = BTreeMap<Place, Option<u64>>;

/// Finds the newest epoch that got as far as its first record, and what it says. An epoch without one never sent
/// anything: it died before. What a lower epoch appends or snapshots later doesn't count.
pub(super) fn plan(
    files: &impl Files,
    places: &[Place],
) -> Result<Result<Option<Plan>, Damage>, JournalError> {
    let mut epochs: Vec<u32> = places.iter().map(|place| place.epoch).collect();
    epochs.dedup();
    for epoch in epochs.into_iter().rev() {
        let own = |from: u32| {
            let own = places.iter().filter(move |place| {
                place.epoch == epoch && place.index >= from && place.kind == FileKind::Segment
            });
            own.map(|place| (*place, None))
        };
        let snapshot = places.iter().rfind(|place| place.epoch == epoch && place.kind == FileKind::Snapshot);
        if let Some(snapshot) = snapshot {
            // Its segment is begun before it is written.
            let after = Place::segment(epoch, snapshot.index);
            let plan = [(*snapshot, None), (after, None)].into_iter().chain(own(snapshot.index));
            return Ok(Ok(Some(plan.collect())));
        }
        match seal_of(files, epoch)? {
            Err(damage) => return Ok(Err(damage)),
            Ok(None) if own(1).next().is_some() => {
                let path = files.dir().join(Place::segment(epoch, 0).file_name());
                let reason = "its first record isn't whole, and others come after it".to_owned();
                return Ok(Err(Damage { path, offset: HEADER_BYTES as u64, reason }));
            }
            Ok(None) => {}
            Ok(Some(sealed)) => {
                let older = sealed.into_iter().filter(|sealed| sealed.place.epoch < epoch);
                let older = older.map(|sealed| (sealed.place, Some(sealed.nbytes)));
                return Ok(Ok(Some(older.chain(own(0)).collect())));
            }
        }
    }
    Ok(Ok(None))
}

/// What an epoch's first record says of the older ones; `None` if it died before that was whole.
fn seal_of(files: &impl Files, epoch: u32) -> Result<Result<Option<Vec<Sealed>>, Damage>, JournalError> {
    let place = Place::segment(epoch, 0);
    let path = files.dir().join(place.file_name());
    if !files.names()?.contains(&place.file_name()) {
        let reason = "it is the first of its epoch, and is gone".to_owned();
        return Ok(Err(Damage { path, offset: 0, reason }));
    }
    let mut tape = Tape::open(files, place)?;
    let header = match header(&tape.header()?, place, &path)? {
        Ok(header) => header,
        Err(damage) => return Ok(Err(damage)),
    };
    let damage = |reason: String| Damage { path: path.clone(), offset: HEADER_BYTES as u64, reason };
    let seal = |record: Record<'_>| decode_seal(record.body).filter(|_| record.kind == KIND_SEAL);
    Ok(match tape.first(header, seal)? {
        Ok(None) => Ok(None),
        Ok(Some(Some(sealed))) => Ok(Some(sealed)),
        Ok(Some(None)) => Err(damage("it begins without a seal".to_owned())),
        Err(reason) => Err(damage(reason)),
    })
}

/// The header of that file.
pub(super) fn header(
    bytes: &[u8],
    place: Place,
    path: &Path,
) -> Result<Result<FileHeader, Damage>, JournalError> {
    match FileHeader::decode(bytes, place.kind).filter(|header| header.place == place) {
        Some(header) => Ok(Ok(header)),
        None => match format_of(bytes).filter(|format| *format != crate::STATE_FORMAT) {
            Some(found) => Err(JournalError::Format { path: path.to_owned(), found }),
            None => {
                let reason = "its header is wrong".to_owned();
                Ok(Err(Damage { path: path.to_owned(), offset: 0, reason }))
            }
        },
    }
}
