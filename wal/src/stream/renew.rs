//! The votes' reserve on a full disk, renewed: a segment that holds little but votes is written again as it gets full.
//!
//! In:     the active segment, full; the next segment, which is made; a disk without room for a further one.
//! Out:    the next segment in place of the full one, which is given up and made a segment again.
//! Cost:   a look at each record of the full segment, and one batch with those that count, half of a segment at most, for
//!         the room of the rest: about a segment's worth of votes.
//! Fails:  as any write. If what counts takes more, the log goes on behind the full segment as usual, and votes end
//!         with the last segment.
//! Source: RULES.md rules 2, 8, 28; W16, W17.
//!
//! Entries leave two segments alone that are made ahead of need. When the disk is full and the active segment, too, votes go
//! on in the first of the two. When that is full, its records that count are written again to the second one, whose start record
//! names the segment *before* the first as its predecessor. That is what an open does with a last segment that holds
//! little (`first.rs`), and recovery reads both alike: once the second segment's first block is on disk, which is
//! written last, nothing in the first one counts. So it is given up, though it is not the oldest. The maker makes the next
//! segment of its file, which takes no room on the disk, and the two take turns for ever:
//!
//! ```text
//!   … P ◀── A (votes, full)     B (made)        A's records that count: in B, behind B's start record
//!   … P ◀────────────────────── B (votes)       nothing in A counts; A's file becomes C
//!   … P ◀────────────────────── B (votes)     C (made)
//! ```
//!
//! Invariants:
//! * everything in A is durable before anything is written to B, and all of B's first batch but its first block before
//!   that block (`pipeline.rs`): whatever a crash leaves, A counts as a whole, or B's first batch does;
//! * A stays in the chain, and its entries are found there, until B's first batch is durable;
//! * B's first batch has the number that A's first batch had, so one of the two continues P.
//!
//! The bound. B's first batch has the records of A that an open would write again: every group's latest hard state,
//! membership, snapshot and install, if it stands in A, and all releases, fences, tombstones and entries in A. They may take
//! half of a segment. A hard state or a release takes 40 bytes, and a group 8 more. If each group has both, half of a
//! segment has room for 380,000 groups of a shard with segments of 64 MiB, and for 270 with the smallest. A new leader's no-op takes 48 bytes until the log gives its segment back. Beyond
//! the bound the reserve is what entries left and two segments of votes, and does not renew itself.

use super::tail::{Copied, Copy};
use super::{Wal, segment_bytes_for};
use crate::checksum::Seed;
use crate::error::WalError;
use crate::format::{
    BLOCK_BYTES, BatchHeader, FIRST_BATCH_AT, Position, Record, Records, SegmentSeq,
};
use crate::index::Placed;
use crate::recovery::{MOVED_AT, Moved, MovedTail};
use crate::rules;
use crate::stream::{BATCH_HEADER_BYTES, offset_u32};
use hashbrown::HashSet;

/// A segment whose records have been written again.
pub(super) struct Renewal {
    /// The segment that is given up.
    void: SegmentSeq,
    /// The place below which everything must be durable before that.
    upto: Position,
}

impl Wal {
    /// Goes on in the next segment, if that is made, in place of the active one, whose batches are all closed. False if that is
    /// not due, or does not pay.
    pub(super) fn renew(&mut self) -> Result<bool, WalError> {
        let is_due = self.space.supply().is_disk_full() && self.renewal.is_none();
        if !is_due || !rules::votes_reserve_is_renewed() {
            return Ok(false);
        }
        let Some(spare) = self.space.supply().next_ready() else { return Ok(false) };
        if 2 * self.contents.newest().live > spare.bytes {
            return Ok(false);
        }
        let (moved, copies) = self.written_again(spare.seq, Seed::of(spare.id));
        let needed = segment_bytes_for(BLOCK_BYTES + moved.records.len(), moved.groups.len());
        if 2 * needed > spare.bytes {
            return Ok(false);
        }
        logdrive_raft::reached!("votes' segment written again");
        let void = self.tail.seq();
        self.go_on(true)?;
        self.contents.write_again(&moved.groups, &copies, void, spare.seq);
        for (copied, _) in copies {
            self.tail.add_copy(copied, 0);
        }
        self.tail.note_carried();
        self.take_over(moved);
        self.close_batch();
        self.write_first_block_last();
        self.renewal = Some(Renewal { void, upto: self.tail.position() });
        Ok(true)
    }

    /// The active segment's records that count, for the segment `into`; and the entries and snapshots among them, each
    /// with its bytes.
    fn written_again(&self, into: SegmentSeq, seed: Seed) -> (Moved, Vec<(Copied, u32)>) {
        let (segment, batches) = (self.tail.segment(), self.tail.closed_batches());
        let mut records = MovedTail::default();
        let mut at = 0;
        while at < batches.len() {
            let offset = FIRST_BATCH_AT as usize + at;
            let place = Position::new(segment.seq(), offset_u32(offset));
            let header =
                BatchHeader::decode(&batches[at..], segment.seed(), place, segment.bytes());
            let (header, _) = header.expect("this log wrote it");
            let body = &batches[at + BATCH_HEADER_BYTES..][..header.records_bytes()];
            for (record_at, record) in Records::new(body, segment.seed()) {
                let record = record.expect("this log wrote it");
                let offset = offset + BATCH_HEADER_BYTES + record_at;
                records.push(&record, &body[record_at..], offset);
            }
            at += header.padded_bytes();
        }
        let (mut moved, mut copies) = (Moved::default(), Vec::new());
        let mut groups = HashSet::new();
        for (record, bytes, at) in records.records(segment.seed()) {
            let to = MOVED_AT + moved.push(&record, bytes, seed);
            let group = record.group().expect("only records of groups are kept");
            if groups.insert(group) {
                moved.groups.push(group);
            }
            let place = Position::new(into, offset_u32(to));
            let (to, bytes) = match record {
                Record::Entries(head) | Record::Carried(head) => {
                    let (first, count, term) = (head.first, head.count, head.term);
                    let bytes = head.record_bytes;
                    (Copy::Entries(Placed { first, count, term, place, bytes }), bytes)
                }
                Record::Snapshot(head) => (Copy::Snapshot(place), offset_u32(head.padded_bytes())),
                _ => continue,
            };
            let from = Position::new(segment.seq(), offset_u32(at));
            copies.push((Copied { group, from, to }, bytes));
        }
        (moved, copies)
    }

    /// True for a segment that is being written again: it is not to be carried.
    pub(super) fn is_being_renewed(&self, segment: SegmentSeq) -> bool {
        self.renewal.as_ref().is_some_and(|renewal| renewal.void == segment)
    }

    /// Gives up the segment that was written again, once its records are durable elsewhere.
    pub(super) fn finish_renewal(&mut self) {
        let durable = self.pipeline.durable();
        let Some(renewal) = self.renewal.take_if(|renewal| renewal.upto <= durable) else { return };
        let void = self.chain.pass_over(renewal.void);
        self.contents.pass_over(renewal.void);
        self.give_up(&void);
    }
}
