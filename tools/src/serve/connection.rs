//! One client connection: a task on a shard's thread.
//!
//! In:     pipelined requests; outcomes, from the threads of all shards.
//! Out:    replies, in the order of their requests.
//! Cost:   per wake-up one read, one write and one lock, however many requests or outcomes there are; per
//!         command one copy of key and value, no allocation.
//! Fails:  bytes that are not the protocol are answered with an error, after what was asked before them, and the
//!         connection is closed. The rest of its bytes is read and thrown away, up to [`DRAINED_BYTES_MAX`] and
//!         for [`DRAIN_TIME_MAX`]: a connection that is closed with unread bytes is reset, and a client that is still
//!         sending a value would see the reset and never the error.
//!
//! Bounds: at most [`PENDING_MAX`] requests wait for their outcome; then nothing more is read until there is room.
//! About [`OUTPUT_BYTES_MAX`] of replies wait for the client; then nothing more is run. Once all connections together
//! hold [`OUTPUT_BYTES_OF_ALL_MAX`] each goes on with [`OUTPUT_BYTES_FREE`] and one request at a time. A client whose
//! replies wait is still read, up to [`PIPELINE_BYTES_MAX`], so that a client can send all its requests before it
//! reads the first reply. The input of a connection that is read and not yet run may take [`INPUT_BYTES_FREE`] in any
//! case. Beyond that it takes a [`Share`] of what all connections may hold together ([`INPUT_BYTES_MAX`]): an
//! unfinished request may take all that is left of it, requests behind unread replies half of what is left beyond
//! [`FRAME_ROOM_BYTES`]. A client that needs more gets an error, and its connection is closed. Time is bounded by
//! [`Work`].

use super::{
    Server,
    commands::{self, After, Data, Session},
    machine::{Encoder, Reply},
    work::{self, Place, Work},
};
use crate::resp::{self, Proto};
use bytes::{Buf, Bytes, BytesMut};
use logdrive::{Completions, Outcome, ProposeError};
use socket2::SockRef;
use std::{
    collections::VecDeque,
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    net::TcpStream,
    time::Sleep,
};

/// A task's life: ends when the client is gone, or was told why it must go.
pub(crate) struct Connection {
    stream: TcpStream,
    server: Arc<Server>,
    session: Session,
    encoder: Encoder,
    sink: Arc<Sink>,
    /// The same, as the engine takes it.
    completions: Arc<dyn Completions>,
    /// Emptied and swapped with the sink's, so that neither is allocated anew.
    outcomes: Vec<(u64, Outcome)>,
    /// Requests not answered yet, oldest first; the oldest has the token `head`.
    pending: VecDeque<Pending>,
    head: u64,
    /// Bytes of replies that wait in `pending` behind an unknown outcome.
    pending_bytes: usize,
    input: BytesMut,
    /// The share of the common bound that `input` takes beyond its free bytes.
    share: Share,
    /// The share of the common bound that unread replies take beyond their own.
    unread: Share,
    output: BytesMut,
    scratch: BytesMut,
    read_bytes: usize,
    /// Why requests were left in `input`.
    held: Held,
    /// The client sends nothing more: nothing is read, what it has sent is still run.
    ended: bool,
    /// Nothing more is run; what is owed is still answered.
    closing: bool,
    /// There once the client was refused.
    drain: Option<Drain>,
    /// Nothing more is read, run or waited for.
    cut_off: bool,
    idle: Option<Idle>,
    place: Place,
    _seat: Seat,
}

/// Why requests that have come are not run yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Held {
    Not,
    /// Too many wait for their outcome.
    ForOutcomes,
    /// The client does not take its replies.
    ForClient,
    /// The thread must look at its events first.
    ForLook,
}

struct Pending {
    answer: Answer,
    slot: u16,
    proto: Proto,
}

enum Answer {
    /// The group has not said yet.
    Waiting,
    /// The state machine's answer.
    Applied(Bytes),
    /// Ready for the wire.
    Wire(Bytes),
}

