//! `map`'s words: `CMD.. ::: ARG..`, `CMD.. :::: FILE`, or arguments a line on stdin; read in bounded memory.

use super::exit::{CliError, Exit};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Longest argument: what Linux takes as a single word of a command line.
pub const MAX_ARGUMENT_BYTES: usize = (128 << 10) - 1;

/// Bytes that are read ahead.
const BUFFER_BYTES: usize = 256 << 10;

/// Where the arguments come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ArgSource {
    Words(Vec<OsString>),
    /// A line each.
    File(PathBuf),
    /// A line each.
    Stdin,
}

/// Splits the words after `map`'s flags into the command and the source of its arguments.
pub fn split(words: Vec<OsString>) -> Result<(Vec<String>, ArgSource), CliError> {
    let is_mark = |word: &OsString| word == ":::" || word == "::::";
    let at = words.iter().position(is_mark).unwrap_or(words.len());
    let mut command = words;
    let mut rest = command.split_off(at).into_iter();
    let mark = rest.next();
    let values: Vec<OsString> = rest.collect();
    let command = command.into_iter().map(into_text).collect::<Result<Vec<String>, _>>()?;
    match command.first() {
        None => return Err(CliError::usage("there is no command to run")),
        // The parser takes what it doesn't know as the command's first word.
        Some(first) if first.starts_with('-') => {
            return Err(
                CliError::usage(format!("unknown flag `{first}`")).hint("`jq help map` lists the flags")
            );
        }
        Some(_) => {}
    }
    if values.iter().any(is_mark) {
        return Err(CliError::usage("arguments come from one source: a single `:::` or `::::`"));
    }
    let source = match mark {
        None => ArgSource::Stdin,
        Some(mark) if mark == ":::" => ArgSource::Words(values),
        Some(_) => match <[OsString; 1]>::try_from(values) {
            Ok([file]) if file == "-" => ArgSource::Stdin,
            Ok([file]) => ArgSource::File(PathBuf::from(file)),
            Err(_) => return Err(CliError::usage("`::::` takes one file")),
        },
    };
    Ok((command, source))
}

fn into_text(word: OsString) -> Result<String, CliError> {
    word.into_string()
        .map_err(|word| CliError::usage(format!("{}: the command is not UTF-8", word.display())))
}

impl ArgSource {
    /// The arguments, one after the other. `stdin` is read for [`ArgSource::Stdin`]; a terminal there means that
    /// the user forgot the arguments.
    pub fn open(self, stdin: impl Read + Send + 'static, is_terminal: bool) -> Result<Arguments, CliError> {
        let (name, reader): (String, Box<dyn Read + Send>) = match self {
            ArgSource::Words(words) => {
                return Ok(Arguments { inner: Inner::Words(words.into_iter()), number: 0 });
            }
            ArgSource::Stdin if is_terminal => {
                let hint = "add `::: ARG..` or `:::: FILE`, or pipe lines in";
                return Err(CliError::usage("there are no arguments to map over").hint(hint));
            }
            ArgSource::Stdin => ("standard input".to_owned(), Box::new(stdin)),
            ArgSource::File(path) => {
                let file =
                    std::fs::File::open(&path).map_err(|e| cannot_read(&path.display().to_string(), &e))?;
                (path.display().to_string(), Box::new(file))
            }
        };
        let reader = BufReader::with_capacity(BUFFER_BYTES, reader);
        Ok(Arguments { inner: Inner::Lines { name, reader }, number: 0 })
    }

    /// The file, with the other ways to name one folded in: `--each-line FILE` is `:::: FILE`.
    pub fn or_each_line(self, each_line: Option<&Path>) -> Result<ArgSource, CliError> {
        match (self, each_line) {
            (source, None) => Ok(source),
            (ArgSource::Stdin, Some(file)) => Ok(ArgSource::File(file.to_owned())),
            _ => Err(CliError::usage("arguments come from one source: --each-line, `:::` or `::::`")),
        }
    }
}

/// Arguments as bytes: file names need not be UTF-8. An error ends them.
pub struct Arguments {
    inner: Inner,
    /// Of the last argument, from 1.
    number: u64,
}

enum Inner {
    Words(std::vec::IntoIter<OsString>),
    Lines { name: String, reader: BufReader<Box<dyn Read + Send>> },
    Ended,
}

impl Iterator for Arguments {
    type Item = Result<Vec<u8>, CliError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.number += 1;
        let (item, what) = match &mut self.inner {
            Inner::Words(words) => (Ok(words.next().map(OsString::into_vec)), "argument".to_owned()),
            Inner::Lines { name, reader } => {
                let line = read_line(reader).map_err(|e| cannot_read(name, &e));
                (line, format!("{name}, line"))
            }
            Inner::Ended => return None,
        };
        let checked = item.and_then(|argument| argument.map(|a| checked(a, &what, self.number)).transpose());
        if !matches!(checked, Ok(Some(_))) {
            self.inner = Inner::Ended;
        }
        checked.transpose()
    }
}

