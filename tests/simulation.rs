//! The whole cluster in one event loop, over many seeds. A failure names its seed:
//! `JOBQ_SIM_SEED=n cargo test --test simulation` runs that one again, with its trace.

use jobq::sim::{Config, EXPECTED, Plant, Report, run};

/// Seeds of one test run; `JOBQ_SIM_SEEDS` overrides it.
const SEEDS: u64 = 150;
/// Seeds within which every planted defect must be caught.
const SEEDS_FOR_PLANTS: u64 = 1000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs a seed; `None` if it fails.
fn passes(seed: u64, config: &Config) -> Option<Report> {
    std::panic::catch_unwind(|| run(seed, config)).ok()?.ok()
}

/// Runs a seed; one that fails runs again with its trace, which is the same run.
fn simulate(seed: u64, config: &Config) -> Report {
    if let Some(report) = passes(seed, config) {
        return report;
    }
    match run(seed, &Config { trace: true, ..config.clone() }) {
        Ok(_) => panic!("seed {seed} failed once, and not again: the run isn't deterministic"),
        Err(failure) => panic!("{failure}JOBQ_SIM_SEED={seed} cargo test --test simulation runs it again"),
    }
}

#[test]
fn the_cluster_keeps_its_promises_under_every_fault() {
    let config = Config::default();
    if let Some(seed) = number("JOBQ_SIM_SEED") {
        println!("{}", simulate(seed, &config));
        return;
    }
    let seeds = number("JOBQ_SIM_SEEDS").unwrap_or(SEEDS);
    let mut report = Report::default();
    let mut failed = Vec::new();
    for seed in 0..seeds {
        match passes(seed, &config) {
            Some(of_seed) => report.merge(&of_seed),
            None => failed.push(seed),
        }
    }
    println!("{report}");
    if let Some(first) = failed.first() {
        println!("of {seeds} seeds, these fail: {failed:?}; the first of them:");
        simulate(*first, &config);
    }
    if seeds >= SEEDS {
        let missing = report.missing(EXPECTED);
        assert!(
            missing.is_empty(),
            "none of {seeds} seeds did this, so nothing is proven of it: {missing:?}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let config = Config { trace: true, ..Config::default() };
    assert_eq!(simulate(7, &config), simulate(7, &config));
}

#[test]
fn kernels_alone_need_no_restart_to_be_simulated() {
    let config = Config { commands: false, restarts: false, ..Config::default() };
    let report = simulate(1, &config);
    assert!(report.missing(&["task: assigned -> held", "run: clean ends"]).is_empty());
    assert_eq!(report.counts.get("commands: started"), None);
}

/// A simulation that lets these pass would prove nothing.
#[test]
fn planted_defects_are_caught() {
    for plant in [
        Plant::ActBeforeDurable,
        Plant::AnswerBeforeDurable,
        Plant::AssignTwice,
        Plant::TakeStaleAttempt,
        Plant::FreeEarly,
        Plant::SendUnfenced,
        Plant::AnswerUnfenced,
        Plant::PlaceBeforeWindow,
        Plant::RemoveUnfenced,
        Plant::ReadUnfenced,
        Plant::LetGoUnwritten,
        Plant::ServeOn,
    ] {
        let config = Config { plant: Some(plant), ..Config::default() };
        let caught = (0..SEEDS_FOR_PLANTS).find_map(|seed| run(seed, &config).err());
        let Some(failure) = caught else { panic!("{plant:?} passes for {SEEDS_FOR_PLANTS} seeds") };
        println!("{plant:?}: {failure}");
    }
}
