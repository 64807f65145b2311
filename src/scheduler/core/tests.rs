//! Stories: events in, exact actions out, `check()`, and nothing else came out.

/// Takes the next action, which must look like this.
macro_rules! comes {
    ($story:expr, $pattern:pat $(if $guard:expr)?) => {
        match $story.next() {
            Some($pattern) $(if $guard)? => {}
            other => panic!("{other:?} came out, not {}; then {:?}", stringify!($pattern $(if $guard)?), $story.out),
        }
    };
}

mod fetches;
mod outputs;
mod restart;
mod retry;
mod snapshot;
mod values;
mod workers;

use super::{Core, CoreConfig};
use crate::graph::{Builder, Columns, CommandSpec, EnvSource, GraphId, Op, OutputSpec, Resources, TaskId};
use crate::protocol::*;
use crate::scheduler::event::{Action, AllocationStatus, Event, JournalSeq, PeerId, SubmitOutcome, Time};
use crate::scheduler::record::{Fate, Record};
use std::collections::VecDeque;

/// A core, its clock, its journal, and what came out and wasn't looked at yet.
struct Story {
    core: Core,
    now: Time,
    out: VecDeque<Action>,
    journal: Vec<Record>,
    calls: u64,
}

const CLIENT: PeerId = PeerId(100);

fn task(graph: u32, index: u32) -> TaskId {
    TaskId { graph: GraphId(graph), index }
}

fn execution(task: TaskId, epoch: u32, attempt: u32) -> Execution {
    Execution { task, epoch: Epoch(epoch), attempt }
}

fn kernel() -> Op {
    Op::Kernel { name: "mix".into(), params: vec![], resources: Resources::default() }
}

fn command(outputs: usize, retries: u32) -> Op {
    Op::Command(Box::new(CommandSpec {
        argv: vec!["act".into()],
        substitute: false,
        cwd: "/".into(),
        env_from: EnvSource::None,
        env: vec![],
        stdin: None,
        outputs: (0..outputs).map(|i| OutputSpec { path: format!("out{i}"), fenced: true }).collect(),
        resources: Resources::default(),
        retries,
        time_limit_ms: 0,
        at_most_once: false,
    }))
}

/// Tasks of one operation each, with what they depend on; those of `wanted` are kept.
fn graph(tasks: &[(Op, &[u32])], wanted: &[u32]) -> Columns {
    let mut builder = Builder::new();
    for (op, deps) in tasks {
        let op = builder.op(op.clone());
        builder.task(op, b"", deps);
    }
    wanted.iter().for_each(|task| builder.want(*task));
    builder.build().unwrap().into_columns()
}

/// The same on top of a task of an earlier graph: dependency `u32::MAX`.
fn graph_upon(outside: TaskId, tasks: &[(Op, &[u32])]) -> Columns {
    let mut builder = Builder::new();
    builder.external(outside);
    for (op, deps) in tasks {
        let op = builder.op(op.clone());
        builder.task(op, b"", deps);
    }
    builder.build().unwrap().into_columns()
}

fn held(execution: Execution) -> Completion {
    Completion { execution, nanos: 1_000_000_000, outcome: Outcome::Held { nbytes: 8 } }
}

fn erred(execution: Execution) -> Completion {
    let error = TaskError { kind: ErrorKind::Exit(1), message: "no".into() };
    Completion { execution, nanos: 1_000_000_000, outcome: Outcome::Erred { error, result: None } }
}

fn output() -> PendingOutput {
    PendingOutput { temporary: "/out.tmp".into(), target: "/out".into() }
}

fn written(execution: Execution) -> Completion {
    let outcome = Outcome::Command { result: Box::default(), outputs: vec![output()] };
    Completion { execution, nanos: 1_000_000_000, outcome }
}