impl Connection {
    /// Takes over a socket accepted from `peer`, which may be gone already. Must be called on a runtime's thread.
    pub(crate) fn new(
        stream: std::net::TcpStream,
        peer: SocketAddr,
        server: Arc<Server>,
        seat: Seat,
    ) -> std::io::Result<Self> {
        let stream = TcpStream::from_std(stream)?;
        let sink = Arc::new(Sink::default());
        let share = Share::of(&server.input_bytes, server.input_bytes_max);
        let unread = Share::of(&server.output_bytes, OUTPUT_BYTES_OF_ALL_MAX);
        let idle = server.client_idle_max.map(Idle::new);
        Ok(Self {
            session: Session::new(server.next_client_id(), peer),
            stream,
            server,
            encoder: Encoder::default(),
            completions: sink.clone(),
            sink,
            outcomes: Vec::new(),
            pending: VecDeque::new(),
            head: 0,
            pending_bytes: 0,
            input: BytesMut::new(),
            share,
            unread,
            output: BytesMut::new(),
            scratch: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            held: Held::Not,
            ended: false,
            closing: false,
            drain: None,
            cut_off: false,
            idle,
            place: Place::default(),
            _seat: seat,
        })
    }

    fn round(&mut self, cx: &mut Context<'_>, work: &Work) -> std::io::Result<Progress> {
        self.take_outcomes(cx.waker());
        self.settle();
        if self.held != Held::Not {
            self.run_requests(work);
        }
        let may_read = matches!(self.held, Held::Not | Held::ForClient);
        let read = match &mut self.drain {
            Some(drain) => drain.poll_read(cx, &mut self.stream, &mut self.input),
            None => may_read && !self.ended && !self.closing && self.poll_read(cx)?,
        };
        if read && self.held == Held::Not {
            self.run_requests(work);
        }
        let wrote = self.poll_write(cx)?;
        Ok(self.end_round(cx, read, wrote))
    }

    /// Counts what the client has not read, looks how long nothing has moved, and says how the connection goes on.
    fn end_round(&mut self, cx: &mut Context<'_>, read: bool, wrote: bool) -> Progress {
        self.count_unread();
        let moved = read || wrote || !self.pending.is_empty();
        let is_idle = self.idle.as_mut().is_some_and(|idle| idle.poll_over(cx, moved));
        // While requests are held, some of what a client sent before its end is still to run.
        let has_run_all = self.closing || (self.ended && self.held == Held::Not);
        let is_answered = has_run_all && self.pending.is_empty() && self.output.is_empty();
        let is_done = is_answered
            && self.drain.as_mut().is_none_or(|drain| drain.poll_over(cx, &mut self.stream));
        let made_room = wrote && (self.held != Held::Not || self.front_is_answered());
        if is_done || is_idle || self.cut_off {
            Progress::Done
        } else if read || made_room {
            Progress::Some
        } else {
            Progress::None
        }
    }

    fn take_outcomes(&mut self, waker: &Waker) {
        self.sink.take(&mut self.outcomes, waker);
        for (token, outcome) in self.outcomes.drain(..) {
            let at = token.checked_sub(self.head).and_then(|at| usize::try_from(at).ok());
            let pending = at.and_then(|at| self.pending.get_mut(at));
            let pending = pending.expect("an outcome for a request that is not pending");
            assert!(matches!(pending.answer, Answer::Waiting), "second outcome for token {token}");
            pending.answer = match outcome {
                Ok(applied) => {
                    self.pending_bytes += applied.reply.len();
                    Answer::Applied(applied.reply)
                }
                Err(error) => {
                    refuse(&self.server, &mut self.scratch, pending.slot, &error);
                    self.pending_bytes += self.scratch.len();
                    Answer::Wire(self.scratch.split().freeze())
                }
            };
        }
    }

    /// Moves the answered requests at the front to the output, as far as it has room.
    fn settle(&mut self) {
        while self.front_is_answered() && self.output.len() < OUTPUT_BYTES_MAX {
            let Some(pending) = self.pending.pop_front() else { return };
            self.head += 1;
            match pending.answer {
                Answer::Applied(reply) => {
                    self.pending_bytes -= reply.len();
                    write_reply(&mut self.output, pending.proto, &reply);
                }
                Answer::Wire(bytes) => {
                    self.pending_bytes -= bytes.len();
                    self.output.extend_from_slice(&bytes);
                }
                Answer::Waiting => unreachable!("the front is answered"),
            }
        }
    }

