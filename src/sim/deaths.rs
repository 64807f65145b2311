//! How workers end: by themselves, killed, with their node; and what their supervisors do then.

use super::batch::JobState;
use super::faults::Fault;
use super::happening::Happening;
use super::truth::End;
use super::world::World;

impl World {
    /// The worker's process ends; its children were killed before, or are now.
    pub fn host_exits(&mut self, host: usize) {
        self.note(|| format!("worker {host} exits"));
        self.hosts[host].is_alive = false;
        if let Some(link) = self.hosts[host].link.take() {
            self.peer_closes(link);
        }
        self.end_groups(host);
    }

    /// The supervisor has killed what a dead worker left running.
    pub fn groups_killed(&mut self, host: usize) {
        if !self.hosts[host].is_supervised {
            return;
        }
        self.end_groups(host);
        self.supervise(host);
    }

    fn end_groups(&mut self, host: usize) {
        self.truth.losses += 1;
        self.hosts[host].is_supervised = false;
        for (execution, run) in std::mem::take(&mut self.hosts[host].runs) {
            if run.is_command {
                self.truth.end(run.key, execution, host, self.now, End::Killed);
            }
        }
        self.look_at_job(self.hosts[host].job);
    }

    /// What the supervisor of a dead worker does: it tells the scheduler, and starts another.
    fn supervise(&mut self, host: usize) {
        let delay = match self.random.below(4) {
            _ if !self.strikes(self.faults.report_trouble) => self.random.span(10, 500),
            0..=2 => {
                self.count_fault(Fault::DeathReportLate);
                self.random.span(5_000, 200_000)
            }
            _ => {
                self.count_fault(Fault::DeathReportLost);
                return self.restart_host(host);
            }
        };
        self.after(delay, Happening::DeathTold { id: self.hosts[host].id.clone(), tries: 20 });
        self.restart_host(host);
    }

    fn restart_host(&mut self, host: usize) {
        let job = self.hosts[host].job;
        if self.batch.jobs[job].state == JobState::Running && self.random.chance(0.7) {
            self.start_host(job);
            let name = self.hosts[host].id.name.clone();
            self.note(|| format!("... in place of {name}"));
        }
    }

    fn random_host(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.hosts.len()).filter(|host| self.hosts[*host].is_alive).collect();
        self.random.pick(&alive).copied()
    }

    /// kill -9 of the worker: its supervisor notices, kills its process groups, and then reports.
    pub fn kill_worker(&mut self) {
        let Some(host) = self.random_host() else { return };
        self.count_fault(Fault::WorkerKilled);
        self.note(|| format!("... worker {host}"));
        self.hosts[host].is_alive = false;
        if let Some(link) = self.hosts[host].link.take() {
            self.peer_closes(link);
        }
        let delay = self.random.span(10, 2_000);
        self.after(delay, Happening::GroupsKilled { host });
    }

    /// The whole node goes without a word.
    pub fn crash_host(&mut self) {
        let Some(host) = self.random_host() else { return };
        self.count_fault(Fault::HostCrashed);
        self.power_off(host, false);
    }

    /// Everything of that worker ends at this moment; `clean`: its kernel still closes the link.
    pub fn power_off(&mut self, host: usize, clean: bool) {
        if self.hosts[host].is_gone() {
            return;
        }
        self.note(|| format!("worker {host} is no more"));
        self.hosts[host].is_alive = false;
        if let Some(id) = self.hosts[host].link.take() {
            if clean {
                self.peer_closes(id);
            } else if let Some(link) = self.links.get_mut(&id) {
                (link.up_flows, link.down_flows) = (false, false);
                self.notice_by_keepalive(id);
            }
        }
        self.end_groups(host);
    }

    /// A strike: for a while nothing gets through to a worker.
    pub fn cut_host_off(&mut self) {
        let Some(host) = self.random_host() else { return };
        self.count_fault(Fault::HostUnreachable);
        let until = self.now + self.random.span(1_000, 400_000);
        self.isolate(host, until);
    }

    /// Nothing gets through to this worker until then; nobody is told.
    pub fn isolate(&mut self, host: usize, until: u64) {
        self.note(|| format!("... worker {host} is unreachable until {:.1} s", until as f64 / 1e9));
        let h = &mut self.hosts[host];
        h.unreachable_until = h.unreachable_until.max(until);
        let Some(id) = h.link else { return };
        if let Some(link) = self.links.get_mut(&id) {
            (link.up_flows, link.down_flows) = (false, false);
            self.notice_by_keepalive(id);
        }
    }
}
