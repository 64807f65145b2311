//! How batch commands are run: found, cleaned, bounded and killed. With commands of the test's own.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use jobq::batch::{self, Batch, ErrorKind, Invocation, JobId, Program, Site, Templates};
use support::{eventually, is_alive, job, write_script};

/// Slurm's commands looked up in `bin` only.
fn slurm_in(bin: &Path) -> Batch {
    let environment = vec![("PATH".to_owned(), bin.display().to_string())];
    Batch::new(batch::system("slurm").unwrap(), Site { environment, ..Site::default() })
}

fn command(dir: &Path, name: &str, script: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn invocation(args: &[&str]) -> Invocation {
    Invocation {
        program: Program::Named("sh"),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env_set: Vec::new(),
        env_remove: &[],
        env_keep: &[],
        stdin: Vec::new(),
        timeout: support::PATIENCE,
    }
}

fn anywhere() -> Batch {
    Batch::new(batch::system("slurm").unwrap(), Site::default())
}

/// What a site with accounting says to a user without that account, through a wrapper as a site may have one.
#[tokio::test]
async fn a_recorded_refusal_of_an_account() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified";
    command(dir.path(), "sbatch", &format!("echo '{refusal}' >&2; exit 1"));
    let batch = slurm_in(dir.path());
    let mut spec = job(dir.path(), "jqa", "true");
    spec.account = "nobody".into();
    let script = write_script(&batch, &spec);
    let error = batch.submit(&spec, &script).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert_eq!(error.kind.exit_code(), 78);
    let text = error.to_string();
    assert!(text.contains(refusal) && text.contains("check `account`"), "{text}");
    assert!(text.contains(&format!("sbatch --parsable {}", script.display())), "{text}");
}

#[tokio::test]
async fn commands_that_are_not_there_are_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("squeue"), "not executable").unwrap();
    let batch = slurm_in(dir.path());
    assert_eq!(batch.missing_programs(), ["sbatch", "squeue", "scancel", "scontrol", "sinfo"]);
    for (name, error) in [
        ("scontrol", batch.health().await.unwrap_err()),
        ("squeue", batch.find("jq").await.unwrap_err()),
        ("scancel", batch.cancel(&[JobId("1".into())]).await.unwrap_err()),
        ("sinfo", batch.queues().await.unwrap_err()),
    ] {
        assert_eq!(error.kind, ErrorKind::NotInstalled);
        assert!(error.to_string().starts_with(&format!("{name} is not on PATH")), "{error}");
    }
}

#[tokio::test]
async fn a_submit_that_answers_too_late_is_in_doubt_and_its_processes_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script = format!("sleep 1000 & echo $$ $! > {}; echo half an ans; wait", pids.display());
    let mut slow = invocation(&["-c", &script]);
    // Long enough to write the pids first, on any machine that gets to run it at all.
    slow.timeout = Duration::from_secs(3);
    let output = anywhere().run(&slow).await.unwrap();
    assert!(output.timed_out);
    assert_eq!((output.code, output.stdout.as_str()), (None, "half an ans\n"));
    let slurm = batch::system("slurm").unwrap();
    assert_eq!(slurm.parse_submit(&output).unwrap_err().kind, ErrorKind::Ambiguous);
    assert_eq!(slurm.parse_health(&output).unwrap_err().kind, ErrorKind::TryAgain);
    for pid in fs::read_to_string(pids).unwrap().split_whitespace() {
        let pid = pid.parse().unwrap();
        eventually("the end of the command's processes", async || (!is_alive(pid)).then_some(())).await;
    }
}

