//! A node's front door without its sockets: which dialers it lets in, and which connection of each peer counts.
//!
//! In:     the first message of an end that dialled ([`Door::greet`]).
//! Out:    [`Greeted`]: the answer to send; of a connection that is let in its lease, and the leases that end with it.
//! Cost:   a place per peer, lane and shard of the peer that has ever been let in; looked at once per connection.
//! Fails:  [`Turned`]: why the dialer is turned away, and what it is told, if anything.
//! Source: RULES.md I2, I6, N8, P6, C7, I13.

use crate::handshake::{self, HandshakeError, Refusal, Said};
use crate::stores::{Acquaintances, Meeting};
use crate::{Hello, Lane, NetError};
use logdrive_raft::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The right of one accepted connection to have its frames delivered. Never given twice by one [`Door`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LeaseId(u64);

/// A known peer is let in.
#[derive(Debug)]
pub struct Welcome {
    /// The peer's description of itself.
    pub hello: Hello,
    /// The bytes of the answer that the peer must be sent. It names the shard that reads the connection, which is
    /// `hello.shard` modulo the number of shards here.
    pub answer: Vec<u8>,
    /// The connection's right to deliver, until a later welcome names it among `ended`.
    pub lease: LeaseId,
    /// The leases that end now, before the answer is sent: that of an earlier connection in the same place, or all
    /// of an earlier life of the peer.
    pub ended: Vec<LeaseId>,
}

/// The answer to a dialer that may come.
#[derive(Debug)]
pub enum Greeted {
    /// It is let in.
    Welcome(Box<Welcome>),
    /// It was not remembered in this opening of its directory, and is now: it must be sent the answer, and dials again.
    Introduced {
        /// The bytes of the answer.
        answer: Vec<u8>,
    },
}

/// A dialer is turned away: the connection must be closed.
#[derive(Debug)]
pub struct Turned {
    /// Why.
    pub error: NetError,
    /// The node that the dialer says it is, if its message could be read. Nothing proves it.
    pub dialer: Option<NodeId>,
    /// The message that the dialer must be sent first; nothing if the dialer would not understand an answer.
    pub answer: Option<Vec<u8>>,
}

/// Judges dialers, and gives each connection that it lets in the place that the dialer's hello names.
#[derive(Debug)]
pub struct Door {
    me: Hello,
    known: Vec<NodeId>,
    stores: Arc<Acquaintances>,
    places: Places,
}

impl Door {
    /// The door of the node that says `me` of itself; `known` are the nodes that may dial. `me.lane` and `me.shard`
    /// do not matter. `stores` is what the node knows of its peers' directories.
    #[must_use]
    pub fn new(me: Hello, known: Vec<NodeId>, stores: Arc<Acquaintances>) -> Self {
        Self { me, known, stores, places: Places::default() }
    }

    /// Judges a dialer's first message. A connection that is let in has its place before the answer is sent: frames
    /// that the dialer sends after the answer are then never read beside those of an older connection.
    ///
    /// Blocks while what is met is saved; [`Self::judge`], [`Acquaintances::meet`] and [`Self::answer`] are its steps, for
    /// whoever must not block.
    ///
    /// # Errors
    /// [`Turned`].
    pub fn greet(&mut self, message: &[u8]) -> Result<Greeted, Turned> {
        let hello = self.judge(message)?;
        let met = self.stores.meet(&hello);
        self.answer(hello, met)
    }

    /// Reads a dialer's first message, and says whether the dialer is a known node that meant this one.
    ///
    /// # Errors
    /// [`Turned`].
    pub fn judge(&self, message: &[u8]) -> Result<Hello, Turned> {
        let (hello, to) = match handshake::parse(message) {
            Ok(Said::Hello { hello, to }) => (hello, to),
            Ok(Said::Introduced { .. }) => return Err(self.unreadable(HandshakeError::Kind(3))),
            Ok(Said::Refusal { .. }) => return Err(self.unreadable(HandshakeError::Kind(2))),
            Err(error) => return Err(self.unreadable(error)),
        };
        match handshake::judge(&self.me, &self.known, &hello, to) {
            Ok(()) => Ok(hello),
            Err(refusal) => Err(self.turned(Some(hello.node), NetError::Refused(refusal))),
        }
    }

    /// Answers a judged dialer by how its directory was met.
    ///
    /// # Errors
    /// [`Turned`].
    pub fn answer(
        &mut self,
        hello: Hello,
        met: Result<Meeting, NetError>,
    ) -> Result<Greeted, Turned> {
        let meeting = met.map_err(|error| self.turned(Some(hello.node), error))?;
        let shard = hello.shard % self.me.shards;
        let answer = self.stores.present(&self.me, hello.node);
        let answer = Hello { shard, lane: hello.lane, ..answer };
        if meeting == Meeting::Introduced {
            return Ok(Greeted::Introduced { answer: answer.encode_introduced(hello.node) });
        }
        // A later life may have been let in since the meeting.
        if self.places.has_seen_later(&hello) {
            let error = NetError::Refused(Refusal::EarlierLife);
            return Err(self.turned(Some(hello.node), error));
        }
        let answer = answer.encode(hello.node);
        let (lease, ended) = self.places.take(&hello);
        Ok(Greeted::Welcome(Box::new(Welcome { hello, answer, lease, ended })))
    }

    /// The end of a connection whose hello could not be read.
    pub fn unreadable(&self, error: HandshakeError) -> Turned {
        let error = match handshake::refusal_of(&error) {
            Some(refusal) => NetError::Refused(refusal),
            None => NetError::Handshake(error),
        };
        self.turned(None, error)
    }

    fn turned(&self, dialer: Option<NodeId>, error: NetError) -> Turned {
        let answer = match &error {
            NetError::Refused(refusal) => Some(refusal.encode(self.me.proof.store)),
            _ => None,
        };
        Turned { error, dialer, answer }
    }
}

/// The connection of each peer that counts, by lane and shard. At most three lanes times [`handshake::SHARDS_MAX`]
/// places per known peer.
#[derive(Debug, Default)]
struct Places {
    /// The latest life seen of each peer. Forgotten when this node restarts; so are its connections.
    incarnations: BTreeMap<NodeId, u64>,
    leases: BTreeMap<(NodeId, Lane, u32), LeaseId>,
    given: u64,
}

impl Places {
    fn has_seen_later(&self, hello: &Hello) -> bool {
        let seen = self.incarnations.get(&hello.node);
        seen > Some(&hello.incarnation) && !logdrive_raft::bug!("copy_let_in")
    }

    /// Gives the place of `hello` to its connection. The leases that end are those of an earlier connection in the
    /// same place and of an earlier life of the peer.
    fn take(&mut self, hello: &Hello) -> (LeaseId, Vec<LeaseId>) {
        let mut ended = Vec::new();
        let seen = self.incarnations.insert(hello.node, hello.incarnation);
        assert!(
            seen <= Some(hello.incarnation) || logdrive_raft::bug!("copy_let_in"),
            "{:?} was not refused",
            hello.node
        );
        if seen != Some(hello.incarnation) {
            self.leases.retain(|(node, _, _), lease| {
                let keeps = *node != hello.node;
                if !keeps {
                    ended.push(*lease);
                }
                keeps
            });
        }
        let lease = LeaseId(self.given);
        self.given += 1;
        ended.extend(self.leases.insert((hello.node, hello.lane, hello.shard), lease));
        (lease, ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::Answer;
    use crate::stores::{Opening, Proof};

    fn hello(node: u64) -> Hello {
        Hello { shard: 3, shards: 4, ..Hello::of(node) }
    }

    fn door() -> Door {
        let me = Hello { shard: 0, shards: 2, lane: Lane::Liveness, ..hello(9) };
        let stores = Arc::new(Acquaintances::forgetful(0, 5, &[]));
        Door::new(me, vec![NodeId(1), NodeId(2), NodeId(9)], stores)
    }

    /// Dials as `hello` says, again if it is new here: the peer's lives follow each other.
    fn greet(door: &mut Door, hello: &Hello) -> Result<Welcome, Turned> {
        let opening = |incarnation| Some(Opening { incarnation, nonce: 0 });
        let before = if hello.incarnation > 5 { opening(5) } else { None };
        let mut said = Hello { proof: Proof { noted: before, ..hello.proof }, ..hello.clone() };
        for _ in 0..2 {
            match door.greet(&said.encode(NodeId(9)))? {
                Greeted::Welcome(welcome) => return Ok(*welcome),
                Greeted::Introduced { .. } => said.proof.noted = opening(hello.incarnation),
            }
        }
        panic!("{hello:?} is introduced twice");
    }

    fn let_in(door: &mut Door, hello: &Hello) -> (LeaseId, Vec<LeaseId>) {
        let welcome = greet(door, hello).expect("a known peer");
        assert_eq!(welcome.hello.node, hello.node);
        (welcome.lease, welcome.ended)
    }

    fn refused(door: &mut Door, message: &[u8]) -> Refusal {
        match door.greet(message) {
            Err(Turned { error: NetError::Refused(refusal), dialer, answer }) => {
                assert_eq!(answer, Some(refusal.encode(0)));
                assert_eq!(dialer.is_none(), refusal == Refusal::Malformed);
                refusal
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_peer_is_told_which_shard_reads_it_and_that_it_reached_whom_it_meant() {
        let welcome = greet(&mut door(), &hello(1)).expect("a known peer");
        let heard = handshake::judge_answer(&hello(1), NodeId(9), &welcome.answer);
        let Ok(Answer::Welcome(heard)) = heard else { panic!("{heard:?}") };
        assert_eq!((heard.node, heard.shard, heard.shards), (NodeId(9), 1, 2));
    }

    #[test]
    fn a_newer_connection_takes_only_its_own_place() {
        let mut door = door();
        let (first, _) = let_in(&mut door, &hello(1));
        for other in
            [Hello { lane: Lane::Liveness, ..hello(1) }, Hello { shard: 1, ..hello(1) }, hello(2)]
        {
            assert_eq!(let_in(&mut door, &other).1, []);
        }
        let (second, ended) = let_in(&mut door, &hello(1));
        assert_eq!(ended, [first]);
        assert_eq!(let_in(&mut door, &hello(1)).1, [second], "not the first again");
    }

    #[test]
    fn a_later_life_ends_all_of_the_earlier_one_which_is_then_refused() {
        let mut door = door();
        let (append, _) = let_in(&mut door, &hello(1));
        let (liveness, _) = let_in(&mut door, &Hello { lane: Lane::Liveness, ..hello(1) });
        let (other, _) = let_in(&mut door, &hello(2));
        let reborn = Hello { incarnation: 6, shard: 0, ..hello(1) };
        let (_, ended) = let_in(&mut door, &reborn);
        assert_eq!(ended, [liveness, append]);
        let old = hello(1).encode(NodeId(9));
        assert_eq!(refused(&mut door, &old), Refusal::Copy);
        assert_eq!(let_in(&mut door, &Hello { shard: 1, ..reborn }).1, []);
        assert_eq!(let_in(&mut door, &hello(2)).1, [other], "another peer's life is its own");
    }

    #[test]
    fn a_refused_dialer_takes_no_place() {
        let mut door = door();
        let (first, _) = let_in(&mut door, &hello(1));
        let later = Hello { incarnation: 6, ..hello(1) };
        assert_eq!(refused(&mut door, &later.encode(NodeId(8))), Refusal::WrongNode);
        assert_eq!(refused(&mut door, &hello(4).encode(NodeId(9))), Refusal::UnknownNode);
        assert_eq!(refused(&mut door, &Refusal::Cluster.encode(0)), Refusal::Malformed);
        let silent = door.greet(b"GET / HTTP/1.1\r\n\r\n");
        let Err(Turned { error, dialer: None, answer: None }) = silent else {
            panic!("{silent:?}")
        };
        assert!(matches!(error, NetError::Handshake(HandshakeError::Magic)));
        assert_eq!(let_in(&mut door, &hello(1)).1, [first]);
    }
}
