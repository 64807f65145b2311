//! Every check on a ground where it fails, and on one where it doesn't.

use super::finding::{Finding, Verdict};
use super::ground::{FileSystem, Ground, Room};
use super::{CHECKS, batch, cluster, configuration, exit, host, line, network, program, report, state};
use crate::cli::exit::Exit;
use crate::cluster::logout::Logout;
use crate::config::Sources;
use crate::net::Interface;
use crate::state::{ClusterFile, ClusterId, Contact, Role, StateDir};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// A home, a site and a PATH of one's own.
struct Machine {
    root: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

const UP: &str = "#!/bin/sh\necho 'Slurmctld(primary) at lab is UP'\n";
const DOWN: &str = "#!/bin/sh\necho 'Slurmctld(primary) at lab is DOWN'; exit 1\n";
const PARTITIONS: &str = "#!/bin/sh\necho 'spice*|up|6:00:00|6|4|16000'; echo 'short|up|5:00|2|4|16000'\n";
const NOTHING: &str = "#!/bin/sh\n";
/// Our own program, as far as the queue of our own needs it.
const JOBQ: &str = "#!/bin/sh\ncase \"$2\" in queues) echo '{\"slots\":4}';; esac\n";

impl Machine {
    fn new() -> Machine {
        let machine = Machine { root: tempfile::tempdir().unwrap(), variables: Vec::new() };
        machine.program("ours/jobq", JOBQ);
        fs::create_dir_all(machine.path("bin")).unwrap();
        let home = machine.path("home").display().to_string();
        machine.set("HOME", &home)
    }

