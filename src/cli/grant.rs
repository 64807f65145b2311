//! `grant --read-only -o FILE` and `revoke NAME`: let others look at a cluster, and no more.

use super::Context;
use super::connect::state_dir;
use super::exit::{CliError, Exit};
use crate::state::StateError;
use crate::state::grant::issue;
use serde::Serialize;
use std::path::PathBuf;

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// What it allows: to see status, tasks and datasets, and nothing that changes anything
    #[arg(long, required = true)]
    pub read_only: bool,
    /// The file to give to the reader
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    pub output: PathBuf,
    /// What `revoke` calls it; else the file's name without its ending
    #[arg(long, value_name = "NAME")]
    pub to: Option<String>,
    /// Where later schedulers tell where they are, for the reader to find them: a file that both can reach. There is
    /// nothing secret in it. Else FILE with the ending `.contact`
    #[arg(long, value_name = "PATH")]
    pub contact: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report<'a> {
    grant: &'a str,
    file: String,
    addresses: &'a [String],
    contact: String,
}

/// What is wrong with what was asked for is no matter of the state directory.
fn told(error: StateError) -> CliError {
    match error {
        StateError::BadGrantName(_) => CliError::usage(error.to_string()),
        StateError::GrantExists { .. } => CliError::config(error.to_string()),
        StateError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
            CliError::config(error.to_string()).hint("give another file")
        }
        error => error.into(),
    }
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let state = state_dir(context)?;
    let stem = args.output.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = args.to.or(stem).unwrap_or_default();
    let contact = args.contact.unwrap_or_else(|| args.output.with_extension("contact"));
    if contact == args.output {
        let message = format!("{} can't be both the grant and its contact", contact.display());
        return Err(CliError::usage(message).hint("give another --contact PATH"));
    }
    let grant = issue(&state, &name, &contact, &args.output).map_err(told)?;
    let (file, contact) = (args.output.display(), grant.contact.display());
    if context.out.is_json() {
        let (file, addresses) = (file.to_string(), &grant.addresses[..]);
        let contact = contact.to_string();
        context.out.json(&Report { grant: &name, file, addresses, contact })?;
        return Ok(Exit::Ok);
    }
    context.out.note(format!(
        "who has {file} can read cluster '{}': `jq status --grant {file}`; `jq revoke {name}` ends it. Later schedulers \
         tell where they are in {contact}: the reader finds them if that can be read there",
        context.cluster
    ));
    Ok(Exit::Ok)
}
