//! Snapshots: that they tell the same core is checked after every step of every story; here is what comes after them.

use super::*;
use crate::scheduler::image::{Base, Image};

impl Story {
    /// The scheduler dies, and another one starts from a snapshot of it and what came later.
    fn restart_from(&mut self, snapshot: Vec<Record>, later: usize) {
        let records = snapshot.into_iter().chain(self.journal[later..].iter().cloned()).collect();
        self.core = self.restored(records);
        self.core.check();
        self.out.clear();
    }
}

#[test]
fn what_is_recorded_after_a_snapshot_goes_on_from_it() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[0]), (kernel(), &[1])], &[2]));
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    let (snapshot, later) = (s.core.snapshot(), s.journal.len());
    s.finish(1, held(execution(task(1, 1), 1, 1)));
    s.submit(10, graph_upon(task(1, 2), &[(command(0, 0), &[u32::MAX])]));
    s.restart_from(snapshot, later);
    assert_eq!((s.state(task(1, 2)), s.state(task(2, 0))), ("waiting", "waiting"));
    let graphs = |core: &Core| {
        let mut snapshot = core.snapshot();
        snapshot.retain(|record| matches!(record, Record::Image(_)));
        snapshot
    };
    assert_eq!(graphs(&s.core), graphs(&s.restored(s.journal.clone())), "as from every record");
    // A repeat of the first part gets its first answer.
    s.skip();
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[0]), (kernel(), &[1])], &[2]));
    comes!(
        s,
        Action::ToClient {
            message: ToClient { reply: Reply::Submitted { graph: GraphId(1), tasks: 3, .. }, .. },
            ..
        }
    );
    comes!(s, Action::Poll);
    s.quiet();
}

#[test]
fn a_stream_goes_on_after_a_snapshot() {
    let mut s = Story::new();
    s.submit_part(9, 0, false, graph(&[(kernel(), &[])], &[]));
    let (snapshot, later) = (s.core.snapshot(), s.journal.len());
    s.restart_from(snapshot, later);
    let mut more = graph(&[(kernel(), &[]), (kernel(), &[0])], &[]);
    more.deps = vec![1];
    s.submit_part(9, 1, true, more);
    comes!(s, Action::Persist { record: Record::Part { graph: GraphId(1), part: 1, .. }, .. });
    assert_eq!((s.state(task(1, 2)), s.state(task(1, 1))), ("waiting", "ready"));
}

#[test]
fn a_kernel_that_ran_at_the_snapshot_is_adopted() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(kernel(), &[])], &[0]));
    let snapshot = s.core.snapshot();
    s.restart_from(snapshot, s.journal.len());
    let running = execution(task(1, 0), 1, 1);
    s.register(1, Registration { runs: vec![running], ..registration("w") });
    assert_eq!(s.core.current_execution(task(1, 0)), Some(running));
}

#[test]
fn what_is_forgotten_leaves_nothing_behind() {
    let mut s = Story::with(CoreConfig { keep_settled: 3, ..CoreConfig::default() });
    s.register(1, registration("w"));
    s.submit(8, graph(&[(Op::Data, &[])], &[0]));
    let mut sizes = Vec::new();
    for n in 0..40 {
        s.submit(100 + n, graph_upon(task(1, 0), &[(kernel(), &[u32::MAX])]));
        s.finish(1, held(execution(task(2 + n as u32, 0), 1, 1)));
        s.sync();
        sizes.push(s.core.snapshot().len());
    }
    assert_eq!(sizes[10..].iter().max(), sizes[10..].iter().min());
    assert!((1..=4).contains(&s.core.dependents(task(1, 0)).len()), "{:?}", s.core.dependents(task(1, 0)));
}

#[test]
fn images_that_contradict_themselves_are_refused() {
    let mut s = Story::new();
    s.submit(9, graph(&[(kernel(), &[]), (kernel(), &[0])], &[1]));
    let Some(Record::Image(image)) = s.core.snapshot().into_iter().next() else { panic!("no image") };
    let refusal = |change: &dyn Fn(&mut Image)| {
        let mut image = image.clone();
        change(&mut image);
        let records = vec![Record::Image(image), Record::Base(Box::<Base>::default())];
        Core::replay(CoreConfig::default(), Time(0), records, JournalSeq(9))
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    for (change, says) in [
        (&(|i: &mut Image| i.first = 1) as &dyn Fn(&mut Image), "it begins at task 1, after 0"),
        (&|i| i.standing[0] = 9, "task 0 can't stand as 9"),
        (&|i| i.standing[0] = 4, "task 0 can't stand as 4"),
        (&|i| i.standing[0] = 1, "task 0 can't stand as 1"),
        (&|i| i.attempts.truncate(1), "disagree in length"),
        (&|i| i.used.push((7, 1, 1, 1)), "it has no task 7"),
        (&|i| i.columns.deps[0] = 7, "depends on 7"),
        (&|i| i.graph = GraphId(u32::MAX), "no graph has this number"),
    ] {
        let refused = refusal(change);
        assert!(refused.contains(says) && refused.contains("the image of g"), "{refused}");
    }
}
