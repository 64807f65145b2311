//! The only place that runs batch commands: own timeout on each, a clean environment, bounded output.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User, getuid};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::{
    AllocationSpec, BatchError, BatchSystem, ErrorKind, Invocation, JobId, JobState, JobStatus, Outcome,
    Output, Program, QueueInfo, Site, StatusQuery, Templates,
};

/// Longest answer that we read: 100 thousand jobs of one user.
pub const OUTPUT_LIMIT: usize = 16 << 20;

/// Longest complaint that we keep.
const STDERR_LIMIT: usize = 64 << 10;

/// Longest template that we read.
const TEMPLATE_LIMIT: u64 = 1 << 20;

/// How long a finished command's output may still come: something it left behind can hold the pipe open for ever.
const PIPE_GRACE: Duration = Duration::from_millis(500);

/// How many failed jobs of one poll are asked for their exit code.
const DETAILS_PER_POLL: usize = 16;

/// A batch system at work on this machine.
pub struct Batch {
    system: &'static dyn BatchSystem,
    site: Site,
    user: String,
}

impl Batch {
    /// `system` with the site's settings, as the user who runs us.
    #[must_use]
    pub fn new(system: &'static dyn BatchSystem, site: Site) -> Self {
        let uid = getuid();
        let user = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        Self { system, site, user }
    }

