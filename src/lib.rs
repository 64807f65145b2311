//! `jobq` turns a batch queue into a living cluster for lazy task graphs.

pub mod array;
pub mod batch;
pub mod bench;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod datasets;
pub mod format;
pub mod graph;
pub mod journal;
pub mod kernels;
pub mod local;
pub mod net;
pub mod protocol;
pub mod scheduler;
#[cfg(feature = "sim")]
pub mod sim;
pub mod state;
pub mod worker;

/// The format of everything in a state directory: the journal's files, `cluster.toml`, `contact.toml`, intents. A
/// program refuses one that is newer than its own. One digit.
pub const STATE_FORMAT: u8 = 1;

/// The program.
pub fn main() -> std::process::ExitCode {
    cli::main()
}

/// What the program called `jq` does before its `main`: it becomes the JSON processor of that name if its arguments are
/// meant for that. It returns if they aren't, or if there is no such processor.
pub fn before_main() {
    cli::before_main();
}
