//! Room for entries. A peer whose log has no room is sent no entries, and is asked once a heartbeat whether it has room
//! again. A peer whose entries this log could not take is told so.
//!
//! In:     entries that this log does not take; what peers say of theirs ([`RoomNotice`]).
//! Out:    notices; which groups are to leave a peer alone, and which are not any more.
//! Cost:   a notice for each group and turn in which entries are dropped, and one once there is room; a question for each
//!         log of a peer that is full, each heartbeat, however many groups it has. A look at each group for each log whose
//!         room changes in a turn, however often it changes.
//! Fails:  a notice that is lost is replaced by the answer to the next question, or follows the next entries.
//! Source: RULES.md W9, W10.
//!
//! Room belongs to a log, which all groups of a shard of the peer share, so what one group hears counts for all of them.

use super::round::Notice;
use hashbrown::HashSet;
use logdrive_raft::{GroupId, Message, NodeId, RoomNotice, RoomSays, Ticks};
use std::collections::BTreeSet;

/// One of the shards of a node, which has a log of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ShardOf {
    pub(crate) shard: u32,
    /// The number of shards that the node has.
    pub(crate) shards: u32,
}

impl ShardOf {
    /// The only shard of its node.
    pub(super) const ALONE: Self = Self { shard: 0, shards: 1 };

    /// Whether a group is on this shard of its node.
    fn holds(self, group: GroupId) -> bool {
        self.shards > 0 && group.get() % u64::from(self.shards) == u64::from(self.shard)
    }

    /// The message that states or asks something of this shard's log.
    fn notice(self, says: RoomSays) -> Message {
        let Self { shard, shards } = self;
        Message::Room(RoomNotice { says, shard, shards })
    }
}

/// A peer's log that takes no entries.
#[derive(Clone, Copy)]
struct FullLog {
    peer: NodeId,
    of: ShardOf,
    /// One of its groups, to address questions to.
    group: GroupId,
}

impl FullLog {
    fn is_of(&self, peer: NodeId, group: GroupId) -> bool {
        self.peer == peer && self.of.holds(group)
    }
}

/// A peer's log has filled, or has room again, or one after the other, since the groups last heard of it.
pub(super) struct Change {
    log: FullLog,
    /// It was full at some time: entries on their way then are lost.
    pub(super) has_filled: bool,
}

impl Change {
    pub(super) fn peer(&self) -> NodeId {
        self.log.peer
    }

    /// True if the log holds this group.
    pub(super) fn is_of(&self, group: GroupId) -> bool {
        self.log.of.holds(group)
    }
}

/// Whether a change was taken in.
#[derive(Eq, PartialEq)]
enum Noted {
    New,
    /// That log has changed before since the groups last heard.
    Known,
    /// So much has changed at this peer since then that it must be said again: by the answer to the next question, or
    /// after the next entries.
    TooMany,
}

/// The logs of peers known to be full, and the notices to send.
pub(super) struct Rooms {
    /// This shard, of whose own log peers are told.
    own: ShardOf,
    full: Vec<FullLog>,
    /// The groups have not heard of these yet.
    changes: Vec<Change>,
    /// Peers that were told of no room, and by which groups. In order: what they are told next leaves in the same order in
    /// every run of a seed.
    told: BTreeSet<(NodeId, GroupId)>,
    notices: Vec<Notice>,
    /// Those among the notices that tell of no room.
    queued: HashSet<(NodeId, GroupId)>,
    ask_at: Ticks,
}

impl Rooms {
    /// The rooms that the shard `own` of this node knows of: none yet.
    pub(super) fn new(own: ShardOf) -> Self {
        Self {
            own,
            full: Vec::new(),
            changes: Vec::new(),
            told: BTreeSet::new(),
            notices: Vec::new(),
            queued: HashSet::new(),
            ask_at: Ticks(0),
        }
    }

    /// Entries of `group` from `peer` were dropped.
    pub(super) fn tell(&mut self, peer: NodeId, group: GroupId, says: RoomSays) {
        if says == RoomSays::Full {
            self.told.insert((peer, group));
        }
        if self.queued.insert((peer, group)) {
            logdrive_raft::reached!("peer told of no room");
            self.say(peer, group, says);
        }
    }

    /// This log has room: every peer that was told otherwise is told so.
    pub(super) fn tell_of_room(&mut self) {
        for (peer, group) in std::mem::take(&mut self.told) {
            self.say(peer, group, RoomSays::Free);
        }
    }

    /// A peer asks.
    pub(super) fn answer(&mut self, peer: NodeId, group: GroupId, has_room: bool) {
        self.say(peer, group, if has_room { RoomSays::Free } else { RoomSays::Full });
    }

    /// A peer's log has no room, as one of its groups hears. True if all groups have to be looked at for it.
    pub(super) fn fill(&mut self, peer: NodeId, group: GroupId, notice: RoomNotice) -> bool {
        let RoomNotice { shard, shards, .. } = notice;
        let is_known = self.full.iter().any(|log| log.is_of(peer, group));
        let of = ShardOf { shard, shards };
        let may_be = of.holds(group) && self.full.len() < FULL_LOGS_MAX;
        if is_known || !may_be {
            return false;
        }
        let log = FullLog { peer, of, group };
        let noted = self.note(log, true);
        if noted != Noted::TooMany {
            self.full.push(log);
        }
        noted == Noted::New
    }

