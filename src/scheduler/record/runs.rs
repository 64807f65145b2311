//! Lists of executions, and of what became of them, as bytes of their own inside a record: most of what is journalled.
//! A batch's tasks mostly have the graph, the epoch and the attempt in common, and are neighbours.
//!
//! ```text
//! list     number of entries | run | run | ...
//! run      number of entries in it, 1 at least | graph | epoch | attempt | shape | entry | ...
//! entry    index of the task | what the shape has
//! bare     nothing                                                                      shape 0
//! held     nbytes | nanos                                                               shape 1
//! stored   nanos | length, header | number of buffers | length, buffer | ...            shape 2
//! other    length, a `Fate` in MessagePack                                              shape 3
//! ```
//!
//! All in [`numbers`](crate::graph::numbers). Before version 3 of the records a list was MessagePack's own, which is
//! told apart by its first byte and still read.

use super::Fate;
use crate::graph::numbers::{Reader, Writer};
use crate::graph::{GraphId, TaskId};
use crate::protocol::compact::{pack, unpack};
use crate::protocol::{Epoch, Execution, StoredValue};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// What most entries take at most.
const ENTRY_BYTES: usize = 8;

/// For `#[serde(with = ..)]`.
///
/// # Errors
/// Values that MessagePack can't hold, which our types never are.
pub fn serialize<T: Entry, S: Serializer>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    let bytes = write(list).map_err(S::Error::custom)?;
    serializer.serialize_bytes(&bytes)
}

/// For `#[serde(with = ..)]`.
///
/// # Errors
/// Neither such bytes nor a list as older versions have it.
pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Entry + Deserialize<'de>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_any(List(PhantomData))
}

struct List<T>(PhantomData<T>);

impl<'de, T: Entry + Deserialize<'de>> Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of executions")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<T>, E> {
        read(bytes).ok_or_else(|| E::custom("a list of executions is damaged"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list))
    }
}

/// What such a list has.
pub trait Entry: Sized {
    fn execution(&self) -> Execution;

    fn shape(&self) -> Shape;

    /// Tells what the shape has.
    ///
    /// # Errors
    /// A part that MessagePack can't hold.
    fn write(&self, writer: &mut Writer) -> Result<(), rmp_serde::encode::Error>;

    /// `None`: the bytes are none of that shape, or the list has none of that shape.
    fn read(execution: Execution, shape: Shape, reader: &mut Reader<'_>) -> Option<Self>;
}

/// How an entry is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    Bare = 0,
    Held = 1,
    Stored = 2,
    Other = 3,
}

impl Shape {
    fn of_number(number: u64) -> Option<Shape> {
        let shapes = [Shape::Bare, Shape::Held, Shape::Stored, Shape::Other];
        shapes.get(usize::try_from(number).ok()?).copied()
    }
}

fn write<T: Entry>(list: &[T]) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    let mut writer = Writer::with_capacity(ENTRY_BYTES * list.len() + 16);
    writer.number(list.len() as u64);
    let common = |entry: &T| {
        let Execution { task, epoch, attempt } = entry.execution();
        (task.graph, epoch, attempt, entry.shape())
    };
    let mut rest = list;
    while let Some(first) = rest.first() {
        let shared = common(first);
        let length = rest.iter().position(|entry| common(entry) != shared).unwrap_or(rest.len());
        let (run, later) = rest.split_at(length);
        rest = later;
        let (graph, epoch, attempt, shape) = shared;
        for number in [run.len() as u64, graph.0.into(), epoch.0.into(), attempt.into(), shape as u64] {
            writer.number(number);
        }
        for entry in run {
            writer.index(entry.execution().task.index);
            entry.write(&mut writer)?;
        }
    }
    Ok(writer.into_bytes())
}

