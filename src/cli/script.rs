//! `script`: print the exact script that `up` with the same flags would submit.

use super::Context;
use super::exit::{CliError, Exit};
use super::up_flags::UpFlags;
use crate::config::{Settings, Sources};
use crate::protocol::AllocationId;
use crate::scheduler::spec::{ClusterSpec, Place, own_program};
use crate::state::StateDir;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    #[command(flatten)]
    pub cluster: UpFlags,
    /// Whose job: the workers', or the scheduler's own
    #[arg(long, value_enum, default_value_t = Of::Worker)]
    pub of: Of,
}

/// Whose script is printed.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Of {
    Worker,
    Scheduler,
}

#[derive(Serialize)]
struct Report<'a> {
    script: &'a str,
    /// Where the scheduler is to run: job or here.
    scheduler: &'a str,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let (settings, note) = args.cluster.resolve(&context.config()?)?;
    if !note.is_empty() {
        context.out.note(note);
    }
    let workers = super::up::workers(&args.cluster, &settings);
    print(&settings, workers, args.of, context, false)
}

/// The script on stdout; with `origins`, where each value came from on stderr.
pub fn print(
    settings: &Settings,
    workers: u32,
    of: Of,
    context: &Context,
    origins: bool,
) -> Result<Exit, CliError> {
    let state = StateDir::at(&settings.cluster.state_dir, &context.cluster)?;
    let spec = ClusterSpec {
        workers,
        exe: own_program().map_err(|error| CliError::internal(format!("where is this program? {error}")))?,
        work_dir: std::env::current_dir()
            .map_err(|e| CliError::config(format!("the current directory: {e}")))?,
        template_dir: template_dir(),
        insecure: false,
        owned: false,
        settings: settings.clone(),
    };
    let batch = spec.batch(&state).ok_or_else(|| {
        CliError::config(format!("no batch system is called '{}'", settings.profile.system))
            .hint("`jq queues` lists the profiles")
    })?;
    // The name that the first job of a new cluster would have, where there is one already its digits.
    let name = match state.identity(crate::state::Role::Admin) {
        Ok(identity) => format!("jq{}0", identity.cluster_id().short()),
        Err(_) => "jq0000000".to_owned(),
    };
    let job = match of {
        Of::Worker => spec.allocation(&state, &name, AllocationId(1)),
        Of::Scheduler => spec.scheduler_job(&state, &name),
    };
    let script = batch.system().render(&job, &spec.templates()?)?;
    let in_job = spec.place() == Place::Job;
    if context.out.is_json() {
        let scheduler = if in_job { "job" } else { "here" };
        context.out.json(&Report { script: &script, scheduler })?;
        return Ok(Exit::Ok);
    }
    if of == Of::Scheduler && !in_job {
        context
            .out
            .note("with these flags the scheduler runs on this host; --scheduler job submits this script");
    }
    if origins {
        context.out.note(super::up::arithmetic(&spec, workers));
        if in_job {
            let program = context.program;
            context.out.note(format!(
                "the scheduler has a job of its own, after whose start the workers' begin: `{program} script --of \
                 scheduler` prints it"
            ));
        }
        let of_jobs = |key: &str| key.starts_with("profile.") || (in_job && key.starts_with("scheduler."));
        for entry in settings.entries.iter().filter(|entry| of_jobs(entry.key)) {
            context.out.note(format!("# {} = {}  ({})", entry.key, entry.value, entry.origin));
        }
    }
    context.out.bytes(script.as_bytes())?;
    Ok(Exit::Ok)
}

/// Where the user's own script templates are; empty: nowhere.
pub fn template_dir() -> PathBuf {
    let user = Sources::of_process(Path::new(".")).user_dir;
    let templates = user.join("templates");
    if !user.as_os_str().is_empty() && templates.is_dir() { templates } else { PathBuf::new() }
}
