//! `jq config [--origin]`: every setting in force, as a file that could be read back.

use super::Context;
use super::exit::{CliError, Exit};
use super::up_flags::{SetFlag, set_flag};
use crate::config::Entry;
use serde::Serialize;

#[derive(clap::Args)]
pub struct Args {
    /// Say where each value came from
    #[arg(long)]
    origin: bool,
    /// Show what that profile or queue would have
    #[arg(long, value_name = "PROFILE")]
    queue: Option<String>,
    /// Show it with this value changed
    #[arg(long, value_name = "KEY=VALUE", value_parser = set_flag)]
    set: Vec<SetFlag>,
}

#[derive(Serialize)]
struct Report<'a> {
    settings: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    value: &'a str,
    layer: &'a str,
    origin: String,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let flags: Vec<_> = args.set.iter().map(SetFlag::to_flag).collect();
    let settings = context.config()?.settings(args.queue.as_deref(), &flags)?;
    if context.out.is_json() {
        context.out.json(&Report { settings: settings.entries.iter().map(row).collect() })?;
    } else {
        context.out.bytes(render(&settings.entries, args.origin).as_bytes())?;
    }
    Ok(Exit::Ok)
}

fn row(entry: &Entry) -> Row<'_> {
    Row {
        key: entry.key,
        value: &entry.value,
        layer: entry.origin.layer.word(),
        origin: entry.origin.to_string(),
    }
}

/// TOML, with the origins as comments.
fn render(entries: &[Entry], with_origin: bool) -> String {
    let mut text = String::new();
    let mut current = "";
    let name_of = |entry: &Entry| entry.key.split_once('.').unwrap_or(("", entry.key));
    let line_of = |entry: &Entry| format!("{} = {}", name_of(entry).1, entry.value);
    let width = entries.iter().map(|e| line_of(e).chars().count()).filter(|w| *w <= 48).max().unwrap_or(0);
    for entry in entries {
        let section = name_of(entry).0;
        if section != current {
            text.push_str(&format!("{}[{section}]\n", if current.is_empty() { "" } else { "\n" }));
            current = section;
        }
        let line = line_of(entry);
        if with_origin {
            text.push_str(&format!("{line:width$}  # {}\n", entry.origin));
        } else {
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}
