//! Measures the executor on this host or site: throughput, chains, trees, layers, latency and transfers, by real
//! processes, with every result checked by a sum. `docs/bench.md` says what each figure means.
//!
//! `graph` makes what is computed, `ground` has the cluster that computes it, `usage` asks the kernel what that
//! cost, `figures` sums up the repeats, `transfer` moves large values.

mod figures;
mod graph;
mod ground;
mod transfer;
mod usage;

pub use figures::{Figure, Sample, Spread, spreads};
pub use ground::Ground;
pub use usage::file_system;

use crate::client::{Client, ClientError, Submission};
use crate::cluster::down::DownError;
use crate::cluster::up::UpError;
use crate::graph::{Columns, GraphId, Key, TaskId};
use crate::kernels::probe;
use crate::protocol::GraphOptions;
use crate::state::StateError;
use graph::{Reduction, Stream};
use std::path::PathBuf;
use std::time::Instant;
use usage::{Cpu, Processes};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Tasks that need nothing of each other.
    Tasks,
    /// Each task needs the one before it.
    Chain,
    /// Results are added up two by two, down to one.
    Tree,
    /// Each task needs three of the layer below.
    Layers,
    /// One task at a time is submitted, and its result fetched.
    Latency,
    /// Large values from workers to a worker.
    Transfer,
    /// One task at a time is submitted.
    Submit,
}

/// How it is measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub kind: Kind,
    /// Tasks of a repeat, about; of `Transfer`: values.
    pub count: u32,
    /// Of each value.
    pub bytes: u64,
    pub repeat: u32,
    /// A program to run with `begin PID` before what is timed, and with `end PID` after it; PID is the scheduler's.
    /// Profilers come in by it.
    pub probe: Option<PathBuf>,
}

