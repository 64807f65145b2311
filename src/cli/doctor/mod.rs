//! `jq doctor`: a list of checks, each with what it found and what to do. A new check is a function in one of the
//! files here and a line in [`CHECKS`].

mod batch;
mod cluster;
mod configuration;
mod finding;
mod ground;
mod host;
pub mod job;
mod network;
mod program;
mod repair;
mod state;
#[cfg(test)]
mod tests;

use super::Context;
use super::exit::{CliError, Exit};
use super::output::printable;
use finding::{Check, Finding, Verdict};
use ground::Ground;
use serde::Serialize;

#[derive(clap::Args)]
pub struct Args {
    /// Look at what this profile needs, and at no other batch system
    #[arg(long, value_name = "PROFILE")]
    queue: Option<String>,
    /// Make the damaged journal of a dead cluster usable again, keeping all that is sound of it. The damaged files stay
    /// beside it
    #[arg(long, conflicts_with_all = ["queue", "site"])]
    repair: bool,
    /// Look as whoever sets jobq up for a site: every profile, the site's own files, and from a job of each batch
    /// system back at this host
    #[arg(long)]
    site: bool,
}

/// In the order in which they are made and told: what later ones stand on comes first.
const CHECKS: &[Check] = &[
    Check { name: "configuration", run: configuration::loads },
    Check { name: "site files", run: configuration::site_files },
    Check { name: "program", run: program::own },
    Check { name: "JSON jq", run: program::json_jq },
    Check { name: "state directory", run: state::directory },
    Check { name: "state writes", run: state::writes },
    Check { name: "state room", run: state::room },
    Check { name: "batch system", run: batch::controllers },
    Check { name: "queue", run: batch::queue },
    Check { name: "address", run: network::address },
    Check { name: "connections", run: network::connections },
    Check { name: "open files", run: host::open_files },
    Check { name: "clock", run: host::clock },
    Check { name: "logout", run: host::logout },
    Check { name: "jobs", run: job::answer },
    Check { name: "state in jobs", run: job::state },
    Check { name: "route from jobs", run: job::route },
    Check { name: "clock in jobs", run: job::clock },
    Check { name: "jobs of jobs", run: job::submit },
    Check { name: "cluster", run: cluster::scheduler },
];

/// Checks that only `--site` makes.
const SITE_ONLY: &[&str] =
    &["site files", "jobs", "state in jobs", "route from jobs", "clock in jobs", "jobs of jobs"];

#[derive(Serialize)]
struct Report {
    checks: Vec<Row>,
    failed: usize,
    warnings: usize,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    verdict: &'static str,
    found: String,
    advice: String,
    /// 0 unless it failed.
    exit_code: u8,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    if args.repair {
        return repair::run(context);
    }
    let ground = Ground::of_process(context, args.queue.as_deref(), args.site);
    let checks = CHECKS.iter().filter(|check| args.site || !SITE_ONLY.contains(&check.name));
    let mut findings: Vec<(&'static str, Finding)> = Vec::new();
    for check in checks {
        context.out.detail(format!("looking at: {}", check.name));
        let finding = (check.run)(&ground);
        if !context.out.is_json() {
            // At once: the next one may take the batch system's time.
            context.out.line(line(check.name, &finding))?;
        }
        findings.push((check.name, finding));
    }
    let report = report(&findings);
    if context.out.is_json() {
        context.out.json(&report)?;
    } else if report.failed + report.warnings > 0 {
        context.out.note(format!("{} failed, {} with a warning", report.failed, report.warnings));
    }
    Ok(exit(&findings))
}

/// The first failure decides.
fn exit(findings: &[(&str, Finding)]) -> Exit {
    let failed = findings.iter().find_map(|(_, finding)| match finding.verdict {
        Verdict::Failed(exit) => Some(exit),
        _ => None,
    });
    failed.unwrap_or(Exit::Ok)
}

fn line(name: &str, finding: &Finding) -> String {
    let width = CHECKS.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text =
        format!("{:<7}  {name:<width$}  {}", finding.verdict.word(), printable(&one_line(&finding.found)));
    if !finding.advice.is_empty() {
        text.push_str(&format!("\n{:9}{:width$}  -> {}", "", "", printable(&one_line(&finding.advice))));
    }
    text
}

/// Words of others (a parser's, a batch system's) may have several lines.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

fn report(findings: &[(&'static str, Finding)]) -> Report {
    let rows = findings.iter().map(|(name, finding)| Row {
        name,
        verdict: finding.verdict.word(),
        found: finding.found.clone(),
        advice: finding.advice.clone(),
        exit_code: match finding.verdict {
            Verdict::Failed(exit) => exit.code(),
            _ => 0,
        },
    });
    let checks: Vec<Row> = rows.collect();
    let count = |word: &str| checks.iter().filter(|row| row.verdict == word).count();
    let (failed, warnings) = (count("failed"), count("warning"));
    Report { checks, failed, warnings }
}
