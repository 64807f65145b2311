//! What checks stand on: the configuration, and this host as the program found it. Tests put other things there.

use super::finding::Finding;
use super::job::{self, Sent};
use crate::batch::{BatchError, BatchSystem, QueueInfo};
use crate::cli::Context;
use crate::cli::connect::block_on;
use crate::cli::exit::CliError;
use crate::cli::live::{Live, system_of};
use crate::cli::passthrough;
use crate::cluster::logout::{self, Logout};
use crate::config::{self, Config, Settings, Sources};
use crate::net::{Interface, listen};
use crate::scheduler::spec::own_program;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs;
use nix::sys::statvfs::statvfs;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long the list of queues may take once the controller has answered.
const QUEUES_PATIENCE: Duration = Duration::from_secs(20);

/// What a profile's batch system says: its queues, or why it doesn't.
pub type Answer = Result<Vec<QueueInfo>, BatchError>;

pub struct Ground {
    /// As the user called us.
    pub program: &'static str,
    pub cluster: String,
    /// The site's files and every profile too.
    pub site: bool,
    pub sources: Sources,
    pub config: Result<Config, CliError>,
    /// What is in force with `--queue`, or without.
    pub settings: Result<Settings, CliError>,
    /// Whether `--queue` was given: then its profile alone counts.
    pub queue_given: bool,
    /// Our program, as job scripts would name it.
    pub exe: Result<PathBuf, String>,
    /// `JOBQ_JSON_JQ`.
    pub json_jq: Option<OsString>,
    /// `PATH`.
    pub path: OsString,
    pub interfaces: fn() -> io::Result<Vec<Interface>>,
    pub room: fn(&Path) -> io::Result<Room>,
    pub file_system: fn(&Path) -> io::Result<FileSystem>,
    /// Soft and hard limit of open files.
    pub open_files: fn() -> io::Result<(u64, u64)>,
    pub now: fn() -> SystemTime,
    /// What this host does when that user logs out.
    pub logout: fn(&str) -> Logout,
    /// What jobs of these profiles saw.
    pub send_jobs: fn(&Ground) -> Vec<Sent>,
    jobs: OnceCell<Vec<Sent>>,
    answers: RefCell<BTreeMap<String, Answer>>,
}

/// What is left on a file system for this user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    pub bytes: u64,
    /// `None`: it has as many as fit.
    pub inodes: Option<u64>,
}

/// What kind of place a file system is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileSystem {
    /// Gone at the next reboot, and no other host sees it.
    Memory,
    /// A disk of this host, which it may export.
    Disk(String),
    /// Anything else: a file server's, mostly.
    Other,
}

/// A batch system that somebody may want to use from here.
pub struct Wanted {
    pub system: &'static dyn BatchSystem,
    /// Profiles that name it, each with its settings.
    pub profiles: Vec<(String, Settings)>,
    pub stake: Stake,
}

/// How much depends on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stake {
    /// Only profiles that are built in name it, whether or not the site has it.
    BuiltIn,
    /// A profile that somebody wrote names it.
    Configured,
    /// It is what `jq up` would use.
    Chosen,
}

impl Ground {
    /// This process's.
    pub fn of_process(context: &Context, queue: Option<&str>, site: bool) -> Ground {
        let sources = Sources::of_process(Path::new("."));
        let exe = own_program().map_err(|error| error.to_string());
        let mut ground = Ground::new(sources, queue, exe);
        ground.program = context.program;
        ground.cluster.clone_from(&context.cluster);
        ground.site = site;
        ground
    }

    /// This host, with that configuration.
    pub fn new(sources: Sources, queue: Option<&str>, exe: Result<PathBuf, String>) -> Ground {
        let config = config::load(&sources).map_err(CliError::from);
        let settings = match &config {
            Ok(config) => config.settings(queue, &[]).map_err(CliError::from),
            Err(error) => Err(error.clone()),
        };
        Ground {
            program: "jq",
            cluster: "default".to_owned(),
            site: false,
            sources,
            config,
            settings,
            queue_given: queue.is_some(),
            exe,
            json_jq: std::env::var_os(passthrough::OVERRIDE),
            path: std::env::var_os("PATH").unwrap_or_default(),
            interfaces: listen::interfaces,
            room,
            file_system,
            open_files: || Ok(getrlimit(Resource::RLIMIT_NOFILE)?),
            now: SystemTime::now,
            logout: |user| block_on(async { Ok(logout::ask(user).await) }).unwrap_or_default(),
            send_jobs: job::send_all,
            jobs: OnceCell::new(),
            answers: RefCell::default(),
        }
    }

