//! Arrays from files to files: values against naive two-pass references, bytes against every order of tasks.

#[path = "support/arrays.rs"]
mod arrays;

use arrays::*;
use jobq::array::{
    ArrayError, ComputeRequest, Plan, begin, discard, inputs::expand, open, plan, summary::Summary,
};
use jobq::format::example::{WindSizes, example_winds};
use jobq::format::netcdf4::FileSpec;
use jobq::format::{AttrValue, Attribute, DType};
use std::fs;
use std::path::{Path, PathBuf};

const STUDY: &str = "speed = wind_speed(x_wind, y_wind); direction = wind_direction(x_wind, y_wind)
    speed_var = var(speed, time, ddof=1); direction_var = var(direction, time, ddof=1)";

fn small_winds(dir: &Path) -> Vec<PathBuf> {
    let sizes = WindSizes {
        times: 10,
        heights: 2,
        latitudes: 13,
        longitudes: 17,
        chunk: [4, 1, 5, 6],
        ..WindSizes::default()
    };
    example_winds(dir, 3, &sizes).unwrap()
}

/// (n, mean, M2) of what isn't missing, in two passes.
fn two_pass(values: impl Iterator<Item = f64> + Clone) -> (f64, f64, f64) {
    let known = values.filter(|x| !x.is_nan());
    let n = known.clone().count() as f64;
    let mean = known.clone().sum::<f64>() / n;
    (n, mean, known.map(|x| (x - mean) * (x - mean)).sum())
}

fn assert_near(made: &[f64], truth: &[f64], relative: f64, what: &str) {
    assert_eq!(made.len(), truth.len(), "{what}");
    for (cell, (made, truth)) in made.iter().zip(truth).enumerate() {
        assert_eq!(made.is_nan(), truth.is_nan(), "{what}, mask of cell {cell}: {made}, not {truth}");
        let near = truth.is_nan() || (made - truth).abs() <= relative * truth.abs().max(1e-12);
        assert!(near, "{what}, cell {cell}: {made}, not {truth}");
    }
}

/// A variable over all files.
fn joined(paths: &[PathBuf], name: &str) -> Vec<f64> {
    paths.iter().flat_map(|p| read(p).numbers(name)).collect()
}

#[test]
fn the_wind_study_has_the_variances_of_a_two_pass_reference() {
    let dir = tempfile::tempdir().unwrap();
    let paths = small_winds(dir.path());
    let out = dir.path().join("out.nc");
    let made = plan(&request(STUDY, &paths, &out)).unwrap();
    // 2 heights x 3 x 3 tiles, one task each; both outputs in it.
    assert_eq!(tasks_of(&made.graph, "tile"), 18);
    assert_eq!(tasks_of(&made.graph, "sizes"), 18);
    assert_eq!(tasks_of(&made.graph, "layout"), 1);
    assert_eq!(tasks_of(&made.graph, "write"), 1);
    assert_eq!(made.graph.len(), 18 + 18 + 3);
    assert!(
        made.describe().contains("f32 speed_var(height=2, latitude=13, longitude=17), chunks 1x5x6"),
        "{}",
        made.describe()
    );
    begin(&made).unwrap();
    run(&made.graph, 0, 1).unwrap();

    let (u, v) = (joined(&paths, "x_wind"), joined(&paths, "y_wind"));
    let cells = 2 * 13 * 17;
    let times = u.len() / cells;
    assert!(u.iter().any(|x| x.is_nan()), "the sample has missing cells");
    let series = |cell: usize| (0..times).map(move |t| t * cells + cell);
    let speed = |i: usize| (u[i] * u[i] + v[i] * v[i]).sqrt();
    let direction = |i: usize| (270.0 - v[i].atan2(u[i]).to_degrees()).rem_euclid(360.0);
    let variance = |f: &dyn Fn(usize) -> f64| -> Vec<f64> {
        let var = |cell| match two_pass(series(cell).map(f)) {
            (n, _, m2) if n > 1.0 => m2 / (n - 1.0),
            _ => f64::NAN,
        };
        (0..cells).map(var).collect()
    };
    let result = read(&out);
    assert_near(&result.numbers("speed_var"), &variance(&speed), 1e-6, "speed_var");
    assert_near(&result.numbers("direction_var"), &variance(&direction), 1e-6, "direction_var");
    assert_eq!(result.numbers("latitude"), read(&paths[0]).numbers("latitude"));
    assert_eq!(result.dims("speed_var"), ["height", "latitude", "longitude"]);
    assert!(result.dataset.variable("speed").is_none() && result.dataset.variable("time").is_none());
    let attribute = |v: &str, a: &str| result.attribute(v, a).unwrap_or_default();
    assert_eq!(attribute("speed_var", "units"), "m2 s-2");
    assert_eq!(attribute("speed_var", "cell_methods"), "time: variance (ddof 1)");
    assert_eq!(attribute("direction_var", "standard_name"), "wind_from_direction");
    let globals = format!("{:?}", result.dataset.attributes);
    assert!(globals.contains("CF-1.10") && globals.contains("jobq compute: speed = wind_speed"), "{globals}");
    assert!(!globals.contains(&dir.path().display().to_string()), "no paths without a stamp");
}

