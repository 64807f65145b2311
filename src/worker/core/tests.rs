//! Stories: events in, exact actions out, `check()`, and nothing else came out.

use super::{Action, Core, Event, Nanos, WorkerConfig};
use crate::graph::{CommandSpec, EnvSource, GraphId, Op, Resources, TaskId};
use crate::protocol::*;
use std::collections::VecDeque;
use std::time::Duration;

/// Takes the next action, which must look like this.
macro_rules! comes {
    ($story:expr, $pattern:pat $(if $guard:expr)?) => {
        match $story.out.pop_front() {
            Some($pattern) $(if $guard)? => {}
            other => panic!("{other:?} came out, not {}; then {:?}", stringify!($pattern $(if $guard)?), $story.out),
        }
    };
}

struct Story {
    core: Core,
    now: Nanos,
    out: VecDeque<Action>,
}

const SECOND: Nanos = 1_000_000_000;

fn task(index: u32) -> TaskId {
    TaskId { graph: GraphId(1), index }
}

fn execution(index: u32, attempt: u32) -> Execution {
    Execution { task: task(index), epoch: Epoch(1), attempt }
}

fn assignment(execution: Execution, inputs: Vec<(TaskId, Source)>) -> Assignment {
    let priority = u64::from(execution.task.index);
    Assignment { execution, op: 0, args: Default::default(), name: None, inputs, priority }
}

fn ended(execution: Execution) -> Event {
    Event::Ended { execution, nanos: 5, outcome: Outcome::Held { nbytes: 8 } }
}

fn config() -> WorkerConfig {
    let registration = Registration {
        id: WorkerId { name: "w".into(), incarnation: 1 },
        allocation: AllocationId(1),
        host: "n1".into(),
        pid: 1,
        addresses: vec![],
        cores: 2,
        memory: 0,
        named: vec![],
        deadline_unix: 0,
        holds: vec![],
        runs: vec![],
        completions: vec![],
    };
    WorkerConfig {
        registration,
        death_timeout: Duration::from_secs(120),
        idle_timeout: Duration::from_secs(1800),
    }
}

impl Story {
    /// A worker of two cores that its scheduler has welcomed.
    fn new() -> Story {
        let mut story = Story { core: Core::new(config(), 0), now: 0, out: VecDeque::new() };
        story.tell(Event::Connected);
        comes!(story, Action::Send(FromWorker::Register(_)));
        story.hear(ToWorker::Welcome { epoch: Epoch(1), index: WorkerIndex(0), heartbeat_ms: 10_000 });
        let op = Op::Kernel { name: "mix".into(), params: vec![], resources: Resources::default() };
        story.hear(ToWorker::Ops { graph: GraphId(1), ops: vec![(0, op)] });
        story.quiet();
        story
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
        self.out.extend(out);
    }

    fn hear(&mut self, message: ToWorker) {
        self.tell(Event::FromScheduler(message));
    }

    fn at(&mut self, seconds: u64) {
        self.now = seconds * SECOND;
        self.tell(Event::Tick);
    }

    fn run(&mut self, execution: Execution) {
        self.hear(ToWorker::Compute(vec![assignment(execution, vec![])]));
        comes!(self, Action::Run { .. });
        self.quiet();
    }

    fn quiet(&self) {
        assert!(self.out.is_empty(), "nothing else was to come out: {:?}", self.out);
    }
}

#[test]
fn a_task_runs_is_reported_and_its_value_is_held_until_it_is_freed() {
    let mut s = Story::new();
    s.run(execution(0, 1));
    s.tell(ended(execution(0, 1)));
    comes!(s, Action::Send(FromWorker::Finished(done)) if done[0].outcome == Outcome::Held { nbytes: 8 });
    s.hear(ToWorker::Acknowledge { executions: vec![execution(0, 1)] });
    s.quiet();
    s.hear(ToWorker::Free(vec![task(0)]));
    comes!(s, Action::Free(freed) if freed == task(0));
    s.quiet();
}

#[test]
fn a_completion_is_repeated_over_every_new_link_until_it_is_acknowledged() {
    let mut s = Story::new();
    s.run(execution(0, 1));
    s.tell(Event::Disconnected);
    s.tell(ended(execution(0, 1)));
    s.quiet();
    s.tell(Event::Connected);
    comes!(s, Action::Send(FromWorker::Register(r)) if r.completions.len() == 1 && r.holds.len() == 1 && r.runs.is_empty());
    s.quiet();
}

