//! `example-data`, `open` and `compute --local` through the program: values, bytes, messages and exit codes.

#[path = "support/arrays.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod arrays;

use arrays::{computed, read, request};
use jobq::format::Storage;
use jobq::format::example::{WindSizes, example_winds};
use jobq::format::read_at::LocalFile;
use jobq::format::{DType, hdf5};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const STUDY: &str = "speed = wind_speed(x_wind, y_wind); direction = wind_direction(x_wind, y_wind)
    speed_var = var(speed, time, ddof=1); direction_var = var(direction, time, ddof=1)";
const FIELDS: &str = "anomaly = x_wind - mean(x_wind, time); total = sum(x_wind); low = min(x_wind, time)
    n = count(x_wind, time); direction = wind_direction(x_wind, y_wind); strong = x_wind > 5";
const SPEED: &str = "speed = wind_speed(x_wind, y_wind)";
/// Somebody who isn't root.
const NOBODY: u32 = 65534;

fn sizes() -> WindSizes {
    WindSizes {
        times: 10,
        heights: 2,
        latitudes: 13,
        longitudes: 17,
        chunk: [4, 1, 5, 6],
        ..WindSizes::default()
    }
}

/// A directory with three small files, in which the program is run.
struct Study {
    dir: tempfile::TempDir,
    inputs: Vec<PathBuf>,
}

impl Study {
    fn new() -> Study {
        let dir = tempfile::tempdir().unwrap();
        let inputs = example_winds(dir.path(), 3, &sizes()).unwrap();
        Study { dir, inputs }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Names in the directory, hidden ones too, with what is in the files.
    fn contents(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let entry = |e: fs::DirEntry| {
            let content = e.file_type().unwrap().is_file().then(|| fs::read(e.path()).ok()).flatten();
            (e.file_name().into_string().unwrap(), content)
        };
        let mut found: Vec<_> = fs::read_dir(self.dir.path()).unwrap().map(|e| entry(e.unwrap())).collect();
        found.sort();
        found
    }

    /// The program in this directory, with nothing of the caller's configuration.
    fn jobq(&self, words: &[&str]) -> Command {
        self.program(Path::new(env!("CARGO_BIN_EXE_jobq")), words)
    }

    fn program(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env_clear().env("HOME", self.dir.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.jobq(words).output().unwrap()
    }

    fn compute(&self, statements: &str, more: &[&str]) -> Output {
        self.run(&[&["compute", statements, "--local"], more].concat())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
}

/// The program refused with that code and those words, and changed nothing.
fn refused(study: &Study, output: &Output, before: &[(String, Option<Vec<u8>>)], code: i32, words: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.starts_with("error: ") && !stderr.contains("panicked"), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
    }
    assert_eq!(text(&output.stdout), "");
    let names = |contents: &[(String, _)]| contents.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let after = study.contents();
    assert_eq!(names(&after), names(before), "after: {stderr}");
    assert!(after == before, "a file was changed: {stderr}");
}

#[test]
fn the_wind_product_is_the_same_bytes_on_any_number_of_threads() {
    let study = Study::new();
    let reference = computed(&request(STUDY, &study.inputs, &study.path("reference.nc")), 7, 1);
    for threads in ["1", "4"] {
        let out = format!("on{threads}.nc");
        let words = ["--in", "wind_*.nc", "--out", &out, "--threads", threads];
        let output = study.compute(STUDY, &words);
        succeeded(&output);
        assert_eq!(text(&output.stdout), "");
        let told = text(&output.stderr);
        assert!(told.contains("on") && told.contains("(speed_var, direction_var)"), "{told}");
        assert!(fs::read(study.path(&out)).unwrap() == reference, "with {threads} threads");
    }
    let made = read(&study.path("on4.nc"));
    assert_eq!(made.dims("speed_var"), ["height", "latitude", "longitude"]);
    assert_eq!(made.attribute("speed_var", "cell_methods").unwrap(), "time: variance (ddof 1)");
    let left: Vec<String> = study.contents().into_iter().map(|(name, _)| name).collect();
    let inputs = ["wind_000.nc", "wind_001.nc", "wind_002.nc"];
    assert_eq!(left, [&["on1.nc", "on4.nc", "reference.nc"], &inputs[..]].concat(), "nothing else is left");
}

#[test]
fn a_result_is_reported_as_json_and_silently_if_asked() {
    let study = Study::new();
    let words = ["--in", "wind_000.nc", "--out", "o.nc", "--json", "--keep", "speed"];
    let output = study.compute("speed = wind_speed(x_wind, y_wind); m = mean(speed)", &words);
    succeeded(&output);
    assert_eq!(text(&output.stderr), "");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["schema"], &report["graph"]), (&1.into(), &serde_json::Value::Null));
    assert_eq!(report["out"], study.path("o.nc").to_str().unwrap());
    assert_eq!(
        (&report["outputs"][0]["name"], &report["outputs"][1]["name"]),
        (&"speed".into(), &"m".into())
    );
    assert!(report["tasks"].as_u64().unwrap() > 0 && report["seconds"].as_f64().unwrap() > 0.0);
    let words = ["--in", "wind_000.nc", "--out", "o.nc", "-q", "--overwrite"];
    let output = study.compute(SPEED, &words);
    succeeded(&output);
    assert_eq!((text(&output.stdout), text(&output.stderr)), (String::new(), String::new()));
    assert!(read(&study.path("o.nc")).dataset.variable("m").is_none(), "it was replaced");
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let study = Study::new();
    let before = study.contents();
    let words = ["--in", "wind_000.nc", "wind_001.nc", "--out", "o.nc", "--chunks", "time=5", "--dry-run"];
    let output = study.compute(SPEED, &words);
    succeeded(&output);
    let told = text(&output.stdout);
    assert!(
        told.contains("f32 speed(time=20, height=2, latitude=13, longitude=17), chunks 5x1x5x6"),
        "{told}"
    );
    // The cluster isn't asked either.
    let output = study.run(&[&["compute", SPEED, "--json"], &words[..]].concat());
    succeeded(&output);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["schema"], &report["inputs"]), (&1.into(), &2.into()));
    assert!(study.contents() == before);
}

