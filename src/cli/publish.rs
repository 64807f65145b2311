//! `publish NAME ['NAME = EXPR'..] --in FILE..`: a dataset under a name, in the cluster's state directory.
//!
//! Nothing of it is seen before all of it is there. No scheduler is asked but for the values that `--persist memory`
//! and `--persist disk` compute.

use super::Context;
use super::compute::{chunk, execute};
use super::exit::{CliError, Exit};
use super::inputs::{Inputs, array_error};
use super::pinned;
use crate::array::published::to_table;
use crate::array::{self, ComputeRequest, Published};
use crate::datasets::share::{group_of, unreadable, within};
use crate::datasets::{
    DATA, DatasetError, Draft, Persist, Publication, Recipe, Registry, Stored, TABLE, check_name,
};
use crate::local::Host;
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
    /// Compute on this host's threads, without a cluster
    #[arg(long)]
    pub local: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// Nowhere but in the source files
    Lazy,
    /// In the memory of the cluster's workers, two of them each value
    Memory,
    /// In a Zarr store, which is computed now
    Disk,
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
    if args.persist == Kind::Memory && (args.local || args.share.is_some()) {
        let message = "--persist memory is for a cluster's own workers: not with --local or --share";
        return Err(CliError::usage(message).hint("others can read --persist lazy and disk"));
    }
    let registry = registry(context)?;
    let inputs = Inputs::find(&args.inputs, context)?;
    let publication = Publication {
        name: args.dataset,
        persist: match args.persist {
            Kind::Lazy => Persist::Lazy,
            Kind::Memory => Persist::Memory,
            Kind::Disk => Persist::Disk,
        },
        statements: args.statements,
        chunks: args.chunks,
        share: args.share,
        overwrite: args.overwrite,
    };
    let names = inputs.files();
    let told = |error| match error {
        DatasetError::Array(error) => array_error(error, &names),
        error => CliError::from(error),
    };
    let draft = registry.begin(&publication)?;
    let replaces = publication.overwrite;
    let work = Work { publication, published: inputs.open()?, draft };
    let host = args.local.then(Host::here);
    let (draft, recipe, published) = match work.publication.persist {
        Persist::Disk => work.on_disk(host.as_ref(), context)?,
        Persist::Memory => work.in_memory(&inputs, context)?,
        Persist::Lazy => work.lazily(&inputs)?,
    };
    // Before nobody knows of it any more: if this ends here, it is computed again when it is needed.
    if replaces && let Ok(old) = registry.open(&recipe.name) {
        pinned::release(&old.recipe, context);
    }
    let stored = registry.commit(draft, &recipe, &published).map_err(told);
    if stored.is_err() {
        pinned::release(&recipe, context);
    }
    let stored = stored?;
    pinned::keep(&stored.recipe, context);
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

/// A dataset that is being made: the draft of its folder, what it is made from, and with which statements.
struct Work {
    publication: Publication,
    published: Published,
    draft: Draft,
}

/// A folder that lacks only its recipe and summary.
type Made = (Draft, Recipe, Published);

impl Work {
    /// The recipe, and what it makes.
    fn recipe(&mut self) -> Recipe {
        let own = std::mem::take(&mut self.publication.statements);
        self.published.statements.extend(own);
        self.publication.statements = self.published.statements.clone();
        self.publication.recipe(&self.published.joined)
    }

    /// Keeps where the chunks of the source files are.
    fn lazily(mut self, inputs: &Inputs) -> Result<Made, CliError> {
        let recipe = self.recipe();
        let table = match inputs {
            Inputs::Files(files) => to_table(files).map_err(|error| array_error(error, files))?.1,
            Inputs::Dataset(dataset) => {
                let table = dataset.0.folder.join(TABLE);
                let unreadable = |error| CliError::config(format!("{}: {error}", table.display()));
                std::fs::read(&table).map_err(unreadable)?
            }
        };
        self.draft.write(TABLE, &table)?;
        Ok((self.draft, recipe, self.published))
    }

    /// Has workers compute all values and keep them.
    fn in_memory(mut self, inputs: &Inputs, context: &Context) -> Result<Made, CliError> {
        let names = inputs.files();
        let own = std::mem::take(&mut self.publication.statements);
        self.published.statements.extend(own);
        let everything = self.published.everything().map_err(|error| array_error(error, &names))?;
        // What has no statement gets one: statements are what is held.
        self.publication.statements = everything.0;
        let (draft, mut recipe, published) = self.lazily(inputs)?;
        recipe.memory = Some(pinned::compute(&recipe, &published, context)?);
        Ok((draft, recipe, published))
    }

    /// Computes all values into a store in the folder.
    fn on_disk(mut self, host: Option<&Host>, context: &Context) -> Result<Made, CliError> {
        let recipe = self.recipe();
        let names: Vec<&str> = recipe.inputs.iter().map(|input| input.path.as_str()).collect();
        let told = |error| array_error(error, &names);
        let (statements, keep) = self.published.everything().map_err(told)?;
        let request = ComputeRequest {
            statements,
            keep,
            dataset: Some(self.published),
            out: self.draft.path().join(DATA),
            chunks: self.publication.chunks,
            ..ComputeRequest::default()
        };
        let plan = array::plan(&request).map_err(told)?;
        execute(&plan, host, context)?;
        let joined = array::open(&[request.out]).map_err(told)?;
        Ok((self.draft, recipe, Published::of(joined)))
    }
}

/// Says of which source files those whom the dataset is shared with will get nothing.
fn warn_unreadable(stored: &Stored, context: &Context) {
    let place = stored.folder.parent().unwrap_or(Path::new("/"));
    let Ok(group) = group_of(place) else { return };
    let own = within(&stored.folder);
    let own = own.iter().map(PathBuf::as_path);
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
        let summary = stored.published()?.summary().map_err(DatasetError::from)?;
        let variables = summary.variables.into_iter().map(|v| v.name).collect();
        let (name, persist) = (&recipe.name, recipe.persist.as_str());
        return context.out.json(&Report { name, persist, folder, inputs: recipe.inputs.len(), variables });
    }
    let kind = recipe.persist.as_str();
    context.out.note(format!("published dataset:{} ({kind}) in {}", recipe.name, folder.display()));
    Ok(())
}
