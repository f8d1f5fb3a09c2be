//! A shard's way out: a liveness lane and an append lane to each peer.
//!
//! In:     batches for a peer, from the shard's own thread.
//! Out:    frames on that peer's connections.
//! Cost:   two tasks per peer, asleep unless a socket is full or a peer away.
//! Fails:  [`Sent::Dropped`]; see `lane`.
//! Source: RULES.md A6.

use crate::lane::Link;
use crate::metrics::LaneStats;
use crate::peer::Dialer;
use crate::stores::Acquaintances;
use crate::{Hello, Inbound, Lane, Sent, Settings};
use logdrive_raft::{GroupId, Message, NodeId};
use std::rc::Rc;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// One shard's connections to all its peers. Dropping it closes them, without [`Inbound::down`].
pub struct Outbound {
    peers: Vec<Peer>,
}

struct Peer {
    node: NodeId,
    /// In the order of [`Lane::ALL`].
    lanes: [(Rc<Link>, JoinHandle<()>); Lane::ALL.len()],
}

impl Outbound {
    /// Dials every peer (`host:port`, resolved anew at each attempt) and keeps dialling. Call it on the
    /// shard's runtime. `me.lane` does not matter; `stores` is what all of the node's threads know of its peers'
    /// directories.
    ///
    /// Panics if [`Hello::check`] fails for `me`, if a peer is listed twice or is this node itself, or
    /// outside a runtime that can `spawn_local`.
    #[must_use]
    pub fn start(
        me: Hello,
        peers: Vec<(NodeId, String)>,
        stores: &Arc<Acquaintances>,
        settings: Settings,
        inbound: Rc<dyn Inbound>,
    ) -> Self {
        check(&me, &peers);
        let start = |(node, address): (NodeId, String)| {
            let lanes = Lane::ALL.map(|lane| {
                Dialer::start(&me, node, address.clone(), lane, stores, &settings, &inbound)
            });
            Peer { node, lanes }
        };
        Self { peers: peers.into_iter().map(start).collect() }
    }

    /// Sends a batch and empties it, unless any of it is dropped: then it is left as it was, so that
    /// its groups can be told. Bytes that the socket takes have left when `send` returns. An unknown peer is
    /// one whose lane is down.
    pub fn send(&self, peer: NodeId, lane: Lane, messages: &mut Vec<(GroupId, Message)>) -> Sent {
        match self.link(peer, lane) {
            Some(link) => link.send(messages),
            None => Sent::Dropped,
        }
    }

    /// True from [`Inbound::up`] until the lane is lost.
    #[must_use]
    pub fn is_up(&self, peer: NodeId, lane: Lane) -> bool {
        self.link(peer, lane).is_some_and(Link::is_up)
    }

    /// The peer's latest hello on any lane, even if the peer is away now.
    #[must_use]
    pub fn peer_hello(&self, peer: NodeId) -> Option<Hello> {
        let lanes = &self.peers.iter().find(|p| p.node == peer)?.lanes;
        lanes.iter().filter_map(|(link, _)| link.hello()).max_by_key(|hello| hello.incarnation)
    }

    /// Ends the pause before the next dial: the peer has just shown that it is there.
    pub fn dial_now(&self, peer: NodeId) {
        for lane in Lane::ALL {
            if let Some(link) = self.link(peer, lane)
                && !link.is_up()
            {
                link.hurry.notify_waiters();
            }
        }
    }

    /// Every lane's counts.
    pub fn stats(&self) -> impl Iterator<Item = (NodeId, Lane, LaneStats)> + '_ {
        self.peers
            .iter()
            .flat_map(|peer| &peer.lanes)
            .map(|(link, _)| (link.peer, link.lane, link.stats()))
    }

    fn link(&self, peer: NodeId, lane: Lane) -> Option<&Link> {
        let peer = self.peers.iter().find(|p| p.node == peer)?;
        peer.lanes.iter().map(|(link, _)| &**link).find(|link| link.lane == lane)
    }
}

/// Panics if `me` is out of bounds, or a peer is listed twice or is this node itself.
pub(crate) fn check(me: &Hello, peers: &[(NodeId, String)]) {
    if let Err(error) = me.check() {
        panic!("our own hello: {error}");
    }
    for (at, (node, _)) in peers.iter().enumerate() {
        assert!(*node != me.node, "{node:?} cannot be its own peer");
        assert!(peers[..at].iter().all(|(other, _)| other != node), "{node:?} is listed twice");
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        for (_, task) in self.peers.iter().flat_map(|peer| &peer.lanes) {
            task.abort();
        }
    }
}
