//! What jobs saw, and what is said of it.

use super::look::{Seen, Tried};
use super::{Told, clock_of, route_of, state_of, submit_of};
use crate::cli::doctor::finding::{Finding, Verdict};
use crate::cli::doctor::ground::Ground;
use crate::cli::exit::Exit;
use crate::config::Sources;
use crate::net::Interface;
use std::time::Duration;

fn tried(address: &str, trouble: &str) -> Tried {
    Tried { address: address.into(), trouble: trouble.into() }
}

fn seen() -> Seen {
    Seen {
        host: "node7".into(),
        state_trouble: String::new(),
        ahead_ms: 0,
        unsure_ms: 5,
        addresses: vec![
            tried("10.0.0.1:4000", ""),
            tried("login1:4000", ""),
            tried("127.0.0.1:4000", "refused"),
        ],
        scheduler: vec![],
        submit_trouble: String::new(),
    }
}

fn interfaces() -> Vec<Interface> {
    let interface =
        |name: &str, address: &str| Interface { name: name.into(), address: address.parse().unwrap() };
    vec![interface("ib0", "10.0.0.1"), interface("eth0", "192.168.1.1"), interface("eth0", "fd00::1")]
}

#[test]
fn every_way_back_is_told_by_its_interface_and_the_good_one_is_named() {
    let found = route_of(&seen(), &interfaces());
    assert_eq!(found, Finding::ok("node7 reaches this host through 10.0.0.1 (ib0), login1"));
    let addresses = vec![
        tried("192.168.1.1:4000", "no answer within 3 s"),
        tried("10.0.0.1:4000", ""),
        tried("[fd00::1]:4000", "no route"),
    ];
    let found = route_of(&Seen { addresses, ..seen() }, &interfaces());
    assert_eq!(found.verdict, Verdict::Ok);
    assert_eq!(
        found.found,
        "node7 reaches this host through 10.0.0.1 (ib0); not 192.168.1.1 (eth0): no answer within 3 s; \
         not [fd00::1] (eth0): no route"
    );
    assert!(found.advice.contains("`scheduler.interface = ib0`"), "{found:?}");
}

#[test]
fn no_way_back_is_a_failure_and_loopback_is_none() {
    let addresses = vec![tried("10.0.0.1:4000", "refused"), tried("127.0.0.1:4000", "")];
    let found = route_of(&Seen { addresses, ..seen() }, &interfaces());
    assert_eq!(found.verdict, Verdict::Failed(Exit::Config));
    assert!(found.found.contains("through no address; not 10.0.0.1 (ib0): refused"), "{found:?}");
    assert!(found.advice.contains("scheduler.port_range"), "{found:?}");
}

#[test]
fn a_living_scheduler_must_be_reached_too() {
    let scheduler = vec![tried("10.0.0.9:1", "no route"), tried("172.16.0.9:1", "")];
    assert_eq!(route_of(&Seen { scheduler, ..seen() }, &interfaces()).verdict, Verdict::Ok);
    let scheduler = vec![tried("10.0.0.9:1", "no route")];
    let found = route_of(&Seen { scheduler, ..seen() }, &interfaces());
    assert_eq!(found.verdict, Verdict::Failed(Exit::Unavailable));
    assert!(found.found.contains("10.0.0.9:1: no route"), "{found:?}");
}

#[test]
fn clocks_are_compared_with_this_host_and_with_the_file_server() {
    assert_eq!(clock_of(&seen(), (0, 5)).verdict, Verdict::Ok);
    // Both are ahead of the file server, and agree with each other.
    let found = clock_of(&Seen { ahead_ms: 60_000, ..seen() }, (60_000, 5));
    assert_eq!(found.verdict, Verdict::Warning);
    assert!(found.found.contains("the clock of node7 and the file server's"), "{found:?}");
    let found = clock_of(&Seen { ahead_ms: -20_000, ..seen() }, (40_000, 5));
    assert_eq!(found.verdict, Verdict::Warning);
    assert!(found.found.starts_with("59s apart: the clock of node7 and this host's"), "{found:?}");
    let found = clock_of(&Seen { ahead_ms: 90_000_000, ..seen() }, (0, 5));
    assert_eq!(found.verdict, Verdict::Failed(Exit::Config));
    // What took long says little.
    assert_eq!(
        clock_of(&Seen { ahead_ms: -40_000, unsure_ms: 50_000, ..seen() }, (0, 5)).verdict,
        Verdict::Ok
    );
}

#[test]
fn a_state_directory_that_only_this_host_can_write_is_told_with_the_jobs_words() {
    assert_eq!(state_of(&seen()).verdict, Verdict::Ok);
    let trouble = Seen { state_trouble: "can't write /home: read-only file system".into(), ..seen() };
    let found = state_of(&trouble);
    assert_eq!(found.verdict, Verdict::Failed(Exit::Config));
    assert!(found.found.contains("on node7") && found.found.contains("read-only"), "{found:?}");
    assert_eq!(clock_of(&trouble, (0, 0)).verdict, Verdict::Warning);
}

#[test]
fn where_jobs_may_not_submit_jobs_schedulers_are_better_off_elsewhere() {
    assert_eq!(submit_of(&seen()).verdict, Verdict::Ok);
    let found = submit_of(&Seen { submit_trouble: "sbatch is not on PATH".into(), ..seen() });
    assert_eq!(found.verdict, Verdict::Warning);
    assert!(found.found.contains("from node7: sbatch is not on PATH"), "{found:?}");
    assert!(found.advice.contains("scheduler.place = here"), "{found:?}");
}

#[test]
fn only_the_first_check_says_why_a_job_told_nothing() {
    let mut ground = Ground::new(Sources::default(), None, Err("nowhere".into()));
    ground.send_jobs = |_| Vec::new();
    assert_eq!(super::answer(&ground), Finding::ok("no profile's jobs run on other hosts"));
    let mut ground = Ground::new(Sources::default(), None, Err("nowhere".into()));
    ground.send_jobs = |_| {
        let told = |job: &str| Told { job: job.into(), took: Duration::from_secs(2), seen: seen() };
        let sent = |profile: &str, told| super::Sent { profile: profile.into(), told };
        let refused = Finding::failed(Exit::Permission, "no such account", "ask the site");
        vec![sent("spice", Ok(told("17"))), sent("big", Err(refused))]
    };
    let found = super::answer(&ground);
    assert_eq!(found.verdict, Verdict::Failed(Exit::Permission));
    assert!(found.found.starts_with("profile big: no such account; job 17 of profile spice ran on node7"));
    let found = super::state(&ground);
    assert_eq!(found.verdict, Verdict::Warning);
    assert!(found.found.contains("not looked at: no job of profile big answered"), "{found:?}");
}
