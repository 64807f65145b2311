//! Runs kernels: a pool of plain threads that sleep when there is nothing to do, and no async runtime.
//!
//! A panic in a kernel, or a name that this program doesn't have, is an error of that task and of nothing else.

use crate::graph::{Op, Value};
use crate::kernels::{self, Call, Kernel};
use bytes::Bytes;
use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A thread takes several jobs at once only as long as they are expected to take less than this together.
const BATCH_NANOS: u64 = 100_000;
/// Most jobs that a thread takes at once.
const BATCH_MAX: usize = 64;

/// One call of a kernel.
#[derive(Clone, Debug)]
pub struct KernelJob {
    /// Comes back with the result.
    pub token: u64,
    pub op: Arc<Op>,
    /// The task's own argument bytes.
    pub args: Bytes,
    /// The values of its dependencies, in their order.
    pub inputs: Vec<Value>,
}

/// The end of one call.
#[derive(Clone, PartialEq, Debug)]
pub struct KernelDone {
    pub token: u64,
    /// The value, or a message for people that names the kernel.
    pub result: Result<Value, String>,
    /// Time that the call took.
    pub nanos: u64,
}

/// Threads that run kernels in the order in which they are submitted. Dropping it lets running calls end, drops
/// the others, and waits for the threads.
pub struct KernelPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

pub(crate) type Completions = dyn Fn(Vec<KernelDone>) + Send + Sync;
pub(crate) type Lookup = fn(&str) -> Option<Kernel>;

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    completions: Box<Completions>,
    lookup: Lookup,
    threads: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<KernelJob>,
    sleeping: usize,
    closed: bool,
}

impl KernelPool {
    /// `completions` is called on the pool's threads, with one or more ended calls; it should only hand them on,
    /// and must not drop the pool.
    ///
    /// # Errors
    /// A thread can't be started; none are left behind.
    pub fn new(
        threads: usize,
        completions: impl Fn(Vec<KernelDone>) + Send + Sync + 'static,
    ) -> io::Result<KernelPool> {
        KernelPool::with_lookup(threads, Box::new(completions), kernels::lookup)
    }

    /// With other kernels than those of this program: tests of what uses the pool have their own.
    ///
    /// # Errors
    /// As [`KernelPool::new`].
    pub(crate) fn with_lookup(
        threads: usize,
        completions: Box<Completions>,
        lookup: Lookup,
    ) -> io::Result<KernelPool> {
        let threads = threads.max(1);
        let shared = Shared {
            queue: Mutex::new(Queue::default()),
            work: Condvar::new(),
            completions,
            lookup,
            threads,
        };
        let mut pool = KernelPool { shared: Arc::new(shared), threads: Vec::with_capacity(threads) };
        for i in 0..threads {
            let shared = pool.shared.clone();
            let thread =
                std::thread::Builder::new().name(format!("kernel-{i}")).spawn(move || shared.serve())?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    pub fn submit(&self, job: KernelJob) {
        self.submit_all([job]);
    }

    /// Hands over any number of jobs under one lock.
    pub fn submit_all(&self, jobs: impl IntoIterator<Item = KernelJob>) {
        let mut queue = self.shared.lock();
        queue.jobs.extend(jobs);
        let wake = queue.jobs.len().min(queue.sleeping);
        drop(queue);
        for _ in 0..wake {
            self.shared.work.notify_one();
        }
    }

    /// Takes back a job that no thread has taken yet; `false`: it runs, has ended or was never here.
    pub fn withdraw(&self, token: u64) -> bool {
        let jobs = &mut self.shared.lock().jobs;
        match jobs.iter().position(|job| job.token == token) {
            Some(at) => jobs.remove(at).is_some(),
            None => false,
        }
    }

    /// Jobs that no thread has taken yet.
    pub fn queued(&self) -> usize {
        self.shared.lock().jobs.len()
    }

    pub fn threads(&self) -> usize {
        self.shared.threads
    }
}

impl Drop for KernelPool {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        drop(queue);
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread ends early only if `completions` panics, which has been printed by then.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// A panic elsewhere leaves the queue as it should be: nothing is done under the lock that can fail halfway.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut batch = Vec::new();
        // Of the calls that this thread made, a moving average; the first batch is one job.
        let mut nanos_per_job = BATCH_NANOS;
        while self.take(&mut batch, nanos_per_job) {
            let started = Instant::now();
            let count = batch.len() as u64;
            let mut done = Vec::with_capacity(batch.len());
            for job in batch.drain(..) {
                done.push(run(&job, self.lookup));
                // What took longer than expected isn't held back by what comes after it.
                if started.elapsed() > Duration::from_nanos(4 * BATCH_NANOS) {
                    (self.completions)(std::mem::take(&mut done));
                }
            }
            let nanos = nanos(started.elapsed()) / count.max(1);
            nanos_per_job = (3 * nanos_per_job.min(16 * BATCH_NANOS) + nanos) / 4;
            if !done.is_empty() {
                (self.completions)(done);
            }
        }
    }

    /// Waits for jobs and moves some into `batch`: more than one only of short ones, and never more than this
    /// thread's share. `false`: the pool is closed.
    fn take(&self, batch: &mut Vec<KernelJob>, nanos_per_job: u64) -> bool {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return false;
            }
            if !queue.jobs.is_empty() {
                break;
            }
            queue.sleeping += 1;
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.sleeping -= 1;
        }
        let short = (BATCH_NANOS / nanos_per_job.max(1)) as usize;
        let share = queue.jobs.len().div_ceil(self.threads);
        let take = short.min(share).clamp(1, BATCH_MAX);
        batch.extend(queue.jobs.drain(..take));
        true
    }
}

