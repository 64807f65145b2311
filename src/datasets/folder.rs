//! A dataset's folder: made beside its place under a hidden name, and given its name when it is whole.

use super::claim::{self, Claim, OWNER, belongs};
use super::share::group_of;
use super::{DatasetError, check_name};
use crate::kernels::directory;
use crate::state::prune;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the chunks of the source files are.
pub const TABLE: &str = "chunks.table";
/// The values themselves.
pub const DATA: &str = "data.zarr";
/// What is left of whoever was killed while publishing goes away after this long.
const STALE_AFTER: Duration = Duration::from_secs(7 * 86_400);

/// A folder that isn't a dataset yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    target: PathBuf,
    name: String,
    overwrite: bool,
    /// For one that others can read.
    shared: Option<Shared>,
    committed: bool,
}

#[derive(Debug)]
struct Shared {
    claim: Claim,
    owner: String,
    /// Of the directory: those whom it is shared with.
    group: u32,
}

impl Draft {
    /// Begins a dataset among the cluster's own, in the directory `home`.
    ///
    /// # Errors
    /// A bad name, one that is taken, or a directory that can't be written to.
    pub fn begin(home: &Path, name: &str, overwrite: bool) -> Result<Draft, DatasetError> {
        check_name(name)?;
        let target = home.join(name);
        if !overwrite && std::fs::symlink_metadata(&target).is_ok() {
            return Err(DatasetError::Exists { name: name.to_owned(), path: target });
        }
        let path = home.join(claim::hidden(name, claim::random(home)?));
        let name = name.to_owned();
        let draft = Draft { path, target, name, overwrite, shared: None, committed: false };
        draft.create()?;
        remove_stale(home, &draft.path);
        Ok(draft)
    }

    /// Begins a dataset of the cluster `owner` in the directory `place`, where others can read it.
    ///
    /// # Errors
    /// A bad name; a directory that can't be written to, or has something of that name that isn't the cluster's.
    pub fn share(
        home: &Path,
        place: &Path,
        name: &str,
        owner: &str,
        overwrite: bool,
    ) -> Result<Draft, DatasetError> {
        check_name(name)?;
        let target = place.join(name);
        check_ours(&target, owner)?;
        let group = group_of(place).map_err(|error| DatasetError::io("look at", place, error))?;
        let claim = Claim::begin(home, name, &target)?;
        let (path, name) = (claim.hidden().to_owned(), name.to_owned());
        let shared = Some(Shared { claim, owner: owner.to_owned(), group });
        let draft = Draft { path, target, name, overwrite, shared, committed: false };
        draft.create()?;
        draft.give_to_group(&draft.path, group, true)?;
        draft.write(OWNER, format!("{owner}\n").as_bytes())?;
        Ok(draft)
    }

    fn create(&self) -> Result<(), DatasetError> {
        let made = DirBuilder::new().mode(0o700).create(&self.path);
        made.map_err(|error| DatasetError::io("create", &self.path, error))?;
        self.set_mode(&self.path, 0o700)
    }

