//! Published datasets through the program: what is published outlives everything, is the same bytes again, and is
//! never seen half.

#[path = "support/arrays.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod arrays;
#[path = "support/mod.rs"]
mod support;

use jobq::format::example::{WindSizes, example_winds};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use support::sandbox::{Ran, Sandbox};

const STUDY: &str = "speed = wind_speed(x_wind, y_wind)";
const MEAN: &str = "m = mean(x_wind, time); v = var(y_wind, time, ddof=1)";

/// Three small files in a fresh world.
fn world() -> Sandbox {
    let sandbox = Sandbox::new();
    let sizes = WindSizes {
        times: 10,
        heights: 2,
        latitudes: 13,
        longitudes: 17,
        chunk: [4, 1, 5, 6],
        ..WindSizes::default()
    };
    example_winds(&sandbox.work(), 3, &sizes).unwrap();
    sandbox
}

/// A Python with zarr and xarray; `None`: the test is skipped, and says so.
fn python() -> Option<PathBuf> {
    let found = std::env::var_os("JOBQ_TEST_PYTHON").map(PathBuf::from);
    if found.is_none() {
        eprintln!("skipped: stores and xarray: JOBQ_TEST_PYTHON is not set");
        assert!(std::env::var_os("JOBQ_TEST_REQUIRE_ALL").is_none(), "JOBQ_TEST_PYTHON is not set");
    }
    found
}

/// A variable's numbers in a netCDF file, bit by bit.
fn values(sandbox: &Sandbox, file: &str, name: &str) -> Vec<u64> {
    arrays::read(&sandbox.file(file)).numbers(name).into_iter().map(f64::to_bits).collect()
}

fn datasets(sandbox: &Sandbox) -> PathBuf {
    sandbox.cluster("default").join("datasets")
}

fn names(folder: &PathBuf) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The bytes that a local computation gives.
#[track_caller]
fn computed(sandbox: &Sandbox, statements: &str, input: &str) -> Vec<u8> {
    sandbox.ok(["compute", statements, "--in", input, "--out", "o.nc", "--local", "--overwrite"]);
    fs::read(sandbox.file("o.nc")).unwrap()
}

#[test]
fn a_lazy_dataset_is_listed_described_and_computed_with() {
    let sandbox = world();
    let told = sandbox.run(["publish", "wind", "--in", "wind_*.nc"]).exits(0);
    told.says("published dataset:wind (lazy) in ");
    let list = sandbox.json(["datasets"]);
    assert_eq!((&list["datasets"][0]["name"], &list["datasets"][0]["inputs"]), (&"wind".into(), &3.into()));
    let shown = sandbox.json(["datasets", "wind"]);
    assert_eq!(shown["contents"], {
        let mut opened = sandbox.json(["open", "wind_000.nc", "wind_001.nc", "wind_002.nc"]);
        opened["schema"] = 1.into();
        opened
    });
    assert_eq!(sandbox.json(["open", "dataset:wind"]), shown["contents"]);
    assert_eq!(computed(&sandbox, MEAN, "dataset:wind"), computed(&sandbox, MEAN, "wind_*.nc"));
    let readme = fs::read_to_string(datasets(&sandbox).join("wind/README.md")).unwrap();
    for word in ["# wind", "x_wind(time=30", "wind_001.nc", "jq open dataset:wind", "units = \"m s-1\""] {
        assert!(readme.contains(word), "{word}: {readme}");
    }
    assert_eq!(names(&datasets(&sandbox).join("wind")), ["README.md", "chunks.table", "dataset.toml"]);
    let table = fs::metadata(datasets(&sandbox).join("wind/chunks.table")).unwrap().len();
    assert!(table < 3 * 65536, "{table}");
    sandbox.run(["unpublish", "wind"]).exits(0).says("is no more");
    assert_eq!(names(&datasets(&sandbox)), [""; 0]);
    sandbox.run(["unpublish", "wind"]).exits(78).says("no dataset 'wind'");
}

