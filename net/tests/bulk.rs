//! Bulk lanes on loopback: when they are open, what they cost, and that they hold up nothing else.

mod common;
#[path = "common/local.rs"]
mod local;

use bytes::{Bytes, BytesMut};
use common::{A, B};
use local::{PATIENCE, run, settings, stores, until};
use logdrive_net::codec::CodecError;
use logdrive_net::frame::{FrameError, FrameOrigin, FrameWriter};
use logdrive_net::snapshots::{
    BULK_BODY_BYTES_MAX, Lack, PartBytes, PartLack, RANGE_BYTES_MAX, SnapshotMessage,
};
use logdrive_net::stores::Heard;
use logdrive_net::{
    Accepted, BulkOutbound, Hello, Inbound, InboundMeter, Lane, LaneMessage, LaneStats, Listener,
    NetError, Outbound, Refusal, Sent, Settings, Turnstile, receive,
};
use logdrive_raft::{
    AppendEntries, EntryBatch, GroupId, Heartbeat, LogId, LogIndex, Message, NodeId, Term,
};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{spawn_local, yield_now};
use tokio::time::sleep;

fn hello(node: NodeId) -> Hello {
    common::hello(node, Lane::Bulk)
}

/// Takes messages of one kind, and counts what it is told of the lanes.
struct Taker<M> {
    turnstile: Turnstile,
    delivered: RefCell<Vec<M>>,
    ups: Cell<u32>,
    downs: Cell<u32>,
    /// The rounds that another task of the thread has counted, and the frames that were delivered since.
    ticks: Cell<u64>,
    ticks_before: Cell<u64>,
    burst: Cell<u32>,
    burst_max: Cell<u32>,
}

impl<M> Default for Taker<M> {
    fn default() -> Self {
        Self {
            turnstile: Turnstile::default(),
            delivered: RefCell::default(),
            ups: Cell::new(0),
            downs: Cell::new(0),
            ticks: Cell::new(0),
            ticks_before: Cell::new(0),
            burst: Cell::new(0),
            burst_max: Cell::new(0),
        }
    }
}

impl<M> Inbound<M> for Taker<M> {
    fn has_room(&self) -> bool {
        true
    }

    fn turnstile(&self) -> &Turnstile {
        &self.turnstile
    }

    fn deliver(&self, from: &Hello, messages: Vec<(GroupId, M)>) {
        assert_eq!(from.node, A);
        self.delivered.borrow_mut().extend(messages.into_iter().map(|(_, message)| message));
        if self.ticks_before.replace(self.ticks.get()) != self.ticks.get() {
            self.burst.set(0);
        }
        self.burst.update(|frames| frames + 1);
        self.burst_max.set(self.burst_max.get().max(self.burst.get()));
    }

    fn up(&self, peer: NodeId, _: Lane, _: &Hello) {
        assert_eq!(peer, B);
        self.ups.update(|ups| ups + 1);
    }

    fn down(&self, peer: NodeId, _: Lane) {
        assert_eq!(peer, B);
        self.downs.update(|downs| downs + 1);
    }

    fn refused(&self, _: NodeId, refusal: Refusal) {
        panic!("{refusal}");
    }

    fn turned_away(&self, _: NodeId, refusal: Refusal) {
        panic!("{refusal}");
    }
}

/// A listening node, on the thread of the test. Its bulk connections are read, or kept unread.
struct Node {
    address: SocketAddr,
    raft: Rc<Taker<Message>>,
    bulk: Rc<Taker<SnapshotMessage>>,
    meter: Arc<InboundMeter>,
    ends: Rc<RefCell<Vec<NetError>>>,
    unread: Rc<RefCell<Vec<Accepted>>>,
}

impl Node {
    fn b(reads_bulk: bool) -> Self {
        Self::listen(([127, 0, 0, 1], 0).into(), reads_bulk)
    }

    fn listen(address: SocketAddr, reads_bulk: bool) -> Self {
        let listener = Listener::bind(address).expect("a free port");
        let node = Self {
            address: listener.local_address().expect("an address"),
            raft: Rc::default(),
            bulk: Rc::default(),
            meter: listener.meter(),
            ends: Rc::default(),
            unread: Rc::default(),
        };
        let (raft, bulk) = (Rc::clone(&node.raft), Rc::clone(&node.bulk));
        let (ends, unread) = (Rc::clone(&node.ends), Rc::clone(&node.unread));
        let hand_over = Box::new(move |accepted: Accepted| {
            let (raft, bulk, ends) = (raft.clone(), bulk.clone(), ends.clone());
            match accepted.hello.lane {
                Lane::Bulk if !reads_bulk => unread.borrow_mut().push(accepted),
                Lane::Bulk => drop(spawn_local(async move {
                    let end = receive::<SnapshotMessage>(accepted, &settings(), bulk).await;
                    ends.borrow_mut().push(end);
                })),
                _ => drop(spawn_local(async move {
                    receive::<Message>(accepted, &settings(), raft).await;
                })),
            }
        });
        spawn_local(async move {
            let me = Hello { lane: Lane::Append, ..hello(B) };
            let never = Box::new(|_, refusal| panic!("{refusal}"));
            listener.run(me, vec![A, B], stores(), settings(), hand_over, never).await;
        });
        node
    }

