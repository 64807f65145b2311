//! `jq up`: bring a cluster up.

use super::up_flags::UpFlags;
use crate::config::parse_duration;
use std::time::Duration;

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    #[command(flatten)]
    pub cluster: UpFlags,
    /// Wait until N workers are there (without N: all that were asked for)
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "all",
          value_parser = wait_for)]
    pub wait: Option<WaitFor>,
    /// How long to wait at most
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// End the cluster when that batch job ends
    #[arg(long, value_name = "ID")]
    pub owner_job: Option<String>,
    /// Replace a living cluster that was asked for differently
    #[arg(long)]
    pub replace: bool,
    /// Print the script and where each value came from; submit nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Run this with the cluster up, then bring it down, with its exit code
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// How many workers `--wait` waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    All,
    Count(u32),
}

fn wait_for(text: &str) -> Result<WaitFor, String> {
    match text {
        "all" => Ok(WaitFor::All),
        _ => text.parse().map(WaitFor::Count).map_err(|_| format!("`{text}` is not a number of workers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        up: Args,
    }

    fn parse(words: &[&str]) -> Args {
        Cli::try_parse_from([&["up"], words].concat()).unwrap().up
    }

    #[test]
    fn wait_takes_a_number_only_with_an_equals_sign() {
        assert_eq!(parse(&[]).wait, None);
        assert_eq!(parse(&["--wait"]).wait, Some(WaitFor::All));
        assert_eq!(parse(&["--wait=3", "--replace"]).wait, Some(WaitFor::Count(3)));
        let with_command = parse(&["--wait", "--", "make", "--wait=2"]);
        assert_eq!((with_command.wait, with_command.command.len()), (Some(WaitFor::All), 2));
    }
}
