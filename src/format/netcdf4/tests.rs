//! What the writer wrote, read back by our own reader, bit for bit. Other readers: `tests/format_oracle.rs`.

use super::*;
use crate::format::decode::{self, Scratch};
use crate::format::read_at::{LocalFile, Memory};
use crate::format::{AttrValue, FormatError, Storage, grid, hdf5};

/// The bytes of a file with all its chunks.
fn assemble(layout: &Layout, encoded: &[Vec<Vec<u8>>]) -> Memory {
    let mut bytes = vec![0; layout.len as usize];
    let mut put = |offset: u64, piece: &[u8]| {
        bytes[offset as usize..offset as usize + piece.len()].copy_from_slice(piece);
    };
    for (offsets, chunks) in layout.chunk_offsets.iter().zip(encoded) {
        for (offset, chunk) in offsets.iter().zip(chunks) {
            put(*offset, chunk);
        }
    }
    for (offset, piece) in &layout.metadata {
        put(*offset, piece);
    }
    put(0, &layout.superblock);
    Memory::new("written", bytes)
}

fn sizes(encoded: &[Vec<Vec<u8>>]) -> Vec<EncodedChunks> {
    let of = |chunks: &Vec<Vec<u8>>| EncodedChunks {
        sizes: chunks.iter().map(|c| c.len() as u64).collect(),
        regions: vec![],
    };
    encoded.iter().map(of).collect()
}

