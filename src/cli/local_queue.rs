//! `jobq local-queue ..`: the commands of the embedded queue, which are run like any batch system's.

use super::Context;
use super::exit::{CliError, Exit};
use crate::batch::localq;

#[derive(clap::Args)]
pub struct Args {
    /// What the embedded queue is to do
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    words: Vec<String>,
}

pub fn run(args: Args, _context: &Context) -> Result<Exit, CliError> {
    Ok(Exit::Command(u8::try_from(localq::main(&args.words)).unwrap_or(Exit::Internal.code())))
}
