//! The scheduler in a job of a real Slurm, as it is by default there.

use super::lab::{Lab, read};
use super::support::process::{ended, skipped};
use super::support::{eventually_sync, jobq};
use super::{connected, done, text, unfinished};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

/// A lab with nothing said about where the scheduler runs.
fn lab(test: &str) -> Option<Lab> {
    let mut lab = Lab::start(test)?;
    lab.set("JOBQ_CFG_SCHEDULER__PLACE", "auto");
    Some(lab)
}

fn contact(lab: &Lab) -> toml::Table {
    toml::from_str(&read(&lab.state().join("contact.toml"))).unwrap_or_default()
}

fn field(lab: &Lab, key: &str) -> String {
    contact(lab)[key].as_str().unwrap().to_owned()
}

#[test]
fn a_cluster_has_its_scheduler_in_a_job_by_default() {
    let Some(lab) = lab("a_cluster_has_its_scheduler_in_a_job_by_default") else { return };
    let said = lab.up(&["--workers", "2"]);
    assert!(said.contains("the scheduler is job"), "{said}");
    let (job, name) = (field(&lab, "job"), field(&lab, "job_name"));
    let jobs = lab.slurm.squeue();
    assert_eq!(jobs.len(), 3, "{jobs:?}");
    assert!(jobs.contains(&format!("{job} RUNNING {name}")), "{jobs:?}");
    let workers: Vec<String> =
        lab.status()["allocations"].as_array().unwrap().iter().map(|a| text(&a["job"])).collect();
    let dependency = lab.slurm.scontrol(&["show", "job", "-o", &workers[0]]);
    assert!(dependency.contains("Dependency="), "{dependency}");
    let script = lab.slurm.scontrol(&["write", "batch_script", &workers[0], "-"]);
    assert!(script.contains(&format!("#SBATCH --dependency=after:{job}")), "{script}");
    let graph = lab.map(40);
    lab.ok(&["wait", &graph]);
    lab.check_outputs(40);
    assert!(lab.ok(&["logs", "scheduler"]).contains("epoch 1 of cluster default"));

    // Its job is ended by somebody: the next verb has it started again, in a job, and the workers go there.
    assert!(lab.slurm.run("scancel", &[&job]).status.success());
    eventually_sync("the end of it", || lab.jobs().iter().all(|line| !line.contains(&name)).then_some(()));
    let status = lab.until("both workers again", |status| {
        (status["connected"] == 2 && status["epoch"] == 2).then(|| status.clone())
    });
    assert_eq!(status["allocations"].as_array().unwrap().len(), 2, "no others were asked for");
    assert_ne!(field(&lab, "job"), job);
    lab.down();
}

