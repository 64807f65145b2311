//! What the queue decides: first in, first out, as many slots as there are, walltimes, and how jobs end. Pure.
//!
//! What must be on disk before an effect comes before it in the actions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::wire::{Reply, Report, ReportState, Request, Submit};

/// Ended jobs that are remembered.
const ENDED_LIMIT: usize = 500;

/// Jobs that wait or run.
const LIVE_LIMIT: usize = 10_000;

/// A process that survives SIGKILL waits for a device; the signal is repeated for what it starts afterwards.
const KILL_AGAIN_MS: u64 = 5_000;

/// An instant on two clocks.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Now {
    /// Milliseconds since this host was booted, without the time that it slept: deadlines.
    pub boot_ms: u64,
    /// Seconds since 1970: for people.
    pub epoch_s: u64,
}

/// One job, as it is on disk.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Job {
    pub id: u64,
    pub request: Submit,
    pub stage: Stage,
    /// From when on it may start, in milliseconds since `boot` began.
    pub eligible_boot_ms: u64,
    /// The host's boot that instants refer to.
    pub boot: String,
    pub host: String,
}

/// Where a job is in its life. Waiting -> Starting -> Running -> Ended, or straight to Ended.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Waiting,
    /// Its process is being made: it may exist, or not.
    Starting {
        started: u64,
        started_boot_ms: u64,
    },
    Running(Running),
    Ended {
        outcome: Ending,
        at: u64,
    },
}

/// A running job's process and deadlines.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Running {
    pub leader: Leader,
    /// Seconds since 1970.
    pub started: u64,
    pub started_boot_ms: u64,
    pub stop: Option<Stop>,
}

/// The first process of a job's session.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
pub struct Leader {
    pub pid: i32,
    /// Its start in clock ticks since boot: with the pid, it names one process of this boot for ever.
    pub ticks: u64,
}

/// A job that has been told to stop.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Stop {
    pub why: Why,
    pub kill_boot_ms: u64,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    Cancelled,
    Walltime,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Completed,
    Failed { exit_code: Option<i32>, signal: Option<i32> },
    Cancelled,
    TimedOut,
    NodeFailed,
    Unknown { words: String },
}

/// How a leader ended; `None` if it was not our child.
pub type Exit = Option<(Option<i32>, Option<i32>)>;

/// What the daemon has to do, in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Write the job to disk.
    Save(u64),
    /// Make its process and report [`Queue::started`] or [`Queue::not_started`].
    Start(u64),
    /// Signal all processes of a job, by its leader's session.
    Terminate(u64, Leader),
    Kill(u64, Leader),
    /// Add a line to the job's log.
    Note(u64, String),
    /// Remove it from disk.
    Forget(u64),
}

/// The queue of one directory.
#[derive(Debug, Default)]
pub struct Queue {
    jobs: BTreeMap<u64, Job>,
    slots: u64,
    next_id: u64,
    boot: String,
    host: String,
    /// When it was last looked which jobs may start.
    looked_boot_ms: u64,
}

impl Queue {
    /// The queue of `host` in its `boot`, with the jobs that an earlier daemon left on disk.
    /// Those that ran in an earlier boot are over, those that waited still wait.
    pub fn restore(jobs: Vec<Job>, boot: &str, host: &str, now: Now, out: &mut Vec<Action>) -> Self {
        let next_id = jobs.iter().map(|job| job.id + 1).max().unwrap_or(1);
        let slots = jobs.last().map_or(0, |job| job.request.queue_slots);
        let jobs = jobs.into_iter().map(|job| (job.id, job)).collect();
        let (boot_name, host) = (boot.to_owned(), host.to_owned());
        let mut queue = Self { jobs, slots, next_id, boot: boot_name, host, looked_boot_ms: 0 };
        let old: Vec<u64> = queue.jobs.values().filter(|job| job.boot != boot).map(|job| job.id).collect();
        for id in old {
            let Some(job) = queue.jobs.get_mut(&id) else { continue };
            job.boot = boot.to_owned();
            job.eligible_boot_ms = now.boot_ms;
            if matches!(job.stage, Stage::Running(_) | Stage::Starting { .. }) {
                job.stage = Stage::Ended { outcome: Ending::NodeFailed, at: now.epoch_s };
                out.push(Action::Save(id));
            }
        }
        queue
    }

