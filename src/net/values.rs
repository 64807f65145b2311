//! Values from the worker that holds them, straight to whoever needs them.

use super::{ConnectError, Frame, Limits, LinkError, Reader, Transport, Writer};
use crate::graph::{TaskId, Value};
use crate::protocol::{self, Hello, PeerKind, PeerReply, PeerRequest, VERSION};
use crate::state::Role;
use std::time::Duration;

/// For connecting to a holder.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// For the next value: its holder may have to read it from a disk, and it may be gigabytes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// A link to a holder of values.
pub struct ValueLink {
    reader: Reader,
    writer: Writer,
}

/// Why a value didn't come.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the holder's answer is not understood: {0}")]
    Answer(String),
}

impl ValueLink {
    /// Connects to the worker at one of these addresses.
    ///
    /// # Errors
    /// No address answers in time.
    pub async fn connect(transport: &Transport, addresses: &[String]) -> Result<ValueLink, ValueError> {
        let link = transport.connect(addresses, Role::Worker, CONNECT_TIMEOUT).await?;
        let (reader, mut writer) = link.split();
        writer.send_all(&[hello(PeerKind::Client)]).await?;
        Ok(ValueLink { reader, writer })
    }

    /// Asks for values; `None` for those that the worker doesn't hold.
    ///
    /// # Errors
    /// The link broke, or the answer makes no sense.
    pub async fn get(&mut self, tasks: &[TaskId]) -> Result<Vec<Option<Value>>, ValueError> {
        let request = encode(&[PeerRequest::Get(tasks.to_vec())])?;
        self.writer.send_all(&[Frame::new(request)]).await?;
        let mut values = Vec::with_capacity(tasks.len());
        for task in tasks {
            let next = tokio::time::timeout(ANSWER_TIMEOUT, self.reader.next()).await;
            let next = next.map_err(|_| ValueError::Answer("nothing came for too long".into()))?;
            let frame = next?.ok_or(LinkError::CutShort)?;
            let replies: Vec<PeerReply> = decode(&frame)?;
            match replies.as_slice() {
                [PeerReply::Value { task: got, header }] if got == task => {
                    values.push(Some(Value { header: header.clone().into(), buffers: frame.buffers }));
                }
                [PeerReply::Missing(got)] if got == task => values.push(None),
                _ => return Err(ValueError::Answer(format!("not the value of {task}"))),
            }
        }
        Ok(values)
    }
}

/// The first frame of a link.
pub fn hello(kind: PeerKind) -> Frame {
    // Two integers always encode.
    Frame::new(protocol::encode(&[Hello { version: VERSION, kind }]).unwrap_or_default())
}

/// Serves values over a link that was just accepted, until the peer closes it. `lookup` may block.
///
/// # Errors
/// The link broke, or the peer speaks something else.
pub async fn serve(
    mut reader: Reader,
    mut writer: Writer,
    lookup: impl Fn(TaskId) -> Option<Value> + Clone + Send + 'static,
) -> Result<(), ValueError> {
    let Some(first) = reader.next().await? else { return Ok(()) };
    let hello: Vec<Hello> = decode(&first)?;
    if hello.first().is_none_or(|hello| hello.version != VERSION) {
        return Err(ValueError::Answer("another version of the protocol".into()));
    }
    reader.set_limits(Limits::AUTHENTICATED);
    while let Some(frame) = reader.next().await? {
        for PeerRequest::Get(tasks) in decode::<PeerRequest>(&frame)? {
            for task in tasks {
                let lookup = lookup.clone();
                let value = tokio::task::spawn_blocking(move || lookup(task)).await.ok().flatten();
                let frame = match value {
                    Some(Value { header, buffers }) => {
                        let header = encode(&[PeerReply::Value { task, header: header.to_vec() }])?;
                        Frame { buffers, ..Frame::new(header) }
                    }
                    None => Frame::new(encode(&[PeerReply::Missing(task)])?),
                };
                writer.send(&frame).await?;
            }
        }
        writer.flush().await?;
    }
    Ok(())
}

fn encode<T: serde::Serialize>(messages: &[T]) -> Result<Vec<u8>, ValueError> {
    protocol::encode(messages).map_err(|error| ValueError::Answer(error.to_string()))
}

fn decode<T: serde::de::DeserializeOwned>(frame: &Frame) -> Result<Vec<T>, ValueError> {
    protocol::decode(&frame.header).map_err(|error| ValueError::Answer(error.to_string()))
}
