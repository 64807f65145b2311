//! Finding a port to listen on, and the addresses under which others may find it.
//!
//! Compute nodes have several networks, and nothing tells which of them a peer can reach. So all addresses are told,
//! the likeliest first, and whoever connects tries them.

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that wait to be accepted: a whole cluster may start at once. The kernel's own limit applies too.
const BACKLOG: u32 = 4096;
/// Most addresses that are told to others.
const MAX_CANDIDATES: usize = 16;
/// Beginnings of the names of interfaces that usually lead nowhere but to this host's containers and machines.
const HOST_ONLY_INTERFACES: [&str; 7] = ["docker", "virbr", "veth", "br-", "cni", "podman", "lxc"];

/// An address of this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    pub name: String,
    pub address: IpAddr,
}

/// A listening socket with the addresses that lead to it.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    port: u16,
    candidates: Vec<IpAddr>,
    host_name: Option<String>,
}

/// Why nothing could be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("no interface or address '{wanted}' on this host; there are: {known}")]
    NoSuchInterface { wanted: String, known: String },
    #[error("all ports from {first} to {last} are taken on this host ({source}); widen the port range")]
    NoFreePort { first: u16, last: u16, source: io::Error },
    #[error("can't listen on {address}: {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("can't list the network interfaces: {0}")]
    Interfaces(io::Error),
}

impl Listener {
    /// Listens on the interface of that name or address (`None`: all), on the first free port of `ports`, or on any
    /// if it is empty or starts at 0.
    ///
    /// # Errors
    /// No such interface, or no free port.
    pub fn bind(interface: Option<&str>, ports: Option<RangeInclusive<u16>>) -> Result<Self, ListenError> {
        let all = interfaces().map_err(ListenError::Interfaces)?;
        let candidates = chosen(&all, interface)?;
        let socket = match interface.and(candidates.first().copied()) {
            Some(address) => bind_in(address, ports)?,
            None => match bind_in(Ipv6Addr::UNSPECIFIED.into(), ports.clone()) {
                // Hosts without IPv6.
                Err(ListenError::Bind { .. }) => bind_in(Ipv4Addr::UNSPECIFIED.into(), ports)?,
                socket => socket?,
            },
        };
        let bound = socket.local_addr().map_err(ListenError::Interfaces)?;
        // A name stands for whatever address others resolve it to, so it is no use on a chosen interface.
        let host_name = interface.is_none().then(host_name).flatten();
        let is_ipv4_only = bound.is_ipv4();
        let candidates =
            candidates.into_iter().filter(|address| address.is_ipv4() || !is_ipv4_only).collect();
        Ok(Self { socket, port: bound.port(), candidates, host_name })
    }

