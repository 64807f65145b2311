//! Slurm's words in plain English: why a job waits, and what a refusal means.

use crate::batch::{BatchError, ErrorKind, JobState, Output};

/// Reasons with which a job never starts unless somebody changes the job, the partition or the account.
const NEVER: &[(&str, &str)] = &[
    ("DependencyNeverSatisfied", "the job that it depends on ended in a way that rules it out"),
    ("PartitionTimeLimit", "its walltime is longer than the partition allows"),
    ("PartitionNodeLimit", "it asks for more nodes than the partition allows"),
    ("PartitionConfig", "it asks for more than the partition has or allows"),
    ("JobHeldUser", "its owner holds it back: scontrol release"),
    ("JobHeldAdmin", "an administrator holds it back"),
    ("JobHoldMaxRequeue", "it was requeued too often and is held back"),
    ("BadConstraints", "no node can satisfy its constraints"),
    ("AccountNotAllowed", "the account is not allowed on this partition"),
    ("QOSNotAllowed", "the QOS is not allowed for this account or partition"),
    ("InvalidAccount", "the account is not valid"),
    ("InvalidQOS", "the QOS is not valid"),
    ("QOSTimeLimit", "the QOS has no time left"),
    ("AssociationTimeLimit", "the account has no time left"),
];

/// Reasons that pass.
const PASSING: &[(&str, &str)] = &[
    ("None", "Slurm has not looked at it yet"),
    ("Resources", "it is next in line and waits for free nodes, cores or memory"),
    ("Priority", "jobs of higher priority are ahead of it"),
    ("Dependency", "it waits for another job"),
    ("BeginTime", "its earliest start has not come yet (after a requeue Slurm waits a while)"),
    ("JobArrayTaskLimit", "enough tasks of its array run already"),
    ("PartitionDown", "the partition is down"),
    ("PartitionInactive", "the partition is inactive"),
    ("ReqNodeNotAvail", "a node that it needs is down, drained or reserved"),
    ("Reservation", "it waits for its reservation"),
    ("NodeDown", "a node that it needs is down"),
    ("Licenses", "it waits for a licence"),
    ("Prolog", "its nodes are being prepared"),
    ("Cleaning", "its earlier run is still being cleaned up"),
    ("SystemFailure", "Slurm failed to start it and will try again"),
];

/// A job that waits, with Slurm's reason explained.
pub fn pending(state: &str, reason: &str, start_estimate: Option<u64>) -> JobState {
    let reason = reason.trim();
    // Only a plain pending job's reason says why it waits.
    let reason = if state == "PENDING" { reason } else { state };
    let (words, never) = explain(reason);
    let reason = if reason == "None" { "" } else { reason };
    JobState::Pending { reason: reason.to_owned(), words, start_estimate, never }
}

/// Plain English, and whether it never starts by itself.
fn explain(reason: &str) -> (String, bool) {
    // "ReqNodeNotAvail, UnavailableNodes:node4": the first word is the reason.
    let word = reason.split([',', ' ', '(']).next().unwrap_or_default();
    let rest = reason[word.len()..].trim_start_matches([',', ' ']);
    let known = |table: &[(&str, &str)]| {
        table
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, words)| if rest.is_empty() { (*words).to_owned() } else { format!("{words} ({rest})") })
    };
    if let Some(words) = known(NEVER) {
        return (words, true);
    }
    if let Some(words) = known(PASSING) {
        return (words, false);
    }
    // Slurm names its many limits by a scheme: whose, what, and whether each job or their sum is limited.
    let owner = if word.starts_with("QOS") { "QOS" } else { "account" };
    let limit = word.starts_with("QOS") || word.starts_with("Assoc") || word.starts_with("Max");
    match word {
        "REQUEUE_HOLD" | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => {
            ("it was requeued and is held back".to_owned(), true)
        }
        "REQUEUED" | "REQUEUE_FED" => ("it was requeued".to_owned(), false),
        "CONFIGURING" => ("its nodes are starting up".to_owned(), false),
        "" => ("Slurm gives no reason".to_owned(), false),
        _ if limit && (word.contains("PerJob") || word.ends_with("NotSatisfied")) => {
            (format!("the job is larger, smaller or longer than the {owner} allows ({word})"), true)
        }
        _ if limit && word.contains("Limit") => {
            (format!("the {owner} is at a limit and other jobs have to end first ({word})"), false)
        }
        _ if reason.to_lowercase().contains("held") => (format!("it is held back ({reason})"), true),
        _ => (format!("Slurm says {reason}"), false),
    }
}

use ErrorKind::{Ambiguous, NotInstalled, Permission, Refused, TryAgain, Unexpected};

