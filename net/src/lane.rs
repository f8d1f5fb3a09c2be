//! One outbound lane: its queue and its socket.
//!
//! In:     batches of messages ([`Link::send`]), and a connected socket when there is one.
//! Out:    frames, written at once if the socket takes them, else by the lane's task.
//! Cost:   no task runs while the socket keeps up.
//! Fails:  as `queue` says; the first error of a write ends the connection.
//! Source: RULES.md invariant 23 (bounds), D1 (slow peers).

use crate::codec::CodecError;
use crate::metrics::{LaneStats, LogLimit};
use crate::{Hello, LaneQueue, NetError, Settings};
use bytes::{Bytes, BytesMut};
use logdrive_raft::{GroupId, NodeId};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The purpose of a connection. Each lane is a connection of its own, so that clogged appends hold up no
/// vote.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Lane {
    /// Votes and heartbeats.
    Liveness = 1,
    /// Appends and their answers.
    Append = 2,
    /// Snapshots. Opened when there is something to send, and closed when there is not.
    Bulk = 3,
}

impl Lane {
    /// The lanes of Raft's messages, in the order of their bytes. They are kept connected to every peer; a bulk lane is not.
    pub const ALL: [Self; 2] = [Self::Liveness, Self::Append];

    /// The lane a byte on the wire stands for, if any.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Liveness),
            2 => Some(Self::Append),
            3 => Some(Self::Bulk),
            _ => None,
        }
    }
}

/// A message that lanes carry, to and from the bytes of a frame's body.
pub trait LaneMessage: Sized {
    /// True if such messages travel on this lane: a connection carries messages of one kind.
    fn travels_on(lane: Lane) -> bool;

    /// Bytes that [`Self::encode`] appends.
    fn encoded_bytes(&self) -> usize;

    /// Appends the message to a body.
    fn encode(&self, body: &mut BytesMut, group: GroupId);

    /// Reads a whole body. Contents stay where they are: they are slices of `body`.
    ///
    /// # Errors
    /// [`CodecError`] at the first thing that is wrong; no message of the body is given out then.
    fn decode(body: Bytes) -> Result<Vec<(GroupId, Self)>, CodecError>;
}

/// The fate of a batch of messages.
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
    /// Wakes the senders that wait until the socket has taken all bytes.
    drained: Notify,
    body_bytes_max: u32,
    log: LogLimit,
    state: RefCell<State>,
}

struct State {
    queue: LaneQueue,
    /// There while the queue has a connection.
    stream: Option<Rc<TcpStream>>,
    /// The first error of a write made by a sender, for the lane's task to find.
    failed: Option<io::Error>,
    /// True during the pause before the next dial.
    rests: bool,
}

impl Link {
    pub(crate) fn new(me: &Hello, peer: NodeId, lane: Lane, settings: &Settings) -> Self {
        Self {
            peer,
            lane,
            wake: Notify::new(),
            hurry: Notify::new(),
            drained: Notify::new(),
            body_bytes_max: settings.frame_bytes_max,
            log: LogLimit::new(Duration::from_secs(1)),
            state: RefCell::new(State {
                queue: LaneQueue::new(me, lane, settings),
                stream: None,
                failed: None,
                rests: false,
            }),
        }
    }

    /// Frames `messages` and writes what the socket takes now. Empties `messages` unless any of them
    /// is dropped: their groups must be told.
    pub(crate) fn send<M: LaneMessage>(&self, messages: &mut Vec<(GroupId, M)>) -> Sent {
        let state = &mut *self.state.borrow_mut();
        if self.lane == Lane::Bulk && !state.rests && !state.queue.has_connection() {
            state.queue.begin();
            self.wake.notify_one();
        }
        let idle = state.queue.waiting().is_empty();
        let sent = state.queue.send(messages, |group, bytes| self.oversized(group, bytes));
        // While bytes wait, the task is waiting for the socket and writes these too.
        if idle
            && !state.queue.waiting().is_empty()
            && let Some(stream) = &state.stream
        {
            match flush(stream, &mut state.queue) {
                Ok(()) if state.queue.waiting().is_empty() => {}
                Ok(()) => self.wake.notify_one(),
                Err(error) => {
                    state.queue.fail();
                    state.failed = Some(error);
                    self.wake.notify_one();
                }
            }
        }
        sent
    }

