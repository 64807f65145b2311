//! Clients: each takes its steps one by one, and repeats what was not answered over a new link.

use super::SECOND;
use super::faults::Fault;
use super::graphs::Plan;
use super::happening::Happening;
use super::net::{Moved, Peer};
use super::world::World;
use crate::protocol::{self, FromClient, Reply, Request, RequestId, ToClient};
use std::collections::VecDeque;

/// A client that hears nothing for so long tries a new link.
const PATIENCE: u64 = 90 * SECOND;

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Step {
    Submit {
        graph: usize,
        part: usize,
    },
    Cancel {
        graph: usize,
        request: RequestId,
    },
    Resolve {
        graph: usize,
    },
    Status,
    Tasks,
    Scale {
        request: RequestId,
        workers: u32,
    },
    WaitGraph {
        graph: usize,
        progress: bool,
    },
    WaitTasks {
        graph: usize,
    },
    WaitAll,
    Results {
        graph: usize,
    },
    Down,
    /// Only once the world has healed.
    AwaitHealing,
    /// Only once all other clients are done.
    AwaitOthers,
    /// Gives things time.
    Rest {
        seconds: u64,
    },
    /// Goes away in the middle of its stream.
    Away {
        seconds: u64,
    },
}

pub(super) struct Client {
    pub plans: Vec<Plan>,
    pub steps: VecDeque<Step>,
    /// What was asked, under which number, and when.
    pub asked: Option<(u64, Step, u64)>,
    next_call: u64,
    link: Option<u64>,
    is_linking: bool,
    /// The one that takes over, by the word of the last one.
    moved: Option<Moved>,
    pub is_dead: bool,
}

impl Client {
    pub fn is_done(&self) -> bool {
        self.is_dead || (self.steps.is_empty() && self.asked.is_none())
    }
}

impl World {
    /// The operator, who scales and at the end takes the cluster down, and those who submit.
    pub fn create_clients(&mut self) {
        let operator = self.operator_steps();
        self.add_client(Vec::new(), operator);
        let clients = self.random.between(1, 3);
        for client in 1..=clients as usize {
            let mut plans: Vec<Plan> = Vec::new();
            for _ in 0..self.random.between(1, 3) {
                let size = self.random.between(3, 50) as usize;
                let plan = Plan::random(&mut self.random, client, &plans, size, self.config.commands);
                plans.push(plan);
            }
            let steps = self.submitter_steps(&mut plans);
            self.add_client(plans, steps);
        }
    }

    fn add_client(&mut self, plans: Vec<Plan>, steps: VecDeque<Step>) {
        let client = self.clients.len();
        self.clients.push(Client {
            plans,
            steps,
            asked: None,
            next_call: 1,
            link: None,
            is_linking: true,
            moved: None,
            is_dead: false,
        });
        let delay = self.random.span(10, 30_000);
        self.after(delay, Happening::ClientConnects { client });
    }

    fn client_links_soon(&mut self, client: usize) {
        if !std::mem::replace(&mut self.clients[client].is_linking, true) {
            let follows = self.clients[client].moved.is_some();
            let delay = if follows { self.random.span(1, 500) } else { self.random.span(100, 10_000) };
            self.after(delay, Happening::ClientConnects { client });
        }
    }

    pub fn client_connects(&mut self, client: usize) {
        self.clients[client].is_linking = false;
        if self.clients[client].is_done() || self.clients[client].link.is_some() {
            return;
        }
        let followed = match self.clients[client].moved.take() {
            Some(moved) => self.follow(Peer::Client(client), moved),
            None => Err(None),
        };
        let link = match followed {
            Ok(link) => Some(link),
            Err(Some(moved)) => {
                self.clients[client].moved = Some(moved);
                return self.client_links_soon(client);
            }
            Err(None) => self.open_link(Peer::Client(client), 0),
        };
        match link {
            Some(link) => {
                self.clients[client].link = Some(link);
                self.client_steps(client);
            }
            None => self.client_links_soon(client),
        }
    }

    /// The link is gone: what wasn't answered is asked again.
    pub fn client_unlinked(&mut self, client: usize) {
        let c = &mut self.clients[client];
        c.link = None;
        if let Some((_, step, _)) = c.asked.take() {
            c.steps.push_front(step);
            self.count("run", "requests repeated");
        }
        self.client_links_soon(client);
    }

