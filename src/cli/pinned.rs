//! Datasets in workers' memory: computed there when they are published, and again when they are gone.

use super::Context;
use super::compute::{cancel, check_size, failure};
use super::connect::{block_on, client};
use super::exit::{CliError, Exit};
use super::inputs::{Inputs, array_error};
use crate::array::{self, ComputeRequest, Held, Published};
use crate::client::{Client, ClientError, random_request};
use crate::datasets::recipe::{Memory, Result as Kept};
use crate::datasets::{Persist, Recipe, Registry, Stored};
use crate::graph::{GraphId, Key};
use crate::protocol::{Counts, GraphOptions, RefusalKind, Reply, Request};

/// Workers that hold each value.
const REPLICAS: u8 = 2;
/// Times that a dataset is computed again, if others do so at the same time.
const MOST_ROUNDS: usize = 4;

/// Computes what the recipe makes of the dataset and has workers keep it; what is noted of it.
pub fn compute(recipe: &Recipe, published: &Published, context: &Context) -> Result<Memory, CliError> {
    block_on(async { computed(&mut client(context).await?, recipe, published, context).await })
}

impl Inputs {
    /// Finds what workers hold of a dataset, so that plans start from that.
    pub fn find_held(&mut self, context: &Context) -> Result<(), CliError> {
        if let Inputs::Dataset(dataset) = self
            && dataset.0.recipe.persist == Persist::Memory
        {
            let (stored, published) = &mut **dataset;
            published.held = held(stored, published, context)?;
        }
        Ok(())
    }
}

/// What workers hold of the dataset; if they don't hold it any more, it is computed again.
fn held(stored: &mut Stored, published: &Published, context: &Context) -> Result<Vec<Held>, CliError> {
    block_on(async {
        let mut client = client(context).await?;
        for _ in 0..MOST_ROUNDS {
            if let Some(memory) = &stored.recipe.memory
                && let Some(graph) = graph_of(&mut client, &memory.key).await?
            {
                let (counts, _) = client.wait(vec![Key::Graph(graph)], None).await?;
                if counts.erred + counts.cancelled == 0 && pin(&mut client, &memory.key).await? {
                    return Ok(stored.held(graph));
                }
                unpin(&mut client, graph).await?;
            }
            context.out.note(format!("no worker holds dataset:{}: it is computed again", stored.recipe.name));
            let memory = computed(&mut client, &stored.recipe, published, context).await?;
            replace(&mut client, stored, memory).await?;
        }
        let message = format!("others compute dataset:{} again all the time", stored.recipe.name);
        Err(CliError::new(Exit::TryAgain, message).hint("wait until they are done"))
    })
}

/// Notes where the dataset is held now, unless somebody else was first: then theirs counts. Whose note was displaced
/// is let go by whoever displaced it.
async fn replace(client: &mut Client, stored: &mut Stored, memory: Memory) -> Result<(), CliError> {
    let mut now = Stored::open(&stored.folder)?.recipe;
    let before = std::mem::replace(&mut stored.recipe.memory, now.memory.take());
    let found = std::mem::take(&mut stored.recipe.memory);
    let is_same = stored.recipe == now;
    stored.recipe.memory = found;
    if !is_same || stored.recipe.memory != before {
        let_go(client, &memory).await?;
        let message = format!("dataset:{} was replaced meanwhile", now.name);
        return if is_same { Ok(()) } else { Err(CliError::new(Exit::TryAgain, message)) };
    }
    stored.recipe.memory = Some(memory);
    match Registry::rewrite(stored)?.memory {
        Some(displaced) => let_go(client, &displaced).await,
        None => Ok(()),
    }
}

/// Has workers keep it from now on: a dataset names it. If none can be told, the next who needs it does that.
pub fn keep(recipe: &Recipe, context: &Context) {
    let Some(memory) = &recipe.memory else { return };
    if let Err(error) = block_on(async { pin(&mut client(context).await?, &memory.key).await }) {
        let name = &recipe.name;
        context.out.detail(format!("no worker was told to keep dataset:{name} yet: {}", error.message));
    }
}

