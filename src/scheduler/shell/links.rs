//! Links of the scheduler: a task that accepts, one that reads and one that writes for each peer.

use super::Incoming;
use super::desk::Desk;
use crate::net::accept::HANDSHAKE_TIMEOUT;
use crate::net::{self, Frame, Limits, Link, Listener, Place, Transport};
use crate::protocol::{
    self, FromClient, FromWorker, Hello, NO_CALL, PeerKind, RefusalKind, Reply, ToClient, ToWorker, VERSION,
};
use crate::scheduler::event::{JournalSeq, PeerId};
use crate::state::{Role, StateDir, grant};
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tracing::{info, warn};

/// Frames that wait to be written to one peer: more, and it doesn't read.
const MAX_WAITING_FRAMES: usize = 100_000;

/// What goes to a peer, in order. Messages of one kind that are sent together are one frame.
enum Letter {
    Worker(ToWorker),
    Client(ToClient),
}

struct Peer {
    kind: PeerKind,
    frames: mpsc::Sender<Frame>,
    /// Not before these records are durable, in the order of sending.
    held_back: VecDeque<(JournalSeq, Letter)>,
    ready: Vec<Letter>,
}

/// The writing side of all links, used by the main loop only.
pub(super) struct Peers {
    peers: HashMap<PeerId, Peer>,
    durable: JournalSeq,
}

impl Peers {
    /// `durable`: the last record that is on disk already, such as the one that begins this epoch's journal.
    pub fn new(durable: JournalSeq) -> Peers {
        Peers { peers: HashMap::new(), durable }
    }

    pub fn add(&mut self, id: PeerId, kind: PeerKind, frames: mpsc::Sender<Frame>) {
        self.peers.insert(id, Peer { kind, frames, held_back: VecDeque::new(), ready: Vec::new() });
    }

    /// Names another scheduler to everybody. What still waits for its record isn't said any more.
    pub fn tell_all_moved(&mut self, addresses: &[String]) {
        for peer in self.peers.values_mut() {
            let addresses = addresses.to_vec();
            peer.held_back.clear();
            match peer.kind {
                PeerKind::Client => {
                    let reply = Reply::Moved { addresses };
                    peer.ready.push(Letter::Client(ToClient { call: NO_CALL, reply }));
                }
                PeerKind::Worker => peer.ready.push(Letter::Worker(ToWorker::Moved { addresses })),
                // It has said what it had to say.
                PeerKind::Supervisor => {}
            }
        }
    }

    /// Forgets the peer: its writer ends once it has written what was flushed.
    pub fn remove(&mut self, id: PeerId) {
        self.peers.remove(&id);
    }

    pub fn contains(&self, id: PeerId) -> bool {
        self.peers.contains_key(&id)
    }

    pub fn tell_worker(&mut self, id: PeerId, message: ToWorker, after: Option<JournalSeq>) {
        self.queue(id, Letter::Worker(message), after);
    }

    pub fn tell_client(&mut self, id: PeerId, message: ToClient, after: Option<JournalSeq>) {
        self.queue(id, Letter::Client(message), after);
    }

    fn queue(&mut self, id: PeerId, letter: Letter, after: Option<JournalSeq>) {
        let durable = self.durable;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match after {
            Some(seq) if seq > durable => peer.held_back.push_back((seq, letter)),
            _ => peer.ready.push(letter),
        }
    }

    pub fn durable_so_far(&self) -> JournalSeq {
        self.durable
    }

    /// Everything up to `seq` is on disk: what waited for it may go.
    pub fn durable(&mut self, seq: JournalSeq) {
        self.durable = seq;
        for peer in self.peers.values_mut() {
            while let Some((needed, _)) = peer.held_back.front()
                && *needed <= seq
                && let Some((_, letter)) = peer.held_back.pop_front()
            {
                peer.ready.push(letter);
            }
        }
    }

