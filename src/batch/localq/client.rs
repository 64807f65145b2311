//! The clients of a queue: each says one line to its daemon, which is started if it isn't there and is needed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::queue::{Now, Queue, Stage};
use super::spool::Spool;
use super::wire::{LINE_LIMIT, QueueReport, Reply, Report, Request};
use super::{DIR_VARIABLE, SLOTS_VARIABLE, VERB, WAIT_VARIABLE, daemon, process, request};
use crate::batch::{BatchError, ErrorKind};

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long two clients that start a daemon at once, or one that meets a leaving daemon, go on trying.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Longest script that is taken.
const SCRIPT_LIMIT: u64 = 4 << 20;

/// What a job finds of the environment of who submitted it; everything else its script sets.
const INHERITED: &[&str] = &["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER"];

/// Submit the script and print its id.
pub fn submit(dir: &Path, script: &Path) -> Result<(), BatchError> {
    let unreadable = |error: io::Error| refused(format!("script {}: {error}", script.display()));
    let mut text = String::new();
    File::open(script)
        .map_err(unreadable)?
        .take(SCRIPT_LIMIT)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    let mut submit = request::parse(&text).map_err(refused)?;
    submit.token = token()?;
    submit.environment = inherited();
    submit.queue_slots = slots().into();
    submit.wait_ms = number(WAIT_VARIABLE).unwrap_or(0);
    match ask(&open(dir)?, &Request::Submit(Box::new(submit)))? {
        Reply::Submitted { id } => {
            print(&id.to_string());
            Ok(())
        }
        reply => Err(unexpected(&reply)),
    }
}

/// Print every job that is remembered, a JSON line each.
pub fn status(dir: &Path) -> Result<(), BatchError> {
    let spool = open(dir)?;
    let reports = match asleep(&spool)? {
        Some(reports) => reports,
        None => match ask(&spool, &Request::Status)? {
            Reply::Jobs(reports) => reports,
            reply => return Err(unexpected(&reply)),
        },
    };
    let lines: Vec<String> = reports.iter().filter_map(|report| serde_json::to_string(report).ok()).collect();
    if !lines.is_empty() {
        print(&lines.join("\n"));
    }
    Ok(())
}

/// Cancel jobs; those that are over or unknown do no harm.
pub fn cancel(dir: &Path, ids: &[String]) -> Result<(), BatchError> {
    let numbers: Result<Vec<u64>, _> = ids.iter().map(|id| id.parse()).collect();
    let ids =
        numbers.map_err(|_| refused(format!("{} are not all job ids of the local queue", ids.join(" "))))?;
    let spool = open(dir)?;
    if asleep(&spool)?.is_some() {
        return Ok(());
    }
    done(&ask(&spool, &Request::Cancel { ids })?)
}

/// Whether the queue can be used: its directory, and its daemon if there is work for one.
pub fn health(dir: &Path) -> Result<(), BatchError> {
    let spool = open(dir)?;
    if asleep(&spool)?.is_some() { Ok(()) } else { done(&ask(&spool, &Request::Health)?) }
}

/// Print the queue's size.
pub fn queues() -> Result<(), BatchError> {
    let text = serde_json::to_string(&QueueReport { slots: slots() });
    print(&text.map_err(|error| refused(error.to_string()))?);
    Ok(())
}

/// A closed stdout is the reader's wish.
fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn refused(words: String) -> BatchError {
    BatchError::new(ErrorKind::Refused, words)
}

fn unexpected(reply: &Reply) -> BatchError {
    match reply.refusal() {
        Some((kind, words)) => BatchError::new(kind, words),
        None => BatchError::new(ErrorKind::Unexpected, "the daemon gave an answer to another question"),
    }
}

fn done(reply: &Reply) -> Result<(), BatchError> {
    if *reply == Reply::Done { Ok(()) } else { Err(unexpected(reply)) }
}