fn dimension(name: &str, len: u64, unlimited: bool) -> Dimension {
    Dimension { name: name.into(), len, unlimited }
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

/// A field along an unlimited time with edges in both directions, every third chunk absent.
fn field_file() -> (FileSpec, Vec<Vec<Vec<u8>>>, Vec<f32>) {
    let (times, width) = (7u64, 10u64);
    let fill = (-32768f32).to_le_bytes().to_vec();
    let mut field = contiguous("field", DType::F32, &[0, 1], vec![]);
    field.storage = VarStorage::Chunked { chunk: vec![3, 4], shuffle: true, deflate_level: Some(4) };
    field.fill = Some(fill.clone());
    field.attributes = vec![text("units", "m s-1")];
    let mut time = contiguous("time", DType::F64, &[0], vec![]);
    let hours = (0..times).flat_map(|t| (t as f64 * 1.5).to_le_bytes()).collect();
    time.storage = VarStorage::InlineChunks { chunk: vec![4], data: hours };
    let spec = FileSpec {
        dimensions: vec![dimension("time", times, true), dimension("x", width, false)],
        attributes: vec![text("title", "a field")],
        variables: vec![field, time],
    };
    let mut values = vec![-32768f32; (times * width) as usize];
    let mut scratch = EncodeScratch::default();
    let counts = grid::chunk_counts(&[times, width], &[3, 4]);
    let mut chunks = vec![];
    for ordinal in 0..counts.iter().product() {
        if ordinal % 3 == 2 {
            chunks.push(vec![]);
            continue;
        }
        let at = grid::chunk_index(ordinal, &counts);
        let start = [at[0] * 3, at[1] * 4];
        let shape = [3.min(times - start[0]), 4.min(width - start[1])];
        let mut raw = vec![];
        for t in start[0]..start[0] + shape[0] {
            for x in start[1]..start[1] + shape[1] {
                let value = t as f32 * 100.0 + x as f32 + 0.25;
                values[(t * width + x) as usize] = value;
                raw.extend_from_slice(&value.to_le_bytes());
            }
        }
        let padded = pad_chunk(&raw, &shape, &[3, 4], &fill, 4);
        chunks.push(encode_chunk(&padded, DType::F32, true, Some(4), &mut scratch));
    }
    (spec, vec![chunks], values)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn a_chunked_field_with_edges_and_absent_chunks_comes_back() {
    let (spec, encoded, values) = field_file();
    let file = assemble(&layout(&spec, &sizes(&encoded)).unwrap(), &encoded);
    let dataset = hdf5::open(&file).unwrap();
    assert_eq!(dataset.dimensions, spec.dimensions);
    assert_eq!(dataset.attributes, spec.attributes);
    assert_eq!(dataset.skipped, []);
    let field = dataset.variable("field").unwrap();
    assert_eq!((field.dtype, field.dims.as_slice()), (DType::F32, &[0, 1][..]));
    assert_eq!(field.missing(), Some((-32768f32).to_le_bytes().to_vec()));
    assert_eq!(field.attribute("units"), Some(&AttrValue::Text("m s-1".into())));
    assert_eq!(floats(&decode::read_all(&file, &dataset, field).unwrap()), values);
    let time = decode::read_all(&file, &dataset, dataset.variable("time").unwrap()).unwrap();
    assert_eq!(time, (0..7).flat_map(|t| (f64::from(t) * 1.5).to_le_bytes()).collect::<Vec<u8>>());
}

#[test]
fn every_box_of_the_field_equals_the_same_box_of_the_values() {
    let (spec, encoded, values) = field_file();
    let file = assemble(&layout(&spec, &sizes(&encoded)).unwrap(), &encoded);
    let dataset = hdf5::open(&file).unwrap();
    let field = dataset.variable("field").unwrap();
    let (mut scratch, mut out) = (Scratch::default(), vec![]);
    for (t, x, nt, nx) in (0..7)
        .flat_map(|t| (0..10).flat_map(move |x| [(t, x, 7 - t, 10 - x), (t, x, 1, 10 - x), (t, x, 0, 1)]))
    {
        decode::read_slab(&file, &dataset, field, &[t, x], &[nt, nx], &mut scratch, &mut out).unwrap();
        let wanted: Vec<f32> = (t..t + nt)
            .flat_map(|t| (x..x + nx).map(move |x| (t * 10 + x) as usize))
            .map(|i| values[i])
            .collect();
        assert_eq!(floats(&out), wanted, "{nt} x {nx} at {t}, {x}");
    }
    let outside = decode::read_slab(&file, &dataset, field, &[5, 0], &[3, 1], &mut scratch, &mut out);
    assert!(outside.unwrap_err().to_string().contains("variable field: no box of [3, 1] at [5, 0]"));
}

#[test]
fn all_types_scalars_texts_and_odd_names_come_back() {
    let numbers: Vec<(DType, AttrValue)> = vec![
        (DType::I8, AttrValue::Ints(DType::I8, vec![-128, 127])),
        (DType::I16, AttrValue::Ints(DType::I16, vec![i64::from(i16::MIN)])),
        (DType::I32, AttrValue::Ints(DType::I32, vec![i64::from(i32::MIN), 5])),
        (DType::I64, AttrValue::Ints(DType::I64, vec![i64::MIN, i64::MAX])),
        (DType::U8, AttrValue::UInts(DType::U8, vec![255])),
        (DType::U16, AttrValue::UInts(DType::U16, vec![65535])),
        (DType::U32, AttrValue::UInts(DType::U32, vec![u64::from(u32::MAX)])),
        (DType::U64, AttrValue::UInts(DType::U64, vec![u64::MAX])),
        (DType::F32, AttrValue::Floats(DType::F32, vec![0.5, -1.25])),
        (DType::F64, AttrValue::Floats(DType::F64, vec![1e300])),
    ];
    let mut spec = FileSpec {
        dimensions: vec![dimension("x", 3, false), dimension("empty", 0, false), dimension("y", 2, false)],
        attributes: vec![
            text("title", "Wärme"),
            text("nothing", ""),
            Attribute {
                name: "list".into(),
                value: AttrValue::Texts(vec!["a".into(), String::new(), "ccc".into()]),
            },
        ],
        variables: vec![],
    };
    for (dtype, value) in &numbers {
        let data: Vec<u8> = (0..3 * dtype.size()).map(|i| i as u8).collect();
        let mut variable = contiguous(&format!("v_{dtype:?}"), *dtype, &[0], data);
        variable.attributes = vec![Attribute { name: "range".into(), value: value.clone() }];
        spec.variables.push(variable);
    }
    spec.variables.push(contiguous("scalar", DType::F64, &[], 2.5f64.to_le_bytes().to_vec()));
    spec.variables.push(contiguous("letters", DType::Char, &[0], b"abc".to_vec()));
    spec.variables.push(contiguous("none", DType::I32, &[1, 0], vec![]));
    // Has a dimension's name and is not its coordinate.
    spec.variables.push(contiguous("y", DType::U8, &[2, 0], vec![1, 2, 3, 4, 5, 6]));
    let file = assemble(&layout(&spec, &[]).unwrap(), &[]);
    let dataset = hdf5::open(&file).unwrap();
    assert_eq!(dataset.dimensions, spec.dimensions);
    assert_eq!(dataset.attributes, spec.attributes);
    for wanted in &spec.variables {
        let found = dataset.variable(&wanted.name).unwrap_or_else(|| panic!("{} is missing", wanted.name));
        assert_eq!(
            (found.dtype, &found.dims, &found.attributes),
            (wanted.dtype, &wanted.dims, &wanted.attributes)
        );
        assert_eq!(found.fill, wanted.dtype.default_fill(), "{}", wanted.name);
        assert_eq!(found.missing(), None);
        let VarStorage::Contiguous(data) = &wanted.storage else { unreachable!() };
        assert_eq!(&decode::read_all(&file, &dataset, found).unwrap(), data, "{}", wanted.name);
    }
    let letters = decode::read_strings(&file, &dataset, dataset.variable("letters").unwrap());
    assert_eq!(letters.unwrap(), ["abc"]);
}

#[test]
fn twelve_thousand_chunks_make_a_tree_of_three_levels() {
    let mut variable = contiguous("many", DType::U8, &[0, 1], vec![]);
    variable.storage = VarStorage::Chunked { chunk: vec![1, 2], shuffle: true, deflate_level: None };
    let spec = FileSpec {
        dimensions: vec![dimension("t", 3000, true), dimension("x", 8, false)],
        attributes: vec![],
        variables: vec![variable],
    };
    let chunks: Vec<Vec<u8>> = (0..12_000u32).map(|i| vec![i as u8, (i >> 8) as u8]).collect();
    let encoded = vec![chunks];
    let file = assemble(&layout(&spec, &sizes(&encoded)).unwrap(), &encoded);
    let dataset = hdf5::open(&file).unwrap();
    let many = dataset.variable("many").unwrap();
    let Storage::Chunked { chunks, .. } = &many.storage else { panic!("not chunked") };
    assert!(chunks.iter().all(Option::is_some));
    assert_eq!(decode::read_all(&file, &dataset, many).unwrap(), encoded.concat().concat());
}

#[test]
fn five_thousand_variables_along_one_dimension_come_back() {
    // Their back references exceed an attribute: they are left out, and nothing is lost by it.
    let variables = (0..5000).map(|i| contiguous(&format!("v{i}"), DType::U8, &[0], vec![i as u8, 1]));
    let spec = FileSpec {
        dimensions: vec![dimension("x", 2, false)],
        attributes: vec![],
        variables: variables.collect(),
    };
    let file = assemble(&layout(&spec, &[]).unwrap(), &[]);
    let dataset = hdf5::open(&file).unwrap();
    assert_eq!(dataset.variables.len(), 5000);
    assert!(dataset.variables.iter().all(|v| v.dims == [0]));
    let last = decode::read_all(&file, &dataset, &dataset.variables[4999]).unwrap();
    assert_eq!(last, [4999u16 as u8, 1]);
}

#[test]
fn regions_lie_on_pages_of_their_own_in_ascending_order() {
    let (mut spec, encoded, _) = field_file();
    let mut second = spec.variables[0].clone();
    second.name = "second".into();
    spec.variables.push(second);
    let both = vec![encoded[0].clone(), encoded[0].clone()];
    let mut tables = sizes(&both);
    for table in &mut tables {
        table.regions = (0..table.sizes.len() as u32).map(|i| 3 - i % 3).collect();
    }
    let made = layout(&spec, &tables).unwrap();
    assert_eq!(made, layout(&spec, &tables).unwrap());
    let mut places: Vec<(u64, u64, u32)> = vec![];
    for (offsets, table) in made.chunk_offsets.iter().zip(&tables) {
        for (i, size) in table.sizes.iter().enumerate() {
            assert_eq!(*size == 0, offsets[i] == 0);
            if *size > 0 {
                places.push((offsets[i], *size, table.regions[i]));
            }
        }
    }
    places.sort_unstable();
    let (mut end, mut region) = (PAGE_BYTES, 0);
    for (offset, size, of) in places {
        if of == region {
            assert_eq!(offset, end, "chunks of one region touch");
        } else {
            assert!(of > region && offset.is_multiple_of(PAGE_BYTES) && offset >= end);
            region = of;
        }
        end = offset + size;
    }
    assert!(made.metadata[0].0 >= end && made.metadata[0].0.is_multiple_of(PAGE_BYTES));
    let file = assemble(&made, &both);
    let dataset = hdf5::open(&file).unwrap();
    let (first, second) = (dataset.variable("field").unwrap(), dataset.variable("second").unwrap());
    let read = |v| decode::read_all(&file, &dataset, v).unwrap();
    assert_eq!(read(first), read(second));
}

#[test]
fn an_unfinished_file_is_not_hdf5_and_a_finished_one_is_read() {
    let (spec, encoded, values) = field_file();
    let made = layout(&spec, &sizes(&encoded)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (temporary, target) = (dir.path().join("out.tmp"), dir.path().join("out.nc"));
    let out = OutFile::create(&temporary, made.len).unwrap();
    let elsewhere = OutFile::open(&temporary).unwrap();
    for (i, (offset, chunk)) in made.chunk_offsets[0].iter().zip(&encoded[0]).enumerate() {
        if i % 2 == 0 { &out } else { &elsewhere }.write_at(*offset, chunk).unwrap();
    }
    elsewhere.sync().unwrap();
    let unfinished = hdf5::open(&LocalFile::open(&temporary).unwrap()).unwrap_err();
    assert!(matches!(unfinished, FormatError::NotHdf5 { .. }), "{unfinished}");
    out.finish(&made).unwrap();
    out.publish(&target).unwrap();
    assert!(!temporary.exists());
    let file = LocalFile::open(&target).unwrap();
    assert_eq!(std::fs::metadata(&target).unwrap().len(), made.len);
    let dataset = hdf5::open(&file).unwrap();
    let field = dataset.variable("field").unwrap();
    assert_eq!(floats(&decode::read_all(&file, &dataset, field).unwrap()), values);
}

#[test]
fn a_full_disk_and_a_missing_folder_are_errors_that_name_the_file() {
    let full = OutFile::open("/dev/full").unwrap();
    let error = full.write_at(0, b"bytes").unwrap_err().to_string();
    assert!(error.starts_with("/dev/full: ") && error.contains("space"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let error = OutFile::create(dir.path().join("no/out.nc"), 10).unwrap_err().to_string();
    assert!(error.contains("no/out.nc: "), "{error}");
}

#[test]
fn what_the_format_cannot_hold_is_refused_with_its_name() {
    let (spec, encoded, _) = field_file();
    let tables = sizes(&encoded);
    type Change = fn(&mut FileSpec, &mut Vec<EncodedChunks>);
    let cases: Vec<(&str, Change)> = vec![
        ("attribute long of field: more than 64 KiB", |s, _| {
            s.variables[0].attributes.push(text("long", &"x".repeat(70_000)));
        }),
        ("the attribute name DIMENSION_LIST is netCDF's own", |s, _| {
            s.variables[0].attributes.push(text("DIMENSION_LIST", "x"));
        }),
        ("variable time: contiguous storage along an unlimited dimension", |s, _| {
            s.variables[1].storage = VarStorage::Contiguous(vec![0; 56]);
        }),
        ("variable time: 8 bytes of data for the shape [7]", |s, _| {
            s.variables[1].storage = VarStorage::InlineChunks { chunk: vec![4], data: vec![0; 8] };
        }),
        ("variable field: sizes of 8 chunks, its grid has 9", |_, t| {
            t[0].sizes.pop();
        }),
        ("variable field: its chunk sizes are not given", |_, t| t.clear()),
        ("variable field: a chunk of 11 along x, which has 10", |s, _| {
            s.variables[0].storage =
                VarStorage::Chunked { chunk: vec![3, 11], shuffle: false, deflate_level: None };
        }),
        ("two dimensions or two variables have the name \"time\"", |s, _| {
            s.variables[0].name = "time".into()
        }),
        ("the name \"a/b\"", |s, _| s.variables[0].name = "a/b".into()),
        ("variable field: text of variable length", |s, _| s.variables[0].dtype = DType::String),
        ("variable field: a fill value of another size", |s, _| s.variables[0].fill = Some(vec![0; 8])),
        ("variable field: a dimension that is not in the file", |s, _| s.variables[0].dims = vec![0, 9]),
    ];
    for (wanted, change) in cases {
        let (mut spec, mut tables) = (spec.clone(), tables.clone());
        change(&mut spec, &mut tables);
        let error = layout(&spec, &tables).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error}\nwanted: {wanted}");
    }
}

#[test]
fn a_fill_value_among_the_attributes_serves_as_fill() {
    let mut variable = contiguous("v", DType::I16, &[0], vec![]);
    variable.storage = VarStorage::Chunked { chunk: vec![2], shuffle: false, deflate_level: None };
    variable.attributes =
        vec![Attribute { name: "_FillValue".into(), value: AttrValue::Ints(DType::I16, vec![-9]) }];
    let spec = FileSpec {
        dimensions: vec![dimension("x", 2, false)],
        attributes: vec![],
        variables: vec![variable],
    };
    let absent = vec![EncodedChunks { sizes: vec![0], regions: vec![] }];
    let file = assemble(&layout(&spec, &absent).unwrap(), &[]);
    let dataset = hdf5::open(&file).unwrap();
    let v = dataset.variable("v").unwrap();
    assert_eq!(v.storage, Storage::Empty);
    assert_eq!(v.missing(), Some((-9i16).to_le_bytes().to_vec()));
    let bytes = decode::read_all(&file, &dataset, v).unwrap();
    assert_eq!(bytes, [(-9i16).to_le_bytes(), (-9i16).to_le_bytes()].concat());
}
