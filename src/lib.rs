//! `jobq` turns a batch queue into a living cluster for lazy task graphs.

pub mod batch;
pub mod format;
pub mod graph;
pub mod kernels;

/// The program.
pub fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|verb| verb == batch::localq::VERB) {
        return u8::try_from(batch::localq::main(&args[1..])).unwrap_or(70).into();
    }
    std::process::ExitCode::SUCCESS
}
