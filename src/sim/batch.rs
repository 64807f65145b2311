//! A fake batch system: submits take time and may go wrong, jobs wait, run, end, and vanish from answers.

use super::SECOND;
use super::faults::Fault;
use super::happening::Happening;
use super::relay::Seat;
use super::world::World;
use crate::protocol::AllocationId;
use crate::scheduler::event::{AllocationStatus, Event, SubmitOutcome};
use crate::scheduler::relay::SUCCESSOR;
use std::collections::BTreeSet;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum JobState {
    Pending,
    Running,
    /// `confirmed`: surely nothing of it runs.
    Ended {
        confirmed: bool,
    },
}

impl JobState {
    /// What the batch system says of that job.
    pub fn status(self, index: usize) -> AllocationStatus {
        match self {
            JobState::Pending => AllocationStatus::Pending {
                reason: "Priority".into(),
                words: "(Priority)".into(),
                start_estimate_unix: 0,
                never: false,
            },
            JobState::Running => AllocationStatus::Running { nodes: format!("n{index}"), ends_unix: 0 },
            JobState::Ended { confirmed } => AllocationStatus::Ended {
                words: if confirmed { "COMPLETED" } else { "NODE_FAIL" }.into(),
                confirmed,
                blameless: false,
            },
        }
    }
}

pub(super) struct Job {
    pub allocation: AllocationId,
    pub state: JobState,
    pub hosts: Vec<usize>,
    /// Answers leave it out until then.
    pub hidden_until: u64,
    is_ending: bool,
}

#[derive(Default)]
pub(super) struct Batch {
    pub jobs: Vec<Job>,
    /// Jobs in which schedulers run.
    pub seats: Vec<Seat>,
    /// To be cancelled, also if the job is found only later.
    unwanted: BTreeSet<AllocationId>,
}

impl Batch {
    pub fn runs(&self, allocation: AllocationId) -> bool {
        self.jobs.iter().any(|job| job.state == JobState::Running && job.allocation == allocation)
    }
}

impl World {
    /// The scheduler runs the batch system's submit command.
    pub fn submits(&mut self, life: u32, allocation: AllocationId) {
        self.command_is_done(life);
        let begins = match self.servers.contains_key(&life) {
            true => self.may_act(life),
            // The command may have been running when its scheduler died.
            false => self.random.chance(0.5),
        };
        if !begins {
            return;
        }
        if allocation == SUCCESSOR {
            let (is_in, outcome) = self.submit_comes_to();
            return self.submits_successor(life, is_in, outcome);
        }
        if !self.disk.has_intent(allocation) {
            self.violate(format!("{allocation} is submitted, but its intent isn't durable"));
        }
        if self.batch.jobs.iter().any(|job| job.allocation == allocation) {
            self.violate(format!("{allocation} is submitted twice"));
        }
        let (is_in, outcome) = self.submit_comes_to();
        if is_in {
            let state = JobState::Pending;
            self.batch.jobs.push(Job { allocation, state, hosts: vec![], hidden_until: 0, is_ending: false });
            let wait = self.random.span(100, 60_000);
            self.after(wait, Happening::JobStarts { job: self.batch.jobs.len() - 1 });
        }
        self.server_event(life, Event::Submitted { allocation, outcome });
    }

    /// Whether the job is in the queue, and what whoever submits it learns.
    fn submit_comes_to(&mut self) -> (bool, SubmitOutcome) {
        let words = "slurmctld is busy".to_owned();
        let job = format!("{}", 1000 + self.batch.jobs.len());
        let trouble = if self.strikes(self.faults.submit_trouble) { self.random.below(9) } else { 99 };
        let (fault, is_in, outcome) = match trouble {
            0..=2 => (
                Some(Fault::SubmitRefused),
                false,
                SubmitOutcome::Refused { words, fatal: false, exit_code: 75 },
            ),
            3 => (
                Some(Fault::SubmitRefusedForGood),
                false,
                SubmitOutcome::Refused { words, fatal: true, exit_code: 78 },
            ),
            4..=6 => (Some(Fault::SubmitAmbiguousDone), true, SubmitOutcome::Ambiguous { words }),
            7 | 8 => (Some(Fault::SubmitAmbiguousNotDone), false, SubmitOutcome::Ambiguous { words }),
            _ => (None, true, SubmitOutcome::Accepted { job }),
        };
        if let Some(fault) = fault {
            self.count_fault(fault);
        }
        (is_in, outcome)
    }

    pub fn cancels(&mut self, life: u32, allocations: &[AllocationId]) {
        self.command_is_done(life);
        // One that is no more had told its command before it died.
        if self.servers.contains_key(&life) && !self.may_act(life) {
            return;
        }
        self.batch.unwanted.extend(allocations);
        let ours = |job: &Job| allocations.contains(&job.allocation);
        let jobs: Vec<usize> =
            (0..self.batch.jobs.len()).filter(|job| ours(&self.batch.jobs[*job])).collect();
        for job in jobs {
            self.cancel_job(job);
        }
    }

    fn cancel_job(&mut self, job: usize) {
        match self.batch.jobs[job].state {
            JobState::Pending => {
                self.count("batch", "pending jobs cancelled");
                self.batch.jobs[job].state = JobState::Ended { confirmed: true };
            }
            JobState::Running => self.job_must_end(job),
            JobState::Ended { .. } => {}
        }
    }

