//! `jq map CMD.. (::: ARG.. | :::: FILE | stdin)`: one task an argument.

use super::task_flags::TaskFlags;
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    #[command(flatten)]
    pub task: TaskFlags,
    /// One task a line of FILE
    #[arg(long, value_name = "FILE")]
    pub each_line: Option<PathBuf>,
    /// Cancel what is left after N tasks failed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_fails: Option<u64>,
    /// Write a line for each finished task to FILE
    #[arg(long, value_name = "FILE")]
    pub joblog: Option<PathBuf>,
    /// Skip the arguments that the joblog has as done
    #[arg(long, requires = "joblog")]
    pub resume: bool,
    /// Call a native kernel instead of a command
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,
    /// Wait until all tasks are done
    #[arg(long)]
    pub wait: bool,
    /// CMD.. with {} {/} {.} {/.} {#} {out}, then `::: ARG..`, `:::: FILE`, or lines on stdin
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD.. ::: ARG..")]
    pub words: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use super::super::arguments::{ArgSource, split};
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        map: Args,
    }

    #[test]
    fn flags_end_where_the_command_starts() {
        let args =
            Cli::try_parse_from(["map", "--retries", "2", "./task.sh", "--retries", "{}", ":::", "1", "-2"]);
        let map = args.unwrap().map;
        assert_eq!(map.task.retries, 2);
        let (command, source) = split(map.words).unwrap();
        assert_eq!(command, ["./task.sh", "--retries", "{}"]);
        assert_eq!(source, ArgSource::Words(vec!["1".into(), "-2".into()]));
    }

    #[test]
    fn a_mistyped_flag_is_no_command() {
        let map = Cli::try_parse_from(["map", "--retires", "2", "./task.sh"]).unwrap().map;
        assert!(split(map.words).unwrap_err().message.contains("--retires"));
    }
}
