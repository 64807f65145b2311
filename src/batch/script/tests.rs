use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::batch::{SYSTEMS, system};

fn spec() -> AllocationSpec {
    AllocationSpec {
        name: "jq0a1b2c1".into(),
        comment: "winds".into(),
        workers: 1,
        cores: 1,
        walltime: Duration::from_secs(3600),
        command: ["/opt/jobq/jobq", "worker", "--name", "w1"].map(String::from).to_vec(),
        work_dir: PathBuf::from("/home/sci"),
        log: PathBuf::from("/home/sci/.local/state/jobq/winds/1.log"),
        ..AllocationSpec::default()
    }
}

fn render(system_name: &str, spec: &AllocationSpec) -> Result<String, BatchError> {
    system(system_name).unwrap().render(spec, &Templates::embedded())
}

/// Every value that ends up in a script, one at a time, with `text` in it.
fn with_each_field(text: &str) -> Vec<(&'static str, AllocationSpec)> {
    let t = || text.to_owned();
    let base = spec();
    vec![
        ("job name", AllocationSpec { name: t(), ..base.clone() }),
        ("comment", AllocationSpec { comment: t(), ..base.clone() }),
        ("queue", AllocationSpec { queue: t(), ..base.clone() }),
        ("account", AllocationSpec { account: t(), ..base.clone() }),
        ("qos", AllocationSpec { qos: t(), ..base.clone() }),
        ("command", AllocationSpec { command: vec!["/bin/true".into(), t()], ..base.clone() }),
        ("work_dir", AllocationSpec { work_dir: format!("/{text}").into(), ..base.clone() }),
        ("log", AllocationSpec { log: format!("/{text}").into(), ..base.clone() }),
        ("environment variable A", AllocationSpec { environment: vec![("A".into(), t())], ..base.clone() }),
        ("environment variable", AllocationSpec { environment: vec![(t(), "1".into())], ..base.clone() }),
        ("extra directive", AllocationSpec { extra_directives: vec![format!("--a={text}")], ..base.clone() }),
        ("shebang", AllocationSpec { shebang: format!("/bin/sh{text}"), ..base.clone() }),
        ("prologue", AllocationSpec { prologue: vec![t()], ..base.clone() }),
        ("epilogue", AllocationSpec { epilogue: vec![t()], ..base }),
    ]
}

#[test]
fn no_value_can_begin_a_line_of_its_own() {
    for text in ["a\n#SBATCH --uid=0", "a\r#JOBQ --slots=1", "a\0b", "a\u{2028}b", "\u{1b}[2J"] {
        for (field, spec) in with_each_field(text) {
            for name in ["slurm", "local"] {
                let error = render(name, &spec).expect_err(field);
                assert_eq!(error.kind, ErrorKind::Refused);
                let named = error.summary.contains(field) || (field == "queue" && name == "local");
                assert!(named, "{field}: {}", error.summary);
            }
        }
    }
}

#[test]
fn names_of_the_site_have_no_shell_in_them() {
    for text in ["spice --uid=0", "a\"b", "a'b", "a$b", "a;b", "--uid=0", "a#b", "a`b`", "a\\b"] {
        for field in ["queue", "account", "qos"] {
            let (_, spec) = with_each_field(text).into_iter().find(|(name, _)| *name == field).unwrap();
            let error = render("slurm", &spec).expect_err(text);
            assert!(error.summary.contains(field), "{text}: {}", error.summary);
        }
    }
    let spec = AllocationSpec { account: "met.office_uk-1@x".into(), queue: "spice,short".into(), ..spec() };
    assert!(render("slurm", &spec).is_ok());
}

#[test]
fn directives_can_not_hide_in_shell_lines() {
    let spec = AllocationSpec { prologue: vec!["  #SBATCH --mem=0".into()], ..spec() };
    assert!(render("slurm", &spec).unwrap_err().summary.contains("extra directive"));
    assert!(render("local", &spec).is_ok(), "there it is a comment");
}

#[test]
fn what_can_not_work_is_refused_by_name() {
    let base = spec();
    for (words, spec) in [
        ("job name", AllocationSpec { name: "sixteencharacter".into(), ..base.clone() }),
        ("job name", AllocationSpec { name: "7up".into(), ..base.clone() }),
        ("job name", AllocationSpec { name: String::new(), ..base.clone() }),
        ("workers", AllocationSpec { workers: 0, ..base.clone() }),
        ("cores", AllocationSpec { cores: 0, ..base.clone() }),
        ("command", AllocationSpec { command: vec![], ..base.clone() }),
        ("command", AllocationSpec { command: vec!["jobq".into()], ..base.clone() }),
        ("work_dir", AllocationSpec { work_dir: "here".into(), ..base.clone() }),
        ("log", AllocationSpec { log: "log".into(), ..base.clone() }),
        ("extra directive", AllocationSpec { extra_directives: vec!["exclusive".into()], ..base.clone() }),
        ("extra directive", AllocationSpec { extra_directives: vec!["#SBATCH".into()], ..base.clone() }),
        ("shebang", AllocationSpec { shebang: "#!bash".into(), ..base }),
    ] {
        let error = render("slurm", &spec).expect_err(words);
        assert!(error.summary.contains(words), "{words}: {}", error.summary);
    }
}

