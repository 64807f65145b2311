//! The table of workers: who is there, what each runs and holds, and whom it can fetch from.

use super::fast::{FastMap, FastSet};
use crate::graph::{GraphId, Resources, TaskId};
use crate::protocol::{AllocationId, Registration, WorkerId, WorkerIndex, WorkerStateName};
use crate::scheduler::event::{PeerId, Time};
use std::collections::{BTreeSet, HashMap};

/// Lost and departed workers that stay known, for `status` and for late reports.
const MAX_FORMER: usize = 1000;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Presence {
    Connected {
        peer: PeerId,
        last_heard: Time,
    },
    /// The link is gone. Its commands are in doubt until `settle_at`, a report, or its return.
    Lost {
        settle_at: Time,
        reason: String,
    },
    /// Surely dead, or left: nothing of it runs any more.
    Gone {
        reason: String,
    },
}

pub(super) struct Worker {
    pub registration: Registration,
    pub presence: Presence,
    pub leaving: bool,
    pub assigned: FastSet<TaskId>,
    pub holds: FastSet<TaskId>,
    /// Values that it was told to let go of over this link, and hasn't said to have lost yet: what it says of them is
    /// older than that.
    pub struck: FastSet<TaskId>,
    pub cores_assigned: u32,
    pub memory_assigned: u64,
    pub named_assigned: HashMap<String, u32>,
    pub memory_used: u64,
    pub finished: u64,
    /// Tasks against which its loss was counted: taken back if it returns.
    pub blamed: Vec<TaskId>,
    /// Operations that it was sent.
    knows_ops: FastSet<(GraphId, u32)>,
    /// The last one of them that was asked for.
    last_op: Option<(GraphId, u32)>,
    pub knows_peers: FastSet<WorkerIndex>,
    /// The load that its place in the order of load is by.
    listed: Option<u32>,
    /// Whether its load has changed since.
    has_moved: bool,
}

impl Worker {
    pub fn peer(&self) -> Option<PeerId> {
        match self.presence {
            Presence::Connected { peer, .. } => Some(peer),
            _ => None,
        }
    }

    /// Whether it is there, or may come back.
    pub fn is_expected(&self) -> bool {
        !matches!(self.presence, Presence::Gone { .. })
    }

    pub fn state_name(&self) -> WorkerStateName {
        match self.presence {
            Presence::Connected { .. } if self.leaving => WorkerStateName::Leaving,
            Presence::Connected { .. } => WorkerStateName::Connected,
            Presence::Lost { .. } | Presence::Gone { .. } => WorkerStateName::Lost,
        }
    }

    /// Whether the worker has to be sent this operation, which it knows from now on.
    pub fn learns_op(&mut self, graph: GraphId, op: u32) -> bool {
        if self.last_op == Some((graph, op)) {
            return false;
        }
        self.last_op = Some((graph, op));
        self.knows_ops.insert((graph, op))
    }

    fn forget_ops(&mut self, which: impl Fn(GraphId) -> bool) {
        self.last_op = None;
        self.knows_ops.retain(|(graph, _)| !which(*graph));
    }

    /// Whether it takes tasks.
    pub fn is_open(&self) -> bool {
        self.peer().is_some() && !self.leaving
    }

    fn take_on(&mut self, task: TaskId, resources: &Resources) {
        self.assigned.insert(task);
        self.cores_assigned = self.cores_assigned.wrapping_add(resources.cores);
        self.memory_assigned = self.memory_assigned.wrapping_add(resources.memory);
        for (name, count) in &resources.named {
            let assigned = self.named_assigned.entry(name.clone()).or_default();
            *assigned = assigned.saturating_add(*count);
        }
    }

    /// The task is its own no more. [`Workers::note_load`] is the caller's to call.
    pub fn take_off(&mut self, task: TaskId, resources: &Resources) {
        if !self.assigned.remove(&task) {
            return;
        }
        self.cores_assigned = self.cores_assigned.wrapping_sub(resources.cores);
        self.memory_assigned = self.memory_assigned.wrapping_sub(resources.memory);
        for (name, count) in &resources.named {
            if let Some(assigned) = self.named_assigned.get_mut(name) {
                *assigned = assigned.saturating_sub(*count);
            }
        }
    }

    /// Work per core, in thousandths: what the placement balances.
    fn load(&self) -> u32 {
        let cores = u64::from(self.registration.cores.max(1));
        u32::try_from(u64::from(self.cores_assigned) * 1000 / cores).unwrap_or(u32::MAX)
    }
}

/// While the other tables are in use.
fn worker_mut(list: &mut [Option<Box<Worker>>], index: WorkerIndex) -> Option<&mut Worker> {
    list.get_mut(index.0 as usize)?.as_deref_mut()
}

