//! The scheduler: a pure state machine (`core`) with its policies (`place`, `scale`), and the shell around it.

pub mod core;
pub mod event;
pub mod place;
pub mod record;
pub mod relay;
pub mod scale;
pub mod shell;
pub mod spec;
pub mod submit;
pub mod walltime;
