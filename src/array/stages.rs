//! Nodes -> stages. Reductions of the same level over the same box are one stage, which reads each input once;
//! outputs that are made of such reductions alone end in it. All other outputs over the same dimensions are one
//! stage that works cell by cell, on inputs and on tiles of earlier stages.

use super::ArrayError;
use super::dataset::Joined;
use super::expression::{Checked, Node, NodeId, Reducer};
use super::output::encoding;
use super::program::{compile, lane_of, needed};
use super::published::Held;
use crate::format::grid::chunk_counts;
use crate::kernels::accumulate::Kept;
use crate::kernels::program::Lane;
use crate::kernels::stage::{From, Operand, Producer, Reduce, Stage};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a tile of an input that isn't chunked.
const SLAB_BYTES: u64 = 1 << 20;
/// Bytes of one operand's block that small chunks are put together to.
const BLOCK_BYTES: u64 = 256 << 10;
/// Blocks of inputs that aren't chunked.
const SLAB_BLOCK_BYTES: u64 = 2 << 20;
/// Bytes that one task reads at most, if there are tiles enough to keep a cluster busy, and if there aren't.
const TASK_BYTES: u64 = 128 << 20;
const TASK_BYTES_OF_FEW_TILES: u64 = 16 << 20;
/// So many tiles are enough.
const MANY_TILES: u64 = 64;

/// A stage, and what its results are.
#[derive(Clone, Debug)]
pub struct Planned {
    pub stage: Stage,
    /// Dimensions of the tiles: indexes into [`Joined::dims`].
    pub dims: Vec<usize>,
    /// Which of the asked outputs the stage's outputs are.
    pub outputs: Vec<usize>,
    /// What its producers are.
    pub producers: Vec<Producing>,
    /// The nodes whose plain cells a tile's value has after its encoded outputs.
    pub passed_on: Vec<NodeId>,
    /// How the blocks of a tile are dealt to tasks: the first block of each, and at last their number.
    pub parts: Vec<u64>,
    /// Bytes of inputs, decoded, that the whole stage reads.
    pub reads_nbytes: u64,
}

/// Where a stage has tiles from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Producing {
    /// That earlier stage.
    Stage(usize),
    /// Workers, who hold that one.
    Held(usize),
}

/// What becomes of outputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Chunks for a file.
    Encoded,
    /// Plain cells, for other plans to start from.
    PassedOn,
}

/// What stages are made for.
pub struct Layout<'a> {
    pub joined: &'a Joined,
    pub checked: &'a Checked,
    pub outputs: &'a [NodeId],
    pub sizes: &'a TileSizes,
    pub held: &'a [Held],
    pub ending: Ending,
}

/// Cells of a tile along dimensions, as the user wants it.
pub type TileSizes = BTreeMap<usize, u64>;

/// The stages of the outputs (nodes), earlier ones first.
///
/// # Errors
/// What is too large to be planned.
pub fn stages(layout: &Layout<'_>) -> Result<Vec<Planned>, ArrayError> {
    let Layout { joined, checked, outputs, sizes, held, ending } = *layout;
    let held = held_nodes(joined, checked, held);
    let groups = groups(checked, outputs, &held);
    let planner = Planner { joined, checked, outputs, sizes, held, ending, groups };
    planner.plan()
}

/// Nodes that workers hold, with which of the held ones each is.
type HeldNodes<'a> = BTreeMap<NodeId, (usize, &'a Held)>;

/// The nodes of held results, of those that are as the dataset is now.
fn held_nodes<'a>(joined: &Joined, checked: &Checked, held: &'a [Held]) -> HeldNodes<'a> {
    let mut nodes = HeldNodes::new();
    for (number, held) in held.iter().enumerate() {
        let Some(output) = checked.outputs.iter().find(|o| o.name == held.name) else { continue };
        let shape: Vec<u64> = checked.info[output.node].dims.iter().map(|d| joined.dims[*d].len).collect();
        let fits = held.tile.len() == shape.len() && !held.tile.contains(&0);
        let tiles: u64 = chunk_counts(&shape, &held.tile).iter().product();
        if fits && tiles == held.tasks.len() as u64 {
            nodes.insert(output.node, (number, held));
        }
    }
    nodes
}

/// Stages before their programs: reductions over one box, or outputs cell by cell.
#[derive(Clone, Debug, Default)]
struct Group {
    /// Dimensions of the box, and which of them are reduced.
    dims: Vec<usize>,
    reduced: Vec<usize>,
    reductions: Vec<NodeId>,
    /// Which outputs end here.
    outputs: Vec<usize>,
}

