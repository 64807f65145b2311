//! The graph that looks, before a plan's own work starts, whether workers see its files.

use super::dataset::Joined;
use super::tasks::kernel;
use crate::graph::{Builder, Graph};
use crate::kernels::look::Look;
use crate::kernels::tile::arguments;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Directories of inputs that are looked at: a file server shouldn't be asked a million times by each worker.
const MOST_DIRECTORIES: usize = 64;
/// Looks at the same files: so many workers of a large cluster take part.
const MOST_LOOKS: u32 = 64;

/// One input of each directory, and the output.
pub(super) fn look_at(joined: &Joined, temporary: PathBuf) -> Look {
    let mut seen = HashSet::new();
    let mut first_there = |path: &str| seen.insert(Path::new(path).parent().map(Path::to_owned));
    let firsts = joined.files.iter().filter(|file| first_there(&file.path));
    Look { inputs: firsts.take(MOST_DIRECTORIES).cloned().collect(), temporary }
}

/// As many looks as there are workers, so that an idle cluster does one on each. To be run after [`super::begin`].
pub fn look_graph(look: &Look, workers: u32) -> Graph {
    let mut builder = Builder::new();
    let op = builder.op(kernel("array.look", look));
    for number in 0..workers.clamp(1, MOST_LOOKS) {
        builder.task(op, &arguments(&[u64::from(number)]), &[]);
    }
    builder.build().expect("a few tasks without dependencies are a graph")
}