#[test]
fn opening_reads_no_source_file() {
    let sandbox = world();
    sandbox.ok(["publish", "wind", STUDY, "--in", "wind_*.nc"]);
    let before = sandbox.json(["open", "dataset:wind"]);
    for file in ["wind_000.nc", "wind_001.nc", "wind_002.nc"] {
        fs::remove_file(sandbox.file(file)).unwrap();
    }
    assert_eq!(sandbox.json(["open", "dataset:wind"]), before);
    let shown = sandbox.json(["datasets", "wind"]);
    assert_eq!(shown["changed"].as_array().unwrap().len(), 3);
    let words = ["compute", MEAN, "--in", "dataset:wind", "--out", "o.nc", "--local"];
    sandbox.run(words).exits(78).says("wind_000.nc isn't there any more");
}

#[test]
fn statements_of_a_dataset_are_names_for_those_of_others() {
    let sandbox = world();
    sandbox.ok(["publish", "wind", STUDY, "--in", "wind_*.nc"]);
    let opened = sandbox.json(["open", "dataset:wind"]);
    let names: Vec<&str> =
        opened["variables"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"speed"), "{names:?}");
    let whole = format!("{STUDY}; m = mean(speed, time)");
    assert_eq!(
        computed(&sandbox, "m = mean(speed, time)", "dataset:wind"),
        computed(&sandbox, &whole, "wind_*.nc")
    );
    // A dataset of a dataset.
    sandbox.ok(["publish", "calm", "calm = speed < 3", "--in", "dataset:wind"]);
    let whole = format!("{STUDY}; calm = speed < 3; n = sum(calm)");
    assert_eq!(computed(&sandbox, "n = sum(calm)", "dataset:calm"), computed(&sandbox, &whole, "wind_*.nc"));
    // What the statements end in is what is fetched.
    sandbox.ok(["fetch", "wind", "-o", "f.nc", "--local"]);
    assert_eq!(fs::read(sandbox.file("f.nc")).unwrap(), computed(&sandbox, STUDY, "wind_*.nc"));
    sandbox
        .run(["publish", "bad", "s = wind_sped(x_wind, y_wind)", "--in", "wind_*.nc"])
        .exits(2)
        .says("wind_speed");
    assert!(!datasets(&sandbox).join("bad").exists());
}

#[test]
fn bad_names_and_taken_ones_are_refused() {
    let sandbox = world();
    for name in ["a/b", "..", ".x", "a b", "é", &"x".repeat(65)] {
        sandbox.run(["publish", name, "--in", "wind_000.nc"]).exits(2).says("can't name a dataset");
    }
    sandbox.ok(["publish", "wind", "--in", "wind_000.nc"]);
    sandbox.run(["publish", "wind", "--in", "wind_*.nc"]).exits(78).says("pass --overwrite");
    assert_eq!(sandbox.json(["datasets", "wind"])["inputs"], 1);
    sandbox.ok(["publish", "wind", "--in", "wind_*.nc", "--overwrite"]);
    assert_eq!(sandbox.json(["datasets", "wind"])["inputs"], 3);
    assert_eq!(names(&datasets(&sandbox)), ["wind"]);
    sandbox.run(["open", "dataset:wnd"]).exits(78).says("no dataset 'wnd'");
    sandbox.run(["open", "dataset:wind", "wind_000.nc"]).exits(2).says("can't be joined");
}

