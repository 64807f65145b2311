//! What runs a task: commands in processes of their own, kernels on a pool of threads.
//!
//! Nothing here decides what runs when; that is the worker core's part. Nothing here needs an async runtime
//! except `CommandHost::run`, which puts an attempt on a blocking thread.

mod attempt;
mod capture;
pub mod command;
mod environment;
mod judge;
pub mod kernel;
pub mod outputs;
mod spawn;
pub mod template;
mod watch;

pub use attempt::{Attempt, CancelHandle, CommandOutcome, TaskErrorKind, Usage};
pub use command::CommandHost;
pub use kernel::{KernelDone, KernelJob, KernelPool};
pub use outputs::{CommitError, commit, discard};
