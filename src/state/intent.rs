//! What is about to be submitted, written down before it is: so that a job whose submit timed out can be found by
//! its name, and nothing that isn't ours is ever cancelled.
//!
//! Each intent is a small file of its own, named after the job. Clients write some before any epoch exists
//! (`jq up` submits the scheduler's job itself), so names are given out by exclusive creation.

use super::StateError;
use super::dir::{read_toml, write_toml};
use super::files::create_exclusive;
use super::identity::ClusterId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest job name that every batch system takes (old PBS).
pub const MAX_JOB_NAME_BYTES: usize = 15;
/// What all our job names begin with.
const PREFIX: &str = "jq";
/// First number that no longer fits: 15 - 2 - 6 digits of base 36.
const SEQUENCE_END: u64 = 36_u64.pow(7);
/// Ended intents that are kept for people; older ones are removed.
pub const ENDED_KEPT: usize = 200;

/// One job that was, or was about to be, submitted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Intent {
    /// The job's name: `jq`, 6 digits of the cluster id, the sequence number in base 36.
    pub name: String,
    pub sequence: u64,
    /// Epoch of the submitter; 0: a client, before there was one.
    pub epoch: u32,
    /// What it is for, in the submitter's words; opaque here.
    pub purpose: String,
    /// Wall-clock seconds since 1970, for people and for sweeping.
    pub created_unix: u64,
    pub outcome: Outcome,
}

/// How far a submit has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Outcome {
    /// Written down; whether the batch system was asked is not known.
    Intended,
    /// The batch system gave it this id.
    Submitted { job: String },
    /// The submit timed out: a job of this name may or may not exist.
    Ambiguous,
    /// Given up: should there be a job of this name, it is to leave as soon as it starts.
    Unwanted { job: Option<String> },
    /// There is no such job, or no more.
    Ended { job: Option<String>, reason: String },
}

/// All intents of a cluster.
#[derive(Debug)]
pub struct Intents {
    dir: PathBuf,
    cluster_id: ClusterId,
    known: BTreeMap<u64, Intent>,
    next: u64,
}

impl Intents {
    /// Reads all intents in `dir`, which must exist.
    ///
    /// # Errors
    /// The directory or a file can't be read.
    pub fn open(dir: &Path, cluster_id: ClusterId) -> Result<Self, StateError> {
        let mut intents = Self { dir: dir.to_owned(), cluster_id, known: BTreeMap::new(), next: 0 };
        intents.reload()?;
        Ok(intents)
    }

    /// Reads again what other processes may have written.
    ///
    /// # Errors
    /// As [`Intents::open`].
    pub fn reload(&mut self) -> Result<(), StateError> {
        let mut known = BTreeMap::new();
        for (sequence, name) in self.names()? {
            let path = self.path_of(&name);
            // Another process may just have pruned it.
            let Some(intent) = read_toml::<Intent>(&path)? else { continue };
            if intent.sequence != sequence || intent.name != name {
                let reason = format!("it tells of {}", intent.name);
                return Err(StateError::Malformed { path, reason });
            }
            known.insert(sequence, intent);
        }
        self.known = known;
        Ok(())
    }

    /// Writes down that a job is about to be submitted, under a name that nobody else has or will have. Durable
    /// when this returns.
    ///
    /// # Errors
    /// It can't be written; then nothing may be submitted.
    pub fn intend(&mut self, epoch: u32, purpose: &str) -> Result<Intent, StateError> {
        // Others may have come far, and pruned what they ended: a number below the highest may look free again.
        self.names()?;
        loop {
            let sequence = self.next;
            let name = job_name(self.cluster_id, sequence).ok_or_else(|| StateError::Malformed {
                path: self.dir.clone(),
                reason: "all job names of this cluster are used up".to_owned(),
            })?;
            self.next += 1;
            let intent = Intent {
                name,
                sequence,
                epoch,
                purpose: purpose.to_owned(),
                created_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
                outcome: Outcome::Intended,
            };
            let path = self.path_of(&intent.name);
            let text = toml::to_string(&intent)
                .map_err(|error| StateError::Malformed { path: path.clone(), reason: error.to_string() })?;
            if create_exclusive(&path, text.as_bytes())? {
                self.known.insert(sequence, intent.clone());
                return Ok(intent);
            }
        }
    }

    /// Records how a submit, or its job, came out. Durable when this returns.
    ///
    /// # Errors
    /// No such intent, or it can't be written.
    pub fn settle(&mut self, name: &str, outcome: Outcome) -> Result<(), StateError> {
        let path = self.path_of(name);
        let known = sequence_of(name, self.cluster_id).and_then(|sequence| self.known.get_mut(&sequence));
        let Some(intent) = known else {
            return Err(StateError::Malformed { path, reason: "no such intent is known".to_owned() });
        };
        let settled = Intent { outcome, ..intent.clone() };
        write_toml(&path, &settled)?;
        *intent = settled;
        Ok(())
    }

