//! Declared outputs appear whole, and once, whatever happens to those who make them.

use crate::support::eventually_sync;
use crate::support::sandbox::{Sandbox, names};
use jobq::worker::supervisor::read_verdicts;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;

#[test]
fn an_output_appears_whole_or_not_at_all() {
    let sandbox = Sandbox::new();
    sandbox.up(2);
    fs::create_dir(sandbox.file("out")).unwrap();
    // {out} in the command line, and the variable inside a script.
    let words = [
        "map",
        "--wait",
        "--output",
        "out/{/.}.up",
        "sh",
        "-c",
        "tr a-z A-Z < $1 > $2",
        "-",
        "{}",
        "{out}",
        ":::",
        "a.txt",
        "b.txt",
    ];
    fs::write(sandbox.file("a.txt"), "alpha").unwrap();
    fs::write(sandbox.file("b.txt"), "beta").unwrap();
    sandbox.ok(words);
    assert_eq!((sandbox.read("out/a.up"), sandbox.read("out/b.up")), ("ALPHA".into(), "BETA".into()));
    sandbox.script(
        "make.sh",
        "#!/bin/sh\necho \"$1\" > \"$JOBQ_TASK_OUTPUT\"\necho log > \"$JOBQ_TASK_OUTPUT_2\"\n",
    );
    sandbox.ok([
        "map",
        "--wait",
        "--output",
        "out/{}.one",
        "--output",
        "out/{}.two",
        "./make.sh",
        ":::",
        "x",
    ]);
    assert_eq!((sandbox.read("out/x.one"), sandbox.read("out/x.two")), ("x\n".into(), "log\n".into()));
    // Well ended without writing it; failed after writing it; and one that was there before stays.
    fs::write(sandbox.file("out/old"), "old").unwrap();
    let submit = |output: &str, script: &str| {
        let words = ["submit", "--wait", "--output", output, "--", "sh", "-c", script, "-", "{out}"];
        sandbox.run(words)
    };
    submit("out/none", ":").exits(1).says("didn't write its output").says("out/none");
    submit("out/half", "echo half > $1; exit 4").exits(1).says("code 4");
    submit("out/old", "echo new > $1; exit 4").exits(1);
    assert_eq!(sandbox.read("out/old"), "old");
    submit("out/old", "echo new > $1").exits(0);
    assert_eq!(sandbox.read("out/old"), "new\n");
    submit("nowhere/x", "echo x > $1").exits(1).says("nowhere isn't there");
    // Only looked for, if the command doesn't name it.
    sandbox.ok(["submit", "--wait", "--output", "out/plain", "--", "touch", "out/plain"]);
    sandbox.run(["submit", "--wait", "--output", "out/gone", "--", "true"]).exits(1).says("out/gone");
    // A directory in its place is an error, not a loop.
    fs::create_dir_all(sandbox.file("out/dir/full")).unwrap();
    submit("out/dir", "echo x > $1").exits(1).says("can't become");
    let expected = ["a.up", "b.up", "dir", "old", "plain", "x.one", "x.two"];
    eventually_sync("temporaries that go away", || (names(&sandbox.file("out")) == expected).then_some(()));
}

#[test]
fn an_output_may_have_any_name() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let odd = [&b"two words"[..], b"caf\xe9", "größe".as_bytes(), b"new\nline", b"-x"];
    let arguments = odd.map(|bytes| OsStr::from_bytes(bytes).to_owned());
    fs::create_dir(sandbox.file("out")).unwrap();
    let words = [
        "map",
        "--wait",
        "--output",
        "out/{}",
        "sh",
        "-c",
        "echo $JOBQ_TASK_KEY > \"$1\"",
        "-",
        "{out}",
        ":::",
    ];
    sandbox.run(words.map(OsString::from).iter().chain(&arguments)).exits(0);
    for (i, name) in arguments.iter().enumerate() {
        let text = fs::read_to_string(sandbox.file("out").join(name)).unwrap();
        assert_eq!(text, format!("g1.{}\n", i + 1), "{name:?}");
    }
    assert_eq!(names(&sandbox.file("out")).len(), odd.len());
}

#[test]
fn a_map_whose_tasks_would_all_write_one_file_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let map = |output: &str| {
        sandbox.run(["map", "--wait", "--output", output, "cp", "{}", "{out}", ":::", "a", "b"])
    };
    map("o").exits(2).says("--output o").says("{#}");
    fs::write(sandbox.file("a"), "a").unwrap();
    fs::write(sandbox.file("b"), "b").unwrap();
    map("o.{#}").exits(0);
    assert_eq!((&*sandbox.read("o.1"), &*sandbox.read("o.2")), ("a", "b"));
}

