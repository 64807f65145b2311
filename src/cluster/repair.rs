//! Makes a damaged journal usable again: what is sound is kept, and what is lost is told in graphs and tasks.
//!
//! Kept is everything before the damage, and behind it each record that is sound by itself and can follow what was
//! kept: the end of a task that is known, a cancel, a graph whose parts are all there and whose inputs are known. That
//! is safe, because such a record says what became true whatever stood in the hole: a command that is known to have
//! ended isn't started again, and what a user cancelled stays cancelled. A task whose end stood in the hole runs again.
//! The numbers of lost graphs are not given away again: workers may hold values under them.

use super::hold::{Hold, Rest};
use super::launch::{self, Patience};
use super::liveness::Liveness;
use super::up::{UpError, known};
use crate::graph::{GraphId, TaskId};
use crate::journal::{self, Body, JournalError, RECORD_OVERHEAD_BYTES};
use crate::scheduler::core::{CoreConfig, Replay, ReplayError};
use crate::scheduler::event::Time;
use crate::scheduler::image::{Base, Image};
use crate::scheduler::record::{self, Fate, Record, RecordError};
use crate::scheduler::shell::past::{self, PastError};
use crate::state::{Fence, StateDir, StateError};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

/// The least that a record of a new graph takes: so many graphs at most are in a hole of some length.
const LEAST_PART_BYTES: u64 = RECORD_OVERHEAD_BYTES as u64 + 20;

