//! `scale`: another number of workers.

use super::Context;
use super::connect::{block_on, client, cluster_spec, state_dir};
use super::exit::{CliError, Exit};
use crate::client::{random_request, unexpected};
use crate::protocol::{Reply, Request};
use serde::Serialize;

#[derive(clap::Args)]
pub struct Args {
    /// How many worker processes
    #[arg(value_name = "N")]
    workers: u32,
}

#[derive(Serialize)]
struct Report {
    cluster: String,
    target: u32,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let state = state_dir(context)?;
    let spec = cluster_spec(&state)?;
    context.config()?.settings(None, &[])?.check_workers(args.workers, "scale")?;
    let target = block_on(async {
        let mut client = client(context).await?;
        let request = Request::Scale { request: random_request()?, workers: args.workers };
        match client.call(request).await? {
            Reply::Scaled { workers } => Ok(workers),
            other => Err(unexpected(&other).into()),
        }
    })?;
    if context.out.is_json() {
        context.out.json(&Report { cluster: context.cluster.clone(), target })?;
    } else {
        context.out.line(super::up::arithmetic(&spec, target))?;
    }
    Ok(Exit::Ok)
}
