//! Where each group's entries are: (group, index) -> place in the stream.
//!
//! In:     records of entries as they are encoded, later ones replacing what they overlap; releases; copies that
//!         were carried forward.
//! Out:    the places of a range of entries; the log's ends; the terms.
//! Cost:   24 bytes per record, one record per group and batch, and 16 per change of term; a binary search per
//!         look-up. A record cut in two shares its bytes out by entries.
//! Fails:  while the stream is replayed there may be holes; [`GroupIndex::hole`] finds what is left of them.
//! Source: paper §5.3 (a conflicting suffix is replaced), §7 (a prefix is released).

use crate::format::{Position, Release};
use crate::ledger::Ledger;
use crate::rules::is_too_much_memory;
use logdrive_raft::{LogIndex, Term, TermRun};
use std::collections::VecDeque;

/// One group's entries in the stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupIndex {
    /// By index, never overlapping.
    runs: VecDeque<Run>,
    /// By index; each up to the next one.
    terms: Vec<TermRun>,
    /// Entries up to here are released.
    released: LogIndex,
    released_term: Term,
    /// The last entry, at least `released`.
    last: LogIndex,
    /// Sum over the runs.
    bytes: u64,
}

/// Entries that stand in the record at `place`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Run {
    first: LogIndex,
    place: Position,
    count: u32,
    /// Their part of the record.
    bytes: u32,
}

/// A record of entries, all of one term.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Placed {
    pub(crate) first: LogIndex,
    pub(crate) count: u32,
    pub(crate) term: Term,
    pub(crate) place: Position,
    pub(crate) bytes: u32,
}

/// Part of a range of entries: all in one record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Piece {
    pub(crate) place: Position,
    pub(crate) first: LogIndex,
    pub(crate) last: LogIndex,
    pub(crate) bytes: u32,
}

impl GroupIndex {
    /// The last entry; the released one if there is none behind it, `ZERO` if there never was any.
    pub(crate) fn last(&self) -> LogIndex {
        self.last
    }

    /// Up to where entries were released, and the term of the last of them.
    pub(crate) fn released(&self) -> (LogIndex, Term) {
        (self.released, self.released_term)
    }

    /// The terms of the entries.
    pub(crate) fn terms(&self) -> &[TermRun] {
        &self.terms
    }

    /// Record bytes of the entries.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True if entries from `first` on would leave no hole.
    pub(crate) fn follows(&self, first: LogIndex) -> bool {
        first > self.released && first <= self.last.next()
    }

    /// Appends a record: nothing stands behind it.
    pub(crate) fn put(&mut self, record: Placed, ledger: &mut Ledger) {
        let Placed { first, term, .. } = record;
        assert!(first > self.released, "entries from {first:?} were released: {:?}", self.released);
        // Nearly every record follows the last: the runs are not looked at, which would be cold memory per group.
        if first <= self.last {
            self.carve(first, LogIndex(u64::MAX), ledger);
        }
        while self.terms.last().is_some_and(|run| run.first >= first) {
            self.terms.pop();
        }
        if self.terms.last().is_none_or(|run| run.term != term) {
            self.terms.push(TermRun { first, term });
        }
        self.last = record.last();
        self.runs.push_back(record.run());
        self.bytes += u64::from(record.bytes);
        ledger.revive(record.place.segment(), u64::from(record.bytes));
    }

    /// A carried record found by replay: what it copies may stand elsewhere, or be gone with its segment.
    pub(crate) fn fill(&mut self, record: Placed, ledger: &mut Ledger) {
        let (first, last) = (record.first, record.last());
        self.set_term(first, last, record.term);
        self.last = self.last.max(last);
        self.place(record.run(), ledger);
    }

    /// Entries of `copy` that still stand in the record at `from` are found in the copy from now on.
    pub(crate) fn relocate(&mut self, from: Position, copy: Placed, ledger: &mut Ledger) {
        for piece in self.standing(from, copy.first, copy.last()) {
            let whole = copy.run();
            let (_, rest) = whole.split(piece.first);
            let (part, _) = rest.split(piece.last.next());
            self.place(part, ledger);
        }
    }

    /// The parts of `first..=last` that stand in the record at `place`.
    pub(crate) fn standing(&self, place: Position, first: LogIndex, last: LogIndex) -> Vec<Piece> {
        let start = self.runs.partition_point(|run| run.last() < first);
        let runs = self.runs.range(start..).take_while(|run| run.first <= last);
        runs.filter(|run| run.place == place).map(|run| run.piece(first, last)).collect()
    }