    fn oversized(&self, group: GroupId, bytes: usize) {
        if let Some(more) = self.log.pass(Instant::now()) {
            let (peer, max) = (self.peer, self.body_bytes_max);
            tracing::error!(%peer, %group, bytes, max, more, "a message was dropped: it is larger than a frame may be");
        }
    }

    /// Writes what waits, as far as the socket takes it. `Ok(true)` if something still waits.
    pub(crate) fn flush(&self) -> Result<bool, NetError> {
        let state = &mut *self.state.borrow_mut();
        let stream = state.stream.as_ref().ok_or(NetError::Closed)?;
        if let Some(error) = state.failed.take() {
            return Err(NetError::Io(error));
        }
        flush(stream, &mut state.queue)?;
        let waits = !state.queue.waiting().is_empty();
        if !waits {
            self.drained.notify_waiters();
        }
        Ok(waits)
    }

    /// Ends once the lane's task has to dial: at once, but for a bulk lane on which nothing was sent.
    pub(crate) async fn wanted(&self) {
        while self.lane == Lane::Bulk && !self.state.borrow().queue.has_connection() {
            self.wake.notified().await;
        }
    }

    /// Ends once nothing was sent for `time`, and before twice as much has passed.
    pub(crate) async fn idle(&self, time: Duration) {
        let sent = || {
            let LaneStats { messages, bytes, queued_bytes, .. } = self.stats();
            (messages, bytes, queued_bytes)
        };
        let mut before = sent();
        loop {
            tokio::time::sleep(time).await;
            let now = sent();
            if now == before && now.2 == 0 {
                return;
            }
            before = now;
        }
    }

    /// Ends once nothing waits for the socket, or what waited is lost.
    pub(crate) async fn drained(&self) {
        while self.stats().queued_bytes > 0 {
            self.drained.notified().await;
        }
    }

    /// Bytes the socket has ever taken: grows while there is progress.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.stats().bytes
    }

    /// A connection came up.
    pub(crate) fn set_up(&self, stream: Rc<TcpStream>, hello: Hello) {
        let state = &mut *self.state.borrow_mut();
        state.queue.set_up(hello);
        state.stream = Some(stream);
        state.failed = None;
    }

    /// The connection was lost, and what waited for it with it.
    pub(crate) fn set_down(&self) {
        let state = &mut *self.state.borrow_mut();
        state.queue.set_down();
        state.stream = None;
        self.drained.notify_waiters();
    }

    /// The connection is not needed any more, or did not come up.
    pub(crate) fn close(&self) {
        let state = &mut *self.state.borrow_mut();
        state.queue.close();
        state.stream = None;
        self.drained.notify_waiters();
    }

    /// The pause before the next dial begins or ends. A bulk lane takes nothing meanwhile.
    pub(crate) fn set_rests(&self, rests: bool) {
        self.state.borrow_mut().rests = rests;
    }

    /// An attempt to connect failed.
    pub(crate) fn count_failure(&self, refused: bool) {
        self.state.borrow_mut().queue.count_failure(refused);
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state.borrow().queue.is_up()
    }

    pub(crate) fn hello(&self) -> Option<Hello> {
        self.state.borrow().queue.hello().cloned()
    }

    pub(crate) fn stats(&self) -> LaneStats {
        self.state.borrow().queue.stats()
    }
}

fn flush(stream: &TcpStream, queue: &mut LaneQueue) -> io::Result<()> {
    while !queue.waiting().is_empty() {
        match stream.try_write(queue.waiting()) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => queue.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
