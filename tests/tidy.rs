//! The house rules that a program can check: who may import whom, which rooms stay pure, how long a function may
//! grow. It reads the sources, so it holds for rooms that are built later too.

use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The floors of the house. A room imports only rooms of floors below its own.
const FLOORS: &[&[&str]] = &[
    &["graph", "config", "format"],
    &["protocol", "journal", "batch", "state", "kernels"],
    &["array", "net"],
    &["scheduler", "worker", "client", "datasets"],
    &["cluster", "local", "sim"],
    &["bench", "plot"],
    &["cli"],
];

/// Imports that the floors would allow, and the design doesn't: (room or file, what it must not know).
const STRANGERS: &[(&str, &[&str])] = &[
    ("batch", &["config"]),
    ("protocol", &["config"]),
    ("scheduler/core", &["batch", "net", "state"]),
    ("scheduler/place", &["batch", "net", "state"]),
    ("scheduler/scale", &["batch", "net", "state"]),
    ("worker/core", &["net", "state"]),
];

/// Rooms and files that use no runtime, sockets, files, processes, clocks or unseeded randomness.
const PURE: &[&str] = &[
    "graph",
    "protocol",
    "journal/record",
    "scheduler/core",
    "scheduler/place",
    "scheduler/relay",
    "scheduler/scale",
    "worker/core",
    "batch",
];

/// Parts of a pure room that are not.
const IMPURE: &[&str] = &["batch/exec", "batch/localq"];

const EFFECTS: &[&str] = &[
    "tokio",
    "std::net",
    "std::os::unix::net",
    "std::fs",
    "std::process",
    "std::env",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "nix::",
    "libc::",
    "getrandom",
    "rand::",
];

const MAX_FUNCTION_LINES: usize = 70;
const MAX_FILE_LINES: usize = 600;

/// Files or functions (`file.rs:function`) that are longer, with the reason and how long they may be.
const LONGER: &[(&str, usize, &str)] = &[];

/// A source file, with its tests cut off.
struct Source {
    /// Below `src/`, such as `batch/exec.rs`.
    path: String,
    /// Everything.
    text: String,
    /// Lines before `#[cfg(test)] mod tests`.
    lines: Vec<String>,
}

impl Source {
    /// Below `src/`, without the ending: `batch/exec`, `batch` for `batch/mod.rs`.
    fn module(&self) -> &str {
        let path = self.path.trim_end_matches(".rs");
        path.strip_suffix("/mod").unwrap_or(path)
    }

    fn room(&self) -> &str {
        self.module().split('/').next().unwrap_or_default()
    }

