//! Runs graphs of kernels in this thread, and makes and reads small files.

use jobq::array::{ComputeRequest, Plan, begin, plan};
use jobq::format::netcdf4::{
    EncodeScratch, EncodedChunks, FileSpec, OutFile, VarSpec, VarStorage, encode_chunk, layout, pad_chunk,
};
use jobq::format::read_at::LocalFile;
use jobq::format::{AttrValue, Attribute, DType, Dataset, Dimension, grid, hdf5};
use jobq::graph::{Graph, Op, Value};
use jobq::kernels::{Call, KernelError, lookup};
use std::path::{Path, PathBuf};

/// A small random generator, so that orders can be told by their seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Calls the kernel of one task.
pub fn run_task(graph: &Graph, task: usize, values: &[Option<Value>]) -> Result<Value, KernelError> {
    let columns = graph.columns();
    let Op::Kernel { name, params, .. } = &columns.ops[columns.op_of[task] as usize] else {
        panic!("a kernel")
    };
    let inputs: Vec<Value> = columns
        .deps(task)
        .iter()
        .map(|d| values[*d as usize].clone().expect("a dependency has run"))
        .collect();
    lookup(name).expect(name)(&Call { params, args: columns.args(task), inputs: &inputs })
}

/// Runs all tasks in an order that the seed decides (0: as they stand), each `times` times; the values.
pub fn run(graph: &Graph, seed: u64, times: usize) -> Result<Vec<Option<Value>>, KernelError> {
    let columns = graph.columns();
    let mut values: Vec<Option<Value>> = vec![None; graph.len()];
    let mut left: Vec<usize> = (0..graph.len()).collect();
    let mut random = Random(seed);
    while !left.is_empty() {
        let ready: Vec<usize> = (0..left.len())
            .filter(|k| columns.deps(left[*k]).iter().all(|d| values[*d as usize].is_some()))
            .collect();
        let at = if seed == 0 { ready[0] } else { ready[random.below(ready.len())] };
        let task = left.remove(at);
        let value = run_task(graph, task, &values)?;
        for _ in 1..times {
            assert_eq!(run_task(graph, task, &values)?, value, "task {task} twice");
        }
        values[task] = Some(value);
    }
    Ok(values)
}

/// How many tasks have each kernel, by its short name.
pub fn tasks_of(graph: &Graph, kernel: &str) -> usize {
    let columns = graph.columns();
    columns.op_of.iter().filter(|op| columns.ops[**op as usize].family() == format!("array.{kernel}")).count()
}

/// A request for those statements, in a fresh file of `dir`.
pub fn request(statements: &str, inputs: &[PathBuf], out: &Path) -> ComputeRequest {
    ComputeRequest {
        statements: vec![statements.to_owned()],
        inputs: inputs.to_vec(),
        out: out.to_owned(),
        ..ComputeRequest::default()
    }
}

/// Plans and runs; the output's bytes.
pub fn computed(request: &ComputeRequest, seed: u64, times: usize) -> Vec<u8> {
    let plan: Plan = plan(request).unwrap_or_else(|e| panic!("{e}"));
    begin(&plan).unwrap();
    run(&plan.graph, seed, times).unwrap_or_else(|e| panic!("{e}"));
    assert!(!plan.temporary.exists());
    std::fs::read(&request.out).unwrap()
}

pub fn text(name: &str, value: &str) -> Attribute {
    Attribute { name: name.into(), value: AttrValue::Text(value.into()) }
}

pub fn dimension(name: &str, len: u64) -> Dimension {
    Dimension { name: name.into(), len, unlimited: false }
}

/// A coordinate of f64.
pub fn coordinate(name: &str, dim: usize, units: &str, values: &[f64]) -> VarSpec {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    VarSpec {
        name: name.into(),
        dtype: DType::F64,
        dims: vec![dim],
        attributes: vec![text("units", units), text("standard_name", name)],
        fill: None,
        storage: VarStorage::Contiguous(data),
    }
}

/// A compressed variable, with its values in `data` (little-endian, C order).
pub fn chunked(name: &str, dtype: DType, dims: &[usize], chunk: &[u64], fill: Option<Vec<u8>>) -> VarSpec {
    let storage = VarStorage::Chunked { chunk: chunk.to_vec(), shuffle: true, deflate_level: Some(1) };
    let attributes = vec![text("units", "m s-1"), text("standard_name", name)];
    VarSpec { name: name.into(), dtype, dims: dims.to_vec(), attributes, fill, storage }
}

