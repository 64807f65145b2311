//! Expressions as register programs: a few instructions over slices of cells, run piece by piece so that the
//! registers stay in the cache. Missing cells are NaN in every register.

use super::math;
use crate::format::DType;
use serde::{Deserialize, Serialize};

/// Cells of one piece: ten f32 registers of this length fit a 48 KiB first-level cache.
pub const PIECE_CELLS: usize = 1024;

/// What registers hold. Integers and truth values are worked out in f64, which holds them exactly up to 2^53.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Lane {
    F32,
    F64,
}

/// An elementwise operation of one to three registers. Truth values are 1 and 0, and anything but 0 is true.
/// A missing operand makes the result missing, also of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Operation {
    Negate,
    Not,
    Sqrt,
    Exp,
    Log10,
    Ln,
    Abs,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Floor,
    Ceil,
    /// To the nearest, halves to the even one, as numpy does.
    Round,
    Square,
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Power,
    Atan2,
    Hypot,
    Min2,
    Max2,
    /// sqrt(u*u + v*v).
    WindSpeed,
    /// Degrees that the wind comes from, of u and v.
    WindDirection,
    /// The second where the first is true, else the third.
    Select,
}

/// One step. Registers are numbered within their lane, and `to` is none of the registers that the step reads.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Step {
    /// The next cells of an operand, decoded.
    Load {
        operand: u16,
        lane: Lane,
        to: u16,
    },
    /// The same number in every cell.
    Constant {
        value: f64,
        lane: Lane,
        to: u16,
    },
    /// From the other lane.
    Convert {
        lane: Lane,
        to: u16,
        from: u16,
    },
    Apply {
        operation: Operation,
        lane: Lane,
        to: u16,
        from: [u16; 3],
    },
}

/// Steps, and which registers they leave results in.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Program {
    pub steps: Vec<Step>,
    /// Registers of each lane.
    pub registers: [u16; 2],
    pub results: Vec<(Lane, u16)>,
}

/// How stored elements become numbers: xarray's rules of `_FillValue`, `missing_value`, `scale_factor` and
/// `add_offset`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Decode {
    pub dtype: DType,
    /// Elements that mark missing cells, little-endian, one after another.
    #[serde(with = "serde_bytes")]
    pub missing: Vec<u8>,
    pub scale: Option<f64>,
    pub offset: Option<f64>,
}

impl Decode {
    /// Numbers as they are.
    pub fn plain(lane: Lane) -> Decode {
        let dtype = if lane == Lane::F32 { DType::F32 } else { DType::F64 };
        Decode { dtype, missing: Vec::new(), scale: None, offset: None }
    }
}

/// The cells of one operand that a piece reads: the first, and the elements from one to the next (0: all the same).
#[derive(Clone, Copy, Debug)]
pub struct Cells<'a> {
    pub bytes: &'a [u8],
    pub first: usize,
    pub step: usize,
    pub decode: &'a Decode,
}

/// The registers of a program.
#[derive(Debug, Default)]
pub struct Machine {
    f32: Vec<Vec<f32>>,
    f64: Vec<Vec<f64>>,
}

/// A result register.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

impl Machine {
    /// Registers for `program`, with its constants in place.
    pub fn new(program: &Program) -> Machine {
        let [n32, n64] = program.registers;
        let mut machine = Machine {
            f32: (0..n32).map(|_| vec![0.0; PIECE_CELLS]).collect(),
            f64: (0..n64).map(|_| vec![0.0; PIECE_CELLS]).collect(),
        };
        for step in &program.steps {
            if let Step::Constant { value, lane, to } = step {
                match lane {
                    Lane::F32 => machine.f32[*to as usize].fill(*value as f32),
                    Lane::F64 => machine.f64[*to as usize].fill(*value),
                }
            }
        }
        machine
    }

