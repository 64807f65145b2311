//! Whether the jobs of a profile can ever run on a batch system's queue, by the limits that it tells. Pure.

use crate::batch::{BatchSystem, QueueInfo};
use crate::config::{Settings, display_duration, display_size, nearest_word};

/// What comes of comparing a profile with the queues that there are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Fit {
    /// The queue that its jobs go to.
    pub queue: Option<QueueInfo>,
    /// Why its jobs can never run; each names the key to change. Empty: they can, as far as the limits tell.
    pub never: Vec<String>,
    /// What may keep them from running, or from running soon.
    pub doubts: Vec<String>,
}

/// Compares the profile of `settings` with `queues` of its batch system.
pub(super) fn fit(settings: &Settings, system: &dyn BatchSystem, queues: &[QueueInfo]) -> Fit {
    let (word, wanted) = (system.queue_word(), settings.profile.queue.as_str());
    let queue = if wanted.is_empty() {
        queues.iter().find(|queue| queue.default)
    } else {
        queues.iter().find(|queue| queue.name == wanted)
    };
    let mut fit = Fit { queue: queue.cloned(), ..Fit::default() };
    match queue {
        Some(queue) => compare(settings, word, queue, &mut fit),
        None if wanted.is_empty() => fit.never.push(format!(
            "{} has no default {word}: set `profile.queue` to one of {}",
            system.name(),
            names(queues)
        )),
        None => fit.never.push(unknown(wanted, system, queues)),
    }
    fit
}

fn unknown(wanted: &str, system: &dyn BatchSystem, queues: &[QueueInfo]) -> String {
    let word = system.queue_word();
    let nearest = nearest_word(wanted, queues.iter().map(|queue| queue.name.as_str()));
    let nearest = nearest.map_or(String::new(), |nearest| format!("; the nearest is `{nearest}`"));
    format!(
        "{} has no {word} `{wanted}`{nearest} (`profile.queue`; there are: {})",
        system.name(),
        names(queues)
    )
}

