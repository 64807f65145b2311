//! The whole cluster in one event loop, over many seeds. A failure names its seed:
//! `JOBQ_SIM_SEED=n cargo test --test simulation` runs that one again, with its trace.

use jobq::sim::{Config, Report, run};

/// Seeds of one test run; `JOBQ_SIM_SEEDS` overrides it.
const SEEDS: u64 = 50;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs a seed; one that fails runs again with its trace, which is the same run.
fn simulate(seed: u64, config: &Config) -> Report {
    let outcome = std::panic::catch_unwind(|| run(seed, config));
    if let Ok(Ok(report)) = outcome {
        return report;
    }
    match run(seed, &Config { trace: true, ..config.clone() }) {
        Ok(_) => panic!("seed {seed} failed once, and not again: the run isn't deterministic"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn the_cluster_keeps_its_promises_under_every_fault() {
    let off = |variable| std::env::var(variable).is_ok();
    let config = Config { commands: !off("NOCMD"), restarts: !off("NORESTART"), ..Config::default() };
    if let Some(seed) = number("JOBQ_SIM_SEED") {
        println!("{}", simulate(seed, &config));
        return;
    }
    let mut report = Report::default();
    for seed in 0..number("JOBQ_SIM_SEEDS").unwrap_or(SEEDS) {
        report.merge(&simulate(seed, &config));
    }
    println!("{report}");
}
