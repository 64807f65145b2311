//! How many allocations to ask for, and which to give up: one pure function.

use crate::protocol::AllocationId;

/// An allocation that is wanted still: not ended, refused or being given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Open {
    pub id: AllocationId,
    pub running: bool,
    /// Tasks on its workers, and values that they hold.
    pub assigned: u32,
    pub held: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub max_pending: u32,
    /// Submits that the rate limit still allows now.
    pub submits_left: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decision {
    pub submit: u32,
    /// Pending ones to cancel.
    pub cancel: Vec<AllocationId>,
    /// Running ones whose workers should leave.
    pub retire: Vec<AllocationId>,
}

/// Allocations that give `target` workers, `per_allocation` in each.
pub fn needed(target: u32, per_allocation: u32) -> u32 {
    target.div_ceil(per_allocation.max(1))
}

/// What to do to come from `open` to `target` workers. What pends goes before what runs, newest first; of the
/// running ones those that do and hold least.
pub fn decide(target: u32, per_allocation: u32, open: &[Open], limits: Limits) -> Decision {
    let needed = needed(target, per_allocation) as usize;
    if open.len() < needed {
        let pending = open.iter().filter(|a| !a.running).count() as u32;
        let room = limits.max_pending.saturating_sub(pending).min(limits.submits_left);
        return Decision { submit: ((needed - open.len()) as u32).min(room), ..Decision::default() };
    }
    let mut surplus = open.len() - needed;
    let mut order: Vec<&Open> = open.iter().collect();
    order.sort_by_key(|a| (a.running, a.assigned, a.held, std::cmp::Reverse(a.id)));
    let mut decision = Decision::default();
    for allocation in order {
        if surplus == 0 {
            break;
        }
        surplus -= 1;
        if allocation.running { &mut decision.retire } else { &mut decision.cancel }.push(allocation.id);
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Limits = Limits { max_pending: 100, submits_left: 30 };

    fn open(id: u32, running: bool, assigned: u32) -> Open {
        Open { id: AllocationId(id), running, assigned, held: 0 }
    }

    #[test]
    fn asks_for_what_is_missing_within_the_limits() {
        let have = [open(1, true, 0), open(2, false, 0)];
        assert_eq!(decide(8, 1, &have, ROOM).submit, 6);
        assert_eq!(decide(8, 4, &have, ROOM), Decision::default());
        assert_eq!(decide(9, 4, &have, ROOM).submit, 1);
        assert_eq!(decide(500, 1, &have, ROOM).submit, 30);
        assert_eq!(decide(500, 1, &have, Limits { max_pending: 4, submits_left: 30 }).submit, 3);
    }

    #[test]
    fn gives_up_pending_ones_first_then_those_that_do_least() {
        let have = [open(1, true, 5), open(2, true, 0), open(3, false, 0), open(4, false, 0)];
        let ids = |ids: &[u32]| ids.iter().map(|id| AllocationId(*id)).collect::<Vec<_>>();
        let three = decide(1, 1, &have, ROOM);
        assert_eq!((three.cancel, three.retire), (ids(&[4, 3]), ids(&[2])));
        assert_eq!(decide(3, 1, &have, ROOM).cancel, ids(&[4]));
        assert_eq!(decide(0, 1, &have, ROOM).retire, ids(&[2, 1]));
    }
}
