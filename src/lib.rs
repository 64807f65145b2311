//! `jobq` turns a batch queue into a living cluster for lazy task graphs.

pub mod batch;
pub mod cli;
pub mod config;
pub mod format;
pub mod graph;
pub mod journal;
pub mod kernels;
pub mod protocol;
pub mod scheduler;
pub mod worker;
pub mod net;
pub mod state;

/// The program.
pub fn main() -> std::process::ExitCode {
    cli::main()
}
