//! Slurm: `sbatch`, `squeue`, `scancel`, `scontrol`, `sinfo`. Measured with 22.05; nothing relies on `--json`, whose
//! shapes change between versions, or on accounting, which many sites don't have.

mod words;

use std::path::Path;
use std::time::Duration;

use super::script::{self, absolute};
use super::{
    AllocationSpec, BatchError, BatchSystem, ErrorKind, Invocation, JobId, JobState, JobStatus, JobVariables,
    Outcome, Output, Program, QueueInfo, StatusQuery, Templates,
};
use words::{failure, pending};

/// See the module's documentation.
pub struct Slurm;

const PREFIX: &str = "#SBATCH";

/// `squeue`'s columns: id, state, nodes, start, end, reason, name. The name comes last because it may hold a `|`.
const STATUS_FORMAT: &str = "%i|%T|%N|%S|%e|%r|%j";
const STATUS_COLUMNS: usize = 7;

/// `sinfo`'s columns: partition (a `*` marks the default), availability, time limit, nodes, cores, memory in MiB.
const QUEUES_FORMAT: &str = "%P|%a|%l|%D|%c|%m";
const QUEUES_COLUMNS: usize = 6;

/// Variables that silently change what the commands do, and those of the job that we may be in.
const UNWANTED: &[&str] =
    &["SBATCH_*", "SQUEUE_*", "SCANCEL_*", "SINFO_*", "SCONTROL_*", "SRUN_*", "SALLOC_*", "SLURM_*"];
/// Where the site's configuration is.
const WANTED: &[&str] = &["SLURM_CONF"];

/// A dead controller makes `sbatch` give up after 9 s and a hung one after 10 s (`MessageTimeout`): ours comes
/// later, so that Slurm can say it in its own words.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(30);
const QUERY_TIMEOUT: Duration = Duration::from_secs(25);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(15);

/// Ids in one `scancel`: far below any limit on the length of a command line.
const CANCEL_CHUNK: usize = 200;

fn invocation(program: &'static str, args: Vec<String>, timeout: Duration) -> Invocation {
    Invocation {
        program: Program::Named(program),
        args,
        env_set: vec![("SLURM_TIME_FORMAT".to_owned(), "%s".to_owned())],
        env_remove: UNWANTED,
        env_keep: WANTED,
        stdin: Vec::new(),
        timeout,
    }
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|&arg| arg.to_owned()).collect()
}