#[test]
fn what_was_typed_wrong_is_a_usage_error_that_points_at_it() {
    let study = Study::new();
    let before = study.contents();
    let files = ["--in", "wind_000.nc", "--out", "o.nc"];
    for (statements, words) in [
        ("s = wind_speed(x_wind,", &["column 23", "\n  s = wind_speed(x_wind,\n", "^"][..]),
        ("s = x_wind +* 2", &["column 13", "\n  s = x_wind +* 2\n              ^"]),
        ("s = wind_sped(x_wind, y_wind)", &["column 5", "wind_sped", "did you mean 'wind_speed'?"]),
        ("s = wind_speed(x_wnd, y_wind)", &["column 16", "x_wnd", "did you mean 'x_wind'?"]),
        ("s = mean(x_wind, depth)", &["depth"]),
        ("s = ", &["column"]),
        ("", &["nothing to compute"]),
        ("x_wind", &["column"]),
    ] {
        refused(&study, &study.compute(statements, &files), &before, 2, words);
    }
    for (more, words) in [
        (["--keep", "sped"], &["--keep sped", "did you mean 'speed'?"][..]),
        (["--chunks", "tim=2"], &["tim=2", "did you mean 'time'?"]),
    ] {
        refused(&study, &study.compute(SPEED, &[&files[..], &more].concat()), &before, 2, words);
    }
    let output = study.compute(SPEED, &["--in", "wind_000.nc", "--out", "o.txt"]);
    refused(&study, &output, &before, 2, &["o.txt", ".nc"]);
}