#[test]
fn a_source_file_that_changed_is_named() {
    let sandbox = world();
    sandbox.ok(["publish", "wind", "--in", "wind_*.nc"]);
    let file = fs::OpenOptions::new().write(true).open(sandbox.file("wind_001.nc")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let words = ["compute", MEAN, "--in", "dataset:wind", "--out", "o.nc", "--local"];
    let told = sandbox.run(words);
    assert_ne!(told.code, 0);
    let told = told.says("changed since it was published");
    assert!(told.stderr.contains("wind_001.nc") && !sandbox.file("o.nc").exists(), "{}", told.stderr);
    sandbox.run(["datasets", "wind"]).exits(0).says("changed since it was published");
}

#[test]
fn a_damaged_dataset_is_told_and_harms_no_other() {
    let sandbox = world();
    sandbox.ok(["publish", "wind", "--in", "wind_*.nc"]);
    sandbox.ok(["publish", "well", "--in", "wind_*.nc"]);
    let table = datasets(&sandbox).join("wind/chunks.table");
    let whole = fs::read(&table).unwrap();
    let refused = |what: &str| -> Ran {
        let told = sandbox.run(["compute", MEAN, "--in", "dataset:wind", "--out", "o.nc", "--local"]);
        assert!(told.code == 78 || told.code == 1, "{what}: {} {}", told.code, told.stderr);
        assert!(told.stderr.contains("chunks.table") && !told.stderr.contains("panicked"), "{}", told.stderr);
        told
    };
    for at in [0, 9, 13, 30, 200, whole.len() / 2, whole.len() - 5] {
        let file = fs::OpenOptions::new().write(true).open(&table).unwrap();
        file.write_all_at(&[whole[at] ^ 0x11], at as u64).unwrap();
        refused(&format!("byte {at}"));
        fs::write(&table, &whole).unwrap();
    }
    for len in [0, 10, 100, whole.len() / 2] {
        fs::write(&table, &whole[..len]).unwrap();
        refused(&format!("{len} bytes"));
    }
    fs::write(datasets(&sandbox).join("wind/dataset.toml"), "version = 2\n").unwrap();
    let list = sandbox.json(["datasets"]);
    let rows = list["datasets"].as_array().unwrap();
    assert_eq!((&rows[0]["persist"], &rows[1]["persist"]), (&"lazy".into(), &"broken".into()));
    assert!(rows[1]["note"].as_str().unwrap().contains("version 2"), "{}", rows[1]);
    assert!(!computed(&sandbox, MEAN, "dataset:well").is_empty());
    sandbox.ok(["unpublish", "wind"]);
}

#[test]
fn a_shared_dataset_is_found_by_its_path_and_unreadable_sources_are_warned_of() {
    let sandbox = world();
    let place = sandbox.file("group");
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(sandbox.file("wind_001.nc"), fs::Permissions::from_mode(0o600)).unwrap();
    let words = ["publish", "wind", "--in", "wind_*.nc", "--share", "group"];
    sandbox.run(words).exits(0).says("wind_001.nc: the group can't");
    let mode = |name: &str| fs::metadata(place.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("wind"), mode("wind/chunks.table"), mode("wind/dataset.toml")), (0o750, 0o640, 0o640));
    let by_path = format!("dataset:{}", place.join("wind").display());
    assert_eq!(computed(&sandbox, MEAN, &by_path), computed(&sandbox, MEAN, "dataset:wind"));
    sandbox.run(["publish", "x", "--in", "wind_*.nc", "--share", "none"]).exits(78).says("no such directory");
    sandbox.ok(["unpublish", "wind"]);
    assert_eq!((names(&place), names(&datasets(&sandbox))), (vec![], vec![]));
}

#[test]
fn what_is_shared_is_of_the_directory_s_group() {
    let sandbox = world();
    let place = sandbox.file("group");
    fs::create_dir(&place).unwrap();
    let own = fs::metadata(&place).unwrap().gid();
    let groups = nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw);
    let other = groups.chain(geteuid().is_root().then_some(own + 1)).find(|group| *group != own);
    let Some(other) = other else {
        eprintln!("skipped: this user has only one group");
        return;
    };
    std::os::unix::fs::chown(&place, None, Some(other)).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o2770)).unwrap();
    for kind in [&["--persist", "lazy"][..], &["--persist", "disk", "--local"]] {
        let words = ["publish", "wind", MEAN, "--in", "wind_*.nc", "--share", "group", "--overwrite"];
        let told = sandbox.run(words.iter().chain(kind)).exits(0);
        let ours = |line: &&str| line.contains("warning") && line.contains("group/wind");
        assert_eq!(told.stderr.lines().find(ours), None);
        let folder = place.join("wind");
        let all = jobq::datasets::share::within(&folder);
        assert!(all.len() > 3, "{all:?}");
        for path in all {
            let meta = fs::metadata(&path).unwrap();
            let wanted = if meta.is_dir() { 0o2750 } else { 0o640 };
            let has = (meta.gid(), meta.permissions().mode() & 0o7777);
            assert_eq!(has, (other, wanted), "{}", path.display());
        }
    }
}