impl BatchSystem for Slurm {
    fn name(&self) -> &'static str {
        "slurm"
    }

    fn queue_word(&self) -> &'static str {
        "partition"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["sbatch", "squeue", "scancel", "scontrol", "sinfo"]
    }

    fn template(&self) -> &'static str {
        include_str!("../../templates/slurm.sh.tera")
    }

    fn render(&self, spec: &AllocationSpec, templates: &Templates) -> Result<String, BatchError> {
        script::render(self, templates, spec, PREFIX, directives(spec)?)
    }

    fn submit(&self, script: &Path, _spec: &AllocationSpec) -> Invocation {
        invocation("sbatch", vec!["--parsable".to_owned(), script.display().to_string()], SUBMIT_TIMEOUT)
    }

    fn parse_submit(&self, output: &Output) -> Result<JobId, BatchError> {
        if output.timed_out || output.code.is_none() {
            let summary = "sbatch gave no answer, so the job may or may not have been submitted";
            return Err(BatchError::from_output(ErrorKind::Ambiguous, summary, output));
        }
        if output.code != Some(0) {
            return Err(failure(output, true));
        }
        submitted_id(&output.stdout).ok_or_else(|| {
            let summary = "sbatch took the job, but its answer has no job id";
            BatchError::from_output(ErrorKind::Ambiguous, summary, output)
        })
    }

    fn trial(&self, script: &Path) -> Option<Invocation> {
        Some(invocation(
            "sbatch",
            vec!["--test-only".to_owned(), script.display().to_string()],
            SUBMIT_TIMEOUT,
        ))
    }

    fn parse_trial(&self, output: &Output) -> Result<(), BatchError> {
        if output.code == Some(0) { Ok(()) } else { Err(failure(output, true)) }
    }

    fn status(&self, query: &StatusQuery<'_>) -> Invocation {
        // By user and not by id: one unknown id among one fails, among many is silence.
        self.find(query.user)
    }

    fn parse_status(&self, output: &Output, ids: &[JobId]) -> Result<Vec<JobStatus>, BatchError> {
        let wanted: std::collections::HashSet<&JobId> = ids.iter().collect();
        Ok(jobs(output)?.into_iter().filter(|job| wanted.contains(&job.id)).collect())
    }

    fn find(&self, user: &str) -> Invocation {
        invocation(
            "squeue",
            strings(&["-h", "-r", "-t", "all", "-u", user, "-o", STATUS_FORMAT]),
            QUERY_TIMEOUT,
        )
    }

    fn parse_find(&self, output: &Output, prefix: &str) -> Result<Vec<JobStatus>, BatchError> {
        Ok(jobs(output)?.into_iter().filter(|job| job.name.starts_with(prefix)).collect())
    }

    fn detail(&self, id: &JobId) -> Option<Invocation> {
        Some(invocation("scontrol", strings(&["show", "job", "-o", &id.0]), QUERY_TIMEOUT))
    }

    fn parse_detail(&self, output: &Output) -> Result<Option<Outcome>, BatchError> {
        if output.code != Some(0) {
            return Err(failure(output, false));
        }
        Ok(job_outcome(&output.stdout))
    }

    fn cancel(&self, ids: &[JobId]) -> Vec<Invocation> {
        let command = |chunk: &[JobId]| {
            invocation("scancel", chunk.iter().map(|id| id.0.clone()).collect(), QUERY_TIMEOUT)
        };
        ids.chunks(CANCEL_CHUNK).map(command).collect()
    }

    fn parse_cancel(&self, output: &Output) -> Result<(), BatchError> {
        // 22.05 is silent about jobs that it doesn't know or that are over; other versions complain.
        let over = ["invalid job id", "already completing or completed"];
        let mut lines = output.stderr.lines().filter(|line| !line.trim().is_empty()).peekable();
        let harmless = lines.peek().is_some()
            && lines.all(|line| over.iter().any(|words| line.to_lowercase().contains(words)));
        if output.code == Some(0) || (harmless && !output.timed_out) {
            Ok(())
        } else {
            Err(failure(output, false))
        }
    }

    fn health(&self) -> Invocation {
        invocation("scontrol", strings(&["ping"]), HEALTH_TIMEOUT)
    }

    fn parse_health(&self, output: &Output) -> Result<(), BatchError> {
        if output.stdout.lines().any(|line| line.trim_end().ends_with(" is UP")) {
            return Ok(());
        }
        if output.stdout.contains("is DOWN") {
            let summary = "the Slurm controller is down: try again later, or tell the site";
            return Err(BatchError::from_output(ErrorKind::TryAgain, summary, output));
        }
        Err(failure(output, false))
    }

    fn queues(&self) -> Invocation {
        invocation("sinfo", strings(&["-h", "-s", "-o", QUEUES_FORMAT]), QUERY_TIMEOUT)
    }

    fn parse_queues(&self, output: &Output) -> Result<Vec<QueueInfo>, BatchError> {
        if output.code != Some(0) {
            return Err(failure(output, false));
        }
        let mut queues: Vec<QueueInfo> = Vec::new();
        for queue in rows(output, QUEUES_COLUMNS)?.into_iter().filter_map(|columns| queue(&columns)) {
            // A partition of unlike nodes may take several lines.
            match queues.iter_mut().find(|known| known.name == queue.name) {
                Some(known) => {
                    known.nodes_differ |= queue.nodes_differ
                        || (known.cores_per_node, known.memory_per_node)
                            != (queue.cores_per_node, queue.memory_per_node);
                    known.nodes += queue.nodes;
                    known.cores_per_node = known.cores_per_node.min(queue.cores_per_node);
                    known.memory_per_node = known.memory_per_node.min(queue.memory_per_node);
                }
                None => queues.push(queue),
            }
        }
        Ok(queues)
    }

    fn variables(&self) -> JobVariables {
        JobVariables {
            job_id: "SLURM_JOB_ID",
            node: Some("SLURMD_NODENAME"),
            // Newer than 22.05 only, and not told when an administrator moves it: `deadline` asks.
            end: Some("SLURM_JOB_END_TIME"),
            restarts: Some("SLURM_RESTART_COUNT"),
        }
    }

    fn deadline(&self, id: &JobId) -> Option<Invocation> {
        Some(invocation("squeue", strings(&["-h", "-j", &id.0, "-o", "%e"]), QUERY_TIMEOUT))
    }

    fn parse_deadline(&self, output: &Output) -> Result<Option<u64>, BatchError> {
        if output.code == Some(0) { Ok(epoch(output.stdout.trim())) } else { Err(failure(output, false)) }
    }
}

