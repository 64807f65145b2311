//! The kernels that write one netCDF-4 file together, from any workers in any order, with the same bytes always.
//!
//! Who owns the plan makes an empty temporary file beside the target before any task runs, and removes it if the plan
//! fails; no task ever makes it, so a late one leaves nothing behind. `array.sizes` tells how long a tile's encoded
//! chunks are; `array.layout` decides from all of them where every byte goes, and gives the temporary file its
//! length; `array.write` puts chunks there; `array.close` adds the metadata, gives the file its name, and makes both
//! durable. Each may run twice, on any worker, also after a later one has run: what is done already is checked and
//! left as it is.

use super::source::host;
use super::tile::numbers;
use super::{Call, KernelError};
use crate::format::netcdf4::{EncodedChunks, FileSpec, Layout, OutFile, VarStorage, layout as lay_out};
use crate::graph::Value;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The file that a plan writes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OutputPlan {
    pub target: PathBuf,
    /// Beside the target; its name is this plan's alone.
    pub temporary: PathBuf,
    /// Whether what has the target's name may be replaced.
    pub overwrite: bool,
    pub spec: FileSpec,
    /// For each stage with outputs, its number of tiles and which chunked variable (counted in the spec's order)
    /// each of its outputs is.
    pub stages: Vec<(u64, Vec<usize>)>,
    /// For each stage that gives single numbers, which variables of the spec they are. Their storage in the spec is
    /// of the right length; what is in it comes with `array.close`.
    pub scalars: Vec<Vec<usize>>,
}

/// What the `array.write` tasks of one stage share.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WritePlan {
    pub target: PathBuf,
    pub temporary: PathBuf,
    pub variables: Vec<usize>,
}

/// Arguments: how many of the tile's buffers are encoded chunks. Inputs: the tile. Gives their lengths.
pub(super) fn sizes(call: &Call<'_>) -> Result<Value, KernelError> {
    let [outputs] = numbers(call.args)?;
    let buffers = call.inputs.first().map_or(&[][..], |tile| &tile.buffers[..]);
    let encoded = buffers.get(..outputs as usize).ok_or_else(|| KernelError::new("a tile lacks outputs"))?;
    Ok(Value::bytes(le_bytes(encoded.iter().map(|b| b.len() as u64))))
}

/// Inputs: the sizes of all tiles, stage by stage. Gives [`Places`].
pub(super) fn layout(call: &Call<'_>) -> Result<Value, KernelError> {
    let plan: OutputPlan = decoded(call.params)?;
    let chunks = encoded_chunks(&plan, call.inputs)?;
    let made = lay_out(&plan.spec, &chunks).map_err(|e| KernelError::new(e.to_string()))?;
    reserve(&plan, made.len)?;
    Ok(Places { len: made.len, offsets: made.chunk_offsets, sizes: chunks }.value())
}

/// Arguments: the first tile. Inputs: the layout, then tiles in their order.
pub(super) fn write(call: &Call<'_>) -> Result<Value, KernelError> {
    let plan: WritePlan = decoded(call.params)?;
    let [first] = numbers(call.args)?;
    let (places, tiles) = places_and_rest(call.inputs)?;
    let file = match OutFile::open(&plan.temporary) {
        Ok(file) => Some(file),
        Err(error) if !is_absent(&plan.temporary) => return Err(KernelError::new(error.to_string())),
        Err(_) => None,
    };
    for (tile, number) in tiles.iter().zip(first..) {
        for (buffer, variable) in tile.buffers.iter().zip(&plan.variables) {
            let offset = places.offset(*variable, number, buffer.len())?;
            match &file {
                Some(file) => file.write_at(offset, buffer).map_err(|e| write_error(&e, &plan.temporary))?,
                None => check_written(&plan.target, &plan.temporary, places.len, offset, buffer)?,
            }
        }
    }
    if let Some(file) = file {
        file.sync().map_err(|e| write_error(&e, &plan.temporary))?;
    }
    Ok(Value::default())
}

/// Inputs: the layout, the tiles of single numbers, then what the writing tasks left (nothing).
pub(super) fn close(call: &Call<'_>) -> Result<Value, KernelError> {
    let mut plan: OutputPlan = decoded(call.params)?;
    let (places, rest) = places_and_rest(call.inputs)?;
    for (variables, tile) in plan.scalars.iter().zip(rest) {
        for (variable, number) in variables.iter().zip(&tile.buffers) {
            match plan.spec.variables.get_mut(*variable).map(|v| &mut v.storage) {
                Some(VarStorage::Contiguous(data)) if data.len() == number.len() => {
                    data.copy_from_slice(number)
                }
                _ => return Err(KernelError::new("a single number has another size than planned")),
            }
        }
    }
    let made = lay_out(&plan.spec, &places.sizes).map_err(|e| KernelError::new(e.to_string()))?;
    let file = match OutFile::open(&plan.temporary) {
        Ok(file) => file,
        Err(error) if !is_absent(&plan.temporary) => return Err(KernelError::new(error.to_string())),
        Err(_) => {
            for (offset, bytes) in metadata(&made) {
                check_written(&plan.target, &plan.temporary, made.len, offset, bytes)?;
            }
            return Ok(Value::default());
        }
    };
    if !plan.overwrite {
        refuse_existing(&plan.temporary, &plan.target)?;
    }
    file.finish(&made).map_err(|e| write_error(&e, &plan.temporary))?;
    publish(&plan)?;
    Ok(Value::default())
}

