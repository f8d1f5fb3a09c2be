//! The batches between the tail and durability: closed ones that wait, and writes in flight.
//!
//! In:     closed batches, in log order; the ends of writes, in any order.
//! Out:    writes to start, while there are free slots; batches that became durable, in log order.
//! Cost:   O(1) for each batch, and a look at the few writes in flight.
//! Fails:  the end of a write that is not in flight, or a durable prefix that would move back, is a broken invariant.
//! Source: RULES.md rules 8, 9, 10; W5.
//!
//! Invariants:
//! * batches are numbered without a gap: those in flight, those that wait, and `next_batch`, which is the open one's; only
//!   a segment that stands in for another one goes back to that one's numbers, while nothing of it is in flight;
//! * at most `in_flight_max` writes are in flight;
//! * while the part of a batch behind its first block is being written, no other write is in flight;
//! * everything before `durable` is on disk, and `durable` never moves back.

use super::offset_u32;
use super::tail::{Copied, Link, RunPlace};
use crate::disk::WriteSegment;
use crate::format::{Position, SegmentSeq};
use crate::image::Frozen;
use crate::rules;
use logdrive_raft::Durable;
use std::collections::VecDeque;

/// The batches that are on their way to the disk.
pub(super) struct Pipeline {
    in_flight_max: usize,
    waiting: VecDeque<ClosedBatch>,
    in_flight: VecDeque<InFlight>,
    durable: Position,
    /// The place behind the newest seal.
    sealed_upto: Position,
    next_batch: u64,
    prev_crc: u32,
    /// The number of batches that were closed so far, beginning at the number of the first: unlike a batch's number it
    /// never goes back.
    closed: u64,
    /// True while the part of the oldest waiting batch that is behind its first block is being written.
    is_behind_in_flight: bool,
    /// True if the open batch was submitted while no slot was free: the batch is written when one is.
    submit_wanted: bool,
    /// See [`super::Wal::disk_answers`].
    disk_answers: u64,
    /// The disk's count of chunks written to segments in the making, as it was when last read.
    chunks_made: u64,
}

/// A batch whose bytes do not change any more.
pub(super) struct ClosedBatch {
    pub(super) seq: u64,
    pub(super) position: Position,
    pub(super) bytes: Frozen,
    /// The part that makes the batch count: the whole batch, or only its first block.
    pub(super) unwritten: Frozen,
    /// The part that is written, and is durable, before that; `None` once its write has begun, or if there is none.
    pub(super) behind: Option<Frozen>,
    pub(super) padding: usize,
    pub(super) writes: Vec<Durable>,
    pub(super) runs: Vec<RunPlace>,
    pub(super) copies: Vec<Copied>,
}

/// A batch that was handed to the disk.
pub(super) struct InFlight {
    pub(super) batch: ClosedBatch,
    pub(super) stamp: u64,
    done: bool,
}

impl Pipeline {
    /// A pipeline in which nothing is on its way. Everything before `link.durable` is on disk, and the next batch has
    /// the number `link.seq`.
    pub(super) fn new(in_flight_max: usize, link: Link) -> Self {
        Self {
            in_flight_max,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            durable: link.durable,
            sealed_upto: Position::ZERO,
            next_batch: link.seq,
            prev_crc: link.prev_crc,
            closed: link.seq,
            is_behind_in_flight: false,
            submit_wanted: false,
            disk_answers: 0,
            chunks_made: 0,
        }
    }

    /// Everything before this place is on disk.
    #[inline]
    pub(super) fn durable(&self) -> Position {
        self.durable
    }

    /// A name for the open batch, which no other batch since the open has.
    #[inline]
    pub(super) fn open_batch(&self) -> u64 {
        self.closed
    }

    /// The link that the header of the open batch will state.
    #[inline]
    pub(super) fn link(&self) -> Link {
        Link { seq: self.next_batch, prev_crc: self.prev_crc, durable: self.durable }
    }