    /// The client closes its link, and takes its next step over another.
    pub fn client_leaves(&mut self, client: usize) {
        if let Some(link) = self.clients[client].link {
            self.peer_closes(link);
            self.client_unlinked(client);
        }
    }

    pub fn client_steps(&mut self, client: usize) {
        let c = &self.clients[client];
        if c.is_dead {
            return;
        }
        if let Some((_, _, at)) = c.asked {
            if self.now >= at + PATIENCE {
                self.client_leaves(client);
            }
            return;
        }
        let Some(step) = c.steps.front().cloned() else { return };
        if !self.may_take(client, &step) {
            return self.after(2 * SECOND, Happening::ClientSteps { client });
        }
        if let Step::Rest { seconds } = step {
            self.clients[client].steps.pop_front();
            return self.after(seconds * SECOND, Happening::ClientSteps { client });
        }
        if let Step::Away { seconds } = step {
            self.clients[client].steps.pop_front();
            if let Some(link) = self.clients[client].link.take() {
                self.peer_closes(link);
            }
            return self.after(seconds * SECOND, Happening::ClientSteps { client });
        }
        let Some(link) = self.clients[client].link else { return self.client_links_soon(client) };
        self.clients[client].steps.pop_front();
        match self.request(client, &step) {
            Some(request) => self.ask(client, link, step, request),
            None => self.after(0, Happening::ClientSteps { client }),
        }
    }

    fn may_take(&self, client: usize, step: &Step) -> bool {
        match step {
            // What died without a word has been noticed by then, and those who submit come when the operator's
            // last word on the number of workers has taken effect.
            Step::AwaitHealing if client == 0 => self.now > self.faults.until + 60 * SECOND,
            Step::AwaitHealing => self.now > self.faults.until + 300 * SECOND,
            Step::AwaitOthers => (0..self.clients.len()).all(|c| c == client || self.clients[c].is_done()),
            _ => true,
        }
    }

    fn ask(&mut self, client: usize, link: u64, step: Step, request: Request) {
        self.note(|| format!("client {client} asks {step:?}"));
        self.count("request", super::report::variant(&format!("{step:?}")));
        let c = &mut self.clients[client];
        let call = c.next_call;
        c.next_call += 1;
        c.asked = Some((call, step, self.now));
        self.after(PATIENCE, Happening::ClientSteps { client });
        if let Ok(frame) = protocol::encode(&[FromClient { call, request }]) {
            self.send_up(link, frame);
        }
    }

    pub fn client_hears(&mut self, client: usize, frame: &[u8]) {
        match protocol::decode::<ToClient>(frame) {
            Ok(messages) => messages.into_iter().for_each(|message| self.client_told(client, message)),
            Err(error) => self.violate(format!("an answer is not understood: {error}")),
        }
    }

    fn client_told(&mut self, client: usize, message: ToClient) {
        if let Reply::Moved { addresses } = &message.reply {
            // The link breaks soon; then it is known where to go.
            self.clients[client].moved = Moved::to(addresses, self.now);
            return;
        }
        let Some((call, step, _)) = &self.clients[client].asked else { return };
        if *call != message.call || self.clients[client].is_dead {
            return;
        }
        let step = step.clone();
        if let Reply::Progress(_) = message.reply {
            return;
        }
        self.note(|| format!("client {client} is told {:?}", message.reply));
        self.clients[client].asked = None;
        self.answered(client, step, message.reply);
        let delay = self.random.span(1, 3_000);
        self.after(delay, Happening::ClientSteps { client });
    }

    /// A client goes away for good, maybe in the middle of its stream.
    pub fn client_dies(&mut self) {
        let clients: Vec<usize> = (1..self.clients.len()).filter(|c| !self.clients[*c].is_done()).collect();
        // Most stay: dead ones ask for no results.
        let Some(client) = self.random.pick(&clients).copied().filter(|_| self.random.chance(0.3)) else {
            return;
        };
        self.count_fault(Fault::ClientDied);
        self.clients[client].is_dead = true;
        if let Some(link) = self.clients[client].link.take() {
            self.peer_closes(link);
        }
    }
}
