//! The full segments: those whose last writes are still on their way, and those that are all on disk.
//!
//! In:     segments as they are full; the place up to which the log is durable.
//! Out:    readers of sealed segments; the oldest one, to be given up.
//! Cost:   O(1) for each segment; a search for the reader of an old one.
//! Fails:  a segment that the index knows and the chain does not is a broken invariant.
//! Source: RULES.md rules 8, 25, 32.
//!
//! Invariants:
//! * segments stand by number: the sealed ones, then the closing ones, then the active one, which is the tail's;
//! * a segment is sealed once everything in it is durable, and read from its file from then on;
//! * `bytes` is the sum of the sizes of all segments here.

use super::tail::Segment;
use crate::checksum::Seed;
use crate::disk::SegmentReader;
use crate::format::{Position, SegmentSeq};
use std::collections::VecDeque;
use std::sync::Arc;

/// The segments that hold the log, but for the active one.
pub(super) struct Chain {
    /// Full segments, all on disk, oldest first.
    sealed: VecDeque<Sealed>,
    /// Full segments with batches not yet durable, oldest first.
    closing: VecDeque<Segment>,
    bytes: u64,
    /// True if a segment was sealed since this was last asked.
    has_sealed: bool,
}

/// A segment that is on disk.
pub(super) struct Sealed {
    pub(super) seq: SegmentSeq,
    pub(super) seed: Seed,
    pub(super) bytes: u64,
    pub(super) reader: Arc<dyn SegmentReader>,
    /// True if recovery read the segment: its file is never used again, because a killed process may still write to it
    /// (rule 8).
    pub(super) inherited: bool,
    /// True if bytes in the segment are not the ones that were written: its file is set aside, not removed (rule 25).
    pub(super) damaged: bool,
}

impl Chain {
    /// The segments that recovery found, oldest first.
    pub(super) fn new(sealed: VecDeque<Sealed>) -> Self {
        let bytes = sealed.iter().map(|segment| segment.bytes).sum();
        Self { sealed, closing: VecDeque::new(), bytes, has_sealed: false }
    }

    /// The sum of the sizes of the segments here.
    #[inline]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number of segments here.
    pub(super) fn len(&self) -> usize {
        self.sealed.len() + self.closing.len()
    }

    /// The number of segments that are all on disk.
    pub(super) fn sealed(&self) -> usize {
        self.sealed.len()
    }

    /// The oldest segment, if it is on disk.
    pub(super) fn oldest(&self) -> Option<&Sealed> {
        self.sealed.front()
    }

    /// Takes in a segment that is full.
    pub(super) fn close(&mut self, full: Segment) {
        self.bytes += full.bytes();
        self.closing.push_back(full);
    }

    /// Seals the full segments of which everything is durable.
    #[inline]
    pub(super) fn seal_upto(
        &mut self,
        durable: Position,
        reader: impl Fn(SegmentSeq) -> Arc<dyn SegmentReader>,
    ) {
        while let Some(segment) = self.closing.pop_front_if(|segment| segment.end() <= durable) {
            self.sealed.push_back(Sealed {
                seq: segment.seq(),
                seed: segment.seed(),
                bytes: segment.bytes(),
                reader: reader(segment.seq()),
                inherited: false,
                damaged: false,
            });
            self.has_sealed = true;
        }
    }

    /// Whether a segment was sealed since the last call.
    #[inline]
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_sealed)
    }

    /// Takes out the oldest segment, which is given up.
    pub(super) fn retire(&mut self) -> Sealed {
        let oldest = self.sealed.pop_front().expect("the victim is sealed");
        self.bytes -= oldest.bytes;
        oldest
    }

    /// Takes out a sealed segment, which a later one stands in for.
    pub(super) fn pass_over(&mut self, segment: SegmentSeq) -> Sealed {
        let at = self.sealed.binary_search_by_key(&segment, |sealed| sealed.seq);
        let void = at.ok().and_then(|at| self.sealed.remove(at));
        let void = void.unwrap_or_else(|| panic!("{segment:?} is not sealed"));
        self.bytes -= void.bytes;
        void
    }

    /// Marks a segment as damaged, if it is one of the sealed ones here.
    pub(super) fn mark_damaged(&mut self, segment: SegmentSeq) {
        if let Some(sealed) = self.sealed.iter_mut().find(|sealed| sealed.seq == segment) {
            sealed.damaged = true;
        }
    }

    /// The numbers of the segments here, oldest first.
    pub(super) fn numbers(&self) -> impl Iterator<Item = SegmentSeq> {
        let sealed = self.sealed.iter().map(|sealed| sealed.seq);
        sealed.chain(self.closing.iter().map(Segment::seq))
    }

    /// The sealed segment of that number, if there is one.
    pub(super) fn find_sealed(&self, segment: SegmentSeq) -> Option<&Sealed> {
        let at = self.sealed.binary_search_by_key(&segment, |sealed| sealed.seq);
        at.ok().map(|at| &self.sealed[at])
    }

    /// The full segment of that number that is not all on disk yet, if there is one.
    pub(super) fn find_closing(&self, segment: SegmentSeq) -> Option<&Segment> {
        self.closing.iter().find(|closing| closing.seq() == segment)
    }
}