fn read<T: Entry>(bytes: &[u8]) -> Option<Vec<T>> {
    let mut reader = Reader::new(bytes);
    let count = reader.count()?;
    let mut list = Vec::with_capacity(count);
    while list.len() < count {
        let length = reader.count().filter(|length| (1..=count - list.len()).contains(length))?;
        let graph = GraphId(reader.small()?);
        let (epoch, attempt) = (Epoch(reader.small()?), reader.small()?);
        let shape = Shape::of_number(reader.number()?)?;
        for _ in 0..length {
            let task = TaskId { graph, index: reader.index()? };
            list.push(T::read(Execution { task, epoch, attempt }, shape, &mut reader)?);
        }
    }
    (reader.left() == 0).then_some(list)
}

impl Entry for Execution {
    fn execution(&self) -> Execution {
        *self
    }

    fn shape(&self) -> Shape {
        Shape::Bare
    }

    fn write(&self, _: &mut Writer) -> Result<(), rmp_serde::encode::Error> {
        Ok(())
    }

    fn read(execution: Execution, shape: Shape, _: &mut Reader<'_>) -> Option<Execution> {
        (shape == Shape::Bare).then_some(execution)
    }
}

impl Entry for (Execution, Fate) {
    #[inline]
    fn execution(&self) -> Execution {
        self.0
    }

    #[inline]
    fn shape(&self) -> Shape {
        match self.1 {
            Fate::Held { .. } => Shape::Held,
            Fate::Stored { .. } => Shape::Stored,
            _ => Shape::Other,
        }
    }

    #[inline]
    fn write(&self, writer: &mut Writer) -> Result<(), rmp_serde::encode::Error> {
        match &self.1 {
            Fate::Held { nbytes, nanos } => {
                writer.number(*nbytes);
                writer.number(*nanos);
            }
            Fate::Stored { result, nanos } => {
                writer.number(*nanos);
                writer.bytes(&result.header);
                writer.number(result.buffers.len() as u64);
                result.buffers.iter().for_each(|buffer| writer.bytes(buffer));
            }
            fate => pack(writer, fate)?,
        }
        Ok(())
    }

    #[inline]
    fn read(execution: Execution, shape: Shape, reader: &mut Reader<'_>) -> Option<(Execution, Fate)> {
        let fate = match shape {
            Shape::Bare => return None,
            Shape::Held => Fate::Held { nbytes: reader.number()?, nanos: reader.number()? },
            Shape::Stored => {
                let (nanos, header) = (reader.number()?, reader.bytes()?.to_vec());
                let count = reader.count()?;
                let mut buffers = Vec::new();
                for _ in 0..count {
                    buffers.push(reader.bytes()?.to_vec().into());
                }
                Fate::Stored { result: Box::new(StoredValue { header, buffers }), nanos }
            }
            Shape::Other => unpack(reader)?,
        };
        Some((execution, fate))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KIND, Record, VERSION};
    use super::*;
    use crate::protocol::{ErrorKind, PendingOutput, TaskError, WorkerId};
    use proptest::prelude::*;
    use serde::Serialize;

    /// Records as they were written before version 3.
    #[derive(Serialize)]
    enum Older {
        Assigned { worker: WorkerId, executions: Vec<Execution> },
        Fates(Vec<(Execution, Fate)>),
    }

    /// Mostly neighbours of few graphs and attempts, as in a journal.
    fn any_execution() -> impl Strategy<Value = Execution> {
        let index = prop_oneof![0..50_u32, any::<u32>()];
        (1..3_u32, index, 1..3_u32, prop_oneof![Just(1), any::<u32>()]).prop_map(
            |(graph, index, epoch, attempt)| {
                let task = TaskId { graph: GraphId(graph), index };
                Execution { task, epoch: Epoch(epoch), attempt }
            },
        )
    }

