//! One file of the journal: telling what it has, and what is wrong with it.

use super::plan::header;
use super::tape::Tape;
use super::{Counted, Damage, History, Torn};
use crate::journal::JournalError;
use crate::journal::record::{
    FileHeader, FileKind, HEADER_BYTES, KIND_END, KIND_SEAL, Place, RECORD_OVERHEAD_BYTES, Record, Records,
    decode_end,
};
use std::path::PathBuf;

/// One file about to be read.
pub(super) struct Reading {
    pub place: Place,
    pub path: PathBuf,
    /// Sealed length; what lies beyond doesn't count.
    pub limit: Option<u64>,
    pub is_last_of_epoch: bool,
}

impl Reading {
    fn damage(&self, offset: usize, reason: impl Into<String>) -> Result<Option<Damage>, JournalError> {
        Ok(Some(Damage { path: self.path.clone(), offset: offset as u64, reason: reason.into() }))
    }

    fn cut_short(&self, nbytes: u64, limit: u64) -> Damage {
        let reason = format!("it has {nbytes} bytes where {limit} were sealed");
        Damage { path: self.path.clone(), offset: nbytes, reason }
    }

    /// What counts of the file and its header.
    fn open<'a>(&self, all: &'a [u8]) -> Result<Result<(&'a [u8], FileHeader), Damage>, JournalError> {
        let limit = self.limit.map_or(all.len(), |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let Some(bytes) = all.get(..limit) else {
            return Ok(Err(self.cut_short(all.len() as u64, limit as u64)));
        };
        Ok(header(bytes, self.place, &self.path)?.map(|header| (bytes, header)))
    }

    /// A snapshot is whole or worth nothing: it is told only after its end was seen.
    pub fn read_snapshot(
        &self,
        all: &[u8],
        history: &mut History,
        each: &mut impl FnMut(Record<'_>),
    ) -> Result<Option<Damage>, JournalError> {
        let (bytes, header) = match self.open(all)? {
            Ok(opened) => opened,
            Err(damage) => return Ok(Some(damage)),
        };
        let mut records = Records::new(&bytes[HEADER_BYTES..], header);
        let (mut count, mut end) = (0, None);
        for outcome in &mut records {
            match outcome {
                Err(damaged) => return self.damage(HEADER_BYTES + damaged.offset, damaged.to_string()),
                Ok(_) if end.is_some() => break,
                Ok(record) if record.kind == KIND_END => end = decode_end(record.body),
                Ok(_) => count += 1,
            }
        }
        let valid = HEADER_BYTES + records.valid_bytes();
        if end != Some(count) || valid < bytes.len() {
            return self.damage(valid, "it isn't whole");
        }
        for record in Records::new(&bytes[HEADER_BYTES..], header).map_while(Result::ok) {
            if record.kind != KIND_END {
                each(record);
            }
        }
        history.records += count;
        history.next_seq = header.first_seq;
        history.base = Some(Counted {
            place: self.place,
            path: self.path.clone(),
            nbytes: valid as u64,
            ignored_bytes: (all.len() - valid) as u64,
        });
        Ok(None)
    }

    /// Tells what is sound, wherever it is. Only the first damage is told.
    pub fn salvage(
        &self,
        all: &[u8],
        history: &mut History,
        each: &mut impl FnMut(Record<'_>),
    ) -> Result<Option<Damage>, JournalError> {
        let limit = self.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(all.len());
        let bytes = all.get(..limit).unwrap_or(all);
        let header = match header(bytes, self.place, &self.path)? {
            Ok(header) => header,
            Err(damage) => {
                history.lost_bytes += bytes.len() as u64;
                return Ok(Some(damage));
            }
        };
        let mut records = Records::new(&bytes[HEADER_BYTES..], header);
        let (mut told, mut found, mut sound) = (0, None, HEADER_BYTES);
        while let Some(outcome) = records.next() {
            match outcome {
                Ok(record) => {
                    sound += RECORD_OVERHEAD_BYTES + record.body.len();
                    if !matches!(record.kind, KIND_SEAL | KIND_END) {
                        told += 1;
                        each(record);
                    }
                }
                Err(damaged) => {
                    found.get_or_insert((HEADER_BYTES + damaged.offset, damaged.to_string()));
                    records.go_on_behind(&damaged);
                }
            }
        }
        history.records += told;
        history.next_seq = history.next_seq.max(match self.place.kind {
            FileKind::Snapshot => header.first_seq,
            FileKind::Segment => records.next_seq(),
        });
        let is_torn = self.place.kind == FileKind::Segment && self.limit.is_none() && self.is_last_of_epoch;
        if found.is_none() && (sound < bytes.len() && !is_torn || limit > all.len()) {
            found = Some((sound, "its end is missing or not whole".to_owned()));
        }
        history.lost_bytes += (limit.max(bytes.len()) - sound) as u64;
        found.map_or(Ok(None), |(offset, reason)| self.damage(offset, reason))
    }

    /// Tells a segment's records while it is read.
    pub fn read_segment(
        &self,
        mut tape: Tape,
        history: &mut History,
        each: &mut impl FnMut(Record<'_>),
    ) -> Result<Option<Damage>, JournalError> {
        let limit = self.limit.unwrap_or(tape.nbytes);
        if limit > tape.nbytes {
            return Ok(Some(self.cut_short(tape.nbytes, limit)));
        }
        tape.limit(limit);
        let header = match header(&tape.header()?, self.place, &self.path)? {
            Ok(header) => header,
            Err(damage) => return Ok(Some(damage)),
        };
        let is_first = history.segments.is_empty() && history.base.is_none();
        if !is_first && header.first_seq != history.next_seq {
            let reason = format!("it begins with record {}, not {}", header.first_seq, history.next_seq);
            return self.damage(0, reason);
        }
        let told = tape.tell(header, |record| {
            if record.kind != KIND_SEAL {
                history.records += 1;
                each(record);
            }
        })?;
        let (valid, mut found) = (HEADER_BYTES + told.valid_bytes, told.damage);
        history.next_seq = told.next_seq;
        history.segments.push(Counted {
            place: self.place,
            path: self.path.clone(),
            nbytes: valid as u64,
            ignored_bytes: tape.nbytes.saturating_sub(valid as u64),
        });
        if found.is_none() && (valid as u64) < limit {
            // The next segment is begun only after this one is durable, so only an epoch's last one may be torn.
            if self.limit.is_some() || !self.is_last_of_epoch {
                found = Some(format!("record {} isn't whole", told.next_seq));
            } else {
                let (offset, nbytes) = (valid as u64, limit - valid as u64);
                history.torn = Some(Torn { path: self.path.clone(), offset, nbytes });
            }
        }
        found.map_or(Ok(None), |reason| self.damage(valid, reason))
    }
}
