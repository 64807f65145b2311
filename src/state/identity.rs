//! The cluster's own certificate authority, and one leaf a role.
//!
//! A peer's role is a DNS name in its leaf, `<role>.<cluster id>.jobq.internal`, so that the TLS library itself
//! compares it: a client that expects the scheduler of this cluster asks for that very name, and a server tries the
//! four names on its peer. No certificate of another cluster has any of them, and none is signed by our authority.
//! Leaves belong to the cluster and not to an epoch: any scheduler of the cluster uses the same one.

use super::StateError;
use super::files::{self, check_private_dir, check_private_file, create_private_dir, sync_dir};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The authority outlives every cluster that one would keep.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Leaves last a year; `renew` makes new ones.
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// Leaves this old are renewed by whoever loads them with the authority's key at hand: early enough that none ever expires
/// in use.
const RENEW_AFTER: Duration = Duration::from_secs(150 * 86_400);
/// Clocks of login and compute nodes differ; a certificate that is a day old suits all of them.
const BACKDATE: Duration = Duration::from_secs(86_400);
/// What all names of a cluster end in. `internal` is reserved for private use, so no public name can match.
const DOMAIN: &str = "jobq.internal";

/// What a peer may do, as its certificate says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The owner's clients: everything.
    Admin,
    /// Registers, runs tasks, serves values to its peers.
    Worker,
    /// Accepts all others.
    Scheduler,
    /// Granted readers: status and published datasets.
    ReadOnly,
}

/// 128 random bits that tell one cluster from every other, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub [u8; 16]);

/// A role's certificate and key, and the authority that all peers must show.
pub struct Identity {
    cluster_id: ClusterId,
    role: Role,
    ca: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// Makes a new authority and a leaf for each role in the new directory `dir`. If several do so at once, one
/// identity results, and all may load it.
///
/// # Errors
/// Keys can't be made, or files not be written.
pub fn create(dir: &Path, cluster_id: ClusterId) -> Result<(), StateError> {
    let staging = sibling(dir)?;
    create_private_dir(&staging)?;
    let outcome = write_identity(&staging, cluster_id).and_then(|()| {
        match std::fs::rename(&staging, dir) {
            Ok(()) => sync_dir(dir.parent().unwrap_or(Path::new("."))),
            // Somebody else's complete identity is there: theirs counts.
            Err(error) if is_taken(&error) => Ok(()),
            Err(error) => Err(StateError::io("create", dir, error)),
        }
    });
    let _ = std::fs::remove_dir_all(&staging);
    outcome
}

/// Loads the certificate and key of one role.
///
/// # Errors
/// A file is missing, damaged, another user's, or open to others.
pub fn load(dir: &Path, role: Role) -> Result<Identity, StateError> {
    check_private_dir(dir)?;
    let cluster_id = cluster_id(dir)?;
    let ca = certificate(&dir.join("ca.pem"))?;
    let leaf = certificate(&dir.join(format!("{role}.pem")))?;
    let key_path = dir.join(format!("{role}.key"));
    let key = PrivateKeyDer::from_pem_slice(&read_private(&key_path)?)
        .map_err(|error| damaged(&key_path, &error.to_string()))?;
    Ok(Identity { cluster_id, role, ca, leaf, key })
}

/// Renews the leaves if they are old, as their files' times say; whether it did. Many may do so at the same time: the keys
/// stay.
///
/// # Errors
/// As [`renew`].
pub fn renew_if_due(dir: &Path) -> Result<bool, StateError> {
    let path = dir.join(format!("{}.pem", Role::Scheduler));
    let written = std::fs::metadata(&path).and_then(|meta| meta.modified());
    let written = written.map_err(|error| StateError::io("look at", &path, error))?;
    // A time in the future is a clock that was set back: no reason to renew.
    let age = SystemTime::now().duration_since(written).unwrap_or_default();
    if age >= RENEW_AFTER {
        renew(dir)?;
    }
    Ok(age >= RENEW_AFTER)
}

/// Makes new leaves for all roles with the same authority; peers with old ones are still accepted.
///
/// # Errors
/// The authority's key is missing, or files can't be written.
pub fn renew(dir: &Path) -> Result<(), StateError> {
    check_private_dir(dir)?;
    let cluster_id = cluster_id(dir)?;
    write_leaves(dir, cluster_id, &issuer(dir, cluster_id)?)
}

fn issuer(dir: &Path, cluster_id: ClusterId) -> Result<Issuer<'static, KeyPair>, StateError> {
    let key_path = dir.join("ca.key");
    let text = String::from_utf8(read_private(&key_path)?).map_err(|e| damaged(&key_path, &e.to_string()))?;
    let key = KeyPair::from_pem(&text).map_err(|error| damaged(&key_path, &error.to_string()))?;
    Ok(Issuer::new(ca_params(cluster_id), key))
}