    /// What is in force, for checks that need it.
    ///
    /// # Errors
    /// What such a check finds without: another one has said why.
    pub fn settings(&self) -> Result<&Settings, Finding> {
        self.settings.as_ref().map_err(|_| Finding::not_looked_at("the configuration can't be used as it is"))
    }

    /// The batch systems to look at, those with the most at stake first.
    pub fn wanted(&self) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        let mut add = |name: String, settings: &Settings, stake: Stake| {
            let Ok(system) = system_of(settings) else { return };
            match wanted.iter_mut().find(|known| known.system.name() == system.name()) {
                Some(known) => {
                    known.stake = known.stake.max(stake);
                    if !known.profiles.iter().any(|(profile, _)| *profile == name) {
                        known.profiles.push((name, settings.clone()));
                    }
                }
                None => wanted.push(Wanted { system, profiles: vec![(name, settings.clone())], stake }),
            }
        };
        if let Ok(settings) = &self.settings {
            add(chosen_name(settings), settings, Stake::Chosen);
        }
        if let (Ok(config), true) = (&self.config, self.site || !self.queue_given) {
            for profile in config.profiles() {
                // The names of built-in ones are no places of a disk.
                let written = profile.sources.iter().any(|source| source.is_absolute());
                let stake = if written { Stake::Configured } else { Stake::BuiltIn };
                // One that can't be read is the business of another check.
                if let Ok(settings) = config.settings(Some(&profile.name), &[]) {
                    add(profile.name, &settings, stake);
                }
            }
        }
        wanted.sort_by_key(|system| std::cmp::Reverse(system.stake));
        wanted
    }

    /// The queues of the batch system of `settings`, asked once a system; the controller is asked first, because
    /// that question has the quickest answer when it is dead.
    pub fn ask(&self, settings: &Settings) -> Answer {
        // A queue of our own differs by profile: its slots are a setting.
        let profile = &settings.profile;
        let key =
            format!("{} {} {} {}", profile.system, profile.slots, profile.cores, profile.workers_per_job);
        let key = if profile.system == "local" { key } else { profile.system.clone() };
        if let Some(known) = self.answers.borrow().get(&key) {
            return known.clone();
        }
        let answer = self.live(settings).and_then(|live| {
            live.health()?;
            live.queues(QUEUES_PATIENCE)
        });
        self.answers.borrow_mut().insert(key, answer.clone());
        answer
    }

    /// What jobs saw, which are sent once.
    pub fn jobs(&self) -> &[Sent] {
        self.jobs.get_or_init(|| (self.send_jobs)(self))
    }

    fn live(&self, settings: &Settings) -> Result<Live, BatchError> {
        let refused = |words: String| BatchError::new(crate::batch::ErrorKind::Refused, words);
        let exe = self.exe.clone().map_err(refused)?;
        Live::new(settings, &self.cluster, exe, &self.path).map_err(|error| refused(error.message))
    }

    /// The executable file of that name on PATH. Relative entries don't count, as in `batch`.
    pub fn on_path(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(name))
            .find(|file| is_program(file))
    }
}

/// What users call the settings in force.
pub fn chosen_name(settings: &Settings) -> String {
    match &settings.choice {
        config::Choice::Profile(name) => name.clone(),
        config::Choice::Literal { queue, .. } if !queue.is_empty() => queue.clone(),
        _ => "the default".to_owned(),
    }
}

/// A file that this user may execute.
pub fn is_program(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// The path itself, or what there is of its parents.
pub fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/"))
}

fn room(path: &Path) -> io::Result<Room> {
    let stat = statvfs(path)?;
    let bytes = stat.blocks_available().saturating_mul(stat.fragment_size());
    let counted = stat.files() > 0;
    Ok(Room { bytes, inodes: counted.then(|| stat.files_available()) })
}

/// By the kernel's numbers (`statfs(2)`).
fn file_system(path: &Path) -> io::Result<FileSystem> {
    const RAMFS: i64 = 0x8584_58f6;
    let kind = statfs::statfs(path)?.filesystem_type();
    let disk = |name: &str| FileSystem::Disk(name.to_owned());
    Ok(match kind {
        statfs::TMPFS_MAGIC => FileSystem::Memory,
        other if other == statfs::FsType(RAMFS as _) => FileSystem::Memory,
        statfs::EXT4_SUPER_MAGIC => disk("ext4"),
        statfs::XFS_SUPER_MAGIC => disk("xfs"),
        statfs::BTRFS_SUPER_MAGIC => disk("btrfs"),
        statfs::OVERLAYFS_SUPER_MAGIC => disk("overlay"),
        _ => FileSystem::Other,
    })
}
