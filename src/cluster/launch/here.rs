//! A scheduler on this host that outlives the shell: under the user's service manager where that stays without a
//! session, else in a session of its own.

use super::service::Service;
use super::{LaunchError, tail_of};
use crate::cluster::logout;
use crate::scheduler::spec::ClusterSpec;
use crate::state::lease::Standstill;
use crate::state::{Contact, Role, StateDir};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For the scheduler's first sign of life: TLS keys, a claim, a socket; file servers take their time.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);
/// Steps back for other programs.
const NICE: &str = "nice";

/// A scheduler that is on its way.
enum Started {
    Service(Service),
    Process(Child),
}

/// See [`super::launch`].
pub(super) async fn launch(
    state: &StateDir,
    spec: &ClusterSpec,
    stood_still: Option<Standstill>,
    say: fn(&str),
) -> Result<Contact, LaunchError> {
    let log = state.path().join("scheduler.log");
    let before = state.sound_contact()?.map(|contact| contact.epoch);
    let command = command(state, spec, stood_still);
    let mut scheduler = start(state, spec, &command, &log, say).await?;
    let started = Instant::now();
    loop {
        if let Some(contact) = state.sound_contact()?.filter(|contact| Some(contact.epoch) > before) {
            return Ok(contact);
        }
        if let Started::Process(child) = &mut scheduler
            && let Ok(Some(status)) = child.try_wait()
        {
            if status.success() {
                return Err(LaunchError::AnotherLives);
            }
            return Err(LaunchError::Ended { status: status.to_string(), tail: tail_of(&log) });
        }
        if started.elapsed() > START_TIMEOUT {
            // It must not come to life later, unasked for.
            match scheduler {
                Started::Service(service) => service.stop().await,
                Started::Process(mut child) => {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
            return Err(LaunchError::Silent { tail: tail_of(&log) });
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn command(state: &StateDir, spec: &ClusterSpec, stood_still: Option<Standstill>) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![spec.exe.clone().into(), "scheduler".into()];
    words.extend(["--state-root".into(), state.root().into(), "--name".into(), state.name().into()]);
    if let Some(still) = stood_still {
        words.extend(["--stood-still".into(), still.to_string().into()]);
    }
    words
}

/// On the host of a queue of our own, whatever ends this scheduler ends its jobs too, and nobody shares it with us.
async fn start(
    state: &StateDir,
    spec: &ClusterSpec,
    command: &[OsString],
    log: &Path,
    say: fn(&str),
) -> Result<Started, LaunchError> {
    let system = crate::batch::system(&spec.settings.profile.system);
    let Some(system) = system.filter(|system| !system.programs().is_empty()) else {
        return process(spec, command, log, 0);
    };
    let nice = spec.settings.scheduler.nice;
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |u| u.name);
    let logout = logout::ask(&user).await;
    if logout.lingers == Some(true) {
        let id = state.identity(Role::Admin)?.cluster_id().short();
        let epoch = crate::state::epoch::highest(state.path())?.unwrap_or(0) + 1;
        let unit = format!("jobq-{id}-{epoch}-{}", std::process::id());
        let kept = system.health().env_keep;
        match Service::start(&unit, command, log, &spec.settings, kept).await {
            Ok(service) => return Ok(Started::Service(service)),
            Err(reason) => say(&format!("the scheduler can't be a service of yours: {reason}")),
        }
    }
    // One that ends with the command that it is for needn't outlive anything.
    if !spec.owned {
        say(&format!("the scheduler runs on this host; {}", logout.words(&user)));
    }
    process(spec, command, log, nice)
}

fn process(spec: &ClusterSpec, command: &[OsString], log: &Path, nice: u32) -> Result<Started, LaunchError> {
    let spawn_error = |source| LaunchError::Spawn { program: spec.exe.clone(), source };
    let spawn = |words: &[OsString]| {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
        let errors = file.try_clone()?;
        let [program, arguments @ ..] = words else { return Err(std::io::ErrorKind::InvalidInput.into()) };
        let mut child = Command::new(program);
        child.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(file).stderr(errors);
        child.spawn()
    };
    if nice > 0 {
        let words = [&[OsString::from(NICE), format!("-n{nice}").into()], command].concat();
        if let Ok(child) = spawn(&words) {
            return Ok(Started::Process(child));
        }
    }
    Ok(Started::Process(spawn(command).map_err(spawn_error)?))
}
