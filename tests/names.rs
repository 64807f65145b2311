//! `jq` is also the name of a JSON processor: none of our verbs is a filter of its, and whatever isn't ours reaches
//! it untouched.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};

const OURS: &str = env!("CARGO_BIN_EXE_jq");
const JOBQ: &str = env!("CARGO_BIN_EXE_jobq");

/// A stand-in for the JSON jq that tells what reached it, and exits with 5 as the real one may.
const TELLER: &str = "#!/bin/sh\nprintf 'json'; for a in \"$@\"; do printf ' <%s>' \"$a\"; done; echo\nwhile read -r line; do echo \"$line\"; done\nexit 5\n";

/// Held while a program is written, and while one is started: a process that another test starts meanwhile would
/// inherit the open file, and what is open for writing can't be executed.
static PROGRAMS: Mutex<()> = Mutex::new(());

fn programs() -> MutexGuard<'static, ()> {
    PROGRAMS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Directories of a PATH.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        Machine { root: tempfile::tempdir().unwrap() }
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.root.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// `name/jq`, a program with that text.
    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir(name).join("jq");
        let _writing = programs();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.dir(name)
    }

    /// `name/jq`, a link to that program.
    fn link(&self, name: &str, target: impl AsRef<Path>) -> PathBuf {
        symlink(target, self.dir(name).join("jq")).unwrap();
        self.dir(name)
    }

    /// `name/jq`, another copy of our program.
    fn copy(&self, name: &str) -> PathBuf {
        let _writing = programs();
        fs::copy(OURS, self.dir(name).join("jq")).unwrap();
        self.dir(name)
    }
}

/// Our program called as `jq`, with that PATH and nothing else in its environment.
fn jq<P: AsRef<OsStr>>(path: &[P]) -> Command {
    let mut command = Command::new(OURS);
    command.arg0("jq").env_clear().env("PATH", std::env::join_paths(path.iter().map(AsRef::as_ref)).unwrap());
    command
}

fn run(command: &mut Command, stdin: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = {
        let _starting = programs();
        command.spawn().unwrap()
    };
    // A program that doesn't read its input has closed it.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The JSON jq of this machine; none: says why the test is skipped, unless nothing may be.
fn json_jq(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("jq")).find(|candidate| {
        let version =
            candidate.is_file().then(|| run(Command::new(candidate).arg("--version").env_clear(), b""));
        version.is_some_and(|o| o.stdout.starts_with(b"jq-") && o.status.success())
    });
    if found.is_none() {
        assert!(std::env::var_os("JOBQ_TEST_REQUIRE_ALL").is_none(), "{test}: there is no JSON jq on PATH");
        eprintln!("skipped {test}: there is no JSON jq on PATH (Debian: apt-get install jq)");
    }
    found
}

#[test]
fn no_verb_is_a_filter_of_the_json_jq() {
    let Some(json_jq) = json_jq("no_verb_is_a_filter_of_the_json_jq") else { return };
    let output = run(Command::new(&json_jq).args(["-n", "-r", "builtins[]"]), b"");
    let builtins = stdout(&output);
    assert!(builtins.lines().any(|b| b == "keys/0"), "the list of built-in filters reads: {builtins}");
    for verb in jobq::cli::VERBS {
        let output = run(Command::new(&json_jq).args(["-n", verb]), b"");
        assert_eq!(output.status.code(), Some(3), "the JSON jq takes `{verb}` as a filter");
        assert!(!builtins.lines().any(|b| b == format!("{verb}/0")), "`{verb}` is a built-in filter");
    }
}

#[test]
fn the_real_json_jq_works_through_ours() {
    let Some(json_jq) = json_jq("the_real_json_jq_works_through_ours") else { return };
    let machine = Machine::new();
    let (ours, real) = (machine.link("ours", OURS), machine.link("real", json_jq));
    let output = run(jq(&[&ours, &real]).args(["-c", ".a"]), br#"{"a": [1, 2]}"#);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "[1,2]\n"));
    let output = run(jq(&[&ours, &real]).arg("nonsense("), b"");
    assert_eq!(output.status.code(), Some(3), "its own exit codes pass");
    let output = run(jq(&[&ours, &real]).arg("--version"), b"");
    assert!(stdout(&output).starts_with("jq-"));
}

#[test]
fn what_is_not_ours_passes_untouched() {
    let machine = Machine::new();
    let path = [machine.link("ours", OURS), machine.script("json", TELLER)];
    for (args, told) in [
        (&[".a"][..], "json <.a>\n"),
        (&[], "json\n"),
        (&["--version"], "json <--version>\n"),
        (&["-r", "version"], "json <-r> <version>\n"),
        (&["versio"], "json <versio>\n"),
        (&["version "], "json <version >\n"),
        (&["", "a b", "\n"], "json <> <a b> <\n>\n"),
    ] {
        let output = run(jq(&path).args(args), b"the input\n");
        assert_eq!(stdout(&output), format!("{told}the input\n"), "{args:?}");
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(5), ""), "{args:?}");
    }
    let bytes = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff");
    let output = run(jq(&path).arg::<&OsStr>(bytes), b"");
    assert!(output.stdout.starts_with(b"json <\xff>"), "arguments need not be UTF-8");
}

