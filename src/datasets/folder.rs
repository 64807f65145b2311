//! A dataset's folder: made beside its place under a hidden name, and given its name when it is whole.

use super::{DatasetError, check_name};
use crate::kernels::directory;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
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
    shared: bool,
    committed: bool,
}

impl Draft {
    /// Begins a dataset in the directory `place`.
    ///
    /// # Errors
    /// A bad name, one that is taken, or a directory that can't be written to.
    pub fn begin(place: &Path, name: &str, shared: bool, overwrite: bool) -> Result<Draft, DatasetError> {
        check_name(name)?;
        remove_stale(place);
        let target = place.join(name);
        if !overwrite && std::fs::symlink_metadata(&target).is_ok() {
            return Err(DatasetError::Exists { name: name.to_owned(), path: target });
        }
        let random = getrandom::u64().map_err(|error| {
            DatasetError::io("name a draft in", place, std::io::Error::other(error.to_string()))
        })?;
        let path = place.join(format!(".{name}.{random:016x}.tmp"));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| DatasetError::io("create", &path, error))?;
        let name = name.to_owned();
        let draft = Draft { path, target, name, overwrite, shared, committed: false };
        draft.set_mode(&draft.path, if shared { 0o750 } else { 0o700 })?;
        Ok(draft)
    }

    /// The folder as long as it is a draft.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file in it, durably.
    ///
    /// # Errors
    /// The disk is full, or whatever else the system says.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DatasetError> {
        let path = self.path.join(name);
        let mode = if self.shared { 0o640 } else { 0o600 };
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
        if self.shared {
            self.open_to_group(&self.path)?;
        }
        sync(&self.path)?;
        let placed = directory::place(&self.path, &self.target, self.overwrite);
        placed.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                DatasetError::Exists { name: self.name.clone(), path: self.target.clone() }
            }
            _ => DatasetError::io("create", &self.target, error),
        })?;
        self.committed = true;
        sync(self.target.parent().unwrap_or(Path::new("/")))?;
        Ok(self.target.clone())
    }

    /// Everything that others wrote into it, too.
    fn open_to_group(&self, folder: &Path) -> Result<(), DatasetError> {
        let list = std::fs::read_dir(folder).map_err(|error| DatasetError::io("list", folder, error))?;
        for entry in list {
            let entry = entry.map_err(|error| DatasetError::io("list", folder, error))?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            self.set_mode(&entry.path(), if is_folder { 0o750 } else { 0o640 })?;
            if is_folder {
                self.open_to_group(&entry.path())?;
            }
        }
        Ok(())
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
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

pub(super) fn sync(folder: &Path) -> Result<(), DatasetError> {
    let synced = File::open(folder).and_then(|dir| dir.sync_all());
    synced.map_err(|error| DatasetError::io("sync", folder, error))
}

/// Removes drafts that nobody has worked on for long.
fn remove_stale(place: &Path) {
    let Ok(entries) = std::fs::read_dir(place) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_draft = name.to_str().is_some_and(|n| n.starts_with('.') && n.ends_with(".tmp"));
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if is_draft && age.is_some_and(|age| age > STALE_AFTER) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
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
        let draft = Draft::begin(place.path(), "a", false, false).unwrap();
        draft.write("x", b"1").unwrap();
        assert!(!place.path().join("a").exists());
        drop(draft);
        assert_eq!(names(place.path()), [""; 0]);

        let draft = Draft::begin(place.path(), "a", false, false).unwrap();
        draft.write("x", b"1").unwrap();
        let second = Draft::begin(place.path(), "a", false, false).unwrap();
        draft.commit().unwrap();
        assert!(matches!(second.commit(), Err(DatasetError::Exists { .. })));
        assert!(matches!(Draft::begin(place.path(), "a", false, false), Err(DatasetError::Exists { .. })));
        let over = Draft::begin(place.path(), "a", true, true).unwrap();
        over.write("y", b"2").unwrap();
        over.commit().unwrap();
        assert_eq!(
            (names(place.path()), names(&place.path().join("a"))),
            (vec!["a".into()], vec!["y".into()])
        );
        let mode = |path: &str| std::fs::metadata(place.path().join(path)).unwrap().permissions().mode();
        assert_eq!((mode("a") & 0o777, mode("a/y") & 0o777), (0o750, 0o640), "readable by the group");
    }
}
