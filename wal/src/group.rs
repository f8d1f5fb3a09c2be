//! The log's memory of one group: where its entries are, and the small records it would write again.
//!
//! In:     records, as they are appended or replayed.
//! Out:    what of the group stands in a segment that is to be given up.
//! Cost:   at most 288 bytes per group, its membership, its index, and about 100 bytes for a snapshot.
//! Fails:  replay refuses what no log of ours can hold.
//! Source: RULES.md rule 28 (what must be carried before a segment goes).

use crate::format::{
    Bad, EntriesHead, FENCE_RECORD_BYTES, HARD_STATE_RECORD_BYTES, INSTALLING_RECORD_BYTES,
    Position, RELEASE_RECORD_BYTES, Release, SegmentSeq, SnapshotHead, membership_record_bytes,
};
use crate::index::{GroupIndex, Placed};
use crate::ledger::Ledger;
use crate::snapshot::Installing;
use bytes::Bytes;
use hashbrown::HashMap;
use logdrive_raft::{GroupId, HardState, LogIndex};

/// All groups of one stream.
pub(crate) type Groups = HashMap<GroupId, Group>;

/// One group's part of the stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub(crate) index: GroupIndex,
    pub(crate) hard_state: HardState,
    pub(crate) membership: Bytes,
    /// Where the damage is that the group lost something in.
    pub(crate) fence: Option<Position>,
    /// A record says so, where it is [`Small::Fence`]'s latest; else only the damage does, which may read well again.
    pub(crate) fence_recorded: bool,
    /// Which segments hold the latest of each; `None`: there is none.
    hard_state_in: Option<SegmentSeq>,
    membership_in: Option<SegmentSeq>,
    release_in: Option<SegmentSeq>,
    fence_in: Option<SegmentSeq>,
    /// The latest snapshot. It is at the release or behind it.
    snapshot: Option<Box<Kept>>,
    /// The snapshot that is being installed, and the segment that holds the latest record of it. It is behind the release.
    installing: Option<Box<(Installing, SegmentSeq)>>,
    /// The newest segment that holds any record of the group.
    segment: Option<SegmentSeq>,
    /// The newest batch whose directory names this group; 0: none yet.
    pub(crate) batch: u64,
    /// Where that batch lists the group's write.
    pub(crate) write: Option<u32>,
}

/// A group's snapshot, and the place of its record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) head: SnapshotHead,
    pub(crate) place: Position,
}

/// A small record that is carried by writing it again.
#[derive(Clone, Debug)]
pub(crate) enum Small {
    Membership(Bytes),
    HardState(HardState),
    Release(Release),
    Installing(Installing),
    Fence(Position),
}

impl Small {
    /// The bytes that the small record takes, padding included.
    pub(crate) fn record_bytes(&self) -> usize {
        match self {
            Self::Membership(bytes) => membership_record_bytes(bytes.len()),
            Self::HardState(_) => HARD_STATE_RECORD_BYTES,
            Self::Release(_) => RELEASE_RECORD_BYTES,
            Self::Installing(_) => INSTALLING_RECORD_BYTES,
            Self::Fence(_) => FENCE_RECORD_BYTES,
        }
    }
}

impl Group {
    /// Takes in a small record that was written to the newest segment, `into`.
    pub(crate) fn set(&mut self, small: Small, into: SegmentSeq, ledger: &mut Ledger) {
        let bytes = small.record_bytes() as u64;
        ledger.write(into, bytes);
        ledger.revive(into, bytes);
        let (place, before) = match small {
            Small::Membership(bytes) => {
                let before = membership_record_bytes(self.membership.len());
                self.membership = bytes;
                (&mut self.membership_in, before)
            }
            Small::HardState(state) => {
                self.hard_state = state;
                (&mut self.hard_state_in, HARD_STATE_RECORD_BYTES)
            }
            Small::Release(release) => {
                self.index.release(release, ledger);
                // Nothing can be replayed onto a snapshot that is before the release, and an install ends with a release.
                if self.snapshot().is_some_and(|kept| kept.head.mark.at.index < release.index) {
                    self.drop_snapshot(ledger);
                }
                if self.installing().is_some_and(|installing| installing.at.index <= release.index)
                {
                    self.drop_installing(ledger);
                }
                (&mut self.release_in, RELEASE_RECORD_BYTES)
            }
            Small::Installing(installing) => {
                self.drop_installing(ledger);
                self.installing = Some(Box::new((installing, into)));
                return;
            }
            Small::Fence(position) => {
                self.fence = Some(position);
                self.fence_recorded = true;
                (&mut self.fence_in, FENCE_RECORD_BYTES)
            }
        };
        if let Some(old) = place.replace(into) {
            ledger.kill(old, before as u64);
        }
    }

