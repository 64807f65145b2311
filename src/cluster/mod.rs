//! Bringing a cluster up and down, and cleaning up after it.

pub mod clean;
pub mod down;
pub mod hold;
pub mod launch;
pub mod liveness;
pub mod logout;
pub mod repair;
pub mod revive;
pub mod up;
