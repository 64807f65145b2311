//! A request -> a graph whose results workers keep, for later plans to start from.

use super::ArrayError;
use super::compute::{ComputeRequest, Question};
use super::stages::Ending;
use super::tasks::{self, Work};
use crate::graph::Graph;

/// A graph of tiles, and which of them belong to which result.
#[derive(Clone, Debug)]
pub struct Pinned {
    pub graph: Graph,
    pub results: Vec<PinnedResult>,
}

/// A statement's result in the graph.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinnedResult {
    pub name: String,
    /// Cells of a tile along each dimension.
    pub tile: Vec<u64>,
    /// Which buffer of a tile's value has its cells.
    pub buffer: usize,
    /// The task of each tile, in C order.
    pub tasks: Vec<u32>,
}

/// Plans what is asked for, to be kept. Where the request would write to doesn't matter. The graph's first task has
/// the name `key`.
///
/// # Errors
/// Whatever is wrong with statements or inputs.
pub fn pin(request: &ComputeRequest, key: &str) -> Result<Pinned, ArrayError> {
    let question = Question::of(request)?;
    let outputs = question.wanted(&request.keep)?;
    let stages = question.stages(&outputs, &request.chunks, Ending::PassedOn)?;
    let work = Work { stages: &stages, held: &question.held, outputs: outputs.len() };
    let (graph, tiles) = tasks::pinned(&work, key)?;
    let mut results = Vec::new();
    for (planned, tasks) in stages.iter().zip(&tiles) {
        for number in &planned.outputs {
            let output = outputs[*number];
            // What other stages read comes before the results: see `Planner::passed_on`.
            let buffer = planned.passed_on.iter().position(|node| *node == output.node);
            let buffer =
                buffer.ok_or_else(|| ArrayError::Usage(format!("'{}' has no cells", output.name)))?;
            let (name, tile) = (output.name.clone(), planned.stage.tile.clone());
            results.push(PinnedResult { name, tile, buffer, tasks: tasks.clone() });
        }
    }
    Ok(Pinned { graph, results })
}
