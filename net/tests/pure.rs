//! Two nodes without sockets: the parts that decide, put together as a simulator puts them together.

mod common;

use common::{A, B};
use logdrive_net::handshake::MessageReader;
use logdrive_net::stores::{Acquaintances, Heard, PeerStores};
use logdrive_net::{
    Door, Greeted, Hello, Lane, LaneQueue, LeaseId, NetError, Receiver, Refusal, Sent, Settings,
    Turned,
};
use logdrive_raft::{GroupId, Heartbeat, LogId, LogIndex, Message, NodeId, Term};
use std::collections::HashSet;
use std::sync::Arc;

fn hello(node: NodeId, incarnation: u64) -> Hello {
    Hello { incarnation, ..common::hello(node, Lane::Liveness) }
}

fn heartbeat(n: u64) -> (GroupId, Message) {
    (
        GroupId(n),
        Message::Heartbeat(Heartbeat { term: Term(1), commit: LogIndex(n), matched: LogId::ZERO }),
    )
}

/// One handshake message that comes in pieces of 10 bytes.
fn in_pieces(mut bytes: &[u8]) -> Vec<u8> {
    let mut reader = MessageReader::new();
    loop {
        let room = reader.room();
        let taken = 10.min(room.len()).min(bytes.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        bytes = &bytes[taken..];
        if let Some(message) = reader.filled(taken).expect("a message of ours") {
            assert!(bytes.is_empty());
            return message.to_vec();
        }
    }
}

/// The node B: its door, and the leases that have ended.
struct Acceptor {
    door: Door,
    ended: HashSet<LeaseId>,
}

/// One connection from A to B: A's lane, and what reads it at B.
struct Connection {
    queue: LaneQueue,
    receiver: Receiver,
    lease: LeaseId,
}

impl Acceptor {
    /// Dials, and once more if B did not know this incarnation of A yet.
    fn dialled_by(&mut self, me: &Hello, stores: &Acquaintances) -> Result<Connection, NetError> {
        for _ in 0..2 {
            let hello = in_pieces(&stores.present(me, B).encode(B));
            let (said, let_in) = match self.door.greet(&hello) {
                Ok(Greeted::Welcome(welcome)) => {
                    self.ended.extend(welcome.ended.iter().copied());
                    (welcome.answer, Some((welcome.lease, welcome.hello)))
                }
                Ok(Greeted::Introduced { answer }) => (answer, None),
                Err(Turned { answer: Some(answer), .. }) => (answer, None),
                Err(Turned { error, answer: None, .. }) => return Err(error),
            };
            let heard = stores.hear(me, B, &in_pieces(&said))?;
            let (Heard::Introduced(acceptor) | Heard::Up(acceptor)) = &heard;
            stores.note(acceptor).expect("nothing to save");
            match heard {
                Heard::Introduced(_) => {}
                Heard::Up(peer) => {
                    let (lease, hello) = let_in.expect("a welcome");
                    let settings = Settings::default();
                    let mut queue = LaneQueue::new(me, me.lane, &settings);
                    queue.set_up(peer);
                    let receiver = Receiver::new(&hello, &settings);
                    return Ok(Connection { queue, receiver, lease });
                }
            }
        }
        panic!("introduced twice");
    }

    /// Moves at most `bytes` of what waits; returns the groups of the messages that B delivers.
    fn moves(&self, on: &mut Connection, bytes: usize) -> Result<Vec<GroupId>, NetError> {
        let piece = &on.queue.waiting()[..bytes.min(on.queue.waiting().len())];
        let taken = on.receiver.read(piece);
        on.queue.advance(taken);
        let mut delivered = Vec::new();
        while let Some(messages) = on.receiver.next(|| self.ended.contains(&on.lease))? {
            delivered.extend(messages.iter().map(|(group, _)| *group));
        }
        Ok(delivered)
    }
}

#[test]
fn two_nodes_meet_talk_and_part_without_a_socket() {
    let its = Arc::new(Acquaintances::forgetful(0, 1, &[A]));
    let mut b = Acceptor { door: Door::new(hello(B, 1), vec![A, B], its), ended: HashSet::new() };
    // A's directory, and what its incarnations remember of B.
    let mut stores = PeerStores::default();
    let mut life = |incarnation| {
        stores.open(0, incarnation, [B], &mut || incarnation);
        let life = Acquaintances::new(stores.clone(), Box::new(|_| Ok(())));
        stores.note(&hello(B, 1));
        life
    };
    let (first, second) = (life(1), life(2));
    let mut old = b.dialled_by(&hello(A, 1), &first).expect("a known peer");
    let sent = old.queue.send(&mut vec![heartbeat(1), heartbeat(2)], |_, _| panic!("too large"));
    assert_eq!(sent, Sent::Taken);
    assert!(b.moves(&mut old, 60).expect("half a frame").is_empty());
    assert_eq!(b.moves(&mut old, 600).expect("the rest"), [GroupId(1), GroupId(2)]);

    // A's next incarnation dials while a frame of the old one is half read: that frame is never delivered.
    let _ = old.queue.send(&mut vec![heartbeat(3)], |_, _| panic!("too large"));
    assert!(b.moves(&mut old, 60).expect("half a frame").is_empty());
    let mut new = b.dialled_by(&hello(A, 2), &second).expect("a later life");
    let _ = new.queue.send(&mut vec![heartbeat(4)], |_, _| panic!("too large"));
    assert_eq!(b.moves(&mut new, 600).expect("a new connection"), [GroupId(4)]);
    assert!(matches!(b.moves(&mut old, 600), Err(NetError::Replaced)));

    let late = b.dialled_by(&hello(A, 1), &first).err();
    assert!(matches!(late, Some(NetError::RefusedByPeer(Refusal::Copy))), "{late:?}");
}
