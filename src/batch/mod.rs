//! Batch systems: each is one pure file that renders a script, says which command to run, and reads its answer.
//! `exec` alone runs the commands; `localq` is a batch system of our own, run by commands like any other.
//!
//! A new system is one file with a [`BatchSystem`] in it, one template, and one line in [`SYSTEMS`].

mod error;
pub mod exec;
mod local;
pub mod localq;
pub mod script;
mod slurm;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::{BatchError, ErrorKind};
pub use exec::Batch;
pub use script::Templates;

/// Every batch system that we speak, in the order in which `queues` and `doctor` list them.
pub const SYSTEMS: &[&dyn BatchSystem] = &[&local::Local, &slurm::Slurm];

/// The batch system called `name` in profiles, if we speak it.
#[must_use]
pub fn system(name: &str) -> Option<&'static dyn BatchSystem> {
    SYSTEMS.iter().copied().find(|system| system.name() == name)
}

/// One batch job as it is asked for. The cluster's and scheduler's shells build it; nothing here knows of
/// profiles, graphs or workers beyond the command line to start.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct AllocationSpec {
    /// Unique job name: 1 to 15 ASCII letters and digits (what every batch system takes).
    pub name: String,
    /// The human name of the cluster, for the comment. Empty: none.
    pub comment: String,
    /// Empty: the site's default.
    pub queue: String,
    /// Empty: the user's default.
    pub account: String,
    /// Empty: the user's default.
    pub qos: String,
    /// Worker processes in the job, at least 1. The command is started once and told the number by its caller.
    pub workers: u32,
    /// Cores of one worker, at least 1.
    pub cores: u32,
    /// Bytes of one worker; 0: the site's default.
    pub memory: u64,
    /// Rounded up to whole minutes where the batch system counts in minutes; zero: the queue's default.
    pub walltime: Duration,
    /// It must not start before this job has: one that was cancelled or has ended counts as started.
    pub after: Option<JobId>,
    /// The program (an absolute path) and arguments that the script `exec`s.
    pub command: Vec<String>,
    /// Absolute path of an existing directory in which the command runs.
    pub work_dir: PathBuf,
    /// Absolute path of the job's log, opened in append mode. Its directory must exist.
    pub log: PathBuf,
    /// Variables that the script exports before the prologue, in this order.
    pub environment: Vec<(String, String)>,
    /// Directives added to ours as they are, with or without the system's `#SBATCH` in front.
    pub extra_directives: Vec<String>,
    /// Directives of ours to leave out: a bare flag (`--mem`) names exactly that flag, anything else is looked
    /// for as a part of the directive.
    pub skip_directives: Vec<String>,
    /// First line, with or without `#!`. Empty: `/bin/bash`.
    pub shebang: String,
    /// Shell lines before the command, as they are.
    pub prologue: Vec<String>,
    /// Shell lines after the command, as they are. With any, the shell stays and hands signals on.
    pub epilogue: Vec<String>,
}

impl AllocationSpec {
    /// Cores of the whole job.
    #[must_use]
    pub fn total_cores(&self) -> u64 {
        u64::from(self.workers.max(1)) * u64::from(self.cores.max(1))
    }

    /// Bytes of the whole job; 0: the site's default.
    #[must_use]
    pub fn total_memory(&self) -> u64 {
        u64::from(self.workers.max(1)).saturating_mul(self.memory)
    }
}

/// A job's id in the batch system's own spelling (`17`, `17_3`, `5[3].pbs-server`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a job is in its life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JobState {
    /// Queued, held, or about to be started again.
    Pending {
        /// Why it waits, in the batch system's own word. Empty if it gives none.
        reason: String,
        /// The same in plain English.
        words: String,
        /// The batch system's guess of its start, seconds since 1970.
        start_estimate: Option<u64>,
        /// It will not start unless somebody changes it, the queue, or the site.
        never: bool,
    },
    /// Its processes may be running (also while it is being suspended, staged or cleaned up).
    Running {
        /// The nodes in the batch system's own notation; may be empty.
        nodes: String,
        /// Seconds since 1970; 0 if the batch system doesn't say.
        started: u64,
        /// When its walltime ends, seconds since 1970.
        ends: Option<u64>,
    },
    /// Over, as far as the batch system knows.
    Ended(Outcome),
}