    /// One with Slurm's commands, of which these are special.
    fn with_slurm(special: &[(&str, &str)]) -> Machine {
        let machine = Machine::new();
        for (name, text) in [
            ("sbatch", NOTHING),
            ("squeue", NOTHING),
            ("scancel", NOTHING),
            ("scontrol", UP),
            ("sinfo", PARTITIONS),
        ] {
            let text = special.iter().find(|(n, _)| *n == name).map_or(text, |(_, text)| text);
            machine.program(&format!("bin/{name}"), text);
        }
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn set(mut self, name: &str, value: &str) -> Machine {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    /// Written by another process: were it open for writing here, a process that another test starts just then
    /// would inherit it, and what is open for writing can't be executed.
    fn program(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
    }

    fn state_dir(&self) -> PathBuf {
        self.path("home/.local/state/jobq")
    }

    fn ground(&self, queue: Option<&str>) -> Ground {
        let sources = Sources {
            site_dirs: vec![self.path("site/jobq")],
            user_dir: self.path("user/jobq"),
            project_file: self.path("project/.jobq.toml"),
            environment: self.variables.clone(),
            uid: nix::unistd::getuid().as_raw(),
        };
        fs::create_dir_all(self.path("home")).unwrap();
        let mut ground = Ground::new(sources, queue, Ok(self.path("ours/jobq")));
        ground.path = self.path("bin").into();
        ground.json_jq = None;
        ground
    }
}

/// It failed with that exit, and says all of these words in what was found or what to do.
fn assert_failed(finding: &Finding, exit: Exit, words: &[&str]) {
    assert_eq!(finding.verdict, Verdict::Failed(exit), "{finding:?}");
    assert_says(finding, words);
    assert!(!finding.advice.is_empty(), "a failure says what to do: {finding:?}");
}

fn assert_warns(finding: &Finding, words: &[&str]) {
    assert_eq!(finding.verdict, Verdict::Warning, "{finding:?}");
    assert_says(finding, words);
}

fn assert_ok(finding: &Finding, words: &[&str]) {
    assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
    assert_says(finding, words);
}

fn assert_says(finding: &Finding, words: &[&str]) {
    let text = format!("{} {}", finding.found, finding.advice);
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn a_configuration_that_does_not_load_is_told_by_file_line_and_key() {
    let machine = Machine::new();
    assert_ok(&configuration::loads(&machine.ground(None)), &["no files of its own", "no queue chosen"]);
    let file = machine.file("user/jobq/config.toml", "[profile]\ncores = 2\nwalltme = \"2h\"\n");
    let found = configuration::loads(&machine.ground(None));
    let place = format!("{}:3", file.display());
    assert_failed(&found, Exit::Config, &[&place, "`profile.walltme`", "`profile.walltime`"]);
    // The checks that stand on it don't pretend to have looked.
    assert_warns(&state::directory(&machine.ground(None)), &["not looked at"]);
}

#[test]
fn a_profile_that_nobody_chose_only_warns_unless_one_looks_as_the_site() {
    let machine = Machine::new();
    machine.file("user/jobq/profiles/odd.toml", "[profile]\ncores = \"many\"\n");
    let mut ground = machine.ground(Some("local"));
    assert_warns(&configuration::loads(&ground), &["profile odd", "odd.toml:2", "profile local: local"]);
    ground.site = true;
    assert_failed(&configuration::loads(&ground), Exit::Config, &["profile odd", "odd.toml:2"]);
    let chosen = configuration::loads(&machine.ground(Some("odd")));
    assert_failed(&chosen, Exit::Config, &["odd.toml:2", "cores", "correct it there"]);
}

#[test]
fn site_files_that_others_can_change_are_refused() {
    let machine = Machine::new();
    assert_warns(&configuration::site_files(&machine.ground(None)), &["no files", "[limits]"]);
    let file = machine.file("site/jobq/config.toml", "[limits]\nmax_workers = 50\n");
    let profile = machine.file("site/jobq/profiles/big.toml", "[profile]\nsystem = \"slurm\"\n");
    if !is_root() {
        let found = configuration::site_files(&machine.ground(None));
        assert_failed(&found, Exit::Permission, &["belongs to user"]);
        return;
    }
    assert_ok(
        &configuration::site_files(&machine.ground(None)),
        &["config.toml", "big.toml", "(1 limits set)"],
    );
    fs::set_permissions(&profile, fs::Permissions::from_mode(0o664)).unwrap();
    let found = configuration::site_files(&machine.ground(None));
    assert_failed(&found, Exit::Permission, &["big.toml has mode 0664", "chmod go-w"]);
    std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
    let found = configuration::site_files(&machine.ground(None));
    assert_failed(&found, Exit::Permission, &["belongs to user 65534", "chown root"]);
}

#[test]
fn our_own_program_must_be_there_for_jobs() {
    let machine = Machine::new();
    let mut ground = machine.ground(Some("local"));
    ground.file_system = |_| Ok(FileSystem::Other);
    assert_ok(&program::own(&ground), &["ours/jobq"]);
    machine.file("ours/plain", "no program");
    for (exe, words) in [
        (Err("no /proc".to_owned()), "no /proc"),
        (Ok(machine.path("ours/gone")), "not an executable file"),
        (Ok(machine.path("ours/plain")), "not an executable file"),
        (Ok(PathBuf::from("jobq")), "no absolute path"),
    ] {
        let mut ground = machine.ground(Some("local"));
        ground.exe = exe;
        assert_failed(&program::own(&ground), Exit::Config, &[words]);
    }
    machine.program("single/jq", NOTHING);
    ground.exe = Ok(machine.path("single/jq"));
    assert_warns(&program::own(&ground), &["no `jobq` beside"]);
}

#[test]
fn a_program_that_nodes_may_not_see_is_told() {
    let machine = Machine::new();
    let mut ground = machine.ground(Some("spice"));
    ground.file_system = |_| Ok(FileSystem::Memory);
    assert_warns(&program::own(&ground), &["in this host's memory"]);
    ground.file_system = |_| Ok(FileSystem::Disk("ext4".into()));
    assert_ok(&program::own(&ground), &["(ext4)", "at the same path"]);
    let mut here = machine.ground(Some("local"));
    here.file_system = |_| Ok(FileSystem::Disk("ext4".into()));
    let found = program::own(&here);
    assert!(!found.found.contains("ext4"), "the embedded queue has no other hosts: {found:?}");
}

#[test]
fn the_json_jq_is_found_or_its_installation_is_told() {
    let machine = Machine::new();
    let mut ground = machine.ground(None);
    assert_warns(&program::json_jq(&ground), &["no JSON jq", "apt-get install jq", "JOBQ_JSON_JQ"]);
    ground.json_jq = Some(machine.path("nowhere/jq").into());
    assert_failed(&program::json_jq(&ground), Exit::Config, &["nowhere/jq", "unset JOBQ_JSON_JQ"]);
    machine.program("bin/jq", NOTHING);
    ground.json_jq = None;
    let first = program::json_jq(&ground);
    assert_ok(&first, &["bin/jq", "is what `jq` on PATH means", "ours"]);
    machine.program("other/jq", NOTHING);
    ground.json_jq = Some(machine.path("other/jq").into());
    assert_ok(&program::json_jq(&ground), &["other/jq", "behind ours"]);
}

#[test]
fn a_state_directory_that_others_could_change_is_refused() {
    let machine = Machine::new();
    assert_ok(&state::directory(&machine.ground(None)), &["will be created below"]);
    let dir = StateDir::create(&machine.state_dir(), "winds").unwrap();
    assert_ok(&state::directory(&machine.ground(None)), &["mode 0700", "clusters: winds"]);

    let mut ground = machine.ground(None);
    ground.cluster = "winds".to_owned();
    let key = dir.identity_dir().join("admin.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_failed(
        &state::directory(&ground),
        Exit::Permission,
        &["admin.key", "chmod 0600", "cluster.state_dir"],
    );
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
    assert_failed(&state::directory(&ground), Exit::Permission, &["winds", "chmod 0700"]);
    fs::set_permissions(machine.state_dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let found = state::directory(&ground);
    assert_failed(&found, Exit::Permission, &["mode 0777", "chmod 0755", "built-in default.toml"]);
    if is_root() {
        std::os::unix::fs::chown(machine.state_dir(), Some(65_534), None).unwrap();
        assert_failed(&state::directory(&ground), Exit::Permission, &["belongs to user 65534"]);
    }
}

#[test]
fn a_state_directory_that_cannot_be_made_is_told_with_its_origin() {
    let machine = Machine::new();
    let file = machine.file("home/file", "");
    for dir in [file.join("jobq"), file] {
        let machine = Machine::new().set("JOBQ_CFG_CLUSTER__STATE_DIR", dir.to_str().unwrap());
        let found = state::directory(&machine.ground(None));
        let words = ["JOBQ_CFG_CLUSTER__STATE_DIR", "that this host and the nodes see"];
        assert_failed(&found, Exit::Config, &words);
    }
}

#[test]
fn writing_syncing_and_linking_are_tried_and_leave_nothing() {
    let machine = Machine::new();
    let ground = machine.ground(None);
    assert_ok(&state::writes(&ground), &["write, fsync and link(2) work", "home"]);
    assert_eq!(fs::read_dir(machine.path("home")).unwrap().count(), 0, "nothing is left");
    StateDir::create(&machine.state_dir(), "c").unwrap();
    assert_ok(&state::writes(&ground), &[".local/state/jobq"]);
    assert_eq!(fs::read_dir(machine.state_dir()).unwrap().count(), 1, "nothing is left");
    // Where nobody, root neither, can create anything.
    let machine = machine.set("JOBQ_CFG_CLUSTER__STATE_DIR", "/proc/jobq");
    let found = state::writes(&machine.ground(None));
    assert!(matches!(found.verdict, Verdict::Failed(_)), "{found:?}");
    assert_says(&found, &["/proc", "link(2)", "JOBQ_CFG_CLUSTER__STATE_DIR"]);
}

#[test]
fn too_little_room_fails_and_less_than_a_busy_cluster_takes_warns() {
    let machine = Machine::new();
    let mut ground = machine.ground(None);
    type Look = fn(&Path) -> std::io::Result<Room>;
    let looks: [(Look, Verdict); 5] = [
        (|_| Ok(Room { bytes: 1 << 40, inodes: Some(1 << 30) }), Verdict::Ok),
        (|_| Ok(Room { bytes: 1 << 40, inodes: None }), Verdict::Ok),
        (|_| Ok(Room { bytes: 1 << 20, inodes: Some(1 << 30) }), Verdict::Failed(Exit::Config)),
        (|_| Ok(Room { bytes: 1 << 40, inodes: Some(3) }), Verdict::Failed(Exit::Config)),
        (|_| Ok(Room { bytes: 5 << 30, inodes: Some(1 << 30) }), Verdict::Warning),
    ];
    for (room, verdict) in looks {
        ground.room = room;
        let found = state::room(&ground);
        assert_eq!(found.verdict, verdict, "{found:?}");
    }
    assert_warns(
        &state::room(&ground),
        &["5.00 GiB", "a busy cluster may come to take", "cluster.state_dir"],
    );
    let real = machine.ground(None);
    assert_says(&state::room(&real), &["home", "room for"]);
}

#[test]
fn a_batch_system_is_looked_at_as_closely_as_it_is_wanted() {
    let bare = Machine::new();
    // The built-in profile `spice` is no wish of anybody's.
    assert_ok(&batch::controllers(&bare.ground(None)), &["slurm is not installed here", "local answers"]);
    let chosen = batch::controllers(&bare.ground(Some("spice")));
    assert_failed(&chosen, Exit::Config, &["not on PATH: sbatch, squeue", "module load"]);
    bare.file("site/jobq/profiles/big.toml", "[profile]\nsystem = \"slurm\"\n");
    let written = batch::controllers(&bare.ground(None));
    assert_failed(&written, Exit::Config, &["profile big, spice", "not on PATH"]);

    let half = Machine::with_slurm(&[]);
    fs::remove_file(half.path("bin/squeue")).unwrap();
    let found = batch::controllers(&half.ground(Some("spice")));
    assert_failed(&found, Exit::Config, &["not on PATH: squeue"]);
    assert!(!found.found.contains("sbatch"), "{found:?}");
}

#[test]
fn a_controller_that_is_dead_or_speaks_in_riddles_fails_with_its_code() {
    let alive = Machine::with_slurm(&[]);
    let found = batch::controllers(&alive.ground(Some("spice")));
    assert_ok(&found, &["slurm answers", "bin", "partitions: spice, short"]);

    let dead = Machine::with_slurm(&[("scontrol", DOWN)]);
    let ground = dead.ground(Some("spice"));
    assert_failed(
        &batch::controllers(&ground),
        Exit::TryAgain,
        &["is DOWN", "scontrol ping", "try again later"],
    );
    assert_warns(&batch::queue(&ground), &["not looked at: slurm doesn't answer"]);
    // Nobody chose it: `jq doctor` of somebody else's day is not spoilt.
    assert_warns(&batch::controllers(&dead.ground(None)), &["is DOWN", "local answers"]);

    let silent = Machine::with_slurm(&[("sinfo", NOTHING)]);
    assert_ok(&batch::controllers(&silent.ground(Some("spice"))), &["slurm answers"]);
    let found = batch::queue(&silent.ground(Some("spice")));
    assert_failed(&found, Exit::Config, &["no partition `spice`", "there are: none"]);
}

#[test]
fn the_controller_is_asked_once_for_all_checks() {
    let machine = Machine::with_slurm(&[]);
    let count = machine.path("asked");
    machine.program("bin/scontrol", &format!("#!/bin/sh\necho x >> '{}'\necho 'x is UP'\n", count.display()));
    let mut ground = machine.ground(Some("spice"));
    ground.site = true;
    batch::controllers(&ground);
    batch::queue(&ground);
    assert_eq!(fs::read_to_string(&count).unwrap(), "x\n");
}

#[test]
fn a_queue_that_can_never_take_the_profiles_jobs_fails_by_key() {
    let machine = Machine::with_slurm(&[]);
    assert_ok(&batch::queue(&machine.ground(None)), &["no queue chosen", "--queue"]);
    assert_ok(&batch::queue(&machine.ground(Some("spice"))), &["profile spice", "partition `spice`"]);
    machine.file(
        "user/jobq/profiles/greedy.toml",
        "[profile]\nsystem = \"slurm\"\nqueue = \"short\"\nwalltime = \"2h\"\ncores = 8\nmemory = \"20GiB\"\n",
    );
    let found = batch::queue(&machine.ground(Some("greedy")));
    let words = ["`walltime = 2h`", "(5m)", "8 cores", "20GiB of memory", "queues"];
    assert_failed(&found, Exit::Config, &words);
    // As the site: every profile, the chosen one among them.
    let mut site = machine.ground(None);
    site.site = true;
    assert_failed(&batch::queue(&site), Exit::Config, &["profile greedy", "profile spice", "profile local"]);
}

#[test]
fn a_site_without_slurm_hears_nothing_of_its_queues() {
    let machine = Machine::new();
    let mut ground = machine.ground(None);
    ground.site = true;
    let found = batch::queue(&ground);
    assert_ok(&found, &["profile local"]);
    assert!(!found.found.contains("spice"), "{found:?}");
}

#[test]
fn slots_of_the_local_queue_are_held_against_the_profile() {
    let machine = Machine::new();
    assert_ok(&batch::queue(&machine.ground(Some("local"))), &["profile local: queue `local`"]);
    let machine = machine.set("JOBQ_CFG_PROFILE__CORES", "5");
    let found = batch::queue(&machine.ground(Some("local")));
    assert_failed(&found, Exit::Config, &["5 cores", "has (4)"]);
}

fn only_loopback() -> std::io::Result<Vec<Interface>> {
    Ok(vec![Interface { name: "lo".into(), address: "127.0.0.1".parse().unwrap() }])
}

fn two_networks() -> std::io::Result<Vec<Interface>> {
    let ib0 = Interface { name: "ib0".into(), address: "10.9.0.7".parse().unwrap() };
    Ok([vec![ib0], only_loopback().unwrap()].concat())
}

#[test]
fn an_interface_that_is_not_there_is_told_with_those_that_are() {
    for (variable, key) in [
        ("JOBQ_CFG_SCHEDULER__INTERFACE", "scheduler.interface"),
        ("JOBQ_CFG_PROFILE__INTERFACE", "profile.interface"),
    ] {
        let machine = Machine::new().set(variable, "ib1");
        let mut ground = machine.ground(Some("spice"));
        ground.interfaces = two_networks;
        let found = network::address(&ground);
        assert_failed(&found, Exit::Config, &[&format!("`{key} = ib1`"), variable, "ib0 (10.9.0.7)"]);
    }
    let machine = Machine::new().set("JOBQ_CFG_PROFILE__INTERFACE", "10.9.0.7");
    let mut ground = machine.ground(Some("spice"));
    ground.interfaces = two_networks;
    assert_ok(&network::address(&ground), &["profile.interface is 10.9.0.7", "lo (127.0.0.1)"]);
    ground.interfaces = || Err(std::io::Error::other("no netlink"));
    assert_failed(&network::address(&ground), Exit::Config, &["no netlink"]);
}

#[test]
fn loopback_alone_is_enough_only_for_jobs_of_this_host() {
    let machine = Machine::new();
    let mut ground = machine.ground(Some("spice"));
    ground.interfaces = only_loopback;
    assert_warns(&network::address(&ground), &["only loopback"]);
    let mut ground = machine.ground(Some("local"));
    ground.interfaces = only_loopback;
    assert_ok(&network::address(&ground), &["lo (127.0.0.1)"]);
}

#[test]
fn connections_are_tried_through_every_address() {
    let machine = Machine::new();
    assert_ok(&network::connections(&machine.ground(Some("local"))), &["TLS works through"]);
    let machine = Machine::new().set("JOBQ_CFG_SCHEDULER__INTERFACE", "127.0.0.1");
    assert_ok(&network::connections(&machine.ground(Some("local"))), &["TLS works through 127.0.0.1"]);
    assert_warns(&network::connections(&machine.ground(Some("spice"))), &["only loopback works"]);
}

#[test]
fn a_port_range_that_is_taken_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let machine = Machine::new()
        .set("JOBQ_CFG_SCHEDULER__INTERFACE", "127.0.0.1")
        .set("JOBQ_CFG_SCHEDULER__PORT_RANGE", &format!("{port}-{port}"));
    let found = network::connections(&machine.ground(Some("local")));
    assert_failed(&found, Exit::Config, &[&port.to_string(), "scheduler.port_range"]);
    let machine = Machine::new().set("JOBQ_CFG_SCHEDULER__INTERFACE", "ib1");
    assert_failed(&network::connections(&machine.ground(Some("local"))), Exit::Config, &["'ib1'"]);
}

#[test]
fn a_low_limit_of_open_files_is_told_in_peers() {
    let machine = Machine::new();
    let mut ground = machine.ground(None);
    type Look = fn() -> std::io::Result<(u64, u64)>;
    let looks: [(Look, Verdict); 5] = [
        (|| Ok((1024, 20_000)), Verdict::Ok),
        (|| Ok((1024, u64::MAX)), Verdict::Ok),
        (|| Ok((64, 64)), Verdict::Failed(Exit::Config)),
        (|| Err(std::io::Error::other("no")), Verdict::Failed(Exit::Config)),
        (|| Ok((256, 1000)), Verdict::Warning),
    ];
    for (look, verdict) in looks {
        ground.open_files = look;
        assert_eq!(host::open_files(&ground).verdict, verdict);
    }
    assert_warns(&host::open_files(&ground), &["up to 800 workers", "ulimit -Hn"]);
}

#[test]
fn a_clock_that_was_never_set_or_disagrees_is_told() {
    let machine = Machine::new();
    let mut ground = machine.ground(None);
    assert_ok(&host::clock(&ground), &["home"]);
    ground.now = || SystemTime::UNIX_EPOCH + Duration::from_secs(90);
    assert_failed(&host::clock(&ground), Exit::Config, &["90 s after 1970"]);
    ground.now = || SystemTime::now() + Duration::from_secs(7200);
    assert_warns(&host::clock(&ground), &["h", "times in logs"]);
    ground.now = || SystemTime::now() + Duration::from_secs(3 * 86_400);
    assert_failed(&host::clock(&ground), Exit::Config, &["certificates"]);
}

fn contact(id: ClusterId, address: &str) -> Contact {
    Contact {
        addresses: vec![address.to_owned()],
        epoch: 1,
        cluster_id: id,
        pid: 1,
        start_time: 0,
        boot_id: String::new(),
        host: "login2".into(),
        started_unix: 0,
        version: env!("CARGO_PKG_VERSION").into(),
        log: PathBuf::new(),
        life: String::new(),
        job: String::new(),
        job_name: String::new(),
    }
}

#[test]
fn a_cluster_whose_scheduler_died_is_told() {
    let machine = Machine::new();
    let mut ground = machine.ground(Some("local"));
    ground.cluster = "winds".to_owned();
    assert_ok(&cluster::scheduler(&ground), &["there is no cluster winds"]);
    let state = StateDir::create(&machine.state_dir(), "winds").unwrap();
    assert_ok(&cluster::scheduler(&ground), &["cluster winds is not up"]);

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    let id = state.identity(Role::Admin).unwrap().cluster_id();
    let spec = crate::scheduler::spec::ClusterSpec {
        workers: 1,
        exe: machine.path("ours/jobq"),
        work_dir: machine.path("home"),
        template_dir: PathBuf::new(),
        insecure: false,
        owned: false,
        settings: ground.settings.clone().unwrap(),
    };
    state.write_cluster(&ClusterFile::new("winds", id, 0, &spec).unwrap()).unwrap();
    crate::state::epoch::claim(state.path(), None, "").unwrap();
    state.write_contact(&contact(id, &address)).unwrap();
    // Nobody holds its lease.
    let found = cluster::scheduler(&ground);
    assert_failed(&found, Exit::Unavailable, &["process 1 on login2", "is dead", "`up` brings it up again"]);
    // This very process holds it, and serves nobody.
    let _lease = crate::state::Lease::take(state.path(), 1).unwrap();
    let found = cluster::scheduler(&ground);
    assert_failed(&found, Exit::Unavailable, &["refused", "it may live"]);
}

#[test]
fn the_first_failure_decides_the_exit_code() {
    let findings = [
        ("a", Finding::warning("w", "")),
        ("b", Finding::failed(Exit::TryAgain, "f", "")),
        ("c", Finding::failed(Exit::Config, "f", "")),
    ];
    assert_eq!(exit(&findings), Exit::TryAgain);
    assert_eq!(exit(&findings[..1]), Exit::Ok);
    let report = report(&findings);
    assert_eq!((report.failed, report.warnings), (2, 1));
    assert_eq!((report.checks[1].exit_code, report.checks[0].exit_code), (75, 0));
}

#[test]
fn a_finding_is_a_line_and_its_advice_another() {
    let text = line("clock", &Finding::warning("two\nlines\u{1b}[2J", "do this"));
    assert_eq!(text, "warning  clock            two; lines?[2J\n                          -> do this");
    let names: std::collections::BTreeSet<&str> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), CHECKS.len());
}

#[test]
fn what_a_logout_does_is_told_and_warned_of_where_it_kills() {
    let mut ground = Machine::new().ground(None);
    ground.logout = |_| Logout { kills: Some(false), lingers: Some(false) };
    assert_ok(&host::logout(&ground), &["stays when you log out"]);
    ground.logout = |_| Logout { kills: Some(true), lingers: Some(false) };
    assert_warns(&host::logout(&ground), &["KillUserProcesses=yes", "enable-linger", "in a job"]);
    ground.logout = |_| Logout { kills: Some(true), lingers: Some(true) };
    assert_ok(&host::logout(&ground), &["lingers"]);
    ground.logout = |_| Logout::default();
    assert_ok(&host::logout(&ground), &["logind doesn't tell"]);
}