    /// Runs the program on `count` cells (at most [`PIECE_CELLS`]).
    pub fn run(&mut self, program: &Program, operands: &[Cells<'_>], count: usize) {
        for step in &program.steps {
            match *step {
                Step::Constant { .. } => {}
                Step::Load { operand, lane: Lane::F32, to } => {
                    load(&operands[operand as usize], &mut self.f32[to as usize][..count]);
                }
                Step::Load { operand, lane: Lane::F64, to } => {
                    load(&operands[operand as usize], &mut self.f64[to as usize][..count]);
                }
                Step::Convert { lane: Lane::F32, to, from } => {
                    let from = &self.f64[from as usize][..count];
                    self.f32[to as usize].iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
                }
                Step::Convert { lane: Lane::F64, to, from } => {
                    let from = &self.f32[from as usize][..count];
                    self.f64[to as usize].iter_mut().zip(from).for_each(|(to, from)| *to = f64::from(*from));
                }
                Step::Apply { operation, lane: Lane::F32, to, from } => {
                    apply(&mut self.f32, operation, to, from, count);
                }
                Step::Apply { operation, lane: Lane::F64, to, from } => {
                    apply(&mut self.f64, operation, to, from, count);
                }
            }
        }
    }

    /// The first `count` cells of a result.
    pub fn result(&self, (lane, register): (Lane, u16), count: usize) -> Slice<'_> {
        match lane {
            Lane::F32 => Slice::F32(&self.f32[register as usize][..count]),
            Lane::F64 => Slice::F64(&self.f64[register as usize][..count]),
        }
    }
}

impl Program {
    /// Whether all registers and operands that the steps name exist: programs come over the wire.
    pub fn is_sound(&self, operands: usize) -> bool {
        let has = |lane: Lane, register: u16| register < self.registers[lane as usize];
        let other = |lane| if lane == Lane::F32 { Lane::F64 } else { Lane::F32 };
        let step = |step: &Step| match *step {
            Step::Load { operand, lane, to } => (operand as usize) < operands && has(lane, to),
            Step::Constant { lane, to, .. } => has(lane, to),
            Step::Convert { lane, to, from } => has(lane, to) && has(other(lane), from),
            Step::Apply { lane, to, from, .. } => {
                has(lane, to) && from.iter().all(|from| has(lane, *from) && *from != to)
            }
        };
        self.steps.iter().all(step) && self.results.iter().all(|(lane, register)| has(*lane, *register))
    }
}

/// One operation on registers of one lane.
fn apply<F: Float>(registers: &mut [Vec<F>], operation: Operation, to: u16, from: [u16; 3], count: usize) {
    // The target is taken out meanwhile: it is none of the sources.
    let mut target = std::mem::take(&mut registers[to as usize]);
    let out = &mut target[..count];
    let [a, b, c] = from.map(|r| registers[r as usize].get(..count).unwrap_or_default());
    match operation {
        Operation::Negate => unary(out, a, |x| -x),
        Operation::Not => unary(out, a, |x| x.known(F::truth(x == F::ZERO))),
        Operation::Sqrt => unary(out, a, F::sqrt),
        Operation::Exp => unary(out, a, F::exp),
        Operation::Log10 => unary(out, a, F::log10),
        Operation::Ln => unary(out, a, F::ln),
        Operation::Abs => unary(out, a, F::abs),
        Operation::Sin => unary(out, a, F::sin),
        Operation::Cos => unary(out, a, F::cos),
        Operation::Tan => unary(out, a, F::tan),
        Operation::Asin => unary(out, a, F::asin),
        Operation::Acos => unary(out, a, F::acos),
        Operation::Atan => unary(out, a, F::atan),
        Operation::Floor => unary(out, a, F::floor),
        Operation::Ceil => unary(out, a, F::ceil),
        Operation::Round => unary(out, a, F::round_ties_even),
        Operation::Square => unary(out, a, |x| x * x),
        Operation::Or => compare(out, a, b, |x, y| (x != F::ZERO) | (y != F::ZERO)),
        Operation::And => compare(out, a, b, |x, y| (x != F::ZERO) & (y != F::ZERO)),
        Operation::Equal => compare(out, a, b, |x, y| x == y),
        Operation::NotEqual => compare(out, a, b, |x, y| x != y),
        Operation::Less => compare(out, a, b, |x, y| x < y),
        Operation::LessEqual => compare(out, a, b, |x, y| x <= y),
        Operation::Greater => compare(out, a, b, |x, y| x > y),
        Operation::GreaterEqual => compare(out, a, b, |x, y| x >= y),
        Operation::Add => binary(out, a, b, |x, y| x + y),
        Operation::Subtract => binary(out, a, b, |x, y| x - y),
        Operation::Multiply => binary(out, a, b, |x, y| x * y),
        Operation::Divide => binary(out, a, b, |x, y| x / y),
        Operation::Power => binary(out, a, b, |x, y| (x + y).known(x.powf(y))),
        Operation::Atan2 => binary(out, a, b, F::atan2),
        Operation::Hypot => binary(out, a, b, |x, y| (x + y).known(x.hypot(y))),
        Operation::Min2 => binary(out, a, b, |x, y| y.known(if y < x { y } else { x })),
        Operation::Max2 => binary(out, a, b, |x, y| y.known(if y > x { y } else { x })),
        Operation::WindSpeed => binary(out, a, b, |u, v| (u * u + v * v).sqrt()),
        Operation::WindDirection => binary(out, a, b, F::wind_direction),
        Operation::Select => {
            for (((out, a), b), c) in out.iter_mut().zip(a).zip(b).zip(c) {
                *out = c.known(if *c == F::ZERO { *b } else { *a });
            }
        }
    }
    registers[to as usize] = target;
}

