//! Slurm as it really answers: a cluster of eight nodes that each test starts for itself.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use jobq::batch::{
    self, AllocationSpec, Batch, BatchError, ErrorKind, JobId, JobState, JobStatus, Outcome, Site,
};
use support::slurm::{self, Slurm};
use support::{eventually, job, write_script};

fn batch_on(slurm: &Slurm) -> Batch {
    let site = Site { exe: support::jobq(), environment: slurm.env(), ..Site::default() };
    Batch::new(batch::system("slurm").unwrap(), site)
}

async fn try_submit(batch: &Batch, spec: &AllocationSpec) -> Result<JobId, BatchError> {
    batch.submit(spec, &write_script(batch, spec)).await
}

async fn submit(batch: &Batch, spec: &AllocationSpec) -> JobId {
    try_submit(batch, spec).await.unwrap()
}

async fn status(batch: &Batch, id: &JobId) -> JobStatus {
    let mut jobs = batch.status(std::slice::from_ref(id)).await.unwrap();
    assert_eq!(jobs.len(), 1, "{id}");
    jobs.remove(0)
}

async fn outcome(batch: &Batch, id: &JobId) -> Outcome {
    eventually("the end of a job", async || match status(batch, id).await.state {
        JobState::Ended(outcome) => Some(outcome),
        _ => None,
    })
    .await
}

async fn running(batch: &Batch, id: &JobId) -> (String, u64, Option<u64>) {
    eventually("a running job", async || match status(batch, id).await.state {
        JobState::Running { nodes, started, ends } => Some((nodes, started, ends)),
        JobState::Ended(outcome) => panic!("{id} {outcome}"),
        JobState::Pending { .. } => None,
    })
    .await
}

async fn pending(batch: &Batch, id: &JobId, wanted: &str) -> (String, bool) {
    eventually(wanted, async || match status(batch, id).await.state {
        JobState::Pending { reason, words, never, .. } if reason == wanted => Some((words, never)),
        _ => None,
    })
    .await
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test]
async fn jobs_live_and_end_as_the_status_says() {
    let Some(slurm) = slurm::start("jobs_live_and_end_as_the_status_says") else { return };
    let batch = batch_on(&slurm);
    let dir = slurm.dir().join("my jobs' 100%");
    fs::create_dir(&dir).unwrap();
    batch.health().await.unwrap();

    // What is odd in paths, comments and variables arrives as it is, and the log of an earlier life is kept.
    let show = "pwd; echo id=$SLURM_JOB_ID cores=$SLURM_CPUS_PER_TASK odd=$ODD cargo=$CARGO export=$SLURM_EXPORT_ENV";
    let mut spec = job(&dir, "jqaa1", show);
    (spec.workers, spec.cores, spec.memory) = (2, 2, 100 << 20);
    spec.comment = "a \"b\" 'c' # d \\ | $HOME".into();
    spec.environment = vec![("ODD".into(), "it's \"$HOME\"".into())];
    fs::write(&spec.log, "an earlier life\n").unwrap();
    let id = submit(&batch, &spec).await;
    assert_eq!(outcome(&batch, &id).await, Outcome::Completed);
    let expected =
        format!("an earlier life\n{}\nid={id} cores=4 odd=it's \"$HOME\" cargo= export=ALL\n", dir.display());
    assert_eq!(read(&spec.log), expected);
    let shown = slurm.scontrol(&["show", "job", "-o", &id.0]);
    assert!(shown.contains("Comment=a \"b\" 'c' # d \\ | $HOME "), "{shown}");
    assert!(shown.contains(" Requeue=0 ") && shown.contains("mem=200M"), "{shown}");

    // Exit codes, which squeue doesn't have; a program that isn't there.
    let seven = submit(&batch, &job(&dir, "jqaa2", "exit 7")).await;
    let missing = AllocationSpec { command: vec!["/no/such/program".into()], ..job(&dir, "jqaa3", "") };
    let missing = submit(&batch, &missing).await;
    assert_eq!(outcome(&batch, &seven).await, Outcome::Failed { exit_code: Some(7), signal: None });
    assert_eq!(outcome(&batch, &missing).await, Outcome::Failed { exit_code: Some(127), signal: None });

    // Running: where, since when, until when; the worker's side of the same; the end by walltime.
    let long = submit(&batch, &job(&dir, "jqaa4", "sleep 1000")).await;
    let (nodes, started, ends) = running(&batch, &long).await;
    assert!(nodes.starts_with("node"), "{nodes}");
    assert_eq!(ends, Some(started + 120));
    assert_eq!(batch.deadline(&long).await.unwrap(), ends);
    slurm.scontrol(&["update", &format!("jobid={long}"), "endtime=now"]);
    assert_eq!(outcome(&batch, &long).await, Outcome::TimedOut);

    // A node that is lost.
    let lost = submit(&batch, &job(&dir, "jqaa5", "sleep 1000")).await;
    let (node, ..) = running(&batch, &lost).await;
    slurm.scontrol(&["update", &format!("nodename={node}"), "state=down", "reason=test"]);
    assert_eq!(outcome(&batch, &lost).await, Outcome::NodeFailed);

    // An id that Slurm doesn't know is not in the answer.
    assert_eq!(batch.status(&[JobId("99999".into())]).await.unwrap(), []);
    let names: Vec<String> = batch.queues().await.unwrap().into_iter().map(|queue| queue.name).collect();
    assert_eq!(names, ["spice", "short", "brief"]);
}

