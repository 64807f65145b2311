//! Published datasets: named folders in a cluster's state directory that outlive its scheduler, its workers and the
//! session that made them.
//!
//! | module | what it does |
//! |---|---|
//! | [`recipe`] | `dataset.toml`: what the dataset is made from, and how |
//! | [`folder`] | a dataset's folder, which comes into being whole or not at all |
//! | [`claim`] | what is noted at home of a folder that is made or removed where others are |
//! | [`registry`] | the folders of a cluster: list, open, publish, remove |
//! | [`readme`] | `README.md`: what a person wants to know of it |
//! | [`share`] | whether a group can read the files that a dataset is made from |
//!
//! A folder has `dataset.toml` and `README.md`, and either `chunks.table` (see [`crate::format::table`]: where the
//! bytes are in the source files) or `data.zarr` (the values themselves, readable by any Zarr library).
//!
//! ```no_run
//! use jobq::datasets::{Persist, Publication, Registry};
//! use jobq::state::StateDir;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let state = StateDir::create("/scratch/me/jobq".as_ref(), "default")?;
//! let registry = Registry::of(&state);
//! let mut wind = Publication::new("wind", Persist::Lazy);
//! wind.statements = vec!["speed = wind_speed(x_wind, y_wind)".into()];
//! registry.publish_lazily(&wind, &["/data/wind_000.nc".into(), "/data/wind_001.nc".into()])?;
//!
//! // Later, in another process: no source file is opened for this.
//! let published = registry.open("wind")?.published()?;
//! println!("{}", published.summary()?.text());
//! # Ok(())
//! # }
//! ```

pub mod claim;
pub mod folder;
pub mod readme;
pub mod recipe;
pub mod registry;
pub mod share;

pub use folder::{DATA, Draft, TABLE};
pub use recipe::{Persist, Recipe};
pub use registry::{Publication, Registry, Stored};

use crate::array::ArrayError;
use crate::state::StateError;
use std::io;
use std::path::{Path, PathBuf};

/// Longest name of a dataset: it becomes a folder.
pub const MAX_NAME_BYTES: usize = 64;

/// Why a dataset can't be published, opened or removed. Every message names the dataset or the file.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    #[error(
        "'{0}' can't name a dataset: use 1 to {MAX_NAME_BYTES} letters, digits, - _ and ., starting with a letter \
         or a digit"
    )]
    BadName(String),
    #[error("no dataset '{name}' in {}; `datasets` lists those there are", place.display())]
    NoSuchDataset { name: String, place: PathBuf },
    #[error("the dataset '{name}' exists ({}): pass --overwrite to replace it", path.display())]
    Exists { name: String, path: PathBuf },
    #[error("can't {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is damaged or not ours: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("can't share at {}: {reason}", path.display())]
    Share { path: PathBuf, reason: String },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Array(#[from] ArrayError),
}

impl DatasetError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> DatasetError {
        DatasetError::Io { action, path: path.to_owned(), source }
    }
}

/// Checks that a text can name a dataset: it becomes a folder and part of command lines.
///
/// # Errors
/// [`DatasetError::BadName`].
pub fn check_name(name: &str) -> Result<(), DatasetError> {
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if fits && name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(DatasetError::BadName(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_safe_folder() {
        for good in ["wind", "wind-2026.11_v2", "7", &"a".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".wind", "-x", "a/b", "a b", "ä", "a\n", "a\0", &"a".repeat(65)] {
            assert!(matches!(check_name(bad), Err(DatasetError::BadName(_))), "{bad:?}");
        }
    }
}
