//! The content of the log: each group's entries and small records, the groups that are gone, and an account of each
//! segment.
//!
//! In:     records, as they are encoded at the tail; releases, destructions and fences; copies that became durable.
//! Out:    the state of a group; the account of the oldest segment.
//! Cost:   one look-up of the group for each record; `index.rs` and `ledger.rs` say the rest.
//! Fails:  entries that would leave a hole in their group's log are a broken invariant.
//! Source: RULES.md rules 24 (a batch names its groups), 28 (what must be carried); M7.
//!
//! Invariants:
//! * a segment's account names every group that has a record in the segment, each once;
//! * of a destroyed group there is a tombstone and nothing else;
//! * `has_fences` is true if some group is fenced.

use super::tail::{Copied, Copy};
use crate::format::{Position, SegmentSeq, SnapshotHead};
use crate::group::{Group, Groups, Small};
use crate::index::Placed;
use crate::ledger::{Account, Ledger, Tombstones, tombstone};
use logdrive_raft::{GroupId, LogIndex};

/// The content of the log, by group and by segment.
pub(super) struct Contents {
    groups: Groups,
    tombstones: Tombstones,
    ledger: Ledger,
    has_fences: bool,
}

/// The place of the tail: the open batch, and its segment.
#[derive(Clone, Copy)]
pub(super) struct Newest {
    pub(super) batch: u64,
    pub(super) segment: SegmentSeq,
}

/// The place of a group's write in the open batch's list.
pub(super) struct Listed {
    /// True if the batch does not name the group yet.
    pub(super) is_new: bool,
    pub(super) place: u32,
}

impl Contents {
    /// The content that recovery found.
    pub(super) fn new(groups: Groups, tombstones: Tombstones, ledger: Ledger) -> Self {
        let has_fences = groups.values().any(|group| group.fence.is_some());
        Self { groups, tombstones, ledger, has_fences }
    }

    /// The state of a group; `None` if the log holds nothing of it.
    #[inline]
    pub(super) fn group(&self, group: GroupId) -> Option<&Group> {
        self.groups.get(&group)
    }

    /// All groups, in no order.
    pub(super) fn groups(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.groups.iter().map(|(id, group)| (*id, group))
    }

    #[inline]
    pub(super) fn is_destroyed(&self, group: GroupId) -> bool {
        !self.tombstones.is_empty() && self.tombstones.contains_key(&group)
    }

    #[inline]
    pub(super) fn is_fenced(&self, group: GroupId) -> bool {
        self.has_fences && self.groups.get(&group).is_some_and(|state| state.fence.is_some())
    }

    /// The group's tombstone says that its replicas up to the one added at this index are gone; `None`: there is none.
    pub(super) fn destroyed_since(&self, group: GroupId) -> Option<LogIndex> {
        self.tombstones.get(&group).map(|tombstone| tombstone.since)
    }

    /// The same, if the segment holds the tombstone.
    pub(super) fn tombstone_in(&self, group: GroupId, segment: SegmentSeq) -> Option<LogIndex> {
        let tombstone = self.tombstones.get(&group);
        tombstone.filter(|found| found.segment == segment).map(|found| found.since)
    }

    /// The account of the oldest segment.
    pub(super) fn oldest(&self) -> &Account {
        self.ledger.oldest()
    }

    /// The account of the newest segment.
    pub(super) fn newest(&self) -> &Account {
        self.ledger.newest()
    }

    /// Record bytes in all segments.
    pub(super) fn written(&self) -> u64 {
        self.ledger.written()
    }

    /// Record bytes in all segments that are live: a replay needs them.
    pub(super) fn live(&self) -> u64 {
        self.ledger.live()
    }

    /// Record bytes of all snapshots.
    pub(super) fn snapshots(&self) -> u64 {
        self.ledger.snapshots()
    }

    /// Notes that a small record of a group stands at the tail. Returns true if the open batch does not name the group
    /// yet.
    #[inline]
    pub(super) fn set(&mut self, group: GroupId, small: Small, at: Newest) -> bool {
        let state = self.groups.entry(group).or_default();
        let is_new = enlist(state, group, at, &mut self.ledger);
        state.set(small, at.segment, &mut self.ledger);
        is_new
    }

    /// Notes that a record of new entries stands at the tail. Returns true if the open batch does not name the group
    /// yet.
    #[inline]
    pub(super) fn put(&mut self, group: GroupId, placed: Placed, at: Newest) -> bool {
        self.ledger.write(at.segment, u64::from(placed.bytes));
        let state = self.groups.entry(group).or_default();
        let is_new = enlist(state, group, at, &mut self.ledger);
        let index = &mut state.index;
        let end = index.last();
        assert!(
            index.follows(placed.first),
            "entries from {:?} leave a hole behind {end:?}",
            placed.first
        );
        index.put(placed, &mut self.ledger);
        is_new
    }

    /// Notes that the record of a new snapshot stands at the tail, at `place`. Returns true if the open batch does not name
    /// the group yet.
    pub(super) fn keep(&mut self, head: SnapshotHead, place: Position, at: Newest) -> bool {
        let state = self.groups.entry(head.group).or_default();
        let is_new = enlist(state, head.group, at, &mut self.ledger);
        state.keep(head, place, &mut self.ledger);
        is_new
    }