#[tokio::test]
async fn a_signal_reaches_the_command_itself_and_with_an_epilogue_too() {
    let Some(slurm) = slurm::start("a_signal_reaches_the_command_itself_and_with_an_epilogue_too") else {
        return;
    };
    let batch = batch_on(&slurm);
    let script = "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    for (name, epilogue, log) in [
        ("jqa", vec![], "ready\nasked\n"),
        ("jqb", vec!["echo cleaned up".to_owned()], "ready\nasked\ncleaned up\n"),
    ] {
        let spec = AllocationSpec { epilogue, ..job(slurm.dir(), name, script) };
        let id = submit(&batch, &spec).await;
        eventually("a command that is ready", async || read(&spec.log).contains("ready").then_some(())).await;
        let signalled = slurm.run("scancel", &["--batch", "--signal=TERM", &id.0]);
        assert!(signalled.status.success(), "{signalled:?}");
        assert_eq!(outcome(&batch, &id).await, Outcome::Completed);
        // Slurm adds lines of its own.
        let log_lines: String =
            read(&spec.log).split_inclusive('\n').filter(|line| !line.starts_with("slurmstepd")).collect();
        assert_eq!(log_lines, log);
    }
}

#[tokio::test]
async fn cancelling_and_sweeping_leave_nothing_of_ours() {
    let Some(slurm) = slurm::start("cancelling_and_sweeping_leave_nothing_of_ours") else { return };
    let batch = batch_on(&slurm);
    let mut ids = Vec::new();
    for number in 0..4 {
        let mut spec = job(slurm.dir(), &format!("jqaa{number}"), "sleep 1000");
        // Six nodes of four cores: the last ones wait.
        (spec.workers, spec.cores) = (4, 1);
        ids.push(submit(&batch, &spec).await);
    }
    let other = submit(&batch, &job(slurm.dir(), "jqbb0", "sleep 1000")).await;
    running(&batch, &ids[0]).await;
    batch.cancel(&[ids[0].clone(), JobId("99999".into())]).await.unwrap();
    batch.cancel(&ids[..1]).await.unwrap();
    assert_eq!(outcome(&batch, &ids[0]).await, Outcome::Cancelled);

    let found = batch.find("jqaa").await.unwrap();
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(found.iter().filter(|job| job.state.is_live()).count(), 3);
    let mut swept = batch.sweep("jqaa").await.unwrap();
    swept.sort();
    assert_eq!(swept, ids[1..]);
    eventually("a queue without our jobs", async || {
        batch.sweep("jqaa").await.unwrap().is_empty().then_some(())
    })
    .await;
    eventually("only the other job", async || (slurm.squeue().len() == 1).then_some(())).await;
    assert!(status(&batch, &other).await.state.is_live());
}