#[test]
fn any_order_of_tasks_and_any_repeat_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let paths = small_winds(dir.path());
    let text = format!(
        "{STUDY}; a = x_wind - mean(x_wind, time); all = mean(y_wind); n = count(x_wind > 3, latitude)"
    );
    let bytes = |name: &str, seed, times| {
        let mut request = request(&text, &paths, &dir.path().join(name));
        request.keep = vec!["direction".into()];
        computed(&request, seed, times)
    };
    let first = bytes("0.nc", 0, 1);
    for seed in 1..4 {
        assert_eq!(bytes(&format!("{seed}.nc"), seed * 7919, 1), first, "order {seed}");
    }
    assert_eq!(bytes("twice.nc", 5, 2), first);
}

#[test]
fn tasks_that_come_late_find_the_file_finished_and_leave_it() {
    let dir = tempfile::tempdir().unwrap();
    let paths = small_winds(dir.path());
    let out = dir.path().join("late.nc");
    let made = plan(&request(STUDY, &paths, &out)).unwrap();
    begin(&made).unwrap();
    let values = run(&made.graph, 0, 1).unwrap();
    let bytes = std::fs::read(&out).unwrap();
    let last = made.graph.len() - 1;
    run_task(&made.graph, last, &values).unwrap();
    run_task(&made.graph, last - 1, &values).unwrap();
    assert_eq!(std::fs::read(&out).unwrap(), bytes);
    run_task(&made.graph, last - 2, &values).unwrap();
    discard(&made).unwrap();
    discard(&made).unwrap();
    assert!(!made.temporary.exists());
    assert_eq!(std::fs::read(&out).unwrap(), bytes);
    // Another file under that name is not ours.
    std::fs::write(&out, vec![1; bytes.len()]).unwrap();
    let error = run_task(&made.graph, last - 1, &values).unwrap_err();
    assert!(error.message.contains("removed while it was written"), "{error}");
}

#[test]
fn tasks_that_run_after_their_plan_was_given_up_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let paths = small_winds(&dir.path().join("in"));
    let made = plan(&request(STUDY, &paths, &dir.path().join("out.nc"))).unwrap();
    let last = made.graph.len() - 1;
    begin(&made).unwrap();
    let mut values: Vec<_> = vec![None; made.graph.len()];
    for task in 0..last {
        values[task] = Some(run_task(&made.graph, task, &values).unwrap());
    }
    discard(&made).unwrap();
    // The layout, the writing and the closing task, each as if it had been on its way when that happened.
    for task in last - 2..=last {
        let error = run_task(&made.graph, task, &values).unwrap_err();
        assert!(error.message.contains("removed while it was written"), "{error}");
        assert!(error.message.contains("/.out.nc.jobq-"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "only the inputs' folder");
    }
    std::fs::remove_dir_all(dir.path()).unwrap();
    let error = run_task(&made.graph, last - 2, &values).unwrap_err();
    assert!(error.message.contains("the output's directory is not visible on "), "{error}");
}

