//! A request -> a graph that anybody can run, and what it will do.

use super::dataset::{Joined, open};
use super::expression::{Checked, Output, Script, check::check, nearest};
use super::look::look_at;
use super::output::{self, OutputFile, describe};
use super::published::Published;
use super::stages::{Planned, TileSizes, stages};
use super::summary::{bytes, utc};
use super::{ArrayError, NOT_UTF8};
use crate::graph::{Builder, Graph, MAX_TASKS, Op, Resources};
use crate::kernels::look::Look;
use crate::kernels::output::{OutputPlan, WritePlan};
use crate::kernels::tile::arguments;
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Endings of output files that can be written.
pub const ENDINGS: [&str; 1] = ["nc"];
/// States that one task merges.
const MERGE_FAN_IN: usize = 16;
/// Bytes of tiles (before compression) that one task writes: it syncs once for all of them.
const WRITE_BYTES: u64 = 8 << 20;

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
    /// The file that is written until it is whole; [`begin`] makes it, [`discard`] removes it.
    pub temporary: PathBuf,
    /// What workers must see; [`super::look_graph`] has them look.
    pub look: Look,
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
    let Published { joined, statements, .. } = match &request.dataset {
        Some(published) => published.clone(),
        None => Published::of(open(&request.inputs)?),
    };
    let own = Script::parse(&request.statements)?;
    let script = Script::parse(&[&statements[..], &request.statements].concat())?;
    if own.statements.is_empty() && request.keep.is_empty() {
        return Err(ArrayError::Usage(
            "nothing to compute: give statements such as 's = mean(t, time)'".into(),
        ));
    }
    if joined.files.iter().any(|file| same_file(Path::new(&file.path), &target)) {
        return Err(ArrayError::Output(format!("{} is one of the inputs", request.out.display())));
    }
    let checked = check(&script, &joined.names())?;
    let outputs = wanted(&checked, &request.keep, script.statements.len() - own.statements.len())?;
    let nodes: Vec<_> = outputs.iter().map(|o| o.node).collect();
    let sizes = tile_sizes(&joined, &request.chunks)?;
    for output in &outputs {
        if let Some(dim) = checked.info[output.node].dims.iter().find(|d| joined.dims[**d].len == 0) {
            let (name, dim) = (&output.name, &joined.dims[*dim].name);
            return Err(ArrayError::Input(format!("'{name}' has no cells: the dimension '{dim}' is empty")));
        }
    }
    let stages = stages(&joined, &checked, &nodes, &sizes)?;
    let history = history(&script, &joined, request.stamp);
    let described = describe(&output::Request {
        joined: &joined,
        checked: &checked,
        outputs: &outputs,
        stages: &stages,
        history,
    })?;
    let summary = summary(&joined, &checked, &outputs, &stages, &described, &target);
    let temporary = temporary(&target)?;
    let files = Files { target, temporary: temporary.clone(), overwrite: request.overwrite };
    let graph = graph(&stages, described, outputs.len(), files)?;
    let summary = PlanSummary { tasks: graph.len() as u64, ..summary };
    let look = look_at(&joined, temporary.clone());
    Ok(Plan { graph, summary, temporary, look })
}

/// Makes the empty temporary file, which the plan's tasks then write to: to be called before any of them runs. Only
/// who owns the plan makes it, so that a task that is late, after [`discard`], can't make it again.
///
/// # Errors
/// The file can't be made: its folder is full, or not to be written to.
pub fn begin(plan: &Plan) -> std::io::Result<()> {
    std::fs::OpenOptions::new().write(true).create_new(true).open(&plan.temporary).map(drop)
}

/// Removes what an unfinished plan has left: to be called after a failure or a cancellation, and harmless after
/// success, and before [`begin`]. Nothing comes back after it, though tasks may still be running somewhere.
///
/// # Errors
/// The file is there and can't be removed.
pub fn discard(plan: &Plan) -> std::io::Result<()> {
    match std::fs::remove_file(&plan.temporary) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
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
        Ok(there) if there.is_dir() => Err(ArrayError::Output(format!("{shown} is a directory"))),
        Ok(_) if !request.overwrite => {
            Err(ArrayError::Output(format!("{shown} exists: pass --overwrite to replace it")))
        }
        _ => Ok(target),
    }
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

/// The statements that go into the file: those from `own` on that no later one uses, and those to keep.
fn wanted<'a>(checked: &'a Checked, keep: &[String], own: usize) -> Result<Vec<&'a Output>, ArrayError> {
    for name in keep {
        if !checked.outputs.iter().any(|o| o.name == *name) {
            let near = nearest(name, checked.outputs.iter().map(|o| o.name.as_str()));
            let near = near.map_or(String::new(), |near| format!(": did you mean '{near}'?"));
            return Err(ArrayError::Usage(format!("--keep {name}: no statement of that name{near}")));
        }
    }
    let outputs = checked.outputs.iter().enumerate();
    let wanted = outputs.filter(|(number, o)| (*number >= own && !o.used) || keep.contains(&o.name));
    Ok(wanted.map(|(_, output)| output).collect())
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

struct Files {
    target: PathBuf,
    temporary: PathBuf,
    overwrite: bool,
}

