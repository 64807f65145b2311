//! The state directory: everything about a cluster that outlives its scheduler. One place writes it.
//!
//! `dir` knows the layout and writes atomically, `identity` holds the cluster's keys, `epoch` decides by `link(2)`
//! who may act, `lease` says whether the holder still breathes, `launch` lets one at a time start a scheduler, `intent`
//! remembers every submit before it is made, `outbox` has what workers leave behind, and `prune` removes what jobs and
//! tasks left that nobody asks for any more. Nothing here locks: file locks fail on NFS and Lustre in ways that can't be
//! seen.

pub mod dir;
pub mod epoch;
pub mod files;
pub mod grant;
pub mod identity;
pub mod intent;
pub mod launch;
pub mod lease;
pub mod outbox;
pub mod prune;

pub use dir::{ClusterFile, Contact, StateDir};
pub use epoch::{Epoch, Fence, FenceState};
pub use grant::Grant;
pub use identity::{ClusterId, Identity, Role};
pub use intent::{Intent, Intents, Outcome};
pub use lease::{Holder, Lease, LeaseWatch, Liveness};

use nix::errno::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// Why the state directory couldn't be used. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("can't {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("can't {action} {}: the file system is read-only; set state_dir to a directory that can be written", path.display())]
    ReadOnly { action: &'static str, path: PathBuf },
    #[error("can't {action} {}: no space or quota left; free some (jq clean), or set state_dir elsewhere", path.display())]
    Full { action: &'static str, path: PathBuf },
    #[error("can't {action} {}: permission denied", path.display())]
    Denied { action: &'static str, path: PathBuf },
    #[error("the file system of {} has no hard links, which decide who may act; set state_dir elsewhere", path.display())]
    NoHardLinks { path: PathBuf },
    #[error("no cluster '{name}' in {}; jq ls lists those there are, jq up starts one", root.display())]
    NoSuchCluster { name: String, root: PathBuf },
    #[error(
        "'{0}' can't name a cluster: use 1 to {max} letters, digits, - _ and ., starting with a letter or a digit",
        max = dir::MAX_NAME_BYTES
    )]
    BadName(String),
    #[error(
        "'{0}' can't name a grant: use 1 to {max} letters, digits, - _ and ., starting with a letter or a digit \
         (`--to NAME`)",
        max = dir::MAX_NAME_BYTES
    )]
    BadGrantName(String),
    #[error(
        "grant '{name}' counts already, and its file is another one: `revoke {name}` ends it, `--to NAME` makes another"
    )]
    GrantExists { name: String },
    #[error("{} isn't a directory", path.display())]
    NotADirectory { path: PathBuf },
    #[error("{} belongs to user {owner}, not to you ({expected}); jobq won't trust what is in it", path.display())]
    WrongOwner { path: PathBuf, owner: u32, expected: u32 },
    #[error(
        "{} has mode {mode:04o}, so others could {danger} it; run: chmod {wanted:04o} {}",
        path.display(),
        path.display()
    )]
    WrongMode { path: PathBuf, mode: u32, wanted: u32, danger: &'static str },
    #[error("{} is damaged or not ours: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error(
        "{} is of format {found}, and this jobq reads up to format {}: use the jobq that wrote it, or a newer one",
        path.display(),
        crate::STATE_FORMAT
    )]
    Newer { path: PathBuf, found: u32 },
    #[error("epoch {mine} is over: {}", by.map_or_else(|| "its fence has fallen".to_owned(), |by| format!("epoch {by} has been claimed")))]
    Superseded { mine: u32, by: Option<u32> },
    #[error("another process claimed epoch {epoch} first; look again whether its lease is alive")]
    LostClaim { epoch: u32 },
    #[error("can't make keys or certificates for {}: {reason}", path.display())]
    Certificate { path: PathBuf, reason: String },
}

impl StateError {
    /// An IO error with what was tried, sorted by what its reader can do about it.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let path = path.as_ref().to_owned();
        match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { action, path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { action, path },
            io::ErrorKind::PermissionDenied => Self::Denied { action, path },
            _ => Self::Io { action, path, source },
        }
    }

    /// What a failed `link` means: file systems without hard links say that it isn't permitted.
    fn link(path: &Path, source: io::Error) -> Self {
        match Errno::from_raw(source.raw_os_error().unwrap_or(0)) {
            Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS => Self::NoHardLinks { path: path.to_owned() },
            _ => Self::io("link", path, source),
        }
    }

    /// Whether rights are missing (exit code 77), rather than the directory being unusable (78).
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::WrongOwner { .. } | Self::WrongMode { .. })
    }

    /// Whether this process has been superseded and must stop having effects.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        matches!(self, Self::Superseded { .. } | Self::LostClaim { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_what_helps() {
        let told = |errno: Errno| StateError::io("write", "/s/c/contact.toml", errno.into());
        assert!(matches!(told(Errno::EROFS), StateError::ReadOnly { .. }));
        assert!(matches!(told(Errno::ENOSPC), StateError::Full { .. }));
        assert!(matches!(told(Errno::EDQUOT), StateError::Full { .. }));
        assert!(matches!(told(Errno::EIO), StateError::Io { .. }));
        assert!(told(Errno::EACCES).is_permission() && !told(Errno::ENOSPC).is_permission());
        for errno in [Errno::EROFS, Errno::ENOSPC, Errno::EIO, Errno::EACCES] {
            let text = told(errno).to_string();
            assert!(text.starts_with("can't write /s/c/contact.toml"), "{text}");
        }
        let link = |errno: Errno| StateError::link(Path::new("/s/c/epoch.1"), errno.into());
        assert!(matches!(link(Errno::EPERM), StateError::NoHardLinks { .. }));
        assert!(matches!(link(Errno::EACCES), StateError::Denied { .. }));
    }

    #[test]
    fn a_file_of_a_newer_format_is_refused_with_both_formats() {
        #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
        struct Word {
            word: String,
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("word.toml");
        dir::write_toml(&path, &Word { word: "x".into() }).unwrap();
        assert_eq!(dir::read_toml::<Word>(&path).unwrap().unwrap().word, "x");
        let newer = u32::from(crate::STATE_FORMAT) + 1;
        std::fs::write(&path, format!("format = {newer}\nwords = []\n")).unwrap();
        let refused = dir::read_toml::<Word>(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("is of format {newer}, and this jobq reads up to")), "{refused}");
        std::fs::write(&path, "word = 'y'").unwrap();
        assert_eq!(
            dir::read_toml::<Word>(&path).unwrap().unwrap().word,
            "y",
            "without one, it is of the first"
        );
    }

    #[test]
    fn what_must_stop_a_scheduler_says_so() {
        let over = StateError::Superseded { mine: 3, by: Some(4) };
        assert!(over.is_superseded());
        assert_eq!(over.to_string(), "epoch 3 is over: epoch 4 has been claimed");
        assert!(!StateError::BadName("x".into()).is_superseded());
    }
}
