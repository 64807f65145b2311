//! The layout of the state directory: one folder a cluster, mode 0700, with fixed names in it.

use super::files::{
    check_private_dir, check_shared_dir, create_private_dir, read_small, sync_dir, write_atomic,
};
use super::identity::{self, ClusterId, Identity, Role};
use super::{StateError, epoch, files};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Longest cluster name: it becomes a directory's name and part of comments.
pub const MAX_NAME_BYTES: usize = 64;

/// Folders that `create` makes at once; all are private.
const FOLDERS: [&str; 6] = ["journal", "outbox", "datasets", "allocations", "intents", "grants"];

/// One cluster's folder in the state directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateDir {
    root: PathBuf,
    path: PathBuf,
    name: String,
}

/// Where the scheduler is (`contact.toml`). Written by the holder of the epoch, read by workers and clients.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Contact {
    /// `host:port` or `[v6]:port`, the likeliest first.
    pub addresses: Vec<String>,
    pub epoch: u32,
    pub cluster_id: ClusterId,
    /// The scheduler's process, with what tells it from a later one of the same number.
    pub pid: u32,
    /// Clock ticks since boot, as the kernel counts them.
    pub start_time: u64,
    pub boot_id: String,
    /// Host name where it runs, for people.
    pub host: String,
    /// Wall-clock seconds since 1970.
    pub started_unix: u64,
    /// Version of the scheduler's program.
    pub version: String,
    /// Absolute path of its log.
    pub log: PathBuf,
    /// Which life of the cluster this is: another one has other graphs under the same numbers.
    #[serde(default)]
    pub life: String,
    /// The batch job in which it runs, and that job's unique name; empty: in none.
    #[serde(default)]
    pub job: String,
    #[serde(default)]
    pub job_name: String,
}

/// What was asked for (`cluster.toml`). The specification is the cluster room's; here it is opaque.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterFile {
    pub name: String,
    pub cluster_id: ClusterId,
    /// Wall-clock seconds since 1970.
    pub created_unix: u64,
    /// Random, made when a cluster comes up with nothing to go on from; restarts keep it.
    #[serde(default)]
    pub life: String,
    #[serde(default)]
    pub spec: toml::Table,
}

impl StateDir {
    /// Opens the folder of an existing cluster.
    ///
    /// # Errors
    /// No such cluster, a bad name, or a folder that isn't ours alone.
    pub fn open(root: &Path, name: &str) -> Result<Self, StateError> {
        let dir = Self::at(root, name)?;
        if !exists(&dir.path)? {
            return Err(StateError::NoSuchCluster { name: name.to_owned(), root: root.to_owned() });
        }
        check_shared_dir(root)?;
        check_private_dir(&dir.path)?;
        Ok(dir)
    }

    /// Opens a cluster's folder, creating it, and its identity, if need be. Many may do so at the same time.
    ///
    /// # Errors
    /// A bad name, a directory that can't be written, or one that isn't ours alone.
    pub fn create(root: &Path, name: &str) -> Result<Self, StateError> {
        let dir = Self::at(root, name)?;
        if !exists(root)? {
            if let Some(parent) = root.parent() {
                std::fs::create_dir_all(parent).map_err(|error| StateError::io("create", parent, error))?;
            }
            create_private_dir(root)?;
        }
        check_shared_dir(root)?;
        create_private_dir(&dir.path)?;
        check_private_dir(&dir.path)?;
        for folder in FOLDERS {
            create_private_dir(&dir.path.join(folder))?;
        }
        if !exists(&dir.identity_dir())? {
            identity::create(&dir.identity_dir(), ClusterId::random()?)?;
        }
        Ok(dir)
    }

