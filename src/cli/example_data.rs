//! `jq example-data DIR`: sample netCDF-4 wind files to try things on.

use std::path::PathBuf;

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// Where to write them; made if it isn't there
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}
