//! A disk that damages a cluster's journal.

use crate::restarts::kill_scheduler;
use crate::support::sandbox::Sandbox;
use std::fs;

#[test]
fn a_damaged_journal_is_refused_and_repaired_and_the_rest_of_the_work_is_there() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    for (key, word) in [("a", "first"), ("b", "middle"), ("c", "last")] {
        sandbox.ok(["submit", "--wait", "--key", key, "--", "echo", word]);
    }
    kill_scheduler(&sandbox);
    let segment = sandbox.cluster("default").join("journal/0000000001-000000.journal");
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(6).position(|six| six == b"middle").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).unwrap();

    let up = ["up", "--queue", "local", "--workers", "1", "--wait"];
    sandbox.run(up).exits(78).says("is damaged at byte").says("doctor --repair");
    assert_eq!(fs::read(&segment).unwrap(), bytes, "nothing is changed without being asked for");
    let repaired = sandbox.run(["doctor", "--repair"]).exits(0);
    let text = repaired.text();
    assert!(text.contains("kept: 2 graphs, 2 tasks") && text.contains("lost: 1 graph, 1 task"), "{text}");
    assert!(sandbox.run(["doctor", "--repair"]).exits(0).text().contains("is sound"));

    let resumed = sandbox.run(up).exits(0).says("resumed");
    assert!(!resumed.stderr.contains("watching its lease"), "who repaired it has let go: {}", resumed.stderr);
    assert_eq!(
        (sandbox.ok(["result", "a"]), sandbox.ok(["result", "c"])),
        ("first\n".into(), "last\n".into())
    );
    sandbox.run(["result", "b"]).exits(2).says("no task or graph 'b'");
    sandbox.ok(["submit", "--wait", "--key", "b", "--", "echo", "again"]);
    assert!(sandbox.run(["doctor", "--repair"]).exits(0).text().contains("lives"));

    // The damaged files are rubbish by now, and what lives isn't.
    let clean = ["clean", "--older-than", "0s"];
    sandbox.run(clean).exits(2).says("--yes");
    let listed = sandbox.json(["clean", "--older-than", "0s", "--dry-run"]);
    assert!(listed["items"].to_string().contains("journal.damaged"), "{listed}");
    sandbox.run(clean.iter().chain(&["--yes"])).exits(0).says("removed");
    assert_eq!(sandbox.ok(["result", "b"]), "again\n");
    sandbox.ok(["down"]);
    sandbox.nothing_runs();
}

#[test]
fn a_journal_of_which_the_newest_files_are_gone_is_refused_and_what_is_left_can_be_kept() {
    let sandbox = Sandbox::new();
    sandbox.up(1).ok(["submit", "--wait", "--key", "old", "--", "echo", "kept"]);
    kill_scheduler(&sandbox);
    sandbox.ok(["submit", "--wait", "--key", "new", "--", "true"]);
    kill_scheduler(&sandbox);
    let journal = sandbox.cluster("default").join("journal");
    let newest = crate::support::sandbox::names(&journal).into_iter().max().unwrap();
    fs::rename(journal.join(&newest), sandbox.file("kept")).unwrap();
    sandbox.run(["status"]).exits(78).says(&newest).says("it is gone").says("epoch 2");
    // A repair keeps the older work.
    let repaired = sandbox.run(["doctor", "--repair"]).exits(0).text();
    assert!(repaired.contains("kept: 1 graph"), "{repaired}");
    assert_eq!(sandbox.ok(["result", "old"]), "kept\n");
    sandbox.run(["result", "new"]).exits(2);
}
