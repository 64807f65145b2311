//! The types of cells: numpy's rules, but that truth values count as i64 in arithmetic, and that a number in the text
//! which an integer type can't hold makes the result as wide as it needs.

use super::function::ReduceName;
use crate::format::DType;
use crate::kernels::program::Operation;

/// The type of a node's cells.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Numeric {
    Bool,
    Int(DType),
    F32,
    F64,
}

/// What an operation is applied to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Operand {
    /// A number in the text: it takes the type of what it meets.
    Number(f64),
    /// Cells, and whether they are made of numbers in the text alone.
    Cells(Numeric, bool),
}

impl Operand {
    fn numeric(self) -> (Numeric, bool) {
        match self {
            Operand::Number(value) => (of_number(value), true),
            Operand::Cells(numeric, weak) => (numeric, weak),
        }
    }
}

/// The type of a number in the text by itself.
pub fn of_number(value: f64) -> Numeric {
    /// Beyond it, not every integer is an f64.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = value.fract() == 0.0 && value.abs() <= EXACT;
    if whole { Numeric::Int(DType::I64) } else { Numeric::F64 }
}

/// The type of an elementwise operation's result.
pub fn of_operation(operation: Operation, operands: &[Operand]) -> Numeric {
    use Operation as O;
    match operation {
        O::Not
        | O::Or
        | O::And
        | O::Equal
        | O::NotEqual
        | O::Less
        | O::LessEqual
        | O::Greater
        | O::GreaterEqual => Numeric::Bool,
        O::Select => joined(&operands[..2]),
        O::Negate
        | O::Abs
        | O::Floor
        | O::Ceil
        | O::Round
        | O::Square
        | O::Add
        | O::Subtract
        | O::Multiply => joined(operands).counted(),
        O::Min2 | O::Max2 => joined(operands),
        O::Power | O::Divide => match joined(operands) {
            Numeric::F32 => Numeric::F32,
            _ => Numeric::F64,
        },
        O::Sqrt
        | O::Exp
        | O::Log10
        | O::Ln
        | O::Sin
        | O::Cos
        | O::Tan
        | O::Asin
        | O::Acos
        | O::Atan
        | O::Atan2
        | O::Hypot
        | O::WindSpeed
        | O::WindDirection => joined(operands).floated(),
    }
}

/// Whether the result may be one that its type can't hold, which is then missing.
pub fn may_overflow(operation: Operation, numeric: Numeric) -> bool {
    use Operation as O;
    let grows = matches!(operation, O::Negate | O::Abs | O::Square | O::Add | O::Subtract | O::Multiply);
    numeric.is_float() || (grows && matches!(numeric, Numeric::Int(_)))
}

/// The type of a reduction's result.
pub fn of_reduction(reducer: ReduceName, numeric: Numeric) -> Numeric {
    match (reducer, numeric) {
        (ReduceName::Count, _) => Numeric::Int(DType::I64),
        (ReduceName::Sum, Numeric::Int(dtype)) if is_unsigned(dtype) => Numeric::Int(DType::U64),
        (ReduceName::Sum, Numeric::Int(_) | Numeric::Bool) => Numeric::Int(DType::I64),
        (ReduceName::Sum | ReduceName::Min | ReduceName::Max, numeric) => numeric,
        (_, Numeric::F32) => Numeric::F32,
        _ => Numeric::F64,
    }
}

/// The type that all operands meet in.
fn joined(operands: &[Operand]) -> Numeric {
    let met = operands.iter().map(|operand| operand.numeric()).reduce(join);
    let met = met.map_or(Numeric::F64, |(numeric, _)| numeric);
    operands.iter().fold(met, |met, operand| match (met, operand) {
        (Numeric::Int(dtype), Operand::Number(value)) if !holds(dtype, *value) => {
            narrowest(*value).map_or(Numeric::F64, |needed| join_ints(dtype, needed))
        }
        _ => met,
    })
}

fn holds(dtype: DType, value: f64) -> bool {
    let bits = 8 * dtype.size() as i32;
    let (least, above) = match is_unsigned(dtype) {
        true => (0.0, 2f64.powi(bits)),
        false => (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1)),
    };
    (least..above).contains(&value)
}

/// The narrowest signed type that holds the number.
fn narrowest(value: f64) -> Option<DType> {
    [DType::I8, DType::I16, DType::I32, DType::I64].into_iter().find(|dtype| holds(*dtype, value))
}

impl Numeric {
    pub fn is_float(self) -> bool {
        matches!(self, Numeric::F32 | Numeric::F64)
    }

    /// What is stored.
    pub fn dtype(self) -> DType {
        match self {
            Numeric::Bool => DType::I8,
            Numeric::Int(dtype) => dtype,
            Numeric::F32 => DType::F32,
            Numeric::F64 => DType::F64,
        }
    }

    /// Truth values count as numbers in arithmetic.
    fn counted(self) -> Numeric {
        if self == Numeric::Bool { Numeric::Int(DType::I64) } else { self }
    }

    /// What functions such as `sqrt` give: f32 where it holds every input exactly.
    fn floated(self) -> Numeric {
        match self {
            Numeric::Bool | Numeric::F32 => Numeric::F32,
            Numeric::Int(dtype) if dtype.size() <= 2 => Numeric::F32,
            Numeric::Int(_) | Numeric::F64 => Numeric::F64,
        }
    }
}

fn is_unsigned(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::U16 | DType::U32 | DType::U64)
}

/// The type of two that meet, each with whether it is weak.
fn join((a, a_weak): (Numeric, bool), (b, b_weak): (Numeric, bool)) -> (Numeric, bool) {
    let numeric = match (a_weak, b_weak) {
        (true, false) => weak_join(b, a),
        (false, true) => weak_join(a, b),
        _ => strong_join(a, b),
    };
    (numeric, a_weak && b_weak)
}

/// A number in the text changes the type only where that can't hold its kind.
fn weak_join(strong: Numeric, weak: Numeric) -> Numeric {
    match (strong, weak) {
        (Numeric::F32 | Numeric::F64, _) | (Numeric::Int(_), Numeric::Int(_) | Numeric::Bool) => strong,
        (_, weak) => weak,
    }
}

fn strong_join(a: Numeric, b: Numeric) -> Numeric {
    match (a, b) {
        (Numeric::Bool, other) | (other, Numeric::Bool) => other,
        (Numeric::F32, Numeric::F32) => Numeric::F32,
        (Numeric::F32, Numeric::Int(int)) | (Numeric::Int(int), Numeric::F32) if int.size() <= 2 => {
            Numeric::F32
        }
        (Numeric::Int(a), Numeric::Int(b)) => join_ints(a, b),
        _ => Numeric::F64,
    }
}

fn join_ints(a: DType, b: DType) -> Numeric {
    if is_unsigned(a) == is_unsigned(b) {
        return Numeric::Int(if a.size() >= b.size() { a } else { b });
    }
    let (unsigned, signed) = if is_unsigned(a) { (a, b) } else { (b, a) };
    match unsigned.size().max(signed.size() / 2) {
        1 => Numeric::Int(DType::I16),
        2 => Numeric::Int(DType::I32),
        4 => Numeric::Int(DType::I64),
        _ => Numeric::F64,
    }
}