    /// Whether this is that room or file, or in it.
    fn is_in(&self, place: &str) -> bool {
        self.module().strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Lines of code with their numbers, without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.lines.iter().enumerate().map(|(i, line)| (i + 1, line.as_str()));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// What is wrong, a line each.
#[derive(Default)]
struct Complaints(String);

impl Complaints {
    fn add(&mut self, complaint: impl std::fmt::Display) {
        writeln!(self.0, "  {complaint}").unwrap();
    }

    fn none(self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `dir` (under the project) that end in `ending`; a directory that isn't there has none.
fn files(dir: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root().join(dir)];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let sources: Vec<Source> = files("src", ".rs").into_iter().map(|file| source(&file)).collect();
    assert!(sources.iter().any(|s| s.path == "lib.rs"), "the sources were found");
    sources
}

fn source(file: &str) -> Source {
    let text = fs::read_to_string(root().join(file)).unwrap();
    Source { path: file.trim_start_matches("src/").to_owned(), lines: without_tests(&text), text }
}

/// Tests stand at the end; a file that is only tests (`tests.rs`) has no other lines.
fn without_tests(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let starts = |i: usize| {
        lines[i] == "#[cfg(test)]" && lines.get(i + 1).is_some_and(|next| next.starts_with("mod tests"))
    };
    let end = (0..lines.len()).find(|i| starts(*i)).unwrap_or(lines.len());
    lines[..end].iter().map(|l| (*l).to_owned()).collect()
}

fn is_test_file(source: &Source) -> bool {
    source.module().rsplit('/').next().is_some_and(|name| name == "tests" || name.ends_with("_tests"))
        || source.module().contains("/tests/")
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// Rooms that a source names by `crate::room` or by as many `super::` as lead to the top.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let depth = source.module().split('/').count();
    let to_the_top = "super::".repeat(depth);
    let mut found = Vec::new();
    for (number, line) in source.code() {
        let after_crate =
            line.match_indices("crate::").filter(|(at, _)| *at == 0 || !line[..*at].ends_with('$'));
        let starts = after_crate.map(|(at, mark)| at + mark.len());
        let by_super = line.find(&to_the_top).filter(|at| !line[..*at].ends_with("super::"));
        for start in starts.chain(by_super.map(|at| at + to_the_top.len())) {
            let rest = &line[start..];
            if rest.starts_with("super::") {
                continue;
            }
            if let Some(group) = rest.strip_prefix('{') {
                let tail = source.lines[number..].join("\n");
                found.extend(group_heads(&format!("{group}\n{tail}")).into_iter().map(|head| (number, head)));
            } else {
                found.push((number, identifier(rest)));
            }
        }
    }
    found
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// First names of the members of `a::b, c::{d, e}}`, up to the brace that closes the group.
fn group_heads(text: &str) -> Vec<String> {
    let (mut heads, mut depth, mut member) = (Vec::new(), 0, String::new());
    for c in text.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => heads.push(std::mem::take(&mut member)),
            '{' => depth += 1,
            '}' => depth -= 1,
            _ if depth == 0 => member.push(c),
            _ => {}
        }
    }
    heads.push(member);
    heads.iter().map(|m| identifier(m.trim())).filter(|m| !m.is_empty()).collect()
}

/// The functions of a file as rustfmt lays them out: first line, number of lines, name.
fn functions(lines: &[String]) -> Vec<(usize, usize, String)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indent}}}");
        // A declaration, or a function on one line.
        if line.ends_with(';') || line.ends_with('}') {
            continue;
        }
        let ends = |l: &String| {
            *l == closing
                || (l.starts_with(indent) && l[indent.len()..].starts_with(") -> ") && l.ends_with(';'))
        };
        if let Some(length) = lines[start..].iter().position(ends) {
            found.push((start + 1, length + 1, name));
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let mut rest = line.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix("fn ") {
            return Some(identifier(after));
        }
        let (word, after) = rest.split_once(' ')?;
        let modifier = matches!(word, "pub" | "const" | "async" | "unsafe" | "extern" | "\"C\"")
            || word.starts_with("pub(");
        rest = modifier.then_some(after)?;
    }
}

/// The reason's limit for a file or function that may be longer.
fn allowed(name: &str, usual: usize) -> usize {
    LONGER.iter().find(|(longer, _, _)| *longer == name).map_or(usual, |(_, limit, _)| *limit)
}

#[test]
fn imports_go_down_the_floors() {
    let mut complaints = Complaints::default();
    for source in sources().iter().filter(|s| !is_test_file(s)) {
        if matches!(source.path.as_str(), "lib.rs" | "main.rs" | "bin/jobq.rs") {
            continue;
        }
        let Some(own) = floor(source.room()) else {
            complaints.add(format_args!(
                "src/{}: the room `{}` is on no floor of tests/tidy.rs",
                source.path,
                source.room()
            ));
            continue;
        };
        for (line, room) in imports(source) {
            let Some(below) = floor(&room) else { continue };
            if room != source.room() && below >= own {
                complaints.add(format_args!(
                    "src/{}:{line}: `{}` must not import `{room}`",
                    source.path,
                    source.room()
                ));
            }
            let stranger =
                |(place, rooms): &&(&str, &[&str])| source.is_in(place) && rooms.contains(&room.as_str());
            if let Some((place, _)) = STRANGERS.iter().find(stranger) {
                complaints.add(format_args!("src/{}:{line}: `{place}` must not know `{room}`", source.path));
            }
        }
    }
    complaints.none();
}

