//! A connection a peer made to us, read on the thread of the shard it was handed to.
//!
//! In:     an [`Accepted`] connection from the listener.
//! Out:    [`Inbound::deliver`], one call per frame, as long as [`Inbound::has_room`] is true. While several readers have
//!         frames and there is no room for all, each delivers one, and stands behind the others for the next.
//! Cost:   one read call per wake-up while the socket has no more than fits; memory as `receiver` says. While there is
//!         no room, readers wait and are not polled (see `turnstile`).
//! Fails:  the first bad byte ends the connection; nothing of its frame is delivered (see `receiver`).
//! Source: RULES.md N8, N9, I1, I3, I5.

use crate::frame::FrameError;
use crate::handshake::Refusal;
use crate::metrics::{InboundMeter, LogLimit, add};
use crate::{Hello, Lane, LaneMessage, NetError, Receiver, Settings, Turnstile};
use logdrive_raft::{GroupId, Message, NodeId};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A shard's handling of its peers' messages, and of its lanes' comings and goings. The methods are called on the
/// shard's thread, outside of any call of ours: they may send.
pub trait Inbound<M = Message> {
    /// True if another frame may be delivered. Asked before each frame; if the answer is false, it is asked again after
    /// [`Turnstile::made_room`].
    fn has_room(&self) -> bool;

    /// The queue of the readers that deliver here, the same at each call.
    fn turnstile(&self) -> &Turnstile;

    /// All messages of one frame, decoded and checked, in the frame's order. `from` is the hello with which the peer's
    /// process connected. The group decides whether the peer may speak for it, and the code that keeps the messages
    /// decides whether this process of the peer still counts: a later process may be let in before the messages are
    /// looked at.
    fn deliver(&self, from: &Hello, messages: Vec<(GroupId, M)>);

    /// An outbound lane to `peer` is up; `hello` is what the peer said of itself.
    fn up(&self, peer: NodeId, lane: Lane, hello: &Hello);

    /// An outbound lane was lost: everything sent on it since it came up may be lost.
    fn down(&self, peer: NodeId, lane: Lane);

    /// `peer` refused a lane of ours, and will be asked again. After a refusal that is for good
    /// ([`Refusal::is_for_good`]) the node must end, and its directory be used no more.
    fn refused(&self, peer: NodeId, refusal: Refusal);

    /// This node has dialled `peer` and refused what it heard; it will dial again.
    fn turned_away(&self, peer: NodeId, refusal: Refusal);
}

/// A peer's connection after the handshake, on its way to the shard that will read it.
#[derive(Debug)]
pub struct Accepted {
    /// The peer's hello.
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
///
/// A connection of a lane on which no message of the kind `M` travels is closed at once.
pub async fn receive<M: LaneMessage>(
    accepted: Accepted,
    settings: &Settings,
    inbound: Rc<dyn Inbound<M>>,
) -> NetError {
    let Accepted { hello, stream, lease, meter } = accepted;
    let error = match TcpStream::from_std(stream) {
        Ok(_) if !M::travels_on(hello.lane) => FrameError::Lane(hello.lane as u8).into(),
        Ok(stream) => read_frames(stream, &hello, lease, &meter, settings, &*inbound).await,
        Err(error) => NetError::Io(error),
    };
    let (peer, lane) = (hello.node, hello.lane);
    match &error {
        NetError::Frame(_) | NetError::Codec(_) => {
            add(&meter.bad_frames, 1);
            BAD_FRAMES.with(|log| {
                if let Some(more) = log.pass(Instant::now()) {
                    tracing::error!(%peer, ?lane, %error, more, "a peer's connection was closed: it sent bytes that cannot be right");
                }
            });
        }
        error => tracing::debug!(%peer, ?lane, %error, "a peer's connection ended"),
    }
    error
}

async fn read_frames<M: LaneMessage>(
    mut stream: TcpStream,
    hello: &Hello,
    mut lease: watch::Receiver<()>,
    meter: &InboundMeter,
    settings: &Settings,
    inbound: &dyn Inbound<M>,
) -> NetError {
    let mut receiver: Receiver<M> = Receiver::new(hello, settings);
    // When the frame that has not ended began.
    let mut began: Option<Instant> = None;
    loop {
        let deadline = began.map(|began| began + receiver.patience());
        let read = tokio::select! {
            biased;
            _ = lease.changed() => return NetError::Replaced,
            read = stream.read_buf(receiver.room()) => read,
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                return NetError::Timeout("rest of a frame");
            }
        };
        match read {
            Ok(0) => return receiver.ended(),
            Ok(bytes) => add(&meter.bytes, bytes as u64),
            Err(error) => return NetError::Io(error),
        }
        loop {
            let pass = inbound.turnstile().pass(|| inbound.has_room()).await;
            let messages = match receiver.next(|| lease.has_changed().is_err()) {
                Ok(Some(messages)) => messages,
                Ok(None) => break,
                Err(error) => return error,
            };
            add(&meter.frames, 1);
            add(&meter.messages, messages.len() as u64);
            began = None;
            inbound.deliver(hello, messages);
            drop(pass);
            if hello.lane == Lane::Bulk {
                // Its bytes may come without end, and each frame is work: the thread's other tasks run in between.
                tokio::task::yield_now().await;
            }
        }
        if !receiver.is_inside_frame() {
            began = None;
        } else if began.is_none() {
            began = Some(Instant::now());
        }
    }
}

