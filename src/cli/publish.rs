//! `publish NAME ['NAME = EXPR'..] --in FILE..`: a dataset under a name, in the cluster's state directory.
//!
//! Nothing of it is seen before all of it is there. No scheduler is asked but for the values that `--persist memory`
//! and `--persist disk` compute.

use super::Context;
use super::compute::chunk;
use super::exit::{CliError, Exit};
use super::inputs::{Inputs, array_error};
use crate::array::Published;
use crate::datasets::share::{group_of, unreadable};
use crate::datasets::{Persist, Publication, Registry, Stored, TABLE, check_name};
use crate::state::StateDir;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Source files that are warned of one by one.
const MOST_WARNED: usize = 10;

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// Its name: letters, digits, - _ and .
    #[arg(value_name = "DATASET")]
    pub dataset: String,
    /// What it has beside the inputs' variables: NAME = EXPR, each may use the ones before it
    #[arg(value_name = "NAME = EXPR")]
    pub statements: Vec<String>,
    /// Files, or patterns of their names; several are joined. Or dataset:NAME
    #[arg(long = "in", required = true, num_args = 1.., value_name = "FILE|dataset:NAME")]
    pub inputs: Vec<String>,
    /// Where its values are to be: in the source files, in workers' memory, or in a Zarr store
    #[arg(long, value_name = "KIND", value_enum, default_value = "lazy")]
    pub persist: Kind,
    /// A directory in which others of its group find it
    #[arg(long, value_name = "PATH")]
    pub share: Option<PathBuf>,
    /// Tile sizes by dimension, such as time=24,lat=100
    #[arg(long, value_name = "DIM=N,..", value_delimiter = ',', value_parser = chunk)]
    pub chunks: Vec<(String, u64)>,
    /// Replace the dataset if there is one of that name
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    Lazy,
}

/// What was published.
#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    persist: &'a str,
    folder: &'a Path,
    inputs: usize,
    variables: Vec<String>,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    check_name(&args.dataset)?;
    let registry = registry(context)?;
    let inputs = Inputs::find(&args.inputs, context)?;
    let publication = Publication {
        name: args.dataset,
        persist: match args.persist {
            Kind::Lazy => Persist::Lazy,
        },
        statements: args.statements,
        chunks: args.chunks,
        share: args.share,
        overwrite: args.overwrite,
    };
    let stored = lazily(&registry, publication, &inputs)?;
    if stored.recipe.shared {
        warn_unreadable(&stored, context);
    }
    tell(&stored, context)?;
    Ok(Exit::Ok)
}

/// The datasets of the cluster, which needn't have been up yet.
fn registry(context: &Context) -> Result<Registry, CliError> {
    let settings = context.config()?.settings(None, &[])?;
    let state = StateDir::create(&settings.cluster.state_dir, &context.cluster)?;
    Ok(Registry::of(&state))
}

fn lazily(registry: &Registry, mut wanted: Publication, inputs: &Inputs) -> Result<Stored, CliError> {
    let names = inputs.files();
    let told = |error| match error {
        crate::datasets::DatasetError::Array(error) => array_error(error, &names),
        error => CliError::from(error),
    };
    match inputs {
        Inputs::Files(files) => registry.publish_lazily(&wanted, files).map_err(told),
        Inputs::Dataset(dataset) => {
            let (stored, published) = &**dataset;
            wanted.statements = [&published.statements[..], &wanted.statements].concat();
            let draft = registry.begin(&wanted)?;
            let table = stored.folder.join(TABLE);
            let bytes = std::fs::read(&table);
            let bytes = bytes.map_err(|error| CliError::config(format!("{}: {error}", table.display())))?;
            draft.write(TABLE, &bytes)?;
            let published = Published { statements: wanted.statements.clone(), ..published.clone() };
            registry.commit(draft, &wanted.recipe(&published.joined), &published).map_err(told)
        }
    }
}

/// Says of which source files those whom the dataset is shared with will get nothing.
fn warn_unreadable(stored: &Stored, context: &Context) {
    let place = stored.folder.parent().unwrap_or(Path::new("/"));
    let Ok(group) = group_of(place) else { return };
    let own = std::iter::once(stored.folder.as_path());
    let sources = stored.recipe.inputs.iter().map(|input| Path::new(&input.path));
    // With values of its own, the source files are needed no more.
    let files: Vec<&Path> = match stored.recipe.persist {
        Persist::Disk => own.collect(),
        _ => own.chain(sources).collect(),
    };
    let reasons = unreadable(files.into_iter(), group);
    for reason in reasons.iter().take(MOST_WARNED) {
        context.out.warning(reason);
    }
    if reasons.len() > MOST_WARNED {
        context.out.warning(format!("and {} more files", reasons.len() - MOST_WARNED));
    }
}

fn tell(stored: &Stored, context: &Context) -> Result<(), CliError> {
    let (recipe, folder) = (&stored.recipe, &stored.folder);
    if context.out.is_json() {
        let summary = stored.published()?.summary().map_err(crate::datasets::DatasetError::from)?;
        let variables = summary.variables.into_iter().map(|v| v.name).collect();
        let (name, persist) = (&recipe.name, recipe.persist.as_str());
        return context.out.json(&Report { name, persist, folder, inputs: recipe.inputs.len(), variables });
    }
    let kind = recipe.persist.as_str();
    context.out.note(format!("published dataset:{} ({kind}) in {}", recipe.name, folder.display()));
    Ok(())
}
