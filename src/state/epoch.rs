//! Who may act for the cluster: epochs, claimed by `link(2)`.
//!
//! Three kinds of files stand in the cluster's folder. `epoch.<n>` exists once somebody has claimed epoch n; link is
//! atomic on every file system, so that is exactly one process. `fence.<n>` is held open by the holder of epoch n
//! and has one link as long as nobody has claimed a later epoch. `fenced.<n>` is the second link that a later
//! claimant gives it. The holder asks its open fence before each effect; setting its times and then reading its link
//! count are operations that a file server has to execute, where a cached `stat` could be stale.
//!
//! A claimant that dies between claiming epoch n and creating `fence.<n>` does no harm: the next one creates that
//! fence itself, already fallen, and the creation is exclusive.
//!
//! Files of past epochs stay: three inodes a restart, and no stale claimant can find its number free again.

use super::StateError;
use super::files::{create_exclusive, sync_dir};
use nix::errno::Errno;
use nix::sys::stat::{fstat, futimens};
use nix::sys::time::TimeSpec;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Highest epoch: a restart every 10 minutes for a century stays below. A higher number is no work of ours, and
/// felling the fences below it would fill the folder.
pub const MAX_EPOCH: u32 = 5_000_000;

/// A claimed epoch. Dropping it gives up nothing: epochs end when a later one is claimed.
#[derive(Debug)]
pub struct Epoch {
    pub number: u32,
    pub fence: Fence,
}

/// The open fence of an epoch.
#[derive(Debug)]
pub struct Fence {
    epoch: u32,
    path: PathBuf,
    file: File,
}

/// What a look at somebody else's fence shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FenceState {
    /// Nobody has claimed a later epoch.
    Standing,
    /// A later epoch has been claimed.
    Fallen,
    /// No such file: the claimant hasn't come that far, or this isn't the directory.
    Missing,
}

/// The highest epoch that has been claimed in a cluster's folder; `None` if there never was one.
///
/// # Errors
/// The folder can't be listed.
pub fn highest(dir: &Path) -> Result<Option<u32>, StateError> {
    let entries = std::fs::read_dir(dir).map_err(|error| StateError::io("list", dir, error))?;
    let mut highest = None;
    for entry in entries {
        let entry = entry.map_err(|error| StateError::io("list", dir, error))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| number_of(name, "epoch."));
        highest = highest.max(number);
    }
    Ok(highest)
}

/// Claims the epoch after `seen`, which was the highest before its holder was found to be over, and fences all earlier
/// ones: whoever claimed it meanwhile has it. Only after this may the journal of earlier epochs be read. `note` is
/// kept in the epoch's file for people: host, pid, time.
///
/// # Errors
/// [`StateError::LostClaim`] if somebody else claimed it first, [`StateError::Superseded`] if a later epoch was
/// claimed meanwhile, or an IO error; in each case nothing may be done in the cluster's name.
pub fn claim(dir: &Path, seen: Option<u32>, note: &str) -> Result<Epoch, StateError> {
    let number = seen.map_or(1, |seen| seen.saturating_add(1));
    if number > MAX_EPOCH {
        let path = dir.join(format!("epoch.{}", number - 1));
        return Err(StateError::Malformed { path, reason: "no epoch can follow it".to_owned() });
    }
    if !create_exclusive(&dir.join(format!("epoch.{number}")), note.as_bytes())? {
        return Err(StateError::LostClaim { epoch: number });
    }
    let fence = raise_fence(dir, number)?;
    for lower in 1..number {
        fell_fence(dir, lower)?;
    }
    sync_dir(dir)?;
    match highest(dir)? {
        Some(later) if later > number => {
            return Err(StateError::Superseded { mine: number, by: Some(later) });
        }
        _ => fence.check()?,
    }
    Ok(Epoch { number, fence })
}

