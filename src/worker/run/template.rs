//! Placeholders in a command's words: pure text, no files, no environment.
//!
//! `{}` is the task's argument, `{/}` its file name, `{.}` the argument without its extension, `{/.}` both, and
//! `{#}` the task's number from 1: what they mean is as in GNU parallel. `{out}`, `{out2}` and so on are the
//! attempt's temporary paths. Arguments are bytes: they are never split again, quoted or looked into, and what
//! is put in is not searched for placeholders. Any other word in braces stands as it is.

use crate::graph::CommandSpec;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What the placeholders of one attempt stand for.
#[derive(Clone, Copy, Debug)]
pub struct Fill<'a> {
    /// The task's argument bytes.
    pub argument: &'a [u8],
    /// The task's number from 1, `{#}`.
    pub ordinal: u64,
    /// `{out}`, `{out2}`...: temporary paths of the declared outputs, in their order.
    pub outputs: &'a [PathBuf],
}

/// What is wrong with a command's placeholders; for whoever accepts it from a user.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("a command needs at least the name of a program")]
    Empty,
    #[error("'{word}' uses {{out{number}}}, but only {declared} --output given")]
    NoSuchOutput { word: String, number: usize, declared: usize },
    #[error("--output '{0}' can't contain {{out}}: it is what {{out}} becomes")]
    OutInOutput(String),
    #[error("--output can't be empty or end in '/': it names a file ('{0}')")]
    NoFile(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Piece<'a> {
    Text(&'a str),
    Argument,
    Basename,
    NoExtension,
    BasenameNoExtension,
    Ordinal,
    /// From 0.
    Output(usize),
}

/// Whether a command's placeholders can be filled, before anything runs.
///
/// # Errors
/// The first word that can't.
pub fn check(spec: &CommandSpec) -> Result<(), TemplateError> {
    if spec.argv.is_empty() {
        return Err(TemplateError::Empty);
    }
    let declared = spec.outputs.len();
    for word in spec.argv.iter().filter(|_| declared > 0) {
        for piece in pieces(word) {
            if let Piece::Output(i) = piece
                && i >= declared
            {
                return Err(TemplateError::NoSuchOutput { word: word.clone(), number: i + 1, declared });
            }
        }
    }
    for output in &spec.outputs {
        if output.path.is_empty() || output.path.ends_with('/') {
            return Err(TemplateError::NoFile(output.path.clone()));
        }
        if pieces(&output.path).any(|p| matches!(p, Piece::Output(_))) {
            return Err(TemplateError::OutInOutput(output.path.clone()));
        }
    }
    Ok(())
}

/// Whether a word has `{out}`, `{out2}` and so on: then the command writes to its temporary paths by itself.
pub fn uses_outputs(word: &str) -> bool {
    pieces(word).any(|p| matches!(p, Piece::Output(_)))
}

/// The words to execute. With `spec.substitute`, a command none of whose words says where the argument goes
/// gets it as its last word.
pub fn argv(spec: &CommandSpec, fill: Fill<'_>) -> Vec<OsString> {
    let mut words: Vec<OsString> =
        spec.argv.iter().map(|word| filled(word, fill, spec.substitute, true)).collect();
    if spec.substitute && !spec.argv.iter().any(|word| has_argument(word)) {
        words.push(OsStr::from_bytes(fill.argument).to_owned());
    }
    words
}

/// The final path of an output, not yet made absolute. `{out}` means nothing here.
pub fn output_path(spec: &CommandSpec, template: &str, fill: Fill<'_>) -> PathBuf {
    PathBuf::from(filled(template, fill, spec.substitute, false))
}

/// Whether the word differs from one argument of a map to the next.
pub fn has_argument(word: &str) -> bool {
    pieces(word).any(|p| !matches!(p, Piece::Text(_) | Piece::Output(_)))
}

fn filled(word: &str, fill: Fill<'_>, arguments: bool, outputs: bool) -> OsString {
    let mut out = Vec::with_capacity(word.len() + fill.argument.len());
    for piece in pieces(word) {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Output(i) => match fill.outputs.get(i).filter(|_| outputs) {
                Some(path) => out.extend_from_slice(path.as_os_str().as_bytes()),
                None => out.extend_from_slice(source(piece).as_bytes()),
            },
            other if !arguments => out.extend_from_slice(source(other).as_bytes()),
            Piece::Argument => out.extend_from_slice(fill.argument),
            Piece::Basename => out.extend_from_slice(basename(fill.argument)),
            Piece::NoExtension => out.extend_from_slice(without_extension(fill.argument)),
            Piece::BasenameNoExtension => out.extend_from_slice(without_extension(basename(fill.argument))),
            Piece::Ordinal => out.extend_from_slice(fill.ordinal.to_string().as_bytes()),
        }
    }
    OsString::from_vec(out)
}