#[derive(Default)]
pub(super) struct Workers {
    /// By index; those that are forgotten have left a gap.
    list: Vec<Option<Box<Worker>>>,
    /// How many are there, or may come back.
    expected: usize,
    by_id: HashMap<WorkerId, WorkerIndex>,
    by_peer: FastMap<PeerId, WorkerIndex>,
    by_allocation: FastMap<AllocationId, BTreeSet<WorkerIndex>>,
    /// Connected workers that take tasks, the least loaded first, by the loads that they had when last sorted.
    by_load: BTreeSet<(u32, WorkerIndex)>,
    /// Those whose load has changed since.
    moved: Vec<WorkerIndex>,
    former: std::collections::VecDeque<WorkerIndex>,
    /// Who could not fetch from whom, though both are connected here; until one of them connects anew or goes.
    broken_routes: BTreeSet<(WorkerIndex, WorkerIndex)>,
}

impl Workers {
    pub fn get(&self, index: WorkerIndex) -> Option<&Worker> {
        self.list.get(index.0 as usize)?.as_deref()
    }

    pub fn get_mut(&mut self, index: WorkerIndex) -> Option<&mut Worker> {
        worker_mut(&mut self.list, index)
    }

    /// The task is the worker's own, if there is such a worker: it is returned.
    pub fn give(&mut self, index: WorkerIndex, task: TaskId, resources: &Resources) -> Option<&mut Worker> {
        let worker = worker_mut(&mut self.list, index)?;
        worker.take_on(task, resources);
        if !worker.has_moved {
            worker.has_moved = true;
            self.moved.push(index);
        }
        Some(worker)
    }

    pub fn iter(&self) -> impl Iterator<Item = (WorkerIndex, &Worker)> {
        (0..).map(WorkerIndex).zip(&self.list).filter_map(|(index, worker)| Some((index, worker.as_deref()?)))
    }

    pub fn by_peer(&self, peer: PeerId) -> Option<WorkerIndex> {
        self.by_peer.get(&peer).copied()
    }

    pub fn by_id(&self, id: &WorkerId) -> Option<WorkerIndex> {
        self.by_id.get(id).copied()
    }

    pub fn any_alive(&self) -> bool {
        self.expected > 0
    }

    pub fn connected(&self) -> u32 {
        self.by_peer.len() as u32
    }

    pub fn add(&mut self, registration: Registration, presence: Presence) -> WorkerIndex {
        let index = WorkerIndex(self.list.len() as u32);
        self.by_id.insert(registration.id.clone(), index);
        self.by_allocation.entry(registration.allocation).or_default().insert(index);
        let worker = Worker {
            registration,
            presence,
            leaving: false,
            assigned: FastSet::default(),
            holds: FastSet::default(),
            struck: FastSet::default(),
            cores_assigned: 0,
            memory_assigned: 0,
            named_assigned: HashMap::new(),
            memory_used: 0,
            finished: 0,
            blamed: Vec::new(),
            knows_ops: FastSet::default(),
            last_op: None,
            knows_peers: FastSet::default(),
            listed: None,
            has_moved: false,
        };
        self.expected += usize::from(worker.is_expected());
        self.list.push(Some(Box::new(worker)));
        index
    }

    /// A known worker says anew what it is; what it was told over its old link may be lost.
    pub fn set_registration(&mut self, index: WorkerIndex, registration: Registration) {
        let Some(worker) = worker_mut(&mut self.list, index) else { return };
        if let Some(workers) = self.by_allocation.get_mut(&worker.registration.allocation) {
            workers.remove(&index);
        }
        self.by_allocation.entry(registration.allocation).or_default().insert(index);
        worker.registration = registration;
        self.broken_routes.retain(|(from, to)| *from != index && *to != index);
        worker.struck.clear();
        worker.forget_ops(|_| true);
        worker.knows_peers.clear();
        self.list_by_load(index);
    }

    /// Sets the presence, keeping the tables by link and by load true.
    pub fn set_presence(&mut self, index: WorkerIndex, presence: Presence) {
        let Some(worker) = worker_mut(&mut self.list, index) else { return };
        if let Some(peer) = worker.peer() {
            self.by_peer.remove(&peer);
        }
        self.expected -= usize::from(worker.is_expected());
        worker.presence = presence;
        self.expected += usize::from(worker.is_expected());
        if let Some(peer) = worker.peer() {
            self.by_peer.insert(peer, index);
        }
        if matches!(worker.presence, Presence::Gone { .. }) {
            self.former.push_back(index);
            self.broken_routes.retain(|(from, to)| *from != index && *to != index);
        }
        self.list_by_load(index);
        while self.former.len() > MAX_FORMER
            && let Some(old) = self.former.pop_front()
        {
            if let Some(worker) = self.list.get_mut(old.0 as usize).and_then(Option::take) {
                self.by_id.remove(&worker.registration.id);
                let allocation = worker.registration.allocation;
                if let Some(workers) = self.by_allocation.get_mut(&allocation) {
                    workers.remove(&old);
                    if workers.is_empty() {
                        self.by_allocation.remove(&allocation);
                    }
                }
            }
        }
    }

