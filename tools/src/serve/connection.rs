//! One client connection: a task on a shard's thread.
//!
//! In:     pipelined requests; outcomes, from the threads of all shards.
//! Out:    replies, in the order of their requests.
//! Cost:   per wake-up one read, one write and one lock, however many requests or outcomes there are; per
//!         command one copy of key and value, no allocation.
//! Fails:  bytes that are not the protocol are answered with an error, after what was asked before them, and the
//!         connection is closed.
//!
//! Bounds: at most [`PENDING_MAX`] requests wait for their outcome and about [`OUTPUT_BYTES_MAX`] of replies wait for
//! the client; beyond either nothing more is read until there is room. What is read and not yet run has
//! [`INPUT_BYTES_FREE`] to itself, and beyond that a [`Share`] of what all connections may hold together
//! ([`INPUT_BYTES_MAX`]); who needs more than is left is told so and closed.

use super::{
    Server,
    commands::{self, After, Data, Session},
    machine::{Encoder, Reply},
};
use crate::resp::{self, Proto};
use bytes::{Buf, Bytes, BytesMut};
use logdrive::{Completions, Outcome, ProposeError};
use std::{
    collections::VecDeque,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    net::TcpStream,
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
    /// What `input` has beyond its free bytes.
    share: Share,
    output: BytesMut,
    scratch: BytesMut,
    read_bytes: usize,
    /// Requests were left in `input` because a bound was reached.
    held: bool,
    /// Nothing more is read; what is owed is still answered.
    closing: bool,
    _seat: Seat,
}

struct Pending {
    answer: Answer,
    slot: u16,
    proto: Proto,
}

enum Answer {
    /// The group has not said yet.
    Waiting,
    /// What the state machine answered.
    Applied(Bytes),
    /// Ready for the wire.
    Wire(Bytes),
}

impl Connection {
    /// Takes over an accepted socket. Must be called on a runtime's thread.
    pub(crate) fn new(
        stream: std::net::TcpStream,
        server: Arc<Server>,
        seat: Seat,
    ) -> std::io::Result<Self> {
        let stream = TcpStream::from_std(stream)?;
        let sink = Arc::new(Sink::default());
        let share = Share::of(&server.input_bytes, server.input_bytes_max);
        Ok(Self {
            session: Session::new(server.next_client_id(), stream.peer_addr()?),
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
            output: BytesMut::new(),
            scratch: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            held: false,
            closing: false,
            _seat: seat,
        })
    }

