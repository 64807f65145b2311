//! Proves that the core's tables agree. Tests call it after every step.

use super::Core;
use super::fast::FastSet;
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
            let takes = worker.peer().is_some() && !worker.leaving;
            let listed = self.workers.by_load.iter().filter(|(_, listed)| *listed == index).count();
            assert_eq!(listed, usize::from(takes), "{name} in the order of load");
        }
        assert!(assigned.is_empty() && holds.is_empty(), "tasks on workers that aren't known");
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