    /// Lets go of entries up to `index`, whose term is `term`; of all of them if it is of another term here. Returns
    /// what that comes to, or `None` if it was done before.
    pub(crate) fn plan_release(&self, index: LogIndex, term: Term) -> Option<Release> {
        if index <= self.released {
            return None;
        }
        let keeps_suffix = index <= self.last && self.term_at(index) == Some(term);
        Some(Release { index, term, last: if keeps_suffix { self.last } else { index } })
    }

    /// Does what [`Self::plan_release`] said, now or while it is replayed.
    pub(crate) fn release(&mut self, release: Release, ledger: &mut Ledger) {
        self.carve(LogIndex(1), release.index, ledger);
        self.carve(release.last.next(), LogIndex(u64::MAX), ledger);
        let first = release.index.next();
        while self.terms.last().is_some_and(|run| run.first > release.last) {
            self.terms.pop();
        }
        let dead = self.terms.partition_point(|run| run.first <= first).saturating_sub(1);
        self.terms.drain(..dead);
        match self.terms.first_mut() {
            Some(run) if release.last >= first => run.first = run.first.max(first),
            _ => self.terms.clear(),
        }
        (self.released, self.released_term) = (release.index, release.term);
        self.last = release.last;
        self.shrink();
    }

    /// Gives memory back that it took for more records. Halving what is left at least, so that a record costs as little
    /// as when it was put in.
    fn shrink(&mut self) {
        if is_too_much_memory(self.runs.capacity(), self.runs.len(), CAPACITY_MIN) {
            self.runs.shrink_to(2 * self.runs.len());
        }
        if is_too_much_memory(self.terms.capacity(), self.terms.len(), CAPACITY_MIN) {
            self.terms.shrink_to(2 * self.terms.len());
        }
    }

    /// Nothing of the group is needed any more.
    pub(crate) fn clear(&mut self, ledger: &mut Ledger) {
        self.carve(LogIndex(1), LogIndex(u64::MAX), ledger);
    }

    /// The pieces from `from` on, in order.
    pub(crate) fn pieces_from(&self, from: LogIndex) -> impl Iterator<Item = Piece> + '_ {
        let start = self.runs.partition_point(|run| run.last() < from);
        self.runs.range(start..).map(move |run| run.piece(from, run.last()))
    }

    /// The pieces that hold `first..=last`, in order. Panics if the range is not in the log.
    pub(crate) fn pieces(
        &self,
        first: LogIndex,
        last: LogIndex,
    ) -> impl Iterator<Item = Piece> + '_ {
        assert!(
            first > self.released && first <= last && last <= self.last,
            "{first:?}..={last:?} is not in a log of {:?}..={:?}",
            self.released.next(),
            self.last
        );
        let start = self.runs.partition_point(|run| run.last() < first);
        let runs = self.runs.range(start..).take_while(move |run| run.first <= last);
        runs.map(move |run| run.piece(first, last))
    }

    /// The first entry that is missing, if one is, and the record behind it.
    pub(crate) fn hole(&self) -> Option<(LogIndex, Option<Position>)> {
        let mut next = self.released.next();
        for run in &self.runs {
            if run.first != next {
                return Some((next, Some(run.place)));
            }
            next = run.last().next();
        }
        (next != self.last.next()).then_some((next, None))
    }

    /// The term of an entry of the log.
    fn term_at(&self, index: LogIndex) -> Option<Term> {
        let behind = self.terms.partition_point(|run| run.first <= index);
        behind.checked_sub(1).map(|at| self.terms[at].term)
    }

    fn set_term(&mut self, first: LogIndex, last: LogIndex, term: Term) {
        let behind = if last < self.last { self.term_at(last.next()) } else { None };
        let from = self.terms.partition_point(|run| run.first < first);
        let upto = self.terms.partition_point(|run| run.first <= last.next());
        let before = from.checked_sub(1).map(|at| self.terms[at].term);
        let here = (before != Some(term)).then_some(TermRun { first, term });
        let then = behind.filter(|behind| *behind != term);
        let then = then.map(|term| TermRun { first: last.next(), term });
        self.terms.splice(from..upto, here.into_iter().chain(then));
    }

    /// Puts a run where others may stand.
    fn place(&mut self, run: Run, ledger: &mut Ledger) {
        let at = self.carve(run.first, run.last(), ledger);
        self.runs.insert(at, run);
        self.bytes += u64::from(run.bytes);
        ledger.revive(run.place.segment(), u64::from(run.bytes));
    }

    /// Takes `first..=last` out; returns where a run of them would go.
    fn carve(&mut self, first: LogIndex, last: LogIndex, ledger: &mut Ledger) -> usize {
        let mut from = self.runs.partition_point(|run| run.last() < first);
        if let Some(run) = self.runs.get(from).filter(|run| run.first < first) {
            let (before, inside) = run.split(first);
            self.runs[from] = before;
            from += 1;
            self.runs.insert(from, inside);
        }
        let upto = self.runs.partition_point(|run| run.first <= last);
        if upto > from
            && let run = self.runs[upto - 1]
            && run.last() > last
        {
            let (inside, behind) = run.split(last.next());
            self.runs[upto - 1] = inside;
            self.runs.insert(upto, behind);
        }
        for run in self.runs.drain(from..upto.max(from)) {
            self.bytes -= u64::from(run.bytes);
            ledger.kill(run.place.segment(), u64::from(run.bytes));
        }
        from
    }

    /// Bytes this takes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<Run>() + self.terms.capacity() * size_of::<TermRun>()
    }
}

