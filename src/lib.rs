//! `jobq` turns a batch queue into a living cluster for lazy task graphs.

pub mod array;
pub mod batch;
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

/// The program.
pub fn main() -> std::process::ExitCode {
    cli::main()
}
