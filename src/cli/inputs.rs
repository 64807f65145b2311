//! Input files of the array verbs, and the exit codes of what is wrong with arrays.

use super::exit::{CliError, Exit};
use crate::array::{ArrayError, inputs};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use std::path::{Path, PathBuf};

/// The files that the words of a command line name, patterns expanded.
pub fn files(words: &[String]) -> Result<Vec<PathBuf>, CliError> {
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