#[test]
fn skipping_by_flag_and_by_part() {
    let lines = |skip: &str| {
        let spec = AllocationSpec { memory: 1 << 30, skip_directives: vec![skip.into()], ..spec() };
        render("slurm", &spec).unwrap().lines().filter(|line| line.starts_with("#SBATCH")).count()
    };
    let all = lines("");
    assert_eq!(lines("--mem"), all - 1);
    assert_eq!(lines("--me"), all, "a flag is meant exactly");
    assert_eq!(lines("nodes=1"), all - 1);
    assert_eq!(lines("--mem="), all - 1);
    let spec = AllocationSpec {
        skip_directives: vec!["--mem".into()],
        extra_directives: vec!["#SBATCH --mem=0".into(), "-C fast".into()],
        ..spec()
    };
    let script = render("slurm", &spec).unwrap();
    assert!(
        script.contains("\n#SBATCH --mem=0\n#SBATCH -C fast\n"),
        "the user's own are never skipped\n{script}"
    );
}

#[test]
fn sizes_round_up() {
    let spec = AllocationSpec {
        workers: 3,
        cores: 2,
        memory: (1 << 30) + 1,
        walltime: Duration::from_millis(60_001),
        ..spec()
    };
    let script = render("slurm", &spec).unwrap();
    for line in ["--cpus-per-task=6", "--mem=3073M", "--time=00:02:00"] {
        assert!(script.contains(&format!("#SBATCH {line}\n")), "{line}\n{script}");
    }
    assert!(render("local", &spec).unwrap().contains("#JOBQ --slots=6\n#JOBQ --time=61\n"));
}

#[test]
fn a_users_template_takes_the_place_of_ours() {
    let mut templates = Templates::embedded();
    templates.replace("slurm", "#!/bin/sh\n#SBATCH --my-own\n{% include \"command.sh.tera\" -%}\n".into());
    let slurm = system("slurm").unwrap();
    let script = slurm.render(&spec(), &templates).unwrap();
    assert_eq!(script, "#!/bin/sh\n#SBATCH --my-own\nexec '/opt/jobq/jobq' 'worker' '--name' 'w1'\n");
    for broken in ["#!/bin/sh\n{% if %}", "#!/bin/sh\n{{ nothing_like_that }}", "echo\n", "#!/bin/sh\r\n"] {
        templates.replace("slurm", broken.into());
        let error = slurm.render(&spec(), &templates).expect_err(broken);
        assert!(error.summary.contains("slurm.sh.tera"), "{}", error.summary);
    }
}

#[test]
fn templates_are_found_by_the_systems_names() {
    let names: Vec<&str> = Templates::names().collect();
    assert!(SYSTEMS.iter().all(|system| names.contains(&system.name())));
}

#[test]
fn quoting_only_when_needed() {
    assert_eq!(quote_if_needed("/a/b-c_d.e:f=g,h"), "/a/b-c_d.e:f=g,h");
    assert_eq!(quote_if_needed("a b"), "'a b'");
    assert_eq!(quote_if_needed(""), "''");
    assert_eq!(quote("it's"), r"'it'\''s'");
}

/// What a shell makes of a rendered script: its arguments and one variable, each on a line.
fn run(spec: &AllocationSpec) -> String {
    let script = render("local", spec).unwrap();
    let output = std::process::Command::new("/bin/bash").arg("-c").arg(script).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn a_shell_reads_exactly_what_was_meant(word in "[ -~äé]{0,20}", value in "[ -~]{0,20}") {
        let spec = AllocationSpec {
            command: ["/usr/bin/printenv", "A"].map(String::from).to_vec(),
            environment: vec![("A".into(), value.clone())],
            work_dir: "/".into(),
            ..spec()
        };
        proptest::prop_assert_eq!(run(&spec), format!("{value}\n"));
        let spec = AllocationSpec { command: vec!["/usr/bin/printf".into(), "%s|%s\\n".into(), word.clone(), "x".into()], ..spec };
        proptest::prop_assert_eq!(run(&spec), format!("{word}|x\n"));
    }

    #[test]
    fn a_value_that_is_taken_adds_no_directive(text in "\\PC{0,30}") {
        let directives = |script: &str| script.lines().filter(|line| line.starts_with("#SBATCH")).count();
        let plain = directives(&render("slurm", &spec()).unwrap());
        for (field, spec) in with_each_field(&text) {
            let Ok(script) = render("slurm", &spec) else { continue };
            let expected = match field {
                "comment" if text.is_empty() => plain - 1,
                "queue" | "account" | "qos" if !text.is_empty() => plain + 1,
                "extra directive" => plain + 1,
                _ => plain,
            };
            proptest::prop_assert_eq!(directives(&script), expected, "{}", field);
        }
    }
}

#[test]
fn only_an_id_of_a_job_can_be_waited_for() {
    for odd in ["", "7\n#SBATCH --uid=0", "7 --wrap=x", "7;8", "7:afterok"] {
        assert_eq!(job_word(&JobId(odd.into())).unwrap_err().kind, ErrorKind::Refused, "{odd:?}");
    }
    for plain in ["17", "17_3", "5[3].pbs-server"] {
        assert_eq!(job_word(&JobId(plain.into())).unwrap(), plain);
    }
}
