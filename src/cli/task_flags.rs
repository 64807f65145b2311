//! The flags that shape shell tasks: `submit` and `map` share them.

use super::environment::{EnvFlag, env_flag};
use super::exit::CliError;
use crate::config::{UnitError, parse_duration, parse_size};
use crate::graph::{CommandSpec, EnvSource, OutputSpec, Resources};
use std::path::Path;
use std::time::Duration;

/// Most of `--retries`.
const MAX_RETRIES: u32 = 1000;

#[derive(clap::Args, Clone, Debug, Default, PartialEq)]
pub struct TaskFlags {
    /// Start only after that task is done (repeatable)
    #[arg(long, value_name = "KEY")]
    pub after: Vec<String>,
    /// Cores that a task occupies
    #[arg(long, value_name = "C", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub cores: u32,
    /// Memory that a task occupies, such as 2GiB
    #[arg(long, value_name = "M", value_parser = parse_size, default_value = "0", hide_default_value = true)]
    pub memory: u64,
    /// A named resource that a task occupies, such as gpu=1; workers have what profile.resources says (repeatable)
    #[arg(long = "resource", value_name = "R=N", value_parser = resource)]
    pub resources: Vec<(String, u32)>,
    /// How often a task that failed is tried again
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_RETRIES)))]
    pub retries: u32,
    /// Stop a task after this long
    #[arg(long, value_name = "T", value_parser = time_limit)]
    pub time_limit: Option<Duration>,
    /// A variable of the task: NAME=TEXT, or NAME to send this shell's (repeatable)
    #[arg(long, value_name = "K=V", value_parser = env_flag)]
    pub env: Vec<EnvFlag>,
    /// Whose environment tasks start with: this shell's (what matters of it), the worker's, or none
    #[arg(long, value_name = "here|worker|none", value_parser = env_source, default_value = "here")]
    pub env_from: EnvSource,
    /// The directory that tasks run in [default: this one]
    #[arg(long, value_name = "D")]
    pub cwd: Option<String>,
    /// A file for tasks to read as their standard input
    #[arg(long, value_name = "F")]
    pub stdin: Option<String>,
    /// A file that the task makes: it appears whole or not at all if CMD writes {out} (repeatable)
    #[arg(long = "output", value_name = "FILE")]
    pub outputs: Vec<String>,
    /// Rather report "outcome unknown" than risk running a task twice
    #[arg(long)]
    pub at_most_once: bool,
}

impl TaskFlags {
    /// The command as the graph holds it. `here` is the submitter's directory, and `environment` what
    /// [`super::environment::select`] chose of its variables. `substitute`: placeholders are replaced (`map`).
    pub fn command(
        &self,
        argv: Vec<String>,
        substitute: bool,
        here: &Path,
        environment: Vec<(String, String)>,
    ) -> Result<CommandSpec, CliError> {
        let cwd = here.join(self.cwd.as_deref().unwrap_or(""));
        let cwd = cwd.to_str().ok_or_else(|| CliError::usage(format!("{}: not UTF-8", cwd.display())))?;
        let last = self.outputs.len();
        if let Some(number) = highest_out(&argv).filter(|number| *number > last) {
            let name = if number == 1 { "{out}".to_owned() } else { format!("{{out{number}}}") };
            return Err(CliError::usage(format!("{name} is used, but --output was given {last} times")));
        }
        let outputs = self.outputs.iter().enumerate();
        let outputs =
            outputs.map(|(i, path)| OutputSpec { path: path.clone(), fenced: uses_out(&argv, i + 1) });
        Ok(CommandSpec {
            outputs: outputs.collect(),
            argv,
            substitute,
            cwd: cwd.trim_end_matches('/').to_owned() + if cwd == "/" { "/" } else { "" },
            env_from: self.env_from,
            env: environment,
            stdin: self.stdin.clone(),
            resources: self.occupies(),
            retries: self.retries,
            time_limit_ms: self.time_limit.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            at_most_once: self.at_most_once,
        })
    }

    /// Whether flags that no command line has brought are such as one may bring.
    pub fn within_bounds(&self) -> Result<(), String> {
        match (self.cores, self.retries) {
            (0, _) => Err("cores: a task occupies at least one".to_owned()),
            (_, retries) if retries > MAX_RETRIES => Err(format!("retries: at most {MAX_RETRIES}")),
            _ => Ok(()),
        }
    }

    /// What a task of these flags occupies; a resource that was given twice counts as said last.
    pub fn occupies(&self) -> Resources {
        let named: std::collections::BTreeMap<_, _> = self.resources.iter().cloned().collect();
        Resources { cores: self.cores, memory: self.memory, named: named.into_iter().collect() }
    }
}

/// The spellings of output `number` (from 1) in a command line.
fn uses_out(argv: &[String], number: usize) -> bool {
    let suffix = if number == 1 { String::new() } else { number.to_string() };
    let placeholder = format!("{{out{suffix}}}");
    let variable =
        if number == 1 { "JOBQ_TASK_OUTPUT".to_owned() } else { format!("JOBQ_TASK_OUTPUT_{number}") };
    argv.iter().any(|word| word.contains(&placeholder) || names_variable(word, &variable))
}

