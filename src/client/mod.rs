//! A client of a cluster: it finds the scheduler by the contact file, asks, and gathers values from workers. Where its
//! scheduler dies, it goes on with the next one.

mod follow;

pub use follow::{Revival, Revive};

use crate::graph::{Columns, Graph, Key, TaskId, Value};
use crate::net::values::{self, ValueLink};
use crate::net::{ConnectError, Frame, LinkError, Reader, Transport, Writer};
use crate::protocol::{
    self, Counts, Failure, FromClient, GraphOptions, NO_CALL, PeerKind, RefusalKind, Reply, Request,
    RequestId, StoredValue, TaskReport, TaskStateName, ToClient,
};
use crate::state::{Grant, Role, StateDir, StateError};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// For connecting to the scheduler.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For an answer that the scheduler gives without waiting for anything but its disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Whoever waits for tasks asks this often whether the scheduler is still there, if it has said nothing meanwhile.
const PING_AFTER: Duration = Duration::from_secs(30);
/// Between two tries to get a value from somebody.
const VALUE_WAIT: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no contact file: the cluster was never up, or was brought down.
    #[error("cluster '{name}' is not up")]
    NotUp { name: String },
    #[error("the scheduler of cluster '{name}' on {host} can't be reached: {source}")]
    Unreachable { name: String, host: String, source: ConnectError },
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the link to the scheduler broke: {0}")]
    Link(#[from] LinkError),
    #[error("the scheduler is not understood: {0}")]
    Answer(String),
    /// Graph numbers mean others now.
    #[error(
        "cluster '{name}' has begun another life since (it was brought down, or replaced): what it was asked for is gone"
    )]
    AnotherLife { name: String },
    /// Its scheduler died, and no other can take over.
    #[error("the scheduler of cluster '{name}' is dead, and can't be started again: {reason}")]
    NotRevived { name: String, reason: String },
    #[error("the scheduler of cluster '{name}' doesn't answer (nothing came for {} s)", ANSWER_TIMEOUT.as_secs())]
    Silent { name: String },
    #[error("{reason}")]
    Refused { kind: RefusalKind, reason: String },
    #[error("{task}: {message}")]
    TaskFailed { task: String, message: String },
    #[error("no randomness: {0}")]
    Random(String),
}

struct Link {
    reader: Reader,
    writer: Writer,
}

/// What a client knows a cluster by.
#[derive(Clone, Debug)]
pub enum Home {
    /// Its folder: the owner's.
    State(StateDir),
    /// A grant, which tells where to look for the scheduler.
    Grant(Box<Grant>),
}

impl Home {
    fn name(&self) -> &str {
        match self {
            Home::State(state) => state.name(),
            Home::Grant(grant) => &grant.cluster,
        }
    }
}

/// A connection to a cluster's scheduler. One request at a time.
pub struct Client {
    home: Home,
    transport: Transport,
    link: Link,
    /// Of the cluster that was first connected to: in another life, it doesn't know our graphs.
    life: String,
    /// Who starts another scheduler where this one has died.
    reviver: Option<Arc<dyn Revive>>,
    /// Where the last scheduler said that the next one is.
    moved: Vec<String>,
    next_call: u64,
    /// Whether a scheduler ever said anything.
    answered: bool,
}

/// A graph that was submitted, or is being.
pub struct Submission {
    request: RequestId,
    options: GraphOptions,
    part: u32,
    pub graph: Option<crate::graph::GraphId>,
    pub tasks: u64,
}

impl Submission {
    /// # Errors
    /// The system gives no random numbers.
    pub fn new(options: GraphOptions) -> Result<Submission, ClientError> {
        Ok(Submission { request: random_request()?, options, part: 0, graph: None, tasks: 0 })
    }
}

/// # Errors
/// The system gives no random numbers.
pub fn random_request() -> Result<RequestId, ClientError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| ClientError::Random(error.to_string()))?;
    Ok(RequestId(u128::from_le_bytes(bytes)))
}

impl Client {
    /// Connects to the scheduler that the contact file names.
    ///
    /// # Errors
    /// There is none, or it doesn't answer.
    pub async fn connect(state: StateDir, transport: Transport) -> Result<Client, ClientError> {
        Client::connect_to(Home::State(state), transport).await
    }