    /// The pure half.
    #[must_use]
    pub fn system(&self) -> &'static dyn BatchSystem {
        self.system
    }

    /// The batch system's programs that are not on PATH.
    #[must_use]
    pub fn missing_programs(&self) -> Vec<&'static str> {
        let path = self
            .site
            .environment
            .iter()
            .rev()
            .find(|(name, _)| name == "PATH")
            .map(|(_, value)| OsString::from(value));
        let path = path.or_else(|| std::env::var_os("PATH")).unwrap_or_default();
        self.system.programs().iter().copied().filter(|name| find_on_path(name, &path).is_none()).collect()
    }

    /// Run one command to its end or its timeout; any exit code is an answer.
    ///
    /// # Errors
    /// `NotInstalled` if the program isn't there, `Unexpected` if it can't be run or floods us.
    pub async fn run(&self, invocation: &Invocation) -> Result<Output, BatchError> {
        let environment = self.environment(invocation);
        let program = self.program(&invocation.program, &environment)?;
        let mut command = Command::new(&program);
        command.args(&invocation.args).env_clear().envs(environment).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| {
            let summary = format!("{} can't be started: {error}", program.display());
            BatchError::new(ErrorKind::NotInstalled, summary).with_command(invocation)
        })?;
        attend(child, invocation, self.timeout(invocation)).await.map_err(|error| {
            let summary = format!("{} could not be attended: {error}", program.display());
            BatchError::new(ErrorKind::Unexpected, summary).with_command(invocation)
        })
    }

    fn timeout(&self, invocation: &Invocation) -> Duration {
        let ceiling = self.site.command_timeout;
        if ceiling.is_zero() { invocation.timeout } else { invocation.timeout.min(ceiling) }
    }

    /// Submit `script`, which [`BatchSystem::render`] made from `spec`.
    ///
    /// # Errors
    /// As the batch system says; `Refused` if a directory that the job needs is missing, because batch systems
    /// take such jobs and lose their output; `Ambiguous` if there was no answer.
    pub async fn submit(&self, spec: &AllocationSpec, script: &Path) -> Result<JobId, BatchError> {
        must_be_directory("the job's directory", &spec.work_dir)?;
        must_be_directory("the directory of the job's log", spec.log.parent().unwrap_or(Path::new("/")))?;
        let invocation = self.system.submit(script, spec);
        let output = self.run(&invocation).await?;
        self.system.parse_submit(&output).map_err(|error| error.with_command(&invocation))
    }

    /// Whether jobs can be submitted from this host, as far as that can be known without doing it.
    ///
    /// # Errors
    /// `NotInstalled` without the batch system's commands; else as it says of `script`.
    pub async fn may_submit(&self, script: &Path) -> Result<(), BatchError> {
        if let [first, ..] = self.missing_programs().as_slice() {
            return Err(self.not_installed(first));
        }
        let Some(invocation) = self.system.trial(script) else { return Ok(()) };
        let output = self.run(&invocation).await?;
        self.system.parse_trial(&output).map_err(|error| error.with_command(&invocation))
    }

    /// The state of `ids`; one that the batch system doesn't mention is missing from the answer, which does not
    /// mean that it is over.
    ///
    /// # Errors
    /// As the batch system says.
    pub async fn status(&self, ids: &[JobId]) -> Result<Vec<JobStatus>, BatchError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let invocation = self.system.status(&StatusQuery { ids, user: &self.user });
        let output = self.run(&invocation).await?;
        let mut jobs =
            self.system.parse_status(&output, ids).map_err(|error| error.with_command(&invocation))?;
        self.explain(&mut jobs).await;
        Ok(jobs)
    }

    /// All jobs of this user whose names begin with `prefix`, ended ones that are still remembered included.
    ///
    /// # Errors
    /// As the batch system says.
    pub async fn find(&self, prefix: &str) -> Result<Vec<JobStatus>, BatchError> {
        let invocation = self.system.find(&self.user);
        let output = self.run(&invocation).await?;
        self.system.parse_find(&output, prefix).map_err(|error| error.with_command(&invocation))
    }

    /// Cancel `ids`, all of them even if one fails.
    ///
    /// # Errors
    /// The first error.
    pub async fn cancel(&self, ids: &[JobId]) -> Result<(), BatchError> {
        let mut result = Ok(());
        for invocation in self.system.cancel(ids) {
            let answer = match self.run(&invocation).await {
                Ok(output) => {
                    self.system.parse_cancel(&output).map_err(|error| error.with_command(&invocation))
                }
                Err(error) => Err(error),
            };
            result = result.and(answer);
        }
        result
    }

    /// Cancel every live job of this user whose name begins with `prefix`; the ids that were cancelled.
    /// To be sure that nothing is left, sweep until the answer is empty.
    ///
    /// # Errors
    /// As the batch system says; `Refused` for an empty prefix, which would be everything.
    pub async fn sweep(&self, prefix: &str) -> Result<Vec<JobId>, BatchError> {
        if prefix.is_empty() {
            return Err(BatchError::new(ErrorKind::Refused, "a sweep needs a prefix of job names"));
        }
        let live = self.find(prefix).await?.into_iter().filter(|job| job.state.is_live());
        let ids: Vec<JobId> = live.map(|job| job.id).collect();
        self.cancel(&ids).await?;
        Ok(ids)
    }

    /// Whether the controller answers.
    ///
    /// # Errors
    /// `TryAgain` if it doesn't, `NotInstalled` without the batch system's commands.
    pub async fn health(&self) -> Result<(), BatchError> {
        let invocation = self.system.health();
        let output = self.run(&invocation).await?;
        self.system.parse_health(&output).map_err(|error| error.with_command(&invocation))
    }

    /// The site's queues.
    ///
    /// # Errors
    /// As the batch system says.
    pub async fn queues(&self) -> Result<Vec<QueueInfo>, BatchError> {
        let invocation = self.system.queues();
        let output = self.run(&invocation).await?;
        self.system.parse_queues(&output).map_err(|error| error.with_command(&invocation))
    }

    /// From inside job `id`: when its walltime ends, seconds since 1970, as the batch system now has it.
    ///
    /// # Errors
    /// As the batch system says: use the start and the requested walltime.
    pub async fn deadline(&self, id: &JobId) -> Result<Option<u64>, BatchError> {
        let Some(invocation) = self.system.deadline(id) else {
            let variable = self.system.variables().end.and_then(|name| std::env::var(name).ok());
            return Ok(variable.and_then(|text| text.parse().ok()));
        };
        let output = self.run(&invocation).await?;
        self.system.parse_deadline(&output).map_err(|error| error.with_command(&invocation))
    }

    /// Exit codes for the failed jobs whose status didn't have them. They explain, and decide nothing, so an error
    /// leaves the job as it was.
    pub async fn explain(&self, jobs: &mut [JobStatus]) {
        let unexplained = |job: &&mut JobStatus| {
            job.state == JobState::Ended(Outcome::Failed { exit_code: None, signal: None })
        };
        for job in jobs.iter_mut().filter(unexplained).take(DETAILS_PER_POLL) {
            let Some(invocation) = self.system.detail(&job.id) else { return };
            let Ok(output) = self.run(&invocation).await else { return };
            if let Ok(Some(outcome)) = self.system.parse_detail(&output) {
                job.state = JobState::Ended(outcome);
            }
        }
    }

    /// Ours without what the invocation removes, then the system's, the site's and the invocation's own.
    fn environment(&self, invocation: &Invocation) -> Vec<(OsString, OsString)> {
        let matches = |name: &str, pattern: &&str| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == *pattern,
        };
        let removed = |name: &str| {
            invocation.env_remove.iter().any(|pattern| matches(name, pattern))
                && !invocation.env_keep.contains(&name)
        };
        let inherited = std::env::vars_os().filter(|(name, _)| !name.to_str().is_some_and(removed));
        let mut environment: Vec<(OsString, OsString)> = inherited.collect();
        let system = self.system.environment(&self.site);
        for (name, value) in system.iter().chain(&self.site.environment).chain(&invocation.env_set) {
            environment.retain(|(known, _)| known.to_str() != Some(name));
            environment.push((name.into(), value.into()));
        }
        environment
    }

    fn program(
        &self,
        program: &Program,
        environment: &[(OsString, OsString)],
    ) -> Result<PathBuf, BatchError> {
        let Program::Named(name) = program else { return Ok(self.site.exe.clone()) };
        let path =
            environment.iter().find(|(variable, _)| variable == "PATH").map(|(_, value)| value.clone());
        find_on_path(name, &path.unwrap_or_default()).ok_or_else(|| self.not_installed(name))
    }

    fn not_installed(&self, program: &str) -> BatchError {
        let summary = format!(
            "{program} is not on PATH: the batch system `{}` is not installed here, or needs a `module load`",
            self.system.name()
        );
        BatchError::new(ErrorKind::NotInstalled, summary)
    }
}

