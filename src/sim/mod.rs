//! The whole cluster in one deterministic, seeded event loop: real scheduler and worker cores over a fake network,
//! journal, batch system, runners and clients, with faults.
//!
//! A run has two phases. In the first, faults strike as their probabilities, drawn from the seed, say. Then the world
//! heals, and everything must come to rest: every acknowledged task settled, every value what a direct evaluation
//! gives, every command run as often as it may, every output placed once. Throughout, `check()` of the cores holds,
//! and what leaves the scheduler is judged by what is durable at that moment.
//!
//! There may be several schedulers at a time: one that serves, others that claim, and some that were stopped, cut off
//! from the state directory or said to be over, were superseded, and wake up with things left to do. In some runs they
//! are in batch jobs that end, and hand over to successors that they ask for. The state directory is a model of what
//! the file server does: links of epochs and fences, the lease's counter, the contact file, and the journal's files in
//! the journal's own format, snapshots included: what counts of them the journal's reader tells.
//!
//! What it doesn't have: TLS, frames that arrive in pieces, memory limits and spilling.

mod batch;
mod breath;
mod claim;
mod client;
mod compaction;
mod contact;
mod deaths;
mod disk;
mod ending;
mod faults;
mod folder;
mod graphs;
mod happening;
mod host;
mod journal;
mod judge;
mod letters;
mod net;
mod random;
mod relay;
mod relieve;
mod report;
mod runners;
mod server;
mod shelf;
mod start;
mod steps;
mod truth;
mod world;

use crate::scheduler::record::Record;
pub use report::{EXPECTED, Failure, Report};

/// Nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// What kind of run it is; everything else follows from the seed.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether graphs have commands, or kernels and data only.
    pub commands: bool,
    /// Whether schedulers are killed, stopped and superseded.
    pub restarts: bool,
    /// Keep the last lines of what happened.
    pub trace: bool,
    /// A defect put between the cores and the world, to see that it is caught.
    pub plant: Option<Plant>,
}

impl Default for Config {
    fn default() -> Self {
        Config { commands: true, restarts: true, trace: false, plant: None }
    }
}

/// Defects that a simulation worth its name must catch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// What must wait for the journal leaves for workers at once.
    ActBeforeDurable,
    /// Clients are answered before the journal has what they are told.
    AnswerBeforeDurable,
    /// A lost worker's commands are taken for dead at once.
    AssignTwice,
    /// Values go as soon as the core knows that nobody needs them: it is told that everything is durable.
    FreeEarly,
    /// A report of an older attempt passes for one of the current attempt.
    TakeStaleAttempt,
    /// A scheduler that was stopped goes on where it was, without a look at its fence or its clock.
    SendUnfenced,
    /// Clients are answered once the journal is synced, before the fence is checked.
    AnswerUnfenced,
    /// A new scheduler takes commands that may be running for dead.
    PlaceBeforeWindow,
    /// What a snapshot stands for is removed without a look at the fence.
    RemoveUnfenced,
    /// A new scheduler reads the journal before it fells the fences of those before it.
    ReadUnfenced,
    /// A scheduler that lets go gives its lease up before what it took is on disk.
    LetGoUnwritten,
    /// A scheduler that has told who takes over takes requests as before.
    ServeOn,
}

/// What the schedulers of this seed's cluster journalled, as one life after the other had it.
///
/// # Errors
/// As [`run`].
///
/// # Panics
/// As [`run`].
pub fn journal(seed: u64, config: &Config) -> Result<Vec<Record>, Failure> {
    let mut world = world::World::new(seed, config.clone());
    world.run_through()?;
    Ok(world.disk.records())
}

/// Runs the cluster of this seed from its start to its end.
///
/// # Errors
/// A promise that was broken, with the last lines of the trace if it was asked for.
///
/// # Panics
/// If `check()` of a core fails; the trace is printed then.
pub fn run(seed: u64, config: &Config) -> Result<Report, Failure> {
    world::World::new(seed, config.clone()).run()
}