#[test]
fn results_of_reductions_go_on_in_expressions_broadcast_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let paths = small_winds(dir.path());
    let text = "m = mean(x_wind, time); anomaly = x_wind - m; zonal = mean(x_wind, longitude)
        turned = zonal * mean(x_wind, time, latitude, longitude)
        spread = mean((x_wind - m)^2, time); total = max(x_wind) - min(x_wind); steps = count(x_wind, time)";
    let out = dir.path().join("out.nc");
    let mut request = request(text, &paths, &out);
    request.keep = vec!["m".into()];
    computed(&request, 3, 1);
    let result = read(&out);
    let u = joined(&paths, "x_wind");
    let (times, heights, ys, xs) = (30, 2, 13, 17);
    let at = |t: usize, h: usize, y: usize, x: usize| u[((t * heights + h) * ys + y) * xs + x];
    let over = |cells: Vec<f64>| two_pass(cells.into_iter());
    let each3 = |f: &dyn Fn(usize, usize, usize) -> f64| -> Vec<f64> {
        let cell = |i: usize| f(i / (ys * xs), i / xs % ys, i % xs);
        (0..heights * ys * xs).map(cell).collect()
    };
    let series = |h, y, x| over((0..times).map(|t| at(t, h, y, x)).collect());
    let mean = each3(&|h, y, x| series(h, y, x).1);
    assert_near(&result.numbers("m"), &mean, 1e-6, "m");
    let anomaly: Vec<f64> = (0..u.len()).map(|i| u[i] - f64::from(mean[i % mean.len()] as f32)).collect();
    let made = result.numbers("anomaly");
    for (i, (made, truth)) in made.iter().zip(&anomaly).enumerate() {
        assert!(
            (made - truth).abs() < 1e-5 || made.is_nan() && truth.is_nan(),
            "anomaly {i}: {made} {truth}"
        );
    }
    assert_eq!(result.dims("anomaly"), ["time", "height", "latitude", "longitude"]);
    assert_eq!(result.numbers("time"), joined(&paths, "time"));
    let spread = each3(&|h, y, x| {
        let (n, _, m2) = series(h, y, x);
        m2 / n
    });
    assert_near(&result.numbers("spread"), &spread, 1e-4, "spread");
    let level: Vec<f64> = (0..heights)
        .map(|h| {
            let cells = (0..times).flat_map(|t| (0..ys).flat_map(move |y| (0..xs).map(move |x| (t, y, x))));
            over(cells.map(|(t, y, x)| at(t, h, y, x)).collect()).1
        })
        .collect();
    let turned: Vec<f64> = (0..times * heights * ys)
        .map(|i| {
            let (t, h, y) = (i / (heights * ys), i / ys % heights, i % ys);
            over((0..xs).map(|x| at(t, h, y, x)).collect()).1 * level[h]
        })
        .collect();
    assert_near(&result.numbers("turned"), &turned, 1e-4, "turned");
    let known = || u.iter().copied().filter(|x| !x.is_nan());
    let total = known().fold(f64::MIN, f64::max) - known().fold(f64::MAX, f64::min);
    assert_near(&result.numbers("total"), &[total], 1e-6, "total");
    assert_eq!(result.dims("total"), Vec::<String>::new());
    assert_eq!(result.numbers("steps"), each3(&|h, y, x| series(h, y, x).0));
    assert_eq!(result.attribute("steps", "units").unwrap(), "1");
}

/// One file of i16, packed, over (time, y, x), and a plain i16 field over (y, x).
fn packed(path: &Path, times: std::ops::Range<u64>) {
    let number = |name: &str, value: f64| Attribute {
        name: name.into(),
        value: AttrValue::Floats(DType::F32, vec![value]),
    };
    let count = times.end - times.start;
    let mut t = chunked("t", DType::I16, &[0, 1, 2], &[2, 3, 4], Some((-1i16).to_le_bytes().to_vec()));
    t.attributes = vec![text("units", "K"), number("scale_factor", 0.5), number("add_offset", 273.0)];
    let h = chunked("h", DType::I16, &[1, 2], &[3, 4], None);
    let hours: Vec<f64> = times.clone().map(|t| t as f64).collect();
    let spec = FileSpec {
        dimensions: vec![dimension("time", count), dimension("y", 5), dimension("x", 6)],
        attributes: vec![],
        variables: vec![coordinate("time", 0, "hours since 2000-01-01", &hours), t, h],
    };
    let value = |i: u64| if i.is_multiple_of(7) { -1i16 } else { (i % 100) as i16 };
    let cells = |range: std::ops::Range<u64>| range.flat_map(|i| value(i).to_le_bytes()).collect::<Vec<u8>>();
    let heights = (0..30i16).flat_map(|i| (i * 3).to_le_bytes()).collect();
    write(path, &spec, &[cells(times.start * 30..times.end * 30), heights]);
}