#[test]
fn pure_rooms_have_no_effects() {
    let mut complaints = Complaints::default();
    for source in sources().iter().filter(|s| !is_test_file(s)) {
        let pure =
            PURE.iter().any(|place| source.is_in(place)) && !IMPURE.iter().any(|place| source.is_in(place));
        for (line, code) in source.code().filter(|_| pure) {
            for effect in EFFECTS.iter().filter(|effect| has_path(code, effect)) {
                complaints.add(format_args!("src/{}:{line}: `{effect}` in a pure room", source.path));
            }
        }
    }
    complaints.none();
}

/// Whether the code names that path, and not only a longer word that ends in it.
fn has_path(code: &str, path: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(path).any(|(at, _)| {
        let after = &code[at + path.len()..];
        !code[..at].ends_with(part_of_word) && (path.ends_with(':') || !after.starts_with(part_of_word))
    })
}

#[test]
fn functions_and_files_stay_short() {
    let mut complaints = Complaints::default();
    for source in sources().iter().filter(|s| !is_test_file(s)) {
        let most = allowed(&source.path, MAX_FILE_LINES);
        if source.lines.len() > most {
            complaints.add(format_args!(
                "src/{}: {} lines without tests, more than {most}",
                source.path,
                source.lines.len()
            ));
        }
        for (line, length, name) in functions(&source.lines) {
            let most = allowed(&format!("{}:{name}", source.path), MAX_FUNCTION_LINES);
            if length > most {
                complaints.add(format_args!(
                    "src/{}:{line}: `{name}` has {length} lines, more than {most}",
                    source.path
                ));
            }
        }
    }
    for (name, limit, reason) in LONGER {
        let file = name.split(':').next().unwrap();
        let there = root().join("src").join(file).is_file();
        if !there || reason.is_empty() || *limit <= MAX_FUNCTION_LINES {
            complaints.add(format_args!("tests/tidy.rs: `{name}` in LONGER is stale or has no reason"));
        }
    }
    complaints.none();
}

#[test]
fn nothing_is_left_for_later_and_nothing_panics_lightly() {
    // In pieces, so that this file doesn't find itself.
    let later = [
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("TO", "DO"),
        concat!("db", "g!("),
    ];
    let mut complaints = Complaints::default();
    for source in &sources() {
        for (number, line) in source.text.lines().enumerate() {
            for mark in later.iter().filter(|mark| line.contains(**mark)) {
                complaints.add(format_args!("src/{}:{}: `{mark}`", source.path, number + 1));
            }
        }
        if is_test_file(source) {
            continue;
        }
        for (number, line) in source.code() {
            if line.contains(".unwrap()") {
                complaints.add(format_args!("src/{}:{number}: unwrap outside tests", source.path));
            }
            let bare = |rest: &str| {
                let message = rest
                    .trim_start()
                    .strip_prefix('"')
                    .and_then(|m| m.split_once('"'))
                    .map_or("", |(m, _)| m);
                !rest.trim().is_empty() && message.split_whitespace().count() < 3
            };
            if line.match_indices(".expect(").any(|(at, call)| bare(&line[at + call.len()..])) {
                complaints.add(format_args!("src/{}:{number}: expect must state the invariant", source.path));
            }
        }
    }
    complaints.none();
}

#[test]
fn no_source_names_a_place_of_some_machine() {
    let places = [concat!("/wo", "rk/"), concat!("/wo", "rk\""), concat!("/tm", "p/")];
    let mut complaints = Complaints::default();
    for source in sources().iter().filter(|s| !is_test_file(s)) {
        for (number, line) in source.lines.iter().enumerate() {
            for place in places.iter().filter(|place| line.contains(**place)) {
                complaints.add(format_args!("src/{}:{}: `{place}`", source.path, number + 1));
            }
        }
    }
    complaints.none();
}

#[test]
fn every_source_says_what_it_is_for() {
    let mut complaints = Complaints::default();
    let is_entry = |s: &&Source| matches!(s.path.as_str(), "main.rs" | "bin/jobq.rs");
    let is_test = |s: &&Source| s.path.ends_with("tests.rs") || s.path.contains("/tests/");
    for source in sources().iter().filter(|s| !is_entry(s) && !is_test(s)) {
        if !source.text.starts_with("//! ") {
            complaints.add(format_args!("src/{}: doesn't start with `//! ` and what it is for", source.path));
        }
    }
    complaints.none();
}

