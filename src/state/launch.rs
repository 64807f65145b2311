//! Who may launch a scheduler. Until it runs there is no epoch, so two commands that find no cluster would both
//! start one: the first to create a file does, the others wait for it and look again.
//!
//! The file names its process, so that one that died on this host holds nobody up: whoever finds it takes the next
//! number. As everywhere here, `link(2)` decides and nothing is locked. A number is held in earnest only while all
//! lower ones are there and dead; whoever tidies up removes the lower ones first.

use super::StateError;
use super::dir::read_toml;
use super::files::create_exclusive;
use super::lease::{Holder, Liveness};
use std::path::{Path, PathBuf};

/// What the files' names begin with; the number follows.
const PREFIX: &str = "launch.";
/// Launchers that died in the middle, one after the other, before something else must be wrong.
const MAX_DEAD: u32 = 100;

/// The right to launch a scheduler; given back when it is dropped.
#[derive(Debug)]
pub struct LaunchRight {
    dir: PathBuf,
    number: u32,
}

/// Somebody else has the right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Launching {
    /// Remove it if its process is gone, which can't be seen from another host.
    pub path: PathBuf,
    pub holder: Holder,
}

/// Takes the right to launch a scheduler in a cluster's folder. Look at the cluster afterwards: it may have come up
/// before. `lost` are those whose processes can't be looked at from here, and that were seen at it for too long.
///
/// # Errors
/// The folder can't be written. The inner error isn't one: somebody else is at it, and may soon be done.
pub fn take(dir: &Path, lost: &[Holder]) -> Result<Result<LaunchRight, Launching>, StateError> {
    let is_dead = |holder: &Holder| holder.liveness() == Liveness::Gone || lost.contains(holder);
    let me = Holder::current()?;
    let text = toml::to_string(&me).map_err(|error| malformed(&path(dir, 1), error.to_string()))?;
    let mut number = 1;
    while number <= MAX_DEAD {
        if create_exclusive(&path(dir, number), text.as_bytes())? {
            if lower_ones_are_dead(dir, number, is_dead)? {
                return Ok(Ok(LaunchRight { dir: dir.to_owned(), number }));
            }
            // Who had this number before has tidied up meanwhile, and others may have begun anew.
            let _ = std::fs::remove_file(path(dir, number));
            number = 1;
            continue;
        }
        match look(dir, number)? {
            Some(holder) if is_dead(&holder) => number += 1,
            Some(holder) => return Ok(Err(Launching { path: path(dir, number), holder })),
            None => number = 1,
        }
    }
    Err(malformed(&path(dir, MAX_DEAD), format!("{MAX_DEAD} attempts to launch a scheduler died")))
}

/// Whether somebody may be launching a scheduler in a cluster's folder, or submitting what goes with it: as long as its
/// process isn't known to be gone.
///
/// # Errors
/// The folder can't be read.
pub fn is_under_way(dir: &Path) -> Result<bool, StateError> {
    for entry in std::fs::read_dir(dir).map_err(|error| StateError::io("list", dir, error))? {
        let name = entry.map_err(|error| StateError::io("list", dir, error))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        let Some(number) = number else { continue };
        if look(dir, number)?.is_some_and(|holder| holder.liveness() != Liveness::Gone) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn lower_ones_are_dead(
    dir: &Path,
    number: u32,
    is_dead: impl Fn(&Holder) -> bool,
) -> Result<bool, StateError> {
    for lower in 1..number {
        if look(dir, lower)?.is_none_or(|holder| !is_dead(&holder)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn look(dir: &Path, number: u32) -> Result<Option<Holder>, StateError> {
    read_toml(&path(dir, number))
}

impl Drop for LaunchRight {
    fn drop(&mut self) {
        // Ours last: as long as it is there, nobody passes it. What can't be removed counts as dead once we are.
        for number in 1..=self.number {
            let _ = std::fs::remove_file(path(&self.dir, number));
        }
    }
}

fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{PREFIX}{number}"))
}

fn malformed(path: &Path, reason: String) -> StateError {
    StateError::Malformed { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_may_launch() {
        let home = tempfile::tempdir().unwrap();
        let right = take(home.path(), &[]).unwrap().unwrap();
        let busy = take(home.path(), &[]).unwrap().unwrap_err();
        assert_eq!((busy.holder, busy.path), (Holder::current().unwrap(), home.path().join("launch.1")));
        drop(right);
        drop(take(home.path(), &[]).unwrap().unwrap());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn one_that_died_holds_nobody_up_and_one_elsewhere_may_live() {
        let home = tempfile::tempdir().unwrap();
        let me = Holder::current().unwrap();
        let dead = Holder { start_time: me.start_time + 1, ..me.clone() };
        std::fs::write(home.path().join("launch.1"), toml::to_string(&dead).unwrap()).unwrap();
        assert!(!is_under_way(home.path()).unwrap());
        let right = take(home.path(), &[]).unwrap().unwrap();
        assert_eq!(right.number, 2);
        assert!(is_under_way(home.path()).unwrap());
        assert!(take(home.path(), &[]).unwrap().is_err(), "behind the dead one, somebody lives");
        drop(right);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "the dead one's file went too");

        let elsewhere = Holder { boot_id: "other".into(), ..me };
        std::fs::write(home.path().join("launch.1"), toml::to_string(&elsewhere).unwrap()).unwrap();
        assert_eq!(take(home.path(), &[]).unwrap().unwrap_err().holder, elsewhere);
        assert!(is_under_way(home.path()).unwrap(), "nobody can tell from here");
        // Until whoever waits has given it up.
        assert_eq!(take(home.path(), &[elsewhere]).unwrap().unwrap().number, 2);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn many_at_once_get_it_one_after_the_other() {
        let home = tempfile::tempdir().unwrap();
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _right = loop {
                            match take(home.path(), &[]).unwrap() {
                                Ok(right) => break right,
                                Err(_) => std::thread::yield_now(),
                            }
                        };
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
