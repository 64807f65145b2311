//! What tasks find around them.

use crate::support::sandbox::{Sandbox, finish};
use std::collections::BTreeMap;
use std::fs;

/// What a task sees.
fn environment(sandbox: &Sandbox, key: &str) -> BTreeMap<String, String> {
    let text = sandbox.ok(["result", key]);
    let pairs = text.split('\0').filter_map(|entry| entry.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn a_loaded_module_simply_works() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let apps = sandbox.path().join("apps");
    fs::create_dir_all(apps.join("winds/bin")).unwrap();
    let tool = sandbox.program("tool", "#!/bin/sh\necho \"$WINDS_UNUSED$MODULE_WINDS tool $1\"\n");
    fs::rename(tool, apps.join("winds/bin/tool")).unwrap();
    // As environment modules do it: an exported shell function that changes what follows.
    let script = format!(
        "module() {{ export PATH={apps}/$2/bin:$PATH LOADEDMODULES=$2 MODULE_WINDS=loaded; }}
         export -f module
         module load winds
         jq map --wait tool {{}} ::: a b
         jq submit --wait -- bash -c 'PATH=/usr/bin:/bin; module load winds; tool again'",
        apps = apps.display()
    );
    sandbox.bash(&script).exits(0);
    assert_eq!(sandbox.ok(["result", "g1.2"]), "loaded tool b\n");
    assert_eq!(sandbox.ok(["result", "g2.1"]), "loaded tool again\n");
    // Without it, the tool isn't there.
    sandbox.run(["map", "--wait", "tool", ":::", "a"]).exits(1).says("'tool' not found");
}

#[test]
fn a_virtual_environment_simply_works() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let venv = sandbox.path().join("venv/bin");
    fs::create_dir_all(&venv).unwrap();
    let python = sandbox.program("python", "#!/bin/sh\necho \"$VIRTUAL_ENV: $1\"\n");
    fs::rename(python, venv.join("python")).unwrap();
    let activate =
        "VIRTUAL_ENV=$(dirname $PWD)/venv; export VIRTUAL_ENV; PATH=\"$VIRTUAL_ENV/bin:$PATH\"; export PATH";
    fs::write(venv.join("activate"), activate).unwrap();
    sandbox.bash(". ../venv/bin/activate; jq map --wait python {} ::: plot.py").exits(0);
    let expected = format!("{}: plot.py\n", venv.parent().unwrap().display());
    assert_eq!(sandbox.ok(["result", "g1.1"]), expected);
}

#[test]
fn what_travels_and_what_does_not() {
    let sandbox = Sandbox::new();
    let secrets = [
        ("AWS_SECRET_ACCESS_KEY", "s1"),
        ("MY_API_TOKEN", "s2"),
        ("CONDA_TOKEN", "s3"),
        ("SLURM_JOB_ID", "s4"),
        ("PBS_JOBID", "s5"),
        ("EDITOR", "s6"),
        ("JOBQ_TASK_KEY", "s7"),
        ("SSH_AUTH_SOCK", "s8"),
    ];
    // Neither with a task, nor by way of the scheduler and its workers, which the same shell starts.
    let words = ["up", "--queue", "local", "--workers", "1", "--wait"];
    finish(sandbox.jq(words).envs(secrets), b"").exits(0);
    let submit = |key: &str, flags: &[&str]| {
        let words = [&["submit", "--wait", "--key", key], flags, &["--", "env", "-0"]].concat();
        let mut command = sandbox.jq(words);
        command.envs(secrets).env("PYTHONPATH", "/py").env("LC_NUMERIC", "C").env("MINE", "mine");
        finish(&mut command, b"").exits(0);
        environment(&sandbox, key)
    };
    let here = submit("here", &["--cores", "1"]);
    for (name, value) in secrets {
        assert!(here.get(name).is_none_or(|found| found != value), "{name} travelled");
    }
    assert_eq!((here["PYTHONPATH"].as_str(), here["LC_NUMERIC"].as_str()), ("/py", "C"));
    assert!(!here.contains_key("MINE"));
    assert_eq!(here["HOME"], sandbox.path().join("home").display().to_string());
    let task = |name: &str| here[&format!("JOBQ_TASK_{name}")].as_str();
    assert_eq!((task("KEY"), task("CORES"), task("ATTEMPT")), ("here", "1", "1"));
    assert!(!here.contains_key("JOBQ_TASK_OUTPUT"));
    assert_eq!(here["PWD"], sandbox.work().display().to_string());

    let named = submit(
        "named",
        &["--env", "MINE", "--env", "MY_API_TOKEN", "--env", "PYTHONPATH=/other", "--env", "EMPTY="],
    );
    assert_eq!((named["MINE"].as_str(), named["MY_API_TOKEN"].as_str()), ("mine", "s2"));
    assert_eq!((named["PYTHONPATH"].as_str(), named["EMPTY"].as_str()), ("/other", ""));
    let worker = submit("worker", &["--env-from", "worker", "--env", "MINE"]);
    assert_eq!(worker["MINE"], "mine");
    assert!(worker.contains_key("HOME") && !worker.contains_key("PYTHONPATH"));
    let none = submit("none", &["--env-from", "none", "--env", "MINE"]);
    let names: Vec<&str> =
        none.keys().map(String::as_str).filter(|name| !name.starts_with("JOBQ_")).collect();
    assert_eq!(names, ["MINE"]);
    sandbox.run(["submit", "--env", "NOT_SET", "--", "true"]).exits(2).says("NOT_SET");
    sandbox.run(["submit", "--env-from", "nowhere", "--", "true"]).exits(2);
}

#[test]
fn a_task_gives_work_to_its_own_cluster() {
    let sandbox = Sandbox::new();
    let up = ["up", "--name", "winds", "--queue", "local", "--workers", "2", "--cores", "2", "--wait"];
    sandbox.ok(up);
    let inner = "jq submit --wait --key inner -- echo \"from $JOBQ_TASK_KEY\" && jq result inner";
    let outer = ["submit", "--name", "winds", "--wait", "--key", "outer", "--cores", "2", "--", "sh", "-c"];
    let mut command = sandbox.jq(outer.iter().chain(&[inner]));
    finish(&mut command, b"").exits(0);
    assert_eq!(sandbox.ok(["result", "--name", "winds", "outer"]), "inner\nfrom outer\n");
    let cores = ["submit", "--name", "winds", "--wait", "--key", "cores", "--cores", "2", "--", "sh", "-c"];
    sandbox.ok(cores.iter().chain(&["echo $JOBQ_TASK_CORES $OMP_NUM_THREADS $JOBQ_CLUSTER"]));
    assert_eq!(sandbox.ok(["result", "--name", "winds", "cores"]), "2 2 winds\n");
    assert_eq!(
        sandbox.ok(["map", "--name", "winds", "--wait", "sh", "-c", "echo $JOBQ_TASK_KEY", ":::", "a"]),
        "g4\n"
    );
    assert_eq!(sandbox.ok(["result", "--name", "winds", "g4.1"]), "g4.1\n");
}
