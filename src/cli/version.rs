//! `jq version`.

use super::Context;
use super::exit::{CliError, Exit};
use serde::Serialize;

#[derive(clap::Args)]
pub struct Args {}

#[derive(Serialize)]
struct Report {
    name: &'static str,
    version: &'static str,
}

pub fn run(_: Args, context: &Context) -> Result<Exit, CliError> {
    let report = Report { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") };
    if context.out.is_json() {
        context.out.json(&report)?;
    } else {
        context.out.line(format!("{} {}", report.name, report.version))?;
    }
    Ok(Exit::Ok)
}
