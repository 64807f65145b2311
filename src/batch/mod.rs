//! Batch systems: each is one pure file that renders a script, says which command to run, and reads its answer.
//! `exec` alone runs the commands.

use std::path::PathBuf;
use std::time::Duration;

/// One batch job as it is asked for. The cluster's and scheduler's shells build it; nothing here knows of
/// profiles, graphs or workers beyond the command line to start.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct AllocationSpec {
    /// Unique job name (at most 15 characters).
    pub name: String,
    /// The human name of the cluster, for the comment.
    pub comment: String,
    /// Empty: the site's default.
    pub queue: String,
    pub account: String,
    pub qos: String,
    /// Worker processes in the job.
    pub workers: u32,
    /// Cores of one worker.
    pub cores: u32,
    /// Bytes of one worker; 0: the site's default.
    pub memory: u64,
    pub walltime: Duration,
    /// The program and arguments that the script `exec`s.
    pub command: Vec<String>,
    pub work_dir: PathBuf,
    /// Absolute path of the job's log, opened in append mode.
    pub log: PathBuf,
    pub environment: Vec<(String, String)>,
    pub extra_directives: Vec<String>,
    pub skip_directives: Vec<String>,
    pub shebang: String,
    pub prologue: Vec<String>,
    pub epilogue: Vec<String>,
}
