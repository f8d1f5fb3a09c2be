//! The content of the open batch: groups' parts, releases, tombstones, and carried records.
//!
//! In:     [`Append`]s; releases and destructions of groups; copies of entries.
//! Out:    records at the tail of the active segment's image, their groups in the batch's directory. A commit
//!         index covers only entries that the log has had before.
//! Cost:   one copy of each payload; two look-ups per group and batch.
//! Fails:  [`WalError::NoSpace`], [`WalError::OverQuota`], [`WalError::TooLarge`], [`WalError::Destroyed`]: nothing was
//!         encoded.
//! Source: RULES.md rules 2, 3, 11 (order inside a batch), 24 (a batch names its groups), 28.

use super::contents::Newest;
use super::tail::{Copied, Copy};
use super::{Append, Wal, offset_u32};
use crate::error::WalError;
use crate::format::{
    self, ENTRY_HEADER_BYTES, Position, RECORD_ALIGN_BYTES, RecordKind, START_RECORD_BYTES,
    TOMBSTONE_RECORD_BYTES, entries_record_bytes,
};
use crate::group::Small;
use crate::index::Placed;
use crate::rules;
use crate::snapshot::{Install, Release, Snapshot};
use bytes::Bytes;
use logdrive_raft::{Entry, GroupId, HardState, LogIndex, WriteId};

impl Wal {
    /// Encodes one group's part at the tail of the open batch. The part may end in a later batch, or a later segment,
    /// than it begins in. Nothing is written to the disk yet. Never blocks.
    ///
    /// A hard state's commit index is saved only as far as the log has the entries already: if a write lands only in
    /// part, its hard state lands first, and the entries under the commit index may be those that the write replaces.
    ///
    /// # Errors
    /// [`WalError::TooLarge`], [`WalError::NoSpace`], [`WalError::OverQuota`], [`WalError::Destroyed`]: nothing was
    /// encoded. [`WalError::Poisoned`].
    ///
    /// # Panics
    /// If the entries leave a hole in the group's log, or the group is fenced: the caller's invariant is broken.
    pub fn append(&mut self, append: &Append<'_>) -> Result<(), WalError> {
        self.append_part(append)?;
        // A write of nothing is durable once everything before it is; it still needs a batch that says so.
        self.reserve(0)?;
        self.list_write(append.group, append.write);
        Ok(())
    }

    /// Encodes, as [`Wal::append`] does, the first entries of a write whose others follow: nothing says yet that the
    /// write is durable.
    ///
    /// # Errors
    /// As [`Wal::append`].
    ///
    /// # Panics
    /// As [`Wal::append`].
    pub fn append_part(&mut self, append: &Append<'_>) -> Result<(), WalError> {
        self.check_poisoned()?;
        let group = append.group;
        self.check_lives(group)?;
        self.check_room(append)?;
        if let Some(membership) = append.membership {
            self.append_small(group, Small::Membership(Bytes::copy_from_slice(membership)))?;
        }
        if let Some(state) = append.hard_state.filter(|_| rules::hard_state_goes_first()) {
            let commit = rules::commit_to_save(state.commit, self.accepted(append));
            self.append_small(group, Small::HardState(HardState { commit, ..state }))?;
        }
        for run in append.entries.chunk_by(|a, b| a.term == b.term) {
            self.append_run(group, run, None)?;
        }
        if let Some(state) = append.hard_state.filter(|_| !rules::hard_state_goes_first()) {
            self.append_small(group, Small::HardState(state))?;
        }
        self.metrics.entries += append.entries.len() as u64;
        Ok(())
    }