fn registration(name: &str) -> Registration {
    Registration {
        id: WorkerId { name: name.into(), incarnation: 1 },
        allocation: AllocationId(1),
        host: "n1".into(),
        pid: 1,
        addresses: vec![name.into()],
        cores: 1,
        memory: 0,
        named: vec![],
        deadline_unix: 0,
        holds: vec![],
        runs: vec![],
        completions: vec![],
    }
}

impl Story {
    /// A scheduler that wants one worker, whose allocation has started.
    fn new() -> Story {
        Story::with(CoreConfig::default())
    }

    fn with(config: CoreConfig) -> Story {
        let core = Core::new(config, Time(0));
        let mut story = Story { core, now: Time(0), out: VecDeque::new(), journal: vec![], calls: 0 };
        story.ask(Request::Scale { request: RequestId(1), workers: 1 });
        let job = "7".to_owned();
        story
            .tell(Event::Submitted { allocation: AllocationId(1), outcome: SubmitOutcome::Accepted { job } });
        story.skip();
        story
    }

    fn next(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    fn tell(&mut self, event: Event) {
        self.tell_all(vec![event]);
    }

    /// What arrives together is taken in one batch.
    fn tell_all(&mut self, events: Vec<Event>) {
        let mut out = Vec::new();
        for event in events {
            self.core.handle(self.now, event, &mut out);
            self.core.check();
        }
        self.core.settle_down(self.now, &mut out);
        self.core.check();
        for action in out {
            if let Action::Persist { record, .. } = &action {
                self.journal.push(record.clone());
                // No story needs to say that workers' comings and goings are journalled.
                if matches!(record, Record::Registered { .. } | Record::Departed { .. }) {
                    continue;
                }
            }
            self.out.push_back(action);
        }
        self.check_snapshot();
    }

    /// A core made from the snapshot has the same snapshot.
    fn check_snapshot(&self) {
        let snapshot = self.core.snapshot();
        assert_eq!(Core::snapshot_of(snapshot.clone()).unwrap(), snapshot);
        self.restored(snapshot).check();
    }

    fn restored(&self, records: Vec<Record>) -> Core {
        let last = JournalSeq(self.journal.len() as u64);
        let config = CoreConfig { epoch: Epoch(2), ..CoreConfig::default() };
        Core::replay(config, self.now, records, last).unwrap()
    }

    fn ask(&mut self, request: Request) {
        self.calls += 1;
        let message = FromClient { call: self.calls, request };
        self.tell(Event::FromClient { peer: CLIENT, message });
    }

    fn submit(&mut self, request: u128, columns: Columns) {
        self.submit_part(request, 0, true, columns);
    }

    fn submit_part(&mut self, request: u128, part: u32, last: bool, columns: Columns) {
        self.ask(Request::Submit {
            request: RequestId(request),
            part,
            last,
            columns: Box::new(columns),
            options: GraphOptions::default(),
        });
    }

    fn submit_with(&mut self, request: u128, columns: Columns, options: GraphOptions) {
        let (request, columns) = (RequestId(request), Box::new(columns));
        self.ask(Request::Submit { request, part: 0, last: true, columns, options });
    }

    fn worker_says(&mut self, peer: u64, message: FromWorker) {
        self.tell(Event::FromWorker { peer: PeerId(peer), message });
    }

    fn register(&mut self, peer: u64, registration: Registration) {
        self.worker_says(peer, FromWorker::Register(Box::new(registration)));
        // That a new one is there is journalled; no story needs to say so.
        let noted =
            |action: &Action| matches!(action, Action::Persist { record: Record::Registered { .. }, .. });
        self.out.retain(|action| !noted(action));
    }

    fn finish(&mut self, peer: u64, completion: Completion) {
        self.worker_says(peer, FromWorker::Finished(vec![completion]));
    }

    fn lose(&mut self, peer: u64) {
        self.tell(Event::PeerLost { peer: PeerId(peer), reason: "broken".into() });
    }

    /// Everything so far is on disk.
    fn sync(&mut self) {
        self.tell(Event::Durable(JournalSeq(self.journal.len() as u64)));
    }

    fn wait_secs(&mut self, seconds: u64) {
        self.now = Time(self.now.0 + seconds * 1_000_000_000);
        self.tell(Event::Tick);
    }

    /// The scheduler dies, and another one starts from what it wrote.
    fn restart(&mut self) {
        self.core = self.restored(self.journal.clone());
        self.core.check();
        self.out.clear();
    }

    fn skip(&mut self) {
        self.out.clear();
    }

    /// Takes what came out up to the first action of that kind, which must be there.
    fn skip_until(&mut self, is_it: impl Fn(&Action) -> bool) {
        let at = self.out.iter().position(is_it);
        let at = at.unwrap_or_else(|| panic!("it is not in {:?}", self.out));
        self.out.drain(..=at);
    }

    fn quiet(&self) {
        assert!(self.out.is_empty(), "nothing else was to come out: {:?}", self.out);
    }

    /// The link of the worker that the task is assigned to.
    fn worker_of(&self, task: TaskId) -> Option<u64> {
        self.core.assigned_peer(task).map(|peer| peer.0)
    }

    fn state(&self, task: TaskId) -> &'static str {
        self.core.state_name(task).unwrap_or("unknown")
    }
}

