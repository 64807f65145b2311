//! The file to be written: its dimensions, the coordinates that go along, and the attributes of it all.

use super::ArrayError;
use super::attributes::{is_internal, text};
use super::dataset::{Joined, JoinedVariable};
use super::expression::{Checked, Node, NodeId, NodeInfo, Output};
use super::stages::Planned;
use crate::format::decode::Scratch;
use crate::format::netcdf4::{FileSpec, VarSpec, VarStorage};
use crate::format::{AttrValue, Attribute, DType, Dimension};
use crate::kernels::program::Decode;
use crate::kernels::source::Files;
use crate::kernels::stage::Encoding;

/// Deflate level of outputs: with shuffle, higher ones gain a few percent for twice the time.
const DEFLATE_LEVEL: u32 = 1;
/// A coordinate larger than this is left out: it travels with the plan.
const COORDINATE_BYTES: u64 = 64 << 20;
/// The CF version that the output keeps to, unless the inputs name one.
const CONVENTIONS: &str = "CF-1.8";

/// How a result is stored: by its type, missing cells as netCDF's default fill value.
pub fn encoding(info: &NodeInfo) -> Encoding {
    let dtype = info.numeric.dtype();
    // A single number is stored as it is.
    let deflate_level = (!info.dims.is_empty()).then_some(DEFLATE_LEVEL);
    Encoding { dtype, fill: dtype.default_fill(), deflate_level }
}

/// The file's description. Variables are the coordinates, then the outputs in the order of the statements.
#[derive(Clone, Debug)]
pub struct OutputFile {
    pub spec: FileSpec,
    /// Coordinates that are not carried, and why.
    pub left_out: Vec<String>,
}

/// What the file is made from.
pub struct Request<'a> {
    pub joined: &'a Joined,
    pub checked: &'a Checked,
    pub outputs: &'a [&'a Output],
    pub stages: &'a [Planned],
    /// The first line of the output's history.
    pub history: String,
}

/// Describes the file, and reads the coordinates that go into it.
///
/// # Errors
/// A coordinate that can't be read; an output with a coordinate's name.
pub fn describe(request: &Request<'_>) -> Result<OutputFile, ArrayError> {
    let Request { joined, checked, outputs, stages, history } = request;
    let mut carried: Vec<usize> = Vec::new();
    let mut own: Vec<Vec<usize>> = Vec::new();
    for output in outputs.iter() {
        let found = coordinates_of(joined, checked, output.node);
        found.all().for_each(|v| push_new(&mut carried, v));
        own.push(found.auxiliary);
    }
    carried.sort_unstable();
    let mut left_out = Vec::new();
    carried.retain(|index| {
        let variable = &joined.variables[*index];
        let fits = variable.dtype != DType::String && joined.nbytes(variable) <= COORDINATE_BYTES;
        if !fits {
            left_out.push(variable.name.clone());
        }
        fits
    });
    if let Some(clash) = outputs.iter().find(|o| carried.iter().any(|c| joined.variables[*c].name == o.name))
    {
        return Err(ArrayError::Usage(format!(
            "'{}' is a coordinate of the output: give the statement another name",
            clash.name
        )));
    }
    let mut dims: Vec<usize> = Vec::new();
    let output_dims = outputs.iter().flat_map(|o| checked.info[o.node].dims.iter());
    output_dims
        .chain(carried.iter().flat_map(|c| &joined.variables[*c].dims))
        .for_each(|d| push_new(&mut dims, *d));
    dims.sort_unstable();
    let place = |list: &[usize]| -> Vec<usize> {
        list.iter().filter_map(|d| dims.iter().position(|dim| dim == d)).collect()
    };
    let mut variables = Vec::new();
    for index in &carried {
        let variable = &joined.variables[*index];
        variables.push(carried_variable(joined, variable, &carried, place(&variable.dims))?);
    }
    for (number, output) in outputs.iter().enumerate() {
        let info = &checked.info[output.node];
        let auxiliary = own[number].iter().filter(|v| carried.contains(v));
        let names: Vec<&str> = auxiliary.map(|v| joined.variables[*v].name.as_str()).collect();
        let tile = stages.iter().find(|s| s.outputs.contains(&number)).map(|s| s.stage.tile.clone());
        variables.push(output_variable(
            joined,
            output,
            info,
            &names,
            place(&info.dims),
            tile.unwrap_or_default(),
        ));
    }
    let dimensions = dims.iter().map(|d| Dimension { unlimited: false, ..joined.dims[*d].clone() }).collect();
    let spec = FileSpec { dimensions, attributes: global_attributes(joined, history), variables };
    Ok(OutputFile { spec, left_out })
}