    /// Hands what is ready to the writers, one frame a peer. Returns peers that don't take any more.
    pub fn flush(&mut self) -> Vec<PeerId> {
        let mut stuck = Vec::new();
        for (id, peer) in &mut self.peers {
            if peer.ready.is_empty() {
                continue;
            }
            let letters = std::mem::take(&mut peer.ready);
            for frame in frames(letters) {
                if peer.frames.try_send(frame).is_err() {
                    stuck.push(*id);
                    break;
                }
            }
        }
        stuck
    }

    pub fn ids(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }
}

fn frames(letters: Vec<Letter>) -> Vec<Frame> {
    let (mut to_worker, mut to_client) = (Vec::new(), Vec::new());
    for letter in letters {
        match letter {
            Letter::Worker(message) => to_worker.push(message),
            Letter::Client(message) => to_client.push(message),
        }
    }
    let mut frames = Vec::new();
    encode_into(&to_worker, &mut frames);
    encode_into(&to_client, &mut frames);
    frames
}

pub(super) fn frame<T: Serialize>(messages: &[T]) -> Option<Frame> {
    let mut frames = Vec::new();
    encode_into(messages, &mut frames);
    frames.pop()
}

fn encode_into<T: Serialize>(messages: &[T], frames: &mut Vec<Frame>) {
    match protocol::encode_split(messages) {
        Ok(headers) => frames.extend(headers.into_iter().map(Frame::new)),
        Err(error) => warn!("a message could not be encoded: {error}"),
    }
}

/// Accepts links for as long as the main loop listens.
pub(super) async fn accept_all(
    listener: Listener,
    transport: Transport,
    state: StateDir,
    events: mpsc::Sender<Incoming>,
) {
    let (state, last) = (Arc::new(state), Arc::new(AtomicU64::new(0)));
    let serve = move |link, place| {
        let (events, state, last) = (events.clone(), state.clone(), last.clone());
        async move {
            let greeted = tokio::time::timeout(HANDSHAKE_TIMEOUT, greet(link, &state)).await;
            let (link, kind) = greeted.map_err(|_| "no hello in time".to_owned())??;
            let id = PeerId(last.fetch_add(1, Ordering::Relaxed) + 1);
            serve(id, link, kind, events, state, place).await;
            Ok(())
        }
    };
    net::accept_all(listener, transport, serve).await;
}

/// A link whose first frame has come.
struct Greeted {
    reader: crate::net::Reader,
    writer: crate::net::Writer,
    /// The certificate of a granted reader.
    grant: Option<Vec<u8>>,
}

async fn greet(link: Link, state: &StateDir) -> Result<(Greeted, PeerKind), String> {
    let (role, grant) = (link.peer().role, link.peer().grant.clone());
    let (mut reader, mut writer) = link.split();
    let frame = reader.next().await.map_err(|error| error.to_string())?.ok_or("closed before its hello")?;
    let hello: Vec<Hello> = protocol::decode(&frame.header).map_err(|error| format!("no hello: {error}"))?;
    let [hello] = hello.as_slice() else { return Err("no hello".into()) };
    let admitted = admit(hello, role).and_then(|()| check_grant(state, grant.as_deref()));
    if let Err((kind, reason)) = admitted {
        if hello.kind == PeerKind::Client {
            tell_why(&mut reader, &mut writer, kind, &reason).await;
        }
        return Err(reason);
    }
    reader.set_limits(Limits::AUTHENTICATED);
    Ok((Greeted { reader, writer, grant }, hello.kind))
}

/// Whether whoever says this may be what it says.
fn admit(hello: &Hello, role: Option<Role>) -> Result<(), (RefusalKind, String)> {
    if hello.version != VERSION {
        let reason = format!(
            "this program speaks version {} of the protocol, the scheduler version {VERSION}: use the same jobq",
            hello.version
        );
        return Err((RefusalKind::Unavailable, reason));
    }
    let allowed: &[Role] = match hello.kind {
        PeerKind::Client => &[Role::Admin, Role::ReadOnly],
        PeerKind::Worker | PeerKind::Supervisor => &[Role::Worker, Role::Admin],
    };
    // Without TLS there are no roles.
    if role.is_none_or(|role| allowed.contains(&role)) {
        return Ok(());
    }
    let reason = format!("its certificate doesn't allow it to be a {:?}", hello.kind).to_lowercase();
    Err((RefusalKind::Permission, reason))
}

