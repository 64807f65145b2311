//! The roles that scripts and `up` start: `scheduler`, `supervisor`, `worker`. People don't type them.

pub mod scheduler {
    //! The scheduler of a cluster, on this host.

    use super::super::Context;
    use super::super::exit::{CliError, Exit};
    use super::{log_to_stderr, multi_thread};
    use crate::state::StateDir;
    use crate::state::lease::Standstill;
    use std::path::PathBuf;

    #[derive(clap::Args)]
    pub struct Args {
        /// The directory of all clusters' state
        #[arg(long, value_name = "DIR")]
        state_root: PathBuf,
        /// The last scheduler's lease, which was watched for long and didn't move
        #[arg(long, value_name = "EPOCH:COUNTER")]
        stood_still: Option<Standstill>,
    }

    pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
        // Away from the shell that started us; without a session of its own it would end with it. Already a leader:
        // then it has one.
        let _ = nix::unistd::setsid();
        log_to_stderr();
        let state = StateDir::open(&args.state_root, &context.cluster)?;
        let runtime = multi_thread()?;
        let ended = runtime.block_on(crate::scheduler::shell::serve(state, args.stood_still));
        // Links that are stuck must not keep the process.
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        match ended {
            Ok(()) => Ok(Exit::Ok),
            Err(error) => {
                tracing::error!("{error:#}");
                Err(CliError::config(format!("{error:#}")))
            }
        }
    }
}

pub mod supervisor {
    //! What a job's script becomes: it starts the workers of the allocation and watches them.

    use super::super::Context;
    use super::super::connect::cluster_spec;
    use super::super::exit::{CliError, Exit};
    use super::log_to_stderr;
    use crate::net::{Frame, Transport, values::hello};
    use crate::protocol::{self, FromWorker, PeerKind, WorkerId};
    use crate::scheduler::shell::transport;
    use crate::scheduler::spec::ClusterSpec;
    use crate::state::{Role, StateDir};
    use crate::worker::supervisor::{Launch, Settings, VerdictRecord};
    use std::ffi::OsString;
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    #[derive(clap::Args)]
    pub struct Args {
        /// The directory of all clusters' state
        #[arg(long, value_name = "DIR")]
        state_root: PathBuf,
        /// The allocation's number
        #[arg(long, value_name = "N")]
        allocation: u32,
        /// The job's unique name
        #[arg(long, value_name = "NAME")]
        job_name: String,
        /// Seconds since 1970 at which the walltime ends
        #[arg(long, value_name = "T")]
        deadline: Option<u64>,
        /// Only this worker
        #[arg(long, value_name = "NAME")]
        worker: Option<String>,
    }

    /// Time that workers get between SIGTERM and SIGKILL: batch systems give about 30 s, some less.
    const GRACE: Duration = Duration::from_secs(20);
    const RESTART_DELAY: Duration = Duration::from_secs(1);
    const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

    pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
        log_to_stderr();
        let state = StateDir::open(&args.state_root, &context.cluster)?;
        if !super::is_wanted(&state, &args.job_name)? {
            return Ok(Exit::Ok);
        }
        let spec = cluster_spec(&state)?;
        let links = transport(&state, &spec, Role::Worker).map_err(|e| CliError::config(format!("{e:#}")))?;
        let deadline = args.deadline.unwrap_or_else(|| deadline(&state, &spec));
        let names = match &args.worker {
            Some(name) => vec![name.clone()],
            None => worker_names(args.allocation, spec.settings.profile.workers_per_job),
        };
        let common: Vec<OsString> = [
            "--state-root".into(),
            args.state_root.clone().into_os_string(),
            "--name".into(),
            context.cluster.clone().into(),
            "--allocation".into(),
            args.allocation.to_string().into(),
            "--job-name".into(),
            args.job_name.clone().into(),
            "--deadline".into(),
            deadline.to_string().into(),
        ]
        .into();
        let launch = |verb: &str| Launch {
            program: spec.exe.clone(),
            args: std::iter::once(OsString::from(verb)).chain(common.iter().cloned()).collect(),
        };
        let settings = Settings {
            workers: names,
            worker: launch("worker"),
            supervisor: launch("supervisor"),
            allocation_dir: state.allocations_dir().join(&args.job_name),
            grace: GRACE,
            restart_delay: RESTART_DELAY,
            deadline: (deadline > 0).then_some(deadline),
        };
        std::fs::create_dir_all(&settings.allocation_dir)
            .map_err(|e| CliError::config(format!("{}: {e}", settings.allocation_dir.display())))?;
        let report = move |verdict: &VerdictRecord| {
            if let Err(reason) = report_death(&state, &links, verdict) {
                tracing::warn!(
                    "the scheduler could not be told of the death of {}: {reason}",
                    verdict.worker
                );
            }
        };
        match crate::worker::supervisor::run(settings, report) {
            Ok(end) => Ok(Exit::Command(end.exit_code())),
            Err(error) => Err(CliError::config(error.to_string())),
        }
    }

    /// `w3`, or `w3.1 w3.2` where one job has several.
    fn worker_names(allocation: u32, count: u32) -> Vec<String> {
        if count <= 1 {
            return vec![format!("w{allocation}")];
        }
        (1..=count).map(|number| format!("w{allocation}.{number}")).collect()
    }

    /// When the walltime ends: as the batch system says, else from now and what was asked for; 0: never.
    fn deadline(state: &StateDir, spec: &ClusterSpec) -> u64 {
        let asked_for = spec.settings.profile.walltime.as_secs();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let otherwise = if asked_for == 0 { 0 } else { now + asked_for };
        let Some(batch) = spec.batch(state) else { return otherwise };
        let Ok(job) = std::env::var(batch.system().variables().job_id) else { return otherwise };
        let told = super::super::connect::block_on(async {
            batch.deadline(&crate::batch::JobId(job)).await.map_err(CliError::from)
        });
        match told {
            Ok(told) => told.unwrap_or(otherwise),
            Err(error) => {
                tracing::warn!(
                    "the end of the walltime is reckoned from what was asked for: {}",
                    error.message
                );
                otherwise
            }
        }
    }

    fn report_death(state: &StateDir, links: &Transport, verdict: &VerdictRecord) -> Result<(), String> {
        let message = FromWorker::Dead {
            id: WorkerId { name: verdict.worker.clone(), incarnation: verdict.incarnation },
            verdict: verdict.cause.clone(),
        };
        let frame = protocol::encode(&[message]).map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(async {
            let contact =
                state.read_contact().map_err(|error| error.to_string())?.ok_or("there is no scheduler")?;
            let link = links.connect(&contact.addresses, Role::Scheduler, REPORT_TIMEOUT).await;
            let (mut reader, mut writer) = link.map_err(|error| error.to_string())?.split();
            let frames = [hello(PeerKind::Supervisor), Frame::new(frame)];
            writer.send_all(&frames).await.map_err(|error| error.to_string())?;
            writer.close().await.map_err(|error| error.to_string())?;
            // Closed by the other side: it has read everything.
            let _ = tokio::time::timeout(REPORT_TIMEOUT, reader.next()).await;
            Ok(())
        })
    }
}

