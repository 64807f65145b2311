//! Every key of the configuration, with the kind of its value. The defaults are in `configs/default.toml`; a test
//! holds the two together with the fields of [`super::Settings`].

/// What values a key takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Kind {
    /// A whole number, both ends allowed.
    Integer(u64, u64),
    /// A number from 0 to 1.
    Fraction,
    /// One line without control characters.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// At least this many milliseconds.
    Duration(u64),
    /// Bytes, at least this many.
    Size(u64),
    Ports,
    /// Lines without control characters.
    Texts,
    /// Lines of shell, which may hold further lines.
    Script,
    /// Names and texts.
    Table,
    /// Names and whole numbers.
    Counts,
}

/// One key.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Key {
    /// `section.name`.
    pub path: &'static str,
    pub kind: Kind,
}

/// The batch systems that this program speaks to; the empty word is for none chosen.
pub const SYSTEMS: &[&str] = &["", "local", "slurm"];

/// Sections that a profile's file may have: the others don't depend on the queue.
pub(super) const PROFILE_SECTIONS: &[&str] = &["profile", "scheduler", "worker", "task"];

const COUNT: Kind = Kind::Integer(1, 1_000_000);

/// Where the scheduler runs.
pub const PLACES: &[&str] = &["auto", "job", "here"];

pub(super) const KEYS: &[Key] = &[
    key("cluster.state_dir", Kind::Text),
    key("scheduler.place", Kind::Choice(PLACES)),
    key("scheduler.queue", Kind::Text),
    key("scheduler.walltime", Kind::Duration(0)),
    key("scheduler.cores", COUNT),
    key("scheduler.memory", Kind::Size(0)),
    key("scheduler.account", Kind::Text),
    key("scheduler.extra_directives", Kind::Texts),
    key("scheduler.nice", Kind::Integer(0, 19)),
    key("scheduler.max_cores", Kind::Integer(0, 1_000_000)),
    key("scheduler.interface", Kind::Text),
    key("scheduler.port_range", Kind::Ports),
    key("scheduler.heartbeat", Kind::Duration(100)),
    key("scheduler.poll_interval", Kind::Duration(100)),
    key("scheduler.command_timeout", Kind::Duration(1000)),
    key("scheduler.submits_per_minute", COUNT),
    key("scheduler.max_pending", COUNT),
    key("scheduler.history", Kind::Integer(0, 100_000_000)),
    key("worker.death_timeout", Kind::Duration(1000)),
    key("worker.idle_timeout", Kind::Duration(1000)),
    key("worker.local_directory", Kind::Text),
    key("worker.memory_target", Kind::Fraction),
    key("task.inline_output", Kind::Size(0)),
    key("task.max_output", Kind::Size(0)),
    key("task.kill_grace", Kind::Duration(0)),
    key("task.allowed_failures", Kind::Integer(1, 255)),
    key("limits.max_workers", COUNT),
    key("limits.max_pending", COUNT),
    key("limits.max_submits_per_minute", COUNT),
    key("limits.min_poll_interval", Kind::Duration(100)),
    key("limits.port_range", Kind::Ports),
    key("limits.scheduler_cores", COUNT),
    key("limits.scheduler_memory", Kind::Size(0)),
    key("limits.state_bytes", Kind::Size(1 << 20)),
    key("limits.state_inodes", Kind::Integer(10, 1_000_000_000)),
    key("profile.system", Kind::Choice(SYSTEMS)),
    key("profile.queue", Kind::Text),
    key("profile.account", Kind::Text),
    key("profile.qos", Kind::Text),
    key("profile.cores", COUNT),
    key("profile.memory", Kind::Size(0)),
    key("profile.resources", Kind::Counts),
    key("profile.walltime", Kind::Duration(1000)),
    key("profile.workers_per_job", COUNT),
    key("profile.extra_directives", Kind::Texts),
    key("profile.skip_directives", Kind::Texts),
    key("profile.shebang", Kind::Text),
    key("profile.prologue", Kind::Script),
    key("profile.epilogue", Kind::Script),
    key("profile.log_directory", Kind::Text),
    key("profile.local_directory", Kind::Text),
    key("profile.interface", Kind::Text),
    key("profile.environment", Kind::Table),
    key("profile.slots", Kind::Integer(0, 100_000)),
    key("profile.queue_wait", Kind::Duration(0)),
];

const fn key(path: &'static str, kind: Kind) -> Key {
    Key { path, kind }
}

/// The key of that `section.name`.
pub(super) fn lookup(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.path == path)
}

/// The sections, in order.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<_> = KEYS.iter().filter_map(|k| k.path.split_once('.')).map(|(s, _)| s).collect();
    sections.dedup();
    sections
}

/// The key that looks most like `path`: a right name in a wrong section counts as close, and of equally close ones
/// the profile's is what people mean most.
pub(super) fn nearest(path: &str) -> &'static str {
    let (section, name) = path.split_once('.').unwrap_or(("", path));
    let distance = |key: &Key| {
        let (s, n) = key.path.split_once('.').unwrap_or(("", key.path));
        (edits(name, n) * 2 + edits(section, s).min(3), s != "profile")
    };
    KEYS.iter().min_by_key(|k| distance(k)).map_or("", |k| k.path)
}

/// The word that looks most like `word`.
pub fn nearest_word<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    words.into_iter().min_by_key(|w| edits(word, w))
}

/// Letters to insert, remove or replace (Levenshtein's distance), of the first 64.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_the_one_that_was_meant() {
        for (typed, meant) in [
            ("profile.walltme", "profile.walltime"),
            ("profile.wall_time", "profile.walltime"),
            ("worker.walltime", "profile.walltime"),
            ("workers.death_timout", "worker.death_timeout"),
            ("cluster.heartbeat", "scheduler.heartbeat"),
            ("profile.memry", "profile.memory"),
        ] {
            assert_eq!(nearest(typed), meant, "{typed}");
        }
        assert_eq!(nearest_word("proflie", sections()), Some("profile"));
    }

    #[test]
    fn edits_counts_letters() {
        assert_eq!((edits("", "abc"), edits("abc", "abc"), edits("kitten", "sitting")), (3, 0, 3));
    }
}
