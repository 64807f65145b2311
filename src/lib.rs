//! `jobq` turns a batch queue into a living cluster for lazy task graphs.

pub mod array;
pub mod batch;
pub mod format;
pub mod graph;
pub mod kernels;

/// The program.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