    pub fn job_starts(&mut self, job: usize) {
        if self.batch.jobs[job].state != JobState::Pending {
            return;
        }
        self.batch.jobs[job].state = JobState::Running;
        let allocation = self.batch.jobs[job].allocation;
        self.note(|| format!("job {job} of {allocation} starts"));
        if self.strikes(self.faults.job_trouble / 2.0) {
            self.count_fault(Fault::JobEndsWithoutWorker);
            self.batch.jobs[job].state = JobState::Ended { confirmed: true };
            return;
        }
        for _ in 0..self.faults.workers_per_allocation {
            self.start_host(job);
        }
    }

    /// SIGTERM, and SIGKILL after a grace.
    pub fn job_must_end(&mut self, job: usize) {
        if self.batch.jobs[job].state != JobState::Running || self.batch.jobs[job].is_ending {
            return;
        }
        self.batch.jobs[job].is_ending = true;
        for host in self.batch.jobs[job].hosts.clone() {
            self.ask_host_to_leave(host);
        }
        self.after(30 * SECOND, Happening::JobKilled { job });
    }

    pub fn job_killed(&mut self, job: usize) {
        for host in self.batch.jobs[job].hosts.clone() {
            self.power_off(host, true);
        }
        if self.batch.jobs[job].state == JobState::Running {
            self.batch.jobs[job].state = JobState::Ended { confirmed: true };
        }
    }

    /// A job ends by itself when all its processes have ended.
    pub fn look_at_job(&mut self, job: usize) {
        let over = self.batch.jobs[job].hosts.iter().all(|host| self.hosts[*host].is_gone());
        if over && self.batch.jobs[job].state == JobState::Running {
            self.batch.jobs[job].state = JobState::Ended { confirmed: true };
        }
    }

    pub fn polls(&mut self, life: u32) {
        let Some(server) = self.servers.get_mut(&life) else { return };
        if self.now < server.next_poll || server.ending.is_some() {
            return;
        }
        server.next_poll = self.now + 30 * SECOND;
        let asked = server.core.allocations_to_ask_about();
        self.after(30 * SECOND, Happening::Polls { life });
        let delay = self.random.span(50, 2_000);
        if self.strikes(self.faults.poll_trouble) {
            self.count_fault(Fault::PollFailed);
            return self.after(delay, Happening::Answered { life, statuses: None });
        }
        let mut statuses: Vec<_> = self.status_of_successor(life).into_iter().collect();
        for allocation in asked {
            let status = self.status_of(allocation);
            let kind = match &status {
                (_, AllocationStatus::Pending { .. }) => "pending",
                (_, AllocationStatus::Running { .. }) => "running",
                (_, AllocationStatus::Ended { confirmed: true, .. }) => "ended",
                (_, AllocationStatus::Ended { confirmed: false, .. }) => "ended, not confirmed",
                (_, AllocationStatus::Absent) => "absent",
            };
            self.count("status", kind);
            statuses.push((allocation, status.0, status.1));
        }
        self.after(delay, Happening::Answered { life, statuses: Some(statuses) });
    }

    fn status_of(&mut self, allocation: AllocationId) -> (String, AllocationStatus) {
        let found = self.batch.jobs.iter().position(|job| job.allocation == allocation);
        let Some(index) = found else { return (String::new(), AllocationStatus::Absent) };
        if self.batch.unwanted.contains(&allocation) {
            self.cancel_job(index);
        }
        let job = &self.batch.jobs[index];
        let id = format!("{}", 1000 + index);
        if job.hidden_until > self.now {
            return (id, AllocationStatus::Absent);
        }
        (id, job.state.status(index))
    }

    pub fn poll_answered(
        &mut self,
        life: u32,
        statuses: Option<Vec<(AllocationId, String, AllocationStatus)>>,
    ) {
        let event = match statuses {
            Some(statuses) => {
                if let Some(server) = self.servers.get_mut(&life) {
                    server.was_answered = true;
                }
                Event::Polled(statuses)
            }
            None => Event::PollFailed { words: "slurmctld doesn't answer".into() },
        };
        self.server_event(life, event);
    }

    fn random_running_job(&mut self) -> Option<usize> {
        let running: Vec<usize> = (0..self.batch.jobs.len())
            .filter(|job| self.batch.jobs[*job].state == JobState::Running)
            .collect();
        self.random.pick(&running).copied()
    }

    /// Its node counts as failed, but everything on it runs on, cut off for a while.
    pub fn orphan_job(&mut self) {
        let Some(job) = self.random_running_job() else { return };
        self.count_fault(Fault::JobOrphaned);
        self.batch.jobs[job].state = JobState::Ended { confirmed: false };
        let until = self.now + self.random.span(1_000, 400_000);
        for host in self.batch.jobs[job].hosts.clone() {
            self.isolate(host, until);
        }
    }

    /// Answers leave the job out for a while, or for good.
    pub fn hide_job(&mut self) {
        let Some(job) = self.random_running_job() else { return };
        let for_good = self.random.chance(0.3);
        self.count_fault(if for_good { Fault::JobVanished } else { Fault::JobHidden });
        let until = if for_good { u64::MAX } else { self.now + self.random.span(10_000, 300_000) };
        self.batch.jobs[job].hidden_until = until;
    }

    pub fn end_walltime(&mut self) {
        let Some(job) = self.random_running_job() else { return };
        self.count_fault(Fault::WalltimeEnded);
        self.job_must_end(job);
    }
}
