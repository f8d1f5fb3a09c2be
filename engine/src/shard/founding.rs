//! Whether the replicas of a group were founded with the same members. Until two replicas have told each other what
//! they were founded with, nothing that one says counts with the other.
//!
//! In:     groups that begin, peers that come into reach, messages of peers that have not said it yet, what they say.
//! Out:    notices; whether a peer's messages are heard.
//! Cost:   a notice to each other node when a group begins or a node comes into reach, until that node has agreed; then
//!         a look at a short list for each message.
//! Fails:  a notice that is lost is asked for again by whoever drops a message for want of it. Where the founding differs,
//!         both sides say so, once, neither hears the other, and a replica that is outnumbered stops the group, until its
//!         process starts again.
//! Source: RULES.md M14, P6.
//!
//! A group that is created with members [1] on one node and [1, 2, 3] on two others would have two leaders, each with a
//! majority of its own, and both would acknowledge. None of the votes and acknowledgements of the one may help the other,
//! and only one may go on: a replica stops once as many nodes have said another list as there are members of its own list
//! that have not. Here node 1 stops, and 2 and 3 go on; of two lists that are equally supported neither does, for nothing
//! tells which of them is meant. So one node that was set up wrongly does not stop a group that a majority agrees on. A
//! stopped replica still says what it was founded with, or the other side might never hear of it.
//!
//! Not prevented: before any node with another list is heard, a replica counts what the majority of its own list says, and
//! a list of one node is its own majority. It cannot wait for the others, for it does not know that they have the group;
//! nodes that cannot talk to each other at all go on so. Entries that were acknowledged in that time are in the
//! logs of the nodes that acknowledged them, and a person has to decide.

use super::group_lines::GroupLines;
use super::round::Notice;
use crate::membership;
use crc_fast::crc32_iscsi;
use hashbrown::HashSet;
use logdrive_raft::{FoundingNotice, GroupId, Message, NodeId};

/// One group's founding, and what is known of its peers'.
#[derive(Debug)]
pub(super) struct Founding {
    /// CRC-32C of the sorted members it was founded with, as notices carry it.
    digest: u32,
    members: Box<[NodeId]>,
    /// Peers that have said since their last restart that they were founded with the same members.
    agreed: Vec<NodeId>,
    /// Peers that were founded with other members.
    differing: Vec<NodeId>,
    /// True once a difference was logged.
    has_said: bool,
}

impl Founding {
    pub(super) fn new(members: &[NodeId]) -> Self {
        let mut sorted = members.to_vec();
        sorted.sort_unstable();
        let digest = crc32_iscsi(&membership::encode(&sorted));
        let members = sorted.into_boxed_slice();
        Self { digest, members, agreed: Vec::new(), differing: Vec::new(), has_said: false }
    }

    /// True if as many nodes say another list as there are members of this one that do not, whether they have said the
    /// same or nothing yet.
    fn is_outnumbered(&self) -> bool {
        let others = self.members.iter().filter(|member| self.differing.contains(member)).count();
        self.differing.len() >= self.members.len() - others
    }

    /// True once it was logged that a peer was founded with other members.
    #[cfg(feature = "testing")]
    pub(super) fn says_otherwise(&self) -> bool {
        self.has_said
    }

    /// True if what `peer` says counts.
    pub(super) fn hears(&self, peer: NodeId) -> bool {
        self.agreed.contains(&peer)
    }

    /// The peer was restarted. A group that its log did not hold yet when the process before ended is unknown there since,
    /// and may have been created again with other members.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.agreed.retain(|known| *known != peer);
        self.differing.retain(|known| *known != peer);
    }

    /// A peer says what it was founded with. True if that was not known of it.
    fn is_told(&mut self, peer: NodeId, digest: u32) -> bool {
        let is_same = digest == self.digest || logdrive_raft::bug!("foundings_not_compared");
        let (same, other) = match is_same {
            true => (&mut self.agreed, &mut self.differing),
            false => (&mut self.differing, &mut self.agreed),
        };
        other.retain(|known| *known != peer);
        let is_news = !same.contains(&peer);
        if is_news {
            same.push(peer);
        }
        is_news
    }
}

/// The founding notices that all groups of a shard have to send.
#[derive(Default)]
pub(super) struct FoundingNotices {
    notices: Vec<Notice>,
    /// Questions among them, and answers.
    said: HashSet<(NodeId, GroupId, bool)>,
    /// Groups that were founded otherwise on a peer, to be stopped.
    refused: Vec<(GroupId, NodeId)>,
    /// Differences to be logged, by peer and by whether the replica stops.
    lines: GroupLines<(NodeId, bool)>,
}

impl FoundingNotices {
    /// Says what the group was founded with, and asks the same of `peer`.
    pub(super) fn ask(&mut self, peer: NodeId, group: GroupId, founding: &Founding) {
        if founding.agreed.contains(&peer) {
            return;
        }
        self.say(peer, group, founding, true);
    }

    /// A peer has said what it was founded with.
    pub(super) fn on_notice(
        &mut self,
        peer: NodeId,
        group: GroupId,
        founding: &mut Founding,
        notice: FoundingNotice,
    ) {
        let is_news = founding.is_told(peer, notice.digest);
        let differs = notice.digest != founding.digest;
        if is_news && differs {
            let is_outnumbered = founding.is_outnumbered();
            if is_outnumbered {
                self.refused.push((group, peer));
            }
            if !std::mem::replace(&mut founding.has_said, true) || is_outnumbered {
                self.lines.add((peer, is_outnumbered), group);
            }
        }
        if notice.asks {
            self.say(peer, group, founding, false);
        }
    }