    /// All intents, oldest first.
    pub fn list(&self) -> impl Iterator<Item = &Intent> {
        self.known.values()
    }

    /// Those whose job may exist: everything but the ended.
    pub fn open_ones(&self) -> impl Iterator<Item = &Intent> {
        self.list().filter(|intent| !matches!(intent.outcome, Outcome::Ended { .. }))
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Intent> {
        self.known.get(&sequence_of(name, self.cluster_id)?)
    }

    /// Removes all but the newest [`ENDED_KEPT`] ended intents. The highest number of all stays, so that no name
    /// is given out twice.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn prune(&mut self) -> Result<(), StateError> {
        let highest = self.known.keys().next_back().copied();
        let ended = |intent: &&Intent| matches!(intent.outcome, Outcome::Ended { .. });
        let doomed: Vec<u64> = self
            .known
            .values()
            .rev()
            .filter(ended)
            .skip(ENDED_KEPT)
            .map(|intent| intent.sequence)
            .filter(|sequence| Some(*sequence) != highest)
            .collect();
        for sequence in doomed {
            let Some(intent) = self.known.remove(&sequence) else { continue };
            let path = self.path_of(&intent.name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StateError::io("remove", path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Lists the intents there are, and moves `next` beyond them.
    fn names(&mut self) -> Result<Vec<(u64, String)>, StateError> {
        let list = |error| StateError::io("list", &self.dir, error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(list)? {
            let file_name = entry.map_err(list)?.file_name();
            let name = file_name.to_str().and_then(|name| name.strip_suffix(".toml"));
            let Some(name) = name else { continue };
            let Some(sequence) = sequence_of(name, self.cluster_id) else { continue };
            self.next = self.next.max(sequence + 1);
            names.push((sequence, name.to_owned()));
        }
        Ok(names)
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.toml"))
    }
}

/// Whether a job of this name that starts now should go on. One of which nothing is known should: a file server may
/// not show its intent yet.
///
/// # Errors
/// The intent can't be read.
pub fn is_wanted(dir: &Path, name: &str) -> Result<bool, StateError> {
    let intent: Option<Intent> = read_toml(&dir.join(format!("{name}.toml")))?;
    let over = |outcome: &Outcome| matches!(outcome, Outcome::Unwanted { .. } | Outcome::Ended { .. });
    Ok(!intent.is_some_and(|intent| over(&intent.outcome)))
}

/// The number of the allocation that an intent is for, such as 12 of `a12`; `None`: it is for something else.
#[must_use]
pub fn allocation_number(purpose: &str) -> Option<u32> {
    purpose.strip_prefix('a')?.parse().ok()
}

/// What the names of all jobs of a cluster begin with.
#[must_use]
pub fn prefix(cluster_id: ClusterId) -> String {
    format!("{PREFIX}{}", cluster_id.short())
}

/// The job name of an intent: at most 15 characters, letters and digits only. `None` beyond the last one.
#[must_use]
pub fn job_name(cluster_id: ClusterId, sequence: u64) -> Option<String> {
    (sequence < SEQUENCE_END).then(|| format!("{}{}", prefix(cluster_id), base36(sequence)))
}

/// The number of a job name of this cluster; `None` for the names of others.
#[must_use]
pub fn sequence_of(name: &str, cluster_id: ClusterId) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_prefix(&cluster_id.short())?;
    let is_ours = (1..=7).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_alphanumeric());
    let sequence = u64::from_str_radix(digits, 36).ok().filter(|_| is_ours)?;
    (base36(sequence) == digits).then_some(sequence)
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u32::try_from(number % 36).unwrap_or(0);
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> ClusterId {
        ClusterId([0x3f; 16])
    }

    #[test]
    fn an_intent_is_on_disk_before_the_submit_and_its_outcome_after() {
        let dir = tempfile::tempdir().unwrap();
        let mut intents = Intents::open(dir.path(), id()).unwrap();
        let first = intents.intend(1, "worker x4").unwrap();
        assert_eq!(first.name, "jq3f3f3f0");
        let seen = Intents::open(dir.path(), id()).unwrap();
        assert_eq!(seen.list().collect::<Vec<_>>(), [&first]);

        intents.settle(&first.name, Outcome::Submitted { job: "812[]".into() }).unwrap();
        let second = intents.intend(1, "worker x4").unwrap();
        intents.settle(&second.name, Outcome::Ambiguous).unwrap();
        let third = intents.intend(1, "scheduler").unwrap();
        let ended = Outcome::Ended { job: None, reason: "refused: invalid account".into() };
        intents.settle(&third.name, ended.clone()).unwrap();

        let again = Intents::open(dir.path(), id()).unwrap();
        assert_eq!(
            again.list().map(|i| i.outcome.clone()).collect::<Vec<_>>(),
            [Outcome::Submitted { job: "812[]".into() }, Outcome::Ambiguous, ended]
        );
        assert_eq!(again.open_ones().count(), 2);
        // A job that starts late finds out whether it is still wanted.
        let wanted = |name: &str| is_wanted(dir.path(), name).unwrap();
        assert!(wanted(&first.name) && wanted(&second.name) && !wanted(&third.name) && wanted("jq3f3f3fz"));
        intents.settle(&second.name, Outcome::Unwanted { job: None }).unwrap();
        assert!(!wanted(&second.name));
        assert_eq!(intents.open_ones().count(), 2, "it may exist, so a sweep looks for it");
        intents.settle(&second.name, Outcome::Ambiguous).unwrap();
        assert_eq!(again.get(&second.name).unwrap().outcome, Outcome::Ambiguous);
        assert!(intents.settle("jq3f3f3fzz", Outcome::Ambiguous).is_err());
    }

    #[test]
    fn racing_submitters_never_share_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut names: Vec<String> = std::thread::scope(|scope| {
            let submit = || {
                let mut intents = Intents::open(dir.path(), id()).unwrap();
                (0..8).map(|_| intents.intend(0, "").unwrap().name).collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(submit)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 48);
        assert_eq!(Intents::open(dir.path(), id()).unwrap().list().count(), 48);
    }

    #[test]
    fn pruning_keeps_open_ones_and_never_frees_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut intents = Intents::open(dir.path(), id()).unwrap();
        let open = intents.intend(1, "open").unwrap();
        for sequence in 1..=(ENDED_KEPT as u64 + 5) {
            // Written plainly: syncing two hundred files takes seconds.
            let intent = Intent {
                name: job_name(id(), sequence).unwrap(),
                sequence,
                epoch: 1,
                purpose: String::new(),
                created_unix: 0,
                outcome: Outcome::Ended { job: Some("1".into()), reason: "completed".into() },
            };
            let text = toml::to_string(&intent).unwrap();
            std::fs::write(dir.path().join(format!("{}.toml", intent.name)), text).unwrap();
        }
        intents.reload().unwrap();
        intents.prune().unwrap();
        let again = Intents::open(dir.path(), id()).unwrap();
        assert_eq!(again.list().count(), ENDED_KEPT + 1);
        assert!(again.get(&open.name).is_some());
        // A process that looked before all that doesn't give out a pruned name either.
        let mut stale =
            Intents { dir: dir.path().to_owned(), cluster_id: id(), known: BTreeMap::new(), next: 1 };
        assert_eq!(stale.intend(1, "").unwrap().sequence, ENDED_KEPT as u64 + 6);
    }

    #[test]
    fn files_of_others_are_left_alone_and_a_wrong_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        std::fs::write(dir.path().join("jqffffff0.toml"), "another cluster's").unwrap();
        assert_eq!(Intents::open(dir.path(), id()).unwrap().list().count(), 0);
        std::fs::write(dir.path().join("jq3f3f3f0.toml"), "x").unwrap();
        let error = Intents::open(dir.path(), id()).unwrap_err();
        assert!(error.to_string().contains("jq3f3f3f0.toml"), "{error}");
    }

    proptest! {
        #[test]
        fn names_fit_old_pbs_and_read_back(sequence in 0..SEQUENCE_END) {
            let name = job_name(id(), sequence).unwrap();
            prop_assert!(name.len() <= MAX_JOB_NAME_BYTES);
            prop_assert_eq!(sequence_of(&name, id()), Some(sequence));
            prop_assert_eq!(sequence_of(&name, ClusterId([1; 16])), None);
        }

        #[test]
        fn no_name_of_others_is_taken_for_ours(name in "\\PC{0,20}") {
            if let Some(sequence) = sequence_of(&name, id()) {
                prop_assert_eq!(job_name(id(), sequence), Some(name));
            }
        }
    }

    #[test]
    fn the_last_name_is_the_last() {
        assert_eq!(job_name(id(), SEQUENCE_END - 1).unwrap().len(), MAX_JOB_NAME_BYTES);
        assert_eq!(job_name(id(), SEQUENCE_END), None);
        assert_eq!(sequence_of("jq3f3f3f00", id()), None);
        assert_eq!(sequence_of("jq3f3f3f+1", id()), None);
        assert_eq!(sequence_of("jq3f3f3f", id()), None);
    }
}
