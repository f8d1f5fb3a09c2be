//! A thread's bulk lanes: a connection to each peer for snapshots, as long as there is something to send.
//!
//! In:     messages for a peer, from the thread that started this.
//! Out:    frames on the peer's bulk lane, which is dialled for the first message and closed when nothing was sent for
//!         `bulk_idle_timeout`.
//! Cost:   a task per peer, which sleeps; a connection and at most `bulk_lane_bytes_max` per peer that is sent something.
//! Fails:  [`Sent::Dropped`] if the lane is full, or rests after a failure; [`Inbound::down`] if what was taken may be lost.
//! Source: RULES.md invariant 23 (bounds), D1 (slow peers), N10; `snapshots` has the messages.
//!
//! The connections are none of the other lanes': a bulk lane that is full, or that its peer does not read, costs its bound,
//! and holds up nothing else.

use crate::lane::Link;
use crate::metrics::LaneStats;
use crate::outbound::check;
use crate::peer::Dialer;
use crate::snapshots::SnapshotMessage;
use crate::stores::Acquaintances;
use crate::{Hello, Inbound, Lane, Sent, Settings};
use logdrive_raft::{GroupId, NodeId};
use std::rc::Rc;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// A thread's bulk lanes to all peers. Dropping it closes them, without [`Inbound::down`].
pub struct BulkOutbound {
    peers: Vec<(Rc<Link>, JoinHandle<()>)>,
}

impl BulkOutbound {
    /// Dials nobody yet. Arguments, panics and the thread's runtime are as for [`crate::Outbound::start`]. A shard's bulk
    /// lanes take the place of its earlier ones at the peer, so one thread sends for each shard that `me` names.
    ///
    /// [`Inbound::up`] is called when a lane is connected, and [`Inbound::down`] when it is lost or cannot be connected:
    /// then all that was taken since the lane was last closed may be lost. A lane that is closed because nothing was sent is
    /// not told of.
    #[must_use]
    pub fn start(
        me: &Hello,
        peers: Vec<(NodeId, String)>,
        stores: &Arc<Acquaintances>,
        settings: &Settings,
        inbound: &Rc<dyn Inbound<SnapshotMessage>>,
    ) -> Self {
        check(me, &peers);
        let lane = |(peer, address)| {
            Dialer::start(me, peer, address, Lane::Bulk, stores, settings, inbound)
        };
        Self { peers: peers.into_iter().map(lane).collect() }
    }

    /// Sends `messages` and empties them, unless any of them is dropped: then they are left as they were, though the first
    /// of them may be on their way. Opens the lane if it is closed. An unknown peer is one whose lane rests.
    pub fn send(&self, peer: NodeId, messages: &mut Vec<(GroupId, SnapshotMessage)>) -> Sent {
        match self.link(peer) {
            Some(link) => link.send(messages),
            None => Sent::Dropped,
        }
    }

    /// Ends once the socket has taken all that was sent to `peer`, or that is lost. A sender of more than the lane's bound
    /// waits for this in between.
    pub async fn drained(&self, peer: NodeId) {
        if let Some(link) = self.link(peer) {
            link.drained().await;
        }
    }

    /// Every lane's counts.
    pub fn stats(&self) -> impl Iterator<Item = (NodeId, LaneStats)> + '_ {
        self.peers.iter().map(|(link, _)| (link.peer, link.stats()))
    }

    fn link(&self, peer: NodeId) -> Option<&Link> {
        self.peers.iter().map(|(link, _)| &**link).find(|link| link.peer == peer)
    }
}

impl Drop for BulkOutbound {
    fn drop(&mut self) {
        self.peers.iter().for_each(|(_, task)| task.abort());
    }
}