#[test]
fn an_input_that_nobody_gives_sends_the_task_back() {
    let mut s = Story::new();
    s.hear(ToWorker::Peers(vec![(WorkerIndex(1), vec!["other".into()])]));
    let inputs = vec![(task(7), Source::Peers([WorkerIndex(1)].into_iter().collect()))];
    s.hear(ToWorker::Compute(vec![assignment(execution(0, 1), inputs)]));
    comes!(s, Action::Fetch { task: input, .. } if input == task(7));
    let missing = MissingInput { unreachable: vec![WorkerIndex(1)], ..MissingInput::new(task(7)) };
    s.tell(Event::FetchFailed(missing.clone()));
    comes!(s, Action::Send(FromWorker::Finished(done)) if done[0].outcome == Outcome::InputsMissing(vec![missing]));
    s.quiet();
}

#[test]
fn a_value_made_twice_in_one_batch_stays() {
    let mut s = Story::new();
    s.run(execution(0, 1));
    s.run(execution(0, 2));
    s.hear(ToWorker::Cancel(vec![execution(0, 1)]));
    comes!(s, Action::Kill(killed) if killed == execution(0, 1));
    // The cancelled one ends first: freeing its value would take the other's from the store.
    s.tell_all(vec![ended(execution(0, 1)), ended(execution(0, 2))]);
    comes!(s, Action::Send(FromWorker::Finished(done)) if done[0].execution == execution(0, 2));
    s.quiet();
}

#[test]
fn a_value_that_cannot_be_read_back_is_told() {
    let mut s = Story::new();
    s.run(execution(0, 1));
    s.tell(ended(execution(0, 1)));
    s.out.clear();
    s.tell(Event::ValueLost { task: task(0) });
    comes!(s, Action::Send(FromWorker::ValuesLost(lost)) if lost == [task(0)]);
    s.tell(Event::ValueLost { task: task(1) });
    s.quiet();
}

fn command(at_most_once: bool) -> Op {
    Op::Command(Box::new(CommandSpec {
        argv: vec!["true".into()],
        substitute: false,
        cwd: "/".into(),
        env_from: EnvSource::None,
        env: vec![],
        stdin: None,
        outputs: vec![],
        resources: Resources::default(),
        retries: 0,
        time_limit_ms: 0,
        at_most_once,
    }))
}

fn finished(execution: Execution) -> Event {
    let outcome = Outcome::Command { result: Box::default(), outputs: vec![] };
    Event::Ended { execution, nanos: 5, outcome }
}

impl Story {
    fn run_command(&mut self, execution: Execution, at_most_once: bool) {
        let op = 1 + u32::from(at_most_once);
        self.hear(ToWorker::Ops { graph: GraphId(1), ops: vec![(op, command(at_most_once))] });
        self.hear(ToWorker::Compute(vec![Assignment { op, ..assignment(execution, vec![]) }]));
        comes!(self, Action::Run { .. });
        self.quiet();
    }
}

#[test]
fn a_value_lost_before_its_completion_was_acknowledged_is_told_to_the_next_scheduler() {
    let mut s = Story::new();
    s.run(execution(0, 1));
    s.tell(ended(execution(0, 1)));
    s.tell(Event::ValueLost { task: task(0) });
    s.tell(Event::Disconnected);
    s.out.clear();
    s.tell(Event::Connected);
    comes!(s, Action::Send(FromWorker::Register(r)) if r.completions.len() == 1 && r.holds.is_empty());
    s.hear(ToWorker::Welcome { epoch: Epoch(2), index: WorkerIndex(0), heartbeat_ms: 10_000 });
    comes!(s, Action::Send(FromWorker::ValuesLost(lost)) if lost == [task(0)]);
    s.quiet();
}