#[test]
fn every_template_and_profile_is_embedded() {
    let sources = sources();
    let mut complaints = Complaints::default();
    for file in files("configs", "").into_iter().chain(files("templates", "")) {
        let embeds = |s: &&Source| {
            let mut includes = s.text.match_indices("include_str!(");
            includes.any(|(at, call)| {
                let quoted = s.text[at + call.len()..].split('"').nth(1).unwrap_or_default();
                quoted.trim_start_matches("../") == file
            })
        };
        if !sources.iter().any(|s| embeds(&s)) {
            complaints.add(format_args!("{file}: no source embeds it"));
        }
    }
    complaints.none();
}

#[test]
fn scripts_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    let mut complaints = Complaints::default();
    let scripts =
        files("examples", ".sh").into_iter().chain(files("tests", ".sh")).chain([".ci/run".to_owned()]);
    // Golden job scripts are what a batch system is given, and nobody runs them.
    for script in scripts.filter(|script| !script.starts_with("tests/golden/")) {
        let path = root().join(&script);
        let text = fs::read_to_string(&path).unwrap();
        if !text.starts_with("#!") {
            complaints.add(format_args!("{script}: no `#!` line"));
        }
        if fs::metadata(&path).unwrap().permissions().mode() & 0o111 != 0o111 {
            complaints.add(format_args!("{script}: not executable"));
        }
    }
    complaints.none();
}

/// The checks themselves see what they are for.
mod checks {
    use super::*;

    fn example(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), lines: without_tests(text) }
    }

    #[test]
    fn an_import_is_found_however_it_is_written() {
        let text = "use crate::{batch::{a, b}, net, scheduler::core::X};\nuse super::super::worker::Y;\n\
                    fn f() { crate::config::load(); }\n// crate::cli\nuse super::neighbour;\n";
        let rooms: Vec<String> =
            imports(&example("state/lease.rs", text)).into_iter().map(|(_, r)| r).collect();
        assert_eq!(rooms, ["batch", "net", "scheduler", "worker", "config"]);
        let rooms = imports(&example("state/mod.rs", "use super::cli::x;\n"));
        assert_eq!(rooms, [(1, "cli".to_owned())]);
    }

    #[test]
    fn a_group_over_several_lines_is_one_import() {
        let text = "use crate::{\n    cli::Exit,\n    graph::{\n        Key,\n        Op,\n    },\n};\n";
        let rooms: Vec<String> = imports(&example("net/tls.rs", text)).into_iter().map(|(_, r)| r).collect();
        assert_eq!(rooms, ["cli", "graph"]);
    }

    #[test]
    fn functions_are_measured_from_their_first_line_to_their_brace() {
        let text = "pub(super) async fn long(\n    a: u8,\n) -> u8 {\n    if a {\n    }\n    a\n}\n\nfn short() {}\n\
                    trait T {\n    fn declared(&self);\n    fn inner(&self) {\n        x\n    }\n}\n";
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert_eq!(functions(&lines), [(1, 7, "long".to_owned()), (12, 3, "inner".to_owned())]);
    }

    #[test]
    fn effects_are_told_from_words_that_look_like_them() {
        assert!(has_path("use std::fs;", "std::fs"));
        assert!(has_path("let t = std::time::SystemTime::now();", "SystemTime"));
        assert!(has_path("nix::unistd::getpid()", "nix::"));
        assert!(!has_path("use std::fs_extra;", "std::fs"));
        assert!(!has_path("let operand::x", "rand::"));
    }

    #[test]
    fn tests_at_the_end_are_not_measured() {
        assert_eq!(without_tests("fn a() {}\n#[cfg(test)]\nmod tests {\n}\n"), ["fn a() {}"]);
        assert!(is_test_file(&example("net/tests.rs", "")));
        assert!(!is_test_file(&example("net/latest.rs", "")));
    }
}
