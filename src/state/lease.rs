//! Whether the holder of the epoch still breathes: a counter that it overwrites in place.
//!
//! The lease is a hint about life; the epoch alone decides who may act. A claimant that sees the counter unmoved for
//! [`CLAIM_AFTER`] of its own clock may claim; it needn't wait if the lease was released, or if the holder's process
//! is known to be gone from this very host. Clocks of two hosts are never compared.
//!
//! The file is one block of fixed length, so that overwriting it never changes its size, with a checksum that tells
//! a look in the middle of a write. It also says whether a life of the cluster was ended in order: that a contact file is
//! missing proves nothing.

use super::files::{MAX_SMALL_FILE_BYTES, create_exclusive};
use super::{StateError, epoch};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// How often the holder beats.
pub const BEAT_EVERY: Duration = Duration::from_secs(5);
/// How long the counter must have stood still before a claimant may claim: six beats, more than an NFS server's
/// usual grace and a slow fsync together.
pub const CLAIM_AFTER: Duration = Duration::from_secs(30);
/// A holder without a completed beat and fence check for so long sends nothing any more: half of `CLAIM_AFTER`.
pub const SILENT_AFTER: Duration = Duration::from_secs(15);

/// The file's length in bytes: one block of any disk.
const BLOCK_BYTES: usize = 512;
const MAGIC: &str = "jobq lease 1";
/// Longest host name that is kept, as POSIX has it.
const MAX_HOST_BYTES: usize = 64;
/// Looks in the middle of a write are repeated so often, a moment apart, before they count as damage.
const TORN_LOOKS: u32 = 20;
const TORN_PAUSE: Duration = Duration::from_millis(5);

/// A process, told from all others that ever had or will have its number.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    /// Clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub start_time: u64,
    pub boot_id: String,
    /// The process number's name space: containers of one host share its boot id, but not its process numbers.
    pub pid_namespace: String,
    /// For people.
    pub host: String,
}

/// What this host knows of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    Alive,
    Gone,
    /// It runs, or ran, on another host or in another container, or this one doesn't tell.
    Unknown,
}

/// The holder's side.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    file: File,
    seen: Seen,
}

/// What a look at the lease shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub epoch: u32,
    pub counter: u64,
    /// Given up in good order: nobody needs to wait.
    pub released: bool,
    pub holder: Holder,
    /// The life of the cluster that was brought down by this holder, or before: what is left of it is given up.
    pub ended: Option<String>,
}

/// How long the lease has stood still, on the looker's own clock.
#[derive(Clone, Debug, Default)]
pub struct LeaseWatch {
    last: Option<(Seen, Duration)>,
}

/// A lease that was watched for [`CLAIM_AFTER`] and didn't move. As text, it is handed to the scheduler that is
/// started because of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standstill {
    epoch: u32,
    counter: u64,
}

impl Standstill {
    /// Whether the lease is as it was then: if it is, it didn't move meanwhile either.
    #[must_use]
    pub fn is(self, seen: &Seen) -> bool {
        (self.epoch, self.counter) == (seen.epoch, seen.counter)
    }
}

impl fmt::Display for Standstill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.counter)
    }
}

impl FromStr for Standstill {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(e, c)| Some((e.parse().ok()?, c.parse().ok()?)));
        let (epoch, counter) = parsed.ok_or_else(|| format!("'{text}' is not an epoch and a counter"))?;
        Ok(Standstill { epoch, counter })
    }
}

impl Lease {
    /// Takes over the lease, after the epoch has been claimed.
    ///
    /// # Errors
    /// It can't be written.
    pub fn take(dir: &Path, epoch: u32) -> Result<Self, StateError> {
        Self::take_of(dir, epoch, None)
    }

