//! `ls`: all clusters of the state directory.

use super::Context;
use super::connect::{block_on, cluster_spec};
use super::exit::{CliError, Exit};
use crate::cluster::launch::job::under_way;
use crate::cluster::liveness::{Liveness, look};
use crate::cluster::up::status;
use crate::scheduler::shell::transport;
use crate::state::{Role, StateDir};
use serde::Serialize;

#[derive(clap::Args)]
pub struct Args {}

#[derive(Serialize)]
struct Report {
    state_dir: String,
    clusters: Vec<Row>,
}

#[derive(Serialize, Default)]
struct Row {
    name: String,
    /// up, starting, down, dead, unreachable or broken.
    state: String,
    host: String,
    workers: u32,
    target: u32,
    unfinished: u64,
    note: String,
}

pub fn run(_: Args, context: &Context) -> Result<Exit, CliError> {
    let root = context.config()?.settings(None, &[])?.cluster.state_dir;
    let names = StateDir::list(&root)?;
    let clusters = block_on(async {
        let mut rows = Vec::new();
        for name in names {
            let row = match one(&root, &name).await {
                Ok(row) => row,
                Err(error) => Row { state: "broken".to_owned(), note: error.message, ..Row::default() },
            };
            rows.push(Row { name, ..row });
        }
        Ok(rows)
    })?;
    let report = Report { state_dir: root.display().to_string(), clusters };
    if context.out.is_json() {
        context.out.json(&report)?;
        return Ok(Exit::Ok);
    }
    if report.clusters.is_empty() {
        context.out.note(format!("no clusters in {}", report.state_dir));
        return Ok(Exit::Ok);
    }
    let cells = |row: &Row| {
        let workers = format!("{}/{}", row.workers, row.target);
        let fields = [&row.name, &row.state, &row.host, &workers, &row.unfinished.to_string(), &row.note];
        fields.into_iter().cloned().collect()
    };
    let rows: Vec<Vec<String>> = report.clusters.iter().map(cells).collect();
    context.out.table(&["cluster", "state", "scheduler on", "workers", "unfinished", "note"], &rows)?;
    Ok(Exit::Ok)
}

async fn one(root: &std::path::Path, name: &str) -> Result<Row, CliError> {
    let state = StateDir::open(root, name)?;
    if state.read_cluster()?.is_none() {
        return Ok(Row { state: "down".to_owned(), ..Row::default() });
    }
    let spec = cluster_spec(&state)?;
    let links =
        transport(&state, &spec, Role::Admin).map_err(|error| CliError::config(format!("{error:#}")))?;
    let host = state.sound_contact()?.map(|contact| contact.host).unwrap_or_default();
    let starting = || Row {
        state: "starting".to_owned(),
        note: "its scheduler's job was submitted; `jq status` waits for it".to_owned(),
        ..Row::default()
    };
    Ok(match look(&state, &links).await? {
        Liveness::Down { .. } | Liveness::Dead(_) if under_way(&state)?.is_some() => starting(),
        Liveness::Alive(mut client) => {
            let status = status(&mut client).await?;
            let c = status.counts;
            let unfinished = c.waiting + c.ready + c.assigned;
            let (workers, target) = (status.connected, status.target);
            let state = if status.going_down { "going down" } else { "up" }.to_owned();
            Row { state, host, workers, target, unfinished, ..Row::default() }
        }
        Liveness::Down { .. } => Row { state: "down".to_owned(), ..Row::default() },
        Liveness::Dead(_) => {
            let note =
                "its scheduler died; `jq up`, or any verb that needs it, resumes; `jq down` clears it away"
                    .to_owned();
            Row { state: "dead".to_owned(), host, note, ..Row::default() }
        }
        Liveness::Unreachable(error) => {
            Row { state: "unreachable".to_owned(), host, note: error.to_string(), ..Row::default() }
        }
    })
}
