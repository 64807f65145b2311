//! Where a value came from.

use std::fmt;
use std::path::PathBuf;

/// The layers, low to high.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Layer {
    /// Built into the program.
    Default,
    Site,
    User,
    Project,
    Environment,
    Flag,
}

/// One place where a value can be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    pub layer: Layer,
    /// The file; or the variable's name, or the flag.
    pub source: PathBuf,
    /// From 1; 0 where there are no lines.
    pub line: u32,
}

impl Origin {
    pub(super) fn flag(text: impl Into<PathBuf>) -> Origin {
        Origin { layer: Layer::Flag, source: text.into(), line: 0 }
    }
}

impl Layer {
    /// A word for `--json`.
    pub fn word(self) -> &'static str {
        match self {
            Layer::Default => "default",
            Layer::Site => "site",
            Layer::User => "user",
            Layer::Project => "project",
            Layer::Environment => "environment",
            Layer::Flag => "flag",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.display();
        match self.layer {
            Layer::Default if self.line == 0 => write!(f, "default"),
            Layer::Default => write!(f, "built-in {source}:{}", self.line),
            Layer::Environment => write!(f, "environment {source}"),
            Layer::Flag => write!(f, "flag {source}"),
            Layer::Site | Layer::User | Layer::Project if self.line == 0 => write!(f, "{source}"),
            Layer::Site | Layer::User | Layer::Project => write!(f, "{source}:{}", self.line),
        }
    }
}
