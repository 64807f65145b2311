//! Sample data: CF netCDF-4 files of wind components, written by our own writer. The same seed gives the same files.

use super::netcdf4::{
    EncodeScratch, EncodedChunks, FileSpec, OutFile, VarSpec, VarStorage, encode_chunk, layout, pad_chunk,
};
use super::read_at::LocalFile;
use super::{AttrValue, Attribute, DType, Dataset, Dimension, FormatError, grid, hdf5};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Marks missing data, as the Met Office's files do.
const FILL: f32 = -32768.0;
/// Values are multiples of this many m/s, so that they compress as packed model output does.
const QUANTUM: f32 = 1.0 / 256.0;
/// One cell in so many is missing by itself, beside the region that is missing in every file.
const SPORADIC: u64 = 2000;
/// Waves that make a field.
const WAVES: usize = 5;
/// What all sample files say of their origin.
const SOURCE: &str = "Made by jobq example-data: smooth waves with noise, no weather";
/// Hours since 1970 of the first time: 2015-08-20 00:00.
const FIRST_HOUR: f64 = 399_984.0;

/// Sizes of the sample files. The default makes 216 tiles of chunks in space, 50 MB of values a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WindSizes {
    /// Hours in a file.
    pub times: u64,
    pub heights: u64,
    pub latitudes: u64,
    pub longitudes: u64,
    /// Elements of a chunk along time, height, latitude, longitude.
    pub chunk: [u64; 4],
    pub deflate_level: u32,
    pub seed: u64,
}

impl Default for WindSizes {
    fn default() -> WindSizes {
        WindSizes {
            times: 24,
            heights: 6,
            latitudes: 180,
            longitudes: 240,
            chunk: [12, 1, 30, 40],
            deflate_level: 1,
            seed: 1,
        }
    }
}

