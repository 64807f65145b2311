//! A kernel that measures the executor: its value is a number that depends on the task's key and on the values of
//! its inputs, so that a result which is lost, made up or mixed up shows in a sum.

use super::{Call, KernelError};
use crate::graph::Value;

/// The kernel's name.
pub const SUM: &str = "bench.sum";
/// A value has at least its number.
pub const MIN_BYTES: u64 = 8;
/// Largest value that is made: one buffer of a task.
pub const MAX_BYTES: u64 = 4 << 30;
/// Of a large value, one word in so many bytes is looked at: every page is touched, and the sum costs little.
const PAGE: usize = 4096;
const WORD: usize = 8;

/// The number of a key: all bits of it depend on all bits of the key (the finalizer of SplitMix64).
pub fn number_of(key: u32) -> u64 {
    let mut z = u64::from(key).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The operation's parameters, for values of so many bytes.
pub fn params(nbytes: u64) -> Vec<u8> {
    nbytes.to_le_bytes().to_vec()
}

/// Arguments of a task with this key. A task without arguments only adds up its inputs.
pub fn args(key: u32) -> [u8; 4] {
    key.to_le_bytes()
}

/// The number in a value, if the value is as it was made.
pub fn read(value: &Value) -> Option<u64> {
    let [buffer] = value.buffers.as_slice() else { return None };
    let number = word(buffer, 0)?;
    let intact = |at: usize| word(buffer, at).is_none_or(|word| word == number ^ at as u64);
    (0..buffer.len()).step_by(PAGE).all(intact).then_some(number)
}

fn word(buffer: &[u8], at: usize) -> Option<u64> {
    let (bytes, _) = buffer.get(at..)?.split_first_chunk::<WORD>()?;
    Some(u64::from_le_bytes(*bytes))
}

/// The key's number plus those of the inputs, as a value of the size that the parameters say.
pub(super) fn sum(call: &Call<'_>) -> Result<Value, KernelError> {
    let nbytes = <[u8; 8]>::try_from(call.params).map(u64::from_le_bytes);
    let nbytes = nbytes.ok().filter(|nbytes| (MIN_BYTES..=MAX_BYTES).contains(nbytes));
    let nbytes = nbytes.ok_or_else(|| KernelError::new("its parameters are no size of a value"))?;
    let own = match call.args {
        [] => 0,
        args => {
            let key = <[u8; 4]>::try_from(args).map_err(|_| KernelError::new("its argument is no key"))?;
            number_of(u32::from_le_bytes(key))
        }
    };
    let mut total = own;
    for (i, input) in call.inputs.iter().enumerate() {
        let number = read(input).ok_or_else(|| KernelError::new(format!("input {i} is damaged")))?;
        total = total.wrapping_add(number);
    }
    Ok(Value::bytes(filled(total, nbytes as usize)))
}

/// Every word differs from its neighbours, and all of them are written: fresh zero pages would travel for nothing.
fn filled(number: u64, nbytes: usize) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(nbytes);
    for at in (0..nbytes).step_by(WORD) {
        let bytes = (number ^ at as u64).to_le_bytes();
        buffer.extend_from_slice(&bytes[..WORD.min(nbytes - at)]);
    }
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(key: Option<u32>, nbytes: u64, inputs: &[Value]) -> Result<Value, KernelError> {
        let args = key.map(|key| args(key).to_vec()).unwrap_or_default();
        sum(&Call { params: &params(nbytes), args: &args, inputs })
    }

    #[test]
    fn a_value_is_its_keys_number_and_those_of_its_inputs() {
        let a = call(Some(1), 8, &[]).unwrap();
        let b = call(Some(2), 10_001, &[]).unwrap();
        assert_eq!((read(&a), read(&b)), (Some(number_of(1)), Some(number_of(2))));
        assert_eq!((a.nbytes(), b.nbytes()), (8, 10_001));
        let both = call(None, 8, &[a.clone(), b.clone()]).unwrap();
        assert_eq!(read(&both), Some(number_of(1).wrapping_add(number_of(2))));
        let third = call(Some(3), 8, &[both]).unwrap();
        assert_eq!(read(&third), Some((1..=3).map(number_of).fold(0, u64::wrapping_add)));
    }

    #[test]
    fn damage_and_nonsense_are_errors() {
        let good = call(Some(7), 10_000, &[]).unwrap();
        let mut bytes = good.buffers[0].to_vec();
        bytes[8192] ^= 1;
        let error = call(None, 8, &[good, Value::bytes(bytes)]).unwrap_err();
        assert_eq!(error.message, "input 1 is damaged");
        assert!(call(None, 8, &[Value::default()]).is_err());
        assert!(call(None, 7, &[]).is_err() && call(None, MAX_BYTES + 1, &[]).is_err());
        assert!(sum(&Call { params: b"x", args: b"", inputs: &[] }).is_err());
        assert!(sum(&Call { params: &params(8), args: b"x", inputs: &[] }).is_err());
    }
}