    /// A peer's log has room. True if all groups have to be looked at for it.
    pub(super) fn drain(&mut self, peer: NodeId, group: GroupId) -> bool {
        let Some(at) = self.full.iter().position(|log| log.is_of(peer, group)) else {
            return false;
        };
        let noted = self.note(self.full[at], false);
        if noted != Noted::TooMany {
            self.full.remove(at);
        }
        noted == Noted::New
    }

    fn note(&mut self, log: FullLog, has_filled: bool) -> Noted {
        let FullLog { peer, of, .. } = log;
        let is_same = |change: &&mut Change| (change.log.peer, change.log.of) == (peer, of);
        if let Some(change) = self.changes.iter_mut().find(is_same) {
            change.has_filled |= has_filled;
            return Noted::Known;
        }
        if self.changes.iter().filter(|change| change.log.peer == peer).count() == CHANGES_MAX {
            return Noted::TooMany;
        }
        self.changes.push(Change { log, has_filled });
        Noted::New
    }

    /// Takes the changes that the groups have not heard of yet.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Peers whose log has no room for this group's entries.
    pub(super) fn without_room(&self, group: GroupId) -> impl Iterator<Item = NodeId> {
        self.full.iter().filter(move |log| log.is_of(log.peer, group)).map(|log| log.peer)
    }

    /// Asks each log that is full, once in a heartbeat.
    pub(super) fn ask(&mut self, now: Ticks, heartbeat_ticks: u64) {
        let is_asked = !logdrive_raft::bug!("full_peer_not_asked_again");
        if self.full.is_empty() || now < self.ask_at || !is_asked {
            return;
        }
        self.ask_at = now.after(heartbeat_ticks);
        for FullLog { peer, of, group } in &self.full {
            let message = of.notice(RoomSays::Asked);
            self.notices.push(Notice { peer: *peer, group: *group, message });
        }
    }

    fn say(&mut self, peer: NodeId, group: GroupId, says: RoomSays) {
        self.notices.push(Notice { peer, group, message: self.own.notice(says) });
    }

    /// True if there is something to say, to peers or to groups.
    pub(super) fn has_news(&self) -> bool {
        !self.notices.is_empty() || !self.changes.is_empty()
    }

    /// The notices to send.
    pub(super) fn take_notices(&mut self) -> impl Iterator<Item = Notice> {
        self.queued.clear();
        self.notices.drain(..)
    }
}

/// Logs of peers that are full; what is said of further ones is not believed, so that nonsense costs no memory.
const FULL_LOGS_MAX: usize = 4096;

/// Logs of one peer whose room may change within a turn: each costs a look at all groups.
const CHANGES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(shard: u32, shards: u32) -> RoomNotice {
        RoomNotice { says: RoomSays::Full, shard, shards }
    }

    /// A peer may say "full" and "free" as often as it likes: its groups hear of both once a turn.
    #[test]
    fn room_that_comes_and_goes_within_a_turn_is_one_change() {
        let mut rooms = Rooms::new(ShardOf::ALONE);
        for _ in 0..1000 {
            rooms.fill(NodeId(2), GroupId(4), notice(0, 2));
            rooms.drain(NodeId(2), GroupId(6));
        }
        assert!(rooms.has_news());
        let changes = rooms.take_changes();
        assert_eq!(changes.len(), 1);
        assert!(
            changes[0].has_filled && changes[0].is_of(GroupId(8)) && !changes[0].is_of(GroupId(3))
        );
        assert_eq!(rooms.without_room(GroupId(4)).count(), 0);
        // Filled in the turn before, it has only room in this one.
        rooms.fill(NodeId(2), GroupId(4), notice(0, 2));
        assert!(rooms.take_changes()[0].has_filled);
        rooms.drain(NodeId(2), GroupId(4));
        assert!(!rooms.take_changes()[0].has_filled);
    }

    #[test]
    fn a_peer_with_numbers_of_shards_that_change_is_believed_so_often_and_another_as_well() {
        let mut rooms = Rooms::new(ShardOf::ALONE);
        for shards in 1..1000 {
            rooms.fill(NodeId(2), GroupId(0), notice(0, shards));
            rooms.drain(NodeId(2), GroupId(0));
        }
        rooms.fill(NodeId(3), GroupId(0), notice(0, 1));
        let changes = rooms.take_changes();
        assert_eq!(changes.len(), CHANGES_MAX + 1);
        assert_eq!(rooms.without_room(GroupId(0)).collect::<Vec<_>>(), [NodeId(3)]);
    }

    /// A seed of the simulator had two histories: the notices left in the order of a hash table.
    #[test]
    fn notices_of_room_leave_in_order() {
        let mut rooms = Rooms::new(ShardOf::ALONE);
        for group in (0..100).rev() {
            rooms.tell(NodeId(2), GroupId(group), RoomSays::Full);
        }
        rooms.take_notices().for_each(drop);
        rooms.tell_of_room();
        let groups: Vec<_> = rooms.take_notices().map(|notice| notice.group).collect();
        assert_eq!(groups, (0..100).map(GroupId).collect::<Vec<_>>());
    }
}
