//! Our reader and writer against other people's: netCDF4-python, h5py, xarray and ncdump. Python is the one that
//! JOBQ_TEST_PYTHON names, with numpy, netCDF4, h5py and xarray; without it these tests say that they are skipped.

use jobq::format::decode::{self, Scratch};
use jobq::format::example::{WindSizes, example_winds};
use jobq::format::netcdf4::{
    EncodeScratch, EncodedChunks, FileSpec, OutFile, VarSpec, VarStorage, encode_chunk, layout, pad_chunk,
};
use jobq::format::read_at::LocalFile;
use jobq::format::{
    AttrValue, Attribute, DType, Dataset, Dimension, FormatError, ReadAt, Storage, Variable, grid, hdf5,
};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn python(test: &str) -> Option<PathBuf> {
    let found = std::env::var_os("JOBQ_TEST_PYTHON").map(PathBuf::from);
    if found.is_none() {
        eprintln!("skipped: {test}: JOBQ_TEST_PYTHON is not set");
    }
    found
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)
}

/// Runs a script to its end and returns what it printed.
fn run(python: &Path, name: &str, arguments: &[&Path], input: &str) -> String {
    let mut child = Command::new(python)
        .arg(script(name))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let feeder = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    // A script that stops early closes its input: its own output says why.
    let _ = feeder.join().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{printed}\n{errors}", output.status);
    printed
}

