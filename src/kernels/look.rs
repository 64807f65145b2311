//! A look at a plan's files from where the work is to be done, before it is.

use super::output::{decoded, gone, io_error, open_temporary};
use super::source::FileStamp;
use super::{Call, KernelError};
use crate::graph::Value;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What a host must see for the plan to be worth starting.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Look {
    /// Some of the inputs: one of each directory.
    pub inputs: Vec<FileStamp>,
    /// The output while it is written. It is there by now.
    pub temporary: PathBuf,
}

/// Fails with what this host doesn't see. The arguments only tell one look from another.
pub(super) fn look(call: &Call<'_>) -> Result<Value, KernelError> {
    let look: Look = decoded(call.params)?;
    for input in &look.inputs {
        input.check()?;
    }
    sees_output(&look.temporary)?;
    Ok(Value::default())
}

/// A file, or a store's directory, that can be written to from here.
fn sees_output(temporary: &Path) -> Result<(), KernelError> {
    if !temporary.is_dir() {
        return open_temporary(temporary).map(drop);
    }
    access(temporary, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|errno| match errno {
        Errno::ENOENT => gone(temporary),
        _ => io_error(&errno.into(), temporary),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_a_file_or_a_directory_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (store, file) = (dir.path().join("a.zarr"), dir.path().join("a.nc"));
        std::fs::create_dir(&store).unwrap();
        std::fs::write(&file, "").unwrap();
        assert!(sees_output(&store).is_ok() && sees_output(&file).is_ok());
        let words = sees_output(&dir.path().join("none/b.nc")).unwrap_err().to_string();
        assert!(words.contains("not visible"), "{words}");
    }
}