/// Writes `files` files `wind_000.nc`.. to `dir`, which is made if need be; returns their paths. Times are consecutive
/// across files. Files of those names are replaced.
pub fn example_winds(dir: &Path, files: u32, sizes: &WindSizes) -> Result<Vec<PathBuf>, FormatError> {
    std::fs::create_dir_all(dir).map_err(|e| FormatError::io(dir.display().to_string(), e))?;
    let paths = paths(dir, files);
    let next = AtomicU32::new(0);
    let work = || -> Result<(), FormatError> {
        loop {
            let file = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = paths.get(file as usize) else { return Ok(()) };
            write_file(path, file, sizes)?;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(files as usize);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(paths)
}

/// The files that [`example_winds`] writes.
pub fn paths(dir: &Path, files: u32) -> Vec<PathBuf> {
    (0..files).map(|file| dir.join(format!("wind_{file:03}.nc"))).collect()
}

/// Whether the file is a sample of ours, by the attribute that says so.
pub fn is_example(path: &Path) -> bool {
    let source = |dataset: Dataset| {
        let attribute = dataset.attributes.into_iter().find(|a| a.name == "source")?;
        attribute.value.text().map(|text| text == SOURCE)
    };
    let opened = LocalFile::open(path).ok().and_then(|file| hdf5::open(&file).ok());
    opened.and_then(source).unwrap_or(false)
}

fn write_file(path: &Path, file: u32, sizes: &WindSizes) -> Result<(), FormatError> {
    let spec = spec(file, sizes);
    let mut scratch = EncodeScratch::default();
    let encoded: Vec<Vec<Vec<u8>>> =
        (0..2).map(|component| field(file, component, sizes, &mut scratch)).collect();
    let tables: Vec<EncodedChunks> = encoded
        .iter()
        .map(|chunks| EncodedChunks {
            sizes: chunks.iter().map(|c| c.len() as u64).collect(),
            regions: vec![],
        })
        .collect();
    let layout = layout(&spec, &tables)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let out = OutFile::create(&temporary, layout.len)?;
    for (offset, chunk) in layout.chunk_offsets.iter().flatten().zip(encoded.iter().flatten()) {
        out.write_at(*offset, chunk)?;
    }
    out.finish(&layout)?;
    out.publish(path)
}

fn spec(file: u32, sizes: &WindSizes) -> FileSpec {
    let dimension = |name: &str, len, unlimited| Dimension { name: name.to_owned(), len, unlimited };
    let first = FIRST_HOUR + f64::from(file) * sizes.times as f64;
    let hours = (0..sizes.times).flat_map(|t| (first + t as f64).to_le_bytes()).collect();
    let component = |name: &str| VarSpec {
        name: name.to_owned(),
        dtype: DType::F32,
        dims: vec![0, 1, 2, 3],
        attributes: texts(&[("standard_name", name), ("units", "m s-1"), ("cell_methods", "time: point")]),
        fill: Some(FILL.to_le_bytes().to_vec()),
        storage: VarStorage::Chunked {
            chunk: chunk_of(sizes),
            shuffle: true,
            deflate_level: Some(sizes.deflate_level),
        },
    };
    let mut height = coordinate("height", 1, "m", "Z", &spaced(sizes.heights, 10.0, 300.0));
    height.attributes.extend(texts(&[("positive", "up")]));
    FileSpec {
        dimensions: vec![
            dimension("time", sizes.times, true),
            dimension("height", sizes.heights, false),
            dimension("latitude", sizes.latitudes, false),
            dimension("longitude", sizes.longitudes, false),
        ],
        attributes: texts(&[
            ("Conventions", "CF-1.10"),
            ("title", "Sample wind components"),
            ("source", SOURCE),
        ]),
        variables: vec![
            VarSpec {
                name: "time".to_owned(),
                dtype: DType::F64,
                dims: vec![0],
                attributes: texts(&[
                    ("standard_name", "time"),
                    ("units", "hours since 1970-01-01 00:00:00"),
                    ("calendar", "standard"),
                    ("axis", "T"),
                ]),
                fill: None,
                storage: VarStorage::InlineChunks { chunk: vec![sizes.times.max(1)], data: hours },
            },
            height,
            coordinate("latitude", 2, "degrees_north", "Y", &spaced(sizes.latitudes, 49.0, 61.0)),
            coordinate("longitude", 3, "degrees_east", "X", &spaced(sizes.longitudes, -11.0, 3.0)),
            component("x_wind"),
            component("y_wind"),
        ],
    }
}

fn coordinate(name: &str, dim: usize, units: &str, axis: &str, values: &[f32]) -> VarSpec {
    VarSpec {
        name: name.to_owned(),
        dtype: DType::F32,
        dims: vec![dim],
        attributes: texts(&[("standard_name", name), ("units", units), ("axis", axis)]),
        fill: None,
        storage: VarStorage::Contiguous(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}

fn texts(pairs: &[(&str, &str)]) -> Vec<Attribute> {
    let text = |(name, value): &(&str, &str)| Attribute {
        name: (*name).to_owned(),
        value: AttrValue::Text((*value).to_owned()),
    };
    pairs.iter().map(text).collect()
}

fn spaced(count: u64, first: f64, last: f64) -> Vec<f32> {
    let step = (last - first) / count.saturating_sub(1).max(1) as f64;
    (0..count).map(|i| (first + step * i as f64) as f32).collect()
}

fn shape_of(sizes: &WindSizes) -> [u64; 4] {
    [sizes.times, sizes.heights, sizes.latitudes, sizes.longitudes]
}

/// The chunk shape, not larger than the array.
fn chunk_of(sizes: &WindSizes) -> Vec<u64> {
    shape_of(sizes).iter().zip(sizes.chunk).map(|(len, chunk)| chunk.clamp(1, (*len).max(1))).collect()
}

/// All encoded chunks of one component in one file.
fn field(file: u32, component: u64, sizes: &WindSizes, scratch: &mut EncodeScratch) -> Vec<Vec<u8>> {
    let shape = shape_of(sizes);
    let chunk = chunk_of(sizes);
    let counts = grid::chunk_counts(&shape, &chunk);
    let waves = Waves::new(component, sizes);
    let total = grid::elements(&counts).unwrap_or(0);
    let encode = |ordinal: u64| {
        let start: Vec<u64> =
            grid::chunk_index(ordinal, &counts).iter().zip(&chunk).map(|(i, len)| i * len).collect();
        let count: Vec<u64> = (0..4).map(|k| chunk[k].min(shape[k] - start[k])).collect();
        let mut random = Random::new(&[sizes.seed, u64::from(file), component, ordinal]);
        let mut raw = Vec::with_capacity(grid::elements(&count).unwrap_or(0) as usize * 4);
        for t in start[0]..start[0] + count[0] {
            let hour = u64::from(file) * sizes.times + t;
            for h in start[1]..start[1] + count[1] {
                let weights = waves.weights(hour, h);
                for y in start[2]..start[2] + count[2] {
                    for x in start[3]..start[3] + count[3] {
                        let value = waves.value(&weights, y, x, &mut random);
                        raw.extend_from_slice(&value.to_le_bytes());
                    }
                }
            }
        }
        let padded = pad_chunk(&raw, &count, &chunk, &FILL.to_le_bytes(), 4);
        encode_chunk(&padded, DType::F32, true, Some(sizes.deflate_level), scratch)
    };
    (0..total).map(encode).collect()
}

/// A few standing waves over latitude and longitude whose weights change with time and height.
struct Waves {
    latitudes: u64,
    longitudes: u64,
    /// For each wave its values along latitude, along longitude, phase in time and amplitude in m/s.
    waves: [(Vec<f32>, Vec<f32>, f64, f64); WAVES],
}

impl Waves {
    fn new(component: u64, sizes: &WindSizes) -> Waves {
        let mut random = Random::new(&[sizes.seed, component]);
        let along = |count: u64, waves: f64, phase: f64| -> Vec<f32> {
            let step = std::f64::consts::TAU * waves / count.max(1) as f64;
            (0..count).map(|i| (step * i as f64 + phase).sin() as f32).collect()
        };
        let mut turn = || random.unit() * std::f64::consts::TAU;
        let waves = std::array::from_fn(|k| {
            let latitude = along(sizes.latitudes, 1.0 + k as f64 * 0.7, turn());
            let longitude = along(sizes.longitudes, 1.0 + k as f64 * 0.9, turn());
            (latitude, longitude, turn(), 9.0 / (1.0 + k as f64))
        });
        Waves { latitudes: sizes.latitudes, longitudes: sizes.longitudes, waves }
    }

    /// The amplitude of each wave at that hour and height.
    fn weights(&self, hour: u64, height: u64) -> [f32; WAVES] {
        let stronger_above = 1.0 + 0.12 * height as f64;
        std::array::from_fn(|k| {
            let (_, _, phase, amplitude) = &self.waves[k];
            let slow = (hour as f64 * 0.26 / (1.0 + k as f64 * 0.3) + phase).sin();
            (amplitude * stronger_above * (0.6 + 0.4 * slow)) as f32
        })
    }

    /// The wind in one cell, or [`FILL`].
    fn value(&self, weights: &[f32; WAVES], y: u64, x: u64, random: &mut Random) -> f32 {
        let draw = random.next();
        if self.always_missing(y, x) || draw.is_multiple_of(SPORADIC) {
            return FILL;
        }
        let wave = |k: usize| weights[k] * self.waves[k].0[y as usize] * self.waves[k].1[x as usize];
        let smooth: f32 = (0..WAVES).map(wave).sum();
        // The sum of two uniform numbers: noise with more small steps than large ones, 0.4 m/s on average.
        let noise = ((draw >> 40) as f32 + (draw >> 16 & 0xff_ffff) as f32) / (1 << 24) as f32 - 1.0;
        ((smooth + noise) / QUANTUM).round() * QUANTUM
    }

    /// A quarter of an ellipse in the south-west corner.
    fn always_missing(&self, y: u64, x: u64) -> bool {
        let (y, x) = (y as f32 / self.latitudes as f32, x as f32 / self.longitudes as f32);
        (y / 0.15).powi(2) + (x / 0.2).powi(2) < 1.0
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): the same numbers everywhere.
struct Random(u64);

impl Random {
    /// A generator for this combination of numbers.
    fn new(parts: &[u64]) -> Random {
        let mut random = Random(0x6a6f_6271);
        for part in parts {
            random.0 ^= part.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            random.0 = random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::decode;

    fn small() -> WindSizes {
        WindSizes {
            times: 5,
            heights: 2,
            latitudes: 13,
            longitudes: 17,
            chunk: [2, 1, 6, 8],
            ..WindSizes::default()
        }
    }

    fn floats(path: &Path, name: &str) -> Vec<f32> {
        let file = LocalFile::open(path).unwrap();
        let dataset = hdf5::open(&file).unwrap();
        let bytes = decode::read_all(&file, &dataset, dataset.variable(name).unwrap()).unwrap();
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[test]
    fn files_follow_each_other_in_time_and_hold_quantised_winds_with_gaps() {
        let dir = tempfile::tempdir().unwrap();
        let paths = example_winds(&dir.path().join("new"), 3, &small()).unwrap();
        assert!(paths.iter().all(|path| is_example(path)) && !is_example(dir.path()));
        let mut hours = vec![];
        for path in &paths {
            let file = LocalFile::open(path).unwrap();
            let dataset = hdf5::open(&file).unwrap();
            let shape: Vec<_> =
                dataset.dimensions.iter().map(|d| (d.name.as_str(), d.len, d.unlimited)).collect();
            let wanted =
                [("time", 5, true), ("height", 2, false), ("latitude", 13, false), ("longitude", 17, false)];
            assert_eq!(shape, wanted);
            let time = decode::read_all(&file, &dataset, dataset.variable("time").unwrap()).unwrap();
            hours.extend(time.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)));
            for name in ["x_wind", "y_wind"] {
                let values = floats(path, name);
                let missing = values.iter().filter(|v| **v == FILL).count();
                assert!(missing > 0 && missing < values.len() / 4, "{missing} of {}", values.len());
                for value in values.iter().filter(|v| **v != FILL) {
                    assert!(value.abs() < 60.0 && (value / QUANTUM).fract() == 0.0, "{value}");
                }
            }
        }
        assert_eq!(hours, (0..15).map(|t| FIRST_HOUR + f64::from(t)).collect::<Vec<_>>());
        assert_eq!(
            std::fs::read_dir(dir.path().join("new")).unwrap().count(),
            3,
            "nothing temporary is left"
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_gives_others() {
        let dir = tempfile::tempdir().unwrap();
        let write = |folder: &str, seed| {
            let paths = example_winds(&dir.path().join(folder), 2, &WindSizes { seed, ..small() }).unwrap();
            paths.iter().map(|p| std::fs::read(p).unwrap()).collect::<Vec<_>>()
        };
        let first = write("a", 1);
        assert_eq!(first, write("b", 1));
        assert_ne!(first, write("c", 2));
        assert_ne!(first[0], first[1]);
    }

    #[test]
    fn the_default_sizes_make_two_hundred_tiles_and_more() {
        let sizes = WindSizes::default();
        let counts = grid::chunk_counts(&shape_of(&sizes), &chunk_of(&sizes));
        assert!(counts[1] * counts[2] * counts[3] >= 200);
    }
}