    fn round(&mut self, cx: &mut Context<'_>) -> std::io::Result<Progress> {
        self.take_outcomes(cx.waker());
        self.settle();
        if self.held {
            self.run_requests();
        }
        let read = !self.held && !self.closing && self.poll_read(cx)?;
        if read {
            self.run_requests();
        }
        let wrote = self.poll_write(cx)?;
        if self.closing && self.pending.is_empty() && self.output.is_empty() {
            return Ok(Progress::Done);
        }
        let room_made = wrote && (self.held || self.front_is_answered());
        Ok(if read || room_made { Progress::Some } else { Progress::None })
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

    /// Runs the requests that are complete in the input, as far as the bounds allow.
    fn run_requests(&mut self) {
        loop {
            self.held = self.pending.len() >= PENDING_MAX
                || self.output.len() + self.pending_bytes >= OUTPUT_BYTES_MAX;
            if self.held || self.closing {
                return;
            }
            match resp::parse_request(&mut self.input) {
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
                    }
                },
                Ok(None) => return,
                Err(error) => {
                    self.answer(|_, _, out| resp::write_error(out, &format!("ERR {error}")));
                    self.closing = true;
                }
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
        if !self.share.set(self.input.capacity().saturating_sub(INPUT_BYTES_FREE)) {
            self.input = BytesMut::new();
            self.share.set(0);
            self.answer(|_, _, out| {
                resp::write_error(out, "ERR unfinished requests of all clients are at their bound");
            });
            self.closing = true;
            return Ok(false);
        }
        let room = self.input.capacity() - self.input.len();
        let Poll::Ready(read) = pin!(self.stream.read_buf(&mut self.input)).poll(cx) else {
            return Ok(false);
        };
        let bytes = read?;
        if bytes == 0 {
            self.closing = true;
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
        for _ in 0..ROUNDS_MAX {
            match connection.round(cx) {
                Ok(Progress::Some) => {}
                Ok(Progress::None) => return Poll::Pending,
                Ok(Progress::Done) | Err(_) => return Poll::Ready(()),
            }
        }
        // The shard's other tasks come first: a client that never pauses must not stop its groups.
        cx.waker().wake_by_ref();
        Poll::Pending
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

    /// Makes the share `bytes` large. False if there is not so much left; then it is as before.
    fn set(&mut self, bytes: usize) -> bool {
        if let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) {
            let taken = self.taken.fetch_add(more, Ordering::Relaxed);
            if taken.saturating_add(more) > self.max {
                self.taken.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
        } else {
            self.taken.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// What the unfinished requests of all connections of a node may hold, beside [`INPUT_BYTES_FREE`] each: room for eight
/// of the largest at once, whose buffers double as they grow.
pub(crate) const INPUT_BYTES_MAX: usize = 256 << 20;
const _: () = assert!(INPUT_BYTES_MAX >= 8 * 2 * resp::FRAME_BYTES_MAX);
/// What a connection may read ahead of its requests whatever the others do.
const INPUT_BYTES_FREE: usize = 2 * READ_BYTES_MAX;
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
mod tests {
    use super::*;
    use logdrive::{Applied, LogIndex};
    use std::{sync::atomic::AtomicU32, task::Wake};

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn outcome(token: u64) -> (u64, Outcome) {
        (token, Ok(Applied { index: LogIndex(token), reply: Bytes::new() }))
    }

    #[test]
    fn outcomes_that_come_before_the_task_looks_wake_it_once() {
        let sink = Sink::default();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut taken = Vec::new();
        sink.take(&mut taken, &waker);
        for run in [vec![outcome(0), outcome(1)], vec![outcome(2)]] {
            let mut run = run;
            sink.complete(&mut run);
            assert!(run.is_empty(), "the engine gets an empty buffer back");
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        sink.take(&mut taken, &waker);
        assert_eq!(taken.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1, 2]);
        taken.clear();
        sink.complete(&mut vec![outcome(3)]);
        assert_eq!(count.0.load(Ordering::Relaxed), 2, "it was looked at in between");
    }

    #[test]
    fn seats_are_given_back() {
        let taken = Arc::new(AtomicUsize::new(0));
        let first = Seat::take(&taken, 1);
        assert!(first.is_some());
        assert!(Seat::take(&taken, 1).is_none());
        drop(first);
        assert!(Seat::take(&taken, 1).is_some());
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn shares_are_given_back() {
        let taken = Arc::new(AtomicUsize::new(0));
        let (mut first, mut second) = (Share::of(&taken, 10), Share::of(&taken, 10));
        assert!(first.set(7) && second.set(3));
        assert!(!second.set(4) && second.bytes == 3, "a share that is refused stays as it was");
        assert!(first.set(6) && second.set(4) && second.set(4));
        assert!(!first.set(usize::MAX));
        drop(second);
        assert!(first.set(10));
        drop(first);
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }

    /// A node with one group and no clients, that allows `input_bytes_max`.
    fn server(dir: &std::path::Path, input_bytes_max: usize) -> Server {
        use crate::serve::{cluster::Cluster, slots::Placement};
        use logdrive::{Config, DriverChoice, Founding, Node, NodeId};
        use std::{collections::BTreeMap, sync::atomic::AtomicU64};
        let founding = Founding {
            cluster: "test".to_owned(),
            node: NodeId(1),
            shards: 1,
            settings: BTreeMap::new(),
        };
        Node::init(dir, founding).unwrap();
        let peers = BTreeMap::from([(NodeId(1), "127.0.0.1:0".to_owned())]);
        let mut config = Config::new(dir, peers.clone());
        config.driver = DriverChoice::Portable;
        config.segment_bytes = 1 << 20;
        let node = Node::open(config).unwrap();
        let placement = Placement::new(vec![NodeId(1)], 1, 1);
        let advertise = "127.0.0.1:1".to_owned();
        let cluster = Cluster::new(node.clone(), "test", placement, vec![None], &peers, advertise);
        #[expect(clippy::disallowed_methods, reason = "uptime, told to people")]
        let started = std::time::Instant::now();
        Server {
            node,
            cluster,
            clients: Arc::default(),
            clients_max: 10,
            input_bytes: Arc::default(),
            input_bytes_max,
            client_ids: AtomicU64::new(0),
            client_port: 1,
            started,
        }
    }

    /// Polls the connection until it has read `bytes` that it cannot use yet. False if it ends before.
    async fn has_read(connection: &mut Connection, bytes: usize) -> bool {
        std::future::poll_fn(|cx| match Pin::new(&mut *connection).poll(cx) {
            Poll::Ready(()) => Poll::Ready(false),
            Poll::Pending if connection.input.len() == bytes => Poll::Ready(true),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Sends `bytes` that stay unfinished. False if the connection ends instead.
    async fn begin(client: &mut TcpStream, connection: &mut Connection, bytes: &[u8]) -> bool {
        use tokio::io::AsyncWriteExt;
        let send = async {
            let _ = client.write_all(bytes).await; // it may be closed meanwhile
            std::future::pending().await
        };
        tokio::select! {
            biased;
            read = has_read(connection, bytes.len()) => read,
            () = send => unreachable!("it never ends"),
        }
    }

    /// 10,000 clients that each began a request of 16 MiB would come to 160 GB.
    #[test]
    fn unfinished_requests_of_all_connections_have_a_bound() {
        use tokio::io::AsyncWriteExt;
        const MIB: usize = 1 << 20;
        let home = tempfile::tempdir().unwrap();
        let server = Arc::new(server(&home.path().join("n1"), 4 * MIB));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().unwrap();
            for end in [&client, &stream] {
                end.set_nonblocking(true).unwrap();
            }
            let seat = Seat::take(&server.clients, 10).unwrap();
            let connection = Connection::new(stream, Arc::clone(&server), seat).unwrap();
            (TcpStream::from_std(client).unwrap(), connection)
        };
        let taken = || server.input_bytes.load(Ordering::Relaxed);
        let mut request = b"*2\r\n$4\r\nECHO\r\n$1048576\r\n".to_vec();
        request.resize(request.len() + MIB, b'e');
        request.extend_from_slice(b"\r\n");
        let (end, unfinished) = request.split_last().unwrap();
        runtime.block_on(async {
            let (mut client, mut first) = connect();
            assert!(begin(&mut client, &mut first, unfinished).await);
            assert!(taken() >= MIB - INPUT_BYTES_FREE, "{} bytes are counted", taken());

            // As many more as it takes: one is turned away.
            let mut held = Vec::new();
            let mut turned_away = loop {
                let (mut client, mut connection) = connect();
                let before = taken();
                if !begin(&mut client, &mut connection, unfinished).await {
                    drop(connection);
                    assert_eq!(taken(), before, "it gave back what it held");
                    break client;
                }
                held.push((client, connection));
                assert!(held.len() < 4, "5 times 1 MiB within 4 MiB");
            };
            let mut answer = Vec::new();
            let _ = turned_away.read_to_end(&mut answer).await; // a reset may follow the answer
            assert!(answer.starts_with(b"-ERR unfinished requests"), "{}", answer.escape_ascii());

            // Small requests are served as ever.
            let (mut small, mut connection) = connect();
            small.write_all(b"PING\r\nP").await.unwrap();
            assert!(has_read(&mut connection, 1).await);
            let mut pong = [0; 7];
            small.read_exact(&mut pong).await.unwrap();
            assert_eq!(&pong, b"+PONG\r\n");

            // What was begun is ended, and its memory goes back although the next request has begun.
            held.clear();
            client.write_all(&[*end, b'P']).await.unwrap();
            let mut echo = vec![0; MIB + 12];
            tokio::select! {
                read = client.read_exact(&mut echo) => assert_eq!(read.unwrap(), MIB + 12),
                () = &mut first => panic!("it was turned away"),
            }
            assert!(echo.starts_with(b"$1048576\r\neee"));
            assert!(has_read(&mut first, 1).await);
            assert_eq!(taken(), 0);
        });
        server.node.close().unwrap();
    }

    #[test]
    fn machine_replies_become_resp() {
        let mut out = BytesMut::new();
        write_reply(&mut out, Proto::Resp2, b"+");
        write_reply(&mut out, Proto::Resp2, b"_");
        write_reply(&mut out, Proto::Resp3, b"_");
        write_reply(&mut out, Proto::Resp2, b"$ab");
        write_reply(&mut out, Proto::Resp2, b":\x05\0\0\0\0\0\0\0");
        assert_eq!(&out[..], b"+OK\r\n$-1\r\n_\r\n$2\r\nab\r\n:5\r\n");
    }
}