fn push_new(list: &mut Vec<usize>, item: usize) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// Variables of the inputs that tell where an output lies: indexes into [`Joined::variables`].
#[derive(Default)]
struct Coordinates {
    /// Coordinates of its dimensions, their bounds, its grid mapping.
    others: Vec<usize>,
    /// Named in the `coordinates` attribute.
    auxiliary: Vec<usize>,
}

impl Coordinates {
    fn all(&self) -> impl Iterator<Item = usize> + '_ {
        self.others.iter().chain(&self.auxiliary).copied()
    }
}

fn coordinates_of(joined: &Joined, checked: &Checked, node: NodeId) -> Coordinates {
    let dims = &checked.info[node].dims;
    let index = |name: &str| joined.variables.iter().position(|v| v.name == name);
    let mut found = Coordinates::default();
    for dim in dims {
        let of_dim = index(&joined.dims[*dim].name).filter(|v| joined.is_coordinate(&joined.variables[*v]));
        found.others.extend(of_dim);
    }
    for source in sources_of(checked, node) {
        let words = |name: &str| {
            let value = joined.variables[source].attributes.iter().find(|a| a.name == name);
            value.and_then(|a| a.value.text()).unwrap_or("").split([' ', ':']).filter(|w| !w.is_empty())
        };
        for auxiliary in words("coordinates").filter_map(index) {
            if lies_within(joined, &joined.variables[auxiliary], dims) && !found.others.contains(&auxiliary) {
                push_new(&mut found.auxiliary, auxiliary);
            }
        }
        if keeps_grid_mapping(joined, dims) {
            words("grid_mapping").filter_map(index).for_each(|v| push_new(&mut found.others, v));
        }
    }
    let bounds: Vec<usize> = found
        .all()
        .filter_map(|v| joined.variables[v].attributes.iter().find(|a| a.name == "bounds"))
        .filter_map(|a| index(a.value.text()?))
        .collect();
    bounds.into_iter().for_each(|v| push_new(&mut found.others, v));
    found
}

/// Whether all its dimensions are among `dims`, but for the length of text.
fn lies_within(joined: &Joined, variable: &JoinedVariable, dims: &[usize]) -> bool {
    let own = match &variable.dims[..] {
        [rest @ .., _] if variable.dtype == DType::Char && joined.dims.len() > 1 => rest,
        all => all,
    };
    own.iter().all(|d| dims.contains(d))
}

/// A grid mapping says what horizontal coordinates mean: it goes along while one of them is left.
fn keeps_grid_mapping(joined: &Joined, dims: &[usize]) -> bool {
    const HORIZONTAL: [&str; 6] = [
        "projection_x_coordinate",
        "projection_y_coordinate",
        "grid_longitude",
        "grid_latitude",
        "longitude",
        "latitude",
    ];
    let is_horizontal = |dim: &usize| {
        let Some(coordinate) = joined.variable(&joined.dims[*dim].name) else { return false };
        let get =
            |name: &str| coordinate.attributes.iter().find(|a| a.name == name).and_then(|a| a.value.text());
        matches!(get("axis"), Some("X" | "Y"))
            || get("standard_name").is_some_and(|n| HORIZONTAL.contains(&n))
    };
    // Without any such coordinate in the inputs there is nothing to go by.
    let known = (0..joined.dims.len()).any(|dim| is_horizontal(&dim));
    !known || dims.iter().any(is_horizontal)
}