#[test]
fn inputs_that_can_not_be_used_are_named() {
    let study = Study::new();
    let whole = fs::read(&study.inputs[0]).unwrap();
    for length in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(study.path(&format!("cut{length}.nc")), &whole[..length]).unwrap();
    }
    fs::write(study.path("text.nc"), "time,wind\n1,2\n").unwrap();
    fs::create_dir(study.path("folder.nc")).unwrap();
    nix::unistd::mkfifo(&study.path("pipe.nc"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let wider = example_winds(&study.path("wider"), 2, &WindSizes { longitudes: 18, ..sizes() }).unwrap();
    fs::rename(&wider[1], study.path("wider.nc")).unwrap();
    fs::remove_dir_all(study.path("wider")).unwrap();
    let before = study.contents();
    let half = format!("cut{}.nc", whole.len() / 2);
    let less = format!("cut{}.nc", whole.len() - 1);
    for (inputs, words) in [
        (&["cut0.nc"][..], &["cut0.nc", "not a netCDF-4"][..]),
        (&["cut7.nc"], &["cut7.nc", "not a netCDF-4"]),
        (&["cut100.nc"], &["cut100.nc", "cut short"]),
        (&[&half], &[&half, "cut short"]),
        (&[&less], &[&less, "cut short"]),
        (&["wind_000.nc", &half], &[&half]),
        (&["text.nc"], &["text.nc", "not a netCDF-4"]),
        (&["folder.nc"], &["folder.nc", "a directory that is no Zarr store"]),
        (&["pipe.nc"], &["pipe.nc", "not a regular file"]),
        (&["none.nc"], &["none.nc", "No such file"]),
        (&["none_*.nc"], &["no file matches 'none_*.nc'"]),
        (&["wind_000.nc", "wider.nc"], &["wider.nc", "wind_000.nc", "'longitude' is 18 long, not 17"]),
        (&["wind_001.nc", "wind_000.nc"], &["wind_000.nc", "wind_001.nc", "'time' does not go on"]),
    ] {
        let words_of_compute = [&["--out", "o.nc", "--in"], inputs].concat();
        refused(&study, &study.compute(SPEED, &words_of_compute), &before, 78, words);
        refused(&study, &study.run(&[&["open"], inputs].concat()), &before, 78, words);
    }
}

#[test]
fn outputs_that_can_not_be_written_are_named_before_any_work() {
    let study = Study::new();
    fs::write(study.path("there.nc"), "precious").unwrap();
    fs::create_dir(study.path("folder.nc")).unwrap();
    let before = study.contents();
    for (out, more, words) in [
        ("there.nc", &[][..], &["there.nc", "--overwrite"][..]),
        ("folder.nc", &["--overwrite"], &["folder.nc", "directory"]),
        ("none/o.nc", &[], &["none", "no such directory"]),
        ("there.nc/o.nc", &[], &["there.nc", "no such directory"]),
        ("wind_000.nc", &["--overwrite"], &["wind_000.nc", "one of the inputs"]),
    ] {
        let words_of_compute = [&["--in", "wind_000.nc", "--out", out], more].concat();
        refused(&study, &study.compute(SPEED, &words_of_compute), &before, 78, words);
    }
}

#[test]
fn paths_that_can_not_be_told_to_a_worker_are_refused() {
    let study = Study::new();
    let odd = study.dir.path().join(OsStr::from_bytes(b"odd\xff"));
    fs::create_dir(&odd).unwrap();
    fs::copy(&study.inputs[0], odd.join("in.nc")).unwrap();
    let before = fs::read_dir(&odd).unwrap().count();
    let inside = |input: &str, out: &OsStr| {
        let mut command = study.jobq(&["compute", SPEED, "--local", "--in", input, "--out"]);
        command.arg(out).current_dir(&odd).output().unwrap()
    };
    let whole = study.inputs[0].to_str().unwrap();
    for output in [inside("in.nc", study.path("o.nc").as_os_str()), inside(whole, OsStr::new("o.nc"))] {
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains("is not UTF-8"), "{stderr}");
    }
    assert_eq!(fs::read_dir(&odd).unwrap().count(), before);
    assert!(!study.path("o.nc").exists());
}

