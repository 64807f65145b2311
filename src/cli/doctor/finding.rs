//! What a check finds, as data.

use super::ground::Ground;
use crate::cli::exit::{CliError, Exit};

/// One thing to look at. Checks change nothing that stays.
pub struct Check {
    pub name: &'static str,
    pub run: fn(&Ground) -> Finding,
}

/// How it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Ok,
    /// It works, or may, but somebody should know.
    Warning,
    /// Something of jobq can't work; the exit code of that kind.
    Failed(Exit),
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub verdict: Verdict,
    /// What was found, with names, paths and numbers.
    pub found: String,
    /// What to do; may be empty.
    pub advice: String,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed(_) => "failed",
        }
    }

    fn severity(self) -> u8 {
        match self {
            Verdict::Ok => 0,
            Verdict::Warning => 1,
            Verdict::Failed(_) => 2,
        }
    }
}

impl Finding {
    pub fn ok(found: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Ok, found: found.into(), advice: String::new() }
    }

    pub fn warning(found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Warning, found: found.into(), advice: advice.into() }
    }

    pub fn failed(exit: Exit, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Failed(exit), found: found.into(), advice: advice.into() }
    }

    /// An error that a verb would have ended with.
    pub fn error(error: impl Into<CliError>) -> Finding {
        let CliError { exit, message, hint } = error.into();
        Finding::failed(exit, message, hint)
    }

    /// The same with something that may be done.
    #[must_use]
    pub fn advising(self, advice: impl Into<String>) -> Finding {
        Finding { advice: advice.into(), ..self }
    }

    /// It can't be told, because of something that another check reports.
    pub fn not_looked_at(why: &str) -> Finding {
        Finding::warning(format!("not looked at: {why}"), "")
    }

    /// The same where it is no more than a warning.
    #[must_use]
    pub fn at_most_warning(self) -> Finding {
        match self.verdict {
            Verdict::Failed(_) => Finding { verdict: Verdict::Warning, ..self },
            _ => self,
        }
    }

    /// Several as one: the first of the worst decides, and the worst are told first.
    pub fn worst(mut findings: Vec<Finding>) -> Finding {
        // Stable: of equally bad ones the first stays the first.
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict.severity()));
        let verdict = findings.first().map_or(Verdict::Ok, |finding| finding.verdict);
        let join = |part: fn(&Finding) -> &str| {
            let mut parts: Vec<&str> = findings.iter().map(part).filter(|text| !text.is_empty()).collect();
            parts.dedup();
            parts.join("; ")
        };
        Finding { verdict, found: join(|f| &f.found), advice: join(|f| &f.advice) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_findings_the_worst_decides_and_comes_first() {
        let found = Finding::worst(vec![
            Finding::ok("a"),
            Finding::failed(Exit::TryAgain, "b", "do b"),
            Finding::warning("c", "do c"),
            Finding::failed(Exit::Config, "d", "do c"),
        ]);
        assert_eq!(found, Finding::failed(Exit::TryAgain, "b; d; c; a", "do b; do c"));
        assert_eq!(Finding::worst(Vec::new()), Finding::ok(""));
    }

    #[test]
    fn a_built_in_profile_can_only_warn() {
        let found = Finding::failed(Exit::Config, "b", "").at_most_warning();
        assert_eq!(found.verdict, Verdict::Warning);
        assert_eq!(Finding::ok("a").at_most_warning().verdict, Verdict::Ok);
    }
}
