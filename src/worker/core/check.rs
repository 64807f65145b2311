//! Proves that the worker core's tables agree. Tests call it after every step.

use super::Core;
use std::collections::BTreeMap;

impl Core {
    /// # Panics
    /// If an invariant is broken: a defect of this program, never of its input.
    pub fn check(&self) {
        let mut cores = self.free.cores + self.free.kernel_cores;
        let mut kernels = 0;
        let mut named: BTreeMap<&str, u32> = self.free.named.iter().map(|(n, c)| (n.as_str(), *c)).collect();
        for (execution, task) in &self.tasks {
            let runnable = self.runnable.contains(&(task.priority, *execution));
            assert_eq!(runnable, task.missing == 0 && !task.running, "{execution:?} is in the queue");
            assert!(!self.unacknowledged.contains_key(execution), "{execution:?} has ended already");
            let waits = self.fetching.values().filter(|w| w.contains(execution)).count();
            assert_eq!(waits, task.missing, "{execution:?} waits for its inputs");
            if task.running && task.is_plain {
                kernels += 1;
            } else if task.running {
                cores += task.needs.cores;
                for (name, count) in &task.needs.named {
                    *named.entry(name).or_default() += count;
                }
            }
        }
        assert_eq!(kernels, self.free.kernels, "kernels run or have ended");
        assert!(self.free.kernel_cores <= kernels, "a core of kernels without one");
        assert_eq!(cores, self.config.registration.cores, "cores are free or taken");
        for (name, count) in &self.config.registration.named {
            assert_eq!(named.get(name.as_str()), Some(count), "{name} is free or taken");
        }
        assert!(
            self.runnable.iter().all(|(_, e)| self.tasks.contains_key(e)),
            "the queue names unknown tasks"
        );
    }
}
