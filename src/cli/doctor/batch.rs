//! The batch systems: their commands, their controllers, and whether the profile's queue takes its jobs.

use super::finding::Finding;
use super::ground::{Ground, Stake, Wanted, chosen_name};
use crate::batch::BatchError;
use crate::cli::exit::{CliError, Exit};
use crate::cli::fit::fit;
use crate::cli::live::system_of;
use crate::config::Settings;
use std::path::Path;

/// Commands on PATH and a controller that answers, for every batch system that a profile names. One that nobody
/// but a built-in profile names may be missing.
pub fn controllers(ground: &Ground) -> Finding {
    let wanted = ground.wanted();
    if wanted.is_empty() {
        return Finding::not_looked_at("no profile can be read");
    }
    Finding::worst(wanted.iter().map(|wanted| controller(ground, wanted)).collect())
}

/// Whether the limits of the queue allow the profile's jobs; with `--site` for every profile.
pub fn queue(ground: &Ground) -> Finding {
    let settings = match ground.settings() {
        Ok(settings) => settings,
        Err(finding) => return finding,
    };
    let mut profiles: Vec<(String, Settings, Stake)> = Vec::new();
    if !settings.profile.system.is_empty() {
        profiles.push((chosen_name(settings), settings.clone(), Stake::Chosen));
    }
    if ground.site {
        let is_here = |wanted: &Wanted| {
            let programs = wanted.system.programs();
            wanted.stake > Stake::BuiltIn || programs.iter().all(|program| ground.on_path(program).is_some())
        };
        for wanted in ground.wanted().into_iter().filter(is_here) {
            let known: Vec<String> = profiles.iter().map(|(name, ..)| name.clone()).collect();
            let others = wanted.profiles.into_iter().filter(|(name, _)| !known.contains(name));
            // The profile may be built in although somebody wrote another for the same system.
            profiles.extend(others.map(|(name, settings)| {
                let stake = stake_of(ground, &name);
                (name, settings, stake)
            }));
        }
    }
    if profiles.is_empty() {
        return Finding::ok("no queue chosen").advising("--queue PROFILE looks at one, --site at all");
    }
    let finding = |(name, settings, stake): &(String, Settings, Stake)| {
        let finding = one_queue(ground, name, settings);
        if *stake == Stake::BuiltIn { finding.at_most_warning() } else { finding }
    };
    Finding::worst(profiles.iter().map(finding).collect())
}

fn stake_of(ground: &Ground, profile: &str) -> Stake {
    let profiles = ground.config.as_ref().map(|config| config.profiles()).unwrap_or_default();
    let known = profiles.iter().find(|known| known.name == profile);
    let written = known.is_none_or(|known| known.sources.iter().any(|source| source.is_absolute()));
    if written { Stake::Configured } else { Stake::BuiltIn }
}

fn controller(ground: &Ground, wanted: &Wanted) -> Finding {
    let (system, name) = (wanted.system, wanted.system.name());
    let profiles: Vec<&str> = wanted.profiles.iter().map(|(profile, _)| profile.as_str()).collect();
    let used_by = format!("profile {}", profiles.join(", "));
    let (there, missing): (Vec<&str>, Vec<&str>) =
        system.programs().iter().partition(|program| ground.on_path(program).is_some());
    if !missing.is_empty() {
        let found = format!("{name} ({used_by}): not on PATH: {}", missing.join(", "));
        if there.is_empty() && wanted.stake == Stake::BuiltIn {
            return Finding::ok(format!("{name} is not installed here ({used_by})"));
        }
        let advice =
            format!("`module load` it or add its directory to PATH; else use a host that has {name}");
        return weigh(Finding::failed(Exit::Config, found, advice), wanted.stake);
    }
    let Some((_, settings)) = wanted.profiles.first() else { return Finding::ok(name) };
    match ground.ask(settings) {
        Ok(queues) => {
            let places = system.programs().first().and_then(|program| ground.on_path(program));
            let place = places.as_deref().and_then(Path::parent);
            let place = place.map_or(String::new(), |dir| format!(", commands in {}", dir.display()));
            let queues: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
            Finding::ok(format!("{name} answers{place}; {}s: {}", system.queue_word(), queues.join(", ")))
        }
        Err(error) => weigh(unanswered(name, error), wanted.stake),
    }
}

fn weigh(finding: Finding, stake: Stake) -> Finding {
    if stake == Stake::BuiltIn { finding.at_most_warning() } else { finding }
}

fn unanswered(name: &str, error: BatchError) -> Finding {
    let CliError { exit, message, .. } = error.into();
    let advice = match exit {
        Exit::TryAgain => "try again later; running clusters wait for it",
        Exit::Permission => "ask the site whether you may use it",
        _ => "set it up for this host, or use one where that command works",
    };
    Finding::failed(exit, format!("{name}: {message}"), advice)
}

fn one_queue(ground: &Ground, name: &str, settings: &Settings) -> Finding {
    let system = match system_of(settings) {
        Ok(system) => system,
        Err(error) => return Finding::error(error),
    };
    let Ok(queues) = ground.ask(settings) else {
        return Finding::not_looked_at(&format!("{} doesn't answer (profile {name})", system.name()));
    };
    let fit = fit(settings, system, &queues);
    let told = |reasons: &[String]| format!("profile {name}: {}", reasons.join("; "));
    if !fit.never.is_empty() {
        let advice = format!("change the profile; `{} queues` lists what there is", ground.program);
        return Finding::failed(Exit::Config, told(&fit.never), advice);
    }
    if !fit.doubts.is_empty() {
        return Finding::warning(told(&fit.doubts), "its jobs may wait for long");
    }
    let queue = fit.queue.map_or(String::new(), |queue| queue.name);
    Finding::ok(format!(
        "profile {name}: {} `{queue}` takes its walltime, cores and memory",
        system.queue_word()
    ))
}