    /// The same, by whatever the cluster is known.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_to(home: Home, transport: Transport) -> Result<Client, ClientError> {
        let (link, life) = open(&home, &transport).await?;
        Ok(Client {
            home,
            transport,
            link,
            life,
            reviver: None,
            moved: Vec::new(),
            next_call: NO_CALL,
            answered: false,
        })
    }

    /// The same, and from now on a scheduler that dies is started again.
    #[must_use]
    pub fn reviving(self, reviver: Arc<dyn Revive>) -> Client {
        Client { reviver: Some(reviver), ..self }
    }

    /// Asks, and returns the answer. A link that breaks is made anew, also to a later scheduler of the cluster, and the
    /// request repeated: changing requests carry an id, so that a repeat changes nothing.
    ///
    /// # Errors
    /// The scheduler refuses, or can't be reached any more.
    pub async fn call(&mut self, request: Request) -> Result<Reply, ClientError> {
        self.call_with_progress(request, |_| ()).await
    }

    async fn once(
        &mut self,
        request: &Request,
        progress: &mut impl FnMut(&Counts),
    ) -> Result<Reply, ClientError> {
        self.next_call += 1;
        let call = self.next_call;
        let message = FromClient { call, request: request.clone() };
        let header = protocol::encode(&[message]).map_err(|error| ClientError::Answer(error.to_string()))?;
        self.link.writer.send_all(&[Frame::new(header)]).await?;
        loop {
            let frame = self.next_frame(request).await?;
            let messages: Vec<ToClient> =
                protocol::decode(&frame.header).map_err(|error| ClientError::Answer(error.to_string()))?;
            self.answered = true;
            for message in messages.into_iter().filter(|message| [call, NO_CALL].contains(&message.call)) {
                match message.reply {
                    Reply::Progress(counts) => progress(&counts),
                    // The link breaks soon; then it is known where to go.
                    Reply::Moved { addresses } => self.moved = addresses,
                    reply => return Ok(reply),
                }
            }
        }
    }

    async fn next_frame(&mut self, request: &Request) -> Result<Frame, ClientError> {
        let silent = |_| ClientError::Silent { name: self.home.name().to_owned() };
        // These take as long as tasks take.
        if !is_patient(request) {
            let next = tokio::time::timeout(ANSWER_TIMEOUT, self.link.reader.next()).await;
            return Ok(next.map_err(silent)??.ok_or(LinkError::CutShort)?);
        }
        if let Ok(next) = tokio::time::timeout(PING_AFTER, self.link.reader.next()).await {
            return Ok(next?.ok_or(LinkError::CutShort)?);
        }
        // Its host may have died without a word. What answers has another number, and nobody waits for that.
        self.next_call += 1;
        let ping = FromClient { call: self.next_call, request: Request::Resolve(Vec::new()) };
        let header = protocol::encode(&[ping]).map_err(|error| ClientError::Answer(error.to_string()))?;
        self.link.writer.send_all(&[Frame::new(header)]).await?;
        let next = tokio::time::timeout(ANSWER_TIMEOUT, self.link.reader.next()).await;
        Ok(next.map_err(silent)??.ok_or(LinkError::CutShort)?)
    }

    /// Submits the next part of a graph; returns once it is durable.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn submit_part(
        &mut self,
        submission: &mut Submission,
        columns: Columns,
        last: bool,
    ) -> Result<(), ClientError> {
        let request = Request::Submit {
            request: submission.request,
            part: submission.part,
            last,
            columns: Box::new(columns),
            options: submission.options.clone(),
        };
        match self.call(request).await? {
            Reply::Submitted { graph, tasks, .. } => {
                submission.part += 1;
                submission.graph = Some(graph);
                submission.tasks += u64::from(tasks);
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Submits a whole graph; returns its number once it is durable.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn submit(
        &mut self,
        graph: Graph,
        options: GraphOptions,
    ) -> Result<crate::graph::GraphId, ClientError> {
        let mut submission = Submission::new(options)?;
        let parts = graph.into_parts();
        let last = parts.len().saturating_sub(1);
        for (number, part) in parts.into_iter().enumerate() {
            self.submit_part(&mut submission, part, number == last).await?;
        }
        submission.graph.ok_or_else(|| ClientError::Answer("a graph without a number".into()))
    }

    /// Waits until everything that the keys name is settled (no keys: everything there is).
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn wait(
        &mut self,
        keys: Vec<Key>,
        progress: Option<&mut dyn FnMut(&Counts)>,
    ) -> Result<(Counts, Vec<Failure>), ClientError> {
        let request = Request::Wait { keys, progress: progress.is_some() };
        let reply = match progress {
            Some(progress) => self.call_with_progress(request, |counts| progress(counts)).await?,
            None => self.call(request).await?,
        };
        match reply {
            Reply::Settled { counts, failures } => Ok((counts, failures)),
            other => Err(unexpected(&other)),
        }
    }

    /// State, error and result of tasks.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn results(&mut self, keys: Vec<Key>) -> Result<Vec<TaskReport>, ClientError> {
        match self.call(Request::Results(keys)).await? {
            Reply::Results(reports) => Ok(reports),
            other => Err(unexpected(&other)),
        }
    }

    /// The values of tasks, from the scheduler where it has them, else from the workers that hold them. Waits for
    /// those that have to be made again because their holder was lost.
    ///
    /// # Errors
    /// A task failed, or its value can't be had.
    pub async fn gather(&mut self, tasks: &[TaskId]) -> Result<Vec<Value>, ClientError> {
        let mut values = Vec::with_capacity(tasks.len());
        for task in tasks {
            values.push(self.gather_one(*task).await?);
        }
        Ok(values)
    }

    async fn gather_one(&mut self, task: TaskId) -> Result<Value, ClientError> {
        loop {
            self.wait(vec![Key::Task(task)], None).await?;
            let report = self.results(vec![Key::Task(task)]).await?.into_iter().next();
            let report = report.ok_or_else(|| ClientError::Answer(format!("nothing about {task}")))?;
            if report.state != TaskStateName::Memory {
                let message = report.error.map_or_else(|| "cancelled".to_owned(), |error| error.message);
                return Err(ClientError::TaskFailed { task: task.to_string(), message });
            }
            if let Some(stored) = report.stored {
                return Ok(value_of(*stored));
            }
            if report.holders.is_empty() {
                let message = "its value was released: nobody had asked to keep it".to_owned();
                return Err(ClientError::TaskFailed { task: task.to_string(), message });
            }
            for addresses in &report.holders {
                let Ok(mut link) = ValueLink::connect(&self.transport, addresses).await else { continue };
                if let Ok([Some(value)]) = link.get(&[task]).await.as_deref() {
                    return Ok(value.clone());
                }
            }
            // Its holders are gone; the scheduler will notice, and have it made again.
            tokio::time::sleep(VALUE_WAIT).await;
        }
    }
}

/// The value that the scheduler had itself.
pub fn value_of(stored: StoredValue) -> Value {
    let buffers = stored.buffers.into_iter().map(|buffer| Bytes::from(buffer.into_vec())).collect();
    Value { header: stored.header.into(), buffers }
}

fn is_patient(request: &Request) -> bool {
    matches!(request, Request::Wait { .. } | Request::Down { .. })
}

/// A link to the scheduler that the contact file or the grant names, and which life of the cluster that is (a grant knows
/// none).
async fn open(home: &Home, transport: &Transport) -> Result<(Link, String), ClientError> {
    let (addresses, host, life) = match home {
        Home::State(state) => {
            let not_up = || ClientError::NotUp { name: state.name().to_owned() };
            let contact = state.read_contact()?.ok_or_else(not_up)?;
            (contact.addresses, contact.host, contact.life)
        }
        Home::Grant(grant) => {
            let addresses = grant.whereabouts();
            let first = addresses.first().and_then(|a| a.rsplit_once(':')).map(|(host, _)| host);
            let host = first.unwrap_or_default().to_owned();
            (addresses, host, String::new())
        }
    };
    Ok((open_at(home, transport, &addresses, host).await?, life))
}

async fn open_at(
    home: &Home,
    transport: &Transport,
    addresses: &[String],
    host: String,
) -> Result<Link, ClientError> {
    let link = transport.connect(addresses, Role::Scheduler, CONNECT_TIMEOUT).await;
    let unreachable = |source| ClientError::Unreachable { name: home.name().to_owned(), host, source };
    let (reader, mut writer) = link.map_err(unreachable)?.split();
    writer.send_all(&[values::hello(PeerKind::Client)]).await?;
    Ok(Link { reader, writer })
}

/// The error for an answer that doesn't belong to the request.
pub fn unexpected(reply: &Reply) -> ClientError {
    let text = format!("{reply:?}");
    ClientError::Answer(text.chars().take(100).collect())
}
