//! Exit codes, and errors that carry one. Only `cli` turns errors into exit codes.

use crate::config::ConfigError;
use std::fmt;
use std::io::Write;

/// How a verb ended. The numbers are part of the contract; 3 is never ours, because it is the JSON jq's
/// "that is no filter".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Ok,
    /// A task failed or was cancelled.
    TaskFailed,
    /// The command line is wrong.
    Usage,
    /// No such cluster, or it can't be reached.
    Unavailable,
    /// A bug of ours.
    Internal,
    /// The batch system's controller is dead, hung or at a limit: try again.
    TryAgain,
    /// Permission denied.
    Permission,
    /// The configuration, or what it asks of the batch system, can never work.
    Config,
    /// A wait timed out where it could still have come.
    TimedOut,
    /// There is no JSON jq.
    NoJsonJq,
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM.
    Terminated,
    /// The code of a command that was run (`jq up -- CMD`), whatever it is.
    Command(u8),
}

/// A message for a person, with an exit code and, where it helps, what to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CliError {
    pub exit: Exit,
    pub message: String,
    /// May be empty.
    pub hint: String,
}

impl Exit {
    /// The exit of a code that the contract names; anything else is a defect of ours.
    pub fn from_contract(code: u8) -> Exit {
        match code {
            0 => Exit::Ok,
            1 => Exit::TaskFailed,
            2 => Exit::Usage,
            69 => Exit::Unavailable,
            75 => Exit::TryAgain,
            77 => Exit::Permission,
            78 => Exit::Config,
            124 => Exit::TimedOut,
            _ => Exit::Internal,
        }
    }

    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::TaskFailed => 1,
            Exit::Usage => 2,
            Exit::Unavailable => 69,
            Exit::Internal => 70,
            Exit::TryAgain => 75,
            Exit::Permission => 77,
            Exit::Config => 78,
            Exit::TimedOut => 124,
            Exit::NoJsonJq => 127,
            Exit::Interrupted => 130,
            Exit::Terminated => 143,
            Exit::Command(code) => code,
        }
    }
}

impl CliError {
    pub fn new(exit: Exit, message: impl Into<String>) -> CliError {
        CliError { exit, message: message.into(), hint: String::new() }
    }

    pub fn usage(message: impl Into<String>) -> CliError {
        CliError::new(Exit::Usage, message)
    }

    pub fn unavailable(message: impl Into<String>) -> CliError {
        CliError::new(Exit::Unavailable, message)
    }

    pub fn config(message: impl Into<String>) -> CliError {
        CliError::new(Exit::Config, message)
    }

    pub fn internal(message: impl Into<String>) -> CliError {
        CliError::new(Exit::Internal, message)
    }

    /// Says what it is about first.
    #[must_use]
    pub fn about(mut self, subject: &str) -> CliError {
        self.message = format!("{subject}: {}", self.message);
        self
    }

    /// Ends the program with that code and no words.
    pub fn silent(exit: Exit) -> CliError {
        CliError::new(exit, "")
    }

    /// What to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> CliError {
        self.hint = hint.into();
        self
    }

    /// Says it on stderr.
    pub fn report(&self) -> Exit {
        if !self.message.is_empty() {
            // Where stderr is closed, the exit code says it alone.
            let _ = writeln!(std::io::stderr(), "{self}");
        }
        self.exit
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n  hint: {}", self.hint) }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> CliError {
        let exit = match &error {
            ConfigError::Unreadable { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Exit::Permission
            }
            ConfigError::BuiltIn(_) => Exit::Internal,
            _ => Exit::Config,
        };
        CliError::new(exit, error.to_string()).hint(error.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_is_never_ours() {
        let ours = [
            Exit::Ok,
            Exit::TaskFailed,
            Exit::Usage,
            Exit::Unavailable,
            Exit::Internal,
            Exit::TryAgain,
            Exit::Permission,
            Exit::Config,
            Exit::TimedOut,
            Exit::NoJsonJq,
            Exit::Interrupted,
            Exit::Terminated,
        ];
        assert!(ours.iter().all(|exit| exit.code() != 3));
        assert_eq!(Exit::Command(3).code(), 3, "a command's own code passes");
    }

    #[test]
    fn an_error_says_what_to_do_next() {
        let error = CliError::unavailable("no cluster `default`").hint("`jq up` starts one");
        assert_eq!(error.to_string(), "error: no cluster `default`\n  hint: `jq up` starts one");
    }
}