#[test]
fn a_late_answer_proves_nothing_beyond_the_heartbeat_that_it_answers() {
    let mut s = Story::new();
    s.run_command(execution(0, 1), false);
    s.run(execution(1, 1));
    for seconds in [10, 20] {
        s.at(seconds);
        comes!(s, Action::Heartbeat { .. });
    }
    // The answer to the heartbeat of 10 s was 80 s on its way.
    s.now = 90 * SECOND;
    s.hear(ToWorker::HeartbeatAnswer);
    s.out.clear();
    s.tell(Event::Disconnected);
    s.at(129);
    s.quiet();
    s.at(130);
    // The kernel may run twice: it goes on.
    comes!(s, Action::Kill(killed) if killed == execution(0, 1));
    s.quiet();
    let outcome = Outcome::Cancelled;
    s.tell(Event::Ended { execution: execution(0, 1), nanos: 5, outcome });
    s.tell(ended(execution(1, 1)));
    s.at(131);
    s.quiet();
    s.tell(Event::Connected);
    comes!(s, Action::Send(FromWorker::Register(r)) if r.completions.len() == 2
        && r.completions[0].outcome == Outcome::Stopped && r.runs.is_empty());
    s.quiet();
}

#[test]
fn proof_that_nobody_can_give_its_commands_away_keeps_them_running() {
    let mut s = Story::new();
    s.run_command(execution(0, 1), false);
    s.run_command(execution(1, 1), true);
    s.tell(Event::Disconnected);
    for seconds in [30, 140, 250, 1000] {
        s.now = seconds * SECOND;
        s.tell(Event::NotGivenUp { at: (seconds - 1) * SECOND });
        s.quiet();
    }
    // An older look says no more.
    s.tell(Event::NotGivenUp { at: 5 });
    s.at(1118);
    s.quiet();
    s.at(1119);
    comes!(s, Action::Kill(_));
    comes!(s, Action::Kill(_));
    s.quiet();
    // The first was faster; the other must not run again.
    s.tell(finished(execution(0, 1)));
    s.tell(Event::Ended { execution: execution(1, 1), nanos: 5, outcome: Outcome::Cancelled });
    s.tell(Event::Connected);
    comes!(s, Action::Send(FromWorker::Register(r))
        if matches!(r.completions[0].outcome, Outcome::Command { .. })
        && matches!(&r.completions[1].outcome, Outcome::Erred { error, .. } if error.kind == ErrorKind::OutcomeUnknown));
    s.quiet();
}

#[test]
fn without_a_scheduler_an_idle_worker_leaves_and_one_with_values_stays() {
    let mut s = Story::new();
    s.run(execution(0, 1));
    s.tell(ended(execution(0, 1)));
    comes!(s, Action::Send(FromWorker::Finished(_)));
    s.run_command(execution(1, 1), false);
    s.tell(Event::Disconnected);
    s.tell(Event::NotGivenUp { at: 10 * SECOND });
    s.now = 60 * SECOND;
    s.tell(finished(execution(1, 1)));
    s.at(10_000);
    s.quiet();
    // A value that others have as well keeps nobody.
    s.hear(ToWorker::Free(vec![task(0)]));
    comes!(s, Action::Free(_));
    comes!(s, Action::LeaveBehind(left) if left.len() == 1 && left[0].execution == execution(1, 1));
    comes!(s, Action::Exit { .. });
    s.quiet();
}

#[test]
fn a_worker_of_a_cluster_that_was_brought_down_leaves_whatever_it_has() {
    let mut s = Story::new();
    s.run(execution(0, 1));
    s.tell(ended(execution(0, 1)));
    comes!(s, Action::Send(FromWorker::Finished(_)));
    s.run_command(execution(1, 1), false);
    s.tell(Event::Disconnected);
    s.now = 10 * SECOND;
    s.tell(Event::BroughtDown);
    // That nobody was given its tasks keeps it no longer, nor that it is told again.
    s.now = 100 * SECOND;
    s.tell(Event::NotGivenUp { at: 99 * SECOND });
    s.tell(Event::BroughtDown);
    s.at(129);
    s.quiet();
    s.at(130);
    comes!(s, Action::Kill(killed) if killed == execution(1, 1));
    s.out.retain(|action| !matches!(action, Action::Kill(_)));
    comes!(s, Action::Exit { .. });
    s.quiet();
}

#[test]
fn a_worker_that_no_scheduler_ever_welcomes_leaves_soon() {
    let mut core = Core::new(config(), 0);
    let mut out = Vec::new();
    core.settle_down(119 * SECOND, &mut out);
    assert_eq!((out.len(), core.deadline()), (0, Some(120 * SECOND)));
    core.settle_down(120 * SECOND, &mut out);
    assert!(matches!(&out[..], [Action::Exit { reason }] if reason.contains("120 s")), "{out:?}");
}

