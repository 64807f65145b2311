//! Keeps the cluster's folder small while it lives: scripts and logs of the last jobs stay, fewer where the folder takes
//! more than it may, and what tasks printed stays as long as their graph is known.

use super::Incoming;
use crate::config::Limits;
use crate::graph::GraphId;
use crate::protocol::FolderReport;
use crate::state::prune::{self, Leaving, Taken};
use crate::state::{Intents, Outcome, Role, StateDir, StateError};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// Between two looks at what the folder takes, at least.
const EVERY: Duration = Duration::from_secs(600);
/// And so many times as long as the last look took: a file server is not to be kept busy with it.
const REST: u32 = 50;

/// In the cluster's folder, but not the scheduler's to count or to bound.
const NOT_COUNTED: &[&str] = &["datasets"];

/// Works until the main loop ends, which is told what the folder takes. `forgotten`: graphs that nobody can name any
/// more, durably so.
pub(super) async fn run(
    state: StateDir,
    limits: Limits,
    mut forgotten: mpsc::UnboundedReceiver<GraphId>,
    events: mpsc::Sender<Incoming>,
) {
    let most = Taken { nbytes: limits.state_bytes, inodes: limits.state_inodes };
    let mut next_look = Instant::now();
    let mut graphs = Vec::new();
    loop {
        let state = state.clone();
        let work = tokio::select! {
            taken = forgotten.recv_many(&mut graphs, 10_000) => {
                if taken == 0 {
                    return;
                }
                let graphs: BTreeSet<String> = graphs.drain(..).map(|graph| graph.to_string()).collect();
                tokio::task::spawn_blocking(move || forget(&state, &graphs).map(|removed| (removed, None)))
            }
            () = sleep_until(next_look) => {
                next_look = Instant::now() + EVERY;
                tokio::task::spawn_blocking(move || {
                    let (removed, taken) = prune_jobs(&state, most)?;
                    Ok((removed, Some(taken)))
                })
            }
        };
        let began = Instant::now();
        let (removed, taken) = match work.await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => {
                warn!("old files are left: {error}");
                continue;
            }
            Err(_) => continue,
        };
        if removed > 0 {
            info!("removed {removed} old files and folders of jobs and tasks");
        }
        if let Some(Taken { nbytes, inodes }) = taken {
            next_look = next_look.max(Instant::now() + began.elapsed() * REST);
            let report = FolderReport { nbytes, inodes, max_nbytes: most.nbytes, max_inodes: most.inodes };
            let _ = events.send(Incoming::Folder(report)).await;
        }
    }
}

/// What forgotten graphs' tasks printed.
fn forget(state: &StateDir, graphs: &BTreeSet<String>) -> Result<u64, StateError> {
    let mut left = prune::leavings(&state.results_dir())?;
    left.retain(|leaving| graphs.contains(&leaving.name));
    remove_all(&left)
}

/// What jobs left that ended long ago; where the folder takes more than it may, also what later ones left. Returns what
/// was removed, and what the folder takes then.
fn prune_jobs(state: &StateDir, most: Taken) -> Result<(u64, Taken), StateError> {
    let intents = Intents::open(&state.intents_dir(), state.identity(Role::Admin)?.cluster_id())?;
    let open = intents.list().filter(|intent| !matches!(intent.outcome, Outcome::Ended { .. }));
    let in_use: BTreeSet<String> = open.map(|intent| intent.name.clone()).collect();
    let left = || prune::leavings(&state.allocations_dir());
    let removed = remove_all(&prune::beyond(left()?, &in_use))?;
    let taken = prune::taken(state.path(), NOT_COUNTED)?;
    let beyond = taken.beyond(most);
    if beyond == Taken::default() {
        return Ok((removed, taken));
    }
    let more = remove_all(&prune::oldest(left()?, &in_use, beyond))?;
    Ok((removed + more, prune::taken(state.path(), NOT_COUNTED)?))
}

fn remove_all(leavings: &[Leaving]) -> Result<u64, StateError> {
    for leaving in leavings {
        prune::remove(leaving)?;
    }
    Ok(leavings.iter().map(|leaving| leaving.inodes).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_forgotten_graph_printed_goes_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::create(&home.path().join("jobq"), "winds").unwrap();
        let results = state.results_dir();
        std::fs::create_dir_all(&results).unwrap();
        for name in ["g1.1.1.1.stdout", "g1.2.1.1.stderr", "g11.1.1.1.stdout", "g2.1.1.1.stdout"] {
            std::fs::write(results.join(name), "x").unwrap();
        }
        assert_eq!(forget(&state, &["g1".to_owned()].into()).unwrap(), 2);
        assert_eq!(std::fs::read_dir(&results).unwrap().count(), 2);
        let most = Taken { nbytes: u64::MAX, inodes: u64::MAX };
        assert_eq!(prune_jobs(&state, most).unwrap().0, 0);
        // The folder takes more than it may: what can go goes.
        for n in 0..12 {
            std::fs::write(state.allocations_dir().join(format!("jq{n}.sh")), "x").unwrap();
        }
        let (removed, taken) = prune_jobs(&state, Taken { inodes: 3, ..most }).unwrap();
        assert_eq!(removed, 12 - prune::KEPT_AT_LEAST as u64);
        assert!(taken.inodes > 3, "and what can't is told: {taken:?}");
    }
}
