//! Damaged files: whatever the bytes are, an answer or an error comes, and memory stays in proportion to the file.
//! Files as others write them are compared in `tests/format_oracle.rs`; those of the python that JOBQ_TEST_PYTHON
//! names are damaged here too, ours always.

use super::file::BELIEVE;
use super::*;
use crate::format::decode::{self, Scratch};
use crate::format::example::{WindSizes, example_winds};
use crate::format::netcdf4::{EncodedChunks, FileSpec, VarSpec, VarStorage, layout};
use crate::format::read_at::Memory;
use crate::format::{AttrValue, Attribute, DType, Dimension, Storage, Variable};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Address space that this process may have while damaged files are read: a length that is believed and allocated
/// ends the process.
const ADDRESS_SPACE: u64 = 6 << 30;
/// Elements that are read of each variable of a damaged file.
const ELEMENTS: u64 = 20_000;

/// What starts a piece of metadata.
const SIGNATURES: [&[u8; 4]; 19] = [
    b"\x89HDF", b"OHDR", b"OCHK", b"TREE", b"SNOD", b"HEAP", b"GCOL", b"FRHP", b"FHDB", b"FHIB", b"BTHD",
    b"BTLF", b"BTIN", b"FAHD", b"FADB", b"EAHD", b"EAIB", b"EASB", b"EADB",
];

/// SplitMix64, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn limit_memory() {
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
    setrlimit(Resource::RLIMIT_AS, ADDRESS_SPACE.min(hard), hard).unwrap();
}

/// Opens the file and reads the start and the end of every variable; true if it opened.
fn use_file(memory: &Memory) -> bool {
    let Ok(dataset) = open(memory) else { return false };
    let (mut scratch, mut out) = (Scratch::default(), vec![]);
    for variable in &dataset.variables {
        let shape = dataset.shape(variable);
        let mut room = ELEMENTS;
        let count: Vec<u64> = shape
            .iter()
            .rev()
            .map(|len| {
                let take = (*len).min(room.max(1));
                room /= take.max(1);
                take
            })
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        let ends: Vec<u64> = shape.iter().zip(&count).map(|(len, take)| len - take).collect();
        let starts = vec![0; shape.len()];
        for start in [&starts, &ends] {
            let _ = decode::read_slab(memory, &dataset, variable, start, &count, &mut scratch, &mut out);
        }
        if variable.dtype == DType::String && out.len() < 10_000 {
            let _ = read_string_refs(memory, &out);
        }
    }
    true
}

/// Places near the beginning of metadata, where damage does most.
fn sore_places(bytes: &[u8]) -> Vec<usize> {
    let starts = (0..bytes.len().saturating_sub(4))
        .filter(|at| SIGNATURES.iter().any(|s| bytes[*at..].starts_with(*s)));
    starts.flat_map(|at| at..(at + 160).min(bytes.len())).collect()
}

/// Damages the file `times` times and uses it each time, past the checksums and not; says how often it opened.
fn torment(name: &str, bytes: &[u8], times: u64) -> (u64, u64) {
    let places = sore_places(bytes);
    assert!(places.len() > 100, "{name}: no metadata found");
    let mut opened = 0;
    for seed in 0..times {
        let mut random = Random(seed ^ 0x5eed);
        let mut damaged = bytes.to_vec();
        for _ in 0..=random.below(4) {
            let at = match random.below(4) {
                0 => random.below(bytes.len()),
                _ => places[random.below(places.len())],
            };
            let draw = random.next();
            damaged[at] = match draw % 5 {
                0 => 0,
                1 => 0xff,
                2 => damaged[at] ^ 1 << (draw >> 8 & 7),
                3 => damaged[at].wrapping_add(1),
                _ => (draw >> 16) as u8,
            };
        }
        if random.below(8) == 0 {
            damaged.truncate(random.below(bytes.len()));
        }
        BELIEVE.set(seed % 4 != 0);
        opened += u64::from(use_file(&Memory::new(format!("{name}, seed {seed}"), damaged)));
    }
    BELIEVE.set(false);
    (opened, times)
}

fn text(name: &str, value: &str) -> Attribute {
    Attribute { name: name.into(), value: AttrValue::Text(value.into()) }
}

/// A file of ours with every sort of thing that we write.
fn own_file() -> Memory {
    let dimension = |name: &str, len, unlimited| Dimension { name: name.into(), len, unlimited };
    let variable = |name: &str, dtype, dims: &[usize], storage| VarSpec {
        name: name.into(),
        dtype,
        dims: dims.to_vec(),
        attributes: vec![text("units", "1")],
        fill: None,
        storage,
    };
    let chunked = VarStorage::Chunked { chunk: vec![1, 3], shuffle: true, deflate_level: None };
    let inline = VarStorage::InlineChunks { chunk: vec![4], data: vec![1; 70 * 8] };
    let spec = FileSpec {
        dimensions: vec![dimension("t", 70, true), dimension("x", 5, false)],
        attributes: vec![Attribute {
            name: "words".into(),
            value: AttrValue::Texts(vec!["one".into(), "two".into()]),
        }],
        variables: vec![
            variable("t", DType::F64, &[0], inline),
            variable("field", DType::F32, &[0, 1], chunked),
            variable("flat", DType::I16, &[1], VarStorage::Contiguous(vec![7; 10])),
        ],
    };
    let tables = [EncodedChunks { sizes: vec![12; 140], regions: vec![] }];
    let made = layout(&spec, &tables).unwrap();
    let mut bytes = vec![0; made.len as usize];
    for (offset, piece) in &made.metadata {
        bytes[*offset as usize..*offset as usize + piece.len()].copy_from_slice(piece);
    }
    bytes[..made.superblock.len()].copy_from_slice(&made.superblock);
    Memory::new("own", bytes)
}