#[test]
fn a_leaving_worker_hands_back_what_has_not_started_and_ends_after_the_rest() {
    let mut s = Story::new();
    s.run(execution(0, 1));
    s.hear(ToWorker::Leave { reason: "scaled down".into(), now: false });
    s.hear(ToWorker::Compute(vec![assignment(execution(1, 1), vec![])]));
    comes!(s, Action::Send(FromWorker::Finished(done)) if done[0].outcome == Outcome::Cancelled);
    s.tell(ended(execution(0, 1)));
    comes!(s, Action::Send(FromWorker::Finished(_)));
    s.quiet();
    s.hear(ToWorker::Acknowledge { executions: vec![execution(0, 1), execution(1, 1)] });
    comes!(s, Action::Send(FromWorker::Goodbye { .. }));
    comes!(s, Action::Exit { .. });
    s.quiet();
}

#[test]
fn a_value_that_is_to_be_held_too_is_fetched_once_and_told_of() {
    let mut s = Story::new();
    s.hear(ToWorker::Peers(vec![(WorkerIndex(1), vec!["w1".into()])]));
    let replicate = || ToWorker::Replicate(vec![(task(7), vec![WorkerIndex(1)])]);
    s.hear(replicate());
    comes!(s, Action::Fetch { task: of, from } if of == task(7) && from[0].addresses == ["w1"]);
    s.hear(replicate());
    // A task that needs it waits for the same fetch.
    let input = (task(7), Source::Peers([WorkerIndex(1)].into_iter().collect()));
    s.hear(ToWorker::Compute(vec![assignment(execution(0, 1), vec![input])]));
    s.quiet();
    s.tell(Event::Fetched { task: task(7), nbytes: 8 });
    comes!(s, Action::Run { .. });
    comes!(s, Action::Send(FromWorker::Replicas(told)) if told[0].task == task(7));
    s.hear(replicate());
    comes!(s, Action::Send(FromWorker::Replicas(told)) if told[0].task == task(7));
    s.quiet();
}

#[test]
fn a_value_that_can_not_be_fetched_to_be_held_is_told_of() {
    let mut s = Story::new();
    s.hear(ToWorker::Replicate(vec![(task(7), vec![WorkerIndex(5)])]));
    comes!(s, Action::Send(FromWorker::ValuesLost(lost)) if lost == [task(7)]);
    s.hear(ToWorker::Peers(vec![(WorkerIndex(1), vec!["w1".into()])]));
    s.hear(ToWorker::Replicate(vec![(task(7), vec![WorkerIndex(1)])]));
    comes!(s, Action::Fetch { .. });
    s.tell(Event::FetchFailed(MissingInput::new(task(7))));
    comes!(s, Action::Send(FromWorker::ValuesLost(lost)) if lost == [task(7)]);
    s.quiet();
}

#[test]
fn a_value_that_is_to_go_is_told_of_as_lost_after_all_that_was_told_of_it() {
    let mut s = Story::new();
    s.hear(ToWorker::Peers(vec![(WorkerIndex(1), vec!["w1".into()])]));
    s.hear(ToWorker::Replicate(vec![(task(7), vec![WorkerIndex(1)])]));
    comes!(s, Action::Fetch { .. });
    // All in one round: it comes, is to go, and is to come again.
    let again = ToWorker::Replicate(vec![(task(7), vec![WorkerIndex(1)])]);
    let strike = ToWorker::Strike(vec![task(7), task(8)]);
    s.tell_all(vec![
        Event::Fetched { task: task(7), nbytes: 8 },
        Event::FromScheduler(strike),
        Event::FromScheduler(again),
    ]);
    comes!(s, Action::Send(FromWorker::Replicas(told)) if told[0].task == task(7));
    comes!(s, Action::Free(of) if of == task(7));
    comes!(s, Action::Send(FromWorker::ValuesLost(lost)) if lost == [task(7), task(8)]);
    comes!(s, Action::Fetch { task: of, .. } if of == task(7));
    s.quiet();
}

