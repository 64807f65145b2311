//! The datasets of a cluster: each a folder, or a link to one that is shared with others.

use super::folder::{DATA, Draft, TABLE, sync};
use super::{DatasetError, Persist, Recipe, check_name, readme, recipe};
use crate::array::published::{from_table, to_table};
use crate::array::{self, Held, Joined, Published};
use crate::kernels::directory;
use crate::state::StateDir;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// What is to be published.
#[derive(Clone, PartialEq, Debug)]
pub struct Publication {
    pub name: String,
    pub persist: Persist,
    pub statements: Vec<String>,
    pub chunks: Vec<(String, u64)>,
    /// An existing directory for it, where others can read it.
    pub share: Option<PathBuf>,
    pub overwrite: bool,
}

impl Publication {
    pub fn new(name: &str, persist: Persist) -> Publication {
        let (statements, chunks) = (Vec::new(), Vec::new());
        Publication { name: name.to_owned(), persist, statements, chunks, share: None, overwrite: false }
    }

    /// The recipe for these source files.
    pub fn recipe(&self, joined: &Joined) -> Recipe {
        let mut recipe = Recipe::new(&self.name, self.persist, &joined.files);
        recipe.statements = self.statements.clone();
        recipe.chunks = self.chunks.iter().cloned().collect::<BTreeMap<_, _>>();
        recipe.shared = self.share.is_some();
        recipe
    }
}

/// The folder of all datasets of a cluster.
#[derive(Clone, Debug)]
pub struct Registry {
    place: PathBuf,
}

/// A name in the registry, with its dataset or what is wrong with that.
pub type Listed = (String, Result<Stored, DatasetError>);

/// A published dataset.
#[derive(Clone, PartialEq, Debug)]
pub struct Stored {
    pub folder: PathBuf,
    pub recipe: Recipe,
}

impl Registry {
    pub fn of(state: &StateDir) -> Registry {
        Registry { place: state.datasets_dir() }
    }

