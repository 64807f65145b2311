//! A look at a plan's files from where the work is to be done, before it is.

use super::output::{decoded, open_temporary};
use super::source::FileStamp;
use super::{Call, KernelError};
use crate::graph::Value;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a host must see for the plan to be worth starting.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Look {
    /// Some of the inputs: one of each directory.
    pub inputs: Vec<FileStamp>,
    /// The output while it is written. It is there by now.
    pub temporary: PathBuf,
}

/// Fails with what this host doesn't see. The arguments only tell one look from another.
pub(super) fn look(call: &Call<'_>) -> Result<Value, KernelError> {
    let look: Look = decoded(call.params)?;
    for input in &look.inputs {
        input.check()?;
    }
    open_temporary(&look.temporary)?;
    Ok(Value::default())
}