impl Group {
    fn kept(&self) -> Vec<usize> {
        self.dims.iter().copied().filter(|d| !self.reduced.contains(d)).collect()
    }
}

/// Inputs, reductions and held results that the nodes are made of; these are not looked into.
fn leaves(checked: &Checked, held: &HeldNodes<'_>, roots: impl Iterator<Item = NodeId>) -> BTreeSet<NodeId> {
    let is_leaf = |node: NodeId| match checked.nodes[node] {
        Node::Variable(_) | Node::Reduce(..) => Some((0, Lane::F64)),
        _ => held.contains_key(&node).then_some((0, Lane::F64)),
    };
    needed(checked, roots, &is_leaf).into_iter().filter(|node| is_leaf(*node).is_some()).collect()
}

fn groups(checked: &Checked, outputs: &[NodeId], held: &HeldNodes<'_>) -> Vec<Group> {
    let leaves = |roots: &[NodeId]| leaves(checked, held, roots.iter().copied());
    let is_reduced =
        |leaf: &NodeId| matches!(checked.nodes[*leaf], Node::Reduce(..)) && !held.contains_key(leaf);
    // Every reduction that is needed, with its level: how many reductions lie one within the other.
    let mut open: Vec<NodeId> = outputs.to_vec();
    let mut reductions = BTreeSet::new();
    while let Some(root) = open.pop() {
        for leaf in leaves(&[root]) {
            if let Node::Reduce(_, input, _) = &checked.nodes[leaf]
                && is_reduced(&leaf)
                && reductions.insert(leaf)
            {
                open.push(*input);
            }
        }
    }
    let mut levels: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut groups: BTreeMap<(usize, Vec<usize>, Vec<usize>), Group> = BTreeMap::new();
    for node in &reductions {
        let Node::Reduce(_, input, reduced) = &checked.nodes[*node] else { continue };
        let below = leaves(&[*input]);
        let level = 1 + below.iter().filter_map(|leaf| levels.get(leaf)).max().copied().unwrap_or(0);
        levels.insert(*node, level);
        let dims = checked.info[*input].dims.clone();
        let group = groups.entry((level, dims.clone(), reduced.clone())).or_default();
        group.dims = dims;
        group.reduced = reduced.clone();
        group.reductions.push(*node);
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    let mut elementwise: BTreeMap<Vec<usize>, Group> = BTreeMap::new();
    for (number, node) in outputs.iter().enumerate() {
        let dims = &checked.info[*node].dims;
        let reduced: Vec<NodeId> = leaves(&[*node]).into_iter().filter(is_reduced).collect();
        let host = groups.iter_mut().find(|group| {
            !reduced.is_empty()
                && group.kept() == *dims
                && reduced.iter().all(|node| group.reductions.contains(node))
        });
        match host {
            Some(group) => group.outputs.push(number),
            None => {
                let group = elementwise.entry(dims.clone()).or_default();
                group.dims = dims.clone();
                group.outputs.push(number);
            }
        }
    }
    groups.extend(elementwise.into_values());
    groups
}

struct Planner<'a> {
    joined: &'a Joined,
    checked: &'a Checked,
    outputs: &'a [NodeId],
    sizes: &'a TileSizes,
    held: HeldNodes<'a>,
    ending: Ending,
    groups: Vec<Group>,
}

