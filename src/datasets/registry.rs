//! The datasets of a cluster: each a folder, or a link to one that is shared with others.

use super::claim::{self, Claim, belongs};
use super::folder::{DATA, Draft, TABLE, hidden_in, sync};
use super::{DatasetError, Persist, Recipe, check_name, readme, recipe};
use crate::array::published::{from_table, to_table};
use crate::array::{self, Held, Joined, Published};
use crate::kernels::directory;
use crate::state::prune::{self, Leaving};
use crate::state::{Role, StateDir};
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
    state: StateDir,
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
        Registry { state: state.clone(), place: state.datasets_dir() }
    }

    /// Names of all datasets, sorted, each with its recipe or with what is wrong with it.
    ///
    /// # Errors
    /// The folder can't be listed.
    pub fn list(&self) -> Result<Vec<Listed>, DatasetError> {
        Ok(self.names()?.into_iter().map(|name| (name.clone(), self.open(&name))).collect())
    }

    /// The names alone.
    ///
    /// # Errors
    /// The folder can't be listed.
    pub fn names(&self) -> Result<Vec<String>, DatasetError> {
        let entries = match std::fs::read_dir(&self.place) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(DatasetError::io("list", &self.place, error)),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| check_name(name).is_ok()).collect();
        names.sort();
        Ok(names)
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
            None => Draft::begin(&self.place, name, *overwrite),
            Some(place) => {
                let reason = |reason: String| DatasetError::Share { path: place.clone(), reason };
                let place = std::path::absolute(place).map_err(|error| reason(error.to_string()))?;
                if !place.is_dir() {
                    return Err(reason("no such directory".to_owned()));
                }
                Draft::share(&self.place, &place, name, &self.owner()?, *overwrite)
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
        let folder = self.put(&recipe.name, draft)?;
        Ok(Stored { folder, recipe: recipe.clone() })
    }

    /// Gives a draft its name; what it replaces goes.
    fn put(&self, name: &str, draft: Draft) -> Result<PathBuf, DatasetError> {
        // A shared folder that is left behind goes, whoever is killed meanwhile.
        let old = self.linked(name).filter(|old| old != draft.target());
        let old = old.map(|old| Claim::begin(&self.place, name, &old)).transpose()?;
        match (draft.commit(), old) {
            (Ok(folder), Some(old)) => old.settle(&self.owner()?).map(|()| folder),
            (Ok(folder), None) => Ok(folder),
            (Err(error), old) => {
                old.map_or(Ok(()), |old| old.drop_note())?;
                Err(error)
            }
        }
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

    /// Replaces the recipe of a dataset; the one that was there.
    ///
    /// # Errors
    /// It can't be written.
    pub fn rewrite(stored: &Stored) -> Result<Recipe, DatasetError> {
        let path = stored.folder.join(recipe::FILE);
        let aside = stored.folder.join(claim::hidden("recipe", claim::random(&stored.folder)?));
        crate::state::files::write_atomic(&aside, stored.recipe.text().as_bytes())?;
        let swapped = directory::swap(&aside, &path).map_err(|error| DatasetError::io("write", &path, error));
        let old = swapped.and_then(|()| sync(&stored.folder)).and_then(|()| Recipe::read_file(&aside));
        directory::remove(&aside).map_err(|error| DatasetError::io("remove", &aside, error))?;
        old
    }

    /// Removes a dataset, shared or not; it needn't be readable. Returns the shared folder that stays, because it is
    /// another cluster's.
    ///
    /// # Errors
    /// A bad name, no such dataset, or one that can't be removed.
    pub fn remove(&self, name: &str) -> Result<Option<PathBuf>, DatasetError> {
        check_name(name)?;
        let path = self.place.join(name);
        let io = |path: &Path, error| DatasetError::io("remove", path, error);
        // What earlier ones that were killed have left is part of it.
        let left = Claim::list(&self.place, Some(name));
        let is_missing = std::fs::symlink_metadata(&path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        if is_missing && left.is_empty() {
            return Err(DatasetError::NoSuchDataset { name: name.to_owned(), place: self.place.clone() });
        }
        let mut stays = None;
        if let Some(shared) = self.linked(name) {
            let owner = self.owner()?;
            let claim = Claim::of_link(&self.place, name, &shared)?;
            stays = (shared.exists() && !belongs(&shared, &owner)).then_some(shared);
            claim.settle(&owner)?;
        } else if !is_missing {
            // Renamed first, so that nobody meets half a dataset.
            let doomed = self.place.join(claim::hidden(name, claim::random(&self.place)?));
            std::fs::rename(&path, &doomed).map_err(|error| io(&path, error))?;
            sync(&self.place)?;
            directory::remove(&doomed).map_err(|error| io(&doomed, error))?;
        }
        for claim in left {
            claim.settle(&self.owner()?)?;
        }
        Ok(stays)
    }

    /// Removes all that the cluster has in shared directories: its own folder is to go, and with it what leads there.
    ///
    /// # Errors
    /// Something can't be removed.
    pub fn remove_shared(&self) -> Result<(), DatasetError> {
        for name in self.names()?.iter().filter(|name| self.linked(name).is_some()) {
            self.remove(name)?;
        }
        Claim::list(&self.place, None).iter().try_for_each(|claim| claim.settle(&self.owner()?))
    }

    /// What isn't a dataset: of those who publish or remove one now, and of those who were killed over it.
    pub fn unfinished(&self) -> Vec<Leaving> {
        let claims = Claim::list(&self.place, None).into_iter().map(|claim| {
            let (mut all, there) = (prune::measured(claim.path()), prune::measured(claim.hidden()));
            all.nbytes += there.nbytes;
            all.inodes += there.inodes;
            all.modified = all.modified.max(there.modified);
            all
        });
        claims.chain(hidden_in(&self.place)).collect()
    }

    /// Removes what is unfinished, in shared directories too.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn remove_unfinished(&self, leaving: &Leaving) -> Result<(), DatasetError> {
        let is_it = |claim: &Claim| leaving.paths.iter().any(|path| path == claim.path());
        match Claim::list(&self.place, None).iter().find(|claim| is_it(claim)) {
            Some(claim) => claim.settle(&self.owner()?),
            None => Ok(prune::remove(leaving)?),
        }
    }

    /// This cluster's name for itself in shared folders.
    fn owner(&self) -> Result<String, DatasetError> {
        Ok(self.state.identity(Role::Admin)?.cluster_id().to_string())
    }

    /// The shared folder that the name leads to.
    fn linked(&self, name: &str) -> Option<PathBuf> {
        std::fs::read_link(self.place.join(name)).ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets::claim::OWNER;
    use std::fs;

    struct World {
        home: tempfile::TempDir,
        registry: Registry,
    }

    impl World {
        fn new() -> World {
            let home = tempfile::tempdir().unwrap();
            let state = StateDir::create(&home.path().join("state"), "default").unwrap();
            for place in ["a", "b"] {
                fs::create_dir(home.path().join(place)).unwrap();
            }
            World { registry: Registry::of(&state), home }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.home.path().join(path)
        }

        /// A draft of the dataset `x` in which the file `what` says which it is.
        fn draft(&self, share: Option<&str>, overwrite: bool, what: &str) -> Result<Draft, DatasetError> {
            let share = share.map(|place| self.at(place));
            let wanted = Publication { share, overwrite, ..Publication::new("x", Persist::Lazy) };
            let draft = self.registry.begin(&wanted)?;
            draft.write("what", what.as_bytes())?;
            Ok(draft)
        }

        fn publish(&self, share: Option<&str>, overwrite: bool, what: &str) -> Result<(), DatasetError> {
            self.registry.put("x", self.draft(share, overwrite, what)?).map(drop)
        }

        /// What is where, with hidden files: among the datasets, and in the two shared directories.
        fn seen(&self) -> [Vec<String>; 3] {
            [&self.registry.place, &self.at("a"), &self.at("b")].map(|place| {
                let entries = fs::read_dir(place).unwrap();
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
            })
        }

        fn what(&self) -> String {
            fs::read_to_string(self.registry.place.join("x/what")).unwrap()
        }
    }

    fn seen(datasets: &[&str], a: &[&str], b: &[&str]) -> [Vec<String>; 3] {
        [datasets, a, b].map(|names| names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_dataset_moves_between_shared_directories_and_leaves_none_behind() {
        let world = World::new();
        let places = [Some("a"), Some("a"), Some("b"), None, None, Some("b")];
        for (turn, share) in places.into_iter().enumerate() {
            if turn > 0 {
                let refused = world.publish(share, false, "not this");
                assert!(matches!(refused, Err(DatasetError::Exists { .. })), "{refused:?}");
            }
            world.publish(share, true, &turn.to_string()).unwrap();
            let there = |place: &str| if share == Some(place) { &["x"][..] } else { &[] };
            assert_eq!(
                (world.seen(), world.what()),
                (seen(&["x"], there("a"), there("b")), turn.to_string())
            );
        }
        assert_eq!(world.registry.remove("x").unwrap(), None);
        assert_eq!(world.seen(), seen(&[], &[], &[]));
    }

    #[test]
    fn of_two_that_publish_one_name_at_once_one_is_told_so_and_leaves_nothing() {
        for (first, second) in
            [(Some("a"), Some("b")), (Some("a"), Some("a")), (None, Some("b")), (Some("a"), None)]
        {
            let world = World::new();
            let (one, other) =
                (world.draft(first, false, "1").unwrap(), world.draft(second, false, "2").unwrap());
            world.registry.put("x", one).unwrap();
            assert!(matches!(world.registry.put("x", other), Err(DatasetError::Exists { .. })));
            let there = |place: &str| if first == Some(place) { &["x"][..] } else { &[] };
            assert_eq!((world.seen(), world.what()), (seen(&["x"], there("a"), there("b")), "1".to_owned()));
        }
    }

    #[test]
    fn what_a_killed_one_left_in_a_shared_directory_is_replaced_or_removed() {
        let owner = |world: &World| world.registry.owner().unwrap();
        // Killed before the folder had its name; and after that, before its link.
        for named in [false, true] {
            for publishes in [false, true] {
                let world = World::new();
                std::mem::forget(world.draft(Some("a"), false, "killed").unwrap());
                let claim = Claim::list(&world.registry.place, Some("x")).remove(0);
                if named {
                    fs::rename(claim.hidden(), claim.target()).unwrap();
                }
                assert_eq!(world.registry.list().unwrap().len(), 0);
                if publishes {
                    world.publish(Some("a"), false, "next").unwrap();
                    assert_eq!(world.what(), "next");
                }
                assert_eq!(world.registry.remove("x").unwrap(), None);
                assert_eq!(world.seen(), seen(&[], &[], &[]), "{named} {publishes}");
            }
        }
        // Killed while it removed: before the folder was hidden, and after that.
        for hidden in [false, true] {
            let world = World::new();
            world.publish(Some("a"), false, "doomed").unwrap();
            let claim = Claim::of_link(&world.registry.place, "x", &world.at("a/x")).unwrap();
            if hidden {
                fs::rename(claim.target(), claim.hidden()).unwrap();
                fs::remove_file(claim.hidden().join(OWNER)).unwrap();
            }
            world.publish(Some("b"), false, "next").unwrap();
            assert!(claim.settle(&owner(&world)).is_ok());
            assert_eq!((world.seen(), world.what()), (seen(&["x"], &[], &["x"]), "next".to_owned()));
        }
    }

    #[test]
    fn an_unpublished_one_stays_so_if_its_publisher_was_about_to_link_it() {
        let world = World::new();
        let late = world.draft(Some("a"), false, "late").unwrap();
        assert_eq!(world.registry.remove("x").unwrap(), None);
        assert!(world.registry.put("x", late).is_err());
        assert_eq!(world.seen(), seen(&[], &[], &[]));
    }

    #[test]
    fn whoever_removes_the_cluster_removes_what_it_shares() {
        let world = World::new();
        world.publish(Some("a"), false, "shared").unwrap();
        let wanted = Publication { share: Some(world.at("b")), ..Publication::new("y", Persist::Lazy) };
        std::mem::forget(world.registry.begin(&wanted).unwrap());
        std::mem::forget(world.registry.begin(&Publication::new("z", Persist::Lazy)).unwrap());
        assert_eq!(world.registry.unfinished().len(), 2);
        assert_eq!(world.registry.names().unwrap(), ["x"]);
        for leaving in world.registry.unfinished() {
            world.registry.remove_unfinished(&leaving).unwrap();
        }
        assert_eq!(world.seen(), seen(&["x"], &["x"], &[]));
        std::mem::forget(world.registry.begin(&wanted).unwrap());
        world.registry.remove_shared().unwrap();
        assert_eq!(world.seen(), seen(&[], &[], &[]));
    }

    #[test]
    fn what_is_not_ours_is_never_replaced_nor_removed() {
        let world = World::new();
        let theirs = world.at("a/x");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join(OWNER), "0123\n").unwrap();
        for overwrite in [false, true] {
            let refused = world.publish(Some("a"), overwrite, "no");
            assert!(matches!(refused, Err(DatasetError::Share { .. })), "{refused:?}");
        }
        // It came between a draft's beginning and its end; or where a dataset of ours was.
        let draft = world.draft(Some("b"), true, "no").unwrap();
        fs::rename(&theirs, world.at("b/x")).unwrap();
        assert!(matches!(world.registry.put("x", draft), Err(DatasetError::Share { .. })));
        std::os::unix::fs::symlink(world.at("b/x"), world.registry.place.join("x")).unwrap();
        assert_eq!(world.registry.remove("x").unwrap(), Some(world.at("b/x")));
        assert_eq!(world.seen(), seen(&[], &[], &["x"]));
    }
}
