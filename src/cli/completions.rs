//! `completions`: what a shell needs to complete verbs and flags.

use super::exit::{CliError, Exit};
use super::{Context, command};
use clap_complete::Shell;

#[derive(clap::Args)]
pub struct Args {
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// For the name that the user calls us by: `jobq completions` leaves alone what completes the JSON processor.
pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(context.program), context.program, &mut script);
    context.out.bytes(&script)?;
    Ok(Exit::Ok)
}
