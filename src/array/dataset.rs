//! Files opened as one dataset: metadata only, and long variables that go on from file to file.

use super::attributes::agreed;
use super::expression::{Named, Names, Numeric};
use super::variable::decode;
use super::{ArrayError, NOT_UTF8};
use crate::format::decode::read_all;
use crate::format::{Attribute, DType, Dataset, Dimension, Filter, Skipped, Storage, Variable};
use crate::kernels::program::Decode;
use crate::kernels::source::{FileStamp, OpenFile, Source};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Threads that open files: more than cores, for most of the time goes into waiting for the file server.
const OPENING_THREADS: usize = 8;

/// Attributes that decide what stored numbers mean: files that differ in them can't be one variable.
const MEANING: [&str; 7] =
    ["units", "_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "calendar"];

/// One or more files as one dataset.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Joined {
    pub files: Vec<FileStamp>,
    pub dims: Vec<Dimension>,
    /// The dimension along which the files follow each other; none for a single file.
    pub join: Option<usize>,
    /// Where each file begins along it.
    pub starts: Vec<u64>,
    pub variables: Vec<JoinedVariable>,
    /// Attributes of the whole that all files agree in.
    pub attributes: Vec<Attribute>,
    /// What the first file has, but can't be had.
    pub skipped: Vec<Skipped>,
}

/// A variable over all files.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct JoinedVariable {
    pub name: String,
    pub dtype: DType,
    /// Indexes into [`Joined::dims`].
    pub dims: Vec<usize>,
    pub attributes: Vec<Attribute>,
    /// How its numbers are read, and their type; none for text. Follows from type and attributes.
    #[serde(skip)]
    pub decoded: Option<(Decode, Numeric)>,
    /// Cells of a chunk in the first file; none if it isn't chunked.
    pub chunk: Option<Vec<u64>>,
    pub filters: Vec<Filter>,
    /// Bytes in the files.
    pub stored_nbytes: u64,
}

/// Opens the files, given in the order in which they follow each other, and joins them: along `time`, or along the
/// only unlimited dimension, or the only one whose length or coordinate differs. Reads metadata and coordinates.
///
/// # Errors
/// A file that can't be read, or that doesn't fit the others: both are named.
pub fn open(paths: &[PathBuf]) -> Result<Joined, ArrayError> {
    Ok(open_with_metadata(paths)?.0)
}

/// The same, with what each file says of itself.
pub(super) fn open_with_metadata(paths: &[PathBuf]) -> Result<(Joined, Vec<Arc<Dataset>>), ArrayError> {
    let files = in_parallel(paths.len(), |k| opened(&paths[k]))?;
    let Some(((stamp, first), others)) = files.split_first() else {
        return Err(ArrayError::Usage("no input files".to_owned()));
    };
    let dataset = &first.dataset;
    let join = if others.is_empty() { None } else { Some(join_dimension(&files)?) };
    for (other, file) in others {
        let pair = Pair { a: (stamp, dataset), b: (other, &file.dataset) };
        pair.check(join.as_deref())?;
    }
    if let Some(join) = &join {
        check_coordinates(&files, join)?;
    }
    let join = join.and_then(|name| dataset.dimensions.iter().position(|d| d.name == name));
    let mut dims = dataset.dimensions.clone();
    let mut starts = Vec::with_capacity(files.len());
    if let Some(join) = join {
        let name = dims[join].name.clone();
        let mut end = 0;
        for (_, file) in &files {
            starts.push(end);
            end += file.dataset.dimensions.iter().find(|d| d.name == name).map_or(0, |d| d.len);
        }
        dims[join].len = end;
    }
    let variables = dataset.variables.iter().map(|v| joined_variable(v, join, &files)).collect();
    let attributes: Vec<&[Attribute]> =
        files.iter().map(|(_, file)| file.dataset.attributes.as_slice()).collect();
    let joined = Joined {
        attributes: agreed(&attributes),
        skipped: dataset.skipped.clone(),
        files: files.iter().map(|(stamp, _)| stamp.clone()).collect(),
        dims,
        join,
        starts,
        variables,
    };
    Ok((joined, files.into_iter().map(|(_, file)| file.dataset).collect()))
}