#[inline(always)]
fn unary<F: Float>(out: &mut [F], a: &[F], f: impl Fn(F) -> F) {
    out.iter_mut().zip(a).for_each(|(out, a)| *out = f(*a));
}

#[inline(always)]
fn binary<F: Float>(out: &mut [F], a: &[F], b: &[F], f: impl Fn(F, F) -> F) {
    out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = f(*a, *b));
}

#[inline(always)]
fn compare<F: Float>(out: &mut [F], a: &[F], b: &[F], f: impl Fn(F, F) -> bool) {
    binary(out, a, b, |x, y| x.known(y.known(F::truth(f(x, y)))));
}

/// Decodes the cells of an operand into a register.
fn load<F: Float>(cells: &Cells<'_>, out: &mut [F]) {
    match cells.decode.dtype {
        DType::F32 => load_as::<f32, F, 4>(cells, out),
        DType::F64 => load_as::<f64, F, 8>(cells, out),
        DType::I8 => load_as::<i8, F, 1>(cells, out),
        DType::I16 => load_as::<i16, F, 2>(cells, out),
        DType::I32 => load_as::<i32, F, 4>(cells, out),
        DType::I64 => load_as::<i64, F, 8>(cells, out),
        DType::U16 => load_as::<u16, F, 2>(cells, out),
        DType::U32 => load_as::<u32, F, 4>(cells, out),
        DType::U64 => load_as::<u64, F, 8>(cells, out),
        // Text has no numbers; the plan never asks for it.
        DType::U8 | DType::Char | DType::String => load_as::<u8, F, 1>(cells, out),
    }
}

fn load_as<E: Element<N>, F: Float, const N: usize>(cells: &Cells<'_>, out: &mut [F]) {
    let Cells { bytes, first, step, decode } = *cells;
    let all = bytes.as_chunks::<N>().0;
    let missing = decode.missing.as_chunks::<N>().0;
    let number = |bytes: &[u8; N]| -> F {
        let element = E::read(bytes);
        let absent = missing.iter().any(|m| E::read(m) == element);
        if absent { F::NAN } else { element.number() }
    };
    match (step, missing) {
        (0, _) => out.fill(number(&all[first])),
        (1, []) => {
            let cells = &all[first..first + out.len()];
            out.iter_mut().zip(cells).for_each(|(out, bytes)| *out = E::read(bytes).number());
        }
        (1, [only]) => {
            let (cells, only) = (&all[first..first + out.len()], E::read(only));
            for (out, bytes) in out.iter_mut().zip(cells) {
                let element = E::read(bytes);
                let number: F = element.number();
                *out = if element == only { F::NAN } else { number };
            }
        }
        _ => out.iter_mut().enumerate().for_each(|(i, out)| *out = number(&all[first + i * step])),
    }
    if let Some(scale) = decode.scale {
        let scale = F::from_f64(scale);
        out.iter_mut().for_each(|x| *x = *x * scale);
    }
    if let Some(offset) = decode.offset {
        let offset = F::from_f64(offset);
        out.iter_mut().for_each(|x| *x = *x + offset);
    }
}

/// A stored element of N bytes.
trait Element<const N: usize>: Copy + PartialEq {
    fn read(bytes: &[u8; N]) -> Self;
    fn number<F: Float>(self) -> F;
}

