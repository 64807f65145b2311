//! What a run did: how often each thing happened, so that a simulation that exercises nothing can't pass.

use std::collections::BTreeMap;
use std::fmt;

/// How often each kind of fault, action, answer and transition was seen.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Report {
    pub counts: BTreeMap<String, u64>,
}

/// A run that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
    /// The last things that happened, if the run was traced.
    pub trace: Vec<String>,
}

impl Report {
    pub fn count(&mut self, group: &str, what: &str) {
        self.add(group, what, 1);
    }

    pub fn add(&mut self, group: &str, what: &str, n: u64) {
        *self.counts.entry(format!("{group}: {what}")).or_default() += n;
    }

    pub fn merge(&mut self, other: &Report) {
        for (what, n) in &other.counts {
            *self.counts.entry(what.clone()).or_default() += n;
        }
    }

    /// Those of `expected` that never happened.
    pub fn missing<'a>(&self, expected: &[&'a str]) -> Vec<&'a str> {
        expected.iter().filter(|what| self.counts.get(**what).is_none_or(|n| *n == 0)).copied().collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.iter().try_for_each(|(what, n)| writeln!(f, "{n:>10}  {what}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {}: {}", self.seed, self.what)
    }
}
