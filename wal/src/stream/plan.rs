//! Plans of reads: the places of entries, found on the log's thread. Another thread carries a plan out.
//!
//! In:     a group and a range of its entries; the index.
//! Out:    a [`ReadPlan`], which holds on to the segments it reads.
//! Cost:   memory alone: no I/O, nothing copied; a look at each record of the range.
//! Fails:  [`ReadError`] for entries that the log does not have, or does not have on disk yet.
//! Source: RULES.md rule 35; A5.

use super::Wal;
use crate::checksum::Seed;
use crate::disk::SegmentReader;
use crate::error::ReadError;
use crate::format::{Position, SegmentSeq};
use crate::index::Piece;
use crate::read::{ReadPlan, Span, Spot};
use crate::snapshot::SnapshotPlan;
use logdrive_raft::{ENTRY_OVERHEAD_BYTES, GroupId, LogId, LogIndex};
use std::sync::Arc;

impl Wal {
    /// Plans to read entries `first..=last` of a group, of which the plan then gives at least one, and not many
    /// more than `bytes_max` bytes. Cheap: no I/O.
    ///
    /// # Errors
    /// [`ReadError::UnknownGroup`]; [`ReadError::Compacted`] if `first` was released; [`ReadError::OutOfRange`] if the range
    /// goes past the log's end; [`ReadError::NotDurable`] if not even `first` is durable. A range whose end is not durable
    /// is planned up to there.
    pub fn plan_read(
        &self,
        group: GroupId,
        first: LogIndex,
        last: LogIndex,
        bytes_max: usize,
    ) -> Result<ReadPlan, ReadError> {
        let index = &self.contents.group(group).ok_or(ReadError::UnknownGroup(group))?.index;
        let end = index.last();
        let (released, term) = index.released();
        if first <= released {
            let base = LogId { term, index: released };
            return Err(ReadError::Compacted { group, first, base });
        }
        if first > last || last > end {
            return Err(ReadError::OutOfRange { group, first, last, end });
        }
        // Each entry counts for at least its overhead, so this many are enough.
        let entries_max = bytes_max / ENTRY_OVERHEAD_BYTES + 1;
        let last = last.min(first.forward(entries_max as u64));
        let mut spans = Vec::new();
        for piece in index.pieces(first, last) {
            if piece.place >= self.pipeline.durable() {
                break;
            }
            spans.push(self.span(&piece));
        }
        if spans.is_empty() {
            return Err(ReadError::NotDurable { group, at: first });
        }
        Ok(ReadPlan { group, bytes_max, spans })
    }

    /// Plans to read the content of a group's snapshot, which is in the log. Cheap: no I/O.
    ///
    /// # Errors
    /// [`ReadError::UnknownGroup`]; [`ReadError::NoSnapshot`] if the group has none in the log, or none that is durable.
    pub fn plan_snapshot(&self, group: GroupId) -> Result<SnapshotPlan, ReadError> {
        let state = self.contents.group(group).ok_or(ReadError::UnknownGroup(group))?;
        let kept = state
            .snapshot()
            .filter(|kept| kept.head.mark.is_in_log && kept.place < self.pipeline.durable());
        let kept = kept.ok_or(ReadError::NoSnapshot(group))?;
        Ok(SnapshotPlan { group, spot: self.spot(kept.place) })
    }

    pub(super) fn span(&self, piece: &Piece) -> Span {
        Span { spot: self.spot(piece.place), first: piece.first, last: piece.last }
    }

    pub(super) fn spot(&self, place: Position) -> Spot {
        let segment = place.segment();
        let (source, seed, segment_bytes) = self.source(segment);
        Spot { source, segment_bytes, file: self.disk.path(segment), seed, place }
    }

    /// The reader of a segment's durable bytes, the seed of its checksums, and the number of bytes that can be read.
    fn source(&self, seq: SegmentSeq) -> (Arc<dyn SegmentReader>, Seed, u64) {
        if let Some(sealed) = self.chain.find_sealed(seq) {
            return (Arc::clone(&sealed.reader), sealed.seed, sealed.bytes);
        }
        let segment = self.chain.find_closing(seq).unwrap_or(self.tail.segment());
        assert!(segment.seq() == seq, "the index points into {seq:?}, which is no segment");
        let closed = segment.share();
        let bytes = closed.len() as u64;
        (Arc::new(closed), segment.seed(), bytes)
    }
}
