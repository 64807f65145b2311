//! Declared outputs: a command writes a temporary file beside the one it is to make, and only an accepted
//! attempt's temporary is renamed to it.

use super::attempt::Attempt;
use crate::graph::TaskId;
use crate::kernels::directory;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Longest file name that the usual file systems take, in bytes.
const NAME_MAX: usize = 255;

/// Earlier attempts that are cleared up after: more than a task's budgets of failures usually allow.
const MAX_LEFTOVERS: u32 = 32;

/// Why an accepted output isn't in its place.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("neither {} nor its temporary {} is there: the output is lost, the task has to run again", target.display(), temporary.display())]
    Lost { temporary: PathBuf, target: PathBuf },
    #[error("{}: can't become {}: {source}", temporary.display(), target.display())]
    Io { temporary: PathBuf, target: PathBuf, source: io::Error },
}

/// Where an attempt writes an output instead of `target`: a hidden file beside it, which no other task, attempt
/// or epoch uses: `.<file name>.jobq-<epoch>-<graph>.<task's number>.<attempt>.tmp`. A file name that gets too
/// long for that is shortened, and told apart by its checksum.
pub fn temporary_path(target: &Path, task: TaskId, epoch: u32, attempt: u32) -> PathBuf {
    let name = target.file_name().unwrap_or_default().as_bytes();
    let number = u64::from(task.index) + 1;
    let mut suffix = format!(".jobq-{epoch}-{}.{number}.{attempt}.tmp", task.graph.0);
    let mut kept = name;
    if 1 + name.len() + suffix.len() > NAME_MAX {
        suffix = format!("~{:08x}{suffix}", crc32c::crc32c(name));
        kept = &name[..NAME_MAX.saturating_sub(1 + suffix.len()).min(name.len())];
    }
    let mut file = Vec::with_capacity(1 + kept.len() + suffix.len());
    file.push(b'.');
    file.extend_from_slice(kept);
    file.extend_from_slice(suffix.as_bytes());
    target.with_file_name(OsString::from_vec(file))
}

/// What earlier attempts of this epoch may have left beside `target`: their workers died, and nobody else clears it
/// away. An attempt is only made when all before it are surely over.
pub(super) fn earlier_temporaries(target: &Path, attempt: &Attempt) -> Vec<(PathBuf, PathBuf)> {
    let first = attempt.attempt.saturating_sub(MAX_LEFTOVERS).max(1);
    let of = |earlier| temporary_path(target, attempt.task, attempt.epoch, earlier);
    (first..attempt.attempt).map(|earlier| (of(earlier), target.to_owned())).collect()
}

/// Renames each `(temporary, target)`, durably: the file's bytes before its name, the directories last. Doing it
/// again is harmless: a temporary that is gone with the target there counts as done.
///
/// # Errors
/// The first output that can't be put in its place, or a directory that can't be synced.
pub fn commit(outputs: &[(PathBuf, PathBuf)]) -> Result<(), CommitError> {
    for (temporary, target) in outputs {
        put_in_place(temporary, target)?;
    }
    let mut synced = BTreeSet::new();
    for (temporary, target) in outputs {
        if synced.insert(parent(target)) {
            sync(parent(target)).map_err(|e| io_error(temporary, target, e))?;
        }
    }
    Ok(())
}

fn put_in_place(temporary: &Path, target: &Path) -> Result<(), CommitError> {
    match sync(temporary).and_then(|()| fs::rename(temporary, target)) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound && !exists(temporary) => {
            if exists(target) {
                return Ok(());
            }
            Err(CommitError::Lost { temporary: temporary.to_owned(), target: target.to_owned() })
        }
        Err(e) => Err(io_error(temporary, target, e)),
    }
}

fn io_error(temporary: &Path, target: &Path, source: io::Error) -> CommitError {
    CommitError::Io { temporary: temporary.to_owned(), target: target.to_owned(), source }
}

/// Removes the temporaries of an attempt that wasn't accepted. What isn't there is no matter; what can't be
/// removed is logged and left.
pub fn discard(outputs: &[(PathBuf, PathBuf)]) {
    for (temporary, _) in outputs {
        if let Err(e) = directory::remove(temporary) {
            tracing::warn!("{}: can't remove this temporary output: {e}", temporary.display());
        }
    }
}

/// Whether something of that name is there, a dangling link included.
pub(super) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Brings a file's or directory's bytes to disk. A file that its owner may not read is left to the kernel.
fn sync(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => file.sync_all(),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::GraphId;

    const TASK: TaskId = TaskId { graph: GraphId(7), index: 11 };

    fn pair(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let target = dir.join(name);
        (temporary_path(&target, TASK, 3, 2), target)
    }

    #[test]
    fn a_temporary_is_hidden_beside_its_target_and_names_its_attempt() {
        let path = temporary_path(Path::new("/data/mean.nc"), TASK, 3, 2);
        assert_eq!(path, Path::new("/data/.mean.nc.jobq-3-7.12.2.tmp"));
    }

    #[test]
    fn long_names_still_fit_and_stay_apart() {
        let dir = tempfile::tempdir().unwrap();
        let stem = "x".repeat(250);
        let (a, b) = (pair(dir.path(), &format!("{stem}a.nc")), pair(dir.path(), &format!("{stem}b.nc")));
        assert_ne!(a.0, b.0);
        fs::write(&a.0, "a").unwrap();
        fs::write(&b.0, "b").unwrap();
        commit(&[a.clone(), b.clone()]).unwrap();
        assert_eq!(fs::read(&b.1).unwrap(), b"b");
    }

    #[test]
    fn a_commit_may_be_repeated_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = [pair(dir.path(), "a"), pair(dir.path(), "b")];
        fs::write(&outputs[0].1, "old").unwrap();
        for (temporary, _) in &outputs {
            fs::write(temporary, "new").unwrap();
        }
        commit(&outputs).unwrap();
        commit(&outputs).unwrap();
        assert_eq!(fs::read(&outputs[0].1).unwrap(), b"new");
        assert!(!exists(&outputs[0].0));
    }

    #[test]
    fn an_output_with_neither_file_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = [pair(dir.path(), "a")];
        assert!(matches!(commit(&outputs), Err(CommitError::Lost { .. })));
    }

    #[test]
    fn discarding_removes_files_and_directories_but_never_the_target() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = [pair(dir.path(), "a"), pair(dir.path(), "b"), pair(dir.path(), "never made")];
        fs::write(&outputs[0].0, "x").unwrap();
        fs::write(&outputs[0].1, "kept").unwrap();
        fs::create_dir(&outputs[1].0).unwrap();
        fs::write(outputs[1].0.join("chunk"), "x").unwrap();
        discard(&outputs);
        assert!(!exists(&outputs[0].0) && !exists(&outputs[1].0));
        assert_eq!(fs::read(&outputs[0].1).unwrap(), b"kept");
    }

    #[test]
    fn earlier_attempts_of_this_epoch_are_known_by_their_temporaries() {
        let attempt =
            |attempt| Attempt { task: TASK, name: None, attempt, epoch: 3, ordinal: 12, args: vec![] };
        let target = Path::new("/data/mean.nc");
        assert_eq!(earlier_temporaries(target, &attempt(1)), []);
        let expected = [1, 2].map(|earlier| (temporary_path(target, TASK, 3, earlier), target.to_owned()));
        assert_eq!(earlier_temporaries(target, &attempt(3)), expected);
        assert_eq!(earlier_temporaries(target, &attempt(1000)).len(), MAX_LEFTOVERS as usize);
    }
}
