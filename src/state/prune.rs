//! Removes what jobs and tasks left behind and nobody asks for any more, so that a cluster that lives for months takes
//! a bounded number of bytes and inodes.

use super::StateError;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Jobs whose script, log and verdicts are kept after they have ended.
pub const KEPT_JOBS: usize = 100;
/// And what they may take together; the newest are kept in any case.
pub const KEPT_BYTES: u64 = 256 << 20;

/// Jobs whose leavings stay even where the folder takes more than it may.
pub const KEPT_AT_LEAST: usize = 10;

/// What something takes, or may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    pub nbytes: u64,
    pub inodes: u64,
}

impl Taken {
    /// What this is beyond `most`.
    #[must_use]
    pub fn beyond(self, most: Taken) -> Taken {
        Taken {
            nbytes: self.nbytes.saturating_sub(most.nbytes),
            inodes: self.inodes.saturating_sub(most.inodes),
        }
    }
}

/// What one job, or one graph, left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaving {
    /// The job's name, or the graph's.
    pub name: String,
    pub paths: Vec<PathBuf>,
    pub nbytes: u64,
    pub inodes: u64,
    /// When any of it was written last.
    pub modified: SystemTime,
}

/// What is in a folder by the first part of its name, the newest first. A folder that isn't there is empty.
///
/// # Errors
/// It can't be read.
pub fn leavings(dir: &Path) -> Result<Vec<Leaving>, StateError> {
    let mut found: BTreeMap<String, Leaving> = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StateError::io("list", dir, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| StateError::io("list", dir, error))?;
        let Ok(file) = entry.file_name().into_string() else { continue };
        let name = file.split('.').next().unwrap_or_default().to_owned();
        let leaving = found.entry(name.clone()).or_insert_with(|| Leaving {
            name,
            paths: Vec::new(),
            nbytes: 0,
            inodes: 0,
            modified: SystemTime::UNIX_EPOCH,
        });
        leaving.paths.push(entry.path());
        measure(&entry.path(), leaving);
    }
    let mut found: Vec<Leaving> = found.into_values().collect();
    found.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| b.name.cmp(&a.name)));
    Ok(found)
}

