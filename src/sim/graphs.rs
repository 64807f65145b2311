//! Random graphs, and what they must come to: a direct evaluation of every task.

use super::random::{Random, digest, digest_bytes};
use crate::graph::{Columns, CommandSpec, EnvSource, GraphId, Op, OutputSpec, Resources, TaskId};
use crate::protocol::{GraphOptions, RequestId};
use std::ops::Range;

/// Last byte of a task's arguments: how it behaves.
pub const STEADY: u8 = 0;
/// A kernel that always fails.
pub const FAILS: u8 = 1;
/// A command whose every attempt may fail.
pub const FLAKY: u8 = 2;
/// Takes long.
pub const SLOW: u8 = 3;

/// Times that the commands with retries are retried.
pub const RETRIES: u32 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dep {
    /// A task of the same graph.
    Here(u32),
    /// A task of an earlier graph of the same client.
    Earlier { graph: usize, index: u32 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Kernel,
    /// Occupies two cores.
    WideKernel,
    Data,
    Command,
    Retried,
    AtMostOnce,
    Output,
    RetriedOutputs,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Kernel,
        Kind::WideKernel,
        Kind::Data,
        Kind::Command,
        Kind::Retried,
        Kind::AtMostOnce,
        Kind::Output,
        Kind::RetriedOutputs,
    ];

    pub fn is_command(self) -> bool {
        !matches!(self, Kind::Kernel | Kind::WideKernel | Kind::Data)
    }

    pub fn outputs(self) -> usize {
        match self {
            Kind::Output => 1,
            Kind::RetriedOutputs => 2,
            _ => 0,
        }
    }

    fn op(self) -> Op {
        let kernel = |name: &str, cores| Op::Kernel {
            name: name.into(),
            params: vec![],
            resources: Resources { cores, ..Resources::default() },
        };
        match self {
            Kind::Kernel => kernel("mix", 1),
            Kind::WideKernel => kernel("mix-wide", 2),
            Kind::Data => Op::Data,
            _ => Op::Command(Box::new(self.command())),
        }
    }

    fn command(self) -> CommandSpec {
        let output = |i| OutputSpec { path: format!("out.{i}"), fenced: true };
        CommandSpec {
            argv: vec!["/bin/act".into()],
            substitute: true,
            cwd: "/".into(),
            env_from: EnvSource::None,
            env: vec![],
            stdin: None,
            outputs: (0..self.outputs()).map(output).collect(),
            resources: Resources::default(),
            retries: if matches!(self, Kind::Retried | Kind::RetriedOutputs) { RETRIES } else { 0 },
            time_limit_ms: 0,
            at_most_once: self == Kind::AtMostOnce,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Planned {
    /// Unique over all clients: the first bytes of the arguments.
    pub key: u64,
    pub kind: Kind,
    pub behaviour: u8,
    pub deps: Vec<Dep>,
    pub wanted: bool,
    pub name: Option<String>,
}

/// A graph as its client means it, and how far it has come.
pub struct Plan {
    pub request: RequestId,
    pub tasks: Vec<Planned>,
    pub parts: Vec<Range<usize>>,
    pub options: GraphOptions,
    /// Built when first sent: a repeat must say the same.
    built: Vec<Columns>,
    externals: u32,
    pub graph: Option<GraphId>,
    /// Tasks of acknowledged parts.
    pub acknowledged: usize,
    pub acknowledged_parts: usize,
    pub cancel_asked: bool,
}

impl Plan {
    pub fn random(random: &mut Random, client: usize, earlier: &[Plan], size: usize, commands: bool) -> Plan {
        let number = earlier.len();
        let shape = random.below(4);
        let mut tasks: Vec<Planned> = Vec::new();
        for index in 0..size {
            let kind = random_kind(random, commands);
            let deps = if kind == Kind::Data { vec![] } else { random_deps(random, shape, index, earlier) };
            let behaviour = random_behaviour(random, kind);
            let name = random.chance(0.1).then(|| format!("c{client}/g{number}/t{index}"));
            let key = digest(&[client as u64, number as u64, index as u64, random.next()]);
            tasks.push(Planned { key, kind, behaviour, deps, wanted: random.chance(0.25), name });
        }
        let mut cuts: Vec<usize> = (0..random.below(4)).map(|_| random.below(size as u64) as usize).collect();
        cuts.extend([0, size]);
        cuts.sort_unstable();
        let parts: Vec<Range<usize>> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
        let options = GraphOptions {
            label: format!("client {client}"),
            max_failures: random.chance(0.1).then(|| random.below(3) as u32),
            ..GraphOptions::default()
        };
        let request = RequestId(u128::from(random.next()) << 64 | u128::from(random.next()));
        // Some are pinned.
        let is_pinned = request.0.is_multiple_of(7);
        let replicas = if is_pinned { 2 } else { 0 };
        let options =
            GraphOptions { replicas, unconfirmed: is_pinned && request.0.is_multiple_of(2), ..options };
        Plan {
            request,
            tasks,
            parts,
            options,
            built: Vec::new(),
            externals: 0,
            graph: None,
            acknowledged: 0,
            acknowledged_parts: 0,
            cancel_asked: false,
        }
    }

    /// The columns of a part; parts are asked for in order, and may be asked for again.
    pub fn columns(&mut self, part: usize, earlier: &[Plan]) -> Columns {
        if let Some(built) = self.built.get(part) {
            return built.clone();
        }
        let first = self.parts[part].start as u32;
        let mut columns = Columns::default();
        // Only the first part brings the operations: later ones name them by index.
        if part == 0 {
            columns.ops = Kind::ALL.iter().map(|kind| kind.op()).collect();
        }
        for (index, task) in self.tasks[self.parts[part].clone()].iter().enumerate() {
            let index = first + index as u32;
            columns.op_of.push(Kind::ALL.iter().position(|kind| *kind == task.kind).unwrap_or(0) as u32);
            columns.args.extend(args(task));
            columns.args_end.push(columns.args.len() as u32);
            for dep in &task.deps {
                columns.deps.push(match dep {
                    Dep::Here(index) => *index,
                    Dep::Earlier { graph, index } => {
                        let graph = earlier[*graph].graph.unwrap_or(GraphId(0));
                        columns.externals.push(TaskId { graph, index: *index });
                        self.externals += 1;
                        u32::MAX - (self.externals - 1)
                    }
                });
            }
            columns.deps_end.push(columns.deps.len() as u32);
            if task.wanted {
                columns.wanted.push(index);
            }
            columns.names.extend(task.name.iter().map(|name| (index, name.clone())));
        }
        self.built.push(columns.clone());
        columns
    }
}

fn random_kind(random: &mut Random, commands: bool) -> Kind {
    match random.below(if commands { 20 } else { 12 }) {
        0..=8 => Kind::Kernel,
        9 | 10 => Kind::WideKernel,
        11 => Kind::Data,
        12 | 13 => Kind::Command,
        14 | 15 => Kind::Retried,
        16 => Kind::AtMostOnce,
        17 | 18 => Kind::Output,
        _ => Kind::RetriedOutputs,
    }
}

fn random_behaviour(random: &mut Random, kind: Kind) -> u8 {
    match kind {
        Kind::Kernel if random.chance(0.01) => FAILS,
        Kind::Retried | Kind::RetriedOutputs if random.chance(0.5) => FLAKY,
        _ if random.chance(0.2) => SLOW,
        _ => STEADY,
    }
}

/// Chains, trees, wide fans and random meshes; now and then a dependency twice, or on an earlier graph.
fn random_deps(random: &mut Random, shape: u64, index: usize, earlier: &[Plan]) -> Vec<Dep> {
    let mut deps = Vec::new();
    if index > 0 {
        let any = |random: &mut Random| Dep::Here(random.below(index as u64) as u32);
        match shape {
            0 if random.chance(0.8) => deps.push(Dep::Here(index as u32 - 1)),
            1 => deps.push(Dep::Here((index as u32 - 1) / 3)),
            2 if index > 10 => deps.extend((0..random.below(3)).map(|_| Dep::Here(random.below(10) as u32))),
            _ => deps.extend((0..random.below(4)).map(|_| any(random))),
        }
    }
    if !earlier.is_empty() && random.chance(0.08) {
        let graph = random.below(earlier.len() as u64) as usize;
        // Only what is surely acknowledged: a client that streams on has had its answers so far.
        let size = earlier[graph].tasks.len() as u64;
        deps.push(Dep::Earlier { graph, index: random.below(size) as u32 });
    }
    deps
}

fn args(task: &Planned) -> Vec<u8> {
    let mut args = task.key.to_le_bytes().to_vec();
    args.push(task.behaviour);
    args
}

/// The key and behaviour that arguments say.
pub fn read_args(args: &[u8]) -> (u64, u8) {
    let key = args.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    (key, args.get(8).copied().unwrap_or(STEADY))
}

/// What a kernel makes of its inputs.
pub fn kernel_value(key: u64, inputs: &[u64]) -> u64 {
    inputs.iter().fold(digest(&[key]), |sum, input| digest(&[sum, *input]))
}

/// What a command prints.
pub fn command_output(key: u64) -> Vec<u8> {
    digest(&[key, 1]).to_le_bytes().to_vec()
}

/// The values of a client's tasks, as inputs of kernels: by graph and index, evaluated directly.
pub fn evaluate(plans: &[Plan]) -> Vec<Vec<u64>> {
    let mut values: Vec<Vec<u64>> = Vec::new();
    for plan in plans {
        let mut of_graph: Vec<u64> = Vec::new();
        for task in &plan.tasks {
            let input = |dep: &Dep| match dep {
                Dep::Here(index) => of_graph[*index as usize],
                Dep::Earlier { graph, index } => values[*graph][*index as usize],
            };
            let value = match task.kind {
                Kind::Data => digest_bytes(args(task)),
                kind if kind.is_command() => digest_bytes(command_output(task.key)),
                _ => kernel_value(task.key, &task.deps.iter().map(input).collect::<Vec<_>>()),
            };
            of_graph.push(value);
        }
        values.push(of_graph);
    }
    values
}
