//! The configuration as users meet it: layers, profiles, limits, and what is said when a file is wrong.

use jobq::config::{Choice, Config, ConfigError, Flag, Settings, Sources, load};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A machine with a site, a user and a project, in a directory of its own.
struct Machine {
    root: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Machine {
    fn new() -> Machine {
        let root = tempfile::tempdir().unwrap();
        let environment =
            vec![("HOME".to_owned(), "/home/sci".to_owned()), ("USER".to_owned(), "sci".to_owned())];
        Machine { root, environment }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join(file)
    }

    fn file(self, file: &str, text: &str) -> Machine {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Machine {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn sources(&self) -> Sources {
        Sources {
            site_dirs: vec![self.path("site/jobq"), self.path("older-site/jobq")],
            user_dir: self.path("user/jobq"),
            project_file: self.path("project/.jobq.toml"),
            environment: self.environment.clone(),
            uid: nix::unistd::getuid().as_raw(),
        }
    }

    fn config(&self) -> Config {
        load(&self.sources()).unwrap()
    }

    fn settings(&self, queue: Option<&str>) -> Settings {
        self.config().settings(queue, &[]).unwrap()
    }

    fn load_error(&self) -> String {
        load(&self.sources()).unwrap_err().to_string()
    }

    /// `file:line` of a file of this machine.
    fn at(&self, file: &str, line: u32) -> String {
        format!("{}:{line}", self.path(file).display())
    }
}

fn origin(settings: &Settings, key: &str) -> String {
    settings.origin(key).unwrap().to_string()
}

#[test]
fn a_machine_without_files_has_every_value() {
    let machine = Machine::new();
    let settings = machine.settings(Some("spice"));
    assert_eq!(settings.cluster.state_dir, Path::new("/home/sci/.local/state/jobq"));
    assert_eq!(settings.scheduler.heartbeat, Duration::from_secs(10));
    assert_eq!(settings.scheduler.poll_interval, Duration::from_secs(30));
    assert_eq!((settings.worker.death_timeout, settings.task.kill_grace), (secs(120), secs(10)));
    assert_eq!((settings.task.inline_output, settings.task.kill_grace), (64 << 10, secs(10)));
    let profile = &settings.profile;
    assert_eq!((profile.system.as_str(), profile.queue.as_str()), ("slurm", "spice"));
    assert_eq!((profile.account.as_str(), profile.qos.as_str()), ("", ""), "the site's business");
    assert!(profile.extra_directives.is_empty());
    assert_eq!((profile.cores, profile.memory, profile.workers_per_job), (1, 4 << 30, 1));
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn each_layer_goes_over_the_ones_below() {
    let mut machine = Machine::new();
    let at = |m: &Machine, file: &str| m.at(file, 2);
    type Layer = (&'static str, fn(Machine, &str) -> Machine, &'static str);
    let layers: [Layer; 6] = [
        ("site/jobq/config.toml", |m, t| m.file("site/jobq/config.toml", t), "2h"),
        ("user/jobq/config.toml", |m, t| m.file("user/jobq/config.toml", t), "3h"),
        ("site/jobq/profiles/spice.toml", |m, t| m.file("site/jobq/profiles/spice.toml", t), "4h"),
        ("user/jobq/profiles/spice.toml", |m, t| m.file("user/jobq/profiles/spice.toml", t), "5h"),
        ("project/.jobq.toml", |m, t| m.file("project/.jobq.toml", t), "6h"),
        ("", |m, _| m.variable("JOBQ_CFG_PROFILE__WALLTIME", "7h"), "7h"),
    ];
    for (hours, (file, add, walltime)) in (2..).zip(layers) {
        machine = add(machine, &format!("[profile]\nwalltime = \"{walltime}\"\n"));
        let settings = machine.settings(Some("spice"));
        assert_eq!(settings.profile.walltime, secs(hours * 3600));
        let expected = match file {
            "" => "environment JOBQ_CFG_PROFILE__WALLTIME".to_owned(),
            file => at(&machine, file),
        };
        assert_eq!(origin(&settings, "profile.walltime"), expected);
    }
    let flag = Flag::new("profile.walltime", "8h", "--walltime");
    let settings = machine.config().settings(Some("spice"), &[flag]).unwrap();
    assert_eq!((settings.profile.walltime, settings.profile.queue.as_str()), (secs(8 * 3600), "spice"));
    assert_eq!(origin(&settings, "profile.walltime"), "flag --walltime");
    assert_eq!(origin(&settings, "profile.queue"), "built-in profiles/spice.toml:5");
}

#[test]
fn the_first_site_directory_counts_most() {
    let machine = Machine::new()
        .file("older-site/jobq/config.toml", "[profile]\naccount = \"old\"\nqos = \"low\"\n")
        .file("site/jobq/config.toml", "[profile]\naccount = \"new\"\n");
    let settings = machine.settings(None);
    assert_eq!((settings.profile.account.as_str(), settings.profile.qos.as_str()), ("new", "low"));
}

#[test]
fn a_profile_says_which_queue_it_means_whatever_the_defaults_are() {
    let machine = Machine::new()
        .file("site/jobq/config.toml", "[profile]\nsystem = \"slurm\"\nqueue = \"spice\"\n")
        .file("user/jobq/profiles/fast.toml", "[profile]\nqueue = \"short\"\n")
        .file("project/.jobq.toml", "[profile]\nsystem = \"slurm\"\nqueue = \"fast\"\n");
    let local = machine.settings(Some("local")).profile;
    assert_eq!((local.system.as_str(), local.queue.as_str()), ("local", ""));
    let chosen = machine.settings(None);
    assert_eq!(chosen.choice, Choice::Profile("fast".into()), "the project's queue is the nearest");
    assert_eq!((chosen.profile.system.as_str(), chosen.profile.queue.as_str()), ("slurm", "short"));
}

#[test]
fn a_queue_without_a_profile_is_one_of_the_sites_batch_system() {
    let machine = Machine::new();
    let error = machine.config().settings(Some("short"), &[]).unwrap_err();
    assert!(matches!(error, ConfigError::NoSuchQueue { .. }));
    assert!(error.to_string().contains("profiles: local, spice"), "{error}");
    let error = machine.config().settings_for_queue(None, &[]).unwrap_err();
    assert!(error.to_string().contains("profiles: local, spice"), "{error}");

    let machine = machine.file("site/jobq/config.toml", "[profile]\nsystem = \"slurm\"\n");
    let settings = machine.config().settings_for_queue(Some("short"), &[]).unwrap();
    assert_eq!(settings.choice, Choice::Literal { queue: "short".into(), system: "slurm".into() });
    assert_eq!((settings.profile.system.as_str(), settings.profile.queue.as_str()), ("slurm", "short"));
    assert_eq!(origin(&settings, "profile.queue"), "flag --queue");
}

#[test]
fn a_wrong_file_is_named_with_its_line_and_key() {
    for (text, line, parts) in [
        ("[profile]\nwalltme = \"2h\"\n", 2, &["unknown key `profile.walltme`", "`profile.walltime`"][..]),
        ("\n\n[proflie]\ncores = 1\n", 3, &["unknown section `[proflie]`", "`[profile]`"]),
        ("[profile]\ncores = \"two\"\n", 2, &["`profile.cores`", "expected a whole number, found text"]),
        ("[profile]\ncores = 0\n", 2, &["`profile.cores`", "0 is not between 1"]),
        ("[profile]\n# a comment\nwalltime = 90\n", 3, &["`profile.walltime`", "a duration in quotes"]),
        ("[profile]\nwalltime = \"soon\"\n", 2, &["`profile.walltime`", "`soon` is not a duration"]),
        ("[profile]\nwalltime = \"90\"\n", 2, &["`profile.walltime`", "no unit", "`90m`"]),
        ("[profile]\nmemory = \"4 gigs\"\n", 2, &["`profile.memory`", "`4 gigs` is not a size"]),
        ("[profile]\nqueue = \"a\\nb\"\n", 2, &["`profile.queue`", "control character"]),
        ("[profile]\nsystem = \"slrum\"\n", 2, &["`profile.system`", "none of local, slurm"]),
        ("[profile]\nprologue = \"module load x\"\n", 2, &["`profile.prologue`", "a list of texts"]),
        ("[profile]\nshebang = \"bash\"\n", 2, &["`profile.shebang`", "#!/"]),
        ("[profile]\nqueue = \"nope\"\n", 2, &["`profile.queue`", "no profile is called `nope`"]),
        ("[cluster]\nstate_dir = \"$NOWHERE/x\"\n", 2, &["`cluster.state_dir`", "`NOWHERE` is not set"]),
        ("[cluster]\nstate_dir = \"here\"\n", 2, &["`cluster.state_dir`", "not an absolute path"]),
        (
            "[worker]\ndeath_timeout = \"20s\"\n",
            2,
            &["`worker.death_timeout`", "3 heartbeats", "default.toml"],
        ),
        ("[profile]\ncores = 1\ncores = 2\n", 3, &["duplicate"]),
        ("[profile\n", 1, &[]),
        ("profile = 3\n", 1, &["`profile` is a section"]),
    ] {
        let machine = Machine::new().file("user/jobq/config.toml", text);
        let error = machine.load_error();
        assert!(error.starts_with(&machine.at("user/jobq/config.toml", line)), "{text:?}: {error}");
        for part in parts {
            assert!(error.contains(part), "{text:?}: {part:?} not in {error:?}");
        }
    }
}

#[test]
fn a_wrong_variable_is_named() {
    let error = Machine::new().variable("JOBQ_CFG_PROFILE__WALLTME", "2h").load_error();
    assert!(error.starts_with("environment JOBQ_CFG_PROFILE__WALLTME: unknown key"), "{error}");
    let error = Machine::new().variable("JOBQ_CFG_TASK__KILL_GRACE", "x").load_error();
    assert!(error.contains("JOBQ_CFG_TASK__KILL_GRACE") && error.contains("not a duration"), "{error}");
}

#[test]
fn a_profile_sets_what_depends_on_the_queue_and_nothing_else() {
    let machine = Machine::new()
        .file(
            "user/jobq/profiles/big.toml",
            "[profile]\nsystem = \"slurm\"\n[scheduler]\nheartbeat = \"5s\"\n",
        )
        .file("user/jobq/profiles/bad.toml", "[limits]\nmax_workers = 5\n")
        .file("user/jobq/profiles/.big.toml.swp", "not TOML");
    let config = machine.config();
    assert_eq!(config.settings(Some("big"), &[]).unwrap().scheduler.heartbeat, secs(5));
    let error = config.settings(Some("bad"), &[]).unwrap_err().to_string();
    assert!(error.starts_with(&machine.at("user/jobq/profiles/bad.toml", 2)), "{error}");
    let names: Vec<String> = config.profiles().into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["bad", "big", "local", "spice"], "a broken profile doesn't hide the others");
}

#[test]
fn the_sites_limits_bind_every_later_layer() {
    let site = "[limits]\nmax_pending = 50\nmin_poll_interval = \"1m\"\nport_range = \"40000-40100\"\n";
    let machine = Machine::new().file("site/jobq/config.toml", site);
    let settings = machine.settings(None);
    assert_eq!(settings.scheduler.max_pending, 50, "a default follows the limit");
    assert_eq!(settings.scheduler.poll_interval, secs(60));
    assert_eq!(settings.scheduler.port_range.to_string(), "40000-40100");
    assert_eq!(origin(&settings, "scheduler.max_pending"), machine.at("site/jobq/config.toml", 2));

    for (text, line) in [
        ("[scheduler]\nmax_pending = 51\n", 2),
        ("[scheduler]\npoll_interval = \"59s\"\n", 3),
        ("[scheduler]\nport_range = \"any\"\n", 4),
        ("[scheduler]\nport_range = \"40000-40101\"\n", 4),
        ("[limits]\nmax_pending = 51\n", 2),
        ("[limits]\nmin_poll_interval = \"10s\"\n", 3),
    ] {
        let machine = Machine::new().file("site/jobq/config.toml", site).file("user/jobq/config.toml", text);
        let error = machine.load_error();
        assert!(error.starts_with(&machine.at("user/jobq/config.toml", 2)), "{error}");
        assert!(error.ends_with(&machine.at("site/jobq/config.toml", line)), "{text:?}: {error}");
    }

    let within = "[scheduler]\nmax_pending = 20\n[limits]\nmin_poll_interval = \"2m\"\n";
    let machine = Machine::new().file("site/jobq/config.toml", site).file("user/jobq/config.toml", within);
    let settings = machine.settings(None);
    assert_eq!((settings.scheduler.max_pending, settings.scheduler.poll_interval), (20, secs(120)));
    let flag = Flag::new("scheduler.max_pending", 60, "--set");
    let error = machine.config().settings(None, &[flag]).unwrap_err().to_string();
    assert!(error.starts_with("flag --set: `scheduler.max_pending = 60` is beyond"), "{error}");
}

#[test]
fn without_a_sites_word_users_may_move_the_limits() {
    let machine = Machine::new()
        .variable("JOBQ_CFG_LIMITS__MIN_POLL_INTERVAL", "1s")
        .variable("JOBQ_CFG_SCHEDULER__POLL_INTERVAL", "1s");
    assert_eq!(machine.settings(None).scheduler.poll_interval, secs(1));
}

#[test]
fn a_project_file_that_others_can_write_is_not_read() {
    for mode in [0o666, 0o664, 0o602] {
        let machine = Machine::new().file("project/.jobq.toml", "[profile]\nprologue = [\"evil\"]\n");
        let file = machine.path("project/.jobq.toml");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let error = machine.load_error();
        assert!(error.starts_with(&format!("{}: not read", file.display())), "{error}");
        assert!(error.contains("chmod go-w"), "{error}");
    }
}

#[test]
fn a_project_file_of_somebody_else_is_not_read() {
    let machine = Machine::new().file("project/.jobq.toml", "[profile]\ncores = 2\n");
    let file = machine.path("project/.jobq.toml");
    let mut sources = machine.sources();
    if nix::unistd::getuid().is_root() {
        std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
    } else {
        sources.uid += 1;
    }
    let error = load(&sources).unwrap_err();
    assert!(matches!(error, ConfigError::Untrusted { .. }), "{error}");
    assert!(error.to_string().contains("belongs to user"), "{error}");
}

#[test]
fn settings_read_back_as_they_were_written() {
    let settings = Machine::new().variable("JOBQ_CFG_PROFILE__ENVIRONMENT", "A=b").settings(Some("spice"));
    let text = toml::to_string(&settings).unwrap();
    assert!(text.contains("walltime = \"1h\"") && text.contains("memory = \"4GiB\""), "{text}");
    let back: Settings = toml::from_str(&text).unwrap();
    assert_eq!(
        (back.profile, back.scheduler, back.limits),
        (settings.profile, settings.scheduler, settings.limits)
    );
}

/// Runs the program in the machine's project directory.
fn jobq(machine: &Machine, args: &[&str]) -> (i32, String, String) {
    fs::create_dir_all(machine.path("project")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_jobq"))
        .args(args)
        .current_dir(machine.path("project"))
        .env_clear()
        .env("HOME", machine.path("home"))
        .env("XDG_CONFIG_HOME", machine.path("user"))
        .env(
            "XDG_CONFIG_DIRS",
            format!("{}:{}", machine.path("site").display(), machine.path("older-site").display()),
        )
        .envs(machine.environment.iter().filter(|(name, _)| name.starts_with("JOBQ_")).cloned())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_program_finds_the_layers_where_users_put_them() {
    let machine = Machine::new()
        .file("site/jobq/config.toml", "[profile]\nqos = \"site\"\n")
        .file("user/jobq/config.toml", "[profile]\naccount = \"user\"\n")
        .file("project/.jobq.toml", "[profile]\ncores = 3\n")
        .variable("JOBQ_CFG_PROFILE__SLOTS", "9");
    let (code, stdout, stderr) = jobq(&machine, &["config", "--json", "--set", "walltime=2h"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["schema"], 1);
    let layer_of = |key: &str| {
        let rows = report["settings"].as_array().unwrap();
        rows.iter().find(|r| r["key"] == key).unwrap()["layer"].as_str().unwrap().to_owned()
    };
    for (key, layer) in [
        ("profile.queue", "default"),
        ("profile.qos", "site"),
        ("profile.account", "user"),
        ("profile.cores", "project"),
        ("profile.slots", "environment"),
        ("profile.walltime", "flag"),
    ] {
        assert_eq!(layer_of(key), layer, "{key}");
    }
}

#[test]
fn what_config_prints_is_a_configuration() {
    let machine = Machine::new().file("user/jobq/config.toml", "[profile]\nprologue = [\"module load x\"]\n");
    for args in [&["config"][..], &["config", "--origin"]] {
        let (code, printed, _) = jobq(&machine, args);
        assert_eq!(code, 0);
        let again = Machine::new().file("user/jobq/config.toml", &printed);
        assert_eq!(jobq(&again, &["config"]).1, jobq(&machine, &["config"]).1);
    }
}

#[test]
fn a_wrong_file_exits_78_on_every_verb_that_reads_it() {
    let machine = Machine::new().file("user/jobq/config.toml", "[profile]\nwalltme = \"2h\"\n");
    for args in [&["config"][..], &["queues"], &["queues", "spice"]] {
        let (code, stdout, stderr) = jobq(&machine, args);
        assert_eq!((code, stdout.as_str()), (78, ""), "{args:?}");
        assert!(stderr.contains("config.toml:2: unknown key `profile.walltme`"), "{stderr}");
    }
    assert_eq!(jobq(&machine, &["version"]).0, 0, "a verb that doesn't need it still works");
    assert_eq!(jobq(&Machine::new(), &["queues", "nope"]).0, 78);
}

#[test]
fn queues_lists_what_can_be_picked_and_says_what_cannot() {
    let machine = Machine::new()
        .file("user/jobq/profiles/mine.toml", "[profile]\nsystem = \"slurm\"\nwalltime = \"6h\"\n")
        .file("user/jobq/profiles/bad.toml", "[profile]\ncores = -1\n");
    let (code, stdout, stderr) = jobq(&machine, &["queues"]);
    assert_eq!(code, 0);
    let first_words: Vec<&str> = stdout.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(first_words, ["PROFILE", "bad", "local", "mine", "spice"]);
    assert!(stderr.starts_with("warning: ") && stderr.contains("bad.toml:2"), "{stderr}");
    let (_, stdout, _) = jobq(&machine, &["queues", "mine", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["profiles"][0]["walltime_s"], 21_600);
}