#[test]
fn a_kernel_goes_from_its_submission_to_its_result() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    comes!(s, Action::ToWorker { message: ToWorker::Welcome { epoch: Epoch(1), .. }, after: None, .. });
    s.submit(9, graph(&[(kernel(), &[])], &[0]));
    comes!(s, Action::Persist { seq: JournalSeq(4), record: Record::Part { graph: GraphId(1), .. } });
    comes!(
        s,
        Action::ToClient {
            message: ToClient { reply: Reply::Submitted { .. }, .. },
            after: Some(JournalSeq(4)),
            ..
        }
    );
    comes!(s, Action::ToWorker { message: ToWorker::Ops { .. }, after: None, .. });
    // Not before the graph is durable: after a restart its number may go to another.
    comes!(s, Action::ToWorker { message: ToWorker::Compute(_), after: Some(JournalSeq(4)), .. });
    s.sync();
    s.finish(1, held(execution(task(1, 0), 1, 1)));
    comes!(s, Action::Persist { seq: JournalSeq(5), record: Record::Fates(fates) } if matches!(fates[0].1, Fate::Held { .. }));
    comes!(s, Action::ToWorker { message: ToWorker::Acknowledge { .. }, after: Some(JournalSeq(5)), .. });
    s.sync();
    s.quiet();
}

#[test]
fn kernels_of_a_durable_part_wait_for_nothing() {
    let mut s = Story::new();
    s.submit_part(9, 0, false, graph(&[(kernel(), &[])], &[0]));
    s.sync();
    s.skip();
    s.register(1, registration("w"));
    comes!(s, Action::ToWorker { message: ToWorker::Welcome { .. }, .. });
    comes!(s, Action::ToWorker { message: ToWorker::Ops { .. }, .. });
    comes!(s, Action::ToWorker { message: ToWorker::Compute(_), after: None, .. });
    s.quiet();
}

#[test]
fn a_command_leaves_once_it_is_durable_that_its_worker_may_run_it() {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.skip();
    s.submit(9, graph(&[(command(0, 0), &[])], &[]));
    comes!(s, Action::Persist { record: Record::Part { .. }, .. });
    comes!(s, Action::ToClient { .. });
    comes!(s, Action::ToWorker { message: ToWorker::Ops { .. }, .. });
    comes!(s, Action::Persist { seq: JournalSeq(5), record: Record::Assigned { .. } });
    comes!(s, Action::ToWorker { message: ToWorker::Compute(_), after: Some(JournalSeq(5)), .. });
    s.quiet();
}