    fn say(&mut self, peer: NodeId, group: GroupId, founding: &Founding, asks: bool) {
        if !self.said.insert((peer, group, asks)) {
            return; // Once in a turn is enough.
        }
        let message = Message::Founding(FoundingNotice { digest: founding.digest, asks });
        self.notices.push(Notice { peer, group, message });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.notices.is_empty() && self.refused.is_empty()
    }

    /// The groups to be stopped, and the peers on which they were founded otherwise.
    pub(super) fn take_refused(&mut self) -> Vec<(GroupId, NodeId)> {
        for ((node, stops), first, groups) in self.lines.take() {
            let (node, first) = (node.get(), first.get());
            tracing::error!(
                node,
                groups,
                first,
                stops,
                "groups were founded with other members on that node: neither hears the other in them, and a replica that is \
                 outnumbered stops"
            );
        }
        std::mem::take(&mut self.refused)
    }

    /// The notices to send.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Notice> {
        self.said.clear();
        self.notices.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(7);

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    /// Lets two groups talk until both have nothing to say.
    fn talk(one: &mut Founding, two: &mut Founding) {
        let mut says = [FoundingNotices::default(), FoundingNotices::default()];
        says[0].ask(NodeId(2), GROUP, one);
        says[1].ask(NodeId(1), GROUP, two);
        for _ in 0..4 {
            let said: Vec<_> = says[0].take().collect();
            for Notice { group, message, .. } in said {
                let Message::Founding(notice) = message else { panic!("{message:?}") };
                says[1].on_notice(NodeId(1), group, two, notice);
            }
            let said: Vec<_> = says[1].take().collect();
            for Notice { group, message, .. } in said {
                let Message::Founding(notice) = message else { panic!("{message:?}") };
                says[0].on_notice(NodeId(2), group, one, notice);
            }
        }
        for says in &mut says {
            says.take_refused();
            assert!(says.is_empty());
        }
    }

    #[test]
    fn the_same_members_in_any_order_are_heard_after_one_question() {
        let mut one = Founding::new(&nodes(&[1, 2, 3]));
        let mut two = Founding::new(&nodes(&[3, 1, 2]));
        assert!(!one.hears(NodeId(2)) && !two.hears(NodeId(1)));
        talk(&mut one, &mut two);
        assert!(one.hears(NodeId(2)) && two.hears(NodeId(1)));
        assert!(!one.hears(NodeId(3)), "each speaks for itself");
    }

    /// True if a replica with the list `own` stops once it has heard the lists of `others`.
    fn is_stopped(own: &[u64], others: &[(u64, &[u64])]) -> bool {
        let mut founding = Founding::new(&nodes(own));
        let mut notices = FoundingNotices::default();
        for (peer, list) in others {
            let notice = FoundingNotice { digest: Founding::new(&nodes(list)).digest, asks: false };
            notices.on_notice(NodeId(*peer), GROUP, &mut founding, notice);
        }
        !notices.take_refused().is_empty()
    }

    #[test]
    fn the_party_that_is_outnumbered_stops() {
        let (all, alone): (&[u64], &[u64]) = (&[1, 2, 3], &[1]);
        assert!(is_stopped(alone, &[(2, all)]), "node 1 with its own list");
        assert!(!is_stopped(all, &[(1, alone)]), "2, whether or not it has heard 3");
        assert!(!is_stopped(all, &[(3, all), (1, alone)]));
        assert!(is_stopped(all, &[(1, alone), (3, &[3])]), "two of three say something else");
        assert!(
            is_stopped(&[1, 2], &[(1, alone)]),
            "of two lists of one node each neither goes on"
        );
        assert!(!is_stopped(all, &[(4, alone)]), "a node that is no member, and alone");
        assert!(is_stopped(alone, &[(4, all)]));
        assert!(!is_stopped(all, &[(2, all), (3, &[3, 2, 1])]));
    }

    #[test]
    fn other_members_are_never_heard_until_they_are_the_same() {
        let mut one = Founding::new(&nodes(&[1, 2, 3]));
        for others in [&[2][..], &[1, 2], &[1, 2, 4], &[1, 2, 3, 4]] {
            let mut two = Founding::new(&nodes(others));
            talk(&mut one, &mut two);
            assert!(!one.hears(NodeId(2)) && !two.hears(NodeId(1)), "{others:?}");
        }
        talk(&mut one, &mut Founding::new(&nodes(&[1, 2, 3])));
        assert!(one.hears(NodeId(2)), "it was made anew as it should be");
        talk(&mut one, &mut Founding::new(&nodes(&[1, 2])));
        assert!(!one.hears(NodeId(2)), "and again as it should not");
        talk(&mut one, &mut Founding::new(&nodes(&[1, 2, 3])));
        one.forget(NodeId(2));
        assert!(!one.hears(NodeId(2)), "it was restarted, and has not said it since");
        talk(&mut one, &mut Founding::new(&nodes(&[1, 2, 3])));
        assert!(one.hears(NodeId(2)));
    }
}
