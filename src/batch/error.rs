//! What can go wrong with a batch system, always with its own words and the command that was run.

use super::{Invocation, Output};

/// What to do about a [`BatchError`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The controller is dead, hung or at a limit: the same request may succeed later.
    TryAgain,
    /// The batch system doesn't let this user do that.
    Permission,
    /// The request can't be satisfied as it is: queue, account, size, walltime, or a value that we refuse.
    Refused,
    /// A submit without an answer: the job may exist. Look for its name before submitting again.
    Ambiguous,
    /// The batch system's command is not on PATH, or can't be started.
    NotInstalled,
    /// Words or an exit code that we don't know.
    Unexpected,
}

impl ErrorKind {
    /// The exit code that the command line's contract gives it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::TryAgain | Self::Ambiguous => 75,
            Self::Permission => 77,
            Self::Refused | Self::NotInstalled => 78,
            Self::Unexpected => 70,
        }
    }
}

/// A refusal or failure of a batch system.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct BatchError {
    pub kind: ErrorKind,
    /// What failed and what to do next, in our words.
    pub summary: String,
    /// The batch system's own words; empty if it said nothing.
    pub words: String,
    /// The command that was run; empty if none was.
    pub command: String,
}

impl BatchError {
    /// An error about a request that no command was run for.
    #[must_use]
    pub fn new(kind: ErrorKind, summary: impl Into<String>) -> Self {
        Self { kind, summary: summary.into(), words: String::new(), command: String::new() }
    }

    /// Whether the host where the command ran may be the reason, as where a site takes no jobs from compute nodes: known
    /// words about the job itself, or about a controller that is busy, say nothing of it.
    #[must_use]
    pub fn may_be_the_hosts(&self) -> bool {
        matches!(self.kind, ErrorKind::NotInstalled | ErrorKind::Permission | ErrorKind::Unexpected)
    }

    /// An error read from a command's output.
    #[must_use]
    pub fn from_output(kind: ErrorKind, summary: impl Into<String>, output: &Output) -> Self {
        Self { words: own_words(output), ..Self::new(kind, summary) }
    }

    /// The same error, naming the command that gave it.
    #[must_use]
    pub fn with_command(mut self, invocation: &Invocation) -> Self {
        if self.command.is_empty() {
            self.command = invocation.to_string();
        }
        self
    }

    fn sentence(&self) -> String {
        let mut text = self.summary.clone();
        if !self.words.is_empty() {
            text.push_str(&format!(": {}", self.words));
        }
        if !self.command.is_empty() {
            text.push_str(&format!(" (from `{}`)", self.command));
        }
        text
    }
}

/// Longest quotation of a batch system's words: a page, not a screenful of a site's banner.
const WORDS_LIMIT: usize = 2000;

/// What a command said: its stderr, or its stdout when stderr is silent, as one line; else how it ended.
fn own_words(output: &Output) -> String {
    let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
    let line: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line: String = line.join("; ").chars().filter(|c| !c.is_control()).take(WORDS_LIMIT).collect();
    match (line.is_empty(), output.timed_out, output.code) {
        (false, true, _) => format!("{line} (no answer in time)"),
        (false, false, _) => line,
        (true, true, _) => "no answer in time".to_owned(),
        (true, false, Some(code)) => format!("exit code {code} without a word"),
        (true, false, None) => "killed by a signal".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_who_and_how() {
        let output = Output {
            code: Some(1),
            stderr: "sbatch: error: a\n\n sbatch: error: b\n".into(),
            ..Output::default()
        };
        let error = BatchError::from_output(ErrorKind::Refused, "the queue refused the job", &output);
        assert_eq!(error.to_string(), "the queue refused the job: sbatch: error: a; sbatch: error: b");
    }

    #[test]
    fn silence_is_described() {
        let silent = |code, timed_out| own_words(&Output { code, timed_out, ..Output::default() });
        assert_eq!(silent(Some(3), false), "exit code 3 without a word");
        assert_eq!(silent(None, false), "killed by a signal");
        assert_eq!(silent(None, true), "no answer in time");
    }

    #[test]
    fn escape_codes_and_floods_do_not_reach_the_terminal() {
        let output =
            Output { code: Some(1), stderr: format!("\u{1b}[31m{}", "x".repeat(9000)), ..Output::default() };
        let words = own_words(&output);
        assert!(!words.contains('\u{1b}'));
        assert_eq!(words.chars().count(), WORDS_LIMIT);
    }
}