/// How a placeholder is written.
fn source(piece: Piece<'_>) -> String {
    match piece {
        Piece::Text(text) => text.to_owned(),
        Piece::Argument => "{}".to_owned(),
        Piece::Basename => "{/}".to_owned(),
        Piece::NoExtension => "{.}".to_owned(),
        Piece::BasenameNoExtension => "{/.}".to_owned(),
        Piece::Ordinal => "{#}".to_owned(),
        Piece::Output(0) => "{out}".to_owned(),
        Piece::Output(i) => format!("{{out{}}}", i + 1),
    }
}

/// A word cut at its placeholders.
fn pieces(word: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = word;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some((piece, len)) = placeholder(rest) {
            rest = &rest[len..];
            return Some(piece);
        }
        // The first brace that opens a placeholder ends the text; one that doesn't is part of it.
        let end = rest
            .char_indices()
            .skip(1)
            .find(|(at, c)| *c == '{' && placeholder(&rest[*at..]).is_some())
            .map_or(rest.len(), |(at, _)| at);
        let (text, after) = rest.split_at(end);
        rest = after;
        Some(Piece::Text(text))
    })
}

/// The placeholder that `text` begins with, and its length.
fn placeholder(text: &str) -> Option<(Piece<'_>, usize)> {
    let inner = text.strip_prefix('{')?;
    let inner = &inner[..inner.find('}')?];
    let piece = match inner {
        "" => Piece::Argument,
        "/" => Piece::Basename,
        "." => Piece::NoExtension,
        "/." => Piece::BasenameNoExtension,
        "#" => Piece::Ordinal,
        "out" => Piece::Output(0),
        _ => {
            let digits = inner.strip_prefix("out")?;
            let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
            // `{out}` is the first; there is no second way to write it.
            let number: usize = digits.parse().ok().filter(|n| plain && *n >= 2)?;
            Piece::Output(number - 1)
        }
    };
    Some((piece, inner.len() + 2))
}

fn basename(argument: &[u8]) -> &[u8] {
    argument.rsplit(|b| *b == b'/').next().unwrap_or(argument)
}

