//! `down`: a cluster ends, and nothing of it is left in the queue.

use super::connect::{block_on, cluster_spec};
use super::exit::{CliError, Exit};
use super::{Context, up};
use crate::cluster::down::{DownError, Downed, down};
use crate::cluster::hold::{Hold, at_rest};
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
    let (downed, rest) = block_on(async {
        let patience = up::patience(None);
        if state.read_cluster()?.is_none() {
            let rest = at_rest(&state, patience).await.map_err(|error| up::explain(error, context))?;
            return Ok((Downed::default(), Some(rest)));
        }
        let spec = cluster_spec(&state)?;
        let links = transport(&state, &spec, Role::Admin).map_err(|e| CliError::config(format!("{e:#}")))?;
        down(&state, &spec, &links, args.drain, patience).await.map_err(explain)
    })?;
    // Where somebody else has brought it up again, there is nothing to remove.
    let purged = args.purge && rest.is_some();
    if let Some(rest) = rest.filter(|_| purged) {
        let hold = Hold::take(&state, rest, "purged")?;
        Registry::of(&state).remove_shared()?;
        hold.remove()?;
    }
    let report =
        Report { cluster: context.cluster.clone(), was_up: downed.was_alive, swept: downed.swept, purged };
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
        DownError::Launch(error) => CliError::new(Exit::TryAgain, error.to_string()),
        DownError::StillThere => {
            CliError::unavailable(error.to_string()).hint("`jq logs scheduler` tells what it waits for")
        }
        DownError::Left { .. } => CliError::new(Exit::TryAgain, error.to_string()).hint("`jq down` again"),
    }
}
