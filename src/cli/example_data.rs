//! `example-data DIR`: sample netCDF-4 wind files to try things on.

use super::Context;
use super::exit::{CliError, Exit};
use crate::format::FormatError;
use crate::format::example::{WindSizes, example_winds, is_example, paths};
use serde::Serialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// Where to write them; made if it isn't there
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// How many files of 24 hours, 50 MB of values each
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub files: u32,
}

#[derive(Serialize)]
struct Report {
    files: Vec<PathBuf>,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    // Nothing is written if one of them is in the way.
    for path in paths(&args.directory, args.files) {
        refuse_foreign(&path)?;
    }
    let files = example_winds(&args.directory, args.files, &WindSizes::default()).map_err(exit)?;
    if context.out.is_json() {
        context.out.json(&Report { files })?;
    } else {
        files.iter().try_for_each(|path| context.out.line(path.display().to_string()))?;
    }
    Ok(Exit::Ok)
}

/// A file of that name that isn't a sample of ours is somebody's data.
fn refuse_foreign(path: &Path) -> Result<(), CliError> {
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(_) => return Ok(()),
    };
    if there.is_file() && (there.len() == 0 || is_example(path)) {
        return Ok(());
    }
    let message = format!("{} is there, and is no sample file of ours: it is left as it is", path.display());
    Err(CliError::config(message).hint("choose another directory, or move the file away"))
}

fn exit(error: FormatError) -> CliError {
    let denied =
        matches!(&error, FormatError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied);
    CliError::new(if denied { Exit::Permission } else { Exit::Config }, error.to_string())
}
