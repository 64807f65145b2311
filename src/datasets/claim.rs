//! Claims: what a cluster does in a directory that it shares is noted at home first.
//!
//! A shared directory is nobody's alone: others have folders in it, and so have other clusters. So nothing there is
//! looked for. Each shared folder says which cluster it belongs to ([`OWNER`]), and as long as one is being made or
//! removed, a link `.NAME.NUMBER.link.tmp` among the cluster's datasets leads to its place. `.NAME.NUMBER.tmp` beside
//! that place is the folder while it is hidden. Whoever is killed at any step leaves a claim, and by that
//! [`Claim::settle`] removes what is left.

use super::folder::sync;
use super::{DatasetError, check_name};
use crate::kernels::directory;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The file in a shared folder that says which cluster it belongs to.
pub const OWNER: &str = ".jobq-cluster";

/// What the names of claims end in.
const ENDING: &str = ".link.tmp";

/// A place in a shared directory where this cluster makes or removes a dataset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The link among the cluster's datasets that stands for it.
    path: PathBuf,
    name: String,
    target: PathBuf,
    hidden: PathBuf,
}

impl Claim {
    /// Notes in `home`, the folder of the cluster's datasets, that something is done at `target`.
    ///
    /// # Errors
    /// `home` can't be written to.
    pub fn begin(home: &Path, name: &str, target: &Path) -> Result<Claim, DatasetError> {
        let claim = Claim::new(home, name, random(home)?, target.to_owned());
        let made = std::os::unix::fs::symlink(&claim.target, &claim.path);
        made.map_err(|error| DatasetError::io("create", &claim.path, error))?;
        sync(home)?;
        Ok(claim)
    }

    fn new(home: &Path, name: &str, number: u64, target: PathBuf) -> Claim {
        let path = home.join(format!(".{name}.{number:016x}{ENDING}"));
        let hidden = target.with_file_name(hidden(name, number));
        Claim { path, name: name.to_owned(), target, hidden }
    }

    /// All claims in `home`, or those of one name.
    pub fn list(home: &Path, of: Option<&str>) -> Vec<Claim> {
        let Ok(entries) = std::fs::read_dir(home) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let one = |file: String| {
            let (name, number) = parse(&file, ENDING)?;
            let target = std::fs::read_link(home.join(&file)).ok()?;
            Some(Claim::new(home, name, number, target))
        };
        names.filter_map(one).filter(|claim| of.is_none_or(|name| claim.name == name)).collect()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The folder as long as it has no name.
    pub fn hidden(&self) -> &Path {
        &self.hidden
    }

    /// The claim becomes the dataset's link. `false`: somebody else had the name, or took the claim away.
    ///
    /// # Errors
    /// As the system has them.
    pub fn become_link(&self, overwrite: bool) -> Result<bool, DatasetError> {
        match directory::place(&self.path, &self.link(), overwrite) {
            Ok(()) => sync(self.home()).map(|()| true),
            Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => Ok(false),
            Err(error) => Err(DatasetError::io("create", &self.link(), error)),
        }
    }

    /// The dataset's link becomes a claim: the dataset is there no more, and its folder is to go.
    ///
    /// # Errors
    /// As the system has them.
    pub fn of_link(home: &Path, name: &str, target: &Path) -> Result<Claim, DatasetError> {
        let (claim, link) = (Claim::new(home, name, random(home)?, target.to_owned()), home.join(name));
        std::fs::rename(&link, &claim.path).map_err(|error| DatasetError::io("remove", &link, error))?;
        sync(home)?;
        Ok(claim)
    }

    /// Takes the same place away from whoever else claims it: they find their claim gone, and give up.
    ///
    /// # Errors
    /// A claim can't be removed.
    pub fn oust_others(&self) -> Result<(), DatasetError> {
        let same = Claim::list(self.home(), Some(&self.name)).into_iter();
        for other in same.filter(|other| other.target == self.target && other.path != self.path) {
            other.drop_note()?;
        }
        Ok(())
    }

    /// Removes what is left of it: the hidden folder, and the one that no dataset leads to. `owner`: this cluster.
    ///
    /// # Errors
    /// Something can't be removed; then the claim stays.
    pub fn settle(&self, owner: &str) -> Result<(), DatasetError> {
        let io = |path: &Path, error| DatasetError::io("remove", path, error);
        directory::remove(&self.hidden).map_err(|error| io(&self.hidden, error))?;
        if !self.is_linked() && belongs(&self.target, owner) {
            // Renamed first, so that nobody meets half a dataset.
            std::fs::rename(&self.target, &self.hidden).map_err(|error| io(&self.target, error))?;
            sync(self.target.parent().unwrap_or(Path::new("/")))?;
            directory::remove(&self.hidden).map_err(|error| io(&self.hidden, error))?;
        }
        self.drop_note()
    }

    /// Whether the dataset of the name is what is at the place.
    pub fn is_linked(&self) -> bool {
        std::fs::read_link(self.link()).is_ok_and(|target| target == self.target)
    }

    /// The claim is no more; what it stood for stays.
    ///
    /// # Errors
    /// As the system has them.
    pub fn drop_note(&self) -> Result<(), DatasetError> {
        directory::remove(&self.path).map_err(|error| DatasetError::io("remove", &self.path, error))
    }

    fn home(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    fn link(&self) -> PathBuf {
        self.home().join(&self.name)
    }
}

/// Whether the folder was shared by the cluster `owner`.
pub fn belongs(folder: &Path, owner: &str) -> bool {
    let is_folder = std::fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir());
    is_folder && std::fs::read_to_string(folder.join(OWNER)).is_ok_and(|text| text.trim_end() == owner)
}

/// The name of a dataset's folder while it is hidden.
pub fn hidden(name: &str, number: u64) -> String {
    format!(".{name}.{number:016x}.tmp")
}

/// Whether a folder among a cluster's datasets is the hidden one of a dataset. One that a link took the place of has
/// the name of its claim.
pub fn is_hidden(file: &str) -> bool {
    parse(file, ".tmp").or_else(|| parse(file, ENDING)).is_some()
}

fn parse<'a>(file: &'a str, ending: &str) -> Option<(&'a str, u64)> {
    let (name, number) = file.strip_prefix('.')?.strip_suffix(ending)?.rsplit_once('.')?;
    let is_ours = number.len() == 16 && number.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let number = u64::from_str_radix(number, 16).ok().filter(|_| is_ours)?;
    check_name(name).is_ok().then_some((name, number))
}

pub fn random(place: &Path) -> Result<u64, DatasetError> {
    let told = |error: getrandom::Error| std::io::Error::other(error.to_string());
    getrandom::u64().map_err(|error| DatasetError::io("name a draft in", place, told(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        assert!(is_hidden(&hidden("a.b-2", 7)) && is_hidden(".a.00000000000000ff.tmp"));
        for other in
            [".precious.tmp", ".a.tmp", ".a.00000000000000FF.tmp", "a.00000000000000ff.tmp", ".a.ff.tmp"]
        {
            assert!(!is_hidden(other), "{other}");
        }
        assert_eq!(parse(".a.b.000000000000000a.link.tmp", ENDING), Some(("a.b", 10)));
        assert_eq!(parse(&hidden("a", 1), ENDING), None);
    }
}
