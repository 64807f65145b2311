//! Taking little-endian numbers off a piece of metadata.

use crate::format::FormatError;

/// A position in `bytes`. Running over the end is an error that names the file and what was being read.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub(super) file: &'a str,
    pub(super) what: &'static str,
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) offset_size: usize,
    pub(super) length_size: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], FormatError> {
        let taken = self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end));
        let Some(taken) = taken else {
            return Err(self.damaged("it is too short"));
        };
        self.at += n;
        Ok(taken)
    }

    pub(super) fn skip(&mut self, n: usize) -> Result<(), FormatError> {
        self.take(n).map(|_| ())
    }

    /// An unsigned number of 0 to 8 bytes.
    pub(super) fn uint(&mut self, size: usize) -> Result<u64, FormatError> {
        if size > 8 {
            return Err(self.damaged(&format!("a number of {size} bytes")));
        }
        let bytes = self.take(size)?;
        // Chunk trees are full of numbers of 8 bytes.
        if let Ok(whole) = <[u8; 8]>::try_from(bytes) {
            return Ok(u64::from_le_bytes(whole));
        }
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    pub(super) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(self.uint(2)? as u16)
    }

    pub(super) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(self.uint(4)? as u32)
    }

    pub(super) fn u64(&mut self) -> Result<u64, FormatError> {
        self.uint(8)
    }

    /// An address; `None` where all bits are set: nowhere.
    pub(super) fn address(&mut self) -> Result<Option<u64>, FormatError> {
        let value = self.uint(self.offset_size)?;
        let undefined = u64::MAX >> (64 - 8 * self.offset_size as u32);
        Ok((value != undefined).then_some(value))
    }

    /// An address that has to be somewhere.
    pub(super) fn some_address(&mut self) -> Result<u64, FormatError> {
        self.address()?.ok_or_else(|| self.damaged("an address is missing"))
    }

    /// A length in the file's own size of lengths.
    pub(super) fn length(&mut self) -> Result<u64, FormatError> {
        self.uint(self.length_size)
    }

    pub(super) fn signature(&mut self, wanted: &[u8; 4]) -> Result<(), FormatError> {
        if self.take(4)? == wanted {
            return Ok(());
        }
        Err(self.damaged("it has not its signature"))
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn damaged(&self, problem: &str) -> FormatError {
        FormatError::damaged(self.file, format!("{}: {problem}", self.what))
    }
}
