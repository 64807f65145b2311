//! Grants: files by which others may read a cluster, and the list of those that count.
//!
//! A grant has a certificate of its own. What makes it count is that the same certificate is in the cluster's folder
//! `grants/`; taken away from there, it opens nothing any more. So there is no list of revoked ones that could be lost.

use super::files::{self, create_private_dir};
use super::identity::{self, ClusterId, Identity, ReaderKeys};
use super::{StateDir, StateError};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What the names of certificates in the folder end in.
const ENDING: &str = ".pem";

/// What a grant's file says: where the scheduler is, and by what it knows the bearer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    pub name: String,
    pub cluster: String,
    pub cluster_id: ClusterId,
    /// `host:port` of the scheduler when the grant was written.
    pub addresses: Vec<String>,
    authority: String,
    certificate: String,
    key: String,
}

/// Makes a grant of that name, which counts from now on. An older one of the name counts no more.
///
/// # Errors
/// A bad name, no scheduler to contact, keys that can't be made, or a folder that can't be written.
pub fn issue(state: &StateDir, name: &str) -> Result<Grant, StateError> {
    super::dir::check_name(name)?;
    let contact = state.read_contact()?.ok_or_else(|| {
        let missing = io::Error::new(io::ErrorKind::NotFound, "the cluster is not up");
        StateError::io("read", state.contact_path(), missing)
    })?;
    let ReaderKeys { authority, certificate, key } = identity::issue_reader(&state.identity_dir())?;
    create_private_dir(&state.grants_dir())?;
    let path = state.grants_dir().join(format!("{name}{ENDING}"));
    files::write_atomic(&path, certificate.as_bytes())?;
    Ok(Grant {
        name: name.to_owned(),
        cluster: state.name().to_owned(),
        cluster_id: contact.cluster_id,
        addresses: contact.addresses,
        authority,
        certificate,
        key,
    })
}

/// Makes a grant useless. `false`: there is none of that name.
///
/// # Errors
/// A bad name, or a folder that can't be written.
pub fn revoke(state: &StateDir, name: &str) -> Result<bool, StateError> {
    super::dir::check_name(name)?;
    let path = state.grants_dir().join(format!("{name}{ENDING}"));
    match std::fs::remove_file(&path) {
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
        let leaf = |grant: &Grant| grant.identity(&path).unwrap().leaf().to_vec();
        assert!(counts(&state, &leaf(&alice)) && counts(&state, &leaf(&bob)));
        assert_eq!(list(&state).unwrap(), ["alice", "bob"]);
        let reader = state.identity(identity::Role::ReadOnly).unwrap();
        assert!(!counts(&state, reader.leaf()), "that role alone is no grant");
        assert!(revoke(&state, "alice").unwrap() && !revoke(&state, "alice").unwrap());
        assert!(!counts(&state, &leaf(&alice)) && counts(&state, &leaf(&bob)));
        let again = issue(&state, "alice").unwrap();
        assert!(!counts(&state, &leaf(&alice)) && counts(&state, &leaf(&again)));
        assert!(issue(&state, "../x").is_err());
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Grant::read(&path), Err(StateError::WrongMode { .. })));
    }
}