#[test]
fn packed_integers_chunks_of_any_size_and_files_of_any_length_give_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..3).map(|k| dir.path().join(format!("p{k}.nc"))).collect();
    for (path, range) in paths.iter().zip([0..3, 3..8, 8..10]) {
        packed(path, range);
    }
    let text = "warm = t > 290; m = mean(t, time); d = t * 2 - h; hmax = max(h, x); s = sum(h, y, x)";
    let results: Vec<_> =
        [vec![], vec![("x".to_owned(), 2)], vec![("time".to_owned(), 4), ("y".to_owned(), 9)]]
            .into_iter()
            .enumerate()
            .map(|(k, chunks)| {
                let mut request = request(text, &paths, &dir.path().join(format!("out{k}.nc")));
                request.chunks = chunks;
                computed(&request, 11, 1);
                read(&request.out)
            })
            .collect();
    let t: Vec<f64> = joined(&paths, "t").iter().map(|x| x * 0.5 + 273.0).collect();
    let h = read(&paths[0]).numbers("h");
    for result in &results {
        let truth: Vec<f64> = (0..30).map(|c| two_pass((0..10).map(|k| t[k * 30 + c])).1).collect();
        assert_near(&result.numbers("m"), &truth, 1e-6, "m");
        let d: Vec<f64> = t.iter().enumerate().map(|(i, t)| t * 2.0 - h[i % 30]).collect();
        assert_near(&result.numbers("d"), &d, 1e-6, "d");
        let warm: Vec<f64> =
            t.iter().map(|t| if t.is_nan() { f64::NAN } else { f64::from(u8::from(*t > 290.0)) }).collect();
        assert_near(&result.numbers("warm"), &warm, 0.0, "warm");
        assert_eq!(result.numbers("hmax"), [15.0, 33.0, 51.0, 69.0, 87.0]);
        assert_eq!(result.numbers("s"), [h.iter().sum::<f64>()]);
        assert_eq!(result.dataset.variable("hmax").unwrap().dtype, DType::I16);
        assert_eq!(result.dataset.variable("m").unwrap().dtype, DType::F32);
    }
}

#[test]
fn a_large_tile_is_reduced_in_parts_that_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.nc");
    let spec = FileSpec {
        dimensions: vec![dimension("time", 80), dimension("y", 256), dimension("x", 256)],
        attributes: vec![],
        variables: vec![chunked("u", DType::F32, &[0, 1, 2], &[8, 256, 256], None)],
    };
    let values: Vec<f32> =
        (0..80 * 256 * 256u32).map(|i| 270.0 + (i.wrapping_mul(2_654_435_761) >> 20) as f32 * 1e-2).collect();
    write(&path, &spec, &[values.iter().flat_map(|v| v.to_le_bytes()).collect()]);
    let out = dir.path().join("out.nc");
    let made = plan(&request("m = mean(u); v = var(u); hi = max(u)", &[path], &out)).unwrap();
    assert_eq!((tasks_of(&made.graph, "partial"), tasks_of(&made.graph, "finish")), (2, 1));
    assert_eq!(tasks_of(&made.graph, "tile"), 0);
    begin(&made).unwrap();
    run(&made.graph, 17, 1).unwrap();
    let (n, mean, m2) = two_pass(values.iter().map(|v| f64::from(*v)));
    let result = read(&out);
    assert_near(&result.numbers("m"), &[mean], 1e-6, "m");
    assert_near(&result.numbers("v"), &[m2 / n], 1e-6, "v");
}

