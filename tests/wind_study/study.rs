//! The study's result: against a float64 reference, and the same bytes wherever it is computed.

use super::arrays::read;
use super::reference::truth;
use super::site::Site;
use super::support::process::{Ended, ended, skipped};
use super::support::slurm;
use jobq::format::example::{WindSizes, example_winds};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

const FILES: u32 = 16;
const STUDY: &str = "speed = wind_speed(x_wind, y_wind); direction = wind_direction(x_wind, y_wind)
    speed_var = var(speed, time, ddof=1); direction_var = var(direction, time, ddof=1)";
const WORKERS: &str = "8";

/// The files, and the bytes that every way of computing them must give.
struct Winds {
    dir: tempfile::TempDir,
    inputs: Vec<PathBuf>,
    expected: Vec<u8>,
}

/// 25 MB decoded a file; 252 tiles, of which 36 are a single row at the northern edge.
fn sizes() -> WindSizes {
    WindSizes { times: 12, latitudes: 181, ..WindSizes::default() }
}

impl Winds {
    /// Those of whichever test came first; gone with the last one.
    fn get() -> Arc<Winds> {
        static MADE: Mutex<Weak<Winds>> = Mutex::new(Weak::new());
        let mut made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        made.upgrade().unwrap_or_else(|| {
            let winds = Arc::new(Winds::new());
            *made = Arc::downgrade(&winds);
            winds
        })
    }

    fn new() -> Winds {
        let dir = tempfile::Builder::new().prefix("jobq-winds-").tempdir().unwrap();
        let inputs = example_winds(&dir.path().join("in"), FILES, &sizes()).unwrap();
        let mut winds = Winds { dir, inputs, expected: Vec::new() };
        let out = winds.dir.path().join("local.nc");
        let report = winds.computed(&Site::new(), &out, &["--local"]);
        assert!(number(&report["tiles"]) >= 200, "{report}");
        let decoded = number(&report["decoded_nbytes"]);
        assert!(decoded >= u64::from(FILES) * 25_000_000, "{decoded}");
        winds.expected = fs::read(&out).unwrap();
        winds
    }

    fn words(&self, out: &Path, more: &[&str]) -> Vec<String> {
        let pattern = self.dir.path().join("in/wind_*.nc");
        let (pattern, out) = (pattern.to_str().unwrap(), out.to_str().unwrap());
        let words = [&["compute", STUDY, "--in", pattern, "--out", out, "--json"], more].concat();
        words.into_iter().map(str::to_owned).collect()
    }

    /// Computes the study at that site; what it reported.
    fn computed(&self, site: &Site, out: &Path, more: &[&str]) -> Value {
        let words = self.words(out, more);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        serde_json::from_str(&site.ok(&words)).unwrap()
    }

