//! Grants: files by which others may read a cluster, and the list of those that count.
//!
//! A grant has a certificate of its own. What makes it count is that the same certificate is in the cluster's folder
//! `grants/`; taken away from there, it opens nothing any more. So there is no list of revoked ones that could be lost.
//!
//! The cluster's folder is closed to its bearer. So that he finds a later scheduler, each grant names a file in a place
//! that he can read, to which every scheduler copies where it is. There is no secret in it, and nobody is believed for
//! having written it: who answers at those addresses must prove by its certificate that it is the cluster's.

use super::files::{self, create_private_dir};
use super::identity::{self, ClusterId, Identity, ReaderKeys};
use super::{Contact, StateDir, StateError};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the names of certificates in the folder end in.
const ENDING: &str = ".pem";
/// And those of the files that say where its bearer looks for the scheduler.
const PLACE_ENDING: &str = ".contact";

/// What a grant's file says: where the scheduler is, and by what it knows the bearer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    pub name: String,
    pub cluster: String,
    pub cluster_id: ClusterId,
    /// `host:port` of the scheduler when the grant was written.
    pub addresses: Vec<String>,
    /// The file to which later schedulers copy where they are, an absolute path; empty: none.
    #[serde(default)]
    pub contact: PathBuf,
    authority: String,
    certificate: String,
    key: String,
}

/// Where the scheduler is, for bearers of grants.
#[derive(Serialize, Deserialize)]
struct Whereabouts {
    cluster_id: ClusterId,
    epoch: u32,
    addresses: Vec<String>,
}

/// Where a grant's bearer looks for the scheduler, in the cluster's own folder.
#[derive(Serialize, Deserialize)]
struct Place {
    path: PathBuf,
}

/// Makes a grant of that name, which counts from now on. An older one of the name counts no more. `copy` is the file to
/// which schedulers will copy where they are.
///
/// # Errors
/// A bad name, no scheduler to contact, keys that can't be made, or a folder that can't be written.
pub fn issue(state: &StateDir, name: &str, copy: &Path) -> Result<Grant, StateError> {
    super::dir::check_name(name)?;
    let contact = state.read_contact()?.ok_or_else(|| {
        let missing = io::Error::new(io::ErrorKind::NotFound, "the cluster is not up");
        StateError::io("read", state.contact_path(), missing)
    })?;
    let ReaderKeys { authority, certificate, key } = identity::issue_reader(&state.identity_dir())?;
    create_private_dir(&state.grants_dir())?;
    let place = std::path::absolute(copy).map_err(|error| StateError::io("look at", copy, error))?;
    tell(&place, &contact)?;
    super::dir::write_toml(&place_path(state, name), &Place { path: place.clone() })?;
    let path = state.grants_dir().join(format!("{name}{ENDING}"));
    files::write_atomic(&path, certificate.as_bytes())?;
    Ok(Grant {
        name: name.to_owned(),
        cluster: state.name().to_owned(),
        cluster_id: contact.cluster_id,
        addresses: contact.addresses,
        contact: place,
        authority,
        certificate,
        key,
    })
}

/// Copies where this scheduler is to wherever bearers of grants look for it. Returns what went wrong: that is no reason
/// to stop.
pub fn announce(state: &StateDir, contact: &Contact) -> Vec<StateError> {
    let one = |name: &String| match super::dir::read_toml::<Place>(&place_path(state, name))? {
        Some(place) => tell(&place.path, contact),
        // An older program's.
        None => Ok(()),
    };
    match list(state) {
        Ok(names) => names.iter().filter_map(|name| one(name).err()).collect(),
        Err(error) => vec![error],
    }
}

fn tell(path: &Path, contact: &Contact) -> Result<(), StateError> {
    let there = super::dir::read_toml::<Whereabouts>(path).ok().flatten();
    if there.is_some_and(|there| there.cluster_id == contact.cluster_id && there.epoch > contact.epoch) {
        // A later scheduler's, which this one hasn't heard of yet.
        return Ok(());
    }
    let Contact { cluster_id, epoch, addresses, .. } = contact.clone();
    let text = super::dir::toml_text(path, &Whereabouts { cluster_id, epoch, addresses })?;
    files::write_for_others(path, text.as_bytes())
}

fn place_path(state: &StateDir, name: &str) -> PathBuf {
    state.grants_dir().join(format!("{name}{PLACE_ENDING}"))
}

/// Makes a grant useless. `false`: there is none of that name.
///
/// # Errors
/// A bad name, or a folder that can't be written.
pub fn revoke(state: &StateDir, name: &str) -> Result<bool, StateError> {
    super::dir::check_name(name)?;
    let path = state.grants_dir().join(format!("{name}{ENDING}"));
    let revoked = std::fs::remove_file(&path);
    // The copy itself stays: with it the bearer gets to the scheduler, and is told that the grant is revoked.
    let _ = std::fs::remove_file(place_path(state, name));
    match revoked {
        Ok(()) => files::sync_dir(&state.grants_dir()).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StateError::io("remove", &path, error)),
    }
}

