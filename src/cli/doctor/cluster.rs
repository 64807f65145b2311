//! The cluster that the flags name, if it is up.

use super::finding::Finding;
use super::ground::{Ground, is_program};
use crate::cli::connect::{block_on, client_of};
use crate::cli::exit::{CliError, Exit};
use crate::cluster::liveness::{Dead, Liveness, look_without_spec, remains};
use crate::protocol::{Reply, Request, StatusReport};
use crate::scheduler::spec::ClusterSpec;
use crate::state::{Contact, StateDir, StateError, lease};
use std::path::PathBuf;
use std::time::Duration;

/// For connecting and one question.
const PATIENCE: Duration = Duration::from_secs(10);
const OUR_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether its scheduler answers, is of our version, and starts jobs with a program that is there.
pub fn scheduler(ground: &Ground) -> Finding {
    let settings = match ground.settings() {
        Ok(settings) => settings,
        Err(finding) => return finding,
    };
    let (name, root) = (&ground.cluster, &settings.cluster.state_dir);
    let contact = StateDir::open(root, name).and_then(|state| Ok((state.sound_contact()?, state)));
    let (contact, state) = match contact {
        Ok((Some(contact), state)) => (contact, state),
        Ok((None, state)) => return untold(&state),
        Err(StateError::NoSuchCluster { .. }) => return Finding::ok(format!("there is no cluster {name}")),
        Err(error) => return Finding::error(error),
    };
    match block_on(ask(state.clone())) {
        Ok(report) => Finding::worst(vec![
            Finding::ok(alive(name, &contact, &report)),
            versions(&contact),
            program(&state),
            trouble(&report),
            folder(&report),
        ]),
        Err(error) => dead(&state, &contact, error),
    }
}

async fn ask(state: StateDir) -> Result<StatusReport, CliError> {
    let question = async {
        let mut client = client_of(state).await?;
        match client.call(Request::Status).await? {
            Reply::Status(report) => Ok(*report),
            other => Err(CliError::from(crate::client::unexpected(&other))),
        }
    };
    tokio::time::timeout(PATIENCE, question).await.unwrap_or_else(|_| {
        Err(CliError::unavailable(format!("the scheduler gives no answer within {} s", PATIENCE.as_secs())))
    })
}

fn alive(name: &str, contact: &Contact, report: &StatusReport) -> String {
    let address = contact.addresses.first().map_or("?", String::as_str);
    format!(
        "cluster {name} is up on {} ({address}), {} of {} workers connected",
        contact.host, report.connected, report.target
    )
}

fn versions(contact: &Contact) -> Finding {
    if contact.version == OUR_VERSION {
        return Finding::ok(format!("version {OUR_VERSION} on both sides"));
    }
    Finding::warning(
        format!("its scheduler is version {}, this program {OUR_VERSION}", contact.version),
        "use the program that brought it up, or bring it down and up again",
    )
}

/// The program that its next jobs will start.
fn program(state: &StateDir) -> Finding {
    let exe = state.read_cluster().ok().flatten().and_then(|file| file.spec_as::<ClusterSpec>().ok());
    let exe: PathBuf = exe.map(|spec| spec.exe).unwrap_or_default();
    if exe.as_os_str().is_empty() || is_program(&exe) {
        return Finding::ok("");
    }
    Finding::failed(
        Exit::Config,
        format!("its jobs start {}, which is not an executable file any more", exe.display()),
        "put the program back, or `up --replace` with the new one",
    )
}

fn trouble(report: &StatusReport) -> Finding {
    if report.stopped {
        let found = "too many of its allocations ended without a worker, so it asks for no more";
        return Finding::warning(found, "`logs` shows theirs");
    }
    if report.batch_trouble.is_empty() {
        return Finding::ok("");
    }
    Finding::warning(format!("its batch system gives it trouble: {}", report.batch_trouble), "")
}

/// What its folder takes, where that is near what it may.
fn folder(report: &StatusReport) -> Finding {
    if !report.scheduler.folder.is_near() {
        return Finding::ok("");
    }
    Finding::warning(
        crate::cli::status::folder(&report.scheduler.folder),
        "`clean` removes what is of no use any more; a smaller `scheduler.history` and `task.max_output` keep less",
    )
}

/// Nothing tells where its scheduler is; only the lease, whether there is one.
fn untold(state: &StateDir) -> Finding {
    match look_without_spec(state) {
        Ok(Liveness::Dead(Dead { last, .. })) => {
            let process = format!("process {} on {}", last.pid, last.host);
            over(state, &process, Exit::Unavailable)
        }
        Ok(Liveness::Unreachable(_)) => Finding::warning(
            format!(
                "{} doesn't tell where the scheduler of cluster {} is",
                state.contact_path().display(),
                state.name()
            ),
            "one that lives puts it right within seconds; `up` waits for it, or goes on in its place",
        ),
        Ok(_) => Finding::ok(format!("cluster {} is not up", state.name())),
        Err(error) => Finding::error(error),
    }
}

/// No answer: whether its process is known to be gone decides what to do.
fn dead(state: &StateDir, contact: &Contact, error: CliError) -> Finding {
    let gone = lease::sight(state.path()).ok().flatten().is_none_or(|sight| sight.is_over());
    let process = format!("process {} on {}", contact.pid, contact.host);
    if gone {
        return over(state, &process, error.exit);
    }
    Finding::failed(
        error.exit,
        format!("{} ({process})", error.message),
        "it may live: look at that host, and at the way there (firewall, another network)",
    )
}

fn over(state: &StateDir, process: &str, exit: Exit) -> Finding {
    if let Some(damage) = damage(state) {
        return Finding::failed(
            Exit::Config,
            format!("the scheduler of cluster {} ({process}) is dead, and {damage}", state.name()),
            "`doctor --repair` keeps all that is sound, and says what is lost",
        );
    }
    let found = format!("the scheduler of cluster {} ({process}) is dead", state.name());
    Finding::failed(exit, found, "`up` brings it up again; `logs scheduler` tells how it ended")
}

/// What is wrong with the journal of a cluster at rest.
fn damage(state: &StateDir) -> Option<String> {
    match remains(state) {
        Ok(remains) => Some(remains.damage).filter(|damage| !damage.is_empty()),
        Err(error) => Some(error.to_string()),
    }
}
