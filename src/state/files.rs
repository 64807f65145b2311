//! The few ways in which files of the state directory are read and written, so that a crash at any instant leaves
//! either the old content or the new, and never a secret that others can read.

use super::StateError;
use nix::unistd::geteuid;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Mode of every file here: readable by its owner alone.
pub const PRIVATE_FILE: u32 = 0o600;
/// Mode of the few files that are for others, and lie outside.
pub const PUBLIC_FILE: u32 = 0o644;
/// Mode of every directory here.
pub const PRIVATE_DIR: u32 = 0o700;
/// Longest small file that is read into memory: contact, cluster, keys. A real one has a few KiB.
pub const MAX_SMALL_FILE_BYTES: u64 = 4 << 20;
/// Bits with which a directory's mode makes it sticky: others may add entries but not replace ours.
const STICKY: u32 = 0o1000;

/// Replaces `path` by `bytes` for good: temporary file, fsync, rename, fsync of the directory.
///
/// # Errors
/// Whatever step failed; the old content is then untouched and the temporary file gone.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let temporary = write_temporary(path, bytes)?;
    if let Err(error) = std::fs::rename(&temporary, path) {
        let _ = std::fs::remove_file(&temporary);
        return Err(StateError::io("write", path, error));
    }
    sync_parent(path)
}

/// The same for what others may read: mode 0644, whatever the umask.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_for_others(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let temporary = write_temporary(path, bytes)?;
    let opened = std::fs::set_permissions(&temporary, Permissions::from_mode(PUBLIC_FILE));
    if let Err(error) = opened.and_then(|()| std::fs::rename(&temporary, path)) {
        let _ = std::fs::remove_file(&temporary);
        return Err(StateError::io("write", path, error));
    }
    sync_parent(path)
}

/// Creates `path` with `bytes` if nobody else has: a temporary file is linked to it, which exactly one of many
/// racing processes can do. `false`: it was there already.
///
/// NFS may repeat a `link` whose answer was lost and report `EEXIST` for its own success, so the temporary file's
/// link count decides, not the error.
///
/// # Errors
/// Whatever step failed.
pub fn create_exclusive(path: &Path, bytes: &[u8]) -> Result<bool, StateError> {
    let temporary = write_temporary(path, bytes)?;
    let outcome = link_and_look(&temporary, path);
    let _ = std::fs::remove_file(&temporary);
    let created = outcome?;
    if created {
        sync_parent(path)?;
    }
    Ok(created)
}

/// Reads a small file; `None` if it isn't there.
///
/// # Errors
/// It can't be read, or is absurdly large.
pub fn read_small(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StateError::io("read", path, error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_SMALL_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| StateError::io("read", path, error))?;
    if bytes.len() as u64 > MAX_SMALL_FILE_BYTES {
        let reason = format!("it is longer than {MAX_SMALL_FILE_BYTES} bytes");
        return Err(StateError::Malformed { path: path.to_owned(), reason });
    }
    Ok(Some(bytes))
}

