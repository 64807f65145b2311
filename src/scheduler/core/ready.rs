//! The queue of ready tasks that need the same: the oldest graph first, and in it the lowest index.

use crate::graph::{GraphId, TaskId};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Neighbours that become ready one after the other, as a graph's first tasks and whole layers do, are one entry.
#[derive(Default)]
pub(super) struct Ready {
    /// Each behind the one before it.
    runs: VecDeque<Run>,
    /// Those that became ready after one that goes behind them.
    late: BinaryHeap<Reverse<TaskId>>,
}

struct Run {
    graph: GraphId,
    next: u32,
    end: u32,
}

impl Ready {
    /// A task may be in the queue twice, if it wasn't ready in between.
    pub fn push(&mut self, task: TaskId) {
        match self.runs.back_mut() {
            Some(run) if run.graph == task.graph && run.end == task.index => run.end += 1,
            Some(run) if task < (TaskId { graph: run.graph, index: run.end }) => {
                self.late.push(Reverse(task))
            }
            _ => self.runs.push_back(Run { graph: task.graph, next: task.index, end: task.index + 1 }),
        }
    }

    pub fn peek(&self) -> Option<TaskId> {
        let first = self.runs.front().map(|run| TaskId { graph: run.graph, index: run.next });
        match self.late.peek() {
            Some(Reverse(late)) => Some(first.map_or(*late, |first| first.min(*late))),
            None => first,
        }
    }

    /// Removes the task that `peek` shows.
    pub fn pop(&mut self) -> Option<TaskId> {
        let task = self.peek()?;
        match self.runs.front_mut() {
            Some(run) if run.graph == task.graph && run.next == task.index => {
                run.next += 1;
                if run.next == run.end {
                    self.runs.pop_front();
                }
            }
            _ => drop(self.late.pop()),
        }
        Some(task)
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = TaskId> {
        let tasks = |run: &Run| {
            let graph = run.graph;
            (run.next..run.end).map(move |index| TaskId { graph, index })
        };
        self.runs.iter().flat_map(tasks).chain(self.late.iter().map(|Reverse(task)| *task))
    }

    /// So many entries at least: what lies behind the first run is counted by the run.
    pub fn len_at_least(&self) -> usize {
        let run = |run: &Run| (run.end - run.next) as usize;
        self.late.len() + self.runs.front().map_or(0, run) + self.runs.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tasks_come_in_order_whatever_the_order_they_became_ready_in(
            steps in proptest::collection::vec(proptest::option::weighted(0.7, (1u32..4, 0u32..20)), 0..200),
        ) {
            let (mut ready, mut model) = (Ready::default(), BinaryHeap::new());
            for step in steps {
                match step {
                    Some((graph, index)) => {
                        let task = TaskId { graph: GraphId(graph), index };
                        ready.push(task);
                        model.push(Reverse(task));
                    }
                    None => prop_assert_eq!(ready.pop(), model.pop().map(|Reverse(task)| task)),
                }
                prop_assert_eq!(ready.peek(), model.peek().map(|Reverse(task)| *task));
                prop_assert!(ready.len_at_least() <= model.len());
                prop_assert_eq!(ready.len_at_least() == 0, model.is_empty());
                prop_assert_eq!(ready.iter().count(), model.len());
            }
        }
    }

    #[test]
    fn neighbours_are_one_entry() {
        let mut ready = Ready::default();
        for index in 0..1000 {
            ready.push(TaskId { graph: GraphId(1), index });
        }
        assert_eq!((ready.runs.len(), ready.late.len(), ready.len_at_least()), (1, 0, 1000));
    }
}
