//! `down`: a cluster ends, and nothing of it is left in the queue.

use super::Context;
use super::connect::{block_on, cluster_spec};
use super::exit::{CliError, Exit};
use crate::cluster::down::{DownError, down};
use crate::config::parse_duration;
use crate::datasets::Registry;
use crate::scheduler::shell::transport;
use crate::state::{Role, StateDir, StateError};
use serde::Serialize;
use std::io::Write as _;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// Let running tasks end for at most so long
    #[arg(long, value_name = "D", value_parser = parse_duration, default_value = "0s")]
    drain: Duration,
    /// Remove the cluster's folder with everything in it
    #[arg(long)]
    purge: bool,
}

#[derive(Serialize)]
struct Report {
    cluster: String,
    was_up: bool,
    swept: Vec<String>,
    purged: bool,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let settings = context.config()?.settings(None, &[])?;
    let state = match StateDir::open(&settings.cluster.state_dir, &context.cluster) {
        Ok(state) => state,
        Err(StateError::NoSuchCluster { .. }) => return tell(&Report::nothing(context), context),
        Err(error) => return Err(error.into()),
    };
    let downed = match state.read_cluster()? {
        None => crate::cluster::down::Downed::default(),
        Some(_) => {
            let spec = cluster_spec(&state)?;
            let links =
                transport(&state, &spec, Role::Admin).map_err(|e| CliError::config(format!("{e:#}")))?;
            block_on(async { down(&state, &spec, &links, args.drain, tell_waiting).await.map_err(explain) })?
        }
    };
    if args.purge {
        Registry::of(&state).remove_shared()?;
        state.remove()?;
    }
    let report = Report {
        cluster: context.cluster.clone(),
        was_up: downed.was_alive,
        swept: downed.swept,
        purged: args.purge,
    };
    tell(&report, context)
}

impl Report {
    fn nothing(context: &Context) -> Report {
        Report { cluster: context.cluster.clone(), was_up: false, swept: Vec::new(), purged: false }
    }
}

fn tell(report: &Report, context: &Context) -> Result<Exit, CliError> {
    if context.out.is_json() {
        context.out.json(report)?;
        return Ok(Exit::Ok);
    }
    let what = if report.was_up { "is down" } else { "was not up" };
    let swept = match report.swept.len() {
        0 => String::new(),
        n => format!("; {n} jobs that its scheduler didn't end were cancelled: {}", report.swept.join(" ")),
    };
    let purged = if report.purged { "; its folder is removed" } else { "" };
    context.out.line(format!("cluster {} {what}{swept}{purged}", report.cluster))?;
    Ok(Exit::Ok)
}

/// Says why nothing happens for a while.
pub fn tell_waiting() {
    let seconds = crate::state::lease::CLAIM_AFTER.as_secs();
    // A closed stderr is no reason to stop.
    let _ = writeln!(
        std::io::stderr(),
        "the scheduler can't be reached, and from this host it can't be seen whether it lives: watching its lease for \
         {seconds} s"
    );
}

/// What stood in the way, with its exit code.
pub fn explain(error: DownError) -> CliError {
    match error {
        DownError::Client(error) => error.into(),
        DownError::State(error) => error.into(),
        DownError::Batch(error) => {
            CliError::from(error).hint("`jq down` again, once the batch system answers")
        }
        DownError::StillThere => {
            CliError::unavailable(error.to_string()).hint("`jq logs scheduler` tells what it waits for")
        }
        DownError::Left { .. } => CliError::new(Exit::TryAgain, error.to_string()).hint("`jq down` again"),
    }
}