#[test]
fn our_verbs_are_ours_and_jobq_always_is() {
    let machine = Machine::new();
    let path = [machine.script("json", TELLER)];
    let output = run(jq(&path).arg("version"), b"");
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with("jobq "), "{}", stdout(&output));
    let output = run(jq(&path).args(["help", "config"]), b"");
    assert!(stdout(&output).contains("Usage: jq config"), "it is called as the user calls it");
    let output = run(Command::new(JOBQ).arg(".a").env("PATH", &path[0]), b"");
    assert_eq!(output.status.code(), Some(2), "jobq never asks the JSON jq");
    let output = run(Command::new(JOBQ).args(["version", "--no-such-flag"]), b"");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn completions_and_manual_pages_go_by_the_name_that_was_typed() {
    let machine = Machine::new();
    let path = [machine.script("json", TELLER)];
    for (program, name) in [(jq(&path), "jq"), (Command::new(JOBQ), "jobq")] {
        let mut program = program;
        let output = run(program.args(["completions", "bash"]), b"");
        let script = stdout(&output);
        assert!(script.contains(&format!("complete -F _{name} ")) && script.contains("publish"), "{script}");
        assert!(run(Command::new("bash").arg("-n"), script.as_bytes()).status.success());
    }
    let dir = tempfile::tempdir().unwrap();
    let output = run(jq(&path).args(["help", "--man"]).arg(dir.path()), b"");
    assert_eq!(output.status.code(), Some(0));
    let page = std::fs::read_to_string(dir.path().join("jq-map.1")).unwrap();
    assert!(page.contains(".TH jq-map 1") && page.contains("each\\-line"), "{page}");
    assert!(!dir.path().join("jq-supervisor.1").exists(), "what people don't type has no page");
    let output = run(jq(&path).args(["help", "--man", "/dev/null/x"]), b"");
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn our_own_links_and_copies_are_not_the_json_jq() {
    let machine = Machine::new();
    let path = [
        machine.link("link", OURS),
        machine.link("sibling", JOBQ),
        machine.copy("copy"),
        machine.copy("another"),
        machine.script("json", TELLER),
    ];
    let output = run(jq(&path).arg("."), b"");
    assert_eq!((stdout(&output).as_str(), output.status.code()), ("json <.>\n", Some(5)));
    let output = run(jq(&path[..4]).arg("."), b"");
    assert_eq!(output.status.code(), Some(127), "and do not ask each other for ever");
}

#[test]
fn a_wrapper_that_looks_on_path_again_is_no_loop() {
    let machine = Machine::new();
    let ours = machine.link("ours", OURS);
    let wrapper = machine.script("wrapper", "#!/bin/sh\nexec jq \"$@\"\n");
    let json = machine.script("json", TELLER);
    let output = run(jq(&[&ours, &wrapper, &json]).arg("."), b"");
    assert_eq!((stdout(&output).as_str(), output.status.code()), ("json <.>\n", Some(5)));
    let output = run(jq(&[&ours, &wrapper]).arg("."), b"");
    assert_eq!(output.status.code(), Some(127));
    let output = run(jq(&[&ours]).arg(".").env("JOBQ_JSON_JQ", wrapper.join("jq")), b"");
    assert_eq!(output.status.code(), Some(127));
    assert!(stderr(&output).contains("leads back"), "{}", stderr(&output));
}

#[test]
fn what_cannot_be_run_is_passed_over() {
    let machine = Machine::new();
    let plain = machine.script("plain", TELLER);
    fs::set_permissions(plain.join("jq"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::create_dir_all(machine.dir("folder").join("jq")).unwrap();
    let dangling = machine.link("dangling", "/nonexistent/jq");
    let path =
        [dangling, machine.dir("folder"), plain, machine.dir("nothing"), machine.script("json", TELLER)];
    let output = run(jq(&path).arg("."), b"");
    assert_eq!(stdout(&output), "json <.>\n");
}

#[test]
fn the_override_names_the_json_jq() {
    let machine = Machine::new();
    let path = [machine.script("first", "#!/bin/sh\necho first\n")];
    let chosen = machine.script("chosen", TELLER).join("jq");
    let output = run(jq(&path).arg(".").env("JOBQ_JSON_JQ", &chosen), b"");
    assert_eq!(stdout(&output), "json <.>\n");
    for (wrong, words) in [("/nonexistent/jq", "isn't there"), (OURS, "is jobq")] {
        let output = run(jq(&path).arg(".").env("JOBQ_JSON_JQ", wrong), b"");
        assert_eq!(output.status.code(), Some(127), "{wrong}");
        assert!(
            stderr(&output).contains("JOBQ_JSON_JQ") && stderr(&output).contains(words),
            "{}",
            stderr(&output)
        );
    }
    let output = run(jq(&path).arg(".").env("JOBQ_JSON_JQ", ""), b"");
    assert_eq!(stdout(&output), "first\n", "an empty override is none");
}

#[test]
fn without_a_json_jq_there_is_help_or_one_line() {
    let machine = Machine::new();
    let path = [machine.link("ours", OURS)];
    for args in [&[][..], &["--help"], &["--version"]] {
        let output = run(jq(&path).args(args), b"");
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{args:?}");
        assert!(stdout(&output).contains("Usage: jq"), "{args:?}");
    }
    for args in [&["."][..], &["-r", "."], &["versions"]] {
        let output = run(jq(&path).args(args), b"");
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(127), ""), "{args:?}");
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child =
        Command::new(JOBQ).arg("config").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn a_clusters_name_is_checked_wherever_it_comes_from() {
    for command in [
        Command::new(JOBQ).args(["config", "--name", "../x"]),
        Command::new(JOBQ).arg("config").env("JOBQ_CLUSTER", ".hidden"),
    ] {
        let output = run(command, b"");
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("a cluster's name"), "{}", stderr(&output));
    }
}