/// Where chunks go, as it travels from the layout to those who write.
#[derive(Clone, PartialEq, Debug, Default)]
struct Places {
    len: u64,
    /// For each chunked variable, and there for each chunk.
    offsets: Vec<Vec<u64>>,
    sizes: Vec<EncodedChunks>,
}

impl Places {
    fn value(&self) -> Value {
        let mut buffers = vec![le_bytes([self.len].into_iter()).into()];
        for (offsets, chunks) in self.offsets.iter().zip(&self.sizes) {
            buffers.push(le_bytes(offsets.iter().copied()).into());
            buffers.push(le_bytes(chunks.sizes.iter().copied()).into());
            buffers.push(le_bytes(chunks.regions.iter().map(|r| u64::from(*r))).into());
        }
        Value { header: bytes::Bytes::new(), buffers }
    }

    fn read(value: &Value) -> Option<Places> {
        let words = |bytes: &[u8]| -> Option<Vec<u64>> {
            let (words, rest) = bytes.as_chunks::<8>();
            rest.is_empty().then(|| words.iter().map(|w| u64::from_le_bytes(*w)).collect())
        };
        let (first, rest) = value.buffers.split_first()?;
        let mut places = Places { len: *words(first)?.first()?, ..Places::default() };
        let (variables, []) = rest.as_chunks::<3>() else { return None };
        for [offsets, sizes, regions] in variables {
            places.offsets.push(words(offsets)?);
            let regions =
                words(regions)?.into_iter().map(|r| u32::try_from(r).ok()).collect::<Option<_>>()?;
            places.sizes.push(EncodedChunks { sizes: words(sizes)?, regions });
        }
        Some(places)
    }

    /// Where that chunk of that variable goes.
    fn offset(&self, variable: usize, chunk: u64, len: usize) -> Result<u64, KernelError> {
        let at = chunk as usize;
        let planned = self.sizes.get(variable).and_then(|chunks| chunks.sizes.get(at));
        let offset = self.offsets.get(variable).and_then(|offsets| offsets.get(at));
        match (offset, planned) {
            (Some(offset), Some(planned)) if *planned == len as u64 => Ok(*offset),
            _ => Err(KernelError::new("a chunk is not the one that the file was laid out for")),
        }
    }
}

/// The sizes of every chunk, and as its region the tile that it is of: one task writes a tile.
fn encoded_chunks(plan: &OutputPlan, sizes: &[Value]) -> Result<Vec<EncodedChunks>, KernelError> {
    let variables = plan.stages.iter().flat_map(|(_, variables)| variables).max().map_or(0, |v| v + 1);
    let mut chunks = vec![EncodedChunks::default(); variables];
    let mut rest = sizes.iter();
    let mut region = 0;
    for (tiles, variables) in &plan.stages {
        for _ in 0..*tiles {
            let lengths =
                rest.next().and_then(|v| v.buffers.first()).map_or(&[][..], |b| b.as_chunks::<8>().0);
            if lengths.len() != variables.len() {
                return Err(KernelError::new("the sizes of a tile are missing"));
            }
            for (variable, length) in variables.iter().zip(lengths) {
                chunks[*variable].sizes.push(u64::from_le_bytes(*length));
                chunks[*variable].regions.push(region);
            }
            region += 1;
        }
    }
    Ok(chunks)
}

/// Gives the temporary file its length, its room reserved where the file system can. A repeat must not empty it:
/// others may be writing already.
fn reserve(plan: &OutputPlan, len: u64) -> Result<(), KernelError> {
    let OutputPlan { target, temporary, .. } = plan;
    let file = match open_temporary(temporary) {
        // A repeat that comes after the end; who reads the places checks the bytes.
        Err(_) if is_absent(temporary) && std::fs::metadata(target).is_ok_and(|m| m.len() == len) => {
            return Ok(());
        }
        opened => opened?,
    };
    if let Ok(length) = i64::try_from(len)
        && length > 0
        && let Err(errno @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)) =
            fallocate(&file, FallocateFlags::empty(), 0, length)
    {
        // Other errors only say that this file system can't reserve. What was taken of the room is given back.
        let _ = file.set_len(0);
        return Err(io_error(&errno.into(), temporary));
    }
    file.set_len(len).map_err(|error| io_error(&error, temporary))
}

/// The temporary file, to be written to. It is never made here.
pub(super) fn open_temporary(temporary: &Path) -> Result<File, KernelError> {
    OpenOptions::new().write(true).open(temporary).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => gone(temporary),
        _ => io_error(&error, temporary),
    })
}