/// Looks at the fence of an epoch, opening it anew so that no attribute cache answers.
///
/// # Errors
/// It can't be looked at.
pub fn look(dir: &Path, epoch: u32) -> Result<FenceState, StateError> {
    let path = fence_path(dir, epoch);
    let meta = match File::open(&path) {
        Ok(file) => file.metadata().map_err(|error| StateError::io("look at", &path, error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FenceState::Missing),
        Err(error) => return Err(StateError::io("look at", &path, error)),
    };
    Ok(if meta.nlink() == 1 { FenceState::Standing } else { FenceState::Fallen })
}

impl Fence {
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether this process may still act: to be asked after the journal is durable and before an effect leaves.
    /// Blocks for as long as the file system does.
    ///
    /// # Errors
    /// [`StateError::Superseded`] once a later epoch was claimed or the folder is gone; an IO error otherwise, after
    /// which nothing may leave either.
    pub fn check(&self) -> Result<(), StateError> {
        let fallen = || StateError::Superseded { mine: self.epoch, by: None };
        let count = futimens(&self.file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW)
            .and_then(|()| fstat(&self.file))
            .map(|stat| stat.st_nlink);
        match count {
            Ok(1) => Ok(()),
            Ok(_) | Err(Errno::ESTALE | Errno::ENOENT) => Err(fallen()),
            Err(error) => Err(StateError::io("check the fence", &self.path, error.into())),
        }
    }

    /// A second handle on the same fence, for another thread.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> Result<Self, StateError> {
        let file = self.file.try_clone().map_err(|error| StateError::io("open", &self.path, error))?;
        Ok(Self { epoch: self.epoch, path: self.path.clone(), file })
    }
}

/// Creates our fence. If it is there already, a later claimant has put it there, fallen.
fn raise_fence(dir: &Path, epoch: u32) -> Result<Fence, StateError> {
    let path = fence_path(dir, epoch);
    match open_new(&path) {
        Ok(file) => Ok(Fence { epoch, path, file }),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(StateError::Superseded { mine: epoch, by: None })
        }
        Err(error) => Err(StateError::io("create", path, error)),
    }
}

/// Gives the fence of an earlier epoch its second link, creating the fence if its claimant never came to do so.
fn fell_fence(dir: &Path, epoch: u32) -> Result<(), StateError> {
    let (fence, fenced) = (fence_path(dir, epoch), dir.join(format!("fenced.{epoch}")));
    match open_new(&fence) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(StateError::io("create", fence, error));
        }
        _ => {}
    }
    let linked = std::fs::hard_link(&fence, &fenced);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(StateError::link(&fenced, error));
        }
        _ => {}
    }
    match look(dir, epoch)? {
        FenceState::Fallen => Ok(()),
        state => {
            let reason = format!("linked to {}, yet the fence looks {state:?}", fenced.display());
            Err(StateError::Malformed { path: fence, reason })
        }
    }
}

fn open_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn fence_path(dir: &Path, epoch: u32) -> PathBuf {
    dir.join(format!("fence.{epoch}"))
}