/// Bytes, inodes and age of what is at a path, whatever of it can be looked at.
fn measure(path: &Path, leaving: &mut Leaving) {
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(meta) = path.symlink_metadata() else { continue };
        leaving.nbytes += meta.len();
        leaving.inodes += 1;
        leaving.modified = leaving.modified.max(meta.modified().unwrap_or(SystemTime::UNIX_EPOCH));
        if meta.is_dir()
            && let Ok(entries) = std::fs::read_dir(&path)
        {
            left.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
}

/// Everything at a path as one.
pub fn measured(path: &Path) -> Leaving {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (paths, modified) = (vec![path.to_owned()], SystemTime::UNIX_EPOCH);
    let mut leaving = Leaving { name, paths, nbytes: 0, inodes: 0, modified };
    measure(path, &mut leaving);
    leaving
}

/// Of `leavings`, newest first, those beyond what is kept. What is `in_use` stays and doesn't count.
pub fn beyond(leavings: Vec<Leaving>, in_use: &BTreeSet<String>) -> Vec<Leaving> {
    let (mut jobs, mut nbytes) = (0, 0);
    let is_beyond = |leaving: &Leaving| {
        if in_use.contains(&leaving.name) {
            return false;
        }
        jobs += 1;
        nbytes += leaving.nbytes;
        jobs > 1 && (jobs > KEPT_JOBS || nbytes > KEPT_BYTES)
    };
    leavings.into_iter().filter(is_beyond).collect()
}

/// What is in a folder, but for what has one of these names.
///
/// # Errors
/// It can't be listed.
pub fn taken(folder: &Path, but: &[&str]) -> Result<Taken, StateError> {
    let list = |error| StateError::io("list", folder, error);
    let mut taken = Taken::default();
    for entry in std::fs::read_dir(folder).map_err(list)? {
        let entry = entry.map_err(list)?;
        if entry.file_name().to_str().is_some_and(|name| but.contains(&name)) {
            continue;
        }
        let all = measured(&entry.path());
        taken.nbytes += all.nbytes;
        taken.inodes += all.inodes;
    }
    Ok(taken)
}

/// Of `leavings`, newest first, the oldest ones that together free so much, as far as they do. What is `in_use` stays,
/// and so do the newest few.
pub fn oldest(leavings: Vec<Leaving>, in_use: &BTreeSet<String>, free: Taken) -> Vec<Leaving> {
    let unused: Vec<Leaving> = leavings.into_iter().filter(|l| !in_use.contains(&l.name)).collect();
    let mut freed = Taken::default();
    let is_needed = |leaving: &Leaving| {
        let needed = freed.nbytes < free.nbytes || freed.inodes < free.inodes;
        freed.nbytes += leaving.nbytes;
        freed.inodes += leaving.inodes;
        needed
    };
    unused.into_iter().skip(KEPT_AT_LEAST).rev().take_while(is_needed).collect()
}

/// Of `leavings`, those that nothing was written to for so long.
pub fn older(leavings: Vec<Leaving>, age: Duration, now: SystemTime) -> Vec<Leaving> {
    let is_old = |leaving: &Leaving| now.duration_since(leaving.modified).is_ok_and(|since| since >= age);
    leavings.into_iter().filter(is_old).collect()
}

/// Removes it; what is gone already is fine.
///
/// # Errors
/// Something of it can't be removed.
pub fn remove(leaving: &Leaving) -> Result<(), StateError> {
    for path in &leaving.paths {
        let is_dir = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        let removed = if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StateError::io("remove", path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, nbytes: u64, age: u64) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = std::fs::File::create(path).unwrap();
        // Sparse: it takes its length, and no disk.
        file.set_len(nbytes).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }

    #[test]
    fn the_last_jobs_are_kept_with_all_that_is_theirs_and_those_in_use() {
        let home = tempfile::tempdir().unwrap();
        for n in 0..KEPT_JOBS as u64 + 20 {
            write(&home.path().join(format!("jq{n:03}.sh")), 10, 10_000 - n);
            write(&home.path().join(format!("jq{n:03}.log")), 10, 10_000 - n);
        }
        let in_use: BTreeSet<String> = ["jq000".to_owned()].into();
        let gone = beyond(leavings(home.path()).unwrap(), &in_use);
        let names: Vec<&str> = gone.iter().map(|leaving| leaving.name.as_str()).collect();
        assert_eq!((names.len(), names[0], names[18]), (19, "jq019", "jq001"));
        assert!(gone.iter().all(|leaving| leaving.inodes == 2 && leaving.nbytes == 20));
        gone.iter().for_each(|leaving| remove(leaving).unwrap());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 2 * (KEPT_JOBS + 1));
        remove(&gone[0]).unwrap();
    }

    #[test]
    fn what_is_beyond_is_freed_from_the_oldest_on_and_a_few_stay() {
        let home = tempfile::tempdir().unwrap();
        for n in 0..20 {
            write(&home.path().join(format!("allocations/jq{n:02}.sh")), 10, 1000 - n);
        }
        write(&home.path().join("datasets/wind/0.0"), 10_000, 0);
        write(&home.path().join("journal/1.journal"), 100, 0);
        // The folders' own lengths are the file system's business.
        let taken = taken(home.path(), &["datasets"]).unwrap();
        assert!(taken.inodes == 23 && (300..100_000).contains(&taken.nbytes), "{taken:?}");
        let most = Taken { nbytes: u64::MAX, inodes: 20 };
        assert_eq!(taken.beyond(most), Taken { nbytes: 0, inodes: 3 });
        let (all, in_use) = (leavings(&home.path().join("allocations")).unwrap(), ["jq01".to_owned()].into());
        let names = |free| oldest(all.clone(), &in_use, free).into_iter().map(|l| l.name).collect::<Vec<_>>();
        assert_eq!(names(Taken { nbytes: 0, inodes: 3 }), ["jq00", "jq02", "jq03"]);
        assert_eq!(names(Taken { nbytes: 11, inodes: 0 }), ["jq00", "jq02"]);
        assert_eq!(names(Taken::default()), [""; 0]);
        assert_eq!(names(Taken { nbytes: 1 << 40, inodes: 0 }).len(), 20 - 1 - KEPT_AT_LEAST);
    }

    #[test]
    fn large_logs_are_bounded_together_and_the_newest_stays() {
        let home = tempfile::tempdir().unwrap();
        for (n, nbytes) in [(1, KEPT_BYTES), (2, 100), (3, KEPT_BYTES + 1)] {
            write(&home.path().join(format!("jq{n}/verdict")), nbytes, 100 - n);
        }
        let all = leavings(home.path()).unwrap();
        let names = |leavings: &[Leaving]| leavings.iter().map(|l| l.name.clone()).collect::<Vec<_>>();
        // The folders were made just now, in this order.
        assert_eq!(names(&all), ["jq3", "jq2", "jq1"]);
        assert_eq!(names(&beyond(all.clone(), &BTreeSet::new())), ["jq2", "jq1"]);
        assert!(older(all.clone(), Duration::from_secs(50), SystemTime::now()).is_empty());
        assert_eq!(older(all, Duration::ZERO, SystemTime::now()).len(), 3);
        assert_eq!(leavings(&home.path().join("nothing")).unwrap(), []);
    }
}
