//! The daemon of one queue: the loop around [`Queue`]. It sleeps until a client, the end of a job or a deadline
//! wakes it, and leaves when it has had nothing to do for a while.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::process;
use super::queue::{Action, Exit, Queue, Stage};
use super::spool::Spool;
use super::wire::{LINE_LIMIT, Reply, Request};
use crate::batch::{BatchError, ErrorKind};

/// How long a daemon without jobs stays: long enough for the next word of a script, and not a process left behind.
const LINGER: Duration = Duration::from_secs(2);

/// How long a client may take to say its line, and to take the answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// What the daemon tells on stdout when clients can come.
pub const READY: &str = "ready";
/// What it tells when another one has the queue, followed by that one's host and pid.
pub const HELD: &str = "held";

/// The socket's name, reached through the directory's descriptor: a path to it may be longer than a socket's
/// address (108 bytes).
pub fn socket_path(dir: &std::fs::File) -> String {
    format!("/proc/self/fd/{}/socket", dir.as_raw_fd())
}

/// Serve the queue in `dir` until nothing is left to do.
///
/// # Errors
/// `TryAgain` if the directory, its lock or its jobs can't be used.
pub fn serve(dir: &Path) -> Result<(), BatchError> {
    let failed = |what: &str, error: &io::Error| {
        BatchError::new(ErrorKind::TryAgain, format!("local queue in {}: {what}: {error}", dir.display()))
    };
    // Already a leader: then nobody else can signal our group either.
    let _ = nix::unistd::setsid();
    close_inherited();
    let spool = Spool::open(dir).map_err(|error| failed("directory", &error))?;
    let Some(_lock) = lock(&spool).map_err(|error| failed("lock", &error))? else { return Ok(()) };
    std::env::set_current_dir("/").map_err(|error| failed("/", &error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed("runtime", &error))?;
    runtime.block_on(run(spool)).map_err(|error| failed("daemon", &error))
}

/// Somebody may wait for the end of a pipe that we inherited without knowing. Nothing of ours is open yet.
fn close_inherited() {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|&fd| fd > 2) {
        // The one through which we have just listed them is closed already.
        let _ = nix::unistd::close(fd);
    }
}

/// The lock for as long as we live, or `None` after saying who has it.
fn lock(spool: &Spool) -> io::Result<Option<Flock<std::fs::File>>> {
    let mut lock = match Flock::lock(spool.lock_file()?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            say(&format!("{HELD} {}", holder.trim()))?;
            return Ok(None);
        }
        Err((_, error)) => return Err(error.into()),
    };
    lock.set_len(0)?;
    lock.rewind()?;
    write!(lock, "{} {}", process::host(), std::process::id())?;
    Ok(Some(lock))
}

fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

type Asked = (Request, oneshot::Sender<Reply>);

struct Daemon {
    queue: Queue,
    spool: Spool,
    exits: mpsc::UnboundedSender<(u64, Exit)>,
}

async fn run(spool: Spool) -> io::Result<()> {
    let (exits, mut exited) = mpsc::unbounded_channel();
    let (asked, mut questions) = mpsc::channel::<Asked>(64);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut daemon = Daemon::adopt(spool, exits)?;
    // The directory itself, whatever is at its path when we leave.
    let dir = std::fs::File::open(daemon.spool.dir())?;
    let listener = listen(&dir)?;
    say(READY)?;
    // Whoever started us reads to the end of our stdout.
    nix::unistd::dup2_stdout(std::fs::File::open("/dev/null")?)?;

    let clients = Arc::new(());
    let mut leave_at = Instant::now() + LINGER;
    loop {
        let now = process::now();
        let idle = daemon.queue.is_idle();
        let due = daemon.queue.deadline().map(|at| Duration::from_millis(at.saturating_sub(now.boot_ms)));
        let wake = if idle { Some(leave_at) } else { due.map(|due| Instant::now() + due) };
        if !idle {
            leave_at = Instant::now() + LINGER;
        }
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                leave_at = Instant::now() + LINGER;
                tokio::spawn(converse(stream, asked.clone(), Arc::clone(&clients)));
            }
            Some((request, answer)) = questions.recv() => {
                // A client that has gone away doesn't need its answer.
                let _ = answer.send(daemon.request(request));
            }
            Some((id, exit)) = exited.recv() => {
                daemon.apply(|queue, out| queue.exited(process::now(), id, exit, out));
            }
            _ = terminate.recv() => break,
            () = sleep_until(wake) => {
                if idle && Arc::strong_count(&clients) == 1 {
                    break;
                }
                leave_at = Instant::now() + LINGER;
                daemon.apply(|queue, out| queue.tick(process::now(), out));
            }
        }
    }
    // Before the lock goes: a client that comes now starts the next daemon. Missing only if somebody removed it.
    let _ = std::fs::remove_file(socket_path(&dir));
    Ok(())
}

/// For ever without an instant.
async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

