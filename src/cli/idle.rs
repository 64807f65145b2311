//! Whoever waits is told when nothing happens because there are no workers.

use super::Context;
use super::status::{reason, state_word};
use super::up::is_open;
use crate::protocol::{AllocationReport, StatusReport};
use indicatif::ProgressBar;

/// Says on stderr that there are no workers for what is to be done, with the batch system's reasons.
pub fn tell_if_idle(status: &StatusReport, bar: &ProgressBar, context: &Context) {
    if status.connected == 0 {
        bar.suspend(|| context.out.note(why_idle(status, context)));
    }
}

fn why_idle(status: &StatusReport, context: &Context) -> String {
    let (cluster, program) = (&context.cluster, context.program);
    if status.target == 0 {
        return format!("cluster {cluster} has no workers: `{program} scale N` gives it some; waiting");
    }
    let mut lines =
        vec![format!("none of the {} workers of cluster {cluster} is there yet; waiting", status.target)];
    lines.extend(status.allocations.iter().filter(|a| is_open(a)).map(job_line));
    if !status.batch_trouble.is_empty() {
        lines.push(format!("  {}", status.batch_trouble));
    }
    lines.join("\n")
}

/// A job and why it is as it is, in a line.
pub fn job_line(a: &AllocationReport) -> String {
    let job = if a.job.is_empty() { a.id.to_string() } else { format!("job {}", a.job) };
    format!("  {job}: {} {}", state_word(a.state), reason(a)).trim_end().to_owned()
}
