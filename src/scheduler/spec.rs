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

/// Where the scheduler runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a batch job of its own.
    Job,
    /// On the host that brings the cluster up.
    Here,
}

impl ClusterSpec {
    /// Where the scheduler is to run. Left to us, that is in a job on a batch system; but here on a queue of our own,
    /// whose jobs run on this very host, and for a cluster that ends with the command that it is for.
    pub fn place(&self) -> Place {
        let own_queue = crate::batch::system(&self.settings.profile.system)
            .is_none_or(|system| system.programs().is_empty());
        match self.settings.scheduler.place.as_str() {
            "job" => Place::Job,
            "auto" if !own_queue && !self.owned => Place::Job,
            _ => Place::Here,
        }
    }

    /// The same, but for the settings of these keys (`section.name`), which are as `asked`.
    ///
    /// # Errors
    /// Settings that can't be told in TOML: a defect.
    pub fn with_settings_of(self, asked: &Settings, keys: &[String]) -> Result<ClusterSpec, String> {
        let table = |settings: &Settings| toml::Table::try_from(settings).map_err(|error| error.to_string());
        let (mut settings, asked) = (table(&self.settings)?, table(asked)?);
        for (section, name) in keys.iter().filter_map(|key| key.split_once('.')) {
            let asked = asked.get(section).and_then(|section| section.get(name));
            let section = settings.get_mut(section).and_then(toml::Value::as_table_mut);
            if let (Some(section), Some(asked)) = (section, asked) {
                section.insert(name.to_owned(), asked.clone());
            }
        }
        let settings = settings.try_into().map_err(|error: toml::de::Error| error.to_string())?;
        Ok(ClusterSpec { settings, ..self })
    }

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
        // While one scheduler relieves another, both are there.
        let schedulers = if self.place() == Place::Job { self.settings.scheduler.cores * 2 } else { 0 };
        // Room to scale up to four times what was first asked for without another `up`.
        host.max(self.workers.saturating_mul(profile.cores).saturating_mul(4)).saturating_add(schedulers)
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

    /// The scheduler's own job. `name` is its unique job name.
    pub fn scheduler_job(&self, state: &StateDir, name: &str) -> AllocationSpec {
        let (own, profile) = (&self.settings.scheduler, &self.settings.profile);
        let or = |own: &String, profiles: &String| if own.is_empty() { profiles } else { own }.clone();
        AllocationSpec {
            comment: format!("jobq cluster {}, its scheduler", state.name()),
            queue: or(&own.queue, &profile.queue),
            account: or(&own.account, &profile.account),
            workers: 1,
            cores: own.cores,
            memory: own.memory,
            walltime: self.scheduler_walltime(),
            command: self.role_command(state, "scheduler", name),
            extra_directives: own.extra_directives.clone(),
            ..self.allocation(state, name, AllocationId(0))
        }
    }

    /// What the scheduler's job asks for; zero: the queue's default.
    pub fn scheduler_walltime(&self) -> std::time::Duration {
        let (own, profiles) = (self.settings.scheduler.walltime, self.settings.profile.walltime);
        if own.is_zero() { profiles } else { own }
    }

    /// The command of a role that a job is for.
    fn role_command(&self, state: &StateDir, role: &str, job_name: &str) -> Vec<String> {
        vec![
            self.exe.display().to_string(),
            role.to_owned(),
            "--state-root".into(),
            state.root().display().to_string(),
            "--name".into(),
            state.name().to_owned(),
            "--job-name".into(),
            job_name.to_owned(),
        ]
    }

    fn worker_command(&self, state: &StateDir, name: &str, id: AllocationId) -> Vec<String> {
        let mut command = self.role_command(state, "supervisor", name);
        command.extend(["--allocation".into(), id.0.to_string()]);
        command
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
