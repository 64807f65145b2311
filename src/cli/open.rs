//! `open FILE..`: what is in a dataset, from its metadata.

use super::Context;
use super::exit::{CliError, Exit};
use super::inputs::{array_error, files};
use crate::array;
use crate::array::summary::Summary;

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// Files, or patterns of their names; several are joined
    #[arg(required = true, value_name = "FILE")]
    pub inputs: Vec<String>,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let files = files(&args.inputs)?;
    let joined = array::open(&files).map_err(|error| array_error(error, &files))?;
    let summary = Summary::of(&joined);
    if context.out.is_json() {
        context.out.json_with_schema(&summary)?;
    } else {
        context.out.bytes(super::output::printable_lines(&summary.text()).as_bytes())?;
    }
    Ok(Exit::Ok)
}
