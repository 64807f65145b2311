//! Between whoever fetches values and the worker that holds them.

use crate::graph::TaskId;
use serde::{Deserialize, Serialize};

/// Asks for values; answered one by one, in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PeerRequest {
    Get(Vec<TaskId>),
}

/// The answer for one value; its buffers are those of the frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PeerReply {
    Value {
        task: TaskId,
        #[serde(with = "serde_bytes")]
        header: Vec<u8>,
    },
    Missing(TaskId),
}
