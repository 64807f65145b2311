//! Whether the configuration can be read, and whether the site's part of it is safe from others.

use super::finding::{Finding, Verdict};
use super::ground::{Ground, chosen_name};
use crate::cli::exit::{CliError, Exit};
use crate::config::{Config, Layer, Settings};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bits of a mode with which others may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// All layers, the chosen profile, and every other profile.
pub fn loads(ground: &Ground) -> Finding {
    let (config, settings) = match (&ground.config, &ground.settings) {
        (Ok(config), Ok(settings)) => (config, settings),
        (Err(error), _) | (_, Err(error)) => return wrong(error.clone()),
    };
    let own = Finding::ok(format!("{}; {}", files(ground), choice(settings)));
    let broken = broken_profiles(config, ground.site);
    Finding::worst([vec![own], broken].concat())
}

/// The site's files: who may change what binds everybody.
pub fn site_files(ground: &Ground) -> Finding {
    let files: Vec<PathBuf> = ground.sources.site_dirs.iter().flat_map(|dir| files_of(dir)).collect();
    if files.is_empty() {
        let places: Vec<String> = ground
            .sources
            .site_dirs
            .iter()
            .map(|dir| dir.join("config.toml").display().to_string())
            .collect();
        return Finding::warning(
            format!("the site has no files ({})", places.join(", ")),
            "write one with `cluster.state_dir`, `profile.system`, [limits] and the site's profiles",
        );
    }
    let mut findings: Vec<Finding> = files.iter().filter_map(|file| unsafe_file(file)).collect();
    let limits = ground.settings.as_ref().map_or(0, |settings| {
        let bound = |entry: &&crate::config::Entry| {
            entry.origin.layer == Layer::Site && entry.key.starts_with("limits.")
        };
        settings.entries.iter().filter(bound).count()
    });
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    findings.push(Finding::ok(format!("{} ({limits} limits set)", names.join(", "))));
    Finding::worst(findings)
}

fn files(ground: &Ground) -> String {
    let sources = &ground.sources;
    let configs = sources.site_dirs.iter().chain([&sources.user_dir]).map(|dir| dir.join("config.toml"));
    let found: Vec<String> = configs
        .chain([sources.project_file.clone()])
        .filter(|file| file.is_file())
        .map(|file| file.display().to_string())
        .collect();
    if found.is_empty() { "no files of its own".to_owned() } else { found.join(", ") }
}

fn choice(settings: &Settings) -> String {
    let profile = &settings.profile;
    if profile.system.is_empty() {
        return "no queue chosen: `up` needs --queue".to_owned();
    }
    let queue = if profile.queue.is_empty() { "its default queue" } else { &profile.queue };
    format!("profile {}: {}, {queue}", chosen_name(settings), profile.system)
}

/// Profiles that can't be used: a warning to somebody who doesn't use them, the site's failure.
fn broken_profiles(config: &Config, site: bool) -> Vec<Finding> {
    let unusable = |name: &str| {
        let error = config.settings(Some(name), &[]).err()?;
        let finding = wrong(CliError::from(error));
        let found = format!("profile {name} can't be used: {}", finding.found);
        let finding = Finding { found, ..finding };
        Some(if site { finding } else { finding.at_most_warning() })
    };
    config.profiles().iter().filter_map(|profile| unusable(&profile.name)).collect()
}

/// The configuration's own words name the file, the line and the key.
fn wrong(error: CliError) -> Finding {
    let advice = if error.hint.is_empty() { "correct it there".to_owned() } else { error.hint.clone() };
    Finding::error(error).advising(advice)
}

/// A directory's configuration and profiles.
fn files_of(dir: &Path) -> Vec<PathBuf> {
    let mut files = vec![dir.join("config.toml")];
    let profiles = std::fs::read_dir(dir.join("profiles")).into_iter().flatten();
    files.extend(profiles.filter_map(|entry| Some(entry.ok()?.path())));
    files.retain(|file| file.is_file() && file.extension().is_some_and(|ending| ending == "toml"));
    files.sort();
    files
}

fn unsafe_file(file: &Path) -> Option<Finding> {
    let name = file.display();
    let meta = match std::fs::metadata(file) {
        Ok(meta) => meta,
        Err(error) => return Some(Finding::failed(Exit::Permission, format!("{name}: {error}"), "")),
    };
    let finding =
        |found: String, advice: String| Finding { verdict: Verdict::Failed(Exit::Permission), found, advice };
    if meta.uid() != 0 {
        let found = format!("{name} belongs to user {}, who can change what binds everybody", meta.uid());
        return Some(finding(found, format!("chown root {name}")));
    }
    if meta.mode() & WRITABLE_BY_OTHERS != 0 {
        let found = format!("{name} has mode {:04o}: others can change it", meta.mode() & 0o7777);
        return Some(finding(found, format!("chmod go-w {name}")));
    }
    None
}
