//! Proves that the core's tables agree. Tests call it after every step.

use super::Core;
use super::fast::{FastMap, FastSet};
use super::graphs::counter;
use super::task::TaskState;
use crate::graph::TaskId;
use crate::protocol::{Counts, WorkerIndex};
use std::collections::BTreeMap;

impl Core {
    /// # Panics
    /// If an invariant is broken: a defect of this program, never of its input.
    pub fn check(&self) {
        let mut assigned: BTreeMap<WorkerIndex, FastSet<TaskId>> = BTreeMap::new();
        let mut holds: BTreeMap<WorkerIndex, FastSet<TaskId>> = BTreeMap::new();
        let mut families = vec![Counts::default(); self.families.len()];
        for graph in self.graphs.values() {
            let mut counts = Counts::default();
            for index in 0..graph.tasks.len() as u32 {
                let task = graph.task_id(index);
                let state = graph.tasks[index as usize].state;
                *counter(&mut counts, state) += 1;
                *counter(&mut families[graph.op_entry(index).family as usize], state) += 1;
                self.check_state(task, state);
                match state {
                    TaskState::Assigned { worker } => drop(assigned.entry(worker).or_default().insert(task)),
                    TaskState::Held { worker } => {
                        for holder in self.holders(task, worker) {
                            assert!(
                                holds.entry(holder).or_default().insert(task),
                                "{task}: a holder comes twice"
                            );
                        }
                    }
                    _ => assert!(
                        !graph.replicas.contains_key(&index),
                        "{task}: replicas of a value that isn't held"
                    ),
                }
            }
            assert_eq!(counts, graph.counts, "counts of {}", graph.id);
        }
        for (family, counts) in self.families.iter().zip(&families) {
            assert_eq!(family.counts, *counts, "counts of family {}", family.name);
        }
        for (index, worker) in self.workers.iter() {
            let name = &worker.registration.id.name;
            assert_eq!(worker.assigned, assigned.remove(&index).unwrap_or_default(), "assigned to {name}");
            assert_eq!(worker.holds, holds.remove(&index).unwrap_or_default(), "held by {name}");
            let listed = self.workers.by_load().filter(|listed| *listed == index).count();
            assert_eq!(listed, usize::from(worker.is_open()), "{name} in the order of load");
        }
        assert!(assigned.is_empty() && holds.is_empty(), "tasks on workers that aren't known");
        self.workers.check_loads();
        self.check_queues();
        self.check_replication();
        let (binds, exists) = (self.everything_that_binds(), self.everything_so_far());
        assert!(binds <= exists, "clients are told after {binds:?}, and {exists:?} is all there is");
    }

    /// Whoever is ready is in its queue, and what nobody needs is to be released.
    fn check_queues(&self) {
        let held_back: FastSet<TaskId> = self.held_back().collect();
        let ready: Vec<FastSet<TaskId>> = self.classes.iter().map(|c| c.ready.iter().collect()).collect();
        let mut due: FastMap<TaskId, u16> = FastMap::default();
        for (_, task) in &self.releasable {
            let count = due.entry(*task).or_default();
            *count = count.saturating_add(1);
        }
        for graph in self.graphs.values() {
            for (index, record) in (0..).zip(&graph.tasks) {
                let task = graph.task_id(index);
                let class = graph.op_entry(index).class as usize;
                let queued = record.state != TaskState::Ready || ready[class].contains(&task);
                let waits = self.is_awaited(task) || held_back.contains(&task);
                assert!(queued || waits, "{task} is ready, and in no queue");
                assert_eq!(record.releases_due, due.get(&task).copied().unwrap_or(0), "{task}: releases due");
                let goes = !record.is_superfluous() || record.releases_due > 0;
                assert!(goes, "{task}: nobody needs its value, and it isn't to be released");
            }
        }
    }

    fn check_state(&self, task: TaskId, state: TaskState) {
        let dependencies = self.dependencies(task);
        let missing = || {
            let there = |dependency: &&TaskId| match self.state(**dependency) {
                Some(state) => self.input_is_there(task, state),
                // Forgotten since, and only its end mattered.
                None => !self.consumes_values(task),
            };
            dependencies.len() - dependencies.iter().filter(there).count()
        };
        let is_accepted = matches!(state, TaskState::Accepted { .. });
        let has_outputs = self.graphs[&task.graph].accepted.contains_key(&task.index);
        assert_eq!(has_outputs, is_accepted, "{task}: outputs of an acceptance");
        match state {
            TaskState::Waiting { missing: counted } => {
                let states: Vec<_> = dependencies.iter().map(|d| (*d, self.state(*d))).collect();
                assert_eq!(counted as usize, missing(), "{task} waits for {states:?}")
            }
            TaskState::Ready => assert_eq!(missing(), 0, "{task} is ready"),
            TaskState::Accepted { worker } => {
                let is_in_hands = match worker {
                    Some(worker) => self.workers.get(worker).is_some_and(|w| w.peer().is_some()),
                    None => self.unplaced_outputs.contains(&task),
                };
                assert!(is_in_hands, "{task}: nobody brings its outputs to their place");
            }
            TaskState::Erred => assert!(self.error(task).is_some(), "{task}: an error without its reason"),
            _ => {}
        }
        let needed_by = self.graphs[&task.graph]
            .dependents(task.index)
            .filter(|dependent| {
                self.consumes_values(*dependent) && self.state(*dependent).is_some_and(|s| !s.is_settled())
            })
            .count();
        let recorded = self.record(task).map_or(0, |r| r.needed_by) as usize;
        assert_eq!(recorded, needed_by, "{task}: who needs it");
    }
}
