//! What the tasks of one stage of a plan share: the box of cells they cut into tiles, where their operands come
//! from, the programs, and what becomes of the results. It travels as the `params` of the kernels in [`super::tile`].

use super::KernelError;
use super::accumulate::{Kept, Reduction};
use super::program::{Lane, Program, Step};
use super::source::{FileStamp, Source};
use crate::format::DType;
use crate::format::grid::{chunk_counts, chunk_index};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// Stages whose decoded form a process keeps.
const CACHED_STAGES: usize = 16;

/// The box of a stage has dimensions that are kept (cut into tiles) and ones that are reduced (cut into blocks,
/// which one task takes in turn).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Stage {
    pub files: Vec<FileStamp>,
    /// Length of each dimension of the box.
    pub extent: Vec<u64>,
    /// Positions of the kept dimensions, ascending.
    pub kept: Vec<usize>,
    /// Cells of a tile along each kept dimension.
    pub tile: Vec<u64>,
    /// For each reduced dimension, where blocks begin, and at last its length.
    pub edges: Vec<Vec<u64>>,
    pub operands: Vec<Operand>,
    pub producers: Vec<Producer>,
    pub reduce: Option<Reduce>,
    /// Run over the tile. Its operands are those above and then the results of `reduce`. Its results are the
    /// outputs, then the results that later stages read.
    pub finish: Program,
    pub outputs: Vec<Encoding>,
    pub passed_on: Vec<Lane>,
}

/// An array that programs read.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Operand {
    /// Which dimension of the box each of its dimensions is.
    pub dims: Vec<usize>,
    pub from: From,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum From {
    Files(Source),
    /// That buffer of the tiles of a producer.
    Tiles {
        producer: usize,
        buffer: usize,
        lane: Lane,
    },
}

/// An earlier stage. The tasks' dependencies are the tiles, of each producer in turn, that a tile needs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Producer {
    pub dims: Vec<usize>,
    pub tile: Vec<u64>,
}

/// The part of a stage that runs over blocks.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reduce {
    pub program: Program,
    /// What is kept of which result of `program`.
    pub kept: Vec<(usize, Kept)>,
    /// What comes of which kept one.
    pub reductions: Vec<(usize, Reduction)>,
}

/// How a result is stored in the output file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Encoding {
    pub dtype: DType,
    /// One element for missing cells, little-endian.
    #[serde(with = "serde_bytes")]
    pub fill: Vec<u8>,
    pub deflate_level: Option<u32>,
}

