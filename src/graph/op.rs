//! What a task does. Operations are few and shared: a graph holds each distinct one once, and a task adds only
//! its own argument bytes.

use serde::{Deserialize, Serialize};

/// An operation of a graph's op table.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Op {
    /// A program. The task's argument bytes replace the placeholders of its template.
    Command(Box<CommandSpec>),
    /// A native function by name. Pure: it may run twice. `params` are MessagePack, shared by all its tasks.
    Kernel {
        name: String,
        #[serde(with = "serde_bytes")]
        params: Vec<u8>,
        resources: Resources,
    },
    /// The task's argument bytes are the value.
    Data,
    /// An operation of a runner outside this program, opaque here.
    External {
        runner: String,
        #[serde(with = "serde_bytes")]
        blob: Vec<u8>,
        resources: Resources,
    },
}

impl Op {
    /// About how many bytes it takes on the wire.
    pub fn size_hint(&self) -> usize {
        const FRAME: usize = 64;
        FRAME
            + match self {
                Op::Command(spec) => {
                    let words = spec.argv.iter().map(String::len);
                    let env = spec.env.iter().map(|(name, value)| name.len() + value.len());
                    let outputs = spec.outputs.iter().map(|output| output.path.len());
                    words.chain(env).chain(outputs).map(|nbytes| nbytes + 5).sum()
                }
                Op::Kernel { params, .. } => params.len(),
                Op::Data => 0,
                Op::External { blob, .. } => blob.len(),
            }
    }
}

/// What a task occupies on its worker while it runs.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Resources {
    pub cores: u32,
    /// Bytes; 0: not said.
    pub memory: u64,
    /// Named counts, such as `gpu=1`, sorted by name.
    pub named: Vec<(String, u32)>,
}

impl Default for Resources {
    fn default() -> Self {
        Resources { cores: 1, memory: 0, named: Vec::new() }
    }
}

/// Where a command's environment comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnvSource {
    /// The submitter's, as listed in `CommandSpec::env`, over the worker's.
    #[default]
    Here,
    /// The worker's own.
    Worker,
    /// Nothing but what `CommandSpec::env` says.
    None,
}

/// A declared output: the file that the command makes; what it writes is the attempt's temporary path.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct OutputSpec {
    /// Template of the final path; relative ones are under the command's `cwd`.
    pub path: String,
    /// Whether the command uses the temporary path (`{out}` or `JOBQ_TASK_OUTPUT`); if not, only the file's
    /// existence is checked.
    pub fenced: bool,
}

/// A command line with placeholders, and how to run it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct CommandSpec {
    /// Templates: `{}` the argument, `{/}` its file name, `{.}` without extension, `{/.}` both, `{#}` the
    /// task's number from 1, `{out}` `{out2}` the temporary paths of the declared outputs.
    pub argv: Vec<String>,
    /// Whether placeholders are replaced (`map`), or the words stand as they are but for `{out}` (`submit`).
    pub substitute: bool,
    pub cwd: String,
    pub env_from: EnvSource,
    pub env: Vec<(String, String)>,
    /// File to read standard input from; none: empty.
    pub stdin: Option<String>,
    pub outputs: Vec<OutputSpec>,
    pub resources: Resources,
    /// Times that a task error is retried.
    pub retries: u32,
    /// 0: no limit.
    pub time_limit_ms: u64,
    /// Never run again when it isn't known whether it ran.
    pub at_most_once: bool,
}

impl Op {
    /// What one task of this operation occupies.
    pub fn resources(&self) -> Resources {
        match self {
            Op::Command(spec) => spec.resources.clone(),
            Op::Kernel { resources, .. } | Op::External { resources, .. } => resources.clone(),
            Op::Data => Resources { cores: 0, memory: 0, named: Vec::new() },
        }
    }

    /// A word for people: the program or kernel.
    pub fn family(&self) -> &str {
        match self {
            Op::Command(spec) => {
                let program = spec.argv.first().map_or("command", String::as_str);
                program.rsplit('/').next().unwrap_or(program)
            }
            Op::Kernel { name, .. } => name,
            Op::Data => "data",
            Op::External { runner, .. } => runner,
        }
    }

    /// Times that a task error is retried.
    pub fn retries(&self) -> u32 {
        match self {
            Op::Command(spec) => spec.retries,
            Op::Kernel { .. } | Op::Data | Op::External { .. } => 0,
        }
    }

    /// Kernels may run twice; a command that may be running must not be started again lightly.
    pub fn is_pure(&self) -> bool {
        !matches!(self, Op::Command(_))
    }
}