    /// The names of all clusters under `root`, sorted; none if `root` isn't there.
    ///
    /// # Errors
    /// `root` can't be read.
    pub fn list(root: &Path) -> Result<Vec<String>, StateError> {
        let entries = match std::fs::read_dir(root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StateError::io("list", root, error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| StateError::io("list", root, error))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_cluster = check_name(&name).is_ok() && entry.path().join("identity").is_dir();
            if is_cluster {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes the cluster's folder and all that is in it. It is renamed first, so that nobody meets half a cluster.
    ///
    /// # Errors
    /// It can't be removed; what is left has a name that `list` doesn't show.
    pub fn remove(self) -> Result<(), StateError> {
        let doomed = self.root.join(format!(".{}.{}.removed", self.name, files::random_suffix()?));
        std::fs::rename(&self.path, &doomed).map_err(|error| StateError::io("remove", &self.path, error))?;
        sync_dir(&self.root)?;
        std::fs::remove_dir_all(&doomed).map_err(|error| StateError::io("remove", &doomed, error))
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of all clusters.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    #[must_use]
    pub fn identity_dir(&self) -> PathBuf {
        self.path.join("identity")
    }

    #[must_use]
    pub fn journal_dir(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Completions that workers couldn't deliver.
    #[must_use]
    pub fn outbox_dir(&self) -> PathBuf {
        self.path.join("outbox")
    }

    #[must_use]
    pub fn datasets_dir(&self) -> PathBuf {
        self.path.join("datasets")
    }

    /// Rendered scripts, job logs and death verdicts.
    #[must_use]
    pub fn allocations_dir(&self) -> PathBuf {
        self.path.join("allocations")
    }

    /// What tasks printed, where it was too much for their results.
    #[must_use]
    pub fn results_dir(&self) -> PathBuf {
        self.path.join("results")
    }

    /// Certificates of granted readers, by the name of the grant.
    #[must_use]
    pub fn grants_dir(&self) -> PathBuf {
        self.path.join("grants")
    }

    #[must_use]
    pub fn intents_dir(&self) -> PathBuf {
        self.path.join("intents")
    }

    /// Log of the scheduler of an epoch.
    #[must_use]
    pub fn scheduler_log(&self, epoch: u32) -> PathBuf {
        self.path.join(format!("scheduler.{epoch}.log"))
    }

    /// The cluster's identity in one role.
    ///
    /// # Errors
    /// As [`identity::load`].
    pub fn identity(&self, role: Role) -> Result<Identity, StateError> {
        identity::load(&self.identity_dir(), role)
    }

    /// # Errors
    /// It can't be written.
    pub fn write_contact(&self, contact: &Contact) -> Result<(), StateError> {
        write_toml(&self.contact_path(), contact)
    }

    /// `None`: no scheduler has ever run, or the last one left cleanly.
    ///
    /// # Errors
    /// It can't be read or understood.
    pub fn read_contact(&self) -> Result<Option<Contact>, StateError> {
        read_toml(&self.contact_path())
    }

    /// The contact file, if it can be a scheduler's of this cluster. One that is garbled, of another cluster, or of an
    /// epoch that nobody has claimed counts as none: a living scheduler puts it right.
    ///
    /// # Errors
    /// It can't be read, or is of a newer format.
    pub fn sound_contact(&self) -> Result<Option<Contact>, StateError> {
        let contact = match self.read_contact() {
            Ok(Some(contact)) => contact,
            Ok(None) | Err(StateError::Malformed { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_ours = contact.cluster_id == identity::cluster_id(&self.identity_dir())?
            && Some(contact.epoch) <= epoch::highest(&self.path)?;
        Ok(is_ours.then_some(contact))
    }

    /// Removes the contact file of an epoch and those before it; fine if it isn't there. A later one's stays.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn remove_contact(&self, epoch: u32) -> Result<(), StateError> {
        if self.sound_contact()?.is_some_and(|contact| contact.epoch > epoch) {
            return Ok(());
        }
        match std::fs::remove_file(self.contact_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StateError::io("remove", self.contact_path(), error))
            }
            _ => sync_dir(&self.path),
        }
    }

    #[must_use]
    pub fn contact_path(&self) -> PathBuf {
        self.path.join("contact.toml")
    }

    #[must_use]
    pub fn cluster_path(&self) -> PathBuf {
        self.path.join("cluster.toml")
    }

    /// # Errors
    /// It can't be written.
    pub fn write_cluster(&self, cluster: &ClusterFile) -> Result<(), StateError> {
        write_toml(&self.cluster_path(), cluster)
    }

    /// # Errors
    /// It can't be read or understood.
    pub fn read_cluster(&self) -> Result<Option<ClusterFile>, StateError> {
        read_toml(&self.cluster_path())
    }

    /// Which life of the cluster this is; empty: nobody knows.
    ///
    /// # Errors
    /// `cluster.toml` can't be read or understood.
    pub fn life(&self) -> Result<String, StateError> {
        Ok(self.read_cluster()?.map_or(String::new(), |file| file.life))
    }

    /// The folder that a cluster of that name has or would have; nothing is looked at.
    ///
    /// # Errors
    /// A bad name.
    pub fn at(root: &Path, name: &str) -> Result<Self, StateError> {
        check_name(name)?;
        Ok(Self { root: root.to_owned(), path: root.join(name), name: name.to_owned() })
    }
}

impl ClusterFile {
    /// Wraps the specification of a cluster that begins a life.
    ///
    /// # Errors
    /// It can't be told in TOML.
    pub fn new<T: Serialize>(
        name: &str,
        cluster_id: ClusterId,
        created_unix: u64,
        spec: &T,
    ) -> Result<Self, StateError> {
        let (name, life) = (name.to_owned(), files::random_suffix()?);
        Self { name, cluster_id, created_unix, life, spec: toml::Table::new() }.with_spec(spec)
    }

    /// The same cluster, asked for differently.
    ///
    /// # Errors
    /// It can't be told in TOML.
    pub fn with_spec<T: Serialize>(self, spec: &T) -> Result<Self, StateError> {
        let spec = toml::Table::try_from(spec)
            .map_err(|error| malformed(Path::new("cluster.toml"), error.to_string()))?;
        Ok(Self { spec, ..self })
    }

    /// The specification as its owner's type.
    ///
    /// # Errors
    /// It isn't of that type.
    pub fn spec_as<T: DeserializeOwned>(&self) -> Result<T, StateError> {
        self.spec
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| malformed(Path::new("cluster.toml"), error.to_string()))
    }
}

/// What every file tells of itself. One that doesn't is of the first format.
#[derive(Deserialize)]
struct Format {
    #[serde(default = "first_format")]
    format: u32,
}

fn first_format() -> u32 {
    1
}

/// Writes a value as TOML, atomically, with the format of the state directory.
///
/// # Errors
/// It can't be told in TOML, or not be written.
pub fn write_toml<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    write_atomic(path, toml_text(path, value)?.as_bytes())
}

/// What [`write_toml`] writes.
pub(super) fn toml_text<T: Serialize>(path: &Path, value: &T) -> Result<String, StateError> {
    let text = toml::to_string(value).map_err(|error| malformed(path, error.to_string()))?;
    Ok(format!("format = {}\n{text}", crate::STATE_FORMAT))
}

/// Reads a value from TOML; `None` if the file isn't there.
///
/// # Errors
/// It can't be read, is of a newer format, or isn't such a value.
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let Some(bytes) = read_small(path)? else { return Ok(None) };
    let text = std::str::from_utf8(&bytes).map_err(|error| malformed(path, error.to_string()))?;
    // Before anything else is made of it: a newer one may look quite different.
    let Format { format } = toml::from_str(text).map_err(|error| malformed(path, error.to_string()))?;
    if format > u32::from(crate::STATE_FORMAT) {
        return Err(StateError::Newer { path: path.to_owned(), found: format });
    }
    toml::from_str(text).map(Some).map_err(|error| malformed(path, error.to_string()))
}

/// Checks that a text can name a cluster.
///
/// # Errors
/// [`StateError::BadName`].
pub fn check_name(name: &str) -> Result<(), StateError> {
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if fits && name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(StateError::BadName(name.to_owned()))
}

fn malformed(path: &Path, reason: String) -> StateError {
    StateError::Malformed { path: path.to_owned(), reason }
}

fn exists(path: &Path) -> Result<bool, StateError> {
    path.try_exists().map_err(|error| StateError::io("look at", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn contact(cluster_id: ClusterId) -> Contact {
        Contact {
            addresses: vec!["10.0.0.7:4021".into(), "[fd00::7]:4021".into()],
            epoch: 3,
            cluster_id,
            pid: 812,
            start_time: 99_120,
            boot_id: "b3b0".into(),
            host: "login2".into(),
            started_unix: 1_790_000_000,
            version: "0.1.0".into(),
            log: "/x/scheduler.3.log".into(),
            life: "0a1b".into(),
            job: "812".into(),
            job_name: "jq3f3f3f7".into(),
        }
    }

    #[test]
    fn a_cluster_is_created_once_and_found_again() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("state/jobq");
        assert!(StateDir::list(&root).unwrap().is_empty());
        assert!(matches!(StateDir::open(&root, "winds"), Err(StateError::NoSuchCluster { .. })));
        let dir = StateDir::create(&root, "winds").unwrap();
        let id = dir.identity(Role::Admin).unwrap().cluster_id();
        let again = StateDir::create(&root, "winds").unwrap();
        assert_eq!(again.identity(Role::Worker).unwrap().cluster_id(), id);
        assert_eq!(StateDir::open(&root, "winds").unwrap(), again);
        StateDir::create(&root, "a.b-2").unwrap();
        assert_eq!(StateDir::list(&root).unwrap(), ["a.b-2", "winds"]);
        for path in [&root, dir.path(), &dir.journal_dir(), &dir.identity_dir(), &dir.intents_dir()] {
            assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o7777, 0o700, "{}", path.display());
        }
        dir.remove().unwrap();
        assert_eq!(StateDir::list(&root).unwrap(), ["a.b-2"]);
    }

    #[test]
    fn many_creators_at_once_agree_on_one_identity() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("jobq");
        let ids: Vec<ClusterId> = std::thread::scope(|scope| {
            let create =
                || StateDir::create(&root, "one").unwrap().identity(Role::Admin).unwrap().cluster_id();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn contact_and_cluster_read_back_as_they_were_written() {
        let home = tempfile::tempdir().unwrap();
        let dir = StateDir::create(home.path(), "c").unwrap();
        let id = dir.identity(Role::Scheduler).unwrap().cluster_id();
        assert_eq!(dir.read_contact().unwrap(), None);
        dir.write_contact(&contact(id)).unwrap();
        assert_eq!(dir.read_contact().unwrap(), Some(contact(id)));
        for n in 0..3 {
            epoch::claim(dir.path(), (n > 0).then_some(n), "").unwrap();
        }
        dir.remove_contact(2).unwrap();
        assert_eq!(dir.sound_contact().unwrap(), Some(contact(id)), "it is a later one's");
        dir.remove_contact(3).unwrap();
        dir.remove_contact(3).unwrap();
        assert_eq!(dir.read_contact().unwrap(), None);

        #[derive(Serialize, Deserialize, PartialEq, Debug)]
        struct Spec {
            workers: u32,
            queue: String,
        }
        let spec = Spec { workers: 8, queue: "spice".into() };
        let file = ClusterFile::new("c", id, 1_790_000_000, &spec).unwrap();
        dir.write_cluster(&file).unwrap();
        let read = dir.read_cluster().unwrap().unwrap();
        assert_eq!(read, file);
        assert_eq!(read.spec_as::<Spec>().unwrap(), spec);
    }

    #[test]
    fn a_damaged_contact_file_is_an_error_that_names_it() {
        let home = tempfile::tempdir().unwrap();
        let dir = StateDir::create(home.path(), "c").unwrap();
        for bytes in [&b"addresses = 3"[..], b"\xff\xfe", b"= ="] {
            std::fs::write(dir.contact_path(), bytes).unwrap();
            let error = dir.read_contact().unwrap_err();
            assert!(error.to_string().contains("contact.toml"), "{error}");
            assert_eq!(dir.sound_contact().unwrap(), None);
        }
        let id = dir.identity(Role::Admin).unwrap().cluster_id();
        dir.write_contact(&contact(id)).unwrap();
        assert_eq!(dir.sound_contact().unwrap(), None, "nobody has claimed its epoch");
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let dir = StateDir::create(home.path(), "c").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(StateDir::open(home.path(), "c").unwrap_err().is_permission());
        assert!(StateDir::create(home.path(), "c").unwrap_err().is_permission());
    }

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "../x", "-x", ".x", "a b", "ä", &"x".repeat(65)] {
            assert!(matches!(check_name(name), Err(StateError::BadName(_))), "{name}");
        }
        for name in ["default", "Winds-2026_11.b", "7"] {
            check_name(name).unwrap();
        }
    }
}