    fn front_is_answered(&self) -> bool {
        self.pending.front().is_some_and(|front| !matches!(front.answer, Answer::Waiting))
    }

    /// Bytes of replies that the client has not read, which are counted among those of all connections.
    fn count_unread(&mut self) -> usize {
        let unread = self.output.len() + self.pending_bytes;
        self.unread.count(unread.saturating_sub(OUTPUT_BYTES_FREE));
        unread
    }

    /// Whether a bound is reached. A reply's size is known once it is there: while all connections together are at their
    /// bound, each has one request under way.
    fn bound(&mut self) -> Held {
        let unread = self.count_unread();
        let (unread_max, pending_max) = match self.unread.is_full() {
            true => (OUTPUT_BYTES_FREE, 1),
            false => (OUTPUT_BYTES_MAX, PENDING_MAX),
        };
        if unread >= unread_max && !self.output.is_empty() {
            Held::ForClient
        } else if unread >= unread_max || self.pending.len() >= pending_max {
            Held::ForOutcomes
        } else {
            Held::Not
        }
    }

    /// Runs the requests that are complete in the input, as far as the bounds allow.
    fn run_requests(&mut self, work: &Work) {
        let (mut requests, mut input_bytes) = (0, self.input.len());
        loop {
            self.held = self.bound();
            if self.held != Held::Not || self.closing {
                return;
            }
            if requests == REQUESTS_PER_LOOK
                || input_bytes - self.input.len() >= INPUT_BYTES_PER_LOOK
            {
                if work.is_over() {
                    self.held = Held::ForLook;
                    return;
                }
                (requests, input_bytes) = (0, self.input.len());
            }
            requests += 1;
            match resp::parse_request(&mut self.input) {
                Ok(Some(request)) if request.is_empty() => {}
                Ok(Some(request)) => match commands::data(&request, &mut self.encoder) {
                    Data::Command { slot, command } => self.submit(slot, command),
                    Data::Refused(refusal) => {
                        self.answer(|_, _, out| resp::write_error(out, refusal.text()));
                    }
                    Data::Other => {
                        let after = self.answer(|server, session, out| {
                            commands::run(server, session, &request, out)
                        });
                        self.closing = after == After::Close;
                        if work.is_over() {
                            self.held = Held::ForLook;
                            return;
                        }
                    }
                },
                Ok(None) => return,
                Err(error) => self.refuse_all(&format!("ERR {error}")),
            }
        }
    }

    fn submit(&mut self, slot: u16, command: Bytes) {
        let Some(group) = self.server.cluster.group_of(slot) else {
            self.answer(|server, _, out| server.cluster.redirect(out, slot, None));
            return;
        };
        let token = self.head + self.pending.len() as u64;
        match group.submit(&self.completions, token, command) {
            Ok(()) => self.pending.push_back(Pending {
                answer: Answer::Waiting,
                slot,
                proto: self.session.proto,
            }),
            Err(error) => self.answer(|server, _, out| refuse(server, out, slot, &error)),
        }
    }

    /// Writes a reply that is known now, behind those that are not.
    fn answer<T>(&mut self, write: impl FnOnce(&Server, &mut Session, &mut BytesMut) -> T) -> T {
        if self.pending.is_empty() {
            return write(&self.server, &mut self.session, &mut self.output);
        }
        let proto = self.session.proto;
        let result = write(&self.server, &mut self.session, &mut self.scratch);
        let bytes = self.scratch.split().freeze();
        self.pending_bytes += bytes.len();
        self.pending.push_back(Pending { answer: Answer::Wire(bytes), slot: 0, proto });
        result
    }

    /// Answers with an error, and runs nothing more.
    fn refuse_all(&mut self, why: &str) {
        self.input = BytesMut::new();
        self.share.count(0);
        self.answer(|_, _, out| resp::write_error(out, why));
        self.closing = true;
        self.drain = Some(Drain { bytes_left: DRAINED_BYTES_MAX, until: None });
    }