#[test]
fn what_is_wrong_is_said_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let paths = small_winds(dir.path());
    let out = dir.path().join("out.nc");
    let exists = dir.path().join("exists.nc");
    std::fs::write(&exists, "mine").unwrap();
    let failed = |change: &dyn Fn(&mut jobq::array::ComputeRequest)| {
        let mut request = request("m = mean(x_wind, time)", &paths, &out);
        change(&mut request);
        plan(&request).unwrap_err()
    };
    let statement = |text: &str| failed(&|r| r.statements = vec![text.to_owned()]).to_string();
    assert!(
        statement("m = mean(x_wnd, time)")
            .contains("did you mean 'x_wind'?\n  m = mean(x_wnd, time)\n           ^^^^^")
    );
    assert!(statement("m = median(x_wind)").contains("no function called 'median'"));
    assert!(statement("m = (x_wind").starts_with("column 12: expected ')'"));
    assert!(statement(" ").contains("nothing to compute"));
    assert!(statement("latitude = mean(x_wind, time)").contains("is a coordinate of the output"));
    let error = failed(&|r| r.out = exists.clone());
    assert!(matches!(&error, ArrayError::Output(m) if m.contains("exists: pass --overwrite")), "{error}");
    assert!(failed(&|r| r.out = dir.path().join("no/out.nc")).to_string().contains("no such directory"));
    assert!(
        failed(&|r| r.out = dir.path().join("out.txt"))
            .to_string()
            .contains("must end in one of: .nc, .zarr")
    );
    assert!(failed(&|r| r.keep = vec!["n".into()]).to_string().contains("no statement of that name"));
    assert!(
        failed(&|r| r.chunks = vec![("latitud".into(), 3)]).to_string().contains("did you mean 'latitude'")
    );
    assert!(failed(&|r| r.chunks = vec![("latitude".into(), 0)]).to_string().contains("at least 1"));
    let overwritten = failed(&|r| {
        r.out = paths[0].clone();
        r.overwrite = true;
    });
    assert!(overwritten.to_string().contains("is one of the inputs"), "{overwritten}");
    assert!(
        expand(&[format!("{}/none*.nc", dir.path().display())])
            .unwrap_err()
            .to_string()
            .contains("no file matches")
    );

    let bad = dir.path().join("bad.nc");
    let with = |bytes: &[u8]| {
        std::fs::write(&bad, bytes).unwrap();
        failed(&|r| r.inputs.push(bad.clone())).to_string()
    };
    assert!(with(b"not netCDF at all").contains("bad.nc: not a netCDF-4"));
    let whole = std::fs::read(&paths[0]).unwrap();
    assert!(with(&whole[..whole.len() / 2]).contains("bad.nc"));
    let twice = failed(&|r| r.inputs.push(paths[0].clone())).to_string();
    assert!(twice.contains("'time' does not go on from"), "{twice}");
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    assert!(left.iter().all(|name| !name.contains("jobq-")), "{left:?}");
}

#[test]
fn files_that_do_not_fit_are_named_with_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, hour: f64, change: &dyn Fn(&mut FileSpec)| {
        let path = dir.path().join(name);
        let mut spec = FileSpec {
            dimensions: vec![dimension("time", 1), dimension("x", 4)],
            attributes: vec![],
            variables: vec![
                coordinate("time", 0, "hours since 2000-01-01", &[hour]),
                coordinate("x", 1, "m", &[1.0, 2.0, 3.0, 4.0]),
                chunked("u", DType::F32, &[0, 1], &[1, 4], None),
            ],
        };
        change(&mut spec);
        let u = &spec.variables[2];
        let cells: u64 = u.dims.iter().map(|d| spec.dimensions[*d].len).product();
        write(&path, &spec, &[vec![0; cells as usize * u.dtype.size()]]);
        path
    };
    let a = file("a.nc", 0.0, &|_| {});
    let check = |change: &dyn Fn(&mut FileSpec), part: &str| {
        let error = open(&[a.clone(), file("b.nc", 1.0, change)]).unwrap_err().to_string();
        assert!(error.contains("a.nc") && error.contains("b.nc") && error.contains(part), "{error}");
    };
    check(
        &|s| s.variables[2].attributes[0] = text("units", "knots"),
        "'units' of 'u' is \"knots\", not \"m s-1\"",
    );
    check(&|s| s.variables[2].dtype = DType::F64, "'u' is of type F64, not F32");
    check(&|s| s.variables[2].name = "w".into(), "no variable 'u'");
    check(&|s| s.variables.push(coordinate("time2", 0, "h", &[0.0])), "a variable 'time2' more");
    check(&|s| s.variables[1] = coordinate("x", 1, "m", &[1.0, 2.0, 3.0, 5.0]), "the coordinate 'x' differs");
    check(
        &|s| {
            s.dimensions[1].len = 5;
            s.variables[1] = coordinate("x", 1, "m", &[1.0, 2.0, 3.0, 4.0, 5.0]);
        },
        "the dimension 'x' is 5 long, not 4",
    );
    let joined = open(&[a.clone(), file("c.nc", 1.0, &|_| {})]).unwrap();
    assert_eq!((joined.join, joined.starts.clone(), joined.dims[0].len), (Some(0), vec![0, 1], 2));
}