    fn any_result() -> impl Strategy<Value = Box<StoredValue>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        (bytes(), proptest::collection::vec(bytes(), 0..3)).prop_map(|(header, buffers)| {
            let buffers = buffers.into_iter().map(Into::into).collect();
            Box::new(StoredValue { header, buffers })
        })
    }

    fn any_fate() -> impl Strategy<Value = Fate> {
        let outputs = vec![PendingOutput { temporary: "/out.tmp".into(), target: "/out".into() }];
        let error = TaskError { kind: ErrorKind::Exit(1), message: "it failed".into() };
        prop_oneof![
            4 => (0..9_u64, any::<u64>()).prop_map(|(nbytes, nanos)| Fate::Held { nbytes, nanos }),
            2 => (any_result(), any::<u64>()).prop_map(|(result, nanos)| Fate::Stored { result, nanos }),
            1 => any_result().prop_map(move |result| Fate::Accepted {
                outputs: outputs.clone(),
                result,
                nanos: 7,
            }),
            1 => proptest::option::of(any_result())
                .prop_map(move |result| Fate::Erred { error: error.clone(), result }),
            1 => Just(Fate::Retried),
            1 => Just(Fate::Cancelled),
        ]
    }

    fn any_fates(most: usize) -> impl Strategy<Value = Vec<(Execution, Fate)>> {
        proptest::collection::vec((any_execution(), any_fate()), 0..most)
    }

    proptest! {
        #[test]
        fn lists_come_back_also_from_older_journals(
            fates in any_fates(60),
            executions in proptest::collection::vec(any_execution(), 0..60),
        ) {
            let worker = WorkerId { name: "w1".into(), incarnation: 1 };
            let older = Older::Assigned { worker: worker.clone(), executions: executions.clone() };
            let pairs = [
                (Record::Assigned { worker, executions }, older),
                (Record::Fates(fates.clone()), Older::Fates(fates)),
            ];
            for (record, older) in pairs {
                let body = record.encode().unwrap();
                prop_assert_eq!(Record::decode(KIND, VERSION, &body), Ok(record.clone()));
                let body = rmp_serde::to_vec(&older).unwrap();
                for version in [1, 2] {
                    prop_assert_eq!(Record::decode(KIND, version, &body), Ok(record.clone()));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10_000) })]

        #[test]
        fn harmed_lists_are_refused_or_read_and_never_panic(
            fates in any_fates(12),
            harms in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = write(&fates).unwrap();
            for (place, value) in harms {
                let at = place.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Some(list) = read::<(Execution, Fate)>(&bytes) {
                prop_assert!(list.len() <= bytes.len());
            }
            let _ = read::<Execution>(&bytes);
        }
    }

    #[test]
    fn a_kernel_among_its_neighbours_takes_five_bytes() {
        let fate = |index| {
            let task = TaskId { graph: GraphId(7), index };
            let execution = Execution { task, epoch: Epoch(1), attempt: 1 };
            (execution, Fate::Held { nbytes: 8, nanos: 900_000 })
        };
        let fates: Vec<_> = (1_000_000..1_001_000).map(fate).collect();
        let body = Record::Fates(fates).encode().unwrap();
        assert!(body.len() < 5_030, "{} bytes", body.len());
    }

    #[test]
    fn what_no_list_is_reserves_nothing_and_is_refused() {
        let run = |count, length| [count, length, 7, 1, 1, 0, 2];
        let task = TaskId { graph: GraphId(7), index: 1 };
        assert_eq!(read(&run(1, 1)), Some(vec![Execution { task, epoch: Epoch(1), attempt: 1 }]));
        for (count, length) in [(1, 0), (1, 2), (2, 1), (0, 0), (0x7f, 1)] {
            assert_eq!(read::<Execution>(&run(count, length)), None, "{length} of {count}");
        }
        assert_eq!(read::<(Execution, Fate)>(&run(1, 1)), None, "fates aren't bare");
        assert_eq!(read::<Execution>(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1, 7, 1, 1, 0, 2]), None);
        assert_eq!(read::<Execution>(b""), None);
    }
}
