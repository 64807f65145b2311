//! A request -> a graph that anybody can run, and what it will do.

use super::dataset::{Joined, open};
use super::expression::{Checked, Output, Script, check::check, nearest};
use super::look::look_at;
use super::output::{self, OutputFile, describe};
use super::published::{Held, Published};
use super::stages::{Ending, Layout, Planned, TileSizes, stages};
use super::summary::{bytes, utc};
use super::tasks::{self, Files, Work};
use super::{ArrayError, NOT_UTF8};
use crate::format::netcdf4::FileSpec;
use crate::format::zarr::marker;
use crate::graph::Graph;
use crate::kernels::look::Look;
use crate::kernels::{directory, zarr};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Endings of output files that can be written.
pub const ENDINGS: [&str; 2] = ["nc", STORE];
/// Of Zarr stores.
const STORE: &str = "zarr";

/// What to compute.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ComputeRequest {
    /// Each one or more statements, `name = expression`.
    pub statements: Vec<String>,
    /// Files, in the order in which they follow each other.
    pub inputs: Vec<PathBuf>,
    /// What the statements are about instead of files.
    pub dataset: Option<Published>,
    pub out: PathBuf,
    /// Statements to be written though later ones use them.
    pub keep: Vec<String>,
    /// Cells of a tile (and chunk of the output) along dimensions.
    pub chunks: Vec<(String, u64)>,
    pub overwrite: bool,
    /// Whether the output's history tells time and inputs; else the same work gives the same bytes.
    pub stamp: bool,
}

/// A graph, and what it does.
#[derive(Clone, Debug)]
pub struct Plan {
    pub graph: Graph,
    pub summary: PlanSummary,
    /// The file or directory that is written until it is whole; [`begin`] makes it, [`discard`] removes it.
    pub temporary: PathBuf,
    /// What workers must see; [`super::look_graph`] has them look.
    pub look: Look,
    /// What a store will have in it; none: the output is a file.
    store: Option<FileSpec>,
}

/// What a plan does, for `--dry-run` and `--json`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PlanSummary {
    /// Of this form of the data: 1.
    pub schema: u32,
    pub out: PathBuf,
    pub inputs: usize,
    pub tasks: u64,
    pub tiles: u64,
    /// Bytes that the inputs' variables take in the files.
    pub read_nbytes: u64,
    /// Bytes that tasks read, decoded: more than the inputs hold if several read the same.
    pub decoded_nbytes: u64,
    /// Bytes of the outputs before compression.
    pub output_nbytes: u64,
    pub outputs: Vec<OutputSummary>,
    /// Coordinates that don't go along: text of variable length, or too large.
    pub left_out: Vec<String>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct OutputSummary {
    pub name: String,
    pub dtype: String,
    pub dimensions: Vec<String>,
    pub shape: Vec<u64>,
    pub chunk: Vec<u64>,
    pub units: Option<String>,
}

/// Plans the request: opens the inputs' metadata, checks the statements, and builds the graph. Nothing is written.
/// The graph's values are of no use to anybody else: what comes of it is the file.
///
/// # Errors
/// Whatever is wrong with statements, inputs or output, before any work is done.
pub fn plan(request: &ComputeRequest) -> Result<Plan, ArrayError> {
    let target = target(request)?;
    let question = Question::of(request)?;
    let joined = &question.joined;
    if joined.files.iter().any(|file| same_file(Path::new(&file.path), &target)) {
        return Err(ArrayError::Output(format!("{} is one of the inputs", request.out.display())));
    }
    let outputs = question.wanted(&request.keep)?;
    let stages = question.stages(&outputs, &request.chunks, Ending::Encoded)?;
    let history = history(&question.script, joined, request.stamp);
    let checked = &question.checked;
    let described =
        describe(&output::Request { joined, checked, outputs: &outputs, stages: &stages, history })?;
    let summary = summary(joined, checked, &outputs, &stages, &described, &target);
    let temporary = temporary(&target)?;
    let is_store = is_store(&target);
    let store = is_store.then(|| described.spec.clone());
    let files = Files { target, temporary: temporary.clone(), overwrite: request.overwrite };
    let work = Work { stages: &stages, held: &question.held, outputs: outputs.len() };
    let write = if is_store { tasks::store } else { tasks::netcdf };
    let graph = write(&work, described.spec, files)?;
    let summary = PlanSummary { tasks: graph.len() as u64, ..summary };
    let look = look_at(joined, temporary.clone());
    Ok(Plan { graph, summary, temporary, look, store })
}

/// Inputs and statements that fit each other.
pub(super) struct Question {
    pub joined: Joined,
    pub held: Vec<Held>,
    pub script: Script,
    pub checked: Checked,
    /// Statements of the inputs themselves, which come first.
    given: usize,
}

