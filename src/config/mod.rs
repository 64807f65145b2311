//! The configuration: embedded defaults < site < user < project < environment < flags, resolved to [`Settings`]
//! without a missing value. Each value keeps its [`Origin`].
//!
//! `configs/default.toml` is the defaults and the reference in one. A profile (`profiles/NAME.toml` of the
//! program, the site or the user) is what `--queue NAME` picks; it goes over the `[profile]` defaults of the
//! site's and the user's `config.toml`, and under what is nearer to the work: project, environment and flags.
//! `[limits]` of the site's file bind every later layer.

mod error;
mod expand;
mod file;
mod limits;
mod origin;
mod profiles;
mod resolve;
mod schema;
mod settings;
mod units;
mod value;

pub use error::{BeyondLimit, ConfigError};
pub use expand::expand;
pub use file::ENVIRONMENT_PREFIX;
pub use origin::{Layer, Origin};
pub use profiles::ProfileName;
pub use schema::{PLACES, SYSTEMS, nearest_word};
pub use settings::{
    Choice, ClusterSettings, Entry, Limits, Profile, SchedulerSettings, Settings, TaskSettings,
    WorkerSettings,
};
pub use units::{
    MAX_DURATION, PortRange, UnitError, about_size, display_duration, display_size, parse_duration,
    parse_size,
};

use file::{Role, Values};
use profiles::ProfileFile;
use std::path::{Path, PathBuf};

/// The reference, with every default.
pub const DEFAULTS: &str = include_str!("../../configs/default.toml");

/// Where the layers are. Nothing in this room looks anywhere else.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The site's `jobq` directories, the most important first.
    pub site_dirs: Vec<PathBuf>,
    /// The user's directory; empty: none.
    pub user_dir: PathBuf,
    /// The project's file; empty: none.
    pub project_file: PathBuf,
    /// For `JOBQ_CFG_*`, and for variables in paths.
    pub environment: Vec<(String, String)>,
    /// Who may own the project's file, beside root.
    pub uid: u32,
}

/// A value given on the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flag {
    /// `section.key`; without a section, one of `profile`.
    pub key: String,
    pub value: String,
    /// Such as `--walltime`.
    pub origin: String,
    /// Lists and tables: add to what the layers below say.
    pub append: bool,
}

/// The layers as they were read. [`Config::settings`] lays a profile and flags over them.
#[derive(Debug)]
pub struct Config {
    defaults: Values,
    /// The site's and the user's, low to high.
    shared: Vec<Values>,
    /// The project's and the environment's, low to high.
    near: Vec<Values>,
    profiles: Vec<ProfileFile>,
    variables: Vec<(String, String)>,
}

impl Sources {
    /// Where this process finds them: `XDG_CONFIG_DIRS`, `XDG_CONFIG_HOME` or `~/.config`, and `.jobq.toml` in
    /// `directory`.
    pub fn of_process(directory: &Path) -> Sources {
        let mut environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let uid = nix::unistd::getuid();
        // Under a batch system or cron either may be missing; the paths that use them mean the same user.
        if let Ok(Some(user)) = nix::unistd::User::from_uid(uid) {
            for (name, value) in [("HOME", user.dir.to_string_lossy().into_owned()), ("USER", user.name)] {
                if !environment.iter().any(|(n, v)| n == name && !v.is_empty()) {
                    environment.push((name.to_owned(), value));
                }
            }
        }
        let value = |name: &str| {
            environment.iter().rfind(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.clone())
        };
        let site = value("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".to_owned());
        // The base-directory specification says to ignore relative paths.
        let site_dirs =
            site.split(':').filter(|d| d.starts_with('/')).map(|d| Path::new(d).join("jobq")).collect();
        let user_dir = value("XDG_CONFIG_HOME")
            .filter(|d| d.starts_with('/'))
            .map(PathBuf::from)
            .or_else(|| value("HOME").map(|home| Path::new(&home).join(".config")))
            .map_or(PathBuf::new(), |dir| dir.join("jobq"));
        let project_file = directory.join(".jobq.toml");
        Sources { site_dirs, user_dir, project_file, environment, uid: uid.as_raw() }
    }
}

/// Reads all layers but profiles, which are read when they are chosen.
pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
    let defaults = file::parse(DEFAULTS, Layer::Default, Path::new("default.toml"), Role::Config)
        .map_err(|e| ConfigError::BuiltIn(e.to_string()))?;
    let mut shared = Vec::new();
    let mut dirs: Vec<(Layer, &Path)> =
        sources.site_dirs.iter().rev().map(|d| (Layer::Site, d.as_path())).collect();
    if !sources.user_dir.as_os_str().is_empty() {
        dirs.push((Layer::User, &sources.user_dir));
    }
    for (layer, dir) in &dirs {
        let config = dir.join("config.toml");
        if let Some(text) = file::read(&config)? {
            shared.push(file::parse(&text, *layer, &config, Role::Config)?);
        }
    }
    let mut near = Vec::new();
    if !sources.project_file.as_os_str().is_empty()
        && let Some(text) = file::read_trusted(&sources.project_file, sources.uid)?
    {
        near.push(file::parse(&text, Layer::Project, &sources.project_file, Role::Config)?);
    }
    near.push(file::environment(&sources.environment)?);
    let profiles = profiles::list(&dirs)?;
    let config = Config { defaults, shared, near, profiles, variables: sources.environment.clone() };
    // What is wrong with the layers themselves is said now, whatever the verb.
    config.settings(None, &[])?;
    Ok(config)
}

impl Flag {
    pub fn new(key: impl Into<String>, value: impl ToString, origin: impl Into<String>) -> Flag {
        Flag { key: key.into(), value: value.to_string(), origin: origin.into(), append: false }
    }

    /// Adds to a list.
    pub fn append(key: impl Into<String>, value: impl ToString, origin: impl Into<String>) -> Flag {
        Flag { append: true, ..Flag::new(key, value, origin) }
    }
}
