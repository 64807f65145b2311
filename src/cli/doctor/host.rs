//! Limits and clock of this host.

use super::finding::Finding;
use super::ground::{Ground, nearest_existing};
use super::state::probe;
use crate::cli::exit::Exit;
use crate::config::display_duration;
use nix::unistd::{User, getuid};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A scheduler refuses peers beyond this part of the hard limit.
const PEERS_PERCENT: u64 = 80;
/// Hard limits below which no scheduler should run, and below which a large cluster doesn't fit.
const FEW_FILES: u64 = 128;
const SOME_FILES: u64 = 1280;
/// The start of 2026: a clock before it was never set. Seconds since 1970.
const NOT_BEFORE: u64 = 1_767_225_600;
/// Within that, logs of two hosts can be read side by side.
const SKEW: Duration = Duration::from_secs(30);
/// Certificates are made a day old; beyond it, hosts refuse each other's.
const WORST_SKEW: Duration = Duration::from_secs(86_400);

/// How many peers a scheduler on this host can have.
pub fn open_files(ground: &Ground) -> Finding {
    let (soft, hard) = match (ground.open_files)() {
        Ok(limits) => limits,
        Err(error) => return Finding::failed(Exit::Config, format!("the limit is not told: {error}"), ""),
    };
    let peers = hard / 100 * PEERS_PERCENT + hard % 100 * PEERS_PERCENT / 100;
    let hard_text = if hard > 1 << 40 { "no limit".to_owned() } else { hard.to_string() };
    let found = if hard > 1 << 40 {
        format!("soft {soft}, no hard limit")
    } else {
        format!("soft {soft}, hard {hard_text}: a scheduler here serves up to {peers} workers and clients")
    };
    let advice = "raise the hard limit (`ulimit -Hn`; limits.conf or the service's LimitNOFILE)";
    match hard {
        ..FEW_FILES => Finding::failed(Exit::Config, found, advice),
        FEW_FILES..SOME_FILES => Finding::warning(found, advice),
        _ => Finding::ok(found),
    }
}

/// Whether it was ever set, and whether the file server of the state directory agrees.
pub fn clock(ground: &Ground) -> Finding {
    let now = (ground.now)();
    let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since_1970.as_secs() < NOT_BEFORE {
        let found = format!("it reads {} s after 1970, which is long past", since_1970.as_secs());
        return Finding::failed(Exit::Config, found, "set the clock (NTP): certificates would not be valid");
    }
    let Ok(settings) = &ground.settings else { return Finding::ok("it reads a time of this century") };
    let place = nearest_existing(&settings.cluster.state_dir);
    // What can't be written is another check's.
    let Ok(probe) = probe(place) else { return Finding::ok("it reads a time of this century") };
    let skew = apart(now, probe.written).saturating_sub(probe.took);
    let found =
        format!("{} off the clock of whoever keeps {}", display_duration(whole(skew)), place.display());
    let agree = format!("within {} of whoever keeps {}", display_duration(SKEW), place.display());
    skewed(skew, found, agree)
}

/// Two clocks that are so far apart.
pub fn skewed(skew: Duration, found: String, agree: String) -> Finding {
    match skew {
        _ if skew > WORST_SKEW => Finding::failed(
            Exit::Config,
            found,
            "set both clocks (NTP): hosts will refuse each other's certificates",
        ),
        _ if skew > SKEW => Finding::warning(found, "set both clocks (NTP): times in logs will not agree"),
        _ => Finding::ok(agree),
    }
}

/// What a logout does to a scheduler that is started here.
pub fn logout(ground: &Ground) -> Finding {
    let Ok(Some(user)) = User::from_uid(getuid()).map(|user| user.map(|user| user.name)) else {
        return Finding::warning("this user has no name here, so nothing is known of its logout", "");
    };
    let logout = (ground.logout)(&user);
    let words = format!("a scheduler that is started here: {}", logout.words(&user));
    match (logout.kills, logout.lingers) {
        // What users start may stay with their service manager.
        (Some(true), Some(true)) => {
            Finding::ok(format!("user {user} lingers: what systemd runs for it stays"))
        }
        (Some(true), _) => {
            Finding::warning(words, format!("`loginctl enable-linger {user}`, or run the scheduler in a job"))
        }
        _ => Finding::ok(words),
    }
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}

pub fn whole(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}
