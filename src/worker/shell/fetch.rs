//! Values from other workers: one link a holder, on which whatever has piled up is asked for at once.

use super::Incoming;
use crate::graph::TaskId;
use crate::net::Transport;
use crate::net::values::ValueLink;
use crate::protocol::MissingInput;
use crate::worker::core::{Event, Holder};
use crate::worker::store::Store;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::warn;

/// A link that nobody has used for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Most values asked for in one go: the first one shouldn't wait for the last one's disk.
const MAX_AT_ONCE: usize = 256;

/// A value to get, of whom it was asked in vain, and who else may have it.
struct Order {
    missing: MissingInput,
    holder: Holder,
    others: VecDeque<Holder>,
}

#[derive(Clone)]
pub(super) struct Fetcher {
    transport: Transport,
    store: Arc<Store>,
    events: mpsc::UnboundedSender<Incoming>,
    holders: Arc<std::sync::Mutex<HashMap<Vec<String>, mpsc::UnboundedSender<Order>>>>,
}

impl Fetcher {
    pub fn new(transport: Transport, store: Arc<Store>, events: mpsc::UnboundedSender<Incoming>) -> Fetcher {
        Fetcher { transport, store, events, holders: Arc::default() }
    }

    /// Gets a value from the first of these that gives it; the core hears of it either way.
    pub fn fetch(&self, task: TaskId, from: Vec<Holder>) {
        self.ask_next(MissingInput::new(task), from.into());
    }

    fn ask_next(&self, missing: MissingInput, mut others: VecDeque<Holder>) {
        let Some(holder) = others.pop_front() else {
            let _ = self.events.send(Incoming::Core(Event::FetchFailed(missing)));
            return;
        };
        let order = Order { missing, holder, others };
        let addresses = order.holder.addresses.clone();
        let mut holders = self.holders.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let refused = match holders.get(&addresses) {
            Some(queue) => queue.send(order).err().map(|refused| refused.0),
            None => Some(order),
        };
        if let Some(order) = refused {
            let (queue, orders) = mpsc::unbounded_channel();
            let _ = queue.send(order);
            holders.insert(addresses.clone(), queue);
            tokio::spawn(self.clone().serve(addresses, orders));
        }
    }

    async fn serve(self, holder: Vec<String>, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut link = None;
        let mut batch = Vec::new();
        loop {
            let taken = tokio::time::timeout(IDLE, orders.recv_many(&mut batch, MAX_AT_ONCE)).await;
            if !matches!(taken, Ok(1..)) {
                orders.close();
                if orders.is_empty() {
                    return;
                }
                continue;
            }
            let orders: Vec<Order> = std::mem::take(&mut batch);
            let tasks: Vec<TaskId> = orders.iter().map(|order| order.missing.task).collect();
            match self.ask(&mut link, &holder, &tasks).await {
                Ok(found) => {
                    for (mut order, value) in orders.into_iter().zip(found) {
                        let task = order.missing.task;
                        match value {
                            Some(value) => {
                                let nbytes = value.nbytes();
                                self.store.insert(task, value);
                                let _ = self.events.send(Incoming::Core(Event::Fetched { task, nbytes }));
                            }
                            None => {
                                order.missing.denied.push(order.holder.index);
                                self.ask_next(order.missing, order.others);
                            }
                        }
                    }
                }
                Err(error) => {
                    warn!("values can't be fetched from {}: {error}", holder.join(", "));
                    link = None;
                    for mut order in orders {
                        order.missing.unreachable.push(order.holder.index);
                        self.ask_next(order.missing, order.others);
                    }
                }
            }
        }
    }

    async fn ask(
        &self,
        link: &mut Option<ValueLink>,
        holder: &[String],
        tasks: &[TaskId],
    ) -> Result<Vec<Option<crate::graph::Value>>, crate::net::values::ValueError> {
        // A link that was idle may have been closed by the other side: that is no reason to give up.
        if let Some(open) = link
            && let Ok(found) = open.get(tasks).await
        {
            return Ok(found);
        }
        let open = link.insert(ValueLink::connect(&self.transport, holder).await?);
        open.get(tasks).await
    }
}
