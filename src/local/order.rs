//! The order in which tasks start when there is a choice: depth first, so that a value is used soon after it is made.

use crate::graph::Columns;

/// Not yet in the order.
const NO_PLACE: u32 = u32::MAX;

/// Who depends on whom: the graph's edges turned round. A dependent that names a task twice is in it twice.
pub(super) struct Dependents {
    ends: Vec<u32>,
    tasks: Vec<u32>,
}

impl Dependents {
    /// Of a whole graph without dependencies on others.
    pub fn of(columns: &Columns) -> Dependents {
        let n = columns.len();
        let mut ends = vec![0u32; n];
        for dep in &columns.deps {
            ends[*dep as usize] += 1;
        }
        let mut end = 0;
        for slot in &mut ends {
            end += *slot;
            *slot = end;
        }
        // Filled from the back, each task's last place first; then `ends` has become the beginnings.
        let mut tasks = vec![0; columns.deps.len()];
        for task in (0..n).rev() {
            for dep in columns.deps(task).iter().rev() {
                let slot = &mut ends[*dep as usize];
                *slot -= 1;
                tasks[*slot as usize] = task as u32;
            }
        }
        ends.push(columns.deps.len() as u32);
        ends.remove(0);
        Dependents { ends, tasks }
    }

    /// Ascending.
    pub fn of_task(&self, task: u32) -> &[u32] {
        let task = task as usize;
        let start = if task == 0 { 0 } else { self.ends[task - 1] as usize };
        &self.tasks[start..self.ends[task] as usize]
    }
}

/// For each task its place in a depth-first order: all that a task needs comes before it, and as little else as can
/// be between the two. Of a reduction over a tree, one value a level is alive at a time.
pub(super) fn places(columns: &Columns, dependents: &Dependents) -> Vec<u32> {
    let n = columns.len() as u32;
    let mut places = vec![NO_PLACE; columns.len()];
    let mut next = 0;
    // Tasks on the way down, and how many of their dependencies have been looked at.
    let mut path: Vec<(u32, usize)> = Vec::new();
    for last in (0..n).filter(|task| dependents.of_task(*task).is_empty()) {
        path.push((last, 0));
        while let Some((task, looked_at)) = path.last_mut() {
            match columns.deps(*task as usize).get(*looked_at) {
                Some(dep) => {
                    *looked_at += 1;
                    if places[*dep as usize] == NO_PLACE {
                        path.push((*dep, 0));
                    }
                }
                None => {
                    places[*task as usize] = next;
                    next += 1;
                    path.pop();
                }
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Builder, Op};

    fn columns(deps: &[&[u32]]) -> Columns {
        let mut builder = Builder::new();
        let op = builder.op(Op::Data);
        for deps in deps {
            builder.task(op, b"", deps);
        }
        builder.build().unwrap().into_columns()
    }

    #[test]
    fn edges_are_turned_round() {
        let columns = columns(&[&[], &[], &[0, 1], &[0, 0], &[2]]);
        let dependents = Dependents::of(&columns);
        let all: Vec<&[u32]> = (0..5).map(|task| dependents.of_task(task)).collect();
        assert_eq!(all, [&[2, 3, 3][..], &[2], &[4], &[], &[]]);
    }

    #[test]
    fn a_tree_is_walked_branch_by_branch() {
        // Leaves 0..4, their sums 4 and 5, the sum of sums 6; 7 stands alone.
        let columns = columns(&[&[], &[], &[], &[], &[0, 1], &[2, 3], &[4, 5], &[]]);
        assert_eq!(places(&columns, &Dependents::of(&columns)), [0, 1, 3, 4, 2, 5, 6, 7]);
    }

    #[test]
    fn a_graph_without_tasks_has_no_order() {
        let columns = columns(&[]);
        assert!(places(&columns, &Dependents::of(&columns)).is_empty());
    }
}