#[test]
fn our_own_files_may_be_damaged_anyhow() {
    limit_memory();
    let own = own_file();
    assert!(use_file(&own));
    let (opened, times) = torment("own", &own.bytes, 4000);
    // Neither all (nothing was damaged) nor none (nothing behind the first check was reached).
    assert!(opened > times / 20 && opened < times * 19 / 20, "{opened} of {times} opened");
}

#[test]
fn a_file_cut_short_anywhere_is_damaged_and_not_something_else() {
    let own = own_file();
    for len in (0..own.bytes.len()).step_by(13) {
        let cut = Memory::new("cut", own.bytes[..len].to_vec());
        match open(&cut) {
            Err(FormatError::Damaged { .. }) => {}
            Err(FormatError::NotHdf5 { .. }) => assert!(len < 8),
            other => panic!("{len} bytes: {other:?}"),
        }
    }
}

#[test]
fn foreign_files_may_be_damaged_anyhow() {
    let Some(python) = std::env::var_os("JOBQ_TEST_PYTHON") else {
        eprintln!("skipped: foreign_files_may_be_damaged_anyhow: JOBQ_TEST_PYTHON is not set");
        return;
    };
    limit_memory();
    let dir = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/make_small.py");
    let status = std::process::Command::new(python).arg(script).arg(dir.path()).status().unwrap();
    assert!(status.success());
    let mut files = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(use_file(&Memory::new(&name, bytes.clone())), "{name}");
        let (opened, times) = torment(&name, &bytes, 800);
        assert!(opened > times / 20 && opened < times * 19 / 20, "{name}: {opened} of {times} opened");
        files += 1;
    }
    assert!(files >= 4);
}

#[test]
fn damage_behind_a_checksum_is_found_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = WindSizes {
        times: 2,
        heights: 1,
        latitudes: 3,
        longitudes: 4,
        chunk: [1, 1, 3, 4],
        ..WindSizes::default()
    };
    let path = example_winds(dir.path(), 1, &sizes).unwrap().remove(0);
    let sound = std::fs::read(&path).unwrap();
    let at = sound.windows(5).position(|w| w == b"m s-1").unwrap();
    let mut damaged = sound.clone();
    damaged[at] ^= 1;
    let error = open(&Memory::new("wind.nc", damaged)).unwrap_err().to_string();
    assert!(error.starts_with("wind.nc: damaged or cut short: object header at"), "{error}");
    assert!(error.ends_with("its checksum does not match"), "{error}");
}

#[test]
fn damaged_chunks_are_errors_that_name_variable_and_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = WindSizes {
        times: 4,
        heights: 1,
        latitudes: 9,
        longitudes: 9,
        chunk: [2, 1, 9, 9],
        ..WindSizes::default()
    };
    let path = example_winds(dir.path(), 1, &sizes).unwrap().remove(0);
    let sound = Memory::new("wind.nc", std::fs::read(&path).unwrap());
    let dataset = open(&sound).unwrap();
    let variable = dataset.variable("y_wind").unwrap();
    let Storage::Chunked { chunks, .. } = &variable.storage else { panic!("not chunked") };
    let place = chunks[1].clone().unwrap();
    let mut damaged = sound.clone();
    damaged.bytes[place.offset as usize..][..20].fill(0x55);
    let read = |variable: &Variable, source: &Memory, ordinal| {
        let mut out = vec![];
        decode::read_chunk(source, variable, ordinal, &mut Scratch::default(), &mut out)
    };
    assert!(read(variable, &damaged, 0).unwrap());
    let error = read(variable, &damaged, 1).unwrap_err().to_string();
    assert!(
        error.starts_with("wind.nc: damaged or cut short: variable y_wind: chunk 1 does not inflate"),
        "{error}"
    );
    // A chunk table that promises more than its few bytes can hold, or another length.
    let with = |nbytes, chunk: [u64; 4]| {
        let mut variable = variable.clone();
        let Storage::Chunked { chunk: shape, chunks, .. } = &mut variable.storage else { unreachable!() };
        *shape = chunk.to_vec();
        chunks[0].as_mut().unwrap().nbytes = nbytes;
        read(&variable, &sound, 0).unwrap_err().to_string()
    };
    let error = with(40, [1000, 1000, 100, 1]);
    assert!(error.ends_with("chunk 0: 40 stored bytes can't hold 400000000"), "{error}");
    let error = with(place.nbytes, [2, 1, 9, 10]);
    assert!(
        error.contains("chunk 0 inflates to 648 bytes, expected 720") || error.contains("does not inflate"),
        "{error}"
    );
    let error = with(1 << 40, [2, 1, 9, 9]);
    assert!(error.ends_with("are beyond the file's end"), "{error}");
}
