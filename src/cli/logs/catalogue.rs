//! Which logs a cluster has, and what their names lead to.

use crate::cli::exit::CliError;
use crate::config::nearest_word;
use crate::scheduler::spec::ClusterSpec;
use crate::state::intent::{Outcome, SCHEDULER};
use crate::state::{Intent, Intents, Role, StateDir};
use crate::worker::supervisor::{VerdictRecord, read_verdicts};
use std::path::PathBuf;

/// Names that an error about an unknown one suggests.
const SUGGESTIONS: usize = 3;

/// One log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// `scheduler`, the allocation's number as `a3`, or the name of a job in which a scheduler ran.
    pub name: String,
    /// The batch system's id; empty if it has none, or none is known.
    pub job: String,
    pub job_name: String,
    /// How far the job has come, as the submitter wrote it down.
    pub state: String,
    pub path: PathBuf,
    /// Where death verdicts may be: the allocation's own directory, and the one of all allocations.
    verdict_dirs: Vec<PathBuf>,
    /// Of the allocation; `None` for the scheduler.
    number: Option<u32>,
    /// Only this worker's verdicts.
    worker: Option<String>,
}

/// All logs of a cluster.
pub struct Catalogue {
    cluster: String,
    logs: Vec<Log>,
}

impl Catalogue {
    /// Reads what the state directory has of a cluster, alive or not.
    ///
    /// # Errors
    /// It can't be read.
    pub fn open(state: &StateDir) -> Result<Catalogue, CliError> {
        let cluster_id = state.identity(Role::Admin)?.cluster_id();
        let spec = state.read_cluster()?.and_then(|file| file.spec_as::<ClusterSpec>().ok());
        let mut jobs = Vec::new();
        if state.intents_dir().is_dir() {
            let intents = Intents::open(&state.intents_dir(), cluster_id)?;
            jobs.extend(intents.list().map(|intent| allocation(state, spec.as_ref(), intent)));
        }
        let mut logs = vec![scheduler(state, &jobs)?];
        logs.extend(jobs);
        Ok(Catalogue { cluster: state.name().to_owned(), logs })
    }

    /// The scheduler's first, then allocations, the oldest first.
    pub fn logs(&self) -> &[Log] {
        &self.logs
    }

    /// The log that a user's word means: `scheduler`, `a3`, `w3` (a worker of allocation 3, such as `w3-1` where
    /// it has several), a job's id or its name.
    ///
    /// # Errors
    /// There is none; says which names are near.
    pub fn find(&self, word: &str) -> Result<Log, CliError> {
        let named = |log: &&Log| log.name == word || log.job == word || log.job_name == word;
        // A job's id may have been used again by a batch system that was set up anew: the last one is meant.
        if let Some(log) = self.logs.iter().rev().find(named).filter(|_| !word.is_empty()) {
            return Ok(log.clone());
        }
        let number = allocation_of_worker(word);
        if let Some(log) = self.logs.iter().rev().find(|log| number.is_some() && log.number == number) {
            return Ok(Log { worker: Some(word.to_owned()), ..log.clone() });
        }
        Err(self.unknown(word))
    }

    fn unknown(&self, word: &str) -> CliError {
        let mut names: Vec<&str> = Vec::new();
        for log in &self.logs {
            let all = [log.name.as_str(), log.job.as_str(), log.job_name.as_str()];
            names.extend(all.into_iter().filter(|name| !name.is_empty()));
        }
        let mut nearest = Vec::new();
        while let Some(name) =
            nearest_word(word, names.iter().copied()).filter(|_| nearest.len() < SUGGESTIONS)
        {
            nearest.push(format!("`{name}`"));
            names.retain(|known| *known != name);
        }
        CliError::usage(format!(
            "cluster {} has no scheduler, worker, allocation or job called `{word}`; the nearest are {}",
            self.cluster,
            nearest.join(", ")
        ))
        .hint("`jq logs` lists what there is")
    }
}

