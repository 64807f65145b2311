//! The wind product end to end, through the real program: the same bytes on threads, on the local queue, on Slurm and
//! when a worker is killed; and everything that can be wrong with its inputs, its output and its workers.

#[path = "../support/arrays.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod arrays;
mod reference;
mod refusals;
mod site;
mod study;
#[path = "../support/mod.rs"]
mod support;
