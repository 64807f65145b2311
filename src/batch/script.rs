//! Job scripts: templates, shell quoting, and the checks that keep every value inside its own directive or word.
//!
//! A value is first checked by the rule of its field, and then quoted; a template only puts finished lines and
//! words in order, so that a user's own template can't undo either.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use tera::{Context, Tera};

use super::{AllocationSpec, BatchError, BatchSystem, ErrorKind, JobId};

/// What every template includes to start the command.
const COMMAND_TEMPLATE: (&str, &str) = ("command", include_str!("../../templates/command.sh.tera"));

/// Longest job name: what the oldest batch system in use takes.
const NAME_LIMIT: usize = 15;

/// The script templates: the embedded ones, and those of the user that take their place.
#[derive(Clone, Debug, Default)]
pub struct Templates {
    /// By name, without `.sh.tera`.
    replaced: BTreeMap<String, String>,
}

impl Templates {
    /// Only the embedded templates.
    #[must_use]
    pub fn embedded() -> Self {
        Self::default()
    }

    /// The names that a user's directory may hold, without `.sh.tera`.
    pub fn names() -> impl Iterator<Item = &'static str> {
        super::SYSTEMS.iter().map(|system| system.name()).chain([COMMAND_TEMPLATE.0])
    }

    /// Use `text` in the place of the embedded template `name`.
    pub fn replace(&mut self, name: &str, text: String) {
        self.replaced.insert(name.to_owned(), text);
    }

    /// Render one system's script.
    fn render(&self, system: &dyn BatchSystem, context: &Context) -> Result<String, BatchError> {
        let mut tera = Tera::new();
        let embedded = [COMMAND_TEMPLATE, (system.name(), system.template())];
        let texts = embedded.map(|(name, text)| {
            (format!("{name}.sh.tera"), self.replaced.get(name).map_or(text, String::as_str))
        });
        tera.add_raw_templates(texts).map_err(|error| broken_template(system.name(), &error))?;
        tera.render(&format!("{}.sh.tera", system.name()), context)
            .map_err(|error| broken_template(system.name(), &error))
    }
}

fn broken_template(system: &str, error: &tera::Error) -> BatchError {
    refused(format!("the script template {system}.sh.tera is broken: {error}"))
}

/// What a template sees. Strings are finished: directives carry their prefix, words are quoted for the shell.
#[derive(Serialize)]
struct Words<'a> {
    shebang: String,
    directives: &'a [String],
    /// `NAME='value'`.
    exports: Vec<String>,
    work_dir: String,
    log: String,
    prologue: &'a [String],
    /// The command line.
    command: String,
    epilogue: &'a [String],
    name: String,
    comment: String,
    queue: String,
    account: String,
    qos: String,
    workers: u32,
    cores: u32,
    /// Of the whole job; 0: the site's default.
    memory_mib: u64,
    /// 0: the queue's default.
    walltime_seconds: u64,
}

/// Check every field of `spec`, combine our `directives` (without prefix) with the user's, and render.
///
/// # Errors
/// `Refused`, naming the field.
pub fn render(
    system: &dyn BatchSystem,
    templates: &Templates,
    spec: &AllocationSpec,
    prefix: &str,
    directives: Vec<String>,
) -> Result<String, BatchError> {
    check(spec, prefix)?;
    let directives = combine(spec, prefix, directives)?;
    let words = Words {
        shebang: shebang(&spec.shebang)?,
        directives: &directives,
        exports: spec.environment.iter().map(|(name, value)| format!("{name}={}", quote(value))).collect(),
        work_dir: quote(absolute("work_dir", &spec.work_dir)?),
        log: quote(absolute("log", &spec.log)?),
        prologue: &spec.prologue,
        command: spec.command.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
        epilogue: &spec.epilogue,
        name: quote(&spec.name),
        comment: quote(&spec.comment),
        queue: quote(&spec.queue),
        account: quote(&spec.account),
        qos: quote(&spec.qos),
        workers: spec.workers,
        cores: spec.cores,
        memory_mib: memory_mib(spec),
        walltime_seconds: spec.walltime.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
    };
    let context = Context::from_serialize(&words).map_err(|error| broken_template(system.name(), &error))?;
    let script = templates.render(system, &context)?;
    if !script.starts_with("#!/") {
        return Err(refused(format!("the script template {}.sh.tera must begin with #!/", system.name())));
    }
    if let Some(bad) = script.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Err(refused(format!("the script template {}.sh.tera holds {bad:?}", system.name())));
    }
    Ok(script)
}

/// Memory of the whole job in MiB, rounded up; 0: the site's default.
#[must_use]
pub fn memory_mib(spec: &AllocationSpec) -> u64 {
    spec.total_memory().div_ceil(1 << 20)
}

/// Walltime in minutes, rounded up; 0: the queue's default.
#[must_use]
pub fn walltime_minutes(spec: &AllocationSpec) -> u64 {
    spec.walltime.as_millis().div_ceil(60_000).try_into().unwrap_or(u64::MAX)
}

/// The id of another job as a word of a directive.
///
/// # Errors
/// `Refused` for one that no batch system gives.
pub fn job_word(job: &JobId) -> Result<&str, BatchError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-[]".contains(c);
    if job.0.is_empty() || !job.0.chars().all(plain) {
        return Err(refused(format!("{:?} is no job to wait for", job.0)));
    }
    Ok(&job.0)
}

