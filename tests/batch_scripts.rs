//! The exact scripts for a table of options, in `tests/golden/`. To accept a change: `UPDATE_GOLDEN=1 cargo test`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jobq::batch::{AllocationSpec, JobId, SYSTEMS, Templates};

fn plain() -> AllocationSpec {
    AllocationSpec {
        name: "jq3f9a1c7".into(),
        comment: "winds".into(),
        workers: 1,
        cores: 1,
        walltime: Duration::from_secs(8 * 3600),
        command: ["/opt/jobq/bin/jobq", "worker", "--cluster", "/home/sci/.local/state/jobq/winds"]
            .map(String::from)
            .to_vec(),
        work_dir: PathBuf::from("/home/sci/project"),
        log: PathBuf::from("/home/sci/.local/state/jobq/winds/allocations/7.log"),
        ..AllocationSpec::default()
    }
}

fn table() -> Vec<(&'static str, AllocationSpec)> {
    let lines = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
    vec![
        ("plain", plain()),
        ("bare", AllocationSpec { comment: String::new(), walltime: Duration::ZERO, ..plain() }),
        (
            "sized",
            AllocationSpec {
                workers: 4,
                cores: 2,
                memory: 4 << 30,
                walltime: Duration::from_secs(36 * 3600 + 1),
                ..plain()
            },
        ),
        ("named", AllocationSpec { account: "met-office".into(), qos: "high".into(), ..plain() }),
        ("after", AllocationSpec { after: Some(JobId("4711".into())), ..plain() }),
        (
            "environment",
            AllocationSpec {
                environment: vec![
                    ("JOBQ_CLUSTER".into(), "winds".into()),
                    ("NOTE".into(), "it's $HOME `x`".into()),
                ],
                ..plain()
            },
        ),
        (
            "prologue",
            AllocationSpec {
                shebang: "#!/bin/bash -l".into(),
                prologue: lines(&["module load scitools", "ulimit -n 4096"]),
                ..plain()
            },
        ),
        (
            "epilogue",
            AllocationSpec { epilogue: lines(&["rm -rf \"$TMPDIR/jobq\"", "echo done"]), ..plain() },
        ),
        (
            "skipped",
            AllocationSpec {
                memory: 1 << 30,
                skip_directives: lines(&["--mem", "--comment", "--time"]),
                ..plain()
            },
        ),
        (
            "odd-paths",
            AllocationSpec {
                comment: "a \"b\" 'c' # d \\ é | $HOME".into(),
                work_dir: PathBuf::from("/scratch/my project's"),
                log: PathBuf::from("/scratch/my logs/100%.log"),
                ..plain()
            },
        ),
    ]
}

fn slurm_only() -> Vec<(&'static str, AllocationSpec)> {
    let extra = ["#SBATCH --constraint=intel", "-x node7", "--mail-user=\"a b\""].map(String::from).to_vec();
    vec![
        ("queue", AllocationSpec { queue: "spice".into(), ..plain() }),
        ("extra", AllocationSpec { extra_directives: extra, ..plain() }),
    ]
}

#[test]
fn scripts_are_exactly_these() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut different = Vec::new();
    let mut seen = 0;
    for system in SYSTEMS {
        let more = if system.name() == "slurm" { slurm_only() } else { Vec::new() };
        for (name, spec) in table().into_iter().chain(more) {
            let script = system.render(&spec, &Templates::embedded()).unwrap();
            let path = golden.join(format!("{}-{name}.sh", system.name()));
            if update {
                std::fs::write(&path, &script).unwrap();
            }
            if std::fs::read_to_string(&path).ok().as_ref() != Some(&script) {
                different.push(format!("{} should be:\n{script}", path.display()));
            }
            let syntax =
                std::process::Command::new("/bin/bash").args(["-n", "-c", &script]).status().unwrap();
            assert!(syntax.success(), "{script}");
            seen += 1;
        }
    }
    assert!(different.is_empty(), "{}\nUPDATE_GOLDEN=1 accepts them", different.join("\n"));
    assert_eq!(
        std::fs::read_dir(golden).unwrap().count(),
        seen,
        "a golden script that nothing renders any more"
    );
}
