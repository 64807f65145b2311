//! Datasets of somebody else's cluster, by a grant: the scheduler gives out their recipes and chunk tables. Values are
//! read from where they are, with the rights that the reader has there.

use super::Context;
use super::connect::{block_on, client};
use super::exit::{CliError, Exit};
use super::scratch::Scratch;
use crate::client::{Client, unexpected};
use crate::datasets::registry::Listed;
use crate::datasets::{DatasetError, Persist, Stored, TABLE, check_name, recipe};
use crate::protocol::{Reply, Request};
use std::path::{Path, PathBuf};

/// Longest file that is brought here.
const MAX_BYTES: u64 = 4 << 30;

/// All datasets that the cluster has.
pub fn list(context: &Context) -> Result<Vec<Listed>, CliError> {
    let scratch = Scratch::below(&std::env::temp_dir())?;
    block_on(async {
        let mut client = client(context).await?;
        let mut listed = Vec::new();
        for (name, folder) in folders(&mut client).await? {
            let there = scratch.path().join(&name);
            let made = std::fs::create_dir(&there);
            made.map_err(|error| CliError::config(format!("{}: {error}", there.display())))?;
            // Only its recipe: a list needs no more, and values that aren't shared make nothing broken.
            let stored = match recipe_of(&mut client, &name, &there).await {
                Ok(stored) => Ok(Stored { folder: folder.into(), ..stored }),
                Err(error) => {
                    Err(DatasetError::Damaged { path: PathBuf::from(&name), reason: error.message })
                }
            };
            listed.push((name, stored));
        }
        Ok(listed)
    })
}

async fn recipe_of(client: &mut Client, name: &str, folder: &Path) -> Result<Stored, CliError> {
    check_name(name)?;
    bring(client, name, recipe::FILE, folder).await?;
    Ok(Stored::open(folder)?)
}

/// The dataset of that name. What is brought of it stays until the program ends.
pub fn dataset(name: &str, context: &Context) -> Result<Stored, CliError> {
    let scratch = Scratch::below(&std::env::temp_dir())?;
    let stored = block_on(async {
        let mut client = client(context).await?;
        let stored = recipe_of(&mut client, name, scratch.path()).await?;
        if stored.recipe.persist != Persist::Disk {
            bring(&mut client, name, TABLE, scratch.path()).await?;
            return Ok(stored);
        }
        // Its values are where they are, if they are shared.
        let folders = folders(&mut client).await?;
        let folder = folders.into_iter().find(|(found, _)| found == name).map(|(_, folder)| folder);
        let folder = folder.ok_or_else(|| CliError::config(format!("no dataset '{name}'")))?;
        if !stored.recipe.shared {
            let message = format!("the values of dataset:{name} are not shared");
            return Err(CliError::new(Exit::Permission, message)
                .hint("its owner can publish it with --share PATH, where others can read"));
        }
        Ok(Stored { folder: folder.into(), ..stored })
    })?;
    context.keep(scratch);
    Ok(stored)
}

async fn folders(client: &mut Client) -> Result<Vec<(String, String)>, CliError> {
    match client.call(Request::Datasets).await? {
        Reply::Datasets(found) => Ok(found),
        other => Err(unexpected(&other).into()),
    }
}

/// Brings a file of the dataset into the folder.
async fn bring(client: &mut Client, name: &str, file: &str, folder: &Path) -> Result<(), CliError> {
    let (mut bytes, mut total) = (Vec::new(), 1);
    while (bytes.len() as u64) < total {
        let (dataset, file) = (name.to_owned(), file.to_owned());
        let offset = bytes.len() as u64;
        match client.call(Request::DatasetFile { dataset, file, offset }).await? {
            Reply::DatasetFile { nbytes, part }
                if nbytes <= MAX_BYTES && (!part.is_empty() || nbytes == 0) =>
            {
                total = nbytes;
                bytes.extend(part);
            }
            Reply::DatasetFile { .. } => {
                return Err(CliError::config(format!(
                    "dataset '{name}' changes while it is read: try again"
                )));
            }
            other => return Err(unexpected(&other).into()),
        }
    }
    let path = folder.join(file);
    std::fs::write(&path, &bytes).map_err(|error| CliError::config(format!("{}: {error}", path.display())))
}
