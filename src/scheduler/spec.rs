//! What a cluster was asked to be, as `cluster.toml` keeps it, and the batch jobs that follow from it.

use crate::batch::{AllocationSpec, Batch, BatchError, Site, Templates};
use crate::config::Settings;
use crate::protocol::AllocationId;
use crate::state::StateDir;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What `jq up` was asked for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Worker processes wanted.
    pub workers: u32,
    /// Our program, an absolute path that jobs can reach.
    pub exe: PathBuf,
    /// Where the shell was that brought the cluster up: the jobs' directory.
    pub work_dir: PathBuf,
    /// Where the user's own script templates are; empty: nowhere.
    pub template_dir: PathBuf,
    /// No TLS.
    pub insecure: bool,
    /// It was brought up for one command (`up -- CMD`): a scheduler that is asked to end takes it down.
    #[serde(default)]
    pub owned: bool,
    pub settings: Settings,
}

impl ClusterSpec {
    /// The batch system of the profile at work on this host; `None` if we don't speak it.
    pub fn batch(&self, state: &StateDir) -> Option<Batch> {
        let profile = &self.settings.profile;
        let system = crate::batch::system(&profile.system)?;
        let site = Site {
            exe: self.exe.clone(),
            dir: state.path().join("queue"),
            slots: self.slots(),
            queue_wait: profile.queue_wait,
            command_timeout: self.settings.scheduler.command_timeout,
            environment: Vec::new(),
        };
        Some(Batch::new(system, site))
    }

    /// The script templates: the embedded ones, and the user's own in their place.
    ///
    /// # Errors
    /// A file that can't be read.
    pub fn templates(&self) -> Result<Templates, BatchError> {
        let own = (!self.template_dir.as_os_str().is_empty()).then_some(self.template_dir.as_path());
        Templates::load(own)
    }

    /// Slots of a queue of our own: as asked for, else enough for this host and for what the cluster asks.
    fn slots(&self) -> u32 {
        let profile = &self.settings.profile;
        if profile.slots > 0 {
            return profile.slots;
        }
        let host =
            std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        // Room to scale up to four times what was first asked for without another `up`.
        host.max(self.workers.saturating_mul(profile.cores).saturating_mul(4))
    }

    /// One job of this cluster. `name` is its unique job name.
    pub fn allocation(&self, state: &StateDir, name: &str, id: AllocationId) -> AllocationSpec {
        let profile = &self.settings.profile;
        AllocationSpec {
            name: name.to_owned(),
            comment: format!("jobq cluster {}", state.name()),
            queue: profile.queue.clone(),
            account: profile.account.clone(),
            qos: profile.qos.clone(),
            workers: profile.workers_per_job,
            cores: profile.cores,
            memory: profile.memory,
            walltime: profile.walltime,
            after: None,
            command: self.worker_command(state, name, id),
            work_dir: self.work_dir.clone(),
            log: self.job_log(state, name),
            environment: profile.environment.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            extra_directives: profile.extra_directives.clone(),
            skip_directives: profile.skip_directives.clone(),
            shebang: profile.shebang.clone(),
            prologue: profile.prologue.clone(),
            epilogue: profile.epilogue.clone(),
        }
    }

    fn worker_command(&self, state: &StateDir, name: &str, id: AllocationId) -> Vec<String> {
        vec![
            self.exe.display().to_string(),
            "supervisor".into(),
            "--state-root".into(),
            state.root().display().to_string(),
            "--name".into(),
            state.name().to_owned(),
            "--allocation".into(),
            id.0.to_string(),
            "--job-name".into(),
            name.to_owned(),
        ]
    }

    /// Where the job's output goes.
    pub fn job_log(&self, state: &StateDir, name: &str) -> PathBuf {
        let directory = &self.settings.profile.log_directory;
        let directory =
            if directory.as_os_str().is_empty() { state.allocations_dir() } else { directory.clone() };
        directory.join(format!("{name}.log"))
    }

    /// Where the job's script is kept.
    pub fn job_script(state: &StateDir, name: &str) -> PathBuf {
        state.allocations_dir().join(format!("{name}.sh"))
    }
}

/// This very program by an absolute path; `jobq` beside `jq`, so that scripts don't name a JSON processor.
///
/// # Errors
/// The kernel doesn't tell where it is.
pub fn own_program() -> std::io::Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let sibling = exe.with_file_name("jobq");
    Ok(if is_program(&sibling) { sibling } else { exe })
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
