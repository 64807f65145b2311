//! The program as users drive it, from `up` to `down`, on the embedded queue: real processes, real links, TLS on.
//!
//! Every story has a world of its own (`support::sandbox`), so they run side by side.

#[path = "../support/mod.rs"]
mod support;

mod bringing;
mod damage;
mod environment;
mod graphs;
mod losses;
mod outputs;
mod resources;
mod rest;
mod restarts;
mod scheduler_jobs;
mod state;
mod strangers;
mod tasks;
mod why;