    /// The number of writes in flight.
    #[inline]
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len() + usize::from(self.is_behind_in_flight)
    }

    /// The number of closed batches that wait for a slot, or for their segment.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    #[inline]
    pub(super) fn has_slot(&self) -> bool {
        self.in_flight.len() < self.in_flight_max
    }

    /// Notes that the open batch is to be written once a slot is free.
    #[inline]
    pub(super) fn want_submit(&mut self) {
        self.submit_wanted = true;
    }

    /// True if the open batch was submitted, and no closed batch comes before it.
    #[inline]
    pub(super) fn wants_open(&self) -> bool {
        self.waiting.is_empty() && self.submit_wanted
    }

    /// Takes in the batch that was open and is closed now; `crc` is the checksum of its header.
    #[inline]
    pub(super) fn push(&mut self, batch: ClosedBatch, crc: u32) {
        self.waiting.push_back(batch);
        self.prev_crc = crc;
        self.next_batch += 1;
        self.closed += 1;
        self.submit_wanted = false;
    }

    /// The next write, which is in flight from now on; `None` if none may start.
    #[inline]
    pub(super) fn start(
        &mut self,
        stamp: u64,
        is_made: impl FnOnce(SegmentSeq) -> bool,
    ) -> Option<WriteSegment> {
        let first = self.waiting.front_mut()?;
        let position = first.position;
        if self.is_behind_in_flight
            || !rules::may_start(position, self.in_flight.len())
            || !is_made(position.segment())
        {
            return None;
        }
        if let Some(bytes) = first.behind.take() {
            self.is_behind_in_flight = true;
            let offset = position.offset() + offset_u32(first.bytes.len() - bytes.len());
            return Some(WriteSegment {
                token: first.seq,
                segment: position.segment(),
                offset: u64::from(offset),
                bytes,
            });
        }
        let batch = self.waiting.pop_front().expect("looked at above");
        let write = WriteSegment {
            token: batch.seq,
            segment: position.segment(),
            offset: u64::from(position.offset()),
            bytes: batch.unwritten.clone(),
        };
        self.in_flight.push_back(InFlight { batch, stamp, done: false });
        Some(write)
    }

    /// Notes that the batch that was closed last is written in two parts: `first`, its first block, only once `behind`,
    /// the rest of it, is durable.
    pub(super) fn split_last(&mut self, first: Frozen, behind: Frozen) {
        let batch = self.waiting.back_mut().expect("it was closed");
        (batch.unwritten, batch.behind) = (first, Some(behind));
    }

    /// Goes back to the number `seq`: the next batch takes the place of the one that had this number. `prev_crc` is the
    /// checksum of the header of the batch before that one.
    pub(super) fn go_back(&mut self, seq: u64, prev_crc: u32) {
        (self.next_batch, self.prev_crc) = (seq, prev_crc);
    }

    /// The segment that the write called `token` goes to; `None` if the write counts as durable already.
    #[inline]
    pub(super) fn segment_of(&self, token: u64) -> Option<SegmentSeq> {
        if self.is_behind_in_flight {
            return self.waiting.front().map(|batch| batch.position.segment());
        }
        let oldest = self.in_flight.front().map(|write| write.batch.seq);
        if rules::counted_before_its_end(token, oldest) {
            return None;
        }
        Some(self.in_flight[self.place(token)].batch.position.segment())
    }

    /// Notes that the write called `token` is on disk.
    #[inline]
    pub(super) fn finish(&mut self, token: u64) {
        if std::mem::take(&mut self.is_behind_in_flight) {
            return;
        }
        let at = self.place(token);
        if at > 0 {
            logdrive_raft::reached!("writes finished out of order");
        }
        self.in_flight[at].done = true;
    }

    #[inline]
    fn place(&self, token: u64) -> usize {
        let first = self.in_flight.front().expect("an event of a write in flight");
        usize::try_from(token - first.batch.seq).expect("a write in flight")
    }

    /// The number of batches that became durable: the contiguous prefix of finished writes.
    #[inline]
    pub(super) fn finished(&self) -> usize {
        rules::durable_prefix(self.in_flight.iter().map(|write| write.done))
    }

    /// Takes the oldest batch in flight, which is one of [`Self::finished`]: it is durable.
    #[inline]
    pub(super) fn pop(&mut self) -> InFlight {
        let oldest = self.in_flight.pop_front().expect("it was counted");
        let position = oldest.batch.position;
        let end = position.offset() + offset_u32(oldest.batch.bytes.len());
        let end = Position::new(position.segment(), end);
        assert!(end > self.durable, "durable would move back from {:?}", self.durable);
        self.durable = end;
        oldest
    }

    /// Counts the disk's answers: batches that became durable, and while no write is in flight the chunks of segments
    /// in the making, of which the disk has counted `chunks`.
    #[inline]
    pub(super) fn count_answers(&mut self, batches: usize, chunks: u64) {
        self.disk_answers += batches as u64;
        if self.in_flight() == 0 {
            self.disk_answers += chunks - self.chunks_made;
        }
        self.chunks_made = chunks;
    }

    pub(super) fn disk_answers(&self) -> u64 {
        self.disk_answers
    }

    /// The place behind the newest seal.
    pub(super) fn sealed_upto(&self) -> Position {
        self.sealed_upto
    }

    /// Notes that the newest seal ends at this place.
    pub(super) fn seal_upto(&mut self, place: Position) {
        self.sealed_upto = place;
    }
}