/// Another user's program: a copy where everybody may execute it.
fn copied_program(study: &Study) -> PathBuf {
    let copy = study.path("jobq");
    fs::copy(env!("CARGO_BIN_EXE_jobq"), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(study.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

/// Until no other test's child, just forked, has the copy open for writing any more.
fn started(command: &mut Command) -> std::io::Result<Output> {
    loop {
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            result => return result,
        }
    }
}

#[test]
fn what_may_not_be_read_or_written_is_a_matter_of_permission() {
    let study = Study::new();
    let program = copied_program(&study);
    fs::set_permissions(&study.inputs[1], fs::Permissions::from_mode(0o000)).unwrap();
    fs::create_dir(study.path("closed")).unwrap();
    fs::set_permissions(study.path("closed"), fs::Permissions::from_mode(0o500)).unwrap();
    fs::create_dir(study.path("open")).unwrap();
    fs::set_permissions(study.path("open"), fs::Permissions::from_mode(0o777)).unwrap();
    let before = study.contents();
    let compute = |input: &str, out: &str| {
        let words = ["compute", SPEED, "--local", "--in", input, "--out", out];
        let mut command = study.program(&program, &words);
        if nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        started(&mut command).unwrap()
    };
    refused(&study, &compute("wind_001.nc", "open/o.nc"), &before, 77, &["wind_001.nc", "ermission denied"]);
    refused(&study, &compute("wind_000.nc", "closed/o.nc"), &before, 77, &["closed", "ermission denied"]);
    succeeded(&compute("wind_000.nc", "open/o.nc"));
    fs::set_permissions(study.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_damaged_chunk_fails_its_task_and_leaves_no_file() {
    let study = Study::new();
    let file = LocalFile::open(&study.inputs[1]).unwrap();
    let dataset = hdf5::open(&file).unwrap();
    let Storage::Chunked { chunks, .. } = &dataset.variable("y_wind").unwrap().storage else {
        panic!("a chunked variable")
    };
    let chunk = chunks.iter().flatten().nth(5).unwrap();
    let noise: Vec<u8> = (0..chunk.nbytes).map(|i| (i * 37 % 251) as u8).collect();
    fs::OpenOptions::new()
        .write(true)
        .open(&study.inputs[1])
        .unwrap()
        .write_all_at(&noise, chunk.offset)
        .unwrap();
    let before = study.contents();
    let output = study.compute(STUDY, &["--in", "wind_*.nc", "--out", "o.nc"]);
    refused(&study, &output, &before, 1, &["task ", "wind_001.nc", "y_wind"]);
}

/// The same computation under a shell that limits how large a file may get: as on a full disk, room is refused.
#[test]
fn a_file_that_gets_too_large_fails_and_is_removed() {
    let study = Study::new();
    let before = study.contents();
    let program = env!("CARGO_BIN_EXE_jobq");
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$@\"";
    let words = ["-c", script, "sh", program, "compute", SPEED, "--local"];
    let words = [&words[..], &["--in", "wind_000.nc", "--out", "o.nc"]].concat();
    let output = study.program(Path::new("sh"), &words).output().unwrap();
    refused(&study, &output, &before, 1, &["o.nc", "too large"]);
}

#[test]
fn a_full_disk_fails_the_computation_and_is_left_as_it_was() {
    let study = Study::new();
    fs::create_dir(study.path("disk")).unwrap();
    let before = study.contents();
    let program = env!("CARGO_BIN_EXE_jobq");
    let mount = "mount -t tmpfs -o size=16k none disk || exit 99";
    let script = format!("{mount}; \"$@\"; code=$?; ls -A disk >&2; exit $code");
    let unshare = ["--mount", "--map-root-user", "--user", "sh", "-c", &script, "sh"];
    let words = ["compute", SPEED, "--local", "--in", "wind_000.nc", "--out", "disk/o.nc"];
    let output = study.program(Path::new("unshare"), &[&unshare[..], &[program], &words].concat()).output();
    let output = match output {
        Ok(output) if output.status.code() != Some(99) && !text(&output.stderr).starts_with("unshare") => {
            output
        }
        _ => {
            eprintln!(
                "skipped: a_full_disk_fails_the_computation_and_is_left_as_it_was: no private mounts here"
            );
            return;
        }
    };
    refused(&study, &output, &before, 1, &["disk/.o.nc", "No space left"]);
    assert_eq!(text(&output.stderr).lines().count(), 1, "nothing is left on the disk");
}

#[test]
fn without_a_cluster_compute_says_how_to_get_one() {
    let study = Study::new();
    let before = study.contents();
    let output = study.run(&["compute", SPEED, "--in", "wind_000.nc", "--out", "o.nc"]);
    refused(&study, &output, &before, 69, &["cluster 'default'", "up"]);
}

/// Starts something that takes long, waits until it computes, and ends it with that signal.
fn stopped_by(signal: Signal) -> (Study, Option<i32>, String) {
    let study = Study::new();
    let large = WindSizes { latitudes: 120, longitudes: 120, chunk: [10, 1, 12, 12], ..sizes() };
    example_winds(&study.path("large"), 3, &large).unwrap();
    let sum = (0..150).map(|i| format!("sin(x_wind + {i})")).collect::<Vec<_>>().join(" + ");
    let statements = format!("s = {sum}");
    let words = ["compute", &statements, "--local", "-v", "--in", "large/*.nc", "--out", "o.nc"];
    let mut child: Child = study.jobq(&words).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut told = String::new();
    stderr.read_line(&mut told).unwrap();
    assert!(told.starts_with("computing on "), "{told}");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    stderr.read_to_string(&mut told).unwrap();
    let code = child.wait().unwrap().code();
    (study, code, told)
}

#[test]
fn a_signal_ends_a_computation_and_nothing_is_left_of_it() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let (study, ended, told) = stopped_by(signal);
        assert_eq!(ended, Some(code), "{told}");
        let names: Vec<String> = study.contents().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["large", "wind_000.nc", "wind_001.nc", "wind_002.nc"]);
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn example_data_is_written_and_nobody_elses_is_replaced() {
    let study = Study::new();
    let output = study.run(&["example-data", "new/samples", "--files", "1"]);
    succeeded(&output);
    assert_eq!(text(&output.stdout), "new/samples/wind_000.nc\n");
    let sample = fs::read(study.path("new/samples/wind_000.nc")).unwrap();
    // Again, over our own, and over what a crash left empty.
    fs::write(study.path("new/samples/wind_000.nc"), "").unwrap();
    let output = study.run(&["example-data", "new/samples", "--files", "1", "--json"]);
    succeeded(&output);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report, serde_json::json!({ "schema": 1, "files": ["new/samples/wind_000.nc"] }));
    assert!(fs::read(study.path("new/samples/wind_000.nc")).unwrap() == sample, "the same bytes each time");
    succeeded(&study.run(&["open", "new/samples/wind_000.nc"]));

    fs::create_dir(study.path("theirs")).unwrap();
    fs::write(study.path("theirs/wind_001.nc"), "precious").unwrap();
    let output = study.run(&["example-data", "theirs", "--files", "2"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("theirs/wind_001.nc"), "{}", text(&output.stderr));
    let left: Vec<_> = fs::read_dir(study.path("theirs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["wind_001.nc"], "not one of them was written");
    assert_eq!(study.run(&["example-data", "wind_000.nc"]).status.code(), Some(78), "a file is no directory");
}

#[test]
fn open_shows_what_is_there_for_people_and_programs() {
    let study = Study::new();
    let output = study.run(&["open", "wind_*.nc"]);
    succeeded(&output);
    let told = text(&output.stdout);
    for line in ["3 files, joined along time", "  time = 30 (unlimited)", "    units = \"m s-1\""] {
        assert!(told.contains(line), "{told}");
    }
    let output = study.run(&["open", "wind_000.nc", "--json"]);
    succeeded(&output);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["schema"], &report["dimensions"][0]["len"]), (&1.into(), &10.into()));
}

fn python(test: &str) -> Option<PathBuf> {
    let found = std::env::var_os("JOBQ_TEST_PYTHON").map(PathBuf::from);
    if found.is_none() {
        eprintln!("skipped: {test}: JOBQ_TEST_PYTHON is not set");
    }
    found
}

/// Runs another program to its end and returns what it printed.
fn printed<W: AsRef<OsStr>>(program: impl AsRef<OsStr>, words: &[W]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn xarray_netcdf4_python_and_ncdump_agree_with_what_was_computed() {
    let test = "xarray_netcdf4_python_and_ncdump_agree_with_what_was_computed";
    let Some(python) = python(test) else { return };
    let study = Study::new();
    succeeded(&study.compute(STUDY, &["--in", "wind_*.nc", "--out", "study.nc"]));
    succeeded(&study.compute(FIELDS, &["--in", "wind_*.nc", "--out", "fields.nc"]));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/compare_winds.py");
    let mut words = vec![script, study.path("study.nc"), study.path("fields.nc")];
    words.extend(study.inputs.clone());
    assert_eq!(printed(&python, &words).trim(), "equal");
    match Command::new("ncdump").arg("-h").output() {
        Ok(_) => {
            let dump = printed("ncdump", &[study.path("study.nc")]);
            assert!(dump.contains("float speed_var(height, latitude, longitude) ;"), "{dump}");
            assert!(dump.contains("speed_var:cell_methods = \"time: variance (ddof 1)\" ;"), "{dump}");
        }
        Err(_) => eprintln!("skipped: ncdump's part of {test}: there is no ncdump on PATH"),
    }
    assert_eq!(read(&study.path("fields.nc")).dataset.variable("n").unwrap().dtype, DType::I64);
}
