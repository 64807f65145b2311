//! `jobq` turns a batch queue into a living cluster for lazy task graphs.

pub mod batch;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod format;
pub mod graph;
pub mod journal;
pub mod kernels;
pub mod net;
pub mod protocol;
pub mod scheduler;
pub mod state;
pub mod worker;

/// The program.
pub fn main() -> std::process::ExitCode {
    cli::main()
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|verb| verb == batch::localq::VERB) {
        return u8::try_from(batch::localq::main(&args[1..])).unwrap_or(70).into();
    }
    std::process::ExitCode::SUCCESS
}