    pub fn set_leaving(&mut self, index: WorkerIndex) {
        let Some(worker) = self.get_mut(index) else { return };
        worker.leaving = true;
        self.list_by_load(index);
    }

    /// Gives the worker its place in the order of load, if it takes tasks.
    fn list_by_load(&mut self, index: WorkerIndex) {
        let Some(worker) = worker_mut(&mut self.list, index) else { return };
        if let Some(load) = worker.listed.take() {
            self.by_load.remove(&(load, index));
        }
        if worker.is_open() {
            worker.listed = Some(worker.load());
            self.by_load.insert((worker.load(), index));
        }
    }

    /// The worker's load may have changed: its place in the order of load is seen to when somebody asks for it.
    pub fn note_load(&mut self, index: WorkerIndex) {
        if let Some(worker) = worker_mut(&mut self.list, index).filter(|worker| !worker.has_moved) {
            worker.has_moved = true;
            self.moved.push(index);
        }
    }

    /// Sorts the workers by their loads of now.
    pub fn sort_by_load(&mut self) {
        while let Some(index) = self.moved.pop() {
            if let Some(worker) = worker_mut(&mut self.list, index) {
                worker.has_moved = false;
                self.list_by_load(index);
            }
        }
    }

    /// Workers that take tasks, the least loaded first since [`Workers::sort_by_load`].
    pub fn by_load(&self) -> impl Iterator<Item = WorkerIndex> {
        self.by_load.iter().map(|(_, index)| *index)
    }

    /// How many take tasks.
    pub fn open_count(&self) -> usize {
        self.by_load.len()
    }

    pub fn unassign(&mut self, index: WorkerIndex, task: TaskId, resources: &Resources) {
        if let Some(worker) = self.get_mut(index) {
            worker.take_off(task, resources);
            self.note_load(index);
        }
    }

    pub fn add_holding(&mut self, index: WorkerIndex, task: TaskId) {
        if let Some(worker) = self.get_mut(index) {
            worker.holds.insert(task);
        }
    }

    pub fn drop_holding(&mut self, index: WorkerIndex, task: TaskId) {
        if let Some(worker) = self.get_mut(index) {
            worker.holds.remove(&task);
        }
    }

    /// Proves that the order of load is true but for those that are known to have moved.
    pub fn check_loads(&self) {
        for (index, worker) in self.iter() {
            let is_true = worker.has_moved || worker.listed.is_none_or(|load| load == worker.load());
            assert!(is_true, "{}: its load has changed unnoticed", worker.registration.id.name);
            assert_eq!(
                worker.has_moved,
                self.moved.contains(&index),
                "{} has moved",
                worker.registration.id.name
            );
        }
    }

    /// That worker could not fetch from this holder.
    pub fn blame_route(&mut self, worker: WorkerIndex, holder: WorkerIndex) {
        let connected = |index| self.get(index).is_some_and(|w| w.peer().is_some());
        if connected(worker) && connected(holder) {
            self.broken_routes.insert((worker, holder));
        }
    }

    /// Whether all workers can fetch from each other, as far as is known.
    pub fn all_routes_work(&self) -> bool {
        self.broken_routes.is_empty()
    }

    pub fn can_fetch(&self, worker: WorkerIndex, holder: WorkerIndex) -> bool {
        !self.broken_routes.contains(&(worker, holder))
    }

    pub fn forget_ops(&mut self, graph: GraphId) {
        for worker in self.list.iter_mut().flatten() {
            worker.forget_ops(|of| of == graph);
        }
    }

    pub fn heard_from(&mut self, index: WorkerIndex, now: Time) {
        if let Some(Presence::Connected { last_heard, .. }) = self.get_mut(index).map(|w| &mut w.presence) {
            *last_heard = now;
        }
    }

    /// Workers of this allocation, those that are gone too.
    pub fn all_of_allocation(&self, allocation: AllocationId) -> Vec<WorkerIndex> {
        self.by_allocation.get(&allocation).into_iter().flatten().copied().collect()
    }

    /// Workers of this allocation, connected or lost.
    pub fn of_allocation(&self, allocation: AllocationId) -> Vec<WorkerIndex> {
        let is_there = |index: &WorkerIndex| {
            self.get(*index).is_some_and(|w| !matches!(w.presence, Presence::Gone { .. }))
        };
        self.all_of_allocation(allocation).into_iter().filter(is_there).collect()
    }

    /// Nobody could be heard for so long.
    pub fn excuse_silence(&mut self, span: std::time::Duration) {
        for worker in self.list.iter_mut().flatten() {
            if let Presence::Connected { last_heard, .. } = &mut worker.presence {
                *last_heard = last_heard.plus(span);
            }
        }
    }
}
