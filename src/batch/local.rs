//! The embedded queue `local`, asked through commands like any other batch system: the commands are our own
//! program's hidden verb (`jobq local-queue submit ...`), behind which [`super::localq`] runs a daemon.

use std::path::Path;
use std::time::Duration;

use super::localq::wire::{QueueReport, Report, ReportState};
use super::script::{self, absolute};
use super::{
    AllocationSpec, BatchError, BatchSystem, ErrorKind, Invocation, JobId, JobState, JobStatus, JobVariables,
    Outcome, Output, Program, QueueInfo, Site, StatusQuery, Templates, localq,
};

/// See the module's documentation.
pub struct Local;

/// Longer than the client's own patience with a daemon that hangs.
const TIMEOUT: Duration = Duration::from_secs(30);

fn invocation(args: &[&str]) -> Invocation {
    let args = [localq::VERB].iter().chain(args).map(|&arg| arg.to_owned()).collect();
    Invocation {
        program: Program::Ourselves,
        args,
        env_set: Vec::new(),
        env_remove: &["JOBQ_LOCAL_*"],
        env_keep: &[],
        stdin: Vec::new(),
        timeout: TIMEOUT,
    }
}

impl BatchSystem for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn programs(&self) -> &'static [&'static str] {
        &[]
    }

    fn template(&self) -> &'static str {
        include_str!("../../templates/local.sh.tera")
    }

    fn environment(&self, site: &Site) -> Vec<(String, String)> {
        vec![
            (localq::DIR_VARIABLE.to_owned(), site.dir.display().to_string()),
            (localq::SLOTS_VARIABLE.to_owned(), site.slots.to_string()),
            (localq::WAIT_VARIABLE.to_owned(), site.queue_wait.as_millis().to_string()),
        ]
    }

    /// Account and QOS mean nothing on this queue, and memory is not limited by it: they are left out.
    fn render(&self, spec: &AllocationSpec, templates: &Templates) -> Result<String, BatchError> {
        if !spec.queue.is_empty() && spec.queue != self.name() {
            let summary = format!("the local queue is one queue: there is no queue {:?} in it", spec.queue);
            return Err(BatchError::new(ErrorKind::Refused, summary));
        }
        let mut directives = vec![format!("--job-name={}", spec.name)];
        if !spec.comment.is_empty() {
            directives.push(format!("--comment={}", spec.comment));
        }
        directives.push(format!("--slots={}", spec.total_cores()));
        if !spec.walltime.is_zero() {
            directives.push(format!("--time={}", spec.walltime.as_millis().div_ceil(1000)));
        }
        if let Some(job) = &spec.after {
            directives.push(format!("--after={}", script::job_word(job)?));
        }
        directives.push(format!("--chdir={}", absolute("work_dir", &spec.work_dir)?));
        directives.push(format!("--output={}", absolute("log", &spec.log)?));
        script::render(self, templates, spec, localq::PREFIX, directives)
    }

    fn submit(&self, script: &Path, _spec: &AllocationSpec) -> Invocation {
        invocation(&["submit", &script.display().to_string()])
    }

    fn parse_submit(&self, output: &Output) -> Result<JobId, BatchError> {
        let id = output.stdout.trim();
        match output.code {
            Some(0) if id.parse::<u64>().is_ok() => Ok(JobId(id.to_owned())),
            Some(code) if code != 0 && code != localq::AMBIGUOUS => Err(failure(output)),
            _ => {
                let summary = "the local queue gave no answer, so the job may or may not have been submitted";
                Err(BatchError::from_output(ErrorKind::Ambiguous, summary, output))
            }
        }
    }

    fn status(&self, query: &StatusQuery<'_>) -> Invocation {
        self.find(query.user)
    }

    fn parse_status(&self, output: &Output, ids: &[JobId]) -> Result<Vec<JobStatus>, BatchError> {
        let wanted: std::collections::HashSet<&JobId> = ids.iter().collect();
        Ok(jobs(output)?.into_iter().filter(|job| wanted.contains(&job.id)).collect())
    }

    fn find(&self, _user: &str) -> Invocation {
        invocation(&["status"])
    }

    fn parse_find(&self, output: &Output, prefix: &str) -> Result<Vec<JobStatus>, BatchError> {
        Ok(jobs(output)?.into_iter().filter(|job| job.name.starts_with(prefix)).collect())
    }

    fn cancel(&self, ids: &[JobId]) -> Vec<Invocation> {
        if ids.is_empty() {
            return Vec::new();
        }
        let args: Vec<&str> = std::iter::once("cancel").chain(ids.iter().map(|id| id.0.as_str())).collect();
        vec![invocation(&args)]
    }

    fn parse_cancel(&self, output: &Output) -> Result<(), BatchError> {
        done(output)
    }

    fn health(&self) -> Invocation {
        invocation(&["health"])
    }

    fn parse_health(&self, output: &Output) -> Result<(), BatchError> {
        done(output)
    }

    fn queues(&self) -> Invocation {
        invocation(&["queues"])
    }

    fn parse_queues(&self, output: &Output) -> Result<Vec<QueueInfo>, BatchError> {
        done(output)?;
        let report: QueueReport =
            serde_json::from_str(output.stdout.trim()).map_err(|error| strange(output, &error))?;
        Ok(vec![QueueInfo {
            name: self.name().to_owned(),
            default: true,
            open: true,
            walltime: None,
            nodes: 1,
            cores_per_node: report.slots.into(),
            memory_per_node: 0,
            nodes_differ: false,
        }])
    }

    fn variables(&self) -> JobVariables {
        JobVariables {
            job_id: localq::JOB_ID_VARIABLE,
            node: None,
            end: Some(localq::JOB_END_VARIABLE),
            restarts: None,
        }
    }
}

