//! Graphs from files.

use crate::support::sandbox::{Sandbox, as_json};
use std::fs;

#[test]
fn a_file_becomes_a_graph_whose_tasks_come_after_each_other() {
    let sandbox = Sandbox::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/forecast.toml");
    fs::copy(example, sandbox.file("forecast.toml")).unwrap();
    let shown = sandbox.run(["run", "--dry-run", "forecast.toml"]).exits(0).text();
    assert!(shown.starts_with("members  x 3: /bin/sh -c"), "{shown}");
    assert!(shown.contains("\nsummary  after members: /bin/sh -c"), "{shown}");
    sandbox.run(["run", "forecast.toml"]).exits(69).says("jq up");
    sandbox.up(2);
    let ran = sandbox.run(as_json(["run", "--wait", "forecast.toml"])).exits(0).json();
    assert_eq!((&ran["tasks"], &ran["counts"]["memory"]), (&4.into(), &4.into()), "{ran}");
    let members: String = (1..=3).map(|n| format!("member 0{n} of members.{n}\n")).collect();
    assert_eq!(sandbox.read("summary.txt"), members);
    let tasks = sandbox.ok(["tasks"]);
    assert!(tasks.contains("members.3") && tasks.contains("summary"), "{tasks}");
}

#[test]
fn what_comes_after_a_failure_fails_and_the_rest_goes_on() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let file = r#"
[[task]]
key = "last"
command = ["touch", "last"]
after = ["bad", "good"]
[[task]]
key = "bad"
command = ["false"]
[[task]]
key = "good"
command = ["sh", "-c", "echo $WORD; pwd"]
env = { WORD = "said" }
cwd = "there"
"#;
    fs::create_dir(sandbox.file("there")).unwrap();
    fs::write(sandbox.file("graph.toml"), file).unwrap();
    let first = sandbox.ok(["submit", "--key", "before", "--", "true"]);
    sandbox.run(["run", "graph.toml", "--wait", "--after", first.trim()]).exits(1).says("bad").says("1 done");
    let good = sandbox.ok(["result", "good"]);
    assert!(good.starts_with("said\n") && good.trim_end().ends_with("there"), "{good}");
    sandbox.run(["result", "last"]).exits(1);
    assert!(!sandbox.file("last").exists());
}

#[test]
fn a_file_that_says_nothing_that_can_be_run_is_refused_with_the_place() {
    let sandbox = Sandbox::new();
    sandbox.run(["run", "none.toml"]).exits(2).says("none.toml").says("No such file");
    let file = "[[task]]\nkey = \"a\"\ncommand = [\"cp\", \"x\", \"{out2}\"]\noutput = \"y\"\n";
    fs::write(sandbox.file("graph.toml"), file).unwrap();
    sandbox.run(["run", "--dry-run", "graph.toml"]).exits(2).says("task 'a'").says("{out2}");
    fs::write(sandbox.file("graph.toml"), "[[task]]\ncommand = [\"true\"]\nafter = \"b\"\n").unwrap();
    sandbox.run(["run", "graph.toml"]).exits(2).says("graph.toml: line 1: after 'b'");
    let same = "[[task]]\ncommand = [\"touch\", \"{out}\"]\neach = [\"1\", \"2\"]\noutput = \"same\"\n";
    fs::write(sandbox.file("graph.toml"), same).unwrap();
    sandbox.run(["run", "graph.toml"]).exits(2).says("every task would write the same file");
}