/// A line without its end, and at most a byte longer than what is allowed; none at the end of the file.
fn read_line(reader: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let limit = MAX_ARGUMENT_BYTES as u64 + 1;
    if reader.take(limit).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(Some(line))
}

fn checked(argument: Vec<u8>, what: &str, number: u64) -> Result<Vec<u8>, CliError> {
    if argument.len() > MAX_ARGUMENT_BYTES {
        let message =
            format!("{what} {number}: longer than {MAX_ARGUMENT_BYTES} bytes, which no command line takes");
        return Err(CliError::usage(message));
    }
    if argument.contains(&0) {
        return Err(CliError::usage(format!(
            "{what} {number}: has a zero byte, which no command line takes"
        )));
    }
    Ok(argument)
}

fn cannot_read(name: &str, error: &std::io::Error) -> CliError {
    let exit = match error.kind() {
        std::io::ErrorKind::PermissionDenied => Exit::Permission,
        _ => Exit::Usage,
    };
    CliError::new(exit, format!("can't read {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn all(source: ArgSource, stdin: &'static [u8]) -> Result<Vec<Vec<u8>>, CliError> {
        source.open(stdin, false)?.collect()
    }

    #[test]
    fn the_three_sources() {
        let (command, source) = split(words(&["./task.sh", "-n", "{}", ":::", "a", "-b", ""])).unwrap();
        assert_eq!(command, ["./task.sh", "-n", "{}"]);
        assert_eq!(all(source, b"").unwrap(), [b"a".to_vec(), b"-b".to_vec(), b"".to_vec()]);

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\n\ntwo words\nlast").unwrap();
        let (_, source) = split(words(&["x", "::::", file.path().to_str().unwrap()])).unwrap();
        assert_eq!(
            all(source, b"").unwrap(),
            [b"one".to_vec(), b"".to_vec(), b"two words".to_vec(), b"last".to_vec()]
        );

        let (_, source) = split(words(&["x"])).unwrap();
        assert_eq!(all(source, b"caf\xe9\n").unwrap(), [b"caf\xe9".to_vec()]);
        let (_, source) = split(words(&["x", "::::", "-"])).unwrap();
        assert_eq!(source, ArgSource::Stdin);
        let (_, source) = split(words(&["x", ":::"])).unwrap();
        assert_eq!(all(source, b"ignored\n").unwrap(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn what_cannot_be_meant_is_a_usage_error() {
        for bad in [
            &[":::", "a"][..],
            &[],
            &["--retires", "x"],
            &["x", ":::", "a", ":::", "b"],
            &["x", "::::"],
            &["x", "::::", "a", "b"],
        ] {
            assert_eq!(split(words(bad)).unwrap_err().exit, Exit::Usage, "{bad:?}");
        }
        let error = ArgSource::Stdin.open(&b""[..], true).err().unwrap();
        assert!(error.hint.contains(":::"), "{error}");
        let error = ArgSource::File("/nonexistent/list".into()).open(&b""[..], false).err().unwrap();
        assert!(error.message.contains("/nonexistent/list"), "{error}");
        assert!(ArgSource::Words(vec![]).or_each_line(Some(Path::new("f"))).is_err());
    }

    /// A reader without end: it must not be read further than what is asked for.
    struct Endless(u64);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 += buffer.len() as u64;
            assert!(self.0 < 64 << 20, "reads on although nobody asks");
            buffer.fill(b'x');
            Ok(buffer.len())
        }
    }

    #[test]
    fn a_line_without_end_is_refused_in_bounded_memory() {
        let mut arguments = ArgSource::Stdin.open(Endless(0), false).unwrap();
        let error = arguments.next().unwrap().unwrap_err();
        assert!(error.message.starts_with("standard input, line 1: longer"), "{error}");
        assert!(arguments.next().is_none(), "an error ends the arguments");
    }

    #[test]
    fn lines_stream_before_the_end_of_the_input() {
        let (mut writer, reader) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut arguments = ArgSource::Stdin.open(reader, false).unwrap();
        std::io::Write::write_all(&mut writer, b"first\nsecond\n").unwrap();
        assert_eq!(arguments.next().unwrap().unwrap(), b"first");
        assert_eq!(arguments.next().unwrap().unwrap(), b"second");
        drop(writer);
        assert!(arguments.next().is_none());
    }

    #[test]
    fn a_zero_byte_is_refused_by_its_line() {
        let error = all(ArgSource::Stdin, b"a\nb\0c\n").unwrap_err();
        assert!(error.message.starts_with("standard input, line 2"), "{error}");
    }
}