    /// The next incoming connection, before any handshake. Cancel safe. An error such as too many open files
    /// concerns this connection only; wait a little and go on.
    ///
    /// # Errors
    /// As the system has them.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.socket.accept().await
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port` texts that may lead here, the likeliest first: interfaces that are up, then the host's name, then
    /// networks that usually stay inside the host, loopback last.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let mut texts: Vec<String> =
            self.candidates.iter().map(|address| SocketAddr::new(*address, self.port).to_string()).collect();
        texts.truncate(MAX_CANDIDATES);
        if let Some(name) = &self.host_name {
            let before_loopback = self.candidates.iter().take_while(|address| !address.is_loopback()).count();
            texts.insert(before_loopback.min(texts.len()), format!("{name}:{}", self.port));
        }
        texts
    }
}

/// Part of the descriptors that links may take.
const LINK_SHARE: f64 = 0.8;

/// Raises the soft limit of open files to the hard one, and says how many of them links may take.
pub fn link_limit() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_or(soft, |()| hard);
    (raised.min(1 << 20) as f64 * LINK_SHARE) as usize
}

/// The addresses of this host's interfaces that are up, in the order in which others should try them. Addresses
/// that only mean something with an interface of their own (IPv6 link-local) are left out.
///
/// # Errors
/// The system doesn't tell.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    let mut found: Vec<Interface> = getifaddrs()?
        .filter(|entry| entry.flags.contains(up))
        .filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            let v6 = address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
            Some(Interface { name: entry.interface_name, address: v4.or(v6)? })
        })
        .filter(|interface| is_reachable_elsewhere(interface.address) || interface.address.is_loopback())
        .collect();
    found.sort_by_key(rank);
    found.dedup_by_key(|interface| interface.address);
    Ok(found)
}

/// The host's name, as others may resolve it.
#[must_use]
pub fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let is_usable = !name.is_empty() && !name.starts_with("localhost");
    is_usable.then_some(name)
}

/// Likelier addresses have lower ranks: IPv4 of a real network, IPv6 of one, those inside the host, loopback.
fn rank(interface: &Interface) -> u8 {
    let is_inside = HOST_ONLY_INTERFACES.iter().any(|prefix| interface.name.starts_with(prefix));
    match interface.address {
        address if address.is_loopback() => 4 + u8::from(address.is_ipv6()),
        address => 2 * u8::from(is_inside) + u8::from(address.is_ipv6()),
    }
}

fn is_reachable_elsewhere(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local() && !address.is_unspecified(),
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_unspecified(),
    }
}

/// The addresses of the wanted interface, or all.
fn chosen(all: &[Interface], wanted: Option<&str>) -> Result<Vec<IpAddr>, ListenError> {
    let Some(wanted) = wanted else { return Ok(all.iter().map(|interface| interface.address).collect()) };
    let address = wanted.parse::<IpAddr>().ok();
    let matching = all.iter().filter(|i| i.name == wanted || Some(i.address) == address);
    // A socket is bound to one address, so only that one leads to it.
    match matching.map(|interface| interface.address).next() {
        Some(address) => Ok(vec![address]),
        None => {
            let known: Vec<_> = all.iter().map(|i| format!("{} ({})", i.name, i.address)).collect();
            Err(ListenError::NoSuchInterface { wanted: wanted.to_owned(), known: known.join(", ") })
        }
    }
}

fn bind_in(address: IpAddr, ports: Option<RangeInclusive<u16>>) -> Result<TcpListener, ListenError> {
    let ports = ports.filter(|ports| !ports.is_empty() && *ports.start() != 0).unwrap_or(0..=0);
    let (first, last) = (*ports.start(), *ports.end());
    let mut taken = None;
    for port in ports {
        let address = SocketAddr::new(address, port);
        match bind_one(address) {
            Ok(socket) => return Ok(socket),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse && port != 0 => taken = Some(source),
            Err(source) => return Err(ListenError::Bind { address, source }),
        }
    }
    let source = taken.unwrap_or_else(|| io::ErrorKind::AddrInUse.into());
    Err(ListenError::NoFreePort { first, last, source })
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        // Both families, whatever the host's default is.
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    // A port of ours that is still in TIME_WAIT is free for us again.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str, address: &str) -> Interface {
        Interface { name: name.into(), address: address.parse().unwrap() }
    }

    #[test]
    fn real_networks_come_first_and_loopback_last() {
        let mut all = [
            at("lo", "::1"),
            at("lo", "127.0.0.1"),
            at("docker0", "172.17.0.1"),
            at("ib0", "fd00::7"),
            at("eth0", "10.1.0.7"),
        ];
        all.sort_by_key(rank);
        let order: Vec<_> = all.iter().map(|interface| interface.address.to_string()).collect();
        assert_eq!(order, ["10.1.0.7", "fd00::7", "172.17.0.1", "127.0.0.1", "::1"]);
    }

    #[test]
    fn an_interface_is_chosen_by_name_or_address_and_a_wrong_one_lists_the_right_ones() {
        let all = [at("eth0", "10.1.0.7"), at("ib0", "10.2.0.7"), at("ib0", "fd00::7")];
        assert_eq!(chosen(&all, Some("ib0")).unwrap(), [all[1].address]);
        assert_eq!(chosen(&all, Some("fd00::7")).unwrap(), [all[2].address]);
        assert_eq!(chosen(&all, None).unwrap().len(), 3);
        let error = chosen(&all, Some("ib1")).unwrap_err().to_string();
        assert!(error.contains("'ib1'") && error.contains("eth0 (10.1.0.7)"), "{error}");
    }

    #[tokio::test]
    async fn every_address_that_is_told_leads_here() {
        let listener = Listener::bind(None, None).unwrap();
        let numeric = listener.addresses().into_iter().filter_map(|text| text.parse::<SocketAddr>().ok());
        let mut tried = 0;
        for address in numeric {
            let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
            assert_eq!(ours.unwrap().local_addr().unwrap().port(), theirs.unwrap().1.port(), "{address}");
            tried += 1;
        }
        assert!(tried > 0);
    }

    #[tokio::test]
    async fn a_port_range_is_kept_to_and_its_end_is_told() {
        let taken = Listener::bind(Some("127.0.0.1"), None).unwrap();
        let port = taken.port();
        assert_eq!(taken.addresses(), [format!("127.0.0.1:{port}")]);
        let error = Listener::bind(Some("127.0.0.1"), Some(port..=port)).unwrap_err();
        assert!(matches!(error, ListenError::NoFreePort { .. }), "{error}");
        let end = port.saturating_add(50);
        let other = Listener::bind(Some("127.0.0.1"), Some(port..=end)).unwrap();
        assert!((port + 1..=end).contains(&other.port()));
    }
}
