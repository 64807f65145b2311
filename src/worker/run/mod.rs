//! What runs a task: commands in processes of their own, kernels on a pool of threads.
//!
//! Nothing here decides what runs when; that is the worker core's part. Nothing here needs an async runtime
//! except `CommandHost::run`, which puts an attempt on a blocking thread.

mod capture;
pub mod command;
mod environment;
pub mod kernel;
pub mod outputs;
mod spawn;
pub mod template;

pub use command::{Attempt, CancelHandle, CommandHost, CommandOutcome, TaskErrorKind, Usage};
pub use kernel::{KernelDone, KernelJob, KernelPool};
pub use outputs::{CommitError, commit, discard};
