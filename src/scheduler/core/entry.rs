//! New tasks enter: they are counted, noted with those that they depend on, and begin in the state that follows from
//! those. A part brings tens of thousands, so whole runs are dealt with at once.

use super::Core;
use super::graphs::GraphState;
use super::states::first_line;
use super::task::TaskState;
use crate::graph::{GraphId, Op, TaskId};
use crate::protocol::{Counts, ErrorKind, TaskError};

impl Core {
    /// Tasks of the graph from `first` on are counted, and noted with those that they depend on.
    pub(super) fn introduce_part(&mut self, id: GraphId, first: u32) {
        let Some(graph) = self.graphs.get_mut(&id) else { return };
        let mut counts = vec![Counts::default(); graph.ops.len()];
        let mut outside = Vec::new();
        for index in first..graph.tasks.len() as u32 {
            let op = graph.tasks[index as usize].op as usize;
            // A literal depends on nothing, whatever its columns say.
            if matches!(graph.ops[op].op, Op::Data) {
                graph.tasks[index as usize].state = TaskState::Stored;
                counts[op].memory += 1;
                continue;
            }
            graph.tasks[index as usize].state = TaskState::Waiting { missing: 0 };
            counts[op].waiting += 1;
            let pure = graph.ops[op].pure;
            for edge in graph.edges(index) {
                match graph.dependency(edge) {
                    Ok(dependency) if pure => graph.tasks[dependency as usize].needed_by += 1,
                    Ok(_) => {}
                    Err(dependency) => outside.push((dependency, graph.task_id(index), pure)),
                }
            }
        }
        for (entry, counts) in graph.ops.iter().zip(&counts) {
            graph.counts.add(counts);
            self.families[entry.family as usize].counts.add(counts);
        }
        for (dependency, task, pure) in outside {
            if let Some(graph) = self.graphs.get_mut(&dependency.graph) {
                graph.outside_dependents.entry(dependency.index).or_default().push(task);
            }
            if pure {
                self.update(dependency, |record| record.needed_by += 1);
            }
        }
    }

    /// The states that tasks of the graph from `first` on begin in, by what they depend on.
    pub(super) fn set_part_out(&mut self, id: GraphId, first: u32) {
        let mut next = first;
        while let Some(index) = self.set_plain_out(id, next) {
            self.set_out(TaskId { graph: id, index });
            next = index + 1;
        }
    }

    /// Sets tasks out as long as their dependencies are in this graph and well; returns the first that is special.
    fn set_plain_out(&mut self, id: GraphId, first: u32) -> Option<u32> {
        let Core { graphs, families, classes, replaying, .. } = self;
        let graph = graphs.get_mut(&id)?;
        for index in first..graph.tasks.len() as u32 {
            let record = &graph.tasks[index as usize];
            // One before it failed and took it along, or it is a literal.
            if record.state.is_settled() {
                continue;
            }
            let entry = &graph.ops[record.op as usize];
            let Some(missing) = plainly_missing(graph, index, entry.pure && !*replaying) else {
                return Some(index);
            };
            if missing > 0 {
                graph.tasks[index as usize].state = TaskState::Waiting { missing };
                continue;
            }
            for counts in [&mut graph.counts, &mut families[entry.family as usize].counts] {
                counts.waiting -= 1;
                counts.ready += 1;
            }
            // While records are folded, only the last state of each task counts.
            if !*replaying {
                classes[entry.class as usize].ready.push(TaskId { graph: id, index });
            }
            graph.tasks[index as usize].state = TaskState::Ready;
        }
        None
    }

    /// The state that a new task begins in, whatever it depends on.
    pub(super) fn set_out(&mut self, task: TaskId) {
        let failed = |state| matches!(state, Some(TaskState::Erred | TaskState::Cancelled) | None);
        let failed = self.dependencies(task).into_iter().find(|dependency| failed(self.state(*dependency)));
        match failed {
            Some(dependency) => {
                let name = self.display_name(dependency);
                let message = match self.error(dependency) {
                    Some(error) => {
                        format!("{name}, which it depends on, failed: {}", first_line(&error.message))
                    }
                    None => format!("{name}, which it depends on, was cancelled"),
                };
                self.fail(task, TaskError { kind: ErrorKind::Dependency, message });
            }
            None => self.run_again(task),
        }
    }
}

/// For how many dependencies the task waits; `None` if one is in another graph, has failed, or has lost its value.
fn plainly_missing(graph: &GraphState, index: u32, takes_values: bool) -> Option<u32> {
    let mut missing = 0;
    for edge in graph.edges(index) {
        match graph.tasks[graph.dependency(edge).ok()? as usize].state {
            TaskState::Held { .. } | TaskState::Stored => {}
            TaskState::Released if !takes_values => {}
            TaskState::Released | TaskState::Erred | TaskState::Cancelled => return None,
            _ => missing += 1,
        }
    }
    Some(missing)
}