    /// The job `id`.
    pub fn job(&self, id: u64) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// Jobs whose process exists or may exist.
    pub fn started_jobs(&self) -> Vec<u64> {
        let started = |job: &&Job| matches!(job.stage, Stage::Running(_) | Stage::Starting { .. });
        self.jobs.values().filter(started).map(|job| job.id).collect()
    }

    /// Nothing waits or runs.
    pub fn is_idle(&self) -> bool {
        self.live().next().is_none()
    }

    fn live(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().filter(|job| !matches!(job.stage, Stage::Ended { .. }))
    }

    fn used(&self) -> u64 {
        let occupies = |job: &&Job| matches!(job.stage, Stage::Running(_) | Stage::Starting { .. });
        self.jobs.values().filter(occupies).map(|job| job.request.slots).sum()
    }

    /// Answer a client.
    pub fn request(&mut self, now: Now, request: Request, out: &mut Vec<Action>) -> Reply {
        match request {
            Request::Submit(submit) => self.submit(now, *submit, out),
            Request::Status => Reply::Jobs(self.reports(now)),
            Request::Cancel { ids } => {
                ids.into_iter().for_each(|id| self.cancel(now, id, out));
                self.schedule(now, out);
                Reply::Done
            }
            Request::Health => Reply::Done,
        }
    }

    fn submit(&mut self, now: Now, request: Submit, out: &mut Vec<Action>) -> Reply {
        if let Some(job) = self.jobs.values().find(|job| job.request.token == request.token) {
            return Reply::Submitted { id: job.id };
        }
        self.slots = request.queue_slots;
        if request.slots > self.slots {
            let (asked, slots) = (request.slots, self.slots);
            return Reply::Refused {
                words: format!("the job needs {asked} slots and the queue has {slots}"),
            };
        }
        if self.live().count() >= LIVE_LIMIT {
            return Reply::TryAgain { words: format!("{LIVE_LIMIT} jobs wait or run already") };
        }
        let id = self.next_id;
        self.next_id += 1;
        let eligible_boot_ms = now.boot_ms.saturating_add(request.wait_ms);
        let (boot, host) = (self.boot.clone(), self.host.clone());
        self.jobs.insert(id, Job { id, request, stage: Stage::Waiting, eligible_boot_ms, boot, host });
        out.push(Action::Save(id));
        self.schedule(now, out);
        Reply::Submitted { id }
    }

    /// Take back a submit that could not be saved: it was not answered yet.
    pub fn withdraw(&mut self, id: u64) {
        self.jobs.remove(&id);
    }

    /// The process of a job that was to start.
    pub fn started(&mut self, now: Now, id: u64, leader: Leader, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Stage::Starting { started, started_boot_ms } = job.stage else { return };
        job.stage = Stage::Running(Running { leader, started, started_boot_ms, stop: None });
        out.push(Action::Save(id));
        self.tick(now, out);
    }

    /// A job that was to start has no process.
    pub fn not_started(&mut self, now: Now, id: u64, words: String, out: &mut Vec<Action>) {
        out.push(Action::Note(id, words.clone()));
        self.end(now, id, Ending::Unknown { words }, out);
        self.schedule(now, out);
    }

    /// The leader of a job has ended. What it leaves behind is killed, as in any batch system.
    pub fn exited(&mut self, now: Now, id: u64, exit: Exit, out: &mut Vec<Action>) {
        let Some(Job { stage: Stage::Running(running), .. }) = self.jobs.get(&id) else { return };
        let ending = match (running.stop.as_ref().map(|stop| stop.why), exit) {
            (Some(Why::Cancelled), _) => Ending::Cancelled,
            (Some(Why::Walltime), _) => Ending::TimedOut,
            (None, Some((Some(0), _))) => Ending::Completed,
            (None, Some((exit_code, signal))) => Ending::Failed { exit_code, signal },
            (None, None) => {
                Ending::Unknown { words: "it ended after the queue's daemon was restarted".to_owned() }
            }
        };
        out.push(Action::Kill(id, running.leader));
        self.end(now, id, ending, out);
        self.schedule(now, out);
    }

