//! Commands that tests start and wait for, and tests that can't run here.

use super::PATIENCE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Child;
use std::sync::mpsc;

/// How a command of ours ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Waits for a command whose output is piped, at most `PATIENCE`.
///
/// # Panics
/// It hangs.
pub fn ended(child: Child, what: &str) -> Ended {
    let pid = pid_of(&child);
    let (done, waited) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let output = waited.recv_timeout(PATIENCE).map(Result::unwrap).unwrap_or_else(|_| {
        let _ = kill(pid, Signal::SIGKILL);
        panic!("never ended: {what}")
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

pub fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Says that a test is skipped.
///
/// # Panics
/// Where nothing may be skipped.
pub fn skipped(test: &str, why: &str) {
    let words = format!("skipped: {test}: {why}");
    assert!(std::env::var("JOBQ_TEST_REQUIRE_ALL").as_deref() != Ok("1"), "{words}");
    eprintln!("{words}");
}
