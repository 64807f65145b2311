//! `jobq` turns a batch queue into a living cluster for lazy task graphs.

pub mod batch;
pub mod format;
pub mod graph;
pub mod kernels;
pub mod protocol;
pub mod scheduler;
#[cfg(feature = "sim")]
pub mod sim;
pub mod worker;

/// The program.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