fn names(queues: &[QueueInfo]) -> String {
    if queues.is_empty() {
        return "none".to_owned();
    }
    queues.iter().map(|queue| queue.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn compare(settings: &Settings, word: &str, queue: &QueueInfo, fit: &mut Fit) {
    let (profile, name) = (&settings.profile, &queue.name);
    if let Some(limit) = queue.walltime
        && profile.walltime > limit
    {
        fit.never.push(format!(
            "`walltime = {}` is longer than {word} `{name}` allows ({})",
            display_duration(profile.walltime),
            display_duration(limit)
        ));
    }
    let workers = u64::from(profile.workers_per_job.max(1));
    let each = |what: String| if workers == 1 { what } else { format!("{workers} workers of {what}") };
    let mut sized = |wanted: u64, smallest: u64, told: String| {
        // 0: the batch system doesn't say.
        if smallest > 0 && wanted > smallest {
            let list = if queue.nodes_differ { &mut fit.doubts } else { &mut fit.never };
            list.push(told);
        }
    };
    let nodes = if queue.nodes_differ { "the smallest node" } else { "a node" };
    let cores = u64::from(profile.cores.max(1));
    sized(
        workers * cores,
        queue.cores_per_node,
        format!(
            "a job wants {}, more than {nodes} of {word} `{name}` has ({}): lower `cores` or `workers_per_job`",
            each(format!("{cores} cores")),
            queue.cores_per_node
        ),
    );
    sized(
        workers.saturating_mul(profile.memory),
        queue.memory_per_node,
        format!(
            "a job wants {}, more than {nodes} of {word} `{name}` has ({}): lower `memory` or `workers_per_job`",
            each(format!("{} of memory", display_size(profile.memory))),
            display_size(queue.memory_per_node)
        ),
    );
    if !queue.open {
        fit.doubts.push(format!("{word} `{name}` starts no jobs now"));
    }
    if queue.nodes == 0 {
        fit.doubts.push(format!("{word} `{name}` has no nodes now"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch;
    use crate::config::{Flag, Sources, load};
    use std::time::Duration;

    fn settings(queue: &str, flags: &[(&str, &str)]) -> Settings {
        let sources = Sources { environment: vec![("HOME".into(), "/h".into())], ..Sources::default() };
        let flags: Vec<Flag> = flags.iter().map(|(key, value)| Flag::new(*key, value, "--set")).collect();
        load(&sources).unwrap().settings(Some(queue), &flags).unwrap()
    }

    fn spice() -> QueueInfo {
        QueueInfo {
            name: "spice".into(),
            default: true,
            open: true,
            walltime: Some(Duration::from_secs(6 * 3600)),
            nodes: 6,
            cores_per_node: 4,
            memory_per_node: 8 << 30,
            nodes_differ: false,
        }
    }

    fn slurm() -> &'static dyn BatchSystem {
        batch::system("slurm").unwrap()
    }

    #[test]
    fn a_profile_within_the_limits_fits() {
        let flags = [("walltime", "6h"), ("cores", "2"), ("workers_per_job", "2"), ("memory", "4GiB")];
        let found = fit(&settings("spice", &flags), slurm(), &[spice()]);
        assert_eq!(found, Fit { queue: Some(spice()), ..Fit::default() });
        let by_default = fit(&settings("spice", &[("queue", "")]), slurm(), &[spice()]);
        assert_eq!(by_default.queue, Some(spice()));
    }

    #[test]
    fn every_limit_is_a_reason_of_its_own_that_names_its_key() {
        for (flags, words) in [
            (&[("walltime", "7h")][..], "`walltime = 7h` is longer than partition `spice` allows (6h)"),
            (&[("cores", "5")], "a job wants 5 cores, more than a node of partition `spice` has (4)"),
            (&[("cores", "2"), ("workers_per_job", "3"), ("memory", "1GiB")], "3 workers of 2 cores"),
            (&[("memory", "9GiB")], "a job wants 9GiB of memory"),
            (&[("queue", "spcie")], "slurm has no partition `spcie`; the nearest is `spice`"),
        ] {
            let found = fit(&settings("spice", flags), slurm(), &[spice()]);
            assert_eq!((found.never.len(), found.doubts.len()), (1, 0), "{found:?}");
            assert!(found.never[0].contains(words), "{:?}", found.never);
        }
        let flags = [("walltime", "7h"), ("cores", "5"), ("memory", "9GiB")];
        assert_eq!(fit(&settings("spice", &flags), slurm(), &[spice()]).never.len(), 3);
    }

    #[test]
    fn what_may_pass_is_only_a_doubt() {
        let shut = QueueInfo { open: false, nodes: 0, ..spice() };
        assert_eq!(fit(&settings("spice", &[]), slurm(), &[shut]).doubts.len(), 2);
        let mixed = QueueInfo { nodes_differ: true, ..spice() };
        let found = fit(&settings("spice", &[("cores", "5")]), slurm(), &[mixed]);
        assert!(found.never.is_empty() && found.doubts[0].contains("the smallest node"), "{found:?}");
    }

    #[test]
    fn what_the_batch_system_does_not_tell_is_no_limit() {
        let silent = QueueInfo { name: "spice".into(), open: true, nodes: 1, ..QueueInfo::default() };
        let flags = [("walltime", "100d"), ("cores", "1000"), ("memory", "100TiB")];
        let found = fit(&settings("spice", &flags), slurm(), std::slice::from_ref(&silent));
        assert!(found.never.is_empty() && found.doubts.is_empty(), "{found:?}");
        let found = fit(&settings("spice", &[("queue", "")]), slurm(), &[silent]);
        assert!(found.never[0].contains("no default partition"), "{found:?}");
        let found = fit(&settings("spice", &[]), slurm(), &[]);
        assert!(found.never[0].ends_with("there are: none)"), "{found:?}");
    }

    #[test]
    fn slots_are_the_local_queues_cores() {
        let queue =
            QueueInfo { name: "local".into(), walltime: None, cores_per_node: 2, nodes: 1, ..spice() };
        let local = batch::system("local").unwrap();
        let found = fit(&settings("local", &[("cores", "3")]), local, &[queue]);
        assert!(found.never[0].contains("queue `local` has (2)"), "{found:?}");
    }
}
