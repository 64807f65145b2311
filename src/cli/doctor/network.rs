//! The addresses under which workers and the scheduler will look for each other.

use super::finding::Finding;
use super::ground::Ground;
use crate::cli::connect::block_on;
use crate::cli::exit::{CliError, Exit};
use crate::cli::scratch::Scratch;
use crate::config::Settings;
use crate::net::{Interface, Listener, Transport};
use crate::state::{ClusterId, Role, identity};
use std::net::SocketAddr;
use std::time::Duration;

/// For one address; within a site a connection takes a millisecond.
const PATIENCE: Duration = Duration::from_secs(3);
/// While the other side of a connection is still asking for it.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The interfaces of this host, and whether those that the configuration names are among them.
pub fn address(ground: &Ground) -> Finding {
    let settings = match ground.settings() {
        Ok(settings) => settings,
        Err(finding) => return finding,
    };
    let all = match (ground.interfaces)() {
        Ok(all) => all,
        Err(error) => {
            let found = format!("the network interfaces can't be listed: {error}");
            return Finding::failed(Exit::Config, found, "look at `ip addr`");
        }
    };
    let known: Vec<String> = all.iter().map(|i| format!("{} ({})", i.name, i.address)).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    for (key, wanted) in chosen(settings) {
        if !all.iter().any(|interface| is_called(interface, wanted)) {
            let origin = settings.origin(key).map_or(String::new(), |origin| format!(" of {origin}"));
            let found =
                format!("`{key} = {wanted}`{origin} is no interface of this host; there are: {known}");
            return Finding::failed(
                Exit::Config,
                found,
                format!("set `{key}` to one of them, or leave it empty"),
            );
        }
    }
    let reachable = |interface: &&Interface| !interface.address.is_loopback();
    if all.iter().any(|interface| reachable(&interface)) || stays_here(settings) {
        let words: Vec<String> =
            chosen(settings).map(|(key, wanted)| format!("{key} is {wanted}; ")).collect();
        return Finding::ok(format!("{}{known}", words.concat()));
    }
    Finding::warning(
        format!("only loopback is up ({known}): workers on other hosts can't reach a scheduler here"),
        "connect this host to the nodes' network, or run the scheduler in a job",
    )
}

/// Listens as a scheduler would, and connects as workers do, by every address that they are told.
pub fn connections(ground: &Ground) -> Finding {
    let settings = match ground.settings() {
        Ok(settings) => settings,
        Err(finding) => return finding,
    };
    let tried = match block_on(try_all(settings)) {
        Ok(tried) => tried,
        Err(error) => return Finding::error(error),
    };
    let works = |(_, outcome): &&(String, Result<(), String>)| outcome.is_ok();
    let good: Vec<&str> = tried.iter().filter(works).map(|(address, _)| host_of(address)).collect();
    let bad: Vec<String> = tried
        .iter()
        .filter_map(|(address, outcome)| Some(format!("{}: {}", host_of(address), outcome.as_ref().err()?)))
        .collect();
    let told_bad = if bad.is_empty() { String::new() } else { format!("; not {}", bad.join("; ")) };
    if good.is_empty() {
        return Finding::failed(
            Exit::Config,
            format!("no address of this host can be connected to, not even from here{told_bad}"),
            "look for a firewall, or choose another `scheduler.interface` or `scheduler.port_range`",
        );
    }
    let found = format!("TLS works through {}{told_bad}", good.join(", "));
    let beyond = tried.iter().filter(works).any(|(address, _)| !is_loopback(address));
    if beyond || stays_here(settings) {
        return Finding::ok(found);
    }
    Finding::warning(found, "only loopback works: workers on other hosts can't reach a scheduler here")
}

/// Every address with what happened there.
async fn try_all(settings: &Settings) -> Result<Vec<(String, Result<(), String>)>, CliError> {
    let (server, client) = throw_away_identity()?;
    let listener = listener(settings)?;
    let addresses = listener.addresses();
    let accepting = tokio::spawn(async move {
        loop {
            // One that fails is told by whoever connects.
            if let Ok((stream, _)) = listener.accept().await {
                let _ = server.accept(stream, HANDSHAKE).await;
            }
        }
    });
    let mut tried = Vec::new();
    for address in addresses {
        let link = client.connect(std::slice::from_ref(&address), Role::Scheduler, PATIENCE).await;
        let outcome = link.map(drop).map_err(|error| {
            error.failures.into_iter().map(|(_, reason)| reason).collect::<Vec<_>>().join(", ")
        });
        tried.push((address, outcome));
    }
    accepting.abort();
    Ok(tried)
}

/// Listens where a scheduler would.
///
/// # Errors
/// The interface or ports that the configuration names can't be had.
pub fn listener(settings: &Settings) -> Result<Listener, CliError> {
    let interface = chosen(settings).map(|(_, interface)| interface).next();
    let ports = settings.scheduler.port_range;
    let ports = (!ports.is_any()).then_some(ports.first..=ports.last);
    Listener::bind(interface, ports).map_err(|error| {
        CliError::config(error.to_string()).hint("look at `scheduler.interface` and `scheduler.port_range`")
    })
}

/// A scheduler's and a worker's side of a cluster that nobody else knows.
fn throw_away_identity() -> Result<(Transport, Transport), CliError> {
    let scratch = Scratch::below(&std::env::temp_dir())?;
    let dir = scratch.path().join("identity");
    identity::create(&dir, ClusterId::random()?)?;
    let transport = |role: Role| -> Result<Transport, CliError> {
        Transport::tls(&identity::load(&dir, role)?).map_err(|error| CliError::internal(error.to_string()))
    };
    Ok((transport(Role::Scheduler)?, transport(Role::Worker)?))
}

/// Interfaces that the configuration names, the scheduler's first.
fn chosen(settings: &Settings) -> impl Iterator<Item = (&'static str, &str)> {
    let keys = [
        ("scheduler.interface", settings.scheduler.interface.as_str()),
        ("profile.interface", settings.profile.interface.as_str()),
    ];
    keys.into_iter().filter(|(_, interface)| !interface.is_empty())
}

fn is_called(interface: &Interface, wanted: &str) -> bool {
    interface.name == wanted
        || wanted.parse().is_ok_and(|address: std::net::IpAddr| address == interface.address)
}

/// Whether all jobs run on this host, so that loopback is enough.
fn stays_here(settings: &Settings) -> bool {
    crate::batch::system(&settings.profile.system).is_some_and(|system| system.programs().is_empty())
}

fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

fn is_loopback(address: &str) -> bool {
    address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
}