    /// Notes that a record of carried entries or of a carried snapshot stands at the tail; they are found there once they are durable
    /// ([`Self::relocate`]). Returns true if the open batch does not name the group yet.
    pub(super) fn copy(&mut self, group: GroupId, bytes: u32, at: Newest) -> bool {
        self.ledger.write(at.segment, u64::from(bytes));
        let state = self.groups.entry(group).or_default();
        enlist(state, group, at, &mut self.ledger)
    }

    /// The place of the group's write in the open batch's list, which has `listed` writes: a new place at its end if
    /// the group has none there.
    #[inline]
    pub(super) fn list_write(&mut self, group: GroupId, listed: u32, at: Newest) -> Listed {
        let state = self.groups.entry(group).or_default();
        let is_new = enlist(state, group, at, &mut self.ledger);
        let place = *state.write.get_or_insert(listed);
        Listed { is_new, place }
    }

    /// Notes that a group's tombstone stands at the tail. Returns true if the open batch does not name the group yet.
    pub(super) fn set_tombstone(&mut self, group: GroupId, since: LogIndex, at: Newest) -> bool {
        // A group without a state has nothing else in the open batch: either the log never held anything of it, or it
        // was destroyed in an earlier segment, and its tombstone is carried.
        let is_new = self.groups.get(&group).is_none_or(|state| state.batch != at.batch);
        tombstone(&mut self.tombstones, group, since, at.segment, &mut self.ledger);
        is_new
    }

    /// Drops the state of a destroyed group, of which only the tombstone is needed any more.
    pub(super) fn bury(&mut self, group: GroupId) {
        if let Some(group) = self.groups.remove(&group) {
            group.bury(&mut self.ledger);
        }
        if self.groups.capacity() > (4 * self.groups.len()).max(GROUPS_CAPACITY_MIN) {
            self.groups.shrink_to(2 * self.groups.len());
        }
    }

    /// Fences a group for the damage at `damage`. False if the log holds nothing of the group, or it is fenced already.
    pub(super) fn fence(&mut self, group: GroupId, damage: Position) -> bool {
        let state = self.groups.get_mut(&group).filter(|state| state.fence.is_none());
        let Some(state) = state else { return false };
        state.fence(damage, &mut self.ledger);
        self.has_fences = true;
        true
    }

    /// The groups with records in the oldest segment that are fenced and have no fence record yet, each with the place
    /// of its damage.
    pub(super) fn missing_fences(&self) -> Vec<(GroupId, Position)> {
        if !self.has_fences {
            return Vec::new();
        }
        let fence = |group: &GroupId| {
            let state = self.groups.get(group).filter(|state| !state.fence_recorded)?;
            state.fence.map(|damage| (*group, damage))
        };
        self.ledger.oldest().groups.iter().filter_map(fence).collect()
    }

    /// Lets carried entries and snapshots be found in their copies, which are durable, from now on.
    #[inline]
    pub(super) fn relocate(&mut self, copies: Vec<Copied>) {
        for Copied { group, from, to } in copies {
            if let Some(state) = self.groups.get_mut(&group) {
                match to {
                    Copy::Entries(to) => state.index.relocate(from, to, &mut self.ledger),
                    Copy::Snapshot(place) => {
                        state.move_snapshot(from, place, &mut self.ledger);
                    }
                }
            }
        }
    }

    /// Notes that all that counts of the segment `from` was written again to the newest one, `into`: records of `groups`,
    /// and these copies of entries and snapshots, which are found there once they are durable ([`Self::relocate`]).
    pub(super) fn write_again(
        &mut self,
        groups: &[GroupId],
        copies: &[(Copied, u32)],
        from: SegmentSeq,
        into: SegmentSeq,
    ) {
        for group in groups {
            if let Some(since) = self.tombstone_in(*group, from) {
                tombstone(&mut self.tombstones, *group, since, into, &mut self.ledger);
            } else if let Some(state) = self.groups.get_mut(group) {
                state.enlist(*group, into, &mut self.ledger);
                state.move_small(from, into, &mut self.ledger);
            }
        }
        for (_, bytes) in copies {
            self.ledger.write(into, u64::from(*bytes));
        }
    }

    /// Drops the account of a segment of which everything was written again. Panics if something in the segment is live.
    pub(super) fn pass_over(&mut self, segment: SegmentSeq) {
        self.ledger.close(segment);
    }

    /// Notes that the newest segment ended at byte `used`, and that `next` follows it.
    pub(super) fn go_on(&mut self, used: u32, next: SegmentSeq) {
        self.ledger.end(used);
        self.ledger.begin(next);
    }

    /// Drops the account of the oldest segment, which is given up. Panics if something in the segment is live.
    pub(super) fn retire(&mut self, segment: SegmentSeq) {
        self.ledger.retire(segment);
    }
}

/// Notes that the open batch has something of a group; true if it had nothing of it before.
#[inline]
fn enlist(state: &mut Group, group: GroupId, at: Newest, ledger: &mut Ledger) -> bool {
    let is_new = state.batch != at.batch;
    if is_new {
        state.batch = at.batch;
        state.write = None;
        state.enlist(group, at.segment, ledger);
    }
    is_new
}

/// The log keeps memory for this many groups, however few it has.
const GROUPS_CAPACITY_MIN: usize = 256;
