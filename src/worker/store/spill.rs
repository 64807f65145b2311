//! The directory of spilled values: one file a value, checked when it is read back, gone with the worker.
//!
//! A file is `magic (8 bytes), header length (u32), number of buffers (u32), length of each buffer (u64)`, the
//! header, the buffers, and the CRC32C of all before it; numbers are little-endian. Files never outlive the
//! machine's uptime meaningfully, so they aren't synced.

use super::StoreError;
use crate::graph::Value;
use bytes::Bytes;
use nix::sys::statfs::{FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC, statfs};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::worker::process::process;
use nix::unistd::{Pid, Uid};

const MAGIC: &[u8; 8] = b"jobqspl1";
const PREFIX: &str = "jobq-spill";
/// Of the kernel's magic.h; nix has no name for it.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6_u32 as _);
/// Most buffers of one value: what a file claims beyond this is damage.
const MAX_BUFFERS: u32 = 1 << 20;
/// Bytes hashed and copied at a time.
const PIECE: usize = 1 << 20;

/// A directory of this worker's own within the configured one. Removed, with all in it, when dropped.
#[derive(Debug)]
pub struct SpillDir {
    path: PathBuf,
    next: AtomicU64,
}

impl SpillDir {
    /// Makes the directory under `base`, after removing those there of this user's workers on this host that
    /// are gone.
    ///
    /// # Errors
    /// `base` is memory (tmpfs and the like), or the directory can't be made.
    pub fn open(base: &Path, worker: &str, incarnation: u64) -> Result<SpillDir, StoreError> {
        let io = |source| StoreError::Io { path: base.to_owned(), source };
        fs::create_dir_all(base).map_err(io)?;
        if let Some(kind) = memory_kind(base).map_err(io)? {
            return Err(StoreError::InMemory { path: base.to_owned(), kind });
        }
        let owner = Owner::this_process();
        for stale in stale(base, &owner) {
            match fs::remove_dir_all(&stale) {
                Ok(()) => tracing::info!("{}: removed: its worker is gone", stale.display()),
                Err(e) => {
                    tracing::warn!("{}: its worker is gone, but it can't be removed: {e}", stale.display())
                }
            }
        }
        let path = base.join(format!("{}.{}-{incarnation}", owner.name(), plain(worker)));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|source| StoreError::Io { path: path.clone(), source })?;
        Ok(SpillDir { path, next: AtomicU64::new(1) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes a value's file; none is left behind on an error.
    pub(super) fn write(&self, number: u64, value: &Value) -> Result<(), StoreError> {
        let path = self.file(number);
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = created.and_then(|file| {
            encode(value, &mut BufWriter::with_capacity(64 << 10, &file)).inspect_err(|_| {
                // The room it took may be what others need.
                let _ = fs::remove_file(&path);
            })
        });
        written.map_err(|source| StoreError::Io { path, source })
    }

    /// Reads a value's file and checks it.
    pub(super) fn read(&self, number: u64) -> Result<Value, StoreError> {
        let path = self.file(number);
        let decoded = File::open(&path).and_then(|mut file| {
            let len = file.metadata()?.len();
            decode(&mut file, len)
        });
        match decoded {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(what)) => Err(StoreError::Damaged { path, what }),
            Err(source) => Err(StoreError::Io { path, source }),
        }
    }

    pub(super) fn remove(&self, number: u64) {
        let path = self.file(number);
        if let Err(e) = fs::remove_file(&path)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{}: can't remove this spilled value: {e}", path.display());
        }
    }

    fn file(&self, number: u64) -> PathBuf {
        self.path.join(number.to_string())
    }
}

impl Drop for SpillDir {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.path)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{}: can't be removed: {e}", self.path.display());
        }
    }
}

/// Whose a directory is: a process is gone for sure when its host has no process of that id and start.
#[derive(PartialEq, Eq, Debug)]
struct Owner {
    host: String,
    pid: i32,
    started: u64,
}

impl Owner {
    fn this_process() -> Owner {
        let host = nix::unistd::gethostname().unwrap_or_default();
        let started = process(Pid::this()).map_or(0, |p| p.started);
        Owner { host: plain(&host.to_string_lossy()), pid: Pid::this().as_raw(), started }
    }

    fn name(&self) -> String {
        format!("{PREFIX}.{}.{}.{}", self.host, self.pid, self.started)
    }

    fn parse(name: &str) -> Option<Owner> {
        let mut fields = name.strip_prefix(PREFIX)?.strip_prefix('.')?.split('.');
        let host = fields.next()?.to_owned();
        Some(Owner { host, pid: fields.next()?.parse().ok()?, started: fields.next()?.parse().ok()? })
    }

    fn is_gone(&self) -> bool {
        process(Pid::from_raw(self.pid)).is_none_or(|p| p.started != self.started)
    }
}

/// Directories of this user's, of workers of this host that are gone.
fn stale(base: &Path, here: &Owner) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(base) else { return Vec::new() };
    let ours = |path: &PathBuf| {
        fs::symlink_metadata(path).is_ok_and(|m| m.is_dir() && m.uid() == Uid::effective().as_raw())
    };
    entries
        .flatten()
        .filter(|e| {
            let owner = e.file_name().to_str().and_then(Owner::parse);
            owner.is_some_and(|o| o.host == here.host && o.is_gone())
        })
        .map(|e| e.path())
        .filter(ours)
        .collect()
}

/// A name with nothing in it that a file name, or our own splitting at dots, would mind.
fn plain(name: &str) -> String {
    name.chars().take(60).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// What kind of memory a directory is, if it is.
fn memory_kind(path: &Path) -> io::Result<Option<&'static str>> {
    let kind = statfs(path)?.filesystem_type();
    Ok(match kind {
        TMPFS_MAGIC => Some("tmpfs"),
        RAMFS_MAGIC => Some("ramfs"),
        HUGETLBFS_MAGIC => Some("hugetlbfs"),
        _ => None,
    })
}

