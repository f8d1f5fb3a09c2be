//! A connection a peer made to us, read on the thread of the shard it was handed to.
//!
//! In:     an [`Accepted`] connection from the listener.
//! Out:    [`Inbound::deliver`], one call per frame.
//! Cost:   one read call per wake-up while the socket has no more than fits; bodies are not copied.
//!         Memory per connection is one frame of at most `frame_bytes_max`, beside the usual buffer.
//! Fails:  the first bad byte ends the connection; nothing of its frame is delivered.
//! Source: FAULTS.md N8, N9, I1, I3, I5.

use crate::frame::{FrameOrigin, FrameReader};
use crate::metrics::{InboundMeter, LogLimit, add};
use crate::{Hello, Lane, NetError, Settings, codec};
use logdrive_raft::{GroupId, Message, NodeId};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// What a shard does with what its peers send, and with its lanes' comings and goings. Called on the
/// shard's thread, outside of any call of ours: it may send.
pub trait Inbound {
    /// All messages of one frame, decoded and checked, in the frame's order. Whether `from` may speak
    /// for a group is for the group to say.
    fn deliver(&self, from: NodeId, messages: Vec<(GroupId, Message)>);

    /// An outbound lane to `peer` is up; `hello` is what the peer said of itself.
    fn up(&self, peer: NodeId, lane: Lane, hello: &Hello);

    /// An outbound lane was lost: everything sent on it since it came up may be lost.
    fn down(&self, peer: NodeId, lane: Lane);
}

/// A peer's connection after the handshake, on its way to the shard that will read it.
#[derive(Debug)]
pub struct Accepted {
    /// What the peer said of itself.
    pub hello: Hello,
    pub(crate) stream: std::net::TcpStream,
    /// Ends when a newer connection takes this one's place: its sender is dropped then.
    pub(crate) lease: watch::Receiver<()>,
    pub(crate) meter: Arc<InboundMeter>,
}

/// Reads frames and delivers them until the connection ends; says why it did. Call it on the runtime
/// of the shard that owns the connection, in a task of its own.
///
/// Delivery stops, within the frame at hand, once a newer connection of the same peer, shard and lane
/// or a later life of the peer has been accepted, and when the [`crate::Listener`] ends.
pub async fn receive(
    accepted: Accepted,
    settings: &Settings,
    inbound: Rc<dyn Inbound>,
) -> NetError {
    let Accepted { hello, stream, lease, meter } = accepted;
    let error = match TcpStream::from_std(stream) {
        Ok(stream) => read_frames(stream, &hello, lease, &meter, settings, &*inbound).await,
        Err(error) => NetError::Io(error),
    };
    let (peer, lane) = (hello.node, hello.lane);
    match &error {
        NetError::Frame(_) | NetError::Codec(_) => {
            add(&meter.bad_frames, 1);
            BAD_FRAMES.with(|log| {
                if let Some(more) = log.pass(Instant::now()) {
                    tracing::error!(%peer, ?lane, %error, more, "connection closed");
                }
            });
        }
        error => tracing::debug!(%peer, ?lane, %error, "connection ended"),
    }
    error
}

async fn read_frames(
    mut stream: TcpStream,
    hello: &Hello,
    mut lease: watch::Receiver<()>,
    meter: &InboundMeter,
    settings: &Settings,
    inbound: &dyn Inbound,
) -> NetError {
    let origin = FrameOrigin { cluster: hello.cluster, source: hello.node, lane: hello.lane };
    let read_bytes = match hello.lane {
        Lane::Liveness => LIVENESS_READ_BYTES,
        Lane::Append => APPEND_READ_BYTES,
    };
    let mut frames = FrameReader::new(origin, settings.frame_bytes_max, read_bytes);
    // When the frame that has not ended began.
    let mut began: Option<Instant> = None;
    loop {
        let deadline = began.map(|began| began + patience(&frames, settings));
        let read = tokio::select! {
            biased;
            _ = lease.changed() => return NetError::Replaced,
            read = stream.read_buf(frames.room()) => read,
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                return NetError::Timeout("rest of a frame");
            }
        };
        match read {
            Ok(0) if frames.is_inside_frame() => {
                return NetError::Io(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(0) => return NetError::Closed,
            Ok(bytes) => add(&meter.bytes, bytes as u64),
            Err(error) => return NetError::Io(error),
        }
        loop {
            let body = match frames.next_body() {
                Ok(Some(body)) => body,
                Ok(None) => break,
                Err(error) => return NetError::Frame(error),
            };
            let messages = match codec::decode(body) {
                Ok(messages) => messages,
                Err(error) => return NetError::Codec(error),
            };
            // Asked after all the work and right before the delivery, with no wait in between.
            if lease.has_changed().is_err() {
                return NetError::Replaced;
            }
            add(&meter.frames, 1);
            add(&meter.messages, messages.len() as u64);
            began = None;
            inbound.deliver(hello.node, messages);
        }
        if !frames.is_inside_frame() {
            began = None;
        } else if began.is_none() {
            began = Some(Instant::now());
        }
    }
}

/// How long the frame that has begun may take: slow is allowed, a drip is not.
fn patience(frames: &FrameReader, settings: &Settings) -> Duration {
    let bytes = frames.open_body_bytes().unwrap_or(0);
    settings.progress_timeout + Duration::from_secs(u64::from(bytes) / BYTES_PER_SECOND_MIN)
}

thread_local! {
    static BAD_FRAMES: LogLimit = const { LogLimit::new(Duration::from_secs(1)) };
}

const LIVENESS_READ_BYTES: usize = 64 << 10;
const APPEND_READ_BYTES: usize = 256 << 10;
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
