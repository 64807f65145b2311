//! Lazy task graphs as data: keys, operations, values, and the columns a graph travels in.
//!
//! Pure: nothing here knows of sockets, files, processes or clocks. A [`Graph`] is checked once, when it
//! enters (`Graph::check`), and can be relied on afterwards.

mod columns;
mod id;
mod numbers;
mod op;
mod value;

pub use columns::{Builder, Columns, Graph, GraphError, MAX_ARGS_BYTES, MAX_TASKS};
pub use id::{GraphId, Key, KeyError, TaskId};
pub use op::{CommandSpec, EnvSource, Op, OutputSpec, Resources};
pub use value::{CommandResult, Value};
