//! `unpublish NAME`: removes a published dataset, and nothing that it was made from.

use super::Context;
use super::connect::state_dir;
use super::exit::{CliError, Exit};
use super::pinned;
use crate::datasets::Registry;

#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct Args {
    /// Its name
    #[arg(value_name = "DATASET")]
    pub dataset: String,
}

pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let registry = Registry::of(&state_dir(context)?);
    let recipe = registry.open(&args.dataset).ok().map(|stored| stored.recipe);
    // First, while something names what is to be let go.
    if let Some(recipe) = recipe {
        pinned::release(&recipe, context);
    }
    let stays = registry.remove(&args.dataset)?;
    if let Some(folder) = stays {
        context.out.warning(format!("{} stays: this cluster has not published it", folder.display()));
    }
    context.out.note(format!("dataset:{} is no more", args.dataset));
    Ok(Exit::Ok)
}
