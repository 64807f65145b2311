//! Numbers as bytes, few for small ones: what columns and lists of tasks are made of when they travel or are
//! journalled.
//!
//! A number is little-endian in groups of seven bits, all but the last with the eighth bit set. A task's index is told
//! as the difference to the one before it, the sign in the lowest bit: tasks are mostly neighbours.

/// Bytes that numbers are added to.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    /// Of the last task that was told.
    pub index: u32,
}

impl Writer {
    pub fn with_capacity(nbytes: usize) -> Writer {
        Writer { bytes: Vec::with_capacity(nbytes), index: 0 }
    }

    #[inline]
    pub fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// Bytes after their length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// The index of a task.
    #[inline]
    pub fn index(&mut self, index: u32) {
        let step = i64::from(index) - i64::from(self.index);
        self.index = index;
        self.number(step.unsigned_abs() << 1 | u64::from(step < 0));
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// What is left of bytes that a [`Writer`] made. `None` from its methods: the bytes aren't that.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// Of the last task that was told.
    pub index: u32,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, index: 0 }
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    pub fn number(&mut self) -> Option<u64> {
        let (first, rest) = self.bytes.split_first()?;
        if *first < 0x80 {
            self.bytes = rest;
            return Some(u64::from(*first));
        }
        self.long_number()
    }

    fn long_number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                // Of the tenth group only one bit is left.
                return (shift < 63 || *byte <= 1).then_some(number);
            }
        }
        None
    }

    #[inline]
    pub fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    /// Bytes after their length.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(bytes)
    }

    /// The index of a task.
    #[inline]
    pub fn index(&mut self) -> Option<u32> {
        let step = self.number()?;
        let size = i64::try_from(step >> 1).ok()?;
        let step = if step & 1 == 1 { -size } else { size };
        self.index = u32::try_from(i64::from(self.index).checked_add(step)?).ok()?;
        Some(self.index)
    }

    /// How many entries follow, each of which takes a byte at least: nobody makes us reserve more than what came.
    pub fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok().filter(|count| *count <= self.bytes.len())
    }
}