#[test]
fn a_literal_that_claims_dependencies_harms_nobody() {
    let mut s = Story::new();
    s.submit(9, graph(&[(kernel(), &[]), (Op::Data, &[0])], &[]));
    assert_eq!(s.state(task(1, 1)), "stored");
}

#[test]
fn a_graph_that_later_commands_come_after_is_not_forgotten() {
    let mut s = Story::with(CoreConfig { keep_settled: 0, ..CoreConfig::default() });
    s.submit(8, graph(&[(Op::Data, &[])], &[]));
    s.submit(9, graph_upon(task(1, 0), &[(command(0, 0), &[u32::MAX])]));
    s.submit(10, graph(&[(Op::Data, &[])], &[]));
    s.submit(11, graph(&[(Op::Data, &[])], &[]));
    assert!(!s.journal.contains(&Record::Forgotten { graph: GraphId(1) }));
    assert!(s.journal.contains(&Record::Forgotten { graph: GraphId(3) }));
}

#[test]
fn a_submit_that_comes_again_when_its_graph_is_forgotten_makes_no_second_one() {
    let mut s = Story::with(CoreConfig { keep_settled: 0, ..CoreConfig::default() });
    s.submit(8, graph(&[(Op::Data, &[])], &[]));
    s.submit(9, graph(&[(Op::Data, &[])], &[]));
    assert!(s.journal.contains(&Record::Forgotten { graph: GraphId(1) }));
    let again = |s: &mut Story| {
        s.skip();
        s.submit(8, graph(&[(Op::Data, &[])], &[]));
        comes!(
            s,
            Action::ToClient {
                message: ToClient { reply: Reply::Submitted { graph: GraphId(1), first: 0, tasks: 1 }, .. },
                ..
            }
        );
    };
    again(&mut s);
    s.restart();
    again(&mut s);
    s.core = s.restored(s.core.snapshot());
    again(&mut s);
}

#[test]
fn a_stream_that_goes_on_over_another_link_is_not_given_up() {
    let mut s = Story::new();
    s.submit_part(9, 0, false, graph(&[(kernel(), &[])], &[]));
    s.lose(CLIENT.0);
    s.submit_part(9, 0, false, graph(&[(kernel(), &[])], &[]));
    s.wait_secs(100);
    assert!(!s.journal.contains(&Record::Sealed { graph: GraphId(1) }));
    s.lose(CLIENT.0);
    s.wait_secs(100);
    assert!(s.journal.contains(&Record::Sealed { graph: GraphId(1) }));
}

#[test]
fn a_stream_that_comes_back_and_is_refused_is_given_up() {
    let mut s = Story::new();
    s.submit_part(9, 0, false, graph(&[(kernel(), &[])], &[]));
    s.lose(CLIENT.0);
    s.submit_part(9, 1, true, graph_upon(task(7, 0), &[(kernel(), &[u32::MAX])]));
    s.wait_secs(100);
    assert!(s.journal.contains(&Record::Sealed { graph: GraphId(1) }));
}

#[test]
fn the_end_of_a_cluster_leaves_no_deadline_in_the_past() {
    let mut s = Story::new();
    s.ask(Request::Scale { request: RequestId(2), workers: 2 });
    let outcome = SubmitOutcome::Ambiguous { words: "busy".into() };
    s.tell(Event::Submitted { allocation: AllocationId(2), outcome });
    s.register(1, registration("w"));
    s.ask(Request::Down { drain_ms: 0 });
    s.wait_secs(3);
    assert!(s.core.deadline().is_some_and(|deadline| deadline > s.now));
}

#[test]
fn an_empty_graph_has_no_results_but_is_known() {
    let mut s = Story::new();
    s.submit(9, graph(&[], &[]));
    s.skip();
    s.ask(Request::Results(vec![crate::graph::Key::Graph(GraphId(1))]));
    comes!(s, Action::ToClient { message: ToClient { reply: Reply::Results(found), .. }, .. } if found.is_empty());
    s.quiet();
}