impl JobState {
    /// Over, and its processes with it: what a lost node ran may run on.
    #[must_use]
    pub fn is_surely_over(&self) -> bool {
        matches!(self, Self::Ended(outcome) if !matches!(outcome, Outcome::NodeFailed | Outcome::Unknown(_)))
    }

    /// Queued or running: something that a sweep would have to cancel.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !matches!(self, Self::Ended(_))
    }
}

/// How a job ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Completed,
    /// The script failed; either number may be unknown to the batch system (or to the query that was used).
    Failed {
        exit_code: Option<i32>,
        signal: Option<i32>,
    },
    Cancelled,
    TimedOut,
    /// Proves nothing about its processes: they may still run on a node that lost its network.
    NodeFailed,
    OutOfMemory,
    Preempted,
    /// The batch system's own word, which we don't know.
    Unknown(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Failed { signal: Some(signal), .. } => write!(f, "killed by signal {signal}"),
            Self::Failed { exit_code: Some(code), .. } => write!(f, "failed with exit code {code}"),
            Self::Failed { .. } => f.write_str("failed"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::TimedOut => f.write_str("ran into its walltime"),
            Self::NodeFailed => f.write_str("lost its node"),
            Self::OutOfMemory => f.write_str("killed for using too much memory"),
            Self::Preempted => f.write_str("preempted by another job"),
            Self::Unknown(word) => write!(f, "ended as {word}"),
        }
    }
}

/// One job as the batch system sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobStatus {
    pub id: JobId,
    pub name: String,
    pub state: JobState,
}

/// One queue of the site.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QueueInfo {
    pub name: String,
    /// Jobs that name no queue go here.
    pub default: bool,
    /// It starts jobs now.
    pub open: bool,
    /// Longest walltime; `None`: no limit, or unknown.
    pub walltime: Option<Duration>,
    pub nodes: u64,
    /// Of its smallest node; 0 if unknown.
    pub cores_per_node: u64,
    /// Bytes of its smallest node; 0 if unknown.
    pub memory_per_node: u64,
    /// Its nodes are not alike: what the smallest can't hold may fit on another.
    pub nodes_differ: bool,
}

/// What to ask about: the jobs `ids` of `user`. Systems that answer a query by user are filtered by the parser.
#[derive(Clone, Copy, Debug)]
pub struct StatusQuery<'a> {
    pub ids: &'a [JobId],
    pub user: &'a str,
}

/// The variables that a batch system sets inside its jobs, for the worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JobVariables {
    /// Holds the job's id, as `submit` returned it.
    pub job_id: &'static str,
    /// Holds the node's name; `None`: ask the host.
    pub node: Option<&'static str>,
    /// Holds the end of the walltime, seconds since 1970, where the system or its version sets it.
    pub end: Option<&'static str>,
    /// Counts how often the job was started again under the same id.
    pub restarts: Option<&'static str>,
}

/// What a batch system needs to know of the place where its commands run.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Site {
    /// Our own program, an absolute path.
    pub exe: PathBuf,
    /// A directory of ours (0700) where a system may keep what it needs; created when missing.
    pub dir: PathBuf,
    /// Job slots of a queue that we run ourselves; 0: as many as this host has cores. The last submit decides.
    pub slots: u32,
    /// Artificial wait in a queue that we run ourselves.
    pub queue_wait: Duration,
    /// Ceiling of every command's own limit; zero: none.
    pub command_timeout: Duration,
    /// Set for every command, after the system's own (for instance a test's `SLURM_CONF`).
    pub environment: Vec<(String, String)>,
}

/// Which program an [`Invocation`] starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Program {
    /// Looked up on PATH.
    Named(&'static str),
    /// This very executable ([`Site::exe`]).
    Ourselves,
}

/// A command to run, as data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invocation {
    pub program: Program,
    pub args: Vec<String>,
    pub env_set: Vec<(String, String)>,
    /// Variables not to inherit; a trailing `*` stands for any ending.
    pub env_remove: &'static [&'static str],
    /// Exceptions from `env_remove`.
    pub env_keep: &'static [&'static str],
    pub stdin: Vec<u8>,
    /// After which it is killed with its process group.
    pub timeout: Duration,
}

impl fmt::Display for Invocation {
    /// The command line as a person would type it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.program {
            Program::Named(name) => name,
            Program::Ourselves => "jobq",
        })?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", script::quote_if_needed(arg)))
    }
}