    /// Do what is due.
    pub fn tick(&mut self, now: Now, out: &mut Vec<Action>) {
        let running: Vec<u64> = self.started_jobs();
        for id in running {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            let Stage::Running(running) = &mut job.stage else { continue };
            let walltime_over = walltime_end(&job.request, running).is_some_and(|end| end <= now.boot_ms);
            match &mut running.stop {
                Some(stop) if stop.kill_boot_ms <= now.boot_ms => {
                    stop.kill_boot_ms = now.boot_ms + KILL_AGAIN_MS;
                    out.push(Action::Kill(id, running.leader));
                }
                None if walltime_over => {
                    let seconds = job.request.walltime_ms.div_ceil(1000);
                    let words = format!("job {id} has reached its walltime of {seconds} s and is stopped");
                    self.stop(now, id, Why::Walltime, words, out);
                }
                _ => {}
            }
        }
        self.schedule(now, out);
    }

    /// When [`tick`](Self::tick) has something to do next, in milliseconds since boot.
    pub fn deadline(&self) -> Option<u64> {
        let running = self.jobs.values().filter_map(|job| match &job.stage {
            Stage::Running(Running { stop: Some(stop), .. }) => Some(stop.kill_boot_ms),
            Stage::Running(running) => walltime_end(&job.request, running),
            _ => None,
        });
        // One that depends on another waits for an event.
        let head = self.jobs.values().find(|job| job.stage == Stage::Waiting && !self.depends(job));
        let head = head.map(|job| job.eligible_boot_ms);
        // A head that might have started at the last look waits for slots, and those come with another event.
        running.chain(head.filter(|&at| at > self.looked_boot_ms)).min()
    }

    fn cancel(&mut self, now: Now, id: u64, out: &mut Vec<Action>) {
        match self.jobs.get(&id).map(|job| &job.stage) {
            Some(Stage::Waiting) => self.end(now, id, Ending::Cancelled, out),
            Some(Stage::Running(Running { stop: None, .. })) => {
                self.stop(now, id, Why::Cancelled, format!("job {id} is cancelled"), out);
            }
            // Over, unknown, or stopping already. `Starting` is settled before another event is looked at.
            _ => {}
        }
    }

    fn stop(&mut self, now: Now, id: u64, why: Why, words: String, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Stage::Running(running) = &mut job.stage else { return };
        let leader = running.leader;
        running.stop = Some(Stop { why, kill_boot_ms: now.boot_ms.saturating_add(job.request.grace_ms) });
        out.push(Action::Save(id));
        out.push(Action::Note(id, words));
        out.push(Action::Terminate(id, leader));
    }

    fn end(&mut self, now: Now, id: u64, outcome: Ending, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.stage = Stage::Ended { outcome, at: now.epoch_s };
        out.push(Action::Save(id));
        let ended: Vec<u64> = self
            .jobs
            .values()
            .filter(|job| matches!(job.stage, Stage::Ended { .. }))
            .map(|job| job.id)
            .collect();
        // The newest id stays, since the next one is counted from it.
        for old in &ended[..ended.len().saturating_sub(ENDED_LIMIT)] {
            self.jobs.remove(old);
            out.push(Action::Forget(*old));
        }
    }

    /// Whether the job that this one is to start after still waits.
    fn depends(&self, job: &Job) -> bool {
        let other = job.request.after.and_then(|id| self.jobs.get(&id));
        other.is_some_and(|other| other.id < job.id && other.stage == Stage::Waiting)
    }

    /// Start waiting jobs in their order, as long as the first of them fits.
    fn schedule(&mut self, now: Now, out: &mut Vec<Action>) {
        self.looked_boot_ms = now.boot_ms;
        let mut free = self.slots.saturating_sub(self.used());
        let waiting: Vec<u64> =
            self.jobs.values().filter(|job| job.stage == Stage::Waiting).map(|job| job.id).collect();
        for id in waiting {
            // What depends on a job that waits holds nobody up.
            if self.jobs.get(&id).is_some_and(|job| self.depends(job)) {
                continue;
            }
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            if job.eligible_boot_ms > now.boot_ms || job.request.slots > free {
                return;
            }
            free -= job.request.slots;
            job.stage = Stage::Starting { started: now.epoch_s, started_boot_ms: now.boot_ms };
            out.push(Action::Save(id));
            out.push(Action::Start(id));
        }
    }

