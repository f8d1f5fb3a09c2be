//! The tail of the log: the active segment's image, and the open batch that grows at its end.
//!
//! In:     encoded records; the groups, writes, runs and copies that the open batch has.
//! Out:    the open batch, closed: header, directory, checksums and padding in place, its bytes frozen.
//! Cost:   a record's bytes are summed once, while they are in the processor's cache; O(1) beside that.
//! Fails:  a record that is not padded, or that does not fit, is a broken invariant.
//! Source: RULES.md rules 2, 6, 24; A5.
//!
//! Invariants:
//! * the image is frozen up to `closed`, where the open batch begins, and no byte below that changes again;
//! * `closed` ≤ `summed` ≤ `tail`, and `sum` is the checksum of the body up to `summed`;
//! * the directory names each group of the batch once, and the whole batch fits the image ([`Tail::fits`]).

use super::contents::Listed;
use super::offset_u32;
use super::pipeline::ClosedBatch;
use crate::checksum::{Seed, Sum};
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, DIRECTORY_ENTRY_BYTES, FIRST_BATCH_AT, Position,
    RECORD_ALIGN_BYTES, SegmentSeq, Start,
};
use crate::image::{Frozen, ImageWriter};
use crate::index::Placed;
use crate::recovery::Moved;
use logdrive_raft::{Durable, GroupId, LogIndex, Term};
use std::ops::Range;

/// The place where the log grows.
pub(super) struct Tail {
    active: Segment,
    /// The start record and the first batch of the active segment.
    began: Began,
    open: OpenBatch,
}

/// The beginning of a segment.
#[derive(Clone, Copy)]
pub(super) struct Began {
    /// The segment's start record.
    pub(super) start: Start,
    /// The number of the segment's first batch.
    pub(super) batch: u64,
}

/// A segment in memory.
pub(super) struct Segment {
    seq: SegmentSeq,
    id: u128,
    seed: Seed,
    image: ImageWriter,
    /// The offset behind the last closed batch.
    closed: usize,
}

/// The batch at the tail.
struct OpenBatch {
    /// The offset of the next record in the active image. If it is right behind the batch's header, or before that, the
    /// batch has no records.
    tail: usize,
    /// The checksum of the body up to `summed`, taken early so that little is left to do once a slot is free.
    sum: Sum,
    summed: usize,
    records: u32,
    /// The groups that have something in the batch, each once.
    directory: Vec<GroupId>,
    writes: Vec<Durable>,
    runs: Vec<RunPlace>,
    copies: Vec<Copied>,
    /// Bytes of the batch's records of entries and snapshots.
    entry_bytes: u64,
    /// True if something in the batch was written again to give space back.
    carries: bool,
}

/// Something that is carried: it is found at `to` once the batch is durable.
pub(super) struct Copied {
    pub(super) group: GroupId,
    pub(super) from: Position,
    pub(super) to: Copy,
}

/// The place of a copy.
pub(super) enum Copy {
    Entries(Placed),
    Snapshot(Position),
}

/// New entries of a group in a batch.
pub(super) struct RunPlace {
    pub(super) group: GroupId,
    pub(super) first: LogIndex,
    pub(super) term: Term,
    pub(super) count: u32,
    /// The record's offset from the batch's start.
    pub(super) offset: usize,
}

/// The fields of a batch's header that do not describe the batch's content.
#[derive(Clone, Copy)]
pub(super) struct Link {
    /// The batch's number.
    pub(super) seq: u64,
    /// The checksum of the previous batch's header.
    pub(super) prev_crc: u32,
    /// Everything before this place is on disk.
    pub(super) durable: Position,
}

/// The open batch, closed.
pub(super) struct Closed {
    pub(super) batch: ClosedBatch,
    /// The checksum of the batch's header, which the next batch states.
    pub(super) crc: u32,
    pub(super) taken: Taken,
    /// True if the batch passes the middle of its segment.
    pub(super) passes_middle: bool,
}

