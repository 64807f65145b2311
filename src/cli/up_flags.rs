//! The flags that shape a cluster: `up` and `script` share them.

use super::exit::CliError;
use crate::config::{
    Choice, Config, Flag, PLACES, Settings, UnitError, display_duration, display_size, parse_duration,
    parse_size,
};
use std::time::Duration;

#[derive(clap::Args, Clone, Debug, Default, PartialEq)]
pub struct UpFlags {
    /// A profile (`jq queues` lists them), else a queue of the site's default batch system
    #[arg(long, value_name = "PROFILE", value_parser = queue_name)]
    pub queue: Option<String>,
    /// How many worker processes
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
    /// Cores of one worker
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u32).range(1..))]
    pub cores: Option<u32>,
    /// Memory of one worker, such as 4GiB
    #[arg(long, value_name = "M", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Workers in one job
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers_per_job: Option<u32>,
    /// Of one job, such as 2h or 1-12:00:00; a job that ended at it is followed by another
    #[arg(long, value_name = "T", value_parser = walltime)]
    pub walltime: Option<Duration>,
    /// Whom the batch system charges
    #[arg(long, value_name = "A")]
    pub account: Option<String>,
    /// Quality of service
    #[arg(long, value_name = "Q")]
    pub qos: Option<String>,
    /// Where the scheduler runs: in a batch job of its own, or on this host; auto: in a job on a batch system
    #[arg(long, value_name = "auto|job|here", value_parser = clap::builder::PossibleValuesParser::new(PLACES))]
    pub scheduler: Option<String>,
    /// One more line for the job script's header, without its marker (repeatable)
    #[arg(long = "extra-directive", value_name = "D", allow_hyphen_values = true)]
    pub extra_directives: Vec<String>,
    /// A directive that this queue refuses, by name (repeatable)
    #[arg(long = "skip-directive", value_name = "D", allow_hyphen_values = true)]
    pub skip_directives: Vec<String>,
    /// Any setting, such as task.kill_grace=30s; without a section, one of the profile (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = set_flag)]
    pub set: Vec<SetFlag>,
    /// How long a worker may be out of touch before its tasks stop
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    pub death_timeout: Option<Duration>,
}

/// `--set KEY=VALUE`; `KEY+=VALUE` adds to a list or table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetFlag {
    pub key: String,
    pub value: String,
    pub append: bool,
}

/// Reads `KEY=VALUE` or `KEY+=VALUE`.
pub fn set_flag(text: &str) -> Result<SetFlag, String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    let (key, append) = key.strip_suffix('+').map_or((key, false), |key| (key, true));
    if key.is_empty() {
        return Err(format!("`{text}` names no key"));
    }
    Ok(SetFlag { key: key.to_owned(), value: value.to_owned(), append })
}

impl SetFlag {
    pub fn to_flag(&self) -> Flag {
        let flag = Flag::new(self.key.as_str(), &self.value, "--set");
        Flag { append: self.append, ..flag }
    }
}

impl UpFlags {
    /// The values that were given, in the order in which they count: a later `--set` wins over the flag of its
    /// own name. `--queue` and `--workers` are no settings.
    pub fn settings(&self) -> Vec<Flag> {
        let mut flags = Vec::new();
        let mut one = |key: &str, value: Option<String>, origin: &str| {
            flags.extend(value.map(|value| Flag::new(key, value, origin)));
        };
        one("profile.cores", self.cores.map(|c| c.to_string()), "--cores");
        one("profile.memory", self.memory.map(display_size), "--memory");
        one("profile.workers_per_job", self.workers_per_job.map(|w| w.to_string()), "--workers-per-job");
        one("profile.walltime", self.walltime.map(display_duration), "--walltime");
        one("profile.account", self.account.clone(), "--account");
        one("profile.qos", self.qos.clone(), "--qos");
        one("scheduler.place", self.scheduler.clone(), "--scheduler");
        one("worker.death_timeout", self.death_timeout.map(display_duration), "--death-timeout");
        let extra = |d: &String| list_item("profile.extra_directives", d, "--extra-directive");
        flags.extend(self.extra_directives.iter().map(extra));
        let skipped = |d: &String| list_item("profile.skip_directives", d, "--skip-directive");
        flags.extend(self.skip_directives.iter().map(skipped));
        flags.extend(self.set.iter().map(SetFlag::to_flag));
        flags
    }

