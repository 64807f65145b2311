//! What of all clusters is dead and can go. Nothing of a cluster that lives, or may live again, is touched but what it
//! has put aside itself and the files of jobs that ended long ago; datasets never are.

use super::hold::{Hold, at_rest};
use super::launch::{Patience, job};
use super::liveness::{Liveness, look, look_without_spec};
use super::up::{UpError, identity_of, spec_of};
use crate::datasets::Registry;
use crate::state::prune::{self, Leaving};
use crate::state::{Intents, Outcome, Role, StateDir, StateError};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Something that can go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rubbish {
    pub cluster: String,
    /// In a user's words.
    pub what: &'static str,
    pub leaving: Leaving,
    pub kind: Kind,
}

/// What must hold so that it may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing: nobody asks for it any more.
    Spent,
    /// The cluster must be down.
    OfRest,
    /// It is the cluster as a whole, which must be down, and without datasets.
    Whole,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    pub rubbish: Vec<Rubbish>,
    /// Clusters that are left alone, and why.
    pub left: Vec<(String, String)>,
}

/// Folders and files of a cluster that was brought down, but its datasets, its keys and what decides who may act.
const PARTS: &[(&str, &str)] = &[
    ("journal", "what it had to do"),
    ("results", "what its tasks printed"),
    ("outbox", "what its workers left behind"),
    ("queue", "its own queue's files"),
    ("scheduler.log", "its scheduler's log"),
];

/// What is left of whoever was killed while publishing.
const UNFINISHED: &str = "an unfinished dataset";

/// Looks through all clusters under `root` for what nothing was written to for `age`.
///
/// # Errors
/// The directory can't be read.
pub async fn find(root: &Path, age: Duration, now: SystemTime) -> Result<Findings, StateError> {
    let mut findings = Findings::default();
    for name in StateDir::list(root)? {
        if let Err(error) = find_in(root, &name, age, now, &mut findings).await {
            findings.left.push((name, error.to_string()));
        }
    }
    // What an interrupted removal of a whole cluster left.
    for leaving in half_removed(root)? {
        let what = "the rest of a removed cluster";
        findings.rubbish.push(Rubbish { cluster: String::new(), what, leaving, kind: Kind::Spent });
    }
    Ok(findings)
}

async fn find_in(
    root: &Path,
    name: &str,
    age: Duration,
    now: SystemTime,
    findings: &mut Findings,
) -> Result<(), UpError> {
    let state = StateDir::open(root, name)?;
    let liveness = match spec_of(&state)? {
        Some(spec) => look(&state, &identity_of(&state, &spec)?).await?,
        None => look_without_spec(&state)?,
    };
    let found = |what, leaving| Rubbish { cluster: name.to_owned(), what, leaving, kind: Kind::Spent };
    let old = |path: &Path| {
        let there = path.symlink_metadata().is_ok();
        prune::older(there.then(|| prune::measured(path)).into_iter().collect(), age, now)
    };
    let is_coming = job::under_way(&state)?.is_some();
    let is_down = matches!(liveness, Liveness::Down { .. }) && !is_coming;
    if is_down && let Some(leaving) = old(state.path()).pop() {
        if Registry::of(&state).names()?.is_empty() {
            findings
                .rubbish
                .push(Rubbish { kind: Kind::Whole, ..found("a cluster brought down long ago", leaving) });
            return Ok(());
        }
        findings.left.push((name.to_owned(), "it is down, and keeps its datasets".to_owned()));
        for (part, what) in PARTS {
            let parts = old(&state.path().join(part));
            let of_rest = |leaving| Rubbish { kind: Kind::OfRest, ..found(what, leaving) };
            findings.rubbish.extend(parts.into_iter().map(of_rest));
        }
    }
    match liveness {
        Liveness::Dead(_) | Liveness::Down { .. } if is_coming => {
            let why = "its scheduler's job is on its way; `down` gives it up";
            findings.left.push((name.to_owned(), why.to_owned()));
        }
        Liveness::Dead(_) => {
            let why = "its scheduler died, and may be resumed; `down` gives it up";
            findings.left.push((name.to_owned(), why.to_owned()));
        }
        Liveness::Unreachable(error) => {
            findings.left.push((name.to_owned(), format!("it may live: {error}")))
        }
        Liveness::Alive(_) | Liveness::Down { .. } => {}
    }
    let unfinished = prune::older(Registry::of(&state).unfinished(), age, now);
    findings.rubbish.extend(unfinished.into_iter().map(|leaving| found(UNFINISHED, leaving)));
    for path in set_aside(state.path())? {
        let what = "a journal that was put aside";
        findings.rubbish.extend(old(&path).into_iter().map(|leaving| found(what, leaving)));
    }
    let intents = Intents::open(&state.intents_dir(), state.identity(Role::Admin)?.cluster_id())?;
    let open = intents.list().filter(|intent| !matches!(intent.outcome, Outcome::Ended { .. }));
    let open: BTreeSet<String> = open.map(|intent| intent.name.clone()).collect();
    let mut jobs = prune::older(prune::leavings(&state.allocations_dir())?, age, now);
    jobs.retain(|job| !open.contains(&job.name));
    findings.rubbish.extend(jobs.into_iter().map(|leaving| found("script and logs of a job", leaving)));
    Ok(())
}

