//! A private directory for a moment, gone when it is dropped.

use crate::state::{StateError, files};
use std::path::{Path, PathBuf};

pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// A new directory of mode 0700 below `parent`, with a name that no cluster can have.
    ///
    /// # Errors
    /// It can't be created.
    pub(super) fn below(parent: &Path) -> Result<Scratch, StateError> {
        let number = getrandom::u64().map_err(|error| {
            StateError::io(
                "read random bytes for",
                Path::new("a temporary name"),
                std::io::Error::other(error.to_string()),
            )
        })?;
        let path = parent.join(format!(".jobq-check-{number:016x}"));
        files::create_private_dir(&path)?;
        Ok(Scratch(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can't be removed now is named after us, empty or tiny, and private.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