#[tokio::test]
async fn nobody_waiting_any_more_kills_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let script = format!("echo $$ > {}; sleep 1000", file.display());
    let task = tokio::spawn(async move { anywhere().run(&invocation(&["-c", &script])).await });
    let pid =
        eventually("the command's pid", async || fs::read_to_string(&file).ok()?.trim().parse().ok()).await;
    task.abort();
    eventually("the command's end", async || (!is_alive(pid)).then_some(())).await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_does_not_hold_us_up() {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    nix::unistd::mkfifo(gate.as_path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // As a batch client does that leaves a background process with its stdout open.
    let output =
        anywhere().run(&invocation(&["-c", &format!("cat {} & echo 17", gate.display())])).await.unwrap();
    assert_eq!((output.code, output.stdout.as_str(), output.timed_out), (Some(0), "17\n", false));
    fs::write(gate, "").unwrap();
}

#[tokio::test]
async fn the_environment_is_cleaned_by_pattern_with_exceptions() {
    // Variables that cargo sets for every test.
    let mut show = invocation(&["-c", "env | grep ^CARGO | cut -d= -f1 | sort; echo $ADDED"]);
    show.env_remove = &["CARGO*", "ADDED"];
    show.env_keep = &["CARGO_PKG_NAME"];
    show.env_set = vec![("ADDED".into(), "by us".into())];
    let output = anywhere().run(&show).await.unwrap();
    assert_eq!(output.stdout, "CARGO_PKG_NAME\nby us\n");
}

#[tokio::test]
async fn input_output_and_exit_code() {
    let mut command = invocation(&["-c", "cat; echo bad >&2; exit 3"]);
    command.stdin = b"good\n".to_vec();
    let output = anywhere().run(&command).await.unwrap();
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(3), "good\n", "bad\n"));
    // It doesn't have to read its input.
    command.args = vec!["-c".into(), "exit 4".into()];
    command.stdin = vec![b'x'; 1 << 20];
    assert_eq!(anywhere().run(&command).await.unwrap().code, Some(4));
}

#[tokio::test]
async fn a_flood_is_not_an_answer() {
    let error = anywhere().run(&invocation(&["-c", "head -c 20000000 /dev/zero"])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unexpected);
    assert!(error.to_string().contains("longer than"), "{error}");
    // A flood of complaints is cut.
    let output = anywhere().run(&invocation(&["-c", "head -c 20000000 /dev/zero >&2"])).await.unwrap();
    assert!(output.code == Some(0) && output.stderr.len() <= 1 << 16);
}

#[tokio::test]
async fn directories_that_a_job_needs_are_looked_at_first() {
    let dir = tempfile::tempdir().unwrap();
    command(dir.path(), "sbatch", "echo 1");
    let batch = slurm_in(dir.path());
    assert!(!batch.missing_programs().contains(&"sbatch"));
    let spec = job(dir.path(), "jqa", "true");
    let script = write_script(&batch, &spec);
    assert_eq!(batch.submit(&spec, &script).await, Ok(JobId("1".into())));
    let mut no_log = spec.clone();
    no_log.log = dir.path().join("missing/a.log");
    let error = batch.submit(&no_log, &script).await.unwrap_err();
    assert!(error.kind == ErrorKind::Refused && error.to_string().contains("/missing"), "{error}");
    let mut no_dir = spec;
    no_dir.work_dir = dir.path().join("sbatch");
    let error = batch.submit(&no_dir, &script).await.unwrap_err();
    assert!(error.to_string().contains("not a directory"), "{error}");
}

#[test]
fn a_users_templates_are_read_from_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let slurm = batch::system("slurm").unwrap();
    let spec = job(dir.path(), "jqa", "true");
    let ours = slurm.render(&spec, &Templates::load(None).unwrap()).unwrap();
    assert_eq!(slurm.render(&spec, &Templates::load(Some(dir.path())).unwrap()).unwrap(), ours);
    fs::write(dir.path().join("slurm.sh.tera"), "#!/bin/sh\n# mine\nexec {{ command }}\n").unwrap();
    let mine = slurm.render(&spec, &Templates::load(Some(dir.path())).unwrap()).unwrap();
    assert_eq!(mine, "#!/bin/sh\n# mine\nexec '/bin/sh' '-c' 'true'\n");
    fs::remove_file(dir.path().join("slurm.sh.tera")).unwrap();
    fs::create_dir(dir.path().join("slurm.sh.tera")).unwrap();
    let error = Templates::load(Some(dir.path())).unwrap_err();
    assert!(error.kind == ErrorKind::Refused && error.to_string().contains("slurm.sh.tera"), "{error}");
}
