//! The worker: a pure state machine (`core`), the runners of its tasks, its store, and the shell around them.

pub mod core;
