//! Keeps the cluster's folder small while it lives: scripts and logs of the last jobs stay, and what tasks printed stays
//! as long as their graph is known.

use crate::graph::GraphId;
use crate::state::prune::{self, Leaving};
use crate::state::{Intents, Outcome, Role, StateDir, StateError};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// Between two looks at what jobs left.
const EVERY: Duration = Duration::from_secs(600);

/// Works until the main loop ends. `forgotten`: graphs that nobody can name any more, durably so.
pub(super) async fn run(state: StateDir, mut forgotten: mpsc::UnboundedReceiver<GraphId>) {
    let mut round = tokio::time::interval(EVERY);
    round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut graphs = Vec::new();
    loop {
        let state = state.clone();
        let work = tokio::select! {
            taken = forgotten.recv_many(&mut graphs, 10_000) => {
                if taken == 0 {
                    return;
                }
                let graphs: BTreeSet<String> = graphs.drain(..).map(|graph| graph.to_string()).collect();
                tokio::task::spawn_blocking(move || forget(&state, &graphs))
            }
            _ = round.tick() => tokio::task::spawn_blocking(move || prune_jobs(&state)),
        };
        match work.await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(removed)) => info!("removed {removed} old files and folders of jobs and tasks"),
            Ok(Err(error)) => warn!("old files are left: {error}"),
        }
    }
}

/// What forgotten graphs' tasks printed.
fn forget(state: &StateDir, graphs: &BTreeSet<String>) -> Result<u64, StateError> {
    let mut left = prune::leavings(&state.results_dir())?;
    left.retain(|leaving| graphs.contains(&leaving.name));
    remove_all(&left)
}

/// What jobs left that ended long ago.
fn prune_jobs(state: &StateDir) -> Result<u64, StateError> {
    let intents = Intents::open(&state.intents_dir(), state.identity(Role::Admin)?.cluster_id())?;
    let open = intents.list().filter(|intent| !matches!(intent.outcome, Outcome::Ended { .. }));
    let in_use: BTreeSet<String> = open.map(|intent| intent.name.clone()).collect();
    remove_all(&prune::beyond(prune::leavings(&state.allocations_dir())?, &in_use))
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
        assert_eq!(prune_jobs(&state).unwrap(), 0);
    }
}
