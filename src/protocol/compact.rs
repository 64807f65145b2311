//! Lists of which every task has an entry, as bytes of their own inside a message: MessagePack would name the field of
//! each entry, and its tasks are mostly neighbours.
//!
//! A list is its length and its entries, in [`numbers`](crate::graph::numbers). What is rare in an entry is MessagePack
//! after its length.

use super::{Assignment, Completion, Epoch, Execution, Outcome, Source, WorkerIndex};
use crate::graph::numbers::{Reader, Writer};
use crate::graph::{GraphId, TaskId};
use serde::de::{DeserializeOwned, Visitor};
use serde::ser::Error as _;
use serde::{Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// For `#[serde(with = ..)]`.
///
/// # Errors
/// Values that MessagePack can't hold, which our types never are.
pub fn serialize<T: Entry, S: Serializer>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    let mut writer = Writer::with_capacity(16 * list.len() + 8);
    writer.number(list.len() as u64);
    for entry in list {
        entry.write(&mut writer).map_err(S::Error::custom)?;
    }
    serializer.serialize_bytes(&writer.into_bytes())
}

/// For `#[serde(with = ..)]`.
///
/// # Errors
/// Bytes that are no such list.
pub fn deserialize<'de, T: Entry, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_bytes(List(PhantomData))
}

struct List<T>(PhantomData<T>);

impl<T: Entry> Visitor<'_> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list as bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<T>, E> {
        list(bytes).ok_or_else(|| E::custom("a list of tasks is damaged"))
    }
}

fn list<T: Entry>(bytes: &[u8]) -> Option<Vec<T>> {
    let mut reader = Reader::new(bytes);
    let list = many(&mut reader, T::read)?;
    (reader.left() == 0).then_some(list)
}

/// What such a list has.
pub trait Entry: Sized {
    /// # Errors
    /// A part that MessagePack can't hold.
    fn write(&self, writer: &mut Writer) -> Result<(), rmp_serde::encode::Error>;