/// Tile tasks with their sizes, stage by stage; then the layout, those who write, and the one that closes the file.
fn graph(
    planned: &[Planned],
    described: OutputFile,
    outputs: usize,
    files: Files,
) -> Result<Graph, ArrayError> {
    let tasks: u64 = planned.iter().map(|p| p.stage.tiles().saturating_mul(p.parts.len() as u64 + 2)).sum();
    if tasks > u64::from(MAX_TASKS) {
        return Err(ArrayError::Usage(format!("the plan has about {tasks} tasks: choose larger --chunks")));
    }
    let mut builder = Builder::new();
    let sizes_op = builder.op(kernel("array.sizes", Vec::new()));
    let carried = described.spec.variables.len() - outputs;
    let (mut tiles, mut sizes, mut scalars) = (Vec::new(), Vec::new(), Vec::new());
    let mut output = OutputPlan {
        target: files.target,
        temporary: files.temporary,
        overwrite: files.overwrite,
        spec: described.spec,
        stages: Vec::new(),
        scalars: Vec::new(),
    };
    // Chunked variables are counted without the carried ones and scalars.
    let is_scalar = |number: usize| output.spec.variables[carried + number].dims.is_empty();
    let chunked: Vec<usize> = (0..outputs).filter(|number| !is_scalar(*number)).collect();
    for stage in planned {
        let made = tile_tasks(&mut builder, stage, &tiles);
        if stage.outputs.is_empty() {
        } else if stage.stage.kept.is_empty() {
            output.scalars.push(stage.outputs.iter().map(|number| carried + number).collect());
            scalars.extend_from_slice(&made);
        } else {
            let count = arguments(&[stage.outputs.len() as u64]);
            sizes.extend(made.iter().map(|tile| builder.task(sizes_op, &count, &[*tile])));
            let place = |number: &usize| chunked.iter().position(|c| c == number).unwrap_or(0);
            output.stages.push((stage.stage.tiles(), stage.outputs.iter().map(place).collect()));
        }
        tiles.push(made);
    }
    let params = |plan: &OutputPlan| rmp_serde::to_vec(plan).expect("an output plan is plain data");
    let layout_op = builder.op(kernel("array.layout", params(&output)));
    let layout = builder.task(layout_op, &[], &sizes);
    let mut closing = vec![layout];
    closing.extend(scalars);
    let writing =
        planned.iter().zip(&tiles).filter(|(p, _)| !p.outputs.is_empty() && !p.stage.kept.is_empty());
    for ((stage, made), (_, variables)) in writing.zip(&output.stages) {
        let (target, temporary) = (output.target.clone(), output.temporary.clone());
        let plan = WritePlan { target, temporary, variables: variables.clone() };
        let op =
            builder.op(kernel("array.write", rmp_serde::to_vec(&plan).expect("a write plan is plain data")));
        for (first, group) in (0..).step_by(tiles_a_write(stage)).zip(made.chunks(tiles_a_write(stage))) {
            let deps: Vec<u32> = std::iter::once(layout).chain(group.iter().copied()).collect();
            closing.push(builder.task(op, &arguments(&[first]), &deps));
        }
    }
    // Its value says nothing, so it isn't wanted: whoever held it may be lost, and nothing is computed again.
    let close_op = builder.op(kernel("array.close", params(&output)));
    builder.task(close_op, &[], &closing);
    builder.build().map_err(|error| ArrayError::Usage(format!("the plan is too large: {error}")))
}

/// The tasks of a stage's tiles; the result has the one of each tile that ends with its value.
fn tile_tasks(builder: &mut Builder, planned: &Planned, earlier: &[Vec<u32>]) -> Vec<u32> {
    let stage = &planned.stage;
    let params = stage.encoded();
    let parts = planned.parts.len() - 1;
    let whole = builder.op(kernel(if parts > 1 { "array.finish" } else { "array.tile" }, params.clone()));
    let split = (parts > 1).then(|| {
        let partial = builder.op(kernel("array.partial", params.clone()));
        (partial, builder.op(kernel("array.merge", params)))
    });
    let mut made = Vec::with_capacity(stage.tiles() as usize);
    for tile in 0..stage.tiles() {
        let mut deps: Vec<u32> = Vec::new();
        for (producer, of) in stage.producers.iter().zip(&planned.producers) {
            deps.extend(stage.needed(producer, tile).iter().map(|n| earlier[*of][*n as usize]));
        }
        let Some((partial, merge)) = split else {
            made.push(builder.task(whole, &arguments(&[tile]), &deps));
            continue;
        };
        let blocks = planned.parts.windows(2);
        let mut states: Vec<u32> =
            blocks.map(|w| builder.task(partial, &arguments(&[tile, w[0], w[1]]), &deps)).collect();
        while states.len() > MERGE_FAN_IN {
            let groups = states.chunks(MERGE_FAN_IN);
            states = groups.map(|group| builder.task(merge, &arguments(&[tile]), group)).collect();
        }
        let count = states.len() as u64;
        states.extend(deps);
        made.push(builder.task(whole, &arguments(&[tile, count]), &states));
    }
    made
}

fn tiles_a_write(planned: &Planned) -> usize {
    let sizes = planned.stage.outputs.iter().map(|o| o.dtype.size() as u64);
    let nbytes = sizes.sum::<u64>() * planned.stage.tile.iter().product::<u64>();
    (WRITE_BYTES / nbytes.max(1)).max(1) as usize
}

pub(super) fn kernel(name: &str, params: Vec<u8>) -> Op {
    Op::Kernel { name: name.to_owned(), params, resources: Resources::default() }
}