fn done(output: &Output) -> Result<(), BatchError> {
    if output.code == Some(0) { Ok(()) } else { Err(failure(output)) }
}

/// The verb's exit codes are those of the error kinds.
fn failure(output: &Output) -> BatchError {
    let kinds = [ErrorKind::TryAgain, ErrorKind::Permission, ErrorKind::Refused];
    let kind = kinds.into_iter().find(|kind| output.code == Some(i32::from(kind.exit_code())));
    let kind = if output.timed_out { ErrorKind::TryAgain } else { kind.unwrap_or(ErrorKind::Unexpected) };
    let summary = match kind {
        ErrorKind::TryAgain => "the local queue does not answer: try again later",
        ErrorKind::Permission => "the local queue belongs to somebody else",
        ErrorKind::Refused => "the local queue refused the job",
        _ => "the local queue failed",
    };
    BatchError::from_output(kind, summary, output)
}

fn strange(output: &Output, error: &serde_json::Error) -> BatchError {
    let summary = format!("the local queue's answer can't be read ({error})");
    BatchError::from_output(ErrorKind::Unexpected, summary, output)
}

fn jobs(output: &Output) -> Result<Vec<JobStatus>, BatchError> {
    done(output)?;
    let lines = output.stdout.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(line).map(job).map_err(|error| strange(output, &error))).collect()
}

fn job(report: Report) -> JobStatus {
    let state = match report.state {
        ReportState::Waiting { reason, words, start_estimate, never } => {
            JobState::Pending { reason, words, start_estimate, never }
        }
        ReportState::Running { host, started, ends } => JobState::Running { nodes: host, started, ends },
        ReportState::Completed => JobState::Ended(Outcome::Completed),
        ReportState::Failed { exit_code, signal } => JobState::Ended(Outcome::Failed { exit_code, signal }),
        ReportState::Cancelled => JobState::Ended(Outcome::Cancelled),
        ReportState::TimedOut => JobState::Ended(Outcome::TimedOut),
        ReportState::NodeFailed => JobState::Ended(Outcome::NodeFailed),
        ReportState::Unknown { words } => JobState::Ended(Outcome::Unknown(words)),
    };
    JobStatus { id: JobId(report.id.to_string()), name: report.name, state }
}

#[cfg(test)]
mod tests;