/// Cuts from the last dot on, if it is in the last path component.
fn without_extension(argument: &[u8]) -> &[u8] {
    match argument.iter().rposition(|b| matches!(b, b'.' | b'/')) {
        Some(at) if argument[at] == b'.' => &argument[..at],
        _ => argument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::OutputSpec;

    fn spec(argv: &[&str], substitute: bool) -> CommandSpec {
        CommandSpec {
            argv: argv.iter().map(|w| w.to_string()).collect(),
            substitute,
            cwd: "/".into(),
            env_from: Default::default(),
            env: vec![],
            stdin: None,
            outputs: vec![],
            resources: Default::default(),
            retries: 0,
            time_limit_ms: 0,
            at_most_once: false,
        }
    }

    fn with_outputs(argv: &[&str], outputs: &[&str]) -> CommandSpec {
        let outputs = outputs.iter().map(|p| OutputSpec { path: p.to_string(), fenced: true }).collect();
        CommandSpec { outputs, ..spec(argv, true) }
    }

    fn words(argv: &[&str], argument: &[u8], substitute: bool) -> Vec<String> {
        let outputs = [PathBuf::from("/t/one"), PathBuf::from("/t/two")];
        let fill = Fill { argument, ordinal: 7, outputs: &outputs };
        let words = super::argv(&spec(argv, substitute), fill);
        words.into_iter().map(|w| w.into_string().unwrap()).collect()
    }

    /// The rows are what GNU parallel 20221122 makes of them.
    #[test]
    fn an_argument_is_taken_apart_as_gnu_parallel_does() {
        for (argument, basename, stem, both) in [
            ("foo.jpg", "foo.jpg", "foo", "foo"),
            ("sub.dir/foo.jpg", "foo.jpg", "sub.dir/foo", "foo"),
            ("sub.dir/bar", "bar", "sub.dir/bar", "bar"),
            (".bashrc", ".bashrc", "", ""),
            ("a/.b", ".b", "a/", ""),
            ("foo.", "foo.", "foo", "foo"),
            ("a.b.c", "a.b.c", "a.b", "a.b"),
            ("x/", "", "x/", ""),
            ("/a.b/", "", "/a.b/", ""),
            ("..", "..", ".", "."),
            ("../x", "x", "../x", "x"),
            ("a b.c", "a b.c", "a b", "a b"),
            ("", "", "", ""),
            ("{/}", "}", "{/}", "}"),
        ] {
            let got = words(&["{}", "{/}", "{.}", "{/.}", "{#}"], argument.as_bytes(), true);
            assert_eq!(got, [argument, basename, stem, both, "7"], "{argument:?}");
        }
    }

    #[test]
    fn words_are_filled_wherever_a_placeholder_stands() {
        let rows: [(&[&str], &[&str]); 9] = [
            (&["echo", "x{}y{}{"], &["echo", "xAyA{"]),
            (&["echo", "{{}}"], &["echo", "{A}"]),
            (&["echo"], &["echo", "A"]),
            (&["echo", "{#}"], &["echo", "7"]),
            (&["echo", "{out}"], &["echo", "/t/one", "A"]),
            (&["cp", "{}", "{out}", "-{out2}-"], &["cp", "A", "/t/one", "-/t/two-"]),
            (&["echo", "{out1} {out02} {out3} {out+2}"], &["echo", "{out1} {out02} {out3} {out+2}", "A"]),
            (&["awk", "{print}", "{//}", "é{}é"], &["awk", "{print}", "{//}", "éAé"]),
            (&["{}"], &["A"]),
        ];
        for (argv, expected) in rows {
            assert_eq!(words(argv, b"A", true), expected, "{argv:?}");
        }
    }

    #[test]
    fn a_submitted_command_stands_as_it_is_but_for_its_outputs() {
        let argv = ["find", "{}", "{.}", "{#}", "x{out}"];
        assert_eq!(words(&argv, b"", false), ["find", "{}", "{.}", "{#}", "x/t/one"]);
        let fill = Fill { argument: b"", ordinal: 1, outputs: &[] };
        assert_eq!(output_path(&spec(&argv, false), "{}.txt", fill), PathBuf::from("{}.txt"));
    }

    #[test]
    fn bytes_that_are_no_text_stay_what_they_are_and_arguments_are_never_filled_again() {
        let fill = Fill { argument: b"d/\xff{#} {out}.nc", ordinal: 7, outputs: &[] };
        let argv = super::argv(&spec(&["p", "{/.}"], true), fill);
        assert_eq!(argv[1].as_bytes(), b"\xff{#} {out}");
        let path = output_path(&spec(&["p"], true), "o/{/.}-{#}{out}", fill);
        assert_eq!(path.as_os_str().as_bytes(), b"o/\xff{#} {out}-7{out}");
    }

    #[test]
    fn what_cant_be_filled_is_refused_before_it_runs() {
        assert_eq!(check(&with_outputs(&["p", "{out2}"], &["a", "b"])), Ok(()));
        assert_eq!(check(&spec(&["p", "{out}"], false)), Ok(()), "without --output it is just a word");
        assert_eq!(check(&spec(&[], true)), Err(TemplateError::Empty));
        let error = check(&with_outputs(&["p", "x{out3}"], &["a", "b"])).unwrap_err();
        assert_eq!(error.to_string(), "'x{out3}' uses {out3}, but only 2 --output given");
        assert!(matches!(check(&with_outputs(&["p"], &["d/"])), Err(TemplateError::NoFile(_))));
        assert!(matches!(check(&with_outputs(&["p"], &["{out}.x"])), Err(TemplateError::OutInOutput(_))));
        assert!(uses_outputs("-o{out2}") && !uses_outputs("{}"));
    }
}
