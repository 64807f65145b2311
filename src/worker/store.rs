//! The values that this worker holds: in memory up to a target, the least recently used ones on a local disk
//! beyond it. A value is lost only if the worker is: one that can't be written stays in memory, and one that
//! doesn't read back as it was written is an error, never other bytes.
//!
//! `insert`, `get` and `free` do no IO but `free`'s unlink. What does, `relieve` and `load`, is for a thread
//! that may block, and holds no lock while it reads or writes.

mod spill;

pub use spill::SpillDir;

use crate::graph::{TaskId, Value};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After a failed write, the disk is left alone for this long.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// When the store asks for relief. All in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Values in memory beyond this are spilled.
    pub target: u64,
    /// From here on the worker takes no more tasks, until half of the way back to `target` is done.
    pub pause: u64,
}

/// How full the worker is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Pressure {
    Normal,
    /// Over the target: call [`Store::relieve`].
    Spilling,
    /// Near the limit: start nothing new.
    Paused,
}

/// Where a value is.
#[derive(Clone, PartialEq, Debug)]
pub enum Found {
    Here(Value),
    /// On disk: [`Store::load`] reads it.
    Spilled,
    Absent,
}

/// What [`Store::relieve`] did.
#[derive(Debug, Default)]
pub struct Relief {
    pub values: usize,
    /// Bytes of memory given back.
    pub nbytes: u64,
    /// Why it stopped early; every value is still held.
    pub error: Option<StoreError>,
}

/// Bytes and counts, for status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    pub values: usize,
    pub memory: u64,
    pub disk: u64,
}