impl Placed {
    pub(crate) fn last(&self) -> LogIndex {
        self.first.forward(u64::from(self.count) - 1)
    }

    fn run(&self) -> Run {
        let Self { first, count, place, bytes, .. } = *self;
        Run { first, place, count, bytes }
    }
}

impl Run {
    fn last(&self) -> LogIndex {
        // Checked when the record was decoded, and no log gets there by appending.
        LogIndex(self.first.get() + u64::from(self.count) - 1)
    }

    /// Two runs, the second from `at` on; either may be empty.
    #[allow(clippy::cast_possible_truncation)] // Parts of 32-bit numbers.
    fn split(self, at: LogIndex) -> (Self, Self) {
        let before = (at.get() - self.first.get()).min(u64::from(self.count));
        let bytes = u64::from(self.bytes) * before / u64::from(self.count.max(1));
        let (before, bytes) = (before as u32, bytes as u32);
        let first = Self { count: before, bytes, ..self };
        let rest =
            Self { first: at, count: self.count - before, bytes: self.bytes - bytes, ..self };
        (first, rest)
    }

    fn piece(&self, first: LogIndex, last: LogIndex) -> Piece {
        let (first, last) = (self.first.max(first), self.last().min(last));
        Piece { place: self.place, first, last, bytes: self.bytes }
    }
}

const _: () = assert!(size_of::<Run>() == 24);

