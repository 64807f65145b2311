//! `revoke NAME`: makes a grant useless, at once.

use super::Context;
use super::connect::state_dir;
use super::exit::{CliError, Exit};
use crate::state::grant;

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// The grant's name
    #[arg(value_name = "GRANT")]
    pub named: String,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let state = state_dir(context)?;
    if !grant::revoke(&state, &args.named)? {
        let there = grant::list(&state)?;
        let hint = if there.is_empty() {
            "there are none".to_owned()
        } else {
            format!("there are: {}", there.join(", "))
        };
        return Err(CliError::config(format!("no grant '{}'", args.named)).hint(hint));
    }
    context.out.note(format!("grant '{}' is revoked: its file opens nothing any more", args.named));
    Ok(Exit::Ok)
}
