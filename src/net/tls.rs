//! Making and accepting links: TLS 1.3 in both directions with the cluster's own identity, or plain TCP where
//! somebody insists.
//!
//! Both sides show a leaf that the cluster's authority has signed. Who connects says which role it expects to meet,
//! and the name in the peer's leaf must be that role's in this cluster; who accepts reads the role out of the peer's
//! leaf and decides what it may do. In TLS 1.3 the connecting side is done before the accepting side has checked it:
//! a refusal shows at the first read.

use super::frame::Limits;
use super::link::{Link, Peer, Stream, buffered, tune};
use super::pool::Pool;
use crate::state::{ClusterId, Identity, Role};
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// How long an address is tried before the next one is tried beside it. The likeliest come first, and a packet
/// crosses any cluster in a fraction of this.
const STAGGER: Duration = Duration::from_millis(300);
/// Most addresses that are tried: a contact file names one or two for each interface of a host.
const MAX_ADDRESSES: usize = 32;

/// How this process makes and accepts links: its identity, and its receive buffers. Cheap to clone; make one a
/// process, so that all links share the buffers.
#[derive(Clone)]
pub struct Transport {
    tls: Option<Arc<Tls>>,
    pool: Pool,
}

struct Tls {
    cluster_id: ClusterId,
    role: Role,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// The identity can't be used for TLS: the certificate or the key is damaged, or they don't belong together.
#[derive(Debug, thiserror::Error)]
#[error("the identity of {role} of cluster {cluster_id} can't be used: {reason}")]
pub struct BadIdentity {
    role: Role,
    cluster_id: ClusterId,
    reason: String,
}

/// Why an incoming connection was not accepted. None of these concerns anyone but that peer.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error("no handshake with {peer} within {seconds} s", seconds = .timeout.as_secs_f64())]
    TimedOut { peer: SocketAddr, timeout: Duration },
    #[error("the handshake with {peer} failed: {source}")]
    Handshake { peer: SocketAddr, source: io::Error },
    #[error("{peer} shows a certificate of no role that this cluster knows")]
    NoRole { peer: SocketAddr },
    #[error("a connection broke before its handshake: {0}")]
    Broken(#[from] io::Error),
}

/// Why no address led to the peer, one reason an address.
#[derive(Debug)]
pub struct ConnectError {
    pub expected: Role,
    /// Addresses in the order given, with what happened there.
    pub failures: Vec<(String, String)>,
}

impl Transport {
    /// TLS with an identity.
    ///
    /// # Errors
    /// The identity can't be used.
    pub fn tls(identity: &Identity) -> Result<Self, BadIdentity> {
        let bad =
            |reason: String| BadIdentity { role: identity.role(), cluster_id: identity.cluster_id(), reason };
        let tls = Tls {
            cluster_id: identity.cluster_id(),
            role: identity.role(),
            server: Arc::new(server_config(identity).map_err(bad)?),
            client: Arc::new(client_config(identity).map_err(bad)?),
        };
        Ok(Self { tls: Some(Arc::new(tls)), pool: Pool::default() })
    }

    /// Plain TCP: no secrecy, and anyone may connect. For measurement on a machine of one's own.
    #[must_use]
    pub fn insecure() -> Self {
        Self { tls: None, pool: Pool::default() }
    }

    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Completes an incoming connection within `timeout`. The caller must check [`Link::peer`]'s role.
    ///
    /// # Errors
    /// The peer is too slow, isn't of this cluster, or doesn't speak TLS.
    pub async fn accept(&self, stream: TcpStream, timeout: Duration) -> Result<Link, AcceptError> {
        tune(&stream)?;
        let address = canonical(stream.peer_addr()?);
        let limits = Limits::default();
        let Some(tls) = &self.tls else {
            let peer = Peer { address, role: None, grant: None };
            return Ok(Link::new(Stream::Plain(stream), peer, limits, self.pool.clone()));
        };
        let handshake = TlsAcceptor::from(tls.server.clone()).accept(buffered(stream));
        let stream = match tokio::time::timeout(timeout, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(AcceptError::Handshake { peer: address, source }),
            Err(_) => return Err(AcceptError::TimedOut { peer: address, timeout }),
        };
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let role = leaf.and_then(|leaf| role_of(leaf, tls.cluster_id));
        let role = role.ok_or(AcceptError::NoRole { peer: address })?;
        let grant = leaf.filter(|_| role == Role::ReadOnly).map(|leaf| leaf.to_vec());
        let peer = Peer { address, role: Some(role), grant };
        let stream = Stream::Tls(Box::new(TlsStream::Server(stream)));
        Ok(Link::new(stream, peer, limits, self.pool.clone()))
    }

