//! The language of `compute`: `name = expression` statements -> a checked graph of nodes that shares equal parts.
//!
//! Pure. [`Script::parse`] knows the grammar only; [`check`](check::check) knows the variables and gives every
//! node its dimensions, type and attributes. Both point at the column of what is wrong.

pub mod check;
mod function;
mod lex;
mod parse;
mod types;

pub use check::{Checked, Named, Names, Node, NodeId, NodeInfo, Output, Reducer};
pub use function::{Function, ReduceName};
pub use parse::{Expr, ExprKind, Infix, Statement};
pub use types::Numeric;

use std::fmt;

/// Longest text of one argument: an expression is typed by a person.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// Deepest nesting of an expression: the parser recurses.
pub const MAX_DEPTH: usize = 100;
/// Most infix operators of one statement: a chain of them is a tree as deep as it is long.
pub const MAX_OPERATORS: usize = 500;

/// Where something stands: which of the given texts, and the bytes from `start` to `end` there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    pub text: usize,
    pub start: usize,
    pub end: usize,
}

/// Statements in their order, with the texts that they were read from.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub texts: Vec<String>,
    pub statements: Vec<Statement>,
}

/// What is wrong with an expression, and where: shows the line with a caret below the column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExpressionError {
    pub message: String,
    /// The line of the given text.
    pub line: String,
    /// Characters before the place, from 1.
    pub column: usize,
    /// Characters that are underlined, at least 1.
    pub width: usize,
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (indent, marks) = (" ".repeat(self.column - 1), "^".repeat(self.width));
        write!(f, "column {}: {}\n  {}\n  {indent}{marks}", self.column, self.message, self.line)
    }
}

impl std::error::Error for ExpressionError {}

impl Script {
    /// Reads statements: each text holds one or more, separated by `;` or line ends.
    ///
    /// # Errors
    /// The first thing that is no statement, with its column.
    pub fn parse(texts: &[String]) -> Result<Script, ExpressionError> {
        let mut script = Script { texts: texts.to_vec(), statements: Vec::new() };
        for (number, text) in texts.iter().enumerate() {
            let place = |span: Span, message: String| script_error(texts, span, message);
            if text.len() > MAX_TEXT_BYTES {
                let span = Span { text: number, start: 0, end: 1 };
                return Err(place(span, format!("longer than {MAX_TEXT_BYTES} bytes")));
            }
            let tokens = lex::tokens(number, text).map_err(|(span, message)| place(span, message))?;
            let statements = parse::statements(&tokens).map_err(|(span, message)| place(span, message))?;
            script.statements.extend(statements);
        }
        Ok(script)
    }

    /// An error that points at `span`.
    pub fn error(&self, span: Span, message: impl Into<String>) -> ExpressionError {
        script_error(&self.texts, span, message.into())
    }

    /// The statements as one line, blanks as they were written: for the output's `history`.
    pub fn one_line(&self) -> String {
        let parts = self.texts.iter().flat_map(|t| t.split([';', '\n'])).map(str::trim);
        parts.filter(|p| !p.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

fn script_error(texts: &[String], span: Span, message: String) -> ExpressionError {
    let text = texts.get(span.text).map_or("", String::as_str);
    let start = span.start.min(text.len());
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let end = span.end.clamp(start, line_end);
    // Blanks before a statement on its own line would only push the caret to the right.
    ExpressionError {
        message,
        line: text[line_start..line_end].replace('\t', " "),
        column: text[line_start..start].chars().count() + 1,
        width: text[start..end].chars().count().max(1),
    }
}

/// The candidate that is most like `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    let near = candidates.into_iter().map(|c| (distance(word, c), c)).filter(|(d, _)| *d <= limit + 1);
    let letters = |c: &str| c.chars().count().max(word.chars().count());
    let alike = |d: usize, c: &str| {
        // Replacing every letter makes any word of any other.
        d < letters(c) && (d <= limit || c.starts_with(word) || word.starts_with(c))
    };
    near.filter(|(d, c)| alike(*d, c)).min().map(|(_, c)| c)
}

/// `: did you mean 'x'?` or what there is to choose from.
pub(crate) fn suggestion(word: &str, candidates: &[&str], what: &str) -> String {
    /// More names than this don't help anybody.
    const MOST_LISTED: usize = 12;
    match nearest(word, candidates.iter().copied()) {
        Some(near) => format!(": did you mean '{near}'?"),
        None if candidates.is_empty() => String::new(),
        None if candidates.len() <= MOST_LISTED => format!(" ({what}: {})", candidates.join(", ")),
        None => format!(" ({what}: {}, ..)", candidates[..MOST_LISTED].join(", ")),
    }
}

/// Edits (insert, delete, replace, swap of neighbours) between two words, letters of either case being equal.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let cost = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + cost);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        let names = ["x_wind", "y_wind", "air_temperature"];
        assert_eq!(nearest("x_wnd", names), Some("x_wind"));
        assert_eq!(nearest("X_WIND", names), Some("x_wind"));
        assert_eq!(nearest("air_temperatrue", names), Some("air_temperature"));
        assert_eq!(nearest("pressure", names), None);
        assert_eq!(suggestion("q", &["a", "b"], "variables"), " (variables: a, b)");
    }
}