#[test]
fn what_happens_to_files_after_planning_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let paths = small_winds(&dir.path().join("in"));
    let out = dir.path().join("out.nc");
    let made = plan(&request("m = mean(x_wind, time)", &paths, &out)).unwrap();
    begin(&made).unwrap();
    // Somebody else makes the output: it is not replaced, at the very end.
    let close = made.graph.len() - 1;
    let mut values: Vec<_> = vec![None; made.graph.len()];
    for task in 0..close {
        values[task] = Some(run_task(&made.graph, task, &values).unwrap());
    }
    std::fs::write(&out, "mine").unwrap();
    let error = run_task(&made.graph, close, &values).unwrap_err();
    assert!(error.message.contains("has come into being meanwhile"), "{error}");
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
    discard(&made).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);

    let hidden = dir.path().join("hidden.nc");
    std::fs::rename(&paths[1], &hidden).unwrap();
    let error = run(&made.graph, 0, 1).unwrap_err();
    assert!(error.message.starts_with("visible here, not on "), "{error}");
    assert!(error.message.contains("wind_001.nc"), "{error}");
    std::fs::write(&paths[1], "other").unwrap();
    let error = run(&made.graph, 0, 1).unwrap_err();
    assert!(error.message.starts_with("changed since the plan was made: "), "{error}");
}

#[test]
fn open_tells_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let paths = small_winds(dir.path());
    let summary = Summary::of(&open(&paths).unwrap());
    let text = summary.text();
    for part in [
        "3 files, joined along time",
        "time = 30 (unlimited)",
        "f32 x_wind(time=30, height=2, latitude=13, longitude=17)",
        "chunks 4x1x5x6, shuffle+deflate 1",
        "units = \"m s-1\"",
        "title = \"Sample wind components\"",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["joined_along"], "time");
    assert_eq!(json["coordinates"][0]["name"], "time");
    assert_eq!(json["variables"][0]["chunk"], serde_json::json!([4, 1, 5, 6]));
}

#[test]
fn a_store_is_the_same_files_in_any_order_and_however_often_tasks_run() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = WindSizes {
        times: 6,
        heights: 2,
        latitudes: 13,
        longitudes: 17,
        chunk: [4, 1, 5, 6],
        ..WindSizes::default()
    };
    let inputs = example_winds(dir.path(), 2, &sizes).unwrap();
    let statements = "speed = wind_speed(x_wind, y_wind); m = mean(speed, time); all = sum(x_wind)";
    let mut first: Option<Vec<(PathBuf, Vec<u8>)>> = None;
    for seed in 0..4 {
        let mut request = request(statements, &inputs, &dir.path().join(format!("{seed}.zarr")));
        request.keep = vec!["speed".into()];
        let plan = plan(&request).unwrap_or_else(|e| panic!("{e}"));
        begin(&plan).unwrap();
        run(&plan.graph, seed, 2).unwrap_or_else(|e| panic!("{e}"));
        assert!(!plan.temporary.exists());
        let mut files = Vec::new();
        let mut folders = vec![request.out.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push((
                        path.strip_prefix(&request.out).unwrap().to_owned(),
                        fs::read(&path).unwrap(),
                    ));
                }
            }
        }
        files.sort();
        assert!(files.len() > 20 && !files.iter().any(|(path, _)| path.ends_with(".jobq-unfinished")));
        assert!(*first.get_or_insert_with(|| files.clone()) == files, "seed {seed}");
        // The plan of a store that was given up makes nothing any more.
        let late = plan_again(&request, dir.path());
        assert!(run(&late.graph, 0, 1).unwrap_err().message.contains("not visible"));
        assert!(!late.temporary.exists());
    }
}

/// The same work to another place, begun and given up.
fn plan_again(request: &ComputeRequest, dir: &Path) -> Plan {
    let late = plan(&ComputeRequest { out: dir.join("late.zarr"), ..request.clone() }).unwrap();
    begin(&late).unwrap();
    discard(&late).unwrap();
    late
}