/// Ours, without the prefix. Whatever Slurm has a default for that a site may have changed is said.
fn directives(spec: &AllocationSpec) -> Result<Vec<String>, BatchError> {
    let log = absolute("log", &spec.log)?;
    if log.contains('\\') {
        let summary =
            format!("log {log:?} holds a backslash, which Slurm reads as \"no patterns in this name\"");
        return Err(BatchError::new(ErrorKind::Refused, summary));
    }
    let mut lines = vec![format!("--job-name={}", spec.name)];
    for (flag, value) in [
        ("comment", &spec.comment),
        ("partition", &spec.queue),
        ("account", &spec.account),
        ("qos", &spec.qos),
    ] {
        if !value.is_empty() {
            lines.push(format!("--{flag}={}", directive_word(value)));
        }
    }
    lines.push("--nodes=1".to_owned());
    lines.push("--ntasks=1".to_owned());
    lines.push(format!("--cpus-per-task={}", spec.total_cores()));
    if spec.memory > 0 {
        lines.push(format!("--mem={}M", script::memory_mib(spec)));
    }
    if !spec.walltime.is_zero() {
        lines.push(format!("--time={}", clock(script::walltime_minutes(spec))));
    }
    if let Some(job) = &spec.after {
        lines.push(format!("--dependency=after:{}", script::job_word(job)?));
    }
    lines.push(format!("--chdir={}", directive_word(absolute("work_dir", &spec.work_dir)?)));
    lines.push(format!("--output={}", directive_word(&log.replace('%', "%%"))));
    for line in ["--open-mode=append", "--no-requeue", "--export=NONE"] {
        lines.push(line.to_owned());
    }
    Ok(lines)
}

/// One word of a directive: `sbatch` takes double quotes with backslashes as a shell does, but expands nothing.
fn directive_word(value: &str) -> String {
    if script::quote_if_needed(value) == value {
        return value.to_owned();
    }
    format!("\"{}\"", value.replace('\\', r"\\").replace('"', r#"\""#))
}

/// Minutes as Slurm writes them: `[days-]hours:minutes:seconds`.
fn clock(minutes: u64) -> String {
    let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
    if days > 0 {
        format!("{days}-{hours:02}:{minutes:02}:00")
    } else {
        format!("{hours:02}:{minutes:02}:00")
    }
}

/// `17`, `17;cluster`, or in the sentence "Submitted batch job 17", below whatever banner a site prints.
fn submitted_id(stdout: &str) -> Option<JobId> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| JobId(text.to_owned()))
    };
    stdout.lines().rev().find_map(|line| {
        let line = line.trim();
        let sentence =
            line.strip_prefix("Submitted batch job ").and_then(|rest| rest.split_whitespace().next());
        number(sentence.unwrap_or(line).split(';').next().unwrap_or_default())
    })
}

/// The lines of a table that have all their columns. Other lines are a site's banner, unless there is nothing else.
fn rows(output: &Output, columns: usize) -> Result<Vec<Vec<&str>>, BatchError> {
    let lines = output.stdout.lines().filter(|line| !line.trim().is_empty());
    let split = lines.map(|line| line.splitn(columns, '|').collect::<Vec<_>>());
    let (rows, rest): (Vec<_>, Vec<_>) = split.partition(|row: &Vec<&str>| row.len() == columns);
    if rows.is_empty() && !rest.is_empty() {
        let summary = "the answer is not the table that was asked for";
        return Err(BatchError::from_output(ErrorKind::Unexpected, summary, output));
    }
    Ok(rows)
}

fn jobs(output: &Output) -> Result<Vec<JobStatus>, BatchError> {
    if output.code != Some(0) {
        return Err(failure(output, false));
    }
    Ok(rows(output, STATUS_COLUMNS)?.into_iter().filter_map(|columns| job(&columns)).collect())
}