    /// `None`: the bytes are none.
    fn read(reader: &mut Reader<'_>) -> Option<Self>;
}

/// A value in MessagePack, after its length.
///
/// # Errors
/// A value that MessagePack can't hold.
pub fn pack(writer: &mut Writer, value: &impl Serialize) -> Result<(), rmp_serde::encode::Error> {
    writer.bytes(&rmp_serde::to_vec(value)?);
    Ok(())
}

/// What [`pack`] wrote; `None`: the bytes are none.
pub fn unpack<T: DeserializeOwned>(reader: &mut Reader<'_>) -> Option<T> {
    rmp_serde::from_slice(reader.bytes()?).ok()
}

impl Entry for TaskId {
    fn write(&self, writer: &mut Writer) -> Result<(), rmp_serde::encode::Error> {
        writer.number(u64::from(self.graph.0));
        writer.index(self.index);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Option<TaskId> {
        Some(TaskId { graph: GraphId(reader.small()?), index: reader.index()? })
    }
}

impl Entry for Execution {
    fn write(&self, writer: &mut Writer) -> Result<(), rmp_serde::encode::Error> {
        self.task.write(writer)?;
        writer.number(u64::from(self.epoch.0));
        writer.number(u64::from(self.attempt));
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Option<Execution> {
        let task = TaskId::read(reader)?;
        Some(Execution { task, epoch: Epoch(reader.small()?), attempt: reader.small()? })
    }
}

impl Entry for Completion {
    fn write(&self, writer: &mut Writer) -> Result<(), rmp_serde::encode::Error> {
        self.execution.write(writer)?;
        writer.number(self.nanos);
        match &self.outcome {
            Outcome::Held { nbytes } => {
                writer.number(0);
                writer.number(*nbytes);
                Ok(())
            }
            outcome => {
                writer.number(1);
                pack(writer, outcome)
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Option<Completion> {
        let (execution, nanos) = (Execution::read(reader)?, reader.number()?);
        let outcome = match reader.number()? {
            0 => Outcome::Held { nbytes: reader.number()? },
            1 => unpack(reader)?,
            _ => return None,
        };
        Some(Completion { execution, nanos, outcome })
    }
}

impl Entry for Assignment {
    fn write(&self, writer: &mut Writer) -> Result<(), rmp_serde::encode::Error> {
        self.execution.write(writer)?;
        writer.number(u64::from(self.op));
        writer.bytes(&self.args);
        writer.number(self.priority);
        match &self.name {
            None => writer.number(0),
            Some(name) => {
                writer.number(1);
                writer.bytes(name.as_bytes());
            }
        }
        writer.number(self.inputs.len() as u64);
        // The next entry is this one's neighbour, and not its inputs'.
        let index = writer.index;
        for (task, source) in &self.inputs {
            task.write(writer)?;
            match source {
                Source::Peers(peers) => {
                    writer.number(1 + peers.len() as u64);
                    peers.iter().for_each(|peer| writer.number(u64::from(peer.0)));
                }
                Source::Inline(value) => {
                    writer.number(0);
                    pack(writer, value)?;
                }
            }
        }
        writer.index = index;
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Option<Assignment> {
        let (execution, op) = (Execution::read(reader)?, reader.small()?);
        let (args, priority) = (reader.bytes()?.into(), reader.number()?);
        let name = match reader.number()? {
            0 => None,
            1 => Some(String::from_utf8(reader.bytes()?.to_vec()).ok()?),
            _ => return None,
        };
        let index = reader.index;
        let inputs = many(reader, |reader| {
            let task = TaskId::read(reader)?;
            let source = match reader.number()?.checked_sub(1) {
                None => Source::Inline(unpack(reader)?),
                Some(peers) => {
                    let peer = |reader: &mut Reader<'_>| Some(WorkerIndex(reader.small()?));
                    Source::Peers(repeat(reader, peers, peer)?.into())
                }
            };
            Some((task, source))
        })?;
        reader.index = index;
        Some(Assignment { execution, op, args, name, inputs, priority })
    }
}

fn many<T>(reader: &mut Reader<'_>, one: impl FnMut(&mut Reader<'_>) -> Option<T>) -> Option<Vec<T>> {
    let count = reader.number()?;
    repeat(reader, count, one)
}

/// So many of them; each takes a byte at least.
fn repeat<T>(
    reader: &mut Reader<'_>,
    count: u64,
    mut one: impl FnMut(&mut Reader<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let count = usize::try_from(count).ok().filter(|count| *count <= reader.left())?;
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        list.push(one(reader)?);
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::super::{
        ErrorKind, FromWorker, MissingInput, StoredValue, TaskError, ToWorker, decode, encode,
    };
    use super::*;
    use proptest::prelude::*;

    fn any_task() -> impl Strategy<Value = TaskId> {
        (any::<u32>(), any::<u32>()).prop_map(|(graph, index)| TaskId { graph: GraphId(graph), index })
    }

    fn any_execution() -> impl Strategy<Value = Execution> {
        let numbers = (any_task(), any::<u32>(), any::<u32>());
        numbers.prop_map(|(task, epoch, attempt)| Execution { task, epoch: Epoch(epoch), attempt })
    }

    fn any_missing() -> impl Strategy<Value = MissingInput> {
        let workers = || proptest::collection::vec(any::<u32>().prop_map(WorkerIndex), 0..3);
        let missing = (any_task(), workers(), workers());
        missing.prop_map(|(task, denied, unreachable)| MissingInput { task, denied, unreachable })
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        let error = TaskError { kind: ErrorKind::Exit(1), message: "it failed".into() };
        prop_oneof![
            any::<u64>().prop_map(|nbytes| Outcome::Held { nbytes }),
            Just(Outcome::Cancelled),
            Just(Outcome::Erred { error, result: Some(Box::default()) }),
            proptest::collection::vec(any_missing(), 0..3).prop_map(Outcome::InputsMissing),
        ]
    }

    fn any_source() -> impl Strategy<Value = Source> {
        let value = StoredValue { header: vec![1, 2], buffers: vec![vec![3; 300].into()] };
        prop_oneof![
            proptest::collection::vec(any::<u32>().prop_map(WorkerIndex), 0..6)
                .prop_map(|peers| Source::Peers(peers.into())),
            Just(Source::Inline(Box::new(value))),
        ]
    }

    fn any_assignment() -> impl Strategy<Value = Assignment> {
        let inputs = proptest::collection::vec((any_task(), any_source()), 0..4);
        let args = proptest::collection::vec(any::<u8>(), 0..300);
        (any_execution(), any::<u32>(), args, proptest::option::of(".{0,5}"), inputs, any::<u64>()).prop_map(
            |(execution, op, args, name, inputs, priority)| Assignment {
                execution,
                op,
                args: args.into(),
                name,
                inputs,
                priority,
            },
        )
    }

    proptest! {
        #[test]
        fn lists_come_back_as_they_were(
            assignments in proptest::collection::vec(any_assignment(), 0..8),
            ends in proptest::collection::vec((any_execution(), any::<u64>(), any_outcome()), 0..8),
            tasks in proptest::collection::vec(any_task(), 0..8),
        ) {
            let completions = ends.into_iter().map(|(execution, nanos, outcome)| Completion { execution, nanos, outcome });
            let said = [FromWorker::Finished(completions.collect())];
            prop_assert_eq!(decode::<FromWorker>(&encode(&said).unwrap()).unwrap(), said);
            let executions = assignments.iter().map(|assignment| assignment.execution).collect();
            let said = [ToWorker::Compute(assignments), ToWorker::Cancel(executions), ToWorker::Free(tasks)];
            prop_assert_eq!(decode::<ToWorker>(&encode(&said).unwrap()).unwrap(), said);
        }

        #[test]
        fn harmed_lists_are_refused_or_read_and_never_panic(
            assignments in proptest::collection::vec(any_assignment(), 1..4),
            harms in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode(&[ToWorker::Compute(assignments)]).unwrap();
            for (place, value) in harms {
                let at = place.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            let _ = decode::<ToWorker>(&bytes);
        }
    }

    #[test]
    fn neighbours_take_a_few_bytes_each() {
        let completion = |index| {
            let task = TaskId { graph: GraphId(7), index };
            let execution = Execution { task, epoch: Epoch(1), attempt: 1 };
            Completion { execution, nanos: 900, outcome: Outcome::Held { nbytes: 8 } }
        };
        let bytes =
            encode(&[FromWorker::Finished((1_000_000..1_001_000).map(completion).collect())]).unwrap();
        assert!(bytes.len() < 9 * 1000, "{} bytes", bytes.len());
    }

    #[test]
    fn absurd_lengths_reserve_nothing() {
        for bytes in
            [&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1][..], &[5], &[1, 0, 0, 1, 1, 0], b""]
        {
            assert!(list::<Execution>(bytes).is_none(), "{bytes:?}");
        }
        assert_eq!(list::<TaskId>(&[1, 7, 6]), Some(vec![TaskId { graph: GraphId(7), index: 3 }]));
        assert_eq!(list::<TaskId>(&[1, 7, 7]), None, "before the first task");
        assert_eq!(list::<TaskId>(&[1, 7, 6, 0]), None, "something is left");
    }
}
