//! Stages -> a graph of kernels: the tasks of their tiles, and those that write what comes of them.

use super::ArrayError;
use super::published::Held;
use super::stages::{Planned, Producing};
use crate::format::netcdf4::FileSpec;
use crate::format::zarr;
use crate::graph::{Builder, Graph, GraphError, MAX_TASKS, Op, Resources, TaskId};
use crate::kernels::output::{OutputPlan, WritePlan};
use crate::kernels::tile::arguments;
use crate::kernels::zarr::{ChunksPlan, StorePlan};
use serde::Serialize;
use std::collections::HashMap;
use std::path::PathBuf;

/// States that one task merges.
const MERGE_FAN_IN: usize = 16;
/// Bytes of tiles (before compression) that one task writes: it syncs once for all of them.
const WRITE_BYTES: u64 = 8 << 20;

/// Where the output goes.
pub(super) struct Files {
    pub target: PathBuf,
    pub temporary: PathBuf,
    pub overwrite: bool,
}

/// Stages with what they start from.
pub(super) struct Work<'a> {
    pub stages: &'a [Planned],
    pub held: &'a [Held],
    /// Statements whose results are written.
    pub outputs: usize,
}

impl Work<'_> {
    fn begin(&self) -> Result<Builder, ArrayError> {
        let of_stage = |p: &Planned| p.stage.tiles().saturating_mul(p.parts.len() as u64 + 2);
        let tasks = self.stages.iter().map(of_stage).fold(0, u64::saturating_add);
        if tasks > u64::from(MAX_TASKS) {
            return Err(ArrayError::Usage(format!(
                "the plan has about {tasks} tasks: choose larger --chunks"
            )));
        }
        Ok(Builder::new())
    }

    /// The tasks of all tiles, stage by stage: for each tile the one that ends with its value.
    fn tiles(&self, builder: &mut Builder) -> Vec<Vec<u32>> {
        let mut tiles: Vec<Vec<u32>> = Vec::with_capacity(self.stages.len());
        for stage in self.stages {
            let made = tile_tasks(builder, stage, &tiles, self.held);
            tiles.push(made);
        }
        tiles
    }
}

/// A graph that writes a netCDF file: tiles and their sizes; then the layout, those who write, and the one that
/// closes the file.
pub(super) fn netcdf(work: &Work<'_>, spec: FileSpec, files: Files) -> Result<Graph, ArrayError> {
    let mut builder = work.begin()?;
    let tiles = work.tiles(&mut builder);
    let sizes_op = builder.op(encoded("array.sizes", Vec::new()));
    let carried = spec.variables.len() - work.outputs;
    let (mut sizes, mut scalars) = (Vec::new(), Vec::new());
    let Files { target, temporary, overwrite } = files;
    let mut output =
        OutputPlan { target, temporary, overwrite, spec, stages: Vec::new(), scalars: Vec::new() };
    // Chunked variables are counted without the carried ones and scalars.
    let is_scalar = |number: usize| output.spec.variables[carried + number].dims.is_empty();
    let chunked: Vec<usize> = (0..work.outputs).filter(|number| !is_scalar(*number)).collect();
    for (stage, made) in work.stages.iter().zip(&tiles).filter(|(stage, _)| !stage.outputs.is_empty()) {
        if stage.stage.kept.is_empty() {
            output.scalars.push(stage.outputs.iter().map(|number| carried + number).collect());
            scalars.extend_from_slice(made);
        } else {
            let count = arguments(&[stage.outputs.len() as u64]);
            sizes.extend(made.iter().map(|tile| builder.task(sizes_op, &count, &[*tile])));
            let place = |number: &usize| chunked.iter().position(|c| c == number).unwrap_or(0);
            output.stages.push((stage.stage.tiles(), stage.outputs.iter().map(place).collect()));
        }
    }
    let layout_op = builder.op(kernel("array.layout", &output));
    let layout = builder.task(layout_op, &[], &sizes);
    let mut closing = vec![layout];
    closing.extend(scalars);
    let writing = work.stages.iter().zip(&tiles).filter(|(stage, _)| writes_chunks(stage));
    for ((stage, made), (_, variables)) in writing.zip(&output.stages) {
        let (target, temporary) = (output.target.clone(), output.temporary.clone());
        let plan = WritePlan { target, temporary, variables: variables.clone() };
        let op = builder.op(kernel("array.write", &plan));
        for (first, group) in (0..).step_by(tiles_a_write(stage)).zip(made.chunks(tiles_a_write(stage))) {
            let deps: Vec<u32> = std::iter::once(layout).chain(group.iter().copied()).collect();
            closing.push(builder.task(op, &arguments(&[first]), &deps));
        }
    }
    // Its value says nothing, so it isn't wanted: whoever held it may be lost, and nothing is computed again.
    let close_op = builder.op(kernel("array.close", &output));
    builder.task(close_op, &[], &closing);
    built(builder)
}