/// Creates a directory of mode 0700, whatever the umask. `false`: it was there already.
///
/// # Errors
/// It can't be created.
pub fn create_private_dir(path: &Path) -> Result<bool, StateError> {
    match DirBuilder::new().mode(PRIVATE_DIR).create(path) {
        Ok(()) => {
            // A umask such as 0777 would have taken bits away.
            std::fs::set_permissions(path, Permissions::from_mode(PRIVATE_DIR))
                .map_err(|error| StateError::io("set the mode of", path, error))?;
            sync_parent(path)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(StateError::io("create", path, error)),
    }
}

/// Checks that a directory is ours and closed to others.
///
/// # Errors
/// It is missing, no directory, another user's, or open to group or others.
pub fn check_private_dir(path: &Path) -> Result<(), StateError> {
    let meta = std::fs::metadata(path).map_err(|error| StateError::io("look at", path, error))?;
    if !meta.is_dir() {
        return Err(StateError::NotADirectory { path: path.to_owned() });
    }
    check_owner(path, meta.uid(), false)?;
    check_mode(path, meta.mode(), 0o077, PRIVATE_DIR, "read or change")
}

/// Checks that others can't replace what is in a directory that we share with them: the root of all clusters.
///
/// # Errors
/// It is missing, no directory, another user's (root's is fine), or writable by others without the sticky bit.
pub fn check_shared_dir(path: &Path) -> Result<(), StateError> {
    let meta = std::fs::metadata(path).map_err(|error| StateError::io("look at", path, error))?;
    if !meta.is_dir() {
        return Err(StateError::NotADirectory { path: path.to_owned() });
    }
    check_owner(path, meta.uid(), true)?;
    if meta.mode() & STICKY != 0 {
        return Ok(());
    }
    check_mode(path, meta.mode(), 0o022, meta.mode() & 0o7755, "replace what is in")
}

/// Checks that an open file is ours and readable by nobody else. On the open file, so that it can't be swapped
/// between the check and the reading.
///
/// # Errors
/// It is another user's, or open to group or others.
pub fn check_private_file(path: &Path, file: &File) -> Result<(), StateError> {
    let meta = file.metadata().map_err(|error| StateError::io("look at", path, error))?;
    check_owner(path, meta.uid(), false)?;
    check_mode(path, meta.mode(), 0o077, PRIVATE_FILE, "read or change")
}

/// Links `from` to the new name `to`. Decided by the link count of `from`, which must have been 1.
pub(super) fn link_and_look(from: &Path, to: &Path) -> Result<bool, StateError> {
    let linked = std::fs::hard_link(from, to);
    let count = std::fs::metadata(from).map_err(|error| StateError::io("look at", from, error))?.nlink();
    match linked {
        _ if count == 2 => Ok(true),
        Ok(()) => {
            let reason = format!("linked it to {}, but its link count is {count}, not 2", to.display());
            Err(StateError::Malformed { path: from.to_owned(), reason })
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(StateError::link(to, error)),
    }
}

/// Makes a directory's entries durable.
pub(super) fn sync_dir(path: &Path) -> Result<(), StateError> {
    let result = File::open(path).and_then(|dir| dir.sync_all());
    result.map_err(|error| StateError::io("sync", path, error))
}

/// A text of 12 random characters for temporary names.
pub(super) fn random_suffix() -> Result<String, StateError> {
    let number = getrandom::u64().map_err(|error| {
        StateError::io(
            "read random bytes for",
            Path::new("a temporary name"),
            io::Error::other(error.to_string()),
        )
    })?;
    Ok(format!("{:012x}", number & 0xffff_ffff_ffff))
}

fn sync_parent(path: &Path) -> Result<(), StateError> {
    sync_dir(parent_of(path))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Writes and syncs a new private file beside `path`, under a hidden name that no reader looks at.
fn write_temporary(path: &Path, bytes: &[u8]) -> Result<PathBuf, StateError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent_of(path).join(format!(".{name}.{}.tmp", random_suffix()?));
    let written =
        OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(&temporary).and_then(
            |mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            },
        );
    written.map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        StateError::io("write", path, error)
    })?;
    Ok(temporary)
}

fn check_owner(path: &Path, owner: u32, root_too: bool) -> Result<(), StateError> {
    let expected = geteuid().as_raw();
    if owner == expected || (root_too && owner == 0) {
        return Ok(());
    }
    Err(StateError::WrongOwner { path: path.to_owned(), owner, expected })
}

fn check_mode(
    path: &Path,
    mode: u32,
    forbidden: u32,
    wanted: u32,
    danger: &'static str,
) -> Result<(), StateError> {
    if mode & forbidden == 0 {
        return Ok(());
    }
    Err(StateError::WrongMode { path: path.to_owned(), mode: mode & 0o7777, wanted, danger })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contact.toml");
        write_atomic(&path, b"first, which is longer").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(read_small(&path).unwrap().unwrap(), b"second");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, PRIVATE_FILE);
        assert_eq!(names(dir.path()), ["contact.toml"]);
    }

    #[test]
    fn a_failed_write_keeps_the_target_and_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contact.toml");
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(write_atomic(&path, b"x"), Err(StateError::Io { .. })));
        assert_eq!(names(dir.path()), ["contact.toml"]);
        assert!(matches!(write_atomic(&dir.path().join("none/x"), b"x"), Err(StateError::Io { .. })));
    }

    #[test]
    fn of_many_racing_creators_one_wins_and_its_content_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("launch.1");
        let (start, wins) = (Barrier::new(16), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for n in 0..16 {
                let (path, start, wins) = (&path, &start, &wins);
                scope.spawn(move || {
                    start.wait();
                    if create_exclusive(path, format!("{n}").as_bytes()).unwrap() {
                        wins.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(read_small(path).unwrap().unwrap(), format!("{n}").as_bytes());
                    }
                });
            }
        });
        assert_eq!(wins.into_inner(), 1);
        assert_eq!(names(dir.path()), ["launch.1"]);
    }

    #[test]
    fn directories_open_to_others_are_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        assert!(create_private_dir(&path).unwrap());
        assert!(!create_private_dir(&path).unwrap());
        check_private_dir(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        let error = check_private_dir(&path).unwrap_err();
        assert!(error.is_permission());
        assert!(error.to_string().contains("chmod 0700"), "{error}");
        check_shared_dir(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o770)).unwrap();
        assert!(check_shared_dir(&path).is_err());
        std::fs::set_permissions(&path, Permissions::from_mode(0o1777)).unwrap();
        check_shared_dir(&path).unwrap();
    }

    #[test]
    fn an_absurdly_large_file_is_refused_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contact.toml");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(read_small(&path), Err(StateError::Malformed { .. })));
        assert!(read_small(&dir.path().join("none")).unwrap().is_none());
    }
}
