//! The wind study's truth: variances in float64, two passes over all hours of each cell, in parallel by latitude
//! bands.

use jobq::format::decode::{Scratch, read_slab};
use jobq::format::read_at::LocalFile;
use jobq::format::{Dataset, hdf5};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Latitudes that a thread takes at a time: as many as a chunk has.
const BAND: u64 = 30;

/// Variances of speed and direction (ddof 1) for each cell of height, latitude and longitude; missing ones are NaN.
#[derive(Clone, Debug)]
pub struct Truth {
    pub speed_var: Vec<f64>,
    pub direction_var: Vec<f64>,
}

struct Band {
    start: usize,
    cells: Vec<[f64; 2]>,
}

pub fn truth(paths: &[PathBuf]) -> Truth {
    let files: Vec<(LocalFile, Dataset)> = paths
        .iter()
        .map(|path| {
            let file = LocalFile::open(path).unwrap();
            let dataset = hdf5::open(&file).unwrap();
            (file, dataset)
        })
        .collect();
    let shape = files[0].1.shape(files[0].1.variable("x_wind").unwrap());
    let (heights, latitudes, longitudes) = (shape[1], shape[2], shape[3]);
    let bands = latitudes.div_ceil(BAND);
    let (next, done) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= heights * bands {
                return;
            }
            let (height, first) = (number / bands, number % bands * BAND);
            let count = BAND.min(latitudes - first);
            let cells = band(&files, [0, height, first, 0], [1, 1, count, longitudes]);
            let start = ((height * latitudes + first) * longitudes) as usize;
            done.lock().unwrap().push(Band { start, cells });
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    let cells = (heights * latitudes * longitudes) as usize;
    let mut truth = Truth { speed_var: vec![0.0; cells], direction_var: vec![0.0; cells] };
    for Band { start, cells } in done.into_inner().unwrap() {
        for (cell, [speed, direction]) in (start..).zip(cells) {
            truth.speed_var[cell] = speed;
            truth.direction_var[cell] = direction;
        }
    }
    truth
}

/// The variances of the box's cells, over all hours of all files.
fn band(files: &[(LocalFile, Dataset)], start: [u64; 4], count: [u64; 4]) -> Vec<[f64; 2]> {
    let cells = count[2..].iter().product::<u64>() as usize;
    let (u, v) = (series(files, "x_wind", start, count), series(files, "y_wind", start, count));
    let mut values: Vec<[f64; 2]> = Vec::with_capacity(u.len());
    for (u, v) in u.iter().zip(&v) {
        let direction = (270.0 - v.atan2(*u).to_degrees()).rem_euclid(360.0);
        values.push([(u * u + v * v).sqrt(), direction]);
    }
    (0..cells)
        .map(|cell| [0, 1].map(|k| variance(values.iter().skip(cell).step_by(cells).map(|x| x[k]))))
        .collect()
}

/// All hours of the box, the cells of an hour side by side; missing ones are NaN.
fn series(files: &[(LocalFile, Dataset)], name: &str, start: [u64; 4], mut count: [u64; 4]) -> Vec<f64> {
    let (mut scratch, mut bytes, mut all) = (Scratch::default(), Vec::new(), Vec::new());
    for (file, dataset) in files {
        let variable = dataset.variable(name).unwrap();
        let missing = f32::from_le_bytes(variable.missing().unwrap().try_into().unwrap());
        count[0] = dataset.shape(variable)[0];
        read_slab(file, dataset, variable, &start, &count, &mut scratch, &mut bytes).unwrap();
        let number = |element: &[u8; 4]| match f32::from_le_bytes(*element) {
            x if x == missing => f64::NAN,
            x => f64::from(x),
        };
        all.extend(bytes.as_chunks::<4>().0.iter().map(number));
    }
    all
}

/// Of what isn't missing; missing itself where there are not two values.
fn variance(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let known = || values.clone().filter(|x| !x.is_nan());
    let (mut n, mut sum) = (0.0, 0.0);
    known().for_each(|x| (n, sum) = (n + 1.0, sum + x));
    if n < 2.0 {
        return f64::NAN;
    }
    let mean = sum / n;
    known().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0)
}