    /// Lets a prefix of a group's log go, and makes all of `release` true with it: the records stand in one batch. The
    /// space of the released entries is given back in time. Entries that were released before are released already:
    /// then nothing is written, so that a late release undoes nothing.
    ///
    /// # Errors
    /// As [`Wal::append`]; [`WalError::TooLarge`] if all of it does not fit one segment.
    ///
    /// # Panics
    /// If the base is the last index there is, because no entry can stand behind it; if the snapshot is before the base,
    /// because nothing could be replayed onto it, or before the snapshot that the log keeps.
    pub fn release(&mut self, release: &Release<'_>) -> Result<(), WalError> {
        let &Release { group, write, base, membership, hard_state, snapshot } = release;
        assert!(base.index < LogIndex(u64::MAX), "{group:?}: no entry can stand behind {base:?}");
        self.check_poisoned()?;
        self.check_lives(group)?;
        let known = self.contents.group(group);
        let released = known.map_or(LogIndex::ZERO, |known| known.index.released().0);
        if base.index >= released {
            let fresh = format::Release { index: base.index, term: base.term, last: base.index };
            let planned = match known {
                Some(known) => known.index.plan_release(base.index, base.term),
                None => (base.index > LogIndex::ZERO).then_some(fresh),
            };
            let last = planned.map(|planned| planned.last);
            let last = last.or(known.map(|known| known.index.last())).unwrap_or(LogIndex::ZERO);
            if let Some(snapshot) = &snapshot {
                let kept =
                    known.and_then(|known| known.snapshot()).map(|kept| kept.head.mark.at.index);
                let least = kept.unwrap_or(LogIndex::ZERO).max(base.index);
                let at = snapshot.at.index;
                assert!(at >= least, "{group:?}: a snapshot at {at:?}, which is before {least:?}");
                assert!(
                    at <= last,
                    "{group:?}: a snapshot at {at:?} of a log that ends at {last:?}"
                );
            }
            let hard_state = hard_state.map(|state| HardState {
                commit: rules::commit_to_save(state.commit, last),
                ..state
            });
            let smalls = [
                Some(Small::Membership(Bytes::copy_from_slice(membership))),
                hard_state.map(Small::HardState),
                planned.map(Small::Release),
            ];
            self.append_together(group, smalls.into_iter().flatten(), snapshot.as_ref())?;
        } else {
            self.reserve(0)?;
        }
        if let Some(write) = write {
            self.list_write(group, write);
        }
        Ok(())
    }

    /// Notes that a group's machine is about to be replaced by a snapshot. The machine may be touched once this is
    /// durable; the next [`Wal::release`] at the snapshot's entry or behind it says that the machine is whole again.
    ///
    /// # Errors
    /// As [`Wal::append`].
    ///
    /// # Panics
    /// If the group is fenced, or its entries up to the snapshot's were released: the caller's invariant is broken.
    pub fn install(&mut self, install: &Install) -> Result<(), WalError> {
        let &Install { group, write, snapshot } = install;
        self.check_poisoned()?;
        self.check_lives(group)?;
        let known = self.contents.group(group);
        let released = known.map_or(LogIndex::ZERO, |known| known.index.released().0);
        let at = snapshot.at.index;
        assert!(at > released && at < LogIndex(u64::MAX), "{group:?}: {at:?} behind {released:?}");
        self.check_room_to_release(format::INSTALLING_RECORD_BYTES, 0)?;
        self.append_small(group, Small::Installing(snapshot))?;
        self.list_write(group, write);
        Ok(())
    }

    /// Writes small records of a group, and a snapshot, into one batch: a crash leaves all of them or none.
    fn append_together(
        &mut self,
        group: GroupId,
        smalls: impl Iterator<Item = Small> + Clone,
        snapshot: Option<&Snapshot<'_>>,
    ) -> Result<(), WalError> {
        let of_snapshot = snapshot.map_or(0, format::snapshot_record_bytes);
        let bytes = smalls.clone().map(|small| small.record_bytes()).sum::<usize>() + of_snapshot;
        let max = self.config.entry_bytes_max();
        if bytes > max {
            return Err(WalError::TooLarge { bytes, max });
        }
        self.check_room_to_release(bytes, of_snapshot)?;
        self.reserve(bytes)?;
        if let Some(snapshot) = snapshot {
            self.put_snapshot(group, snapshot, None);
        }
        smalls.for_each(|small| self.put_small(group, small));
        Ok(())
    }