/// Runs one call on the calling thread: the same as a pool does, for whoever has a thread of their own.
pub fn call(op: &Op, args: &[u8], inputs: &[Value]) -> Result<Value, String> {
    call_with(op, args, inputs, kernels::lookup)
}

/// The value of a `Data` task: no thread needed.
pub fn data(args: Bytes) -> Value {
    Value::bytes(args)
}

fn run(job: &KernelJob, lookup: Lookup) -> KernelDone {
    let started = Instant::now();
    let result = match &*job.op {
        Op::Data => Ok(data(job.args.clone())),
        op => call_with(op, &job.args, &job.inputs, lookup),
    };
    KernelDone { token: job.token, result, nanos: nanos(started.elapsed()) }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn call_with(op: &Op, args: &[u8], inputs: &[Value], lookup: Lookup) -> Result<Value, String> {
    let (name, params) = match op {
        Op::Kernel { name, params, .. } => (name, params),
        Op::Data => return Ok(data(Bytes::copy_from_slice(args))),
        Op::Command(_) => return Err(format!("'{}' is a command, not a kernel", op.family())),
        Op::External { runner, .. } => return Err(format!("this worker has no runner '{runner}'")),
    };
    let Some(kernel) = lookup(name) else {
        return Err(format!("no kernel '{name}' in this version of jobq ({})", env!("CARGO_PKG_VERSION")));
    };
    let call = Call { params, args, inputs };
    // The kernel sees only shared references, and what it was making is dropped with the panic.
    match catch_unwind(AssertUnwindSafe(|| kernel(&call))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(format!("kernel '{name}': {e}")),
        Err(panic) => Err(format!("kernel '{name}' panicked: {}", panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::KernelError;
    use std::collections::BTreeMap;
    use std::sync::mpsc::{Receiver, channel};

    fn fixtures(name: &str) -> Option<Kernel> {
        match name {
            "sum" => Some(|call| {
                let total: u64 =
                    call.inputs.iter().flat_map(|v| v.buffers[0].iter()).map(|b| u64::from(*b)).sum();
                Ok(Value::bytes((total + u64::from(call.args[0])).to_le_bytes().to_vec()))
            }),
            "fail" => Some(|_| Err(KernelError::new("u.nc: no variable x_wind"))),
            "panic" => Some(|call| panic!("at {}", call.inputs.len())),
            "hold" => Some(|call| {
                // Meets the test twice: once when it runs, once when it may end.
                let gate = &GATES[usize::from(call.args[0])];
                gate.wait();
                gate.wait();
                Ok(Value::default())
            }),
            _ => kernels::lookup(name),
        }
    }

    static GATES: [std::sync::LazyLock<std::sync::Barrier>; 2] =
        [const { std::sync::LazyLock::new(|| std::sync::Barrier::new(2)) }; 2];

    fn pool(threads: usize) -> (KernelPool, Receiver<KernelDone>) {
        let (send, receive) = channel();
        let completions = move |done: Vec<KernelDone>| done.into_iter().for_each(|d| send.send(d).unwrap());
        (KernelPool::with_lookup(threads, Box::new(completions), fixtures).unwrap(), receive)
    }

    fn job(token: u64, name: &str, args: &[u8], inputs: Vec<Value>) -> KernelJob {
        let op = Op::Kernel { name: name.to_owned(), params: vec![], resources: Default::default() };
        KernelJob { token, op: Arc::new(op), args: Bytes::copy_from_slice(args), inputs }
    }

    #[test]
    fn every_job_comes_back_once_with_its_own_result() {
        let (pool, done) = pool(3);
        let input = Value::bytes(vec![1, 2, 3]);
        for part in (0..1000u64).collect::<Vec<_>>().chunks(70) {
            pool.submit_all(part.iter().map(|i| job(*i, "sum", &[(*i % 200) as u8], vec![input.clone()])));
        }
        let results: BTreeMap<u64, Result<Value, String>> =
            done.iter().take(1000).map(|d| (d.token, d.result)).collect();
        assert_eq!(results.len(), 1000);
        for (token, result) in results {
            assert_eq!(result.unwrap().buffers[0], (6 + token % 200).to_le_bytes()[..]);
        }
        drop(pool);
        assert!(done.recv().is_err(), "nothing came twice");
    }

    #[test]
    fn a_kernel_that_fails_panics_or_is_unknown_fails_only_its_own_task() {
        let (pool, done) = pool(1);
        pool.submit_all([
            job(1, "fail", b"", vec![]),
            job(2, "panic", b"", vec![]),
            job(3, "no such", b"", vec![]),
            job(4, "echo", b"alive", vec![]),
        ]);
        let next = || done.recv().unwrap().result;
        assert_eq!(next().unwrap_err(), "kernel 'fail': u.nc: no variable x_wind");
        assert_eq!(next().unwrap_err(), "kernel 'panic' panicked: at 0");
        assert!(next().unwrap_err().starts_with("no kernel 'no such'"));
        assert_eq!(next().unwrap(), Value::bytes(&b"alive"[..]));
    }

    #[test]
    fn what_is_no_kernel_is_told() {
        let external = Op::External { runner: "python".into(), blob: vec![], resources: Default::default() };
        assert_eq!(call(&external, b"", &[]), Err("this worker has no runner 'python'".to_owned()));
        assert_eq!(call(&Op::Data, b"x", &[]), Ok(Value::bytes(&b"x"[..])));
    }

    #[test]
    fn a_job_can_be_taken_back_until_a_thread_has_it() {
        let (pool, done) = pool(1);
        pool.submit(job(1, "hold", &[0], vec![]));
        GATES[0].wait();
        pool.submit_all([job(2, "echo", b"", vec![]), job(3, "echo", b"", vec![])]);
        assert_eq!(pool.queued(), 2);
        assert!(pool.withdraw(2));
        assert!(!pool.withdraw(2) && !pool.withdraw(1));
        GATES[0].wait();
        assert_eq!([done.recv().unwrap().token, done.recv().unwrap().token], [1, 3]);
    }

    #[test]
    fn closing_lets_running_calls_end_and_drops_the_others() {
        let (pool, done) = pool(1);
        pool.submit(job(1, "hold", &[1], vec![]));
        GATES[1].wait();
        pool.submit(job(2, "echo", b"", vec![]));
        let shared = pool.shared.clone();
        let closing = std::thread::spawn(move || drop(pool));
        while !shared.lock().closed {
            std::thread::yield_now();
        }
        GATES[1].wait();
        closing.join().unwrap();
        drop(shared);
        assert_eq!(done.iter().map(|d| d.token).collect::<Vec<_>>(), [1]);
    }
}