fn open(dir: &Path) -> Result<Spool, BatchError> {
    Spool::open(dir).map_err(|error| {
        let permission = error.kind() == io::ErrorKind::PermissionDenied;
        let kind = if permission { ErrorKind::Permission } else { ErrorKind::Refused };
        BatchError::new(kind, format!("local queue in {}: {error}", dir.display()))
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn slots() -> u32 {
    let asked = number(SLOTS_VARIABLE).and_then(|slots| u32::try_from(slots).ok()).filter(|&slots| slots > 0);
    let cores = || {
        std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
    };
    asked.unwrap_or_else(cores)
}

fn token() -> Result<String, BatchError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| BatchError::new(ErrorKind::TryAgain, format!("no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn inherited() -> Vec<(String, String)> {
    let wanted = |name: &str| INHERITED.contains(&name) || name.starts_with("LC_");
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| wanted(name))
        .collect()
}

/// The jobs straight from disk, if none waits or runs and no daemon is needed to tell about them.
fn asleep(spool: &Spool) -> Result<Option<Vec<Report>>, BatchError> {
    let unreadable = |error: io::Error| {
        BatchError::new(ErrorKind::TryAgain, format!("local queue in {}: {error}", spool.dir().display()))
    };
    // Order matters: a job that a daemon took after this look is one that was submitted after it.
    let jobs = spool.load().map_err(unreadable)?;
    if jobs.iter().any(|job| !matches!(job.stage, Stage::Ended { .. })) {
        return Ok(None);
    }
    let now = Now { boot_ms: 0, epoch_s: 0 };
    let mut out = Vec::new();
    let mut queue = Queue::restore(jobs, "", "", now, &mut out);
    match queue.request(now, Request::Status, &mut out) {
        Reply::Jobs(reports) => Ok(Some(reports)),
        reply => Err(unexpected(&reply)),
    }
}

/// Say `request` to the daemon, starting one if there is none.
fn ask(spool: &Spool, request: &Request) -> Result<Reply, BatchError> {
    let failed = |kind, what: &str, error: io::Error| {
        BatchError::new(kind, format!("local queue in {}: {what}: {error}", spool.dir().display()))
    };
    let started = Instant::now();
    loop {
        let mut stream = match connect(spool) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(failed(ErrorKind::Permission, "its socket", error));
            }
            Err(error) => {
                let holder = start_daemon(spool)?;
                if started.elapsed() > START_PATIENCE {
                    let what = format!(
                        "no daemon answers{}",
                        holder.map_or(String::new(), |who| format!(" (it is {who})"))
                    );
                    return Err(failed(ErrorKind::TryAgain, &what, error));
                }
                // Another client's daemon may be on its way, or an old one leaving.
                std::thread::sleep(PAUSE);
                continue;
            }
        };
        match converse(&mut stream, request) {
            Ok(reply) => return Ok(reply),
            // It left, or died, before it answered. The same token again gets the same job, not a second one.
            Err(error) if is_gone(&error) && started.elapsed() < START_PATIENCE => std::thread::sleep(PAUSE),
            Err(error) => {
                let submit = matches!(request, Request::Submit(_));
                let kind = if submit { ErrorKind::Ambiguous } else { ErrorKind::TryAgain };
                return Err(failed(kind, "its daemon gave no answer", error));
            }
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn connect(spool: &Spool) -> io::Result<UnixStream> {
    let dir = File::open(spool.dir())?;
    let stream = UnixStream::connect(daemon::socket_path(&dir))?;
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)?;
    if peer.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("served by user {}", peer.uid()),
        ));
    }
    Ok(stream)
}

fn converse(stream: &mut UnixStream, request: &Request) -> io::Result<Reply> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_LIMIT)).read_line(&mut answer)?;
    if !answer.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Start a daemon and wait until it is ready; who has the queue instead, if one has.
fn start_daemon(spool: &Spool) -> Result<Option<String>, BatchError> {
    let failed = |error: io::Error| {
        let words =
            format!("the daemon of the local queue in {} can't be started: {error}", spool.dir().display());
        BatchError::new(ErrorKind::TryAgain, words)
    };
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg(VERB).arg("--dir").arg(spool.dir()).arg("serve");
    command.env_clear().envs(inherited()).env(DIR_VARIABLE, spool.dir());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(spool.log().map_err(failed)?);
    let mut child = command.spawn().map_err(failed)?;
    let mut answer = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut answer).map_err(failed)?;
    }
    match answer.trim().split_once(' ').unwrap_or((answer.trim(), "")) {
        (daemon::READY, _) => Ok(None),
        (daemon::HELD, who) => {
            child.wait().map_err(failed)?;
            let (host, _) = who.split_once(' ').unwrap_or((who, ""));
            if !host.is_empty() && host != process::host() {
                return Err(refused(format!(
                    "the local queue in {} is run by {who}: use it from that host",
                    spool.dir().display()
                )));
            }
            Ok(Some(who.to_owned()))
        }
        _ => {
            let status = child.wait().map_err(failed)?;
            let log = spool.dir().join("queue.log");
            Err(failed(io::Error::other(format!("{status}, see {}", log.display()))))
        }
    }
}
