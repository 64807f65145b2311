//! Bringing a cluster up and down.

pub mod down;
pub mod launch;
pub mod liveness;
pub mod revive;
pub mod up;
