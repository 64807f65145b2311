//! The worker: it runs tasks, keeps their results, and is watched by a supervisor that outlives it.

mod process;
pub mod run;
pub mod store;
pub mod supervisor;

pub use process::resident_bytes;