/// A certificate and key for a granted reader, with the authority's certificate: all three as PEM.
pub struct ReaderKeys {
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

/// Makes a certificate of the read-only role that no other has.
///
/// # Errors
/// The authority's key is missing, or keys can't be made.
pub fn issue_reader(dir: &Path) -> Result<ReaderKeys, StateError> {
    check_private_dir(dir)?;
    let cluster_id = cluster_id(dir)?;
    let issuer = issuer(dir, cluster_id)?;
    let key = KeyPair::generate().map_err(|error| no_certificate(dir, &error))?;
    let leaf = leaf_params(Role::ReadOnly, cluster_id)
        .and_then(|params| params.signed_by(&key, &issuer))
        .map_err(|error| no_certificate(dir, &error))?;
    let path = dir.join("ca.pem");
    let authority = String::from_utf8(read_private(&path)?);
    let authority = authority.map_err(|error| damaged(&path, &error.to_string()))?;
    Ok(ReaderKeys { authority, certificate: leaf.pem(), key: key.serialize_pem() })
}

/// The certificate that a PEM text holds.
///
/// # Errors
/// It holds none; `path` is where it came from.
pub fn leaf_of_pem(path: &Path, text: &[u8]) -> Result<CertificateDer<'static>, StateError> {
    CertificateDer::from_pem_slice(text).map_err(|error| damaged(path, &error.to_string()))
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Admin, Self::Worker, Self::Scheduler, Self::ReadOnly];

    /// The word in file names and certificates.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Worker => "worker",
            Self::Scheduler => "scheduler",
            Self::ReadOnly => "read-only",
        }
    }

    /// The name that a certificate of this role carries.
    #[must_use]
    pub fn server_name(self, cluster_id: ClusterId) -> String {
        format!("{self}.{cluster_id}.{DOMAIN}")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ClusterId {
    /// # Errors
    /// The system has no random numbers.
    pub fn random() -> Result<Self, StateError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| {
            StateError::io(
                "read random bytes for",
                Path::new("a cluster id"),
                io::Error::other(error.to_string()),
            )
        })?;
        Ok(Self(bytes))
    }

    /// The first 6 digits: enough to tell a user's clusters apart in job names.
    #[must_use]
    pub fn short(self) -> String {
        self.to_string()[..6].to_owned()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

/// Why a text is no cluster id.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' is no cluster id: expected 32 hexadecimal digits")]
pub struct BadClusterId(String);

impl FromStr for ClusterId {
    type Err = BadClusterId;

    fn from_str(text: &str) -> Result<Self, BadClusterId> {
        let bad = || BadClusterId(text.chars().take(40).collect());
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad());
        }
        Ok(Self(u128::from_str_radix(text, 16).map_err(|_| bad())?.to_be_bytes()))
    }
}

impl Serialize for ClusterId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClusterId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Identity {
    /// A granted reader's.
    ///
    /// # Errors
    /// The texts hold no certificates or no key; `path` is where they came from.
    pub fn of_reader(path: &Path, cluster_id: ClusterId, keys: &ReaderKeys) -> Result<Identity, StateError> {
        let key = PrivateKeyDer::from_pem_slice(keys.key.as_bytes());
        Ok(Identity {
            cluster_id,
            role: Role::ReadOnly,
            ca: leaf_of_pem(path, keys.authority.as_bytes())?,
            leaf: leaf_of_pem(path, keys.certificate.as_bytes())?,
            key: key.map_err(|error| damaged(path, &error.to_string()))?,
        })
    }

    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The authority that must have signed every peer's leaf.
    #[must_use]
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    #[must_use]
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }

    /// A copy of the private key.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl fmt::Debug for Identity {
    /// Without the key, so that no log can hold it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} of {})", self.role, self.cluster_id)
    }
}

