//! The placement policy: which worker a ready task goes to. Pure; the core's `placing` gathers the facts.
//!
//! 1. A task may go where it can start now, or be queued behind tasks of its kind as far ahead as they end soon
//!    ([`queue_ahead`]): a worker must not run dry while a message travels, and must not hoard long tasks.
//! 2. Among the workers that hold inputs, the one with the most bytes of them; others would have to fetch.
//! 3. Else the least loaded; of many short tasks that nothing depends on it gets a few in a row ([`in_a_row`]).

use crate::graph::Resources;
use std::collections::HashMap;

/// A worker's queue covers this much time of work ahead: several round trips, a few scheduling passes.
const AHEAD_MICROS: f64 = 20_000.0;
/// Most tasks queued ahead per core, however short they are.
const MAX_AHEAD: f64 = 256.0;

/// A row of tasks for one worker is so small a part of what it would have to do, or may have queued.
const SHARES: usize = 8;

/// What the policy sees of a worker.
pub struct WorkerView<'a> {
    pub cores: u32,
    /// Bytes; 0: not limited.
    pub memory: u64,
    pub named: &'a [(String, u32)],
    pub cores_assigned: u32,
    pub memory_assigned: u64,
    pub named_assigned: &'a HashMap<String, u32>,
}

/// Tasks per core that may wait on a worker behind those that run, for tasks of this mean duration (0: unknown).
pub fn queue_ahead(mean_micros: f64) -> f64 {
    if mean_micros <= 0.0 { 0.0 } else { (AHEAD_MICROS / mean_micros).floor().clamp(0.0, MAX_AHEAD) }
}

/// Whether a worker with so many cores, of which so many are assigned, may be given a task that needs so many.
pub fn has_room(cores: u32, assigned: u32, needed: u32, ahead: f64) -> bool {
    needed <= cores && f64::from(assigned + needed) <= f64::from(cores) * (1.0 + ahead)
}

/// Tasks that the least loaded worker gets in a row, of so many that are ready, with so many workers. Not of those that
/// others depend on: where a graph begins decides on how many workers it goes on, and so how much they have to fetch.
pub fn in_a_row(ready: usize, workers: usize, ahead: f64) -> usize {
    let share = ready / (SHARES * workers.max(1));
    share.min((ahead / SHARES as f64) as usize).max(1)
}

/// Whether the worker could run such a task if it were idle.
pub fn could_ever_run(worker: &WorkerView<'_>, needs: &Resources) -> bool {
    let has = |name: &str| worker.named.iter().find(|(n, _)| n == name).map_or(0, |(_, count)| *count);
    needs.cores <= worker.cores
        && (worker.memory == 0 || needs.memory <= worker.memory)
        && needs.named.iter().all(|(name, count)| *count <= has(name))
}

/// Whether the task may be given to the worker now.
pub fn accepts(worker: &WorkerView<'_>, needs: &Resources, ahead: f64) -> bool {
    if !could_ever_run(worker, needs) {
        return false;
    }
    if !has_room(worker.cores, worker.cores_assigned, needs.cores, ahead) {
        return false;
    }
    let scarce = |assigned: u64, needed: u64, total: u64| {
        needed == 0 || (assigned + needed) as f64 <= total as f64 * (1.0 + ahead)
    };
    let memory = worker.memory == 0 || scarce(worker.memory_assigned, needs.memory, worker.memory);
    memory
        && needs.named.iter().all(|(name, count)| {
            let total = worker.named.iter().find(|(n, _)| n == name).map_or(0, |(_, total)| *total);
            let assigned = worker.named_assigned.get(name).copied().unwrap_or(0);
            scarce(u64::from(assigned), u64::from(*count), u64::from(total))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(named: &[(String, u32)], cores_assigned: u32) -> bool {
        let none = HashMap::new();
        let worker = WorkerView {
            cores: 4,
            memory: 1000,
            named,
            cores_assigned,
            memory_assigned: 900,
            named_assigned: &none,
        };
        accepts(&worker, &Resources { cores: 2, memory: 100, named: vec![("gpu".into(), 1)] }, 0.0)
    }

    #[test]
    fn a_task_goes_only_where_everything_it_needs_is_free() {
        let gpu = [("gpu".to_owned(), 1)];
        assert!(view(&gpu, 2));
        assert!(!view(&gpu, 3), "three of four cores are taken");
        assert!(!view(&[], 0), "there is no gpu");
    }

    #[test]
    fn short_tasks_are_queued_ahead_and_long_or_unknown_ones_are_not() {
        assert_eq!(queue_ahead(0.0), 0.0);
        assert_eq!(queue_ahead(100_000.0), 0.0);
        assert_eq!(queue_ahead(1_000.0), 20.0);
        assert_eq!(queue_ahead(1.0), 256.0);
    }

    #[test]
    fn many_short_tasks_go_in_rows_and_few_or_long_ones_one_by_one() {
        assert_eq!(in_a_row(100_000, 8, 256.0), 32);
        assert_eq!(in_a_row(256, 8, 256.0), 4);
        assert_eq!(in_a_row(8, 8, 256.0), 1);
        assert_eq!(in_a_row(100_000, 8, 0.0), 1, "they may be long");
    }

    #[test]
    fn a_task_without_cores_never_waits_for_one() {
        let none = HashMap::new();
        let worker = WorkerView {
            cores: 1,
            memory: 0,
            named: &[],
            cores_assigned: 1,
            memory_assigned: 0,
            named_assigned: &none,
        };
        assert!(accepts(&worker, &Resources { cores: 0, memory: 0, named: vec![] }, 0.0));
    }
}