    /// Connects to the first of `addresses` (`host:port`) where a peer of this cluster and of the role `expect`
    /// answers, within `timeout` for all. They are tried in order; a slow one doesn't hold up the next. Without TLS
    /// nothing tells whether it is the right peer: the protocol's hello must.
    ///
    /// # Errors
    /// No address led to such a peer; says why for each.
    pub async fn connect(
        &self,
        addresses: &[String],
        expect: Role,
        timeout: Duration,
    ) -> Result<Link, ConnectError> {
        let deadline = Instant::now() + timeout;
        let addresses = &addresses[..addresses.len().min(MAX_ADDRESSES)];
        let mut failures = vec![None; addresses.len()];
        let mut attempts = JoinSet::new();
        let mut untried = addresses.iter().enumerate();
        loop {
            let next = untried.next();
            if let Some((index, address)) = next {
                let (transport, address) = (self.clone(), address.clone());
                attempts.spawn(async move { (index, transport.attempt(&address, expect, deadline).await) });
            }
            // The last one has all the time that is left; its attempt itself ends at the deadline.
            let patience = next.map(|_| Instant::now() + STAGGER).filter(|_| untried.len() > 0);
            let finished = match patience {
                Some(until) => match timeout_at(until, attempts.join_next()).await {
                    Ok(finished) => finished,
                    Err(_) => continue,
                },
                None => attempts.join_next().await,
            };
            match finished {
                Some(Ok((_, Ok(link)))) => return Ok(link),
                Some(Ok((index, Err(reason)))) => failures[index] = Some(reason),
                // Attempts neither panic nor are cancelled but by the end of this call.
                Some(Err(_)) => {}
                None if untried.len() == 0 => break,
                None => {}
            }
        }
        let told = addresses.iter().zip(failures);
        let told = told.map(|(address, reason)| (address.clone(), reason.unwrap_or_else(|| "failed".into())));
        Err(ConnectError { expected: expect, failures: told.collect() })
    }

