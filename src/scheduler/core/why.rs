//! Why things are as they are, in sentences for people: a task, a worker, an allocation.

use super::roster::{Presence, Worker};
use super::task::TaskState;
use super::{Core, ingest::refuse};
use crate::config::{about_size, display_duration};
use crate::graph::{Key, Resources, TaskId};
use crate::protocol::{
    AllocationReport, AllocationStateName, ErrorKind, Explanation, RefusalKind, Reply, WorkerIndex,
};
use crate::scheduler::place::could_ever_run;
use std::time::Duration;

/// Tasks or workers that one sentence names.
const NAMED: usize = 5;
/// Tasks of which a graph's explanation is made.
const EXPLAINED: usize = 3;

impl Core {
    /// What is known of a task, a graph, a worker or an allocation, by any name that the command line shows for it.
    pub(super) fn explain(&self, subject: &str) -> Reply {
        let workers: Vec<WorkerIndex> = self.workers_named(subject);
        if !workers.is_empty() {
            let explained = workers.into_iter().map(|index| self.explain_worker(index));
            return Reply::Why(explained.collect());
        }
        let allocations = self.allocation_reports();
        let named =
            |a: &&AllocationReport| a.id.to_string() == subject || (!a.job.is_empty() && a.job == subject);
        if let Some(allocation) = allocations.iter().find(named) {
            return Reply::Why(vec![self.explain_allocation(allocation)]);
        }
        let unknown = || {
            let reason = format!("there is no task, graph, worker or allocation '{subject}'");
            refuse(RefusalKind::Unknown, reason)
        };
        let Ok(key) = subject.parse::<Key>() else { return unknown() };
        match (self.resolve(std::slice::from_ref(&key)), key) {
            (Err(_), _) => unknown(),
            (Ok(_), Key::Graph(id)) => Reply::Why(self.explain_graph(id)),
            (Ok((_, tasks)), _) => {
                Reply::Why(tasks.into_iter().map(|task| self.explain_task(task)).collect())
            }
        }
    }

    fn workers_named(&self, name: &str) -> Vec<WorkerIndex> {
        let named = self.workers.iter().filter(|(_, worker)| worker.registration.id.name == name);
        let mut found: Vec<WorkerIndex> = named.map(|(index, _)| index).collect();
        found.sort_unstable();
        found
    }

    /// Its counts, and the tasks that say most of why it isn't done, or hasn't ended well.
    fn explain_graph(&self, id: crate::graph::GraphId) -> Vec<Explanation> {
        let Some(graph) = self.graphs.get(&id) else { return Vec::new() };
        let c = &graph.counts;
        let mut about =
            Explanation::new(&id.to_string(), if graph.is_settled() { "settled" } else { "open" });
        about.say(format!(
            "{} tasks: {} waiting, {} ready, {} assigned, {} done, {} failed, {} cancelled",
            c.total(),
            c.waiting,
            c.ready,
            c.assigned,
            c.memory,
            c.erred,
            c.cancelled
        ));
        if !graph.sealed {
            about.say("its tasks are still being submitted".to_owned());
        }
        let by_itself =
            |index: &u32| graph.errors.get(index).is_some_and(|e| e.kind != ErrorKind::Dependency);
        let mut failed: Vec<u32> = graph.errors.keys().copied().filter(by_itself).collect();
        failed.sort_unstable();
        let in_state = |wanted: fn(TaskState) -> bool| {
            let found = graph.tasks.iter().enumerate().filter(move |(_, record)| wanted(record.state));
            found.map(|(index, _)| index as u32).take(1)
        };
        let ready = in_state(|state| state == TaskState::Ready);
        let running =
            in_state(|state| matches!(state, TaskState::Assigned { .. } | TaskState::Accepted { .. }));
        let mut chosen: Vec<u32> = failed.into_iter().chain(ready).chain(running).take(EXPLAINED).collect();
        if chosen.is_empty() {
            chosen.extend(in_state(|state| matches!(state, TaskState::Waiting { .. })));
        }
        std::iter::once(about)
            .chain(chosen.into_iter().map(|i| self.explain_task(graph.task_id(i))))
            .collect()
    }