impl Question {
    pub(super) fn of(request: &ComputeRequest) -> Result<Question, ArrayError> {
        let Published { joined, statements, held } = match &request.dataset {
            Some(published) => published.clone(),
            None => Published::of(open(&request.inputs)?),
        };
        let given = Script::parse(&statements)?.statements.len();
        let script = Script::parse(&[statements, request.statements.clone()].concat())?;
        if script.statements.len() == given && request.keep.is_empty() {
            return Err(ArrayError::Usage(
                "nothing to compute: give statements such as 's = mean(t, time)'".into(),
            ));
        }
        let checked = check(&script, &joined.names())?;
        Ok(Question { joined, held, script, checked, given })
    }

    /// The statements that are asked for: those of the request that no later one uses, and those to keep.
    pub(super) fn wanted(&self, keep: &[String]) -> Result<Vec<&Output>, ArrayError> {
        let all = &self.checked.outputs;
        for name in keep {
            if !all.iter().any(|o| o.name == *name) {
                let near = nearest(name, all.iter().map(|o| o.name.as_str()));
                let near = near.map_or(String::new(), |near| format!(": did you mean '{near}'?"));
                return Err(ArrayError::Usage(format!("--keep {name}: no statement of that name{near}")));
            }
        }
        let is_wanted =
            |number: usize, o: &Output| (number >= self.given && !o.used) || keep.contains(&o.name);
        let wanted = all.iter().enumerate().filter(|(number, o)| is_wanted(*number, o));
        Ok(wanted.map(|(_, output)| output).collect())
    }

    pub(super) fn stages(
        &self,
        outputs: &[&Output],
        chunks: &[(String, u64)],
        ending: Ending,
    ) -> Result<Vec<Planned>, ArrayError> {
        let Question { joined, checked, .. } = self;
        let sizes = tile_sizes(joined, chunks)?;
        for output in outputs {
            if let Some(dim) = checked.info[output.node].dims.iter().find(|d| joined.dims[**d].len == 0) {
                let (name, dim) = (&output.name, &joined.dims[*dim].name);
                let message = format!("'{name}' has no cells: the dimension '{dim}' is empty");
                return Err(ArrayError::Input(message));
            }
        }
        let nodes: Vec<_> = outputs.iter().map(|o| o.node).collect();
        stages(&Layout { joined, checked, outputs: &nodes, sizes: &sizes, held: &self.held, ending })
    }
}

/// Makes the empty temporary file or directory, which the plan's tasks then write to: to be called before any of them runs. Only
/// who owns the plan makes it, so that a task that is late, after [`discard`], can't make it again.
///
/// # Errors
/// The file can't be made: its folder is full, or not to be written to.
pub fn begin(plan: &Plan) -> std::io::Result<()> {
    match &plan.store {
        Some(spec) => zarr::begin(&plan.temporary, spec),
        None => std::fs::OpenOptions::new().write(true).create_new(true).open(&plan.temporary).map(drop),
    }
}

/// Removes what an unfinished plan has left: to be called after a failure or a cancellation, and harmless after
/// success, and before [`begin`]. Nothing comes back after it, though tasks may still be running somewhere.
///
/// # Errors
/// The file is there and can't be removed.
pub fn discard(plan: &Plan) -> std::io::Result<()> {
    directory::remove(&plan.temporary)
}

impl Plan {
    /// What it will do, in lines for people.
    pub fn describe(&self) -> String {
        let s = &self.summary;
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "{} tasks for {} tiles; {} files, {} to read, {} decoded",
            s.tasks,
            s.tiles,
            s.inputs,
            bytes(s.read_nbytes),
            bytes(s.decoded_nbytes)
        );
        let _ = writeln!(out, "{}: {} before compression", s.out.display(), bytes(s.output_nbytes));
        for output in &s.outputs {
            let dims: Vec<String> =
                output.dimensions.iter().zip(&output.shape).map(|(d, n)| format!("{d}={n}")).collect();
            let chunk: Vec<String> = output.chunk.iter().map(u64::to_string).collect();
            let units = output.units.as_ref().map_or(String::new(), |units| format!(", units {units}"));
            let chunks =
                if chunk.is_empty() { String::new() } else { format!(", chunks {}", chunk.join("x")) };
            let _ = writeln!(out, "  {} {}({}){chunks}{units}", output.dtype, output.name, dims.join(", "));
        }
        if !s.left_out.is_empty() {
            let _ = writeln!(out, "coordinates that don't go along: {}", s.left_out.join(", "));
        }
        out
    }
}