    fn check(&self, out: &Path, how: &str) {
        assert!(fs::read(out).unwrap() == self.expected, "other bytes {how}");
        let folder = out.parent().unwrap();
        let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let hidden: Vec<String> = names.filter(|name| name.starts_with('.')).collect();
        assert_eq!(hidden, [""; 0], "temporary files {how}");
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// Tasks that each worker has finished, workers that are gone included.
fn finished(status: &Value) -> Vec<u64> {
    status["workers"].as_array().unwrap().iter().map(|w| number(&w["finished"])).collect()
}

/// Workers that have done more than a few tasks.
fn at_work(status: &Value) -> usize {
    finished(status).into_iter().filter(|n| *n >= 10).count()
}

fn up(site: &Site, queue: &str, workers: &str) {
    site.ok(&["up", "--queue", queue, "--workers", workers, "--memory", "500MB", "--wait"]);
}

/// The study at a cluster that has done nothing yet; each task once, by more than one worker.
fn on_cluster(winds: &Winds, site: &Site, how: &str, several: bool) {
    let out = site.file("undisturbed.nc");
    let report = winds.computed(site, &out, &[]);
    winds.check(&out, how);
    let status = site.status();
    let finished = finished(&status);
    // Each worker looks first whether it sees the files.
    let tasks = number(&report["tasks"]) + finished.len() as u64;
    assert_eq!(finished.iter().sum::<u64>(), tasks, "each task once, {how}: {status:#}");
    let at_work = at_work(&status);
    assert!(if several { at_work >= 4 } else { at_work == 1 }, "{how}: {status:#}");
}

/// The study while a worker that has finished some of its tiles is killed.
fn with_a_kill(winds: &Winds, site: &Site, how: &str) {
    let out = site.file("disturbed.nc");
    let before = site.status();
    let words = winds.words(&out, &[]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let child = site.spawn(&words);
    let done = |status: &Value| number(&status["counts"]["memory"]);
    let victim = site.until("tiles of a worker", |status| {
        let tasks = done(status) - done(&before);
        assert!(tasks < 200, "it came too late to kill anybody: {tasks} tasks are done");
        let of_before = before["workers"].as_array().unwrap();
        let mut workers = status["workers"].as_array().unwrap().iter();
        let victim = workers.find(|w| {
            let was = of_before.iter().find(|b| b["pid"] == w["pid"]).map_or(0, |b| number(&b["finished"]));
            w["state"] == "connected" && number(&w["finished"]) >= was + 3
        });
        victim.map(|w| i32::try_from(number(&w["pid"])).unwrap())
    });
    assert!(site.processes("worker").contains(&Pid::from_raw(victim)), "{victim} is a worker of ours");
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    let Ended { code, stdout, stderr } = ended(child, how);
    assert_eq!(code, Some(0), "{how}: {stderr}\n{}", site.log());
    winds.check(&out, how);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let status = site.status();
    let ended = finished(&status).iter().sum::<u64>() - finished(&before).iter().sum::<u64>();
    assert!(ended > number(&report["tasks"]), "nothing was lost with the worker, {how}: {status:#}");
    let mut lost = status["workers"].as_array().unwrap().iter().filter(|w| w["state"] == "lost");
    assert!(lost.any(|w| w["pid"] == victim), "{status:#}");
    assert!(at_work(&status) >= 4, "{how}: {status:#}");
}

/// Cells that are equal to the truth within that part of it, and missing where it is.
fn assert_near(made: &[f64], truth: &[f64], relative: f64, what: &str) {
    assert_eq!(made.len(), truth.len(), "{what}");
    for (cell, (made, truth)) in made.iter().zip(truth).enumerate() {
        assert_eq!(made.is_nan(), truth.is_nan(), "{what}, mask of cell {cell}: {made}, not {truth}");
        let near = truth.is_nan() || (made - truth).abs() <= relative * truth.abs();
        assert!(near, "{what}, cell {cell}: {made}, not {truth}");
    }
}

#[test]
fn the_study_has_the_variances_of_a_float64_reference() {
    let winds = Winds::get();
    let truth = truth(&winds.inputs);
    let missing = truth.speed_var.iter().filter(|x| x.is_nan()).count();
    assert!(missing > 0 && missing < truth.speed_var.len() / 10, "the sample has missing cells");
    let made = read(&winds.dir.path().join("local.nc"));
    assert_near(&made.numbers("speed_var"), &truth.speed_var, 1e-6, "speed_var");
    assert_near(&made.numbers("direction_var"), &truth.direction_var, 1e-6, "direction_var");
}

#[test]
fn xarray_and_numpy_give_the_same_variances() {
    let test = "xarray_and_numpy_give_the_same_variances";
    let Some(python) = std::env::var_os("JOBQ_TEST_PYTHON") else {
        return skipped(test, "JOBQ_TEST_PYTHON is not set");
    };
    let winds = Winds::get();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/compare_study.py");
    let output =
        Command::new(python).arg(script).arg(winds.dir.path().join("local.nc")).args(&winds.inputs).output();
    let output = output.unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(told.trim(), "equal");
}

#[test]
fn one_and_eight_workers_give_the_same_bytes_and_a_killed_one_changes_nothing() {
    let winds = Winds::get();
    let one = Site::new();
    up(&one, "local", "1");
    on_cluster(&winds, &one, "on 1 worker", false);
    one.down();
    let eight = Site::new();
    up(&eight, "local", WORKERS);
    on_cluster(&winds, &eight, "on 8 workers", true);
    with_a_kill(&winds, &eight, "with a worker killed on the local queue");
    eight.down();
}

#[test]
fn what_is_done_is_not_computed_again_when_its_workers_are_lost() {
    let site = Site::new();
    let sizes =
        WindSizes { times: 4, heights: 2, latitudes: 13, longitudes: 17, chunk: [4, 1, 5, 6], ..sizes() };
    example_winds(&site.file("in"), 2, &sizes).unwrap();
    up(&site, "local", "2");
    let report = site.ok(&["compute", STUDY, "--in", "in/*.nc", "--out", "o.nc", "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let workers = site.processes("worker");
    assert_eq!(workers.len(), 2);
    workers.iter().for_each(|pid| kill(*pid, Signal::SIGKILL).unwrap());
    let status = site.until("two lost workers", |status| {
        let lost = status["workers"].as_array().unwrap().iter().filter(|w| w["state"] == "lost").count();
        (lost == 2).then(|| status.clone())
    });
    let looks = 2;
    assert_eq!(number(&status["counts"]["memory"]), number(&report["tasks"]) + looks, "{status:#}");
    site.down();
}

#[test]
fn slurm_gives_the_same_bytes_though_a_worker_is_killed() {
    let Some(slurm) = slurm::start("slurm_gives_the_same_bytes_though_a_worker_is_killed") else { return };
    let winds = Winds::get();
    // A real site is asked every half minute.
    let names = ["LIMITS__MIN_POLL_INTERVAL", "SCHEDULER__POLL_INTERVAL"];
    let often = names.map(|name| (format!("JOBQ_CFG_{name}"), "1s".to_owned()));
    let site = Site::new().with([slurm.env(), often.to_vec()].concat());
    up(&site, "spice", WORKERS);
    with_a_kill(&winds, &site, "with a worker killed on Slurm");
    site.down();
    assert_eq!(slurm.squeue(), [""; 0]);
}
