//! Giving a finished directory its name.

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::io;
use std::path::Path;

/// Renames the directory `from` to `to`, which both are in one file system. What has that name already is
/// refused (`AlreadyExists`), or with `overwrite` changes places with `from` in one step and is removed.
///
/// # Errors
/// As the system has them.
pub fn place(from: &Path, to: &Path, overwrite: bool) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => return Ok(()),
        Err(Errno::EEXIST) if overwrite => {}
        Err(Errno::EEXIST) => return Err(io::ErrorKind::AlreadyExists.into()),
        // A file system that can't do it in one step: a rename replaces nothing but an empty directory.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => return place_by_steps(from, to, overwrite),
        Err(error) => return Err(error.into()),
    }
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => remove(from),
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => place_by_steps(from, to, overwrite),
        Err(error) => Err(error.into()),
    }
}

/// Exchanges two files or directories, in one step where the file system can.
///
/// # Errors
/// As the system has them.
pub fn swap(one: &Path, other: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE) {
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {}
        swapped => return Ok(swapped?),
    }
    // A second name for what is there: at no time is there nothing.
    let mut aside = one.as_os_str().to_owned();
    aside.push(".old");
    let aside = Path::new(&aside);
    std::fs::hard_link(other, aside)?;
    std::fs::rename(one, other)?;
    std::fs::rename(aside, one)
}

fn place_by_steps(from: &Path, to: &Path, overwrite: bool) -> io::Result<()> {
    if std::fs::symlink_metadata(to).is_err() {
        return std::fs::rename(from, to);
    }
    if !overwrite {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut aside = from.as_os_str().to_owned();
    aside.push(".old");
    let aside = Path::new(&aside);
    std::fs::rename(to, aside)?;
    if let Err(error) = std::fs::rename(from, to) {
        // What was there before is better than nothing.
        let _ = std::fs::rename(aside, to);
        return Err(error);
    }
    remove(aside)
}

/// Removes a directory with all that is in it, a file or a link. Others may remove it too at the same time, or
/// still write into it.
///
/// # Errors
/// It is there and can't be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    // A writer that is not yet told can undo a round; a few rounds outlast the file it has in hand.
    for _ in 0..8 {
        match remove_once(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
    remove_once(path)
}

fn remove_once(path: &Path) -> io::Result<()> {
    if std::fs::symlink_metadata(path)?.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn several_may_remove_the_same_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let (file, tree) = (folder.path().join("file"), folder.path().join("tree"));
        for _ in 0..200 {
            std::fs::write(&file, "x").unwrap();
            std::fs::create_dir_all(tree.join("a/b")).unwrap();
            std::fs::write(tree.join("a/b/c"), "x").unwrap();
            let start = Barrier::new(3);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        start.wait();
                        remove(&file).unwrap();
                        remove(&tree).unwrap();
                    });
                }
            });
            assert!(!file.exists() && !tree.exists());
        }
        remove(&file).unwrap();
    }
}
