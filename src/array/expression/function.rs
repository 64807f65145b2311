//! The functions of the language: one table, from which lookup, arity and did-you-mean come.

/// An elementwise function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Function {
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
    Round,
    Atan2,
    Hypot,
    Min2,
    Max2,
    Clip,
    Where,
    WindSpeed,
    WindDirection,
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
    ("sqrt", Function::Sqrt, &["x"]),
    ("exp", Function::Exp, &["x"]),
    ("log10", Function::Log10, &["x"]),
    ("ln", Function::Ln, &["x"]),
    ("abs", Function::Abs, &["x"]),
    ("sin", Function::Sin, &["x"]),
    ("cos", Function::Cos, &["x"]),
    ("tan", Function::Tan, &["x"]),
    ("asin", Function::Asin, &["x"]),
    ("acos", Function::Acos, &["x"]),
    ("atan", Function::Atan, &["x"]),
    ("floor", Function::Floor, &["x"]),
    ("ceil", Function::Ceil, &["x"]),
    ("round", Function::Round, &["x"]),
    ("atan2", Function::Atan2, &["y", "x"]),
    ("hypot", Function::Hypot, &["x", "y"]),
    ("min2", Function::Min2, &["a", "b"]),
    ("max2", Function::Max2, &["a", "b"]),
    ("clip", Function::Clip, &["x", "low", "high"]),
    ("where", Function::Where, &["condition", "a", "b"]),
    ("wind_speed", Function::WindSpeed, &["u", "v"]),
    ("wind_direction", Function::WindDirection, &["u", "v"]),
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