pub mod worker {
    //! One worker process.

    use super::super::Context;
    use super::super::connect::cluster_spec;
    use super::super::exit::{CliError, Exit};
    use super::{log_to_stderr, multi_thread};
    use crate::protocol::{AllocationId, WorkerId};
    use crate::scheduler::shell::transport;
    use crate::state::{Role, StateDir};
    use crate::worker::shell::Options;
    use std::path::PathBuf;

    #[derive(clap::Args)]
    pub struct Args {
        /// The directory of all clusters' state
        #[arg(long, value_name = "DIR")]
        state_root: PathBuf,
        /// The allocation's number
        #[arg(long, value_name = "N")]
        allocation: u32,
        /// The job's unique name
        #[arg(long, value_name = "NAME")]
        job_name: String,
        /// Seconds since 1970 at which the walltime ends
        #[arg(long, value_name = "T", default_value_t = 0)]
        deadline: u64,
        /// The worker's name
        #[arg(long, value_name = "NAME")]
        worker: String,
        /// The number of this life of it
        #[arg(long, value_name = "N")]
        incarnation: u64,
    }

    pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
        log_to_stderr();
        let state = StateDir::open(&args.state_root, &context.cluster)?;
        if !super::is_wanted(&state, &args.job_name)? {
            return Ok(Exit::Ok);
        }
        let spec = cluster_spec(&state)?;
        let life = state.read_cluster()?.map_or_else(String::new, |file| file.life);
        let transport =
            transport(&state, &spec, Role::Worker).map_err(|e| CliError::config(format!("{e:#}")))?;
        tracing::info!("worker {} of job {}", args.worker, args.job_name);
        let options = Options {
            state,
            settings: spec.settings,
            transport,
            id: WorkerId { name: args.worker, incarnation: args.incarnation },
            allocation: AllocationId(args.allocation),
            deadline_unix: args.deadline,
            life,
        };
        let runtime = multi_thread()?;
        let ended = runtime.block_on(crate::worker::shell::run(options));
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        match ended {
            Ok(_) => Ok(Exit::Ok),
            Err(error) => Err(CliError::config(format!("{error:#}"))),
        }
    }
}

pub mod local_queue {
    //! The embedded batch queue: its commands and its daemon.

    use super::super::Context;
    use super::super::exit::{CliError, Exit};

    #[derive(clap::Args)]
    pub struct Args {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    }

    pub fn run(args: Args, _: &Context) -> Result<Exit, CliError> {
        let code = crate::batch::localq::main(&args.words);
        Ok(Exit::Command(u8::try_from(code).unwrap_or(70)))
    }
}

use super::exit::CliError;
use crate::state::{StateDir, intent};

/// Whether this job should still run: its cluster may have been brought down, or may have replaced it, while its
/// submit was in doubt or it couldn't be cancelled.
fn is_wanted(state: &StateDir, job_name: &str) -> Result<bool, CliError> {
    let wanted = intent::is_wanted(&state.intents_dir(), job_name)?;
    if !wanted {
        tracing::info!("job {job_name} is not wanted any more: it ends");
    }
    Ok(wanted)
}

/// Threads of a role's runtime: its own loop, and what reads, writes and encrypts beside it.
const RUNTIME_THREADS: usize = 2;

fn multi_thread() -> Result<tokio::runtime::Runtime, CliError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build();
    runtime.map_err(|error| CliError::internal(format!("no async runtime: {error}")))
}

/// Roles log to stderr, which is their log file. `JOBQ_LOG` chooses what, as `info` or `jobq=debug`.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("JOBQ_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Already set: a test's own subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .try_init();
}
