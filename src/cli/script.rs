//! `jq script`: print the exact script that `up` with the same flags would submit.

use super::up_flags::UpFlags;

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    #[command(flatten)]
    pub cluster: UpFlags,
}