    /// The small records of the group that must be written again before `segment`, in which the group has something,
    /// may be given up: those whose latest copy stands in it, and a fence that no record states yet. The entries of a
    /// fenced group count as dead and are given up; if the damaged place read well at a later open, the group would
    /// then have a hole that nothing explains.
    pub(crate) fn small_in(&self, segment: SegmentSeq) -> impl Iterator<Item = Small> + use<> {
        let there = |place: Option<SegmentSeq>| place == Some(segment);
        let (index, term) = self.index.released();
        let release = Release { index, term, last: self.index.last() };
        let found = [
            there(self.membership_in).then(|| Small::Membership(self.membership.clone())),
            there(self.hard_state_in).then_some(Small::HardState(self.hard_state)),
            there(self.release_in).then_some(Small::Release(release)),
            self.installing.as_ref().filter(|it| it.1 == segment).map(|it| Small::Installing(it.0)),
            self.fence.filter(|_| there(self.fence_in) || !self.fence_recorded).map(Small::Fence),
        ];
        found.into_iter().flatten()
    }

    /// True if something of the group in the log's oldest segment, `oldest`, is still needed.
    pub(crate) fn needs(&self, oldest: SegmentSeq) -> bool {
        let is_there = |place: Position| place.segment() == oldest;
        self.index.pieces_from(LogIndex(1)).next().is_some_and(|piece| is_there(piece.place))
            || self.snapshot.as_deref().is_some_and(|kept| is_there(kept.place))
            || self.small_in(oldest).next().is_some()
    }

    /// The latest snapshot.
    pub(crate) fn snapshot(&self) -> Option<&Kept> {
        self.snapshot.as_deref()
    }

    /// The snapshot that is being installed.
    pub(crate) fn installing(&self) -> Option<Installing> {
        self.installing.as_ref().map(|it| it.0)
    }

    /// Takes in the record of a snapshot, which stands at `place`. It replaces the one before.
    pub(crate) fn keep(&mut self, head: SnapshotHead, place: Position, ledger: &mut Ledger) {
        self.drop_snapshot(ledger);
        ledger.write(place.segment(), head.padded_bytes() as u64);
        ledger.revive_snapshot(place.segment(), head.padded_bytes() as u64);
        self.snapshot = Some(Box::new(Kept { head, place }));
    }

    /// The snapshot that stands at `from`, if it still does, is found in its copy from now on.
    pub(crate) fn move_snapshot(&mut self, from: Position, to: Position, ledger: &mut Ledger) {
        let Some(kept) = self.snapshot.as_mut().filter(|kept| kept.place == from) else { return };
        let bytes = kept.head.padded_bytes() as u64;
        kept.place = to;
        ledger.kill_snapshot(from.segment(), bytes);
        ledger.revive_snapshot(to.segment(), bytes);
    }

    fn drop_snapshot(&mut self, ledger: &mut Ledger) {
        if let Some(kept) = self.snapshot.take() {
            ledger.kill_snapshot(kept.place.segment(), kept.head.padded_bytes() as u64);
        }
    }

    fn drop_installing(&mut self, ledger: &mut Ledger) {
        if let Some((_, segment)) = self.installing.take().as_deref() {
            ledger.kill(*segment, INSTALLING_RECORD_BYTES as u64);
        }
    }