#[test]
fn schedulers_relieve_each_other_within_their_walltime() {
    let Some(lab) = lab("schedulers_relieve_each_other_within_their_walltime") else { return };
    let relays: u64 = std::env::var("JOBQ_TEST_RELAYS").map_or(2, |n| n.parse().unwrap());
    // A minute is the shortest that Slurm has; half of it is for the successor to come.
    lab.up(&["--workers", "4", "--set", "scheduler.queue=brief", "--set", "scheduler.walltime=1m"]);
    lab.script("work/task.sh", "sleep 1\necho \"$1\" >> runs\necho \"$1\" > \"$JOBQ_TASK_OUTPUT\"");
    let count = u32::try_from(relays).unwrap() * 130;
    let graph = lab.map(count);
    let mut wait = lab.command(jobq());
    wait.args(["wait", &graph]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let waiting = wait.spawn().unwrap();
    let status = lab.until("the last relay", |status| {
        (status["epoch"].as_u64().unwrap() > relays).then(|| status.clone())
    });
    assert!(unfinished(&status) > 0 && done(&status) > 0, "tasks ran all the time");
    let wait = ended(waiting, "jq wait");
    assert_eq!(wait.code, Some(0), "{}", wait.stderr);
    lab.check_outputs(count);
    assert_eq!(lab.runs(), count as usize, "each ran once");
    let status = lab.status();
    let mut workers: Vec<String> = connected(&status).iter().map(|w| text(&w["name"])).collect();
    workers.sort();
    assert_eq!(workers, ["w1", "w2", "w3", "w4"], "they lived through all of it");
    lab.down();
}

#[test]
fn where_jobs_may_not_submit_jobs_the_scheduler_stays_here() {
    let Some(lab) = lab("where_jobs_may_not_submit_jobs_the_scheduler_stays_here") else { return };
    // On the nodes there is no sbatch.
    let tools = lab.work().join("tools");
    std::fs::create_dir(&tools).unwrap();
    for tool in ["sh", "sleep", "hostname"] {
        symlink(format!("/bin/{tool}"), tools.join(tool)).unwrap();
    }
    let prologue = format!("prologue=['export PATH={}']", tools.display());
    let flags = ["up", "--queue", "spice", "--workers", "2", "--wait", "--set", &prologue];
    let refused = lab.run(&[&flags[..], &["--scheduler", "job"]].concat());
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    let words = ["no job can be submitted from", "sbatch is not on PATH", "--scheduler here"];
    assert!(words.iter().all(|words| refused.stderr.contains(words)), "{}", refused.stderr);
    assert_eq!(lab.slurm.squeue(), [""; 0]);

    let up = lab.run(&flags);
    assert_eq!(up.code, Some(0), "{}", up.stderr);
    let words = ["no job can be submitted from", "the scheduler runs on this host instead"];
    assert!(words.iter().all(|words| up.stderr.contains(words)), "{}", up.stderr);
    assert_eq!((field(&lab, "job"), lab.jobs().len()), (String::new(), 2));
    lab.ok(&["submit", "--wait", "--", "true"]);
    lab.down();
}

/// Where jobs look for programs, there is an `sbatch` that refuses, once there is that file; all else is as it was.
fn refusing_jobs(lab: &Lab, once: &Path) -> String {
    let nodes = lab.work().join("nodes");
    std::fs::create_dir(&nodes).unwrap();
    let refuse = "{ echo 'sbatch: error: this site takes jobs from login nodes only' >&2; exit 1; }";
    lab.script(
        "work/nodes/sbatch",
        &format!("[ -e '{}' ] && {refuse}\nPATH=${{PATH#*:}} exec sbatch \"$@\"", once.display()),
    );
    format!("prologue=['export PATH={}:$PATH']", nodes.display())
}

#[test]
fn where_a_site_refuses_jobs_of_jobs_everything_else_works() {
    let Some(lab) = lab("where_a_site_refuses_jobs_of_jobs_everything_else_works") else { return };
    let prologue = refusing_jobs(&lab, &lab.work());
    let flags = ["up", "--queue", "spice", "--workers", "1", "--wait", "--set", &prologue];
    let refused = lab.run(&[&flags[..], &["--scheduler", "job"]].concat());
    let words = ["no job can be submitted from", "takes jobs from login nodes only", "--scheduler here"];
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    assert!(words.iter().all(|words| refused.stderr.contains(words)), "{}", refused.stderr);
    assert_eq!(lab.slurm.squeue(), [""; 0]);

    let up = lab.run(&flags);
    assert_eq!(up.code, Some(0), "{}", up.stderr);
    assert!(up.stderr.contains("the scheduler runs on this host instead"), "{}", up.stderr);
    // More workers than came with it.
    lab.ok(&["scale", "2"]);
    lab.until("both", |status| (status["connected"] == 2).then_some(()));

    // Whoever starts it again is to be where jobs can be submitted, too.
    kill(Pid::from_raw(lab.scheduler()), Signal::SIGKILL).unwrap();
    let mut elsewhere = lab.command(jobq());
    let path = format!("{}:{}", lab.work().join("nodes").display(), std::env::var("PATH").unwrap());
    elsewhere.env("PATH", path).arg("status").stdout(Stdio::piped()).stderr(Stdio::piped());
    let status = ended(elsewhere.spawn().unwrap(), "jq status");
    assert_eq!(status.code, Some(78), "{}", status.stderr);
    let words = ["no job can be submitted from", "login nodes only"];
    assert!(words.iter().all(|words| status.stderr.contains(words)), "{}", status.stderr);
    assert_eq!(contact(&lab)["epoch"].as_integer(), Some(1), "none was started there");
    let status = lab.until("both workers again", |status| {
        (status["connected"] == 2 && status["epoch"] == 2).then(|| status.clone())
    });
    assert_eq!(status["allocations"].as_array().unwrap().len(), 2, "no others were asked for");
    lab.ok(&["submit", "--wait", "--", "true"]);
    lab.down();
}

#[test]
fn where_jobs_may_not_submit_jobs_any_more_the_next_scheduler_runs_here() {
    let Some(lab) = lab("where_jobs_may_not_submit_jobs_any_more_the_next_scheduler_runs_here") else {
        return;
    };
    let refuse = lab.work().join("refuse");
    let prologue = refusing_jobs(&lab, &refuse);
    let brief = ["--set", "scheduler.queue=brief", "--set", "scheduler.walltime=1m"];
    lab.up(&[&["--workers", "2", "--set", &prologue], &brief[..]].concat());
    assert_ne!(field(&lab, "job"), "");
    std::fs::write(refuse, "").unwrap();
    lab.script("work/task.sh", "sleep 1\necho \"$1\" >> runs\necho \"$1\" > \"$JOBQ_TASK_OUTPUT\"");
    let graph = lab.map(140);
    let mut wait = lab.command(jobq());
    wait.args(["wait", &graph]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let waiting = wait.spawn().unwrap();
    // It can't have a successor, and lets go when its walltime nears; whoever waits has another started.
    eventually_sync("a scheduler here", || {
        (contact(&lab).get("job")?.as_str()?.is_empty() && contact(&lab)["epoch"].as_integer()? > 1)
            .then_some(())
    });
    let wait = ended(waiting, "jq wait");
    assert_eq!(wait.code, Some(0), "{}", wait.stderr);
    assert!(wait.stderr.contains("the scheduler runs on this host instead"), "{}", wait.stderr);
    lab.check_outputs(140);
    assert_eq!(lab.runs(), 140, "each ran once");
    lab.down();
}

#[test]
fn nothing_is_left_where_the_scheduler_can_run_neither_in_a_job_nor_here() {
    let Some(lab) = lab("nothing_is_left_where_the_scheduler_can_run_neither_in_a_job_nor_here") else {
        return;
    };
    let prologue = refusing_jobs(&lab, &lab.work());
    let words = ["up", "--queue", "spice", "--workers", "2", "--set", &prologue];
    let up = lab.run(&[&words[..], &["--set", "scheduler.interface=nope0"]].concat());
    assert_eq!(up.code, Some(78), "{}", up.stderr);
    assert!(up.stderr.contains("nope0"), "{}", up.stderr);
    assert_eq!(lab.slurm.squeue(), [""; 0], "its workers' jobs wait for nobody");
}

#[test]
fn a_scheduler_that_cant_start_tells_why_and_leaves_nothing() {
    let Some(lab) = lab("a_scheduler_that_cant_start_tells_why_and_leaves_nothing") else { return };
    let cases: &[(&[&str], &[&str])] = &[
        (&["--set", "scheduler.queue=nope"], &["Invalid partition name specified"]),
        (&["--set", "scheduler.cores=60"], &["CPU count per node can not be satisfied|PartitionConfig"]),
        (&["--set", "scheduler.walltime=7h"], &["PartitionTimeLimit", "longer than the partition allows"]),
        (&["--cores", "60"], &["CPU count per node can not be satisfied|PartitionConfig"]),
        (
            &["--set", "prologue=['echo the disk is not here', 'exit 1']"],
            &["exit code 1", "the disk is not here"],
        ),
    ];
    for (flags, expected) in cases {
        let up = lab.run(&[&["up", "--queue", "spice", "--workers", "2", "--wait"], *flags].concat());
        assert_eq!(up.code, Some(78), "{flags:?}: {}{}", up.stdout, up.stderr);
        for words in *expected {
            let said = words.split('|').any(|words| up.stderr.contains(words));
            assert!(said, "{flags:?}: {}", up.stderr);
        }
        assert_eq!(lab.slurm.squeue(), [""; 0], "{flags:?}");
    }
    lab.until_empty();
}

#[test]
fn a_launch_that_waits_in_the_queue_is_found_by_others() {
    let Some(lab) = lab("a_launch_that_waits_in_the_queue_is_found_by_others") else { return };
    lab.slurm.scontrol(&["update", "partitionname=spice", "state=inactive"]);
    lab.slurm.scontrol(&["update", "partitionname=short", "state=down"]);
    let words = [
        "up",
        "--queue",
        "spice",
        "--workers",
        "1",
        "--set",
        "scheduler.queue=short",
        "--set",
        "scheduler.walltime=2m",
    ];
    let refused = lab.run(&words);
    assert_eq!(refused.code, Some(75), "its workers' partition takes no jobs: {}", refused.stderr);
    assert_eq!(lab.slurm.squeue(), [""; 0]);
    lab.slurm.scontrol(&["update", "partitionname=spice", "state=up"]);
    let up = lab.run(&[&words[..], &["--timeout", "3s"]].concat());
    assert_eq!(up.code, Some(124), "{}", up.stderr);
    assert!(up.stderr.contains("PartitionDown"), "{}", up.stderr);
    let states: Vec<String> = lab.slurm.squeue();
    assert_eq!(
        (states.len(), states.iter().filter(|s| s.contains(" PENDING ")).count()),
        (2, 2),
        "{states:?}"
    );
    let other = lab.run(&[&words[..], &["--timeout", "3s"]].concat());
    assert_eq!((other.code, lab.slurm.squeue().len()), (Some(69), 2), "{}", other.stderr);
    lab.slurm.scontrol(&["update", "partitionname=short", "state=up"]);
    lab.ok(&["submit", "--wait", "--", "true"]);
    assert_eq!(lab.status()["epoch"], 1);
    lab.down();
}

/// Submits of scripts with that word hang from now on, until the wrapper is taken away; returns the one that does.
fn submit_that_hangs(lab: &Lab, word: &str, up: &mut std::process::Command) -> (std::process::Child, Pid) {
    let hang =
        format!("grep -q \"'{word}'\" \"${{@: -1}}\" && {{ echo $$ > \"$lab/hung\"; exec sleep 1000; }}");
    lab.wrap("sbatch", &format!("{hang}\nexec $real \"$@\""));
    let going = up.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let hung = lab.state().parent().unwrap().parent().unwrap().join("hung");
    let pid = eventually_sync("the submit", || std::fs::read_to_string(&hung).ok()?.trim().parse().ok());
    lab.wrap("sbatch", "exec $real \"$@\"");
    std::fs::remove_file(&hung).unwrap();
    (going, Pid::from_raw(pid))
}

#[test]
fn what_a_killed_up_meant_to_submit_is_soon_seen_never_to_come() {
    let Some(lab) = lab("what_a_killed_up_meant_to_submit_is_soon_seen_never_to_come") else { return };
    for word in ["supervisor", "scheduler"] {
        let mut up = lab.command(jobq());
        up.args(["up", "--queue", "spice", "--workers", "2", "--wait"]);
        let (mut going, hung) = submit_that_hangs(&lab, word, &mut up);
        going.kill().unwrap();
        going.wait().unwrap();
        kill(hung, Signal::SIGKILL).unwrap();
        let up = lab.run(&["up", "--queue", "spice", "--workers", "2", "--wait", "--timeout", "100s"]);
        assert_eq!(up.code, Some(0), "{word}: {}", up.stderr);
        assert_eq!(lab.status()["connected"], 2, "{word}");
        assert_eq!(lab.slurm.squeue().len(), 3, "{word}");
        lab.down();
    }
}

#[test]
fn two_hosts_that_bring_it_up_at_once_make_one_cluster() {
    let test = "two_hosts_that_bring_it_up_at_once_make_one_cluster";
    let Some(lab) = lab(test) else { return };
    let unshare = ["--uts", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let possible = lab.command("unshare").args(unshare).arg("true").output();
    if !possible.is_ok_and(|output| output.status.success()) {
        return skipped(test, "name spaces need root");
    }
    let line = format!("hostname \"$0\"; exec '{}' up --queue spice --workers 2 --wait", jobq().display());
    let both = ["login1", "login2"].map(|host| {
        let mut up = lab.command("unshare");
        up.args(unshare).args(["sh", "-c", &line, host]);
        up.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let mut already = 0;
    for child in both {
        let up = ended(child, "jq up");
        assert_eq!(up.code, Some(0), "{}{}", up.stdout, up.stderr);
        already += usize::from(up.stdout.contains("is up already"));
    }
    assert_eq!(already, 1);
    let status = lab.status();
    assert_eq!((&status["epoch"], &status["connected"]), (&1.into(), &2.into()));
    assert_eq!(lab.slurm.squeue().len(), 3);
    lab.down();
}

#[test]
fn on_a_host_where_a_logout_kills_the_scheduler_is_a_service_or_says_so() {
    let Some(lab) = Lab::start("on_a_host_where_a_logout_kills_the_scheduler_is_a_service_or_says_so") else {
        return;
    };
    lab.script(
        "bin/loginctl",
        "case \"$*\" in *Linger*) echo Linger=yes;; *) echo KillUserProcesses=yes; echo KillOnlyUsers=;; esac",
    );
    let asked = lab.work().join("asked");
    lab.script(
        "bin/systemd-run",
        &format!(
            "printf '%s\\n' \"$@\" > '{}'\nwhile [ \"$1\" != -- ]; do shift; done\nshift\n\
             setsid \"$@\" < /dev/null > /dev/null 2>&1 &",
            asked.display()
        ),
    );
    let up = lab.run(&["up", "--queue", "spice", "--workers", "1", "--wait"]);
    assert_eq!(up.code, Some(0), "{}", up.stderr);
    assert!(!up.stderr.contains("logging out"), "{}", up.stderr);
    let words = read(&asked);
    for word in ["--user", "--property=Restart=on-failure", "--property=Nice=5", "--property=CPUQuota=400%"] {
        assert!(words.lines().any(|line| line == word), "no {word} in\n{words}");
    }
    assert!(words.contains("--setenv=SLURM_CONF="), "{words}");
    lab.ok(&["submit", "--wait", "--", "true"]);
    lab.down();

    lab.script("bin/systemd-run", "echo 'Failed to connect to bus' >&2; exit 1");
    let up = lab.run(&["up", "--queue", "spice", "--workers", "1", "--wait"]);
    assert_eq!(up.code, Some(0), "{}", up.stderr);
    let words = ["Failed to connect to bus", "logging out from this host ends it", "--scheduler job"];
    assert!(words.iter().all(|words| up.stderr.contains(words)), "{}", up.stderr);
    lab.down();
}
