//! What the nodes say: one job of each batch system looks back at this host. Five checks tell what it saw.

pub mod look;
mod send;
#[cfg(test)]
mod tests;

use super::finding::Finding;
use super::ground::{Ground, Stake};
use super::host::{skewed, whole};
use crate::cli::connect::block_on;
use crate::cli::exit::Exit;
use crate::config::display_duration;
use crate::net::Interface;
use look::{Seen, Tried};
pub use send::Told;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What came of the job of one profile.
pub struct Sent {
    pub profile: String,
    pub told: Result<Told, Finding>,
}

/// Whether jobs start, and see this program and the state directory.
pub fn answer(ground: &Ground) -> Finding {
    let findings = ground.jobs().iter().map(|sent| match &sent.told {
        Ok(Told { job, took, seen }) => Finding::ok(format!(
            "job {job} of profile {} ran on {} and answered after {:.1} s",
            sent.profile,
            seen.host,
            took.as_secs_f64()
        )),
        Err(why) => Finding { found: format!("profile {}: {}", sent.profile, why.found), ..why.clone() },
    });
    one_of(findings.collect())
}

/// Whether what clusters do in the state directory works from there too.
pub fn state(ground: &Ground) -> Finding {
    told(ground, |told| state_of(&told.seen))
}

/// Through which of this host's addresses a worker gets back to a scheduler here.
pub fn route(ground: &Ground) -> Finding {
    let interfaces = (ground.interfaces)().unwrap_or_default();
    told(ground, |told| route_of(&told.seen, &interfaces))
}

/// Whether the clocks of nodes, of this host and of the file server agree.
pub fn clock(ground: &Ground) -> Finding {
    let Ok(settings) = ground.settings() else { return Finding::not_looked_at("there are no settings") };
    let place = super::ground::nearest_existing(&settings.cluster.state_dir);
    match look::clock_and_state(place) {
        Ok(here) => told(ground, |told| clock_of(&told.seen, here)),
        Err(_) => Finding::not_looked_at("the state directory doesn't work from here"),
    }
}

/// Whether a scheduler could run in a job: it submits others.
pub fn submit(ground: &Ground) -> Finding {
    told(ground, |told| submit_of(&told.seen))
}

/// Of what each job told. The first check has said why one told nothing.
fn told(ground: &Ground, of: impl Fn(&Told) -> Finding) -> Finding {
    let findings = ground.jobs().iter().map(|sent| match &sent.told {
        Ok(told) => of(told),
        Err(_) => Finding::not_looked_at(&format!("no job of profile {} answered", sent.profile)),
    });
    one_of(findings.collect())
}

fn one_of(findings: Vec<Finding>) -> Finding {
    if findings.is_empty() {
        Finding::ok("no profile's jobs run on other hosts")
    } else {
        Finding::worst(findings)
    }
}

/// A job of the first profile of each batch system that somebody means to use.
pub fn send_all(ground: &Ground) -> Vec<Sent> {
    let wanted = ground.wanted().into_iter();
    let wanted = wanted.filter(|w| w.stake > Stake::BuiltIn && !w.system.programs().is_empty());
    let sent = wanted.filter_map(|wanted| {
        let (profile, settings) = wanted.profiles.into_iter().next()?;
        let told = block_on(async { Ok(send::send(ground, &settings).await) });
        Some(Sent { profile, told: told.unwrap_or_else(|error| Err(Finding::error(error))) })
    });
    sent.collect()
}

fn state_of(seen: &Seen) -> Finding {
    if seen.state_trouble.is_empty() {
        return Finding::ok(format!("write, fsync and link(2) work in it on {} too", seen.host));
    }
    Finding::failed(
        Exit::Config,
        format!("on {} it doesn't work: {}", seen.host, seen.state_trouble),
        "set `cluster.state_dir` to a directory that this host and the nodes can write",
    )
}