    /// The same, of a cluster that is at rest and stays so: `ended` is the life that was brought down.
    ///
    /// # Errors
    /// It can't be written.
    pub fn take_of(dir: &Path, epoch: u32, ended: Option<String>) -> Result<Self, StateError> {
        let path = dir.join("lease");
        // Counting on from the last holder, so that the change of hands is a movement too. What can't be read counts as 0.
        let counter = look(dir).ok().flatten().map_or(0, |seen| seen.counter);
        let seen = Seen { epoch, counter, released: false, holder: Holder::current()?, ended };
        // A first one comes with its content: whoever dies over it must not leave an empty file.
        if !path.try_exists().map_err(|error| StateError::io("look at", &path, error))? {
            create_exclusive(&path, &seen.encode())?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|error| StateError::io("open", &path, error))?;
        let mut lease = Self { path, file, seen };
        lease.beat()?;
        Ok(lease)
    }

    /// Says that this life of the cluster is over for good: nothing goes on from it.
    ///
    /// # Errors
    /// It can't be written.
    pub fn end(&mut self, life: &str) -> Result<(), StateError> {
        self.seen.ended = Some(printable(life));
        self.beat()
    }

    /// Moves the counter and waits until the disk has it. Blocks: call it from a thread of its own, every
    /// [`BEAT_EVERY`].
    ///
    /// # Errors
    /// It can't be written; after [`SILENT_AFTER`] without success the holder must fall silent.
    pub fn beat(&mut self) -> Result<(), StateError> {
        self.seen.counter = self.seen.counter.wrapping_add(1);
        self.write()
    }

    /// Gives the lease up, so that a successor needn't wait.
    ///
    /// # Errors
    /// It can't be written; a successor then waits [`CLAIM_AFTER`].
    pub fn release(&mut self) -> Result<(), StateError> {
        self.seen.released = true;
        self.beat()
    }

    fn write(&self) -> Result<(), StateError> {
        self.file
            .write_all_at(&self.seen.encode(), 0)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| StateError::io("beat", &self.path, error))
    }
}

/// What a claimant sees of whoever holds a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sight {
    pub seen: Seen,
    /// The highest epoch, listed before the lease was looked at: the one that a claim must follow.
    pub highest: Option<u32>,
    /// The lease's holder is known to be gone.
    pub is_gone: bool,
}

impl Sight {
    /// Whether nobody needs to wait: the holder gave up, or is gone. Only the last epoch's own word counts: a beat or a
    /// release of an older one may land late, over the lease of its successor.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_of_last() && (self.seen.released || self.is_gone)
    }

    /// Whether the cluster was brought down, and nobody has begun another life since: `life` is the last that is known.
    /// Whoever claimed an epoch over that and died before it took the lease changes nothing.
    #[must_use]
    pub fn has_ended(&self, life: &str) -> bool {
        self.seen.ended.is_some() && (self.is_of_last() || self.seen.has_ended(life))
    }

    /// Whether the lease is the last epoch's, which nobody is about to follow.
    #[must_use]
    pub fn is_of_last(&self) -> bool {
        Some(self.seen.epoch) >= self.highest
    }
}

/// Looks at who holds a cluster; `None` if nobody ever took its lease. A damaged one is nobody's known: who holds it beats
/// it soon, so that one that stands still may be taken over as any other.
///
/// # Errors
/// The folder or the lease can't be read.
pub fn sight(dir: &Path) -> Result<Option<Sight>, StateError> {
    let highest = epoch::highest(dir)?;
    let seen = match look(dir) {
        Ok(Some(seen)) => seen,
        Ok(None) => return Ok(None),
        Err(StateError::Malformed { path, .. }) => {
            let bytes = std::fs::read(&path).map_err(|error| StateError::io("read", path, error))?;
            Seen::of_nobody_known(&bytes)
        }
        Err(error) => return Err(error),
    };
    let is_gone = seen.holder_is_gone();
    Ok(Some(Sight { seen, highest, is_gone }))
}

