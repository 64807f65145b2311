//! What must hold of what leaves the scheduler, and at the end.

use super::SECOND;
use super::graphs::{FAILS, FLAKY, Kind, Planned, RETRIES, evaluate};
use super::letters::Letter;
use super::runners::{digest_stored, targets};
use super::truth::End;
use super::world::World;
use crate::graph::TaskId;
use crate::protocol::{ErrorKind, Execution, RequestId, TaskReport, TaskStateName, ToWorker};
use crate::scheduler::record::{Fate, Record};
use crate::state::lease::SILENT_AFTER;

impl World {
    /// What is journalled of an execution's end is what happened to that very execution.
    pub fn judge_fates(&mut self, record: &Record) {
        let Record::Fates(fates) = record else { return };
        let is_true = |execution: &Execution, fate: &Fate| {
            let end = self.truth.ends.get(execution);
            match fate {
                Fate::Held { .. } | Fate::Stored { .. } | Fate::Accepted { .. } => end == Some(&End::Well),
                Fate::Retried => end == Some(&End::Failed) || self.truth.revoked.contains(execution),
                Fate::Revoked => self.truth.revoked.contains(execution),
                Fate::Erred { error, .. } if matches!(error.kind, ErrorKind::Exit(_)) => {
                    end == Some(&End::Failed)
                }
                Fate::Erred { .. } | Fate::Placed | Fate::Cancelled => true,
            }
        };
        if let Some((execution, fate)) = fates.iter().find(|(execution, fate)| !is_true(execution, fate)) {
            let why = format!("{execution:?} is journalled as {fate:?}, which isn't what happened to it");
            self.violate(why);
        }
    }

    /// A task may be given to a worker only once its graph is durable: after a restart its number may mean another.
    pub fn judge_compute(&mut self, message: &ToWorker) {
        let ToWorker::Compute(assignments) = message else { return };
        let early = assignments.iter().find(|assignment| !self.disk.has_task(assignment.execution.task));
        if let Some(early) = early {
            let why = format!("{:?} is sent, but its graph isn't durable", early.execution);
            self.violate(why);
        }
    }

    /// A value may be freed for good only once every completion that needed it is durable.
    pub fn judge_free(&mut self, life: u32, message: &ToWorker) {
        let (ToWorker::Free(tasks), Some(server)) = (message, self.servers.get(&life)) else { return };
        for task in tasks {
            let (Some(known), Some("released")) = (server.lineage.get(task), server.core.state_name(*task))
            else {
                continue;
            };
            let too_early = known.consumers.iter().copied().find(|consumer| {
                let ended = matches!(server.core.state_name(*consumer), Some("held" | "released"));
                ended && !self.disk.has_end_of_kernel(*consumer)
            });
            if let Some(consumer) = too_early {
                let why = format!("{task} is freed, but the end of {consumer} isn't durable");
                return self.violate(why);
            }
        }
    }

    /// What waited for a record says something that the next epoch knows of: it was on disk before the fence fell.
    pub fn judge_rest(&mut self, life: u32, needed: u64, letter: &Letter) {
        let late = self.servers.get(&life).and_then(|server| server.journal.first_late);
        if late.is_some_and(|late| needed >= late) {
            self.violate(format!("scheduler {life} says what no later one will know: {letter:?}"));
        }
    }

    /// Whoever has been superseded speaks only for as long as a claimant couldn't wait: its next beat tells it.
    pub fn judge_speaker(&mut self, life: u32, message: &ToWorker) {
        let fallen_for = self.folder.fallen_for(life, self.now);
        if fallen_for > SILENT_AFTER.as_nanos() as u64 {
            let seconds = fallen_for / SECOND;
            self.violate(format!("scheduler {life} was superseded {seconds} s ago, and says {message:?}"));
        }
    }

    /// A record that a later epoch doesn't count: nobody must have been told of it.
    pub fn judge_cut(&mut self, record: &Record) {
        let told = match record {
            Record::Part { request, part, .. } => self.has_acknowledged(*request, *part as usize),
            Record::Assigned { executions, .. } => {
                let started = |execution: &Execution| {
                    self.truth.runs.values().flatten().any(|run| run.execution == *execution)
                };
                executions.iter().any(started)
            }
            Record::Intent { allocation } => self.batch.jobs.iter().any(|job| job.allocation == *allocation),
            _ => false,
        };
        if told {
            self.violate(format!("the journal's seal leaves out what others were told: {record:?}"));
        }
    }

    fn has_acknowledged(&self, request: RequestId, part: usize) -> bool {
        let mut plans = self.clients.iter().flat_map(|client| &client.plans);
        plans.any(|plan| plan.request == request && part < plan.acknowledged_parts)
    }

    /// A client has the results of a graph that is settled, in a world without faults.
    pub fn judge_results(&mut self, client: usize, graph: usize, reports: &[TaskReport]) {
        let plan = &self.clients[client].plans[graph];
        if reports.len() < plan.acknowledged {
            return self.violate(format!("{} of {} results", reports.len(), plan.acknowledged));
        }
        let expected = evaluate(&self.clients[client].plans);
        for report in reports {
            let index = report.task.index as usize;
            let Some(task) = self.clients[client].plans[graph].tasks.get(index).cloned() else {
                return self.violate(format!("{} was never submitted", report.task));
            };
            self.count("result", &format!("{:?} {:?}", task.kind, report.state));
            if let Err(why) = self.judge_result(client, graph, &task, expected[graph][index], report) {
                return self.violate(format!("{} ({task:?}): {why}; {report:?}", report.task));
            }
        }
    }

