//! Whether others of a group can read the files that a shared dataset is made from.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The group that a directory belongs to: those whom what is shared there is shared with.
///
/// # Errors
/// What `stat` says.
pub fn group_of(place: &Path) -> std::io::Result<u32> {
    Ok(std::fs::metadata(place)?.gid())
}

/// Why members of the group can't read each of these files, one reason a file that they can't. Only the modes are
/// looked at: access lists may allow more.
pub fn unreadable<'a>(files: impl Iterator<Item = &'a Path>, group: u32) -> Vec<String> {
    let mut folders = BTreeMap::new();
    files.filter_map(|file| reason(file, group, &mut folders)).collect()
}

/// The folder, and everything in it. What can't be listed is nothing: the folder itself is told.
pub fn within(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(within(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

fn reason(file: &Path, group: u32, folders: &mut BTreeMap<PathBuf, bool>) -> Option<String> {
    let shown = file.display();
    // What a link leads to counts, and so do the folders on the way there.
    let real = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    for folder in real.ancestors().skip(1) {
        let open = *folders.entry(folder.to_owned()).or_insert_with(|| allows(folder, group, 0o1));
        if !open {
            return Some(format!("{shown}: the group can't enter {}", folder.display()));
        }
    }
    // A store is a directory, which is listed too.
    let wanted = if real.is_dir() { 0o5 } else { 0o4 };
    (!allows(&real, group, wanted)).then(|| format!("{shown}: the group can't read it"))
}

/// Whether a member of the group, who isn't the owner, may do what these bits stand for.
fn allows(path: &Path, group: u32, wanted: u32) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| {
        let bits = if meta.gid() == group { meta.mode() >> 3 } else { meta.mode() };
        bits & wanted == wanted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn each_file_that_the_group_can_not_read_is_told_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let set = |name: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        std::fs::create_dir(dir.path().join("closed")).unwrap();
        for name in ["open.nc", "own.nc", "closed/x.nc"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        set("", 0o750);
        let (open, own, within) = (set("open.nc", 0o640), set("own.nc", 0o604), set("closed/x.nc", 0o644));
        set("closed", 0o700);
        let group = group_of(dir.path()).unwrap();
        let told = unreadable([&open, &own, &within].into_iter().map(PathBuf::as_path), group);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("own.nc: the group can't read it"), "{told:?}");
        assert!(told[1].contains("x.nc: the group can't enter") && told[1].ends_with("closed"), "{told:?}");
    }
}