/// Looks at the lease, opening it anew; `None` if nobody ever took it.
///
/// # Errors
/// It can't be read, or is damaged.
pub fn look(dir: &Path) -> Result<Option<Seen>, StateError> {
    let path = dir.join("lease");
    for attempt in 0..TORN_LOOKS {
        if attempt > 0 {
            std::thread::sleep(TORN_PAUSE);
        }
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        match File::open(&path).and_then(|file| file.take(MAX_SMALL_FILE_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::io("read", path, error)),
        }
        if let Some(seen) = Seen::decode(&bytes) {
            return Ok(Some(seen));
        }
    }
    Err(StateError::Malformed { path, reason: "its checksum is wrong".to_owned() })
}

impl Seen {
    /// Whether the holder's process is known to be gone: then nobody needs to wait.
    #[must_use]
    pub fn holder_is_gone(&self) -> bool {
        self.holder.liveness() == Liveness::Gone
    }

    /// Whether this life of the cluster was brought down.
    #[must_use]
    pub fn has_ended(&self, life: &str) -> bool {
        self.ended.as_deref() == Some(printable(life).as_str())
    }

    /// What stands for a lease that can't be understood: any change of it is a movement.
    fn of_nobody_known(bytes: &[u8]) -> Self {
        let unknown = || "?".to_owned();
        let holder = Holder {
            pid: 0,
            start_time: 0,
            boot_id: String::new(),
            pid_namespace: unknown(),
            host: unknown(),
        };
        Self { epoch: 0, counter: crc32c::crc32c(bytes).into(), released: false, holder, ended: None }
    }

    fn encode(&self) -> Vec<u8> {
        let Self { epoch, counter, released, holder, ended } = self;
        let Holder { pid, start_time, boot_id, pid_namespace, host } = holder;
        let text = format!(
            "{MAGIC}\nepoch {epoch}\ncounter {counter}\nreleased {released}\npid {pid}\nstart_time {start_time}\n\
             boot_id {boot_id}\npid_namespace {pid_namespace}\nhost {host}\n"
        );
        let ended = ended.as_ref().map_or(String::new(), |life| format!("ended {life}\n"));
        let mut block = (text + &ended).into_bytes();
        block.resize(BLOCK_BYTES - 9, b'\n');
        let sum = crc32c::crc32c(&block);
        block.extend_from_slice(format!("{sum:08x}\n").as_bytes());
        block
    }

    fn decode(block: &[u8]) -> Option<Self> {
        if block.len() != BLOCK_BYTES {
            return None;
        }
        let (body, sum) = block.split_at(BLOCK_BYTES - 9);
        if format!("{:08x}\n", crc32c::crc32c(body)).as_bytes() != sum {
            return None;
        }
        let mut lines = std::str::from_utf8(body).ok()?.lines();
        if lines.next()? != MAGIC {
            return None;
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
        Some(Self {
            epoch: field("epoch")?.parse().ok()?,
            counter: field("counter")?.parse().ok()?,
            released: field("released")?.parse().ok()?,
            holder: Holder {
                pid: field("pid")?.parse().ok()?,
                start_time: field("start_time")?.parse().ok()?,
                boot_id: field("boot_id")?,
                pid_namespace: field("pid_namespace")?,
                host: field("host")?,
            },
            ended: field("ended"),
        })
    }
}

impl LeaseWatch {
    /// Takes in a look at instant `now` of the looker's monotonic clock; returns for how long nothing has moved.
    pub fn observe(&mut self, seen: &Seen, now: Duration) -> Duration {
        match &self.last {
            Some((last, since)) if last == seen => now.saturating_sub(*since),
            _ => {
                self.last = Some((seen.clone(), now));
                Duration::ZERO
            }
        }
    }

    /// The lease as it stands, if it has stood still for [`CLAIM_AFTER`] at such a look.
    pub fn standstill(&mut self, seen: &Seen, now: Duration) -> Option<Standstill> {
        let still = self.observe(seen, now) >= CLAIM_AFTER;
        still.then_some(Standstill { epoch: seen.epoch, counter: seen.counter })
    }

