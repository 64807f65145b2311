//! Values from other workers: one link a holder, on which whatever has piled up is asked for at once.

use super::Incoming;
use crate::graph::TaskId;
use crate::net::Transport;
use crate::net::values::ValueLink;
use crate::worker::core::Event;
use crate::worker::store::Store;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::warn;

/// A link that nobody has used for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Most values asked for in one go: the first one shouldn't wait for the last one's disk.
const MAX_AT_ONCE: usize = 256;

/// A value to get, and who else may have it.
struct Order {
    task: TaskId,
    others: Vec<Vec<String>>,
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
    pub fn fetch(&self, task: TaskId, mut from: Vec<Vec<String>>) {
        if from.is_empty() {
            let _ = self.events.send(Incoming::Core(Event::FetchFailed { task }));
            return;
        }
        let holder = from.remove(0);
        let order = Order { task, others: from };
        let mut holders = self.holders.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let refused = match holders.get(&holder) {
            Some(queue) => queue.send(order).err().map(|refused| refused.0),
            None => Some(order),
        };
        if let Some(order) = refused {
            let (queue, orders) = mpsc::unbounded_channel();
            let _ = queue.send(order);
            holders.insert(holder.clone(), queue);
            tokio::spawn(self.clone().serve(holder, orders));
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
            let tasks: Vec<TaskId> = orders.iter().map(|order| order.task).collect();
            match self.ask(&mut link, &holder, &tasks).await {
                Ok(found) => {
                    for (order, value) in orders.into_iter().zip(found) {
                        match value {
                            Some(value) => {
                                let nbytes = value.nbytes();
                                self.store.insert(order.task, value);
                                let event = Event::Fetched { task: order.task, nbytes };
                                let _ = self.events.send(Incoming::Core(event));
                            }
                            None => self.fetch(order.task, order.others),
                        }
                    }
                }
                Err(error) => {
                    warn!("values can't be fetched from {}: {error}", holder.join(", "));
                    link = None;
                    for order in orders {
                        self.fetch(order.task, order.others);
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