/// What all repeats gave.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// Tasks that were timed in each repeat.
    pub tasks: u64,
    pub workers: u32,
    /// Of each worker; 0: not the same everywhere.
    pub threads: u32,
    /// The sum that the results had, and had to have.
    pub sum: u64,
    pub samples: Vec<Sample>,
}

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{}", wrong_sum(*.expected, *.found))]
    WrongSum { expected: u64, found: Option<u64> },
    /// A task failed, or was cancelled by somebody.
    #[error("{failed} of {total} tasks failed or were cancelled: {first}")]
    Failed { failed: u64, total: u64, first: String },
    #[error("cluster '{0}' has no workers")]
    NoWorkers(String),
    #[error("all values are on one worker: there is nothing to transfer")]
    NothingToTransfer,
    #[error("the scheduler ended while it was measured")]
    Gone,
    #[error("{0} doesn't end")]
    Stays(&'static str),
    #[error("the cluster's identity can't be used: {0}")]
    Identity(String),
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: std::io::Error },
    #[error("{}: {words}", program.display())]
    Probe { program: PathBuf, words: String },
    #[error("the bare link between two threads, to compare with: {0}")]
    Raw(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Up(#[from] UpError),
    #[error(transparent)]
    Down(#[from] DownError),
    #[error(transparent)]
    State(#[from] StateError),
}

fn wrong_sum(expected: u64, found: Option<u64>) -> String {
    match found {
        Some(found) => format!("the results add up to {found:#018x}, and must to {expected:#018x}"),
        None => format!("the sum of the results is damaged, and must be {expected:#018x}"),
    }
}

/// How a measurement ended: with its outcome, or because it was to stop.
pub enum Ended<S> {
    Measured(Measured),
    Stopped(S),
}

/// Measures, and ends what it began, also when `stop` comes first.
///
/// # Errors
/// Something failed or was wrong; a fresh cluster is down then too, unless the error says otherwise.
pub async fn measure<S>(
    plan: &Plan,
    ground: &Ground,
    stop: impl Future<Output = S>,
    mut repeated: impl FnMut(u32),
) -> Result<Ended<S>, BenchError> {
    let mut stop = std::pin::pin!(stop);
    let mut whole: Option<Measured> = None;
    for number in 0..plan.repeat.max(1) {
        let once = Repeat { plan, ground }.run(stop.as_mut()).await?;
        let (measured, sample) = match once {
            Ended::Stopped(how) => return Ok(Ended::Stopped(how)),
            Ended::Measured(mut measured) => {
                let sample = measured.samples.pop().unwrap_or_default();
                (measured, sample)
            }
        };
        whole.get_or_insert(measured).samples.push(sample);
        repeated(number + 1);
    }
    whole.map(Ended::Measured).ok_or(BenchError::Gone)
}

/// What is under way between two looks at the clocks.
struct Watch {
    cpu: Cpu,
    started: Instant,
}

/// One repeat. On a fresh cluster: each has its own scheduler, so that none is slower for what the last one left.
struct Repeat<'a> {
    plan: &'a Plan,
    ground: &'a Ground,
}

/// A graph that was timed.
struct Timed {
    tasks: u64,
    /// Seconds of each round, where there are rounds.
    rounds: Vec<f64>,
    seconds: f64,
    cpu: Cpu,
    sum: u64,
}

impl Repeat<'_> {
    async fn run<S>(&self, mut stop: impl Future<Output = S> + Unpin) -> Result<Ended<S>, BenchError> {
        let mut sample = Sample::new();
        let takes_in = matches!(self.plan.kind, Kind::Tasks | Kind::Chain | Kind::Tree | Kind::Layers);
        if takes_in && self.ground.is_fresh() {
            // What is being brought up is not let go of halfway.
            let outcome = match self.ground.client().await {
                Ok(mut client) => tokio::select! {
                    taken = self.take_in(&mut client, &mut sample) => taken.map(|()| None),
                    how = &mut stop => Ok(Some(how)),
                },
                Err(error) => Err(error),
            };
            if let Some(how) = ended(outcome, self.ground.end().await)? {
                return Ok(Ended::Stopped(how));
            }
        }
        let outcome = match self.ground.client().await {
            Ok(mut client) => {
                let outcome = tokio::select! {
                    measured = self.timed(&mut client, &mut sample) => measured.map(Ok),
                    how = &mut stop => Ok(Err(how)),
                };
                outcome
            }
            Err(error) => Err(error),
        };
        Ok(match ended(outcome, self.ground.end().await)? {
            Ok(measured) => Ended::Measured(Measured { samples: vec![sample], ..measured }),
            Err(how) => Ended::Stopped(how),
        })
    }

    /// What it costs a scheduler without workers to take the graph in, and to have it pending.
    async fn take_in(&self, client: &mut Client, sample: &mut Sample) -> Result<(), BenchError> {
        let status = crate::cluster::up::status(client).await?;
        let processes = Processes::of(&self.ground.contact()?, &status);
        let (cpu, rss) = (processes.cpu(), processes.scheduler_rss());
        let mut stream = self.stream();
        submit(client, "bench", || (!stream.is_whole()).then(|| (stream.part(), stream.is_whole()))).await?;
        let tasks = f64::from(stream.made());
        let used = processes.cpu().since(cpu).scheduler;
        sample.extend(used.map(|micros| ("ingest_cpu_us_per_task", micros / tasks)));
        let grown = processes.scheduler_rss().zip(rss).map(|(now, then)| now - then);
        sample.extend(grown.map(|bytes| ("scheduler_rss_bytes_per_task", bytes / tasks)));
        Ok(())
    }

    async fn timed(&self, client: &mut Client, sample: &mut Sample) -> Result<Measured, BenchError> {
        let status = self.ground.staff(client).await?;
        let disk = self.ground.state().path();
        let sync = usage::sync_micros(disk);
        let sync = sync.map_err(|source| BenchError::Disk { path: disk.to_owned(), source })?;
        sample.insert("fdatasync_us", sync);
        let processes = Processes::of(&self.ground.contact()?, &status);
        let timed = match self.plan.kind {
            Kind::Latency => self.latency(client, &processes).await?,
            Kind::Submit => self.submits(client, &processes).await?,
            Kind::Transfer => transfer::run(self, client, &processes, sample).await?,
            _ => self.graph(client, &processes).await?,
        };
        let tasks = timed.tasks as f64;
        sample.insert("seconds", timed.seconds);
        match self.plan.kind {
            Kind::Latency | Kind::Submit => sample.extend(per_round(timed.rounds)),
            Kind::Chain => drop(sample.insert("us_per_step", timed.seconds * 1e6 / tasks)),
            _ => {}
        }
        if self.plan.kind != Kind::Transfer {
            sample.insert("tasks_per_s", tasks / timed.seconds);
            sample.extend(timed.cpu.scheduler.map(|micros| ("scheduler_cpu_us_per_task", micros / tasks)));
            sample.extend(timed.cpu.workers.map(|micros| ("worker_cpu_us_per_task", micros / tasks)));
        }
        let cores = |index: usize| status.workers.get(index).map_or(0, |worker| worker.cores);
        let same = status.workers.iter().all(|worker| worker.cores == cores(0));
        Ok(Measured {
            tasks: timed.tasks,
            workers: status.connected,
            threads: if same { cores(0) } else { 0 },
            sum: timed.sum,
            samples: Vec::new(),
        })
    }

    async fn begin(&self, processes: &Processes) -> Result<Watch, BenchError> {
        self.probe("begin", processes).await?;
        Ok(Watch { cpu: processes.cpu(), started: Instant::now() })
    }

    /// Seconds since then, and the CPU time that was used.
    async fn end(&self, watch: Watch, processes: &Processes) -> Result<(f64, Cpu), BenchError> {
        let taken = (watch.started.elapsed().as_secs_f64(), processes.cpu().since(watch.cpu));
        self.probe("end", processes).await?;
        Ok(taken)
    }

    async fn probe(&self, word: &str, processes: &Processes) -> Result<(), BenchError> {
        let Some(program) = &self.plan.probe else { return Ok(()) };
        let failed = |words: String| BenchError::Probe { program: program.clone(), words };
        let scheduler = processes.scheduler().ok_or_else(|| failed("the scheduler isn't here".to_owned()))?;
        let mut command = tokio::process::Command::new(program);
        // Ours is for the report.
        command.arg(word).arg(scheduler.to_string()).stdout(std::process::Stdio::null());
        let status = command.status().await;
        match status.map_err(|error| failed(error.to_string()))? {
            status if status.success() => Ok(()),
            status => Err(failed(status.to_string())),
        }
    }

    fn stream(&self) -> Stream {
        Stream::new(self.plan.kind, self.plan.count, self.plan.bytes)
    }

    /// From the first word of a graph to its end.
    async fn graph(&self, client: &mut Client, processes: &Processes) -> Result<Timed, BenchError> {
        let watch = self.begin(processes).await?;
        let mut stream = self.stream();
        let graph =
            submit(client, "bench", || (!stream.is_whole()).then(|| (stream.part(), stream.is_whole())))
                .await?;
        settled(client, vec![Key::Graph(graph)]).await?;
        let (seconds, cpu) = self.end(watch, processes).await?;
        let (results, sum) = stream.results();
        check(client, results.map(|index| TaskId { graph, index }), sum).await?;
        Ok(Timed { tasks: u64::from(stream.made()), rounds: Vec::new(), seconds, cpu, sum })
    }

    /// One task after the other, each until its result is here.
    async fn latency(&self, client: &mut Client, processes: &Processes) -> Result<Timed, BenchError> {
        let watch = self.begin(processes).await?;
        let (mut rounds, mut sum, mut found) = (Vec::new(), 0u64, 0u64);
        for key in 0..self.plan.count {
            let began = Instant::now();
            let task = self.submit_one(client, key).await?;
            let values = client.gather(&[task]).await?;
            rounds.push(began.elapsed().as_secs_f64());
            let number = values.first().and_then(probe::read);
            sum = sum.wrapping_add(probe::number_of(key));
            found = found.wrapping_add(number.ok_or(BenchError::WrongSum { expected: sum, found: None })?);
        }
        let (seconds, cpu) = self.end(watch, processes).await?;
        if found != sum {
            return Err(BenchError::WrongSum { expected: sum, found: Some(found) });
        }
        Ok(Timed { tasks: u64::from(self.plan.count), rounds, seconds, cpu, sum })
    }

    /// One task after the other, each until it is acknowledged as durable.
    async fn submits(&self, client: &mut Client, processes: &Processes) -> Result<Timed, BenchError> {
        let watch = self.begin(processes).await?;
        let (mut rounds, mut tasks, mut sum) = (Vec::new(), Vec::new(), 0u64);
        for key in 0..self.plan.count {
            let began = Instant::now();
            tasks.push(self.submit_one(client, key).await?);
            rounds.push(began.elapsed().as_secs_f64());
            sum = sum.wrapping_add(probe::number_of(key));
        }
        let (seconds, cpu) = self.end(watch, processes).await?;
        settled(client, tasks.iter().map(|task| Key::Task(*task)).collect()).await?;
        check(client, tasks.into_iter(), sum).await?;
        Ok(Timed { tasks: u64::from(self.plan.count), rounds, seconds, cpu, sum })
    }

    async fn submit_one(&self, client: &mut Client, key: u32) -> Result<TaskId, BenchError> {
        let part = graph::single(key, self.plan.bytes);
        let mut part = Some(part);
        let graph = submit(client, "bench", || part.take().map(|part| (part, true))).await?;
        Ok(TaskId { graph, index: 0 })
    }
}

/// The first of two things that went wrong.
fn ended<T>(outcome: Result<T, BenchError>, end: Result<(), BenchError>) -> Result<T, BenchError> {
    let outcome = outcome?;
    end?;
    Ok(outcome)
}

/// Submits the parts that `next` makes, each with whether it is the last.
async fn submit(
    client: &mut Client,
    label: &str,
    mut next: impl FnMut() -> Option<(Columns, bool)>,
) -> Result<GraphId, BenchError> {
    let mut submission = Submission::new(GraphOptions {
        label: label.to_owned(),
        max_failures: Some(0),
        ..GraphOptions::default()
    })?;
    while let Some((part, is_last)) = next() {
        client.submit_part(&mut submission, part, is_last).await?;
    }
    submission.graph.ok_or(BenchError::Gone)
}

/// Waits until all of this has ended well.
async fn settled(client: &mut Client, keys: Vec<Key>) -> Result<(), BenchError> {
    let (counts, failures) = client.wait(keys, None).await?;
    let failed = counts.erred + counts.cancelled;
    if failed == 0 {
        return Ok(());
    }
    let first = failures.first().map_or_else(|| "cancelled".to_owned(), |f| f.error.message.clone());
    Err(BenchError::Failed { failed, total: counts.total(), first })
}

/// Has the workers add up these results, and looks whether the sum is right.
async fn check(
    client: &mut Client,
    results: impl Iterator<Item = TaskId>,
    expected: u64,
) -> Result<(), BenchError> {
    let mut reduction = Reduction::new(results);
    let next = || (!reduction.is_whole()).then(|| (reduction.part(), reduction.is_whole()));
    let graph = submit(client, "bench: sum", next).await?;
    settled(client, vec![Key::Graph(graph)]).await?;
    let values = client.gather(&[TaskId { graph, index: reduction.root() }]).await?;
    match values.first().and_then(probe::read) {
        Some(found) if found == expected => Ok(()),
        found => Err(BenchError::WrongSum { expected, found }),
    }
}

/// Of the rounds of one repeat the middle one, and the one that 99 of 100 are faster than.
fn per_round(mut rounds: Vec<f64>) -> Vec<(&'static str, f64)> {
    rounds.sort_by(f64::total_cmp);
    let at = |share: f64| rounds.get(((rounds.len() as f64 * share) as usize).min(rounds.len().max(1) - 1));
    let figures = [("us_per_step", at(0.5)), ("us_per_step_p99", at(0.99))];
    figures.into_iter().filter_map(|(name, seconds)| Some((name, *seconds? * 1e6))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_have_a_middle_and_a_tail() {
        let rounds = (1..=100).map(f64::from).collect();
        assert_eq!(per_round(rounds), [("us_per_step", 51e6), ("us_per_step_p99", 100e6)]);
        assert_eq!(per_round(vec![2.0]), [("us_per_step", 2e6), ("us_per_step_p99", 2e6)]);
        assert_eq!(per_round(vec![]), []);
    }

    #[test]
    fn a_wrong_sum_names_both_numbers() {
        let error = BenchError::WrongSum { expected: 255, found: Some(1) };
        let words = error.to_string();
        assert!(words.contains("0x00000000000000ff") && words.contains("0x0000000000000001"), "{words}");
    }
}
