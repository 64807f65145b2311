//! `README.md` of a dataset: what somebody wants to know who finds the folder years later.

use super::{Persist, Recipe};
use crate::array::summary::{Summary, utc};
use std::fmt::Write;

/// The file's name in the dataset's folder.
pub const FILE: &str = "README.md";
/// Source files that are named.
const FILES_NAMED: usize = 50;

/// The whole text.
pub fn text(recipe: &Recipe, summary: &Summary) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = write(&mut out, recipe, summary);
    out
}

fn write(out: &mut String, recipe: &Recipe, summary: &Summary) -> std::fmt::Result {
    let Recipe { name, created_by, created_on, jobq, .. } = recipe;
    let kept = match recipe.persist {
        Persist::Lazy => "Its values are in the source files; kept here is where their chunks are.",
        Persist::Memory => {
            "Its values are held by the cluster's workers, and computed anew when they are gone."
        }
        Persist::Disk => {
            "Its values are in `data.zarr`, in this folder; the source files are needed no more."
        }
    };
    writeln!(out, "# {name}\n")?;
    let when = utc(recipe.created_unix);
    writeln!(out, "Published {when} by {created_by} on {created_on}, with jobq {jobq}. {kept}\n")?;
    writeln!(out, "## What is in it\n\n```text\n{}```\n", summary.text())?;
    if !recipe.statements.is_empty() {
        writeln!(out, "## How it was made\n\n```text\n{}\n```\n", recipe.statements.join("\n"))?;
    }
    writeln!(out, "## How to open it\n\n```sh")?;
    writeln!(out, "jq open dataset:{name}")?;
    writeln!(out, "jq compute 'NAME = EXPRESSION' --in dataset:{name} --out OUT.nc")?;
    writeln!(out, "jq fetch {name} -o {name}.nc\n```\n")?;
    if recipe.shared {
        writeln!(out, "Others name this folder: `jq open dataset:PATH/{name}`.\n")?;
    }
    if recipe.persist == Persist::Disk {
        writeln!(out, "Or in Python: `xarray.open_zarr(\"{name}/data.zarr\")`.\n")?;
    }
    writeln!(out, "## Source files ({})\n", recipe.inputs.len())?;
    for input in recipe.inputs.iter().take(FILES_NAMED) {
        let changed = utc(u64::try_from(input.modified_ns / 1_000_000_000).unwrap_or(0));
        writeln!(out, "- `{}` ({} bytes, of {changed})", input.path, input.size)?;
    }
    if recipe.inputs.len() > FILES_NAMED {
        writeln!(out, "- and {} more: see `dataset.toml`", recipe.inputs.len() - FILES_NAMED)?;
    }
    Ok(())
}