#[test]
fn what_others_have_in_a_shared_directory_is_left_alone() {
    let sandbox = world();
    let place = sandbox.file("group");
    for folder in [".precious.tmp", ".wind.0123456789abcdef.tmp", "thesis"] {
        fs::create_dir_all(place.join(folder)).unwrap();
        fs::write(place.join(folder).join("work"), "years").unwrap();
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(30 * 86_400);
        for path in [place.join(folder).join("work"), place.join(folder)] {
            fs::File::open(path).unwrap().set_modified(old).unwrap();
        }
    }
    let theirs = names(&place);
    sandbox.ok(["publish", "wind", "--in", "wind_*.nc", "--share", "group"]);
    let words = ["publish", "thesis", "--in", "wind_*.nc", "--share", "group", "--overwrite"];
    sandbox.run(words).exits(78).says("that this cluster has not published");
    // Another cluster's.
    for more in [&[][..], &["--overwrite"]] {
        let words = ["publish", "wind", "--name", "other", "--in", "wind_000.nc", "--share", "group"];
        sandbox.run(words.iter().chain(more)).exits(78).says("that this cluster has not published");
    }
    assert_eq!(sandbox.json(["datasets", "wind"])["inputs"], 3);
    assert_eq!(names(&sandbox.cluster("other").join("datasets")), [""; 0]);
    sandbox.ok(["unpublish", "wind"]);
    assert_eq!(names(&place), theirs);
    // Where its own was is another's now.
    sandbox.ok(["publish", "wind", "--in", "wind_*.nc", "--share", "group"]);
    fs::remove_dir_all(place.join("wind")).unwrap();
    sandbox.ok(["publish", "wind", "--name", "other", "--in", "wind_000.nc", "--share", "group"]);
    sandbox.run(["unpublish", "wind"]).exits(0).says("group/wind stays");
    assert!(place.join("wind").exists());
    assert_eq!(names(&datasets(&sandbox)), [""; 0]);
}

#[test]
fn what_can_not_be_written_leaves_nothing() {
    let sandbox = world();
    // The folder of all datasets is there, and takes nothing.
    sandbox.ok(["publish", "first", "--in", "wind_000.nc"]);
    let folder = datasets(&sandbox);
    if geteuid().is_root() {
        let limited = sandbox.bash("ulimit -f 1; trap '' XFSZ; jq publish wind --in wind_*.nc");
        limited.exits(78).says("can't write");
    } else {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).unwrap();
        sandbox.run(["publish", "wind", "--in", "wind_*.nc"]).exits(77).says("denied");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert_eq!(names(&folder), ["first"]);
}

/// A dataset's store, as text for Python.
fn store(sandbox: &Sandbox, name: &str) -> String {
    datasets(sandbox).join(name).join("data.zarr").display().to_string()
}

#[test]
fn a_dataset_on_disk_needs_its_sources_no_more() {
    let sandbox = world();
    let study = "speed = wind_speed(x_wind, y_wind); m = mean(speed, time); n = count(x_wind)";
    sandbox.ok(["publish", "wind", study, "--in", "wind_*.nc", "--persist", "disk", "--local"]);
    let expected = computed(&sandbox, study, "wind_*.nc");
    let again = "c = m * 2; high = max(m)";
    sandbox.ok(["compute", again, "--in", "o.nc", "--out", "p.nc", "--local"]);
    for file in ["wind_000.nc", "wind_001.nc", "wind_002.nc"] {
        fs::remove_file(sandbox.file(file)).unwrap();
    }
    let opened = sandbox.json(["open", "dataset:wind"]);
    let variables = opened["variables"].as_array().unwrap();
    assert_eq!(variables.iter().map(|v| v["name"].as_str().unwrap()).collect::<Vec<_>>(), ["m", "n"]);
    assert_eq!(variables[0]["attributes"][0]["name"], "_FillValue");
    sandbox.ok(["compute", again, "--in", "dataset:wind", "--out", "q.nc", "--local"]);
    let values = |file: &str, name: &str| values(&sandbox, file, name);
    for name in ["c", "high"] {
        assert_eq!(values("q.nc", name), values("p.nc", name), "{name}");
    }
    sandbox.ok(["fetch", "wind", "-o", "f.nc", "--local"]);
    fs::write(sandbox.file("o.nc"), expected).unwrap();
    for name in ["m", "n"] {
        assert_eq!(values("f.nc", name), values("o.nc", name), "{name}");
    }
    assert_eq!(sandbox.json(["datasets", "wind"])["changed"].as_array().unwrap().len(), 0);
    let readme = fs::read_to_string(datasets(&sandbox).join("wind/README.md")).unwrap();
    assert!(readme.contains("data.zarr") && !readme.contains("/.wind."), "{readme}");
    assert_eq!(names(&datasets(&sandbox)), ["wind"]);
}