    fn delivered(&self) -> usize {
        self.bulk.delivered.borrow().len()
    }
}

fn dial(to: SocketAddr, settings: &Settings) -> (BulkOutbound, Rc<Taker<SnapshotMessage>>) {
    let taker = Rc::new(Taker::default());
    let inbound = Rc::clone(&taker) as Rc<dyn Inbound<SnapshotMessage>>;
    let peers = vec![(B, to.to_string())];
    (BulkOutbound::start(&hello(A), peers, &stores(), settings, &inbound), taker)
}

/// The lanes of Raft's messages beside a bulk lane.
async fn dial_raft(to: SocketAddr) -> (Outbound, Rc<Taker<Message>>) {
    let taker = Rc::new(Taker::default());
    let inbound = Rc::clone(&taker) as Rc<dyn Inbound>;
    let peers = vec![(B, to.to_string())];
    let outbound = Outbound::start(hello(A), peers, &stores(), settings(), inbound);
    until(|| Lane::ALL.iter().all(|lane| outbound.is_up(B, *lane))).await;
    (outbound, taker)
}

fn stats(outbound: &BulkOutbound) -> LaneStats {
    outbound.stats().next().expect("one peer").1
}

/// A small message that names its number.
fn lack(number: u32) -> (GroupId, SnapshotMessage) {
    let part = PartLack { part: number.into(), why: Lack::Absent };
    (GroupId(7), SnapshotMessage::Lack(part))
}

fn range(number: u32) -> (GroupId, SnapshotMessage) {
    let content = Bytes::from(vec![1; RANGE_BYTES_MAX as usize]);
    let part = PartBytes { part: number.into(), total: RANGE_BYTES_MAX, at: 0, content };
    (GroupId(7), SnapshotMessage::Part(part))
}

fn heartbeat(n: u64) -> (GroupId, Message) {
    let beat = Heartbeat { term: Term(1), commit: LogIndex(n), matched: LogId::ZERO };
    (GroupId(n), Message::Heartbeat(beat))
}

fn append(n: u64) -> (GroupId, Message) {
    let entries = EntryBatch::new();
    let (term, prev_log, commit) = (Term(1), LogId::ZERO, LogIndex(n));
    (GroupId(n), Message::AppendEntries(AppendEntries { term, prev_log, commit, entries }))
}

#[test]
fn a_bulk_lane_is_open_as_long_as_something_is_sent_and_no_longer() {
    run(async {
        let b = Node::b(true);
        let quick = Settings { bulk_idle_timeout: Duration::from_millis(300), ..settings() };
        let (outbound, told) = dial(b.address, &quick);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(b.meter.stats().accepted, 0, "nothing is to be sent");
        for round in 1..=3 {
            let first = round * 10;
            // The first ones are taken before the lane is connected.
            for number in first..first + 5 {
                assert_eq!(outbound.send(B, &mut vec![lack(number)]), Sent::Taken);
            }
            assert!(!stats(&outbound).up);
            until(|| stats(&outbound).up).await;
            for number in first + 5..first + 10 {
                assert_eq!(outbound.send(B, &mut vec![lack(number)]), Sent::Taken);
            }
            until(|| !stats(&outbound).up).await;
            until(|| b.ends.borrow().len() == round as usize).await;
            let expected: Vec<_> = (10..first + 10).map(|number| lack(number).1).collect();
            assert_eq!(*b.bulk.delivered.borrow(), expected, "each once, in order");
        }
        assert!(b.ends.borrow().iter().all(|end| matches!(end, NetError::Closed)));
        assert_eq!(b.meter.stats().authenticated, 3);
        assert_eq!((told.ups.get(), told.downs.get()), (3, 0), "nothing was lost");
        assert_eq!((stats(&outbound).connects, stats(&outbound).losses), (3, 0));
    });
}