/// The bytes that a batch took.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    /// All bytes of the batch, padding included.
    pub(super) bytes: u64,
    /// The bytes of the batch's records of entries and snapshots.
    pub(super) entry_bytes: u64,
    /// True if something in the batch was written again to give space back.
    pub(super) carries: bool,
}

impl Segment {
    /// A segment in which nothing was written yet.
    pub(super) fn new(seq: SegmentSeq, id: u128, image: ImageWriter) -> Self {
        Self { seq, id, seed: Seed::of(id), image, closed: FIRST_BATCH_AT as usize }
    }

    #[inline]
    pub(super) fn seq(&self) -> SegmentSeq {
        self.seq
    }

    pub(super) fn seed(&self) -> Seed {
        self.seed
    }

    /// The segment's size in bytes.
    #[inline]
    pub(super) fn bytes(&self) -> u64 {
        self.image.len() as u64
    }

    /// The place behind the last closed batch.
    #[inline]
    pub(super) fn end(&self) -> Position {
        Position::new(self.seq, offset_u32(self.closed))
    }

    /// The closed batches, to be read.
    pub(super) fn share(&self) -> Frozen {
        self.image.share(0..self.closed)
    }
}

impl Tail {
    /// A tail at the beginning of a segment, whose start record is to follow ([`Self::begin`]).
    pub(super) fn new(active: Segment, began: Began) -> Self {
        let open = OpenBatch {
            tail: 0,
            sum: active.seed.sum(),
            summed: 0,
            records: 0,
            directory: Vec::new(),
            writes: Vec::new(),
            runs: Vec::new(),
            copies: Vec::new(),
            entry_bytes: 0,
            carries: false,
        };
        Self { active, began, open }
    }

    /// The active segment.
    #[inline]
    pub(super) fn segment(&self) -> &Segment {
        &self.active
    }

    /// The active segment's number.
    #[inline]
    pub(super) fn seq(&self) -> SegmentSeq {
        self.active.seq
    }

    /// The seed with which the active segment's checksums begin.
    #[inline]
    pub(super) fn seed(&self) -> Seed {
        self.active.seed
    }

    /// The place behind the last closed batch.
    #[inline]
    pub(super) fn position(&self) -> Position {
        self.active.end()
    }

    /// The place of the next record.
    #[inline]
    pub(super) fn next_record(&self) -> Position {
        Position::new(self.active.seq, offset_u32(self.open.tail))
    }

    /// True if something waits in the open batch.
    #[inline]
    pub(super) fn has_open(&self) -> bool {
        self.open.records > 0 || !self.open.writes.is_empty()
    }

    /// True if the open batch has records.
    #[inline]
    pub(super) fn has_records(&self) -> bool {
        self.open.records > 0
    }

    /// The size that the open batch's body would have if the batch were closed now.
    #[inline]
    pub(super) fn body_bytes(&self) -> usize {
        let records = self.open.tail - self.active.closed - BATCH_HEADER_BYTES;
        records + self.open.directory.len() * DIRECTORY_ENTRY_BYTES
    }

