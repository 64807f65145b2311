//! Large values from worker to worker, and the same bytes over a bare link between two threads to compare with.

use super::{BenchError, Repeat, Sample, Timed, settled, submit};
use crate::client::Client;
use crate::graph::{Key, TaskId};
use crate::kernels::probe;
use crate::net::{Listener, Transport};
use crate::protocol::TaskReport;
use crate::state::Role;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes that the bare link writes and reads at once.
const RAW_BYTES: usize = 256 << 10;
/// What the bare link carries at most: enough for a steady rate.
const MAX_RAW: u64 = 1 << 30;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Has the workers make values, then one of them fetch and add up all of those.
pub(super) async fn run(
    repeat: &Repeat<'_>,
    client: &mut Client,
    processes: &super::usage::Processes,
    sample: &mut Sample,
) -> Result<Timed, BenchError> {
    let mut stream = super::graph::Stream::new(super::Kind::Transfer, repeat.plan.count, repeat.plan.bytes);
    let graph =
        submit(client, "bench", || (!stream.is_whole()).then(|| (stream.part(), stream.is_whole()))).await?;
    settled(client, vec![Key::Graph(graph)]).await?;
    let made = client.results(vec![Key::Graph(graph)]).await?;
    let (results, expected) = stream.results();
    let watch = repeat.begin(processes).await?;
    let mut part = Some(super::graph::sum_of(results.map(|index| TaskId { graph, index })));
    let sum_graph = submit(client, "bench: sum", || part.take().map(|part| (part, true))).await?;
    settled(client, vec![Key::Graph(sum_graph)]).await?;
    let (seconds, cpu) = repeat.end(watch, processes).await?;

    let task = TaskId { graph: sum_graph, index: 0 };
    let found = client.gather(&[task]).await?.first().and_then(probe::read);
    if found != Some(expected) {
        return Err(BenchError::WrongSum { expected, found });
    }
    let consumer =
        client.results(vec![Key::Task(task)]).await?.first().and_then(|report| report.worker.clone());
    let moved = moved(&made, consumer.as_deref());
    if moved == 0 {
        return Err(BenchError::NothingToTransfer);
    }
    let raw = bare(&repeat.ground.transport(Role::Worker)?, moved.min(MAX_RAW)).await?;
    let rate = moved as f64 / seconds;
    sample.extend([("bytes_per_s", rate), ("raw_bytes_per_s", raw), ("share_of_raw", rate / raw)]);
    Ok(Timed { tasks: 1, rounds: Vec::new(), seconds, cpu, sum: expected })
}

/// Bytes of values that the consumer didn't have itself.
fn moved(made: &[TaskReport], consumer: Option<&str>) -> u64 {
    let mut held: BTreeMap<Option<&str>, u64> = BTreeMap::new();
    for report in made {
        *held.entry(report.worker.as_deref()).or_default() += report.nbytes;
    }
    held.iter().filter(|(worker, _)| **worker != consumer).map(|(_, nbytes)| nbytes).sum()
}

/// Bytes a second over one connection of this host to itself, with the cluster's TLS if it has that, and without
/// anything of ours around the bytes.
async fn bare(transport: &Transport, nbytes: u64) -> Result<f64, BenchError> {
    let raw = |error: String| BenchError::Raw(error);
    let listener = Listener::bind(Some("127.0.0.1"), None).map_err(|error| raw(error.to_string()))?;
    let addresses = listener.addresses();
    let sender = transport.clone();
    // A runtime of its own on a thread of its own, as two workers have.
    let sending = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(async {
            let link = sender.connect(&addresses, Role::Worker, HANDSHAKE_TIMEOUT).await;
            let (_reader, mut writer) = link.map_err(|error| error.to_string())?.into_halves();
            let chunk = vec![0x2e; RAW_BYTES];
            let mut left = nbytes;
            while left > 0 {
                let step = left.min(RAW_BYTES as u64) as usize;
                writer.write_all(&chunk[..step]).await.map_err(|error| error.to_string())?;
                left -= step as u64;
            }
            writer.shutdown().await.map_err(|error| error.to_string())
        })
    });
    let received = async {
        let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, listener.accept()).await;
        let (stream, _) =
            accepted.map_err(|_| "nobody connected in time")?.map_err(|error| error.to_string())?;
        let link = transport.accept(stream, HANDSHAKE_TIMEOUT).await.map_err(|error| error.to_string())?;
        let (mut reader, _writer) = link.into_halves();
        let mut buffer = vec![0; RAW_BYTES];
        let (started, mut got) = (Instant::now(), 0u64);
        loop {
            match reader.read(&mut buffer).await.map_err(|error| error.to_string())? {
                0 => break,
                n => got += n as u64,
            }
        }
        if got < nbytes {
            return Err(format!("{got} of {nbytes} bytes came"));
        }
        Ok(got as f64 / started.elapsed().as_secs_f64())
    };
    let received = received.await;
    let sent = sending.join().unwrap_or_else(|_| Err("the sending thread panicked".to_owned()));
    let rate = received.map_err(raw)?;
    sent.map_err(raw)?;
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bare_link_carries_all_bytes() {
        assert!(bare(&Transport::insecure(), 3_000_001).await.unwrap() > 0.0);
    }
}
