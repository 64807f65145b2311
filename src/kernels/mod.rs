//! Native operations on chunks: pure functions by name. Adding one is a function and a line in [`lookup`].

pub mod accumulate;
mod block;
pub mod directory;
pub mod look;
pub mod math;
pub mod output;
pub mod probe;
pub mod program;
pub mod source;
pub mod stage;
pub mod tile;
pub mod zarr;

use crate::graph::Value;

/// One call of a kernel.
pub struct Call<'a> {
    /// The operation's parameters, shared by all tasks that have it (MessagePack).
    pub params: &'a [u8],
    /// This task's own argument bytes.
    pub args: &'a [u8],
    /// The values of its dependencies, in their order.
    pub inputs: &'a [Value],
}

/// A native operation. It may run twice, and on any worker: the same call gives the same bytes, and an effect on
/// a file is such that a repeat changes nothing.
pub type Kernel = fn(&Call<'_>) -> Result<Value, KernelError>;

/// Why a kernel failed: a message for a person, naming the file or variable.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct KernelError {
    pub message: String,
}

impl KernelError {
    pub fn new(message: impl Into<String>) -> KernelError {
        KernelError { message: message.into() }
    }
}

/// The kernel of that name.
pub fn lookup(name: &str) -> Option<Kernel> {
    match name {
        "echo" => Some(echo),
        "array.look" => Some(look::look),
        probe::SUM => Some(probe::sum),
        "array.tile" => Some(tile::tile),
        "array.partial" => Some(tile::partial),
        "array.merge" => Some(tile::merge),
        "array.finish" => Some(tile::finish),
        "array.sizes" => Some(output::sizes),
        "array.layout" => Some(output::layout),
        "array.write" => Some(output::write),
        "array.close" => Some(output::close),
        "zarr.write" => Some(zarr::write),
        "zarr.close" => Some(zarr::close),
        _ => None,
    }
}

/// Returns its arguments: for trying out and measuring.
fn echo(call: &Call<'_>) -> Result<Value, KernelError> {
    Ok(Value::bytes(call.args.to_vec()))
}
