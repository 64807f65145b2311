//! `jq help [VERB]`.

use super::exit::{CliError, Exit};
use super::{Context, VERBS, command};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// The verb to explain
    #[arg(value_name = "VERB")]
    topic: Option<String>,
    /// Write manual pages into this directory instead, one a verb
    #[arg(long, value_name = "DIR", conflicts_with = "topic")]
    man: Option<PathBuf>,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    if let Some(dir) = &args.man {
        return write_manual(dir, context);
    }
    let Some(topic) = args.topic else { return Ok(print_overview(context.program)) };
    let mut program = command(context.program);
    program.build();
    match program.find_subcommand_mut(&topic) {
        Some(verb) => {
            context.out.bytes(verb.render_help().to_string().as_bytes())?;
            Ok(Exit::Ok)
        }
        None => {
            let nearest = crate::config::nearest_word(&topic, VERBS.iter().copied()).unwrap_or_default();
            Err(CliError::usage(format!("there is no verb `{topic}`; the nearest is `{nearest}`"))
                .hint(format!("`{} help` lists the verbs", context.program)))
        }
    }
}

/// For the name that the user calls us by, so that `jobq` leaves the manual of the JSON processor alone.
fn write_manual(dir: &Path, context: &Context) -> Result<Exit, CliError> {
    let written = clap_mangen::generate_to(command(context.program), dir);
    written.map_err(|error| CliError::config(format!("{}: {error}", dir.display())))?;
    Ok(Exit::Ok)
}

/// The list of verbs, on stdout.
pub(super) fn print_overview(program: &'static str) -> Exit {
    // A reader that has gone away has seen enough.
    let _ = command(program).print_help();
    Exit::Ok
}
