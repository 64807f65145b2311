//! A task's environment, and the program that its first word means there.

use super::attempt::Attempt;
use super::command::CommandHost;
use crate::graph::{CommandSpec, EnvSource};
use nix::unistd::{AccessFlags, access};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where programs are looked up when a task's environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Variables by which an MPI launcher tells its children which rank they are: a task that starts MPI of its own
/// would take itself for one of the worker's ranks.
const MPI_PREFIXES: [&str; 6] = ["OMPI_", "PMI", "ORTE_", "PRTE_", "HYDRA_", "MPI"];

pub(super) type Environment = BTreeMap<OsString, OsString>;

/// What a worker hands on to its tasks: its own environment (with the batch system's variables, which programs
/// look at) but without MPI's, and without those of a task that it was perhaps started from.
pub(super) fn base(worker: impl Iterator<Item = (OsString, OsString)>) -> Environment {
    worker.filter(|(name, _)| handed_on(name.as_bytes())).collect()
}

fn handed_on(name: &[u8]) -> bool {
    let is = |prefix: &str| name.starts_with(prefix.as_bytes());
    !(MPI_PREFIXES.iter().any(|p| is(p)) || is("JOBQ_TASK_"))
}

/// The environment of one attempt. `outputs` are the temporary paths, in order.
pub(super) fn of_attempt(
    host: &CommandHost,
    spec: &CommandSpec,
    attempt: &Attempt,
    outputs: &[PathBuf],
) -> Environment {
    let mut env = match spec.env_from {
        EnvSource::Here | EnvSource::Worker => host.base_env.clone(),
        EnvSource::None => Environment::new(),
    };
    let mut set = |name: &str, value: OsString| env.insert(OsString::from(name), value);
    for (name, value) in &host.extra_env {
        set(name, value.into());
    }
    let cores = spec.resources.cores.max(1).to_string();
    if spec.env_from != EnvSource::None {
        // The worker's own value speaks of the whole worker.
        set("OMP_NUM_THREADS", cores.clone().into());
        set("PWD", spec.cwd.clone().into());
    }
    for (name, value) in &spec.env {
        set(name, value.into());
    }
    set("JOBQ_TASK_KEY", attempt.key().into());
    set("JOBQ_TASK_CORES", cores.into());
    set("JOBQ_TASK_ATTEMPT", attempt.attempt.to_string().into());
    for (i, path) in outputs.iter().enumerate() {
        let number = if i == 0 { String::new() } else { format!("_{}", i + 1) };
        set(&format!("JOBQ_TASK_OUTPUT{number}"), path.clone().into());
    }
    env
}

/// The file that a command's first word means: as it stands if it has a slash, else the first executable on the
/// *task's* PATH. Relative ones are under the task's `cwd`.
///
/// # Errors
/// A sentence for people.
pub(super) fn program(word: &OsStr, env: &Environment, cwd: &Path, host: &str) -> Result<PathBuf, String> {
    let shown = word.display();
    if word.is_empty() {
        return Err("the command's program is an empty word".to_owned());
    }
    if word.as_bytes().contains(&b'/') {
        let path = cwd.join(word);
        return match path.metadata() {
            Err(e) => Err(format!("{}: can't be run on {host}: {e}", path.display())),
            Ok(found) if found.is_dir() => Err(format!("{}: is a directory, not a program", path.display())),
            Ok(_) if !executable(&path) => Err(format!(
                "{}: isn't executable on {host}: chmod +x it, or name its interpreter",
                path.display()
            )),
            Ok(_) => Ok(path),
        };
    }
    let path = env.get(OsStr::new("PATH")).map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
    // An empty entry of PATH is the current directory, as POSIX has it.
    let candidates = path.as_bytes().split(|b| *b == b':').map(|d| cwd.join(OsStr::from_bytes(d)).join(word));
    let mut refused = None;
    for candidate in candidates.filter(|c| c.is_file()) {
        if executable(&candidate) {
            return Ok(candidate);
        }
        refused.get_or_insert(candidate);
    }
    Err(match refused {
        Some(file) => format!("{}: isn't executable on {host}: chmod +x it", file.display()),
        None => format!(
            "program '{shown}' not found on {host} (PATH={}): load its module before submitting, or give its path",
            path.display()
        ),
    })
}

fn executable(path: &Path) -> bool {
    access(path, AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_systems_variables_are_handed_on_and_the_launchers_are_not() {
        let names = [
            ("SLURM_JOB_ID", true),
            ("PBS_NODEFILE", true),
            ("PATH", true),
            ("JOBQ_CLUSTER", true),
            ("OMPI_COMM_WORLD_RANK", false),
            ("PMIX_RANK", false),
            ("PMI_FD", false),
            ("MPICH_INTERFACE_HOSTNAME", false),
            ("HYDRA_PROXY_ID", false),
            ("JOBQ_TASK_OUTPUT", false),
        ];
        let all = names.iter().map(|(name, _)| (OsString::from(name), OsString::from("x")));
        let kept = base(all);
        for (name, expected) in names {
            assert_eq!(kept.contains_key(OsStr::new(name)), expected, "{name}");
        }
    }
}