/// RULES.md N12: a peer that does not read its bulk lane costs that lane's bound, and nothing else.
#[test]
fn votes_and_appends_go_on_while_a_bulk_lane_is_stuffed_and_never_read() {
    run(async {
        let b = Node::b(false);
        let patient = Settings { progress_timeout: 2 * PATIENCE, ..settings() };
        let (raft, raft_told) = dial_raft(b.address).await;
        let (bulk, told) = dial(b.address, &patient);
        stuff(&bulk, &patient).await;
        for n in 1..=200 {
            assert_eq!(raft.send(B, Lane::Liveness, &mut vec![heartbeat(n)]), Sent::Taken);
            assert_eq!(raft.send(B, Lane::Append, &mut vec![append(n)]), Sent::Taken);
            until(|| b.raft.delivered.borrow().len() as u64 == 2 * n).await;
        }
        let queued = stats(&bulk).queued_bytes;
        assert!(queued > 0 && told.downs.get() == 0, "{queued} bytes still wait");
        assert_eq!((raft_told.downs.get(), b.delivered()), (0, 0));

        // It is not waited for for ever either, and then it costs nothing.
        let hasty = Settings { progress_timeout: Duration::from_secs(4), ..settings() };
        let (bulk, told) = dial(b.address, &hasty);
        stuff(&bulk, &hasty).await;
        bulk.drained(B).await;
        until(|| told.downs.get() == 1).await;
        assert_eq!((stats(&bulk).queued_bytes, stats(&bulk).losses), (0, 1));
        assert_eq!((b.delivered(), b.unread.borrow().len()), (0, 2));
    });
}