    fn reports(&self, now: Now) -> Vec<Report> {
        let mut first_in_line = true;
        let report = |job: &Job| {
            let state = match &job.stage {
                Stage::Waiting if self.depends(job) => depending(job),
                Stage::Waiting => {
                    let first = std::mem::replace(&mut first_in_line, false);
                    self.waiting(job, now, first)
                }
                Stage::Starting { started, .. } => {
                    ReportState::Running { host: job.host.clone(), started: *started, ends: None }
                }
                Stage::Running(running) => ReportState::Running {
                    host: job.host.clone(),
                    started: running.started,
                    ends: end_epoch(&job.request, running.started),
                },
                Stage::Ended { outcome, .. } => ended(outcome),
            };
            Report { id: job.id, name: job.request.name.clone(), state }
        };
        self.jobs.values().map(report).collect()
    }

    fn waiting(&self, job: &Job, now: Now, first: bool) -> ReportState {
        let (asked, slots) = (job.request.slots, self.slots);
        let never = asked > slots;
        let left_ms = job.eligible_boot_ms.saturating_sub(now.boot_ms);
        let (reason, words) = if never {
            ("TooLarge", format!("it needs {asked} slots and the queue now has {slots}"))
        } else if left_ms > 0 {
            ("QueueWait", "the queue's artificial wait is not over".to_owned())
        } else if first {
            let free = slots.saturating_sub(self.used());
            ("Slots", format!("it is next in line and needs {asked} slots, of which {free} are free"))
        } else {
            ("Order", "earlier jobs are ahead of it".to_owned())
        };
        let start_estimate = (left_ms > 0 && !never).then(|| now.epoch_s + left_ms.div_ceil(1000));
        ReportState::Waiting { reason: reason.to_owned(), words, start_estimate, never }
    }

    /// That the slots are not oversold (a queue whose slots were lowered may be), and that nothing waits that
    /// could start.
    #[cfg(test)]
    pub fn check(&self, now: Now) {
        assert!(self.used() <= self.slots, "{} of {} slots used", self.used(), self.slots);
        assert!(self.jobs.keys().all(|&id| id < self.next_id), "an id from the future");
        let may_start = |job: &&Job| job.stage == Stage::Waiting && !self.depends(job);
        if let Some(head) = self.jobs.values().find(may_start) {
            let fits = head.request.slots <= self.slots - self.used();
            assert!(!fits || head.eligible_boot_ms > now.boot_ms, "job {} could start", head.id);
        }
    }
}

/// When a job's walltime ends, seconds since 1970.
pub fn end_epoch(request: &Submit, started: u64) -> Option<u64> {
    (request.walltime_ms > 0).then(|| started.saturating_add(request.walltime_ms.div_ceil(1000)))
}

fn walltime_end(request: &Submit, running: &Running) -> Option<u64> {
    (request.walltime_ms > 0).then(|| running.started_boot_ms.saturating_add(request.walltime_ms))
}

fn depending(job: &Job) -> ReportState {
    let words = format!("it starts after job {}, which waits", job.request.after.unwrap_or(0));
    ReportState::Waiting { reason: "Dependency".to_owned(), words, start_estimate: None, never: false }
}

fn ended(outcome: &Ending) -> ReportState {
    match outcome.clone() {
        Ending::Completed => ReportState::Completed,
        Ending::Failed { exit_code, signal } => ReportState::Failed { exit_code, signal },
        Ending::Cancelled => ReportState::Cancelled,
        Ending::TimedOut => ReportState::TimedOut,
        Ending::NodeFailed => ReportState::NodeFailed,
        Ending::Unknown { words } => ReportState::Unknown { words },
    }
}

#[cfg(test)]
mod tests;
