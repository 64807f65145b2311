//! `datasets [NAME]`: the published datasets of a cluster, or what is in one. Asks no scheduler.

use super::Context;
use super::exit::{CliError, Exit};
use super::granted;
use super::inputs::{array_error, dataset};
use crate::array::published::changed;
use crate::array::summary::{Summary, utc};
use crate::datasets::registry::Listed;
use crate::datasets::{Persist, Registry, Stored};
use crate::state::{StateDir, StateError};
use serde::Serialize;
use std::fmt::Write;

/// Changed source files that are named.
const MOST_CHANGED: usize = 10;

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// One of them
    #[arg(value_name = "DATASET")]
    pub dataset: Option<String>,
}

#[derive(Serialize)]
struct List {
    datasets: Vec<Row>,
}

#[derive(Serialize, Default)]
struct Row {
    name: String,
    /// lazy, memory, disk, or broken.
    persist: String,
    inputs: usize,
    statements: Vec<String>,
    shared: bool,
    created_unix: u64,
    created_by: String,
    folder: String,
    note: String,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    dataset: &'a Row,
    /// Source files that aren't as they were.
    changed: &'a [String],
    contents: &'a Summary,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    match args.dataset {
        Some(name) => show(&dataset(&name, context)?, context)?,
        None => list(context)?,
    }
    Ok(Exit::Ok)
}

fn list(context: &Context) -> Result<(), CliError> {
    let one = |(name, stored): Listed| match stored {
        Ok(stored) => Row { note: note(&stored, context), ..row(&stored) },
        Err(error) => {
            let (persist, note) = ("broken".to_owned(), error.to_string());
            Row { name, persist, note, ..Row::default() }
        }
    };
    let rows: Vec<Row> = listed(context)?.into_iter().map(one).collect();
    if context.out.is_json() {
        return context.out.json(&List { datasets: rows });
    }
    if rows.is_empty() {
        context.out.note(format!("no published datasets in cluster '{}'", context.cluster));
        return Ok(());
    }
    let cells = |row: &Row| {
        let (inputs, when) = (row.inputs.to_string(), utc(row.created_unix));
        let when = if row.created_unix == 0 { String::new() } else { when };
        let shared = if row.shared { "yes" } else { "" }.to_owned();
        vec![
            row.name.clone(),
            row.persist.clone(),
            inputs,
            when,
            row.created_by.clone(),
            shared,
            row.note.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    context.out.table(&["dataset", "kept", "files", "published", "by", "shared", "note"], &rows)
}

fn listed(context: &Context) -> Result<Vec<Listed>, CliError> {
    if context.grant.is_some() {
        return granted::list(context);
    }
    let settings = context.config()?.settings(None, &[])?;
    match StateDir::open(&settings.cluster.state_dir, &context.cluster) {
        Ok(state) => Ok(Registry::of(&state).list()?),
        Err(StateError::NoSuchCluster { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// What a reader can't have of it.
fn note(stored: &Stored, context: &Context) -> String {
    let is_out_of_reach =
        context.grant.is_some() && stored.recipe.persist == Persist::Disk && !stored.recipe.shared;
    if is_out_of_reach { "its values are not shared".to_owned() } else { String::new() }
}

fn row(stored: &Stored) -> Row {
    let recipe = &stored.recipe;
    Row {
        name: recipe.name.clone(),
        persist: recipe.persist.as_str().to_owned(),
        inputs: recipe.inputs.len(),
        statements: recipe.statements.clone(),
        shared: recipe.shared,
        created_unix: recipe.created_unix,
        created_by: recipe.created_by.clone(),
        folder: stored.folder.display().to_string(),
        note: String::new(),
    }
}

fn show(stored: &Stored, context: &Context) -> Result<(), CliError> {
    let published = stored.published()?;
    let files: Vec<String> = stored.recipe.inputs.iter().map(|input| input.path.clone()).collect();
    let summary = published.summary().map_err(|error| array_error(error, &files))?;
    // What has values of its own needs its source files no more.
    let stamps = if stored.data().is_some() { Vec::new() } else { stored.recipe.stamps() };
    let changed = changed(&stamps);
    let row = row(stored);
    if context.out.is_json() {
        return context.out.json(&Report { dataset: &row, changed: &changed, contents: &summary });
    }
    for reason in changed.iter().take(MOST_CHANGED) {
        context.out.warning(reason);
    }
    if changed.len() > MOST_CHANGED {
        context.out.warning(format!("and {} more files", changed.len() - MOST_CHANGED));
    }
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = writeln!(
        text,
        "{} ({}), published {} by {}: {}",
        row.name,
        row.persist,
        utc(row.created_unix),
        row.created_by,
        row.folder
    );
    for statement in &row.statements {
        let _ = writeln!(text, "  {statement}");
    }
    text.push_str(&summary.text());
    context.out.bytes(super::output::printable_lines(&text).as_bytes())
}
