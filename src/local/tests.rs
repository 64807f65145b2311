//! Whole graphs of small kernels and real commands, computed in this process.

use super::*;
use crate::graph::{Builder, CommandResult, CommandSpec, EnvSource, OutputSpec, Resources};
use crate::kernels::{Call, Kernel, KernelError};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;

/// Depends on its arguments, and on the order of its inputs.
fn mix(call: &Call<'_>) -> Result<Value, KernelError> {
    let mut hash = crc32c::crc32c(call.args);
    for input in call.inputs {
        hash = crc32c::crc32c_append(hash, &input.buffers[0]);
    }
    Ok(Value::bytes(hash.to_le_bytes().to_vec()))
}

static TOGETHER: Barrier = Barrier::new(2);
static AT_WORK: AtomicUsize = AtomicUsize::new(0);

fn fixtures(name: &str) -> Option<Kernel> {
    match name {
        "mix" => Some(mix),
        "fail" => Some(|_| Err(KernelError::new("u.nc: no variable x_wind"))),
        // Ends only if another one runs at the same time.
        "together" => Some(|call| {
            TOGETHER.wait();
            mix(call)
        }),
        // Fails if another one runs at the same time.
        "alone" => Some(|call| {
            let others = AT_WORK.fetch_add(1, Ordering::SeqCst);
            std::thread::yield_now();
            AT_WORK.fetch_sub(1, Ordering::SeqCst);
            if others == 0 { mix(call) } else { Err(KernelError::new("not alone")) }
        }),
        _ => kernels::lookup(name),
    }
}

fn kernel(name: &str) -> Op {
    Op::Kernel { name: name.to_owned(), params: Vec::new(), resources: Resources::default() }
}

fn host(threads: u32) -> Host {
    Host { threads, memory: 0, named: Vec::new() }
}

/// The wanted values and the most that were held at once.
fn computed(graph: &Graph, host: &Host) -> Result<(Vec<Value>, usize), LocalError> {
    let mut run = Run::new(graph, host, fixtures)?;
    let mut last = Counts::default();
    run.drive(&AtomicBool::new(false), |counts| last = *counts)?;
    assert_eq!(last, Counts { memory: graph.len() as u64, ..Counts::default() });
    let wanted = &graph.columns().wanted;
    let mut held: Vec<u32> = run.values.keys().copied().collect();
    held.sort_unstable();
    assert_eq!(held, *wanted, "nothing but what is wanted is held at the end");
    let most = run.most_held;
    Ok((run.into_wanted(), most))
}

/// What the tasks' values are, without any of what is tested.
fn evaluated(graph: &Graph) -> Vec<Value> {
    let columns = graph.columns();
    let mut values: Vec<Value> = Vec::new();
    for task in 0..columns.len() {
        let inputs: Vec<Value> = columns.deps(task).iter().map(|d| values[*d as usize].clone()).collect();
        let args = columns.args(task);
        values.push(match graph.op(task as u32) {
            Op::Data => Value::bytes(args.to_vec()),
            _ => mix(&Call { params: b"", args, inputs: &inputs }).unwrap(),
        });
    }
    columns.wanted.iter().map(|task| values[*task as usize].clone()).collect()
}

prop_compose! {
    /// A graph of data and kernels whose tasks depend on up to four earlier ones, also on one several times.
    fn graphs()(
        tasks in prop::collection::vec(
            (any::<bool>(), any::<bool>(), prop::collection::vec(any::<prop::sample::Index>(), 0..5)),
            0..80,
        ),
    ) -> Graph {
        let mut builder = Builder::new();
        let (data, mix) = (builder.op(Op::Data), builder.op(kernel("mix")));
        for (number, (wanted, is_data, deps)) in tasks.into_iter().enumerate() {
            let deps: Vec<u32> = deps.iter().filter(|_| number > 0).map(|d| d.index(number) as u32).collect();
            let op = if is_data && deps.is_empty() { data } else { mix };
            let task = builder.task(op, format!("task {number}").as_bytes(), &deps);
            if wanted {
                builder.want(task);
            }
        }
        builder.build().unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_graph_has_the_values_of_its_direct_evaluation(graph in graphs()) {
        for threads in [1, 4] {
            let (values, _) = computed(&graph, &host(threads)).unwrap();
            prop_assert_eq!(values, evaluated(&graph));
        }
    }
}

#[test]
fn a_chain_holds_two_values_at_a_time() {
    let mut builder = Builder::new();
    let op = builder.op(kernel("mix"));
    let first = builder.task(op, b"0", &[]);
    let last = (1..500u32).fold(first, |last, i| builder.task(op, &i.to_le_bytes(), &[last]));
    builder.want(last);
    let graph = builder.build().unwrap();
    for threads in [1, 4] {
        let (values, most) = computed(&graph, &host(threads)).unwrap();
        assert_eq!(values, evaluated(&graph));
        assert_eq!(most, 2);
    }
}

#[test]
fn a_tree_holds_a_value_a_level_and_thread() {
    let mut builder = Builder::new();
    let op = builder.op(kernel("mix"));
    // All leaves come first, as whoever builds graphs finds convenient.
    let mut level: Vec<u32> = (0..1024u32).map(|i| builder.task(op, &i.to_le_bytes(), &[])).collect();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| builder.task(op, b"", pair)).collect();
    }
    builder.want(level[0]);
    let graph = builder.build().unwrap();
    let levels = 11;
    for threads in [1, 4] {
        let (values, most) = computed(&graph, &host(threads)).unwrap();
        assert_eq!(values, evaluated(&graph));
        // Short kernels are started ahead: their results come before those of the levels above are taken.
        let held = (levels + ASSIGNED_PER_THREAD) * threads as usize;
        assert!(most <= held, "{most} values with {threads} threads");
    }
}