impl Joined {
    /// Whether every index in it is one of something: it may come from a file.
    pub(super) fn is_sound(&self) -> bool {
        let (dims, files) = (self.dims.len(), self.files.len());
        let variable_ok = |v: &JoinedVariable| {
            let chunk_ok = v.chunk.as_ref().is_none_or(|c| c.len() == v.dims.len() && !c.contains(&0));
            v.dims.iter().all(|d| *d < dims) && chunk_ok
        };
        let joined_ok = match self.join {
            Some(join) => {
                let len = self.dims.get(join).map_or(0, |d| d.len);
                let starts = &self.starts;
                let ascending = starts.windows(2).all(|w| w[0] <= w[1]);
                join < dims && starts.len() == files && ascending && starts.last() <= Some(&len)
            }
            None => self.starts.is_empty() && files == 1,
        };
        joined_ok && self.variables.iter().all(variable_ok)
    }

    pub fn variable(&self, name: &str) -> Option<&JoinedVariable> {
        self.variables.iter().find(|v| v.name == name)
    }

    pub fn shape(&self, variable: &JoinedVariable) -> Vec<u64> {
        variable.dims.iter().map(|d| self.dims[*d].len).collect()
    }

    /// Bytes of the variable's cells as they are stored, unpacked.
    pub fn nbytes(&self, variable: &JoinedVariable) -> u64 {
        let cells = self.shape(variable).iter().fold(1u64, |n, len| n.saturating_mul(*len));
        cells.saturating_mul(variable.dtype.size() as u64)
    }

    /// Whether the variable goes on from file to file.
    pub fn is_joined(&self, variable: &JoinedVariable) -> bool {
        self.join.is_some_and(|join| variable.dims.contains(&join))
    }

    /// Whether it is the coordinate of a dimension of its name.
    pub fn is_coordinate(&self, variable: &JoinedVariable) -> bool {
        matches!(&variable.dims[..], [dim] if self.dims[*dim].name == variable.name)
    }

    /// What expressions may name.
    pub fn names(&self) -> Names {
        let named = |v: &JoinedVariable| Named {
            name: v.name.clone(),
            dims: v.dims.clone(),
            numeric: v.decoded.as_ref().map(|(_, numeric)| *numeric),
            attributes: v.attributes.clone(),
        };
        Names {
            dims: self.dims.iter().map(|d| d.name.clone()).collect(),
            variables: self.variables.iter().map(named).collect(),
        }
    }

    /// The variable as a tile reads it, its elements decoded by `decode`.
    pub fn source(&self, variable: &JoinedVariable, decode: Decode) -> Source {
        let join = self.join.and_then(|join| variable.dims.iter().position(|d| *d == join));
        let pieces = match join {
            Some(_) => (0..).zip(&self.starts).map(|(file, start)| (file, *start)).collect(),
            None => vec![(0, 0)],
        };
        Source { variable: variable.name.clone(), decode, shape: self.shape(variable), join, pieces }
    }
}

type Opened = (FileStamp, OpenFile);

fn opened(path: &Path) -> Result<Opened, ArrayError> {
    let failed = |error: std::io::Error| ArrayError::Input(format!("{}: {error}", path.display()));
    let path = std::path::absolute(path).map_err(failed)?;
    if path.to_str().is_none() {
        return Err(ArrayError::Input(format!("{}: {NOT_UTF8}", path.display())));
    }
    let stamp = FileStamp::of(&path).map_err(failed)?;
    let file = stamp.open().map_err(|error| ArrayError::Input(error.message))?;
    Ok((stamp, file))
}