    /// One address, which may be a name with several.
    async fn attempt(&self, address: &str, expect: Role, deadline: Instant) -> Result<Link, String> {
        let work = async {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            tune(&stream).map_err(|error| error.to_string())?;
            let remote = canonical(stream.peer_addr().map_err(|error| error.to_string())?);
            let limits = Limits::AUTHENTICATED;
            let Some(tls) = &self.tls else {
                let peer = Peer { address: remote, role: None, grant: None };
                return Ok(Link::new(Stream::Plain(stream), peer, limits, self.pool.clone()));
            };
            let name = ServerName::try_from(expect.server_name(tls.cluster_id))
                .map_err(|error| error.to_string())?;
            let stream = TlsConnector::from(tls.client.clone()).connect(name, buffered(stream)).await;
            let stream = stream.map_err(|error| not_the_peer(&error, expect))?;
            let peer = Peer { address: remote, role: Some(expect), grant: None };
            let stream = Stream::Tls(Box::new(TlsStream::Client(stream)));
            Ok(Link::new(stream, peer, limits, self.pool.clone()))
        };
        tokio::select! {
            outcome = work => outcome,
            () = sleep_until(deadline) => Err("timed out".to_owned()),
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tls {
            Some(tls) => write!(f, "Transport(tls, {} of {})", tls.role, tls.cluster_id),
            None => f.write_str("Transport(insecure)"),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't reach the {}", self.expected)?;
        if self.failures.is_empty() {
            return f.write_str(": no address of it is known");
        }
        // A host's addresses mostly fail alike.
        for (index, alike) in self.failures.chunk_by(|(_, a), (_, b)| a == b).enumerate() {
            let addresses: Vec<&str> = alike.iter().map(|(address, _)| address.as_str()).collect();
            let (before, addresses) = (if index == 0 { " at" } else { ";" }, addresses.join(", "));
            write!(f, "{before} {addresses}: {}", alike[0].1)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {}

/// The role that a leaf gives its holder in this cluster, if any.
fn role_of(leaf: &CertificateDer<'_>, cluster_id: ClusterId) -> Option<Role> {
    let leaf = ParsedCertificate::try_from(leaf).ok()?;
    Role::ALL.into_iter().find(|role| {
        ServerName::try_from(role.server_name(cluster_id))
            .is_ok_and(|name| verify_server_name(&leaf, &name).is_ok())
    })
}

/// No default of the process is asked for or changed.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(identity: &Identity) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca().clone()).map_err(|error| error.to_string())?;
    Ok(Arc::new(roots))
}

fn server_config(identity: &Identity) -> Result<ServerConfig, String> {
    let text = |error: rustls::Error| error.to_string();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(identity)?, provider())
        .build()
        .map_err(|error| error.to_string())?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(text)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.leaf().clone()], identity.key())
        .map_err(text)?;
    // A handshake costs a quarter of a millisecond, and links last for days: nothing is worth resuming.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(identity: &Identity) -> Result<ClientConfig, String> {
    let text = |error: rustls::Error| error.to_string();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(text)?
        .with_root_certificates(roots(identity)?)
        .with_client_auth_cert(vec![identity.leaf().clone()], identity.key())
        .map_err(text)?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn not_the_peer(error: &io::Error, expect: Role) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => {
            format!("its certificate is of a time to come by this host's clock: was that set back? ({error})")
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => format!("its certificate has expired by this host's clock: is that right? ({error})"),
        Some(rustls::Error::InvalidCertificate(_)) => {
            format!("what answers there isn't this cluster's {expect} ({error})")
        }
        _ if error.kind() == io::ErrorKind::UnexpectedEof => "the connection was closed at once".to_owned(),
        _ => format!("no TLS handshake: {error}"),
    }
}

/// An IPv4 peer of a socket that serves both families, as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame::Frame;
    use crate::net::{LinkError, Listener};
    use crate::state::identity;
    use bytes::Bytes;
    use tokio::io::AsyncWriteExt;

    /// Only ends tests that hang.
    const LONG: Duration = Duration::from_secs(60);

    struct Cluster {
        _home: tempfile::TempDir,
        dir: std::path::PathBuf,
    }

    impl Cluster {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let dir = home.path().join("identity");
            identity::create(&dir, ClusterId::random().unwrap()).unwrap();
            Self { _home: home, dir }
        }

        fn transport(&self, role: Role) -> Transport {
            Transport::tls(&identity::load(&self.dir, role).unwrap()).unwrap()
        }
    }

    fn listen() -> (Listener, Vec<String>) {
        let listener = Listener::bind(Some("127.0.0.1"), None).unwrap();
        let addresses = listener.addresses();
        (listener, addresses)
    }

    async fn meet(
        server: &Transport,
        client: &Transport,
        expect: Role,
    ) -> (Result<Link, AcceptError>, Result<Link, ConnectError>) {
        let (listener, addresses) = listen();
        tokio::join!(
            async { server.accept(listener.accept().await.unwrap().0, LONG).await },
            client.connect(&addresses, expect, LONG),
        )
    }

    #[test]
    fn a_clock_that_is_wrong_is_named_and_addresses_that_fail_alike_are_told_together() {
        let told = |error| {
            let error = io::Error::other(rustls::Error::InvalidCertificate(error));
            not_the_peer(&error, Role::Scheduler)
        };
        let early = told(CertificateError::NotValidYet);
        assert!(early.contains("this host's clock: was that set back?"), "{early}");
        assert!(told(CertificateError::Expired).contains("has expired by this host's clock"));
        assert!(told(CertificateError::UnknownIssuer).contains("isn't this cluster's scheduler"));
        let failed = |address: &str, reason: &str| (address.to_owned(), reason.to_owned());
        let failures = vec![failed("a:1", "no"), failed("b:1", "no"), failed("c:1", "never")];
        let error = ConnectError { expected: Role::Scheduler, failures };
        assert_eq!(error.to_string(), "can't reach the scheduler at a:1, b:1: no; c:1: never");
    }