    /// What is to be brought up. The second value is a note for the user, empty where there is nothing to say.
    pub fn resolve(&self, config: &Config) -> Result<(Settings, String), CliError> {
        let settings = config.settings_for_queue(self.queue.as_deref(), &self.settings())?;
        settings.check_workers(self.workers.unwrap_or(0), "--workers")?;
        let note = match &settings.choice {
            Choice::Literal { queue, system } if !queue.is_empty() => {
                format!("no profile `{queue}`: taken as a queue of {system}")
            }
            _ => String::new(),
        };
        Ok((settings, note))
    }
}

/// One item of a list, quoted so that an item that looks like a list stays an item.
fn list_item(key: &str, item: &str, origin: &str) -> Flag {
    Flag::append(key, toml::Value::Array(vec![toml::Value::String(item.to_owned())]), origin)
}

fn walltime(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|e: UnitError| e.to_string())?;
    if duration < Duration::from_secs(1) { Err("a walltime is at least 1s".to_owned()) } else { Ok(duration) }
}

fn queue_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("a queue's name is not empty and has no control characters".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        up: UpFlags,
    }

    fn parse(words: &[&str]) -> Result<UpFlags, clap::Error> {
        Cli::try_parse_from([&["up"], words].concat()).map(|cli| cli.up)
    }

    #[test]
    fn flags_become_settings_that_name_them() {
        let flags = parse(&[
            "--queue=spice",
            "--workers=8",
            "--cores=2",
            "--memory=1.5GiB",
            "--walltime=1-12:00:00",
            "--scheduler=here",
            "--extra-directive",
            "--constraint=a",
            "--extra-directive",
            "[odd]",
            "--set",
            "slots=8",
            "--set",
            "task.kill_grace=30s",
            "--set",
            "extra_directives+=--exclusive",
        ])
        .unwrap();
        let config =
            load(&Sources { environment: vec![("HOME".into(), "/h".into())], ..Sources::default() }).unwrap();
        let (settings, note) = flags.resolve(&config).unwrap();
        assert_eq!(note, "");
        assert_eq!((settings.profile.system.as_str(), settings.profile.queue.as_str()), ("slurm", "spice"));
        assert_eq!((settings.profile.cores, settings.profile.memory), (2, 3 << 29));
        assert_eq!(settings.profile.walltime, Duration::from_secs(129_600));
        assert_eq!(settings.profile.extra_directives, ["--constraint=a", "[odd]", "--exclusive"]);
        assert_eq!((settings.profile.slots, settings.task.kill_grace.as_secs()), (8, 30));
        assert_eq!(settings.origin("profile.walltime").unwrap().to_string(), "flag --walltime");
        assert_eq!(settings.origin("profile.slots").unwrap().to_string(), "flag --set");
    }

    #[test]
    fn nothing_given_is_nothing_set() {
        assert_eq!(parse(&[]).unwrap().settings(), []);
    }

    #[test]
    fn bad_flags_are_usage_errors() {
        for words in [
            ["--walltime", "soon"],
            ["--walltime", "30"],
            ["--memory", "lots"],
            ["--cores", "0"],
            ["--set", "slots"],
            ["--workers", "2..5"],
            ["--scheduler", "there"],
            ["--queue", ""],
            ["--set", "=3"],
        ] {
            assert!(parse(&words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn more_workers_than_the_limit_names_both_places() {
        let environment =
            vec![("HOME".into(), "/h".into()), ("JOBQ_CFG_LIMITS__MAX_WORKERS".into(), "10".into())];
        let config = load(&Sources { environment, ..Sources::default() }).unwrap();
        let error = parse(&["--queue=local", "--workers=11"]).unwrap().resolve(&config).unwrap_err();
        assert!(error.message.contains("flag --workers"), "{error}");
        assert!(error.message.contains("environment JOBQ_CFG_LIMITS__MAX_WORKERS"), "{error}");
        assert!(parse(&["--queue=local", "--workers=10"]).unwrap().resolve(&config).is_ok());
    }
}
