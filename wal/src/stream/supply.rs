//! The segment files that come and go: those ordered ahead of the active one, and those being given up.
//!
//! In:     the maker's reports: a segment is made, could not be made, or is given up.
//! Out:    which segments have their file; the next segment; the bytes of files that hold nothing of the log.
//! Cost:   a look at the few segments ahead.
//! Fails:  a segment that is made twice, and one that is given up without an order, are broken invariants.
//! Source: RULES.md rules 7, 8; W9, W19.
//!
//! Invariants:
//! * segments are ordered, made and begun by number: each one up to `made` has its file, and no later one;
//! * `leaving` has one number for each order to give a segment up that is not carried out;
//! * at most [`FREE_MAX`] files are kept to become segments again.

use crate::config::VOTES_SEGMENTS;
use crate::disk::{Fate, SegmentOrigin};
use crate::format::SegmentSeq;
use std::collections::VecDeque;

/// The files beside those that hold the log.
pub(super) struct Supply {
    /// Draws the random ids of segments.
    entropy: Box<dyn FnMut() -> u128>,
    /// Segments ordered for later, oldest first.
    spares: VecDeque<Spare>,
    /// All segments up to this one have their file.
    made: SegmentSeq,
    /// The newest segment that was ordered.
    ordered: SegmentSeq,
    /// True if the maker of segments reported no room, and has made no new file since. A segment that is made of a file
    /// given up before says nothing about the disk's room.
    lacks_room: bool,
    /// True once the segments that are kept for votes were made, and one for entries, since the log was opened.
    was_stocked: bool,
    /// For each order to give a segment up, in order: the bytes of the file, which count until the file is gone, or 0
    /// for a file that is kept.
    leaving: VecDeque<u64>,
    /// The number of files of given-up segments that are kept to be made into new ones.
    free: usize,
}

/// A segment that was ordered.
#[derive(Clone, Copy)]
pub(super) struct Spare {
    pub(super) seq: SegmentSeq,
    pub(super) id: u128,
    pub(super) bytes: u64,
}

impl Supply {
    /// A supply in which the segments up to `made` have their file, and the one behind is ordered.
    pub(super) fn new(entropy: Box<dyn FnMut() -> u128>, made: SegmentSeq) -> Self {
        Self {
            entropy,
            spares: VecDeque::new(),
            made,
            ordered: SegmentSeq(made.0 + 1),
            lacks_room: false,
            was_stocked: false,
            leaving: VecDeque::new(),
            free: 0,
        }
    }

    /// True if the segment has its file, so that it can be written.
    #[inline]
    pub(super) fn is_made(&self, segment: SegmentSeq) -> bool {
        segment <= self.made
    }

    /// The number of segments ahead that can be written.
    #[inline]
    pub(super) fn ready(&self) -> usize {
        self.spares.iter().filter(|spare| self.is_made(spare.seq)).count()
    }

    /// The number of segments ahead that can be written and that are not kept for votes. After an open, while the disk
    /// seems to have room, entries may use each segment that is made until there are enough of them: they would wait for
    /// three segments if they waited for those of the votes.
    #[inline]
    pub(super) fn ready_for_entries(&self) -> usize {
        let ready = self.ready();
        let keeps_for_votes = self.was_stocked || self.is_disk_full();
        if keeps_for_votes { ready.saturating_sub(VOTES_SEGMENTS) } else { ready }
    }

    /// True if the segments are made that are kept for votes.
    #[inline]
    pub(super) fn has_votes_segments(&self) -> bool {
        self.ready() >= VOTES_SEGMENTS
    }

    /// The number of segments ahead, made or not.
    #[inline]
    pub(super) fn ahead(&self) -> usize {
        self.spares.len()
    }

    /// True if a segment ahead has so many bytes, made or not.
    pub(super) fn has_ahead(&self, bytes: u64) -> bool {
        self.spares.iter().any(|spare| spare.bytes >= bytes)
    }

    /// The bytes of the segments ahead.
    #[inline]
    pub(super) fn ahead_bytes(&self) -> u64 {
        self.spares.iter().map(|spare| spare.bytes).sum()
    }

    /// The bytes of files that are being given up.
    #[inline]
    pub(super) fn leaving_bytes(&self) -> u64 {
        self.leaving.iter().sum()
    }

    /// True if some file is being given up.
    pub(super) fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// The number of files that are kept to become segments, and that no order waits for; `active` is the active
    /// segment.
    pub(super) fn kept(&self, active: SegmentSeq) -> usize {
        let ordered = self.spares.len() - self.ready() + usize::from(!self.is_made(active));
        self.free.saturating_sub(ordered)
    }

    /// True if a segment is ordered for which the disk had no room when a new file was last to be made.
    #[inline]
    pub(super) fn is_disk_full(&self) -> bool {
        self.lacks_room && self.made < self.ordered
    }

    /// The next segment, if it can be written.
    pub(super) fn next_ready(&self) -> Option<Spare> {
        self.spares.front().copied().filter(|spare| self.is_made(spare.seq))
    }

    /// Adds a segment of `bytes` bytes behind `active` and behind all segments ahead. The caller orders it.
    pub(super) fn add(&mut self, active: SegmentSeq, bytes: u64) -> Spare {
        let newest = self.spares.back().map_or(active, |spare| spare.seq);
        let seq = SegmentSeq(newest.0.checked_add(1).expect("segment numbers are used up"));
        let spare = Spare { seq, id: (self.entropy)(), bytes };
        self.spares.push_back(spare);
        self.ordered = seq;
        spare
    }

    /// The next segment, which becomes the active one.
    pub(super) fn take(&mut self) -> Option<Spare> {
        self.spares.pop_front()
    }

    /// Notes that the next segment has its file. Returns true if the file is that of a segment that was given up
    /// before.
    pub(super) fn on_made(&mut self, segment: SegmentSeq, origin: SegmentOrigin) -> bool {
        assert!(segment > self.made, "{segment:?} was made twice");
        self.made = segment;
        self.was_stocked |= self.ready() > VOTES_SEGMENTS;
        let is_recycled = origin == SegmentOrigin::Recycled;
        self.lacks_room &= is_recycled;
        self.free -= usize::from(is_recycled);
        is_recycled
    }

    /// Notes that the disk has no room for the next segment. Returns true if it had room before.
    pub(super) fn on_disk_full(&mut self) -> bool {
        !std::mem::replace(&mut self.lacks_room, true)
    }

    /// True if one more file can be kept to become a segment.
    pub(super) fn may_keep(&self) -> bool {
        self.free < FREE_MAX
    }

    /// Notes the order to give up a segment of `bytes` bytes.
    pub(super) fn give_up(&mut self, bytes: u64, fate: Fate) {
        // A file that is kept counts as free at once.
        self.free += usize::from(fate == Fate::Recycle);
        self.leaving.push_back(if fate == Fate::Recycle { 0 } else { bytes });
    }

    /// Notes that the oldest order to give a segment up was carried out.
    pub(super) fn on_given_up(&mut self) {
        self.leaving.pop_front().expect("an order was given");
    }
}

/// The most files that are kept to be made into new segments.
const FREE_MAX: usize = 2;