fn job(columns: &[&str]) -> Option<JobStatus> {
    let [id, state, nodes, start, end, reason, name] = columns else { return None };
    let state = state_of(state, nodes, start, end, reason);
    Some(JobStatus { id: JobId(id.trim().to_owned()), name: (*name).to_owned(), state })
}

fn state_of(state: &str, nodes: &str, start: &str, end: &str, reason: &str) -> JobState {
    let failed = Outcome::Failed { exit_code: None, signal: None };
    let ended = match state {
        "COMPLETED" => Some(Outcome::Completed),
        "FAILED" => Some(failed),
        "BOOT_FAIL" | "NODE_FAIL" => Some(Outcome::NodeFailed),
        "TIMEOUT" | "DEADLINE" => Some(Outcome::TimedOut),
        "OUT_OF_MEMORY" => Some(Outcome::OutOfMemory),
        "PREEMPTED" => Some(Outcome::Preempted),
        "REVOKED" => Some(Outcome::Unknown(state.to_owned())),
        // "CANCELLED by 1000" in some commands.
        _ if state.starts_with("CANCELLED") => Some(Outcome::Cancelled),
        _ => None,
    };
    if let Some(outcome) = ended {
        return JobState::Ended(outcome);
    }
    let waits = match state {
        "PENDING" => true,
        "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "RESV_DEL_HOLD" | "SPECIAL_EXIT" => {
            true
        }
        "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "RESIZING" | "SIGNALING" | "STAGE_OUT" => false,
        // A state of some other version: alive until Slurm says otherwise, so that a sweep finds it.
        _ => nodes.trim().is_empty(),
    };
    if waits {
        return pending(state, reason, epoch(start));
    }
    JobState::Running { nodes: nodes.trim().to_owned(), started: epoch(start).unwrap_or(0), ends: epoch(end) }
}

/// Seconds since 1970; `N/A`, `NONE` and the like are no time.
fn epoch(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The outcome in one line of `scontrol show job -o`: `JobState=FAILED ... ExitCode=7:0 ...`. Values may hold
/// blanks, but what comes before these two is Slurm's own or our job name.
fn job_outcome(line: &str) -> Option<Outcome> {
    let value = |key: &str| {
        let (_, rest) = line.split_once(&format!(" {key}="))?;
        rest.split_whitespace().next()
    };
    let state = state_of(value("JobState")?, "", "", "", "");
    let JobState::Ended(outcome) = state else { return None };
    if !matches!(outcome, Outcome::Failed { .. }) {
        return Some(outcome);
    }
    let (code, signal) = value("ExitCode")?.split_once(':')?;
    let number = |text: &str| text.parse::<i32>().ok();
    let signal = number(signal).filter(|&signal| signal != 0);
    Some(Outcome::Failed { exit_code: number(code).filter(|_| signal.is_none()), signal })
}

fn queue(columns: &[&str]) -> Option<QueueInfo> {
    let [name, available, limit, nodes, cores, memory] = columns else { return None };
    // "4+": nodes differ, and this is the smallest.
    let number = |text: &str| text.trim().trim_end_matches('+').parse::<u64>().unwrap_or(0);
    Some(QueueInfo {
        name: name.trim().trim_end_matches('*').to_owned(),
        default: name.trim().ends_with('*'),
        open: available.trim() == "up",
        walltime: time_limit(limit.trim()),
        nodes: number(nodes),
        cores_per_node: number(cores),
        memory_per_node: number(memory) << 20,
        nodes_differ: cores.trim().ends_with('+') || memory.trim().ends_with('+'),
    })
}

/// `[days-]hours:minutes:seconds` or `minutes:seconds`; `infinite` and the like are no limit.
fn time_limit(text: &str) -> Option<Duration> {
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (days.parse::<u64>().ok()?, clock),
        None => (0, text),
    };
    let parts: Option<Vec<u64>> = clock.split(':').map(|part| part.parse().ok()).collect();
    let seconds = match *parts?.as_slice() {
        [minutes, seconds] => minutes.checked_mul(60)?.checked_add(seconds)?,
        [hours, minutes, seconds] => {
            hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?.checked_add(seconds)?
        }
        _ => return None,
    };
    Some(Duration::from_secs(days.checked_mul(86_400)?.checked_add(seconds)?))
}

#[cfg(test)]
mod tests;