/// Why a value can't be spilled or read back.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{}: is a {kind}, which is memory itself: set spill_dir to a directory on a local disk (values stay in memory until then)",
        path.display()
    )]
    InMemory { path: PathBuf, kind: &'static str },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: the spilled value is damaged ({what}): it has to be computed again", path.display())]
    Damaged { path: PathBuf, what: &'static str },
}

/// See the module. All methods may be called from any thread.
pub struct Store {
    limits: Limits,
    spill: Option<SpillDir>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<TaskId, Entry>,
    /// Values in memory by their last use, the oldest first.
    by_use: BTreeMap<u64, TaskId>,
    clock: u64,
    memory: u64,
    disk: u64,
    paused: bool,
    failed_at: Option<Instant>,
}

/// At least one of `value` and `file` is there.
struct Entry {
    value: Option<Value>,
    nbytes: u64,
    /// Key in `by_use`, while the value is in memory.
    used: u64,
    /// Number of its file, which stays until the value is freed: it needn't be written twice.
    file: Option<u64>,
    /// A thread is writing it.
    busy: bool,
    /// Tells this value from one inserted later under the same name.
    stamp: u64,
}

impl Store {
    /// Without a spill directory, all stays in memory.
    pub fn new(limits: Limits, spill: Option<SpillDir>) -> Store {
        Store { limits, spill, state: Mutex::new(State::default()) }
    }

    /// Holds a value; one held under that name before is freed. Look at [`Store::pressure`] afterwards.
    pub fn insert(&self, task: TaskId, value: Value) {
        let old = {
            let mut state = self.lock();
            let old = state.remove(task);
            let stamp = state.tick();
            let nbytes = value.nbytes();
            state
                .entries
                .insert(task, Entry { value: None, nbytes, used: 0, file: None, busy: false, stamp });
            state.put_in_memory(task, value);
            old
        };
        self.forget_file(old);
    }

    /// The value, if it is in memory; this is a use of it.
    pub fn get(&self, task: TaskId) -> Found {
        let mut state = self.lock();
        let Some(entry) = state.entries.get(&task) else { return Found::Absent };
        match entry.value.clone() {
            Some(value) => {
                state.touch(task);
                Found::Here(value)
            }
            None => Found::Spilled,
        }
    }

    /// The value, read back from disk if need be, and in memory again then. Blocks.
    ///
    /// # Errors
    /// It can't be read, or isn't what was written: free it and have it computed again.
    pub fn load(&self, task: TaskId) -> Result<Option<Value>, StoreError> {
        loop {
            let (number, stamp) = {
                let mut state = self.lock();
                let Some(entry) = state.entries.get(&task) else { return Ok(None) };
                if let Some(value) = entry.value.clone() {
                    state.touch(task);
                    return Ok(Some(value));
                }
                match entry.file {
                    Some(number) => (number, entry.stamp),
                    // `check` proves that this doesn't happen.
                    None => return Ok(None),
                }
            };
            let Some(spill) = &self.spill else { return Ok(None) };
            let read = spill.read(number);
            let mut state = self.lock();
            match state.entries.get(&task) {
                // Freed or replaced meanwhile: whatever was read is of the past.
                Some(entry) if entry.stamp != stamp => continue,
                None => return Ok(None),
                Some(_) => {}
            }
            let value = read?;
            state.put_in_memory(task, value.clone());
            return Ok(Some(value));
        }
    }

    /// Lets go of a value, and of its file. `false`: it wasn't held.
    pub fn free(&self, task: TaskId) -> bool {
        let removed = self.lock().remove(task);
        let held = removed.is_some();
        self.forget_file(removed);
        held
    }

    pub fn holds(&self, task: TaskId) -> bool {
        self.lock().entries.contains_key(&task)
    }

    /// Every value held, in no order, for a registration.
    pub fn tasks(&self) -> Vec<(TaskId, u64)> {
        self.lock().entries.iter().map(|(task, entry)| (*task, entry.nbytes)).collect()
    }

    pub fn held(&self) -> Held {
        let state = self.lock();
        Held { values: state.entries.len(), memory: state.memory, disk: state.disk }
    }

    /// How full the worker is, given the bytes that its whole process has resident (0: judge by the values).
    pub fn pressure(&self, process_bytes: u64) -> Pressure {
        let mut state = self.lock();
        let used = state.memory.max(process_bytes);
        let Limits { target, pause } = self.limits;
        let resume = target.min(pause) + pause.saturating_sub(target) / 2;
        state.paused = used >= pause || (state.paused && used > resume);
        if state.paused {
            Pressure::Paused
        } else if state.memory > target && self.spill.is_some() {
            Pressure::Spilling
        } else {
            Pressure::Normal
        }
    }

    /// Spills the least recently used values until those in memory are within the target. Blocks. After a
    /// failure it does nothing for some seconds.
    pub fn relieve(&self) -> Relief {
        let mut relief = Relief::default();
        let Some(spill) = &self.spill else { return relief };
        while let Some((task, stamp, number, value)) = self.next_to_spill(spill) {
            // One that was read back has its file still.
            let written = match &value {
                Some(value) => spill.write(number, value),
                None => Ok(()),
            };
            let mut state = self.lock();
            let current = state.entries.get_mut(&task).filter(|e| e.stamp == stamp);
            let Some(entry) = current else {
                drop(state);
                spill.remove(number);
                continue;
            };
            entry.busy = false;
            if let Err(error) = written {
                state.failed_at = Some(Instant::now());
                relief.error = Some(error);
                break;
            }
            let nbytes = entry.nbytes;
            if entry.file.replace(number).is_none() {
                state.disk += nbytes;
            }
            state.take_from_memory(task);
            relief.values += 1;
            relief.nbytes += nbytes;
        }
        relief
    }

    /// Proves that the counts and indexes agree; for tests and debug builds.
    pub fn check(&self) {
        let state = self.lock();
        let in_memory = state.entries.values().filter(|e| e.value.is_some());
        assert_eq!(in_memory.clone().map(|e| e.nbytes).sum::<u64>(), state.memory, "bytes in memory");
        let on_disk = state.entries.values().filter(|e| e.file.is_some());
        assert_eq!(on_disk.map(|e| e.nbytes).sum::<u64>(), state.disk, "bytes on disk");
        assert_eq!(in_memory.count(), state.by_use.len(), "values in memory");
        for (task, entry) in &state.entries {
            assert!(entry.value.is_some() || entry.file.is_some(), "{task} is nowhere");
            assert!(entry.value.is_none() || state.by_use.get(&entry.used) == Some(task), "{task}'s use");
        }
    }

    /// The value that has been unused for longest and its file's number, marked as being written; none when
    /// there is nothing to do. The value is given only if it has to be written.
    fn next_to_spill(&self, spill: &SpillDir) -> Option<(TaskId, u64, u64, Option<Value>)> {
        let mut state = self.lock();
        if state.memory <= self.limits.target || state.failed_at.is_some_and(|at| at.elapsed() < RETRY_AFTER)
        {
            return None;
        }
        state.failed_at = None;
        let task = *state.by_use.values().find(|t| state.entries.get(t).is_some_and(|e| !e.busy))?;
        let entry = state.entries.get_mut(&task)?;
        entry.busy = true;
        let value = if entry.file.is_some() { None } else { entry.value.clone() };
        let number = entry.file.unwrap_or_else(|| spill.next_number());
        Some((task, entry.stamp, number, value))
    }

    fn forget_file(&self, entry: Option<Entry>) {
        if let (Some(number), Some(spill)) = (entry.and_then(|e| e.file), &self.spill) {
            spill.remove(number);
        }
    }

    /// Nothing that is done under the lock can fail halfway, so a panic elsewhere doesn't spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn touch(&mut self, task: TaskId) {
        let now = self.tick();
        if let Some(entry) = self.entries.get_mut(&task) {
            self.by_use.remove(&entry.used);
            entry.used = now;
            self.by_use.insert(now, task);
        }
    }

    fn put_in_memory(&mut self, task: TaskId, value: Value) {
        let now = self.tick();
        let Some(entry) = self.entries.get_mut(&task) else { return };
        if entry.value.replace(value).is_some() {
            self.by_use.remove(&entry.used);
        } else {
            self.memory += entry.nbytes;
        }
        entry.used = now;
        self.by_use.insert(now, task);
    }

    fn take_from_memory(&mut self, task: TaskId) {
        let Some(entry) = self.entries.get_mut(&task) else { return };
        if entry.value.take().is_some() {
            self.memory -= entry.nbytes;
            self.by_use.remove(&entry.used);
        }
    }

    fn remove(&mut self, task: TaskId) -> Option<Entry> {
        self.take_from_memory(task);
        let entry = self.entries.remove(&task)?;
        if entry.file.is_some() {
            self.disk -= entry.nbytes;
        }
        Some(entry)
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
