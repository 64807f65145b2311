//! What a scheduler says: held back until it may leave, then one frame a peer.

use super::Plant;
use super::report::variant;
use super::world::World;
use crate::protocol::{self, Completion, FromWorker, ToClient, ToWorker};
use crate::scheduler::event::{Event, JournalSeq};
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
pub(super) enum Letter {
    Worker(ToWorker),
    Client(ToClient),
}

/// Letters by link.
pub(super) struct Letters {
    /// Records that the core knows to be durable.
    released: u64,
    held_back: BTreeMap<u64, VecDeque<(u64, Letter)>>,
    /// With the record that each waited for, 0 for none.
    ready: BTreeMap<u64, Vec<(u64, Letter)>>,
}

impl Letters {
    pub fn new(released: u64) -> Letters {
        Letters { released, held_back: BTreeMap::new(), ready: BTreeMap::new() }
    }

    pub fn post(&mut self, link: u64, letter: Letter, after: Option<JournalSeq>) {
        match after {
            Some(seq) if seq.0 > self.released => {
                self.held_back.entry(link).or_default().push_back((seq.0, letter));
            }
            _ => self.ready.entry(link).or_default().push((after.map_or(0, |seq| seq.0), letter)),
        }
    }

    /// Everything up to `seq` is on disk: what waited for it may go.
    pub fn release(&mut self, seq: u64) {
        self.released = seq;
        for (link, waiting) in &mut self.held_back {
            while let Some(letter) = waiting.pop_front_if(|(needed, _)| *needed <= seq) {
                self.ready.entry(*link).or_default().push(letter);
            }
        }
    }

    /// A planted defect: so much of what waited goes to clients.
    pub fn release_to_clients(&mut self, seq: u64) {
        for (link, waiting) in &mut self.held_back {
            while let Some(letter) =
                waiting.pop_front_if(|(needed, letter)| *needed <= seq && matches!(letter, Letter::Client(_)))
            {
                self.ready.entry(*link).or_default().push(letter);
            }
        }
    }

    pub fn released(&self) -> u64 {
        self.released
    }

    /// The link is closed: what waits goes nowhere.
    pub fn drop_held_back(&mut self, link: u64) {
        self.held_back.remove(&link);
    }
}

impl World {
    /// One frame a peer, of all that may leave: if this scheduler's clock still allows it to speak.
    pub fn flush_server(&mut self, life: u32) {
        if self.must_be_silent(life) {
            return self.falls_silent(life);
        }
        let Some(server) = self.servers.get_mut(&life) else { return };
        for (link, letters) in std::mem::take(&mut server.letters.ready) {
            let (mut to_worker, mut to_client) = (Vec::new(), Vec::new());
            for (needed, letter) in letters {
                self.judge_rest(life, needed, &letter);
                match letter {
                    Letter::Worker(message) => to_worker.push(message),
                    Letter::Client(message) => to_client.push(message),
                }
            }
            for message in &to_worker {
                self.count("to worker", variant(&format!("{message:?}")));
                self.judge_speaker(life, message);
                self.judge_free(life, message);
                self.judge_compute(message);
            }
            for message in &to_client {
                self.count("to client", variant(&format!("{:?}", message.reply)));
            }
            let frames = [
                protocol::encode(&to_worker).ok().filter(|_| !to_worker.is_empty()),
                protocol::encode(&to_client).ok().filter(|_| !to_client.is_empty()),
            ];
            frames.into_iter().flatten().for_each(|frame| self.send_down(link, frame));
        }
    }

    /// A planted defect: every completion passes for one of the current attempt, from the worker that has it.
    pub fn plant_stale_attempts(&mut self, life: u32, message: &FromWorker) {
        let (Some(Plant::TakeStaleAttempt), Some(server)) = (self.config.plant, self.servers.get(&life))
        else {
            return;
        };
        let completions = match message {
            FromWorker::Finished(completions) => completions,
            FromWorker::Register(registration) => &registration.completions,
            _ => return,
        };
        let forge = |completion: &Completion| {
            let task = completion.execution.task;
            let (peer, execution) = (server.core.assigned_peer(task)?, server.core.current_execution(task)?);
            let forged = FromWorker::Finished(vec![Completion { execution, ..completion.clone() }]);
            (execution != completion.execution).then_some((peer, forged))
        };
        let forged: Vec<_> = completions.iter().filter_map(forge).collect();
        for (peer, message) in forged {
            self.server_takes(life, None, Event::FromWorker { peer, message });
        }
    }
}