    /// Reads once. True if bytes came.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> std::io::Result<bool> {
        if self.share.bytes > 0 && self.input.len() < INPUT_BYTES_FREE / 2 {
            // A large request is over; its memory goes back, also where a small one follows it.
            self.input = BytesMut::from(&self.input[..]);
        }
        let room = self.input.capacity() - self.input.len();
        if room < self.read_bytes / 2 {
            self.input.reserve(self.read_bytes);
        }
        let is_ahead = self.held == Held::ForClient;
        let allowed = |left: usize| match is_ahead {
            true => left.saturating_sub(FRAME_ROOM_BYTES) / 2,
            false => left,
        };
        // The buffer doubles when it grows, but only this much of it is ever written and so takes memory.
        let held = self.input.capacity().min(PIPELINE_BYTES_MAX + READ_BYTES_MAX);
        let refusal = if self.input.len() >= PIPELINE_BYTES_MAX {
            Some("ERR too many requests wait for replies to be read")
        } else if !self.share.set(held.saturating_sub(INPUT_BYTES_FREE), allowed) {
            Some("ERR unfinished requests of all clients are at their bound")
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.refuse_all(refusal);
            // A client that takes no replies may wait for ever until its requests are taken, so the connection is
            // closed.
            self.cut_off = is_ahead;
            return Ok(false);
        }
        let room = self.input.capacity() - self.input.len();
        let Poll::Ready(read) = pin!(self.stream.read_buf(&mut self.input)).poll(cx) else {
            return Ok(false);
        };
        let bytes = read?;
        if bytes == 0 {
            self.ended = true;
        } else if bytes == room {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        }
        Ok(bytes > 0)
    }

    /// Writes what the socket takes. True if that was anything.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> std::io::Result<bool> {
        let mut wrote = false;
        while !self.output.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, &self.output)
            else {
                break;
            };
            match written? {
                0 => return Err(std::io::ErrorKind::WriteZero.into()),
                bytes => self.output.advance(bytes),
            }
            wrote = true;
        }
        if wrote && self.output.is_empty() && self.output.capacity() > OUTPUT_KEPT_BYTES_MAX {
            self.output = BytesMut::new();
        }
        Ok(wrote)
    }
}

enum Progress {
    None,
    Some,
    Done,
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let connection = self.get_mut();
        let Some(work) = Work::begin(&mut connection.place, cx.waker()) else {
            return Poll::Pending;
        };
        for _ in 0..ROUNDS_MAX {
            match connection.round(cx, &work) {
                Ok(Progress::Some) if connection.held != Held::ForLook => {}
                Ok(Progress::None) if connection.held != Held::ForLook => return Poll::Pending,
                Ok(Progress::Some | Progress::None) => break,
                Ok(Progress::Done) | Err(_) => return Poll::Ready(()),
            }
            if work.is_over() {
                break;
            }
        }
        // The shard's own work comes first: a client that never pauses must not stop its groups.
        work::wake_after_look(cx.waker());
        Poll::Pending
    }
}

/// The rest of what a client sends that was refused: it is read and thrown away.
struct Drain {
    /// 0 once nothing more is read.
    bytes_left: usize,
    /// The end of it, once the client has been sent everything.
    until: Option<Pin<Box<Sleep>>>,
}

impl Drain {
    /// Reads once. True if bytes came.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
        buffer: &mut BytesMut,
    ) -> bool {
        if self.bytes_left == 0 {
            return false;
        }
        buffer.clear();
        buffer.reserve(READ_BYTES_MAX);
        match pin!(stream.read_buf(buffer)).poll(cx) {
            Poll::Pending => false,
            Poll::Ready(read) => {
                let bytes = read.unwrap_or(0);
                self.bytes_left =
                    if bytes == 0 { 0 } else { self.bytes_left.saturating_sub(bytes) };
                bytes > 0
            }
        }
    }

    /// To be asked once the client has been sent everything: it is told so. True if the connection may be closed now.
    fn poll_over(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> bool {
        if self.bytes_left == 0 {
            return true;
        }
        let until = self.until.get_or_insert_with(|| {
            // A connection that has failed is found out by the next read.
            let _ = SockRef::from(&*stream).shutdown(std::net::Shutdown::Write);
            Box::pin(tokio::time::sleep(DRAIN_TIME_MAX))
        });
        until.as_mut().poll(cx).is_ready()
    }
}

