//! The kernels that compute tiles. `array.tile` does a whole tile; where the values of one tile are too many for one
//! task, `array.partial` reduces some of its blocks, `array.merge` joins such states in their order, and
//! `array.finish` ends as `array.tile` does.
//!
//! A tile's value has a buffer for each output (the encoded chunk), then one for each result that later stages read
//! (plain little-endian cells). A state has one for each column of each accumulator.

use super::accumulate::Accumulator;
use super::block::{Follower, Nest};
use super::program::{Cells, Decode, Lane, Machine, Program, Slice};
use super::source::Files;
use super::stage::{Encoding, From, Stage, reads};
use super::{Call, KernelError};
use crate::format::DType;
use crate::format::decode::Scratch;
use crate::format::grid::{Place, chunk_index, copy_box};
use crate::format::netcdf4::{EncodeScratch, encode_chunk, pad_chunk};
use crate::graph::Value;
use bytes::Bytes;
use std::cell::RefCell;

thread_local! {
    /// Buffers and (de)compressors, which each kernel thread makes once.
    static SCRATCH: RefCell<(Scratch, EncodeScratch)> = RefCell::default();
}

/// Arguments: the tile. Inputs: the producers' tiles.
pub(super) fn tile(call: &Call<'_>) -> Result<Value, KernelError> {
    let stage = Stage::decoded(call.params)?;
    let [tile] = numbers(call.args)?;
    let mut task = Task::new(&stage, tile, call.inputs)?;
    let states = task.reduce(0, stage.blocks())?;
    task.finish(states)
}

/// Arguments: the tile, the first block and the one after the last. Inputs: the producers' tiles. Gives a state.
pub(super) fn partial(call: &Call<'_>) -> Result<Value, KernelError> {
    let stage = Stage::decoded(call.params)?;
    let [tile, from, to] = numbers(call.args)?;
    let mut task = Task::new(&stage, tile, call.inputs)?;
    Ok(state_value(task.reduce(from, to.min(stage.blocks()))?))
}

/// Arguments: the tile. Inputs: states, in the order of their blocks. Gives a state.
pub(super) fn merge(call: &Call<'_>) -> Result<Value, KernelError> {
    let stage = Stage::decoded(call.params)?;
    let [tile] = numbers(call.args)?;
    check_tile(&stage, tile)?;
    Ok(state_value(merged(&stage, tile, call.inputs)?))
}

/// Arguments: the tile and the number of states. Inputs: the states, then the producers' tiles.
pub(super) fn finish(call: &Call<'_>) -> Result<Value, KernelError> {
    let stage = Stage::decoded(call.params)?;
    let [tile, count] = numbers(call.args)?;
    let (states, tiles) = call
        .inputs
        .split_at_checked(usize::try_from(count).unwrap_or(usize::MAX))
        .ok_or_else(|| KernelError::new("an array task lacks states"))?;
    let mut task = Task::new(&stage, tile, tiles)?;
    task.finish(merged(&stage, tile, states)?)
}

/// The argument bytes of a task.
pub fn arguments(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// Reads what [`arguments`] wrote.
pub(super) fn numbers<const N: usize>(args: &[u8]) -> Result<[u64; N], KernelError> {
    let (found, rest) = args.as_chunks::<8>();
    let found: Result<[[u8; 8]; N], _> = found.try_into();
    match found {
        Ok(found) if rest.is_empty() => Ok(found.map(u64::from_le_bytes)),
        _ => Err(KernelError::new(format!("an array task has {} argument bytes, not {}", args.len(), 8 * N))),
    }
}

fn check_tile(stage: &Stage, tile: u64) -> Result<(), KernelError> {
    if tile < stage.tiles() {
        return Ok(());
    }
    Err(KernelError::new(format!("an array stage has no tile {tile}")))
}

/// Bytes read for a block, which are used again for the next one, or a part of a tile that others share.
enum Buffer {
    Own(Vec<u8>),
    Shared(Bytes),
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Buffer::Own(bytes) => bytes,
            Buffer::Shared(bytes) => bytes,
        }
    }
}

