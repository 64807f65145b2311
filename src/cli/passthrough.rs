//! `jq` is also the name of a JSON processor. Called as `jq` with anything but one of our verbs, this program
//! becomes the next `jq` on PATH that isn't ours, arguments, streams and exit code untouched.
//!
//! This runs before everything else, even before `main` where the platform allows it, and does as little as it can: a few
//! `stat` calls, then `exec`.

use super::VERBS;
use super::exit::{CliError, Exit};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the JSON processor by path.
pub(super) const OVERRIDE: &str = "JOBQ_JSON_JQ";

/// The programs (`device:inode`, with commas) that were asked on the way here: copies of ours, and wrappers that
/// look `jq` up on PATH again. Each is asked once, so no loop is possible.
const ASKED: &str = "JOBQ_JSON_JQ_ASKED";

/// Where `jq` is looked for when there is no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

pub(super) enum Verdict {
    /// A verb of ours, or we were not called as `jq`.
    Ours,
    /// There is no JSON jq, and the user looks for help.
    OurHelp,
    NotFound(CliError),
}

/// What this program was called, without its directory.
pub(super) fn program(args: &[OsString]) -> &'static str {
    match file_name(args).to_str() {
        Some("jq") => "jq",
        _ => "jobq",
    }
}

fn file_name(args: &[OsString]) -> &OsStr {
    args.first().and_then(|first| Path::new(first).file_name()).unwrap_or_default()
}

/// Becomes the JSON jq if that is what was called, before the runtime of `main` is set up; else nothing has happened, and
/// [`consider`] says why.
pub(crate) fn before_main() {
    let args: Vec<OsString> = env::args_os().collect();
    if !is_ours(&args) {
        let _ = become_json_jq(&args);
    }
}

/// A verb of ours, or we were not called as `jq`.
fn is_ours(args: &[OsString]) -> bool {
    let is_verb = |word: &OsString| VERBS.iter().any(|verb| verb.as_bytes() == word.as_bytes());
    program(args) != "jq" || args.get(1).is_some_and(is_verb)
}

/// Becomes the JSON jq, and then doesn't return; or says why not.
pub(super) fn consider(args: &[OsString]) -> Verdict {
    if is_ours(args) {
        return Verdict::Ours;
    }
    let error = become_json_jq(args);
    match (args.get(1).map(|word| word.as_bytes()), error.exit) {
        (None | Some(b"--help" | b"-h" | b"--version" | b"-V"), Exit::NoJsonJq) => Verdict::OurHelp,
        _ => Verdict::NotFound(error),
    }
}

fn become_json_jq(args: &[OsString]) -> CliError {
    let mut asked = asked_before();
    asked.extend(our_own());
    let (target, identity) = match find(&asked, env::var_os(OVERRIDE), env::var_os("PATH")) {
        Ok(found) => found,
        Err(error) => return error,
    };
    asked.push(identity);
    let list = asked.iter().map(|(device, inode)| format!("{device}:{inode}")).collect::<Vec<_>>().join(",");
    let failure = Command::new(&target).args(args.iter().skip(1)).env(ASKED, list).exec();
    CliError::new(Exit::NoJsonJq, format!("can't run {}: {failure}", target.display()))
}

type Identity = (u64, u64);

fn asked_before() -> Vec<Identity> {
    let list = env::var(ASKED).unwrap_or_default();
    let identity = |entry: &str| {
        let (device, inode) = entry.split_once(':')?;
        Some((device.parse().ok()?, inode.parse().ok()?))
    };
    list.split(',').filter_map(identity).collect()
}

/// This program under both its names.
fn our_own() -> Vec<Identity> {
    let Ok(own) = env::current_exe() else { return Vec::new() };
    let names = ["jq", "jobq"].map(|name| own.with_file_name(name));
    let other_name = (!names.contains(&own)).then_some(&own);
    names.iter().chain(other_name).filter_map(|path| identity(&path.metadata().ok()?)).collect()
}

/// Links are followed; what is no file is nobody.
fn identity(meta: &Metadata) -> Option<Identity> {
    meta.is_file().then(|| (meta.dev(), meta.ino()))
}

/// The JSON jq that these values of `JOBQ_JSON_JQ` and `PATH` lead to.
pub(super) fn json_jq(named: Option<OsString>, search: Option<OsString>) -> Result<PathBuf, CliError> {
    find(&our_own(), named, search).map(|(path, _)| path)
}

fn find(
    asked: &[Identity],
    named: Option<OsString>,
    search: Option<OsString>,
) -> Result<(PathBuf, Identity), CliError> {
    let none = |message: String| CliError::new(Exit::NoJsonJq, message);
    if let Some(path) = named.filter(|p| !p.is_empty()) {
        let path = with_slash(PathBuf::from(path));
        return match path.metadata().ok().as_ref().and_then(identity) {
            None => Err(none(format!("{OVERRIDE} names {}, which isn't there", path.display()))),
            Some(found) if asked.contains(&found) => {
                Err(none(format!("{OVERRIDE} names {}, which is jobq or leads back to it", path.display())))
            }
            Some(found) => Ok((path, found)),
        };
    }
    let search = search.unwrap_or_else(|| DEFAULT_PATH.into());
    for directory in env::split_paths(&search) {
        let candidate = with_slash(directory.join("jq"));
        if let Ok(meta) = candidate.metadata()
            && let Some(found) = identity(&meta).filter(|i| !asked.contains(i))
            && is_executable(&candidate)
        {
            return Ok((candidate, found));
        }
    }
    let words = "not a verb of jobq, and no JSON jq is on PATH (`jobq help` lists the verbs)";
    Err(none(words.to_owned()))
}

/// Without a slash, `exec` would look on PATH.
fn with_slash(path: PathBuf) -> PathBuf {
    if path.as_os_str().as_bytes().contains(&b'/') { path } else { Path::new(".").join(path) }
}

fn is_executable(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}