    fn explain_task(&self, task: TaskId) -> Explanation {
        let (Some(record), Some(graph)) = (self.record(task), self.graphs.get(&task.graph)) else {
            return Explanation::new(&task.to_string(), "forgotten");
        };
        let family = &self.families[graph.op_entry(task.index).family as usize].name;
        let name = self.display_name(task);
        let title = if name == task.to_string() { name } else { format!("{name} ({task})") };
        let state = format!("{:?}", record.state.name()).to_lowercase();
        let mut about = Explanation::new(&format!("{title}: {family}"), &state);
        match record.state {
            TaskState::Waiting { .. } => self.say_waiting(task, &mut about),
            TaskState::Ready => self.say_ready(task, &mut about),
            TaskState::Assigned { worker } => {
                about.say(format!("attempt {} was given to {}", record.attempt, self.describe(worker)));
                self.say_tries(task, &mut about);
            }
            TaskState::Accepted { worker } => {
                let who =
                    worker.map_or("nobody yet: it takes a connected worker".to_owned(), |w| self.describe(w));
                about
                    .say(format!("it ended well, and its outputs are being brought to their place by {who}"));
            }
            TaskState::Held { worker } => {
                let holders = self.holders(task, worker);
                about.say(format!(
                    "it ended well in {}; its value, {}, is held by {}",
                    took(record.micros),
                    about_size(record.nbytes),
                    self.list(holders.iter().copied())
                ));
            }
            TaskState::Stored => {
                about.say(format!("it ended well in {}; the scheduler has its result", took(record.micros)))
            }
            TaskState::Released => {
                about.say(format!(
                    "it ended well in {}; nobody needed its value any more",
                    took(record.micros)
                ));
            }
            TaskState::Erred => self.say_erred(task, &mut about),
            TaskState::Cancelled => about.say(match graph.options.max_failures {
                Some(most) if graph.failures > most => {
                    format!("{} tasks of {} failed, and --max-fails is {most}", graph.failures, graph.id)
                }
                _ => "somebody cancelled it".to_owned(),
            }),
        }
        about
    }

    fn say_waiting(&self, task: TaskId, about: &mut Explanation) {
        let dependencies = self.dependencies(task);
        let there = |id: &TaskId| self.state(*id).is_some_and(|state| self.input_is_there(task, state));
        let open: Vec<&TaskId> = dependencies.iter().filter(|id| !there(id)).collect();
        if self.is_awaited(task) || open.iter().any(|id| self.is_awaited(**id)) {
            about.say(
                "the scheduler was restarted: former workers that may hold values are given some seconds"
                    .to_owned(),
            );
        }
        about.say(format!(
            "{} of the {} tasks that it comes after are not done:",
            open.len(),
            dependencies.len()
        ));
        for id in open.iter().take(NAMED) {
            let state =
                self.state(**id).map_or("forgotten".to_owned(), |s| format!("{:?}", s.name()).to_lowercase());
            about.say(format!("  {} is {state}", self.display_name(**id)));
        }
        if open.len() > NAMED {
            about.say(format!("  and {} more", open.len() - NAMED));
        }
    }

    fn say_ready(&self, task: TaskId, about: &mut Explanation) {
        self.say_tries(task, about);
        if self.going_down.is_some() {
            return about.say("the cluster is going down: nothing new starts".to_owned());
        }
        let Some(graph) = self.graphs.get(&task.graph) else { return };
        let class = &self.classes[graph.op_entry(task.index).class as usize];
        let present: Vec<(WorkerIndex, &Worker)> =
            self.workers.iter().filter(|(_, w)| w.peer().is_some()).collect();
        let takes = |worker: &Worker| !worker.leaving && could_ever_run(&worker.view(), &class.resources);
        let able = present.iter().filter(|(_, worker)| takes(worker)).count();
        if able > 0 {
            let before = class.ready.iter().filter(|other| *other < task).count();
            let words =
                if able == 1 { "worker that could run it is" } else { "workers that could run it are" };
            about.say(format!("the {able} {words} busy; {before} tasks that need the same are before it"));
            if !self.workers.all_routes_work() {
                about.say(
                    "some workers can't reach each other, so it may wait for one that can fetch its inputs"
                        .to_owned(),
                );
            }
            return;
        }
        let needs = describe_needs(&class.resources);
        if present.is_empty() {
            about.say("no worker is connected".to_owned());
        } else {
            let largest = present.iter().max_by_key(|(_, w)| (w.registration.cores, w.registration.memory));
            let has = largest.map_or(String::new(), |(_, worker)| {
                format!(", the largest of which has {}", describe_worker(worker))
            });
            about.say(format!(
                "it needs {needs}: more than any of the {} connected workers has{has}",
                present.len()
            ));
        }
        self.say_allocations(about);
    }

