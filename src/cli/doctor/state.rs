//! The state directory: whose it is, whether what clusters do in it works, and how much room it has.

use super::finding::Finding;
use super::ground::{Ground, nearest_existing};
use crate::cli::exit::{CliError, Exit};
use crate::cli::scratch::Scratch;
use crate::config::{Settings, about_size};
use crate::state::files::{check_private_dir, check_shared_dir, create_exclusive, read_small, write_atomic};
use crate::state::{Role, StateDir, StateError};
use nix::unistd::{AccessFlags, access};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// Below it nothing can be journalled for long: two segments of a journal, and some logs.
const LEAST_BYTES: u64 = 256 << 20;
/// A cluster's folder, identity, intents, and a few dozen allocations.
const LEAST_INODES: u64 = 1000;
/// Below it a busy cluster may fill the rest: its journal, and what commands print, grow while it lives.
const COMFORTABLE_BYTES: u64 = 10 << 30;
/// A script, a log and a folder of verdicts for each job, and a file for each command that prints much.
const COMFORTABLE_INODES: u64 = 20_000;
/// Every acknowledgement waits for a write of this kind, so slower ones are felt.
const SLOW_WRITE: Duration = Duration::from_secs(1);
const SOME_BYTES: &[u8] = b"jobq was here\n";

/// Owner and mode of the directory, of this cluster's folder and of its keys; or whether it can be created.
pub fn directory(ground: &Ground) -> Finding {
    let settings = match ground.settings() {
        Ok(settings) => settings,
        Err(finding) => return finding,
    };
    let root = settings.cluster.state_dir.as_path();
    match root.metadata() {
        Ok(_) => existing(root, &ground.cluster, settings),
        Err(error) if error.kind() == ErrorKind::NotFound => creatable(root, settings),
        Err(error) => refused(StateError::io("look at", root, error), settings),
    }
}

/// What a cluster does all the time: write, sync, and link a name that only one can have.
pub fn writes(ground: &Ground) -> Finding {
    let settings = match ground.settings() {
        Ok(settings) => settings,
        Err(finding) => return finding,
    };
    let place = nearest_existing(&settings.cluster.state_dir);
    match probe(place) {
        Ok(probe) => {
            let found = format!(
                "write, fsync and link(2) work in {} ({} ms)",
                place.display(),
                probe.took.as_millis().max(1)
            );
            if probe.took > SLOW_WRITE {
                return Finding::warning(found, "slow: every acknowledgement of jobq waits for such a write");
            }
            Finding::ok(found)
        }
        Err(error) => {
            let what = "clusters need write, fsync, link(2) and rename in it";
            let finding = refused(error, settings);
            Finding { found: format!("{what}: {}", finding.found), ..finding }
        }
    }
}

/// Free bytes and inodes, compared with the least that works and with what a busy cluster may come to take.
pub fn room(ground: &Ground) -> Finding {
    let settings = match ground.settings() {
        Ok(settings) => settings,
        Err(finding) => return finding,
    };
    let place = nearest_existing(&settings.cluster.state_dir);
    let room = match (ground.room)(place) {
        Ok(room) => room,
        Err(error) => return refused(StateError::io("look at", place, error), settings),
    };
    let files = room.inodes.map_or("as many files as fit".to_owned(), |inodes| format!("{inodes} files"));
    let found = format!("{}: room for {} and {files}", place.display(), about_size(room.bytes));
    let inodes = room.inodes.unwrap_or(u64::MAX);
    if room.bytes < LEAST_BYTES || inodes < LEAST_INODES {
        let least = format!("at least {} and {LEAST_INODES} files are needed", about_size(LEAST_BYTES));
        return Finding::failed(
            Exit::Config,
            format!("{found}; {least}"),
            elsewhere(settings, "free some, or "),
        );
    }
    if room.bytes < COMFORTABLE_BYTES || inodes < COMFORTABLE_INODES {
        let most = about_size(COMFORTABLE_BYTES);
        let most = format!("a busy cluster may come to take {most} and {COMFORTABLE_INODES} files");
        return Finding::warning(format!("{found}; {most}"), elsewhere(settings, "free some, or "));
    }
    Finding::ok(found)
}

/// What a trial of a directory showed.
pub struct Probe {
    /// Of one file written for good, and one linked.
    pub took: Duration,
    /// When the file was written, by the clock of whoever keeps it.
    pub written: SystemTime,
}

/// Writes, syncs, links and renames in a directory of its own below `place`, which is gone afterwards.
///
/// # Errors
/// One of them doesn't work.
pub fn probe(place: &Path) -> Result<Probe, StateError> {
    let scratch = Scratch::below(place)?;
    let (file, link) = (scratch.path().join("file"), scratch.path().join("link"));
    let started = Instant::now();
    write_atomic(&file, SOME_BYTES)?;
    let linked = create_exclusive(&link, SOME_BYTES)?;
    let took = started.elapsed();
    let damaged = |reason: &str| StateError::Malformed { path: link.clone(), reason: reason.to_owned() };
    if !linked || create_exclusive(&link, b"again")? {
        return Err(damaged("of two that link one name, not exactly the first had it"));
    }
    if read_small(&link)?.as_deref() != Some(SOME_BYTES) {
        return Err(damaged("it reads other than it was written"));
    }
    let written = file.metadata().and_then(|meta| meta.modified());
    Ok(Probe { took, written: written.map_err(|error| StateError::io("look at", &file, error))? })
}

fn existing(root: &Path, cluster: &str, settings: &Settings) -> Finding {
    let looked = check_shared_dir(root).and_then(|()| {
        let folder = root.join(cluster);
        if folder.join("identity").exists() {
            check_private_dir(&folder)?;
            let state = StateDir::open(root, cluster)?;
            Role::ALL.into_iter().try_for_each(|role| state.identity(role).map(drop))?;
        }
        StateDir::list(root)
    });
    match looked {
        Ok(clusters) => {
            let mode = root.metadata().map_or(0, |meta| meta.mode() & 0o7777);
            let names = if clusters.is_empty() { "none".to_owned() } else { clusters.join(", ") };
            Finding::ok(format!("{}, mode {mode:04o}; clusters: {names}", root.display()))
        }
        Err(error) => refused(error, settings),
    }
}

fn creatable(root: &Path, settings: &Settings) -> Finding {
    let parent = nearest_existing(root);
    if !parent.is_dir() {
        return refused(StateError::NotADirectory { path: parent.to_owned() }, settings);
    }
    match access(parent, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Finding::ok(format!("{} will be created below {}", root.display(), parent.display())),
        Err(error) => refused(StateError::io("create a directory in", parent, error.into()), settings),
    }
}

fn refused(error: StateError, settings: &Settings) -> Finding {
    let CliError { exit, message, .. } = error.into();
    Finding::failed(exit, message, elsewhere(settings, "mend it, or "))
}

fn elsewhere(settings: &Settings, before: &str) -> String {
    let origin = settings.origin("cluster.state_dir");
    let origin = origin.map_or(String::new(), |origin| format!(" (now from {origin})"));
    format!("{before}set `cluster.state_dir`{origin} to a directory that this host and the nodes see")
}
