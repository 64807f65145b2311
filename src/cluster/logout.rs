//! What this host does to a user's processes when the user logs out: logind's settings, asked for and read.
//!
//! Two things matter. `KillUserProcesses` says whether what was started from a session, a scheduler among it, ends
//! with the session. Lingering says whether the user's own service manager, and what it started, stays.

use std::process::Stdio;
use std::time::Duration;

/// For one answer of logind: it is on this host.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const PROGRAM: &str = "loginctl";

/// What logind said; `None` where it didn't.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Logout {
    /// Whether what a session of this user started is killed when it ends.
    pub kills: Option<bool>,
    /// Whether the user's service manager stays without a session.
    pub lingers: Option<bool>,
}

/// Arguments of `loginctl` that ask for the host's settings.
pub const HOST_QUESTION: [&str; 4] =
    ["show-user", "--property=KillUserProcesses", "--property=KillOnlyUsers", "--property=KillExcludeUsers"];

/// Arguments of `loginctl` that ask about one user.
#[must_use]
pub fn user_question(user: &str) -> [&str; 3] {
    ["show-user", "--property=Linger", user]
}

/// From what `loginctl` printed to [`HOST_QUESTION`] and to [`user_question`]; empty: it gave no answer. One about a
/// user who has no session and doesn't linger is an error of its own, and so no answer either.
#[must_use]
pub fn read(host: &str, of_user: &str, user: &str) -> Logout {
    let is_in = |key: &str| value(host, key).unwrap_or_default().split_whitespace().any(|name| name == user);
    let anybody = |key: &str| value(host, key).is_some_and(|list| !list.trim().is_empty());
    let kills = value(host, "KillUserProcesses").and_then(yes_or_no).map(|kills| {
        kills && !is_in("KillExcludeUsers") && (is_in("KillOnlyUsers") || !anybody("KillOnlyUsers"))
    });
    Logout { kills, lingers: value(of_user, "Linger").and_then(yes_or_no) }
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))
}

fn yes_or_no(text: &str) -> Option<bool> {
    match text.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Asks logind about `user`. A host without it, or where it doesn't answer in time, says nothing.
pub async fn ask(user: &str) -> Logout {
    let question = user_question(user);
    let (host, of_user) = tokio::join!(answer(&HOST_QUESTION), answer(&question));
    read(&host, &of_user, user)
}

/// What `loginctl` printed; empty if it failed.
async fn answer(args: &[&str]) -> String {
    let mut command = tokio::process::Command::new(PROGRAM);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(ANSWER_TIMEOUT, command.output()).await {
        Ok(Ok(output)) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => String::new(),
    }
}

impl Logout {
    /// What a logout does to a scheduler that was simply left behind by a shell, and what to do about it.
    #[must_use]
    pub fn words(&self, user: &str) -> String {
        match self.kills {
            Some(true) => format!(
                "logging out from this host ends it (KillUserProcesses=yes): `loginctl enable-linger {user}` before \
                 `jq up` lets it stay, and --scheduler job runs it in a batch job"
            ),
            Some(false) => "it stays when you log out (KillUserProcesses=no)".to_owned(),
            None => "it isn't known whether it stays when you log out: logind doesn't tell".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "KillUserProcesses=no\nKillOnlyUsers=\nKillExcludeUsers=root\n";

    #[test]
    fn settings_are_read_as_loginctl_prints_them() {
        let read = |host: &str, of_user: &str| super::read(host, of_user, "ann");
        assert_eq!(read(DEBIAN, "Linger=yes\n"), Logout { kills: Some(false), lingers: Some(true) });
        let strict = "KillExcludeUsers=root\nKillOnlyUsers=\nKillUserProcesses=yes\n";
        assert_eq!(read(strict, "Linger=no\n"), Logout { kills: Some(true), lingers: Some(false) });
        assert_eq!(read("", ""), Logout::default());
        assert_eq!(read("KillUserProcesses=perhaps", "Lingering=yes"), Logout::default());
    }

    #[test]
    fn lists_of_users_decide_for_whom_it_holds() {
        let host = |only: &str, exclude: &str| {
            format!("KillUserProcesses=yes\nKillOnlyUsers={only}\nKillExcludeUsers={exclude}\n")
        };
        let kills = |host: &str| super::read(host, "", "ann").kills;
        assert_eq!(kills(&host("", "root ann")), Some(false));
        assert_eq!(kills(&host("bob ann", "root")), Some(true));
        assert_eq!(kills(&host("bob", "root")), Some(false));
        assert_eq!(kills(&host("ann", "ann")), Some(false), "to be excluded wins");
        assert_eq!(kills(&host("anna", "")), Some(false));
    }

    #[test]
    fn the_words_say_what_to_do() {
        let words = Logout { kills: Some(true), lingers: Some(false) }.words("ann");
        assert!(words.contains("loginctl enable-linger ann") && words.contains("--scheduler job"), "{words}");
    }
}
