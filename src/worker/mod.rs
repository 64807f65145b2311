//! The worker: a pure state machine (`core`), the runners of its tasks, its store, and the shell around them.

pub mod core;
//! The worker: it runs tasks, keeps their results, and is watched by a supervisor that outlives it.
mod process;
pub mod run;
pub mod store;
pub mod supervisor;
pub use process::resident_bytes;