fn encode(value: &Value, out: &mut impl Write) -> io::Result<()> {
    let too_many = || io::Error::other("the value has more buffers or a longer header than a file can say");
    let mut head = MAGIC.to_vec();
    head.extend(u32::try_from(value.header.len()).map_err(|_| too_many())?.to_le_bytes());
    let buffers = u32::try_from(value.buffers.len()).ok().filter(|n| *n <= MAX_BUFFERS);
    head.extend(buffers.ok_or_else(too_many)?.to_le_bytes());
    head.extend(value.buffers.iter().flat_map(|b| (b.len() as u64).to_le_bytes()));
    let mut crc = 0;
    let parts = [head.as_slice(), &value.header].into_iter().chain(value.buffers.iter().map(|b| &b[..]));
    for piece in parts.flat_map(|part| part.chunks(PIECE)) {
        crc = crc32c::crc32c_append(crc, piece);
        out.write_all(piece)?;
    }
    out.write_all(&crc.to_le_bytes())?;
    out.flush()
}

/// The inner error says what is damaged.
fn decode(file: &mut impl Read, len: u64) -> io::Result<Result<Value, &'static str>> {
    let mut fixed = [0; 16];
    if len < fixed.len() as u64 + 4 {
        return Ok(Err("cut short"));
    }
    file.read_exact(&mut fixed)?;
    let word = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let (header_len, buffers) = (u64::from(word(8)), word(12));
    if &fixed[..8] != MAGIC || buffers > MAX_BUFFERS {
        return Ok(Err("no such file of ours"));
    }
    let lengths_len = 8 * u64::from(buffers);
    if lengths_len + header_len > len {
        return Ok(Err("cut short"));
    }
    let mut lengths = vec![0; lengths_len as usize];
    file.read_exact(&mut lengths)?;
    let mut crc = crc32c::crc32c_append(crc32c::crc32c(&fixed), &lengths);
    let lengths = lengths.chunks_exact(8).map(|b| b.try_into().map_or(u64::MAX, u64::from_le_bytes));
    let lengths: Vec<u64> = lengths.collect();
    let body = lengths.iter().try_fold(header_len, |sum, n| sum.checked_add(*n));
    // Nothing is allocated on the word of a file that isn't as long as it says.
    if body.and_then(|b| b.checked_add(16 + lengths_len + 4)) != Some(len) {
        return Ok(Err("its length is wrong"));
    }
    let mut part = |n: u64| -> io::Result<Bytes> {
        let mut bytes = vec![0; n as usize];
        file.read_exact(&mut bytes)?;
        crc = crc32c::crc32c_append(crc, &bytes);
        Ok(bytes.into())
    };
    let header = part(header_len)?;
    let buffers = lengths.iter().map(|n| part(*n)).collect::<io::Result<Vec<Bytes>>>()?;
    let mut stored = [0; 4];
    file.read_exact(&mut stored)?;
    if u32::from_le_bytes(stored) != crc {
        return Ok(Err("its checksum is wrong"));
    }
    Ok(Ok(Value { header, buffers }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value() -> Value {
        Value { header: Bytes::from_static(b"head"), buffers: vec![Bytes::from_static(b"abc"), Bytes::new()] }
    }

    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&value(), &mut bytes).unwrap();
        bytes
    }

    fn decoded(bytes: &[u8]) -> Option<Value> {
        decode(&mut &bytes[..], bytes.len() as u64).ok()?.ok()
    }

    #[test]
    fn a_value_reads_back_and_no_damage_goes_unseen() {
        let good = encoded();
        assert_eq!(decoded(&good), Some(value()));
        for len in 0..good.len() {
            assert_eq!(decoded(&good[..len]), None, "cut to {len} bytes");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decoded(&bad), None, "bit {bit}");
        }
    }

    #[test]
    fn a_full_disk_is_an_error_that_leaves_no_file() {
        /// Takes ten bytes.
        struct Small(usize);
        impl Write for Small {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let n = bytes.len().min(self.0);
                self.0 -= n;
                if n == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(n) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(encode(&value(), &mut Small(10)).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn memory_is_no_place_to_spill_to() {
        let shm = Path::new("/dev/shm");
        if !shm.is_dir() || memory_kind(shm).unwrap().is_none() {
            eprintln!("skipped: /dev/shm is no tmpfs here");
            return;
        }
        let base = tempfile::tempdir_in(shm).unwrap();
        let error = SpillDir::open(base.path(), "w1", 1).unwrap_err();
        assert!(matches!(error, StoreError::InMemory { kind: "tmpfs", .. }), "{error}");
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn directories_of_workers_that_are_gone_are_removed_and_others_stay() {
        let base = tempfile::tempdir().unwrap();
        let here = Owner::this_process();
        let named = |o: &Owner| base.path().join(format!("{}.w-1", o.name()));
        let reused = Owner { started: here.started + 1, host: here.host.clone(), ..here };
        let elsewhere = Owner { host: "elsewhere".into(), ..reused };
        let foreign = base.path().join("jobq-spill.notes");
        for dir in [named(&reused), named(&elsewhere), foreign.clone()] {
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("1"), "x").unwrap();
        }
        let first = SpillDir::open(base.path(), "w.1/x", 1).unwrap();
        let second = SpillDir::open(base.path(), "w.1/x", 2).unwrap();
        assert!(!named(&reused).exists());
        assert!(named(&elsewhere).exists() && foreign.exists());
        assert!(first.path().exists() && second.path().exists());
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists() && second.path().exists());
    }
}