    /// The hard state, with the commit index that the log vouches for: what was released was committed, and what is lost
    /// is not known to be.
    pub(crate) fn bounded_hard_state(&self) -> HardState {
        let (released, last) = (self.index.released().0, self.index.last());
        HardState { commit: self.hard_state.commit.min(last).max(released), ..self.hard_state }
    }

    /// Notes that the latest small records which stand in `from` were written again to the newest segment, `into`.
    pub(crate) fn move_small(&mut self, from: SegmentSeq, into: SegmentSeq, ledger: &mut Ledger) {
        let places = [
            (&mut self.membership_in, membership_record_bytes(self.membership.len())),
            (&mut self.hard_state_in, HARD_STATE_RECORD_BYTES),
            (&mut self.release_in, RELEASE_RECORD_BYTES),
            (&mut self.fence_in, FENCE_RECORD_BYTES),
        ];
        let places = places.into_iter().filter_map(|(place, bytes)| Some((place.as_mut()?, bytes)));
        let installing = self.installing.as_mut().map(|it| (&mut it.1, INSTALLING_RECORD_BYTES));
        for (place, bytes) in places.chain(installing) {
            if *place == from {
                *place = into;
                ledger.write(into, bytes as u64);
                ledger.revive(into, bytes as u64);
                ledger.kill(from, bytes as u64);
            }
        }
    }

    /// Takes in a replayed record of entries.
    pub(crate) fn put(
        &mut self,
        head: &EntriesHead,
        place: Position,
        is_copy: bool,
        ledger: &mut Ledger,
    ) -> Result<(), Bad> {
        let record = Placed {
            first: head.first,
            count: head.count,
            term: head.term,
            place,
            bytes: head.record_bytes,
        };
        if head.first <= self.index.released().0 {
            return Err(Bad("entries that were released before"));
        }
        ledger.write(place.segment(), u64::from(head.record_bytes));
        if is_copy {
            self.index.fill(record, ledger);
        } else {
            self.index.put(record, ledger);
        }
        Ok(())
    }

    /// The group lost something at `damage`: nothing of it may be relied on, and only that is kept. No record says it yet.
    pub(crate) fn fence(&mut self, damage: Position, ledger: &mut Ledger) {
        let Self { segment, batch, write, .. } = *self;
        let fenced = Self { fence: Some(damage), segment, batch, write, ..Self::default() };
        std::mem::replace(self, fenced).bury(ledger);
    }

    /// Nothing of the group is needed any more.
    pub(crate) fn bury(mut self, ledger: &mut Ledger) {
        self.index.clear(ledger);
        self.drop_snapshot(ledger);
        self.drop_installing(ledger);
        let places = [
            (self.membership_in, membership_record_bytes(self.membership.len())),
            (self.hard_state_in, HARD_STATE_RECORD_BYTES),
            (self.release_in, RELEASE_RECORD_BYTES),
            (self.fence_in, FENCE_RECORD_BYTES),
        ];
        for (place, bytes) in places {
            if let Some(segment) = place {
                ledger.kill(segment, bytes as u64);
            }
        }
    }

    /// Notes that the newest segment, `segment`, holds a record of this group.
    pub(crate) fn enlist(&mut self, id: GroupId, segment: SegmentSeq, ledger: &mut Ledger) {
        if self.segment != Some(segment) {
            self.segment = Some(segment);
            ledger.enlist(id);
        }
    }

    /// Bytes this takes, beside its place in the table.
    pub(crate) fn heap_bytes(&self) -> usize {
        let snapshot = self.snapshot.as_ref().map_or(0, |_| size_of::<Kept>());
        let installing =
            self.installing.as_ref().map_or(0, |_| size_of::<(Installing, SegmentSeq)>());
        self.index.heap_bytes() + self.membership.len() + snapshot + installing
    }
}

const _: () = assert!(size_of::<Group>() <= 288);