/// Removes it all, where it still is what it was.
///
/// # Errors
/// It can't be removed; or a cluster came up meanwhile, and nothing of that was.
pub async fn remove(root: &Path, rubbish: &[Rubbish]) -> Result<(), UpError> {
    for of_one in rubbish.chunk_by(|a, b| a.cluster == b.cluster) {
        let hold = match of_one.iter().any(|rubbish| rubbish.kind != Kind::Spent) {
            true => Some(hold(root, &of_one[0].cluster).await?),
            false => None,
        };
        for rubbish in of_one.iter().filter(|rubbish| rubbish.kind != Kind::Whole) {
            if let Some((_, hold)) = &hold {
                hold.confirm()?;
            }
            if rubbish.what == UNFINISHED {
                let registry = Registry::of(&StateDir::open(root, &rubbish.cluster)?);
                registry.remove_unfinished(&rubbish.leaving)?;
            } else {
                prune::remove(&rubbish.leaving)?;
            }
        }
        if let Some((state, hold)) = hold
            && of_one.iter().any(|rubbish| rubbish.kind == Kind::Whole)
        {
            let registry = Registry::of(&state);
            if !registry.names()?.is_empty() {
                return Err(UpError::CameUp { name: state.name().to_owned() });
            }
            registry.remove_shared()?;
            hold.remove()?;
        }
    }
    Ok(())
}

/// A cluster that is down, so that it stays so for as long as something of it is removed.
async fn hold(root: &Path, cluster: &str) -> Result<(StateDir, Hold), UpError> {
    let state = StateDir::open(root, cluster)?;
    let rest = at_rest(&state, Patience::silent(|| ())).await?;
    let hold = Hold::take(&state, rest, "cleaned")?;
    Ok((state, hold))
}

/// Journals that nothing reads any more.
fn set_aside(dir: &Path) -> Result<Vec<std::path::PathBuf>, StateError> {
    let is_aside = |name: &str| name == "journal.lost" || name.starts_with("journal.damaged.");
    paths(dir, is_aside)
}

fn half_removed(root: &Path) -> Result<Vec<Leaving>, StateError> {
    let is_doomed = |name: &str| name.starts_with('.') && name.ends_with(".removed");
    Ok(paths(root, is_doomed)?.iter().map(|path| prune::measured(path)).collect())
}

fn paths(dir: &Path, which: impl Fn(&str) -> bool) -> Result<Vec<std::path::PathBuf>, StateError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StateError::io("list", dir, error)),
    };
    let mut found: Vec<_> =
        entries.flatten().filter(|e| e.file_name().to_str().is_some_and(&which)).map(|e| e.path()).collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Lease, epoch};

    const DAY: Duration = Duration::from_secs(86_400);

    fn found(findings: &Findings) -> Vec<(&str, &str)> {
        let name = |r: &Rubbish| r.leaving.paths[0].file_name().unwrap().to_str().unwrap().to_owned();
        let mut found: Vec<_> =
            findings.rubbish.iter().map(|r| (r.cluster.as_str(), name(r).leak() as &str)).collect();
        found.sort_unstable();
        found
    }

    #[tokio::test]
    async fn what_is_dead_is_found_and_datasets_and_the_living_are_left() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("jobq");
        for name in ["old", "keeper"] {
            let state = StateDir::create(&root, name).unwrap();
            std::fs::create_dir(state.path().join("journal.lost")).unwrap();
            std::fs::write(state.allocations_dir().join("jq1.log"), "x").unwrap();
            std::fs::create_dir(state.datasets_dir().join(".wind.0123456789abcdef.tmp")).unwrap();
        }
        let keeper = StateDir::open(&root, "keeper").unwrap();
        std::fs::write(keeper.datasets_dir().join("wind"), "precious").unwrap();
        std::fs::create_dir(root.join(".gone.abc.removed")).unwrap();

        let now = SystemTime::now();
        assert_eq!(found(&find(&root, DAY, now).await.unwrap()), [("", ".gone.abc.removed")]);
        let later = find(&root, DAY, now + 2 * DAY).await.unwrap();
        assert_eq!(
            found(&later),
            [
                ("", ".gone.abc.removed"),
                ("keeper", ".wind.0123456789abcdef.tmp"),
                ("keeper", "journal"),
                ("keeper", "journal.lost"),
                ("keeper", "jq1.log"),
                ("keeper", "outbox"),
                ("old", "old"),
            ]
        );
        assert_eq!(later.left, [("keeper".to_owned(), "it is down, and keeps its datasets".to_owned())]);
        remove(&root, &later.rubbish).await.unwrap();
        assert_eq!(StateDir::list(&root).unwrap(), ["keeper"]);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
        let datasets =
            std::fs::read_dir(keeper.datasets_dir()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(datasets.collect::<Vec<_>>(), ["wind"]);
        assert!(keeper.identity(Role::Admin).is_ok());
    }

    #[tokio::test]
    async fn what_came_up_while_it_was_asked_is_left() {
        let home = tempfile::tempdir().unwrap();
        let (root, later) = (home.path().join("jobq"), SystemTime::now() + 2 * DAY);
        for keeps in [false, true] {
            let name = if keeps { "keeper" } else { "whole" };
            let state = StateDir::create(&root, name).unwrap();
            std::fs::write(state.journal_dir().join("0000000001-000000.journal"), "").unwrap();
            if keeps {
                std::fs::write(state.datasets_dir().join("wind"), "precious").unwrap();
            }
            let found = find(&root, DAY, later).await.unwrap();
            let found: Vec<Rubbish> = found.rubbish.into_iter().filter(|r| r.cluster == name).collect();
            assert!(found.iter().any(|rubbish| rubbish.kind != Kind::Spent));
            let epoch = epoch::claim(state.path(), None, "").unwrap();
            // This very process is its scheduler.
            let _lease = Lease::take(state.path(), epoch.number).unwrap();
            assert!(remove(&root, &found).await.is_err());
            assert!(state.journal_dir().join("0000000001-000000.journal").exists());
            epoch.fence.check().unwrap();
        }
    }
}