    /// Names of all datasets, sorted, each with its recipe or with what is wrong with it.
    ///
    /// # Errors
    /// The folder can't be listed.
    pub fn list(&self) -> Result<Vec<Listed>, DatasetError> {
        let entries = match std::fs::read_dir(&self.place) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(DatasetError::io("list", &self.place, error)),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| check_name(name).is_ok()).collect();
        names.sort();
        Ok(names.into_iter().map(|name| (name.clone(), self.open(&name))).collect())
    }

    /// # Errors
    /// A bad name, no such dataset, or one that can't be read.
    pub fn open(&self, name: &str) -> Result<Stored, DatasetError> {
        check_name(name)?;
        let path = self.place.join(name);
        if std::fs::symlink_metadata(&path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Err(DatasetError::NoSuchDataset { name: name.to_owned(), place: self.place.clone() });
        }
        // A link that leads nowhere names the folder that is gone.
        Stored::open(&std::fs::read_link(&path).unwrap_or(path))
    }

    /// Begins the folder of a dataset, in its place.
    ///
    /// # Errors
    /// A bad or taken name; a place that can't be written to, or is no directory.
    pub fn begin(&self, publication: &Publication) -> Result<Draft, DatasetError> {
        let Publication { name, share, overwrite, .. } = publication;
        check_name(name)?;
        let link = self.place.join(name);
        if !overwrite && std::fs::symlink_metadata(&link).is_ok() {
            return Err(DatasetError::Exists { name: name.clone(), path: link });
        }
        match share {
            None => Draft::begin(&self.place, name, false, *overwrite),
            Some(place) => {
                let reason = |reason: String| DatasetError::Share { path: place.clone(), reason };
                let place = std::path::absolute(place).map_err(|error| reason(error.to_string()))?;
                if !place.is_dir() {
                    return Err(reason("no such directory".to_owned()));
                }
                Draft::begin(&place, name, true, *overwrite)
            }
        }
    }

    /// Writes recipe and summary, and gives the folder its name.
    ///
    /// # Errors
    /// Something can't be written: then there is no such dataset.
    pub fn commit(
        &self,
        draft: Draft,
        recipe: &Recipe,
        published: &Published,
    ) -> Result<Stored, DatasetError> {
        draft.write(recipe::FILE, recipe.text().as_bytes())?;
        let mut summary = published.summary()?;
        for file in &mut summary.files {
            // A store in the folder has another path soon.
            if let Ok(own) = Path::new(&*file).strip_prefix(draft.path()) {
                *file = own.display().to_string();
            }
        }
        draft.write(readme::FILE, readme::text(recipe, &summary).as_bytes())?;
        let old = self.linked(&recipe.name);
        let folder = draft.commit()?;
        if recipe.shared {
            self.link(&recipe.name, &folder)?;
        }
        if let Some(old) = old.filter(|old| *old != folder) {
            directory::remove(&old).map_err(|error| DatasetError::io("remove", &old, error))?;
        }
        Ok(Stored { folder, recipe: recipe.clone() })
    }

    /// Publishes where the chunks of these files are.
    ///
    /// # Errors
    /// Files that can't be read or don't fit each other, wrong statements, or a folder that can't be made.
    pub fn publish_lazily(&self, wanted: &Publication, files: &[PathBuf]) -> Result<Stored, DatasetError> {
        let draft = self.begin(wanted)?;
        let (joined, table) = to_table(files)?;
        let recipe = wanted.recipe(&joined);
        draft.write(TABLE, &table)?;
        let published = Published { joined, statements: wanted.statements.clone(), held: Vec::new() };
        self.commit(draft, &recipe, &published)
    }

    /// Replaces the recipe of a dataset.
    ///
    /// # Errors
    /// It can't be written.
    pub fn rewrite(stored: &Stored) -> Result<(), DatasetError> {
        let path = stored.folder.join(recipe::FILE);
        crate::state::files::write_atomic(&path, stored.recipe.text().as_bytes())
            .map_err(|error| DatasetError::io("write", &path, io::Error::other(error.to_string())))
    }

    /// Removes a dataset, shared or not; it needn't be readable.
    ///
    /// # Errors
    /// A bad name, no such dataset, or one that can't be removed.
    pub fn remove(&self, name: &str) -> Result<(), DatasetError> {
        check_name(name)?;
        let path = self.place.join(name);
        let io = |path: &Path, error| DatasetError::io("remove", path, error);
        if std::fs::symlink_metadata(&path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Err(DatasetError::NoSuchDataset { name: name.to_owned(), place: self.place.clone() });
        }
        if let Some(shared) = self.linked(name) {
            directory::remove(&shared).map_err(|error| io(&shared, error))?;
            return std::fs::remove_file(&path).map_err(|error| io(&path, error));
        }
        // Renamed first, so that nobody meets half a dataset.
        let doomed = self.place.join(format!(".{name}.removed.tmp"));
        directory::remove(&doomed).map_err(|error| io(&doomed, error))?;
        std::fs::rename(&path, &doomed).map_err(|error| io(&path, error))?;
        sync(&self.place)?;
        directory::remove(&doomed).map_err(|error| io(&doomed, error))
    }

    /// The shared folder that the name leads to.
    fn linked(&self, name: &str) -> Option<PathBuf> {
        std::fs::read_link(self.place.join(name)).ok()
    }

    fn link(&self, name: &str, folder: &Path) -> Result<(), DatasetError> {
        let (link, temporary) = (self.place.join(name), self.place.join(format!(".{name}.link.tmp")));
        let io = |error| DatasetError::io("create", &link, error);
        directory::remove(&temporary).map_err(io)?;
        std::os::unix::fs::symlink(folder, &temporary).map_err(io)?;
        directory::place(&temporary, &link, true).map_err(io)?;
        sync(&self.place)
    }
}

impl Stored {
    /// The dataset in that folder, wherever it is: a shared one of somebody else, too.
    ///
    /// # Errors
    /// There is none, or it can't be read.
    pub fn open(folder: &Path) -> Result<Stored, DatasetError> {
        Ok(Stored { folder: folder.to_owned(), recipe: Recipe::read(folder)? })
    }

    /// The store with its values, if it has one.
    pub fn data(&self) -> Option<PathBuf> {
        (self.recipe.persist == Persist::Disk).then(|| self.folder.join(DATA))
    }

    /// The dataset, with its statements. No source file is opened for it.
    ///
    /// # Errors
    /// Its table or store can't be read.
    pub fn published(&self) -> Result<Published, DatasetError> {
        if let Some(data) = self.data() {
            return Ok(Published::of(array::open(&[data])?));
        }
        let joined = from_table(&self.folder.join(TABLE))?;
        Ok(Published { joined, statements: self.recipe.statements.clone(), held: Vec::new() })
    }

    /// What workers hold of it, if its graph is the one with that number.
    pub fn held(&self, graph: crate::graph::GraphId) -> Vec<Held> {
        let task = |index: &u32| crate::graph::TaskId { graph, index: *index };
        let results = self.recipe.memory.iter().flat_map(|memory| &memory.results);
        results
            .map(|result| Held {
                name: result.name.clone(),
                tile: result.tile.clone(),
                tasks: result.tasks.iter().map(task).collect(),
                buffer: result.buffer,
            })
            .collect()
    }
}