/// The output's absolute path, after all that can be known of it beforehand.
fn target(request: &ComputeRequest) -> Result<PathBuf, ArrayError> {
    let out = &request.out;
    let shown = out.display();
    let ending = out.extension().and_then(|e| e.to_str());
    if !ending.is_some_and(|e| ENDINGS.contains(&e)) {
        let known = ENDINGS.map(|e| format!(".{e}")).join(", ");
        return Err(ArrayError::Usage(format!("{shown}: the output's name must end in one of: {known}")));
    }
    let target = std::path::absolute(out).map_err(|error| ArrayError::Output(format!("{shown}: {error}")))?;
    if target.to_str().is_none() {
        return Err(ArrayError::Output(format!("{}: {NOT_UTF8}", target.display())));
    }
    let folder = target.parent().unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        return Err(ArrayError::Output(format!("{shown}: no such directory: {}", folder.display())));
    }
    match std::fs::symlink_metadata(&target) {
        Ok(there) if is_store(&target) && !(there.is_dir() && marker(&target).is_some()) => {
            // Whatever it is, nobody wants to lose it for a name.
            Err(ArrayError::Output(format!("{shown} exists, and is no Zarr store: it is left as it is")))
        }
        Ok(there) if there.is_dir() && !is_store(&target) => {
            Err(ArrayError::Output(format!("{shown} is a directory")))
        }
        Ok(_) if !request.overwrite => {
            Err(ArrayError::Output(format!("{shown} exists: pass --overwrite to replace it")))
        }
        _ => Ok(target),
    }
}

/// Whether the output is to be a Zarr store.
fn is_store(target: &Path) -> bool {
    target.extension().is_some_and(|ending| ending == STORE)
}

fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    id(a).is_some_and(|a| Some(a) == id(b))
}

/// The temporary file: beside the target, so that it can be renamed, with a name that no other plan has.
fn temporary(target: &Path) -> Result<PathBuf, ArrayError> {
    let mut id = [0; 8];
    getrandom::fill(&mut id).map_err(|error| ArrayError::Output(format!("no random numbers: {error}")))?;
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A file name has at most 255 bytes.
    let short: String = name.chars().take(50).collect();
    Ok(target.with_file_name(format!(".{short}.jobq-{:016x}.tmp", u64::from_le_bytes(id))))
}

fn tile_sizes(joined: &Joined, chunks: &[(String, u64)]) -> Result<TileSizes, ArrayError> {
    let mut sizes = TileSizes::new();
    for (name, cells) in chunks {
        let Some(dim) = joined.dims.iter().position(|d| d.name == *name) else {
            let near = nearest(name, joined.dims.iter().map(|d| d.name.as_str()));
            let near = near.map_or(String::new(), |near| format!(": did you mean '{near}'?"));
            return Err(ArrayError::Usage(format!(
                "--chunks {name}={cells}: no dimension of that name{near}"
            )));
        };
        if *cells == 0 {
            return Err(ArrayError::Usage(format!("--chunks {name}=0: a chunk has at least 1 cell")));
        }
        if sizes.insert(dim, *cells).is_some() {
            return Err(ArrayError::Usage(format!("--chunks: '{name}' is given twice")));
        }
    }
    Ok(sizes)
}

fn history(script: &Script, joined: &Joined, stamp: bool) -> String {
    let done = format!("jobq compute: {}", script.one_line());
    if !stamp {
        return done;
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let files = match &joined.files[..] {
        [only] => only.path.clone(),
        [first, .., last] => format!("{} .. {} ({} files)", first.path, last.path, joined.files.len()),
        [] => String::new(),
    };
    format!("{}: {done} from {files}", utc(seconds))
}

fn summary(
    joined: &Joined,
    checked: &Checked,
    outputs: &[&Output],
    stages: &[Planned],
    described: &OutputFile,
    target: &Path,
) -> PlanSummary {
    let shown = outputs.iter().enumerate().map(|(number, output)| {
        let info = &checked.info[output.node];
        let stage = stages.iter().find(|s| s.outputs.contains(&number));
        let units = info.attributes.iter().find(|a| a.name == "units").and_then(|a| a.value.text());
        OutputSummary {
            name: output.name.clone(),
            dtype: format!("{:?}", info.numeric.dtype()).to_lowercase(),
            dimensions: info.dims.iter().map(|d| joined.dims[*d].name.clone()).collect(),
            shape: info.dims.iter().map(|d| joined.dims[*d].len).collect(),
            chunk: stage.map_or(Vec::new(), |s| s.stage.tile.clone()),
            units: units.map(str::to_owned),
        }
    });
    let mut read: Vec<&str> = Vec::new();
    for operand in stages.iter().flat_map(|s| &s.stage.operands) {
        if let crate::kernels::stage::From::Files(source) = &operand.from
            && !read.contains(&source.variable.as_str())
        {
            read.push(&source.variable);
        }
    }
    let cells = |o: &&Output| checked.info[o.node].dims.iter().map(|d| joined.dims[*d].len).product::<u64>();
    let nbytes = |o: &&Output| cells(o) * checked.info[o.node].numeric.dtype().size() as u64;
    PlanSummary {
        schema: 1,
        out: target.to_owned(),
        inputs: joined.files.len(),
        tasks: 0,
        tiles: stages.iter().map(|s| s.stage.tiles()).sum(),
        read_nbytes: read.iter().filter_map(|name| joined.variable(name)).map(|v| v.stored_nbytes).sum(),
        decoded_nbytes: stages.iter().map(|s| s.reads_nbytes).sum(),
        output_nbytes: outputs.iter().map(nbytes).sum(),
        outputs: shown.collect(),
        left_out: described.left_out.clone(),
    }
}