/// The names of all grants that count, sorted.
///
/// # Errors
/// The folder can't be listed.
pub fn list(state: &StateDir) -> Result<Vec<String>, StateError> {
    let folder = state.grants_dir();
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StateError::io("list", &folder, error)),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter_map(|name| name.strip_suffix(ENDING).map(str::to_owned))
        .filter(|name| super::dir::check_name(name).is_ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Whether this certificate (DER) is that of a grant that counts. What can't be read counts for nothing.
pub fn counts(state: &StateDir, certificate: &[u8]) -> bool {
    let is_it = |name: &String| {
        let path = state.grants_dir().join(format!("{name}{ENDING}"));
        let text = files::read_small(&path).ok().flatten();
        let leaf = text.and_then(|text| identity::leaf_of_pem(&path, &text).ok());
        leaf.is_some_and(|leaf| *leaf == *certificate)
    };
    list(state).is_ok_and(|names| names.iter().any(is_it))
}

impl Grant {
    /// Reads a grant's file. Its owner may have given it to a group, but not to everybody.
    ///
    /// # Errors
    /// It can't be read, everybody can read or change it, or it is no grant.
    pub fn read(path: &Path) -> Result<Grant, StateError> {
        let meta = std::fs::metadata(path).map_err(|error| StateError::io("read", path, error))?;
        let mode = meta.mode() & 0o7777;
        if mode & 0o007 != 0 {
            let (path, wanted) = (path.to_owned(), mode & 0o770);
            return Err(StateError::WrongMode { path, mode, wanted, danger: "read or change" });
        }
        let grant: Option<Grant> = super::dir::read_toml(path)?;
        let malformed =
            |reason: &str| StateError::Malformed { path: path.to_owned(), reason: reason.to_owned() };
        grant.ok_or_else(|| malformed("it is gone"))
    }

    /// Writes it for its bearer, mode 0600.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, path: &Path) -> Result<(), StateError> {
        super::dir::write_toml(path, self)
    }

    /// Where the scheduler is: as the last one has told, if that can be read here; else as it was when the grant was
    /// written.
    pub fn whereabouts(&self) -> Vec<String> {
        if self.contact.as_os_str().is_empty() {
            return self.addresses.clone();
        }
        let told = super::dir::read_toml::<Whereabouts>(&self.contact).ok().flatten();
        let ours = told.filter(|told| told.cluster_id == self.cluster_id);
        ours.map_or_else(|| self.addresses.clone(), |told| told.addresses)
    }

    /// By what the scheduler knows its bearer.
    ///
    /// # Errors
    /// The file's certificates or its key are damaged.
    pub fn identity(&self, path: &Path) -> Result<Identity, StateError> {
        let (authority, certificate, key) =
            (self.authority.clone(), self.certificate.clone(), self.key.clone());
        Identity::of_reader(path, self.cluster_id, &ReaderKeys { authority, certificate, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Contact;

    #[test]
    fn a_grant_counts_until_it_is_revoked() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::create(&home.path().join("state"), "default").unwrap();
        let copy = |name: &str| home.path().join(format!("{name}.contact"));
        let issue = |state: &StateDir, name: &str| issue(state, name, &copy(name));
        assert!(matches!(issue(&state, "alice"), Err(StateError::Io { .. })), "there is no contact");
        let contact = Contact {
            addresses: vec!["n1:7".into()],
            epoch: 1,
            cluster_id: state.identity(identity::Role::Admin).unwrap().cluster_id(),
            pid: 1,
            start_time: 1,
            boot_id: String::new(),
            host: "n1".into(),
            started_unix: 0,
            version: String::new(),
            log: "log".into(),
            life: String::new(),
            job: String::new(),
            job_name: String::new(),
        };
        state.write_contact(&contact).unwrap();
        let (alice, bob) = (issue(&state, "alice").unwrap(), issue(&state, "bob").unwrap());
        let path = home.path().join("alice.grant");
        alice.write(&path).unwrap();
        assert_eq!(Grant::read(&path).unwrap(), alice);
        // A scheduler that comes later tells where it is, and an earlier one that is late doesn't.
        let moved =
            |epoch, address: &str| Contact { epoch, addresses: vec![address.into()], ..contact.clone() };
        assert_eq!(alice.whereabouts(), ["n1:7"]);
        for (epoch, address) in [(3, "n3:9"), (2, "n2:8")] {
            assert!(announce(&state, &moved(epoch, address)).is_empty());
            assert_eq!((alice.whereabouts(), bob.whereabouts()), (vec!["n3:9".into()], vec!["n3:9".into()]));
        }
        let stranger = Whereabouts { cluster_id: ClusterId([9; 16]), epoch: 9, addresses: vec![] };
        std::fs::write(copy("bob"), toml::to_string(&stranger).unwrap()).unwrap();
        assert_eq!(bob.whereabouts(), ["n1:7"], "another cluster's is none");
        let leaf = |grant: &Grant| grant.identity(&path).unwrap().leaf().to_vec();
        assert!(counts(&state, &leaf(&alice)) && counts(&state, &leaf(&bob)));
        assert_eq!(list(&state).unwrap(), ["alice", "bob"]);
        let reader = state.identity(identity::Role::ReadOnly).unwrap();
        assert!(!counts(&state, reader.leaf()), "that role alone is no grant");
        assert!(revoke(&state, "alice").unwrap() && !revoke(&state, "alice").unwrap());
        assert!(announce(&state, &moved(4, "n4:1")).is_empty());
        assert_eq!((alice.whereabouts(), bob.whereabouts()), (vec!["n3:9".into()], vec!["n4:1".into()]));
        assert!(!counts(&state, &leaf(&alice)) && counts(&state, &leaf(&bob)));
        let again = issue(&state, "alice").unwrap();
        assert!(!counts(&state, &leaf(&alice)) && counts(&state, &leaf(&again)));
        assert!(issue(&state, "../x").is_err());
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&copy("bob"))), (0o600, 0o644));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Grant::read(&path), Err(StateError::WrongMode { .. })));
    }
}
