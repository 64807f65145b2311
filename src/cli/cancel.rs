//! `cancel`: tasks that aren't wanted any more.

use super::Context;
use super::connect::{block_on_interruptible, client};
use super::exit::{CliError, Exit};
use super::submit::keys;
use crate::client::{random_request, unexpected};
use crate::protocol::{Reply, Request};
use serde::Serialize;

#[derive(clap::Args)]
pub struct Args {
    /// Tasks and graphs to stop
    #[arg(value_name = "KEY|GRAPH", required = true)]
    keys: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    cancelled: u64,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let keys = keys(&args.keys)?;
    let cancelled = block_on_interruptible(async {
        let mut client = client(context).await?;
        let request = Request::Cancel { request: random_request()?, keys };
        match client.call(request).await? {
            Reply::Cancelled { tasks } => Ok(tasks),
            other => Err(unexpected(&other).into()),
        }
    })?;
    if context.out.is_json() {
        context.out.json(&Report { cancelled })?;
    } else {
        context.out.line(format!("{cancelled} tasks cancelled"))?;
    }
    Ok(Exit::Ok)
}