    /// Whether a claim is allowed after such a look: nobody needs to wait, or nothing moved for [`CLAIM_AFTER`].
    pub fn may_claim(&mut self, sight: &Sight, now: Duration) -> bool {
        let still = self.standstill(&sight.seen, now).is_some();
        sight.is_over() || still
    }
}

impl Holder {
    /// This process.
    ///
    /// # Errors
    /// `/proc` doesn't tell.
    pub fn current() -> Result<Self, StateError> {
        let pid = std::process::id();
        let stat_path = PathBuf::from(format!("/proc/{pid}/stat"));
        let (start_time, _) = process_stat(pid).ok().flatten().ok_or_else(|| StateError::Malformed {
            path: stat_path,
            reason: "no start time in it".to_owned(),
        })?;
        let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
        Ok(Self {
            pid,
            start_time,
            boot_id: boot_id()?,
            pid_namespace: pid_namespace(),
            host: printable(&host.unwrap_or_default()),
        })
    }

    /// Whether the process is alive, as far as this host can tell.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        let here = boot_id().is_ok_and(|boot_id| !boot_id.is_empty() && boot_id == self.boot_id)
            && pid_namespace() == self.pid_namespace;
        if !here {
            return Liveness::Unknown;
        }
        match process_stat(self.pid) {
            Ok(Some((start_time, is_dead))) if start_time == self.start_time && !is_dead => Liveness::Alive,
            Ok(Some(_)) => Liveness::Gone,
            // `/proc` may hide processes; the kernel's own answer must agree.
            Ok(None) if no_such_process(self.pid) => Liveness::Gone,
            _ => Liveness::Unknown,
        }
    }
}

fn no_such_process(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| pid > 0 && kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
}

/// Start time of a process, and whether it has died without having been waited for. `None`: no such entry.
fn process_stat(pid: u32) -> io::Result<Option<(u64, bool)>> {
    let text = match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let parsed = parse_stat(&text).ok_or_else(|| io::Error::other("unexpected /proc stat line"))?;
    let (start_time, state) = parsed;
    // A leader that has exited while other threads run is shown as a zombie too, but the process lives.
    let is_dead = matches!(state, 'Z' | 'X') && thread_count(pid) <= 1;
    Ok(Some((start_time, is_dead)))
}

/// Fields 22 and 3. The command's name in field 2 may hold blanks and brackets, so counting starts after its last one.
fn parse_stat(text: &str) -> Option<(u64, char)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // The state is field 3, so what remains starts with field 4.
    let start_time = fields.nth(22 - 4)?.parse().ok()?;
    Some((start_time, state))
}

fn thread_count(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

fn boot_id() -> Result<String, StateError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).map_err(|error| StateError::io("read", path, error))?;
    Ok(printable(text.trim()))
}

fn pid_namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid")
        .map_or_else(|_| "unknown".to_owned(), |target| printable(&target.to_string_lossy()))
}

