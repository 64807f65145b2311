//! `clean`: what is dead in the state directory goes. It lists first, and asks.

use super::connect::block_on;
use super::exit::{CliError, Exit};
use super::{Context, up};
use crate::cluster::clean::{Findings, Rubbish, find, remove};
use crate::config::{display_duration, display_size, parse_duration};
use serde::Serialize;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

#[derive(clap::Args)]
pub struct Args {
    /// List what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove it without asking
    #[arg(long, short)]
    yes: bool,
    /// Only what nothing was written to for so long
    #[arg(long, value_name = "D", value_parser = parse_duration, default_value = "7d")]
    older_than: Duration,
}

#[derive(Serialize)]
struct Report {
    state_dir: String,
    removed: bool,
    nbytes: u64,
    inodes: u64,
    items: Vec<Item>,
    left: Vec<Left>,
}

#[derive(Serialize)]
struct Item {
    cluster: String,
    what: &'static str,
    paths: Vec<String>,
    nbytes: u64,
    inodes: u64,
}

#[derive(Serialize)]
struct Left {
    cluster: String,
    why: String,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let root = context.config()?.settings(None, &[])?.cluster.state_dir;
    let findings = block_on(async { Ok(find(&root, args.older_than, SystemTime::now()).await?) })?;
    let removes = !args.dry_run && !findings.rubbish.is_empty();
    let report = report(&root, &findings, removes);
    if !context.out.is_json() {
        list(&report, &args, context)?;
    }
    if removes {
        if !args.yes && !agreed(&report)? {
            context.out.note("nothing was removed");
            return Ok(Exit::Ok);
        }
        block_on(async {
            remove(&root, &findings.rubbish).await.map_err(|error| up::explain(error, context))
        })?;
        context.out.note(format!("removed {}", sum(&report)));
    }
    if context.out.is_json() {
        context.out.json(&report)?;
    }
    Ok(Exit::Ok)
}

fn report(root: &Path, findings: &Findings, removed: bool) -> Report {
    let item = |rubbish: &Rubbish| Item {
        cluster: rubbish.cluster.clone(),
        what: rubbish.what,
        paths: rubbish.leaving.paths.iter().map(|path| path.display().to_string()).collect(),
        nbytes: rubbish.leaving.nbytes,
        inodes: rubbish.leaving.inodes,
    };
    let items: Vec<Item> = findings.rubbish.iter().map(item).collect();
    let left = |(cluster, why): &(String, String)| Left { cluster: cluster.clone(), why: why.clone() };
    Report {
        state_dir: root.display().to_string(),
        removed,
        nbytes: items.iter().map(|item| item.nbytes).sum(),
        inodes: items.iter().map(|item| item.inodes).sum(),
        items,
        left: findings.left.iter().map(left).collect(),
    }
}

fn list(report: &Report, args: &Args, context: &Context) -> Result<(), CliError> {
    for left in &report.left {
        context.out.note(format!("cluster {}: {}", left.cluster, left.why));
    }
    if report.items.is_empty() {
        let age = display_duration(args.older_than);
        context.out.note(format!("nothing in {} is dead and older than {age}", report.state_dir));
        return Ok(());
    }
    let row = |item: &Item| {
        let path = item.paths.first().cloned().unwrap_or_default();
        vec![item.cluster.clone(), item.what.to_owned(), display_size(item.nbytes), path]
    };
    let rows: Vec<Vec<String>> = report.items.iter().map(row).collect();
    context.out.table(&["cluster", "what", "size", "where"], &rows)
}

fn sum(report: &Report) -> String {
    format!("{} in {} files and folders", display_size(report.nbytes), report.inodes)
}

/// Asks a person. Where none can be asked, it must have been said beforehand.
fn agreed(report: &Report) -> Result<bool, CliError> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let message = format!("nothing was removed: {} would go", sum(report));
        return Err(CliError::usage(message).hint("--yes removes it without asking, --dry-run only lists it"));
    }
    let mut stderr = std::io::stderr().lock();
    let asked = write!(stderr, "remove {}? [y/N] ", sum(report)).and_then(|()| stderr.flush());
    let mut answer = String::new();
    let heard = asked.and_then(|()| stdin.lock().read_line(&mut answer));
    heard.map_err(|error| CliError::internal(format!("can't ask: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
