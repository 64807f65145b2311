//! What isn't taken by running tasks.
//!
//! Kernels that take a few microseconds are started ahead, behind those that have a core: whoever runs them then never
//! waits for this core's next word, and reports many ends at once.

use crate::graph::Resources;
use crate::protocol::Registration;
use std::collections::BTreeMap;

/// What the kernels that are started ahead on one core take together, as far as can be told: several times what it
/// takes to wake a thread, and too short for anybody to miss the core.
const AHEAD_NANOS: u64 = 200_000;
/// Most kernels on one core: two of the batches in which a thread takes them.
const MAX_KERNELS: u64 = 128;

pub(super) struct Free {
    pub cores: u32,
    memory: u64,
    memory_limited: bool,
    pub named: BTreeMap<String, u32>,
    /// Kernels that run or are started ahead, and the cores that they hold: one each at most.
    pub kernels: u32,
    pub kernel_cores: u32,
}

impl Free {
    pub fn new(registration: &Registration) -> Free {
        Free {
            cores: registration.cores,
            memory: registration.memory,
            memory_limited: registration.memory > 0,
            named: registration.named.iter().cloned().collect(),
            kernels: 0,
            kernel_cores: 0,
        }
    }

    pub fn take(&mut self, needs: &Resources) -> bool {
        let named = |(name, count): &(String, u32)| self.named.get(name).copied().unwrap_or(0) >= *count;
        let memory = !self.memory_limited || self.memory >= needs.memory;
        if self.cores < needs.cores || !memory || !needs.named.iter().all(named) {
            return false;
        }
        self.cores -= needs.cores;
        if self.memory_limited {
            self.memory -= needs.memory;
        }
        for (name, count) in &needs.named {
            if let Some(free) = self.named.get_mut(name) {
                *free -= count;
            }
        }
        true
    }

    pub fn give_back(&mut self, needs: &Resources) {
        self.cores += needs.cores;
        if self.memory_limited {
            self.memory += needs.memory;
        }
        for (name, count) in &needs.named {
            *self.named.entry(name.clone()).or_default() += count;
        }
    }

    /// A core for a kernel that needs nothing else, or a place behind kernels that have one, if such kernels take
    /// `nanos` (0: not known).
    pub fn take_kernel(&mut self, nanos: u64) -> bool {
        if self.cores > 0 {
            self.cores -= 1;
            self.kernel_cores += 1;
        } else if nanos == 0 || u64::from(self.kernels) >= self.most_kernels(nanos) {
            return false;
        }
        self.kernels += 1;
        true
    }

    fn most_kernels(&self, nanos: u64) -> u64 {
        u64::from(self.kernel_cores) * (AHEAD_NANOS / nanos).min(MAX_KERNELS)
    }

    /// One of them has ended.
    pub fn give_back_kernel(&mut self) {
        self.kernels -= 1;
        if self.kernels < self.kernel_cores {
            self.kernel_cores -= 1;
            self.cores += 1;
        }
    }
}
