//! `fetch NAME -o OUT`: a published dataset as a file of one's own.

use super::Context;
use super::compute::execute;
use super::exit::{CliError, Exit};
use super::inputs::{DATASET, Inputs, array_error, check_writable};
use crate::array::{self, ComputeRequest};
use crate::local::Host;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// Its name, or the path of a shared one
    #[arg(value_name = "DATASET")]
    pub dataset: String,
    /// The file to write
    #[arg(short = 'o', long = "out", value_name = "OUT")]
    pub output: PathBuf,
    /// Replace OUT if it is there
    #[arg(long)]
    pub overwrite: bool,
    /// Compute on this host's threads, without a cluster
    #[arg(long)]
    pub local: bool,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    // Who may only read has nobody to compute for him.
    let local = args.local || context.grant.is_some();
    let mut inputs = Inputs::find(&[format!("{DATASET}{}", args.dataset)], context)?;
    if !local {
        inputs.find_held(context)?;
    }
    let (published, names) = (inputs.open()?, inputs.files());
    let told = |error| array_error(error, &names);
    let (statements, keep) = published.everything().map_err(told)?;
    let request = ComputeRequest {
        statements,
        keep,
        dataset: Some(published),
        out: args.output,
        overwrite: args.overwrite,
        ..ComputeRequest::default()
    };
    let plan = array::plan(&request).map_err(told)?;
    check_writable(plan.summary.out.parent().unwrap_or(Path::new("/")))?;
    let host = local.then(Host::here);
    execute(&plan, host.as_ref(), context)?;
    if context.out.is_json() {
        context.out.json_with_schema(&plan.summary)?;
    } else {
        context.out.note(format!("wrote {}", plan.summary.out.display()));
    }
    Ok(Exit::Ok)
}
