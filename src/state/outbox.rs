//! What workers leave behind for the next scheduler: one file a worker, written as a whole or not at all.

use super::StateError;
use super::files::{create_private_dir, write_atomic};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest file that is written or read: results of commands are small, or files of their own.
pub const MAX_BYTES: usize = 64 << 20;

/// One file.
#[derive(Debug)]
pub struct Left {
    pub path: PathBuf,
    pub bytes: Result<Vec<u8>, StateError>,
}

/// Writes what a worker of that name leaves behind.
///
/// # Errors
/// It can't be written, or is too long.
pub fn leave(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, StateError> {
    let path = dir.join(name);
    if bytes.len() > MAX_BYTES {
        let reason = format!("{} bytes are more than the {MAX_BYTES} allowed", bytes.len());
        return Err(StateError::Malformed { path, reason });
    }
    create_private_dir(dir)?;
    write_atomic(&path, bytes)?;
    Ok(path)
}

/// Everything that was left behind, by name. What can't be read is told in its place.
///
/// # Errors
/// The directory can't be listed.
pub fn read_all(dir: &Path) -> Result<Vec<Left>, StateError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StateError::io("list", dir, error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| StateError::io("list", dir, error))?;
        // Hidden ones are being written.
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths.into_iter().map(|path| Left { bytes: read(&path), path }).collect())
}

fn read(path: &Path) -> Result<Vec<u8>, StateError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| StateError::io("read", path, error))?;
    file.take(MAX_BYTES as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| StateError::io("read", path, error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_found_and_half_written_files_are_not() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("outbox");
        assert!(read_all(&dir).unwrap().is_empty());
        leave(&dir, "w2-1", b"two").unwrap();
        leave(&dir, "w1-7", b"one").unwrap();
        std::fs::write(dir.join(".w3-1.x.tmp"), b"thr").unwrap();
        std::fs::create_dir(dir.join("w4-1")).unwrap();
        let found = read_all(&dir).unwrap();
        let names: Vec<_> = found.iter().map(|left| left.path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["w1-7", "w2-1", "w4-1"]);
        assert_eq!(found[0].bytes.as_ref().unwrap(), b"one");
        assert!(found[2].bytes.as_ref().unwrap_err().to_string().contains("w4-1"));
        assert!(leave(&dir, "w5-1", &vec![0; MAX_BYTES + 1]).is_err());
    }
}