/// An operand's cells within the box that is worked on.
struct Loaded {
    bytes: Buffer,
    /// The element of the box's first cell.
    base: usize,
    follower: Follower,
    decode: Decode,
}

/// One task: a tile of a stage.
struct Task<'a> {
    stage: &'a Stage,
    files: Files<'a>,
    start: Vec<u64>,
    count: Vec<u64>,
    tile: u64,
    /// For each operand that comes from tiles: all its cells that this tile needs.
    gathered: Vec<Option<Bytes>>,
    /// Buffers of blocks that are done.
    spare: RefCell<Vec<Vec<u8>>>,
}

impl<'a> Task<'a> {
    fn new(stage: &'a Stage, tile: u64, inputs: &[Value]) -> Result<Task<'a>, KernelError> {
        check_tile(stage, tile)?;
        let files = Files::new(&stage.files);
        let (start, count) = stage.tile_box(tile);
        let mut task =
            Task { stage, files, start, count, tile, gathered: Vec::new(), spare: RefCell::default() };
        task.gathered = task.gather(inputs)?;
        Ok(task)
    }

    /// Puts the producers' tiles together.
    fn gather(&self, inputs: &[Value]) -> Result<Vec<Option<Bytes>>, KernelError> {
        let needed: Vec<Vec<u64>> =
            self.stage.producers.iter().map(|producer| self.stage.needed(producer, self.tile)).collect();
        if needed.iter().map(Vec::len).sum::<usize>() != inputs.len() {
            return Err(KernelError::new(format!("an array task got {} tiles to read", inputs.len())));
        }
        let first_input = |producer: usize| needed[..producer].iter().map(Vec::len).sum::<usize>();
        let operands = self.stage.operands.iter();
        operands
            .map(|operand| match operand.from {
                From::Files(_) => Ok(None),
                From::Tiles { producer, buffer, lane } => {
                    let tiles = &inputs[first_input(producer)..][..needed[producer].len()];
                    self.assembled(producer, &needed[producer], tiles, buffer, lane).map(Some)
                }
            })
            .collect()
    }

    /// One buffer of several tiles as one array over this task's part of the producer's dimensions.
    fn assembled(
        &self,
        producer: usize,
        numbers: &[u64],
        tiles: &[Value],
        buffer: usize,
        lane: Lane,
    ) -> Result<Bytes, KernelError> {
        let (extent, producer) = (&self.stage.extent, &self.stage.producers[producer]);
        let size = Decode::plain(lane).dtype.size();
        let pick = |of: &[u64]| -> Vec<u64> { producer.dims.iter().map(|dim| of[*dim]).collect() };
        let (start, count, extent) = (pick(&self.start), pick(&self.count), pick(extent));
        let counts = producer.tile_counts(&self.stage.extent);
        let mut whole = vec![0; count.iter().product::<u64>() as usize * size];
        for (number, tile) in numbers.iter().zip(tiles) {
            let corner: Vec<u64> =
                chunk_index(*number, &counts).iter().zip(&producer.tile).map(|(i, n)| i * n).collect();
            let shape: Vec<u64> =
                (0..corner.len()).map(|k| producer.tile[k].min(extent[k] - corner[k])).collect();
            let bytes = tile.buffers.get(buffer);
            let bytes = bytes.filter(|b| b.len() as u64 == shape.iter().product::<u64>() * size as u64);
            let bytes =
                bytes.ok_or_else(|| KernelError::new("a tile that an array task reads has another size"))?;
            if shape == count && corner == start {
                return Ok(bytes.clone());
            }
            let low: Vec<u64> = corner.iter().zip(&start).map(|(a, b)| *a.max(b)).collect();
            let common: Vec<u64> =
                (0..low.len()).map(|k| (corner[k] + shape[k]).min(start[k] + count[k]) - low[k]).collect();
            let in_tile: Vec<u64> = low.iter().zip(&corner).map(|(a, b)| a - b).collect();
            let in_whole: Vec<u64> = low.iter().zip(&start).map(|(a, b)| a - b).collect();
            let from = (&bytes[..], Place { shape: &shape, start: &in_tile });
            let to = (&mut whole[..], Place { shape: &count, start: &in_whole });
            copy_box(&common, from, to, size);
        }
        Ok(whole.into())
    }

    /// Reads the operands that `program` uses within the box; the others stay empty.
    fn load(&self, program: &Program, start: &[u64], count: &[u64]) -> Result<Vec<Loaded>, KernelError> {
        let used: Vec<usize> = reads(program).collect();
        let extent: Vec<usize> = count.iter().map(|n| *n as usize).collect();
        let mut loaded = Vec::with_capacity(self.stage.operands.len());
        for (number, operand) in self.stage.operands.iter().enumerate() {
            let pick = |of: &[u64]| -> Vec<u64> { operand.dims.iter().map(|dim| of[*dim]).collect() };
            let nothing = || Loaded {
                bytes: Buffer::Own(Vec::new()),
                base: 0,
                follower: Follower { steps: vec![0; extent.len()] },
                decode: Decode::plain(Lane::F32),
            };
            loaded.push(match &operand.from {
                _ if !used.contains(&number) => nothing(),
                From::Files(source) => {
                    let mut bytes = self.spare.borrow_mut().pop().unwrap_or_default();
                    let (start, count) = (pick(start), pick(count));
                    SCRATCH.with_borrow_mut(|(scratch, _)| {
                        source.read(&self.files, (&start, &count), scratch, &mut bytes)
                    })?;
                    let follower = Follower::dense(&extent, &operand.dims);
                    Loaded { bytes: Buffer::Own(bytes), base: 0, follower, decode: source.decode.clone() }
                }
                From::Tiles { lane, .. } => {
                    // The gathered array covers this task's whole box, of which this may be a block.
                    let whole: Vec<usize> = self.count.iter().map(|n| *n as usize).collect();
                    let follower = Follower::dense(&whole, &operand.dims);
                    let base = (0..start.len())
                        .map(|dim| (start[dim] - self.start[dim]) as usize * follower.steps[dim])
                        .sum();
                    let bytes = Buffer::Shared(self.gathered[number].clone().unwrap_or_default());
                    Loaded { bytes, base, follower, decode: Decode::plain(*lane) }
                }
            });
        }
        Ok(loaded)
    }

    /// Streams the blocks `from..to` through the program into fresh accumulators.
    fn reduce(&mut self, from: u64, to: u64) -> Result<Vec<Accumulator>, KernelError> {
        let Some(reduce) = &self.stage.reduce else { return Ok(Vec::new()) };
        let cells: u64 = self.stage.kept.iter().map(|dim| self.count[*dim]).product();
        let mut states: Vec<Accumulator> =
            reduce.kept.iter().map(|(_, kept)| Accumulator::new(*kept, cells as usize)).collect();
        let mut machine = Machine::new(&reduce.program);
        for block in from..to {
            let (start, count) = self.stage.block_box(self.tile, block);
            let loaded = self.load(&reduce.program, &start, &count)?;
            let extent: Vec<usize> = count.iter().map(|n| *n as usize).collect();
            let nest = nest(&loaded, &extent, &self.stage.kept);
            if !nest.reduces_runs() {
                states.iter_mut().for_each(|state| state.expect_rows(nest.rows()));
            }
            run(&nest, &loaded, &reduce.program, &mut machine, |machine, at, n| {
                for (state, (result, _)) in states.iter_mut().zip(&reduce.kept) {
                    let values = machine.result(reduce.program.results[*result], n);
                    if nest.reduces_runs() { state.add_run(at, values) } else { state.add_row(at, values) }
                }
            });
            let spare = loaded.into_iter().filter_map(|l| match l.bytes {
                Buffer::Own(bytes) if bytes.capacity() > 0 => Some(bytes),
                _ => None,
            });
            self.spare.borrow_mut().extend(spare);
        }
        Ok(states)
    }

    /// What becomes of the reduced cells: the tile's value.
    fn finish(&mut self, mut states: Vec<Accumulator>) -> Result<Value, KernelError> {
        let stage = self.stage;
        // The box is now the tile alone: reduced dimensions have one cell.
        let mut count = self.count.clone();
        stage.reduced().into_iter().for_each(|dim| count[dim] = 1);
        let extent: Vec<usize> = count.iter().map(|n| *n as usize).collect();
        let mut loaded = self.load(&stage.finish, &self.start, &count)?;
        for (kept, reduction) in stage.reduce.iter().flat_map(|reduce| &reduce.reductions) {
            let numbers = states[*kept].finish(*reduction);
            loaded.push(Loaded {
                bytes: Buffer::Own(numbers.iter().flat_map(|x| x.to_le_bytes()).collect()),
                base: 0,
                follower: Follower::dense(&extent, &stage.kept),
                decode: Decode::plain(Lane::F64),
            });
        }
        let cells: usize = extent.iter().product();
        let mut results = self.results(cells);
        let mut machine = Machine::new(&stage.finish);
        let nest = nest(&loaded, &extent, &stage.kept);
        run(&nest, &loaded, &stage.finish, &mut machine, |machine, at, n| {
            for (out, register) in results.iter_mut().zip(&stage.finish.results) {
                out.store(at, machine.result(*register, n));
            }
        });
        Ok(self.value(results))
    }

    /// Empty arrays for the results of the tile.
    fn results(&self, cells: usize) -> Vec<Stored> {
        let passed_on = self.stage.passed_on.iter().map(|lane| {
            let dtype = Decode::plain(*lane).dtype;
            let nan = if dtype == DType::F32 {
                f32::NAN.to_le_bytes().to_vec()
            } else {
                f64::NAN.to_le_bytes().to_vec()
            };
            Encoding { dtype, fill: nan, deflate_level: None }
        });
        let encodings = self.stage.outputs.iter().cloned().chain(passed_on);
        encodings.map(|encoding| Stored { bytes: vec![0; cells * encoding.dtype.size()], encoding }).collect()
    }

    fn value(&self, results: Vec<Stored>) -> Value {
        let shape: Vec<u64> = self.stage.kept.iter().map(|dim| self.count[*dim]).collect();
        let outputs = self.stage.outputs.len();
        let buffers = results.into_iter().enumerate().map(|(number, Stored { bytes, encoding })| {
            if number >= outputs {
                return Bytes::from(bytes);
            }
            let Encoding { dtype, fill, deflate_level } = encoding;
            let whole = if shape == self.stage.tile {
                bytes
            } else {
                pad_chunk(&bytes, &shape, &self.stage.tile, &fill, dtype.size())
            };
            let shuffle = deflate_level.is_some();
            SCRATCH.with_borrow_mut(|(_, scratch)| {
                Bytes::from(encode_chunk(&whole, dtype, shuffle, deflate_level, scratch))
            })
        });
        Value { header: Bytes::new(), buffers: buffers.collect() }
    }
}

/// The loops over a box whose cells go to an array over the kept dimensions.
fn nest(loaded: &[Loaded], extent: &[usize], kept: &[usize]) -> Nest {
    let mut followers: Vec<Follower> = loaded.iter().map(|l| l.follower.clone()).collect();
    followers.push(Follower::dense(extent, kept));
    Nest::new(extent, &followers)
}

/// Runs the program over every piece; `take` gets the machine, the written array's place, and the cells.
fn run(
    nest: &Nest,
    loaded: &[Loaded],
    program: &Program,
    machine: &mut Machine,
    mut take: impl FnMut(&Machine, usize, usize),
) {
    let mut cells: Vec<Cells<'_>> = loaded
        .iter()
        .zip(nest.steps())
        .map(|(l, step)| Cells { bytes: &l.bytes, first: 0, step: *step, decode: &l.decode })
        .collect();
    nest.for_each(|piece| {
        for ((cells, loaded), first) in cells.iter_mut().zip(loaded).zip(piece.first) {
            cells.first = loaded.base + first;
        }
        machine.run(program, &cells, piece.count);
        take(machine, piece.first[loaded.len()], piece.count);
    });
}

fn state_value(mut states: Vec<Accumulator>) -> Value {
    let columns = states.iter_mut().flat_map(|state| state.columns().to_vec());
    let buffers = columns
        .map(|column| Bytes::from(column.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()))
        .collect();
    Value { header: Bytes::new(), buffers }
}

/// Joins states in their order.
fn merged(stage: &Stage, tile: u64, states: &[Value]) -> Result<Vec<Accumulator>, KernelError> {
    let kept = stage.reduce.iter().flat_map(|reduce| &reduce.kept).map(|(_, kept)| *kept);
    let (_, count) = stage.tile_box(tile);
    let cells: u64 = stage.kept.iter().map(|dim| count[*dim]).product();
    let mut whole: Vec<Accumulator> =
        kept.clone().map(|kept| Accumulator::new(kept, cells as usize)).collect();
    for state in states {
        let columns: Vec<Vec<f64>> = state
            .buffers
            .iter()
            .map(|bytes| bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
            .collect();
        let expected: usize = kept.clone().map(|kept| kept.columns()).sum();
        if columns.len() != expected || columns.iter().any(|c| c.len() as u64 != cells) {
            return Err(KernelError::new("a state that an array task merges has another size"));
        }
        let mut rest = &columns[..];
        for (accumulator, kept) in whole.iter_mut().zip(kept.clone()) {
            let (own, others) = rest.split_at(kept.columns());
            accumulator.merge(own);
            rest = others;
        }
    }
    Ok(whole)
}

/// A result as it is stored.
struct Stored {
    bytes: Vec<u8>,
    encoding: Encoding,
}

impl Stored {
    /// Stores cells from the `at`th on.
    fn store(&mut self, at: usize, values: Slice<'_>) {
        let Encoding { dtype, fill, .. } = &self.encoding;
        let size = dtype.size();
        let count = match values {
            Slice::F32(values) => values.len(),
            Slice::F64(values) => values.len(),
        };
        let out = &mut self.bytes[at * size..(at + count) * size];
        match values {
            Slice::F32(values) => store(*dtype, fill, out, values),
            Slice::F64(values) => store(*dtype, fill, out, values),
        }
    }
}

/// Numbers as elements of that type; missing ones, and those beyond the type's range, as its fill.
fn store<T: Copy + Into<f64>>(dtype: DType, fill: &[u8], out: &mut [u8], values: &[T]) {
    fn each<const N: usize, T: Copy + Into<f64>>(
        (fill, out, values): (&[u8], &mut [u8], &[T]),
        element: impl Fn(f64) -> Option<[u8; N]>,
    ) {
        let fill: [u8; N] = fill.try_into().unwrap_or([0; N]);
        for (out, x) in out.as_chunks_mut::<N>().0.iter_mut().zip(values) {
            *out = element((*x).into()).unwrap_or(fill);
        }
    }
    /// Up to it, every integer is an f64.
    const TWO_TO_53: f64 = 9_007_199_254_740_992.0;
    macro_rules! integer {
        ($type:ty) => {
            each((fill, out, values), |x| {
                // The largest 64-bit ones round up to what is beyond.
                let top = <$type>::MAX as f64;
                let within = x >= <$type>::MIN as f64 && if top < TWO_TO_53 { x <= top } else { x < top };
                within.then(|| (x as $type).to_le_bytes())
            })
        };
    }
    match dtype {
        DType::F32 => each((fill, out, values), |x| (!x.is_nan()).then(|| (x as f32).to_le_bytes())),
        DType::F64 => each((fill, out, values), |x| (!x.is_nan()).then(|| x.to_le_bytes())),
        DType::I8 => integer!(i8),
        DType::I16 => integer!(i16),
        DType::I32 => integer!(i32),
        DType::I64 => integer!(i64),
        DType::U16 => integer!(u16),
        DType::U32 => integer!(u32),
        DType::U64 => integer!(u64),
        DType::U8 | DType::Char | DType::String => integer!(u8),
    }
}
