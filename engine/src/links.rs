//! Which peers a shard can talk to, both ways, and which process of each peer it hears.
//!
//! In:     outbound lanes that come up and go down; whether a peer has a connection open to this node; for each frame,
//!         the process that sent it.
//! Out:    a peer is up once all its lanes are up and it is heard, and down as soon as one lane is down; how the
//!         process that sent a frame compares with the latest process of that peer that was heard.
//! Cost:   a map entry per peer, looked up once per frame.
//! Fails:  never.
//! Source: RULES.md N2, N3 (links that carry one way), N10 (flaps), N8, M14 (restarts).
//!
//! Frames of two processes of a peer may wait at the same time, on connections that several threads read, and be taken
//! in in any order. The front door (`logdrive_net`) lets in no earlier process after a later one, so of two processes
//! that were let in, the one with the higher incarnation is the later. An answer to a dial tells nothing here, because
//! it may come from a directory that the door would refuse.

use crate::NodeId;
use logdrive_net::Lane;
use std::{cmp::Ordering, collections::BTreeMap};

/// A process of a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PeerProcess {
    pub(crate) node: NodeId,
    /// The incarnation of the peer's directory, as the process stated it when it connected.
    pub(crate) incarnation: u64,
}

/// An outbound lane to a peer that came up or went down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneChange {
    pub(crate) peer: NodeId,
    pub(crate) lane: Lane,
    pub(crate) up: bool,
}

/// One shard's links. In the order of their ids, so that the same changes have the same consequences.
#[derive(Default)]
pub(crate) struct Links(BTreeMap<NodeId, Link>);

#[derive(Default)]
struct Link {
    /// In the order of [`Lane::ALL`].
    lanes: [bool; Lane::ALL.len()],
    is_up: bool,
    /// The latest incarnation that was heard.
    heard: Option<u64>,
}

/// A peer that can be talked to from now on, or whose connection broke.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LinkChange {
    Up(NodeId),
    Down(NodeId),
    /// The peer is heard through a later process than before.
    Restarted(NodeId),
}

impl Links {
    /// A lane came up or went down. Returns [`LinkChange::Down`] if the lane went down: everything in flight on it is
    /// lost then.
    pub(crate) fn change(&mut self, change: LaneChange) -> Option<LinkChange> {
        let LaneChange { peer, lane, up } = change;
        let link = self.0.entry(peer).or_default();
        link.lanes[place(lane)] = up;
        link.is_up &= up;
        (!up).then_some(LinkChange::Down(peer))
    }

    /// Compares a process, of which a message is to be taken in, with the latest process of its peer that was heard
    /// before. An earlier process must not be heard, and a later one only after the groups were told of the peer's
    /// restart.
    pub(crate) fn meet(&mut self, process: PeerProcess) -> Ordering {
        let heard = &mut self.0.entry(process.node).or_default().heard;
        let before = *heard.get_or_insert(process.incarnation);
        *heard = Some(before.max(process.incarnation));
        process.incarnation.cmp(&before)
    }

    /// As [`Self::change`], for one of the lanes that changed since the last turn. However often a peer's lanes flap in
    /// that time, `told` gets its fall once: telling of a fall costs a look at all groups, and two falls in a row
    /// change no more than one does.
    pub(crate) fn change_within_turn(&mut self, change: LaneChange, told: &mut Vec<LinkChange>) {
        if let Some(change) = self.change(change)
            && !told.contains(&change)
        {
            told.push(change);
        }
    }

    /// Peers that have come up since: all their lanes are, and they are heard.
    pub(crate) fn risen(&mut self, is_heard: impl Fn(NodeId) -> bool) -> Vec<LinkChange> {
        let down =
            self.0.iter_mut().filter(|(_, link)| !link.is_up && !link.lanes.contains(&false));
        let heard = down.filter(|(peer, _)| is_heard(**peer));
        heard
            .map(|(peer, link)| {
                link.is_up = true;
                LinkChange::Up(*peer)
            })
            .collect()
    }
}

fn place(lane: Lane) -> usize {
    Lane::ALL.iter().position(|known| *known == lane).expect("every lane has a place")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    fn change(links: &mut Links, lane: Lane, is_up: bool) -> Option<LinkChange> {
        links.change(LaneChange { peer: PEER, lane, up: is_up })
    }

    /// RULES.md N2, N3.
    #[test]
    fn a_peer_is_up_once_every_lane_is_and_it_is_heard() {
        let mut links = Links::default();
        assert_eq!(change(&mut links, Lane::Append, true), None);
        assert_eq!(links.risen(|_| true), []);
        assert_eq!(change(&mut links, Lane::Liveness, true), None);
        assert_eq!(links.risen(|_| false), []);
        assert_eq!(links.risen(|_| true), [LinkChange::Up(PEER)]);
        assert_eq!(links.risen(|_| true), [], "it is told once");
    }

    /// RULES.md M14, N8.
    #[test]
    fn a_restart_is_told_once_and_what_an_earlier_process_said_is_not_heard_after_it() {
        let mut links = Links::default();
        let mut meet = |incarnation| links.meet(PeerProcess { node: PEER, incarnation });
        assert!(meet(3).is_eq(), "nothing was heard of it before");
        assert!(meet(3).is_eq() && meet(4).is_gt() && meet(4).is_eq());
        assert!(meet(3).is_lt() && meet(4).is_eq() && meet(7).is_gt() && meet(6).is_lt());
        let other = PeerProcess { node: NodeId(3), incarnation: 1 };
        assert!(links.meet(other).is_eq(), "each peer counts its own");
    }

    /// RULES.md N10.
    #[test]
    fn every_fall_of_a_lane_is_told_and_the_peer_rises_again_with_the_last_one() {
        let mut links = Links::default();
        for lane in Lane::ALL {
            assert_eq!(change(&mut links, lane, true), None);
        }
        assert_eq!(links.risen(|_| true), [LinkChange::Up(PEER)]);
        for lane in Lane::ALL {
            assert_eq!(change(&mut links, lane, false), Some(LinkChange::Down(PEER)));
        }
        change(&mut links, Lane::Append, true);
        assert_eq!(links.risen(|_| true), []);
        change(&mut links, Lane::Liveness, true);
        assert_eq!(links.risen(|_| true), [LinkChange::Up(PEER)]);
    }

    /// Between two turns a peer may break and make its connections as often as it likes.
    #[test]
    fn lanes_that_flap_within_a_turn_cost_one_look_at_all_groups() {
        let mut links = Links::default();
        let mut told = Vec::new();
        for _ in 1..1_000 {
            for lane in Lane::ALL {
                for up in [false, true] {
                    links.change_within_turn(LaneChange { peer: PEER, lane, up }, &mut told);
                }
            }
        }
        assert_eq!(told, [LinkChange::Down(PEER)]);
        assert_eq!(links.risen(|_| true), [LinkChange::Up(PEER)]);
    }
}