fn write_identity(dir: &Path, cluster_id: ClusterId) -> Result<(), StateError> {
    let params = ca_params(cluster_id);
    let key = KeyPair::generate().map_err(|error| no_certificate(dir, &error))?;
    let ca = params.self_signed(&key).map_err(|error| no_certificate(dir, &error))?;
    files::write_atomic(&dir.join("cluster_id"), format!("{cluster_id}\n").as_bytes())?;
    files::write_atomic(&dir.join("ca.pem"), ca.pem().as_bytes())?;
    files::write_atomic(&dir.join("ca.key"), key.serialize_pem().as_bytes())?;
    write_leaves(dir, cluster_id, &Issuer::new(params, key))
}

/// A leaf's file holds certificate and key apart, the key first: a crash between the two must not leave an old key
/// with a new certificate, so the same key is kept where there is one.
fn write_leaves(dir: &Path, cluster_id: ClusterId, issuer: &Issuer<'_, KeyPair>) -> Result<(), StateError> {
    for role in Role::ALL {
        let key_path = dir.join(format!("{role}.key"));
        let key = if key_path.exists() {
            let text = String::from_utf8(read_private(&key_path)?);
            let text = text.map_err(|error| damaged(&key_path, &error.to_string()))?;
            KeyPair::from_pem(&text).map_err(|error| damaged(&key_path, &error.to_string()))?
        } else {
            let key = KeyPair::generate().map_err(|error| no_certificate(dir, &error))?;
            files::write_atomic(&key_path, key.serialize_pem().as_bytes())?;
            key
        };
        let leaf = leaf_params(role, cluster_id)
            .and_then(|params| params.signed_by(&key, issuer))
            .map_err(|error| no_certificate(dir, &error))?;
        files::write_atomic(&dir.join(format!("{role}.pem")), leaf.pem().as_bytes())?;
    }
    Ok(())
}

