//! What a computation in this process may use.

use crate::config::about_size;
use crate::graph::Resources;
use crate::protocol::{AllocationId, Registration, WorkerId};

/// What this computation may use of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Cores that running tasks take together, and threads for kernels; at least 1.
    pub threads: u32,
    /// Bytes that running tasks may ask for together; 0: not limited.
    pub memory: u64,
    /// Other things that tasks may ask for, such as `gpu`.
    pub named: Vec<(String, u32)>,
}

impl Host {
    /// That many threads (at least one), and this machine's whole memory.
    pub fn with_threads(threads: usize) -> Host {
        let threads = u32::try_from(threads.max(1)).unwrap_or(u32::MAX);
        Host { threads, memory: physical_memory().unwrap_or(0), named: Vec::new() }
    }

    /// As many threads as this process may use cores.
    pub fn here() -> Host {
        Host::with_threads(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// What of that the host doesn't have, and what it has.
    pub(super) fn lacks(&self, needs: &Resources) -> Option<(String, String)> {
        if needs.cores > self.threads {
            return Some((format!("{} cores", needs.cores), self.threads.to_string()));
        }
        if self.memory > 0 && needs.memory > self.memory {
            return Some((format!("{} of memory", about_size(needs.memory)), about_size(self.memory)));
        }
        let has = |name: &str| self.named.iter().find(|(n, _)| n == name).map_or(0, |(_, count)| *count);
        let (name, count) = needs.named.iter().find(|(name, count)| *count > has(name))?;
        Some((format!("{name}={count}"), has(name).to_string()))
    }

    /// As a worker of that size introduces itself.
    pub(super) fn registration(&self) -> Registration {
        Registration {
            id: WorkerId { name: "local".to_owned(), incarnation: 0 },
            allocation: AllocationId(0),
            host: String::new(),
            pid: std::process::id(),
            addresses: Vec::new(),
            cores: self.threads.max(1),
            memory: self.memory,
            named: self.named.clone(),
            deadline_unix: 0,
            holds: Vec::new(),
            runs: Vec::new(),
            completions: Vec::new(),
        }
    }
}

/// Bytes of memory that this machine has.
fn physical_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
