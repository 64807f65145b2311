//! The functions of the language: one table, from which lookup, arity and did-you-mean come.

use crate::kernels::program::Operation;

/// What an elementwise function does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Function {
    /// One operation on the arguments as they are.
    Apply(Operation),
    Clip,
    Where,
}

/// A reduction over dimensions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReduceName {
    Mean,
    Sum,
    Min,
    Max,
    Var,
    Std,
    Count,
}

/// Name, meaning, and what each argument is called in messages.
const FUNCTIONS: [(&str, Function, &[&str]); 22] = [
    ("sqrt", Function::Apply(Operation::Sqrt), &["x"]),
    ("exp", Function::Apply(Operation::Exp), &["x"]),
    ("log10", Function::Apply(Operation::Log10), &["x"]),
    ("ln", Function::Apply(Operation::Ln), &["x"]),
    ("abs", Function::Apply(Operation::Abs), &["x"]),
    ("sin", Function::Apply(Operation::Sin), &["x"]),
    ("cos", Function::Apply(Operation::Cos), &["x"]),
    ("tan", Function::Apply(Operation::Tan), &["x"]),
    ("asin", Function::Apply(Operation::Asin), &["x"]),
    ("acos", Function::Apply(Operation::Acos), &["x"]),
    ("atan", Function::Apply(Operation::Atan), &["x"]),
    ("floor", Function::Apply(Operation::Floor), &["x"]),
    ("ceil", Function::Apply(Operation::Ceil), &["x"]),
    ("round", Function::Apply(Operation::Round), &["x"]),
    ("atan2", Function::Apply(Operation::Atan2), &["y", "x"]),
    ("hypot", Function::Apply(Operation::Hypot), &["x", "y"]),
    ("min2", Function::Apply(Operation::Min2), &["a", "b"]),
    ("max2", Function::Apply(Operation::Max2), &["a", "b"]),
    ("clip", Function::Clip, &["x", "low", "high"]),
    ("where", Function::Where, &["condition", "a", "b"]),
    ("wind_speed", Function::Apply(Operation::WindSpeed), &["u", "v"]),
    ("wind_direction", Function::Apply(Operation::WindDirection), &["u", "v"]),
];

const REDUCERS: [(&str, ReduceName); 7] = [
    ("mean", ReduceName::Mean),
    ("sum", ReduceName::Sum),
    ("min", ReduceName::Min),
    ("max", ReduceName::Max),
    ("var", ReduceName::Var),
    ("std", ReduceName::Std),
    ("count", ReduceName::Count),
];

/// The elementwise function of that name, with the names of its arguments.
pub(super) fn function(name: &str) -> Option<(Function, &'static [&'static str])> {
    FUNCTIONS.iter().find(|(n, ..)| *n == name).map(|(_, function, args)| (*function, *args))
}

pub(super) fn reducer(name: &str) -> Option<ReduceName> {
    REDUCERS.iter().find(|(n, _)| *n == name).map(|(_, reducer)| *reducer)
}

/// Every function's name, for did-you-mean.
pub(super) fn names() -> Vec<&'static str> {
    FUNCTIONS.iter().map(|f| f.0).chain(REDUCERS.iter().map(|r| r.0)).collect()
}

impl ReduceName {
    pub fn name(self) -> &'static str {
        REDUCERS.iter().find(|(_, r)| *r == self).map_or("", |(name, _)| name)
    }

    /// What CF calls it in `cell_methods`; a count is no CF method.
    pub fn cell_method(self) -> Option<&'static str> {
        match self {
            ReduceName::Mean => Some("mean"),
            ReduceName::Sum => Some("sum"),
            ReduceName::Min => Some("minimum"),
            ReduceName::Max => Some("maximum"),
            ReduceName::Var => Some("variance"),
            ReduceName::Std => Some("standard_deviation"),
            ReduceName::Count => None,
        }
    }
}