/// The temporary file isn't there: this host doesn't see its folder, or the plan's owner has given it up.
pub(super) fn gone(temporary: &Path) -> KernelError {
    let folder = temporary.parent().unwrap_or(Path::new("."));
    KernelError::new(if folder.is_dir() {
        format!("not visible on {}, or removed while it was written: {}", host(), temporary.display())
    } else {
        format!("the output's directory is not visible on {}: {}", host(), folder.display())
    })
}

/// Metadata and superblock, as pieces of the file.
fn metadata(layout: &Layout) -> impl Iterator<Item = (u64, &[u8])> {
    let superblock = std::iter::once((0, &layout.superblock[..]));
    layout.metadata.iter().map(|(offset, bytes)| (*offset, &bytes[..])).chain(superblock)
}

/// The temporary file is gone: fine if the target is the finished file, with these bytes in their place.
fn check_written(
    target: &Path,
    temporary: &Path,
    len: u64,
    offset: u64,
    bytes: &[u8],
) -> Result<(), KernelError> {
    let gone = || gone(temporary);
    let file = File::open(target).map_err(|_| gone())?;
    if file.metadata().map_or(0, |m| m.len()) != len {
        return Err(gone());
    }
    let mut found = vec![0; bytes.len()];
    file.read_exact_at(&mut found, offset).map_err(|_| gone())?;
    if found == bytes { Ok(()) } else { Err(gone()) }
}

/// The target has come into being since the plan was made (and isn't the finished file under its new name).
fn refuse_existing(temporary: &Path, target: &Path) -> Result<(), KernelError> {
    let Ok(there) = std::fs::symlink_metadata(target) else { return Ok(()) };
    let ours = std::fs::metadata(temporary).is_ok_and(|t| (t.dev(), t.ino()) == (there.dev(), there.ino()));
    if ours { Ok(()) } else { Err(exists(target)) }
}

pub(super) fn exists(target: &Path) -> KernelError {
    KernelError::new(format!(
        "{} has come into being meanwhile and is left as it is: remove it, or pass --overwrite",
        target.display()
    ))
}

/// Gives the finished file its name, durably. Without `overwrite` the name is made by link(2), which fails if
/// there is one already.
fn publish(plan: &OutputPlan) -> Result<(), KernelError> {
    let (temporary, target) = (&plan.temporary, &plan.target);
    if plan.overwrite {
        renamed(std::fs::rename(temporary, target), temporary, target)?;
    } else {
        match std::fs::hard_link(temporary, target) {
            Ok(()) => renamed(std::fs::remove_file(temporary), temporary, target)?,
            // An earlier attempt linked it, or (NFS) this one did and the answer was lost.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                refuse_existing(temporary, target)?;
                renamed(std::fs::remove_file(temporary), temporary, target)?;
            }
            // A file system without links: the same by renameat2, or an error that is the user's to know.
            Err(_) => rename_new(temporary, target)?,
        }
    }
    let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| io_error(&e, folder))
}

/// A name change that another attempt may have done first.
fn renamed(result: io::Result<()>, temporary: &Path, target: &Path) -> Result<(), KernelError> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound && target.exists() => Ok(()),
        Err(error) => Err(io_error(&error, temporary)),
        Ok(()) => Ok(()),
    }
}

fn rename_new(temporary: &Path, target: &Path) -> Result<(), KernelError> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    match renameat2(AT_FDCWD, temporary, AT_FDCWD, target, RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EEXIST) => Err(exists(target)),
        result => renamed(result.map_err(io::Error::from), temporary, target),
    }
}

fn is_absent(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

pub(super) fn io_error(error: &io::Error, path: &Path) -> KernelError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => KernelError::new(format!(
            "no room left on the disk of {} (on {}): {error}",
            path.display(),
            host()
        )),
        _ => KernelError::new(format!("{}: {error} (on {})", path.display(), host())),
    }
}

fn write_error(error: &crate::format::FormatError, path: &Path) -> KernelError {
    match error {
        crate::format::FormatError::Io { source, .. } => io_error(source, path),
        other => KernelError::new(other.to_string()),
    }
}

fn le_bytes(words: impl Iterator<Item = u64>) -> Vec<u8> {
    words.flat_map(u64::to_le_bytes).collect()
}

pub(super) fn decoded<T: for<'a> Deserialize<'a>>(params: &[u8]) -> Result<T, KernelError> {
    let made = rmp_serde::from_slice(params);
    made.map_err(|error| KernelError::new(format!("not the parameters of an array output: {error}")))
}

fn places_and_rest(inputs: &[Value]) -> Result<(Places, &[Value]), KernelError> {
    let read = inputs.split_first().and_then(|(first, rest)| Some((Places::read(first)?, rest)));
    read.ok_or_else(|| KernelError::new("an array output lacks its layout"))
}