/// Writes a file; `data` are the values of its chunked variables in order.
pub fn write(path: &Path, spec: &FileSpec, data: &[Vec<u8>]) {
    let mut scratch = EncodeScratch::default();
    let mut encoded: Vec<Vec<Vec<u8>>> = Vec::new();
    let variables = spec.variables.iter().filter(|v| matches!(v.storage, VarStorage::Chunked { .. }));
    for (variable, data) in variables.zip(data) {
        let chunk = variable.chunk().unwrap();
        let shape: Vec<u64> = variable.dims.iter().map(|d| spec.dimensions[*d].len).collect();
        let size = variable.dtype.size();
        assert_eq!(data.len() as u64, shape.iter().product::<u64>() * size as u64);
        let counts = grid::chunk_counts(&shape, chunk);
        let one = |ordinal: u64| {
            let start: Vec<u64> =
                grid::chunk_index(ordinal, &counts).iter().zip(chunk).map(|(i, n)| i * n).collect();
            let count: Vec<u64> = (0..shape.len()).map(|k| chunk[k].min(shape[k] - start[k])).collect();
            let mut part = vec![0; count.iter().product::<u64>() as usize * size];
            let origin = vec![0; count.len()];
            grid::copy_box(
                &count,
                (data, grid::Place { shape: &shape, start: &start }),
                (&mut part, grid::Place { shape: &count, start: &origin }),
                size,
            );
            let whole = pad_chunk(&part, &count, chunk, &variable.fill_value(), size);
            encode_chunk(&whole, variable.dtype, true, Some(1), &mut scratch)
        };
        encoded.push((0..counts.iter().product()).map(one).collect());
    }
    let sizes = |chunks: &Vec<Vec<u8>>| EncodedChunks {
        sizes: chunks.iter().map(|c| c.len() as u64).collect(),
        regions: vec![],
    };
    let layout = layout(spec, &encoded.iter().map(sizes).collect::<Vec<_>>()).unwrap();
    let out = OutFile::create(path, layout.len).unwrap();
    for (offset, chunk) in layout.chunk_offsets.iter().flatten().zip(encoded.iter().flatten()) {
        out.write_at(*offset, chunk).unwrap();
    }
    out.finish(&layout).unwrap();
}

/// A file that was read back.
pub struct Read {
    file: LocalFile,
    pub dataset: Dataset,
}

pub fn read(path: &Path) -> Read {
    let file = LocalFile::open(path).unwrap();
    let dataset = hdf5::open(&file).unwrap_or_else(|e| panic!("{e}"));
    Read { file, dataset }
}

impl Read {
    /// A variable's numbers; missing ones are NaN.
    pub fn numbers(&self, name: &str) -> Vec<f64> {
        let variable = self.dataset.variable(name).unwrap_or_else(|| panic!("no {name}"));
        let bytes = jobq::format::decode::read_all(&self.file, &self.dataset, variable).unwrap();
        let missing = variable.missing();
        let number = |element: &[u8]| match variable.dtype {
            _ if missing.as_deref() == Some(element) => f64::NAN,
            DType::F32 => f64::from(f32::from_le_bytes(element.try_into().unwrap())),
            DType::F64 => f64::from_le_bytes(element.try_into().unwrap()),
            DType::I64 => i64::from_le_bytes(element.try_into().unwrap()) as f64,
            DType::I16 => f64::from(i16::from_le_bytes(element.try_into().unwrap())),
            DType::I8 => f64::from(i8::from_le_bytes(element.try_into().unwrap())),
            other => panic!("{other:?}"),
        };
        bytes.chunks_exact(variable.dtype.size()).map(number).collect()
    }

    pub fn attribute(&self, variable: &str, name: &str) -> Option<String> {
        self.dataset.variable(variable)?.attribute(name)?.text().map(str::to_owned)
    }

    pub fn dims(&self, variable: &str) -> Vec<String> {
        let variable = self.dataset.variable(variable).unwrap();
        variable.dims.iter().map(|d| self.dataset.dimensions[*d].name.clone()).collect()
    }
}