/// Has workers let go of it, if the cluster is up: if it isn't, there is nothing to let go of.
pub fn release(recipe: &Recipe, context: &Context) {
    let Some(memory) = &recipe.memory else { return };
    let released = block_on(async {
        let mut client = client(context).await?;
        let_go(&mut client, memory).await
    });
    if let Err(error) = released {
        context
            .out
            .detail(format!("no worker was told to let go of dataset:{}: {}", recipe.name, error.message));
    }
}

async fn computed(
    client: &mut Client,
    recipe: &Recipe,
    published: &Published,
    context: &Context,
) -> Result<Memory, CliError> {
    let names: Vec<&str> = recipe.inputs.iter().map(|input| input.path.as_str()).collect();
    let told = |error| array_error(error, &names);
    let (statements, keep) = published.everything().map_err(told)?;
    let request = ComputeRequest {
        statements,
        keep,
        dataset: Some(published.clone()),
        chunks: recipe.chunks.iter().map(|(name, cells)| (name.clone(), *cells)).collect(),
        ..ComputeRequest::default()
    };
    // No other graph has this name, whatever became of earlier clusters.
    let random = random_request().map_err(CliError::from)?.0;
    let key = format!("dataset.{}.{random:032x}", recipe.name);
    let pinned = array::pin(&request, &key).map_err(told)?;
    check_size(pinned.graph.columns())?;
    let results = pinned.results.into_iter().map(|result| Kept {
        name: result.name,
        tile: result.tile,
        buffer: result.buffer,
        tasks: result.tasks,
    });
    let results = results.collect();
    let bar = context.out.progress(pinned.graph.len() as u64, "computing");
    let label = format!("dataset {}", recipe.name);
    // Whoever kills this process leaves a graph as any other: it is pinned once a dataset names it.
    let (max_failures, replicas, unconfirmed) = (Some(0), REPLICAS, true);
    let options = GraphOptions { label, max_failures, replicas, unconfirmed, ..GraphOptions::default() };
    let graph = client.submit(pinned.graph, options).await?;
    let mut show = |counts: &Counts| bar.set_position(counts.settled());
    let progress = (!bar.is_hidden()).then_some(&mut show as &mut dyn FnMut(&Counts));
    let waited = tokio::select! {
        settled = client.wait(vec![Key::Graph(graph)], progress) => settled.map_err(CliError::from),
        _ = tokio::signal::ctrl_c() => Err(CliError::silent(Exit::Interrupted)),
    };
    bar.finish_and_clear();
    let outcome = waited.and_then(|(counts, failures)| match failure(&counts, &failures, graph) {
        Some(failure) => Err(failure),
        None => Ok(Memory { key, results }),
    });
    if outcome.is_err() {
        cancel(client, graph, context).await;
        unpin(client, graph).await?;
    }
    outcome
}

/// The graph of which some task has this name.
async fn graph_of(client: &mut Client, key: &str) -> Result<Option<GraphId>, CliError> {
    match client.call(Request::Resolve(vec![Key::Named(key.to_owned())])).await {
        Ok(Reply::Resolved(tasks)) => Ok(tasks.first().map(|task| task.graph)),
        Ok(other) => Err(crate::client::unexpected(&other).into()),
        Err(ClientError::Refused { kind: RefusalKind::Unknown, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn let_go(client: &mut Client, memory: &Memory) -> Result<(), CliError> {
    match graph_of(client, &memory.key).await? {
        Some(graph) => unpin(client, graph).await,
        None => Ok(()),
    }
}

/// `false`: its values were let go.
async fn pin(client: &mut Client, key: &str) -> Result<bool, CliError> {
    let request = Request::Pin { request: random_request()?, key: Key::Named(key.to_owned()) };
    match client.call(request).await {
        Ok(_) => Ok(true),
        Err(ClientError::Refused { kind: RefusalKind::Unknown, .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn unpin(client: &mut Client, graph: GraphId) -> Result<(), CliError> {
    let request = Request::Unpin { request: random_request()?, key: Key::Graph(graph) };
    match client.call(request).await {
        Ok(_) | Err(ClientError::Refused { kind: RefusalKind::Unknown, .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