impl Planner<'_> {
    fn plan(&self) -> Result<Vec<Planned>, ArrayError> {
        let mut planned: Vec<Planned> = Vec::new();
        for number in 0..self.groups.len() {
            let stage = self.stage(number, &planned)?;
            planned.push(stage);
        }
        Ok(planned)
    }

    fn leaves(&self, roots: impl Iterator<Item = NodeId>) -> BTreeSet<NodeId> {
        leaves(self.checked, &self.held, roots)
    }

    fn group_of(&self, reduction: NodeId) -> usize {
        let found = self.groups.iter().position(|group| group.reductions.contains(&reduction));
        found.expect("every reduction that is needed is in a group")
    }

    /// What the group's two programs start from.
    fn inputs_of(&self, group: &Group) -> Vec<NodeId> {
        group
            .reductions
            .iter()
            .filter_map(|node| match &self.checked.nodes[*node] {
                Node::Reduce(_, input, _) => Some(*input),
                _ => None,
            })
            .collect()
    }

    /// What others read of the group as plain cells: reductions that a later stage or outputs elsewhere start from,
    /// and outputs that don't go into a file.
    fn passed_on(&self, number: usize) -> Vec<NodeId> {
        let mut used = BTreeSet::new();
        for (other, group) in self.groups.iter().enumerate() {
            let inputs = self.inputs_of(group);
            used.extend(self.leaves(inputs.into_iter()));
            if other != number {
                used.extend(self.leaves(group.outputs.iter().map(|o| self.outputs[*o])));
            }
        }
        let group = &self.groups[number];
        let mut passed: Vec<NodeId> =
            group.reductions.iter().copied().filter(|node| used.contains(node)).collect();
        if self.ending == Ending::PassedOn {
            for output in &group.outputs {
                position_or_push(&mut passed, self.outputs[*output]);
            }
        }
        passed
    }

    /// Outputs that are encoded for a file.
    fn encoded(&self, group: &Group) -> Vec<NodeId> {
        match self.ending {
            Ending::Encoded => group.outputs.iter().map(|o| self.outputs[*o]).collect(),
            Ending::PassedOn => Vec::new(),
        }
    }

    fn stage(&self, number: usize, earlier: &[Planned]) -> Result<Planned, ArrayError> {
        let group = &self.groups[number];
        let inputs = self.inputs_of(group);
        let roots = || group.outputs.iter().map(|o| self.outputs[*o]);
        let mut operand_nodes: Vec<NodeId> = self.leaves(inputs.iter().copied()).into_iter().collect();
        for leaf in self.leaves(roots()) {
            if !operand_nodes.contains(&leaf) && !group.reductions.contains(&leaf) {
                operand_nodes.push(leaf);
            }
        }
        let mut stage = Stage {
            files: self.joined.files.clone(),
            extent: group.dims.iter().map(|d| self.joined.dims[*d].len).collect(),
            kept: (0..group.dims.len()).filter(|k| !group.reduced.contains(&group.dims[*k])).collect(),
            tile: Vec::new(),
            edges: Vec::new(),
            operands: Vec::new(),
            producers: Vec::new(),
            reduce: None,
            finish: Default::default(),
            outputs: Vec::new(),
            passed_on: Vec::new(),
        };
        let mut producers = Vec::new();
        for node in &operand_nodes {
            let operand = self.operand(*node, group, earlier, &mut stage, &mut producers);
            stage.operands.push(operand);
        }
        let uses_files = stage.operands.iter().any(|o| matches!(o.from, From::Files(_)));
        if !uses_files {
            stage.files.clear();
        }
        stage.tile = self.tile(group, &stage);
        stage.edges = self.edges(group, &stage)?;
        self.programs(number, &operand_nodes, &inputs, &mut stage);
        let (parts, reads_nbytes) = self.parts(&stage);
        Ok(Planned {
            dims: group.kept(),
            outputs: group.outputs.clone(),
            passed_on: self.passed_on(number),
            producers,
            parts,
            reads_nbytes,
            stage,
        })
    }

    fn operand(
        &self,
        node: NodeId,
        group: &Group,
        earlier: &[Planned],
        stage: &mut Stage,
        producers: &mut Vec<Producing>,
    ) -> Operand {
        let place = |dim: &usize| group.dims.iter().position(|d| d == dim);
        let dims: Vec<usize> = self.checked.info[node].dims.iter().filter_map(place).collect();
        let lane = lane_of(self.checked.info[node].numeric);
        let mut producer = |of: Producing, tile: &[u64]| {
            producers.iter().position(|p| *p == of).unwrap_or_else(|| {
                producers.push(of);
                stage.producers.push(Producer { dims: dims.clone(), tile: tile.to_vec() });
                producers.len() - 1
            })
        };
        if let Some((number, held)) = self.held.get(&node) {
            let producer = producer(Producing::Held(*number), &held.tile);
            return Operand { dims, from: From::Tiles { producer, buffer: held.buffer, lane } };
        }
        if let Node::Variable(index) = self.checked.nodes[node] {
            let variable = &self.joined.variables[index];
            if let Some((decode, _)) = &variable.decoded {
                return Operand { dims, from: From::Files(self.joined.source(variable, decode.clone())) };
            }
        }
        let of = self.group_of(node);
        let source = &earlier[of];
        let producer = producer(Producing::Stage(of), &source.stage.tile);
        let nth = self.passed_on(of).iter().position(|n| *n == node).unwrap_or(0);
        let buffer = source.stage.outputs.len() + nth;
        Operand { dims, from: From::Tiles { producer, buffer, lane } }
    }

    /// Inputs from files, the largest first: their chunks decide how the box is cut.
    fn sources<'s>(&self, stage: &'s Stage) -> Vec<(&'s Operand, &'s crate::kernels::source::Source)> {
        let mut sources: Vec<_> = stage
            .operands
            .iter()
            .filter_map(|operand| match &operand.from {
                From::Files(source) => Some((operand, source)),
                From::Tiles { .. } => None,
            })
            .collect();
        let cells = |shape: &[u64]| shape.iter().fold(1u64, |n, len| n.saturating_mul(*len));
        sources.sort_by_key(|(_, source)| std::cmp::Reverse(cells(&source.shape)));
        sources
    }

    /// Cells of a tile along each kept dimension: what the user says, else the chunk of the largest input.
    fn tile(&self, group: &Group, stage: &Stage) -> Vec<u64> {
        let sources = self.sources(stage);
        let mut budget = SLAB_BYTES / 4;
        let mut tile: Vec<u64> = Vec::new();
        for position in stage.kept.iter().rev() {
            let (dim, len) = (group.dims[*position], stage.extent[*position].max(1));
            let along = |dims: &[usize]| dims.iter().position(|d| d == position);
            let of_source = sources.iter().find_map(|(operand, source)| {
                let axis = along(&operand.dims)?;
                Some(match &self.joined.variable(&source.variable)?.chunk {
                    Some(chunk) => self.chunk_along(dim, chunk[axis]),
                    None => budget.max(1),
                })
            });
            let of_producer = || stage.producers.iter().find_map(|p| along(&p.dims).map(|axis| p.tile[axis]));
            let chosen = self.sizes.get(&dim).copied().or(of_source).or_else(of_producer);
            let cells = chosen.unwrap_or(len).clamp(1, len);
            budget /= cells;
            tile.push(cells);
        }
        tile.reverse();
        tile
    }

    /// A chunk's length along a dimension, cut to the files' length along the joined one if that makes tiles end
    /// where files do.
    fn chunk_along(&self, dim: usize, chunk: u64) -> u64 {
        if self.joined.join != Some(dim) {
            return chunk;
        }
        let starts = &self.joined.starts;
        let first = starts.get(1).copied().unwrap_or(chunk);
        let even = starts.windows(2).all(|w| w[1] - w[0] == first);
        if even && first > 0 && !first.is_multiple_of(chunk) && first <= chunk.saturating_mul(4) {
            first
        } else {
            chunk
        }
    }

    /// Where the blocks of each reduced dimension begin.
    fn edges(&self, group: &Group, stage: &Stage) -> Result<Vec<Vec<u64>>, ArrayError> {
        /// More blocks than this along a dimension make a plan of many megabytes.
        const MOST_EDGES: usize = 2_000_000;
        let sources = self.sources(stage);
        let tile_cells: u64 = stage.tile.iter().product();
        let mut unit = tile_cells.saturating_mul(4);
        let mut all = Vec::new();
        for position in stage.reduced().into_iter().rev() {
            let (dim, len) = (group.dims[position], stage.extent[position]);
            let chunk = sources.iter().find_map(|(operand, source)| {
                let axis = operand.dims.iter().position(|d| *d == position)?;
                let chunk = &self.joined.variable(&source.variable)?.chunk;
                Some(chunk.as_ref().map(|chunk| chunk[axis]))
            });
            // An input without chunks (or none) gives blocks of a size that is good to read.
            let step = chunk
                .flatten()
                .unwrap_or_else(|| (SLAB_BLOCK_BYTES / unit.max(1)).max(1))
                .clamp(1, len.max(1));
            let joined = self.joined.join == Some(dim);
            let starts: &[u64] = if joined { &self.joined.starts } else { &[0] };
            let mut fine: Vec<u64> = Vec::new();
            for (k, start) in starts.iter().enumerate() {
                let end = starts.get(k + 1).copied().unwrap_or(len);
                fine.extend((*start..end).step_by(step as usize));
            }
            fine.push(len);
            let edges = coarser(&fine, (BLOCK_BYTES / unit.max(1)).max(1));
            if edges.len() > MOST_EDGES {
                let name = &self.joined.dims[dim].name;
                return Err(ArrayError::Usage(format!(
                    "'{name}' has more than {MOST_EDGES} blocks: use fewer files"
                )));
            }
            unit = unit.saturating_mul(step);
            all.push(edges);
        }
        all.reverse();
        Ok(all)
    }

    fn programs(&self, number: usize, operands: &[NodeId], inputs: &[NodeId], stage: &mut Stage) {
        let (group, checked) = (&self.groups[number], self.checked);
        let operand = |node: NodeId| {
            let at = operands.iter().position(|n| *n == node)?;
            Some((at as u16, lane_of(checked.info[node].numeric)))
        };
        if !group.reductions.is_empty() {
            let mut distinct: Vec<NodeId> = Vec::new();
            let mut kept: Vec<(usize, Kept)> = Vec::new();
            let mut reductions: Vec<(usize, Reducer)> = Vec::new();
            for (node, input) in group.reductions.iter().zip(inputs) {
                let Node::Reduce(reduction, ..) = checked.nodes[*node] else { continue };
                let result = position_or_push(&mut distinct, *input);
                let accumulator = position_or_push(&mut kept, (result, reduction.kept()));
                reductions.push((accumulator, reduction));
            }
            let results: Vec<_> = distinct.iter().map(|node| (*node, None)).collect();
            stage.reduce =
                Some(Reduce { program: compile(checked, &results, true, &operand), kept, reductions });
        }
        // What was reduced here comes after the operands, in f64.
        let finished = |node: NodeId| match group.reductions.iter().position(|n| *n == node) {
            Some(nth) => Some(((operands.len() + nth) as u16, Lane::F64)),
            None => operand(node),
        };
        let passed_on = self.passed_on(number);
        let lanes: Vec<Lane> = passed_on.iter().map(|n| lane_of(checked.info[*n].numeric)).collect();
        let encoded = self.encoded(group);
        let outputs = encoded.iter().map(|node| (*node, None));
        let passed = passed_on.iter().zip(&lanes).map(|(node, lane)| (*node, Some(*lane)));
        stage.finish = compile(checked, &outputs.chain(passed).collect::<Vec<_>>(), false, &finished);
        stage.outputs = encoded.iter().map(|node| encoding(&checked.info[*node])).collect();
        stage.passed_on = lanes;
    }

    /// How a tile's blocks are dealt to tasks, and what the stage reads.
    fn parts(&self, stage: &Stage) -> (Vec<u64>, u64) {
        let (_, count) =
            if stage.tiles() == 0 { (vec![], vec![0; stage.extent.len()]) } else { stage.tile_box(0) };
        let per_tile: u64 = self
            .sources(stage)
            .iter()
            .map(|(operand, source)| {
                let cells = operand.dims.iter().fold(1u64, |n, d| n.saturating_mul(count[*d]));
                cells.saturating_mul(source.decode.dtype.size() as u64)
            })
            .fold(0, u64::saturating_add);
        let blocks = stage.blocks();
        let most = if stage.tiles() >= MANY_TILES { TASK_BYTES } else { TASK_BYTES_OF_FEW_TILES };
        let parts = per_tile.div_ceil(most).clamp(1, blocks.max(1));
        let edges =
            (0..=parts).map(|part| (u128::from(blocks) * u128::from(part) / u128::from(parts)) as u64);
        (edges.collect(), per_tile.saturating_mul(stage.tiles()))
    }
}

/// Leaves out edges as long as blocks don't get longer than `most`.
fn coarser(edges: &[u64], most: u64) -> Vec<u64> {
    let mut kept: Vec<u64> = Vec::new();
    for (k, edge) in edges.iter().enumerate() {
        let fits = kept.last().is_some_and(|last| edges.get(k + 1).is_some_and(|next| next - last <= most));
        if !fits && kept.last() != Some(edge) {
            kept.push(*edge);
        }
    }
    kept
}

fn position_or_push<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|i| *i == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_blocks_are_put_together_and_large_ones_stay() {
        assert_eq!(coarser(&[0, 1, 2, 3, 4, 5], 2), [0, 2, 4, 5]);
        assert_eq!(coarser(&[0, 10, 20, 25], 10), [0, 10, 20, 25]);
        assert_eq!(coarser(&[0, 10, 20, 25], 5), [0, 10, 20, 25]);
        assert_eq!(coarser(&[0, 3, 4, 9], 4), [0, 4, 9]);
        assert_eq!(coarser(&[0, 7], 100), [0, 7]);
        assert_eq!(coarser(&[0], 100), [0]);
    }
}