/// A graph that writes a Zarr store: tiles, those who write their chunks, and the one that closes the store.
pub(super) fn store(work: &Work<'_>, spec: FileSpec, files: Files) -> Result<Graph, ArrayError> {
    let mut builder = work.begin()?;
    let tiles = work.tiles(&mut builder);
    let carried = spec.variables.len() - work.outputs;
    let Files { target, temporary, overwrite } = files;
    let mut output = StorePlan { target, temporary, overwrite, spec, scalars: Vec::new() };
    let (mut closing, mut writing) = (Vec::new(), Vec::new());
    for (stage, made) in work.stages.iter().zip(&tiles).filter(|(stage, _)| !stage.outputs.is_empty()) {
        if stage.stage.kept.is_empty() {
            output.scalars.push(stage.outputs.iter().map(|number| carried + number).collect());
            closing.extend_from_slice(made);
            continue;
        }
        let chunks = |number: &usize| {
            let variable = &output.spec.variables[carried + number];
            (variable.name.clone(), zarr::write::chunk_counts(&output.spec, variable))
        };
        let variables = stage.outputs.iter().map(chunks).collect();
        let (target, temporary) = (output.target.clone(), output.temporary.clone());
        let op = builder.op(kernel("zarr.write", &ChunksPlan { target, temporary, variables }));
        for (first, group) in (0..).step_by(tiles_a_write(stage)).zip(made.chunks(tiles_a_write(stage))) {
            writing.push(builder.task(op, &arguments(&[first]), group));
        }
    }
    closing.extend(writing);
    let close_op = builder.op(kernel("zarr.close", &output));
    builder.task(close_op, &[], &closing);
    built(builder)
}

/// A graph of tiles alone, which workers keep; with the tasks of the tiles, stage by stage. Its first task has the
/// name `key`.
pub(super) fn pinned(work: &Work<'_>, key: &str) -> Result<(Graph, Vec<Vec<u32>>), ArrayError> {
    let mut builder = work.begin()?;
    let tiles = work.tiles(&mut builder);
    let lasting = work.stages.iter().zip(&tiles).filter(|(stage, _)| !stage.outputs.is_empty());
    lasting.flat_map(|(_, made)| made).for_each(|tile| builder.want(*tile));
    builder.name(0, key.to_owned());
    Ok((built(builder)?, tiles))
}

fn writes_chunks(planned: &Planned) -> bool {
    !planned.outputs.is_empty() && !planned.stage.kept.is_empty()
}

fn built(builder: Builder) -> Result<Graph, ArrayError> {
    let told = |error: GraphError| ArrayError::Usage(format!("the plan is too large: {error}"));
    builder.build().map_err(told)
}

/// The tasks of a stage's tiles; the result has the one of each tile that ends with its value.
fn tile_tasks(builder: &mut Builder, planned: &Planned, earlier: &[Vec<u32>], held: &[Held]) -> Vec<u32> {
    let stage = &planned.stage;
    let params = stage.encoded();
    let parts = planned.parts.len() - 1;
    let whole = builder.op(encoded(if parts > 1 { "array.finish" } else { "array.tile" }, params.clone()));
    let split = (parts > 1).then(|| {
        let partial = builder.op(encoded("array.partial", params.clone()));
        (partial, builder.op(encoded("array.merge", params)))
    });
    let mut made = Vec::with_capacity(stage.tiles() as usize);
    let mut outside = HashMap::new();
    for tile in 0..stage.tiles() {
        let mut deps: Vec<u32> = Vec::new();
        for (producer, of) in stage.producers.iter().zip(&planned.producers) {
            deps.extend(stage.needed(producer, tile).iter().map(|n| match of {
                Producing::Stage(of) => earlier[*of][*n as usize],
                Producing::Held(of) => held_dep(builder, &mut outside, held[*of].tasks[*n as usize]),
            }));
        }
        let Some((partial, merge)) = split else {
            made.push(builder.task(whole, &arguments(&[tile]), &deps));
            continue;
        };
        let blocks = planned.parts.windows(2);
        let mut states: Vec<u32> =
            blocks.map(|w| builder.task(partial, &arguments(&[tile, w[0], w[1]]), &deps)).collect();
        while states.len() > MERGE_FAN_IN {
            let groups = states.chunks(MERGE_FAN_IN);
            states = groups.map(|group| builder.task(merge, &arguments(&[tile]), group)).collect();
        }
        let count = states.len() as u64;
        states.extend(deps);
        made.push(builder.task(whole, &arguments(&[tile, count]), &states));
    }
    made
}

fn tiles_a_write(planned: &Planned) -> usize {
    let sizes = planned.stage.outputs.iter().map(|o| o.dtype.size() as u64);
    let nbytes = sizes.sum::<u64>() * planned.stage.tile.iter().product::<u64>();
    (WRITE_BYTES / nbytes.max(1)).max(1) as usize
}

/// A dependency on what workers hold, each listed once.
fn held_dep(builder: &mut Builder, outside: &mut HashMap<TaskId, u32>, task: TaskId) -> u32 {
    *outside.entry(task).or_insert_with(|| builder.external(task))
}

pub(super) fn kernel(name: &str, params: &impl Serialize) -> Op {
    // Plans are plain data: only a map with keys of odd types could fail.
    encoded(name, rmp_serde::to_vec(params).expect("the parameters of a kernel are plain data"))
}

fn encoded(name: &str, params: Vec<u8>) -> Op {
    Op::Kernel { name: name.to_owned(), params, resources: Resources::default() }
}
