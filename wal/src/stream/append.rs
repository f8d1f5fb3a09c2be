//! The content of the open batch: groups' parts, releases, tombstones, and carried records.
//!
//! In:     [`Append`]s; releases and destructions of groups; copies of entries.
//! Out:    records at the tail of the active segment's image, their groups in the batch's directory. A commit
//!         index covers only entries that the log has had before.
//! Cost:   one copy of each payload; two look-ups per group and batch.
//! Fails:  [`WalError::NoSpace`], [`WalError::OverQuota`], [`WalError::TooLarge`], [`WalError::Destroyed`]: nothing was
//!         encoded.
//! Source: RULES.md rules 2, 3, 11 (order inside a batch), 24 (a batch names its groups), 28.

use super::{Append, Copied, OpenBatch, RunPlace, Wal, offset_u32};
use crate::error::WalError;
use crate::format::{
    self, BATCH_HEADER_BYTES, DIRECTORY_ENTRY_BYTES, ENTRY_HEADER_BYTES, Position,
    RECORD_ALIGN_BYTES, RecordKind, Release, START_RECORD_BYTES, TOMBSTONE_RECORD_BYTES,
    entries_record_bytes,
};
use crate::group::{Group, Small};
use crate::index::Placed;
use crate::ledger::{Ledger, tombstone};
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
        if let Some(state) = append.hard_state
            && !logdrive_raft::bug!("hard_state_behind_its_entries")
        {
            let commit = match logdrive_raft::bug!("commit_saved_past_its_entries") {
                true => state.commit,
                false => state.commit.min(self.accepted(append)),
            };
            self.append_small(group, Small::HardState(HardState { commit, ..state }))?;
        }
        for run in append.entries.chunk_by(|a, b| a.term == b.term) {
            self.append_run(group, run, None)?;
        }
        if let Some(state) = append.hard_state
            && logdrive_raft::bug!("hard_state_behind_its_entries")
        {
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
        let release = match self.groups.get(&group) {
            Some(known) => known.index.plan_release(index, term),
            None => (index > LogIndex::ZERO).then_some(fresh),
        };
        let Some(release) = release else { return Ok(()) };
        self.check_room_to_release(format::RELEASE_RECORD_BYTES)?;
        self.append_small(group, Small::Release(release))
    }

    /// Destroys the group in this log for good: all of the group is dead, and its id never lives again here. The
    /// destruction is durable with the next write of any group.
    ///
    /// # Errors
    /// As [`Wal::append`], but a group that was destroyed before is no error.
    pub fn destroy(&mut self, group: GroupId) -> Result<(), WalError> {
        self.check_poisoned()?;
        if self.tombstones.contains_key(&group) {
            return Ok(());
        }
        self.check_room_to_release(TOMBSTONE_RECORD_BYTES)?;
        self.append_tombstone(group)?;
        if let Some(group) = self.groups.remove(&group) {
            group.bury(&mut self.ledger);
        }
        if self.groups.capacity() > (4 * self.groups.len()).max(GROUPS_CAPACITY_MIN) {
            self.groups.shrink_to(2 * self.groups.len());
        }
        Ok(())
    }

    /// The last entry that the log has of the group and that `append` does not replace.
    fn accepted(&self, append: &Append<'_>) -> LogIndex {
        let last =
            self.groups.get(&append.group).map_or(LogIndex::ZERO, |group| group.index.last());
        append.entries.first().map_or(last, |first| last.min(first.index.prev()))
    }

    fn check_lives(&self, group: GroupId) -> Result<(), WalError> {
        if !self.tombstones.is_empty() && self.tombstones.contains_key(&group) {
            return Err(WalError::Destroyed(group));
        }
        if self.has_fences {
            let is_fenced = self.groups.get(&group).is_some_and(|state| state.fence.is_some());
            assert!(!is_fenced, "{group:?} is fenced and must not act");
        }
        Ok(())
    }

    pub(super) fn append_tombstone(&mut self, group: GroupId) -> Result<(), WalError> {
        self.reserve(TOMBSTONE_RECORD_BYTES)?;
        let used = format::encode_tombstone(self.tail(TOMBSTONE_RECORD_BYTES), group);
        self.advance(used);
        // A group whose tombstone is carried has no state, and nothing else in a batch this late.
        let known = self.groups.get(&group);
        if known.is_none_or(|state| state.batch != self.next_batch) {
            self.open.directory.push(group);
        }
        tombstone(&mut self.tombstones, group, self.active.seq, &mut self.ledger);
        Ok(())
    }

    /// Writes a small record, for the first time or again.
    pub(super) fn append_small(&mut self, group: GroupId, small: Small) -> Result<(), WalError> {
        let bytes = small.record_bytes();
        self.reserve(bytes)?;
        let out = self.tail(bytes);
        let used = match &small {
            Small::Membership(bytes) => format::encode_membership(out, group, bytes),
            Small::HardState(state) => format::encode_hard_state(out, group, state),
            Small::Release(release) => format::encode_release(out, group, release),
            Small::Fence(position) => format::encode_fence(out, group, *position),
        };
        self.advance(used);
        let state = self.groups.entry(group).or_default();
        self.open.enlist(state, group, self.next_batch, self.active.seq, &mut self.ledger);
        state.set(small, self.active.seq, &mut self.ledger);
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
            let room = self.room_in_batch() - RECORD_ALIGN_BYTES;
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
            let seed = self.active.seed;
            let padded = bytes.next_multiple_of(RECORD_ALIGN_BYTES);
            let used = format::encode_entries(self.tail(padded), seed, kind, group, now);
            let placed = Placed {
                first: first.index,
                count: u32::try_from(fits).expect("bounded by a segment"),
                term: first.term,
                place: Position::new(self.active.seq, offset_u32(self.open.tail)),
                bytes: offset_u32(bytes),
            };
            self.ledger.write(self.active.seq, bytes as u64);
            let state = self.groups.entry(group).or_default();
            self.open.enlist(state, group, self.next_batch, self.active.seq, &mut self.ledger);
            self.open.entry_bytes += padded as u64;
            match copy_of {
                Some(from) => {
                    self.open.carries = true;
                    self.metrics.carried += fits as u64;
                    self.metrics.carried_bytes += bytes as u64;
                    self.open.copies.push(Copied { group, from, to: placed });
                }
                None => {
                    let index = &mut state.index;
                    let end = index.last();
                    assert!(
                        index.follows(placed.first),
                        "entries from {:?} leave a hole behind {end:?}",
                        placed.first
                    );
                    index.put(placed, &mut self.ledger);
                    self.open.runs.push(RunPlace {
                        group,
                        first: placed.first,
                        term: placed.term,
                        count: placed.count,
                        offset: self.open.tail - self.active.closed,
                    });
                }
            }
            self.advance(used);
            rest = later;
        }
        Ok(())
    }

    /// Makes sure that a record of `bytes` fits at the tail, with its group in the directory: closes the batch, or
    /// goes on to the next segment.
    pub(super) fn reserve(&mut self, bytes: usize) -> Result<(), WalError> {
        let body = self.body_bytes();
        if self.has_open()
            && self.open.records > 0
            && body + bytes > self.config.batch_bytes_max as usize
        {
            self.close_batch();
        }
        if self.end_with(bytes) > self.active.image.len() {
            // A carried record may be from a time when segments were larger: then a segment is made that is large
            // enough.
            let least = super::segment_bytes_for(START_RECORD_BYTES + bytes, 1);
            self.next_segment(least)?;
            while self.end_with(bytes) > self.active.image.len() {
                self.next_segment(least)?;
            }
        }
        Ok(())
    }

    /// The size that the open batch's body would have if the batch were closed now.
    fn body_bytes(&self) -> usize {
        let records = self.open.tail - self.active.closed - BATCH_HEADER_BYTES;
        records + self.open.directory.len() * DIRECTORY_ENTRY_BYTES
    }

    /// Where the open batch would end with `bytes` more of records and one more group.
    pub(super) fn end_with(&self, bytes: usize) -> usize {
        let directory = (self.open.directory.len() + 1) * DIRECTORY_ENTRY_BYTES;
        self.open.tail + bytes + directory
    }

    /// Bytes that still fit into the open batch; a record that is alone in its batch may exceed the bound of a batch.
    fn room_in_batch(&self) -> usize {
        let segment = self.active.image.len() - self.end_with(0);
        segment
            .min((self.config.batch_bytes_max as usize).saturating_sub(self.body_bytes()))
            .max(RECORD_ALIGN_BYTES)
    }

    pub(super) fn tail(&mut self, bytes: usize) -> &mut [u8] {
        self.active.image.tail_mut(self.open.tail..self.open.tail + bytes)
    }

    pub(super) fn advance(&mut self, bytes: usize) {
        assert!(bytes.is_multiple_of(RECORD_ALIGN_BYTES), "record of {bytes} bytes is not padded");
        self.open.tail += bytes;
        self.open.records += 1;
        if self.open.tail - self.open.summed >= SUM_BYTES {
            self.sum_upto(self.open.tail);
        }
    }

    /// Adds the bytes from `summed` to `end` to the body's checksum.
    pub(super) fn sum_upto(&mut self, end: usize) {
        self.open.sum.update(self.active.image.bytes(self.open.summed..end));
        self.open.summed = end;
    }

    /// Begins a batch behind the last one.
    pub(super) fn begin_batch(&mut self) {
        self.open.tail = self.active.closed + BATCH_HEADER_BYTES;
        self.open.sum = self.active.seed.sum();
        self.open.summed = self.open.tail;
        self.open.records = 0;
        self.open.entry_bytes = 0;
        self.open.carries = false;
    }

    /// Notes that all of `write` is durable once the open batch is.
    fn list_write(&mut self, group: GroupId, write: WriteId) {
        let durable = super::once_written(group, write);
        let state = self.groups.entry(group).or_default();
        self.open.enlist(state, group, self.next_batch, self.active.seq, &mut self.ledger);
        match state.write {
            Some(at) => self.open.writes[at as usize] = durable,
            None => {
                state.write = Some(offset_u32(self.open.writes.len()));
                self.open.writes.push(durable);
            }
        }
    }
}

impl OpenBatch {
    /// Names a group in the directory, once.
    fn enlist(
        &mut self,
        state: &mut Group,
        group: GroupId,
        batch: u64,
        segment: format::SegmentSeq,
        ledger: &mut Ledger,
    ) {
        if state.batch != batch {
            state.batch = batch;
            state.write = None;
            state.enlist(group, segment, ledger);
            self.directory.push(group);
        }
    }
}

/// The log keeps memory for this many groups, however few it has.
const GROUPS_CAPACITY_MIN: usize = 256;
/// The open batch's body is summed in pieces of at least this many bytes, while they are in the processor's cache.
const SUM_BYTES: usize = 16 << 10;