/// What Slurm says (in lower case, from the most to the least telling), what to do about it, and our words.
const FAILURES: &[(&str, ErrorKind, &str)] = &[
    (
        "unable to contact slurm controller",
        TryAgain,
        "the Slurm controller does not answer: try again later, or tell the site",
    ),
    (
        "protocol authentication error",
        TryAgain,
        "Slurm's authentication service (munge) does not answer on this host",
    ),
    ("munge encode failed", TryAgain, "Slurm's authentication service (munge) does not answer on this host"),
    (
        "in standby mode",
        TryAgain,
        "only the backup controller answers, and it is not in charge: try again later",
    ),
    ("temporarily unable", TryAgain, "Slurm is too busy: try again later"),
    ("resource temporarily unavailable", TryAgain, "Slurm is too busy: try again later"),
    (
        "unable to process configuration file",
        NotInstalled,
        "Slurm is not configured on this host (SLURM_CONF)",
    ),
    (
        "could not establish a configuration source",
        NotInstalled,
        "Slurm is not configured on this host (SLURM_CONF)",
    ),
    ("maxsubmit", TryAgain, "too many jobs are submitted already: try again when some have ended"),
    ("access/permission denied", Permission, "Slurm does not let this user do that"),
    ("not permitted to use this partition", Permission, "this user may not use the partition"),
    ("invalid user id", Permission, "Slurm does not know this user"),
    ("invalid account", Refused, "Slurm refused the account, or its use on this partition: check `account`"),
    ("invalid qos", Refused, "Slurm refused the QOS: check `qos`"),
    ("invalid partition", Refused, "Slurm has no such partition: `sinfo` lists them; check `queue`"),
    (
        "required partition not available",
        TryAgain,
        "the partition takes no jobs now: try again later, or use another",
    ),
    (
        "job violates accounting/qos policy",
        Refused,
        "a limit of the account or QOS forbids the job: make it smaller or shorter",
    ),
    (
        "requested time limit is invalid",
        Refused,
        "the walltime is longer than the partition allows: check `walltime`",
    ),
    ("more processors requested than permitted", Refused, "the job is larger than the partition allows"),
    (
        "cpu count per node can not be satisfied",
        Refused,
        "no node of the partition has that many cores: check `cores` and `workers_per_job`",
    ),
    (
        "memory specification can not be satisfied",
        Refused,
        "no node of the partition has that much memory: check `memory` and `workers_per_job`",
    ),
    (
        "requested node configuration is not available",
        Refused,
        "no node of the partition can run the job: check cores, memory and constraints",
    ),
    ("node count specification invalid", Refused, "the partition does not have that many nodes"),
    ("invalid feature specification", Refused, "no node has the constraint: check the extra directives"),
    ("invalid generic resource", Refused, "no node has the generic resource: check the extra directives"),
    (
        "requested reservation is invalid",
        Refused,
        "there is no such reservation for this user: check the extra directives",
    ),
    ("reservation", Refused, "Slurm refused the reservation: check the extra directives"),
    ("job dependency problem", Refused, "Slurm refused the dependency"),
    ("invalid job array", Refused, "the job array is larger than the site allows"),
    ("does not look like a batch script", Refused, "the rendered script is broken: check your own template"),
    ("batch script is empty", Refused, "the rendered script is empty: check your own template"),
    ("dos line breaks", Refused, "the rendered script has DOS line breaks: check your own template"),
    ("unrecognized option", Refused, "Slurm does not know a directive: check the extra directives"),
    ("invalid option", Refused, "Slurm does not know a directive: check the extra directives"),
    ("specification", Refused, "Slurm does not understand a directive: check the extra directives"),
    ("batch job submission failed", Refused, "Slurm refused the job"),
];

/// Failures after which a submitted job may exist all the same: the request had been sent.
const SENT: &[&str] = &[
    "socket timed out",
    "zero bytes were transmitted",
    "unexpected message received",
    "broken pipe",
    "connection reset",
];

/// Exit codes of `scancel` and others without helpful words: Slurm's error number modulo 256.
const CODES: &[(i32, &str)] = &[
    (8, "unable to contact slurm controller"),
    (140, "socket timed out"),
    (210, "access/permission denied"),
    (239, "protocol authentication error"),
];

/// The error that a command's output means; `submitting`: a lost answer leaves a job in doubt.
pub fn failure(output: &Output, submitting: bool) -> BatchError {
    let said = format!("{}\n{}", output.stderr, output.stdout).to_lowercase();
    let code = CODES.iter().find(|(code, _)| output.code == Some(*code)).map(|(_, words)| *words);
    let lost = |text: &str| SENT.iter().any(|words| text.contains(words));
    if output.timed_out || lost(&said) || code.is_some_and(lost) {
        return if submitting {
            let summary = "Slurm did not answer in time, so the job may or may not have been submitted";
            BatchError::from_output(Ambiguous, summary, output)
        } else {
            let summary = "Slurm does not answer in time: try again later, or tell the site";
            BatchError::from_output(TryAgain, summary, output)
        };
    }
    let find = |text: &str| FAILURES.iter().find(|(words, _, _)| text.contains(words));
    if let Some((_, kind, summary)) = find(&said).or_else(|| code.and_then(find)) {
        return BatchError::from_output(*kind, *summary, output);
    }
    // 255: the command line or a directive could not be read, before Slurm was asked.
    if submitting && output.code == Some(255) {
        return BatchError::from_output(
            Refused,
            "Slurm does not understand a directive: check the extra directives",
            output,
        );
    }
    BatchError::from_output(Unexpected, "Slurm failed in a way that we don't know", output)
}