    /// Encodes a snapshot; if it is carried, `copy_of` is the place of the record it was read from.
    pub(super) fn append_snapshot(
        &mut self,
        group: GroupId,
        snapshot: &Snapshot<'_>,
        copy_of: Option<Position>,
    ) -> Result<(), WalError> {
        self.reserve(format::snapshot_record_bytes(snapshot))?;
        self.put_snapshot(group, snapshot, copy_of);
        Ok(())
    }

    /// Puts a snapshot at the tail, where its room is reserved.
    fn put_snapshot(&mut self, group: GroupId, snapshot: &Snapshot<'_>, copy_of: Option<Position>) {
        let bytes = format::snapshot_record_bytes(snapshot);
        let (place, seed) = (self.tail.next_record(), self.tail.seed());
        let head = format::encode_snapshot(self.tail.out(bytes), seed, group, snapshot);
        let is_new = match copy_of {
            Some(from) => {
                self.metrics.carried_bytes += bytes as u64;
                let to = Copy::Snapshot(place);
                self.tail.add_copy(Copied { group, from, to }, bytes);
                self.contents.copy(group, offset_u32(bytes), self.newest())
            }
            None => {
                self.tail.add_snapshot(bytes);
                self.contents.keep(head, place, self.newest())
            }
        };
        self.name(group, is_new);
        self.tail.advance(bytes);
    }

    /// Destroys the group in this log for good: all of the group is dead, and its id never lives again here. The
    /// tombstone names the replica that is gone, by the index `since` of the entry that had added it (`ZERO` for a
    /// founder). The destruction is durable with the next write of any group.
    ///
    /// # Errors
    /// As [`Wal::append`], but a group that was destroyed before is no error.
    pub fn destroy(&mut self, group: GroupId, since: LogIndex) -> Result<(), WalError> {
        self.check_poisoned()?;
        if self.contents.destroyed_since(group).is_some_and(|known| known >= since) {
            return Ok(());
        }
        self.check_room_to_release(TOMBSTONE_RECORD_BYTES, 0)?;
        self.append_tombstone(group, since)?;
        self.contents.bury(group);
        Ok(())
    }

    /// The last entry that the log has of the group and that `append` does not replace.
    fn accepted(&self, append: &Append<'_>) -> LogIndex {
        let known = self.contents.group(append.group);
        let last = known.map_or(LogIndex::ZERO, |group| group.index.last());
        append.entries.first().map_or(last, |first| last.min(first.index.prev()))
    }

    fn check_lives(&self, group: GroupId) -> Result<(), WalError> {
        if self.contents.is_destroyed(group) {
            return Err(WalError::Destroyed(group));
        }
        assert!(!self.contents.is_fenced(group), "{group:?} is fenced and must not act");
        Ok(())
    }

    pub(super) fn append_tombstone(
        &mut self,
        group: GroupId,
        since: LogIndex,
    ) -> Result<(), WalError> {
        self.reserve(TOMBSTONE_RECORD_BYTES)?;
        let used = format::encode_tombstone(self.tail.out(TOMBSTONE_RECORD_BYTES), group, since);
        self.tail.advance(used);
        let is_new = self.contents.set_tombstone(group, since, self.newest());
        self.name(group, is_new);
        Ok(())
    }

    /// Writes a small record, for the first time or again.
    pub(super) fn append_small(&mut self, group: GroupId, small: Small) -> Result<(), WalError> {
        self.reserve(small.record_bytes())?;
        self.put_small(group, small);
        Ok(())
    }

    /// Puts a small record at the tail, where its room is reserved.
    fn put_small(&mut self, group: GroupId, small: Small) {
        let bytes = small.record_bytes();
        let out = self.tail.out(bytes);
        let used = match &small {
            Small::Membership(bytes) => format::encode_membership(out, group, bytes),
            Small::HardState(state) => format::encode_hard_state(out, group, state),
            Small::Release(release) => format::encode_release(out, group, release),
            Small::Installing(installing) => format::encode_installing(out, group, installing),
            Small::Fence(position) => format::encode_fence(out, group, *position),
        };
        self.tail.advance(used);
        let is_new = self.contents.set(group, small, self.newest());
        self.name(group, is_new);
    }