/// Records that a group has memory for, however few it has.
const CAPACITY_MIN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::SegmentSeq;
    use proptest::prelude::*;

    fn at(offset: u32) -> Position {
        Position::new(SegmentSeq(1), offset)
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.begin(SegmentSeq(1));
        ledger.write(SegmentSeq(1), 1 << 30);
        ledger
    }

    fn record(first: u64, count: u32, term: u64, offset: u32) -> Placed {
        let (first, term) = (LogIndex(first), Term(term));
        Placed { first, count, term, place: at(offset), bytes: count * 10 }
    }

    #[test]
    fn a_later_record_replaces_the_suffix_it_overlaps() {
        let (mut index, mut ledger) = (GroupIndex::default(), ledger());
        index.put(record(1, 10, 1, 1), &mut ledger);
        index.put(record(11, 10, 1, 2), &mut ledger);
        index.put(record(5, 2, 2, 3), &mut ledger);
        assert_eq!(index.last(), LogIndex(6));
        let pieces: Vec<_> = index
            .pieces(LogIndex(2), LogIndex(6))
            .map(|piece| (piece.place, piece.first.get(), piece.last.get()))
            .collect();
        assert_eq!(pieces, [(at(1), 2, 4), (at(3), 5, 6)]);
        assert!(index.follows(LogIndex(7)) && !index.follows(LogIndex(8)));
        assert_eq!((index.bytes(), ledger.live()), (60, 60));
    }

    #[test]
    fn a_release_of_another_term_leaves_nothing_behind_it() {
        let (mut index, mut ledger) = (GroupIndex::default(), ledger());
        index.put(record(1, 10, 2, 1), &mut ledger);
        index.put(record(11, 4, 4, 2), &mut ledger);
        let whole = index.clone();
        let release = index.plan_release(LogIndex(10), Term(2)).unwrap();
        assert_eq!(release.last, LogIndex(14));
        index.release(release, &mut ledger.clone());
        assert_eq!(index.terms(), [TermRun { first: LogIndex(11), term: Term(4) }]);
        assert_eq!(index.plan_release(LogIndex(10), Term(2)), None);
        // Another leader's entry 10 was committed: ours, and what follows it, never was.
        index = whole;
        let release = index.plan_release(LogIndex(10), Term(3)).unwrap();
        index.release(release, &mut ledger);
        assert_eq!((index.last(), index.bytes(), ledger.live()), (LogIndex(10), 0, 0));
        assert!(index.terms().is_empty() && index.hole().is_none());
    }

    /// The plainest thing that could be right: term and place of every entry.
    #[derive(Clone, Default)]
    struct Model {
        entries: std::collections::BTreeMap<u64, (u64, u32)>,
        released: u64,
        last: u64,
    }

    /// The terms of entries, each up to the next one.
    fn runs(entries: impl Iterator<Item = (u64, u64)>) -> Vec<TermRun> {
        let mut runs: Vec<TermRun> = Vec::new();
        for (first, term) in entries {
            if runs.last().is_none_or(|run| run.term != Term(term)) {
                runs.push(TermRun { first: LogIndex(first), term: Term(term) });
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn carried_records_found_in_any_order_come_to_the_terms_of_their_entries(
            records in proptest::collection::vec((0u64..3, 1u32..6, any::<u16>()), 1..30)
        ) {
            let (mut index, mut ledger) = (GroupIndex::default(), ledger());
            let (mut term, mut next, mut log, mut found) = (1, 1, Vec::new(), Vec::new());
            for (n, (rises, count, order)) in records.into_iter().enumerate() {
                term += rises;
                log.extend((next..next + u64::from(count)).map(|at| (at, term)));
                found.push((order, record(next, count, term, u32::try_from(n).unwrap() + 1)));
                next += u64::from(count);
            }
            found.sort_by_key(|(order, _)| *order);
            for (_, record) in found {
                index.fill(record, &mut ledger);
                prop_assert!(index.terms().is_sorted_by(|a, b| a.first < b.first));
            }
            prop_assert_eq!((index.hole(), index.last()), (None, LogIndex(next - 1)));
            for (at, term) in &log {
                prop_assert_eq!(index.term_at(LogIndex(*at)), Some(Term(*term)));
            }
            prop_assert_eq!(index.terms(), runs(log.into_iter()));
        }

        #[test]
        fn every_entry_is_found_where_it_was_put_last(
            steps in proptest::collection::vec((0u8..4, 0u64..9, 1u32..6), 1..60)
        ) {
            let (mut index, mut ledger, mut model) = (GroupIndex::default(), ledger(), Model::default());
            let mut term = 1;
            for (n, (kind, back, count)) in steps.iter().enumerate() {
                let place = u32::try_from(n).unwrap() + 1;
                let some = model.last.saturating_sub(*back).max(model.released + 1);
                match kind {
                    0 | 1 => {
                        let first = if *kind == 0 { model.last + 1 } else { some };
                        term += u64::from(first <= model.last);
                        model.entries.retain(|index, _| *index < first);
                        for index in first..first + u64::from(*count) {
                            model.entries.insert(index, (term, place));
                        }
                        model.last = first + u64::from(*count) - 1;
                        index.put(record(first, *count, term, place), &mut ledger);
                    }
                    2 if some <= model.last => {
                        // A copy of one record's part, all of one term and place.
                        let (term, from) = model.entries[&some];
                        let alike = (some..=model.last).take(*count as usize);
                        let count = alike.take_while(|i| model.entries[i] == (term, from)).count();
                        for index in some..some + count as u64 {
                            model.entries.insert(index, (term, place));
                        }
                        let copy = record(some, u32::try_from(count).unwrap(), term, place);
                        if *back % 2 == 0 {
                            index.relocate(at(from), copy, &mut ledger);
                        } else {
                            index.fill(copy, &mut ledger);
                        }
                    }
                    _ => {
                        let upto = (model.released + u64::from(*count)).min(model.last);
                        let Some((term, _)) = model.entries.get(&upto) else { continue };
                        let release = index.plan_release(LogIndex(upto), Term(*term)).unwrap();
                        index.release(release, &mut ledger);
                        model.entries.retain(|index, _| *index > upto);
                        model.released = upto;
                    }
                }
                prop_assert_eq!(index.last(), LogIndex(model.last));
                prop_assert_eq!(index.hole(), None);
                prop_assert_eq!(index.bytes(), ledger.live());
                for (at_index, (term, place)) in &model.entries {
                    let i = LogIndex(*at_index);
                    prop_assert_eq!(index.term_at(i), Some(Term(*term)));
                    let pieces: Vec<_> = index.pieces(i, i).collect();
                    prop_assert_eq!((pieces.len(), pieces[0].place), (1, at(*place)));
                }
                let terms = model.entries.iter().map(|(index, (term, _))| (*index, *term));
                prop_assert_eq!(index.terms(), runs(terms));
                if let Some((first, _)) = model.entries.first_key_value() {
                    let (first, last) = (LogIndex(*first), LogIndex(model.last));
                    let found: u64 = index
                        .pieces(first, last)
                        .map(|piece| piece.last.get() - piece.first.get() + 1)
                        .sum();
                    prop_assert_eq!(found, model.entries.len() as u64);
                }
            }
            index.clear(&mut ledger);
            prop_assert_eq!((index.bytes(), ledger.live()), (0, 0));
        }
    }
}
