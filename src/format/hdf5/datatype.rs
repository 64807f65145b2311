//! Datatype and dataspace messages.

use super::cursor::Cursor;
use crate::format::{DType, FormatError};

/// Types inside types (a sequence of enumerations of integers) at most.
const MAX_NESTING: u32 = 8;
/// HDF5's own limit.
const MAX_RANK: usize = 32;

/// An element type, as far as netCDF has it.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Type {
    Number {
        dtype: DType,
        big_endian: bool,
    },
    /// Text of fixed length; the padding is spaces or NULs.
    Text {
        len: usize,
        space_padded: bool,
    },
    VariableText,
    /// An object's address.
    Reference,
    Sequence(Box<Type>),
    /// What it is called, and its bytes.
    Other(&'static str, usize),
}

impl Type {
    /// Bytes of one element in the file; `heap_reference` are those of a reference to variable-length data.
    pub(super) fn size(&self, heap_reference: usize) -> usize {
        match self {
            Type::Number { dtype, .. } => dtype.size(),
            Type::Text { len, .. } => *len,
            Type::VariableText | Type::Sequence(_) => heap_reference,
            Type::Reference => heap_reference - 8,
            Type::Other(_, size) => *size,
        }
    }
}

/// Reads a datatype message.
pub(super) fn datatype(cursor: &mut Cursor<'_>) -> Result<Type, FormatError> {
    nested_datatype(cursor, 0)
}

fn nested_datatype(cursor: &mut Cursor<'_>, nesting: u32) -> Result<Type, FormatError> {
    if nesting > MAX_NESTING {
        return Err(cursor.damaged("types nested too deep"));
    }
    let class = cursor.u8()? & 15;
    let bits = cursor.uint(3)?;
    let size = cursor.u32()? as usize;
    Ok(match class {
        0 => integer(cursor, bits, size)?,
        1 => float(cursor, bits, size)?,
        2 => Type::Other("time", size),
        3 => Type::Text { len: size, space_padded: bits & 15 == 2 },
        4 => Type::Other("bit field", size),
        5 => Type::Other("opaque", size),
        6 => Type::Other("compound", size),
        // An object's address has the size of addresses; region references are longer.
        7 if bits & 15 == 0 && size == cursor.offset_size => Type::Reference,
        7 => Type::Other("reference", size),
        // Its values are numbers; the names of the members are of no use here.
        8 => nested_datatype(cursor, nesting + 1)?,
        9 if bits & 15 == 1 => Type::VariableText,
        9 => Type::Sequence(Box::new(nested_datatype(cursor, nesting + 1)?)),
        10 => Type::Other("array", size),
        11 => Type::Other("complex", size),
        _ => return Err(cursor.damaged(&format!("the type class {class}"))),
    })
}

fn integer(cursor: &mut Cursor<'_>, bits: u64, size: usize) -> Result<Type, FormatError> {
    let (offset, precision) = (cursor.u16()?, usize::from(cursor.u16()?));
    let signed = bits & 8 != 0;
    let dtype = match (size, signed) {
        (1, true) => DType::I8,
        (1, false) => DType::U8,
        (2, true) => DType::I16,
        (2, false) => DType::U16,
        (4, true) => DType::I32,
        (4, false) => DType::U32,
        (8, true) => DType::I64,
        (8, false) => DType::U64,
        _ => return Ok(Type::Other("integer of unusual size", size)),
    };
    if offset != 0 || precision != 8 * size {
        return Ok(Type::Other("integer of unusual precision", size));
    }
    Ok(Type::Number { dtype, big_endian: bits & 1 != 0 && size > 1 })
}

fn float(cursor: &mut Cursor<'_>, bits: u64, size: usize) -> Result<Type, FormatError> {
    let layout = cursor.take(8)?;
    let bias = cursor.u32()?;
    // Offset, precision, exponent place and size, mantissa place and size, as IEEE 754 has them; byte order in bits
    // 0 and 6 (both: VAX).
    let ieee_4 = ([0, 0, 32, 0, 23, 8, 0, 23], 127);
    let ieee_8 = ([0, 0, 64, 0, 52, 11, 0, 52], 1023);
    let dtype = match size {
        4 if layout == ieee_4.0 && bias == ieee_4.1 => DType::F32,
        8 if layout == ieee_8.0 && bias == ieee_8.1 => DType::F64,
        _ => return Ok(Type::Other("floating-point number of unusual size", size)),
    };
    if bits & 0x40 != 0 {
        return Ok(Type::Other("floating-point number in VAX order", size));
    }
    Ok(Type::Number { dtype, big_endian: bits & 1 != 0 })
}

/// The extent of a dataset or attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Dataspace {
    pub(super) shape: Vec<u64>,
    /// `None`: unlimited.
    pub(super) max: Vec<Option<u64>>,
    /// It has no elements at all, not even one as a scalar.
    pub(super) null: bool,
}

impl Dataspace {
    /// Elements, if they can be counted in 64 bits.
    pub(super) fn elements(&self) -> Option<u64> {
        if self.null { Some(0) } else { crate::format::grid::elements(&self.shape) }
    }
}

/// Reads a dataspace message, versions 1 and 2.
pub(super) fn dataspace(cursor: &mut Cursor<'_>) -> Result<Dataspace, FormatError> {
    let version = cursor.u8()?;
    let rank = usize::from(cursor.u8()?);
    let flags = cursor.u8()?;
    let kind = match version {
        1 => {
            cursor.skip(5)?;
            1
        }
        2 => cursor.u8()?,
        _ => return Err(cursor.damaged(&format!("dataspace version {version}"))),
    };
    if rank > MAX_RANK {
        return Err(cursor.damaged(&format!("{rank} dimensions")));
    }
    let shape = (0..rank).map(|_| cursor.length()).collect::<Result<Vec<u64>, _>>()?;
    // Sums of a place and a chunk's length must not overflow anywhere.
    if shape.iter().any(|len| *len > i64::MAX as u64) {
        return Err(cursor.damaged("a dimension is too long"));
    }
    let max = if flags & 1 == 0 {
        shape.iter().map(|len| Some(*len)).collect()
    } else {
        let unlimited = u64::MAX >> (64 - 8 * cursor.length_size as u32);
        let limit = |cursor: &mut Cursor<'_>| cursor.length().map(|len| (len != unlimited).then_some(len));
        (0..rank).map(|_| limit(cursor)).collect::<Result<_, _>>()?
    };
    Ok(Dataspace { shape, max, null: kind == 2 })
}