/// The number in a name such as `epoch.12`; only the way in which we write it, so `epoch.012` is none.
fn number_of(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    let number: u32 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::{Barrier, Mutex};

    fn claim_next(dir: &Path, note: &str) -> Result<Epoch, StateError> {
        claim(dir, highest(dir)?, note)
    }

    #[test]
    fn each_claim_fells_the_fences_before_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(highest(dir.path()).unwrap(), None);
        let first = claim_next(dir.path(), "login1").unwrap();
        assert_eq!(first.number, 1);
        first.fence.check().unwrap();
        assert_eq!(look(dir.path(), 1).unwrap(), FenceState::Standing);
        assert_eq!(look(dir.path(), 2).unwrap(), FenceState::Missing);

        let second = claim_next(dir.path(), "login2").unwrap();
        assert_eq!(second.number, 2);
        let over = first.fence.check().unwrap_err();
        assert!(over.is_superseded(), "{over}");
        assert!(first.fence.try_clone().unwrap().check().unwrap_err().is_superseded());
        second.fence.check().unwrap();
        assert_eq!(look(dir.path(), 1).unwrap(), FenceState::Fallen);

        drop((first, second));
        assert_eq!(claim_next(dir.path(), "login1").unwrap().number, 3);
        assert_eq!(std::fs::read_to_string(dir.path().join("epoch.2")).unwrap(), "login2");
    }

    #[test]
    fn a_claimant_that_died_before_its_fence_can_never_raise_it_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        assert!(create_exclusive(&dir.path().join("epoch.1"), b"stopped here").unwrap());
        let next = claim_next(dir.path(), "").unwrap();
        assert_eq!(next.number, 2);
        // The stopped claimant wakes up and goes on where it was.
        assert!(raise_fence(dir.path(), 1).unwrap_err().is_superseded());
        next.fence.check().unwrap();
    }

    #[test]
    fn a_stale_listing_claims_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let stale = highest(dir.path()).unwrap();
        let holder = claim_next(dir.path(), "").unwrap();
        let error = claim(dir.path(), stale, "").unwrap_err();
        assert!(matches!(error, StateError::LostClaim { epoch: 1 }), "{error}");
        holder.fence.check().unwrap();
    }

    #[test]
    fn a_fence_falls_with_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("c");
        std::fs::create_dir(&folder).unwrap();
        let epoch = claim_next(&folder, "").unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(epoch.fence.check().unwrap_err().is_superseded());
    }

    #[test]
    fn racing_claimants_get_one_epoch_each_and_only_the_last_stands() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let (start, won) = (Barrier::new(12), Mutex::new(BTreeMap::new()));
            std::thread::scope(|scope| {
                for _ in 0..12 {
                    scope.spawn(|| {
                        start.wait();
                        for _ in 0..3 {
                            match claim_next(dir.path(), "") {
                                Ok(epoch) => {
                                    let before = won.lock().unwrap().insert(epoch.number, epoch.fence);
                                    assert!(before.is_none(), "an epoch had two winners");
                                }
                                Err(error) => assert!(error.is_superseded(), "{error}"),
                            }
                        }
                    });
                }
            });
            let (mut won, highest) = (won.into_inner().unwrap(), highest(dir.path()).unwrap().unwrap());
            // The highest may belong to a claimant that found itself superseded: then nobody stands.
            let last = won.remove(&highest);
            if let Some(fence) = last {
                fence.check().unwrap();
            }
            for fence in won.values() {
                assert!(fence.check().unwrap_err().is_superseded(), "epoch {} still stands", fence.epoch());
            }
        }
    }

    /// Claims from other processes: this test's own program, run again with a variable that makes it a claimant.
    #[test]
    fn racing_processes_get_one_epoch_each() {
        const VARIABLE: &str = "JOBQ_TEST_CLAIM_IN";
        if let Some(dir) = std::env::var_os(VARIABLE) {
            for _ in 0..10 {
                match claim_next(Path::new(&dir), "") {
                    Ok(epoch) => println!("won {}", epoch.number),
                    Err(error) => assert!(error.is_superseded(), "{error}"),
                }
            }
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let children: Vec<_> = (0..4)
            .map(|_| {
                std::process::Command::new(std::env::current_exe().unwrap())
                    .args([
                        "--exact",
                        "state::epoch::tests::racing_processes_get_one_epoch_each",
                        "--nocapture",
                    ])
                    .env(VARIABLE, dir.path())
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let mut won = Vec::new();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            let text = String::from_utf8(output.stdout).unwrap();
            won.extend(
                text.lines().filter_map(|line| Some(line.split_once("won ")?.1.parse::<u32>().unwrap())),
            );
        }
        let claims = won.len();
        won.sort_unstable();
        won.dedup();
        assert_eq!(won.len(), claims, "an epoch had two winners: {won:?}");
        assert!(!won.is_empty());
        for epoch in 1..highest(dir.path()).unwrap().unwrap() {
            assert_eq!(look(dir.path(), epoch).unwrap(), FenceState::Fallen, "epoch {epoch}");
        }
    }

    #[test]
    fn only_names_that_we_write_are_epochs() {
        assert_eq!(number_of("epoch.12", "epoch."), Some(12));
        for name in ["epoch.", "epoch.01", "epoch.+1", "epoch.4294967296", ".epoch.1.tmp", "fence.1"] {
            assert_eq!(number_of(name, "epoch."), None, "{name}");
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(format!("epoch.{}", u32::MAX)), "").unwrap();
        assert!(matches!(claim_next(dir.path(), ""), Err(StateError::Malformed { .. })));
    }
}
