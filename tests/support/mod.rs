//! What several integration tests share.
#![allow(dead_code, reason = "no test uses all of it")]

pub mod process;
pub mod sandbox;
pub mod slurm;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jobq::batch::{AllocationSpec, Batch, Templates};

/// How long anything that must come may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at something that can't wake us.
const PAUSE: Duration = Duration::from_millis(20);

/// Our program as the scripts run it.
pub fn jobq() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_jobq"))
}

/// Look until `look` sees something.
///
/// # Panics
/// If nothing comes.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(started.elapsed() < PATIENCE, "never came: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The same where nothing is asynchronous.
pub fn eventually_sync<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < PATIENCE, "never came: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Whether a process exists and is no zombie.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X') | None))
}

/// A job of one core that runs `script` with `/bin/sh -c`.
pub fn job(dir: &Path, name: &str, script: &str) -> AllocationSpec {
    AllocationSpec {
        name: name.to_owned(),
        comment: "a test".to_owned(),
        workers: 1,
        cores: 1,
        walltime: Duration::from_secs(120),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        work_dir: dir.to_owned(),
        log: dir.join(format!("{name}.log")),
        ..AllocationSpec::default()
    }
}

/// Render `spec` into a file beside its log.
pub fn write_script(batch: &Batch, spec: &AllocationSpec) -> PathBuf {
    let path = spec.log.with_extension("sh");
    let script = batch.system().render(spec, &Templates::embedded()).unwrap();
    std::fs::write(&path, script).unwrap();
    path
}