#[tokio::test]
async fn what_slurm_refuses_and_what_it_takes_and_never_starts() {
    let Some(slurm) = slurm::start("what_slurm_refuses_and_what_it_takes_and_never_starts") else { return };
    let batch = batch_on(&slurm);
    let base = job(slurm.dir(), "jqa", "true");

    let refused = [
        (AllocationSpec { queue: "nope".into(), ..base.clone() }, "Invalid partition name specified"),
        (AllocationSpec { memory: 1 << 50, ..base.clone() }, "Memory specification can not be satisfied"),
        (
            AllocationSpec { extra_directives: vec!["--constraint=gold".into()], ..base.clone() },
            "Invalid feature",
        ),
        (
            AllocationSpec { extra_directives: vec!["--gres=gpu:1".into()], ..base.clone() },
            "Invalid generic resource",
        ),
        (AllocationSpec { extra_directives: vec!["--reservation=x".into()], ..base.clone() }, "reservation"),
        (
            AllocationSpec { extra_directives: vec!["--time=soon".into()], ..base.clone() },
            "Invalid --time specification",
        ),
        (
            AllocationSpec { extra_directives: vec!["--frobnicate".into()], ..base.clone() },
            "unrecognized option",
        ),
    ];
    for (spec, words) in refused {
        let error = try_submit(&batch, &spec).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused, "{error}");
        assert!(error.words.contains(words), "{error}");
        assert!(error.command.starts_with("sbatch --parsable /"), "{error}");
    }
    assert_eq!(slurm.squeue(), [""; 0]);

    let too_long =
        AllocationSpec { queue: "short".into(), walltime: Duration::from_secs(3600), ..base.clone() };
    let too_long = submit(&batch, &too_long).await;
    let (words, never) = pending(&batch, &too_long, "PartitionTimeLimit").await;
    assert!(never && words.contains("longer than the partition allows"), "{words}");
    // More cores than a node has: some configurations refuse that, others take it and never start it.
    match try_submit(&batch, &AllocationSpec { cores: 99, ..base.clone() }).await {
        Ok(id) => assert!(pending(&batch, &id, "PartitionConfig").await.1),
        Err(error) => assert_eq!(error.kind, ErrorKind::Refused, "{error}"),
    }
    let held = AllocationSpec { extra_directives: vec!["--hold".into()], ..base.clone() };
    let held = submit(&batch, &held).await;
    assert!(pending(&batch, &held, "JobHeldUser").await.1);

    slurm.scontrol(&["update", "partitionname=short", "state=drain"]);
    let drained = AllocationSpec { queue: "short".into(), ..base.clone() };
    assert_eq!(try_submit(&batch, &drained).await.unwrap_err().kind, ErrorKind::TryAgain);
    slurm.scontrol(&["update", "partitionname=short", "state=down"]);
    let (_, never) = pending(&batch, &submit(&batch, &drained).await, "PartitionDown").await;
    assert!(!never);
    let queues = batch.queues().await.unwrap();
    let short = queues.iter().find(|queue| queue.name == "short").unwrap();
    assert_eq!(
        (short.name.as_str(), short.open, short.walltime),
        ("short", false, Some(Duration::from_secs(300)))
    );
}

#[tokio::test]
async fn a_controller_that_hangs_and_one_that_is_dead() {
    let Some(mut slurm) = slurm::start("a_controller_that_hangs_and_one_that_is_dead") else { return };
    let batch = batch_on(&slurm);
    let spec = job(slurm.dir(), "jqa", "sleep 1000");
    let id = submit(&batch, &spec).await;
    running(&batch, &id).await;

    slurm.stop_controller();
    let late = job(slurm.dir(), "jqlate", "true");
    let ids = [id.clone()];
    let (submitted, asked, cancelled, health) =
        tokio::join!(try_submit(&batch, &late), batch.status(&ids), batch.cancel(&ids), batch.health());
    slurm.continue_controller();
    let error = submitted.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Ambiguous, "{error}");
    assert_eq!(error.kind.exit_code(), 75);
    assert!(error.words.contains("Socket timed out on send/recv operation"), "{error}");
    for error in [asked.unwrap_err(), cancelled.unwrap_err(), health.unwrap_err()] {
        assert_eq!(error.kind, ErrorKind::TryAgain, "{error}");
    }
    // It may have heard us all the same: the name tells, and a sweep settles it.
    eventually("a swept queue", async || {
        batch.sweep("jq").await.ok()?;
        slurm.squeue().is_empty().then_some(())
    })
    .await;

    slurm.kill_controller();
    let (submitted, asked, cancelled, health) =
        tokio::join!(try_submit(&batch, &late), batch.status(&ids), batch.cancel(&ids), batch.health());
    for error in [submitted.unwrap_err(), asked.unwrap_err(), cancelled.unwrap_err(), health.unwrap_err()] {
        assert_eq!(error.kind, ErrorKind::TryAgain, "{error}");
        assert!(error.to_string().contains("controller"), "{error}");
    }
    slurm.restart_controller();
    // A crash can bring back what was cancelled just before it: the controller saves its state now and then.
    eventually("a swept queue", async || {
        batch.sweep("jq").await.ok()?;
        slurm.squeue().is_empty().then_some(())
    })
    .await;
}
