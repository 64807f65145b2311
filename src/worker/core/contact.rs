//! Touch with schedulers: how long this worker's commands are surely its own, and when it gives up waiting.

use super::{Action, Core, FromWorker, Nanos};
use crate::graph::Op;
use crate::protocol::{Epoch, Outcome};
use std::collections::VecDeque;
use std::time::Duration;

/// What a worker knows of schedulers, in instants of its own clock.
pub(super) struct Contact {
    /// When the registration or the heartbeats were sent that aren't answered yet; answers come in this order.
    unanswered: VecDeque<Nanos>,
    /// When the last message was sent that a scheduler has answered. When its answer came says less: it may have been
    /// long on its way.
    answered: Nanos,
    /// The last instant at which surely no scheduler had given this worker up.
    proven: Nanos,
    /// The last instant at which there was something to do.
    busy: Nanos,
    ever_welcomed: bool,
    /// When it was first heard that the cluster was brought down.
    down_since: Option<Nanos>,
}

impl Contact {
    pub fn new(now: Nanos) -> Contact {
        Contact {
            unanswered: VecDeque::new(),
            answered: now,
            proven: now,
            busy: now,
            ever_welcomed: false,
            down_since: None,
        }
    }

    /// A new link: what was asked over the old one is answered no more.
    pub fn begin(&mut self, now: Nanos) {
        self.unanswered = VecDeque::from([now]);
    }

    pub fn ask(&mut self, now: Nanos) {
        self.unanswered.push_back(now);
    }

    pub fn welcome(&mut self) {
        (self.ever_welcomed, self.down_since) = (true, None);
        self.answer();
    }

    pub fn answer(&mut self) {
        if let Some(asked) = self.unanswered.pop_front() {
            self.answered = self.answered.max(asked);
            self.prove(asked);
        }
    }

    /// There is no contact file any more.
    pub fn end(&mut self, now: Nanos) {
        self.down_since.get_or_insert(now);
    }

    /// Nobody could have given this worker up by then.
    pub fn prove(&mut self, at: Nanos) {
        self.proven = self.proven.max(at);
    }
}

impl Core {
    /// When the last message was sent that a scheduler has answered.
    pub fn last_answer(&self) -> Nanos {
        self.contact.answered
    }

    /// Of the scheduler that welcomed this worker last.
    pub fn epoch(&self) -> Option<Epoch> {
        self.contact.ever_welcomed.then_some(self.epoch)
    }

    /// The first instant at which a scheduler may have given this worker's commands to others.
    fn death(&self) -> Nanos {
        self.contact.proven + span(self.config.death_timeout)
    }

    pub(super) fn contact_deadline(&self) -> Option<Nanos> {
        let death = self.tasks.values().any(|task| task.is_command() && !task.is_ending());
        [death.then(|| self.death()), self.patience_ends()].into_iter().flatten().min()
    }

    /// When this worker leaves if no scheduler comes: one that never had any, or whose cluster was brought down, soon; one that has nothing to do and
    /// holds nothing that only it may have, after its idle timeout. Others stay as long as their job does.
    fn patience_ends(&self) -> Option<Nanos> {
        if let Some(since) = self.contact.down_since {
            return Some(since + span(self.config.death_timeout));
        }
        if !self.contact.ever_welcomed {
            return Some(self.contact.answered + span(self.config.death_timeout));
        }
        let is_idle = self.tasks.is_empty() && self.held.values().all(|held| !held.made_here);
        is_idle.then(|| self.contact.answered.max(self.contact.busy) + span(self.config.idle_timeout))
    }

    pub(super) fn watch_contact(&mut self, out: &mut Vec<Action>) {
        if self.exited {
            return;
        }
        if !self.tasks.is_empty() {
            self.contact.busy = self.now;
        }
        if self.now >= self.death() {
            self.stop_commands(out);
        }
        if self.patience_ends().is_some_and(|end| self.now >= end) {
            self.kill_everything(out);
            let waited = Duration::from_nanos(self.now - self.contact.answered).as_secs();
            // For good: another life of this worker would find as little.
            self.exit(format!("no scheduler for {waited} s"), out);
        }
    }

    /// Another worker may be told to run them: here they end.
    fn stop_commands(&mut self, out: &mut Vec<Action>) {
        let commands = self.tasks.iter().filter(|(_, task)| task.is_command() && !task.is_ending());
        let commands: Vec<_> = commands.map(|(execution, task)| (*execution, task.running)).collect();
        for (execution, running) in commands {
            if running {
                if let Some(task) = self.tasks.get_mut(&execution) {
                    task.stopped = true;
                }
                out.push(Action::Kill(execution));
            } else {
                self.drop_task(execution);
                self.complete(execution, 0, Outcome::Stopped);
            }
        }
    }

    /// What was finished and no scheduler has acknowledged is left for the next one to find. Values go with this
    /// process, so that they were made interests nobody.
    pub(super) fn leave_behind(&self, out: &mut Vec<Action>) {
        let counts = |outcome: &Outcome| matches!(outcome, Outcome::Command { .. } | Outcome::Erred { .. });
        let left: Vec<_> =
            self.unacknowledged.values().filter(|done| counts(&done.outcome)).cloned().collect();
        if !left.is_empty() {
            out.push(Action::LeaveBehind(left));
        }
    }

    pub(super) fn beat(&mut self, out: &mut Vec<Action>) {
        self.next_heartbeat = self.now + span(self.heartbeat);
        self.contact.ask(self.now);
        out.push(Action::Heartbeat { running: self.running() });
    }

    pub(super) fn say_goodbye(&mut self, reason: String, out: &mut Vec<Action>) {
        out.push(Action::Send(FromWorker::Goodbye { reason: reason.clone() }));
        self.exit(reason, out);
    }
}

impl super::Task {
    fn is_command(&self) -> bool {
        matches!(*self.op, Op::Command(_))
    }

    /// It is being killed.
    fn is_ending(&self) -> bool {
        self.cancelled || self.stopped
    }
}

/// A span on the core's clock.
pub(super) fn span(of: Duration) -> Nanos {
    u64::try_from(of.as_nanos()).unwrap_or(u64::MAX / 2)
}
