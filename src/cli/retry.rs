//! `retry`: what failed is tried again.

use super::Context;
use super::connect::{block_on_interruptible, client};
use super::exit::{CliError, Exit};
use super::submit::keys;
use super::wait;
use crate::client::{random_request, unexpected};
use crate::protocol::{Reply, Request};
use serde::Serialize;

#[derive(clap::Args)]
pub struct Args {
    /// Tasks and graphs of which to try again what failed or was cancelled
    #[arg(value_name = "KEY|GRAPH", required = true)]
    keys: Vec<String>,
    /// Wait until they are done
    #[arg(long)]
    wait: bool,
}

#[derive(Serialize)]
struct Report {
    retried: u64,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let keys = keys(&args.keys)?;
    block_on_interruptible(async {
        let mut client = client(context).await?;
        let request = Request::Retry { request: random_request()?, keys: keys.clone() };
        let retried = match client.call(request).await? {
            Reply::Retried { tasks } => tasks,
            other => return Err(unexpected(&other).into()),
        };
        if !context.out.is_json() {
            context.out.line(format!("{retried} tasks are tried again"))?;
        } else if !args.wait {
            context.out.json(&Report { retried })?;
        }
        if args.wait {
            return wait::for_keys(&mut client, keys, None, None, context).await;
        }
        Ok(Exit::Ok)
    })
}
