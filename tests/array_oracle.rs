//! Computed files against xarray, numpy and netCDF4-python. Python is the one that JOBQ_TEST_PYTHON names; without
//! it these tests say that they are skipped.

#[path = "support/arrays.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod arrays;

use arrays::{computed, request};
use jobq::format::example::{WindSizes, example_winds};
use std::path::{Path, PathBuf};
use std::process::Command;

const STUDY: &str = "speed = wind_speed(x_wind, y_wind); direction = wind_direction(x_wind, y_wind)
    speed_var = var(speed, time, ddof=1); direction_var = var(direction, time, ddof=1)";
const FIELDS: &str = "anomaly = x_wind - mean(x_wind, time); total = sum(x_wind); low = min(x_wind, time)
    n = count(x_wind, time); direction = wind_direction(x_wind, y_wind); strong = x_wind > 5";

fn python(test: &str) -> Option<PathBuf> {
    let found = std::env::var_os("JOBQ_TEST_PYTHON").map(PathBuf::from);
    if found.is_none() {
        eprintln!("skipped: {test}: JOBQ_TEST_PYTHON is not set");
    }
    found
}

/// Runs a script to its end and returns what it printed.
fn run(python: &Path, name: &str, arguments: &[&Path]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name);
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{printed}\n{errors}", output.status);
    printed
}

fn compare(python: &Path, dir: &Path, number: usize, inputs: &[PathBuf]) {
    let study = dir.join(format!("study{number}.nc"));
    let fields = dir.join(format!("fields{number}.nc"));
    computed(&request(STUDY, inputs, &study), 23, 1);
    computed(&request(FIELDS, inputs, &fields), 29, 1);
    let mut arguments: Vec<&Path> = vec![&study, &fields];
    arguments.extend(inputs.iter().map(PathBuf::as_path));
    assert_eq!(run(python, "compare_winds.py", &arguments).trim(), "equal");
}

#[test]
fn wind_products_of_our_sample_files_equal_xarrays() {
    let Some(python) = python("wind_products_of_our_sample_files_equal_xarrays") else { return };
    let dir = tempfile::tempdir().unwrap();
    let sizes = WindSizes {
        times: 9,
        heights: 2,
        latitudes: 20,
        longitudes: 33,
        chunk: [4, 1, 7, 11],
        ..WindSizes::default()
    };
    let inputs = example_winds(dir.path(), 3, &sizes).unwrap();
    compare(&python, dir.path(), 0, &inputs);
}

#[test]
fn wind_products_of_netcdf4_pythons_files_equal_xarrays() {
    let Some(python) = python("wind_products_of_netcdf4_pythons_files_equal_xarrays") else { return };
    let dir = tempfile::tempdir().unwrap();
    let studies = run(&python, "make_winds.py", &[dir.path()]);
    for (number, line) in studies.lines().enumerate() {
        let inputs: Vec<PathBuf> = line.split(' ').map(PathBuf::from).collect();
        compare(&python, dir.path(), number, &inputs);
    }
}