#[test]
fn stores_are_written_whole_and_replaced_only_if_asked() {
    let sandbox = world();
    let compute = |out: &str, more: &[&str]| {
        let words = ["compute", MEAN, "--in", "wind_*.nc", "--out", out, "--local"];
        sandbox.run(words.iter().chain(more))
    };
    compute("o.zarr", &[]).exits(0);
    let first = names(&sandbox.file("o.zarr"));
    assert!(first.contains(&".zmetadata".to_owned()) && !first.contains(&".jobq-unfinished".to_owned()));
    compute("o.zarr", &[]).exits(78).says("pass --overwrite");
    fs::write(sandbox.file("o.zarr/of_before"), "").unwrap();
    compute("o.zarr", &["--overwrite"]).exits(0);
    assert_eq!(names(&sandbox.file("o.zarr")), first, "another directory, and nothing else is left");
    fs::create_dir(sandbox.file("mine.zarr")).unwrap();
    fs::write(sandbox.file("mine.zarr/x"), "").unwrap();
    compute("mine.zarr", &["--overwrite"]).exits(78).says("is no Zarr store");
    let before = names(&sandbox.work());
    let limited = sandbox
        .bash("ulimit -f 1; trap '' XFSZ; jq compute 'x = x_wind' --in wind_*.nc --out full.zarr --local");
    assert!(limited.code == 1, "{} {}", limited.code, limited.stderr);
    assert_eq!(names(&sandbox.work()), before);
    // A store is as good an input as a file, and the same work gives the same values.
    compute("o.nc", &[]).exits(0);
    sandbox.ok(["compute", "k = m + 0", "--in", "o.zarr", "--out", "k.nc", "--local"]);
    let values = |file: &str, name: &str| values(&sandbox, file, name);
    assert_eq!(values("k.nc", "k"), values("o.nc", "m"));
    sandbox.run(["open", "mine.zarr"]).exits(78).says("a directory that is no Zarr store");
}