impl Templates {
    /// The embedded templates, and in their place those that `directory` holds as `<name>.sh.tera`.
    ///
    /// # Errors
    /// `Refused`, naming the file, if one can't be read or is too long; a missing file is none.
    pub fn load(directory: Option<&Path>) -> Result<Self, BatchError> {
        let mut templates = Self::embedded();
        let Some(directory) = directory else { return Ok(templates) };
        for name in Self::names() {
            let path = directory.join(format!("{name}.sh.tera"));
            let unusable = |what: String| {
                BatchError::new(ErrorKind::Refused, format!("script template {}: {what}", path.display()))
            };
            match std::fs::metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unusable(error.to_string())),
                Ok(metadata) if metadata.len() > TEMPLATE_LIMIT => {
                    return Err(unusable(format!("longer than {TEMPLATE_LIMIT} bytes")));
                }
                Ok(_) => {}
            }
            let text = std::fs::read_to_string(&path).map_err(|error| unusable(error.to_string()))?;
            templates.replace(name, text);
        }
        Ok(templates)
    }
}

/// The executable file `name` in the directories of `path`. Relative entries are skipped: what they name depends on
/// where we happen to be.
fn find_on_path(name: &str, path: &OsString) -> Option<PathBuf> {
    let executable = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(executable)
}

fn must_be_directory(what: &str, path: &Path) -> Result<(), BatchError> {
    let problem = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "it is not a directory".to_owned(),
        Err(error) => error.to_string(),
    };
    let summary = format!("{what}, {}, can't be used: {problem}", path.display());
    Err(BatchError::new(ErrorKind::Refused, summary))
}

/// Kills a command's process group unless it was seen to end: also when nobody waits for it any more.
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(pid) = self.0.take() {
            // Nothing to do about an error: the group is gone already.
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Feed, read and await one command.
async fn attend(mut child: Child, invocation: &Invocation, timeout: Duration) -> io::Result<Output> {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let mut group = Group(pid);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let deadline = tokio::time::Instant::now() + timeout;

    let (code, timed_out, complete) = {
        let pipes = talk(&mut child, &invocation.stdin, &mut stdout, &mut stderr);
        tokio::pin!(pipes);
        let mut complete = None;
        let ended = tokio::time::timeout_at(deadline, async {
            tokio::select! {
                status = child.wait() => status,
                result = &mut pipes => { complete = Some(result?); child.wait().await }
            }
        });
        let (code, timed_out) = match ended.await {
            Ok(status) => {
                // The leader has been reaped, so its number is no longer ours to signal.
                group.0 = None;
                (status?.code(), false)
            }
            Err(_) => {
                group.kill();
                child.wait().await?;
                (None, true)
            }
        };
        if complete.is_none() {
            complete = tokio::time::timeout(PIPE_GRACE, &mut pipes).await.ok().transpose()?;
        }
        (code, timed_out, complete)
    };
    if complete == Some(false) {
        return Err(io::Error::other(format!("its answer is longer than {OUTPUT_LIMIT} bytes")));
    }
    Ok(Output { code, stdout: lossy(&stdout), stderr: lossy(&stderr), timed_out })
}

/// Write a command's input and read its output until it closes both pipes; whether all of its answer fitted.
fn talk<'a>(
    child: &mut Child,
    input: &'a [u8],
    stdout: &'a mut Vec<u8>,
    stderr: &'a mut Vec<u8>,
) -> impl Future<Output = io::Result<bool>> + use<'a> {
    let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    async move {
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A command that doesn't read its input says so by its exit code.
                let _ = stdin.write_all(input).await;
            }
        };
        let ((), out, err) =
            tokio::join!(feed, read(out, stdout, OUTPUT_LIMIT), read(err, stderr, STDERR_LIMIT));
        err?;
        out
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Read to the end and keep the first `limit` bytes; whether that was all.
async fn read(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    let Some(mut pipe) = pipe else { return Ok(true) };
    let mut buffer = vec![0; 16 << 10];
    let mut complete = true;
    loop {
        let count = pipe.read(&mut buffer).await?;
        if count == 0 {
            return Ok(complete);
        }
        let room = limit.saturating_sub(kept.len());
        complete &= count <= room;
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
}