    /// What becomes of the workers that were asked for.
    fn say_allocations(&self, about: &mut Explanation) {
        if self.allocations.target == 0 {
            about.say("no workers are asked for: `jq scale N` asks for some".to_owned());
        }
        if self.allocations.stopped {
            about.say(
                "too many jobs ended without a worker: no more are asked for until `jq scale N`".to_owned(),
            );
        }
        if !self.allocations.trouble.is_empty() {
            about.say(format!("the batch system: {}", self.allocations.trouble));
        }
        let open = |a: &&AllocationReport| {
            matches!(
                a.state,
                AllocationStateName::Submitting | AllocationStateName::Pending | AllocationStateName::Refused
            )
        };
        for allocation in self.allocation_reports().iter().filter(open).take(NAMED) {
            about.say(format!("allocation {}: {}", allocation.id, allocation_story(allocation)));
        }
    }

    /// What became of it before.
    fn say_tries(&self, task: TaskId, about: &mut Explanation) {
        let Some(record) = self.record(task) else { return };
        if record.retries_used > 0 {
            about.say(format!("{} earlier attempts failed", record.retries_used));
        }
        if record.fetch_failures > 0 {
            about.say(format!(
                "its inputs were out of reach, or its outputs gone, {} times",
                record.fetch_failures
            ));
        }
        let blamed = self.workers.iter().filter(|(_, worker)| worker.blamed.contains(&task));
        let mut lost: Vec<(WorkerIndex, &Worker)> = blamed.collect();
        lost.sort_unstable_by_key(|(index, _)| *index);
        for (_, worker) in &lost {
            let name = &worker.registration.id.name;
            about.say(format!("worker {name} was lost while it ran it: {}", absence(worker)));
        }
        let counted = usize::from(record.workers_lost);
        if counted > lost.len() {
            about.say(format!("{counted} workers in all were lost while they ran it"));
        }
    }

    fn say_erred(&self, task: TaskId, about: &mut Explanation) {
        let Some(error) = self.error(task) else { return };
        about.say(error.message.clone());
        self.say_tries(task, about);
        if error.kind != ErrorKind::Dependency {
            let attempt = self.record(task).map_or(0, |record| record.attempt);
            about.say(format!(
                "that was attempt {attempt}; `jq retry {}` tries it again",
                self.display_name(task)
            ));
            return;
        }
        let causes = self.causes(task);
        for cause in causes.iter().take(NAMED) {
            let message = self.error(*cause).map_or("it was cancelled", |error| error.message.as_str());
            about.say(format!("the cause is {}: {message}", self.display_name(*cause)));
        }
        if let Some(cause) = causes.first() {
            about.say(format!(
                "`jq retry {}` tries it again, and what failed by it",
                self.display_name(*cause)
            ));
        }
    }

    /// What failed by itself, or was cancelled, among all that the task comes after.
    fn causes(&self, task: TaskId) -> Vec<TaskId> {
        let (mut stack, mut seen, mut causes) =
            (vec![task], std::collections::BTreeSet::from([task]), Vec::new());
        while let Some(next) = stack.pop() {
            for dependency in self.dependencies(next) {
                if !seen.insert(dependency) {
                    continue;
                }
                match (self.state(dependency), self.error(dependency)) {
                    (_, Some(error)) if error.kind == ErrorKind::Dependency => stack.push(dependency),
                    (Some(TaskState::Erred | TaskState::Cancelled), _) => causes.push(dependency),
                    _ => {}
                }
            }
        }
        causes.sort_unstable();
        causes
    }