#[test]
fn xarray_opens_a_dataset_on_disk_and_reads_the_same_values() {
    let Some(python) = python() else { return };
    let sandbox = world();
    let study =
        "speed = wind_speed(x_wind, y_wind); m = mean(speed, time); n = count(x_wind); strong = speed > 5";
    sandbox.ok(["publish", "wind", study, "--in", "wind_*.nc", "--persist", "disk", "--local"]);
    sandbox.ok(["compute", study, "--in", "wind_*.nc", "--out", "o.nc", "--local"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/compare_zarr.py");
    let compare = |more: &[&str]| {
        let mut command = sandbox.command(&python);
        let output = command.arg(script).args(more).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{told}");
    };
    let other = |version: &str| sandbox.file(&format!("xarray{version}.zarr")).display().to_string();
    compare(&["ours", &store(&sandbox, "wind"), &sandbox.file("o.nc").display().to_string()]);
    // What others write is read, with the codecs that we have.
    for version in ["2", "3"] {
        compare(&["write", version, &sandbox.file("o.nc").display().to_string(), &other(version)]);
        let out = format!("back{version}.nc");
        sandbox.ok([
            "compute",
            "m = m; n = n; strong = strong",
            "--in",
            &other(version),
            "--out",
            &out,
            "--local",
        ]);
        compare(&["equal", &sandbox.file(&out).display().to_string(), &other(version)]);
    }
}

/// Workers that hold values, by the status of the cluster.
fn workers(sandbox: &Sandbox) -> Vec<(String, i32)> {
    let status = sandbox.status();
    let all = status["workers"].as_array().unwrap().iter();
    let alive = all.filter(|worker| worker["state"] == "connected");
    alive.map(|w| (w["name"].as_str().unwrap().to_owned(), w["pid"].as_i64().unwrap() as i32)).collect()
}

/// The graph that holds the dataset `wind`.
fn dataset_graph(sandbox: &Sandbox) -> String {
    let recipe = sandbox.cluster("default").join("datasets/wind/dataset.toml");
    let recipe: toml::Table = fs::read_to_string(recipe).unwrap().parse().unwrap();
    let key = recipe["memory"]["key"].as_str().unwrap().to_owned();
    let tasks = sandbox.json(["tasks"]);
    let named = tasks["tasks"].as_array().unwrap().iter().find(|task| task["key"] == key.as_str()).unwrap();
    named["task"].as_str().unwrap().split('.').next().unwrap().to_owned()
}

#[test]
fn a_dataset_in_memory_is_not_computed_again_and_outlives_its_holders() {
    let sandbox = world();
    sandbox.up(3);
    let study = "speed = wind_speed(x_wind, y_wind); low = min(y_wind, time)";
    sandbox.ok(["publish", "wind", study, "--in", "wind_*.nc", "--persist", "memory"]);
    let held = sandbox.json(["status"])["counts"]["memory"].as_u64().unwrap();
    assert!(held > 10, "{held}");
    let again = "m = mean(speed, time); d = speed - low";
    let compute = |out: &str| -> (Vec<u8>, serde_json::Value) {
        let told = sandbox.json(["compute", again, "--in", "dataset:wind", "--out", out]);
        (fs::read(sandbox.file(out)).unwrap(), told)
    };
    let (first, told) = compute("a.nc");
    assert_eq!((&told["read_nbytes"], &told["decoded_nbytes"]), (&0.into(), &0.into()), "no file is read");
    for (round, out) in ["b.nc", "c.nc"].iter().enumerate() {
        let all = workers(&sandbox);
        kill(Pid::from_raw(all[round % all.len()].1), Signal::SIGKILL).unwrap();
        assert!(compute(out).0 == first, "after worker {} was killed", all[round % all.len()].0);
    }
    sandbox.ok(["fetch", "wind", "-o", "f.nc"]);
    sandbox.ok(["compute", study, "--in", "wind_*.nc", "--out", "g.nc", "--local"]);
    assert_eq!(values(&sandbox, "f.nc", "low"), values(&sandbox, "g.nc", "low"));
    assert_eq!(values(&sandbox, "f.nc", "speed"), values(&sandbox, "g.nc", "speed"));
    sandbox.ok(["down"]);
    assert_eq!(sandbox.json(["datasets"])["datasets"][0]["persist"], "memory");
    sandbox.up(2);
    let words = ["compute", again, "--in", "dataset:wind", "--out", "d.nc"];
    sandbox.run(words).exits(0);
    assert!(fs::read(sandbox.file("d.nc")).unwrap() == first, "after down and up");
    assert_eq!(compute("e.nc").1["decoded_nbytes"], 0);
    // Whoever cancels its graph lets go of its values; they are made again for the next who needs them.
    let graph = dataset_graph(&sandbox);
    sandbox.ok(["cancel", &graph]);
    sandbox.run(words.iter().copied().chain(["--overwrite"])).exits(0).says("computed again");
    assert!(fs::read(sandbox.file("d.nc")).unwrap() == first, "after its values were let go");
    assert_ne!(dataset_graph(&sandbox), graph);
    sandbox.ok(["unpublish", "wind"]);
    assert_eq!(names(&datasets(&sandbox)), [""; 0]);
}

#[test]
fn what_a_killed_publisher_had_computed_is_pinned_by_nothing_and_let_go_on_request() {
    let sandbox = world();
    // With nobody to compute it, the publisher waits until it is killed.
    sandbox.up(0);
    let words = ["publish", "wind", STUDY, "--in", "wind_*.nc", "--persist", "memory"];
    let publisher = support::sandbox::start(&mut sandbox.jq(words), b"");
    sandbox.until("its graph", |status| status["counts"]["ready"].as_u64() > Some(0));
    kill(Pid::from_raw(publisher.pid()), Signal::SIGKILL).unwrap();
    publisher.end();
    sandbox.ok(["scale", "1"]);
    sandbox.ok(["wait", "g1"]);
    assert_eq!(sandbox.json(["datasets"])["datasets"].as_array().unwrap().len(), 0);
    // A value that is held is with a worker.
    let held = || {
        let tasks = sandbox.json(["tasks"]);
        tasks["tasks"].as_array().unwrap().iter().filter(|task| !task["worker"].is_null()).count()
    };
    let nothing_held = || support::eventually_sync("that they are let go", || (held() == 0).then_some(()));
    assert!(held() > 0);
    sandbox.ok(["cancel", "g1"]);
    nothing_held();
    // Once more, and to its end: what was left is no hindrance.
    sandbox.ok(words);
    assert!(held() > 0);
    sandbox.ok(["unpublish", "wind"]);
    nothing_held();
    assert_eq!(names(&datasets(&sandbox)).len(), 1, "its draft");
    sandbox.ok(["clean", "--older-than", "0s", "--yes"]);
    assert_eq!(names(&datasets(&sandbox)), [""; 0]);
}

#[test]
fn what_is_published_survives_the_death_of_everything() {
    let sandbox = world();
    sandbox.up(2);
    sandbox.ok(["publish", "wind", STUDY, "--in", "wind_*.nc"]);
    sandbox.ok(["publish", "means", MEAN, "--in", "wind_*.nc", "--persist", "disk"]);
    let on_cluster = |out: &str, statement: &str, input: &str| -> Vec<u8> {
        sandbox.ok(["compute", statement, "--in", input, "--out", out]);
        fs::read(sandbox.file(out)).unwrap()
    };
    let lazily = on_cluster("a.nc", "s = mean(speed, time)", "dataset:wind");
    let stored = on_cluster("b.nc", "k = m * v", "dataset:means");
    let mut doomed: Vec<i32> = workers(&sandbox).into_iter().map(|(_, pid)| pid).collect();
    doomed.push(sandbox.scheduler());
    doomed.into_iter().for_each(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap());
    sandbox.up(2);
    let list = sandbox.json(["datasets"]);
    let rows: Vec<&str> =
        list["datasets"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(rows, ["means", "wind"]);
    assert!(on_cluster("c.nc", "s = mean(speed, time)", "dataset:wind") == lazily);
    assert!(on_cluster("d.nc", "k = m * v", "dataset:means") == stored);
    sandbox.ok(["down"]);
    assert_eq!(names(&datasets(&sandbox)), ["means", "wind"], "down keeps what is published");
    fs::create_dir(sandbox.file("group")).unwrap();
    sandbox.ok(["publish", "shared", "--in", "wind_*.nc", "--share", "group"]);
    sandbox.ok(["down", "--purge"]);
    assert!(!datasets(&sandbox).exists());
    assert_eq!(names(&sandbox.file("group")), [""; 0]);
}

#[test]
fn who_has_a_grant_reads_and_changes_nothing_until_it_is_revoked() {
    let sandbox = world();
    sandbox.up(1);
    sandbox.ok(["publish", "wind", STUDY, "--in", "wind_*.nc"]);
    sandbox.ok(["publish", "means", MEAN, "--in", "wind_*.nc", "--persist", "disk"]);
    sandbox.run(["grant", "--read-only", "-o", "alice.grant"]).exits(0).says("jq revoke alice");
    let mode = fs::metadata(sandbox.file("alice.grant")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Somebody else: another home, and a cluster of his own that isn't there.
    let other = Sandbox::new();
    let file = sandbox.file("alice.grant").display().to_string();
    let by = |words: &[&str]| {
        let mut command = other.jq(words);
        command.env("JOBQ_GRANT", &file);
        support::sandbox::finish(&mut command, b"")
    };
    assert_eq!(by(&["status", "--json"]).exits(0).json()["cluster"], "default");
    assert!(by(&["status"]).exits(0).text().contains("scheduler: process"));
    by(&["tasks"]).exits(0);
    // Another scheduler listens at another port; who has the grant finds it.
    let old = sandbox.scheduler();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(old), nix::sys::signal::Signal::SIGKILL).unwrap();
    support::eventually_sync("its end", || (!support::is_alive(old)).then_some(()));
    by(&["status"]).exits(69).says("alice.contact tells where it was last");
    sandbox.ok(["status"]);
    support::eventually_sync("the news", || (by(&["status"]).code == 0).then_some(()));
    assert_eq!(by(&["status", "--json"]).exits(0).json()["epoch"], 2);
    let list = by(&["datasets", "--json"]).exits(0).json();
    assert_eq!(
        (&list["datasets"][0]["name"], &list["datasets"][1]["name"]),
        (&"means".into(), &"wind".into())
    );
    let rows = list["datasets"].as_array().unwrap().iter();
    let kept: Vec<_> = rows.map(|row| (&row["persist"], &row["note"])).collect();
    assert_eq!(kept[0], (&"disk".into(), &"its values are not shared".into()));
    assert_eq!(kept[1], (&"lazy".into(), &"".into()));
    assert_eq!(
        by(&["open", "dataset:wind", "--json"]).exits(0).json(),
        sandbox.json(["open", "dataset:wind"])
    );
    by(&["fetch", "wind", "-o", "f.nc"]).exits(0);
    sandbox.ok(["fetch", "wind", "-o", "f.nc"]);
    assert_eq!(fs::read(other.file("f.nc")).unwrap(), fs::read(sandbox.file("f.nc")).unwrap());
    by(&["open", "dataset:means"]).exits(77).says("not shared");
    by(&["open", "dataset:none"]).exits(2).says("no file");
    for words in [
        &["submit", "--", "true"][..],
        &["cancel", "g1"],
        &["scale", "2"],
        &["down"],
        &["publish", "x", "--in", "f.nc"],
        &["unpublish", "wind"],
        &["grant", "--read-only", "-o", "x.grant"],
        &["compute", "m = mean(speed)", "--in", "dataset:wind", "--out", "o.nc"],
    ] {
        let told = by(words);
        assert_eq!(told.code, 77, "{words:?}: {}", told.stderr);
        assert!(told.stderr.contains("read"), "{words:?}: {}", told.stderr);
    }
    // Another file of the same name doesn't take away what she has, and no other file is overwritten.
    fs::create_dir(sandbox.file("sub")).unwrap();
    fs::write(sandbox.file("notes.txt"), "precious").unwrap();
    sandbox.run(["grant", "--read-only", "-o", "sub/alice.grant"]).exits(78).says("`revoke alice` ends it");
    sandbox.run(["grant", "--read-only", "-o", "notes.txt"]).exits(78).says("is something else");
    sandbox.run(["grant", "--read-only", "-o", "al ice.grant"]).exits(2).says("can't name a grant");
    by(&["status"]).exits(0);
    sandbox.run(["revoke", "alise"]).exits(78).says("there are: alice");
    sandbox.run(["revoke", "alice"]).exits(0).says("opens nothing any more");
    for words in [&["status"][..], &["datasets"], &["open", "dataset:wind"]] {
        by(words).exits(77).says("revoked");
    }
    assert_eq!(sandbox.json(["status"])["cluster"], "default", "the owner is not affected");
    // A copy that everybody can read is not taken.
    let contact = sandbox.path().join("home/where").display().to_string();
    sandbox.ok(["grant", "--read-only", "-o", "bob.grant", "--to", "bob", "--contact", &contact]);
    let mode = fs::metadata(&contact).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "others may read it");
    assert!(!fs::read_to_string(&contact).unwrap().contains("KEY"), "and there is no secret in it");
    sandbox.run(["grant", "--read-only", "-o", "x.contact"]).exits(2).says("--contact PATH");
    sandbox.run(["grant", "--read-only", "-o", "x.grant", "--contact", "no/where"]).exits(78).says("no/");
    sandbox.run(["revoke", "x"]).exits(78);
    fs::set_permissions(sandbox.file("bob.grant"), fs::Permissions::from_mode(0o644)).unwrap();
    sandbox.run(["status", "--grant", "bob.grant"]).exits(77).says("chmod");
}