fn submit_of(seen: &Seen) -> Finding {
    if seen.submit_trouble.is_empty() {
        return Finding::ok(format!(
            "{} takes jobs for the batch system, so a scheduler can run there",
            seen.host
        ));
    }
    Finding::warning(
        format!("no job can be submitted from {}: {}", seen.host, seen.submit_trouble),
        "`scheduler.place = here` in the site's file keeps schedulers on the host of `up`, without trying a job first",
    )
}

fn route_of(seen: &Seen, interfaces: &[Interface]) -> Finding {
    // What is loopback there leads to the job's own host.
    let leads_here = |tried: &&Tried| !ip_of(tried).is_some_and(|ip| ip.is_loopback());
    let (good, bad): (Vec<&Tried>, Vec<&Tried>) =
        seen.addresses.iter().filter(leads_here).partition(|tried| tried.trouble.is_empty());
    let not = |tried: &&Tried| format!("; not {}: {}", named(tried, interfaces), tried.trouble);
    let not: String = bad.iter().map(not).collect();
    let Some(first) = good.first() else {
        let found = format!("{} reaches this host through no address{not}", seen.host);
        let advice = "look for a firewall, set `scheduler.port_range` to ports that it lets through, or run \
                      the scheduler in a job";
        return Finding::failed(Exit::Config, found, advice);
    };
    let ways: Vec<String> = good.iter().map(|tried| named(tried, interfaces)).collect();
    let own = Finding::ok(format!("{} reaches this host through {}{not}", seen.host, ways.join(", ")));
    let own = match interface_of(first, interfaces) {
        // Each worker tries all of them in order, and one that gives no answer costs it seconds.
        Some(name) if !bad.is_empty() => {
            own.advising(format!("`scheduler.interface = {name}` saves workers the others"))
        }
        _ => own,
    };
    Finding::worst(vec![own, scheduler_of(seen)])
}

fn ip_of(tried: &Tried) -> Option<IpAddr> {
    tried.address.parse::<SocketAddr>().ok().map(|address| address.ip())
}

fn interface_of<'a>(tried: &Tried, interfaces: &'a [Interface]) -> Option<&'a str> {
    let ip = ip_of(tried)?;
    interfaces.iter().find(|interface| interface.address == ip).map(|interface| interface.name.as_str())
}

/// As people call it: the address without its port, and the interface that has it.
fn named(tried: &Tried, interfaces: &[Interface]) -> String {
    let host = tried.address.rsplit_once(':').map_or(tried.address.as_str(), |(host, _)| host);
    match interface_of(tried, interfaces) {
        Some(name) => format!("{host} ({name})"),
        None => host.to_owned(),
    }
}

fn scheduler_of(seen: &Seen) -> Finding {
    if seen.scheduler.is_empty() || seen.scheduler.iter().any(|tried| tried.trouble.is_empty()) {
        return Finding::ok("");
    }
    let tried: Vec<String> =
        seen.scheduler.iter().map(|tried| format!("{}: {}", tried.address, tried.trouble)).collect();
    Finding::failed(
        Exit::Unavailable,
        format!("{} can't reach the cluster's scheduler ({})", seen.host, tried.join("; ")),
        "its workers can't either: look for a firewall, or bring it up with another `scheduler.interface`",
    )
}

/// `here`: as the job has it, of this host.
fn clock_of(seen: &Seen, here: (i64, u64)) -> Finding {
    if !seen.state_trouble.is_empty() {
        return Finding::not_looked_at("the job can't write in the state directory");
    }
    let unsure = seen.unsure_ms.saturating_add(here.1);
    let apart = (seen.ahead_ms.saturating_sub(here.0)).unsigned_abs().saturating_sub(unsure);
    let from_server = seen.ahead_ms.unsigned_abs().saturating_sub(seen.unsure_ms);
    let worst = Duration::from_millis(apart.max(from_server));
    let found = format!("{} apart: the clock of {} and ", display_duration(whole(worst)), seen.host);
    let found = found + if apart >= from_server { "this host's" } else { "the file server's" };
    let agree = format!("{}'s, this host's and the file server's agree", seen.host);
    skewed(worst, found, agree)
}
