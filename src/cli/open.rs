//! `open FILE..`: what is in a dataset, from its metadata.

use super::Context;
use super::exit::{CliError, Exit};
use super::inputs::{Inputs, array_error};

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// Files, or patterns of their names; several are joined. Or dataset:NAME
    #[arg(required = true, value_name = "FILE|dataset:NAME")]
    pub inputs: Vec<String>,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let inputs = Inputs::find(&args.inputs, context)?;
    let summary = inputs.open()?.summary().map_err(|error| array_error(error, &inputs.files()))?;
    if context.out.is_json() {
        context.out.json_with_schema(&summary)?;
    } else {
        context.out.bytes(super::output::printable_lines(&summary.text()).as_bytes())?;
    }
    Ok(Exit::Ok)
}
