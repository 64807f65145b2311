//! Names: a graph is `g7`, its twelfth task `g7.12`, and a task may have a name of the user's besides.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The number of a graph within its cluster. Never reused, so it is also the generation of its tasks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GraphId(pub u32);

/// A task: its graph and its dense index there (from 0; people see it from 1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TaskId {
    pub graph: GraphId,
    pub index: u32,
}

impl fmt::Display for GraphId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.graph, u64::from(self.index) + 1)
    }
}

/// What a user may write to name tasks.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Key {
    /// `g7`: every task of the graph.
    Graph(GraphId),
    /// `g7.12`: one task.
    Task(TaskId),
    /// A name given with `submit --key`.
    Named(String),
}

/// Why a text is no key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    #[error("a key can't be empty")]
    Empty,
    #[error("key '{0}' is longer than {max} bytes", max = Key::MAX_BYTES)]
    TooLong(String),
    #[error("key '{0}' has a blank or a control character: use letters, digits and - _ . : / + = @ %")]
    BadCharacter(String),
    #[error("'{0}' is out of range: tasks count from 1, and neither number passes 4294967295")]
    OutOfRange(String),
}

impl Key {
    /// Longest user-given name: fits any file name with a suffix.
    pub const MAX_BYTES: usize = 200;

    /// The name itself, if it may be given to a task: not empty, printable, and not of the form `g7` or `g7.12`.
    ///
    /// # Errors
    /// [`KeyError`] says what is wrong with it.
    pub fn named(text: &str) -> Result<String, KeyError> {
        match text.parse()? {
            Key::Named(name) => Ok(name),
            Key::Graph(_) | Key::Task(_) => Err(KeyError::OutOfRange(text.to_owned())),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Graph(graph) => graph.fmt(f),
            Key::Task(task) => task.fmt(f),
            Key::Named(name) => name.fmt(f),
        }
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(KeyError::TooLong(text.to_owned()));
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(KeyError::BadCharacter(text.to_owned()));
        }
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let out_of_range = || KeyError::OutOfRange(text.to_owned());
        let Some(rest) = text.strip_prefix('g') else { return Ok(Key::Named(text.to_owned())) };
        match rest.split_once('.') {
            None if digits(rest) => Ok(Key::Graph(GraphId(rest.parse().map_err(|_| out_of_range())?))),
            Some((graph, task)) if digits(graph) && digits(task) => {
                let graph = GraphId(graph.parse().map_err(|_| out_of_range())?);
                let number: u64 = task.parse().map_err(|_| out_of_range())?;
                let index = number.checked_sub(1).and_then(|n| u32::try_from(n).ok());
                Ok(Key::Task(TaskId { graph, index: index.ok_or_else(out_of_range)? }))
            }
            _ => Ok(Key::Named(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_as_they_are_written() {
        for key in [
            Key::Graph(GraphId(7)),
            Key::Task(TaskId { graph: GraphId(7), index: 11 }),
            Key::Task(TaskId { graph: GraphId(u32::MAX), index: u32::MAX }),
            Key::Named("mean/2026-11".into()),
            Key::Named("g7.x".into()),
        ] {
            assert_eq!(key.to_string().parse::<Key>().unwrap(), key);
        }
        assert_eq!(Key::Task(TaskId { graph: GraphId(7), index: 11 }).to_string(), "g7.12");
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_reason() {
        assert_eq!("".parse::<Key>(), Err(KeyError::Empty));
        assert!(matches!("a b".parse::<Key>(), Err(KeyError::BadCharacter(_))));
        assert!(matches!("g7.0".parse::<Key>(), Err(KeyError::OutOfRange(_))));
        assert!(matches!("g99999999999".parse::<Key>(), Err(KeyError::OutOfRange(_))));
        assert!(matches!(Key::named("g7"), Err(KeyError::OutOfRange(_))));
        assert!(matches!("x".repeat(201).parse::<Key>(), Err(KeyError::TooLong(_))));
    }
}