/// `word` as one word of a POSIX shell, in single quotes.
#[must_use]
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// `word` as a person would type it: quoted only if the shell would read something into it.
#[must_use]
pub fn quote_if_needed(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { quote(word) }
}

/// A path as text, which must be absolute and UTF-8.
///
/// # Errors
/// `Refused`, naming the field.
pub fn absolute<'a>(field: &str, path: &'a Path) -> Result<&'a str, BatchError> {
    let text = path.to_str().ok_or_else(|| refused(format!("{field} {} is not UTF-8", path.display())))?;
    if !path.is_absolute() {
        return Err(refused(format!("{field} must be an absolute path, not {text:?}")));
    }
    no_control(field, text)?;
    Ok(text)
}

fn refused(summary: String) -> BatchError {
    BatchError::new(ErrorKind::Refused, summary)
}

/// A line break or another control character could end a directive or a line and start another.
fn no_control(field: &str, value: &str) -> Result<(), BatchError> {
    match value.chars().find(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        Some(bad) => Err(refused(format!(
            "{field} {value:?} holds {bad:?}: line breaks and control characters are not allowed"
        ))),
        None => Ok(()),
    }
}

/// Names of the site's things: no batch system has one with a blank or a shell character in it.
fn site_word(field: &str, value: &str) -> Result<(), BatchError> {
    no_control(field, value)?;
    let allowed = |c: char| c.is_alphanumeric() || "_-.,@:+/=%".contains(c);
    if let Some(bad) = value.chars().find(|c| !allowed(*c)) {
        return Err(refused(format!("{field} {value:?} holds {bad:?}, which no {field} can")));
    }
    if value.starts_with('-') {
        return Err(refused(format!("{field} {value:?} begins with '-'")));
    }
    Ok(())
}

fn check(spec: &AllocationSpec, prefix: &str) -> Result<(), BatchError> {
    let letters = spec.name.chars().all(|c| c.is_ascii_alphanumeric());
    let begins = spec.name.starts_with(|c: char| c.is_ascii_alphabetic());
    if !letters || !begins || spec.name.len() > NAME_LIMIT {
        let name = &spec.name;
        return Err(refused(format!(
            "job name {name:?} must be a letter and up to {} letters or digits",
            NAME_LIMIT - 1
        )));
    }
    if spec.workers == 0 || spec.cores == 0 {
        return Err(refused(format!(
            "workers ({}) and cores ({}) must be at least 1",
            spec.workers, spec.cores
        )));
    }
    for (field, value) in [("queue", &spec.queue), ("account", &spec.account), ("qos", &spec.qos)] {
        site_word(field, value)?;
    }
    no_control("comment", &spec.comment)?;
    for (name, value) in &spec.environment {
        let variable = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(variable) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(refused(format!("environment variable {name:?} is not a name the shell can export")));
        }
        no_control(&format!("environment variable {name}"), value)?;
    }
    for (field, lines) in [("prologue", &spec.prologue), ("epilogue", &spec.epilogue)] {
        for line in lines {
            no_control(field, &line.replace('\t', " "))?;
            if line.trim_start().starts_with(prefix) {
                return Err(refused(format!(
                    "{field} line {line:?} is a directive: give it as an extra directive"
                )));
            }
        }
    }
    let Some(program) = spec.command.first() else { return Err(refused("command is empty".to_owned())) };
    absolute("command", Path::new(program))?;
    spec.command.iter().try_for_each(|word| no_control("command", word))
}

fn shebang(shebang: &str) -> Result<String, BatchError> {
    let interpreter = shebang.trim().trim_start_matches("#!").trim();
    let interpreter = if interpreter.is_empty() { "/bin/bash" } else { interpreter };
    no_control("shebang", interpreter)?;
    if !interpreter.starts_with('/') {
        return Err(refused(format!("shebang {shebang:?} must be an absolute path, as in #!/bin/bash -l")));
    }
    Ok(format!("#!{interpreter}"))
}

/// Ours without the skipped ones, then the user's; each with the system's prefix.
fn combine(spec: &AllocationSpec, prefix: &str, ours: Vec<String>) -> Result<Vec<String>, BatchError> {
    let kept =
        ours.into_iter().filter(|directive| !spec.skip_directives.iter().any(|skip| skips(skip, directive)));
    let mut lines: Vec<String> = kept.map(|directive| format!("{prefix} {directive}")).collect();
    for extra in &spec.extra_directives {
        no_control("extra directive", extra)?;
        let bare = extra.trim();
        let bare = bare.strip_prefix(prefix).unwrap_or(bare).trim();
        if !bare.starts_with('-') || bare.len() < 2 {
            return Err(refused(format!(
                "extra directive {extra:?} must begin with a flag, as in \"--constraint=fast\""
            )));
        }
        lines.push(format!("{prefix} {bare}"));
    }
    Ok(lines)
}

/// Whether `skip` names `directive`: a bare flag exactly, anything else as a part of it.
fn skips(skip: &str, directive: &str) -> bool {
    let skip = skip.trim();
    if skip.is_empty() {
        return false;
    }
    let bare_flag = skip.starts_with('-') && !skip.contains(|c: char| c == '=' || c.is_whitespace());
    if bare_flag {
        directive.split(|c: char| c == '=' || c.is_whitespace()).next() == Some(skip)
    } else {
        directive.contains(skip)
    }
}

#[cfg(test)]
mod tests;