impl Log {
    /// How workers of this log died, by time. What can't be read is left out: a log is read when things are broken.
    pub fn verdicts(&self) -> Vec<VerdictRecord> {
        let Some(number) = self.number else { return Vec::new() };
        let ours = |verdict: &VerdictRecord| match &self.worker {
            // `w3` stands for all workers of allocation 3, as long as none is called exactly that.
            Some(worker) if worker.contains(SEPARATORS) => verdict.worker == *worker,
            _ => allocation_of_worker(&verdict.worker) == Some(number),
        };
        let mut verdicts = Vec::new();
        for dir in &self.verdict_dirs {
            verdicts.extend(read_verdicts(dir).unwrap_or_default().into_iter().filter(ours));
        }
        verdicts.sort_by_key(|verdict| (verdict.ended, verdict.incarnation));
        verdicts
    }
}

/// Between the allocation's number and the worker's own, in the names of workers of larger allocations.
const SEPARATORS: [char; 3] = ['-', '.', '_'];

/// 3 for `w3` and `w3-1`.
fn allocation_of_worker(name: &str) -> Option<u32> {
    let rest = name.strip_prefix('w')?;
    let digits = rest.split(SEPARATORS).next().unwrap_or_default();
    digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The log of the scheduler that there is; else of the last one, which may have been in any of the jobs.
fn scheduler(state: &StateDir, jobs: &[Log]) -> Result<Log, CliError> {
    let path = match state.read_contact()? {
        Some(contact) => contact.log,
        None => {
            let here = state.path().join("scheduler.log");
            let schedulers = jobs.iter().filter(|log| log.number.is_none()).map(|log| log.path.clone());
            let written = |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).ok();
            std::iter::once(here.clone()).chain(schedulers).max_by_key(written).unwrap_or(here)
        }
    };
    Ok(Log {
        name: "scheduler".to_owned(),
        job: String::new(),
        job_name: String::new(),
        state: String::new(),
        path,
        verdict_dirs: Vec::new(),
        number: None,
        worker: None,
    })
}

fn allocation(state: &StateDir, spec: Option<&ClusterSpec>, intent: &Intent) -> Log {
    let path = match spec {
        Some(spec) => spec.job_log(state, &intent.name),
        // Without the specification: where logs are unless it says otherwise.
        None => state.allocations_dir().join(format!("{}.log", intent.name)),
    };
    let (job, words) = match &intent.outcome {
        Outcome::Intended => (String::new(), "being submitted".to_owned()),
        Outcome::Submitted { job } => (job.clone(), "submitted".to_owned()),
        Outcome::Ambiguous => (String::new(), "submitted without an answer".to_owned()),
        Outcome::Unwanted { job } => (job.clone().unwrap_or_default(), "given up".to_owned()),
        Outcome::Ended { job, reason } => (job.clone().unwrap_or_default(), reason.clone()),
    };
    // `scheduler` is the one that there is; earlier ones go by their jobs.
    let name = if intent.purpose == SCHEDULER { &intent.name } else { &intent.purpose };
    Log {
        name: name.clone(),
        job,
        job_name: intent.name.clone(),
        state: words,
        path,
        verdict_dirs: vec![state.allocations_dir().join(&intent.name), state.allocations_dir()],
        number: intent.purpose.strip_prefix('a').and_then(|number| number.parse().ok()),
        worker: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_name_leads_to_its_allocation() {
        for (name, number) in
            [("w3", Some(3)), ("w12-1", Some(12)), ("w3.0", Some(3)), ("w0", Some(0)), ("w+3", None)]
        {
            assert_eq!(allocation_of_worker(name), number, "{name}");
        }
        for name in ["", "w", "3", "a3", "worker", "w3x", "w-1", "w99999999999"] {
            assert_eq!(allocation_of_worker(name), None, "{name}");
        }
    }
}
