//! The journal's files as a file server has them, in the journal's own format: what a claimant finds, the journal's
//! own reader tells.

use super::disk::encode;
use crate::journal::record::{self, FileHeader, KIND_END, KIND_SEAL, Place, encode_end, encode_seal};
use crate::journal::{Files, History, JournalError, Record, read_from};
use crate::scheduler::record as body;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Default)]
pub struct Shelf {
    files: BTreeMap<Place, Vec<u8>>,
}

impl Files for Shelf {
    fn dir(&self) -> &Path {
        Path::new("journal")
    }

    fn names(&self) -> Result<Vec<String>, JournalError> {
        Ok(self.files.keys().map(Place::file_name).collect())
    }

    fn load(&self, name: &str) -> Result<Vec<u8>, JournalError> {
        let file = Place::of_file(name).and_then(|place| self.files.get(&place));
        Ok(file.cloned().unwrap_or_default())
    }
}

impl Shelf {
    /// What counts of it, and the records, oldest first; or why that can't be told.
    pub fn read(&self) -> Result<(History, Vec<body::Record>), String> {
        let (mut records, mut refused) = (Vec::new(), None);
        let history =
            read_from(self, |found| match body::Record::decode(found.kind, found.version, found.body) {
                Ok(record) => records.push(record),
                Err(error) => refused = Some(error.to_string()),
            });
        let history = history.map_err(|error| error.to_string())?;
        match history.damage.as_ref().map(ToString::to_string).or(refused) {
            None => Ok((history, records)),
            Some(why) => Err(why),
        }
    }

    /// Begins a file: nothing is in it yet.
    pub fn begin(&mut self, place: Place, first_seq: u64) {
        self.files.insert(place, FileHeader { place, first_seq }.encode().to_vec());
    }

    /// The first record of an epoch: so much of all others counts.
    pub fn seal(&mut self, epoch: u32, seq: u64, history: &History) {
        let body = encode_seal(&history.seal());
        self.append(
            Place::segment(epoch, 0),
            &Record { seq, epoch, kind: KIND_SEAL, version: 1, body: &body },
        );
    }

    /// A record of the scheduler.
    pub fn write(&mut self, place: Place, seq: u64, bytes: &[u8]) {
        let (kind, version) = (body::KIND, body::VERSION);
        self.append(place, &Record { seq, epoch: place.epoch, kind, version, body: bytes });
    }

    /// The first part of a record, as a crash leaves it.
    pub fn tear(&mut self, place: Place, seq: u64, bytes: &[u8], part: f64) {
        let whole = self.files.get(&place).map_or(0, Vec::len);
        self.write(place, seq, bytes);
        if let Some(file) = self.files.get_mut(&place) {
            file.truncate(whole + ((file.len() - whole) as f64 * part) as usize);
        }
    }

    /// A file that another scheduler removed takes everything, and nobody will read it.
    fn append(&mut self, place: Place, record: &Record<'_>) {
        if let Some(file) = self.files.get_mut(&place) {
            assert!(record::encode(record, file), "a record fits its file");
        }
    }

    /// A snapshot gets its name once it is whole.
    pub fn publish(&mut self, place: Place, next_seq: u64, records: &[body::Record]) {
        self.begin(place, next_seq);
        let count = records.len() as u64;
        for (seq, record) in (1..).zip(records) {
            self.write(place, seq, &encode(record));
        }
        let (body, epoch) = (encode_end(count), place.epoch);
        self.append(place, &Record { seq: count + 1, epoch, kind: KIND_END, version: 1, body: &body });
    }

    /// What a snapshot stands for, and what nobody names any more.
    pub fn before(&self, place: Place) -> Vec<Place> {
        self.files.range(..place).map(|(place, _)| *place).collect()
    }

    pub fn remove(&mut self, place: Place) {
        self.files.remove(&place);
    }
}

/// The epoch that speaks in this history, if anybody does.
pub fn epoch_of(history: &History) -> Option<u32> {
    let counted = history.base.iter().chain(&history.segments);
    counted.map(|file| file.place.epoch).max()
}
