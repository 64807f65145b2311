//! How stored elements are decoded, by xarray's rules.

use super::expression::Numeric;
use crate::format::{AttrValue, Attribute, DType};
use crate::kernels::program::Decode;

/// How a variable's elements become numbers, and of which type; `None` for text.
pub(super) fn decode(stored: DType, attributes: &[Attribute]) -> Option<(Decode, Numeric)> {
    let get = |name: &str| attributes.iter().find(|a| a.name == name).map(|a| &a.value);
    let dtype = as_unsigned(stored, get("_Unsigned"));
    if matches!(dtype, DType::Char | DType::String) {
        return None;
    }
    let mut missing: Vec<u8> = Vec::new();
    for value in ["_FillValue", "missing_value"].into_iter().filter_map(get) {
        for element in elements(value, stored) {
            if !missing.chunks(dtype.size()).any(|known| known == element) {
                missing.extend(element);
            }
        }
    }
    let number = |name: &str| get(name).and_then(|value| Some((float_type(value)?, value.number()?)));
    let (scale, offset) = (number("scale_factor"), number("add_offset"));
    let plain = match dtype {
        DType::F32 => Numeric::F32,
        DType::F64 => Numeric::F64,
        int => Numeric::Int(int),
    };
    let numeric = match (scale, offset) {
        (None, None) if missing.is_empty() => plain,
        // Masking alone: floats stay, integers that f32 holds exactly become f32.
        (None, None) if dtype == DType::F32 || (dtype.size() <= 2) => Numeric::F32,
        (None, None) => Numeric::F64,
        // Both of one type give that type, but 32-bit integers are more than f32 can hold.
        (Some((scale, _)), Some((offset, _)))
            if scale == offset && !matches!(dtype, DType::I32 | DType::U32) =>
        {
            scale
        }
        (Some((scale, _)), None) => scale,
        _ => Numeric::F64,
    };
    let decode = Decode { dtype, missing, scale: scale.map(|s| s.1), offset: offset.map(|o| o.1) };
    Some((decode, numeric))
}

/// `_Unsigned = "true"` makes signed types unsigned, and "false" the other way round.
fn as_unsigned(dtype: DType, unsigned: Option<&AttrValue>) -> DType {
    let said = unsigned.and_then(|value| value.text()).map(str::to_ascii_lowercase);
    match (said.as_deref(), dtype) {
        (Some("true"), DType::I8) => DType::U8,
        (Some("true"), DType::I16) => DType::U16,
        (Some("true"), DType::I32) => DType::U32,
        (Some("true"), DType::I64) => DType::U64,
        (Some("false"), DType::U8) => DType::I8,
        (Some("false"), DType::U16) => DType::I16,
        (Some("false"), DType::U32) => DType::I32,
        (Some("false"), DType::U64) => DType::I64,
        (_, dtype) => dtype,
    }
}

/// The type that `scale_factor` or `add_offset` gives to what it is applied to; `None` for text.
fn float_type(value: &AttrValue) -> Option<Numeric> {
    match value {
        AttrValue::Floats(DType::F32, _) => Some(Numeric::F32),
        AttrValue::Floats(..) | AttrValue::Ints(..) | AttrValue::UInts(..) => Some(Numeric::F64),
        AttrValue::Text(_) | AttrValue::Texts(_) => None,
    }
}

/// An attribute's numbers as elements of the variable's type (CF says that they are of that type; where they
/// aren't, what is meant is what the number is once it is stored).
fn elements(value: &AttrValue, dtype: DType) -> Vec<Vec<u8>> {
    match value {
        AttrValue::Ints(_, values) => values.iter().filter_map(|v| integer(i128::from(*v), dtype)).collect(),
        AttrValue::UInts(_, values) => values.iter().filter_map(|v| integer(i128::from(*v), dtype)).collect(),
        AttrValue::Floats(_, values) => values.iter().filter_map(|v| float(*v, dtype)).collect(),
        AttrValue::Text(_) | AttrValue::Texts(_) => Vec::new(),
    }
}