impl Stage {
    /// The stage that `params` hold, from this process's cache if it is there.
    pub(super) fn decoded(params: &[u8]) -> Result<Arc<Stage>, KernelError> {
        type Entries = Vec<(Box<[u8]>, Arc<Stage>)>;
        static CACHE: Mutex<Entries> = Mutex::new(Vec::new());
        let mut entries = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, stage)) = entries.iter().find(|(kept, _)| **kept == *params) {
            return Ok(Arc::clone(stage));
        }
        let stage: Stage = rmp_serde::from_slice(params)
            .map_err(|error| KernelError::new(format!("not the parameters of an array stage: {error}")))?;
        if !stage.is_sound() {
            return Err(KernelError::new("the parameters of an array stage contradict each other"));
        }
        let stage = Arc::new(stage);
        if entries.len() >= CACHED_STAGES {
            entries.remove(0);
        }
        entries.push((params.into(), Arc::clone(&stage)));
        Ok(stage)
    }

    /// As the `params` of an operation.
    pub fn encoded(&self) -> Vec<u8> {
        // Plain data: only a map with keys of odd types could fail.
        rmp_serde::to_vec(self).expect("a stage is plain data")
    }

    /// Positions of the reduced dimensions, ascending.
    pub fn reduced(&self) -> Vec<usize> {
        (0..self.extent.len()).filter(|dim| !self.kept.contains(dim)).collect()
    }

    /// Lengths of the kept dimensions.
    pub fn kept_extent(&self) -> Vec<u64> {
        self.kept.iter().map(|dim| self.extent[*dim]).collect()
    }

    /// Tiles along each kept dimension.
    pub fn tile_counts(&self) -> Vec<u64> {
        chunk_counts(&self.kept_extent(), &self.tile)
    }

    pub fn tiles(&self) -> u64 {
        self.tile_counts().iter().product()
    }

    /// Blocks along each reduced dimension.
    pub fn block_counts(&self) -> Vec<u64> {
        self.edges.iter().map(|edges| edges.len().saturating_sub(1) as u64).collect()
    }

    pub fn blocks(&self) -> u64 {
        self.block_counts().iter().product()
    }

    /// Start and count along every dimension of the box: the tile in the kept ones, all of the reduced ones.
    pub fn tile_box(&self, tile: u64) -> (Vec<u64>, Vec<u64>) {
        let (mut start, mut count) = (vec![0; self.extent.len()], self.extent.clone());
        let index = chunk_index(tile, &self.tile_counts());
        for ((dim, at), len) in self.kept.iter().zip(index).zip(&self.tile) {
            start[*dim] = at * len;
            count[*dim] = (*len).min(self.extent[*dim] - start[*dim]);
        }
        (start, count)
    }

    /// The block with that number of that tile.
    pub fn block_box(&self, tile: u64, block: u64) -> (Vec<u64>, Vec<u64>) {
        let (mut start, mut count) = self.tile_box(tile);
        let index = chunk_index(block, &self.block_counts());
        for ((dim, at), edges) in self.reduced().into_iter().zip(index).zip(&self.edges) {
            start[dim] = edges[at as usize];
            count[dim] = edges[at as usize + 1] - edges[at as usize];
        }
        (start, count)
    }

    /// Numbers (C order) of the producer's tiles that a tile needs, ascending.
    pub fn needed(&self, producer: &Producer, tile: u64) -> Vec<u64> {
        let (start, count) = self.tile_box(tile);
        producer.needed(&self.extent, &start, &count)
    }

    /// Whether every index in it is one of something: stages come over the wire.
    fn is_sound(&self) -> bool {
        let rank = self.extent.len();
        let dims_ok = |dims: &[usize]| {
            dims.iter().all(|d| *d < rank) && (1..dims.len()).all(|k| !dims[..k].contains(&dims[k]))
        };
        let ascending = self.kept.windows(2).all(|w| w[0] < w[1]);
        let edges_ok = self.reduced().iter().zip(&self.edges).all(|(dim, edges)| {
            edges.first() == Some(&0)
                && edges.last() == Some(&self.extent[*dim])
                && edges.windows(2).all(|w| w[0] < w[1])
        });
        let tiles_ok = |tile: &[u64], dims: &[usize]| tile.len() == dims.len() && !tile.contains(&0);
        let operand_ok = |operand: &Operand| {
            dims_ok(&operand.dims)
                && match &operand.from {
                    From::Files(source) => {
                        source.shape.len() == operand.dims.len()
                            && source.join.is_none_or(|join| join < source.shape.len())
                            && source.shape.iter().zip(&operand.dims).all(|(n, d)| *n == self.extent[*d])
                    }
                    From::Tiles { producer, .. } => {
                        self.producers.get(*producer).is_some_and(|p| p.dims == operand.dims)
                    }
                }
        };
        let reduce_ok = self.reduce.as_ref().is_none_or(|reduce| {
            reduce.program.is_sound(self.operands.len())
                && reduce.kept.iter().all(|(result, _)| *result < reduce.program.results.len())
                && reduce
                    .reductions
                    .iter()
                    .all(|(kept, r)| reduce.kept.get(*kept).is_some_and(|(_, k)| *k == r.kept()))
        });
        let reductions = self.reduce.as_ref().map_or(0, |reduce| reduce.reductions.len());
        // What is run over the tile has no place in reduced dimensions.
        let finish_ok = reads(&self.finish).all(|operand| {
            self.operands.get(operand).is_none_or(|o| o.dims.iter().all(|d| self.kept.contains(d)))
        });
        dims_ok(&self.kept)
            && ascending
            && self.edges.len() + self.kept.len() == rank
            && edges_ok
            && tiles_ok(&self.tile, &self.kept)
            && self.producers.iter().all(|p| dims_ok(&p.dims) && tiles_ok(&p.tile, &p.dims))
            && self.operands.iter().all(operand_ok)
            && reduce_ok
            && finish_ok
            && self.finish.is_sound(self.operands.len() + reductions)
            && self.finish.results.len() == self.outputs.len() + self.passed_on.len()
            && self.outputs.iter().all(|o| o.fill.len() == o.dtype.size() && o.dtype != DType::String)
    }
}

impl Producer {
    /// Tiles of the box of `extent` along each of this producer's dimensions.
    pub fn tile_counts(&self, extent: &[u64]) -> Vec<u64> {
        let shape: Vec<u64> = self.dims.iter().map(|dim| extent[*dim]).collect();
        chunk_counts(&shape, &self.tile)
    }

    /// Numbers of the tiles that the box has a part in, ascending.
    pub fn needed(&self, extent: &[u64], start: &[u64], count: &[u64]) -> Vec<u64> {
        let counts = self.tile_counts(extent);
        let mut numbers = vec![0];
        for (k, dim) in self.dims.iter().enumerate() {
            if count[*dim] == 0 {
                return Vec::new();
            }
            let first = start[*dim] / self.tile[k];
            let last = (start[*dim] + count[*dim] - 1) / self.tile[k];
            let along = counts[k];
            numbers = numbers.iter().flat_map(|n| (first..=last).map(move |i| n * along + i)).collect();
        }
        numbers
    }
}

/// The operands that a program loads.
pub(super) fn reads(program: &Program) -> impl Iterator<Item = usize> + '_ {
    program.steps.iter().filter_map(|step| match step {
        Step::Load { operand, .. } => Some(*operand as usize),
        _ => None,
    })
}