/// Two hundred tasks that each make an output and log that they run; `strike` is called when some are done and more
/// than a hundred aren't.
fn strike_in_the_middle(sandbox: &Sandbox, strike: impl FnOnce()) {
    fs::create_dir(sandbox.file("out")).unwrap();
    sandbox.script(
        "task.sh",
        "#!/bin/sh
         echo \"start $1 $JOBQ_TASK_ATTEMPT\" >> log
         printf 'half' > \"$JOBQ_TASK_OUTPUT\"; sleep 0.03; printf ' whole\\n' >> \"$JOBQ_TASK_OUTPUT\"
         echo \"end $1 $JOBQ_TASK_ATTEMPT\" >> log\n",
    );
    let arguments: Vec<String> = (1..=200).map(|n| n.to_string()).collect();
    let words = ["map", "--output", "out/{}", "./task.sh", ":::"].map(str::to_owned);
    sandbox.ok(words.iter().chain(&arguments));
    sandbox.until("the middle of the work", |status| status["counts"]["memory"].as_u64() >= Some(20));
    let unfinished = 200 - sandbox.status()["counts"]["memory"].as_u64().unwrap();
    assert!(unfinished > 100, "{unfinished}");
    strike();
    sandbox.ok(["wait", "--timeout", "100s"]);
    let made = names(&sandbox.file("out"));
    let mut expected = arguments;
    expected.sort();
    assert_eq!(made, expected, "every output, and nothing else");
    for name in made {
        assert_eq!(sandbox.read(&format!("out/{name}")), "half whole\n", "{name}");
    }
    assert_eq!(sandbox.status()["counts"]["memory"], 200);
    one_at_a_time(&sandbox.read("log"));
}

/// No task was begun anew while an earlier attempt of it went on, and hardly any was finished twice.
fn one_at_a_time(log: &str) {
    let mut newest: HashMap<&str, u32> = HashMap::new();
    let mut ended: HashMap<&str, u32> = HashMap::new();
    for line in log.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, task, attempt] = words[..] else { panic!("{line}") };
        let attempt: u32 = attempt.parse().unwrap();
        if what == "start" {
            newest.insert(task, attempt);
        } else {
            assert_eq!(newest[task], attempt, "task {task} ran twice at the same time:\n{log}");
            *ended.entry(task).or_default() += 1;
        }
    }
    // One that is struck down between its end and its report runs again, and that is all.
    let twice = ended.values().filter(|ends| **ends > 1).count();
    assert!(twice <= 2, "{twice} tasks ran twice to their end");
}

#[test]
fn a_worker_is_killed_in_the_middle_of_two_hundred_tasks() {
    let sandbox = Sandbox::new();
    sandbox.up(2);
    let victim = sandbox.workers()[0];
    strike_in_the_middle(&sandbox, || kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap());
    let status = sandbox.until("two workers again", |status| status["connected"] == 2);
    let lost = status["workers"].as_array().unwrap().iter().find(|w| w["pid"] == victim).unwrap();
    assert_eq!((&lost["state"], &lost["note"]), (&"lost".into(), &"ended by signal SIGKILL".into()));
    assert!(sandbox.ok(["status"]).contains("gone: ended by signal SIGKILL"));
    let allocations = sandbox.cluster("default").join("allocations");
    let dirs =
        fs::read_dir(allocations).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let verdicts: Vec<_> = dirs.flat_map(|dir| read_verdicts(&dir).unwrap()).collect();
    assert_eq!(verdicts.len(), 1, "{verdicts:?}");
    assert_eq!((verdicts[0].pid, verdicts[0].signal), (victim, Some(9)));
    assert_eq!(status["allocations"].as_array().unwrap().len(), 2, "its job went on");
}

fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_worker_is_killed_with_its_supervisor() {
    let sandbox = Sandbox::new();
    sandbox.up(2);
    let victim = sandbox.workers()[0];
    let supervisor = parent(victim);
    strike_in_the_middle(&sandbox, || {
        for pid in [supervisor, victim] {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
    });
    let status = sandbox.until("a new job in its place", |status| status["connected"] == 2);
    let allocations = status["allocations"].as_array().unwrap();
    assert_eq!(allocations.len(), 3, "{status}");
    let ended: Vec<_> = allocations.iter().filter(|a| a["state"] == "ended").collect();
    assert_eq!(ended.len(), 1, "{status}");
    assert!(!ended[0]["reason"].as_str().unwrap().is_empty(), "it says how");
}
