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
use super::tail::Copied;
use super::{Append, Wal, offset_u32};
use crate::error::WalError;
use crate::format::{
    self, ENTRY_HEADER_BYTES, Position, RECORD_ALIGN_BYTES, RecordKind, Release,
    START_RECORD_BYTES, TOMBSTONE_RECORD_BYTES, entries_record_bytes,
};
use crate::group::Small;
use crate::index::Placed;
use crate::rules;
use bytes::Bytes;
use logdrive_raft::{Entry, GroupId, HardState, LogIndex, Term, WriteId};

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

    /// Releases a group's entries up to `index`, whose term is `term`: the group's log begins behind `index`, and the
    /// space of the released entries is given back in time. If the log has an entry of another term at `index`, the
    /// group's state came from elsewhere (a snapshot): then nothing behind `index` is kept either. The release is
    /// durable with the next write of any group.
    ///
    /// # Errors
    /// As [`Wal::append`].
    ///
    /// # Panics
    /// If `index` is the last one there is: no entry can stand behind it.
    pub fn release(&mut self, group: GroupId, index: LogIndex, term: Term) -> Result<(), WalError> {
        assert!(index < LogIndex(u64::MAX), "{group:?}: no entry can stand behind {index:?}");
        self.check_poisoned()?;
        self.check_lives(group)?;
        let fresh = Release { index, term, last: index };
        let release = match self.contents.group(group) {
            Some(known) => known.index.plan_release(index, term),
            None => (index > LogIndex::ZERO).then_some(fresh),
        };
        let Some(release) = release else { return Ok(()) };
        self.check_room_to_release(format::RELEASE_RECORD_BYTES)?;
        self.append_small(group, Small::Release(release))
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
        self.check_room_to_release(TOMBSTONE_RECORD_BYTES)?;
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
        let bytes = small.record_bytes();
        self.reserve(bytes)?;
        let out = self.tail.out(bytes);
        let used = match &small {
            Small::Membership(bytes) => format::encode_membership(out, group, bytes),
            Small::HardState(state) => format::encode_hard_state(out, group, state),
            Small::Release(release) => format::encode_release(out, group, release),
            Small::Fence(position) => format::encode_fence(out, group, *position),
        };
        self.tail.advance(used);
        let is_new = self.contents.set(group, small, self.newest());
        self.name(group, is_new);
        Ok(())
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
                    self.tail.add_copy(Copied { group, from, to: placed }, padded);
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
            self.next_segment(least)?;
            while !self.tail.fits(bytes) {
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
        Newest { batch: self.pipeline.next_batch(), segment: self.tail.seq() }
    }
}
