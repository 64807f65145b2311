//! `jq doctor` and `jq queues PROFILE` as users meet them: the real program, on a machine of its own and against a
//! real Slurm.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use jobq::client::Client;
use jobq::config::{Sources, load};
use jobq::protocol::{Reply, Request};
use jobq::scheduler::shell::{Start, serve, transport};
use jobq::scheduler::spec::ClusterSpec;
use jobq::state::{ClusterFile, Role, StateDir};
use serde_json::Value;

/// What a hung controller may cost: its health question's own timeout, and some for a busy machine.
const BOUND: Duration = Duration::from_secs(60);

/// A user's home, with nothing of this machine's configuration.
struct Machine {
    root: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Machine {
    fn new() -> Machine {
        let root = tempfile::tempdir().unwrap();
        for name in ["home", "site", "tmp", "project"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        Machine { root, environment: Vec::new() }
    }

    fn set(mut self, name: &str, value: &str) -> Machine {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn profile(&self, name: &str, text: &str) {
        let file = self.path(&format!("home/.config/jobq/profiles/{name}.toml"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("[profile]\n{text}")).unwrap();
    }

    fn state_root(&self) -> PathBuf {
        self.path("home/.local/state/jobq")
    }

    fn jobq(&self, args: &[&str]) -> Output {
        let mut command = Command::new(support::jobq());
        command.args(args).current_dir(self.path("project")).stdin(Stdio::null()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.path("home")).env("TMPDIR", self.path("tmp"));
        command.env("XDG_CONFIG_DIRS", self.path("site"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.output().unwrap()
    }

    /// `doctor --json` with its exit code.
    fn doctor(&self, args: &[&str]) -> (i32, Value) {
        let output = self.jobq(&[&["doctor", "--json"], args].concat());
        (output.status.code().unwrap(), json(&output))
    }

    /// Files and folders in it.
    fn left(&self, dir: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path(dir)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The verdict of a check and everything that it says.
fn check(report: &Value, name: &str) -> (String, String) {
    let checks = report["checks"].as_array().unwrap();
    let check =
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}"));
    let word = |key: &str| check[key].as_str().unwrap().to_owned();
    (word("verdict"), format!("{} {}", word("found"), word("advice")))
}

fn assert_check(report: &Value, name: &str, verdict: &str, words: &[&str]) {
    let (found, said) = check(report, name);
    assert_eq!(found, verdict, "{name}: {said}");
    for word in words {
        assert!(said.contains(word), "{name}: no `{word}` in: {said}");
    }
}

#[test]
fn a_machine_that_has_what_the_local_queue_needs_is_well_and_left_as_it_was() {
    let machine = Machine::new();
    let (code, report) = machine.doctor(&["--queue", "local"]);
    assert_eq!((code, &report["schema"], &report["failed"]), (0, &1.into(), &0.into()), "{report}");
    assert_check(&report, "batch system", "ok", &["local answers"]);
    assert_check(&report, "queue", "ok", &["profile local"]);
    assert_check(&report, "state writes", "ok", &["link(2)"]);
    assert_check(&report, "connections", "ok", &["TLS works through"]);
    assert_check(&report, "cluster", "ok", &["no cluster default"]);
    assert_eq!((machine.left("home"), machine.left("tmp")), (vec![], vec![]), "nothing is left behind");
}

#[test]
fn text_has_a_line_a_check_and_what_to_do_below_it() {
    let machine = Machine::new().set("JOBQ_CFG_SCHEDULER__INTERFACE", "nosuch0");
    let output = machine.jobq(&["doctor", "--queue=local"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(78), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.starts_with("failed   address "))
        .unwrap_or_else(|| panic!("{said}"));
    assert!(lines[at].contains("nosuch0") && lines[at].contains("JOBQ_CFG_SCHEDULER__INTERFACE"), "{said}");
    assert!(lines[at + 1].trim_start().starts_with("-> set `scheduler.interface`"), "{said}");
    assert!(text(&output.stderr).contains("2 failed"), "{output:?}");
}

#[test]
fn a_broken_configuration_is_told_with_its_line_and_the_rest_still_looked_at() {
    let machine = Machine::new();
    fs::create_dir_all(machine.path("home/.config/jobq")).unwrap();
    let file = machine.path("home/.config/jobq/config.toml");
    fs::write(&file, "[profile]\n\nwaltime = \"1h\"\n").unwrap();
    let (code, report) = machine.doctor(&[]);
    assert_eq!(code, 78, "{report}");
    let place = format!("{}:3", file.display());
    assert_check(&report, "configuration", "failed", &[&place, "profile.waltime", "profile.walltime"]);
    assert_check(&report, "open files", "ok", &[]);
    assert_check(&report, "state room", "warning", &["not looked at"]);
}

#[test]
fn a_state_directory_that_others_can_write_is_a_matter_of_permission() {
    let machine = Machine::new();
    fs::create_dir_all(machine.state_root()).unwrap();
    fs::set_permissions(machine.state_root(), fs::Permissions::from_mode(0o777)).unwrap();
    let (code, report) = machine.doctor(&["--queue=local"]);
    assert_eq!(code, 77, "{report}");
    assert_check(&report, "state directory", "failed", &["chmod 0755", "cluster.state_dir"]);
}

#[test]
fn a_living_cluster_answers_the_doctor_and_another_version_is_told() {
    let machine = Machine::new();
    let state = StateDir::create(&machine.state_root(), "winds").unwrap();
    let spec = cluster_of(&machine, &state);
    let scheduler = std::thread::spawn({
        let state = state.clone();
        move || runtime().block_on(serve(state, Start::default()))
    });
    let contact = support::eventually_sync("a contact file", || state.read_contact().unwrap());

    let (_, report) = machine.doctor(&["--queue=local", "--name=winds"]);
    assert_check(&report, "cluster", "ok", &["cluster winds is up", "0 of 0 workers"]);
    let mut other = contact.clone();
    other.version = "0.0.9".into();
    state.write_contact(&other).unwrap();
    let (_, report) = machine.doctor(&["--queue=local", "--name=winds"]);
    assert_check(&report, "cluster", "warning", &["version 0.0.9", "cluster winds is up"]);
    state.write_contact(&contact).unwrap();

    runtime().block_on(async {
        let links = transport(&state, &spec, Role::Admin).unwrap();
        let mut client = Client::connect(state.clone(), links).await.unwrap();
        let reply = client.call(Request::Down { drain_ms: 0 }).await.unwrap();
        assert!(matches!(reply, Reply::GoingDown { .. }), "{reply:?}");
    });
    scheduler.join().unwrap().unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A cluster without workers on the local queue.
fn cluster_of(machine: &Machine, state: &StateDir) -> ClusterSpec {
    let home = machine.path("home").display().to_string();
    let sources = Sources { environment: vec![("HOME".into(), home)], ..Sources::default() };
    let spec = ClusterSpec {
        workers: 0,
        exe: support::jobq(),
        work_dir: machine.path("home"),
        template_dir: PathBuf::new(),
        insecure: false,
        owned: false,
        settings: load(&sources).unwrap().settings(Some("local"), &[]).unwrap(),
    };
    let id = state.identity(Role::Admin).unwrap().cluster_id();
    state.write_cluster(&ClusterFile::new(state.name(), id, 0, &spec).unwrap()).unwrap();
    spec
}

#[test]
fn a_profile_of_the_local_queue_is_held_against_its_slots() {
    let machine = Machine::new();
    let output = machine.jobq(&["queues", "local"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("system = \"local\""), "{output:?}");

    machine.profile("tight", "system = \"local\"\nslots = 2\ncores = 3\n");
    let output = machine.jobq(&["queues", "tight"]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(text(&output.stdout).contains("cores = 3"), "the profile is printed all the same: {output:?}");
    assert!(
        text(&output.stderr).contains("3 cores, more than a node of queue `local` has (2)"),
        "{output:?}"
    );

    let output = machine.jobq(&["queues", "tight", "--json"]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let report = json(&output);
    assert_eq!(report["check"]["fits"], false);
    assert_eq!(report["check"]["queue"]["cores_per_node"], 2);
    assert_eq!(report["check"]["never"].as_array().unwrap().len(), 1);
}

#[test]
fn the_sites_queues_are_listed_beside_the_profiles() {
    let machine = Machine::new();
    let none = machine.jobq(&["queues"]);
    assert_eq!(none.status.code(), Some(0), "{none:?}");
    assert!(!text(&none.stdout).contains("OPEN") && none.stderr.is_empty(), "{none:?}");

    let local = Machine::new().set("JOBQ_CFG_PROFILE__SYSTEM", "local").set("JOBQ_CFG_PROFILE__SLOTS", "7");
    let output = local.jobq(&["queues"]);
    let said = text(&output.stdout);
    assert!(said.contains("PROFILE") && said.contains("local (default)  yes"), "{output:?}");
    let report = json(&local.jobq(&["queues", "--json"]));
    assert_eq!(report["queues"][0]["cores_per_node"], 7, "{report}");

    let slurm = Machine::new().set("JOBQ_CFG_PROFILE__SYSTEM", "slurm").set("PATH", "/nonexistent");
    let output = slurm.jobq(&["queues"]);
    assert_eq!(output.status.code(), Some(0), "the profiles are listed: {output:?}");
    assert!(
        text(&output.stderr).contains("the queues of slurm are not listed: sinfo is not on PATH"),
        "{output:?}"
    );
}

/// Profiles for the test's Slurm: nodes of 4 cores and 4000 MB, 6 hours at most.
fn slurm_machine(slurm: &support::slurm::Slurm) -> Machine {
    let mut machine = Machine::new();
    machine.environment = slurm.env();
    let fits = "system = \"slurm\"\nqueue = \"spice\"\nmemory = \"1GiB\"\nwalltime = \"1h\"\n";
    machine.profile("fits", fits);
    machine.profile("nope", &fits.replace("\"spice\"", "\"spcie\""));
    machine.profile("long", &fits.replace("\"1h\"", "\"7h\""));
    machine.profile("wide", &format!("{fits}cores = 5\n"));
    machine.profile("big", &fits.replace("\"1GiB\"", "\"32GiB\""));
    machine
}

#[test]
fn doctor_on_a_real_slurm_alive_misasked_hung_and_dead() {
    let Some(mut slurm) = support::slurm::start("doctor_on_a_real_slurm") else { return };
    let machine = slurm_machine(&slurm);
    let (code, report) = machine.doctor(&["--queue=fits"]);
    assert_eq!(code, 0, "{report}");
    assert_check(&report, "batch system", "ok", &["slurm answers", "partitions: spice, short"]);
    assert_check(&report, "queue", "ok", &["partition `spice`"]);

    for (profile, words) in [
        ("nope", &["no partition `spcie`", "nearest is `spice`", "spice, short"][..]),
        ("long", &["`walltime = 7h`", "(6h)"]),
        ("wide", &["5 cores", "(4)"]),
        ("big", &["32GiB of memory"]),
    ] {
        let (code, report) = machine.doctor(&["--queue", profile]);
        assert_eq!(code, 78, "{profile}: {report}");
        assert_check(&report, "queue", "failed", words);
        assert_check(&report, "batch system", "ok", &[]);
    }

    slurm.stop_controller();
    let started = Instant::now();
    let (code, report) = machine.doctor(&["--queue=fits"]);
    assert!(started.elapsed() < BOUND, "a hung controller held it up for {:?}", started.elapsed());
    assert_eq!(code, 75, "{report}");
    assert_check(&report, "batch system", "failed", &["slurm", "try again later"]);
    assert_check(&report, "queue", "warning", &["not looked at"]);
    assert_check(&report, "clock", "ok", &[]);
    slurm.continue_controller();

    slurm.kill_controller();
    let (code, report) = machine.doctor(&["--queue=fits"]);
    assert_eq!(code, 75, "{report}");
    assert_check(&report, "batch system", "failed", &["DOWN", "scontrol ping"]);
}

/// The jobs of that user that Slurm still has.
fn jobs_left(slurm: &support::slurm::Slurm) -> String {
    let output = Command::new("squeue").args(["-h", "-o", "%j"]).envs(slurm.env()).output().unwrap();
    text(&output.stdout)
}

#[test]
fn a_job_on_a_real_slurm_looks_back_at_this_host() {
    let Some(slurm) = support::slurm::start("a_job_on_a_real_slurm_looks_back") else { return };
    let machine = slurm_machine(&slurm);
    let (_, report) = machine.doctor(&["--queue=fits", "--site"]);
    assert_check(&report, "jobs", "ok", &["of profile fits ran on"]);
    assert_check(&report, "state in jobs", "ok", &["write, fsync and link(2) work in it"]);
    assert_check(&report, "route from jobs", "ok", &["reaches this host through"]);
    assert_check(&report, "clock in jobs", "ok", &["agree"]);
    assert_check(&report, "jobs of jobs", "ok", &["a scheduler can run there"]);
    let (_, without) = machine.doctor(&["--queue=fits"]);
    assert!(without["checks"].as_array().unwrap().iter().all(|check| check["name"] != "jobs"));

    // Its nodes don't see the program that this host has.
    let nowhere = slurm_machine(&slurm);
    nowhere.profile("fits", "system = \"slurm\"\nqueue = \"spice\"\nprologue = [\"exit 3\"]\n");
    let (code, report) = nowhere.doctor(&["--queue=fits", "--site"]);
    assert_eq!(code, 78, "{report}");
    assert_check(&report, "jobs", "failed", &["ended without an answer", "cluster.state_dir"]);
    assert_check(&report, "route from jobs", "warning", &["not looked at"]);

    // They have no way to submit jobs.
    let alone = slurm_machine(&slurm);
    alone.profile("fits", "system = \"slurm\"\nqueue = \"spice\"\nprologue = [\"export PATH=/nowhere\"]\n");
    let (_, report) = alone.doctor(&["--queue=fits", "--site"]);
    let words = ["no job can be submitted from", "sbatch is not on PATH"];
    assert_check(&report, "jobs of jobs", "warning", &words);
    assert_eq!(jobs_left(&slurm), "");
    assert_eq!(machine.left("tmp"), Vec::<PathBuf>::new());
    assert!(machine.left("home").iter().all(|path| path.ends_with(".config")), "{:?}", machine.left("home"));
}

#[test]
fn a_host_that_ends_what_its_users_left_is_told_by_its_own_logind() {
    let machine = Machine::new();
    let fake = "#!/bin/sh\ncase \"$*\" in\n\
                *KillUserProcesses*) echo KillUserProcesses=yes; echo KillOnlyUsers=; echo KillExcludeUsers=;;\n\
                *Linger*) echo Linger=no;;\nesac\n";
    let dir = machine.path("bin");
    fs::create_dir(&dir).unwrap();
    // Written by another process: what is open for writing here, and so in what another test starts just then,
    // can't be executed.
    let write = "printf '%s' \"$1\" > \"$0\" && chmod 755 \"$0\"";
    let program = dir.join("loginctl");
    assert!(Command::new("sh").args(["-c", write]).arg(program).arg(fake).status().unwrap().success());
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap_or_default());
    let (_, report) = machine.set("PATH", &path).doctor(&["--queue=local"]);
    assert_check(&report, "logout", "warning", &["KillUserProcesses=yes", "enable-linger"]);
}

#[test]
fn queues_on_a_real_slurm_alive_misasked_hung_and_dead() {
    let Some(mut slurm) = support::slurm::start("queues_on_a_real_slurm") else { return };
    let machine = slurm_machine(&slurm);
    let output = machine.jobq(&["queues", "fits"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stderr).contains("profile fits fits: `spice`"), "{output:?}");
    for (profile, words) in [
        ("nope", "slurm has no partition `spcie`; the nearest is `spice`"),
        ("long", "`walltime = 7h` is longer than partition `spice` allows (6h)"),
        ("wide", "a job wants 5 cores, more than a node of partition `spice` has (4)"),
        ("big", "a job wants 32GiB of memory, more than a node of partition `spice` has"),
    ] {
        let output = machine.jobq(&["queues", profile]);
        assert_eq!(output.status.code(), Some(78), "{profile}: {output:?}");
        assert!(text(&output.stderr).contains(words), "{profile}: {output:?}");
    }
    let site = slurm_machine(&slurm).set("JOBQ_CFG_PROFILE__SYSTEM", "slurm");
    let report = json(&site.jobq(&["queues", "--json"]));
    let names: Vec<&str> =
        report["queues"].as_array().unwrap().iter().map(|queue| queue["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["spice", "short", "brief"], "{report}");

    slurm.stop_controller();
    let started = Instant::now();
    let (hung, glance) = (machine.jobq(&["queues", "fits"]), site.jobq(&["queues"]));
    assert!(started.elapsed() < BOUND, "a hung controller held it up for {:?}", started.elapsed());
    assert_eq!(hung.status.code(), Some(75), "{hung:?}");
    assert!(text(&hung.stdout).contains("walltime"), "the profile is printed first: {hung:?}");
    assert_eq!(glance.status.code(), Some(0), "{glance:?}");
    assert!(text(&glance.stderr).contains("the queues of slurm are not listed"), "{glance:?}");
    slurm.continue_controller();

    slurm.kill_controller();
    let output = machine.jobq(&["queues", "fits", "--json"]);
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    assert!(json(&output)["check"]["error"].as_str().unwrap().contains("DOWN"), "{output:?}");
}

#[test]
fn the_doctor_of_a_site_looks_at_its_files_and_every_profile() {
    let machine = Machine::new();
    let report = machine.doctor(&["--site"]).1;
    assert_check(&report, "site files", "warning", &["the site has no files"]);
    let without = machine.doctor(&[]).1;
    assert!(without["checks"].as_array().unwrap().iter().all(|check| check["name"] != "site files"));
    let dir = machine.path("site/jobq");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("config.toml"), "[limits]\nmax_workers = 10\n").unwrap();
    fs::set_permissions(dir.join("config.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    let (code, report) = machine.doctor(&["--site"]);
    assert_eq!(code, 77, "{report}");
    assert_check(&report, "site files", "failed", &[Path::new("jobq/config.toml").to_str().unwrap()]);
}
