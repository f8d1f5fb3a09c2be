//! The totals of a log's records, group by group, and the segments that hold them.
//!
//! In:     records, in the order of the log.
//! Out:    each group's first and last entry; the bytes of each segment that are still wanted.
//! Cost:   32 bytes for each group in each segment that has entries of it, and about 150 bytes per group.
//! Fails:  records that this log never writes are refused, as recovery refuses them.
//! Source: paper §5.3 (a conflicting suffix is replaced); RULES.md invariant 13 (no holes).

use super::record::{Record, Run};
use crate::format::{Bad, Position, SegmentSeq};
use logdrive_raft::{GroupId, HardState, LogIndex, Term};
use std::collections::BTreeMap;

/// One group, as the log has it.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Entries up to this one were released; the group's log begins behind it.
    pub released: LogIndex,
    /// The group's newest entry.
    pub last: LogIndex,
    /// The term of the newest entry, also where the entry is released; [`Term::ZERO`] if there was none.
    pub last_term: Term,
    /// The latest hard state.
    pub hard_state: HardState,
    /// The size of the latest membership, in bytes.
    pub membership_bytes: usize,
    /// True if the group was destroyed.
    pub destroyed: bool,
    /// Where the group lost something; a fenced group must not act.
    pub fenced: Option<Position>,
    /// The entries that are still needed, in sorted spans; no entry is in two of them.
    spans: Vec<Span>,
}

/// Entries of one group that stand in one segment.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: LogIndex,
    last: LogIndex,
    segment: SegmentSeq,
    bytes: u64,
}

impl Span {
    fn entries(&self) -> u64 {
        self.last.get() - self.first.get() + 1
    }

    /// The part of the span in `first..=last`, with its bytes in proportion.
    fn part(&self, first: LogIndex, last: LogIndex) -> Option<Self> {
        let (first, last) = (first.max(self.first), last.min(self.last));
        if first > last {
            return None;
        }
        let part = Self { first, last, ..*self };
        Some(Self { bytes: self.bytes * part.entries() / self.entries(), ..part })
    }
}

impl Group {
    /// Forgets entries outside `first..=last`.
    fn keep(&mut self, first: LogIndex, last: LogIndex) {
        // Nearly always no entry is dropped, or only entries at the end.
        while self.spans.last().is_some_and(|span| span.last > last) {
            let kept = self.spans.pop().and_then(|span| span.part(LogIndex(1), last));
            self.spans.extend(kept);
        }
        if self.spans.first().is_some_and(|span| span.first < first) {
            self.spans = self.spans.iter().filter_map(|span| span.part(first, last)).collect();
        }
    }

    /// Takes in entries, which replace the group's entries from the first new one's index on. Holes are looked for only
    /// when the whole log is read: entries that seem to be missing before the run may be carried behind it.
    fn append(&mut self, run: &Run<'_>, segment: SegmentSeq) {
        self.keep(LogIndex(1), run.first.prev());
        match self.spans.last_mut() {
            Some(span) if span.segment == segment && span.last.next() == run.first => {
                span.last = run.last();
                span.bytes += run.record_bytes();
            }
            _ => self.spans.push(Span::of(run, segment)),
        }
        self.last = run.last();
        self.last_term = run.term;
    }

    /// Puts a carried copy in place of the entries in its range.
    fn carry(&mut self, run: &Run<'_>, segment: SegmentSeq) {
        let spans = std::mem::take(&mut self.spans);
        let (below, above) = (run.first.prev(), run.last().next());
        for span in &spans {
            self.spans.extend(span.part(LogIndex(1), below));
        }
        self.spans.push(Span::of(run, segment));
        for span in &spans {
            self.spans.extend(span.part(above, LogIndex(u64::MAX)));
        }
        if run.last() >= self.last {
            self.last = run.last();
            self.last_term = run.term;
        }
    }

    /// Whether the group's log is there from its first entry to its last.
    fn is_contiguous(&self) -> bool {
        let mut next = self.released.next();
        for span in &self.spans {
            if span.first != next {
                return false;
            }
            next = span.last.next();
        }
        next == self.last.next()
    }
}

impl Span {
    fn of(run: &Run<'_>, segment: SegmentSeq) -> Self {
        Self { first: run.first, last: run.last(), segment, bytes: run.record_bytes() }
    }
}

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) groups: BTreeMap<GroupId, Group>,
}

impl Ledger {
    /// Counts a record in. Once a group has lost something, none of its records is counted any more.
    pub(super) fn record(&mut self, segment: SegmentSeq, record: &Record<'_>) -> Result<(), Bad> {
        let Some(id) = record.group() else { return Ok(()) };
        let group = self.groups.entry(id).or_default();
        match record {
            Record::Tombstone { .. } => {
                *group = Group { destroyed: true, ..Group::default() };
                return Ok(());
            }
            Record::Fence { position, .. } => {
                self.fence(&[id], *position);
                return Ok(());
            }
            _ if group.destroyed => {
                return Err(Bad("a record of a group that was destroyed before"));
            }
            _ if group.fenced.is_some() => return Ok(()),
            _ => {}
        }
        if let Record::Entries(run) | Record::Carried(run) = record
            && run.first <= group.released
        {
            return Err(Bad("entries that were released before"));
        }
        match record {
            Record::Membership { bytes, .. } => group.membership_bytes = bytes.len(),
            Record::HardState { state, .. } => group.hard_state = *state,
            Record::Entries(run) => group.append(run, segment),
            Record::Carried(run) => group.carry(run, segment),
            Record::Release { index, term, last, .. } => {
                group.keep(index.next(), *last);
                group.released = *index;
                group.last = *last;
                if last == index {
                    group.last_term = *term;
                }
            }
            Record::Tombstone { .. }
            | Record::Fence { .. }
            | Record::Start { .. }
            | Record::Footer
            | Record::Optional => {}
        }
        Ok(())
    }

    /// `groups` lost something at `position`.
    pub(super) fn fence(&mut self, groups: &[GroupId], position: Position) {
        for group in groups {
            let group = self.groups.entry(*group).or_default();
            // A destroyed group has nothing to lose.
            if !group.destroyed && group.fenced.is_none() {
                *group = Group { fenced: Some(position), ..Group::default() };
            }
        }
    }

    /// Ends the count. Returns the groups that have a hole which no damage found so far explains.
    pub(super) fn finish(&mut self) -> Vec<GroupId> {
        for group in self.groups.values_mut() {
            group.hard_state.commit = group.hard_state.commit.min(group.last);
        }
        let holed = self.groups.iter().filter(|(_, group)| {
            group.fenced.is_none() && !group.destroyed && !group.is_contiguous()
        });
        holed.map(|(id, _)| *id).collect()
    }

    /// Bytes of entries still needed, by segment.
    pub(super) fn live_bytes(&self) -> BTreeMap<SegmentSeq, u64> {
        let mut live = BTreeMap::new();
        for span in self.groups.values().flat_map(|group| &group.spans) {
            *live.entry(span.segment).or_default() += span.bytes;
        }
        live
    }
}