    fn explain_worker(&self, index: WorkerIndex) -> Explanation {
        let Some(worker) = self.workers.get(index) else { return Explanation::new("a worker", "forgotten") };
        let r = &worker.registration;
        let state = format!("{:?}", worker.state_name()).to_lowercase();
        let mut about = Explanation::new(&format!("worker {}", r.id.name), &state);
        about.allocation = Some(r.allocation);
        about.incarnation = r.id.incarnation;
        if !r.host.is_empty() {
            about.say(format!(
                "process {} on {}, allocation {}, {}",
                r.pid,
                r.host,
                r.allocation,
                describe_worker(worker)
            ));
        }
        match &worker.presence {
            Presence::Connected { .. } => {
                let leaves = if worker.leaving { ", and takes no more" } else { "" };
                about.say(format!(
                    "it has ended {} tasks and has {} now{leaves}",
                    worker.finished,
                    worker.assigned.len()
                ));
            }
            Presence::Lost { settle_at, reason } => {
                about.say(format!("its link is gone: {reason}"));
                let left = Duration::from_secs(settle_at.since(self.now).as_secs());
                about.say(format!(
                    "its commands start elsewhere once nothing of them can run any more: in {} at the latest",
                    display_duration(left)
                ));
            }
            Presence::Gone { reason } => about.say(reason.clone()),
        }
        let mut tasks: Vec<TaskId> = worker.assigned.iter().copied().collect();
        tasks.sort_unstable();
        if !tasks.is_empty() {
            let names: Vec<String> = tasks.iter().take(NAMED).map(|task| self.display_name(*task)).collect();
            let more = if tasks.len() > NAMED {
                format!(" and {} more", tasks.len() - NAMED)
            } else {
                String::new()
            };
            about.say(format!("given to it: {}{more}", names.join(", ")));
        }
        let blamed: Vec<String> =
            worker.blamed.iter().take(NAMED).map(|task| self.display_name(*task)).collect();
        if !blamed.is_empty() {
            about.say(format!("it ran then: {}", blamed.join(", ")));
        }
        if !worker.holds.is_empty() && worker.peer().is_some() {
            about.say(format!(
                "it holds {} values, {} of memory in use",
                worker.holds.len(),
                about_size(worker.memory_used)
            ));
        }
        about
    }

    fn explain_allocation(&self, report: &AllocationReport) -> Explanation {
        let state = format!("{:?}", report.state).to_lowercase();
        let mut about = Explanation::new(&format!("allocation {}", report.id), &state);
        about.allocation = Some(report.id);
        about.say(allocation_story(report));
        for index in self.workers.all_of_allocation(report.id) {
            if let Some(worker) = self.workers.get(index) {
                about.say(format!("worker {}: {}", worker.registration.id.name, absence(worker)));
            }
        }
        about
    }

    fn describe(&self, worker: WorkerIndex) -> String {
        self.workers.get(worker).map_or("a worker that is forgotten".to_owned(), |worker| {
            let (name, others) = (&worker.registration.id.name, worker.assigned.len().saturating_sub(1));
            let there = match &worker.presence {
                Presence::Connected { .. } => format!("on {}", worker.registration.host),
                _ => absence(worker),
            };
            format!("worker {name} ({there}), which has {others} others")
        })
    }

    fn list(&self, workers: impl Iterator<Item = WorkerIndex>) -> String {
        let names = workers.filter_map(|index| Some(self.workers.get(index)?.registration.id.name.clone()));
        names.collect::<Vec<_>>().join(", ")
    }
}

fn absence(worker: &Worker) -> String {
    match &worker.presence {
        Presence::Connected { .. } => "connected".to_owned(),
        Presence::Lost { reason, .. } => format!("its link is gone: {reason}"),
        Presence::Gone { reason } => reason.clone(),
    }
}

fn allocation_story(report: &AllocationReport) -> String {
    let job = if report.job.is_empty() { String::new() } else { format!("job {}, ", report.job) };
    let state = format!("{:?}", report.state).to_lowercase();
    let mut story = format!("{job}{state}");
    for words in [&report.reason, &report.words].into_iter().filter(|words| !words.is_empty()) {
        story.push_str(": ");
        story.push_str(words);
    }
    if report.never {
        story.push_str("; it will never start");
    }
    if report.start_estimate_unix > 0 {
        story.push_str("; the batch system has an estimate of its start (`jq status`)");
    }
    story
}

fn describe_worker(worker: &Worker) -> String {
    let r = &worker.registration;
    describe_needs(&Resources { cores: r.cores, memory: r.memory, named: r.named.clone() })
}

fn describe_needs(needs: &Resources) -> String {
    let cores = if needs.cores == 1 { "1 core".to_owned() } else { format!("{} cores", needs.cores) };
    let memory = (needs.memory > 0).then(|| format!("{} of memory", about_size(needs.memory)));
    let named = needs.named.iter().map(|(name, count)| format!("{name}={count}"));
    std::iter::once(cores).chain(memory).chain(named).collect::<Vec<_>>().join(", ")
}

fn took(micros: u32) -> String {
    format!("{:.3} s", f64::from(micros) / 1e6)
}
