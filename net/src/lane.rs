//! One outbound lane: what waits for its socket, how much may, and what is dropped.
//!
//! In:     batches of messages ([`Link::send`]), and a connected socket when there is one.
//! Out:    frames, written at once if the socket takes them, else by the lane's task.
//! Cost:   an idle lane holds no buffer; a busy one reuses one. No task runs while the socket keeps up.
//! Fails:  [`Sent::Dropped`] if there is no connection or the bound is reached; the newest is dropped,
//!         because the bytes before it are already in order on their way.
//! Source: FAULTS.md inv. 23 (bounds), D1 (slow peers).

use crate::codec;
use crate::frame::{FRAME_HEADER_BYTES, FrameOrigin, FrameWriter, OpenFrame};
use crate::metrics::{LaneStats, LogLimit};
use crate::{Hello, NetError, Settings};
use bytes::{Buf, BytesMut};
use logdrive_raft::{GroupId, Message, NodeId};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What a connection is for. Each lane is a connection of its own, so that clogged appends hold up no
/// vote.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Lane {
    /// Votes and heartbeats.
    Liveness = 1,
    /// Appends and their answers.
    Append = 2,
}

impl Lane {
    /// Both, in the order of their bytes.
    pub const ALL: [Self; 2] = [Self::Liveness, Self::Append];

    /// The lane a byte on the wire stands for, if any.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Liveness),
            2 => Some(Self::Append),
            _ => None,
        }
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "groups must be told of dropped messages"]
pub enum Sent {
    /// All of it is on its way; [`crate::Inbound::down`] will tell if that way breaks.
    Taken,
    /// At least one message was dropped: the lane is down or full, or a message fits no frame. The groups of the batch must take all of it for lost; what did leave is then merely sent twice.
    Dropped,
}

/// One peer's lane, shared by the senders of a shard and the lane's task.
pub(crate) struct Link {
    pub(crate) peer: NodeId,
    pub(crate) lane: Lane,
    /// Wakes the lane's task: bytes wait for the socket, or writing failed.
    pub(crate) wake: Notify,
    /// Ends the task's pause before the next dial.
    pub(crate) hurry: Notify,
    origin: FrameOrigin,
    body_bytes_max: usize,
    body_bytes_soft: usize,
    waiting_bytes_max: usize,
    log: LogLimit,
    state: RefCell<State>,
}

struct State {
    connection: Option<Connection>,
    hello: Option<Hello>,
    waiting: BytesMut,
    stats: LaneStats,
}

struct Connection {
    stream: Rc<TcpStream>,
    writer: FrameWriter,
    /// The first error of a write made by a sender, for the lane's task to find.
    failed: Option<io::Error>,
}

impl Link {
    pub(crate) fn new(me: &Hello, peer: NodeId, lane: Lane, settings: &Settings) -> Self {
        Self {
            peer,
            lane,
            wake: Notify::new(),
            hurry: Notify::new(),
            origin: FrameOrigin { cluster: me.cluster, source: me.node, lane },
            body_bytes_max: settings.frame_bytes_max as usize,
            body_bytes_soft: settings.frame_bytes_soft.min(settings.frame_bytes_max as usize),
            waiting_bytes_max: match lane {
                Lane::Liveness => settings.liveness_lane_bytes_max,
                Lane::Append => settings.append_lane_bytes_max,
            },
            log: LogLimit::new(Duration::from_secs(1)),
            state: RefCell::new(State {
                connection: None,
                hello: None,
                waiting: BytesMut::new(),
                stats: LaneStats::default(),
            }),
        }
    }

    /// Frames `messages` and writes what the socket takes now. Empties `messages` unless any of them
    /// is dropped: their groups must be told.
    pub(crate) fn send(&self, messages: &mut Vec<(GroupId, Message)>) -> Sent {
        if messages.is_empty() {
            return Sent::Taken;
        }
        let state = &mut *self.state.borrow_mut();
        let Some(connection) = state.connection.as_mut().filter(|c| c.failed.is_none()) else {
            state.stats.dropped_down += messages.len() as u64;
            return Sent::Dropped;
        };
        let idle = state.waiting.is_empty();
        let taken = self.encode(connection, &mut state.waiting, messages, &mut state.stats);
        let dropped = messages.len() - taken;
        state.stats.dropped_full += dropped as u64;
        // While bytes wait, the task is waiting for the socket and writes these too.
        if idle && !state.waiting.is_empty() {
            match flush(&connection.stream, &mut state.waiting, &mut state.stats) {
                Ok(()) if state.waiting.is_empty() => {}
                Ok(()) => self.wake.notify_one(),
                Err(error) => {
                    connection.failed = Some(error);
                    self.wake.notify_one();
                }
            }
        }
        if dropped > 0 {
            return Sent::Dropped;
        }
        messages.clear();
        Sent::Taken
    }