    /// Sends frames both ways at once, as much as fills every buffer between.
    async fn exchange(one: Link, other: Link) {
        let frame = Frame {
            header: Bytes::from_static(b"hello"),
            buffers: vec![Bytes::from(vec![7; 3 << 20]), Bytes::new(), Bytes::from_static(b"x")],
        };
        let ((mut one_in, mut one_out), (mut other_in, mut other_out)) = (one.split(), other.split());
        one_in.set_limits(Limits::AUTHENTICATED);
        other_in.set_limits(Limits::AUTHENTICATED);
        let frames = vec![frame.clone(); 5];
        let (sent, sent_back, first, second) = tokio::join!(
            one_out.send_all(&frames),
            other_out.send_all(&frames),
            async {
                for _ in 0..5 {
                    assert!(other_in.next().await.unwrap().unwrap() == frame);
                }
            },
            async {
                for _ in 0..5 {
                    assert!(one_in.next().await.unwrap().unwrap() == frame);
                }
            },
        );
        sent.unwrap();
        sent_back.unwrap();
        let ((), ()) = (first, second);
        one_out.close().await.unwrap();
        assert_eq!(other_in.next().await.unwrap(), None, "a clean close");
    }

    #[tokio::test]
    async fn every_role_meets_the_scheduler_and_is_known_by_its_certificate() {
        let cluster = Cluster::new();
        let scheduler = cluster.transport(Role::Scheduler);
        for role in Role::ALL {
            let (theirs, ours) = meet(&scheduler, &cluster.transport(role), Role::Scheduler).await;
            let (theirs, ours) = (theirs.unwrap(), ours.unwrap());
            assert_eq!(theirs.peer().role, Some(role));
            assert_eq!(ours.peer().role, Some(Role::Scheduler));
            if role == Role::Worker {
                exchange(ours, theirs).await;
            }
        }
    }

    #[tokio::test]
    async fn workers_meet_each_other() {
        let cluster = Cluster::new();
        let worker = cluster.transport(Role::Worker);
        let (theirs, ours) = meet(&worker, &worker, Role::Worker).await;
        assert_eq!(theirs.unwrap().peer().role, Some(Role::Worker));
        ours.unwrap();
    }

    #[tokio::test]
    async fn plain_links_carry_the_same_frames() {
        let plain = Transport::insecure();
        let (theirs, ours) = meet(&plain, &plain, Role::Scheduler).await;
        let (theirs, ours) = (theirs.unwrap(), ours.unwrap());
        assert_eq!((theirs.peer().role, ours.peer().role), (None, None));
        exchange(ours, theirs).await;
    }