fn corpus(python: &Path, dir: &Path) -> Vec<PathBuf> {
    run(python, "make_corpus.py", &[dir], "");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

fn attribute_json(attributes: &[Attribute]) -> Value {
    let value = |value: &AttrValue| match value {
        AttrValue::Text(text) => json!(text),
        AttrValue::Texts(texts) => json!(texts),
        AttrValue::Ints(_, values) => json!(values),
        AttrValue::UInts(_, values) => json!(values),
        AttrValue::Floats(_, values) => json!(values),
    };
    Value::Object(attributes.iter().map(|a| (a.name.clone(), value(&a.value))).collect::<Map<_, _>>())
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::I8 => "<i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U8 => "<u1",
        DType::U16 => "<u2",
        DType::U32 => "<u4",
        DType::U64 => "<u8",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::Char => "S1",
        DType::String => "O",
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
    digits.map(char::from).collect()
}

/// Stored chunks with their first elements; without the axis that counts a text's bytes.
fn chunk_json(dataset: &Dataset, variable: &Variable) -> Value {
    let Storage::Chunked { chunk, chunks, .. } = &variable.storage else { return Value::Null };
    let counts = grid::chunk_counts(&dataset.shape(variable), chunk);
    let rows = chunks.iter().enumerate().filter_map(|(i, stored)| {
        let stored = stored.as_ref()?;
        let index = grid::chunk_index(i as u64, &counts);
        let mut row: Vec<u64> = index.iter().zip(chunk).map(|(i, len)| i * len).collect();
        row.extend([stored.offset, stored.nbytes, u64::from(stored.filter_mask)]);
        Some(json!(row))
    });
    Value::Array(rows.collect())
}

fn variable_json(source: &dyn ReadAt, dataset: &Dataset, variable: &Variable) -> Result<Value, FormatError> {
    let (values, texts) = if variable.dtype == DType::String {
        (String::new(), decode::read_strings(source, dataset, variable)?)
    } else {
        (hex(&decode::read_all(source, dataset, variable)?), vec![])
    };
    let dims: Vec<&str> = variable.dims.iter().map(|d| dataset.dimensions[*d].name.as_str()).collect();
    let address = match variable.storage {
        Storage::Contiguous { offset, .. } => json!(offset),
        _ => Value::Null,
    };
    Ok(json!({
        "name": variable.name,
        "dtype": dtype_name(variable.dtype),
        "dims": dims,
        "shape": dataset.shape(variable),
        "attributes": attribute_json(&variable.attributes),
        "values": values,
        "texts": texts,
        "chunks": chunk_json(dataset, variable),
        "address": address,
    }))
}

/// One line about a file as our reader sees it. Variables that can't be decoded count as skipped.
fn describe(path: &Path) -> String {
    let source = LocalFile::open(path).unwrap();
    let dataset = hdf5::open(&source).unwrap_or_else(|e| panic!("{e}"));
    let mut skipped: Vec<String> = dataset.skipped.iter().map(|s| s.name.clone()).collect();
    let mut variables = vec![];
    for variable in &dataset.variables {
        match variable_json(&source, &dataset, variable) {
            Ok(described) => variables.push(described),
            Err(FormatError::Unsupported { .. }) => skipped.push(variable.name.clone()),
            Err(error) => panic!("{error}"),
        }
    }
    let dimensions: Vec<Value> =
        dataset.dimensions.iter().map(|d| json!([d.name, d.len, d.unlimited])).collect();
    json!({
        "file": path.to_str().unwrap(),
        "dimensions": dimensions,
        "attributes": attribute_json(&dataset.attributes),
        "skipped": skipped,
        "variables": variables,
    })
    .to_string()
}

#[test]
fn foreign_files_read_as_h5py_reads_them() {
    let Some(python) = python("foreign_files_read_as_h5py_reads_them") else { return };
    let dir = tempfile::tempdir().unwrap();
    let files = corpus(&python, dir.path());
    let lines: Vec<String> = files.iter().map(|file| describe(file)).collect();
    let printed = run(&python, "compare_read.py", &[], &lines.join("\n"));
    let compared: usize = printed.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(compared > 2000, "{printed}");

    let netcdf: Vec<&str> = lines
        .iter()
        .zip(&files)
        .filter(|(_, f)| f.extension().is_some_and(|e| e == "nc"))
        .map(|(l, _)| l.as_str())
        .collect();
    let printed = run(&python, "compare_netcdf.py", &[], &netcdf.join("\n"));
    assert!(printed.starts_with(&format!("compared {} different 0", netcdf.len())), "{printed}");

    boxes_of_a_foreign_file_equal_the_whole(&dir.path().join("deflated_fill.nc"));
    unreadable_variables_are_named(&dir.path().join("unreadable.h5"));
}

fn boxes_of_a_foreign_file_equal_the_whole(path: &Path) {
    let source = LocalFile::open(path).unwrap();
    let dataset = hdf5::open(&source).unwrap();
    let variable = dataset.variable("x_wind").unwrap();
    let (shape, whole) = (dataset.shape(variable), decode::read_all(&source, &dataset, variable).unwrap());
    let (mut scratch, mut out) = (Scratch::default(), vec![]);
    for (start, count) in
        [([0, 0, 0, 0], [7, 3, 21, 34]), ([1, 1, 3, 5], [4, 1, 15, 20]), ([2, 0, 10, 12], [2, 2, 10, 12])]
    {
        decode::read_slab(&source, &dataset, variable, &start, &count, &mut scratch, &mut out).unwrap();
        let mut wanted = vec![0; out.len()];
        let from = grid::Place { shape: &shape, start: &start };
        grid::copy_box(
            &count,
            (&whole, from),
            (&mut wanted, grid::Place { shape: &count, start: &[0; 4] }),
            4,
        );
        assert_eq!(out, wanted);
    }
}

fn unreadable_variables_are_named(path: &Path) {
    let source = LocalFile::open(path).unwrap();
    let dataset = hdf5::open(&source).unwrap();
    let skipped: Vec<_> = dataset.skipped.iter().map(|s| format!("{}: {}", s.name, s.reason)).collect();
    assert_eq!(
        skipped,
        ["compound: its type is compound", "half: its type is floating-point number of unusual size",]
    );
    let lzf = dataset.variable("lzf").unwrap();
    let error = decode::read_all(&source, &dataset, lzf).unwrap_err().to_string();
    assert!(
        error.ends_with("not supported: variable lzf: compressed with lzf (HDF5 filter 32000)"),
        "{error}"
    );
    decode::read_all(&source, &dataset, dataset.variable("fine").unwrap()).unwrap();
}

fn text(name: &str, value: &str) -> Attribute {
    Attribute { name: name.into(), value: AttrValue::Text(value.into()) }
}

fn contiguous(name: &str, dtype: DType, dims: &[usize], data: Vec<u8>) -> VarSpec {
    VarSpec {
        name: name.into(),
        dtype,
        dims: dims.to_vec(),
        attributes: vec![],
        fill: None,
        storage: VarStorage::Contiguous(data),
    }
}

fn number_bytes(dtype: DType, value: i64) -> Vec<u8> {
    match dtype {
        DType::F32 => (value as f32).to_le_bytes().to_vec(),
        DType::F64 => (value as f64).to_le_bytes().to_vec(),
        _ => value.to_le_bytes()[..dtype.size()].to_vec(),
    }
}

fn written_spec() -> FileSpec {
    let dimension = |name: &str, len, unlimited| Dimension { name: name.into(), len, unlimited };
    let mut field = contiguous("field", DType::F32, &[0, 1], vec![]);
    field.storage = VarStorage::Chunked { chunk: vec![3, 4], shuffle: true, deflate_level: Some(4) };
    field.fill = Some((-32768f32).to_le_bytes().to_vec());
    field.attributes = vec![text("units", "m s-1")];
    let mut time = contiguous("time", DType::F64, &[0], vec![]);
    let hours = (0..7).flat_map(|t| (f64::from(t) * 1.5).to_le_bytes()).collect();
    time.storage = VarStorage::InlineChunks { chunk: vec![4], data: hours };
    let mut absent = contiguous("absent", DType::I32, &[0, 3], vec![]);
    absent.storage = VarStorage::Chunked { chunk: vec![8, 8], shuffle: true, deflate_level: Some(1) };
    let mut variables = vec![
        time,
        field,
        absent,
        contiguous("scalar", DType::F64, &[], 2.5f64.to_le_bytes().to_vec()),
        contiguous("letters", DType::Char, &[2], b"abcd".to_vec()),
        contiguous("only", DType::U8, &[1, 2], (0..40).collect()),
    ];
    let types = [
        (DType::I8, "i1"),
        (DType::I16, "i2"),
        (DType::I32, "i4"),
        (DType::I64, "i8"),
        (DType::U8, "u1"),
        (DType::U16, "u2"),
        (DType::U32, "u4"),
        (DType::U64, "u8"),
        (DType::F32, "f4"),
        (DType::F64, "f8"),
    ];
    for (dtype, name) in types {
        let data = (0..10).flat_map(|v| number_bytes(dtype, v)).collect();
        variables.push(contiguous(&format!("of_{name}"), dtype, &[1], data));
    }
    FileSpec {
        dimensions: vec![
            dimension("time", 7, true),
            dimension("x", 10, false),
            dimension("only", 4, false),
            dimension("forever", 2, true),
        ],
        attributes: vec![
            text("title", "Wärme"),
            text("nothing", ""),
            Attribute {
                name: "words".into(),
                value: AttrValue::Texts(vec!["a".into(), String::new(), "ccc".into()]),
            },
            Attribute { name: "limits".into(), value: AttrValue::Ints(DType::I16, vec![-1, 7]) },
            Attribute { name: "number".into(), value: AttrValue::Floats(DType::F64, vec![2.5]) },
        ],
        variables,
    }
}

/// The chunks of `field`, every third one absent.
fn field_chunks() -> Vec<Vec<u8>> {
    let mut scratch = EncodeScratch::default();
    let counts = grid::chunk_counts(&[7, 10], &[3, 4]);
    let encode = |ordinal: u64| {
        if ordinal % 3 == 2 {
            return vec![];
        }
        let at = grid::chunk_index(ordinal, &counts);
        let start = [at[0] * 3, at[1] * 4];
        let shape = [3.min(7 - start[0]), 4.min(10 - start[1])];
        let cells = (start[0]..start[0] + shape[0])
            .flat_map(|t| (start[1]..start[1] + shape[1]).map(move |x| (t * 100 + x) as f32 + 0.25));
        let raw: Vec<u8> = cells.flat_map(f32::to_le_bytes).collect();
        let padded = pad_chunk(&raw, &shape, &[3, 4], &(-32768f32).to_le_bytes(), 4);
        encode_chunk(&padded, DType::F32, true, Some(4), &mut scratch)
    };
    (0..counts.iter().product()).map(encode).collect()
}

fn write(path: &Path, spec: &FileSpec, encoded: &[Vec<Vec<u8>>]) {
    let tables: Vec<EncodedChunks> = encoded
        .iter()
        .map(|chunks| EncodedChunks {
            sizes: chunks.iter().map(|c| c.len() as u64).collect(),
            regions: vec![],
        })
        .collect();
    let layout = layout(spec, &tables).unwrap();
    let temporary = path.with_extension("tmp");
    let out = OutFile::create(&temporary, layout.len).unwrap();
    for (offset, chunk) in layout.chunk_offsets.iter().flatten().zip(encoded.iter().flatten()) {
        if !chunk.is_empty() {
            out.write_at(*offset, chunk).unwrap();
        }
    }
    out.finish(&layout).unwrap();
    out.publish(path).unwrap();
}

fn write_all(dir: &Path) {
    write(&dir.join("written.nc"), &written_spec(), &[field_chunks(), vec![vec![]]]);
    let mut many = contiguous("many", DType::I32, &[0], vec![]);
    many.storage = VarStorage::Chunked { chunk: vec![1], shuffle: false, deflate_level: None };
    let spec = FileSpec {
        dimensions: vec![Dimension { name: "t".into(), len: 20_000, unlimited: true }],
        attributes: vec![],
        variables: vec![many],
    };
    write(&dir.join("many.nc"), &spec, &[(0..20_000i32).map(|i| i.to_le_bytes().to_vec()).collect()]);
    // More variables along a dimension than its list of back references can name.
    let variables =
        (0..5000).map(|i| contiguous(&format!("v{i}"), DType::U8, &[0], vec![(i % 200) as u8, 1]));
    let spec = FileSpec {
        dimensions: vec![Dimension { name: "x".into(), len: 2, unlimited: false }],
        attributes: vec![],
        variables: variables.collect(),
    };
    write(&dir.join("wide.nc"), &spec, &[]);
    let sizes = WindSizes {
        times: 5,
        heights: 2,
        latitudes: 13,
        longitudes: 17,
        chunk: [2, 1, 6, 8],
        ..WindSizes::default()
    };
    example_winds(&dir.join("winds"), 2, &sizes).unwrap();
}

#[test]
fn written_files_are_read_and_appended_to_by_netcdf4_xarray_and_h5py() {
    let Some(python) = python("written_files_are_read_and_appended_to_by_netcdf4_xarray_and_h5py") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path());
    let printed = run(&python, "check_written.py", &[dir.path()], "");
    assert_eq!(printed.trim(), "all read");
    // What netCDF-C made of our file by appending to it is read by us again.
    let lines = [describe(&dir.path().join("appended.nc")), describe(&dir.path().join("written.nc"))];
    run(&python, "compare_read.py", &[], &lines.join("\n"));
    run(&python, "compare_netcdf.py", &[], &lines.join("\n"));
}

#[test]
fn written_files_are_shown_by_ncdump() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path());
    let output = match Command::new("ncdump").arg("-sh").arg(dir.path().join("written.nc")).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: written_files_are_shown_by_ncdump: ncdump: {error}");
            return;
        }
    };
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "time = UNLIMITED ; // (7 currently)",
        "x = 10 ;",
        "double time(time) ;",
        "float field(time, x) ;",
        "field:_FillValue = -32768.f ;",
        "field:units = \"m s-1\" ;",
        "field:_DeflateLevel = 4 ;",
        "char letters(only) ;",
        "ubyte only(x, only) ;",
        "string :words = \"a\", \"\", \"ccc\" ;",
        ":limits = -1s, 7s ;",
        ":_Format = \"netCDF-4\" ;",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
}
