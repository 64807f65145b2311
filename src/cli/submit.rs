//! `jq submit -- CMD ARG..`: one shell task.

use super::task_flags::TaskFlags;

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    #[command(flatten)]
    pub task: TaskFlags,
    /// Wait until it is done
    #[arg(long)]
    pub wait: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}