/// Calls `work` for 0..count on several threads; the results in order, or the first error in order.
pub(super) fn in_parallel<T: Send>(
    count: usize,
    work: impl Fn(usize) -> Result<T, ArrayError> + Sync,
) -> Result<Vec<T>, ArrayError> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<T, ArrayError>)>> = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..OPENING_THREADS.min(count) {
            scope.spawn(|| {
                loop {
                    let k = next.fetch_add(1, Ordering::Relaxed);
                    if k >= count {
                        return;
                    }
                    let result = work(k);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((k, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(k, _)| *k);
    results.into_iter().map(|(_, result)| result).collect()
}

/// The dimension along which files are joined.
fn join_dimension(files: &[Opened]) -> Result<String, ArrayError> {
    let (first, others) = (&files[0].1.dataset, &files[1..]);
    let len =
        |dataset: &Dataset, name: &str| dataset.dimensions.iter().find(|d| d.name == name).map(|d| d.len);
    if len(first, "time").is_some() {
        return Ok("time".to_owned());
    }
    let one = |names: Vec<&Dimension>| match names[..] {
        [only] => Some(only.name.clone()),
        _ => None,
    };
    let dims = || first.dimensions.iter();
    if let Some(name) = one(dims().filter(|d| d.unlimited).collect()) {
        return Ok(name);
    }
    let differs = |d: &&Dimension| others.iter().any(|(_, o)| len(&o.dataset, &d.name) != Some(d.len));
    if let Some(name) = one(dims().filter(differs).collect()) {
        return Ok(name);
    }
    let mut differing = Vec::new();
    for dim in dims().filter(|d| first.variable(&d.name).is_some()) {
        let mine = coordinate(&files[0], &dim.name)?;
        for other in others {
            if len(&other.1.dataset, &dim.name) == Some(dim.len) && coordinate(other, &dim.name)? != mine {
                differing.push(dim);
                break;
            }
        }
    }
    one(differing).ok_or_else(|| {
        ArrayError::Input(format!(
            "{} and {}: can't tell along which dimension to join the files (there is no 'time', and not just one \
             dimension that is unlimited or differs)",
            files[0].0.path, files[1].0.path
        ))
    })
}

/// The stored bytes of the coordinate of that dimension, if the file has one.
fn coordinate((_, file): &Opened, dim: &str) -> Result<Option<(DType, Vec<u8>)>, ArrayError> {
    let is_coordinate = |v: &&Variable| {
        matches!(&v.dims[..], [d] if file.dataset.dimensions[*d].name == dim) && v.dtype != DType::String
    };
    let Some(variable) = file.dataset.variable(dim).filter(is_coordinate) else { return Ok(None) };
    let bytes = read_all(&*file.file, &file.dataset, variable);
    Ok(Some((variable.dtype, bytes.map_err(|error| ArrayError::Input(error.to_string()))?)))
}

/// Coordinates must be equal, but along the joined dimension they must go on from file to file.
fn check_coordinates(files: &[Opened], join: &str) -> Result<(), ArrayError> {
    let dims: Vec<&str> = files[0].1.dataset.dimensions.iter().map(|d| d.name.as_str()).collect();
    let read = |k: usize| dims.iter().map(|dim| coordinate(&files[k], dim)).collect::<Result<Vec<_>, _>>();
    let first = read(0)?;
    let ends = in_parallel(files.len(), |k| {
        let mine = read(k)?;
        for ((dim, a), b) in dims.iter().zip(&first).zip(&mine) {
            if *dim != join && a != b {
                let (a, b) = (&files[0].0.path, &files[k].0.path);
                return Err(ArrayError::Input(format!(
                    "{b}: the coordinate '{dim}' differs from that in {a}"
                )));
            }
        }
        let joined = dims.iter().zip(mine).find(|(dim, _)| **dim == join);
        Ok(joined.and_then(|(_, found)| found).and_then(|(dtype, bytes)| first_and_last(dtype, &bytes)))
    })?;
    let mut ascending = None;
    let mut before: Option<(usize, f64)> = None;
    for (k, end) in ends.iter().enumerate() {
        let Some((first, last)) = end else { continue };
        let steps = [before.map(|(_, b)| (b, *first)), (first != last).then_some((*first, *last))];
        for (a, b) in steps.into_iter().flatten() {
            if a == b || *ascending.get_or_insert(b > a) != (b > a) {
                let earlier = &files[before.map_or(k, |(earlier, _)| earlier)].0.path;
                return Err(ArrayError::Input(format!(
                    "{}: '{join}' does not go on from {earlier} ({a} is followed by {b}): give the files in their \
                     order, each once",
                    files[k].0.path
                )));
            }
        }
        before = Some((k, *last));
    }
    Ok(())
}

fn first_and_last(dtype: DType, bytes: &[u8]) -> Option<(f64, f64)> {
    let element = |bytes: &[u8]| -> Option<f64> {
        Some(match dtype {
            DType::F64 => f64::from_le_bytes(bytes.try_into().ok()?),
            DType::F32 => f64::from(f32::from_le_bytes(bytes.try_into().ok()?)),
            DType::I64 => i64::from_le_bytes(bytes.try_into().ok()?) as f64,
            DType::I32 => f64::from(i32::from_le_bytes(bytes.try_into().ok()?)),
            DType::I16 => f64::from(i16::from_le_bytes(bytes.try_into().ok()?)),
            _ => return None,
        })
    };
    let mut all = bytes.chunks_exact(dtype.size());
    let first = element(all.next()?)?;
    let last = all.next_back().map_or(Some(first), element)?;
    (first.is_finite() && last.is_finite()).then_some((first, last))
}

/// Two files that should fit each other.
struct Pair<'a> {
    a: (&'a FileStamp, &'a Dataset),
    b: (&'a FileStamp, &'a Dataset),
}

impl Pair<'_> {
    fn error<T>(&self, what: impl std::fmt::Display) -> Result<T, ArrayError> {
        Err(ArrayError::Input(format!("{} does not fit {}: {what}", self.b.0.path, self.a.0.path)))
    }

    /// The same dimensions (but for the length of the joined one) and variables.
    fn check(&self, join: Option<&str>) -> Result<(), ArrayError> {
        let (a, b) = (self.a.1, self.b.1);
        for dim in &a.dimensions {
            let Some(other) = b.dimensions.iter().find(|d| d.name == dim.name) else {
                return self.error(format!("it has no dimension '{}'", dim.name));
            };
            if dim.len != other.len && join != Some(dim.name.as_str()) {
                let (name, a, b) = (&dim.name, dim.len, other.len);
                return self.error(format!("the dimension '{name}' is {b} long, not {a}"));
            }
        }
        for variable in &a.variables {
            let Some(other) = b.variable(&variable.name) else {
                return self.error(format!("it has no variable '{}'", variable.name));
            };
            self.check_variable(variable, other)?;
        }
        match b.variables.iter().find(|v| a.variable(&v.name).is_none()) {
            Some(extra) => self.error(format!("it has a variable '{}' more", extra.name)),
            None => Ok(()),
        }
    }

    fn check_variable(&self, a: &Variable, b: &Variable) -> Result<(), ArrayError> {
        let name = &a.name;
        let dims = |dataset: &Dataset, v: &Variable| -> Vec<String> {
            v.dims.iter().map(|d| dataset.dimensions[*d].name.clone()).collect()
        };
        let (mine, others) = (dims(self.a.1, a), dims(self.b.1, b));
        if mine != others {
            return self.error(format!(
                "'{name}' has dimensions ({}), not ({})",
                others.join(", "),
                mine.join(", ")
            ));
        }
        if a.dtype != b.dtype {
            return self.error(format!("'{name}' is of type {:?}, not {:?}", b.dtype, a.dtype));
        }
        match MEANING.into_iter().find(|attribute| a.attribute(attribute) != b.attribute(attribute)) {
            Some(attribute) => {
                let shown =
                    |v: &Variable| v.attribute(attribute).map_or("none".to_owned(), super::summary::shown);
                let (a, b) = (shown(a), shown(b));
                self.error(format!("the attribute '{attribute}' of '{name}' is {b}, not {a}"))
            }
            None => Ok(()),
        }
    }
}

/// The variable over all files; what isn't joined is the first file's.
fn joined_variable(first: &Variable, join: Option<usize>, files: &[Opened]) -> JoinedVariable {
    let is_joined = join.is_some_and(|join| first.dims.contains(&join));
    let all = if is_joined { files } else { &files[..1] };
    let stored = all.iter().filter_map(|(_, file)| Some(stored_nbytes(file.dataset.variable(&first.name)?)));
    let (chunk, filters) = match &first.storage {
        Storage::Chunked { chunk, filters, .. } => (Some(chunk.clone()), filters.clone()),
        _ => (None, Vec::new()),
    };
    JoinedVariable {
        name: first.name.clone(),
        dtype: first.dtype,
        dims: first.dims.clone(),
        attributes: first.attributes.clone(),
        decoded: decode(first.dtype, &first.attributes),
        chunk,
        filters,
        stored_nbytes: stored.sum(),
    }
}

fn stored_nbytes(variable: &Variable) -> u64 {
    match &variable.storage {
        Storage::Empty => 0,
        Storage::Compact(bytes) => bytes.len() as u64,
        Storage::Contiguous { nbytes, .. } => *nbytes,
        Storage::Chunked { chunks, .. } => chunks.iter().flatten().map(|chunk| chunk.nbytes).sum(),
    }
}
