//! What can be wrong with inputs, outputs and workers, on a cluster: a clear message, the contract's exit code, no
//! file left, no panic; and the cluster serves afterwards.

use super::site::Site;
use super::support::process::{Ended, ended, pid_of, skipped};
use jobq::format::example::{WindSizes, example_winds};
use jobq::format::read_at::LocalFile;
use jobq::format::{Storage, hdf5};
use nix::sys::signal::{Signal, kill};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SPEED: &str = "speed = wind_speed(x_wind, y_wind)";
const SPREAD: &str = "spread = var(wind_speed(x_wind, y_wind), time, ddof=1)";

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

/// Three small files in a folder of the site, which is the site's user's.
fn winds(site: &Site, folder: &str) -> Vec<PathBuf> {
    let paths = example_winds(&site.file(folder), 3, &sizes()).unwrap();
    site.give(&site.file(folder));
    paths.iter().for_each(|path| site.give(path));
    paths
}

fn up(site: &Site, more: &[&str]) {
    site.ok(&[&["up", "--queue", "local", "--memory", "500MB"], more].concat());
}

/// Everything below the working directory, hidden files too, with its length.
fn contents(site: &Site) -> Vec<(PathBuf, u64)> {
    let (mut found, mut open) = (Vec::new(), vec![site.path("work")]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let metadata = entry.metadata().unwrap();
            found.push((entry.path(), if metadata.is_file() { metadata.len() } else { 0 }));
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// It ended with that code and one message that has these words; before it, there may be a note that it waited.
#[track_caller]
fn refused(ended: &Ended, code: i32, words: &[&str]) {
    let Ended { stdout, stderr, .. } = ended;
    assert_eq!(ended.code, Some(code), "{stdout}{stderr}");
    let (note, error) =
        stderr.split_once('\n').filter(|(note, _)| note.ends_with("; waiting")).unwrap_or(("", stderr));
    assert!(error.starts_with("error: ") && !error.contains("panicked"), "{note}\n{stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
    words.iter().for_each(|word| assert!(stderr.contains(word), "`{word}` is not in: {stderr}"));
    assert_eq!(stdout, "");
}

/// The cluster computes what threads of one process compute; no worker was lost over what it was given before.
fn serves(site: &Site, inputs: &str) {
    let compute = |out: &str, more: &[&str]| {
        site.ok(&[&["compute", SPREAD, "--in", inputs, "--out", out, "-q"], more].concat());
        let bytes = fs::read(site.file(out)).unwrap();
        fs::remove_file(site.file(out)).unwrap();
        bytes
    };
    assert!(compute("served.nc", &[]) == compute("locally.nc", &["--local"]));
    let status = site.status();
    let lost = status["workers"].as_array().unwrap().iter().any(|w| w["state"] == "lost");
    assert!(!lost, "{status:#}");
}

#[test]
fn what_can_be_seen_beforehand_is_refused_and_never_reaches_the_cluster() {
    let site = Site::of_plain_user();
    let inputs = winds(&site, "in");
    let whole = fs::read(&inputs[0]).unwrap();
    fs::write(site.file("cut.nc"), &whole[..whole.len() / 2]).unwrap();
    fs::write(site.file("text.nc"), "time,wind\n1,2\n").unwrap();
    fs::write(site.file("there.nc"), "precious").unwrap();
    fs::write(site.file("closed.nc"), &whole).unwrap();
    fs::set_permissions(site.file("closed.nc"), fs::Permissions::from_mode(0o0)).unwrap();
    let wider = WindSizes { longitudes: 18, ..sizes() };
    fs::rename(&example_winds(&site.file("wider"), 2, &wider).unwrap()[1], site.file("wider.nc")).unwrap();
    up(&site, &["--workers", "1", "--wait"]);
    let before = contents(&site);
    let (good, out) = ("in/wind_*.nc", "o.nc");
    for (statement, input, out, code, words) in [
        (SPEED, "cut.nc", out, 78, &["cut.nc", "cut short"][..]),
        (SPEED, "text.nc", out, 78, &["text.nc", "not a netCDF-4"]),
        (SPEED, "in", out, 78, &["in", "a directory that is no Zarr store"]),
        (SPEED, "closed.nc", out, 77, &["closed.nc", "ermission denied"]),
        (SPEED, "in/none_*.nc", out, 78, &["no file matches 'in/none_*.nc'"]),
        (SPEED, "in/wind_000.nc wider.nc", out, 78, &["wider.nc", "'longitude' is 18 long, not 17"]),
        ("s = wind_speed(x_wind, z_wind)", good, out, 2, &["column 24", "z_wind", "did you mean"]),
        ("s = mean(x_wind, depth)", good, out, 2, &["column 18", "depth"]),
        ("s = wind_sped(x_wind, y_wind)", good, out, 2, &["column 5", "did you mean 'wind_speed'?"]),
        ("s = x_wind +* 2", good, out, 2, &["column 13", "\n  s = x_wind +* 2\n              ^"]),
        (SPEED, good, "there.nc", 78, &["there.nc", "--overwrite"]),
        (SPEED, good, "none/o.nc", 78, &["none", "no such directory"]),
        (SPEED, good, "in", 2, &["in", ".nc"]),
    ] {
        let files: Vec<&str> = input.split(' ').collect();
        let words_of_compute = [&["compute", statement, "--out", out, "--in"], &files[..]].concat();
        refused(&site.run(&words_of_compute), code, words);
        assert_eq!(contents(&site), before, "{statement} {input} {out}");
    }
    assert_eq!(site.status()["graphs"], 0);
    serves(&site, good);
    assert_eq!(fs::read(site.file("there.nc")).unwrap(), b"precious");
    site.down();
}

#[test]
fn a_damaged_chunk_fails_on_a_worker_which_serves_on() {
    let site = Site::of_plain_user();
    let damaged = &winds(&site, "damaged")[1];
    winds(&site, "in");
    let dataset = hdf5::open(&LocalFile::open(damaged).unwrap()).unwrap();
    let Storage::Chunked { chunks, .. } = &dataset.variable("y_wind").unwrap().storage else {
        panic!("a chunked variable")
    };
    let chunk = chunks.iter().flatten().nth(5).unwrap();
    let noise: Vec<u8> = (0..chunk.nbytes).map(|i| (i * 37 % 251) as u8).collect();
    fs::OpenOptions::new().write(true).open(damaged).unwrap().write_all_at(&noise, chunk.offset).unwrap();
    up(&site, &["--workers", "2", "--wait"]);
    let before = contents(&site);
    let ended = site.run(&["compute", SPREAD, "--in", "damaged/*.nc", "--out", "o.nc"]);
    refused(&ended, 1, &["damaged/wind_001.nc", "y_wind", "chunk 5"]);
    assert_eq!(contents(&site), before);
    serves(&site, "in/*.nc");
    site.down();
}

/// Each computation is submitted while the cluster has no worker; then its files change, and then a worker comes.
#[test]
fn what_changes_before_a_worker_reads_it_is_told() {
    let site = Site::of_plain_user();
    up(&site, &["--workers", "0"]);
    let submitted = |name: &str| {
        let folder = format!("{name}/out");
        winds(&site, name);
        fs::create_dir(site.file(&folder)).unwrap();
        site.give(&site.file(&folder));
        let (pattern, out) = (format!("{name}/wind_*.nc"), format!("{folder}/o.nc"));
        let tasks = |status: &serde_json::Value| status["counts"]["ready"].as_u64().unwrap();
        let before = tasks(&site.status());
        let child = site.spawn(&["compute", SPREAD, "--in", &pattern, "--out", &out]);
        site.until("a graph more", |status| (tasks(status) > before).then_some(()));
        child
    };
    let names = ["deleted", "cut", "closed", "taken", "gone", "stopped", "fine"];
    let mut children = names.map(submitted);
    assert_eq!(fs::read_dir(site.file("fine/out")).unwrap().count(), 1, "the temporary file is there by now");
    // Who doesn't want to wait any more takes the work back.
    let stopped = children[5].id();
    kill(nix::unistd::Pid::from_raw(stopped as i32), Signal::SIGINT).unwrap();
    assert_eq!(children[5].wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_dir(site.file("stopped/out")).unwrap().count(), 0);
    assert!(site.status()["counts"]["cancelled"].as_u64().unwrap() > 0);

    let input = |name: &str| site.file(&format!("{name}/wind_001.nc"));
    fs::remove_file(input("deleted")).unwrap();
    fs::OpenOptions::new().write(true).open(input("cut")).unwrap().set_len(5000).unwrap();
    fs::set_permissions(input("closed"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::write(site.file("taken/out/o.nc"), "precious").unwrap();
    fs::remove_dir_all(site.file("gone/out")).unwrap();
    site.ok(&["scale", "1"]);
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let not_here = format!("visible here, not on {host}: ");
    let [deleted, cut, closed, taken, gone, _, fine] = children;
    let words = |name: &str| format!("{name}/wind_001.nc");
    refused(&ended(deleted, "deleted"), 1, &[&not_here, &words("deleted")]);
    refused(&ended(cut, "cut"), 1, &["changed since the plan was made: ", &words("cut")]);
    refused(&ended(closed, "closed"), 1, &[&words("closed"), "ermission denied", &format!("(on {host})")]);
    refused(&ended(taken, "taken"), 1, &["taken/out/o.nc has come into being meanwhile", "--overwrite"]);
    let on_host = format!("the output's directory is not visible on {host}: ");
    refused(&ended(gone, "gone"), 1, &[&on_host, "gone/out"]);
    assert_eq!(ended(fine, "fine").code, Some(0), "{}", site.log());
    assert_eq!(fs::read(site.file("taken/out/o.nc")).unwrap(), b"precious");
    for (name, files) in [("deleted", 0), ("cut", 0), ("closed", 0), ("taken", 1), ("fine", 1)] {
        let left: Vec<_> = fs::read_dir(site.file(name).join("out")).unwrap().flatten().collect();
        assert_eq!(left.len(), files, "{name}: {left:?}");
    }
    serves(&site, "stopped/wind_*.nc");
    site.down();
}

#[test]
fn a_computation_whose_client_was_killed_leaves_nothing_when_it_fails() {
    let site = Site::new();
    winds(&site, "in");
    up(&site, &["--workers", "0"]);
    let before = contents(&site);
    let mut child = site.spawn(&["compute", SPREAD, "--in", "in/*.nc", "--out", "o.nc"]);
    site.until("a graph", |status| (status["counts"]["ready"].as_u64() > Some(0)).then_some(()));
    assert_eq!(contents(&site).len(), before.len() + 1, "the temporary file");
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_file(site.file("in/wind_000.nc")).unwrap();
    site.ok(&["scale", "1"]);
    let left = || contents(&site).len() + 1 == before.len();
    super::support::eventually_sync("a clean directory", || left().then_some(()));
    site.down();
}

#[test]
fn ctrl_c_in_the_middle_cancels_what_is_left_and_leaves_nothing() {
    let site = Site::new();
    let large = WindSizes { latitudes: 120, longitudes: 120, chunk: [10, 1, 10, 10], ..sizes() };
    example_winds(&site.file("large"), 3, &large).unwrap();
    winds(&site, "in");
    up(&site, &["--workers", "2", "--wait"]);
    let before = contents(&site);
    let long = (0..60).map(|i| format!("sin(x_wind + {i})")).collect::<Vec<_>>().join(" + ");
    let long = format!("s = {long}");
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let done = |status: &serde_json::Value| status["counts"]["memory"].as_u64().unwrap();
        let already = done(&site.status());
        let child = site.spawn(&["compute", &long, "--in", "large/*.nc", "--out", "o.nc"]);
        site.until("the middle", |status| (done(status) > already).then_some(()));
        kill(pid_of(&child), signal).unwrap();
        let ended = ended(child, "a computation that was stopped");
        assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), (Some(code), "", ""));
        assert_eq!(contents(&site), before);
        let counts = site.status()["counts"].clone();
        assert!(counts["cancelled"].as_u64() > Some(0), "{counts}");
        assert_eq!(
            (&counts["waiting"], &counts["ready"], &counts["assigned"]),
            (&0.into(), &0.into(), &0.into())
        );
    }
    serves(&site, "in/*.nc");
    assert_eq!(contents(&site), before, "nor does anything come later");
    site.down();
}

/// How to get a mount namespace of one's own.
fn unshare() -> &'static [&'static str] {
    if nix::unistd::geteuid().is_root() {
        &["unshare", "--mount"]
    } else {
        &["unshare", "--mount", "--map-root-user", "--user"]
    }
}

fn can_mount() -> bool {
    let words = [unshare(), &["mount", "-t", "tmpfs", "none", "/mnt"]].concat();
    let status = Command::new(words[0]).args(&words[1..]).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn an_input_that_only_the_workers_do_not_see_is_told_with_their_host() {
    let test = "an_input_that_only_the_workers_do_not_see_is_told_with_their_host";
    if !can_mount() {
        return skipped(test, "no private mounts here");
    }
    let site = Site::new();
    winds(&site, "here");
    winds(&site, "in");
    fs::create_dir(site.file("output")).unwrap();
    // The job's script starts itself again where other things are mounted over two of the directories.
    let again = format!("[ -n \"$HIDDEN\" ] || HIDDEN=1 exec {} bash \"$0\"", unshare().join(" "));
    let hide = |name: &str| format!("mount -t tmpfs none {}", site.file(name).display());
    let prologue: Vec<String> =
        [again, hide("here"), hide("output")].iter().map(|l| format!("{l:?}")).collect();
    up(&site, &["--workers", "1", "--wait", "--set", &format!("prologue=[{}]", prologue.join(", "))]);
    let before = contents(&site);
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let compute = |input: &str, out: &str| site.run(&["compute", SPREAD, "--in", input, "--out", out]);
    let words = [&format!("visible here, not on {host}: "), "here/wind_000.nc", "every worker sees"];
    refused(&compute("here/*.nc", "o.nc"), 1, &words);
    let words = [&format!("not visible on {host}"), "output/.o.nc.jobq-"];
    refused(&compute("in/*.nc", "output/o.nc"), 1, &words);
    let families = site.status()["families"].clone();
    assert!(
        families.as_array().unwrap().iter().all(|f| f["family"] == "array.look"),
        "work began: {families}"
    );
    assert_eq!(contents(&site), before);
    serves(&site, "in/*.nc");
    site.down();
}

/// A small disk, which is unmounted when it goes.
struct Disk(PathBuf);

impl Disk {
    fn mount(place: &Path, bytes: &str) -> Option<Disk> {
        fs::create_dir_all(place).unwrap();
        let options = format!("size={bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "none"]).arg(place).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then(|| Disk(place.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_fails_the_computation_and_the_cluster_serves_on() {
    let test = "a_full_disk_fails_the_computation_and_the_cluster_serves_on";
    let site = Site::new();
    let Some(_disk) = Disk::mount(&site.file("disk"), "64k") else {
        return skipped(test, "only root can mount a small disk");
    };
    winds(&site, "in");
    up(&site, &["--workers", "2", "--wait"]);
    let before = contents(&site);
    let compute = |out: &str| site.run(&["compute", SPEED, "--in", "in/*.nc", "--out", out]);
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let on_host = format!("(on {host})");
    refused(&compute("disk/o.nc"), 1, &["no room left on the disk of ", "disk/.o.nc.jobq-", &on_host]);
    assert_eq!(contents(&site), before);
    assert_eq!(compute("o.nc").code, Some(0), "{}", site.log());
    fs::remove_file(site.file("o.nc")).unwrap();
    serves(&site, "in/*.nc");
    site.down();
}