    /// Adds frames of about the soft bound each; how many messages were taken.
    fn encode(
        &self,
        connection: &mut Connection,
        waiting: &mut BytesMut,
        messages: &[(GroupId, Message)],
        stats: &mut LaneStats,
    ) -> usize {
        let writer = &mut connection.writer;
        let mut open = None;
        let mut taken = 0;
        for (group, message) in messages {
            let bytes = codec::encoded_bytes(message);
            if bytes > self.body_bytes_max {
                // Skipped, not stopped at: it will be sent again, and must not hold up the others.
                self.oversized(*group, bytes);
                continue;
            }
            if waiting.len() + FRAME_HEADER_BYTES + bytes > self.waiting_bytes_max {
                break;
            }
            if let Some(frame) = open.take_if(|frame: &mut OpenFrame| {
                frame.body_bytes(waiting) + bytes > self.body_bytes_soft
            }) {
                writer.finish(waiting, frame);
                stats.frames += 1;
            }
            if open.is_none() {
                open = Some(writer.begin(waiting));
            }
            waiting.reserve(bytes);
            codec::encode(waiting, *group, message);
            taken += 1;
        }
        if let Some(frame) = open {
            writer.finish(waiting, frame);
            stats.frames += 1;
        }
        stats.messages += taken as u64;
        taken
    }

    fn oversized(&self, group: GroupId, bytes: usize) {
        if let Some(more) = self.log.pass(Instant::now()) {
            let (peer, max) = (self.peer, self.body_bytes_max);
            tracing::error!(%peer, %group, bytes, max, more, "a message fits no frame");
        }
    }

    /// Writes what waits, as far as the socket takes it. `Ok(true)` if something still waits.
    pub(crate) fn flush(&self) -> Result<bool, NetError> {
        let state = &mut *self.state.borrow_mut();
        let connection = state.connection.as_mut().ok_or(NetError::Closed)?;
        if let Some(error) = connection.failed.take() {
            return Err(NetError::Io(error));
        }
        flush(&connection.stream, &mut state.waiting, &mut state.stats)?;
        Ok(!state.waiting.is_empty())
    }

    /// Bytes the socket has ever taken: grows while there is progress.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.state.borrow().stats.bytes
    }

    /// A connection came up.
    pub(crate) fn set_up(&self, stream: Rc<TcpStream>, hello: Hello) {
        let state = &mut *self.state.borrow_mut();
        assert!(state.waiting.is_empty(), "bytes of an older connection still wait");
        let writer = FrameWriter::new(self.origin);
        state.connection = Some(Connection { stream, writer, failed: None });
        state.hello = Some(hello);
        state.stats.connects += 1;
    }

    /// The connection was lost, and what waited for it with it.
    pub(crate) fn set_down(&self) {
        let state = &mut *self.state.borrow_mut();
        state.connection = None;
        state.waiting = BytesMut::new();
        state.stats.losses += 1;
    }

    /// An attempt to connect failed.
    pub(crate) fn count_failure(&self, refused: bool) {
        let state = &mut *self.state.borrow_mut();
        state.stats.failures += 1;
        state.stats.refusals += u64::from(refused);
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state.borrow().connection.as_ref().is_some_and(|c| c.failed.is_none())
    }

    pub(crate) fn hello(&self) -> Option<Hello> {
        self.state.borrow().hello.clone()
    }

    pub(crate) fn stats(&self) -> LaneStats {
        let state = self.state.borrow();
        LaneStats {
            up: state.connection.is_some(),
            queued_bytes: state.waiting.len(),
            ..state.stats
        }
    }
}

fn flush(stream: &TcpStream, waiting: &mut BytesMut, stats: &mut LaneStats) -> io::Result<()> {
    while !waiting.is_empty() {
        match stream.try_write(waiting) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                waiting.advance(written);
                stats.bytes += written as u64;
                stats.writes += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    // The space already written is won back; a buffer that a slow peer once made large is given up.
    if waiting.try_reclaim(IDLE_BUFFER_BYTES_MAX) {
        *waiting = BytesMut::with_capacity(IDLE_BUFFER_BYTES_MIN);
    } else {
        let _ = waiting.try_reclaim(IDLE_BUFFER_BYTES_MIN);
    }
    Ok(())
}

/// An idle lane's buffer is given up from this size on.
const IDLE_BUFFER_BYTES_MAX: usize = 4 << 20;
/// What it begins again with.
const IDLE_BUFFER_BYTES_MIN: usize = 16 << 10;