#[test]
fn a_value_that_comes_and_is_lost_in_one_round_is_lost() {
    let mut s = Story::new();
    s.hear(ToWorker::Peers(vec![(WorkerIndex(1), vec!["w1".into()])]));
    s.hear(ToWorker::Replicate(vec![(task(7), vec![WorkerIndex(1)])]));
    comes!(s, Action::Fetch { .. });
    s.tell_all(vec![Event::Fetched { task: task(7), nbytes: 8 }, Event::ValueLost { task: task(7) }]);
    comes!(s, Action::Send(FromWorker::Replicas(_)));
    comes!(s, Action::Send(FromWorker::ValuesLost(lost)) if lost == [task(7)]);
    s.quiet();
}

/// The indexes of the tasks that are to run now.
fn started(story: &mut Story) -> Vec<u32> {
    let mut indexes = Vec::new();
    story.out.retain(|action| match action {
        Action::Run { execution, .. } => {
            indexes.push(execution.task.index);
            false
        }
        _ => true,
    });
    indexes
}

fn took(index: u32, nanos: Nanos) -> Event {
    Event::Ended { execution: execution(index, 1), nanos, outcome: Outcome::Held { nbytes: 8 } }
}

#[test]
fn short_kernels_are_started_ahead_and_long_ones_wait_for_a_core() {
    let mut s = Story::new();
    let all = (0..400).map(|index| assignment(execution(index, 1), vec![])).collect();
    s.hear(ToWorker::Compute(all));
    assert_eq!(started(&mut s), [0, 1], "nothing is known of them: one a core");
    s.tell(took(0, 1_000));
    // 128 at a time on each of the two cores.
    assert_eq!(started(&mut s), (2..257).collect::<Vec<_>>());
    s.tell(took(1, 1_000));
    assert_eq!(started(&mut s), [257]);
    // Now they take long: nothing comes until each core has no more than one.
    for index in 2..256 {
        s.tell(took(index, 10_000_000));
    }
    assert_eq!(started(&mut s), [] as [u32; 0]);
    s.tell(took(256, 10_000_000));
    assert_eq!(started(&mut s), [258]);
}

#[test]
fn what_needs_a_core_of_its_own_gets_the_next_one() {
    let mut s = Story::new();
    let big = Op::Kernel {
        name: "big".into(),
        params: vec![],
        resources: Resources { cores: 2, ..Resources::default() },
    };
    s.hear(ToWorker::Ops { graph: GraphId(1), ops: vec![(1, big)] });
    s.run(execution(0, 1));
    s.tell(took(0, 1_000));
    s.out.clear();
    let mut assignments: Vec<_> = (1..20).map(|index| assignment(execution(index, 1), vec![])).collect();
    assignments[9].op = 1;
    s.hear(ToWorker::Compute(assignments));
    assert_eq!(started(&mut s), (1..10).collect::<Vec<_>>(), "those before it, and none after it");
    for index in 1..9 {
        s.tell(took(index, 1_000));
        assert_eq!(started(&mut s), [] as [u32; 0]);
    }
    s.tell(took(9, 1_000));
    assert_eq!(started(&mut s), [10], "both cores are free");
    s.tell(took(10, 1_000));
    assert_eq!(started(&mut s), (11..20).collect::<Vec<_>>());
}

#[test]
fn an_input_that_is_named_twice_is_fetched_once() {
    let mut s = Story::new();
    s.hear(ToWorker::Peers(vec![(WorkerIndex(7), vec!["n7:1".into()])]));
    let peers = || Source::Peers([WorkerIndex(0), WorkerIndex(7)].into_iter().collect());
    let inputs = vec![(task(5), peers()), (task(4), peers()), (task(5), peers())];
    s.hear(ToWorker::Compute(vec![assignment(execution(9, 1), inputs)]));
    comes!(s, Action::Fetch { task: t, from } if t == task(4) && from[0].addresses == ["n7:1"]);
    comes!(s, Action::Fetch { task: t, .. } if t == task(5));
    s.quiet();
    s.tell(Event::Fetched { task: task(5), nbytes: 8 });
    assert_eq!(started(&mut s), [] as [u32; 0]);
    s.tell(Event::Fetched { task: task(4), nbytes: 8 });
    assert_eq!(started(&mut s), [9]);
}
