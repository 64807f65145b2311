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

/// Writes a grant of that name to `file`, for its bearer, mode 0600; it counts from now on. `copy` is the file to which
/// schedulers will copy where they are. If `file` has the grant of the name already, the new one takes its place.
///
/// # Errors
/// A bad name, or that of a grant in another file, which stays as it is; files of something else, which stay too; no
/// scheduler to contact, keys that can't be made, or what can't be written. Then nothing counts that didn't before, and
/// nothing less.
pub fn issue(state: &StateDir, name: &str, copy: &Path, file: &Path) -> Result<Grant, StateError> {
    check_name(name)?;
    check_free(state, name, copy, file)?;
    let contact = state.read_contact()?.ok_or_else(|| {
        let missing = io::Error::new(io::ErrorKind::NotFound, "the cluster is not up");
        StateError::io("read", state.contact_path(), missing)
    })?;
    let ReaderKeys { authority, certificate, key } = identity::issue_reader(&state.identity_dir())?;
    create_private_dir(&state.grants_dir())?;
    let place = std::path::absolute(copy).map_err(|error| StateError::io("look at", copy, error))?;
    tell(&place, &contact)?;
    let grant = Grant {
        name: name.to_owned(),
        cluster: state.name().to_owned(),
        cluster_id: contact.cluster_id,
        addresses: contact.addresses,
        contact: place.clone(),
        authority,
        certificate,
        key,
    };
    super::dir::write_toml(file, &grant)?;
    super::dir::write_toml(&place_path(state, name), &Place { path: place })?;
    // Last: with it the new one counts, and an older one no more.
    files::write_atomic(&path(state, name), grant.certificate.as_bytes())?;
    Ok(grant)
}

/// What is in the way of a new grant: files that aren't ours to replace, and a grant that would be revoked unasked.
fn check_free(state: &StateDir, name: &str, copy: &Path, file: &Path) -> Result<(), StateError> {
    let taken = |path: &Path| StateError::Io {
        action: "write a grant to",
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::AlreadyExists, "it is there, and is something else"),
    };
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    let old: Option<Grant> = super::dir::read_toml(file).ok().flatten();
    if old.is_none() && is_there(file) {
        return Err(taken(file));
    }
    if is_there(copy) && !matches!(super::dir::read_toml::<Whereabouts>(copy), Ok(Some(_))) {
        return Err(taken(copy));
    }
    let issued = files::read_small(&path(state, name))?;
    let is_same = old.as_ref().is_some_and(|old| Some(old.certificate.as_bytes()) == issued.as_deref());
    match (issued, old) {
        (Some(_), _) if !is_same => Err(StateError::GrantExists { name: name.to_owned() }),
        // A file of another grant, which may still count.
        (None, Some(old)) if old.name != name => Err(taken(file)),
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), StateError> {
    super::dir::check_name(name).map_err(|_| StateError::BadGrantName(name.to_owned()))
}

/// Where the certificate is by which the grant counts.
fn path(state: &StateDir, name: &str) -> PathBuf {
    state.grants_dir().join(format!("{name}{ENDING}"))
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
    check_name(name)?;
    let path = path(state, name);
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
        let path = path(state, name);
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

    fn contact(state: &StateDir) -> Contact {
        Contact {
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
        }
    }

    #[test]
    fn a_grant_that_can_not_be_written_revokes_none_and_replaces_no_other_file() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::create(&home.path().join("state"), "default").unwrap();
        state.write_contact(&contact(&state)).unwrap();
        let at = |name: &str| home.path().join(name);
        let alice = issue(&state, "alice", &at("alice.contact"), &at("alice.grant")).unwrap();
        let counted = |grant: &Grant| counts(&state, grant.identity(&at("alice.grant")).unwrap().leaf());
        let refused = |name: &str, contact: &str, file: &str| {
            let error = issue(&state, name, &at(contact), &at(file)).unwrap_err().to_string();
            assert!(counted(&alice) && Grant::read(&at("alice.grant")).unwrap() == alice, "{error}");
            error
        };
        std::fs::write(at("notes.txt"), "precious").unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        for (name, contact, file, words) in [
            ("alice", "alice.contact", "none/alice.grant", "grant 'alice' counts already"),
            ("alice", "sub/alice.contact", "sub/alice.grant", "grant 'alice' counts already"),
            ("bob", "bob.contact", "none/bob.grant", "none"),
            ("bob", "bob.contact", "notes.txt", "notes.txt: it is there, and is something else"),
            ("bob", "notes.txt", "bob.grant", "notes.txt: it is there, and is something else"),
            ("bob", "bob.contact", "alice.grant", "alice.grant: it is there, and is something else"),
            ("b ob", "bob.contact", "bob.grant", "'b ob' can't name a grant"),
        ] {
            let error = refused(name, contact, file);
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(std::fs::read_to_string(at("notes.txt")).unwrap(), "precious");
        assert_eq!(list(&state).unwrap(), ["alice"]);
        // Where it is written again, it is another.
        let again = issue(&state, "alice", &at("alice.contact"), &at("alice.grant")).unwrap();
        assert!(!counted(&alice) && counted(&again));
        // A file whose grant is revoked is only a file.
        assert!(revoke(&state, "alice").unwrap());
        assert!(counted(&issue(&state, "alice", &at("alice.contact"), &at("alice.grant")).unwrap()));
    }

    #[test]
    fn a_grant_counts_until_it_is_revoked() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::create(&home.path().join("state"), "default").unwrap();
        let copy = |name: &str| home.path().join(format!("{name}.contact"));
        let file = |name: &str| home.path().join(format!("{name}.grant"));
        let issue = |state: &StateDir, name: &str| issue(state, name, &copy(name), &file(name));
        assert!(matches!(issue(&state, "alice"), Err(StateError::Io { .. })), "there is no contact");
        let contact = contact(&state);
        state.write_contact(&contact).unwrap();
        let (alice, bob) = (issue(&state, "alice").unwrap(), issue(&state, "bob").unwrap());
        let path = file("alice");
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