#[test]
fn a_failure_names_its_task_and_ends_what_has_not_started() {
    let mut builder = Builder::new();
    let (mix, fail) = (builder.op(kernel("mix")), builder.op(kernel("fail")));
    let first = builder.task(mix, b"", &[]);
    let failing = builder.task(fail, b"", &[first]);
    builder.name(failing, "speed".to_owned());
    for i in 0..1000u32 {
        builder.task(mix, &i.to_le_bytes(), &[]);
    }
    let graph = builder.build().unwrap();
    let mut run = Run::new(&graph, &host(1), fixtures).unwrap();
    let mut last = Counts::default();
    let error = run.drive(&AtomicBool::new(false), |counts| last = *counts).unwrap_err();
    assert_eq!(error.to_string(), "speed: kernel 'fail': u.nc: no variable x_wind");
    assert_eq!((last.total(), last.erred, last.waiting, last.ready, last.assigned), (1002, 1, 0, 0, 0));
    assert!(last.memory < 10, "the tasks behind it in the order weren't run: {last:?}");
    assert!(run.running.is_empty());
}

#[test]
fn an_unknown_kernel_and_a_runner_that_is_not_here_are_the_tasks_failures() {
    for (op, message) in [
        (kernel("no such"), "task 1: no kernel 'no such'"),
        (
            Op::External { runner: "python".into(), blob: vec![], resources: Resources::default() },
            "task 1: this worker has no runner 'python'",
        ),
    ] {
        let mut builder = Builder::new();
        let op = builder.op(op);
        builder.task(op, b"", &[]);
        let error = computed(&builder.build().unwrap(), &host(2)).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn what_fits_runs_at_the_same_time_and_what_does_not_fit_waits() {
    let mut builder = Builder::new();
    let together = builder.op(kernel("together"));
    for i in 0..20u32 {
        builder.task(together, &i.to_le_bytes(), &[]);
    }
    let resources = [
        Resources { cores: 2, ..Resources::default() },
        Resources { memory: 600, ..Resources::default() },
        Resources { named: vec![("gpu".to_owned(), 1)], ..Resources::default() },
    ];
    computed(&builder.build().unwrap(), &host(2)).unwrap();
    let host = Host { threads: 2, memory: 1000, named: vec![("gpu".to_owned(), 1)] };
    for resources in resources {
        let mut builder = Builder::new();
        let op = Op::Kernel { name: "alone".to_owned(), params: vec![], resources };
        let alone = builder.op(op);
        for i in 0..200u32 {
            builder.task(alone, &i.to_le_bytes(), &[]);
        }
        computed(&builder.build().unwrap(), &host).unwrap();
    }
}

#[test]
fn what_never_fits_is_refused_before_anything_runs() {
    for (resources, message) in [
        (Resources { cores: 3, ..Resources::default() }, "task 2 (mix) needs 3 cores, and there is only 2"),
        (Resources { memory: 2000, ..Resources::default() }, "task 2 (mix) needs 1.95 KiB of memory"),
        (Resources { named: vec![("gpu".to_owned(), 2)], ..Resources::default() }, "needs gpu=2"),
    ] {
        let mut builder = Builder::new();
        let fail = builder.op(kernel("fail"));
        let large = builder.op(Op::Kernel { name: "mix".to_owned(), params: vec![], resources });
        builder.task(fail, b"", &[]);
        builder.task(large, b"", &[]);
        let host = Host { threads: 2, memory: 1000, named: vec![("gpu".to_owned(), 1)] };
        let error = computed(&builder.build().unwrap(), &host).unwrap_err();
        assert!(matches!(error, LocalError::TooLarge { .. }));
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn tasks_of_another_graph_are_not_here() {
    let mut builder = Builder::new();
    let op = builder.op(kernel("mix"));
    let outside = builder.external(TaskId { graph: GraphId(7), index: 3 });
    builder.task(op, b"", &[outside]);
    assert!(matches!(computed(&builder.build().unwrap(), &host(1)), Err(LocalError::Foreign)));
}

fn shell(dir: &Path, script: &str) -> CommandSpec {
    CommandSpec {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        substitute: false,
        cwd: dir.display().to_string(),
        env_from: EnvSource::Here,
        env: Vec::new(),
        stdin: None,
        outputs: Vec::new(),
        resources: Resources::default(),
        retries: 0,
        time_limit_ms: 0,
        at_most_once: false,
    }
}

#[test]
fn commands_run_after_what_they_depend_on_and_their_outputs_come_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = Builder::new();
    let output = OutputSpec { path: "made.txt".to_owned(), fenced: true };
    let make = CommandSpec {
        outputs: vec![output],
        ..shell(dir.path(), "echo from $JOBQ_TASK_KEY > \"$JOBQ_TASK_OUTPUT\"")
    };
    let make = builder.op(Op::Command(Box::new(make)));
    let read = builder.op(Op::Command(Box::new(shell(dir.path(), "cat made.txt"))));
    let silent = builder.op(Op::Command(Box::new(shell(dir.path(), "true"))));
    let mix = builder.op(kernel("mix"));
    let made = builder.task(make, b"", &[]);
    builder.name(made, "maker".to_owned());
    let read = builder.task(read, b"", &[made]);
    let silent = builder.task(silent, b"", &[read]);
    let mixed = builder.task(mix, b"", &[]);
    for task in [read, silent, mixed] {
        builder.want(task);
    }
    let (values, _) = computed(&builder.build().unwrap(), &host(2)).unwrap();
    let result: CommandResult = rmp_serde::from_slice(&values[0].header).unwrap();
    assert_eq!(result.exit_code, Some(0));
    assert_eq!(&values[0].buffers[0][..], b"from maker\n");
    assert_eq!(values[1], Value::default());
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["made.txt"]);
}

#[test]
fn a_command_is_tried_again_as_often_as_it_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let failing = |retries| {
        let mut builder = Builder::new();
        let spec = CommandSpec {
            retries,
            ..shell(dir.path(), "echo $JOBQ_TASK_ATTEMPT; test $JOBQ_TASK_ATTEMPT = 3 || exit 7")
        };
        let op = builder.op(Op::Command(Box::new(spec)));
        let task = builder.task(op, b"", &[]);
        builder.want(task);
        computed(&builder.build().unwrap(), &host(1))
    };
    assert_eq!(&failing(2).unwrap().0[0].buffers[0][..], b"3\n");
    let error = failing(1).unwrap_err();
    assert!(matches!(error, LocalError::Task { kind: ErrorKind::Exit(7), .. }), "{error}");
    assert!(error.to_string().starts_with("task 1: 'sh' exited with code 7"), "{error}");
}

#[test]
fn raising_the_flag_ends_a_running_command() {
    let dir = tempfile::tempdir().unwrap();
    let started = dir.path().join("started");
    nix::unistd::mkfifo(&started, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut builder = Builder::new();
    let op = builder.op(Op::Command(Box::new(shell(dir.path(), "echo $$ > started; exec sleep 1000"))));
    let sleeping = builder.task(op, b"", &[]);
    builder.task(op, b"", &[sleeping]);
    let graph = builder.build().unwrap();
    let cancel = AtomicBool::new(false);
    let pid = std::thread::scope(|scope| {
        let raised = scope.spawn(|| {
            let pid = std::fs::read_to_string(&started).unwrap();
            cancel.store(true, Ordering::Relaxed);
            pid
        });
        let result = compute(&graph, &host(1), &cancel, |_| ());
        assert!(matches!(result, Err(LocalError::Cancelled)));
        raised.join().unwrap()
    });
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "process {pid} is gone");
}

#[test]
fn this_host_has_threads_and_memory() {
    let here = Host::here();
    assert!(here.threads >= 1 && here.memory > 1 << 20);
    assert_eq!(Host::with_threads(0).threads, 1);
}
