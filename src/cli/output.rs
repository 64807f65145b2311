//! What users read: data on stdout, notes and progress on stderr.

use super::exit::{CliError, Exit};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};

/// The version of what `--json` prints; it grows when a field is removed or changes its meaning.
pub const SCHEMA: u32 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

/// How this process speaks.
#[derive(Clone, Copy)]
pub struct Output {
    json: bool,
    quiet: bool,
    verbose: bool,
    color: bool,
}

/// The schema's number before the fields of what is reported.
#[derive(Serialize)]
struct Report<'a, T> {
    schema: u32,
    #[serde(flatten)]
    body: &'a T,
}

impl Output {
    pub(super) fn new(json: bool, quiet: bool, verbose: bool, color: Color) -> Output {
        let wanted = || {
            let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
            !refused && std::io::stdout().is_terminal()
        };
        let color = match color {
            Color::Auto => wanted(),
            Color::Always => true,
            Color::Never => false,
        };
        Output { json, quiet, verbose, color }
    }

    /// Whether `--json` was given.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// A line on stdout.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), CliError> {
        self.bytes(format!("{}\n", text.as_ref()).as_bytes())
    }

    /// Bytes on stdout as they are. A reader that has gone away (`| head`) ends the program quietly.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|e| match e.kind() {
            ErrorKind::BrokenPipe => CliError::silent(Exit::Ok),
            _ => CliError::new(Exit::Config, format!("can't write to stdout: {e}")),
        })
    }

    /// One JSON document on stdout; `body` must serialize as a map.
    pub fn json(&self, body: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(&Report { schema: SCHEMA, body })
            .map_err(|e| CliError::internal(format!("can't write JSON: {e}")))?;
        self.line(text)
    }

    /// One JSON document on stdout, of something that has its own `schema`.
    pub fn json_with_schema(&self, body: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(body)
            .map_err(|e| CliError::internal(format!("can't write JSON: {e}")))?;
        self.line(text)
    }

    /// Columns with headings on stdout.
    pub fn table(&self, headings: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
        self.bytes(render_table(headings, rows, self.color).as_bytes())
    }

    /// A note on stderr, unless `--quiet`.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            // A closed stderr is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
        }
    }

    /// A note with `--verbose`.
    pub fn detail(&self, text: impl AsRef<str>) {
        if self.verbose {
            self.note(text);
        }
    }

    /// A warning on stderr, `--quiet` or not.
    pub fn warning(&self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr(), "warning: {}", text.as_ref());
    }

    /// Progress towards `total`, on stderr and only on a terminal.
    pub fn progress(&self, total: u64, what: &str) -> ProgressBar {
        if self.quiet || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template = "{msg} [{bar:30}] {pos}/{len} {elapsed_precise}";
        // The template is ours, so it parses; the bar's own style serves as well.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.with_message(what.to_owned())
    }
}

/// A table without frame. Control characters, which may come from anywhere (job names, reasons), become `?`.
fn render_table(headings: &[&str], rows: &[Vec<String>], color: bool) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(headings.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for (number, line) in table.to_string().lines().enumerate() {
        let line = line.trim_end();
        if number == 0 && color {
            text.push_str(&format!("\u{1b}[1m{line}\u{1b}[0m\n"));
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The text without what could move a terminal's cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The same, for text of several lines.
pub fn printable_lines(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_columns_without_trailing_space() {
        let rows = vec![vec!["a".into(), "long value".into()], vec!["bbbb".into(), "x".into()]];
        assert_eq!(render_table(&["key", "value"], &rows, false), "KEY   VALUE\na     long value\nbbbb  x\n");
    }

    #[test]
    fn a_reason_cannot_move_the_cursor() {
        let text = render_table(&["reason"], &[vec!["a\u{1b}[2Jb\nc".into()]], false);
        assert_eq!(text, "REASON\na?[2Jb?c\n");
    }

    #[test]
    fn json_has_the_schema_first() {
        #[derive(Serialize)]
        struct Body {
            name: &'static str,
        }
        let text = serde_json::to_string(&Report { schema: SCHEMA, body: &Body { name: "x" } }).unwrap();
        assert_eq!(text, r#"{"schema":1,"name":"x"}"#);
    }
}
