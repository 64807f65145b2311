//! The worker: a pure state machine (`core`), the runners of its tasks, its store, and the shell around them.

pub mod core;
mod process;
pub mod run;
pub mod shell;
pub mod store;
pub mod supervisor;
pub use process::resident_bytes;