/// Sends until the lane to a peer that does not read is full, and stays so: the sockets of both ends take some megabytes.
async fn stuff(bulk: &BulkOutbound, settings: &Settings) {
    let (mut sent, bound) = (0, settings.bulk_lane_bytes_max);
    let mut is_taken = true;
    while is_taken {
        is_taken = false;
        while bulk.send(B, &mut vec![range(sent)]) == Sent::Taken {
            (sent, is_taken) = (sent + 1, true);
            assert!(stats(bulk).queued_bytes <= bound);
            yield_now().await;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert!(stats(bulk).queued_bytes + 2 * RANGE_BYTES_MAX as usize > bound, "it is full");
}

/// RULES.md N12.
#[test]
fn votes_and_appends_go_on_beside_a_snapshot_that_one_thread_sends_and_reads() {
    run(async {
        let b = Node::b(true);
        let (raft, _) = dial_raft(b.address).await;
        let (bulk, told) = dial(b.address, &settings());
        let bulk = Rc::new(bulk);
        let sender = Rc::clone(&bulk);
        let sending = spawn_local(async move {
            for number in 0.. {
                while sender.send(B, &mut vec![range(number)]) == Sent::Dropped {
                    sender.drained(B).await;
                }
            }
        });
        until(|| b.delivered() > 0).await;
        for n in 1..=100 {
            let before = b.delivered();
            assert_eq!(raft.send(B, Lane::Liveness, &mut vec![heartbeat(n)]), Sent::Taken);
            assert_eq!(raft.send(B, Lane::Append, &mut vec![append(n)]), Sent::Taken);
            while (b.raft.delivered.borrow().len() as u64) < 2 * n {
                yield_now().await;
            }
            // Ranges that the sockets and the lane hold may come first, and no others.
            let between = b.delivered() - before;
            assert!(between < 64, "{between} ranges were first");
        }
        assert!(b.delivered() > 50, "the snapshot went on, too");
        let all = b.bulk.delivered.borrow();
        let numbers = all.iter().map(|message| match message {
            SnapshotMessage::Part(part) => part.part,
            other => panic!("{other:?}"),
        });
        assert!(numbers.eq(0..all.len() as u128), "each once, in order");
        assert_eq!(told.downs.get(), 0);
        sending.abort();
    });
}

/// A shard's turn must not wait for all frames that one read has brought.
#[test]
fn the_threads_other_tasks_run_between_the_frames_of_a_bulk_lane() {
    run(async {
        let b = Node::b(true);
        let taker = Rc::clone(&b.bulk);
        spawn_local(async move {
            loop {
                taker.ticks.update(|ticks| ticks + 1);
                yield_now().await;
            }
        });
        let (bulk, _) = dial(b.address, &settings());
        for number in 0..500 {
            assert_eq!(bulk.send(B, &mut vec![lack(number)]), Sent::Taken);
        }
        until(|| b.delivered() == 500).await;
        // Of tasks that yield, the runtime runs the last one of a round first in the next.
        assert!(b.bulk.burst_max.get() <= 2, "{} frames in a row", b.bulk.burst_max.get());
    });
}

#[test]
fn what_is_sent_to_a_peer_that_is_away_is_lost_and_told_and_the_lane_rests() {
    run(async {
        let address = Node::b(true).address;
        let gone = {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            socket.local_addr().unwrap()
        };
        assert_ne!(address, gone);
        let slow = Duration::from_secs(1);
        let patient = Settings { backoff_min: slow, backoff_max: slow, ..settings() };
        let (bulk, told) = dial(gone, &patient);
        assert_eq!(bulk.send(B, &mut vec![lack(1)]), Sent::Taken);
        until(|| told.downs.get() == 1).await;
        let mut rests = vec![lack(2)];
        assert_eq!(bulk.send(B, &mut rests), Sent::Dropped);
        assert_eq!(rests, [lack(2)], "left as it was");
        assert_eq!((stats(&bulk).failures, stats(&bulk).queued_bytes), (1, 0));
        let b = Node::listen(gone, true);
        while bulk.send(B, &mut vec![lack(3)]) == Sent::Dropped {
            sleep(Duration::from_millis(1)).await;
        }
        until(|| b.delivered() > 0).await;
        assert_eq!(*b.bulk.delivered.borrow(), [lack(3).1]);
        assert_eq!((told.ups.get(), told.downs.get()), (1, 1));
        assert_eq!(bulk.send(NodeId(9), &mut vec![lack(4)]), Sent::Dropped, "an unknown peer");
    });
}

/// A connection of `lane` to `b`, in the test's own hands, with one frame of this body on it.
async fn framed(b: &Node, lane: Lane, body: &[u8]) -> TcpStream {
    let me = Hello { lane, ..hello(A) };
    let stores = stores();
    let mut stream = loop {
        let mut stream = TcpStream::connect(b.address).await.expect("a listener");
        stream.write_all(&stores.present(&me, B).encode(B)).await.expect("a hello is sent");
        let mut answer = vec![0; 16];
        stream.read_exact(&mut answer).await.expect("an answer");
        let rest = usize::from(u16::from_le_bytes([answer[10], answer[11]]));
        answer.resize(16 + rest, 0);
        stream.read_exact(&mut answer[16..]).await.expect("the rest of the answer");
        let heard = stores.hear(&me, B, &answer).expect("it is let in");
        let (Heard::Introduced(acceptor) | Heard::Up(acceptor)) = &heard;
        stores.note(acceptor).expect("nothing to save");
        if matches!(heard, Heard::Up(_)) {
            break stream;
        }
    };
    let mut buffer = BytesMut::new();
    let origin = FrameOrigin { cluster: me.cluster, source: me.node, lane };
    let mut writer = FrameWriter::new(origin);
    let open = writer.begin(&mut buffer);
    buffer.extend_from_slice(body);
    writer.finish(&mut buffer, open);
    stream.write_all(&buffer).await.expect("a frame is sent");
    stream
}

#[test]
fn a_bulk_lane_takes_no_message_of_rafts_and_no_longer_frame_than_its_own() {
    run(async {
        let b = Node::b(true);
        let mut body = BytesMut::new();
        let (group, message) = heartbeat(7);
        message.encode(&mut body, group);
        let _stream = framed(&b, Lane::Bulk, &body).await;
        until(|| b.ends.borrow().len() == 1).await;
        let unknown = CodecError::UnknownMessage { at: 8, kind: 8 };
        assert!(matches!(&b.ends.borrow()[0], NetError::Codec(error) if *error == unknown));

        let b = Node::b(true);
        let long = vec![1; BULK_BODY_BYTES_MAX as usize + 1];
        let _stream = framed(&b, Lane::Bulk, &long).await;
        until(|| b.ends.borrow().len() == 1).await;
        let (bytes, max) = (BULK_BODY_BYTES_MAX + 1, BULK_BODY_BYTES_MAX);
        let length = FrameError::Length { bytes, max };
        assert!(matches!(&b.ends.borrow()[0], NetError::Frame(error) if *error == length));
        assert_eq!(b.delivered(), 0);
    });
}

/// A node that does not know what to do with a bulk lane closes it.
#[test]
fn a_reader_of_rafts_messages_closes_a_bulk_lane_at_once() {
    run(async {
        let b = Node::b(false);
        let (bulk, told) = dial(b.address, &settings());
        assert_eq!(bulk.send(B, &mut vec![lack(1)]), Sent::Taken);
        until(|| !b.unread.borrow().is_empty()).await;
        let accepted = b.unread.borrow_mut().pop().expect("one");
        let end = receive::<Message>(accepted, &settings(), Rc::clone(&b.raft) as _).await;
        assert!(matches!(end, NetError::Frame(FrameError::Lane(3))), "{end:?}");
        until(|| told.downs.get() == 1).await;
        assert!(b.raft.delivered.borrow().is_empty());
    });
}
