//! Which of the submitter's variables travel with a task: those that make `module load x; jq map python ...` find
//! the same programs and libraries, and what `--env` names. Never the batch system's, never what looks secret.

use super::exit::CliError;
use std::collections::BTreeMap;
use std::ffi::OsString;

/// Most bytes of one environment: it is stored once for each distinct content, and `exec` has limits too.
const MAX_BYTES: usize = 1 << 20;

/// Variables that travel by name.
const NAMES: &[&str] =
    &["PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LOADEDMODULES", "_LMFILES_", "LANG", "LANGUAGE", "TZ"];

/// Variables that travel by the start of their name: Python's and conda's, those of the `module` commands (the
/// shell functions that they export too), and the locale's.
const PREFIXES: &[&str] = &[
    "PYTHON",
    "CONDA",
    "_CE_",
    "MODULE",
    "__MODULES_",
    "LMOD_",
    "__LMOD_",
    "_ModuleTable",
    "BASH_FUNC_module",
    "BASH_FUNC__module",
    "BASH_FUNC_ml%%",
    "LC_",
];

/// A task has its own of these: one job's ids in another job make its programs misbehave.
const BATCH_PREFIXES: &[&str] = &["SLURM_", "SLURMD_", "SBATCH_", "SQUEUE_", "PBS_"];

/// Parts of names that tell of a secret, unless `--env` names the variable.
const SECRETS: &[&str] = &["TOKEN", "PASSWORD", "PASSWD", "SECRET", "KEY", "CREDENTIAL"];

/// `--env NAME=TEXT`, or `--env NAME` for the submitter's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnvFlag {
    pub name: String,
    /// None: the submitter's.
    pub text: Option<String>,
}

/// Reads `--env`.
pub fn env_flag(text: &str) -> Result<EnvFlag, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !name.starts_with(starts) || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(format!("`{name}` can't be the name of a variable"));
    }
    Ok(EnvFlag { name: name.to_owned(), text: value })
}

/// What travels, sorted by name, so that the same environment is the same bytes. With `everything` false (as
/// `--env-from worker` and `none` want it) only what `flags` name.
pub fn select(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    everything: bool,
    flags: &[EnvFlag],
) -> Result<Vec<(String, String)>, CliError> {
    let mut here: BTreeMap<String, OsString> = BTreeMap::new();
    here.extend(variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value))));
    let mut chosen: BTreeMap<String, String> = BTreeMap::new();
    if everything {
        // A value that is no text can't travel; such a one is never a search path that matters.
        let texts = here.iter().filter_map(|(name, value)| Some((name.clone(), value.to_str()?.to_owned())));
        chosen.extend(texts.filter(|(name, _)| travels(name)));
    }
    for flag in flags {
        let text = match &flag.text {
            Some(text) => text.clone(),
            None => named(&here, &flag.name)?,
        };
        chosen.insert(flag.name.clone(), text);
    }
    let nbytes: usize = chosen.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if nbytes > MAX_BYTES {
        let largest = chosen.iter().max_by_key(|(_, value)| value.len()).map_or("", |(name, _)| name);
        let message = format!(
            "the environment to send is {nbytes} bytes, more than {MAX_BYTES}; the largest is {largest}"
        );
        return Err(CliError::usage(message).hint("--env-from worker sends none of it"));
    }
    Ok(chosen.into_iter().collect())
}

fn named(here: &BTreeMap<String, OsString>, name: &str) -> Result<String, CliError> {
    match here.get(name).map(|value| value.to_str()) {
        Some(Some(text)) => Ok(text.to_owned()),
        Some(None) => Err(CliError::usage(format!("--env {name}: its value is not UTF-8"))),
        None => Err(CliError::usage(format!("--env {name}: it is not set here"))
            .hint(format!("give it a value: --env {name}=.."))),
    }
}

fn travels(name: &str) -> bool {
    let chosen = NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let upper = name.to_ascii_uppercase();
    let secret = SECRETS.iter().any(|word| upper.contains(word));
    chosen && !secret && !BATCH_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect()
    }

    fn names(pairs: &[(&str, &str)], everything: bool, flags: &[&str]) -> Vec<String> {
        let flags: Vec<EnvFlag> = flags.iter().map(|f| env_flag(f).unwrap()).collect();
        select(here(pairs), everything, &flags).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_loaded_module_travels_and_a_job_does_not() {
        let shell = [
            ("PATH", "/apps/scitools/bin:/bin"),
            ("LD_LIBRARY_PATH", "/apps/lib"),
            ("PYTHONPATH", "/apps/py"),
            ("CONDA_PREFIX", "/apps/conda"),
            ("VIRTUAL_ENV", "/v"),
            ("LOADEDMODULES", "scitools"),
            ("_LMFILES_", "/m/scitools"),
            ("MODULEPATH", "/m"),
            ("BASH_FUNC_module%%", "() { eval x; }"),
            ("LC_ALL", "C"),
            ("SLURM_JOB_ID", "7"),
            ("PBS_JOBID", "8"),
            ("EDITOR", "vi"),
            ("HOME", "/home/sci"),
        ];
        let expected = [
            "BASH_FUNC_module%%",
            "CONDA_PREFIX",
            "LC_ALL",
            "LD_LIBRARY_PATH",
            "LOADEDMODULES",
            "MODULEPATH",
            "PATH",
            "PYTHONPATH",
            "VIRTUAL_ENV",
            "_LMFILES_",
        ];
        assert_eq!(names(&shell, true, &[]), expected);
    }

    #[test]
    fn a_secret_travels_only_when_it_is_named() {
        let shell = [
            ("CONDA_API_TOKEN", "t"),
            ("PYTHON_PASSWORD", "p"),
            ("MODULE_ssh_key", "k"),
            ("AWS_SECRET", "s"),
        ];
        assert!(names(&shell, true, &[]).is_empty());
        assert_eq!(names(&shell, true, &["AWS_SECRET"]), ["AWS_SECRET"]);
    }

    #[test]
    fn env_adds_replaces_and_refuses_what_is_not_there() {
        let shell = [("PATH", "/bin"), ("EDITOR", "vi")];
        let flags = [env_flag("PATH=/x").unwrap(), env_flag("EDITOR").unwrap(), env_flag("EMPTY=").unwrap()];
        let chosen = select(here(&shell), true, &flags).unwrap();
        let expected = [("EDITOR", "vi"), ("EMPTY", ""), ("PATH", "/x")];
        assert_eq!(chosen, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(names(&shell, false, &["EDITOR"]), ["EDITOR"]);
        let error = select(here(&shell), true, &[env_flag("NOPE").unwrap()]).unwrap_err();
        assert!(error.message.contains("NOPE"), "{error}");
        for bad in ["", "=x", "A B=c", "1A=b", "A%%=b"] {
            assert!(env_flag(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_environment_has_a_limit_and_names_what_fills_it() {
        let error = select(here(&[("PATH", &"x".repeat(MAX_BYTES))]), true, &[]).unwrap_err();
        assert!(error.message.contains("the largest is PATH"), "{error}");
    }
}
