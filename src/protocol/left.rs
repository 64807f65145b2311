//! What a worker leaves behind when it ends without a scheduler: a file for the next one.

use super::{Completion, WorkerId};
use serde::{Deserialize, Serialize};

/// Version of the file.
const VERSION: u32 = 1;

/// Completions that no scheduler has acknowledged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeftBehind {
    version: u32,
    /// Which life of the cluster their tasks belong to.
    pub life: String,
    pub worker: WorkerId,
    pub completions: Vec<Completion>,
}

impl LeftBehind {
    pub fn new(life: String, worker: WorkerId, completions: Vec<Completion>) -> LeftBehind {
        LeftBehind { version: VERSION, life, worker, completions }
    }

    /// As bytes, at most `limit` of them: what doesn't fit is dropped, the last first. Its tasks run again.
    ///
    /// # Errors
    /// Only values that MessagePack can't hold, which these never are.
    pub fn encode(mut self, limit: usize) -> Result<Vec<u8>, rmp_serde::encode::Error> {
        loop {
            let bytes = rmp_serde::to_vec(&self)?;
            if bytes.len() <= limit || self.completions.is_empty() {
                return Ok(bytes);
            }
            self.completions.truncate(self.completions.len() / 2);
        }
    }

    /// # Errors
    /// Bytes that are none, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<LeftBehind, String> {
        let left: LeftBehind = rmp_serde::from_slice(bytes).map_err(|error| error.to_string())?;
        if left.version > VERSION {
            return Err(format!("it is of version {}, and this program knows {VERSION}", left.version));
        }
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{GraphId, TaskId};
    use crate::protocol::{Epoch, ErrorKind, Execution, Outcome, TaskError};

    #[test]
    fn as_much_is_kept_as_fits() {
        let completion = |index| Completion {
            execution: Execution { task: TaskId { graph: GraphId(1), index }, epoch: Epoch(1), attempt: 1 },
            nanos: 1,
            outcome: Outcome::Erred {
                error: TaskError { kind: ErrorKind::Exit(1), message: "x".repeat(1000) },
                result: None,
            },
        };
        let worker = WorkerId { name: "w1".into(), incarnation: 2 };
        let left = LeftBehind::new("life".into(), worker, (0..8).map(completion).collect());
        let whole = left.clone().encode(1 << 20).unwrap();
        assert_eq!(LeftBehind::decode(&whole).unwrap(), left);
        let half = LeftBehind::decode(&left.clone().encode(5000).unwrap()).unwrap();
        assert_eq!(half.completions, left.completions[..4]);
        let newer = rmp_serde::to_vec(&LeftBehind { version: VERSION + 1, ..left }).unwrap();
        assert!(LeftBehind::decode(&newer).unwrap_err().contains("version 2"));
    }
}