/// Fits a line of the lease: no control characters, bounded, never empty.
fn printable(text: &str) -> String {
    let mut kept: String = text.chars().filter(|c| c.is_ascii_graphic()).take(MAX_HOST_BYTES).collect();
    if kept.is_empty() {
        kept.push('?');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder() -> Holder {
        Holder {
            pid: 7,
            start_time: 8,
            boot_id: "b".into(),
            pid_namespace: "pid:[4026531836]".into(),
            host: "h".into(),
        }
    }

    #[test]
    fn a_lease_that_stood_still_is_told_by_its_text_and_any_movement_voids_it() {
        let home = tempfile::tempdir().unwrap();
        let mut lease = Lease::take(home.path(), 3).unwrap();
        let seen = look(home.path()).unwrap().unwrap();
        let mut watch = LeaseWatch::default();
        assert_eq!(watch.standstill(&seen, Duration::ZERO), None);
        assert_eq!(watch.standstill(&seen, CLAIM_AFTER - Duration::from_nanos(1)), None);
        let still = watch.standstill(&seen, CLAIM_AFTER).unwrap();
        assert_eq!(still.to_string().parse(), Ok(still));
        assert!(still.is(&look(home.path()).unwrap().unwrap()));
        lease.beat().unwrap();
        assert!(!still.is(&look(home.path()).unwrap().unwrap()));
        for nonsense in ["", "3", "3:", "x:1", "3:1:2"] {
            assert!(nonsense.parse::<Standstill>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn beats_move_the_counter_and_release_shows() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(look(dir.path()).unwrap(), None);
        let mut lease = Lease::take(dir.path(), 4).unwrap();
        let first = look(dir.path()).unwrap().unwrap();
        assert_eq!((first.epoch, first.released), (4, false));
        assert_eq!(first.holder, Holder::current().unwrap());
        assert!(!first.holder_is_gone());
        lease.beat().unwrap();
        let second = look(dir.path()).unwrap().unwrap();
        assert!(second.counter > first.counter);
        lease.release().unwrap();
        let last = look(dir.path()).unwrap().unwrap();
        assert!(last.released && last.counter > second.counter);

        let _next = Lease::take(dir.path(), 5).unwrap();
        let taken = look(dir.path()).unwrap().unwrap();
        assert!(!taken.released && taken.epoch == 5 && taken.counter > last.counter);
    }

    #[test]
    fn every_single_bit_flip_and_truncation_of_a_lease_is_noticed() {
        let seen = Seen { epoch: 2, counter: 77, released: false, holder: holder(), ended: None };
        let block = seen.encode();
        assert_eq!(block.len(), BLOCK_BYTES);
        assert_eq!(Seen::decode(&block), Some(seen));
        for bit in 0..block.len() * 8 {
            let mut damaged = block.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Seen::decode(&damaged), None, "bit {bit}");
        }
        for len in 0..block.len() {
            assert_eq!(Seen::decode(&block[..len]), None);
        }
    }

    #[test]
    fn a_damaged_lease_is_an_error_and_can_be_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lease"), "garbage").unwrap();
        assert!(matches!(look(dir.path()), Err(StateError::Malformed { .. })));
        let _lease = Lease::take(dir.path(), 1).unwrap();
        assert!(look(dir.path()).unwrap().is_some());
    }

    #[test]
    fn an_empty_or_damaged_lease_holds_nobody_up_for_longer_than_a_silent_holder() {
        let (dir, at) = (tempfile::tempdir().unwrap(), Duration::from_secs);
        epoch::claim(dir.path(), None, "").unwrap();
        for bytes in [&b""[..], b"garbage"] {
            std::fs::write(dir.path().join("lease"), bytes).unwrap();
            let sight = sight(dir.path()).unwrap().unwrap();
            let mut watch = LeaseWatch::default();
            assert!(!sight.is_over() && !watch.may_claim(&sight, at(0)));
            assert!(watch.may_claim(&sight, at(30)));
        }
        let garbled = sight(dir.path()).unwrap().unwrap();
        let _held = Lease::take(dir.path(), 1).unwrap();
        assert_ne!(sight(dir.path()).unwrap().unwrap(), garbled, "a beat is a movement");
    }

    #[test]
    fn a_life_that_was_ended_is_told_until_somebody_takes_the_lease_for_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut lease = Lease::take(dir.path(), 1).unwrap();
        assert!(!look(dir.path()).unwrap().unwrap().has_ended(""));
        lease.end("0a1b").unwrap();
        let seen = look(dir.path()).unwrap().unwrap();
        assert!(seen.has_ended("0a1b") && !seen.has_ended("2c3d") && !seen.released);
        lease.release().unwrap();
        let _rest = Lease::take_of(dir.path(), 2, seen.ended).unwrap();
        assert!(look(dir.path()).unwrap().unwrap().has_ended("0a1b"));
        let ended = sight(dir.path()).unwrap().unwrap();
        // Somebody claimed another epoch over it, and died before it took the lease.
        let late = Sight { highest: Some(3), ..ended.clone() };
        assert!(ended.has_ended("2c3d") && late.has_ended("0a1b") && !late.has_ended("2c3d"));
        let _next = Lease::take(dir.path(), 3).unwrap();
        assert_eq!(look(dir.path()).unwrap().unwrap().ended, None);
    }

    #[test]
    fn a_lease_must_stand_still_for_thirty_seconds_of_the_lookers_clock() {
        let mut sight = sighted();
        let (mut watch, at) = (LeaseWatch::default(), Duration::from_secs);
        assert!(!watch.may_claim(&sight, at(100)));
        assert!(!watch.may_claim(&sight, at(129)));
        sight.seen.counter = 2;
        assert!(!watch.may_claim(&sight, at(130)), "it moved");
        assert!(!watch.may_claim(&sight, at(159)));
        assert!(watch.may_claim(&sight, at(160)));
        sight.seen.released = true;
        assert!(watch.may_claim(&sight, at(161)), "nobody waits for a released lease");
    }

    fn sighted() -> Sight {
        let seen = Seen { epoch: 1, counter: 1, released: false, holder: holder(), ended: None };
        Sight { seen, highest: Some(1), is_gone: false }
    }

    #[test]
    fn a_late_word_of_an_older_epoch_says_nothing_of_its_successor() {
        let (dir, at) = (tempfile::tempdir().unwrap(), Duration::from_secs);
        for (released, is_gone) in [(true, false), (false, true)] {
            let mut sight = Sight { is_gone, ..sighted() };
            sight.seen.released = released;
            assert!(sight.is_over() && LeaseWatch::default().may_claim(&sight, at(0)));
            sight.highest = Some(2);
            let mut watch = LeaseWatch::default();
            assert!(!sight.is_over() && !watch.may_claim(&sight, at(0)));
            assert!(watch.may_claim(&sight, at(30)), "unless that stands still as well");
        }
        let first = epoch::claim(dir.path(), None, "").unwrap();
        let mut lease = Lease::take(dir.path(), first.number).unwrap();
        let second = epoch::claim(dir.path(), Some(1), "").unwrap();
        let _held = Lease::take(dir.path(), second.number).unwrap();
        // Stopped between its fence check and its write, and continued now.
        lease.release().unwrap();
        let sight = sight(dir.path()).unwrap().unwrap();
        assert!(sight.seen.released && !sight.is_over(), "{sight:?}");
    }

    #[test]
    fn a_process_of_this_host_is_known_alive_or_gone_and_others_are_unknown() {
        let me = Holder::current().unwrap();
        assert_eq!(me.liveness(), Liveness::Alive);
        assert_eq!(Holder { start_time: me.start_time + 1, ..me.clone() }.liveness(), Liveness::Gone);
        assert_eq!(Holder { boot_id: "other".into(), ..me.clone() }.liveness(), Liveness::Unknown);
        assert_eq!(Holder { pid_namespace: "pid:[1]".into(), ..me.clone() }.liveness(), Liveness::Unknown);

        // It ends with this test's end of its input, whatever happens here.
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let (start_time, _) = process_stat(child.id()).unwrap().unwrap();
        let theirs = Holder { pid: child.id(), start_time, ..me };
        assert_eq!(theirs.liveness(), Liveness::Alive);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(theirs.liveness(), Liveness::Gone);
    }

    #[test]
    fn a_zombie_is_gone() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let (start_time, _) = process_stat(child.id()).unwrap().unwrap();
        let theirs = Holder { pid: child.id(), start_time, ..Holder::current().unwrap() };
        assert_eq!(theirs.liveness(), Liveness::Alive);
        drop(child.stdin.take());
        // Waits for the exit without reaping it.
        let id = nix::sys::wait::Id::Pid(Pid::from_raw(i32::try_from(child.id()).unwrap()));
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(id, flags).unwrap();
        assert_eq!(theirs.liveness(), Liveness::Gone);
        child.wait().unwrap();
    }

    #[test]
    fn the_stat_line_is_read_whatever_the_command_is_called() {
        let line = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4321 20";
        assert_eq!(parse_stat(line), Some((4321, 'S')));
        for line in ["", "12", "12 (x", "12 (x)", "12 (x) S 1 2"] {
            assert_eq!(parse_stat(line), None);
        }
        assert_eq!(printable("no\nde 7"), "node7");
    }
}
