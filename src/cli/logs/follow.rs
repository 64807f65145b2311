//! Following a log. It is looked at now and then rather than watched: what another host writes to a file server
//! wakes nobody here.

use super::catalogue::Log;
use super::read::{self, CopyError};
use super::{length, not_there, open, unreadable};
use crate::cli::Context;
use crate::cli::exit::{CliError, Exit};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Prints what the log has and what comes, until Ctrl-C. A log that begins anew, because it was replaced or cut
/// short, is printed from its new beginning.
///
/// # Errors
/// It can't be read. Ctrl-C is no error, but has its own exit.
pub(super) async fn follow(log: &Log, lines: Option<u64>, context: &Context) -> Result<Exit, CliError> {
    // From now on, and not only from the first wait on it.
    let mut interrupted = signal(SignalKind::interrupt())
        .map_err(|error| CliError::internal(format!("Ctrl-C can't be listened for: {error}")))?;
    let mut follower = Follower { log, context, open: None, verdicts: 0 };
    follower.begin(lines)?;
    loop {
        follower.look()?;
        tokio::select! {
            _ = interrupted.recv() => return Ok(Exit::Interrupted),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

struct Follower<'a> {
    log: &'a Log,
    context: &'a Context,
    /// The file, and how much of it has been printed.
    open: Option<(File, u64)>,
    /// Deaths that have been told.
    verdicts: usize,
}

impl Follower<'_> {
    fn begin(&mut self, lines: Option<u64>) -> Result<(), CliError> {
        let Some(file) = open(self.log)? else {
            self.context.out.note(not_there(self.log));
            return Ok(());
        };
        let end = length(self.log, &file)?;
        let start = read::start(&file, end, lines).map_err(|error| unreadable(self.log, &error))?;
        self.open = Some((file, start));
        Ok(())
    }

    /// Prints what is new.
    fn look(&mut self) -> Result<(), CliError> {
        self.print_rest()?;
        if self.was_replaced()? {
            // What its writer added between our last read and the replacement.
            self.print_rest()?;
            self.context.out.note(format!("{} begins anew", self.log.path.display()));
            self.open = open(self.log)?.map(|file| (file, 0));
            self.print_rest()?;
        } else if self.open.is_none() {
            self.open = open(self.log)?.map(|file| (file, 0));
            self.print_rest()?;
        }
        let verdicts = self.log.verdicts();
        for verdict in verdicts.iter().skip(self.verdicts) {
            self.context.out.line(read::obituary(verdict))?;
        }
        self.verdicts = verdicts.len();
        Ok(())
    }

    fn print_rest(&mut self) -> Result<(), CliError> {
        let Some((file, at)) = &mut self.open else { return Ok(()) };
        let length = length(self.log, file)?;
        if length < *at {
            self.context.out.note(format!("{} was cut short", self.log.path.display()));
            *at = 0;
        }
        let copied = read::copy(file, *at..length, |bytes| self.context.out.bytes(bytes));
        *at = copied.map_err(|error: CopyError| error.or_else(|error| unreadable(self.log, &error)))?;
        Ok(())
    }

    /// Whether the name leads to another file now. One that is gone may come back, and is kept meanwhile.
    fn was_replaced(&self) -> Result<bool, CliError> {
        let Some((file, _)) = &self.open else { return Ok(false) };
        let ours = file.metadata().map_err(|error| unreadable(self.log, &error))?;
        let named = self.log.path.metadata();
        Ok(named.is_ok_and(|named| (named.dev(), named.ino()) != (ours.dev(), ours.ino())))
    }
}