/// All inputs that a node is made of.
fn sources_of(checked: &Checked, node: NodeId) -> Vec<usize> {
    let (mut seen, mut open, mut found) = (vec![false; node + 1], vec![node], Vec::new());
    while let Some(at) = open.pop() {
        if std::mem::replace(&mut seen[at], true) {
            continue;
        }
        match &checked.nodes[at] {
            Node::Constant(_) => {}
            Node::Variable(index) => found.push(*index),
            Node::Apply(_, operands) => open.extend(operands),
            Node::Reduce(_, input, _) => open.push(*input),
        }
    }
    found.sort_unstable();
    found
}

/// A variable of the inputs as it is copied: its stored numbers, whole.
fn carried_variable(
    joined: &Joined,
    variable: &JoinedVariable,
    carried: &[usize],
    dims: Vec<usize>,
) -> Result<VarSpec, ArrayError> {
    let plain = Decode { dtype: variable.dtype, missing: Vec::new(), scale: None, offset: None };
    let source = joined.source(variable, plain);
    let shape = joined.shape(variable);
    let (start, mut data) = (vec![0; shape.len()], Vec::new());
    let files = Files::new(&joined.files);
    let read = source.read(&files, (&start, &shape), &mut Scratch::default(), &mut data);
    read.map_err(|error| ArrayError::Input(error.message))?;
    let is_carried =
        |name: Option<&str>| carried.iter().any(|c| Some(joined.variables[*c].name.as_str()) == name);
    let stays = |a: &&Attribute| {
        !is_internal(&a.name) && (a.name != "bounds" || is_carried(a.value.text())) && a.name != "coordinates"
    };
    Ok(VarSpec {
        name: variable.name.clone(),
        dtype: variable.dtype,
        dims,
        attributes: variable.attributes.iter().filter(stays).cloned().collect(),
        fill: None,
        storage: VarStorage::Contiguous(data),
    })
}

fn output_variable(
    joined: &Joined,
    output: &Output,
    info: &NodeInfo,
    auxiliary: &[&str],
    dims: Vec<usize>,
    tile: Vec<u64>,
) -> VarSpec {
    let Encoding { dtype, fill, deflate_level } = encoding(info);
    let mut attributes = info.attributes.clone();
    if !keeps_grid_mapping(joined, &info.dims) {
        attributes.retain(|a| a.name != "grid_mapping");
    }
    if !auxiliary.is_empty() {
        attributes.push(text("coordinates", auxiliary.join(" ")));
    }
    let storage = match deflate_level {
        None => VarStorage::Contiguous(vec![0; dtype.size()]),
        Some(_) => VarStorage::Chunked { chunk: tile, shuffle: true, deflate_level },
    };
    let fill = info.may_miss.then_some(fill);
    VarSpec { name: output.name.clone(), dtype, dims, attributes, fill, storage }
}

fn global_attributes(joined: &Joined, history: &str) -> Vec<Attribute> {
    let get = |name: &str| joined.attributes.iter().find(|a| a.name == name).and_then(|a| a.value.text());
    let conventions = get("Conventions").filter(|c| c.starts_with("CF-")).unwrap_or(CONVENTIONS);
    let mut made = vec![text("Conventions", conventions)];
    let rest = joined.attributes.iter().filter(|a| !is_internal(&a.name));
    made.extend(rest.filter(|a| a.name != "Conventions" && a.name != "history").cloned());
    let before = get("history").map_or(String::new(), |before| format!("\n{before}"));
    made.push(text("history", format!("{history}{before}")));
    // An attribute of another kind than text or numbers has no place in a file; there is none.
    made.retain(|a| !matches!(&a.value, AttrValue::Texts(texts) if texts.is_empty()));
    made
}
