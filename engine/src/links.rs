//! Which peers a shard can talk to, both ways.
//!
//! In:     outbound lanes that come up and go down; whether a peer has a connection open to this node, and which process of
//!         the peer made it.
//! Out:    a peer is up once all its lanes are and it is heard, and down as soon as one lane is. It is told when another
//!         process of the peer answers or is let in than before.
//! Cost:   a map entry per peer.
//! Fails:  never.
//! Source: RULES.md N2, N3 (links that carry one way), N10 (flaps).

use crate::NodeId;
use logdrive_net::Lane;
use std::collections::BTreeMap;

/// An outbound lane to a peer that came up or went down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneChange {
    pub(crate) peer: NodeId,
    pub(crate) lane: Lane,
    /// The incarnation of the peer that answered; `None` if the lane went down.
    pub(crate) up: Option<u64>,
}

/// One shard's links. In the order of their ids, so that the same changes have the same consequences.
#[derive(Default)]
pub(crate) struct Links(BTreeMap<NodeId, Link>);

#[derive(Default)]
struct Link {
    /// In the order of [`Lane::ALL`].
    lanes: [bool; Lane::ALL.len()],
    is_up: bool,
    /// The incarnation that answered or was let in last.
    incarnation: Option<u64>,
}

impl Link {
    /// The peer's process is this one. True if it was another before.
    fn is_of(&mut self, incarnation: Option<u64>) -> bool {
        let before = std::mem::replace(&mut self.incarnation, incarnation);
        before.is_some() && before != incarnation
    }
}

/// A peer that can be talked to from now on, or whose connection broke.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LinkChange {
    Up(NodeId),
    Down(NodeId),
    /// Another process of the peer is there than before.
    Restarted(NodeId),
}

impl Links {
    /// A lane came up or went down. Gives the peer's fall, with which what was in flight on the lane is lost, or its
    /// restart.
    pub(crate) fn change(&mut self, change: LaneChange) -> Option<LinkChange> {
        let LaneChange { peer, lane, up } = change;
        let link = self.0.entry(peer).or_default();
        link.lanes[place(lane)] = up.is_some();
        link.is_up &= up.is_some();
        if up.is_none() {
            return Some(LinkChange::Down(peer));
        }
        link.is_of(up).then_some(LinkChange::Restarted(peer))
    }

    /// The same for each lane that changed since the last turn. However often the lanes of a peer flap in that time, its fall
    /// and its restart are told once: each costs a look at all groups, and two in a row change no more than one.
    pub(crate) fn change_within_turn(&mut self, change: LaneChange, told: &mut Vec<LinkChange>) {
        if let Some(change) = self.change(change)
            && !told.contains(&change)
        {
            told.push(change);
        }
    }

    /// A connection of this incarnation of a peer was let in. Gives the peer's restart.
    pub(crate) fn let_in(&mut self, peer: NodeId, incarnation: u64) -> Option<LinkChange> {
        let link = self.0.entry(peer).or_default();
        link.is_of(Some(incarnation)).then_some(LinkChange::Restarted(peer))
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
        links.change(LaneChange { peer: PEER, lane, up: is_up.then_some(1) })
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

    #[test]
    fn a_restart_is_told_once_by_whichever_way_it_is_seen_first() {
        let mut links = Links::default();
        let restarted = Some(LinkChange::Restarted(PEER));
        let up = |incarnation| LaneChange { peer: PEER, lane: Lane::Append, up: Some(incarnation) };
        assert_eq!(links.let_in(PEER, 3), None, "nothing was heard of it before");
        assert_eq!([links.change(up(3)), links.let_in(PEER, 3)], [None; 2]);
        assert_eq!(links.let_in(PEER, 4), restarted);
        assert_eq!(links.change(up(4)), None);
        assert_eq!(links.change(up(5)), restarted);
        assert_eq!(links.let_in(PEER, 5), None);
    }

    #[test]
    fn a_restart_is_told_once_whether_or_not_the_fall_was() {
        let mut links = Links::default();
        let mut up = |lane, incarnation| {
            links.change(LaneChange { peer: PEER, lane, up: Some(incarnation) })
        };
        let [one, two] = Lane::ALL;
        assert_eq!([up(one, 3), up(two, 3), up(one, 3)], [None; 3]);
        assert_eq!(up(two, 4), Some(LinkChange::Restarted(PEER)));
        assert_eq!(up(one, 4), None);
        assert_eq!(change(&mut links, one, false), Some(LinkChange::Down(PEER)));
        let again = links.change(LaneChange { peer: PEER, lane: one, up: Some(5) });
        assert_eq!(again, Some(LinkChange::Restarted(PEER)));
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
    fn lanes_that_flap_within_a_turn_cost_two_looks_at_all_groups() {
        let mut links = Links::default();
        let mut told = Vec::new();
        for incarnation in 1..1_000 {
            for lane in Lane::ALL {
                for up in [None, Some(incarnation)] {
                    links.change_within_turn(LaneChange { peer: PEER, lane, up }, &mut told);
                }
            }
        }
        assert_eq!(told, [LinkChange::Down(PEER), LinkChange::Restarted(PEER)]);
        assert_eq!(links.risen(|_| true), [LinkChange::Up(PEER)]);
    }
}
