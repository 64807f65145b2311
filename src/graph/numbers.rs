//! A column of numbers as bytes: each is told as the difference to the one before it, which is mostly small. In groups
//! of seven bits, the lowest first, all but a number's last with the eighth bit set; the sign is in the lowest bit.

use serde::de::{SeqAccess, Visitor};
use serde::{Deserializer, Serializer};
use std::fmt;

/// For `#[serde(with = ..)]`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(numbers: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(&encode(numbers))
}

/// For `#[serde(with = ..)]`. Plain lists are read too: so they were written by earlier programs.
///
/// # Errors
/// Neither such bytes nor a list of numbers.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    deserializer.deserialize_any(Numbers)
}

fn encode(numbers: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(numbers.len() + numbers.len() / 8);
    let mut last = 0;
    for number in numbers {
        let step = number.wrapping_sub(last) as i32;
        last = *number;
        let mut rest = (step << 1 ^ step >> 31) as u32;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<u32>> {
    let mut numbers = Vec::with_capacity(bytes.len());
    let (mut last, mut rest, mut shift) = (0u32, 0u32, 0);
    for byte in bytes {
        let group = u32::from(byte & 0x7f);
        // Of the fifth group only four bits are left.
        if shift > 28 || shift == 28 && group > 0xf {
            return None;
        }
        rest |= group << shift;
        if *byte >= 0x80 {
            shift += 7;
            continue;
        }
        last = last.wrapping_add(rest >> 1 ^ (rest & 1).wrapping_neg());
        numbers.push(last);
        (rest, shift) = (0, 0);
    }
    (shift == 0).then_some(numbers)
}

struct Numbers;

impl<'de> Visitor<'de> for Numbers {
    type Value = Vec<u32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column of numbers")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<u32>, E> {
        decode(bytes).ok_or_else(|| E::custom("a column of numbers is damaged"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u32>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element()? {
            numbers.push(number);
        }
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Column(#[serde(with = "super")] Vec<u32>);

    proptest! {
        #[test]
        fn any_numbers_come_back(
            numbers in proptest::collection::vec(prop_oneof![any::<u32>(), 0u32..300], 0..100),
        ) {
            let bytes = rmp_serde::to_vec(&Column(numbers.clone())).unwrap();
            prop_assert_eq!(&rmp_serde::from_slice::<Column>(&bytes).unwrap().0, &numbers);
            let plain = rmp_serde::to_vec(&(&numbers,)).unwrap();
            prop_assert_eq!(rmp_serde::from_slice::<(Column,)>(&plain).unwrap().0.0, numbers);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(numbers) = decode(&bytes) {
                prop_assert!(numbers.len() <= bytes.len());
            }
        }
    }

    #[test]
    fn neighbours_take_a_byte_each() {
        let numbers: Vec<u32> = (70_000..71_000).collect();
        assert_eq!(encode(&numbers).len(), 1002);
        for damaged in [&[0x80][..], &[0xff, 0xff, 0xff, 0xff, 0x10], &[0x80, 0x80, 0x80, 0x80, 0x80, 0]] {
            assert_eq!(decode(damaged), None, "{damaged:?}");
        }
    }
}
