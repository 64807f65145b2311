//! The resolved configuration: plain values, none of them missing. Fields are named as their keys in
//! `configs/default.toml`, which says what each means.

use super::error::{BeyondLimit, ConfigError};
use super::origin::Origin;
use super::units::{PortRange, duration, ports, size};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub cluster: ClusterSettings,
    pub scheduler: SchedulerSettings,
    pub worker: WorkerSettings,
    pub task: TaskSettings,
    pub limits: Limits,
    pub profile: Profile,
    /// How the profile was chosen.
    #[serde(skip)]
    pub choice: Choice,
    /// Every key with its value and where it came from, in the reference's order.
    #[serde(skip)]
    pub entries: Vec<Entry>,
}

/// How `settings.profile` came about.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Choice {
    /// Neither a flag nor the configuration names a queue. `profiles` are those that could be.
    #[default]
    Nothing,
    /// A profile of that name.
    Profile(String),
    /// No profile has that name: it is taken as a queue of the site's default batch system.
    Literal { queue: String, system: String },
}

/// One key with its value as it would be written in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub key: &'static str,
    pub value: String,
    pub origin: Origin,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// Absolute.
    pub state_dir: PathBuf,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerSettings {
    /// One of [`super::PLACES`].
    pub place: String,
    /// Of its job; empty: the profile's.
    pub queue: String,
    /// Of its job; zero: the profile's.
    #[serde(with = "duration")]
    pub walltime: Duration,
    pub cores: u32,
    #[serde(with = "size")]
    pub memory: u64,
    /// Of its job; empty: the profile's.
    pub account: String,
    pub extra_directives: Vec<String>,
    pub nice: u32,
    /// Zero: all.
    pub max_cores: u32,
    pub interface: String,
    #[serde(with = "ports")]
    pub port_range: PortRange,
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    #[serde(with = "duration")]
    pub poll_interval: Duration,
    #[serde(with = "duration")]
    pub command_timeout: Duration,
    pub submits_per_minute: u32,
    pub max_pending: u32,
    /// Settled tasks that stay known.
    pub history: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSettings {
    #[serde(with = "duration")]
    pub death_timeout: Duration,
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// Not expanded: its variables are the worker's. Empty: the worker finds one.
    pub local_directory: String,
    /// From 0 to 1.
    pub memory_target: f64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSettings {
    #[serde(with = "size")]
    pub inline_output: u64,
    /// Zero: no limit.
    #[serde(with = "size")]
    pub max_output: u64,
    #[serde(with = "duration")]
    pub kill_grace: Duration,
    pub allowed_failures: u32,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub max_workers: u32,
    pub max_pending: u32,
    pub max_submits_per_minute: u32,
    #[serde(with = "duration")]
    pub min_poll_interval: Duration,
    #[serde(with = "ports")]
    pub port_range: PortRange,
    pub scheduler_cores: u32,
    #[serde(with = "size")]
    pub scheduler_memory: u64,
    /// Of a cluster's folder, its datasets not counted.
    #[serde(with = "size", default = "state_bytes")]
    pub state_bytes: u64,
    #[serde(default = "state_inodes")]
    pub state_inodes: u64,
}

/// For clusters that an older program has brought up.
fn state_bytes() -> u64 {
    10 << 30
}

fn state_inodes() -> u64 {
    100_000
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// One of [`super::SYSTEMS`]; empty only where nothing was chosen.
    pub system: String,
    pub queue: String,
    pub account: String,
    pub qos: String,
    /// Of one worker.
    pub cores: u32,
    /// Bytes of one worker; zero: the queue's default.
    #[serde(with = "size")]
    pub memory: u64,
    /// What one worker has of named resources.
    pub resources: BTreeMap<String, u32>,
    #[serde(with = "duration")]
    pub walltime: Duration,
    pub workers_per_job: u32,
    pub extra_directives: Vec<String>,
    pub skip_directives: Vec<String>,
    pub shebang: String,
    pub prologue: Vec<String>,
    pub epilogue: Vec<String>,
    /// Absolute; empty: the cluster's folder.
    pub log_directory: PathBuf,
    /// Not expanded: its variables are the worker's.
    pub local_directory: String,
    pub interface: String,
    pub environment: BTreeMap<String, String>,
    /// Zero: as many as fit.
    pub slots: u32,
    #[serde(with = "duration")]
    pub queue_wait: Duration,
}

impl Settings {
    /// Where the key's value came from.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.entries.iter().find(|e| e.key == key).map(|e| &e.origin)
    }

    /// Refuses a number of workers beyond the limit, naming both places; `asked_by` is such as `--workers`.
    pub fn check_workers(&self, workers: u32, asked_by: &str) -> Result<(), ConfigError> {
        let max = self.limits.max_workers;
        match self.origin("limits.max_workers") {
            Some(bound_place) if workers > max => Err(ConfigError::Limit(Box::new(BeyondLimit {
                place: Origin::flag(asked_by),
                key: "workers".to_owned(),
                value: workers.to_string(),
                limit: "limits.max_workers".to_owned(),
                bound: max.to_string(),
                bound_place: bound_place.clone(),
            }))),
            _ => Ok(()),
        }
    }

    /// The directory that workers spill to, unexpanded: `worker.local_directory`, else the profile's.
    pub fn local_directory(&self) -> &str {
        let own = self.worker.local_directory.as_str();
        if own.is_empty() { &self.profile.local_directory } else { own }
    }
}
