//! How a scheduler ends: with its cluster, or so that another one can go on at once.

use super::launcher::Command;
use super::{Incoming, Shell};
use crate::protocol::{Reply, ToClient};
use crate::scheduler::event::Event;
use crate::scheduler::relay::{SUCCESSOR, Successor};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

/// For the last cancels at the end of a cluster.
const FINISH_TIMEOUT: Duration = Duration::from_secs(60);
/// For the last records and a batch command that is under way, when another scheduler waits to go on.
const LET_GO_TIMEOUT: Duration = Duration::from_secs(20);
/// Writers end once their queues are empty; a link that is stuck must not hold the process.
const LAST_WORDS: Duration = Duration::from_millis(200);

impl Shell {
    /// The cluster is over: waits for the last records to be durable, the last answers to be written and the last
    /// cancels to be done.
    pub(super) async fn finish(&mut self, incoming: &mut mpsc::Receiver<Incoming>) {
        if self.relay.awaited {
            self.command(Command::Cancel(vec![SUCCESSOR]));
        }
        self.write_out(incoming, FINISH_TIMEOUT).await;
        self.close_links().await;
    }

    /// Another scheduler is to go on from here: nothing new is taken, what was taken is made durable, the lease is
    /// given up, and who comes next is named to everybody.
    pub(super) async fn let_go(
        &mut self,
        incoming: &mut mpsc::Receiver<Incoming>,
        successor: Option<Successor>,
    ) {
        self.accepting.abort();
        self.write_out(incoming, LET_GO_TIMEOUT).await;
        // What was held back for its record has had it; from here on nothing is promised any more.
        drop(self.lease.take());
        if let Some(Successor { peer, call, addresses }) = successor {
            info!("the scheduler at {} goes on", addresses.join(" "));
            self.peers.tell_all_moved(&addresses);
            self.peers.tell_client(peer, ToClient { call, reply: Reply::Relieved }, None);
        }
        self.close_links().await;
    }

    async fn write_out(&mut self, incoming: &mut mpsc::Receiver<Incoming>, timeout: Duration) {
        let (done, mut finished) = oneshot::channel();
        let mut done = Some(done);
        let until = tokio::time::Instant::now() + timeout;
        let mut launcher_done = false;
        while !launcher_done || self.journal.backlog_bytes() > 0 {
            // What still waits for its record is for the launcher too: it may end after that.
            if self.waiting.is_empty()
                && let Some(done) = done.take()
            {
                self.command(Command::Finish(done));
            }
            tokio::select! {
                _ = &mut finished, if !launcher_done => launcher_done = true,
                event = incoming.recv() => match event {
                    Some(Incoming::Core(Event::Durable(seq))) => self.on_durable(seq),
                    Some(Incoming::Fatal(reason)) => return error!("{reason}"),
                    Some(_) => {}
                    None => return,
                },
                () = tokio::time::sleep_until(until) => {
                    error!("the batch system or the disk has taken more than {} s", timeout.as_secs());
                    break;
                }
            }
        }
        while let Ok(event) = incoming.try_recv() {
            if let Incoming::Core(Event::Durable(seq)) = event {
                self.peers.durable(seq);
            }
        }
        self.flush();
    }

    async fn close_links(&mut self) {
        self.flush();
        for peer in self.peers.ids() {
            self.peers.remove(peer);
        }
        tokio::time::sleep(LAST_WORDS).await;
    }
}
