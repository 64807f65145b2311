//! What clients do, one step after the other, and what they make of the answers.

use super::client::Step;
use super::graphs::Plan;
use super::world::World;
use crate::graph::{Key, TaskId};
use crate::protocol::{RefusalKind, Reply, Request, RequestId};
use std::collections::VecDeque;

/// Workers that the operator asks for at the end, when everything must come to rest.
const LAST_TARGET: u32 = 4;

impl World {
    fn request_id(&mut self) -> RequestId {
        RequestId(u128::from(self.random.next()) << 64 | u128::from(self.random.next()))
    }

    pub fn operator_steps(&mut self) -> VecDeque<Step> {
        let mut steps = VecDeque::new();
        let scale = |world: &mut World, workers| Step::Scale { request: world.request_id(), workers };
        let first = self.random.between(2, 6) as u32;
        steps.push_back(scale(self, first));
        for _ in 0..self.random.between(0, 6) {
            let seconds = self.random.between(1, 120);
            let workers = self.random.between(0, 6) as u32;
            steps.extend([Step::Rest { seconds }, scale(self, workers), Step::Status]);
        }
        steps.push_back(Step::AwaitHealing);
        steps.push_back(scale(self, LAST_TARGET));
        steps.extend([Step::AwaitOthers, Step::WaitAll, Step::Status, Step::Down]);
        steps
    }

    pub fn submitter_steps(&mut self, plans: &mut [Plan]) -> VecDeque<Step> {
        let mut steps = VecDeque::new();
        for (graph, plan) in plans.iter_mut().enumerate() {
            if self.random.chance(0.3) {
                steps.push_back(Step::Rest { seconds: self.random.between(1, 90) });
            }
            for part in 0..plan.parts.len() {
                if part > 0 && self.random.chance(0.05) {
                    steps.push_back(Step::Away { seconds: self.random.between(10, 150) });
                }
                steps.push_back(Step::Submit { graph, part });
            }
            if self.random.chance(0.4) {
                plan.cancel_asked = true;
                let request = self.request_id();
                steps.extend([
                    Step::Rest { seconds: self.random.span(1_000, 40_000) / super::SECOND },
                    Step::Cancel { graph, request },
                ]);
            }
            match self.random.below(8) {
                0 => steps.push_back(Step::Resolve { graph }),
                1 => steps.push_back(Step::Tasks),
                2 => steps.push_back(Step::WaitTasks { graph }),
                _ => {}
            }
        }
        let all = 0..plans.len();
        for graph in all.clone() {
            let progress = self.random.chance(0.1);
            steps.push_back(Step::WaitGraph { graph, progress });
        }
        steps.push_back(Step::AwaitHealing);
        // Values may have been lost since they were waited for.
        steps.extend(all.clone().map(|graph| Step::WaitGraph { graph, progress: false }));
        steps.extend(all.map(|graph| Step::Results { graph }));
        steps
    }

    /// The request of a step; none if there is nothing to ask for.
    pub fn request(&mut self, client: usize, step: &Step) -> Option<Request> {
        let plans = &mut self.clients[client].plans;
        let keys_of = |graph: &usize| Some(vec![Key::Graph(plans[*graph].graph?)]);
        Some(match step {
            Step::Submit { graph, part } => {
                let (earlier, rest) = plans.split_at_mut(*graph);
                let plan = &mut rest[0];
                Request::Submit {
                    request: plan.request,
                    part: *part as u32,
                    last: part + 1 == plan.parts.len(),
                    columns: Box::new(plan.columns(*part, earlier)),
                    options: plan.options.clone(),
                }
            }
            Step::Cancel { graph, request } => Request::Cancel { request: *request, keys: keys_of(graph)? },
            Step::Resolve { graph } => Request::Resolve(keys_of(graph)?),
            Step::Status => Request::Status,
            Step::Tasks => Request::Tasks { state: None, graph: None, limit: 100 },
            Step::Scale { request, workers } => Request::Scale { request: *request, workers: *workers },
            Step::WaitGraph { graph, progress } => {
                Request::Wait { keys: keys_of(graph)?, progress: *progress }
            }
            Step::WaitTasks { graph } => {
                let plan = &plans[*graph];
                let id = plan.graph?;
                let task = |index: usize| Key::Task(TaskId { graph: id, index: index as u32 });
                Request::Wait { keys: (0..plan.acknowledged).step_by(3).map(task).collect(), progress: false }
            }
            Step::WaitAll => Request::Wait { keys: vec![], progress: false },
            Step::Results { graph } => Request::Results(keys_of(graph)?),
            Step::Down => Request::Down { drain_ms: 5_000 },
            Step::AwaitHealing | Step::AwaitOthers | Step::Rest { .. } | Step::Away { .. } => return None,
        })
    }

