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
    pub knows_ops: FastSet<(GraphId, u32)>,
    pub knows_peers: FastSet<WorkerIndex>,
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

    /// Work per core, in thousandths: what the placement balances.
    fn load(&self) -> u32 {
        let cores = u64::from(self.registration.cores.max(1));
        u32::try_from(u64::from(self.cores_assigned) * 1000 / cores).unwrap_or(u32::MAX)
    }
}

#[derive(Default)]
pub(super) struct Workers {
    list: FastMap<WorkerIndex, Worker>,
    next: u32,
    by_id: HashMap<WorkerId, WorkerIndex>,
    by_peer: FastMap<PeerId, WorkerIndex>,
    by_allocation: FastMap<AllocationId, BTreeSet<WorkerIndex>>,
    /// Connected workers that take tasks, the least loaded first.
    pub by_load: BTreeSet<(u32, WorkerIndex)>,
    former: std::collections::VecDeque<WorkerIndex>,
    /// Who could not fetch from whom, though both are connected here; until one of them connects anew or goes.
    broken_routes: BTreeSet<(WorkerIndex, WorkerIndex)>,
}

impl Workers {
    pub fn get(&self, index: WorkerIndex) -> Option<&Worker> {
        self.list.get(&index)
    }

    pub fn get_mut(&mut self, index: WorkerIndex) -> Option<&mut Worker> {
        self.list.get_mut(&index)
    }

    pub fn iter(&self) -> impl Iterator<Item = (WorkerIndex, &Worker)> {
        self.list.iter().map(|(index, worker)| (*index, worker))
    }

    pub fn by_peer(&self, peer: PeerId) -> Option<WorkerIndex> {
        self.by_peer.get(&peer).copied()
    }

    pub fn by_id(&self, id: &WorkerId) -> Option<WorkerIndex> {
        self.by_id.get(id).copied()
    }

    pub fn any_alive(&self) -> bool {
        self.list.values().any(Worker::is_expected)
    }

    pub fn connected(&self) -> u32 {
        self.by_peer.len() as u32
    }

    pub fn add(&mut self, registration: Registration, presence: Presence) -> WorkerIndex {
        let index = WorkerIndex(self.next);
        self.next += 1;
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
            knows_peers: FastSet::default(),
        };
        self.list.insert(index, worker);
        index
    }

    /// A known worker says anew what it is; what it was told over its old link may be lost.
    pub fn set_registration(&mut self, index: WorkerIndex, registration: Registration) {
        let Some(worker) = self.list.get_mut(&index) else { return };
        self.by_load.remove(&(worker.load(), index));
        if let Some(workers) = self.by_allocation.get_mut(&worker.registration.allocation) {
            workers.remove(&index);
        }
        self.by_allocation.entry(registration.allocation).or_default().insert(index);
        worker.registration = registration;
        self.broken_routes.retain(|(from, to)| *from != index && *to != index);
        worker.struck.clear();
        worker.knows_ops.clear();
        worker.knows_peers.clear();
        self.reload(index);
    }

    /// Sets the presence, keeping the tables by link and by load true.
    pub fn set_presence(&mut self, index: WorkerIndex, presence: Presence) {
        let Some(worker) = self.list.get_mut(&index) else { return };
        if let Some(peer) = worker.peer() {
            self.by_peer.remove(&peer);
        }
        worker.presence = presence;
        if let Some(peer) = worker.peer() {
            self.by_peer.insert(peer, index);
        }
        if matches!(worker.presence, Presence::Gone { .. }) {
            self.former.push_back(index);
            self.broken_routes.retain(|(from, to)| *from != index && *to != index);
        }
        let load = worker.load();
        self.by_load.remove(&(load, index));
        self.reload(index);
        while self.former.len() > MAX_FORMER
            && let Some(old) = self.former.pop_front()
        {
            if let Some(worker) = self.list.remove(&old) {
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
        let Some(worker) = self.list.get_mut(&index) else { return };
        worker.leaving = true;
        let load = worker.load();
        self.by_load.remove(&(load, index));
    }

    fn reload(&mut self, index: WorkerIndex) {
        let Some(worker) = self.list.get(&index) else { return };
        if worker.peer().is_some() && !worker.leaving {
            self.by_load.insert((worker.load(), index));
        }
    }

    pub fn assign(&mut self, index: WorkerIndex, task: TaskId, resources: &Resources) {
        let Some(worker) = self.list.get_mut(&index) else { return };
        let load = worker.load();
        self.by_load.remove(&(load, index));
        worker.assigned.insert(task);
        worker.cores_assigned = worker.cores_assigned.wrapping_add(resources.cores);
        worker.memory_assigned = worker.memory_assigned.wrapping_add(resources.memory);
        for (name, count) in &resources.named {
            let assigned = worker.named_assigned.entry(name.clone()).or_default();
            *assigned = assigned.saturating_add(*count);
        }
        self.reload(index);
    }

    pub fn unassign(&mut self, index: WorkerIndex, task: TaskId, resources: &Resources) {
        let Some(worker) = self.list.get_mut(&index) else { return };
        let load = worker.load();
        self.by_load.remove(&(load, index));
        if worker.assigned.remove(&task) {
            worker.cores_assigned = worker.cores_assigned.wrapping_sub(resources.cores);
            worker.memory_assigned = worker.memory_assigned.wrapping_sub(resources.memory);
            for (name, count) in &resources.named {
                if let Some(assigned) = worker.named_assigned.get_mut(name) {
                    *assigned = assigned.saturating_sub(*count);
                }
            }
        }
        self.reload(index);
    }

    pub fn add_holding(&mut self, index: WorkerIndex, task: TaskId) {
        if let Some(worker) = self.list.get_mut(&index) {
            worker.holds.insert(task);
        }
    }

    pub fn drop_holding(&mut self, index: WorkerIndex, task: TaskId) {
        if let Some(worker) = self.list.get_mut(&index) {
            worker.holds.remove(&task);
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
        for worker in self.list.values_mut() {
            worker.knows_ops.retain(|(of, _)| *of != graph);
        }
    }

    pub fn heard_from(&mut self, index: WorkerIndex, now: Time) {
        if let Some(Presence::Connected { last_heard, .. }) =
            self.list.get_mut(&index).map(|w| &mut w.presence)
        {
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
            self.list.get(index).is_some_and(|w| !matches!(w.presence, Presence::Gone { .. }))
        };
        self.all_of_allocation(allocation).into_iter().filter(is_there).collect()
    }

    /// Nobody could be heard for so long.
    pub fn excuse_silence(&mut self, span: std::time::Duration) {
        for worker in self.list.values_mut() {
            if let Presence::Connected { last_heard, .. } = &mut worker.presence {
                *last_heard = last_heard.plus(span);
            }
        }
    }
}