/// Whether a reader's grant still counts.
fn check_grant(state: &StateDir, grant: Option<&[u8]>) -> Result<(), (RefusalKind, String)> {
    if grant.is_none_or(|certificate| grant::counts(state, certificate)) {
        return Ok(());
    }
    Err((RefusalKind::Permission, "its grant was revoked".to_owned()))
}

/// Tells a client why its link is closed, and waits a moment for it to read that.
async fn tell_why(
    reader: &mut crate::net::Reader,
    writer: &mut crate::net::Writer,
    kind: RefusalKind,
    reason: &str,
) {
    let reply = Reply::Refused { kind, reason: format!("the scheduler refuses this client: {reason}") };
    let Some(frame) = frame(&[ToClient { call: NO_CALL, reply }]) else { return };
    if writer.send_all(&[frame]).await.is_ok() && writer.close().await.is_ok() {
        // What it has sent must be read first, else the system throws our words away with it.
        while let Ok(Ok(Some(_))) = tokio::time::timeout(HANDSHAKE_TIMEOUT, reader.next()).await {}
    }
}

async fn serve(
    id: PeerId,
    link: Greeted,
    kind: PeerKind,
    events: mpsc::Sender<Incoming>,
    state: Arc<StateDir>,
    _place: Place,
) {
    let Greeted { mut reader, mut writer, grant } = link;
    let (frames, mut outgoing) = mpsc::channel::<Frame>(MAX_WAITING_FRAMES);
    // Weak: it must not keep the link when the main loop lets go of it.
    let desk = Desk { state, grant, frames: frames.downgrade() };
    if events.send(Incoming::Connected { peer: id, kind, frames }).await.is_err() {
        return;
    }
    let write = async {
        let mut batch = Vec::new();
        while outgoing.recv_many(&mut batch, 64).await > 0 {
            if let Err(error) = writer.send_all(&batch).await {
                return error.to_string();
            }
            batch.clear();
        }
        // The main loop let go of this peer, and all that it said is written.
        let _ = writer.close().await;
        "closed by us".to_owned()
    };
    let read = async {
        loop {
            let frame = match reader.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return "closed by the peer".to_owned(),
                Err(error) => return error.to_string(),
            };
            let incoming = match kind {
                PeerKind::Client => match protocol::decode::<FromClient>(&frame.header) {
                    Ok(messages) => match desk.take(messages).await {
                        Ok(messages) => Ok(Incoming::FromClient { peer: id, messages }),
                        Err(reason) => return reason,
                    },
                    Err(error) => Err(error),
                },
                PeerKind::Worker | PeerKind::Supervisor => {
                    protocol::decode::<FromWorker>(&frame.header).map(|mut messages| {
                        // Only a supervisor knows of a death, and it knows of nothing else.
                        let of_supervisor = kind == PeerKind::Supervisor;
                        messages.retain(|m| matches!(m, FromWorker::Dead { .. }) == of_supervisor);
                        Incoming::FromWorker { peer: id, messages }
                    })
                }
            };
            let incoming = match incoming {
                Ok(incoming) => incoming,
                Err(error) => return format!("not understood: {error}"),
            };
            if events.send(incoming).await.is_err() {
                return "the scheduler ends".to_owned();
            }
        }
    };
    let reason = tokio::select! {
        reason = read => reason,
        reason = write => reason,
    };
    if kind != PeerKind::Client {
        info!("link {} ({kind:?}): {reason}", id.0);
    }
    let _ = events.send(Incoming::Lost { peer: id, reason }).await;
}
