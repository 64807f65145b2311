//! The program on a real Slurm: clusters come up, live through what happens to their jobs and nodes, and leave
//! nothing behind. Each story starts a Slurm of its own.

#[path = "cluster_slurm/lab.rs"]
mod lab;
#[path = "cluster_slurm/scheduler_jobs.rs"]
mod scheduler_jobs;
mod support;

use std::collections::BTreeSet;
use std::process::Stdio;

use lab::{Lab, in_own_group, read};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use support::eventually_sync;
use support::process::ended;

/// Tasks that aren't done.
fn unfinished(status: &Value) -> u64 {
    let counts = &status["counts"];
    ["waiting", "ready", "assigned"].iter().map(|state| counts[state].as_u64().unwrap()).sum()
}

fn done(status: &Value) -> u64 {
    status["counts"]["memory"].as_u64().unwrap()
}

fn connected(status: &Value) -> Vec<&Value> {
    status["workers"].as_array().unwrap().iter().filter(|worker| worker["state"] == "connected").collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Jobs of the allocations in `state`.
fn jobs_in(status: &Value, state: &str) -> Vec<String> {
    let all = status["allocations"].as_array().unwrap().iter();
    all.filter(|allocation| allocation["state"] == state).map(|allocation| text(&allocation["job"])).collect()
}

/// The reason with which a job ended, once the cluster has heard of it.
fn end_of(status: &Value, job: &str) -> Option<String> {
    let mut all = status["allocations"].as_array().unwrap().iter();
    let ended = all.find(|allocation| allocation["state"] == "ended" && allocation["job"] == job)?;
    Some(text(&ended["reason"]))
}

#[test]
fn a_pool_outlives_its_shell_and_loses_no_task() {
    let Some(lab) = Lab::start("a_pool_outlives_its_shell_and_loses_no_task") else { return };
    let line = format!(
        "'{}' up --queue spice --workers 8 --wait && touch is-up; sleep 1000",
        support::jobq().display()
    );
    let mut shell = in_own_group(lab.command("sh").args(["-c", &line]).stdout(Stdio::null()));
    eventually_sync("a cluster that is up", || lab.work().join("is-up").exists().then_some(()));
    killpg(Pid::from_raw(i32::try_from(shell.id()).unwrap()), Signal::SIGKILL).unwrap();
    shell.wait().unwrap();
    lab.until_connected(8);
    let jobs = lab.slurm.squeue();
    assert_eq!((jobs.len(), jobs.iter().filter(|job| job.contains(" RUNNING ")).count()), (8, 8), "{jobs:?}");

    let graph = lab.map(2000);
    let far = |least: u64| {
        let status = lab.until("progress", |status| (done(status) >= least).then(|| status.clone()));
        assert!(unfinished(&status) > 100, "too late: {}", unfinished(&status));
        status
    };
    // A worker's job is cancelled.
    let job = jobs_in(&far(50), "running").remove(0);
    assert!(lab.slurm.run("scancel", &[&job]).status.success());
    lab.until("its end", |status| end_of(status, &job).filter(|reason| reason == "cancelled"));
    // A node is given up; what runs there goes on, and hands back.
    let status = far(100);
    let node = text(&connected(&status)[0]["host"]);
    let victims: Vec<String> = {
        let there = |a: &&Value| a["state"] == "running" && a["nodes"] == node.as_str();
        status["allocations"].as_array().unwrap().iter().filter(there).map(|a| text(&a["job"])).collect()
    };
    lab.slurm.scontrol(&["update", &format!("nodename={node}"), "state=down", "reason=x"]);
    for job in &victims {
        lab.until("its end", |status| end_of(status, job).filter(|reason| reason == "lost its node"));
    }
    lab.slurm.scontrol(&["update", &format!("nodename={node}"), "state=resume"]);
    // A worker process is killed; its supervisor starts another.
    let status = far(150);
    let worker = connected(&status)[0].clone();
    kill(Pid::from_raw(i32::try_from(worker["pid"].as_i64().unwrap()).unwrap()), Signal::SIGKILL).unwrap();
    lab.until("another life of that worker", |status| {
        let same = |other: &&Value| other["name"] == worker["name"] && other["pid"] != worker["pid"];
        connected(status).into_iter().find(same).map(|_| ())
    });

    lab.ok(&["wait", &graph]);
    lab.check_outputs(2000);
    let runs = lab.runs();
    assert!((2000..2100).contains(&runs), "{runs} runs for 2000 tasks");
    lab.until_connected(8);
    eventually_sync("eight jobs", || (lab.jobs().len() == 8).then_some(()));
    lab.down();
}

#[test]
fn a_scheduler_that_is_killed_under_load_is_resumed_with_the_same_workers() {
    let Some(lab) = Lab::start("a_scheduler_that_is_killed_under_load_is_resumed_with_the_same_workers")
    else {
        return;
    };
    lab.ok(&["up", "--queue", "spice", "--workers", "8", "--wait"]);
    let pids = || -> BTreeSet<i64> {
        let status = lab.until("eight workers", |s| (s["connected"] == 8).then(|| s.clone()));
        connected(&status).iter().map(|worker| worker["pid"].as_i64().unwrap()).collect()
    };
    let before = pids();
    let graph = lab.map(1000);
    for least in [50, 400] {
        lab.until("progress", |status| (done(status) >= least).then_some(()));
        let scheduler = lab.scheduler();
        kill(Pid::from_raw(scheduler), Signal::SIGKILL).unwrap();
        eventually_sync("its end", || (!support::is_alive(scheduler)).then_some(()));
        let up = lab.run(&["up", "--queue", "spice", "--workers", "8"]);
        assert_eq!(up.code, Some(0), "{}", up.stderr);
        assert!(up.stderr.contains("resumed as epoch"), "{}", up.stderr);
    }
    lab.ok(&["wait", &graph]);
    lab.check_outputs(1000);
    assert_eq!(lab.runs(), 1000, "each ran once");
    assert_eq!(pids(), before, "the same processes");
    assert_eq!(lab.jobs().len(), 8, "no other jobs");
    lab.down();
}

#[test]
fn what_is_refused_says_why_and_leaves_nothing() {
    let Some(lab) = Lab::start("what_is_refused_says_why_and_leaves_nothing") else { return };
    let missing = format!("log_directory={}", lab.work().join("no such place").display());
    let cases: &[(&[&str], &[&str])] = &[
        (&["--set", "queue=nope"], &["Invalid partition name specified", "sinfo"]),
        // Where the partition's limits aren't enforced at submission, such a job is taken and never starts.
        (&["--cores", "99"], &["CPU count per node can not be satisfied|PartitionConfig"]),
        (&["--memory", "1PiB"], &["emory specification can not be satisfied|PartitionConfig"]),
        (&["--walltime", "7h"], &["PartitionTimeLimit", "longer than the partition allows"]),
        (&["--set", &missing], &["no such place", "log"]),
        (
            &["--set", "prologue=['echo the disk is not here', 'exit 1']"],
            &["exit code 1", "the disk is not here"],
        ),
    ];
    for (flags, expected) in cases {
        for wait in [&["--wait"][..], &[]] {
            let up = lab.run(&[&["up", "--queue", "spice", "--workers", "2"], wait, flags].concat());
            // Without --wait, a job that ends at once may not have done so yet.
            if wait.is_empty() && flags[1].starts_with("prologue") {
                lab.ok(&["down"]);
                continue;
            }
            assert_eq!(up.code, Some(78), "{flags:?} {wait:?}: {}{}", up.stdout, up.stderr);
            for words in *expected {
                let said = words.split('|').any(|words| up.stderr.contains(words));
                assert!(said, "{flags:?} {wait:?}: {}", up.stderr);
            }
            assert_eq!(lab.slurm.squeue(), [""; 0], "{flags:?}");
        }
    }
    // A living cluster that can't get what it wants stops asking, and begins again when it is told to.
    lab.up(&["--workers", "1"]);
    lab.wrap(
        "sbatch",
        "echo 'sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified' >&2\nexit 1",
    );
    let up = lab.run(&["up", "--queue", "spice", "--workers", "2", "--wait"]);
    assert_eq!(up.code, Some(78), "{}", up.stderr);
    assert!(
        up.stderr.contains("Invalid account or account/partition combination specified"),
        "{}",
        up.stderr
    );
    assert_eq!(lab.status()["connected"], 1, "what was there goes on");
    assert_eq!(lab.status()["stopped"], true);
    lab.wrap("sbatch", "exec $real \"$@\"");
    lab.up(&["--workers", "2"]);
    lab.down();

    // A fresh one with an account that is refused; then without Slurm's commands.
    lab.wrap(
        "sbatch",
        "echo 'sbatch: error: Batch job submission failed: Invalid qos specification' >&2\nexit 1",
    );
    let up = lab.run(&["up", "--queue", "spice", "--wait"]);
    assert_eq!(up.code, Some(78), "{}", up.stderr);
    assert!(
        up.stderr.contains("Invalid qos specification") && up.stderr.contains("check `qos`"),
        "{}",
        up.stderr
    );
    let mut bare = lab.command(support::jobq());
    bare.env("PATH", lab.work()).args(["up", "--queue", "spice", "--wait"]);
    let up = ended(bare.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap(), "up without Slurm");
    assert_eq!(up.code, Some(78), "{}", up.stderr);
    assert!(up.stderr.contains("sbatch is not on PATH"), "{}", up.stderr);
    lab.until_empty();
}

#[test]
fn a_controller_that_is_dead_or_hangs_is_worth_another_try() {
    let Some(mut lab) = Lab::start("a_controller_that_is_dead_or_hangs_is_worth_another_try") else { return };
    lab.slurm.stop_controller();
    let up = lab.run(&["up", "--queue", "spice", "--workers", "4", "--wait"]);
    assert_eq!(up.code, Some(75), "{}", up.stderr);
    assert!(up.stderr.contains("Socket timed out on send/recv operation"), "{}", up.stderr);
    assert!(up.stderr.contains("down`"), "says how to make sure: {}", up.stderr);
    lab.slurm.continue_controller();
    // The submit that Slurm heard all the same is a job that leaves as soon as it starts.
    eventually_sync("a controller that answers", || {
        lab.slurm.run("scontrol", &["ping"]).status.success().then_some(())
    });
    lab.until_empty();
    lab.up(&["--workers", "1"]);
    lab.down();

    lab.slurm.kill_controller();
    let up = lab.run(&["up", "--queue", "spice", "--workers", "4"]);
    assert_eq!(up.code, Some(75), "{}", up.stderr);
    assert!(up.stderr.contains("Unable to contact slurm controller"), "{}", up.stderr);
    lab.slurm.restart_controller();
    lab.until_empty();

    lab.slurm.kill_munge();
    let up = lab.run(&["up", "--queue", "spice", "--workers", "4"]);
    lab.slurm.restart_munge();
    assert_eq!(up.code, Some(75), "{}", up.stderr);
    assert!(up.stderr.contains("munge"), "{}", up.stderr);
    lab.until_empty();

    // A living cluster lives on without the controller, and `down` says that it can't be sure.
    lab.up(&["--workers", "2"]);
    lab.slurm.kill_controller();
    let graph = lab.map(40);
    lab.ok(&["wait", &graph]);
    lab.check_outputs(40);
    let down = lab.run(&["down"]);
    assert_eq!(down.code, Some(75), "{}", down.stderr);
    assert!(down.stderr.contains("Unable to contact slurm controller"), "{}", down.stderr);
    eventually_sync("no process of ours", || lab.processes().is_empty().then_some(()));
    lab.slurm.restart_controller();
    lab.down();
}

#[test]
fn a_cluster_within_a_batch_job() {
    let Some(lab) = Lab::start("a_cluster_within_a_batch_job") else { return };
    let jobq = support::jobq();
    lab.script(
        "work/study.sh",
        &format!(
            "export SBATCH_PARTITION=short SQUEUE_FORMAT=%i\n'{0}' up --queue spice --workers 2 --wait -- ./inner.sh\n\
             echo \"$?\" > code",
            jobq.display()
        ),
    );
    lab.script(
        "work/inner.sh",
        &format!(
            "squeue -h -o '%i %P %T' > jobs\n\
             '{0}' submit --wait --output ids -- sh -c 'echo $SLURM_JOB_ID > $JOBQ_TASK_OUTPUT'\n\
             echo $SLURM_JOB_ID > own\nexit 7",
            jobq.display()
        ),
    );
    let submitted =
        lab.command("sbatch").args(["--parsable", "-p", "spice", "-o", "study.log", "./study.sh"]).output();
    let own = String::from_utf8(submitted.unwrap().stdout).unwrap();
    let code = lab.work().join("code");
    eventually_sync("the end of the study", || code.exists().then_some(()));
    let log = read(&lab.work().join("study.log"));
    assert_eq!(read(&code).trim(), "7", "{log}");
    let jobs = read(&lab.work().join("jobs"));
    assert_eq!(jobs.lines().filter(|job| job.ends_with(" spice RUNNING")).count(), 3, "{jobs}\n{log}");
    assert_eq!(read(&lab.work().join("own")), own);
    assert_ne!(read(&lab.work().join("ids")), own, "the task saw the ids of its worker's job");
    lab.until_empty();

    // One whose job is ended before its command is done.
    lab.script("work/inner.sh", "touch inner; exec sleep 1000");
    let submitted =
        lab.command("sbatch").args(["--parsable", "-p", "spice", "-o", "study.log", "./study.sh"]).output();
    let own = String::from_utf8(submitted.unwrap().stdout).unwrap();
    eventually_sync("the command", || lab.work().join("inner").exists().then_some(()));
    assert!(lab.slurm.run("scancel", &[own.trim()]).status.success());
    lab.until_empty();
}

#[test]
fn the_script_that_is_shown_is_the_one_that_is_submitted() {
    let Some(lab) = Lab::start("the_script_that_is_shown_is_the_one_that_is_submitted") else { return };
    let flags = [
        "--queue",
        "spice",
        "--cores",
        "2",
        "--memory",
        "1GiB",
        "--walltime",
        "90m",
        "--extra-directive",
        "--nice=5",
    ];
    let flags =
        [&flags[..], &["--set", "prologue=['echo \"ready\"']", "--set", "environment={ODD = \"it's\"}"]]
            .concat();
    lab.ok(&[&["up", "--wait", "--workers", "1"], &flags[..]].concat());
    let shown = lab.ok(&[&["script"], &flags[..]].concat());
    let job = jobs_in(&lab.status(), "running").remove(0);
    assert_eq!(lab.slurm.scontrol(&["write", "batch_script", &job, "-"]), shown);
    let name = lab.slurm.squeue()[0].rsplit(' ').next().unwrap().to_owned();
    assert_eq!(read(&lab.state().join(format!("allocations/{name}.sh"))), shown);
    lab.down();
}

#[test]
fn workers_that_share_a_job_die_and_live_apart() {
    let Some(lab) = Lab::start("workers_that_share_a_job_die_and_live_apart") else { return };
    let said = lab.up(&["--workers", "8", "--workers-per-job", "4", "--memory", "1GiB"]);
    assert!(said.contains("8 workers = 2 jobs x 4 workers x 1 core, 1GiB each"), "{said}");
    assert_eq!(lab.slurm.squeue().len(), 2);
    let pids = |status: &Value| -> BTreeSet<(String, u64)> {
        connected(status).iter().map(|w| (text(&w["name"]), w["pid"].as_u64().unwrap())).collect()
    };
    let graph = lab.map(200);
    let before = lab.until("some progress", |status| (done(status) > 20).then(|| pids(status)));
    assert_eq!(before.len(), 8);
    let (name, pid) = before.first().unwrap().clone();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    let after = lab.until("another life of that worker", |status| {
        let pids = pids(status);
        (pids.len() == 8 && !pids.contains(&(name.clone(), pid))).then_some(pids)
    });
    let changed: Vec<&str> = before.difference(&after).map(|(name, _)| name.as_str()).collect();
    assert_eq!(changed, [name.as_str()], "the others are untouched");
    lab.ok(&["wait", &graph]);
    lab.check_outputs(200);
    assert_eq!(lab.slurm.squeue().len(), 2);
    lab.down();
}

#[test]
fn a_pool_shrinks_and_grows_without_losing_a_task() {
    let Some(lab) = Lab::start("a_pool_shrinks_and_grows_without_losing_a_task") else { return };
    // Six nodes of four cores: two of eight jobs wait.
    lab.ok(&["up", "--queue", "spice", "--workers", "8", "--cores", "4", "--wait=6"]);
    let before =
        lab.until("two that wait", |status| (jobs_in(status, "pending").len() == 2).then(|| status.clone()));
    let waiting = jobs_in(&before, "pending");
    lab.script("work/task.sh", "sleep 0.5\necho \"$1\" >> runs\necho \"$1\" > \"$JOBQ_TASK_OUTPUT\"");
    let graph = lab.map(600);
    lab.until("some progress", |status| (done(status) > 50).then_some(()));
    lab.ok(&["scale", "6"]);
    lab.until("no more that wait", |status| jobs_in(status, "pending").is_empty().then_some(()));
    let status = lab.until("the end of those", |status| {
        let over = waiting.iter().all(|job| end_of(status, job).is_some());
        over.then(|| status.clone())
    });
    assert_eq!(jobs_in(&status, "running"), jobs_in(&before, "running"), "only what waited was given up");
    lab.ok(&["scale", "2"]);
    lab.until("two workers", |status| (jobs_in(status, "running").len() == 2).then_some(()));
    lab.ok(&["scale", "6"]);
    lab.until_connected(6);
    assert!(unfinished(&lab.status()) > 0, "tasks ran through all of it");
    lab.ok(&["wait", &graph]);
    lab.check_outputs(600);
    assert_eq!(lab.runs(), 600, "who is told to leave brings to an end what it runs");
    lab.down();
}

#[test]
fn one_question_for_the_whole_cluster() {
    let Some(lab) = Lab::start("one_question_for_the_whole_cluster") else { return };
    lab.wrap("squeue", "echo \"$@\" >> $lab/asked\nexec $real \"$@\"");
    lab.up(&["--workers", "8"]);
    let asked = || read(&lab.work().join("../asked")).lines().count() as u64;
    let polls = |status: &Value| status["polls"].as_u64().unwrap();
    let (polls_before, asked_before) = lab.until("a poll", |status| {
        let before = asked();
        (polls(&lab.status()) == polls(status)).then(|| (polls(status), before))
    });
    let (polls_after, asked_after) = lab.until("four more polls", |status| {
        let after = asked();
        (polls(status) >= polls_before + 4 && polls(&lab.status()) == polls(status))
            .then(|| (polls(status), after))
    });
    // One may be under way at either end.
    let (polls, asked) = (polls_after - polls_before, asked_after - asked_before);
    assert!(asked.abs_diff(polls) <= 1, "{asked} questions for {polls} polls");
    lab.down();
}

#[test]
fn lost_answers_make_no_lasting_duplicates_and_no_orphans() {
    let Some(mut lab) = Lab::start("lost_answers_make_no_lasting_duplicates_and_no_orphans") else { return };
    lab.set("JOBQ_CFG_SCHEDULER__COMMAND_TIMEOUT", "2s");
    lab.wrap(
        "sbatch",
        "echo x >> $lab/submits\ncase $(($(wc -l < $lab/submits) % 4)) in\n\
         0) $real \"$@\" > /dev/null;;\n\
         1) $real \"$@\" > /dev/null; echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1;;\n\
         2) $real \"$@\" > /dev/null; sleep 60;;\n\
         3) exec $real \"$@\";;\nesac",
    );
    lab.up(&["--workers", "6"]);
    let settled = |workers: usize| {
        let polls = lab.status()["polls"].as_u64().unwrap();
        lab.until("a settled pool", |status| {
            let running = jobs_in(status, "running").len() == workers && connected(status).len() == workers;
            (running && status["polls"].as_u64().unwrap() >= polls + 3).then_some(())
        });
        assert_eq!(lab.jobs().len(), workers, "{:?}", lab.jobs());
    };
    settled(6);
    lab.ok(&["scale", "2"]);
    settled(2);
    lab.ok(&["scale", "5"]);
    settled(5);
    // Down while submits are in doubt.
    lab.ok(&["scale", "8"]);
    lab.down();
}

#[test]
fn workers_know_the_end_of_their_job_and_a_walltime_costs_no_task() {
    let Some(lab) = Lab::start("workers_know_the_end_of_their_job_and_a_walltime_costs_no_task") else {
        return;
    };
    lab.up(&["--workers", "3", "--walltime", "30m"]);
    let status = lab.status();
    let ends = lab.slurm.run("squeue", &["-h", "-o", "%A %e"]);
    let ends = String::from_utf8(ends.stdout).unwrap();
    for worker in connected(&status) {
        let deadline = worker["deadline_unix"].as_u64().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!((1..=1800).contains(&(deadline - now)), "{deadline} at {now}\n{ends}");
    }
    let graph = lab.map(300);
    // A task that ignores the warning is killed with its job, and runs again.
    let stubborn =
        "trap '' TERM; [ $JOBQ_TASK_ATTEMPT = 1 ] && touch began && sleep 1000; echo > $JOBQ_TASK_OUTPUT";
    let stubborn = lab.ok(&["submit", "--output", "stubborn", "--", "sh", "-c", stubborn]);
    let stubborn = stubborn.trim();
    eventually_sync("its start", || lab.work().join("began").exists().then_some(()));
    let tasks: Value = serde_json::from_str(&lab.ok(&["tasks", "--state", "assigned", "--json"])).unwrap();
    let mut tasks = tasks["tasks"].as_array().unwrap().iter();
    let worker = &tasks.find(|task| task["task"] == stubborn).unwrap()["worker"];
    let status = lab.status();
    let allocation = &connected(&status).into_iter().find(|w| w["name"] == *worker).unwrap()["allocation"];
    let mut all = status["allocations"].as_array().unwrap().iter();
    let job = text(&all.find(|other| other["id"] == *allocation).unwrap()["job"]);
    lab.slurm.scontrol(&["update", &format!("jobid={job}"), "endtime=now"]);
    lab.until("its end", |status| end_of(status, &job).filter(|reason| reason == "ran into its walltime"));
    lab.ok(&["wait", &graph, stubborn]);
    lab.check_outputs(300);
    assert!(lab.work().join("stubborn").exists());
    lab.until_connected(3);
    lab.down();
}

#[test]
fn what_a_silent_worker_of_a_failed_node_runs_is_its_own_until_it_settles_it() {
    let Some(mut lab) =
        Lab::start("what_a_silent_worker_of_a_failed_node_runs_is_its_own_until_it_settles_it")
    else {
        return;
    };
    lab.set("JOBQ_CFG_SCHEDULER__HEARTBEAT", "1s");
    lab.up(&["--workers", "2"]);
    let graph = lab.map(100);
    let worker = lab.until("some progress", |status| {
        let busy = |w: &&Value| w["assigned"] == 1;
        (done(status) > 10).then(|| connected(status).into_iter().find(busy).cloned()).flatten()
    });
    let same = |other: &&Value| other["name"] == worker["name"];
    let find = |status: &Value| status["workers"].as_array().unwrap().iter().find(same).cloned().unwrap();
    let pid = Pid::from_raw(i32::try_from(worker["pid"].as_i64().unwrap()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let status =
        lab.until("a silent worker", |status| (find(status)["state"] == "lost").then(|| status.clone()));
    let job = jobs_in(&status, "running");
    let node = text(&worker["host"]);
    // Slurm can't end there what it gives up.
    lab.slurm.kill_node(node.trim_start_matches("node").parse().unwrap());
    lab.slurm.scontrol(&["update", &format!("nodename={node}"), "state=down", "reason=x"]);
    lab.until("its end", |status| {
        job.iter().find_map(|job| end_of(status, job)).filter(|r| r == "lost its node")
    });
    // Others do all the rest, but not what it may still be running.
    lab.until("the rest", |status| (unfinished(status) == 1).then_some(()));
    lab.until_connected(2);
    assert_eq!(find(&lab.status())["assigned"], 1);
    kill(pid, Signal::SIGCONT).unwrap();
    lab.ok(&["wait", &graph]);
    lab.check_outputs(100);
    assert_eq!(lab.runs(), 100, "each ran once");
    // Its node is somebody else's now.
    lab.until("its leave", |status| text(&find(status)["note"]).starts_with("left").then_some(()));
    lab.until_connected(2);
    lab.down();
}
