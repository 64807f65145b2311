//! The kernels that write one Zarr store together, from any workers in any order, with the same bytes always.
//!
//! Who owns the plan makes an empty directory beside the target before any task runs, with a folder for each variable
//! and a mark ([`begin`]), and removes it if the plan fails; no task ever makes it, so a late one leaves nothing
//! behind. `zarr.write` puts chunks there; `zarr.close` adds what isn't chunked and the metadata, gives the directory
//! its name, and takes the mark away. Each may run twice, on any worker, also after a later one has run: what is done
//! already is checked and left as it is.

use super::output::{decoded, exists, gone, io_error};
use super::tile::numbers;
use super::{Call, KernelError, directory};
use crate::format::grid::chunk_index;
use crate::format::netcdf4::{FileSpec, VarSpec, VarStorage};
use crate::format::zarr::{CONSOLIDATED, write as describe};
use crate::graph::Value;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// In the directory until the store is whole and has its name. By it, what was the target before and has changed
/// places with the new store is told from that.
const MARK: &str = ".jobq-unfinished";

/// The store that a plan writes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StorePlan {
    pub target: PathBuf,
    /// Beside the target; its name is this plan's alone.
    pub temporary: PathBuf,
    /// Whether a store of the target's name may be replaced.
    pub overwrite: bool,
    pub spec: FileSpec,
    /// For each stage that gives single numbers, which variables of the spec they are.
    pub scalars: Vec<Vec<usize>>,
}

/// What the `zarr.write` tasks of one stage share.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ChunksPlan {
    pub target: PathBuf,
    pub temporary: PathBuf,
    /// The variables that a tile's buffers are chunks of, and chunks along their dimensions.
    pub variables: Vec<(String, Vec<u64>)>,
}

/// Makes the directory that the tasks write to.
///
/// # Errors
/// It can't be made.
pub fn begin(temporary: &Path, spec: &FileSpec) -> io::Result<()> {
    std::fs::create_dir(temporary)?;
    for variable in &spec.variables {
        std::fs::create_dir(temporary.join(&variable.name))?;
    }
    File::create_new(temporary.join(MARK)).map(drop)
}

/// Arguments: the first tile. Inputs: tiles in their order.
pub(super) fn write(call: &Call<'_>) -> Result<Value, KernelError> {
    let plan: ChunksPlan = decoded(call.params)?;
    let [first] = numbers(call.args)?;
    for (tile, number) in call.inputs.iter().zip(first..) {
        for (chunk, (variable, counts)) in tile.buffers.iter().zip(&plan.variables) {
            let path = describe::chunk_path(variable, &chunk_index(number, counts));
            put(&plan.temporary, &plan.target, &path, chunk)?;
        }
    }
    Ok(Value::default())
}

/// Inputs: the tiles of single numbers, then what the writing tasks left (nothing).
pub(super) fn close(call: &Call<'_>) -> Result<Value, KernelError> {
    let mut plan: StorePlan = decoded(call.params)?;
    for (variables, tile) in plan.scalars.iter().zip(call.inputs) {
        for (variable, number) in variables.iter().zip(&tile.buffers) {
            if let Some(variable) = plan.spec.variables.get_mut(*variable) {
                variable.storage = VarStorage::Contiguous(number.to_vec());
            }
        }
    }
    let (temporary, target) = (&plan.temporary, &plan.target);
    let whole = |variable: &VarSpec| match &variable.storage {
        VarStorage::Contiguous(data) => Some((describe::whole_path(variable), data.clone())),
        _ => None,
    };
    let mut files: Vec<(String, Vec<u8>)> = plan.spec.variables.iter().filter_map(whole).collect();
    files.extend(describe::metadata(&plan.spec).map_err(|error| KernelError::new(error.to_string()))?);
    if temporary.join(MARK).exists() {
        for (path, bytes) in &files {
            put(temporary, target, path, bytes)?;
        }
        for folder in plan.spec.variables.iter().map(|v| temporary.join(&v.name)) {
            sync(&folder)?;
        }
        sync(temporary)?;
        directory::place(temporary, target, plan.overwrite).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => exists(target),
            _ => io_error(&error, target),
        })?;
    }
    // Some attempt has given it its name, and perhaps no more.
    let metadata = files.last().filter(|(path, _)| path == CONSOLIDATED);
    if std::fs::read(target.join(CONSOLIDATED)).ok().as_ref() != metadata.map(|(_, bytes)| bytes) {
        return Err(gone(temporary));
    }
    directory::remove(temporary).map_err(|error| io_error(&error, temporary))?;
    directory::remove(&target.join(MARK)).map_err(|error| io_error(&error, target))?;
    sync(target)?;
    sync(target.parent().unwrap_or(Path::new("/")))?;
    Ok(Value::default())
}

/// Writes a file of the store durably. A repeat that comes after the end finds it where it belongs.
fn put(temporary: &Path, target: &Path, path: &str, bytes: &[u8]) -> Result<(), KernelError> {
    let place = temporary.join(path);
    // Not emptied: another attempt may have it open, and writes the same.
    match OpenOptions::new().write(true).create(true).truncate(false).open(&place) {
        Ok(file) => {
            let written = file
                .write_all_at(bytes, 0)
                .and_then(|()| file.set_len(bytes.len() as u64))
                .and_then(|()| file.sync_data());
            written.map_err(|error| io_error(&error, &place))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => match std::fs::read(target.join(path)) {
            Ok(found) if found == bytes => Ok(()),
            _ => Err(gone(temporary)),
        },
        Err(error) => Err(io_error(&error, &place)),
    }
}

fn sync(folder: &Path) -> Result<(), KernelError> {
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(|error| io_error(&error, folder))
}
