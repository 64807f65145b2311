//! `dataset.toml`: what a dataset is made from, and how. With it, what is lost can be made again.

use super::DatasetError;
use crate::kernels::source::{FileStamp, host};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The file's name in the dataset's folder.
pub const FILE: &str = "dataset.toml";
/// Of the form of the file: a later one is refused.
const VERSION: u32 = 1;
/// Longest recipe that is read: one of a million files has 150 MB.
const MAX_BYTES: u64 = 512 << 20;

/// Where a dataset's values are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Persist {
    /// Nowhere but in the source files: only where their chunks are is kept.
    Lazy,
    /// In the memory of workers, each part in that of two.
    Memory,
    /// In a Zarr store in the dataset's folder.
    Disk,
}

impl Persist {
    pub fn as_str(self) -> &'static str {
        match self {
            Persist::Lazy => "lazy",
            Persist::Memory => "memory",
            Persist::Disk => "disk",
        }
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    version: u32,
    pub name: String,
    pub persist: Persist,
    /// Wall-clock seconds since 1970.
    pub created_unix: u64,
    pub created_by: String,
    pub created_on: String,
    /// Version of the program that made it.
    pub jobq: String,
    #[serde(default)]
    pub statements: Vec<String>,
    /// Whether others of the group may read it.
    #[serde(default)]
    pub shared: bool,
    /// Cells of a tile along dimensions.
    #[serde(default)]
    pub chunks: BTreeMap<String, u64>,
    /// Where workers hold it, with `persist = "memory"`.
    pub memory: Option<Memory>,
    /// Source files as they were.
    #[serde(default)]
    pub inputs: Vec<Input>,
}

/// The graph that holds a dataset's values.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The name of the graph's first task, which no other graph has.
    pub key: String,
    #[serde(default)]
    pub results: Vec<Result>,
}

/// A statement's result in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Result {
    pub name: String,
    pub tile: Vec<u64>,
    pub buffer: usize,
    /// Indexes of the tiles' tasks in the graph.
    pub tasks: Vec<u32>,
}

/// A source file when the dataset was published.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub path: String,
    pub size: u64,
    pub modified_ns: i64,
}

impl Recipe {
    /// A recipe that is made now, by whoever runs this.
    pub fn new(name: &str, persist: Persist, files: &[FileStamp]) -> Recipe {
        let uid = nix::unistd::getuid();
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        let input = |stamp: &FileStamp| Input {
            path: stamp.path.clone(),
            size: stamp.size,
            modified_ns: stamp.modified_ns,
        };
        Recipe {
            version: VERSION,
            name: name.to_owned(),
            persist,
            created_unix: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            created_by: user.map_or_else(|| uid.to_string(), |user| user.name),
            created_on: host(),
            jobq: env!("CARGO_PKG_VERSION").to_owned(),
            statements: Vec::new(),
            shared: false,
            chunks: BTreeMap::new(),
            memory: None,
            inputs: files.iter().map(input).collect(),
        }
    }

    /// Reads the recipe of the dataset in that folder.
    ///
    /// # Errors
    /// The file can't be read, is no recipe, or is of a later version.
    pub fn read(folder: &Path) -> std::result::Result<Recipe, DatasetError> {
        Recipe::read_file(&folder.join(FILE))
    }

    pub(super) fn read_file(path: &Path) -> std::result::Result<Recipe, DatasetError> {
        let damaged = |reason: String| DatasetError::Damaged { path: path.to_owned(), reason };
        let io = |error| DatasetError::io("read", path, error);
        if std::fs::metadata(path).map_err(io)?.len() > MAX_BYTES {
            return Err(damaged(format!("it is longer than {MAX_BYTES} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        Recipe::parse(&text).map_err(damaged)
    }

    fn parse(text: &str) -> std::result::Result<Recipe, String> {
        /// Only what tells whether the rest can be understood.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let recipe = toml::from_str::<Recipe>(text);
        match (recipe, toml::from_str::<Version>(text)) {
            (Ok(recipe), _) if recipe.version == VERSION => Ok(recipe),
            (_, Ok(Version { version })) if version != VERSION => {
                Err(format!("version {version} of recipes, this program reads version {VERSION}"))
            }
            (Ok(_), _) => Err("it has no version".to_owned()),
            (Err(error), _) => Err(error.message().to_owned()),
        }
    }

    /// As it stands in the file.
    pub fn text(&self) -> String {
        // Plain data with plain keys.
        toml::to_string(self).expect("a recipe can be told in TOML")
    }

    /// The source files, as plans take them.
    pub fn stamps(&self) -> Vec<FileStamp> {
        let stamp = |input: &Input| FileStamp {
            path: input.path.clone(),
            size: input.size,
            modified_ns: input.modified_ns,
            table: None,
        };
        self.inputs.iter().map(stamp).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_comes_back_and_a_later_version_is_told() {
        let stamp = FileStamp { path: "/data/ä \"x\".nc".into(), size: 7, modified_ns: -3, table: None };
        let mut recipe = Recipe::new("wind", Persist::Memory, &[stamp]);
        recipe.statements = vec!["a = b\n# not a comment".into()];
        recipe.chunks.insert("time".into(), 24);
        let result = Result { name: "a".into(), tile: vec![1, 2], buffer: 0, tasks: vec![0, 5] };
        recipe.memory = Some(Memory { key: "dataset.wind.0f".into(), results: vec![result] });
        assert_eq!(Recipe::parse(&recipe.text()), Ok(recipe.clone()));
        let later = recipe.text().replace("version = 1", "version = 9\nnew_key = 1");
        assert_eq!(Recipe::parse(&later).unwrap_err(), "version 9 of recipes, this program reads version 1");
        assert!(Recipe::parse("nonsense = [").is_err());
        assert!(Recipe::parse(&recipe.text().replace("memory", "x")).is_err());
    }
}