    /// Encodes entries of one term; if the entries are carried, `copy_of` is the place of the record they were read
    /// from.
    pub(super) fn append_run(
        &mut self,
        group: GroupId,
        run: &[Entry],
        copy_of: Option<Position>,
    ) -> Result<(), WalError> {
        let kind = if copy_of.is_some() { RecordKind::Carried } else { RecordKind::Entries };
        let mut rest = run;
        while let Some(first) = rest.first() {
            self.reserve(entries_record_bytes(1, first.payload.len()) + RECORD_ALIGN_BYTES)?;
            let batch_bytes_max = self.config.batch_bytes_max as usize;
            let room = self.tail.room_in_batch(batch_bytes_max) - RECORD_ALIGN_BYTES;
            let mut bytes = entries_record_bytes(0, 0);
            let mut fits = 0;
            for entry in rest {
                bytes += ENTRY_HEADER_BYTES + entry.payload.len();
                if bytes > room && fits > 0 {
                    bytes -= ENTRY_HEADER_BYTES + entry.payload.len();
                    break;
                }
                fits += 1;
            }
            let (now, later) = rest.split_at(fits);
            let seed = self.tail.seed();
            let padded = bytes.next_multiple_of(RECORD_ALIGN_BYTES);
            let used = format::encode_entries(self.tail.out(padded), seed, kind, group, now);
            let placed = Placed {
                first: first.index,
                count: u32::try_from(fits).expect("bounded by a segment"),
                term: first.term,
                place: self.tail.next_record(),
                bytes: offset_u32(bytes),
            };
            let is_new = match copy_of {
                Some(from) => {
                    self.metrics.carried += fits as u64;
                    self.metrics.carried_bytes += bytes as u64;
                    let to = Copy::Entries(placed);
                    self.tail.add_copy(Copied { group, from, to }, padded);
                    self.contents.copy(group, placed.bytes, self.newest())
                }
                None => {
                    self.tail.add_run(group, &placed, padded);
                    self.contents.put(group, placed, self.newest())
                }
            };
            self.name(group, is_new);
            self.tail.advance(used);
            rest = later;
        }
        Ok(())
    }

    /// Makes sure that a record of `bytes` fits at the tail, with its group in the directory: closes the batch, or
    /// goes on to the next segment.
    pub(super) fn reserve(&mut self, bytes: usize) -> Result<(), WalError> {
        let batch_bytes_max = self.config.batch_bytes_max as usize;
        if self.tail.has_records() && self.tail.body_bytes() + bytes > batch_bytes_max {
            self.close_batch();
        }
        if !self.tail.fits(bytes) {
            // A carried record may be from a time when segments were larger: then a segment is made that is large
            // enough.
            let least = super::segment_bytes_for(START_RECORD_BYTES + bytes, 1);
            let least = rules::least_segment_bytes(least);
            self.next_segment(least)?;
            while !self.tail.fits(bytes) {
                let segment = self.tail.segment().bytes();
                assert!(segment < least, "a record of {bytes} bytes fits no segment of {segment}");
                self.next_segment(least)?;
            }
        }
        Ok(())
    }

    /// Notes that all of `write` is durable once the open batch is.
    fn list_write(&mut self, group: GroupId, write: WriteId) {
        let durable = super::once_written(group, write);
        let listed = self.contents.list_write(group, self.tail.listed(), self.newest());
        self.name(group, listed.is_new);
        self.tail.list(durable, &listed);
    }

    /// Names a group in the open batch's directory, unless the batch names it already.
    #[inline]
    fn name(&mut self, group: GroupId, is_new: bool) {
        if is_new {
            self.tail.name(group);
        }
    }

    /// The place of the tail.
    #[inline]
    fn newest(&self) -> Newest {
        Newest { batch: self.pipeline.open_batch(), segment: self.tail.seq() }
    }
}
