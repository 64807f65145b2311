//! Inputs of the array verbs: files and published datasets; and the exit codes of what is wrong with them.

use super::Context;
use super::connect::state_dir;
use super::exit::{CliError, Exit};
use super::granted;
use crate::array::{self, ArrayError, Published, inputs};
use crate::datasets::{DatasetError, Registry, Stored};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use std::path::{Path, PathBuf};

/// Before the name of a dataset, or the path of the folder of somebody else's.
pub const DATASET: &str = "dataset:";

/// What the words after `--in` name.
pub enum Inputs {
    /// Files, and stores of datasets that are persisted to disk.
    Files(Vec<PathBuf>),
    /// A dataset that is kept as where its chunks are, or by workers.
    Dataset(Box<(Stored, Published)>),
}

impl Inputs {
    /// Finds what the words name; patterns are expanded.
    pub fn find(words: &[String], context: &Context) -> Result<Inputs, CliError> {
        let mut plain = Vec::new();
        for word in words {
            let Some(name) = word.strip_prefix(DATASET) else {
                plain.push(word.clone());
                continue;
            };
            let stored = dataset(name, context)?;
            match stored.data() {
                Some(data) => plain.push(data.display().to_string()),
                None if words.len() == 1 => {
                    let published = stored.published()?;
                    return Ok(Inputs::Dataset(Box::new((stored, published))));
                }
                None => {
                    let kind = stored.recipe.persist.as_str();
                    let message = format!("{word} is kept {kind}: it can't be joined with other inputs");
                    return Err(CliError::usage(message).hint("publish what is joined as one dataset"));
                }
            }
        }
        Ok(Inputs::Files(files(&plain)?))
    }

    /// The files by name, for what is said of errors.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Inputs::Files(files) => files.clone(),
            Inputs::Dataset(dataset) => {
                dataset.1.joined.files.iter().map(|stamp| PathBuf::from(&stamp.path)).collect()
            }
        }
    }

    /// Opened: from metadata alone.
    pub fn open(&self) -> Result<Published, CliError> {
        match self {
            Inputs::Files(files) => {
                let joined = array::open(files).map_err(|error| array_error(error, files))?;
                Ok(Published::of(joined))
            }
            Inputs::Dataset(dataset) => Ok(dataset.1.clone()),
        }
    }
}

/// The published dataset of that name, or in the folder of that path.
pub fn dataset(name: &str, context: &Context) -> Result<Stored, CliError> {
    if name.contains('/') {
        return Ok(Stored::open(Path::new(name))?);
    }
    if context.grant.is_some() {
        return granted::dataset(name, context);
    }
    Ok(Registry::of(&state_dir(context)?).open(name)?)
}

impl From<DatasetError> for CliError {
    fn from(error: DatasetError) -> CliError {
        let exit = match &error {
            DatasetError::BadName(_) => Exit::Usage,
            DatasetError::Array(ArrayError::Expression(_) | ArrayError::Usage(_)) => Exit::Usage,
            DatasetError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Exit::Permission
            }
            _ => Exit::Config,
        };
        CliError::new(exit, error.to_string())
    }
}

/// The files that the words of a command line name, patterns expanded.
fn files(words: &[String]) -> Result<Vec<PathBuf>, CliError> {
    let named: Vec<&Path> = words.iter().map(Path::new).collect();
    inputs::expand(words).map_err(|error| array_error(error, &named))
}

/// The error of a request that reads these files: 2 for what was typed wrong, 77 for a file that may not be read,
/// 78 for any other file that can't be used.
pub fn array_error<P: AsRef<Path>>(error: ArrayError, inputs: &[P]) -> CliError {
    let exit = match &error {
        ArrayError::Expression(_) | ArrayError::Usage(_) => Exit::Usage,
        ArrayError::Input(_) if inputs.iter().any(|path| is_denied(path.as_ref(), AccessFlags::R_OK)) => {
            Exit::Permission
        }
        ArrayError::Input(_) | ArrayError::Output(_) => Exit::Config,
    };
    CliError::new(exit, error.to_string())
}

/// Refuses a folder that no file can be made in.
pub fn check_writable(folder: &Path) -> Result<(), CliError> {
    let Err(error) = access(folder, AccessFlags::W_OK | AccessFlags::X_OK) else { return Ok(()) };
    let exit = if is_denial(error) { Exit::Permission } else { Exit::Config };
    Err(CliError::new(exit, format!("{}: can't be written to: {}", folder.display(), error.desc())))
}

fn is_denied(path: &Path, access_wanted: AccessFlags) -> bool {
    access(path, access_wanted).is_err_and(is_denial)
}

fn is_denial(error: Errno) -> bool {
    matches!(error, Errno::EACCES | Errno::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_and_files_have_their_own_exit_codes() {
        let exit = |error| array_error(error, &["no such file"]).exit;
        assert_eq!(exit(ArrayError::Usage("x".to_owned())), Exit::Usage);
        assert_eq!(exit(ArrayError::Input("x".to_owned())), Exit::Config);
        assert_eq!(exit(ArrayError::Output("x".to_owned())), Exit::Config);
        assert_eq!(files(&["no such file".to_owned()]).unwrap_err().exit, Exit::Config);
    }

    #[test]
    fn a_folder_that_is_not_there_can_not_be_written_to() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_writable(dir.path()).is_ok());
        assert_eq!(check_writable(&dir.path().join("none")).unwrap_err().exit, Exit::Config);
    }
}