    /// The folder as long as it is a draft.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is to be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Writes a file in it, durably.
    ///
    /// # Errors
    /// The disk is full, or whatever else the system says.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DatasetError> {
        let path = self.path.join(name);
        let mode = if self.shared.is_some() { 0o640 } else { 0o600 };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| {
            file.write_all(bytes)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            file.sync_all()
        });
        written.map_err(|error| DatasetError::io("write", &path, error))
    }

    /// Gives the folder its name, durably; the place.
    ///
    /// # Errors
    /// The name was taken meanwhile, or whatever the system says.
    pub fn commit(mut self) -> Result<PathBuf, DatasetError> {
        if let Some(shared) = &self.shared {
            self.open_to_group(&self.path, shared.group)?;
        }
        sync(&self.path)?;
        match &self.shared {
            None => self.place(self.overwrite)?,
            Some(shared) => self.commit_shared(shared)?,
        }
        self.committed = true;
        Ok(self.target.clone())
    }

    /// The folder comes to its place, and then the cluster's link leads there.
    fn commit_shared(&self, Shared { claim, owner, .. }: &Shared) -> Result<(), DatasetError> {
        if claim.is_linked() {
            if !self.overwrite {
                return Err(self.exists());
            }
            check_ours(&self.target, owner)?;
            self.place(true)?;
            return claim.drop_note();
        }
        // Something of ours that no dataset leads to is left of whoever was killed, or is about to get its link.
        let is_left = std::fs::symlink_metadata(&self.target).is_ok();
        if is_left {
            check_ours(&self.target, owner)?;
            claim.oust_others()?;
            if claim.is_linked() {
                return Err(self.exists());
            }
        }
        self.place(is_left)?;
        if claim.become_link(self.overwrite)? {
            return Ok(());
        }
        // Another one was first. With the claim went the right to the folder.
        if std::fs::symlink_metadata(claim.path()).is_ok() {
            claim.settle(owner)?;
        }
        Err(self.exists())
    }

    fn place(&self, overwrite: bool) -> Result<(), DatasetError> {
        let placed = directory::place(&self.path, &self.target, overwrite);
        placed.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => self.exists(),
            _ => DatasetError::io("create", &self.target, error),
        })?;
        sync(self.target.parent().unwrap_or(Path::new("/")))
    }

    fn exists(&self) -> DatasetError {
        DatasetError::Exists { name: self.name.clone(), path: self.target.clone() }
    }

    /// Everything that others wrote into it, too.
    fn open_to_group(&self, folder: &Path, group: u32) -> Result<(), DatasetError> {
        let list = std::fs::read_dir(folder).map_err(|error| DatasetError::io("list", folder, error))?;
        for entry in list {
            let entry = entry.map_err(|error| DatasetError::io("list", folder, error))?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            self.give_to_group(&entry.path(), group, is_folder)?;
            if is_folder {
                self.open_to_group(&entry.path(), group)?;
            }
        }
        Ok(())
    }

    fn give_to_group(&self, path: &Path, group: u32, is_folder: bool) -> Result<(), DatasetError> {
        // Who isn't of the group can't; that its members can't read it is warned of when it is published.
        let _ = chown(path, None, Some(group));
        // What comes into a folder later is the group's, too.
        self.set_mode(path, if is_folder { 0o2750 } else { 0o640 })
    }

    /// Whatever the umask is.
    fn set_mode(&self, path: &Path, mode: u32) -> Result<(), DatasetError> {
        let set = std::fs::set_permissions(path, Permissions::from_mode(mode));
        set.map_err(|error| DatasetError::io("set the mode of", path, error))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed {
            // What can't be removed now goes when it is stale.
            let removed = directory::remove(&self.path);
            if let (Ok(()), Some(shared)) = (removed, &self.shared) {
                let _ = shared.claim.drop_note();
            }
        }
    }
}

/// What is at the place of a shared folder must be the cluster's own: others' is never replaced.
fn check_ours(target: &Path, owner: &str) -> Result<(), DatasetError> {
    if std::fs::symlink_metadata(target).is_ok() && !belongs(target, owner) {
        let reason =
            "something of that name is there that this cluster has not published: choose another name or \
                      directory"
                .to_owned();
        return Err(DatasetError::Share { path: target.to_owned(), reason });
    }
    Ok(())
}

pub(super) fn sync(folder: &Path) -> Result<(), DatasetError> {
    let synced = File::open(folder).and_then(|dir| dir.sync_all());
    synced.map_err(|error| DatasetError::io("sync", folder, error))
}

/// Removes drafts in `home` that nobody has worked on for long before `fresh` was made: both times are of the file
/// system that they are on, whatever this host's clock says.
fn remove_stale(home: &Path, fresh: &Path) {
    let Ok(now) = std::fs::metadata(fresh).and_then(|meta| meta.modified()) else { return };
    for leaving in prune::older(hidden_in(home), STALE_AFTER, now) {
        let _ = prune::remove(&leaving);
    }
}

/// Hidden folders among a cluster's datasets: of whoever publishes now, and of those who were killed.
pub(super) fn hidden_in(home: &Path) -> Vec<prune::Leaving> {
    let Ok(entries) = std::fs::read_dir(home) else { return Vec::new() };
    let is_hidden = |entry: &std::fs::DirEntry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        is_folder && entry.file_name().to_str().is_some_and(claim::is_hidden)
    };
    entries.flatten().filter(is_hidden).map(|entry| prune::measured(&entry.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(place: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(place).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_dataset_is_there_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let draft = Draft::begin(place.path(), "a", false).unwrap();
        draft.write("x", b"1").unwrap();
        assert!(!place.path().join("a").exists());
        drop(draft);
        assert_eq!(names(place.path()), [""; 0]);

        let draft = Draft::begin(place.path(), "a", false).unwrap();
        draft.write("x", b"1").unwrap();
        let second = Draft::begin(place.path(), "a", false).unwrap();
        draft.commit().unwrap();
        assert!(matches!(second.commit(), Err(DatasetError::Exists { .. })));
        assert!(matches!(Draft::begin(place.path(), "a", false), Err(DatasetError::Exists { .. })));
        let over = Draft::begin(place.path(), "a", true).unwrap();
        over.write("y", b"2").unwrap();
        over.commit().unwrap();
        assert_eq!(
            (names(place.path()), names(&place.path().join("a"))),
            (vec!["a".into()], vec!["y".into()])
        );
    }
}
