//! A scheduler under the user's own service manager: a logout doesn't end it, a crash starts it again, and the host
//! that others share gives it no more than it was promised.

use crate::config::Settings;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const START: &str = "systemd-run";
const CONTROL: &str = "systemctl";
/// For the service manager's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What the scheduler needs of our environment, beside what batch commands do. Values stand in a command line that
/// others can read, so only these.
const INHERITED: &[&str] = &[
    "PATH",
    "LD_LIBRARY_PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "XDG_STATE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_CONFIG_DIRS",
    "JOBQ_LOG",
];
/// Its configuration or its state can't be used: another start wouldn't help (78), or it was told to end.
const FINAL_EXITS: &str = "77 78 SIGTERM";

/// A scheduler's service.
pub struct Service {
    pub unit: String,
}

impl Service {
    /// Starts `command` with its output added to `log`.
    ///
    /// # Errors
    /// The service manager's words.
    pub async fn start(
        unit: &str,
        command: &[OsString],
        log: &Path,
        settings: &Settings,
        kept: &[&str],
    ) -> Result<Service, String> {
        let names = INHERITED.iter().chain(kept);
        let environment: Vec<(&str, OsString)> =
            names.filter_map(|name| Some((*name, std::env::var_os(name)?))).collect();
        run(START, &arguments(unit, command, log, settings, &environment)).await?;
        Ok(Service { unit: unit.to_owned() })
    }

    /// Ends it: it gave no sign of life, and must not come to it later.
    pub async fn stop(&self) {
        let words = ["--user", "stop", &self.unit].map(OsString::from);
        if let Err(reason) = run(CONTROL, &words).await {
            tracing::warn!("{} could not be stopped: {reason}", self.unit);
        }
    }
}

/// What `systemd-run` is called with. The shell opens the log, which old service managers can't append to.
fn arguments(
    unit: &str,
    command: &[OsString],
    log: &Path,
    settings: &Settings,
    environment: &[(&str, OsString)],
) -> Vec<OsString> {
    let mut words: Vec<OsString> =
        ["--user", "--quiet", "--collect", "--unit"].into_iter().map(OsString::from).collect();
    words.push(unit.into());
    let mut properties = vec![
        "Restart=on-failure".to_owned(),
        "RestartSec=1".to_owned(),
        format!("RestartPreventExitStatus={FINAL_EXITS}"),
        format!("Nice={}", settings.scheduler.nice),
    ];
    if settings.scheduler.max_cores > 0 {
        properties.push(format!("CPUQuota={}%", u64::from(settings.scheduler.max_cores) * 100));
    }
    words.extend(properties.into_iter().map(|property| OsString::from(format!("--property={property}"))));
    for (name, value) in environment {
        let mut word = OsString::from(format!("--setenv={name}="));
        word.push(value);
        words.push(word);
    }
    let shell = ["--", "/bin/sh", "-c", "log=$1; shift; exec \"$@\" >> \"$log\" 2>&1", "jobq"];
    words.extend(shell.into_iter().map(OsString::from));
    words.push(log.into());
    words.extend(command.iter().cloned());
    words
}

async fn run(program: &str, words: &[OsString]) -> Result<(), String> {
    let mut command = tokio::process::Command::new(program);
    command.args(words.iter().map(OsStr::new)).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ANSWER_TIMEOUT, command.output())
        .await
        .map_err(|_| format!("{program} gave no answer"))?
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    #[test]
    fn the_service_restarts_what_crashed_and_keeps_it_modest() {
        let variables = vec![("HOME".into(), "/h".into())];
        let config = load(&Sources { environment: variables, ..Sources::default() }).unwrap();
        let settings = config.settings(None, &[]).unwrap();
        let command = ["/opt/jobq", "scheduler", "--name", "winds"].map(OsString::from);
        let words = arguments("jobq-w", &command, Path::new("/s/log"), &settings, &[("PATH", "/bin".into())]);
        let words: Vec<String> = words.into_iter().map(|word| word.into_string().unwrap()).collect();
        assert_eq!(
            words[..9],
            [
                "--user",
                "--quiet",
                "--collect",
                "--unit",
                "jobq-w",
                "--property=Restart=on-failure",
                "--property=RestartSec=1",
                "--property=RestartPreventExitStatus=77 78 SIGTERM",
                "--property=Nice=5",
            ]
        );
        assert_eq!(words[9..12], ["--property=CPUQuota=400%", "--setenv=PATH=/bin", "--"]);
        assert_eq!(words[15..], ["jobq", "/s/log", "/opt/jobq", "scheduler", "--name", "winds"]);
    }
}