    /// Whether `bytes` more of records and one more group fit the segment.
    #[inline]
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.end_with(bytes) <= self.active.image.len()
    }

    /// Where the open batch would end with `bytes` more of records and one more group.
    #[inline]
    fn end_with(&self, bytes: usize) -> usize {
        let directory = (self.open.directory.len() + 1) * DIRECTORY_ENTRY_BYTES;
        self.open.tail + bytes + directory
    }

    /// Bytes that still fit into the open batch; a record that is alone in its batch may exceed the bound of a batch.
    #[inline]
    pub(super) fn room_in_batch(&self, batch_bytes_max: usize) -> usize {
        let segment = self.active.image.len() - self.end_with(0);
        segment.min(batch_bytes_max.saturating_sub(self.body_bytes())).max(RECORD_ALIGN_BYTES)
    }

    /// The room left in the active segment.
    #[inline]
    pub(super) fn rest(&self) -> u64 {
        self.active.image.len().saturating_sub(self.open.tail) as u64
    }

    /// True if the open batch's end is past the middle of the segment.
    #[inline]
    pub(super) fn is_past_middle(&self) -> bool {
        self.open.tail > self.active.image.len() / 2
    }

    /// The bytes at the tail, for a record.
    #[inline]
    pub(super) fn out(&mut self, bytes: usize) -> &mut [u8] {
        self.active.image.tail_mut(self.open.tail..self.open.tail + bytes)
    }

    /// Notes that a record of `bytes` bytes was put at the tail.
    #[inline]
    pub(super) fn advance(&mut self, bytes: usize) {
        assert!(bytes.is_multiple_of(RECORD_ALIGN_BYTES), "record of {bytes} bytes is not padded");
        self.open.tail += bytes;
        self.open.records += 1;
        if self.open.tail - self.open.summed >= SUM_BYTES {
            self.sum_upto(self.open.tail);
        }
    }

    /// Adds the bytes from `summed` to `end` to the body's checksum.
    #[inline]
    fn sum_upto(&mut self, end: usize) {
        self.open.sum.update(self.active.image.bytes(self.open.summed..end));
        self.open.summed = end;
    }

    /// Names a group in the directory.
    #[inline]
    pub(super) fn name(&mut self, group: GroupId) {
        self.open.directory.push(group);
    }

    /// The number of writes that the open batch lists.
    #[inline]
    pub(super) fn listed(&self) -> u32 {
        offset_u32(self.open.writes.len())
    }

    /// Lists a write that is durable once the open batch is, in its group's place.
    #[inline]
    pub(super) fn list(&mut self, durable: Durable, listed: &Listed) {
        match self.open.writes.get_mut(listed.place as usize) {
            Some(before) => *before = durable,
            None => self.open.writes.push(durable),
        }
    }

    /// Notes that new entries stand at the tail, in a record of `bytes` bytes.
    #[inline]
    pub(super) fn add_run(&mut self, group: GroupId, placed: &Placed, bytes: usize) {
        self.open.entry_bytes += bytes as u64;
        self.open.runs.push(RunPlace {
            group,
            first: placed.first,
            term: placed.term,
            count: placed.count,
            offset: self.open.tail - self.active.closed,
        });
    }

    /// Notes that carried entries, or a carried snapshot, stand at the tail, in a record of `bytes` bytes.
    pub(super) fn add_copy(&mut self, copied: Copied, bytes: usize) {
        self.open.entry_bytes += bytes as u64;
        self.open.carries = true;
        self.open.copies.push(copied);
    }

    /// Notes that a new snapshot stands at the tail, in a record of `bytes` bytes: it stays, as entries do.
    pub(super) fn add_snapshot(&mut self, bytes: usize) {
        self.open.entry_bytes += bytes as u64;
    }

    /// Notes that something was put at the tail that stood in the log before: it was written again to give space back.
    pub(super) fn note_carried(&mut self) {
        self.open.carries = true;
    }

    /// Puts the segment's start record into its first batch.
    pub(super) fn begin(&mut self) {
        self.begin_batch();
        let record = self.began.start.encode(self.active.seed);
        self.out(record.len()).copy_from_slice(&record);
        self.advance(record.len());
    }

    /// Puts records that an open writes again at the tail.
    pub(super) fn take_over(&mut self, moved: Moved) {
        self.out(moved.records.len()).copy_from_slice(&moved.records);
        self.open.tail += moved.records.len();
        self.open.records += moved.count;
        self.open.directory = moved.groups;
    }

    /// Closes the open batch: header, checksums, padding; from here on its bytes never change. The next batch begins
    /// behind it.
    #[inline]
    pub(super) fn close(&mut self, link: Link) -> Closed {
        let start = self.active.closed;
        let body_at = start + BATCH_HEADER_BYTES;
        let records_end = self.open.tail;
        let mut directory = std::mem::take(&mut self.open.directory);
        let tail = records_end + directory.len() * DIRECTORY_ENTRY_BYTES;
        let image = self.active.image.tail_mut(records_end..tail);
        for (id, group) in image.chunks_exact_mut(DIRECTORY_ENTRY_BYTES).zip(&directory) {
            id.copy_from_slice(&group.get().to_le_bytes());
        }
        let end = tail.next_multiple_of(BLOCK_BYTES);
        let position = self.position();
        self.active.image.tail_mut(tail..end).fill(0);
        self.sum_upto(tail);
        let header = BatchHeader {
            seq: link.seq,
            position,
            durable: link.durable,
            body_bytes: offset_u32(tail - body_at),
            body_crc: self.open.sum.finish(),
            records: self.open.records,
            prev_crc: link.prev_crc,
            groups: offset_u32(directory.len()),
            directory_crc: self.active.seed.checksum(self.active.image.bytes(records_end..tail)),
        };
        let taken = Taken {
            bytes: (end - start) as u64,
            entry_bytes: self.open.entry_bytes,
            carries: self.open.carries,
        };
        let (bytes, crc) = header.encode(self.active.seed);
        self.active.image.tail_mut(start..body_at).copy_from_slice(&bytes);
        self.active.image.freeze(end);
        let batch = ClosedBatch {
            seq: link.seq,
            position,
            bytes: self.active.image.share(start..end),
            unwritten: self.active.image.share(start..end),
            behind: None,
            padding: end - tail,
            writes: take_list(&mut self.open.writes),
            runs: take_list(&mut self.open.runs),
            copies: std::mem::take(&mut self.open.copies),
        };
        let middle = self.active.image.len() / 2;
        let passes_middle = start < middle && end >= middle;
        self.active.closed = end;
        // The list is kept for its memory.
        directory.clear();
        self.open.directory = directory;
        self.begin_batch();
        Closed { batch, crc, taken, passes_middle }
    }

    /// Begins a batch behind the last one.
    fn begin_batch(&mut self) {
        self.open.tail = self.active.closed + BATCH_HEADER_BYTES;
        self.open.sum = self.active.seed.sum();
        self.open.summed = self.open.tail;
        self.open.records = 0;
        self.open.entry_bytes = 0;
        self.open.carries = false;
    }

    /// Goes on in another segment, whose start record says what stands before it. `link` is that of the next batch.
    /// Returns the segment that is full.
    pub(super) fn go_on(&mut self, next: Segment, link: Link) -> Segment {
        let (end, prev_crc) = (self.position(), link.prev_crc);
        let start = Start { end, id: self.active.id, prev_crc, cut: false };
        self.began = Began { start, batch: link.seq };
        self.go_on_in_place(next)
    }

    /// Goes on in another segment, which takes the place of the active one: it begins as that one began. Returns the
    /// segment that is replaced.
    pub(super) fn go_on_in_place(&mut self, next: Segment) -> Segment {
        let full = std::mem::replace(&mut self.active, next);
        self.begin();
        full
    }

    /// The start record and the first batch of the active segment.
    pub(super) fn began(&self) -> Began {
        self.began
    }

    /// The bytes of the active segment's closed batches.
    pub(super) fn closed_batches(&self) -> &[u8] {
        self.active.image.bytes(FIRST_BATCH_AT as usize..self.active.closed)
    }

    /// The offset of the next record in its segment.
    pub(super) fn offset(&self) -> usize {
        self.open.tail
    }

    /// Closed bytes of the active segment.
    pub(super) fn share(&self, range: Range<usize>) -> Frozen {
        self.active.image.share(range)
    }

    /// The offset behind the last closed batch.
    pub(super) fn closed(&self) -> usize {
        self.active.closed
    }
}

/// Takes a list out and leaves an empty one with as much room: a batch mostly has as many parts as the one before.
fn take_list<T>(list: &mut Vec<T>) -> Vec<T> {
    let room = list.len();
    std::mem::replace(list, Vec::with_capacity(room))
}

/// The open batch's body is summed in pieces of at least this many bytes, while they are in the processor's cache.
const SUM_BYTES: usize = 16 << 10;
