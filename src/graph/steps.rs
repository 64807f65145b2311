//! A column of numbers as bytes inside a message or a record: their count, then each as the difference to the one before
//! it. Ends ascend and neighbours resemble each other, so most take one byte.

use super::numbers::{Reader, Writer};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serializer};
use std::fmt;

/// For `#[serde(with = ..)]`.
///
/// # Errors
/// The format's own.
pub fn serialize<S: Serializer>(column: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
    let mut writer = Writer::with_capacity(column.len() + column.len() / 4 + 8);
    writer.number(column.len() as u64);
    column.iter().for_each(|number| writer.index(*number));
    serializer.serialize_bytes(&writer.into_bytes())
}

/// For `#[serde(with = ..)]`. A list of the format's own, as older journals have it, is read too.
///
/// # Errors
/// Bytes that are no such column.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    deserializer.deserialize_any(Column)
}

struct Column;

impl<'de> Visitor<'de> for Column {
    type Value = Vec<u32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column of numbers")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<u32>, E> {
        read(bytes).ok_or_else(|| E::custom("a column of numbers is damaged"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<u32>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list))
    }
}

fn read(bytes: &[u8]) -> Option<Vec<u32>> {
    let mut reader = Reader::new(bytes);
    let count = reader.count()?;
    let mut column = Vec::with_capacity(count);
    for _ in 0..count {
        column.push(reader.index()?);
    }
    (reader.left() == 0).then_some(column)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(column: &[u32]) -> Vec<u8> {
        rmp_serde::to_vec(&Wrapped { column: column.to_vec() }).unwrap()
    }

    #[derive(PartialEq, Debug, serde::Serialize, Deserialize)]
    struct Wrapped {
        #[serde(with = "super")]
        column: Vec<u32>,
    }

    proptest! {
        #[test]
        fn columns_come_back_also_from_older_journals(column in proptest::collection::vec(any::<u32>(), 0..300)) {
            let read = |bytes: &[u8]| rmp_serde::from_slice::<Wrapped>(bytes).unwrap().column;
            prop_assert_eq!(&read(&written(&column)), &column);
            prop_assert_eq!(&read(&rmp_serde::to_vec(&(&column,)).unwrap()), &column);
        }

        #[test]
        fn harmed_columns_are_refused_or_read_and_never_panic(
            column in proptest::collection::vec(any::<u32>(), 1..40),
            harms in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = written(&column);
            for (place, value) in harms {
                let at = place.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            let _ = rmp_serde::from_slice::<Wrapped>(&bytes);
        }
    }

    #[test]
    fn ends_take_a_byte_each_and_absurd_lengths_reserve_nothing() {
        let ends: Vec<u32> = (1..=100_000).map(|end| end * 17).collect();
        assert!(written(&ends).len() < 100_020);
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]), None);
        assert_eq!(read(&[2, 2, 3]), Some(vec![1, 0]));
        assert_eq!(read(&[1, 3]), None, "below none");
        assert_eq!(read(&[1, 2, 0]), None, "something is left");
    }
}