macro_rules! element {
    ($($type:ty, $size:literal);*) => {$(
        impl Element<$size> for $type {
            #[inline(always)]
            fn read(bytes: &[u8; $size]) -> $type {
                <$type>::from_le_bytes(*bytes)
            }
            #[inline(always)]
            fn number<F: Float>(self) -> F {
                F::from_f64(self as f64)
            }
        }
    )*};
}
element!(i8, 1; u8, 1; i16, 2; u16, 2; i32, 4; u32, 4; i64, 8; u64, 8; f64, 8; f32, 4);

/// What both lanes can do.
trait Float:
    Copy
    + PartialOrd
    + std::ops::Neg<Output = Self>
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
{
    const ZERO: Self;
    const NAN: Self;
    fn from_f64(value: f64) -> Self;
    fn truth(yes: bool) -> Self;
    /// `value`, or missing if this is.
    fn known(self, value: Self) -> Self;
    fn sqrt(self) -> Self;
    fn exp(self) -> Self;
    fn log10(self) -> Self;
    fn ln(self) -> Self;
    fn abs(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    fn tan(self) -> Self;
    fn asin(self) -> Self;
    fn acos(self) -> Self;
    fn atan(self) -> Self;
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    fn round_ties_even(self) -> Self;
    fn powf(self, exponent: Self) -> Self;
    fn hypot(self, other: Self) -> Self;
    fn atan2(self, x: Self) -> Self;
    fn wind_direction(self, v: Self) -> Self;
}

macro_rules! float {
    ($type:ident, $atan2:expr, $direction:expr) => {
        impl Float for $type {
            const ZERO: $type = 0.0;
            const NAN: $type = $type::NAN;
            #[inline(always)]
            fn from_f64(value: f64) -> $type {
                value as $type
            }
            #[inline(always)]
            fn truth(yes: bool) -> $type {
                if yes { 1.0 } else { 0.0 }
            }
            #[inline(always)]
            fn known(self, value: $type) -> $type {
                if self.is_nan() { $type::NAN } else { value }
            }
            float!(@same $type sqrt exp log10 ln abs sin cos tan asin acos atan floor ceil round_ties_even);
            fn powf(self, exponent: $type) -> $type {
                $type::powf(self, exponent)
            }
            fn hypot(self, other: $type) -> $type {
                $type::hypot(self, other)
            }
            #[inline(always)]
            fn atan2(self, x: $type) -> $type {
                $atan2(self, x)
            }
            #[inline(always)]
            fn wind_direction(self, v: $type) -> $type {
                $direction(self, v)
            }
        }
    };
    (@same $type:ident $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(self) -> $type {
            $type::$name(self)
        }
    )*};
}
float!(f32, math::atan2_f32, math::wind_direction_f32);
float!(f64, math::atan2_f64, math::wind_direction_f64);

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    /// `operation` of up to three f32 operands.
    fn applied(operation: Operation, operands: [&[f32]; 3]) -> Vec<f32> {
        let mut steps: Vec<Step> =
            (0..3).map(|k| Step::Load { operand: k, lane: Lane::F32, to: k }).collect();
        steps.push(Step::Apply { operation, lane: Lane::F32, to: 3, from: [0, 1, 2] });
        let program = Program { steps, registers: [4, 0], results: vec![(Lane::F32, 3)] };
        assert!(program.is_sound(3));
        let decode = Decode::plain(Lane::F32);
        let raw = operands.map(bytes);
        let cells: Vec<Cells<'_>> =
            raw.iter().map(|bytes| Cells { bytes, first: 0, step: 1, decode: &decode }).collect();
        let mut machine = Machine::new(&program);
        machine.run(&program, &cells, operands[0].len());
        match machine.result((Lane::F32, 3), operands[0].len()) {
            Slice::F32(out) => out.to_vec(),
            Slice::F64(_) => unreachable!(),
        }
    }

    #[test]
    fn operations_give_what_their_names_say_and_missing_stays_missing() {
        use Operation as O;
        let (a, b, c) = ([4.0, -2.5, 0.0, f32::NAN], [2.0, 2.0, 3.0, 1.0], [1.0, 0.0, 1.0, 0.0]);
        for (operation, expected) in [
            (O::Negate, [-4.0, 2.5, 0.0]),
            (O::Not, [0.0, 0.0, 1.0]),
            (O::Abs, [4.0, 2.5, 0.0]),
            (O::Floor, [4.0, -3.0, 0.0]),
            (O::Round, [4.0, -2.0, 0.0]),
            (O::Square, [16.0, 6.25, 0.0]),
            (O::Or, [1.0, 1.0, 1.0]),
            (O::And, [1.0, 1.0, 0.0]),
            (O::Less, [0.0, 1.0, 1.0]),
            (O::GreaterEqual, [1.0, 0.0, 0.0]),
            (O::Equal, [0.0, 0.0, 0.0]),
            (O::NotEqual, [1.0, 1.0, 1.0]),
            (O::Add, [6.0, -0.5, 3.0]),
            (O::Divide, [2.0, -1.25, 0.0]),
            (O::Power, [16.0, 6.25, 0.0]),
            (O::Min2, [2.0, -2.5, 0.0]),
            (O::Max2, [4.0, 2.0, 3.0]),
            (O::Hypot, [20f32.sqrt(), 10.25f32.sqrt(), 3.0]),
            (O::WindSpeed, [20f32.sqrt(), 10.25f32.sqrt(), 3.0]),
        ] {
            let made = applied(operation, [&a, &b, &c]);
            for (made, expected) in made.iter().zip(expected) {
                assert!((made - expected).abs() < 1e-5, "{operation:?}: {made:?}, not {expected:?}");
            }
            assert!(made[3].is_nan(), "{operation:?} of missing");
        }
        for operation in [O::Min2, O::Max2, O::Add, O::Less, O::Power, O::WindDirection, O::Hypot] {
            assert!(applied(operation, [&b, &a, &c])[3].is_nan(), "{operation:?} of missing on the right");
        }
        // The condition comes last; what isn't chosen may be missing.
        let chosen = applied(O::Select, [&[1.0, 2.0, f32::NAN], &[5.0, 6.0, 7.0], &[1.0, 0.0, 0.0]]);
        assert_eq!(chosen, [1.0, 6.0, 7.0]);
        assert!(applied(O::Select, [&[1.0], &[5.0], &[f32::NAN]])[0].is_nan());
    }

    #[test]
    fn stored_elements_become_numbers_or_missing() {
        let loaded = |dtype, stored: &[u8], missing: &[u8], scale, offset, first, step| {
            let decode = Decode { dtype, missing: missing.to_vec(), scale, offset };
            let mut out = [0.0f64; 2];
            load(&Cells { bytes: stored, first, step, decode: &decode }, &mut out);
            out
        };
        let shorts: Vec<u8> = [1i16, -5, 300, -999].iter().flat_map(|v| v.to_le_bytes()).collect();
        let gone = (-999i16).to_le_bytes();
        assert_eq!(loaded(DType::I16, &shorts, &[], None, None, 0, 1), [1.0, -5.0]);
        assert_eq!(loaded(DType::I16, &shorts, &gone, Some(0.5), Some(10.0), 0, 2), [10.5, 160.0]);
        assert_eq!(loaded(DType::I16, &shorts, &gone, None, None, 1, 0), [-5.0, -5.0]);
        let last = loaded(DType::I16, &shorts, &gone, Some(0.5), None, 2, 1);
        assert!(last[0] == 150.0 && last[1].is_nan());
        let two = [gone, 300i16.to_le_bytes()].concat();
        assert!(loaded(DType::I16, &shorts, &two, None, None, 2, 1).iter().all(|x| x.is_nan()));
        let longs: Vec<u8> = [i64::MIN + 2, i64::MIN].iter().flat_map(|v| v.to_le_bytes()).collect();
        let made = loaded(DType::I64, &longs, &longs[..8], None, None, 0, 1);
        assert!(made[0].is_nan() && made[1] == i64::MIN as f64, "neighbours of a fill stay");
    }

    #[test]
    fn an_unsound_program_is_known_before_it_runs() {
        let step = Step::Apply { operation: Operation::Add, lane: Lane::F32, to: 0, from: [0, 1, 1] };
        let program = Program { steps: vec![step], registers: [2, 0], results: vec![] };
        assert!(!program.is_sound(0), "a register is both read and written");
        let step = Step::Load { operand: 1, lane: Lane::F64, to: 0 };
        let program = Program { steps: vec![step], registers: [0, 1], results: vec![] };
        assert!(!program.is_sound(1) && program.is_sound(2));
    }
}