/// Whether the word has the variable's whole name: `JOBQ_TASK_OUTPUT` is not in `JOBQ_TASK_OUTPUT_2`.
fn names_variable(word: &str, variable: &str) -> bool {
    let part_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    word.match_indices(variable).any(|(at, _)| !word[at + variable.len()..].starts_with(part_of_name))
}

/// The highest number of `{out}` (1), `{out2}`.. in a command line.
fn highest_out(argv: &[String]) -> Option<usize> {
    let numbers = argv
        .iter()
        .flat_map(|word| word.match_indices("{out").map(move |(at, mark)| &word[at + mark.len()..]));
    numbers
        .filter_map(|rest| match rest.split_once('}')?.0 {
            "" => Some(1),
            digits => digits.parse().ok().filter(|number| *number > 1),
        })
        .max()
}

fn resource(text: &str) -> Result<(String, u32), String> {
    let bad = || format!("`{text}` is not NAME=COUNT");
    let (name, count) = text.split_once('=').ok_or_else(bad)?;
    if !resource_name(name) {
        return Err(bad());
    }
    Ok((name.to_owned(), count.parse().map_err(|_| bad())?))
}

/// Whether a resource may be called that.
pub fn resource_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !name.is_empty() && name.chars().all(plain)
}

/// Reads `--time-limit`.
pub fn time_limit(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|e: UnitError| e.to_string())?;
    if duration.is_zero() { Err("a time limit is more than 0".to_owned()) } else { Ok(duration) }
}

/// Reads `--env-from`.
pub fn env_source(text: &str) -> Result<EnvSource, String> {
    match text {
        "here" => Ok(EnvSource::Here),
        "worker" => Ok(EnvSource::Worker),
        "none" => Ok(EnvSource::None),
        _ => Err("possible values: here, worker, none".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        task: TaskFlags,
    }

    fn parse(words: &[&str]) -> TaskFlags {
        Cli::try_parse_from([&["map"], words].concat()).unwrap().task
    }

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn flags_become_a_command() {
        let flags = parse(&[
            "--cores=2",
            "--memory=1GiB",
            "--resource=gpu=1",
            "--resource=bus=2",
            "--resource=gpu=2",
            "--retries=3",
            "--time-limit=90s",
            "--cwd=run",
            "--output={.}.nc",
            "--output=log",
            "--at-most-once",
            "--env-from=none",
        ]);
        let env = vec![("PATH".to_owned(), "/bin".to_owned())];
        let spec =
            flags.command(argv(&["reduce", "{}", "-o{out}"]), true, Path::new("/data"), env.clone()).unwrap();
        assert_eq!(spec.cwd, "/data/run");
        assert_eq!((spec.env, spec.env_from), (env, EnvSource::None));
        assert_eq!(spec.resources.named, [("bus".to_owned(), 2), ("gpu".to_owned(), 2)]);
        assert_eq!((spec.resources.cores, spec.resources.memory, spec.retries), (2, 1 << 30, 3));
        assert_eq!((spec.time_limit_ms, spec.at_most_once, spec.substitute), (90_000, true, true));
        let fenced: Vec<bool> = spec.outputs.iter().map(|o| o.fenced).collect();
        assert_eq!(fenced, [true, false]);
    }

    #[test]
    fn without_flags_a_task_runs_here() {
        let spec = parse(&[]).command(argv(&["true"]), false, Path::new("/data"), vec![]).unwrap();
        assert_eq!(
            (spec.cwd.as_str(), spec.resources, spec.time_limit_ms),
            ("/data", Resources::default(), 0)
        );
        let root = parse(&["--cwd=/"]).command(argv(&["true"]), false, Path::new("/data"), vec![]).unwrap();
        assert_eq!(root.cwd, "/");
    }

    #[test]
    fn an_output_is_fenced_by_its_own_name_only() {
        let fenced = |words: &[&str], number| uses_out(&argv(words), number);
        assert!(fenced(&["sh", "-c", "make > $JOBQ_TASK_OUTPUT"], 1));
        assert!(!fenced(&["sh", "-c", "make > $JOBQ_TASK_OUTPUT_2"], 1));
        assert!(fenced(&["sh", "-c", "make > ${JOBQ_TASK_OUTPUT_2}"], 2));
        assert!(!fenced(&["x", "{out2}"], 1));
    }

    #[test]
    fn an_out_without_its_output_is_a_usage_error() {
        let error = parse(&["--output=a"])
            .command(argv(&["x", "{out2}"]), false, Path::new("/"), vec![])
            .unwrap_err();
        assert_eq!(error.message, "{out2} is used, but --output was given 1 times");
        assert!(parse(&[]).command(argv(&["x", "{out}"]), false, Path::new("/"), vec![]).is_err());
        assert!(parse(&[]).command(argv(&["awk", "{output}"]), false, Path::new("/"), vec![]).is_ok());
    }
}