/// What a command gave back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Output {
    /// `None`: killed by a signal, or by us after its timeout.
    pub code: Option<i32>,
    /// Lossy UTF-8, bounded (see [`exec::OUTPUT_LIMIT`]).
    pub stdout: String,
    pub stderr: String,
    pub timed_out: bool,
}

/// One batch system. Pure: it renders, names commands, and reads answers.
///
/// The parsers return errors with the batch system's own words; `exec` adds the command to them. None panics on
/// any output. An answer that lacks an id that was asked for says only that: absence is not an end.
pub trait BatchSystem: Send + Sync {
    /// As profiles call it.
    fn name(&self) -> &'static str;

    /// What it calls a queue.
    fn queue_word(&self) -> &'static str {
        "queue"
    }

    /// The programs that must be on PATH (none for a system of our own).
    fn programs(&self) -> &'static [&'static str];

    /// The embedded script template.
    fn template(&self) -> &'static str;

    /// Variables for every command of this system, from the site's settings.
    fn environment(&self, _site: &Site) -> Vec<(String, String)> {
        Vec::new()
    }

    /// The exact script that would be submitted.
    ///
    /// # Errors
    /// `Refused`, naming the field, if a value could break out of its directive or can't be expressed, or the
    /// template is broken.
    fn render(&self, spec: &AllocationSpec, templates: &Templates) -> Result<String, BatchError>;

    /// Submit the rendered `script`.
    fn submit(&self, script: &Path, spec: &AllocationSpec) -> Invocation;

    /// # Errors
    /// `Ambiguous` if the job may have been submitted all the same.
    fn parse_submit(&self, output: &Output) -> Result<JobId, BatchError>;

    /// Have a script checked as if it were submitted from here, where the system can do that.
    fn trial(&self, _script: &Path) -> Option<Invocation> {
        None
    }

    /// # Errors
    /// As [`BatchSystem::parse_submit`], but nothing was submitted.
    fn parse_trial(&self, _output: &Output) -> Result<(), BatchError> {
        Ok(())
    }

    /// One query for any number of jobs.
    fn status(&self, query: &StatusQuery<'_>) -> Invocation;

    /// The jobs of `ids` that the answer mentions.
    ///
    /// # Errors
    /// When the answer is not a list of jobs.
    fn parse_status(&self, output: &Output, ids: &[JobId]) -> Result<Vec<JobStatus>, BatchError>;

    /// Ask for all jobs of `user`: for sweeps, and to settle an ambiguous submit.
    fn find(&self, user: &str) -> Invocation;

    /// The jobs of a `find` whose names begin with `prefix`, ended ones included.
    ///
    /// # Errors
    /// When the answer is not a list of jobs.
    fn parse_find(&self, output: &Output, prefix: &str) -> Result<Vec<JobStatus>, BatchError>;

    /// Ask how one ended job ended, where `status` alone doesn't tell the exit code.
    fn detail(&self, _id: &JobId) -> Option<Invocation> {
        None
    }

    /// `None`: it doesn't know either.
    ///
    /// # Errors
    /// When the batch system can't be asked.
    fn parse_detail(&self, _output: &Output) -> Result<Option<Outcome>, BatchError> {
        Ok(None)
    }

    /// Commands that together cancel `ids`; repeats and unknown or finished ids do no harm.
    fn cancel(&self, ids: &[JobId]) -> Vec<Invocation>;

    /// # Errors
    /// When the batch system did not take the wish.
    fn parse_cancel(&self, output: &Output) -> Result<(), BatchError>;

    /// A cheap question that only a living controller answers.
    fn health(&self) -> Invocation;

    /// # Errors
    /// `TryAgain` if the controller is dead or hung.
    fn parse_health(&self, output: &Output) -> Result<(), BatchError>;

    /// Ask for the queues and their limits.
    fn queues(&self) -> Invocation;

    /// # Errors
    /// When the answer is not a list of queues.
    fn parse_queues(&self, output: &Output) -> Result<Vec<QueueInfo>, BatchError>;

    /// What its jobs find in their environment.
    fn variables(&self) -> JobVariables;

    /// From inside a job: ask when its walltime ends. `None`: [`JobVariables::end`] tells.
    fn deadline(&self, _id: &JobId) -> Option<Invocation> {
        None
    }

    /// Seconds since 1970; `None`: no limit, or it doesn't say.
    ///
    /// # Errors
    /// When the batch system can't be asked: use the start and the requested walltime.
    fn parse_deadline(&self, _output: &Output) -> Result<Option<u64>, BatchError> {
        Ok(None)
    }
}