#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    #[error(transparent)]
    Up(#[from] UpError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the journal can't be repaired by this program: {0}")]
    Record(#[from] RecordError),
    #[error("what is left of the journal makes no sense: {0}")]
    Replay(#[from] ReplayError),
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// There is no such cluster, or it was brought down.
    Down,
    /// A living scheduler keeps its journal itself.
    Alive,
    /// Nothing is damaged. With what a crash cut short, which is no damage.
    Sound {
        torn: Option<String>,
    },
    Repaired(Box<Repair>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repair {
    /// What was wrong, with file and place.
    pub damage: String,
    pub kept: Work,
    pub lost: Work,
    /// Where the damaged files are now.
    pub aside: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    pub graphs: u64,
    pub tasks: u64,
}

/// Repairs the journal of a cluster whose scheduler is dead. `waiting` is called before it is watched for half a
/// minute whether it is.
///
/// # Errors
/// The scheduler may live, or files can't be read or written. Then the journal is as it was.
pub async fn repair(state: &StateDir, waiting: fn()) -> Result<Outcome, RepairError> {
    let right = launch::right(state, Patience::silent(waiting)).await.map_err(UpError::from)?;
    match known(state, waiting).await? {
        (_, Liveness::Down { .. }) => Ok(Outcome::Down),
        (_, Liveness::Alive(_)) => Ok(Outcome::Alive),
        (_, Liveness::Unreachable(error)) => Err(UpError::from(error).into()),
        (spec, Liveness::Dead(dead)) => {
            if let Soundness::Sound { torn } = look(state)? {
                return Ok(Outcome::Sound { torn });
            }
            let hold = Hold::take(state, Rest { right, highest: dead.highest }, "repaired")?;
            mend(state, spec.map_or(0, |spec| spec.workers), hold.fence()?)
        }
    }
}

enum Soundness {
    Sound { torn: Option<String> },
    Damaged(String),
}

/// Whether the journal can be replayed.
fn look(state: &StateDir) -> Result<Soundness, RepairError> {
    let mut replay = Replay::new(CoreConfig::default(), Time::default());
    let history = match past::read(state, |record| replay.apply(record)) {
        Ok(history) => history,
        Err(PastError::Journal(error)) => return Err(error.into()),
        Err(PastError::Record { source: source @ RecordError::Unknown { .. }, .. }) => {
            return Err(source.into());
        }
        Err(error @ PastError::Record { .. }) => return Ok(Soundness::Damaged(error.to_string())),
    };
    if let Some(damage) = history.damage {
        return Ok(Soundness::Damaged(damage.to_string()));
    }
    Ok(match replay.into_snapshot() {
        Ok(_) => Soundness::Sound { torn: history.torn.map(|torn| torn.to_string()) },
        Err(error) => Soundness::Damaged(error.to_string()),
    })
}

/// Does it, as the holder of an epoch.
fn mend(state: &StateDir, workers: u32, fence: Fence) -> Result<Outcome, RepairError> {
    let damage = match look(state)? {
        Soundness::Sound { torn } => return Ok(Outcome::Sound { torn }),
        Soundness::Damaged(damage) => damage,
    };
    let (found, next_seq) = Found::read(state)?;
    let (known, least_graph) = (found.known(), found.least_graph());
    let mut snapshot = found.replay(workers)?;
    for record in &mut snapshot {
        if let Record::Base(base) = record {
            base.next_graph = base.next_graph.max(least_graph);
        }
    }
    let mut repair = Repair {
        damage,
        kept: Work::default(),
        lost: Work::default(),
        aside: state.path().join(format!("journal.damaged.{}", fence.epoch())),
    };
    repair.count(&snapshot, &known);
    let bodies = snapshot.into_iter().map(|record| {
        let body = record.encode().map_err(|error| error.to_string())?;
        Ok(Body { kind: record::KIND, version: record::VERSION, body })
    });
    let epoch = fence.epoch();
    let confirm = move || fence.check().map_err(|error| error.to_string());
    let dir = state.journal_dir();
    let (bodies, confirm) = (Box::new(bodies), Box::new(confirm));
    journal::begin_after_damage(&dir, &repair.aside, epoch, next_seq, bodies, confirm)?;
    Ok(Outcome::Repaired(Box::new(repair)))
}

impl Repair {
    fn count(&mut self, kept: &[Record], known: &BTreeMap<GraphId, u64>) {
        let mut tasks_kept: BTreeMap<GraphId, u64> = BTreeMap::new();
        for record in kept {
            let Record::Image(image) = record else { continue };
            *tasks_kept.entry(image.graph).or_default() += image.columns.len() as u64;
        }
        self.kept = Work { graphs: tasks_kept.len() as u64, tasks: tasks_kept.values().sum() };
        for (graph, tasks) in known {
            let kept = tasks_kept.get(graph);
            self.lost.graphs += u64::from(kept.is_none());
            self.lost.tasks += tasks.saturating_sub(kept.copied().unwrap_or(0));
        }
    }
}

/// Every sound record of a damaged journal.
#[derive(Default)]
struct Found {
    images: BTreeMap<GraphId, Vec<Image>>,
    base: Option<Base>,
    later: Vec<Record>,
    lost_bytes: u64,
}

impl Found {
    /// With the number of the next record.
    fn read(state: &StateDir) -> Result<(Found, u64), RepairError> {
        let (mut found, mut newer) = (Found::default(), None);
        let history = journal::salvage(&state.journal_dir(), |record| {
            match Record::decode(record.kind, record.version, record.body) {
                Ok(Record::Image(image)) => found.images.entry(image.graph).or_default().push(*image),
                Ok(Record::Base(base)) => found.base = Some(*base),
                Ok(record) => found.later.push(record),
                Err(RecordError::Malformed(_)) => found.lost_bytes += record.body.len() as u64,
                Err(error @ RecordError::Unknown { .. }) => newer = Some(error),
            }
        })?;
        if let Some(error) = newer {
            return Err(error.into());
        }
        found.lost_bytes += history.lost_bytes;
        Ok((found, history.next_seq))
    }

    /// Graphs that are known of and not forgotten, with as many tasks as they have at least.
    fn known(&self) -> BTreeMap<GraphId, u64> {
        let tasks = |images: &Vec<Image>| images.iter().map(|image| image.columns.len() as u64).sum();
        let mut known: BTreeMap<GraphId, u64> =
            self.images.iter().map(|(graph, images)| (*graph, tasks(images))).collect();
        for record in &self.later {
            match record {
                Record::Part { graph, columns, .. } => {
                    *known.entry(*graph).or_default() += columns.len() as u64
                }
                Record::Forgotten { graph } => drop(known.remove(graph)),
                _ => {}
            }
        }
        let forgotten = self.later.iter().filter_map(|record| match record {
            Record::Forgotten { graph } => Some(*graph),
            _ => None,
        });
        let forgotten: HashSet<GraphId> = forgotten.collect();
        // Of some only the ends of tasks are left.
        for task in self.ended().into_iter().filter(|task| !forgotten.contains(&task.graph)) {
            let tasks = known.entry(task.graph).or_default();
            *tasks = (*tasks).max(u64::from(task.index) + 1);
        }
        known
    }

    /// Tasks whose end is recorded somewhere.
    fn ended(&self) -> HashSet<TaskId> {
        let fates = self.later.iter().filter_map(|record| match record {
            Record::Fates(fates) => Some(fates),
            _ => None,
        });
        let is_end = |fate: &Fate| !matches!(fate, Fate::Retried | Fate::Revoked | Fate::Accepted { .. });
        fates.flatten().filter(|(_, fate)| is_end(fate)).map(|(execution, _)| execution.task).collect()
    }

    /// The lowest number that no graph, lost or not, can have had.
    fn least_graph(&self) -> u32 {
        let parts = self.later.iter().filter_map(|record| match record {
            Record::Part { graph, .. } | Record::Sealed { graph } => Some(graph.0),
            _ => None,
        });
        let named = self.ended();
        let highest = parts.chain(named.iter().map(|task| task.graph.0));
        let highest = highest.chain(self.images.keys().map(|graph| graph.0)).max().unwrap_or(0);
        let hidden = u32::try_from(self.lost_bytes / LEAST_PART_BYTES).unwrap_or(u32::MAX);
        highest.saturating_add(1).saturating_add(hidden).min(u32::MAX - 1)
    }

    /// How things stand by all that can follow from each other.
    fn replay(self, workers: u32) -> Result<Vec<Record>, ReplayError> {
        let mut replay = Replay::new(CoreConfig { workers, ..CoreConfig::default() }, Time::default());
        let had_snapshot = self.base.is_some() || !self.images.is_empty();
        for image in self.images.into_values().filter(|images| is_whole(images)).flatten() {
            let _ = replay.apply_if_sound(Record::Image(Box::new(image)));
        }
        if had_snapshot {
            let base = self.base.unwrap_or(Base { target: workers, ..Base::default() });
            let _ = replay.apply_if_sound(Record::Base(Box::new(base)));
        }
        for record in self.later {
            // What can't follow is of a graph that is lost, or lost a part.
            let _ = replay.apply_if_sound(record);
        }
        replay.into_snapshot()
    }
}

/// Whether these are all images of their graph.
fn is_whole(images: &[Image]) -> bool {
    let mut next = 0;
    for image in images {
        if image.first != next {
            return false;
        }
        next += image.columns.len() as u32;
    }
    images.last().is_some_and(|image| image.last.is_some())
}

#[cfg(test)]
mod tests;