    #[tokio::test]
    async fn another_clusters_scheduler_is_not_taken_for_ours() {
        let (ours, other) = (Cluster::new(), Cluster::new());
        let (_, refused) =
            meet(&other.transport(Role::Scheduler), &ours.transport(Role::Worker), Role::Scheduler).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("isn't this cluster's scheduler"), "{text}");
    }

    /// An authority of one's own under the right names helps nobody: the signature counts.
    #[tokio::test]
    async fn a_forged_identity_of_the_same_cluster_id_is_refused_on_both_sides() {
        let ours = Cluster::new();
        let id = identity::load(&ours.dir, Role::Admin).unwrap().cluster_id();
        let home = tempfile::tempdir().unwrap();
        let forged = Cluster { dir: home.path().join("identity"), _home: home };
        identity::create(&forged.dir, id).unwrap();

        let (_, refused) =
            meet(&forged.transport(Role::Scheduler), &ours.transport(Role::Worker), Role::Scheduler).await;
        assert!(refused.is_err());
        let (refused, _) =
            meet(&ours.transport(Role::Scheduler), &forged.transport(Role::Admin), Role::Scheduler).await;
        assert!(matches!(refused, Err(AcceptError::Handshake { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn no_other_role_can_pose_as_the_scheduler() {
        let cluster = Cluster::new();
        for impostor in [Role::Admin, Role::Worker, Role::ReadOnly] {
            let (_, refused) =
                meet(&cluster.transport(impostor), &cluster.transport(Role::Worker), Role::Scheduler).await;
            assert!(refused.is_err(), "{impostor}");
        }
    }

    #[tokio::test]
    async fn a_renewed_leaf_and_an_old_one_still_meet() {
        let cluster = Cluster::new();
        let old = cluster.transport(Role::Worker);
        identity::renew(&cluster.dir).unwrap();
        let (theirs, ours) = meet(&cluster.transport(Role::Scheduler), &old, Role::Scheduler).await;
        assert_eq!(theirs.unwrap().peer().role, Some(Role::Worker));
        ours.unwrap();
    }

    #[tokio::test]
    async fn silence_and_nonsense_instead_of_a_handshake_are_told_apart() {
        let transport = Cluster::new().transport(Role::Scheduler);
        let (listener, addresses) = listen();
        let (accepted, silent) = tokio::join!(listener.accept(), TcpStream::connect(&addresses[0]));
        let error = transport.accept(accepted.unwrap().0, Duration::from_millis(1)).await.unwrap_err();
        assert!(matches!(error, AcceptError::TimedOut { .. }), "{error}");
        drop(silent);

        let (accepted, loud) = tokio::join!(listener.accept(), TcpStream::connect(&addresses[0]));
        loud.unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let error = transport.accept(accepted.unwrap().0, LONG).await.unwrap_err();
        assert!(matches!(error, AcceptError::Handshake { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_peer_that_isnt_of_the_cluster_learns_it_at_its_first_read() {
        let (ours, other) = (Cluster::new(), Cluster::new());
        // The stranger trusts our authority, but has a leaf of its own.
        std::fs::copy(ours.dir.join("ca.pem"), other.dir.join("ca.pem")).unwrap();
        std::fs::copy(ours.dir.join("cluster_id"), other.dir.join("cluster_id")).unwrap();
        let (refused, link) =
            meet(&ours.transport(Role::Scheduler), &other.transport(Role::Admin), Role::Scheduler).await;
        assert!(refused.is_err());
        let (mut reader, _writer) = link.unwrap().split();
        assert!(matches!(reader.next().await, Err(LinkError::Io(_))));
    }

    #[tokio::test]
    async fn addresses_are_tried_until_one_answers_and_all_failures_are_told() {
        let cluster = Cluster::new();
        let (scheduler, worker) = (cluster.transport(Role::Scheduler), cluster.transport(Role::Worker));
        let (gone, dead) = listen();
        drop(gone);
        let (silent, deaf) = listen();
        let (listener, live) = listen();
        let addresses = [dead.clone(), deaf.clone(), vec!["no such host:1".to_owned()], live].concat();
        let (accepted, link) = tokio::join!(
            async { scheduler.accept(listener.accept().await.unwrap().0, LONG).await },
            worker.connect(&addresses, Role::Scheduler, LONG),
        );
        assert_eq!(accepted.unwrap().peer().role, Some(Role::Worker));
        link.unwrap();

        let addresses = [dead, deaf].concat();
        let error = worker.connect(&addresses, Role::Scheduler, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.failures.len(), 2);
        assert_eq!(error.failures[1].1, "timed out");
        let text = error.to_string();
        assert!(
            text.starts_with("can't reach the scheduler at 127.0.0.1:") && text.contains("refused"),
            "{text}"
        );
        drop(silent);

        let error = worker.connect(&[], Role::Scheduler, LONG).await.unwrap_err();
        assert_eq!(error.to_string(), "can't reach the scheduler: no address of it is known");
    }

    #[tokio::test]
    async fn both_ends_send_small_messages_at_once() {
        let plain = Transport::insecure();
        let (listener, addresses) = listen();
        let (accepted, ours) =
            tokio::join!(listener.accept(), plain.connect(&addresses, Role::Scheduler, LONG));
        let accepted = accepted.unwrap().0;
        assert!(!accepted.nodelay().unwrap());
        tune(&accepted).unwrap();
        assert!(accepted.nodelay().unwrap());
        let Stream::Plain(ours) = ours.unwrap().into_stream() else { panic!("a plain link") };
        assert!(ours.nodelay().unwrap());
    }
}
