//! Lazy labelled arrays: netCDF files opened as one dataset, expressions over its variables, and the graph of
//! kernels that computes them tile by tile into one netCDF-4 file or Zarr store.
//!
//! | module | what it does |
//! |---|---|
//! | [`inputs`] | globs -> paths |
//! | [`dataset`] | files -> one dataset of long variables, metadata only |
//! | [`published`] | a dataset as a chunk table, with statements of its own |
//! | [`summary`] | what `open` shows of it |
//! | [`expression`] | `name = expr` -> checked nodes, errors with a caret |
//! | [`attributes`] | which attributes results have |
//! | [`stages`] | nodes -> stages: what one task computes, and in which tiles |
//! | [`program`] | nodes -> register programs |
//! | [`output`] | the file to be written: coordinates, attributes, chunks |
//! | `tasks` | stages -> a graph of kernels |
//! | [`compute`] | all of it: a request -> a graph that writes a file |
//! | [`mod@pin`] | the same, but workers keep the results |
//! | `look` | the graph that first looks whether workers see the files |

pub mod attributes;
pub mod compute;
pub mod dataset;
pub mod expression;
pub mod inputs;
mod look;
pub mod output;
pub mod pin;
pub mod program;
pub mod published;
pub mod stages;
pub mod summary;
mod tasks;
mod variable;

pub use compute::{ComputeRequest, Plan, begin, discard, plan};
pub use dataset::{Joined, open};
pub use look::look_graph;
pub use pin::{Pinned, pin};
pub use published::{Held, Published};

use expression::ExpressionError;

/// Paths travel in plans as text.
const NOT_UTF8: &str = "the path is not UTF-8, and can't be told to workers";

/// Why arrays can't be opened or computed.
#[derive(Debug, thiserror::Error)]
pub enum ArrayError {
    /// A mistake in what was typed: a statement, a chunk size, a name.
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    #[error("{0}")]
    Usage(String),
    /// An input can't be read, or doesn't fit the others. Names the file.
    #[error("{0}")]
    Input(String),
    /// The output can't be written where it should be. Names the file.
    #[error("{0}")]
    Output(String),
}
