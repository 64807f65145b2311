use super::*;
use crate::format::decode::{Scratch, read_all, read_slab};
use crate::format::netcdf4::{EncodeScratch, FileSpec, VarSpec, VarStorage, encode_chunk, pad_chunk};
use crate::format::{AttrValue, Attribute, Dataset, Dimension, Filter, Storage};
use std::fs;

fn text(name: &str, value: &str) -> Attribute {
    Attribute { name: name.into(), value: AttrValue::Text(value.into()) }
}

fn le<const N: usize, T>(values: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(bytes).collect()
}

/// A store with a field of edge chunks, one of which was never written, a coordinate, a text and a number.
fn spec() -> FileSpec {
    let dimension = |name: &str, len| Dimension { name: name.into(), len, unlimited: false };
    let variable = |name: &str, dtype, dims: &[usize], storage| VarSpec {
        name: name.into(),
        dtype,
        dims: dims.to_vec(),
        attributes: vec![text("units", "m")],
        fill: None,
        storage,
    };
    let field = VarStorage::Chunked { chunk: vec![2, 3], shuffle: true, deflate_level: Some(1) };
    let coordinate = VarStorage::Contiguous(le(&[1i64, 2, 3], |v| v.to_le_bytes()));
    let mut field = variable("f", DType::F32, &[0, 1], field);
    field.fill = Some((-1e20f32).to_le_bytes().to_vec());
    FileSpec {
        dimensions: vec![dimension("t", 3), dimension("x", 4), dimension("strlen", 2)],
        attributes: vec![
            text("title", "\"ä\" NaN"),
            Attribute { name: "n".into(), value: AttrValue::Floats(DType::F64, vec![0.5, f64::NAN]) },
        ],
        variables: vec![
            variable("t", DType::I64, &[0], coordinate),
            variable("label", DType::Char, &[0, 2], VarStorage::Contiguous(b"abcde\0".to_vec())),
            variable("one", DType::F64, &[], VarStorage::Contiguous(2.5f64.to_le_bytes().to_vec())),
            field,
        ],
    }
}

fn write(root: &Path) {
    let spec = spec();
    for variable in &spec.variables {
        fs::create_dir_all(root.join(&variable.name)).unwrap();
        if let VarStorage::Contiguous(data) = &variable.storage {
            fs::write(root.join(write::whole_path(variable)), data).unwrap();
        }
    }
    let fill = (-1e20f32).to_le_bytes();
    for (index, shape, values) in [
        ([0, 0], [2, 3], &[0f32, 1., 2., 4., 5., 6.][..]),
        ([1, 0], [1, 3], &[8., 9., 10.]),
        ([1, 1], [1, 1], &[11.]),
    ] {
        let raw = pad_chunk(&le(values, |v| v.to_le_bytes()), &shape, &[2, 3], &fill, 4);
        let encoded = encode_chunk(&raw, DType::F32, true, Some(1), &mut EncodeScratch::default());
        fs::write(root.join(write::chunk_path("f", &index)), encoded).unwrap();
    }
    for (path, bytes) in write::metadata(&spec).unwrap() {
        fs::write(root.join(path), bytes).unwrap();
    }
}

fn values(store: &Store, dataset: &Dataset, name: &str) -> Vec<u8> {
    read_all(store, dataset, dataset.variable(name).unwrap()).unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    for consolidated in [true, false] {
        let (store, dataset) = open(dir.path()).unwrap();
        assert!(dataset.skipped.is_empty(), "{:?}", dataset.skipped);
        let n = -1e20f32;
        let field = [0f32, 1., 2., n, 4., 5., 6., n, 8., 9., 10., 11.];
        assert_eq!(values(&store, &dataset, "f"), le(&field, |v| v.to_le_bytes()));
        assert_eq!(values(&store, &dataset, "t"), le(&[1i64, 2, 3], |v| v.to_le_bytes()));
        assert_eq!(values(&store, &dataset, "one"), 2.5f64.to_le_bytes());
        assert_eq!(values(&store, &dataset, "label"), b"abcde\0");
        let f = dataset.variable("f").unwrap();
        assert_eq!(f.missing(), Some(n.to_le_bytes().to_vec()));
        assert_eq!(f.attribute("units").unwrap().text(), Some("m"));
        let mut part = vec![];
        read_slab(&store, &dataset, f, &[1, 1], &[2, 2], &mut Scratch::default(), &mut part).unwrap();
        assert_eq!(part, le(&[5f32, 6., 9., 10.], |v| v.to_le_bytes()));
        assert_eq!(dataset.attributes[1].value.text(), Some("\"ä\" NaN"));
        if consolidated {
            fs::remove_file(dir.path().join(CONSOLIDATED)).unwrap();
        }
    }
}