thread_local! {
    static BAD_FRAMES: LogLimit = const { LogLimit::new(Duration::from_secs(1)) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LaneQueue, Sent};
    use logdrive_raft::{Heartbeat, LogId, LogIndex, Term};
    use std::cell::{Cell, RefCell};
    use std::io::Write;
    use tokio::task::{spawn_local, yield_now};

    /// Takes frames while it has room, and replaces their connection after `replaces_at` of them.
    struct Taker {
        turnstile: Turnstile,
        room: Cell<u32>,
        lease: RefCell<Option<watch::Sender<()>>>,
        delivered: Cell<u32>,
        replaces_at: u32,
    }

    impl Inbound for Taker {
        fn has_room(&self) -> bool {
            self.room.get() > 0
        }

        fn turnstile(&self) -> &Turnstile {
            &self.turnstile
        }

        fn deliver(&self, from: &Hello, _: Vec<(GroupId, Message)>) {
            assert_eq!(*from, hello());
            self.room.update(|before| before - 1);
            self.delivered.update(|before| before + 1);
            if self.delivered.get() == self.replaces_at {
                self.lease.take();
            }
        }

        fn up(&self, _: NodeId, _: Lane, _: &Hello) {}
        fn down(&self, _: NodeId, _: Lane) {}

        fn refused(&self, _: NodeId, _: Refusal) {}
        fn turned_away(&self, _: NodeId, _: Refusal) {}
    }

    impl Taker {
        fn make_room(&self, frames: u32) {
            self.room.set(frames);
            self.turnstile.made_room();
        }
    }

    fn hello() -> Hello {
        Hello { lane: Lane::Liveness, ..Hello::of(2) }
    }

    /// A peer's end of a connection, the connection, and whoever takes its frames.
    fn connection(replaces_at: u32) -> (std::net::TcpStream, Accepted, Rc<Taker>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let (sender, lease) = watch::channel(());
        let (room, delivered) = (Cell::new(u32::MAX), Cell::new(0));
        let turnstile = Turnstile::default();
        let taker = Taker { turnstile, room, lease: Some(sender).into(), delivered, replaces_at };
        let accepted = Accepted { hello: hello(), stream, lease, meter: Arc::default() };
        (peer, accepted, Rc::new(taker))
    }

    /// One after the other, each in a frame of its own.
    fn frames(count: u64) -> Vec<u8> {
        frames_of(2, count)
    }

    fn frames_of(node: u64, count: u64) -> Vec<u8> {
        let from = Hello { node: NodeId(node), ..hello() };
        let mut queue = LaneQueue::new(&from, Lane::Liveness, &Settings::default());
        queue.set_up(Hello { node: NodeId(1), ..hello() });
        for n in 1..=count {
            let beat = Message::Heartbeat(Heartbeat {
                term: Term(1),
                commit: LogIndex(n),
                matched: LogId::ZERO,
            });
            let sent = queue.send(&mut vec![(GroupId(n), beat)], |_, _| panic!("too large"));
            assert_eq!(sent, Sent::Taken);
        }
        queue.waiting().to_vec()
    }

    fn run(test: impl Future<Output = ()>) {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        let options = tokio::runtime::LocalOptions::default();
        builder.enable_all().build_local(options).unwrap().block_on(test);
    }

    #[test]
    fn what_one_read_brought_is_not_delivered_beyond_the_frame_that_ends_the_connection() {
        run(async {
            let (mut peer, accepted, taker) = connection(2);
            peer.write_all(&frames(5)).unwrap();
            let end = receive(accepted, &Settings::default(), taker.clone()).await;
            assert!(matches!(end, NetError::Replaced), "{end:?}");
            assert_eq!(taker.delivered.get(), 2);
        });
    }

    /// The bug: a reader delivered all that a read had brought, and the shard took turn after turn for it in between:
    /// the thread's other tasks had to wait until all was done.
    #[test]
    fn a_reader_without_room_lets_other_tasks_run_and_delivers_the_rest_later() {
        run(async {
            let (mut peer, accepted, taker) = connection(u32::MAX);
            taker.room.set(2);
            peer.write_all(&frames(5)).unwrap();
            drop(peer);
            let inbound = taker.clone();
            let reading =
                spawn_local(async move { receive(accepted, &Settings::default(), inbound).await });
            while taker.delivered.get() < 2 {
                yield_now().await;
            }
            for _ in 0..100 {
                yield_now().await;
            }
            assert_eq!(taker.delivered.get(), 2, "no more than there is room for");
            taker.make_room(2);
            while taker.delivered.get() < 4 {
                yield_now().await;
            }
            taker.make_room(2);
            let end = reading.await.unwrap();
            assert!(matches!(end, NetError::Closed), "{end:?}");
            assert_eq!((taker.delivered.get(), taker.room.get()), (5, 1));
        });
    }

    /// Counts the frames of each node, and has room for a few until the next turn.
    struct Counter {
        turnstile: Turnstile,
        room: Cell<u32>,
        delivered: RefCell<[u32; READERS]>,
    }

    const READERS: usize = 3;

    impl Inbound for Counter {
        fn has_room(&self) -> bool {
            self.room.get() > 0
        }

        fn turnstile(&self) -> &Turnstile {
            &self.turnstile
        }

        fn deliver(&self, from: &Hello, _: Vec<(GroupId, Message)>) {
            self.room.update(|before| before - 1);
            self.delivered.borrow_mut()[usize::try_from(from.node.get()).unwrap() - 2] += 1;
        }

        fn up(&self, _: NodeId, _: Lane, _: &Hello) {}
        fn down(&self, _: NodeId, _: Lane) {}

        fn refused(&self, _: NodeId, _: Refusal) {}
        fn turned_away(&self, _: NodeId, _: Refusal) {}
    }

    /// The bug: readers that had no room yielded to each other, and the runtime woke the last of them first. With two
    /// readers whose frames never end, a third one, such as that of the votes and heartbeats, delivered nothing.
    #[test]
    fn a_reader_beside_two_with_endless_frames_delivers_as_often_as_each_of_them() {
        const TURNS: u32 = 200;
        for room in 1..=4 {
            run(async {
                let room = Cell::new(room);
                let (turnstile, delivered) = (Turnstile::default(), RefCell::default());
                let counter = Rc::new(Counter { turnstile, room, delivered });
                let most = counter.room.get();
                let mut readers = Vec::new();
                let mut peers = Vec::new();
                for node in 2..2 + READERS as u64 {
                    let (mut peer, accepted, lease) = connection(u32::MAX);
                    let accepted =
                        Accepted { hello: Hello { node: NodeId(node), ..hello() }, ..accepted };
                    peer.write_all(&frames_of(node, u64::from(4 * TURNS))).unwrap();
                    peers.push((peer, lease));
                    let inbound = counter.clone();
                    readers.push(spawn_local(async move {
                        receive(accepted, &Settings::default(), inbound).await
                    }));
                }
                for turn in 0..TURNS {
                    // The turn's task, too, runs after those that it finds in the queue.
                    while counter.room.get() > 0 {
                        yield_now().await;
                    }
                    let delivered = *counter.delivered.borrow();
                    let (least, all) =
                        (delivered.iter().min().unwrap(), delivered.iter().sum::<u32>());
                    // One frame of each other reader may be first, and all have to arrive at the start.
                    let due = (all / 3).saturating_sub(4 + most);
                    assert!(*least >= due, "after {turn} turns of {most}: {delivered:?}");
                    counter.room.set(most);
                    counter.turnstile.made_room();
                }
            });
        }
    }

    #[test]
    fn what_comes_between_two_reads_after_the_connection_was_replaced_is_not_delivered() {
        run(async {
            let (mut peer, accepted, taker) = connection(u32::MAX);
            let bytes = frames(2);
            let (first, second) = bytes.split_at(frames(1).len());
            peer.write_all(first).unwrap();
            let inbound = taker.clone();
            let reading =
                spawn_local(async move { receive(accepted, &Settings::default(), inbound).await });
            while taker.delivered.get() == 0 {
                yield_now().await;
            }
            // Both are there when the connection is looked at next.
            peer.write_all(second).unwrap();
            taker.lease.take();
            let end = reading.await.unwrap();
            assert!(matches!(end, NetError::Replaced), "{end:?}");
            assert_eq!(taker.delivered.get(), 1);
        });
    }
}
