//! The file of `run`: shell tasks by name, and what each comes after. Pure: text in, tasks in an order that can run out.

use super::super::environment::{EnvFlag, env_flag};
use super::super::task_flags::{TaskFlags, env_source, resource_name, time_limit};
use crate::config::{nearest_word, parse_size};
use crate::graph::Key;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;

/// Most pairs of a task and one that it comes after: tasks that come after long lists multiply.
const MAX_EDGES: usize = 10_000_000;

/// What the file asks for.
#[derive(Debug, PartialEq)]
pub struct GraphFile {
    pub label: Option<String>,
    pub max_fails: Option<u32>,
    /// Each comes after all that it depends on.
    pub tasks: Vec<Entry>,
}

/// A task, or one for each argument.
#[derive(Debug, PartialEq)]
pub struct Entry {
    pub key: Option<String>,
    pub argv: Vec<String>,
    /// One task each; none: one task, whose words stand as they are.
    pub each: Option<Vec<String>>,
    /// Positions in the list of those that it comes after.
    pub after: Vec<usize>,
    pub flags: TaskFlags,
}

impl Entry {
    /// How many tasks it makes.
    pub fn len(&self) -> usize {
        self.each.as_ref().map_or(1, Vec::len)
    }

    /// The name of its `number`th task, from 1.
    pub fn name(&self, number: usize) -> Option<String> {
        let key = self.key.as_ref()?;
        Some(if self.each.is_some() { format!("{key}.{number}") } else { key.clone() })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    label: Option<String>,
    max_fails: Option<u32>,
    #[serde(default)]
    defaults: Task,
    #[serde(default)]
    task: Vec<Spanned<Task>>,
}

/// A table of the file: what is left out is as in `[defaults]`, and there as in `submit`.
#[derive(Deserialize, Clone, Default)]
#[serde(deny_unknown_fields)]
struct Task {
    key: Option<String>,
    command: Option<Vec<String>>,
    shell: Option<String>,
    each: Option<Vec<String>>,
    after: Option<OneOrMore>,
    output: Option<OneOrMore>,
    cores: Option<u32>,
    memory: Option<String>,
    resource: Option<BTreeMap<String, u32>>,
    retries: Option<u32>,
    time_limit: Option<String>,
    env: Option<BTreeMap<String, String>>,
    env_from: Option<String>,
    cwd: Option<String>,
    stdin: Option<String>,
    at_most_once: Option<bool>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn list(self) -> Vec<String> {
        match self {
            OneOrMore::One(word) => vec![word],
            OneOrMore::More(words) => words,
        }
    }
}

/// Reads the text of a graph's file.
///
/// # Errors
/// What is wrong, with its line.
pub fn parse(text: &str) -> Result<GraphFile, String> {
    let file: Text = toml::from_str(text).map_err(|error| in_one_line(&error, text))?;
    let only_in_a_task = |what: &str| Err(format!("[defaults]: `{what}` belongs in a [[task]]"));
    let Task { key, command, shell, each, after, output, .. } = &file.defaults;
    match (key, command, shell, each, after, output) {
        (None, None, None, None, None, None) => {}
        (Some(_), ..) => return only_in_a_task("key"),
        (_, Some(_), ..) => return only_in_a_task("command"),
        (_, _, Some(_), ..) => return only_in_a_task("shell"),
        (_, _, _, Some(_), ..) => return only_in_a_task("each"),
        (_, _, _, _, Some(_), _) => return only_in_a_task("after"),
        (.., Some(_)) => return only_in_a_task("output"),
    }
    if file.task.is_empty() {
        return Err("there is no [[task]]".to_owned());
    }
    let mut entries = Vec::with_capacity(file.task.len());
    let mut afters = Vec::with_capacity(file.task.len());
    for task in file.task {
        let line = line_of(text, task.span().start);
        let mut task = task.into_inner();
        let named = task.key.as_ref().map_or(String::new(), |key| format!(" (task '{key}')"));
        afters.push(task.after.take().map_or_else(Vec::new, OneOrMore::list));
        let entry = entry(task, &file.defaults).map_err(|error| format!("line {line}{named}: {error}"))?;
        entries.push((line, entry));
    }
    let tasks = in_order(entries, &afters)?;
    Ok(GraphFile { label: file.label, max_fails: file.max_fails, tasks })
}

/// The parser's complaint without its drawing of the text.
fn in_one_line(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().replace('\n', " ");
    error.span().map_or(message.clone(), |at| format!("line {}: {message}", line_of(text, at.start)))
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

fn entry(task: Task, defaults: &Task) -> Result<Entry, String> {
    if let Some(key) = &task.key {
        Key::named(key).map_err(|error| error.to_string())?;
    }
    let argv = match (&task.command, &task.shell) {
        (Some(words), None) => words.clone(),
        (None, Some(line)) => shell(line, task.each.is_some()),
        (Some(_), Some(_)) => return Err("`command` and `shell` are one too many".to_owned()),
        (None, None) => return Err("it has neither `command` (words) nor `shell` (a line)".to_owned()),
    };
    if argv.first().is_none_or(String::is_empty) {
        return Err("`command` begins with the name of a program".to_owned());
    }
    if task.each.as_ref().is_some_and(Vec::is_empty) {
        return Err("`each` is empty".to_owned());
    }
    let (key, each) = (task.key.clone(), task.each.clone());
    Ok(Entry { key, argv, each, after: Vec::new(), flags: flags(task, defaults)? })
}

/// The shell gets the argument as `$1`: it is a word whatever is in it.
fn shell(line: &str, has_argument: bool) -> Vec<String> {
    let words = ["/bin/sh", "-c", line, "sh"].into_iter().chain(has_argument.then_some("{}"));
    words.map(str::to_owned).collect()
}

fn flags(task: Task, defaults: &Task) -> Result<TaskFlags, String> {
    let of = |what: &str, error: String| format!("{what}: {error}");
    let defaults = defaults.clone();
    let mut env = defaults.env.unwrap_or_default();
    env.extend(task.env.unwrap_or_default());
    let env: Result<Vec<EnvFlag>, _> =
        env.into_iter().map(|(name, value)| env_flag(&format!("{name}={value}"))).collect();
    let resources = task.resource.or(defaults.resource).unwrap_or_default();
    if let Some(name) = resources.keys().find(|name| !resource_name(name)) {
        return Err(format!("resource: `{name}` can't be a resource's name"));
    }
    let memory = task.memory.or(defaults.memory).map_or(Ok(0), |text| parse_size(&text));
    let time_limit = task.time_limit.or(defaults.time_limit).map(|text| time_limit(&text)).transpose();
    let env_from =
        task.env_from.or(defaults.env_from).map_or(Ok(Default::default()), |text| env_source(&text));
    let flags = TaskFlags {
        after: Vec::new(),
        cores: task.cores.or(defaults.cores).unwrap_or(1),
        memory: memory.map_err(|error| of("memory", error.to_string()))?,
        resources: resources.into_iter().collect(),
        retries: task.retries.or(defaults.retries).unwrap_or(0),
        time_limit: time_limit.map_err(|error| of("time_limit", error))?,
        env: env.map_err(|error| of("env", error))?,
        env_from: env_from.map_err(|error| of("env_from", error))?,
        cwd: task.cwd.or(defaults.cwd),
        stdin: task.stdin.or(defaults.stdin),
        outputs: task.output.map_or_else(Vec::new, OneOrMore::list),
        at_most_once: task.at_most_once.or(defaults.at_most_once).unwrap_or(false),
    };
    flags.within_bounds()?;
    Ok(flags)
}

/// Each after all that it depends on, else as in the file.
fn in_order(entries: Vec<(usize, Entry)>, afters: &[Vec<String>]) -> Result<Vec<Entry>, String> {
    let depends = depends(&entries, afters)?;
    let mut missing: Vec<usize> = depends.iter().map(BTreeSet::len).collect();
    let mut dependents = vec![Vec::new(); entries.len()];
    for (task, on) in depends.iter().enumerate() {
        on.iter().for_each(|on| dependents[*on].push(task));
    }
    let mut ready: BTreeSet<usize> = (0..entries.len()).filter(|task| missing[*task] == 0).collect();
    let mut order = Vec::with_capacity(entries.len());
    while let Some(task) = ready.pop_first() {
        order.push(task);
        for dependent in &dependents[task] {
            missing[*dependent] -= 1;
            if missing[*dependent] == 0 {
                ready.insert(*dependent);
            }
        }
    }
    if order.len() < entries.len() {
        return Err(circle(&entries, &depends, &missing));
    }
    let mut place = vec![0; order.len()];
    order.iter().enumerate().for_each(|(at, task)| place[*task] = at);
    let mut entries: Vec<Option<Entry>> = entries.into_iter().map(|(_, entry)| Some(entry)).collect();
    let placed = |task: &usize| {
        let mut entry = entries[*task].take()?;
        entry.after = depends[*task].iter().map(|on| place[*on]).collect();
        Some(entry)
    };
    Ok(order.iter().filter_map(placed).collect())
}

/// By position, what each comes after.
fn depends(entries: &[(usize, Entry)], afters: &[Vec<String>]) -> Result<Vec<BTreeSet<usize>>, String> {
    let mut by_key = BTreeMap::new();
    for (at, (line, entry)) in entries.iter().enumerate() {
        if let Some(key) = &entry.key
            && let Some(first) = by_key.insert(key.as_str(), at)
        {
            let first: &(usize, Entry) = &entries[first];
            return Err(format!("line {line}: the key '{key}' is that of line {} already", first.0));
        }
    }
    let mut edges = 0usize;
    let mut all = Vec::with_capacity(entries.len());
    for ((line, entry), after) in entries.iter().zip(afters) {
        let mut depends = BTreeSet::new();
        for name in after {
            let Some(at) = by_key.get(name.as_str()) else {
                let near = nearest_word(name, by_key.keys().copied());
                let near = near.map_or(String::new(), |near| format!(": did you mean '{near}'?"));
                return Err(format!("line {line}: after '{name}': no task of that key{near}"));
            };
            if depends.insert(*at) {
                edges = edges.saturating_add(entry.len().saturating_mul(entries[*at].1.len()));
            }
        }
        if edges > MAX_EDGES {
            return Err(format!(
                "line {line}: lists that come after lists make more than {MAX_EDGES} pairs of tasks: put a task \
                 between them that comes after the one, and before the other"
            ));
        }
        all.push(depends);
    }
    Ok(all)
}

/// Tasks that wait for each other, by name.
fn circle(entries: &[(usize, Entry)], depends: &[BTreeSet<usize>], missing: &[usize]) -> String {
    // Whatever can't run depends on something else that can't: following that leads around.
    let mut path: Vec<usize> = missing.iter().position(|count| *count > 0).into_iter().collect();
    while let Some(next) = path.last().and_then(|at| depends[*at].iter().find(|on| missing[**on] > 0)) {
        if let Some(start) = path.iter().position(|at| at == next) {
            path.drain(..start);
            path.push(*next);
            break;
        }
        path.push(*next);
    }
    let names = path.iter().map(|at| entries[*at].1.key.clone().unwrap_or_default());
    format!("tasks come after each other in a circle: {}", names.collect::<Vec<_>>().join(" after "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const FORECAST: &str = r#"
label = "forecast"
max_fails = 3
[defaults]
cores = 2
env = { MODEL = "um", RUN = "00" }
[[task]]
key = "mean"
command = ["mean", "-o", "{out}"]
after = "member"
output = "mean.nc"
[[task]]
key = "member"
shell = "fetch \"$1\" > {out}"
each = ["a b", "c"]
output = ["{/}.nc"]
after = ["login"]
memory = "2GiB"
time_limit = "90s"
resource = { gpu = 1 }
env = { RUN = "06" }
[[task]]
key = "login"
command = ["true"]
cores = 1
"#;

    fn refused(text: &str) -> String {
        parse(text).unwrap_err()
    }

    #[test]
    fn tasks_come_after_what_they_depend_on() {
        let file = parse(FORECAST).unwrap();
        assert_eq!((file.label.as_deref(), file.max_fails), (Some("forecast"), Some(3)));
        let keys: Vec<_> = file.tasks.iter().map(|task| task.key.as_deref().unwrap()).collect();
        assert_eq!(keys, ["login", "member", "mean"]);
        let [login, member, mean] = &file.tasks[..] else { panic!("three") };
        assert_eq!((&login.after[..], &member.after[..], &mean.after[..]), (&[][..], &[0][..], &[1][..]));
        assert_eq!(member.argv, ["/bin/sh", "-c", "fetch \"$1\" > {out}", "sh", "{}"]);
        assert_eq!((member.len(), member.name(2)), (2, Some("member.2".to_owned())));
        assert_eq!((mean.len(), mean.name(1)), (1, Some("mean".to_owned())));
        assert_eq!((login.flags.cores, member.flags.cores), (1, 2));
        assert_eq!(member.flags.memory, 2 << 30);
        assert_eq!(member.flags.time_limit, Some(Duration::from_secs(90)));
        assert_eq!(member.flags.resources, [("gpu".to_owned(), 1)]);
        let env: Vec<_> =
            member.flags.env.iter().map(|e| (e.name.as_str(), e.text.as_deref().unwrap())).collect();
        assert_eq!(env, [("MODEL", "um"), ("RUN", "06")]);
        assert_eq!(mean.flags.outputs, ["mean.nc"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let task = |rest: &str| format!("[[task]]\nkey = \"a\"\ncommand = [\"true\"]\n{rest}");
        for (text, words) in [
            (String::new(), "there is no [[task]]"),
            ("[[task]]\nkey = ".to_owned(), "line 2"),
            (task("coers = 2"), "line 4: unknown field `coers`"),
            (task("shell = \"true\""), "line 1 (task 'a'): `command` and `shell`"),
            ("[[task]]\nkey = \"a\"".to_owned(), "neither `command`"),
            ("[[task]]\ncommand = []".to_owned(), "the name of a program"),
            (task("each = []"), "`each` is empty"),
            (task("memory = \"much\""), "memory: "),
            (task("time_limit = \"0s\""), "time_limit: "),
            (task("env_from = \"me\""), "env_from: possible values"),
            (task("env = { \"1\" = \"x\" }"), "env: `1` can't be the name"),
            (task("resource = { \"a b\" = 1 }"), "can't be a resource's name"),
            (task("cores = 0"), "cores: "),
            (task("after = \"bbb\"\n[[task]]\nkey = \"bb\"\ncommand = [\"true\"]"), "did you mean 'bb'?"),
            (task(&task("")), "line 4: the key 'a' is that of line 1 already"),
            ("[[task]]\nkey = \"g7\"\ncommand = [\"true\"]".to_owned(), "'g7'"),
            (format!("[defaults]\nkey = \"x\"\n{}", task("")), "[defaults]: `key`"),
            (task("after = \"a\""), "in a circle: a after a"),
        ] {
            let error = refused(&text);
            assert!(error.contains(words), "{error:?} has no {words:?}");
        }
    }

    #[test]
    fn a_circle_is_named_without_what_leads_to_it() {
        let text = r#"
[[task]]
key = "first"
command = ["true"]
after = "b"
[[task]]
key = "b"
command = ["true"]
after = ["c", "free"]
[[task]]
key = "c"
command = ["true"]
after = "b"
[[task]]
key = "free"
command = ["true"]
"#;
        assert_eq!(refused(text), "tasks come after each other in a circle: b after c after b");
    }

    #[test]
    fn lists_after_lists_are_bounded() {
        let each: Vec<String> = (0..4000).map(|i| format!("\"{i}\"")).collect();
        let list = |key: &str, after: &str| {
            format!(
                "[[task]]\nkey = \"{key}\"\ncommand = [\"true\"]\nafter = [{after}]\neach = [{}]\n",
                each.join(",")
            )
        };
        assert!(refused(&(list("a", "") + &list("b", "\"a\""))).contains("10000000 pairs"));
    }
}