/// Under the lock, so a socket that is there belongs to a daemon that is gone.
fn listen(dir: &std::fs::File) -> io::Result<UnixListener> {
    let path = socket_path(dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// One client: a line in, a line out.
async fn converse(stream: UnixStream, asked: mpsc::Sender<Asked>, _here: Arc<()>) {
    // The directory is closed to others; this is for those to whom a system administrator opened it.
    let same_user = stream.peer_cred().is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw());
    if !same_user {
        return;
    }
    // A client that says nothing, or nonsense, or doesn't listen, is left alone: it has only itself to tell.
    let _ = tokio::time::timeout(CLIENT_PATIENCE, async move {
        let (reader, mut writer) = stream.into_split();
        let mut line = String::new();
        BufReader::new(reader.take(LINE_LIMIT)).read_line(&mut line).await.ok()?;
        let reply = match serde_json::from_str(&line) {
            Ok(request) => {
                let (answer, answered) = oneshot::channel();
                asked.send((request, answer)).await.ok()?;
                answered.await.ok()?
            }
            Err(error) => Reply::Refused { words: format!("the request can't be read: {error}") },
        };
        let mut text = serde_json::to_vec(&reply).ok()?;
        text.push(b'\n');
        writer.write_all(&text).await.ok()
    })
    .await;
}

impl Daemon {
    /// Take over what an earlier daemon left.
    fn adopt(spool: Spool, exits: mpsc::UnboundedSender<(u64, Exit)>) -> io::Result<Self> {
        let (host, boot) = (process::host(), process::boot_id()?);
        spool.tidy()?;
        let jobs = spool.load()?;
        let elsewhere = jobs.iter().find(|job| job.host != host && !matches!(job.stage, Stage::Ended { .. }));
        if let Some(job) = elsewhere {
            let words =
                format!("job {} of this queue lives on host {}: use the queue from there", job.id, job.host);
            return Err(io::Error::other(words));
        }
        let mut out = Vec::new();
        let queue = Queue::restore(jobs, &boot, &host, process::now(), &mut out);
        let mut daemon = Self { queue, spool, exits };
        daemon.perform(out, None);
        for id in daemon.queue.started_jobs() {
            daemon.adopt_job(id);
        }
        daemon.apply(|queue, out| queue.tick(process::now(), out));
        Ok(daemon)
    }

    fn adopt_job(&mut self, id: u64) {
        let now = process::now();
        let leader = match self.queue.job(id).map(|job| &job.stage) {
            Some(Stage::Running(running)) => running.leader,
            Some(Stage::Starting { .. }) => match process::find_leader(id, self.spool.dir()) {
                Some(leader) => {
                    self.apply(|queue, out| queue.started(now, id, leader, out));
                    leader
                }
                None => {
                    let words = "the queue's daemon died while it started the job".to_owned();
                    return self.apply(|queue, out| queue.not_started(now, id, words, out));
                }
            },
            _ => return,
        };
        let exits = self.exits.clone();
        tokio::spawn(async move {
            process::wait(leader).await;
            // Nobody listens once the daemon leaves.
            let _ = exits.send((id, None));
        });
    }

    fn request(&mut self, request: Request) -> Reply {
        let mut out = Vec::new();
        let reply = self.queue.request(process::now(), request, &mut out);
        let submitted = if let Reply::Submitted { id } = reply { Some(id) } else { None };
        match self.perform(out, submitted) {
            None => reply,
            Some(error) => Reply::TryAgain { words: format!("the job can't be saved: {error}") },
        }
    }

    fn apply(&mut self, step: impl FnOnce(&mut Queue, &mut Vec<Action>)) {
        let mut out = Vec::new();
        step(&mut self.queue, &mut out);
        self.perform(out, None);
    }

    /// Do what the queue wants, and what follows from it. The job `submitted` that can't be saved is withdrawn, and
    /// the error returned; any other trouble with the disk is logged, and the work goes on.
    fn perform(&mut self, actions: Vec<Action>, submitted: Option<u64>) -> Option<io::Error> {
        let mut actions = VecDeque::from(actions);
        let mut withdrawn = None;
        while let Some(action) = actions.pop_front() {
            let description = format!("{action:?}");
            let done = match action {
                Action::Save(id) => match self.queue.job(id).map(|job| self.spool.save(job)) {
                    Some(Err(error)) if submitted == Some(id) && withdrawn.is_none() => {
                        self.queue.withdraw(id);
                        withdrawn = Some(error);
                        Ok(())
                    }
                    other => other.unwrap_or(Ok(())),
                },
                Action::Start(id) => {
                    self.start(id, &mut actions);
                    Ok(())
                }
                Action::Terminate(id, leader) => {
                    process::terminate(id, leader, self.spool.dir());
                    Ok(())
                }
                Action::Kill(id, leader) => {
                    process::kill_all(id, leader, self.spool.dir());
                    Ok(())
                }
                Action::Note(id, words) => match self.queue.job(id) {
                    Some(job) => process::note(&job.request.log, &words),
                    None => Ok(()),
                },
                Action::Forget(id) => self.spool.forget(id),
            };
            if let Err(error) = done {
                eprintln!("local queue: {description}: {error}");
            }
        }
        withdrawn
    }

    fn start(&mut self, id: u64, actions: &mut VecDeque<Action>) {
        let Some(job) = self.queue.job(id) else { return };
        let mut out = Vec::new();
        match process::start(job, &self.spool.script(id), self.spool.dir()) {
            Ok((mut child, leader)) => {
                self.queue.started(process::now(), id, leader, &mut out);
                let exits = self.exits.clone();
                tokio::spawn(async move {
                    let status = child.wait().await.ok();
                    let exit = status.map(|status| {
                        (status.code(), std::os::unix::process::ExitStatusExt::signal(&status))
                    });
                    // Nobody listens once the daemon leaves.
                    let _ = exits.send((id, exit));
                });
            }
            Err(error) => {
                self.queue.not_started(
                    process::now(),
                    id,
                    format!("job {id} was not started: {error}"),
                    &mut out,
                );
            }
        }
        actions.extend(out);
    }
}