    pub fn answered(&mut self, client: usize, step: Step, reply: Reply) {
        match (step, reply) {
            (Step::Submit { graph, part }, Reply::Submitted { graph: id, first, tasks }) => {
                let plan = &mut self.clients[client].plans[graph];
                let (range, request) = (plan.parts[part].clone(), plan.request);
                let is_same = plan.graph.is_none_or(|known| known == id);
                plan.graph = Some(id);
                plan.acknowledged = range.end;
                plan.acknowledged_parts = plan.acknowledged_parts.max(part + 1);
                if !is_same || (first as usize, tasks as usize) != (range.start, range.len()) {
                    self.violate(format!("part {part} of client {client}'s {id} is acknowledged as another"));
                }
                if !self.disk.has_part(request, part as u32) {
                    self.violate(format!("part {part} of {id} is acknowledged, but isn't durable"));
                }
            }
            (Step::Submit { graph, part }, Reply::Refused { reason, .. }) => {
                self.submit_refused(client, graph, part, &reason);
            }
            (Step::WaitGraph { graph, .. }, Reply::Settled { counts, failures }) => {
                self.truth.told_failed.extend(failures.iter().map(|failure| failure.task));
                let total = self.clients[client].plans[graph].acknowledged as u64;
                if counts.settled() != counts.total() || counts.total() < total {
                    self.violate(format!("a wait for {total} tasks ended with {counts:?}"));
                }
            }
            (Step::WaitTasks { .. }, Reply::Settled { counts, .. }) if counts.settled() != counts.total() => {
                self.violate(format!("a wait for tasks ended with {counts:?}"));
            }
            (Step::Results { graph }, Reply::Results(reports)) => self.judge_results(client, graph, &reports),
            // A graph may be forgotten once it was settled.
            (_, Reply::Refused { kind: RefusalKind::Unknown, .. }) if self.faults.keep_settled < 1000 => {
                self.count("run", "forgotten graphs asked for");
            }
            (step, Reply::Refused { reason, .. }) => {
                self.violate(format!("client {client} was refused {step:?}: {reason}"));
            }
            _ => {}
        }
    }

    /// Refused for a reason that a client can have: its stream was given up, or a name is in use.
    fn submit_refused(&mut self, client: usize, graph: usize, part: usize, reason: &str) {
        let forgotten = self.faults.keep_settled < 1000;
        let expected = reason.contains("is complete")
            || reason.contains("there is no task") // of an earlier graph that was cut short
            || reason.contains("cut short")
            || (forgotten && (reason.contains("never came") || reason.contains("not the next one")));
        if !expected {
            self.violate(format!("client {client}'s part {part} is refused: {reason}"));
        }
        self.count("run", "streams cut short");
        let this = |step: &Step| matches!(step, Step::Submit { graph: g, .. } if *g == graph);
        self.clients[client].steps.retain(|step| !this(step));
        // The program that streamed ends with that error; whoever waits for the graph comes anew.
        self.client_leaves(client);
    }
}
