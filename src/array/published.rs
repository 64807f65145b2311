//! A dataset that was opened before: its metadata as a chunk table on disk and back, the statements that belong to
//! it, and what workers hold of it.

use super::dataset::{Joined, in_parallel, open_with_metadata};
use super::expression::{Script, check::check};
use super::summary::{Summary, VariableSummary, attributes};
use super::{ArrayError, variable::decode};
use crate::format::Dataset;
use crate::format::table::{self, Table};
use crate::graph::TaskId;
use crate::kernels::source::FileStamp;
use std::path::{Path, PathBuf};

/// Inputs of a request that are not plain files.
#[derive(Clone, PartialEq, Debug)]
pub struct Published {
    pub joined: Joined,
    /// Statements that define further variables: requests may use them, and write those that they name.
    pub statements: Vec<String>,
    /// Results of statements that workers hold: they are fetched instead of computed.
    pub held: Vec<Held>,
}

/// A statement's result in the workers' memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    pub name: String,
    /// Cells of a tile along each dimension.
    pub tile: Vec<u64>,
    /// The task of each tile, in C order, and which of the buffers of its value has the cells.
    pub tasks: Vec<TaskId>,
    pub buffer: usize,
}

/// The files as one dataset, and the table that spares others to open them. See [`from_table`].
///
/// # Errors
/// As [`super::open`].
pub fn to_table(paths: &[PathBuf]) -> Result<(Joined, Vec<u8>), ArrayError> {
    let (joined, metadata) = open_with_metadata(paths)?;
    // Plain data: only a map with keys of odd types could fail.
    let head = rmp_serde::to_vec(&joined).expect("a joined dataset is plain data");
    let metadata: Vec<&Dataset> = metadata.iter().map(|dataset| &**dataset).collect();
    let table = table::encode(&head, &metadata);
    Ok((joined, table))
}

/// The dataset of a table that [`to_table`] made. No file of the dataset is opened or looked at.
///
/// # Errors
/// The table can't be read, is damaged, or is of a later version.
pub fn from_table(path: &Path) -> Result<Joined, ArrayError> {
    let read = Table::open(path).map_err(|error| ArrayError::Input(error.to_string()))?;
    let nonsense = || ArrayError::Input(format!("{}: damaged: its head makes no sense", path.display()));
    let mut joined: Joined = rmp_serde::from_slice(&read.head).map_err(|_| nonsense())?;
    for variable in &mut joined.variables {
        variable.decoded = decode(variable.dtype, &variable.attributes);
    }
    if !joined.is_sound() || read.parts.len() != joined.files.len() {
        return Err(nonsense());
    }
    for (stamp, part) in joined.files.iter_mut().zip(read.parts) {
        stamp.table = Some(part);
    }
    Ok(joined)
}

/// What has become of files since they were published, for each that isn't as it was then.
pub fn changed(files: &[FileStamp]) -> Vec<String> {
    let look = |stamp: &FileStamp| match FileStamp::of(Path::new(&stamp.path)) {
        Ok(now) if stamp.is_same_state(&now) => None,
        Ok(_) => Some(format!("changed since it was published: {}", stamp.path)),
        Err(error) => Some(format!("{}: {error}", stamp.path)),
    };
    let looked = in_parallel(files.len(), |k| Ok(look(&files[k]))).unwrap_or_default();
    looked.into_iter().flatten().collect()
}

impl Published {
    /// A dataset without statements.
    pub fn of(joined: Joined) -> Published {
        Published { joined, statements: Vec::new(), held: Vec::new() }
    }

    /// Statements and names to keep that write everything there is: what the statements end in, or, without any,
    /// all variables but text and coordinates, which go along by themselves.
    ///
    /// # Errors
    /// The statements are wrong, or there is nothing to write.
    pub fn everything(&self) -> Result<(Vec<String>, Vec<String>), ArrayError> {
        let script = Script::parse(&self.statements)?;
        let checked = check(&script, &self.joined.names())?;
        let keep: Vec<String> =
            checked.outputs.iter().filter(|o| !o.used).map(|output| output.name.clone()).collect();
        if !keep.is_empty() {
            return Ok((Vec::new(), keep));
        }
        let summary = Summary::of(&self.joined);
        let numeric = |v: &&VariableSummary| {
            self.joined.variable(&v.name).is_some_and(|variable| variable.decoded.is_some())
        };
        let copies: Vec<String> =
            summary.variables.iter().filter(numeric).map(|v| format!("{0} = {0}", v.name)).collect();
        if copies.is_empty() {
            return Err(ArrayError::Input("there are no variables but coordinates and text".to_owned()));
        }
        Ok((copies, Vec::new()))
    }

    /// What is shown of it: its files' variables, then its statements' results.
    ///
    /// # Errors
    /// The statements are wrong.
    pub fn summary(&self) -> Result<Summary, ArrayError> {
        let mut summary = Summary::of(&self.joined);
        let script = Script::parse(&self.statements)?;
        let checked = check(&script, &self.joined.names())?;
        for output in &checked.outputs {
            let info = &checked.info[output.node];
            let dtype = info.numeric.dtype();
            let shape: Vec<u64> = info.dims.iter().map(|d| self.joined.dims[*d].len).collect();
            let nbytes = shape.iter().fold(dtype.size() as u64, |n, len| n.saturating_mul(*len));
            // A copy hides what it is a copy of.
            summary.variables.retain(|v| v.name != output.name);
            summary.nbytes = summary.nbytes.saturating_add(nbytes);
            summary.variables.push(VariableSummary {
                name: output.name.clone(),
                dtype: format!("{dtype:?}").to_lowercase(),
                dimensions: info.dims.iter().map(|d| self.joined.dims[*d].name.clone()).collect(),
                shape,
                chunk: None,
                filters: Vec::new(),
                nbytes,
                stored_nbytes: 0,
                attributes: attributes(&info.attributes),
            });
        }
        Ok(summary)
    }
}