fn float(value: f64, dtype: DType) -> Option<Vec<u8>> {
    match dtype {
        DType::F32 => Some((value as f32).to_le_bytes().to_vec()),
        DType::F64 => Some(value.to_le_bytes().to_vec()),
        _ if value.fract() == 0.0 && value.abs() < 1e19 => integer(value as i128, dtype),
        _ => None,
    }
}

fn integer(value: i128, dtype: DType) -> Option<Vec<u8>> {
    macro_rules! stored {
        ($type:ty) => {
            <$type>::try_from(value).ok().map(|v| v.to_le_bytes().to_vec())
        };
    }
    match dtype {
        DType::I8 => stored!(i8),
        DType::I16 => stored!(i16),
        DType::I32 => stored!(i32),
        DType::I64 => stored!(i64),
        DType::U8 => stored!(u8),
        DType::U16 => stored!(u16),
        DType::U32 => stored!(u32),
        DType::U64 => stored!(u64),
        DType::F32 | DType::F64 => float(value as f64, dtype),
        DType::Char | DType::String => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(name: &str, value: AttrValue) -> Attribute {
        Attribute { name: name.into(), value }
    }

    #[test]
    fn types_after_decoding_are_xarrays() {
        let f32s = |v: f64| AttrValue::Floats(DType::F32, vec![v]);
        let f64s = |v: f64| AttrValue::Floats(DType::F64, vec![v]);
        for (dtype, attributes, expected) in [
            (DType::F32, vec![], Numeric::F32),
            (DType::F64, vec![], Numeric::F64),
            (DType::I16, vec![], Numeric::Int(DType::I16)),
            (DType::I16, vec![("_FillValue", AttrValue::Ints(DType::I16, vec![-1]))], Numeric::F32),
            (DType::I32, vec![("_FillValue", AttrValue::Ints(DType::I32, vec![-1]))], Numeric::F64),
            (DType::I16, vec![("missing_value", f64s(-1.0))], Numeric::F32),
            (DType::F32, vec![("_FillValue", f32s(1e20))], Numeric::F32),
            (DType::I16, vec![("scale_factor", f32s(0.1))], Numeric::F32),
            (DType::I16, vec![("scale_factor", f64s(0.1))], Numeric::F64),
            (DType::I16, vec![("add_offset", f32s(0.1))], Numeric::F64),
            (DType::I16, vec![("scale_factor", f32s(0.1)), ("add_offset", f32s(1.0))], Numeric::F32),
            (DType::I32, vec![("scale_factor", f32s(0.1)), ("add_offset", f32s(1.0))], Numeric::F64),
            (DType::I16, vec![("scale_factor", f32s(0.1)), ("add_offset", f64s(1.0))], Numeric::F64),
            (DType::I8, vec![("_Unsigned", AttrValue::Text("true".into()))], Numeric::Int(DType::U8)),
        ] {
            let attributes: Vec<Attribute> =
                attributes.into_iter().map(|(name, value)| attribute(name, value)).collect();
            let (_, numeric) = decode(dtype, &attributes).unwrap();
            assert_eq!(numeric, expected, "{dtype:?} {attributes:?}");
        }
        assert!(decode(DType::Char, &[]).is_none());
    }

    #[test]
    fn every_missing_value_is_masked_in_the_stored_type() {
        let attributes = [
            attribute("_FillValue", AttrValue::Ints(DType::I16, vec![-1])),
            attribute("missing_value", AttrValue::Floats(DType::F64, vec![-1.0, 99.0, 1e9, 0.5])),
        ];
        let (decoded, _) = decode(DType::I16, &attributes).unwrap();
        assert_eq!(decoded.missing, [0xff, 0xff, 99, 0]);
        let unsigned = [
            attribute("_FillValue", AttrValue::Ints(DType::I8, vec![-1])),
            attribute("_Unsigned", AttrValue::Text("true".into())),
        ];
        let (decoded, _) = decode(DType::I8, &unsigned).unwrap();
        assert_eq!((decoded.dtype, &decoded.missing[..]), (DType::U8, &[255][..]));
        let huge = [attribute("missing_value", AttrValue::Floats(DType::F64, vec![1e20]))];
        let (decoded, _) = decode(DType::F32, &huge).unwrap();
        assert_eq!(decoded.missing, 1e20f32.to_le_bytes());
    }
}