fn ca_params(cluster_id: ClusterId) -> CertificateParams {
    let mut params = CertificateParams::default();
    set_validity(&mut params, CA_LIFETIME);
    set_name(&mut params, format!("ca.{cluster_id}.{DOMAIN}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(role: Role, cluster_id: ClusterId) -> Result<CertificateParams, rcgen::Error> {
    let name = role.server_name(cluster_id);
    let mut params = CertificateParams::new(vec![name.clone()])?;
    set_validity(&mut params, LEAF_LIFETIME);
    set_name(&mut params, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    // Only these two are ever connected to; an admin's stolen key can't pose as the scheduler.
    if matches!(role, Role::Scheduler | Role::Worker) {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, lifetime: Duration) {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since_1970.as_secs());
    params.not_before = now - BACKDATE;
    params.not_after = now + lifetime;
}

/// One common name and nothing else. X.520 caps it at 64 characters; ours has at most 56.
fn set_name(params: &mut CertificateParams, name: String) {
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
}

/// Which cluster the identity in `dir` is of.
///
/// # Errors
/// It can't be read, or is damaged.
pub fn cluster_id(dir: &Path) -> Result<ClusterId, StateError> {
    let path = dir.join("cluster_id");
    let bytes = read_private(&path)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| damaged(&path, &error.to_string()))?;
    text.trim().parse().map_err(|error: BadClusterId| damaged(&path, &error.to_string()))
}

fn certificate(path: &Path) -> Result<CertificateDer<'static>, StateError> {
    CertificateDer::from_pem_slice(&read_private(path)?).map_err(|error| damaged(path, &error.to_string()))
}

/// Reads a file after checking, on the open file, that it is ours and closed to others.
fn read_private(path: &Path) -> Result<Vec<u8>, StateError> {
    let file = File::open(path).map_err(|error| StateError::io("read", path, error))?;
    check_private_file(path, &file)?;
    let mut bytes = Vec::new();
    file.take(files::MAX_SMALL_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|error| StateError::io("read", path, error))?;
    Ok(bytes)
}

fn sibling(dir: &Path) -> Result<PathBuf, StateError> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    Ok(dir.with_file_name(format!(".{name}.{}.tmp", files::random_suffix()?)))
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

fn damaged(path: &Path, reason: &str) -> StateError {
    StateError::Malformed { path: path.to_owned(), reason: reason.to_owned() }
}

fn no_certificate(dir: &Path, error: &rcgen::Error) -> StateError {
    StateError::Certificate { path: dir.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn made() -> (tempfile::TempDir, PathBuf, ClusterId) {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("identity");
        let id = ClusterId::random().unwrap();
        create(&dir, id).unwrap();
        (home, dir, id)
    }

    #[test]
    fn every_role_loads_and_nothing_is_open_to_others() {
        let (home, dir, id) = made();
        for role in Role::ALL {
            let identity = load(&dir, role).unwrap();
            assert_eq!((identity.cluster_id(), identity.role()), (id, role));
        }
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o7777, 0o700);
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().mode() & 0o7777, 0o600, "{:?}", entry.file_name());
        }
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "no staging directory is left");
    }

    #[test]
    fn a_second_creation_keeps_the_first_identity() {
        let (_home, dir, id) = made();
        create(&dir, ClusterId::random().unwrap()).unwrap();
        assert_eq!(load(&dir, Role::Admin).unwrap().cluster_id(), id);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_command_that_helps() {
        let (_home, dir, _) = made();
        let key = dir.join("worker.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = load(&dir, Role::Worker).unwrap_err();
        assert!(error.is_permission() && error.to_string().contains("chmod 0600"), "{error}");
        load(&dir, Role::Admin).unwrap();
    }

    #[test]
    fn another_users_key_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can give a file away");
            return;
        }
        let (_home, dir, _) = made();
        std::os::unix::fs::chown(dir.join("admin.key"), Some(12_345), None).unwrap();
        assert!(matches!(load(&dir, Role::Admin), Err(StateError::WrongOwner { owner: 12_345, .. })));
    }

    #[test]
    fn missing_and_damaged_files_are_named() {
        let (_home, dir, _) = made();
        std::fs::write(dir.join("admin.key"), "no key").unwrap();
        assert!(load(&dir, Role::Admin).unwrap_err().to_string().contains("admin.key"));
        std::fs::remove_file(dir.join("worker.pem")).unwrap();
        assert!(load(&dir, Role::Worker).unwrap_err().to_string().contains("worker.pem"));
        std::fs::write(dir.join("cluster_id"), "xyz").unwrap();
        assert!(load(&dir, Role::ReadOnly).unwrap_err().to_string().contains("cluster_id"));
    }

    #[test]
    fn renewing_makes_new_leaves_of_the_same_authority_and_keys() {
        let (_home, dir, _) = made();
        let before = load(&dir, Role::Worker).unwrap();
        renew(&dir).unwrap();
        let after = load(&dir, Role::Worker).unwrap();
        assert_ne!(before.leaf(), after.leaf());
        assert_eq!(before.ca(), after.ca());
        assert_eq!(before.key().secret_der(), after.key().secret_der());
    }

    #[test]
    fn old_leaves_are_renewed_once() {
        let (_home, dir, _) = made();
        assert!(!renew_if_due(&dir).unwrap());
        let leaf = File::options().write(true).open(dir.join("scheduler.pem")).unwrap();
        leaf.set_modified(SystemTime::now() - RENEW_AFTER).unwrap();
        assert!(renew_if_due(&dir).unwrap());
        assert!(!renew_if_due(&dir).unwrap());
        leaf.set_modified(SystemTime::now() + RENEW_AFTER).unwrap();
        assert!(!renew_if_due(&dir).unwrap());
    }

    #[test]
    fn ids_read_back_and_absurd_ones_are_refused() {
        let id = ClusterId::random().unwrap();
        assert_eq!(id.to_string().parse::<ClusterId>().unwrap(), id);
        assert_eq!(ClusterId([0xab; 16]).short(), "ababab");
        for text in ["", "12", &"g".repeat(32), &"+".repeat(32), &"0".repeat(33)] {
            assert!(text.parse::<ClusterId>().is_err(), "{text}");
        }
    }

    #[test]
    fn no_key_shows_in_debug_output() {
        let (_home, dir, id) = made();
        let text = format!("{:?}", load(&dir, Role::Admin).unwrap());
        assert_eq!(text, format!("Identity(admin of {id})"));
    }
}
