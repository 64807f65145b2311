//! The queue's directory: one file a job, written atomically, and a copy of its script.
//!
//! ```text
//! lock            held by the daemon, says which
//! socket          the daemon's
//! queue.log       what the daemon could not say to anybody
//! jobs/17.json    the job    jobs/17.sh    the script as it was submitted
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::queue::Job;

/// Longest job file that we read.
const FILE_LIMIT: u64 = 16 << 20;

/// `queue.log` is emptied when a daemon finds it longer.
const LOG_LIMIT: u64 = 1 << 20;

/// The directory of a queue.
pub struct Spool {
    dir: PathBuf,
}

impl Spool {
    /// The queue in `dir`, which is created (0700) if it isn't there.
    ///
    /// # Errors
    /// If it is not ours alone, or can't be used.
    pub fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let dir = fs::canonicalize(dir)?;
        let metadata = fs::metadata(&dir)?;
        let ours = metadata.uid() == nix::unistd::geteuid().as_raw();
        if !ours || metadata.mode() & 0o022 != 0 {
            let words = format!("{} must belong to this user and be writable by nobody else", dir.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir.join("jobs"))?;
        Ok(Self { dir })
    }

    /// The canonical path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lock file, opened and not locked.
    pub fn lock_file(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(self.dir.join("lock"))
    }

    /// The daemon's log.
    pub fn log(&self) -> io::Result<File> {
        let file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(self.dir.join("queue.log"))?;
        if file.metadata()?.len() > LOG_LIMIT {
            file.set_len(0)?;
        }
        Ok(file)
    }

    /// Where a job's script is.
    pub fn script(&self, id: u64) -> PathBuf {
        self.dir.join(format!("jobs/{id}.sh"))
    }

    /// All jobs, by id. Clients read too, while the daemon writes and forgets.
    ///
    /// # Errors
    /// If a job's file can't be read: an unreadable job must not be taken for one that never was.
    pub fn load(&self) -> io::Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for path in self.files("json")? {
            match read_job(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                job => jobs.push(job?),
            }
        }
        jobs.sort_by_key(|job| job.id);
        Ok(jobs)
    }

    /// Remove what an interrupted write has left: for the daemon, under its lock.
    pub fn tidy(&self) -> io::Result<()> {
        self.files("tmp")?.into_iter().try_for_each(fs::remove_file)
    }

    fn files(&self, ending: &str) -> io::Result<Vec<PathBuf>> {
        let paths = fs::read_dir(self.dir.join("jobs"))?.map(|entry| entry.map(|entry| entry.path()));
        let paths = paths.collect::<io::Result<Vec<_>>>()?;
        Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|found| found == ending)).collect())
    }

    /// Write a job so that a crash leaves the old file or the new one. Its script is written once.
    pub fn save(&self, job: &Job) -> io::Result<()> {
        let script = self.script(job.id);
        if !script.exists() {
            write(&script, job.request.script.as_bytes())?;
        }
        write(&self.dir.join(format!("jobs/{}.json", job.id)), &serde_json::to_vec(job)?)
    }

    /// Remove a job that nobody asks for any more.
    pub fn forget(&self, id: u64) -> io::Result<()> {
        fs::remove_file(self.dir.join(format!("jobs/{id}.json")))?;
        fs::remove_file(self.script(id))
    }
}

fn read_job(path: &Path) -> io::Result<Job> {
    let mut text = String::new();
    File::open(path)?.take(FILE_LIMIT).read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(temporary, path)
}