    fn judge_result(
        &self,
        client: usize,
        graph: usize,
        task: &Planned,
        expected: u64,
        report: &TaskReport,
    ) -> Result<(), String> {
        let plan = &self.clients[client].plans[graph];
        if self.truth.told_failed.contains(&report.task) && report.state != TaskStateName::Erred {
            return Err("a client was told that it failed".into());
        }
        match report.state {
            TaskStateName::Memory if task.kind.is_command() => self.judge_command(task, expected, report),
            TaskStateName::Memory if task.behaviour == FAILS => Err("it can't have succeeded".into()),
            TaskStateName::Memory if task.kind == Kind::Data => match &report.stored {
                Some(value) if digest_stored(value) == expected => Ok(()),
                _ => Err("its value is wrong".into()),
            },
            // Who cancels a graph whose values were to be kept lets go of them.
            TaskStateName::Memory
                if plan.cancel_asked && plan.options.replicas > 0 && report.holders.is_empty() =>
            {
                Ok(())
            }
            TaskStateName::Memory if task.wanted => self.judge_value(report, expected),
            TaskStateName::Memory => Ok(()),
            TaskStateName::Erred => self.judge_error(task, report),
            TaskStateName::Cancelled if plan.cancel_asked || plan.options.max_failures.is_some() => Ok(()),
            _ => Err("it can't be in this state".into()),
        }
    }

    fn judge_command(&self, task: &Planned, expected: u64, report: &TaskReport) -> Result<(), String> {
        if !self.truth.ended_well(task.key) {
            return Err("it never ran to a good end".into());
        }
        if report.stored.as_ref().is_none_or(|value| digest_stored(value) != expected) {
            return Err("its result is wrong".into());
        }
        match targets(task.key, task.kind.outputs())
            .find(|target| self.disk.files.get(target) != Some(&task.key))
        {
            Some(target) => Err(format!("its output {target} isn't in its place")),
            None => Ok(()),
        }
    }

    /// A wanted value is with every worker that it is said to be with, and is right.
    fn judge_value(&self, report: &TaskReport, expected: u64) -> Result<(), String> {
        if report.holders.is_empty() {
            return Err("nobody holds its value".into());
        }
        for holder in &report.holders {
            let host =
                self.host_by_address(holder).ok_or_else(|| format!("there is no worker at {holder:?}"))?;
            match self.hosts[host].store.get(&report.task) {
                Some(value) if *value == expected => {}
                Some(_) => return Err("its value is wrong".into()),
                None => return Err(format!("worker {host} doesn't have its value")),
            }
        }
        Ok(())
    }

    fn judge_error(&self, task: &Planned, report: &TaskReport) -> Result<(), String> {
        let error = report.error.as_ref().ok_or("it has no error")?;
        let outputs_refused = || {
            let runs = self.truth.runs.get(&task.key);
            runs.is_some_and(|runs| runs.iter().any(|run| self.truth.revoked.contains(&run.execution)))
        };
        let failed = self.truth.count(task.key, End::Failed);
        let is_justified = match error.kind {
            ErrorKind::Dependency => self.has_failed_dependency(report.task, task),
            // Refused outputs count against the same budget.
            ErrorKind::Exit(_) => task.behaviour == FLAKY && (failed > RETRIES as usize || outputs_refused()),
            ErrorKind::Task => task.behaviour == FAILS || (task.kind.outputs() > 0 && outputs_refused()),
            ErrorKind::WorkerLost => self.faults.max_workers_lost == 3 && self.truth.losses > 0,
            ErrorKind::OutcomeUnknown => task.kind == Kind::AtMostOnce,
            _ => false,
        };
        if is_justified { Ok(()) } else { Err("its error isn't justified".into()) }
    }

    fn has_failed_dependency(&self, id: TaskId, task: &Planned) -> bool {
        let Some(server) = self.holder() else { return false };
        let failed = |dep: &super::graphs::Dep| match dep {
            super::graphs::Dep::Here(index) => {
                let dependency = TaskId { graph: id.graph, index: *index };
                matches!(server.core.state_name(dependency), Some("erred" | "cancelled"))
            }
            super::graphs::Dep::Earlier { .. } => true,
        };
        task.deps.iter().any(failed)
    }

    /// The cluster is down: every task that was acknowledged had been settled, and nothing runs on.
    pub fn judge_end(&mut self) {
        for (host, h) in self.hosts.iter().enumerate() {
            if !h.is_gone() {
                return self.violate(format!("worker {host} runs on"));
            }
        }
        let runs = self.truth.runs.values().flatten();
        if let Some(run) = runs.clone().find(|run| run.ended.is_none()) {
            return self.violate(format!("{run:?} runs on"));
        }
        self.report.add(
            "commands",
            "ran well",
            runs.filter(|r| matches!(r.ended, Some((_, End::Well)))).count() as u64,
        );
    }

    /// The world is healed for long, and something is still open: says what.
    pub fn violate_unsettled(&mut self) {
        let mut open = Vec::new();
        if let Some(server) = self.holder() {
            server.core.each_state(|task, state| {
                if !matches!(state, "held" | "stored" | "released" | "erred" | "cancelled") {
                    open.push(format!("{task} {state}"));
                }
            });
        }
        let mut clients = String::new();
        for (client, c) in self.clients.iter().enumerate().filter(|(_, c)| !c.is_done()) {
            clients += &format!("; client {client}: {:?}, then {:?}", c.asked, c.steps.front());
        }
        let alive: Vec<usize> = (0..self.hosts.len()).filter(|h| self.hosts[*h].is_alive).collect();
        open.truncate(20);
        self.violate(format!("it doesn't come to rest: {open:?}{clients}; workers {alive:?}"));
    }
}
