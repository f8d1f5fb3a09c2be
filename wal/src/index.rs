//! Where each group's entries are: (group, index) -> place in the stream.
//!
//! In:     runs of entries as they are encoded, later ones replacing what they overlap.
//! Out:    the places of a range of entries; each group's end.
//! Cost:   16 bytes per run, one run per group and batch; a binary search per look-up.
//! Fails:  a run that leaves a hole is refused.
//! Source: paper §5.3 (a conflicting suffix is replaced).

use crate::format::Position;
use hashbrown::HashMap;
use logdrive_raft::{GroupId, LogIndex};

/// All groups of one stream.
pub(crate) type Groups = HashMap<GroupId, GroupIndex>;

/// One group's entries in the stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupIndex {
    runs: Vec<Run>,
    last: LogIndex,
    /// The open batch that lists this group, and where in its list.
    pub(crate) listed: Option<(u64, u32)>,
}

/// Entries from `first` on, up to the next run or the log's end, stand in the record at `place`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Run {
    first: LogIndex,
    place: Position,
}

/// Part of a range of entries: all in one record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Piece {
    pub(crate) place: Position,
    pub(crate) first: LogIndex,
    pub(crate) last: LogIndex,
}

impl GroupIndex {
    /// The last entry; `ZERO` if there is none.
    pub(crate) fn last(&self) -> LogIndex {
        self.last
    }

    /// True if entries from `first` on would leave no hole.
    pub(crate) fn follows(&self, first: LogIndex) -> bool {
        first > LogIndex::ZERO && first <= self.last.next()
    }

    /// Entries `first..=last` now stand at `place`; nothing stands behind them.
    pub(crate) fn put(&mut self, first: LogIndex, last: LogIndex, place: Position) {
        assert!(self.follows(first), "entries from {first:?} leave a hole behind {:?}", self.last);
        assert!(first <= last, "run {first:?}..={last:?} runs backwards");
        // Nearly every run follows the last: no search, which would touch cold memory per group.
        if self.runs.last().is_some_and(|run| run.first >= first) {
            let kept = self.runs.partition_point(|run| run.first < first);
            self.runs.truncate(kept);
        }
        self.runs.push(Run { first, place });
        self.last = last;
    }

    /// The pieces that hold `first..=last`, in order. Panics if the range is not in the log.
    pub(crate) fn pieces(
        &self,
        first: LogIndex,
        last: LogIndex,
    ) -> impl Iterator<Item = Piece> + '_ {
        assert!(
            first > LogIndex::ZERO && first <= last && last <= self.last,
            "{first:?}..={last:?} is not in a log that ends at {:?}",
            self.last
        );
        let start = self.runs.partition_point(|run| run.first <= first) - 1;
        let behind = self.runs[start + 1..].iter().map(|run| run.first.prev());
        self.runs[start..]
            .iter()
            .zip(behind.chain(std::iter::once(self.last)))
            .take_while(move |(run, _)| run.first <= last)
            .map(move |(run, end)| Piece {
                place: run.place,
                first: run.first.max(first),
                last: end.min(last),
            })
    }

    /// Bytes this takes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<Run>()
    }
}

const _: () = assert!(size_of::<Run>() == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::SegmentSeq;
    use proptest::prelude::*;

    fn at(offset: u32) -> Position {
        Position::new(SegmentSeq(1), offset)
    }

    #[test]
    fn a_later_run_replaces_the_suffix_it_overlaps() {
        let mut index = GroupIndex::default();
        index.put(LogIndex(1), LogIndex(10), at(1));
        index.put(LogIndex(11), LogIndex(20), at(2));
        index.put(LogIndex(5), LogIndex(6), at(3));
        assert_eq!(index.last(), LogIndex(6));
        let pieces: Vec<_> = index.pieces(LogIndex(2), LogIndex(6)).collect();
        assert_eq!(
            pieces,
            [
                Piece { place: at(1), first: LogIndex(2), last: LogIndex(4) },
                Piece { place: at(3), first: LogIndex(5), last: LogIndex(6) },
            ]
        );
        assert!(index.follows(LogIndex(7)) && !index.follows(LogIndex(8)));
    }

    proptest! {
        #[test]
        fn every_index_is_found_where_it_was_put_last(puts in proptest::collection::vec((0u64..6, 1u64..5), 1..40)) {
            let mut index = GroupIndex::default();
            let mut model: Vec<u32> = Vec::new();
            for (n, (back, count)) in puts.iter().enumerate() {
                let place = u32::try_from(n).unwrap() + 1;
                let first = (model.len() as u64 + 1).saturating_sub(*back).max(1);
                model.truncate(usize::try_from(first - 1).unwrap());
                model.extend((0..*count).map(|_| place));
                index.put(LogIndex(first), LogIndex(first + count - 1), at(place));
            }
            let last = model.len() as u64;
            prop_assert_eq!(index.last(), LogIndex(last));
            for first in 1..=last {
                let mut next = first;
                for piece in index.pieces(LogIndex(first), LogIndex(last)) {
                    prop_assert_eq!(piece.first, LogIndex(next));
                    for i in piece.first.get()..=piece.last.get() {
                        prop_assert_eq!(piece.place, at(model[usize::try_from(i - 1).unwrap()]));
                    }
                    next = piece.last.get() + 1;
                }
                prop_assert_eq!(next, last + 1);
            }
        }
    }
}