#[test]
fn what_can_not_be_read_is_said_and_the_rest_is() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    fs::remove_file(dir.path().join(CONSOLIDATED)).unwrap();
    let change = |name: &str, from: &str, to: &str| {
        let path = dir.path().join(name).join(".zarray");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).unwrap();
    };
    change("t", "<i8", "<M8[ns]");
    change("f", "\"zlib\"", "\"blosc\"");
    let (store, dataset) = open(dir.path()).unwrap();
    assert_eq!(dataset.skipped[0].reason, "elements of type <M8[ns]");
    let f = dataset.variable("f").unwrap();
    let error = read_all(&store, &dataset, f).unwrap_err().to_string();
    assert!(error.ends_with("not supported: variable f: compressed with blosc"), "{error}");
    change("one", "\"chunks\": []", "\"chunks\": [0]");
    assert!(open(dir.path()).unwrap_err().to_string().contains("one: chunks of [0] for the shape []"));
    let empty = tempfile::tempdir().unwrap();
    assert!(open(empty.path()).unwrap_err().to_string().contains("it is no Zarr group"));
    assert_eq!(marker(empty.path()), None);
}

#[test]
fn a_chunk_that_is_cut_short_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    fs::write(dir.path().join("f/0.0"), b"x").unwrap();
    fs::write(dir.path().join("t/0"), b"x").unwrap();
    let (store, dataset) = open(dir.path()).unwrap();
    for name in ["f", "t"] {
        let error = read_all(&store, &dataset, dataset.variable(name).unwrap()).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }
}

#[test]
fn version_3_is_read_where_it_is_plain() {
    let dir = tempfile::tempdir().unwrap();
    let file = |path: &str, bytes: &[u8]| {
        fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
        fs::write(dir.path().join(path), bytes).unwrap();
    };
    file("zarr.json", br#"{"zarr_format": 3, "node_type": "group", "attributes": {"x": NaN}}"#);
    file(
        "a/zarr.json",
        br#"{"zarr_format": 3, "node_type": "array", "shape": [3], "data_type": "int16",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}},
            "chunk_key_encoding": {"name": "default"}, "fill_value": 7,
            "codecs": [{"name": "bytes", "configuration": {"endian": "big"}}],
            "attributes": {}, "dimension_names": ["t"]}"#,
    );
    file("a/c/0", &[0, 1, 1, 0]);
    let (store, dataset) = open(dir.path()).unwrap();
    assert_eq!(values(&store, &dataset, "a"), le(&[1i16, 256, 7], |v| v.to_le_bytes()));
    let a = dataset.variable("a").unwrap();
    assert_eq!((a.missing(), a.big_endian), (None, true));
    assert!(matches!(&a.storage, Storage::Chunked { filters, .. } if filters.is_empty()));
    assert_eq!(dataset.attributes[0].value.text(), Some("NaN"));
    let metadata = fs::read_to_string(dir.path().join("a/zarr.json")).unwrap();
    file("a/zarr.json", metadata.replace("bytes", "sharding_indexed").as_bytes());
    let (_, dataset) = open(dir.path()).unwrap();
    let Storage::Chunked { filters, .. } = &dataset.variable("a").unwrap().storage else { panic!() };
    assert_eq!(filters[..], [Filter::Other { id: 0, name: "sharding_indexed".into() }]);
}
