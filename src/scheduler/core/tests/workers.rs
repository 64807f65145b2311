//! Workers that are lost, return, leave.

use super::*;

fn one_command(retries: u32) -> Story {
    let mut s = Story::new();
    s.register(1, registration("w"));
    s.submit(9, graph(&[(command(0, retries), &[])], &[]));
    s.sync();
    s.skip();
    s
}

#[test]
fn a_lost_worker_keeps_its_commands_until_nothing_of_it_can_run() {
    let mut s = one_command(0);
    s.lose(1);
    comes!(s, Action::Poll);
    s.register(2, registration("v"));
    comes!(s, Action::ToWorker { message: ToWorker::Welcome { .. }, .. });
    s.quiet();
    for _ in 0..14 {
        s.wait_secs(10);
        s.worker_says(2, FromWorker::Heartbeat { memory: 0, running: 0 });
        comes!(s, Action::ToWorker { message: ToWorker::HeartbeatAnswer, .. });
        s.quiet();
    }
    s.wait_secs(10);
    comes!(s, Action::ToWorker { peer: PeerId(2), message: ToWorker::Ops { .. }, .. });
    comes!(s, Action::Persist { record: Record::Assigned { executions, .. }, .. } if executions[0].attempt == 2);
    comes!(s, Action::ToWorker { peer: PeerId(2), message: ToWorker::Compute(_), .. });
    s.quiet();
}

#[test]
fn the_supervisors_word_frees_a_command_at_once() {
    let mut s = one_command(0);
    s.lose(1);
    s.register(2, registration("v"));
    s.skip();
    s.worker_says(3, FromWorker::Dead { id: registration("w").id, verdict: "SIGSEGV".into() });
    comes!(s, Action::ToWorker { peer: PeerId(2), message: ToWorker::Ops { .. }, .. });
    comes!(s, Action::Persist { record: Record::Assigned { .. }, .. });
    comes!(s, Action::ToWorker { peer: PeerId(2), message: ToWorker::Compute(_), .. });
    s.quiet();
}

#[test]
fn an_attempt_that_was_lost_with_the_link_runs_although_an_older_one_is_reported_again() {
    let mut s = one_command(1);
    let first = execution(task(1, 0), 1, 1);
    s.finish(1, erred(first));
    s.sync();
    s.skip();
    // The second attempt and the acknowledgement of the first never arrived.
    s.register(2, Registration { completions: vec![erred(first)], ..registration("w") });
    comes!(s, Action::Close { peer: PeerId(1), .. });
    comes!(s, Action::ToWorker { message: ToWorker::Welcome { .. }, .. });
    comes!(s, Action::ToWorker { message: ToWorker::Ops { .. }, .. });
    comes!(s, Action::ToWorker { message: ToWorker::Acknowledge { executions }, .. } if executions == [first]);
    comes!(s, Action::Persist { record: Record::Assigned { executions, .. }, .. } if executions[0].attempt == 3);
    comes!(s, Action::ToWorker { peer: PeerId(2), message: ToWorker::Compute(_), .. });
    s.quiet();
}

#[test]
fn a_worker_that_hands_tasks_back_is_given_no_more() {
    let mut s = one_command(0);
    let outcome = Outcome::Cancelled;
    s.finish(1, Completion { execution: execution(task(1, 0), 1, 1), nanos: 0, outcome });
    comes!(s, Action::ToWorker { message: ToWorker::Acknowledge { .. }, .. });
    s.quiet();
    assert_eq!(s.state(task(1, 0)), "ready");
}

#[test]
fn a_link_that_breaks_often_is_no_tasks_fault() {
    let mut s = Story::new();
    s.submit(9, graph(&[(kernel(), &[])], &[0]));
    for peer in 1..10 {
        s.register(peer, registration("w"));
        assert_eq!(s.state(task(1, 0)), "assigned");
        s.lose(peer);
    }
    s.register(10, registration("w"));
    assert_eq!(s.state(task(1, 0)), "assigned");
}

#[test]
fn a_task_that_loses_three_workers_is_the_suspect() {
    let mut s = Story::new();
    s.submit(9, graph(&[(kernel(), &[])], &[0]));
    for peer in 1..=3 {
        s.register(peer, registration(&format!("w{peer}")));
        s.lose(peer);
    }
    assert_eq!(s.state(task(1, 0)), "erred");
}

/// Four workers in a row are lost with their jobs while they run the same task; what the batch system calls the ends.
fn four_jobs_end(blameless: bool, supervised: bool) -> Story {
    let mut s = Story::new();
    s.submit(9, graph(&[(command(0, 0), &[])], &[]));
    for number in 1..=4 {
        let allocation = AllocationId(number);
        let job = number.to_string();
        let accepted = SubmitOutcome::Accepted { job: job.clone() };
        s.tell(Event::Submitted { allocation, outcome: accepted });
        let worker = Registration { allocation, ..registration(&format!("w{number}")) };
        let id = worker.id.clone();
        s.register(u64::from(number), worker);
        s.sync();
        s.lose(u64::from(number));
        if supervised {
            s.worker_says(100, FromWorker::Dead { id, verdict: "killed by signal 9".into() });
        }
        let ended = AllocationStatus::Ended { words: "ended".into(), confirmed: true, blameless };
        s.tell(Event::Polled(vec![(allocation, job, ended)]));
        s.wait_secs(300);
    }
    s
}

#[test]
fn a_job_whose_time_was_over_is_no_tasks_fault() {
    for supervised in [false, true] {
        assert_eq!(four_jobs_end(true, supervised).state(task(1, 0)), "ready");
        assert_eq!(four_jobs_end(false, supervised).state(task(1, 0)), "erred");
    }
}

#[test]
fn a_worker_that_was_to_leave_is_told_again_over_its_new_link() {
    let mut s = one_command(0);
    s.ask(Request::Scale { request: RequestId(3), workers: 0 });
    comes!(s, Action::Persist { record: Record::Target { .. }, .. });
    comes!(s, Action::ToClient { .. });
    comes!(s, Action::Persist { record: Record::GivenUp { allocations }, .. } if allocations == [AllocationId(1)]);
    comes!(s, Action::ToWorker { peer: PeerId(1), message: ToWorker::Leave { now: false, .. }, .. });
    s.quiet();
    s.lose(1);
    s.skip();
    let runs = vec![execution(task(1, 0), 1, 1)];
    s.register(2, Registration { runs, ..registration("w") });
    comes!(s, Action::ToWorker { message: ToWorker::Welcome { .. }, .. });
    comes!(s, Action::ToWorker { peer: PeerId(2), message: ToWorker::Leave { now: false, .. }, .. });
    s.quiet();
}

#[test]
fn a_report_of_an_older_attempt_is_none_of_the_current_one() {
    let mut s = one_command(1);
    let first = execution(task(1, 0), 1, 1);
    s.finish(1, erred(first));
    s.sync();
    s.skip();
    s.finish(1, erred(first));
    comes!(s, Action::ToWorker { message: ToWorker::Acknowledge { executions }, .. } if executions == [first]);
    s.quiet();
    assert_eq!(s.core.current_execution(task(1, 0)), Some(execution(task(1, 0), 1, 2)));
}