/// Turns what the state machine pushed into RESP.
fn write_reply(out: &mut BytesMut, proto: Proto, reply: &[u8]) {
    match Reply::decode(reply).expect("a reply of our own machine") {
        Reply::Ok => resp::write_ok(out),
        Reply::Nil => resp::write_null(out, proto),
        Reply::Value(value) => resp::write_bulk(out, value),
        Reply::Integer(number) => resp::write_int(out, number),
    }
}

/// Says why a command has no reply. Only `UNKNOWN` may have happened.
fn refuse(server: &Server, out: &mut BytesMut, slot: u16, error: &ProposeError) {
    match error {
        ProposeError::NotLeader { hint } => server.cluster.redirect(out, slot, *hint),
        ProposeError::Overloaded { .. } => resp::write_error(out, &format!("TRYAGAIN {error}")),
        ProposeError::LogFull => resp::write_error(out, &format!("LOGFULL {error}")),
        ProposeError::DiskFull => resp::write_error(out, &format!("DISKFULL {error}")),
        ProposeError::OutcomeUnknown(_) => resp::write_error(out, &format!("UNKNOWN {error}")),
        // Errors of later engine versions say by `happened` whether they may have taken effect.
        other => match other.happened() {
            logdrive::Happened::No => resp::write_error(out, &format!("ERR {other}")),
            logdrive::Happened::Unknown => resp::write_error(out, &format!("UNKNOWN {other}")),
        },
    }
}

/// Where shards put outcomes; one wake-up for all that come before the task looks.
#[derive(Default)]
struct Sink(Mutex<Delivered>);

#[derive(Default)]
struct Delivered {
    outcomes: Vec<(u64, Outcome)>,
    waker: Option<Waker>,
}

