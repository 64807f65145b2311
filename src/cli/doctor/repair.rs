//! `jq doctor --repair`: what is sound of a damaged journal is kept.

use crate::cli::Context;
use crate::cli::connect::{block_on, state_dir};
use crate::cli::exit::{CliError, Exit};
use crate::cli::{down, up};
use crate::cluster::repair::{Outcome, Repair, RepairError, Work, repair};
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Report<'a> {
    repaired: bool,
    damage: &'a str,
    kept: Option<Count>,
    lost: Option<Count>,
    aside: Option<&'a Path>,
}

#[derive(Serialize)]
struct Count {
    graphs: u64,
    tasks: u64,
}

pub fn run(context: &Context) -> Result<Exit, CliError> {
    let state = state_dir(context)?;
    let name = state.name().to_owned();
    let repair = repair(&state, down::tell_waiting);
    let outcome = block_on(async { repair.await.map_err(|error| explain(error, context)) })?;
    let nothing = Report { repaired: false, damage: "", kept: None, lost: None, aside: None };
    let (report, lines) = match &outcome {
        Outcome::Alive => (nothing, vec![format!("cluster {name} lives: there is nothing to repair")]),
        Outcome::Down => (nothing, vec![format!("cluster {name} is not up: there is nothing to repair")]),
        Outcome::Sound { torn } => {
            let mut lines = vec![format!("the journal of cluster {name} is sound: `up` resumes it")];
            lines.extend(torn.clone());
            (nothing, lines)
        }
        Outcome::Repaired(repair) => (report(repair), told(repair)),
    };
    if context.out.is_json() {
        context.out.json(&report)?;
    } else {
        for line in lines {
            context.out.line(line)?;
        }
    }
    Ok(Exit::Ok)
}

fn report(repair: &Repair) -> Report<'_> {
    let count = |work: Work| Some(Count { graphs: work.graphs, tasks: work.tasks });
    Report {
        repaired: true,
        damage: &repair.damage,
        kept: count(repair.kept),
        lost: count(repair.lost),
        aside: Some(&repair.aside),
    }
}

fn told(repair: &Repair) -> Vec<String> {
    let many = |count: u64, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let work = |work: Work| format!("{}, {}", many(work.graphs, "graph"), many(work.tasks, "task"));
    vec![
        repair.damage.clone(),
        format!("kept: {}; tasks whose end was lost with the damage run again", work(repair.kept)),
        format!("lost: {}, as far as is known", work(repair.lost)),
        format!("the damaged files are in {}", repair.aside.display()),
        "`up` resumes the cluster from what was kept".to_owned(),
    ]
}

fn explain(error: RepairError, context: &Context) -> CliError {
    match error {
        RepairError::Up(error) => up::explain(error, context),
        RepairError::State(error) => error.into(),
        error => CliError::config(error.to_string()),
    }
}
