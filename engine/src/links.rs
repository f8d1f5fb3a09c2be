//! Which peers a shard can talk to, both ways.
//!
//! In:     outbound lanes that come up and go down; whether a peer has a connection open to this node.
//! Out:    a peer is up once all its lanes are and it is heard, and down as soon as one lane is.
//! Cost:   a map entry per peer.
//! Fails:  never.
//! Source: FAULTS.md N2, N3 (links that carry one way), N10 (flaps).

use crate::NodeId;
use logdrive_net::Lane;
use std::collections::BTreeMap;

/// An outbound lane to a peer that came up or went down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneChange {
    pub(crate) peer: NodeId,
    pub(crate) lane: Lane,
    pub(crate) is_up: bool,
}

/// One shard's links. In the order of their ids, so that the same changes have the same consequences.
#[derive(Default)]
pub(crate) struct Links(BTreeMap<NodeId, Link>);

#[derive(Default)]
struct Link {
    /// In the order of [`Lane::ALL`].
    lanes: [bool; Lane::ALL.len()],
    is_up: bool,
}

/// A peer that can be talked to from now on, or whose connection broke.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LinkChange {
    Up(NodeId),
    Down(NodeId),
}

impl Links {
    /// A lane came up or went down. Gives the peer's fall: what was in flight on the lane is lost.
    pub(crate) fn change(&mut self, change: LaneChange) -> Option<LinkChange> {
        let LaneChange { peer, lane, is_up } = change;
        let link = self.0.entry(peer).or_default();
        link.lanes[place(lane)] = is_up;
        link.is_up &= is_up;
        (!is_up).then_some(LinkChange::Down(peer))
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
        links.change(LaneChange { peer: PEER, lane, is_up })
    }

    #[test]
    fn n2_n3_a_peer_is_up_once_every_lane_is_and_it_is_heard() {
        let mut links = Links::default();
        assert_eq!(change(&mut links, Lane::Append, true), None);
        assert_eq!(links.risen(|_| true), []);
        assert_eq!(change(&mut links, Lane::Liveness, true), None);
        assert_eq!(links.risen(|_| false), []);
        assert_eq!(links.risen(|_| true), [LinkChange::Up(PEER)]);
        assert_eq!(links.risen(|_| true), [], "it is told once");
    }

    #[test]
    fn n10_every_fall_of_a_lane_is_told_and_the_peer_rises_again_with_the_last_one() {
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
}