impl Sink {
    /// Takes all outcomes in exchange for an empty `outcomes`, and wakes `waker` at the next.
    fn take(&self, outcomes: &mut Vec<(u64, Outcome)>, waker: &Waker) {
        assert!(outcomes.is_empty(), "{} outcomes were not looked at", outcomes.len());
        let mut delivered = self.lock();
        std::mem::swap(&mut delivered.outcomes, outcomes);
        match &mut delivered.waker {
            Some(held) => held.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Delivered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Completions for Sink {
    fn complete(&self, outcomes: &mut Vec<(u64, Outcome)>) {
        let mut delivered = self.lock();
        if delivered.outcomes.is_empty() {
            std::mem::swap(&mut delivered.outcomes, outcomes);
            let waker = delivered.waker.clone();
            drop(delivered);
            if let Some(waker) = waker {
                waker.wake();
            }
        } else {
            delivered.outcomes.append(outcomes);
        }
    }
}

/// One of the connections a node allows; given back when dropped.
pub(crate) struct Seat(Arc<AtomicUsize>);

impl Seat {
    /// Takes a seat if fewer than `max` are taken.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let seated = taken.fetch_add(1, Ordering::Relaxed);
        let seat = Self(Arc::clone(taken));
        (seated < max).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes of a total that all connections share; given back when dropped.
struct Share {
    taken: Arc<AtomicUsize>,
    max: usize,
    bytes: usize,
}

impl Share {
    /// An empty share of `max` bytes, of which `taken` are taken.
    fn of(taken: &Arc<AtomicUsize>, max: usize) -> Self {
        Self { taken: Arc::clone(taken), max, bytes: 0 }
    }

    /// Makes the share `bytes` large, if that is no more than `allowed` says of what the others leave, or less than it is.
    /// False otherwise; then it is as before.
    fn set(&mut self, bytes: usize, allowed: impl Fn(usize) -> usize) -> bool {
        let before = self.bytes;
        let set = |taken: usize| {
            let others = taken - before;
            let fits = bytes < before || bytes <= allowed(self.max.saturating_sub(others));
            fits.then(|| others + bytes)
        };
        let is_set = bytes == before
            || self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, set).is_ok();
        if is_set {
            self.bytes = bytes;
        }
        is_set
    }

    /// Makes the share `bytes` large, whatever there is left.
    fn count(&mut self, bytes: usize) {
        match bytes.checked_sub(self.bytes) {
            Some(0) => return,
            Some(more) => self.taken.fetch_add(more, Ordering::Relaxed),
            None => self.taken.fetch_sub(self.bytes - bytes, Ordering::Relaxed),
        };
        self.bytes = bytes;
    }

    /// True if all shares together have reached their bound.
    fn is_full(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.max
    }
}

/// How long nothing has moved on a connection.
struct Idle {
    max: Duration,
    has_moved: bool,
    /// Looked at when it has run out, not set anew whenever something moves.
    look: Pin<Box<Sleep>>,
}

impl Idle {
    fn new(max: Duration) -> Self {
        Self { max, has_moved: false, look: Box::pin(tokio::time::sleep(max)) }
    }

    /// True if nothing has moved for the whole time, and up to twice as long. Wakes the task when to look again, and so must
    /// be asked in every round: in one in which something `moved` too.
    fn poll_over(&mut self, cx: &mut Context<'_>, moved: bool) -> bool {
        self.has_moved |= moved;
        while self.look.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.has_moved) {
                return true;
            }
            self.look.set(tokio::time::sleep(self.max));
        }
        false
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.count(0);
    }
}

/// Bytes that the unfinished requests of all connections of a node may hold, beside [`INPUT_BYTES_FREE`] each: room for
/// eight of the largest at once.
pub(crate) const INPUT_BYTES_MAX: usize = 256 << 20;
const _: () = assert!(INPUT_BYTES_MAX >= 8 * FRAME_ROOM_BYTES);
/// Room for one of the largest requests, whose buffer doubles as it grows. Requests that wait for replies to be read take
/// at most half of what is left beyond it: clients that read nothing, however many, leave it to the others.
const FRAME_ROOM_BYTES: usize = 2 * resp::FRAME_BYTES_MAX;
/// Bytes that a connection may read ahead of its requests whatever the other connections do.
const INPUT_BYTES_FREE: usize = 2 * READ_BYTES_MAX;
/// Requests that a client may send ahead of the replies that it has not read. Half a million small ones.
const PIPELINE_BYTES_MAX: usize = 64 << 20;
const _: () = assert!(PIPELINE_BYTES_MAX >= FRAME_ROOM_BYTES);
const _: () =
    assert!((INPUT_BYTES_MAX - FRAME_ROOM_BYTES) / 2 >= PIPELINE_BYTES_MAX + READ_BYTES_MAX);
/// Bytes that a client which was refused may still send, and the time that it has for them once it was sent everything. It
/// costs a node no more than other requests do: they are read in steps of [`READ_BYTES_MAX`], within [`Work`].
const DRAINED_BYTES_MAX: usize = 64 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// Replies that all connections together hold for clients that have not read them, beside [`OUTPUT_BYTES_FREE`] each.
/// They may come to more by the replies of the requests that were under way when the bound was met, and by one reply of
/// each connection from then on. The former are 131,072 per shard at most (`Config::proposals_max`), of which values up
/// to 2 KiB are copies, 256 MiB; a larger value shares the memory of the store until it is written over or on its way
/// into `output`.
const OUTPUT_BYTES_OF_ALL_MAX: usize = 256 << 20;
/// Replies that a connection may hold whatever the others do.
const OUTPUT_BYTES_FREE: usize = 16 << 10;
/// Data commands and empty requests between two looks at the clock; the others are looked after one by one.
const REQUESTS_PER_LOOK: u32 = 64;
/// The input that those may have, whose bytes are copied.
const INPUT_BYTES_PER_LOOK: usize = 64 << 10;
/// Requests of one connection whose outcome is not known yet.
const PENDING_MAX: usize = 16_384;
/// Replies the client has not taken. A bound on when more is begun, not on one reply's size.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// A larger buffer is freed when it has been written.
const OUTPUT_KEPT_BYTES_MAX: usize = 256 << 10;
/// A read's size at first, and at most: it doubles when a read fills it.
const READ_BYTES_MIN: usize = 8 << 10;
const READ_BYTES_MAX: usize = 64 << 10;
/// Rounds before the thread's other tasks get their turn.
const ROUNDS_MAX: usize = 4;

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
